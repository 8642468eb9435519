"""Station time: how long the hardware would have taken. Simulation reports it and does not wait, unless asked to."""

from __future__ import annotations

import threading
import time
from typing import Annotated

from sim_backends.array.files.quantity import NUMBER, Second, Specification

KelvinPerSecond = Annotated[float, NUMBER.within(0.0, 100.0, above=True, example="0.5")]


class Timing(Specification):
    """How long the steps of a station take (s). All assumed."""

    die_step: Second = 0.5
    approach: Second = 0.6
    """Separation to contact."""
    retreat: Second = 0.4
    """Contact to separation."""
    home: Second = 2.0
    thermal_poll: Second = 5.0
    """What asking for a temperature that is still changing counts as."""
    thermal_rate: KelvinPerSecond = 0.5
    """K/s."""
    line_settling: Second = 1e-6
    """Between a change of a line voltage and the first sample."""
    sample: Second = 2e-6
    """One conversion of all channels."""
    pulse_gap: Second = 500e-9
    """After each pulse."""
    frame: Second = 100e-6
    """Handling of one request by the board."""


_SLEEP_MAX = 10.0  # s


class StationClock:
    """Counts station time in seconds; safe to use from several threads.

    Parameters
    ----------
    realtime
        Also sleep for every second counted, but not for long at a time: others at the station wait as long.
    start
        Station time to begin with, such as that of an interrupted run.
    """

    def __init__(self, realtime: bool = False, start: float = 0.0) -> None:
        self.realtime = realtime
        self._now = start
        self._lock = threading.Lock()

    @property
    def now(self) -> float:
        """Station time (s)."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` of station time pass."""
        with self._lock:
            self._now += seconds
        if self.realtime:
            time.sleep(min(seconds, _SLEEP_MAX))
