"""The status registers of IEEE 488.2 that SCPI and TSP instruments share: events, their mask, and the status byte."""

from __future__ import annotations

_POWER_ON, _COMPLETE = 128, 1
_BITS = {1: 32, 2: 16, 3: 8, 4: 4}  # of the event register, by the hundreds of a negative error
_DEVICE = 8
_ERRORS, _EVENTS, _SERVICE = 4, 32, 64  # of the status byte


class StatusRegisters:
    """Events since they were last read, the masks of events and of service requests."""

    def __init__(self) -> None:
        self._events = _POWER_ON
        self.event_mask = 0
        self.service_mask = 0

    def note_error(self, code: int) -> None:
        """An error has come into the queue; positive codes are those of the maker."""
        self._events |= _BITS.get(-code // 100, _DEVICE) if code < 0 else _DEVICE

    def note_complete(self) -> None:
        """All operations are complete, as ``*OPC`` wanted to know."""
        self._events |= _COMPLETE

    def read_events(self) -> int:
        """The events (``*ESR?``), which are forgotten by that."""
        events, self._events = self._events, 0
        return events

    def clear(self) -> None:
        """Forget the events (``*CLS``); masks stay."""
        self._events = 0

    def byte(self, errors: bool) -> int:
        """The status byte (``*STB?``); `errors`: whether there are any in the queue."""
        found = _ERRORS * errors | _EVENTS * bool(self._events & self.event_mask)
        return found | _SERVICE * bool(found & self.service_mask)
