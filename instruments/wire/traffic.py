"""The traffic of a run: every message between the drivers and their instruments, with times, in one file.

What is promised: what was sent or received is in the file at most `FLUSH` seconds later, and when the broker ends,
however the run ended. A block is whole or not there; what a power cut tore off at the end is recognised and left out.
A payload of `LARGE` bytes or more is stored once; when it comes again the file names its hash. Large received messages
are rearranged before they are compressed (`instruments.wire.traffic_coding`).

Layout: `MAGIC`, then blocks: compressed length u32, CRC-32 of the compressed bytes u32, CRC-32 of these two u32,
Zstandard frame. A block holds entries: time f64 (seconds since 1970), session u16, kind u8, flags u8, length u32,
payload.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import zstandard

MAGIC = b"xbarlab traffic 1\n"
FLUSH = 0.5
LARGE = 1024
KEPT = 1 << 26
"""Bytes that are kept while the disk is full."""

_SUMS = struct.Struct("<II")
_SUM = struct.Struct("<I")
_ENTRY = struct.Struct("<dHBBI")
_BLOCK_SIZE = 1 << 20
_REPEATED, _FOLDED = 1, 2
_FOLD_FROM = 4096
_LEVEL = 3
_LARGEST_BLOCK = 1 << 28
_PACKED = 400  # how much smaller blocks are stored at most: every entry has a time, which takes some bytes
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the traffic."""

    time: float
    session: int
    kind: Kind
    payload: bytes


