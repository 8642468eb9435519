"""The one seam through which drivers get a session: lines over VISA, bytes over a port, calls to a vendor's library.

Drivers never open a port themselves. Whoever holds the connections is decided here and nowhere else: this process, or,
inside `through(broker)`, the broker process that outlives the run. The seam stays narrow: open, send, receive,
interrupt, close.

A session promises one thing: *a late reply is never taken for the answer to a later question*. After any error,
time-out or interruption (Ctrl-C included) in the middle of an exchange the session refuses further use until
`reopen` has thrown the old connection away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Protocol

from instruments.roles.interfaces import InstrumentError, LinkError
from instruments.roles.off_recipe import KeepAlive, OffRecipe
from instruments.wire.transports import Transport, transport_of
from instruments.wire.vendor_library import pack_call, unpack_result

_NOBODY = (
    "Nothing has answered there yet. Is the instrument on (for a simulated one: is `xbar sim` running), "
    "is the address in the station file right, and is no other program connected? Most instruments take one client."
)
_LOST = "The connection is given up; the driver opens it again before the next request."


class Broker(Protocol):
    """What holds connections for this process (`instruments.broker.client`)."""

    def transport(self, kind: str, address: str, settings: dict[str, Any]) -> HeldTransport:
        """A transport that the broker holds."""


class HeldTransport(Transport, Protocol):
    """A transport whose holder also knows what makes the instrument safe."""

    def register(self, off: OffRecipe) -> None:
        """Keep the messages that make the instrument safe, for when this process no longer can."""

    def keep_alive(self, message: KeepAlive | None) -> None:
        """Send a message whenever nothing else was sent for its period; None ends that."""


_BROKER: ContextVar[Broker | None] = ContextVar("broker", default=None)


@contextmanager
def through(broker: Broker) -> Iterator[None]:
    """Sessions opened inside are held by `broker`."""
    token = _BROKER.set(broker)
    try:
        yield
    finally:
        _BROKER.reset(token)


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
        PyVISA back end: ``@py`` (pure Python) or ``@ivi`` (the VISA library that is installed). No file is loaded.
    terminator
        Ends every line, both directions.
    baudrate
        Bits per second of a serial resource.

    Raises
    ------
    LinkError
        The address is malformed or cannot be opened, or nobody listens there.
    """
    settings = {"backend": backend, "terminator": terminator, "baudrate": baudrate, "timeout": timeout}
    session = VisaSession(address, _transport("visa", address, settings), timeout, terminator)
    session.reopen()
    return session


def open_port(address: str, *, baudrate: int = 921600, timeout: float = 5.0, dtr: bool = True) -> PortSession:
    """Open a byte session on a serial port (``COM4``, ``/dev/ttyUSB0``) or a TCP socket (``socket://host:port``).

    Parameters
    ----------
    address
        Anything pyserial's ``serial_for_url`` accepts.
    baudrate
        Bits per second; meaningless for a socket.
    timeout
        Seconds allowed for opening, writing, and for a reply where `receive` does not name its own time.
    dtr
        Whether the lines DTR and RTS of a serial port are raised when it is opened. Boards with a USB controller of
        their own may be mute without; boards behind a converter chip may restart with.

    Raises
    ------
    LinkError
        Nobody listens there or the port cannot be opened.
    """
    settings = {"baudrate": baudrate, "timeout": timeout} | ({} if dtr else {"dtr": False})
    session = PortSession(address, _transport("port", address, settings), timeout)
    session.reopen()
    return session


def open_library(factory: str, *, timeout: float = 60.0, **arguments: Any) -> LibrarySession:
    """Open a session on an instrument that only its maker's Python package can drive.

    Parameters
    ----------
    factory
        What makes the object that drives the instrument, as ``package.module:callable``.
    timeout
        Seconds allowed for a call. A call cannot be broken off; after that time its session is unusable.
    arguments
        For the factory: numbers, text, lists and dicts of them.

    Raises
    ------
    LinkError
        The package is missing, or the factory failed.
    """
    settings = {"arguments": arguments}
    session = LibrarySession(factory, _transport("library", factory, settings), timeout)
    session.reopen()
    return session


