"""Messages between a program and the broker that holds its connections: length u32, operation or status u8, body."""

from __future__ import annotations

import socket
import struct
from enum import IntEnum

LARGEST = 1 << 26
HEAD = struct.Struct("<IB")
WAIT = struct.Struct("<dB")
"""Head of the body of RECEIVE and QUERY: timeout (s), length of the terminator that follows."""


class Operation(IntEnum):
    """What a program asks of the broker."""

    OPEN = 1
    SEND = 2
    """Not answered; what goes wrong is said with the next answer."""
    RECEIVE = 3
    QUERY = 4
    CLOSE = 5
    REGISTER = 6
    KEEP_ALIVE = 7
    RENEW = 10
    """Not answered."""
    REST = 11
    MAKE_SAFE = 12
    INTERRUPT = 13
    ABANDON = 14
    END = 15
    STATUS = 16


class Status(IntEnum):
    """How the broker answers."""

    OK = 0
    TIMEOUT = 1
    CONNECTION = 2
    RELEASED = 3
    """The station was made safe; the program that asks no longer holds it."""
    DEVIATION = 4
    """A replay: what was asked is not what was recorded."""
    OTHER = 5


class Channel:
    """One connection between program and broker."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._buffer = bytearray()

    def send(self, code: int, body: bytes = b"") -> None:
        """Send one message."""
        self._connection.sendall(HEAD.pack(len(body), code) + body)

    def receive(self, timeout: float | None = None) -> tuple[int, bytes]:
        """The next message: code and body.

        Raises
        ------
        TimeoutError
            Nothing began to come within `timeout` (s).
        ConnectionError
            The other side is gone.
        """
        while True:
            buffer = self._buffer
            if len(buffer) >= HEAD.size:
                length, code = HEAD.unpack_from(buffer)
                if length > LARGEST:
                    raise ConnectionError(f"a message of {length} bytes is none of ours")
                end = HEAD.size + length
                if len(buffer) >= end:
                    body = bytes(buffer[HEAD.size : end])
                    del buffer[:end]
                    return code, body
            self._patience(timeout if not buffer else None)
            data = self._connection.recv(1 << 18)
            if not data:
                raise ConnectionError("the other side has closed the connection")
            buffer += data

    def _patience(self, timeout: float | None) -> None:
        if self._connection.gettimeout() != timeout:
            self._connection.settimeout(timeout)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
