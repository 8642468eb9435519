"""How a run is stopped by hand: first Ctrl-C finishes the step and leaves the die, the second aborts now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


class RunError(RuntimeError):
    """A run stopped itself, for a reason that the message tells; the die was left and the record is complete."""


class RunStopped(Exception):
    """The run was asked to stop and did, between two steps; the record is complete up to there."""


class RunAborted(KeyboardInterrupt):
    """Another process asked to abort the run; as a second Ctrl-C, so that nothing on the way takes it for a fault."""


def heed_interrupt() -> None:
    """Let Ctrl-C (SIGINT) end this process although it was started with it ignored, as a background job of a script is.

    Python leaves an ignored signal ignored. Outside the main thread nothing is done: whoever runs us there owns the
    signals.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


class StopRequest:
    """Catches Ctrl-C and termination while a run goes on (a context manager; main thread only).

    Whatever the process inherited, it can be stopped; only a hangup that it was started to outlive (`nohup`) stays
    ignored. As soon as one of them has broken off the run, further ones are only noted: what grounds the lines and
    lifts the needles must not be broken off itself.
    """

    def __init__(self, notify: Callable[[str], None] = lambda text: None) -> None:
        self.requested = False
        self._notify = notify
        self._held = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        self._install(signal.SIGINT, self._interrupt)
        for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):  # the last two exist on one of the two systems each
            number = getattr(signal, name, None)
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                self._install(number, self._terminate)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise `RunStopped` if a stop was asked for; called where stopping is safe."""
        if self.requested:
            raise RunStopped("stopped between two steps as asked")

    def hold(self) -> None:
        """From now on nothing breaks off what is being done: the station is being made safe."""
        self._held = True

    def tell(self, text: str) -> None:
        """Say something to the person who could stop the run; a terminal that has gone is no reason to fail."""
        try:
            self._notify(text)
        except OSError:
            return

    def _install(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        try:
            self._before[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread: whoever runs us there owns the signals
            return

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self.tell("the station is being made safe; a moment")
            return
        if self.requested:
            self._held = True
            raise KeyboardInterrupt("second Ctrl-C: abort")
        self.requested = True
        self.tell("stopping after this step; Ctrl-C again aborts now")

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if not self._held:
            self._held = True
            raise SystemExit(128 + number)
