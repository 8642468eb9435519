"""How a run is stopped by hand: first Ctrl-C finishes the step and leaves the die, the second aborts now."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


class RunStopped(Exception):
    """The run was asked to stop and did, between two steps; the record is complete up to there."""


class StopRequest:
    """Catches Ctrl-C and termination while a run goes on (a context manager; main thread only)."""

    def __init__(self, notify: Callable[[str], None] = lambda text: None) -> None:
        self.requested = False
        self._notify = notify
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
            raise RunStopped("stopped between two steps as asked; run the same command again to go on")

    def _install(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        try:
            self._before[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread: whoever runs us there owns the signals
            return

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt("second Ctrl-C: abort")
        self.requested = True
        self._notify("stopping after this step; Ctrl-C again aborts now")

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)
