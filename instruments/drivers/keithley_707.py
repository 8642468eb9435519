"""Switching matrices Keithley 707B (TSP), as a QCoDeS instrument: neither QCoDeS nor PyMeasure has a driver."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Unpack

from qcodes.instrument import Instrument, InstrumentBaseKWArgs

from instruments.roles.interfaces import InstrumentError, LinkError, RouteError
from instruments.roles.off_recipe import OffRecipe, OffStep, Stage
from instruments.roles.quantities import Timeout
from instruments.wire import repeatable
from instruments.wire.sessions import open_visa

_RELAY = re.compile(r"([1-6])([A-H])(0[1-9]|1[0-2])")
_CLOSED = 'print(channel.getclose("allslots"))'


class Keithley707(Instrument):
    """A Keithley 707B; fills the role `SwitchMatrix`.

    Connecting moves no relay. Every route is checked against what is plugged in before any relay moves, and read back.
    Relays are named ``1A01``: slot, row, column.

    Parameters
    ----------
    name
        Name of the instrument in the station.
    address
        VISA resource, e.g. ``TCPIP::host::5025::SOCKET`` or ``GPIB0::16::INSTR``.
    outputs
        What is plugged into the rows, such as ``{A: smu a, H: ground}``: no two of them may ever be tied together. A
        row goes through all slots (the backplane of the mainframe).
    timeout
        Seconds allowed for an answer.
    backend
        PyVISA back end.

    Raises
    ------
    RouteError
        A row does not exist.
    LinkError
        Nobody answers at the address.
    InstrumentError
        What answers is no 707B.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        outputs: dict[str, str],
        timeout: Timeout = 5.0,
        backend: str = "@py",
        **kwargs: Unpack[InstrumentBaseKWArgs],
    ) -> None:
        super().__init__(name, **kwargs)
        for row in outputs:
            if not re.fullmatch("[A-H]", row):
                raise RouteError(f"{name}: outputs: row {row!r} does not exist; rows are A to H")
        self._outputs = dict(outputs)
        self._rest: tuple[str, ...] = ()
        self._session = open_visa(address, timeout=timeout, backend=backend)
        try:
            self._identity = self._introduction()
            self.rest_at(())
        except BaseException:
            self._session.close()
            raise

    @property
    def outputs(self) -> Mapping[str, str]:
        """What is plugged into each row."""
        return dict(self._outputs)

    # -- the role ------------------------------------------------------------------------------------------------

    def identify(self) -> str:
        """Maker, model, serial number and firmware."""
        return self._identity

    def get_idn(self) -> dict[str, str | None]:
        """`identify` as QCoDeS keeps it."""
        parts = [each.strip() for each in self._identity.split(",", 3)]
        return {key: part or None for key, part in zip_longest(("vendor", "model", "serial", "firmware"), parts)}

    def check_route(self, relays: Iterable[str]) -> None:
        """Refuse relays that would tie two outputs together, or an output to ground.

        Raises
        ------
        RouteError
            Naming the relays and what they would tie.
        """
        check_route(relays, self._outputs, self.name)

    def route(self, relays: Iterable[str]) -> None:
        """Have exactly these closed, and read it back. Others open first; nothing moves if the route is refused.

        Raises
        ------
        RouteError
            They would tie two outputs together; none was moved.
        InstrumentError
            The matrix reports an error or other relays as closed.
        """
        wanted = sorted(set(relays))
        self.check_route(wanted)
        line = f'channel.connectrule=1 channel.exclusiveclose("{",".join(wanted)}") {_CLOSED}'
        found = self._asked(line)
        if found != frozenset(wanted) and (found := self.closed()) != frozenset(wanted):
            error = repeatable.ask(self._session, "print(errorqueue.next())", self._reintroduce, str).split("\t")
            wrong = ", ".join(sorted(found ^ frozenset(wanted)))
            raise InstrumentError(
                f"{self.name}: relays {wrong} are not as they were asked for ({' '.join(error[:2])}); "
                "see that the cards are in their slots, and replace what is welded"
            )

    def closed(self) -> frozenset[str]:
        """Relays that are closed, as read back."""
        return self._asked(_CLOSED)

    def rest_at(self, relays: Iterable[str]) -> None:
        """Relays (to ground) that are closed, all others open, when the matrix is made safe; none by default."""
        rest = tuple(sorted(set(relays)))
        self.check_route(rest)
        self._rest = rest
        told = ";".join(rest).encode() if rest else b"nil"
        step = OffStep(self._off.encode() + b"\n", re.escape(told))
        self._session.register(OffRecipe(Stage.MATRIX, (step,), b"\n"))

    def safe(self) -> None:
        """Go to rest, whatever another thread asks of it.

        Raises
        ------
        InstrumentError
            The relays are not as they should be.
        """
        found = repeatable.off(self._session, self._off, self._reintroduce, _relays)
        if found != frozenset(self._rest):  # once more: a damaged answer may name a relay that is open
            found = repeatable.off(self._session, self._off, self._reintroduce, _relays)
        if found != frozenset(self._rest):
            raise InstrumentError(
                f"{self.name} was told to rest and has {', '.join(sorted(found)) or 'nothing'} closed"
            )

    def close(self) -> None:
        """Close the connection; relays stay as they are."""
        session = self.__dict__.get("_session")
        if session is not None:
            session.close()
        super().close()

    # -- the wire ------------------------------------------------------------------------------------------------

    @property
    def _off(self) -> str:
        return f'channel.exclusiveclose("{",".join(self._rest)}") {_CLOSED}'

    def _introduction(self) -> str:
        return repeatable.identified(self._session, "KEITHLEY", "70[78]B", "a 707B matrix, or a 708B")

    def _reintroduce(self) -> None:
        identity = self._introduction()
        if identity != self._identity:
            raise LinkError(f"{self._session.address}: {identity!r} answers now, before it was {self._identity!r}")

    def _asked(self, line: str) -> frozenset[str]:
        """The relays that an answer names."""
        return repeatable.ask(self._session, line, self._reintroduce, _relays)


