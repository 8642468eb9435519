"""A TCP server as instruments have it: one client at a time, a second one is accepted and closed at once.

It outlives whatever goes wrong in the instrument: the error is logged, that client is dropped, the next one is served.
A client that does not read holds up nobody but itself: what it has not taken waits here, and while that is much,
nothing more is taken from it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

_SEND_TIMEOUT = 30.0  # s; a client that does not read for so long is dropped
_PIECE = 1 << 16  # bytes taken from a client at a time
_WAITING = 1 << 20  # bytes; with more unread than that a client is not listened to
_CATCH_UP = 64  # clients that come at once; pieces taken from one, perhaps its last, before the next is refused
_LONGEST_WAIT = 600.0  # s
_PAUSE = 0.05  # s after an error, so that one that stays does not take the whole processor

_log = logging.getLogger(__name__)


class Service(Protocol):
    """What an instrument does with the bytes of its client. All calls come from one thread."""

    def connected(self) -> None:
        """A client has come; half-received requests of the last one are to be forgotten."""

    def receive(self, data: bytes) -> bytes:
        """Take bytes, return the bytes to answer (possibly none)."""

    def deadline(self) -> float | None:
        """When (`time.monotonic`) `expired` wants to be called, if at all."""

    def expired(self) -> None:
        """The deadline has passed."""


@dataclass(frozen=True)
class Delivery:
    """What a client gets back for what it sent: bytes after `delay` (s), then perhaps the end of the connection.

    `refuse` is how long (s) clients are refused after a hang-up.
    """

    data: bytes
    delay: float = 0.0
    hang_up: bool = False
    refuse: float = 0.0


class Wire:
    """Between a client and a service; this one carries everything as it is."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def connected(self) -> None:
        """A client has come."""
        self._service.connected()

    def exchange(self, data: bytes) -> Iterator[Delivery]:
        """Hand bytes to the service, one delivery after another for as long as the client is there."""
        yield Delivery(self._service.receive(data))


class InstrumentServer:
    """Serves a `Service` on a TCP port in a thread of its own.

    Parameters
    ----------
    service
        The instrument.
    host, port
        Address to bind to; port 0 takes a free one.
    name
        Of the thread.
    wire
        How bytes come to the service and back; by default as they are.
    on_client
        Called when a client has come (True) and when it is gone (False).
    """

    def __init__(
        self,
        service: Service,
        host: str,
        port: int,
        name: str,
        *,
        wire: Wire | None = None,
        on_client: Callable[[bool], None] = lambda connected: None,
    ) -> None:
        self._service, self._wire, self._on_client = service, wire or Wire(service), on_client
        self._listener = socket.create_server((host, port))
        self._listener.setblocking(False)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._client: socket.socket | None = None
        self._unsent = bytearray()
        self._taken = 0.0  # when the client last took something of it
        self._late: list[tuple[float, int, bytes]] = []  # heap of replies: when, in which order, what
        self._order = itertools.count()
        self._refused_until = 0.0
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._awake, self._wake = socket.socketpair()  # a pipe would not do: Windows selects sockets only
        self._selector.register(self._awake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    @property
    def has_client(self) -> bool:
        """Whether a client is connected."""
        return self._client is not None

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Close the connections and wait for the thread."""
        self._stopping = True
        self._wake.send(b"x")
        if self._thread.is_alive():
            self._thread.join()
        for connection in (self._listener, self._awake, self._wake):
            connection.close()

    def _serve(self) -> None:
        try:
            while not self._stopping:
                try:
                    self._round()
                except Exception:
                    _log.exception("%s: its client is dropped, the next one is served", self._thread.name)
                    self._drop_client()
                    time.sleep(_PAUSE)
        finally:
            self._drop_client()
            self._listener.close()
            self._selector.close()

    def _round(self) -> None:
        """Wait until there is something to do, and do it."""
        ready = self._ready(self._patience())
        if self._client is not None and (events := ready.get(self._client)):
            self._exchange(self._client, events)
        if self._listener in ready:
            self._accept()
        self._send_late()
        if self._unsent and time.monotonic() - self._taken > _SEND_TIMEOUT:
            self._drop_client()
        deadline = self._service.deadline()
        if deadline is not None and time.monotonic() >= deadline:
            self._service.expired()

    def _ready(self, patience: float) -> dict[object, int]:
        return {key.fileobj: events for key, events in self._selector.select(patience)}

    def _patience(self) -> float:
        """How long to wait for something to happen (s); what is further away the selector cannot be told."""
        times = [due for due, _, _ in self._late[:1]]
        deadline = self._service.deadline()
        if deadline is not None:
            times.append(deadline)
        if self._unsent:
            times.append(self._taken + _SEND_TIMEOUT)
        return min(_LONGEST_WAIT, max(0.0, min(times, default=math.inf) - time.monotonic()))

    def _accept(self) -> None:
        for _ in range(_CATCH_UP):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        """Make a connection that of the client, or close it if there is one."""
        # a client that has just closed and comes again must not be taken for a second one
        for _ in range(_CATCH_UP):
            if self._client is None or not (events := self._ready(0).get(self._client)):
                break
            self._exchange(self._client, events)
        if self._client is not None or time.monotonic() < self._refused_until:
            connection.close()
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        self._client = connection
        self._tell(connected=True)
        self._wire.connected()

    def _exchange(self, client: socket.socket, events: int) -> None:
        """Send what waits, take what the client has sent and answer; one that is gone, however, is forgotten."""
        if events & selectors.EVENT_WRITE:
            self._push(client)
        if self._client is None or not events & selectors.EVENT_READ:
            return
        try:
            data = client.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._drop_client()
            return
        for delivery in self._wire.exchange(data):
            self._deliver(delivery)
            if self._client is None:
                return  # what else it has sent is lost with it

    def _deliver(self, delivery: Delivery) -> None:
        if delivery.delay and delivery.data:
            heapq.heappush(self._late, (time.monotonic() + delivery.delay, next(self._order), delivery.data))
        else:
            self._send(delivery.data)
        if delivery.hang_up:
            self._refused_until = time.monotonic() + delivery.refuse
            self._drop_client()

    def _send_late(self) -> None:
        while self._late and self._late[0][0] <= time.monotonic():
            self._send(heapq.heappop(self._late)[2])

    def _send(self, data: bytes) -> None:
        if self._client is None or not data:
            return
        if not self._unsent:
            self._taken = time.monotonic()
        self._unsent += data
        self._push(self._client)

    def _push(self, client: socket.socket) -> None:
        """Send as much as the client takes now."""
        try:
            sent = client.send(self._unsent) if self._unsent else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._drop_client()
            return
        if sent:
            del self._unsent[:sent]
            self._taken = time.monotonic()
        listening = selectors.EVENT_READ if len(self._unsent) <= _WAITING else 0
        self._selector.modify(client, listening | (selectors.EVENT_WRITE if self._unsent else 0))

    def _drop_client(self) -> None:
        if self._client is not None:
            self._selector.unregister(self._client)
            self._client.close()
            self._client = None
            self._unsent.clear()
            self._late.clear()
            self._tell(connected=False)

    def _tell(self, connected: bool) -> None:
        try:
            self._on_client(connected)
        except Exception:  # such as a full disk under the log
            _log.exception("%s: cannot be told that a client has come or gone", self._thread.name)
