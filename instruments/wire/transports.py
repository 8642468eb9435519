"""What carries bytes to an instrument: a VISA resource, a serial port or TCP socket, a vendor's library.

A transport knows nothing of locks and trust; `instruments.wire.sessions` puts sessions on top of it, and the broker
process holds transports for sessions that live elsewhere. Every method raises what goes wrong as an ordinary exception.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from instruments.wire.address_lock import AddressLock
from instruments.wire.waiting import SLICE, Abandonable

if TYPE_CHECKING:
    from pyvisa.resources import MessageBasedResource

LARGEST_MESSAGE = 1 << 20
"""Bytes without a terminator after which the other side is taken to be out of step."""


BACKENDS = ("@py", "@ivi")
"""PyVISA's back ends: in Python, and by the VISA library that is installed."""


class Transport(Protocol):
    """A connection that can be opened again and again."""

    def open(self) -> None:
        """Connect; whatever an earlier connection still held is gone."""

    def close(self) -> None:
        """Disconnect; harmless when there is no connection."""

    def send(self, data: bytes) -> None:
        """Send bytes."""

    def receive(self, terminator: bytes, timeout: float) -> bytes:
        """The next message, without its terminator, within `timeout` (s)."""

    def query(self, data: bytes, terminator: bytes, timeout: float) -> bytes:
        """Send bytes and receive the next message.

        Where nothing in a message tells what it answers, it is refused if something came before the bytes were sent.
        """

    def interrupt(self, data: bytes) -> None:
        """Send bytes out of turn, while another thread may wait in `receive`."""

    def abandon(self, reason: str | None) -> None:
        """Have whoever waits in `receive`, in another thread, give up within `SLICE`.

        Nothing is received any more until `open`, or until None takes that back. A connection that another thread was
        just opening is closed again.
        """


def transport_of(kind: str, address: str, settings: dict[str, Any], patience: float = 0.0) -> Transport:
    """A transport by its kind (``port``, ``visa``, ``library``), not yet opened.

    Opening it takes the lock of its address first, within `patience` (s) (`instruments.wire.address_lock`).
    """
    transport: Transport
    where = address
    if kind == "port":
        transport = PortTransport(address, **settings)
    elif kind == "visa":
        transport = VisaTransport(address, **settings)
    elif kind == "library":
        from instruments.wire.vendor_library import LibraryTransport

        transport = LibraryTransport(address, **settings)
        where = f"{address} {json.dumps(settings, sort_keys=True)}"  # a maker's package may drive several instruments
    else:
        raise ValueError(f"transport {kind!r} is none of port, visa, library")
    return LockedTransport(transport, AddressLock(kind, where), patience)


class LockedTransport:
    """A transport that nobody else of this machine connects to between `open` and `close`."""

    def __init__(self, transport: Transport, lock: AddressLock, patience: float) -> None:
        self._transport, self._lock, self._patience = transport, lock, patience
        self._opened = False
        self.send, self.receive, self.query = transport.send, transport.receive, transport.query
        self.interrupt, self.abandon = transport.interrupt, transport.abandon

    def open(self) -> None:
        """See `Transport.open`; what was open once is not left to others until `close`."""
        self._lock.acquire(self._patience)
        try:
            self._transport.open()
        except BaseException:
            if not self._opened:
                self._lock.release()
            raise
        self._opened = True

    def close(self) -> None:
        """See `Transport.close`."""
        self._opened = False
        try:
            self._transport.close()
        finally:
            self._lock.release()


