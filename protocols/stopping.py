"""How a run is stopped by hand: first Ctrl-C finishes the step and leaves the die, the second aborts now."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


class RunError(RuntimeError):
    """A run stopped itself, for a reason that the message tells; the die was left and the record is complete."""


class RunStopped(Exception):
    """The run was asked to stop and did, between two steps; the record is complete up to there."""


class RunAborted(KeyboardInterrupt):
    """Another process asked to abort the run; as a second Ctrl-C, so that nothing on the way takes it for a fault."""


class StopRequest:
    """Catches Ctrl-C and termination while a run goes on (a context manager; main thread only).

    As soon as one of them has broken off the run, further ones are only noted: what grounds the lines and lifts the
    needles must not be broken off itself.
    """

    def __init__(self, notify: Callable[[str], None] = lambda text: None) -> None:
        self.requested = False
        self._notify = notify
        self._held = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        self._install(signal.SIGINT, self._interrupt)
        for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):  # the last two exist on one of the two systems each
            if hasattr(signal, name):
                self._install(getattr(signal, name), self._terminate)
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