def open_messages(kind: str, address: str, settings: dict[str, Any], timeout: float, name: str) -> PortSession:
    """Open a session on messages of bytes over any transport, for a driver of others.

    Parameters
    ----------
    kind, address, settings
        As for `instruments.wire.transports.transport_of`.
    timeout
        Seconds allowed for a reply where `receive` does not name its own time.
    name
        Of the instrument, for messages.

    Raises
    ------
    LinkError
        It cannot be opened.
    """
    session = PortSession(f"{name} at {address}", _transport(kind, address, settings), timeout)
    session.reopen()
    return session


def current_broker() -> Broker | None:
    """What holds the sessions that are opened now; None: this process."""
    return _BROKER.get()


def _transport(kind: str, address: str, settings: dict[str, Any]) -> Transport:
    broker = _BROKER.get()
    try:
        return transport_of(kind, address, settings) if broker is None else broker.transport(kind, address, settings)
    except ValueError as error:
        raise LinkError(f"{address}: {error}") from error


class Session:
    """What all sessions share: a lock, a state, and the rule that an error ends the session.

    Attributes
    ----------
    address
        Where the session leads.
    timeout
        Seconds allowed for a reply where a call does not name its own.
    lock
        Hold it over a request and its reply; taken again by the same thread at will.
    """

    _nobody = _NOBODY

    def __init__(self, address: str, transport: Transport, timeout: float) -> None:
        self.address = address
        self.timeout = timeout
        self.lock = threading.RLock()
        self._transport = transport
        self._fault: str | None = "not opened yet"
        self._answered = False
        self._lost = True  # the connection itself, not only what was awaited on it
        self._final: InstrumentError | None = None  # what opening again will not mend

    @property
    def usable(self) -> bool:
        """Whether the session may be used; False from any error until `reopen`."""
        return self._fault is None

    def condemn(self, reason: str, *, lost: bool = False) -> None:
        """Declare the session unusable: what it answered cannot be trusted to be in step.

        `lost`: nor is its connection of use any more.
        """
        self._fault = reason
        self._lost = self._lost or lost

    def reopen(self) -> None:
        """Throw the connection away, with whatever may still arrive on it, and open a new one."""
        with self.lock:
            self.condemn("being opened again", lost=True)
            self._answered = False
            try:
                self._transport.open()
            except InstrumentError as error:
                self._final = error
                raise
            except Exception as error:
                self._fault = f"cannot be opened ({error})"
                raise LinkError(f"{self.address} {self._fault}. {self._nobody}") from error
            self._fault = self._final = None
            self._lost = False

    def close(self) -> None:
        """Close the connection, from any thread; harmless when it is closed already."""
        self.condemn("closed", lost=True)
        self._transport.abandon("closed")
        with suppress(Exception):
            self._transport.close()

    def register(self, off: OffRecipe) -> bool:
        """Leave the messages that make the instrument safe with whoever holds the connection.

        They are sent when this program ends without having left the station in order, or hangs. Returns whether
        somebody else holds the connection: without a broker there is nobody to send them.
        """
        held = getattr(self._transport, "register", None)
        if held is not None:
            held(off)
        return held is not None

    def keep_alive(self, message: KeepAlive | None) -> bool:
        """Have a message sent whenever the session is silent, as long as this program holds its lease; None: no more.

        Returns whether there is somebody who does it.
        """
        held = getattr(self._transport, "keep_alive", None)
        if held is not None:
            held(message)
        return held is not None

    @contextmanager
    def _exchanging(self, doing: str) -> Iterator[None]:
        """Run one I/O action; whatever interrupts it, `KeyboardInterrupt` too, ends the session."""
        if self._final is not None:
            raise self._final
        if self._fault is not None:
            raise LinkError(f"{self.address} is unusable ({self._fault}) and must be opened again first.")
        try:
            yield
        except BaseException as error:
            self._fault = f"{doing} failed: {str(error) or type(error).__name__}"
            self._lost = self._lost or not isinstance(error, TimeoutError)
            if isinstance(error, InstrumentError):
                self._final = error
            elif isinstance(error, Exception):
                hint = _LOST if self._answered else self._nobody
                raise LinkError(f"{self.address}: {self._fault}. {hint}") from error
            raise
        if self._fault is not None:  # another thread has interrupted: what came may be the answer to that
            raise LinkError(f"{self.address}: {doing} was given up: {self._fault}.")

    def _interrupt(self, data: bytes, reason: str) -> None:
        self.condemn(reason, lost=True)
        self._transport.abandon(reason)
        try:
            self._transport.interrupt(data)
        except InstrumentError:
            raise
        except Exception as error:
            raise LinkError(f"{self.address}: nothing could be sent out of turn: {error}") from error


