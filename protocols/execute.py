"""Running a protocol from start to end: record, station, progress, stopping, and leaving everything safe."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.record import Record
from protocols.open_station import StationOpener
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
        opener = StationOpener(stack, record, station, lot, settings.seed, out)
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


def _end(record: Record, run: Run, status: str, began: float, opener: StationOpener) -> None:
    """Close the run with the time it took; storage comes after safety, always."""
    wall = time.monotonic() - began
    record.event(run.id, "time", f"run {status}", wall_s=wall, station_s=opener.spent(wall))
    record.end_run(run.id, status)
