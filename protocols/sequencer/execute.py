"""Running a protocol from start to end: record, station, progress, stopping, and leaving everything safe."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.record.record import Record
from protocols.sequencer.carried import bury, interrupted
from protocols.sequencer.open_station import LEASE, StationOpener
from protocols.sequencer.provenance import run_provenance
from protocols.sequencer.run import Run, RunSettings
from protocols.sequencer.start import folder_of_start
from protocols.sequencer.stopping import RunError, RunStopped, StopRequest
from protocols.source.trust import note_run
from protocols.terminal.console import command
from protocols.terminal.progress import RunProgress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``finished`` or ``stopped`` (and why), what the protocol gives, and where the record is.

    A protocol gives what it returns; if that is a function, what the function gives of the record once the run is
    closed (so that results can quote the time it took).
    """

    status: str
    value: Any
    folder: Path
    reason: str = ""


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
    lease: float = LEASE,
    resumes: int | None = None,
) -> Outcome:
    """Run a protocol over the dies of a station, or of a simulated one that is started for it.

    Parameters
    ----------
    station : Path or None
        Station file of a bench (real, or one served by `xbar sim`). None starts a simulated station of `lot` on free
        loopback ports; it keeps its dies in `out`, so that a run that is taken up again finds them as it left them.
    lease : float
        Seconds without a sign of life of this process after which the station makes itself safe.
    resumes : int, optional
        The run of this record that this one goes on with; by default the newest of the protocol, if that did not
        finish.

    Raises
    ------
    RunError
        If the run stopped itself; the die has been left.
    InstrumentError, RecordError, StationError, SelectionError
        As they come; the die has been left or aborted and everything committed is in the record.
    KeyboardInterrupt, SystemExit
        If it was aborted or terminated; the station was made safe.

    Notes
    -----
    A run that ends before the station answered and before anything was computed leaves nothing: neither a folder nor a
    record that has to be told from one with data.
    """
    with folder_of_start(out), ExitStack() as stack:
        record = stack.enter_context(Record.open(out))
        bury(record)
        resumes = interrupted(record, name) if resumes is None else resumes
        opener = StationOpener(stack, record, station, lot, settings.seed, out)
        opener.lease = lease
        progress = stack.enter_context(RunProgress(console, opener.station_time))
        opener.progress = progress
        stop = stack.enter_context(StopRequest(progress.message))
        source = run_provenance(record, function, name, parameters, settings, station, lot)
        note_run(out, record.next_run(), source["find"])  # first: one that is killed right after it began is known, too
        run = Run(record, name, settings, opener, progress, stop, source, resumes=resumes)
        progress.also = run.poll
        progress.lost = lambda why: _output_lost(record, run.id, why)
        ending = _Ending(run, opener, time.monotonic())
        try:
            value = function(run, **parameters)
            run.close(failed=False)
            ending.keep("finished")
        except BaseException as error:
            ending.of(error, stop)
            if not isinstance(error, RunStopped):
                raise
            progress.message(str(error))
            return Outcome("stopped", None, out, str(error))
        return Outcome("finished", value(record) if callable(value) else value, out)


def _output_lost(record: Record, run: int, why: str) -> None:
    """Note that nobody sees the run any more, in the record and for who reads standard error; the run goes on."""
    record.event(run, "output", f"standard output is gone: {why}")
    shows = command("xbar", "status", record.folder)
    sys.stderr.write(f"xbar: standard output is gone ({why}); the run goes on, {shows} shows it\n")


@dataclass(frozen=True)
class _Ending:
    """How a run comes to its end: safety before storage, always, and neither hides what ended the run."""

    run: Run
    opener: StationOpener
    began: float

    def of(self, error: BaseException, stop: StopRequest) -> None:
        """The run ended by an exception: leave the die or abort, then write that down as far as the record can."""
        stop.hold()
        gentle = isinstance(error, RunStopped | RunError)
        if gentle:
            with _beside(error) as left:
                self.run.close(failed=False, error=error)
            gentle = not left
        if not gentle:
            with _beside(error):
                self.run.close(failed=True, error=error)
        with _beside(error):
            self.keep(status_of(error))

    def keep(self, status: str) -> None:
        """Close the run in the record, with the time it took."""
        wall = time.monotonic() - self.began
        self.run.record.event(self.run.id, "time", f"run {status}", wall_s=wall, station_s=self.opener.spent(wall))
        self.run.record.end_run(self.run.id, status)


def status_of(error: BaseException) -> str:
    """Status of a run that ended so: ``stopped``, ``aborted`` or ``failed``."""
    if isinstance(error, RunStopped | RunError):
        return "stopped"
    return "aborted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"


@contextmanager
def _beside(error: BaseException) -> Iterator[list[Exception]]:
    """What goes wrong in here is noted beside the error that came first; the list holds it afterwards."""
    faults: list[Exception] = []
    try:
        yield faults
    except Exception as fault:
        log.exception("while the run was being ended")
        error.add_note(f"then: {type(fault).__name__}: {fault}")
        faults.append(fault)
