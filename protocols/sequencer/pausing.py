"""What other processes ask of a run that goes on: to pause, to go on, to abort."""

from __future__ import annotations

import time
from collections.abc import Callable

from analysis.record.record import Record
from protocols.sequencer.stopping import RunAborted, StopRequest
from protocols.terminal.console import command

#: How often a paused run looks whether it may go on (s).
LOOK_EVERY = 0.2


class Requests:
    """The requests to one run, polled where it is safe to act on them."""

    def __init__(self, record: Record, run: int, stop: StopRequest) -> None:
        self._record, self._run, self._stop = record, run, stop
        self._pause = False

    def poll(self) -> None:
        """Take what was asked since the last time; cheap when that is nothing.

        Raises
        ------
        RunAborted
            If the run is to be aborted now.
        """
        for what in self._record.take_requests():
            if what == "abort":
                raise RunAborted("aborted by xbar abort")
            if what == "pause" and not self._pause:
                self._stop.tell("pausing after this step")
            self._pause = what == "pause"

    def wait(self, leave: Callable[[], None], steps_done: int) -> None:
        """Between two steps: if a pause was asked for, leave the die and wait until the run may go on.

        Raises
        ------
        RunAborted, RunStopped
            If that was asked for meanwhile.
        """
        if not self._pause:
            return
        leave()
        self._record.event(self._run, "paused", "paused by xbar pause", step=steps_done)
        self._record.set_status(self._run, "paused")
        go_on, end = (command("xbar", what, self._record.folder) for what in ("resume", "abort"))
        self._stop.tell(f"paused, the needles are off; {go_on} goes on, {end} ends the run")
        while self._pause:
            time.sleep(LOOK_EVERY)
            self._stop.check()
            self.poll()
        self._record.set_status(self._run, "running")
        self._record.event(self._run, "resumed", "went on", step=steps_done)
        self._stop.tell("going on")
