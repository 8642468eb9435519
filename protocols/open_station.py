"""Connecting to the station of a run: a bench by its station file, or a simulated one that is started for the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from analysis.record import Record
from protocols.bench import Bench
from protocols.progress import RunProgress


class StationOpener:
    """Connects to the station when the first step needs it, and starts a simulated one if none was given."""

    def __init__(self, stack: ExitStack, record: Record, station: Path | None, lot: str, seed: int, out: Path) -> None:
        self._stack, self._record, self._station = stack, record, station
        self._lot, self._seed, self._out = lot, seed, out
        self._clock: Callable[[], float | None] = lambda: None
        self._connected, self._began = False, 0.0
        self.progress: RunProgress | None = None

    def __call__(self, run: int) -> Bench:
        """Connect, once, and return the bench of the run."""
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
