"""A VISA library that leads to our sessions, so that drivers of others run unchanged behind the broker.

PyVISA makes its resources on top of it; whatever they send is in the traffic, can be replayed, and ends with what
switches the instrument off in the hands of whoever holds the connection. It leads to one address: that of the station
file. A session that failed is thrown away, and the next message goes over a new one.
"""

from __future__ import annotations

import itertools
import re
from contextlib import nullcontext
from typing import Any

from pyvisa.constants import (
    VI_ATTR_RSRC_NAME,
    VI_ATTR_TERMCHAR,
    VI_ATTR_TERMCHAR_EN,
    VI_ATTR_TMO_VALUE,
    VI_TMO_INFINITE,
    ResourceAttribute,
    StatusCode,
)
from pyvisa.errors import InvalidSession, VisaIOError
from pyvisa.highlevel import VisaLibraryBase

from instruments.roles.interfaces import InstrumentError, LinkError
from instruments.roles.off_recipe import OffRecipe
from instruments.wire.address_lock import address_name
from instruments.wire.sessions import Broker, PortSession, current_broker, open_messages, through

_LONGEST = 24 * 3600.0  # s; for who wants to wait for ever
_numbers = itertools.count(1)


class HeldIOError(LinkError, VisaIOError):
    """What PyVISA raises, in words that name the instrument."""

    def __init__(self, text: str, code: StatusCode) -> None:
        VisaIOError.__init__(self, code)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._text, self.error_code)


class HeldConnection:
    """One connection of one driver: bytes to and fro, and what switches the instrument off.

    Parameters
    ----------
    name
        Of the instrument in the station.
    kind, address, settings
        Where it leads (`instruments.wire.transports.transport_of`).
    recipe
        What switches it off; None if it has no output.
    timeout
        Seconds allowed for an answer.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        address: str,
        settings: dict[str, Any],
        recipe: OffRecipe | None,
        timeout: float = 5.0,
    ) -> None:
        self._name, self._kind, self.address = name, kind, address
        self.settings, self.timeout = dict(settings), timeout
        self._recipe = recipe
        self._broker: Broker | None = current_broker()
        self._session: PortSession | None = None
        self._used = False

    def open(self) -> None:
        """Connect, and leave what switches it off with whoever holds the connection."""
        if self._session is None:
            with nullcontext() if self._broker is None else through(self._broker):
                self._session = open_messages(self._kind, self.address, self.settings, self.timeout, self._name)
            if self._recipe is not None:
                self._session.register(self._recipe)

    def write(self, data: bytes) -> None:
        """Send bytes; over a new connection if the one there was has failed."""
        self.open()
        assert self._session is not None
        if not self._session.usable:
            self._session.reopen()
        self._used = True
        self._session.send(data)

    def read(self, terminator: bytes, timeout: float) -> bytes:
        """The next message, without its terminator; an empty one: up to its end as the wire marks it."""
        self.open()
        assert self._session is not None
        return self._session.receive(terminator, min(timeout, _LONGEST))

    def clear(self) -> None:
        """Throw the connection away, with whatever may still arrive on it, unless nothing was exchanged yet."""
        if self._session is not None and (self._used or not self._session.usable):
            self._session.reopen()
            self._used = False

    def switch_off(self) -> None:
        """Switch the instrument off, read back; over a new connection if this one fails.

        Raises
        ------
        InstrumentError
            It is not known to be off.
        """
        if self._recipe is None:
            return
        try:
            self._run(self._recipe)
        except InstrumentError:
            if self._session is not None:
                self._session.condemn("switching off failed")
            self._run(self._recipe)

    def _run(self, recipe: OffRecipe) -> None:
        self.open()
        session = self._session
        assert session is not None
        with session.lock:
            if not session.usable:
                session.reopen()
            for step in recipe.steps:
                session.send(step.send)
                session.pause(step.pause)
                if step.reply is not None:
                    answer = session.receive(recipe.terminator, recipe.limit)
                    if re.fullmatch(step.reply, answer, re.DOTALL) is None:
                        session.condemn("it did not say that it is off")
                        said = f"asked {step.send!r} after it was switched off, it answers {answer[:80]!r}"
                        raise LinkError(f"{session.address}: {said}")

    def close(self) -> None:
        """Close the connection; harmless when it is closed."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def change(self, **settings: Any) -> None:
        """Settings of the wire itself (speed of a serial port): they hold from the next message on."""
        if {**self.settings, **settings} != self.settings:
            self.settings |= settings
            self.close()