def check_route(relays: Iterable[str], outputs: Mapping[str, str], matrix: str = "matrix") -> None:
    """Refuse relays that tie two outputs together: directly, or by way of other rows and columns.

    Parameters
    ----------
    relays
        All that will be closed, ``1A01``.
    outputs
        What is plugged into the rows; rows that are not named carry nothing.
    matrix
        Name for the message.

    Raises
    ------
    RouteError
        Naming relays and outputs, or the relay that does not exist.
    """
    by: dict[str, list[str]] = {}  # row or column -> relays on it
    for relay in relays:
        match = _RELAY.fullmatch(relay)
        if match is None:
            raise RouteError(f"{matrix}: relay {relay!r} does not exist; write slot 1-6, row A-H, column 01-12: 1A01")
        for node in (match[2], match[1] + match[3]):
            by.setdefault(node, []).append(relay)
    for row in sorted(outputs):
        tied = _reached(row, by)
        others = sorted(each for each in tied if each in outputs and each != row)
        if others:
            between = sorted({relay for node in tied for relay in by.get(node, ())})
            raise RouteError(
                f"{matrix}: relays {', '.join(between)} would tie {outputs[row]} (row {row}) to {outputs[others[0]]} "
                f"(row {others[0]}); nothing was closed. Leave one of them out"
            )


def _reached(start: str, by: Mapping[str, list[str]]) -> set[str]:
    """Rows and columns that are tied to a row."""
    reached, todo = {start}, [start]
    while todo:
        for relay in by.get(todo.pop(), ()):
            for node in (relay[1], relay[0] + relay[2:]):
                if node not in reached:
                    reached.add(node)
                    todo.append(node)
    return reached


def _relays(answer: str) -> frozenset[str]:
    repeatable.matching(rf"nil|{_RELAY.pattern}(;{_RELAY.pattern})*", answer)
    return frozenset() if answer == "nil" else frozenset(answer.split(";"))