class PortTransport(Abandonable):
    """Bytes over a serial port (``COM4``, ``/dev/ttyUSB0``) or TCP (``socket://host:port``), by pyserial."""

    def __init__(self, address: str, *, baudrate: int, timeout: float, dtr: bool = True) -> None:
        super().__init__()
        self._address, self._baudrate, self._timeout, self._dtr = address, baudrate, timeout, dtr
        self._port: Any = None  # a pyserial port: its class depends on the platform and the address
        self._received = bytearray()

    def open(self) -> None:
        """Open the port."""
        self.close()
        self._received.clear()
        self._abandoned = None
        import serial  # here: a broker that is to replay needs none

        port = serial.serial_for_url(
            self._address,
            do_not_open=True,
            baudrate=self._baudrate,
            timeout=self._timeout,
            write_timeout=self._timeout,
            exclusive=True,
        )
        if not self._dtr:
            port.dtr = port.rts = False  # before it is open: on Windows they are never raised then
        port.open()
        self._port = port
        if self._address.lower().startswith("socket://"):
            _send_at_once(port)
        else:
            _keep_lines_when_closed(port)
        if self._abandoned is not None:
            self.close()
            self._check_wanted()

    def close(self) -> None:
        """Close the port."""
        port, self._port = self._port, None
        if port is not None:
            _close_at_once(port)
            port.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._live().write(data)

    interrupt = send

    def query(self, data: bytes, terminator: bytes, timeout: float) -> bytes:
        """Send bytes and receive the next message."""
        self.send(data)
        return self.receive(terminator, timeout)

    def receive(self, terminator: bytes, timeout: float) -> bytes:
        """Bytes up to the next terminator; with an empty one, whatever has come."""
        deadline = time.monotonic() + timeout
        if not terminator:
            message = bytes(self._received) or self._arriving(deadline)
            self._received.clear()
            return message
        searched = 0
        while (end := self._received.find(terminator, searched)) < 0:
            searched = len(self._received)
            if searched > LARGEST_MESSAGE:
                raise ValueError(f"{searched} bytes came without an end of message")
            self._received += self._arriving(deadline)
        message = bytes(self._received[:end])
        del self._received[: end + len(terminator)]
        return message

    def _arriving(self, deadline: float) -> bytes:
        """Whatever has arrived, at least one byte; pyserial's own `read_until` takes one call per byte."""
        port = self._live()
        first = b""
        while not first:
            port.timeout = min(self._left(deadline), SLICE)
            first = port.read(1)
        port.timeout = 0
        rest: bytes = port.read(65536)
        return first + rest

    def _live(self) -> Any:
        if self._port is None:
            raise ConnectionError("the connection is closed")
        return self._port


def _keep_lines_when_closed(port: Any) -> None:
    """Have closing a serial port leave DTR and RTS as they are: their edges restart many boards at the next opening."""
    try:
        import termios  # not on Windows, where the lines follow what the port was opened with
    except ImportError:
        return
    try:
        settings = termios.tcgetattr(port.fileno())
        settings[2] &= ~termios.HUPCL
        termios.tcsetattr(port.fileno(), termios.TCSANOW, settings)
    except (termios.error, OSError, ValueError, TypeError, AttributeError):  # no serial port of this machine
        return


def _send_at_once(port: Any) -> None:
    """Switch off Nagle's algorithm: it holds back the end of a large frame for up to 40 ms (pyserial leaves it on)."""
    with socket.fromfd(port.fileno(), socket.AF_INET, socket.SOCK_STREAM) as same_socket:
        same_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _close_at_once(port: Any) -> None:
    """Close a port's TCP connection, if it has one: pyserial waits 0.3 s behind it for servers that are slow to notice.

    Who connects again tries more than once (`instruments.board_protocol.link`), so nothing needs that wait.
    """
    connection = getattr(port, "_socket", None)
    if connection is not None:
        port._socket, port.is_open = None, False
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def checked_backend(name: str) -> str:
    """A back end of PyVISA by its name; a file that would be loaded is none.

    Raises
    ------
    ValueError
        It is none of `BACKENDS`.
    """
    if name not in BACKENDS:
        raise ValueError(
            f"the VISA back end {name!r} is none of {', '.join(BACKENDS)}; which library @ivi loads is a setting of "
            "PyVISA (its .pyvisarc), not of a station file"
        )
    return name