class VisaSession(Session):
    """Lines of text over VISA."""

    def __init__(self, address: str, transport: Transport, timeout: float, terminator: str) -> None:
        super().__init__(address, transport, timeout)
        self._terminator = terminator.encode()

    def write(self, text: str) -> None:
        """Send one line."""
        with self.lock, self._exchanging(f"sending {text!r}"):
            self._transport.send(text.encode() + self._terminator)

    def query(self, text: str, timeout: float | None = None) -> str:
        """Send one line and return the line that answers it, without its terminator.

        Parameters
        ----------
        text
            The question.
        timeout
            Seconds to wait for the answer; the session's own if None.
        """
        patience = self.timeout if timeout is None else timeout
        with self.lock, self._exchanging(f"asking {text!r}"):
            answer = self._transport.query(text.encode() + self._terminator, self._terminator, patience)
            self._answered = True
        return answer.decode("utf-8", "replace").rstrip("\r\n")

    def interrupt(self, text: str) -> None:
        """Send one line out of turn, while another thread may wait for a reply; the session is over afterwards."""
        self._interrupt(text.encode() + self._terminator, f"interrupted by {text!r}")


class PortSession(Session):
    """Bytes over a serial port or a TCP socket, read up to a terminator."""

    def resume(self) -> bool:
        """Use the open connection again after an answer that did not come in time or was damaged.

        Only for a driver that tells by what a message says which question it answers: what was asked before may still
        be answered. Opening again is no substitute where that restarts the instrument.

        Returns
        -------
        Whether the session may be used; False where the connection itself is lost: `reopen`.
        """
        with self.lock:
            if not self._lost:
                self._fault = None
            return self._fault is None

    def pause(self, seconds: float) -> None:
        """Let the instrument do what it was told."""
        if seconds > 0:
            time.sleep(seconds)

    def send(self, data: bytes) -> None:
        """Send bytes."""
        with self.lock, self._exchanging(f"sending {len(data)} bytes"):
            self._transport.send(data)

    def query(self, data: bytes, terminator: bytes = b"\0", timeout: float | None = None) -> bytes:
        """`send`, then `receive`, in one go; whether the message answers what was sent is for the driver to see."""
        with self.lock, self._exchanging(f"sending {len(data)} bytes and waiting for a reply"):
            message = self._transport.query(data, terminator, self.timeout if timeout is None else timeout)
            self._answered = True
        return message

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
            message = self._transport.receive(terminator, self.timeout if timeout is None else timeout)
            self._answered = True
        return message

    def interrupt(self, data: bytes) -> None:
        """Send bytes out of turn, while another thread may wait for a reply; the session is over afterwards."""
        self._interrupt(data, "interrupted")


class LibrarySession(Session):
    """Calls to an object of a vendor's Python package, wherever that lives."""

    _nobody = "Is the instrument on, and does no other program use it?"

    def call(self, method: str, *arguments: Any, timeout: float | None = None, **named: Any) -> Any:
        """Call a method and return what it returns.

        Arguments and result are None, bool, numbers, text, bytes, arrays, and lists and dicts of them.

        Raises
        ------
        TypeError
            An argument is something else.
        InstrumentError
            The method raised; the message is its own.
        LinkError
            It did not return in time.
        """
        patience = self.timeout if timeout is None else timeout
        packed = pack_call(method, arguments, named)
        with self.lock, self._exchanging(f"calling {method}"):
            result = self._transport.query(packed, b"", patience)
            self._answered = True
        return unpack_result(result, f"{self.address}: {method}")