class HeldVisaLibrary(VisaLibraryBase):
    """What PyVISA takes for a library; made by `visa_library_to`."""

    name: str
    address: str
    backend: str
    recipe: OffRecipe | None
    connections: list[HeldConnection]

    def _init(self) -> None:
        self._open: dict[int, HeldConnection] = {}
        self._attributes: dict[int, dict[int, Any]] = {}
        self._buffers: dict[int, bytearray] = {}
        self._handles = itertools.count(1)
        self.connections = []

    def open_default_resource_manager(self) -> tuple[Any, StatusCode]:
        """See `VisaLibraryBase`."""
        return 0, StatusCode.success

    def list_resources(self, session: Any, query: str = "?*::INSTR") -> tuple[str, ...]:
        """The one address there is."""
        return (self.address,)

    def open(
        self, session: Any, resource_name: str, access_mode: Any = None, open_timeout: int = 0
    ) -> tuple[Any, StatusCode]:
        """A session to the address of the station file, and to no other."""
        if address_name("visa", resource_name) != address_name("visa", self.address):
            only = f"it may open {self.address} only, that of the station file"
            raise LinkError(f"{self.name}: the driver opens {resource_name}; {only}")
        serial = address_name("visa", self.address).startswith("serial:")
        socket = self.address.upper().rstrip().endswith("::SOCKET")
        settings = {"backend": self.backend, "terminator": "", "baudrate": None, "timeout": 5.0}
        connection = HeldConnection(self.name, "visa", self.address, settings, self.recipe)
        if not serial:  # what a serial port needs to be told first comes after opening
            connection.open()
        handle = next(self._handles)
        self._open[handle], self._buffers[handle] = connection, bytearray()
        self._attributes[handle] = {
            VI_ATTR_RSRC_NAME: resource_name,
            VI_ATTR_TMO_VALUE: 5000,
            VI_ATTR_TERMCHAR: 10,
            VI_ATTR_TERMCHAR_EN: bool(socket or serial),
        }
        self.connections.append(connection)
        return handle, self._done(handle)

    def close(self, session: Any) -> StatusCode:
        """Close a session."""
        connection = self._open.pop(session, None)
        if connection is not None:
            connection.close()
            self.connections.remove(connection)
        return StatusCode.success

    def write(self, session: Any, data: bytes) -> tuple[int, StatusCode]:
        """Send a message."""
        with self._explained(session):
            self._connection(session).write(bytes(data))
        return len(data), self._done(session)

    def read(self, session: Any, count: int) -> tuple[bytes, StatusCode]:
        """Up to `count` bytes of the next message."""
        connection, buffer, attributes = self._connection(session), self._buffers[session], self._attributes[session]
        ends = bytes([int(attributes[VI_ATTR_TERMCHAR])]) if attributes[VI_ATTR_TERMCHAR_EN] else b""
        if not buffer:
            wait = attributes[VI_ATTR_TMO_VALUE]
            with self._explained(session):
                buffer += connection.read(ends, _LONGEST if wait == VI_TMO_INFINITE else wait / 1e3) + ends
        piece = bytes(buffer[:count])
        del buffer[:count]
        if buffer:
            return piece, self._done(session, StatusCode.success_max_count_read)
        return piece, self._done(session, StatusCode.success_termination_character_read if ends else StatusCode.success)

    def clear(self, session: Any) -> StatusCode:
        """Forget what was answered and not read; a connection that was used is opened anew."""
        self._buffers[session].clear()
        with self._explained(session):
            self._connection(session).clear()
        return self._done(session)

    def flush(self, session: Any, mask: Any) -> StatusCode:
        """Forget what was answered and not read."""
        self._buffers[session].clear()
        return self._done(session)

    def get_attribute(self, session: Any, attribute: Any) -> tuple[Any, StatusCode]:
        """A setting of a session."""
        self._connection(session)
        known = self._attributes[session]
        if attribute in known:
            return known[attribute], self._done(session)
        return _DEFAULTS.get(int(attribute), 0), self._done(session)

    def set_attribute(self, session: Any, attribute: Any, attribute_state: Any) -> StatusCode:
        """Change a setting of a session; those of a serial port reach the port."""
        connection = self._connection(session)
        self._attributes[session][int(attribute)] = attribute_state
        name = _SERIAL.get(int(attribute))
        if name is not None:
            serial = connection.settings.get("serial") or {}
            connection.change(serial={**serial, name: int(attribute_state)})
        return self._done(session)

    def disable_event(self, session: Any, event_type: Any, mechanism: Any) -> StatusCode:
        """There are none."""
        return self._done(session)

    def discard_events(self, session: Any, event_type: Any, mechanism: Any) -> StatusCode:
        """There are none."""
        return self._done(session)

    def __getattribute__(self, name: str) -> Any:
        if name in _NOT_HELD:
            raise HeldIOError(
                f"{self.name}: the driver wants {name.replace('_', ' ')}, which the broker cannot do for it: it "
                "carries messages and no more",
                StatusCode.error_nonsupported_operation,
            )
        return super().__getattribute__(name)

    def _connection(self, session: Any) -> HeldConnection:
        try:
            return self._open[session]
        except KeyError:
            raise InvalidSession from None

    def _done(self, session: Any, status: StatusCode = StatusCode.success) -> StatusCode:
        self._last_status = self._last_status_in_session[session] = status
        return status

    def _explained(self, session: Any) -> _Explained:
        return _Explained()