class VisaTransport(Abandonable):
    """Messages over a PyVISA resource, each up to the terminator that is asked for; with an empty one, to its end."""

    def __init__(
        self,
        address: str,
        *,
        backend: str,
        terminator: str,
        baudrate: int | None,
        timeout: float,
        serial: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self._address, self._backend, self._terminator = address, checked_backend(backend), terminator
        self._settings: dict[str, Any] = {} if baudrate is None else {"baud_rate": baudrate}
        self._serial, self._timeout = dict(serial or {}), timeout
        self._resource: MessageBasedResource | None = None

    def open(self) -> None:
        """Open the resource; a bus device is cleared, for its late reply waits in the device."""
        self.close()
        self._abandoned = None
        import pyvisa  # here: it loads numpy, which takes longer than all else of a broker
        from pyvisa.resources import MessageBasedResource

        manager = pyvisa.ResourceManager(self._backend)
        resource = manager.open_resource(self._address, open_timeout=int(1e3 * self._timeout), **self._settings)
        if not isinstance(resource, MessageBasedResource):
            resource.close()
            raise TypeError("this VISA resource does not exchange messages")
        for name, value in self._serial.items():
            resource.set_visa_attribute(getattr(pyvisa.constants.ResourceAttribute, name), value)
        resource.read_termination = self._terminator or None
        resource.timeout = 1e3 * self._timeout
        if not self._address.upper().endswith("::SOCKET"):
            resource.clear()
        _check_connected(resource)
        self._resource = resource
        if self._abandoned is not None:
            self.close()
            self._check_wanted()

    def close(self) -> None:
        """Close the resource."""
        resource, self._resource = self._resource, None
        if resource is not None:
            resource.close()

    def send(self, data: bytes) -> None:
        """Send one message."""
        self._live().write_raw(data)

    interrupt = send

    def query(self, data: bytes, terminator: bytes, timeout: float) -> bytes:
        """Send one message and receive the one that answers it."""
        if _has_arrived(self._live()):
            raise ConnectionError("something came that was not asked for; question and answer are out of step")
        self.send(data)
        return self.receive(terminator, timeout)

    def receive(self, terminator: bytes, timeout: float) -> bytes:
        """The next message."""
        resource, deadline = self._live(), time.monotonic() + timeout
        ending = terminator.decode("latin-1") or None
        if resource.read_termination != ending:
            resource.read_termination = ending
        # the back end itself spins on a lost connection: wait outside of it, where that can be seen
        while _tcp_socket(resource) is not None and not _has_arrived(resource, min(SLICE, self._left(deadline))):
            pass
        resource.timeout = max(1.0, 1e3 * (deadline - time.monotonic()))
        try:
            return bytes(resource.read_raw()).removesuffix(terminator)
        except Exception as error:
            if "VI_ERROR_TMO" in str(error):
                raise TimeoutError(str(error)) from error
            raise

    def _live(self) -> MessageBasedResource:
        if self._resource is None:
            raise ConnectionError("the connection is closed")
        return self._resource


def _tcp_socket(resource: MessageBasedResource) -> socket.socket | None:
    """The socket under a raw TCP resource of PyVISA-py; None for every other resource and back end."""
    connection = getattr(_py_session(resource), "interface", None)
    return connection if isinstance(connection, socket.socket) else None


def _check_connected(resource: MessageBasedResource) -> None:
    """See that somebody has taken a raw TCP connection; PyVISA-py opens it all the same if nobody has.

    Raises
    ------
    ConnectionError
        Nobody has.
    """
    connection = _tcp_socket(resource)
    if connection is None:
        return
    try:
        connection.getpeername()
    except OSError as error:
        resource.close()
        raise ConnectionRefusedError("nobody listens there") from error


def _py_session(resource: MessageBasedResource) -> Any:
    """What PyVISA-py keeps for a resource; None with another back end."""
    sessions: dict[Any, Any] = getattr(resource.visalib, "sessions", {})
    return sessions.get(resource.session)


def _has_arrived(resource: MessageBasedResource, patience: float = 0.0) -> bool:
    """Whether bytes wait to be read, after at most `patience` (s); False where that cannot be seen.

    Raises
    ------
    ConnectionError
        The other side has closed the connection.
    """
    connection = _tcp_socket(resource)
    if connection is None:
        return False
    if getattr(_py_session(resource), "_pending_buffer", b""):
        return True
    readable, _, _ = select.select([connection], [], [], patience)
    if readable and not connection.recv(1, socket.MSG_PEEK):
        raise ConnectionError("the other side has closed the connection")
    return bool(readable)
