"""A TCP server as instruments have it: one client at a time, a second one is accepted and closed at once."""

from __future__ import annotations

import selectors
import socket
import threading
import time
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
    """

    def __init__(self, service: Service, host: str, port: int, name: str) -> None:
        self._service = service
        self._listener = socket.create_server((host, port))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._client: socket.socket | None = None
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._awake, self._wake = socket.socketpair()  # a pipe would not do: Windows selects sockets only
        self._selector.register(self._awake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

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
        deadline = self._service.deadline()
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        # a client that has just closed and comes again must not be taken for a second one
        while self._client is not None and self._client in self._ready(0):
            self._answer(self._client)
        if self._client is not None:
            connection.close()
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_SEND_TIMEOUT)
        self._client = connection
        self._selector.register(connection, selectors.EVENT_READ)
        self._service.connected()

    def _answer(self, client: socket.socket) -> None:
        """Take what the client has sent and answer; a client that is gone, however it went, is forgotten."""
        try:
            data = client.recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            self._drop_client()
            return
        reply = self._service.receive(data)
        if reply:
            try:
                client.sendall(reply)
            except OSError:
                self._drop_client()

    def _drop_client(self) -> None:
        if self._client is not None:
            self._selector.unregister(self._client)
            self._client.close()
            self._client = None
