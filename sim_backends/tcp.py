"""A TCP server as instruments have it: one client at a time, a second one is accepted and closed at once."""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

_SEND_TIMEOUT = 30.0  # s; a client that does not read for so long is dropped


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
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._client: socket.socket | None = None
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
                ready = self._ready(self._patience())
                if self._client is not None and self._client in ready:
                    self._answer(self._client)
                if self._listener in ready:
                    self._accept()
                self._send_late()
                deadline = self._service.deadline()
                if deadline is not None and time.monotonic() >= deadline:
                    self._service.expired()
        finally:
            self._drop_client()
            self._listener.close()  # also when an error ends the thread: nobody shall wait for an answer
            self._selector.close()

    def _ready(self, patience: float | None) -> set[object]:
        return {key.fileobj for key, _ in self._selector.select(patience)}

    def _patience(self) -> float | None:
        times = [due for due, _, _ in self._late[:1]]
        deadline = self._service.deadline()
        if deadline is not None:
            times.append(deadline)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        # a client that has just closed and comes again must not be taken for a second one
        while self._client is not None and self._client in self._ready(0):
            self._answer(self._client)
        if self._client is not None or time.monotonic() < self._refused_until:
            connection.close()
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_SEND_TIMEOUT)
        self._client = connection
        self._selector.register(connection, selectors.EVENT_READ)
        self._on_client(True)
        self._wire.connected()

    def _answer(self, client: socket.socket) -> None:
        """Take what the client has sent and answer; a client that is gone, however it went, is forgotten."""
        try:
            data = client.recv(1 << 18)
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
        try:
            self._client.sendall(data)
        except OSError:
            self._drop_client()

    def _drop_client(self) -> None:
        if self._client is not None:
            self._selector.unregister(self._client)
            self._client.close()
            self._client = None
            self._late.clear()
            self._on_client(False)