class TrafficWriter:
    """Appends entries to a traffic file; a thread of its own compresses and writes them.

    What cannot be written (a full disk) is kept, up to `KEPT` bytes, and written as soon as that is possible: the file
    is always the beginning of what happened, without gaps.

    Attributes
    ----------
    fault
        Why entries wait, or are lost; empty while all is well.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("xb", buffering=0)
        self._whole = 0  # bytes of the file that hold whole blocks
        self._append(MAGIC)
        self._pending: list[tuple[float, int, Kind, int, bytes]] = []
        self._size = 0
        self._unwritten: deque[bytes] = deque()
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._known: set[bytes] = set()
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._due, self._ended, self._lost = threading.Event(), False, False
        self.fault = ""
        self._thread = threading.Thread(target=self._write_on, name="traffic", daemon=True)
        self._thread.start()

    def add(self, session: int, kind: Kind, payload: bytes = b"") -> None:
        """Append an entry."""
        with self._lock:
            if self._ended:
                return
            flags = 0
            if len(payload) >= LARGE:
                payload, flags = self._once(payload)
            self._pending.append((time.time(), session, kind, flags, payload))
            self._size += _ENTRY.size + len(payload)
            full = self._size >= _BLOCK_SIZE
        if full:
            self._due.set()

    def note(self, what: str, **details: Any) -> None:
        """Append something that happened beside the wire."""
        self.add(0, Kind.NOTE, json.dumps({"what": what, **details}).encode())

    def flush(self) -> None:
        """Write what has been appended, as far as that is possible."""
        with self._writing:
            self._compress()
            try:
                while self._unwritten:
                    self._append(self._unwritten[0])
                    self._unwritten.popleft()
            except OSError as error:  # a full disk must not keep the station from being left in order
                self._keep(error)
            else:
                self.fault = self.fault if self._lost else ""

    def close(self) -> None:
        """Write what is left."""
        self._due.set()
        with self._lock:
            self._ended = True
        self._thread.join()
        self._file.close()

    def _once(self, payload: bytes) -> tuple[bytes, int]:
        """The payload, or its hash and the flag that says so if it was there before."""
        name = hashlib.blake2b(payload, digest_size=_HASH).digest()
        if name in self._known:
            return name, _REPEATED
        self._known.add(name)
        return payload, 0

    def _write_on(self) -> None:
        while not self._ended:
            self._due.wait(FLUSH)
            self._due.clear()
            self.flush()
        self.flush()

    def _compress(self) -> None:
        """Make a block of what is pending."""
        with self._lock:
            pending, self._pending, self._size = self._pending, [], 0
        if pending:
            block = self._compressor.compress(b"".join(_packed(*entry) for entry in pending))
            sums = _SUMS.pack(len(block), zlib.crc32(block))
            self._unwritten.append(sums + _SUM.pack(zlib.crc32(sums)) + block)

    def _append(self, block: bytes) -> None:
        """Write a block, or nothing."""
        left = memoryview(block)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.seek(self._whole)
                self._file.truncate()
            raise
        self._whole += len(block)

    def _keep(self, error: OSError) -> None:
        """Say what is wrong; beyond what can be kept the traffic ends."""
        kept = sum(map(len, self._unwritten))
        self.fault = f"the traffic cannot be written ({error}); {kept} bytes wait for room"
        if kept > KEPT:
            with self._lock:
                self._ended = self._lost = True
                self._pending.clear()
            self._unwritten.clear()
            self.fault = f"the traffic cannot be written ({error}): it ends there, and the run cannot be replayed"


def read_traffic(path: Path) -> Iterator[Entry]:
    """The entries of a file, oldest first; a block torn off at the end is left out.

    Raises
    ------
    TrafficError
        No traffic file, or a block that was changed after it was written.
    """
    known: dict[bytes, bytes] = {}
    for number, compressed in enumerate(_blocks(path)):
        try:
            entries = list(_entries(_decompressed(compressed), known))
        except (struct.error, LookupError, ValueError, TypeError, MemoryError, zstandard.ZstdError) as error:
            raise TrafficError(f"{path}: block {number} holds no traffic of this version ({error!r})") from error
        yield from entries


def _decompressed(block: bytes) -> bytes:
    """The content of a block; what it says of its size is looked at first, and bounded by what it takes on disk."""
    largest = min(_LARGEST_BLOCK, max(_BLOCK_SIZE, _PACKED * len(block)))
    size = zstandard.frame_content_size(block)
    if not 0 <= size <= largest:  # the library takes the bound for a mere hint where a size is given
        raise ValueError(f"it claims {size} bytes; {largest} at most are unpacked of {len(block)}")
    return zstandard.ZstdDecompressor().decompress(block, max_output_size=largest)


def _packed(when: float, session: int, kind: Kind, flags: int, payload: bytes) -> bytes:
    """An entry as it is stored."""
    if kind is Kind.MESSAGE and len(payload) >= _FOLD_FROM:
        from instruments.wire.traffic_coding import fold  # here: it loads numpy, and a broker shall be there at once

        folded = fold(payload)
        if folded is not None:
            payload, flags = folded, flags | _FOLDED
    return _ENTRY.pack(when, session, kind, flags, len(payload)) + payload


def _entries(block: bytes, known: dict[bytes, bytes]) -> Iterator[Entry]:
    from instruments.wire.traffic_coding import unfold

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
    """The blocks as they are stored, each seen to be whole."""
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
        while len(head := file.read(_SUMS.size + _SUM.size)) == _SUMS.size + _SUM.size:
            length, checksum = _SUMS.unpack_from(head)
            begins = file.tell() - len(head)
            if _SUM.unpack_from(head, _SUMS.size)[0] != zlib.crc32(head[: _SUMS.size]):
                raise TrafficError(_damaged(path, number, begins, file.tell()))
            block = file.read(length)
            if len(block) < length:
                return
            if zlib.crc32(block) != checksum:
                raise TrafficError(_damaged(path, number, begins, file.tell()))
            yield block
            number += 1


def _damaged(path: Path, number: int, begins: int, ends: int) -> str:
    return (
        f"{path}: block {number} (bytes {begins} to {ends}) is not what was written: the file was damaged or edited. "
        "Restore it from a backup; everything before that block is sound."
    )
