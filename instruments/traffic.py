"""The traffic of a run: every message between the drivers and their instruments, with times, in one file.

What is promised: what was sent or received is in the file at most `FLUSH` seconds later, and when the broker ends,
however the run ended. A block is whole or not there; what a power cut tore off at the end is recognised and left out.
A payload of `LARGE` bytes or more is stored once; when it comes again the file names its hash.

Layout: `MAGIC`, then blocks of compressed length u32, CRC-32 of the compressed bytes u32, Zstandard frame. Blocks hold
entries: time f64 (seconds since 1970), session u16, kind u8, flags u8 (1: the payload is the hash of an earlier one;
2: it is rearranged, `instruments.traffic_coding`), length u32, payload.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import zstandard

from instruments.traffic_coding import fold, unfold

MAGIC = b"xbarlab traffic 1\n"
FLUSH = 0.5
LARGE = 1024

_BLOCK = struct.Struct("<II")
_ENTRY = struct.Struct("<dHBBI")
_BLOCK_SIZE = 1 << 20
_REPEATED, _FOLDED = 1, 2
_FOLD_FROM = 4096
_LEVEL = 3
_LARGEST_BLOCK = 1 << 28
_HASH = 16


class TrafficError(RuntimeError):
    """The file is no traffic, or damaged; the message says where."""


class Kind(IntEnum):
    """What an entry is."""

    SESSION = 1
    """A session is known from here on: JSON with kind, address, settings."""
    OPEN = 2
    """The connection was opened; the payload is empty, or says why it could not be."""
    SEND = 3
    MESSAGE = 4
    """What was received."""
    FAULT = 5
    """Why nothing was received, or the call failed: name of the exception, a line feed, its text."""
    CLOSE = 6
    OUT_OF_TURN = 7
    OWN = 8
    """The broker's own exchanges (heartbeats, making safe): what was sent or received."""
    NOTE = 9
    """What happened beside the wire: JSON."""


@dataclass(frozen=True)
class Entry:
    """One line of the traffic."""

    time: float
    session: int
    kind: Kind
    payload: bytes


class TrafficWriter:
    """Appends entries to a traffic file; a thread of its own compresses and writes them."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("xb")
        self._file.write(MAGIC)
        self._file.flush()
        self._pending: list[tuple[float, int, Kind, bytes]] = []
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._size = 0
        self._known: set[bytes] = set()
        self._lock = threading.Lock()
        self._due, self._ended = threading.Event(), False
        self.fault = ""
        self._thread = threading.Thread(target=self._write_on, name="traffic", daemon=True)
        self._thread.start()

    def add(self, session: int, kind: Kind, payload: bytes = b"") -> None:
        """Append an entry."""
        with self._lock:
            self._pending.append((time.time(), session, kind, payload))
            self._size += len(payload)
            full = self._size >= _BLOCK_SIZE
        if full:
            self._due.set()

    def note(self, what: str, **details: Any) -> None:
        """Append something that happened beside the wire."""
        self.add(0, Kind.NOTE, json.dumps({"what": what, **details}).encode())

    def close(self) -> None:
        """Write what is left."""
        self._ended = True
        self._due.set()
        self._thread.join()
        self._file.close()

    def _stored(self, payload: bytes) -> tuple[bytes, int]:
        """What stands for a payload in the file, and the flags that say so."""
        if len(payload) < LARGE:
            return payload, 0
        name = hashlib.blake2b(payload, digest_size=_HASH).digest()
        if name in self._known:
            return name, _REPEATED
        self._known.add(name)
        folded = fold(payload) if len(payload) >= _FOLD_FROM else None
        return (payload, 0) if folded is None else (folded, _FOLDED)

    def _write_on(self) -> None:
        while not self._ended:
            self._due.wait(FLUSH)
            self._due.clear()
            self._write()
        self._write()

    def _write(self) -> None:
        with self._lock:
            pending, self._pending, self._size = self._pending, [], 0
        if not pending:
            return
        parts = []
        for when, session, kind, payload in pending:
            stored, flags = self._stored(payload)
            parts += [_ENTRY.pack(when, session, kind, flags, len(stored)), stored]
        block = self._compressor.compress(b"".join(parts))
        try:
            self._file.write(_BLOCK.pack(len(block), zlib.crc32(block)) + block)
            self._file.flush()
        except OSError as error:  # a full disk must not keep the station from being left in order
            self.fault = self.fault or f"the traffic cannot be written: {error}"


def read_traffic(path: Path) -> Iterator[Entry]:
    """The entries of a file, oldest first; a block torn off at the end is left out.

    Raises
    ------
    TrafficError
        No traffic file, or a block that was changed after it was written.
    """
    known: dict[bytes, bytes] = {}
    for block in _blocks(path):
        at = 0
        while at < len(block):
            when, session, kind, flags, length = _ENTRY.unpack_from(block, at)
            at += _ENTRY.size
            payload = block[at : at + length]
            at += length
            if flags & _FOLDED:
                payload = unfold(payload)
            if flags & _REPEATED:
                payload = known[payload]
            elif len(payload) >= LARGE:
                known[hashlib.blake2b(payload, digest_size=_HASH).digest()] = payload
            yield Entry(when, session, Kind(kind), payload)


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise TrafficError(
            f"{path} cannot be read: {error.strerror}; the run was not recorded, or files are missing"
        ) from error
    with file:
        if file.read(len(MAGIC)) != MAGIC:
            raise TrafficError(f"{path} is no traffic file of this version; it was written by another program")
        number = 0
        while len(head := file.read(_BLOCK.size)) == _BLOCK.size:
            at = file.tell()
            length, checksum = _BLOCK.unpack(head)
            block = file.read(length)
            if len(block) < length:
                return
            if zlib.crc32(block) != checksum:
                raise TrafficError(
                    f"{path}: block {number} (bytes {at} to {at + length}) is not what was written: the file was "
                    "damaged or edited. Restore it from a backup; everything before that block is sound."
                )
            yield zstandard.decompress(block, max_output_size=_LARGEST_BLOCK)
            number += 1