class _Explained:
    """Lost connections and late answers as PyVISA's own errors, which drivers know how to take."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, LinkError) and not isinstance(error, VisaIOError):
            late = isinstance(error.__cause__, TimeoutError)
            code = StatusCode.error_timeout if late else StatusCode.error_connection_lost
            raise HeldIOError(str(error), code) from error


def visa_library_to(name: str, address: str, backend: str, recipe: OffRecipe | None) -> HeldVisaLibrary:
    """The library that leads a driver to its address; sessions opened over it are held by the present broker."""
    library = HeldVisaLibrary(f"held-{next(_numbers)}")  # a path of its own: PyVISA keeps libraries by path
    assert isinstance(library, HeldVisaLibrary)
    library.name, library.address, library.backend, library.recipe = name, address, backend, recipe
    return library


_SERIAL = {
    int(each): each.name
    for each in (
        ResourceAttribute.asrl_baud_rate,
        ResourceAttribute.asrl_data_bits,
        ResourceAttribute.asrl_parity,
        ResourceAttribute.asrl_stop_bits,
        ResourceAttribute.asrl_flow_control,
    )
}
_DEFAULTS = {int(ResourceAttribute.asrl_baud_rate): 9600, int(ResourceAttribute.asrl_data_bits): 8,
             int(ResourceAttribute.asrl_stop_bits): 10}  # fmt: skip
_NOT_HELD = frozenset(
    ("assert_trigger", "read_stb", "gpib_command", "gpib_control_ren", "gpib_control_atn", "gpib_send_ifc",
     "gpib_pass_control", "enable_event", "wait_on_event", "lock", "usb_control_in", "usb_control_out", "in_8", "in_16",
     "in_32", "out_8", "out_16", "out_32", "map_address", "read_asynchronously", "write_asynchronously")
)  # fmt: skip
