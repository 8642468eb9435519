"""The one seam through which drivers get a session: message lines over VISA, bytes over a serial port or TCP.

Drivers never open a port themselves. Whatever holds the connections (this process, or later a broker process that
outlives the run) is decided here and nowhere else, so this seam stays narrow: open, send, receive, interrupt, close.

A session promises one thing: *a late reply is never taken for the answer to a later question*. After any error,
time-out or interruption (Ctrl-C included) in the middle of an exchange the session refuses further use until
`reopen` has thrown the old connection away.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyvisa
import serial
from pyvisa.resources import MessageBasedResource

from instruments.roles import LinkError

LARGEST_MESSAGE = 1 << 20
"""Bytes without a terminator after which the other side is taken to be out of step."""

_SLICE = 0.25  # s; on Windows neither Ctrl-C nor another thread's `interrupt` gets through a longer wait

_NOBODY = (
    "Nothing has answered there yet. Is the instrument on (for a simulated one: is `xbar sim` running), "
    "is the address in the station file right, and is no other program connected? Most instruments take one client."
)
_LOST = "The connection is given up; the driver opens it again before the next request."


def open_visa(
    address: str, *, timeout: float = 5.0, backend: str = "@py", terminator: str = "\n", baudrate: int | None = None
) -> VisaSession:
    """Open a VISA session that exchanges lines of text.

    Parameters
    ----------
    address
        VISA resource name, e.g. ``TCPIP::192.168.1.10::35555::SOCKET``, ``GPIB0::20::INSTR``, ``ASRL3::INSTR``.
    timeout
        Seconds allowed for a reply where a query does not name its own time.
    backend
        PyVISA back end: ``@py`` (pure Python), ``@ivi`` or the path of a vendor's VISA library.
    terminator
        Ends every line, both directions.
    baudrate
        Bits per second of a serial resource.

    Raises
    ------
    LinkError
        The address is malformed or cannot be opened. A TCP address nobody listens at may show only in the first
        exchange; its message says the same.
    """
    session = VisaSession(address, timeout=timeout, backend=backend, terminator=terminator, baudrate=baudrate)
    session.reopen()
    return session


def open_port(address: str, *, baudrate: int = 921600, timeout: float = 5.0) -> PortSession:
    """Open a byte session on a serial port (``COM4``, ``/dev/ttyUSB0``) or a TCP socket (``socket://host:port``).

    Parameters
    ----------
    address
        Anything pyserial's ``serial_for_url`` accepts.
    baudrate
        Bits per second; meaningless for a socket.
    timeout
        Seconds allowed for opening, writing, and for a reply where `receive` does not name its own time.

    Raises
    ------
    LinkError
        Nobody listens there or the port cannot be opened.
    """
    session = PortSession(address, baudrate=baudrate, timeout=timeout)
    session.reopen()
    return session


class Session:
    """What both kinds of session share: a lock, a state, and the rule that an error ends the session.

    Attributes
    ----------
    address
        Where the session leads.
    lock
        Hold it over a request and its reply; taken again by the same thread at will.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        self.timeout = timeout
        self.lock = threading.RLock()
        self._fault: str | None = "not opened yet"
        self._answered = False

    @property
    def usable(self) -> bool:
        """Whether the session may be used; False from any error until `reopen`."""
        return self._fault is None

    def condemn(self, reason: str) -> None:
        """Declare the session unusable: what it answered cannot be trusted to be in step."""
        self._fault = reason

    def reopen(self) -> None:
        """Throw the connection away, with whatever may still arrive on it, and open a new one."""
        with self.lock:
            self.close()
            self._answered = False
            try:
                self._connect()
            except Exception as error:
                self._fault = f"cannot be opened ({error})"
                raise LinkError(f"{self.address} {self._fault}. {_NOBODY}") from error
            self._fault = None

    def close(self) -> None:
        """Close the connection; harmless when it is closed already."""
        self.condemn("closed")
        with suppress(Exception):
            self._disconnect()

    def _connect(self) -> None:
        raise NotImplementedError

    def _disconnect(self) -> None:
        raise NotImplementedError

    @contextmanager
    def _exchanging(self, doing: str) -> Iterator[None]:
        """Run one I/O action; whatever interrupts it, `KeyboardInterrupt` too, ends the session."""
        if self._fault is not None:
            raise LinkError(f"{self.address} is unusable ({self._fault}) and must be opened again first.")
        try:
            yield
        except BaseException as error:
            self._fault = f"{doing} failed: {str(error) or type(error).__name__}"
            if isinstance(error, Exception):
                hint = _LOST if self._answered else _NOBODY
                raise LinkError(f"{self.address}: {self._fault}. {hint}") from error
            raise
        if self._fault is not None:  # another thread has interrupted: what came may be the answer to that
            raise LinkError(f"{self.address}: {doing} was given up: {self._fault}.")

    @contextmanager
    def _out_of_turn(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise LinkError(f"{self.address}: nothing could be sent out of turn: {error}") from error


class VisaSession(Session):
    """Lines of text over a PyVISA resource."""

    def __init__(self, address: str, *, timeout: float, backend: str, terminator: str, baudrate: int | None) -> None:
        super().__init__(address, timeout)
        self._backend = backend
        self._terminator = terminator
        self._baudrate = baudrate
        self._resource: MessageBasedResource | None = None

    def write(self, text: str) -> None:
        """Send one line."""
        with self.lock, self._exchanging(f"sending {text!r}"):
            self._send(text)

    def query(self, text: str, timeout: float | None = None) -> str:
        """Send one line and return the line that answers it, without its terminator.

        Parameters
        ----------
        text
            The question.
        timeout
            Seconds to wait for the answer; the session's own if None.
        """
        with self.lock, self._exchanging(f"asking {text!r}"):
            resource = self._live()
            deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
            if _has_arrived(resource):
                raise ConnectionError("something came that was not asked for; question and answer are out of step")
            self._send(text)
            self._await_arrival(resource, deadline)
            resource.timeout = max(1.0, 1e3 * (deadline - time.monotonic()))
            answer = resource.read_raw().decode("utf-8", "replace")
            self._answered = True
        return answer.rstrip("\r\n")

    def interrupt(self, text: str) -> None:
        """Send one line out of turn, while another thread may wait for a reply; the session is over afterwards."""
        self.condemn(f"interrupted by {text!r}")
        with self._out_of_turn():
            self._send(text)

    def _await_arrival(self, resource: MessageBasedResource, deadline: float) -> None:
        """Wait for the first byte, where that can be seen: the back end itself spins on a lost connection."""
        while _tcp_socket(resource) is not None:
            left = deadline - time.monotonic()
            if _has_arrived(resource, min(_SLICE, max(0.0, left))):
                return
            if self._fault is not None:
                raise ConnectionError(self._fault)
            if left <= 0:
                raise TimeoutError("no reply in time")

    def _send(self, text: str) -> None:
        self._live().write_raw((text + self._terminator).encode())

    def _live(self) -> MessageBasedResource:
        if self._resource is None:
            raise ConnectionError("the connection is closed")
        return self._resource

    def _connect(self) -> None:
        manager = pyvisa.ResourceManager(self._backend)
        settings: dict[str, Any] = {} if self._baudrate is None else {"baud_rate": self._baudrate}
        resource = manager.open_resource(self.address, open_timeout=int(1e3 * self.timeout), **settings)
        if not isinstance(resource, MessageBasedResource):
            resource.close()
            raise TypeError("this VISA resource does not exchange messages")
        resource.read_termination = self._terminator
        resource.timeout = 1e3 * self.timeout
        if not self.address.upper().endswith("::SOCKET"):
            resource.clear()  # on a bus the late reply waits in the instrument, not in a connection thrown away
        self._resource = resource

    def _disconnect(self) -> None:
        resource, self._resource = self._resource, None
        if resource is not None:
            resource.close()


def _tcp_socket(resource: MessageBasedResource) -> socket.socket | None:
    """The socket under a raw TCP resource of PyVISA-py; None for every other resource and back end."""
    connection = getattr(_py_session(resource), "interface", None)
    return connection if isinstance(connection, socket.socket) else None


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


class PortSession(Session):
    """Bytes over a serial port or a TCP socket, read up to a terminator."""

    def __init__(self, address: str, *, baudrate: int, timeout: float) -> None:
        super().__init__(address, timeout)
        self._baudrate = baudrate
        self._port: Any = None  # a pyserial port: its class depends on the platform and the address
        self._received = bytearray()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        with self.lock, self._exchanging(f"sending {len(data)} bytes"):
            self._live().write(data)

    def receive(self, terminator: bytes = b"\0", timeout: float | None = None) -> bytes:
        """Bytes up to the next terminator, without it.

        Parameters
        ----------
        terminator
            Byte that ends a message.
        timeout
            Seconds to wait for the whole message; the session's own if None.
        """
        with self.lock, self._exchanging("waiting for a reply"):
            deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
            searched = 0
            while (end := self._received.find(terminator, searched)) < 0:
                searched = len(self._received)
                if searched > LARGEST_MESSAGE:
                    raise ValueError(f"{searched} bytes came without an end of message")
                self._received += self._arriving(deadline)
            message = bytes(self._received[:end])
            del self._received[: end + len(terminator)]
            self._answered = True
        return message

    def interrupt(self, data: bytes) -> None:
        """Send bytes out of turn, while another thread may wait for a reply; the session is over afterwards."""
        self.condemn("interrupted")
        with self._out_of_turn():
            self._live().write(data)

    def _arriving(self, deadline: float) -> bytes:
        """Whatever has arrived, at least one byte; pyserial's own `read_until` takes one call per byte."""
        port = self._live()
        first = b""
        while not first:
            left = deadline - time.monotonic()
            if self._fault is not None:
                raise ConnectionError(self._fault)
            if left <= 0:
                raise TimeoutError("no complete reply in time")
            port.timeout = min(left, _SLICE)
            first = port.read(1)
        port.timeout = 0
        rest: bytes = port.read(65536)
        return first + rest

    def _live(self) -> Any:
        if self._port is None:
            raise ConnectionError("the connection is closed")
        return self._port

    def _connect(self) -> None:
        self._received.clear()
        port = serial.serial_for_url(
            self.address, baudrate=self._baudrate, timeout=self.timeout, write_timeout=self.timeout, exclusive=True
        )
        if self.address.lower().startswith("socket://"):
            _send_at_once(port)
        self._port = port

    def _disconnect(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.close()


def _send_at_once(port: Any) -> None:
    """Switch off Nagle's algorithm: it holds back the end of a large frame for up to 40 ms (pyserial leaves it on)."""
    with socket.fromfd(port.fileno(), socket.AF_INET, socket.SOCK_STREAM) as same_socket:
        same_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
