"""Messages between a program and the broker that holds its connections: length u32, operation or status u8, body."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from enum import IntEnum

from instruments.wire.waiting import SLICE

LARGEST = 1 << 26
"""Bytes of a message at most."""

LARGEST_HELLO = 1 << 16
"""Bytes at most of the first message, from somebody who has not shown a token yet."""

AWAKE = 200e-6
"""Seconds for which a program that waits for an answer stays awake: waking up takes longer than most answers."""

_PIECE = 1 << 16  # bytes; a larger piece would be given fresh memory every time, which takes longer than all the rest

HEAD = struct.Struct("<IB")
WAIT = struct.Struct("<dB")
"""Head of the body of RECEIVE and QUERY: timeout (s), length of the terminator that follows."""

OPENING = struct.Struct("<I")
"""Body of OPEN: how often the owner has opened this session."""

GIVEN_UP = struct.Struct("<HI")
"""Head of the body of ABANDON: session, and which opening of it is meant; one that has come since is not."""

OUT_OF_TURN = struct.Struct("<H")
"""Head of the body of INTERRUPT: session."""


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
    IN_USE = 6
    """Another process uses the instrument."""


class Channel:
    """One connection between program and broker; a wait stays awake for `awake` (s) before it sleeps."""

    def __init__(self, connection: socket.socket, awake: float = 0.0) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection, self._awake = connection, awake
        self._buffer = bytearray()

    def send(self, code: int, body: bytes = b"") -> None:
        """Send one message."""
        self._connection.sendall(HEAD.pack(len(body), code) + body)

    def receive(self, timeout: float | None = None, largest: int = LARGEST) -> tuple[int, bytes]:
        """The next message: code and body.

        Raises
        ------
        TimeoutError
            Nothing came within `timeout` (s), or a message stopped half way for so long.
        ConnectionError
            The other side is gone, or sends more than `largest` bytes.
        """
        while True:
            buffer = self._buffer
            if len(buffer) >= HEAD.size:
                length, code = HEAD.unpack_from(buffer)
                if length > largest:
                    raise ConnectionError(f"a message of {length} bytes is none of ours")
                end = HEAD.size + length
                if len(buffer) >= end:
                    body = bytes(buffer[HEAD.size : end])
                    del buffer[:end]
                    return code, body
            if timeout is not None:
                self._wait(timeout)
            data = self._connection.recv(_PIECE)
            if not data:
                raise ConnectionError("the other side has closed the connection")
            buffer += data

    def _wait(self, timeout: float) -> None:
        """Until something has come; the socket itself blocks, so that messages go out in one piece."""
        began = time.monotonic()
        deadline, nap = began + timeout, 0.0 if self._awake else min(SLICE, timeout)
        try:
            while not select.select([self._connection], [], [], nap)[0]:
                now = time.monotonic()
                nap = 0.0 if now - began < self._awake else min(SLICE, timeout)
                if now >= deadline:
                    raise TimeoutError(f"no message in {timeout:g} s")
        except ValueError as error:
            raise ConnectionError("the connection is closed") from error

    def close(self) -> None:
        """Close the connection, from any thread; whoever waits on it learns of that."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
