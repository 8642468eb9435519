"""Running a protocol from start to end: record, station, progress, stopping, and leaving everything safe."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.record import Record
from protocols.bench import Bench
from protocols.progress import RunProgress
from protocols.provenance import provenance
from protocols.run import Run, RunSettings
from protocols.stopping import RunStopped, StopRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``finished`` or ``stopped``, what the protocol gives, and where the record is.

    A protocol gives what it returns; if that is a function, what the function gives of the record once the run is
    closed (so that results can quote the time it took).
    """

    status: str
    value: Any
    folder: Path


def execute(
    function: Callable[..., Any],
    name: str,
    parameters: dict[str, Any],
    *,
    out: Path,
    station: Path | None,
    lot: str,
    settings: RunSettings,
    console: Console,
) -> Outcome:
    """Run a protocol over the dies of a station, or of a simulated one that is started for it.

    Parameters
    ----------
    station : Path or None
        Station file of a bench (real, or one served by `xbar sim`). None starts a simulated station of `lot` on free
        loopback ports; it keeps its dies in `out`, so that a run that is taken up again finds them as it left them.

    Raises
    ------
    InstrumentError, RecordError, StationError
        As they come; the die has been left or aborted and everything committed is in the record.
    """
    with ExitStack() as stack:
        record = stack.enter_context(Record.open(out))
        opener = _StationOpener(stack, record, station, lot, settings.seed, out)
        progress = stack.enter_context(RunProgress(console, opener.station_time))
        opener.progress = progress
        stop = stack.enter_context(StopRequest(progress.message))
        source = provenance(name, parameters, settings.seed, str(station or f"simulated, lot {lot}"), settings.dies)
        run = Run(record, name, settings, opener, progress, stop, source)
        began = time.monotonic()
        try:
            value = function(run, **parameters)
            run.close(failed=False)
            status = "finished"
        except RunStopped as stopped:
            run.close(failed=False)
            progress.message(str(stopped))
            value, status = None, "stopped"
        except BaseException:
            run.close(failed=True)
            _end(record, run, "failed", began, opener)
            raise
        _end(record, run, status, began, opener)
        value = value(record) if callable(value) else value
    return Outcome(status, value, out)


def _end(record: Record, run: Run, status: str, began: float, opener: _StationOpener) -> None:
    """Close the run with the time it took; storage comes after safety, always."""
    wall = time.monotonic() - began
    record.event(run.id, "time", f"run {status}", wall_s=wall, station_s=opener.spent(wall))
    record.end_run(run.id, status)


class _StationOpener:
    """Connects to the station when the first step needs it, and starts a simulated one if none was given."""

    def __init__(self, stack: ExitStack, record: Record, station: Path | None, lot: str, seed: int, out: Path) -> None:
        self._stack, self._record, self._station = stack, record, station
        self._lot, self._seed, self._out = lot, seed, out
        self._clock: Callable[[], float | None] = lambda: None
        self._connected, self._began = False, 0.0
        self.progress: RunProgress | None = None

    def __call__(self, run: int) -> Bench:
        from instruments.station import load_station

        path = self._station or self._stack.enter_context(simulated_station(self._lot, self._seed, self._out))
        station = self._stack.enter_context(load_station(path))
        self._connected, self._began = True, station.elapsed() or 0.0  # the clock of a station goes on over runs
        self._clock = station.elapsed
        self._record.event(run, "station", f"connected by {path}", station=Path(path).read_text(encoding="utf-8"))
        report = self.progress.progress if self.progress else (lambda text, share: None)
        return Bench(station.prober, station.array, self._record, run, report=report)

    def station_time(self) -> float | None:
        """Seconds by the station's own clock since this run connected to it, if it keeps one."""
        now = self._clock()
        return None if now is None else now - self._began

    def spent(self, wall: float) -> float:
        """Station time of a run of `wall` seconds: the wall's where the station has no clock, 0 without a station."""
        if not self._connected:
            return 0.0
        by_clock = self.station_time()
        return wall if by_clock is None else by_clock


@contextmanager
def simulated_station(lot: str, seed: int, folder: Path) -> Iterator[Path]:
    """A simulated station as a process of its own; yields its station file and ends it.

    Its dies keep their states in `folder`, as magnetic junctions do without power.
    """
    from instruments.station import write_station
    from sim_backends.station_process import spawn_station

    home = (folder / "station").resolve()
    config = {"lot": lot, "seed": seed, "state": home / "dies", "log": home / "physical.jsonl"}
    with spawn_station(config) as process:
        yield write_station(folder / "station.yaml", process.prober, process.board, clock=home / "summary.json")
