"""Waits for an answer that another thread can end."""

from __future__ import annotations

import time

SLICE = 0.1
"""Seconds of one wait; on Windows neither Ctrl-C nor another thread's `abandon` gets through a longer one."""


class Abandonable:
    """The part that lets another thread end a wait."""

    def __init__(self) -> None:
        self._abandoned: str | None = None

    def abandon(self, reason: str | None) -> None:
        """See `Transport.abandon`."""
        self._abandoned = reason

    def _check_wanted(self) -> None:
        """Raise `ConnectionError` if it was abandoned."""
        if self._abandoned is not None:
            raise ConnectionError(self._abandoned)

    def _left(self, deadline: float) -> float:
        """Seconds left of a wait.

        Raises
        ------
        ConnectionError, TimeoutError
            It was abandoned, or nothing is left.
        """
        self._check_wanted()
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no complete reply in time")
        return left
