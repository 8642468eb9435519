"""A virtual Keithley 707B switching matrix with 8 x 12 cards: TSP, its relays are the wires of the rack.

A row goes through all slots, by the backplane of the mainframe. Channels are written ``1A01``: slot, row, column.
"""

from __future__ import annotations

import re

from sim_backends.virtual.rack_wiring import COLUMNS_PER_CARD, MATRIX_ROWS, RackWiring, Relay, relay_name
from sim_backends.wire.tsp import (
    DELAY_MAX,
    OUT_OF_RANGE,
    Attribute,
    Function,
    Tsp,
    TspFault,
    Value,
    constant,
    number,
    whole,
)

SLOTS = 6
_CHANNEL = re.compile(r"([1-6])([A-H])(\d\d)")


class Keithley707:
    """The matrix's side of the wire; a `faulty_wire.Dialect`.

    Parameters
    ----------
    wiring
        What its relays connect; the slots that the wiring uses hold a card.
    """

    end = b"\n"

    def __init__(self, wiring: RackWiring) -> None:
        self._wiring = wiring
        self._rule, self._text = 1.0, ""
        cards = self._slots = wiring.spec.slots
        names: dict[str, Attribute | Function] = {
            "localnode.model": constant("707B"),
            "localnode.serialno": constant("SIM0004"),
            "localnode.revision": constant("01.21a"),
            "channel.close": lambda channels: self._switch(self._closed | self._list(channels), "channel.close"),
            "channel.open": lambda channels: self._switch(self._closed - self._wide_list(channels), "channel.open"),
            "channel.exclusiveclose": lambda channels: self._switch(self._list(channels), "channel.exclusiveclose"),
            "channel.getclose": self._tell_closed,
            "channel.getstate": self._tell_states,
            "channel.reset": lambda channels: self._switch(self._closed - self._wide_list(channels), "channel.reset"),
            "channel.connectrule": Attribute(lambda: self._rule, self._set_rule),
            "channel.OFF": constant(0.0),
            "channel.BREAK_BEFORE_MAKE": constant(1.0),
            "channel.MAKE_BEFORE_BREAK": constant(2.0),
            "beeper.beep": lambda seconds, hertz: None,
            "delay": lambda seconds: wiring.dwell(number(seconds, 0, DELAY_MAX)),
            "display.clear": lambda: self._set_text(""),
            "display.settext": self._set_text,
            "display.gettext": lambda: self._text,
        }
        for slot in range(1, SLOTS + 1):
            card = "7072, 8x12 Semiconductor Matrix, 01.10a, SIM0004" if slot <= cards else "Empty Slot"
            names[f"slot[{slot}].idn"] = constant(card)
        self._tsp = Tsp(
            "KEITHLEY INSTRUMENTS INC.,MODEL 707B,SIM0004,01.21a", names, self._reset, lock=wiring.bench.lock
        )

    def connected(self) -> None:
        """Forget what the last client sent half of; relays stay as they are."""
        self._tsp.forget()

    def receive(self, data: bytes) -> bytes:
        """Answer all complete lines."""
        return self._tsp.receive(data)

    def request_name(self, request: bytes) -> str:
        """The line."""
        return request.decode("ascii", "replace").strip()

    def busy_reply(self, request: bytes) -> bytes:
        """Not how this instrument refuses."""
        return b""

    def deadline(self) -> float | None:
        """Nothing happens by itself."""
        return None

    def expired(self) -> None:
        """Never called."""

    # -- what it is told -----------------------------------------------------------------------------------------

    @property
    def _closed(self) -> frozenset[Relay]:
        return self._wiring.closed

    def _switch(self, closed: frozenset[Relay], why: str) -> None:
        """Have these relays closed; by the connect rule others are opened first."""
        if self._rule == 1.0 and not closed >= self._closed:
            self._wiring.switch(self._closed & closed, why)
        self._wiring.switch(closed, why)
        self._wiring.bench.log.add("relays", why=why, closed=_told(closed))

    def _set_text(self, text: Value) -> None:
        if not isinstance(text, str):
            raise TspFault(OUT_OF_RANGE, "Parameter error, text expected")
        self._text = text

    def _reset(self) -> None:
        self._rule, self._text = 1.0, ""
        self._switch(frozenset(), "reset")

    def _set_rule(self, value: Value) -> None:
        self._rule = whole(value, 0, 2)

    def _tell_closed(self, channels: Value) -> Value:
        return _told(self._closed & self._wide_list(channels)) or None

    def _tell_states(self, channels: Value) -> Value:
        chosen = sorted(self._wide_list(channels))
        return ",".join(f"{int(relay in self._closed)}" for relay in chosen)

    # -- lists of channels ---------------------------------------------------------------------------------------

    def _wide_list(self, channels: Value) -> frozenset[Relay]:
        """Channels of a list that may also name slots."""
        if not isinstance(channels, str):
            raise _no_channel(channels)
        found: set[Relay] = set()
        for part in filter(None, (each.strip() for each in re.split("[,;]", channels))):
            slots = range(1, SLOTS + 1) if part.lower() == "allslots" else _slot(part)
            found |= {
                (slot, row, column)
                for slot in slots
                if slot <= self._slots
                for row in MATRIX_ROWS
                for column in range(1, COLUMNS_PER_CARD + 1)
            }
            found |= set() if slots else self._span(part)
        return frozenset(found)

    def _list(self, channels: Value) -> frozenset[Relay]:
        """Channels of a list that names no slots: nobody closes a whole card."""
        if not isinstance(channels, str):
            raise _no_channel(channels)
        parts = filter(None, (each.strip() for each in re.split("[,;]", channels)))
        return frozenset(relay for part in parts for relay in self._span(part))

    def _span(self, part: str) -> set[Relay]:
        """Channels of ``1A03`` or ``1A01:1A05``."""
        first, _, last = part.partition(":")
        low, high = self._relay(first.strip()), self._relay((last or first).strip())
        if low[:2] != high[:2] or low > high:
            raise _no_channel(part)
        return {(low[0], low[1], column) for column in range(low[2], high[2] + 1)}

    def _relay(self, text: str) -> Relay:
        match = _CHANNEL.fullmatch(text.upper())
        if match is None:
            raise _no_channel(text)
        slot, row, column = int(match[1]), match[2], int(match[3])
        if slot > self._slots or not 1 <= column <= COLUMNS_PER_CARD:
            raise _no_channel(text)
        return slot, row, column


def _slot(part: str) -> range:
    match = re.fullmatch(r"slot([1-6])", part.lower())
    return range(int(match[1]), int(match[1]) + 1) if match else range(0)


def _told(relays: frozenset[Relay]) -> str:
    return ";".join(relay_name(relay) for relay in sorted(relays))


def _no_channel(text: object) -> TspFault:
    return TspFault(OUT_OF_RANGE, f"Parameter error, invalid channel {text}")
