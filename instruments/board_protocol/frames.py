"""Frames of the array-board protocol (docs/board_protocol.md): COBS around a header, a payload and a CRC."""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass
from enum import IntEnum

from cobs import cobs

VERSION = 1
LARGEST_PAYLOAD = 0xFFFF
END = b"\0"

_HEADER = struct.Struct("<BBBBH")
_CRC = struct.Struct("<H")
_REPLY = 0x01


class Opcode(IntEnum):
    """What a frame asks for, or answers."""

    NONE = 0x00
    IDN = 0x01
    CAPS = 0x02
    CAL_READ = 0x03
    LOAD_VECTORS = 0x10
    READ = 0x11
    PULSE = 0x12
    PULSE_READ = 0x13
    MULTIPLY = 0x14
    IDLE = 0x20
    ESTOP = 0x21
    HEARTBEAT = 0x22
    RESET = 0x23
    LAST_ACTION = 0x24
    LIMITS = 0x25


class Status(IntEnum):
    """First byte of a reply's payload."""

    OK = 0
    BAD_CRC = 1
    BAD_ARG = 2
    BUSY = 3
    OVER_RANGE = 4
    INTERLOCK = 5
    WATCHDOG = 6
    NOT_CALIBRATED = 7
    UNKNOWN_OPCODE = 8
    BAD_VERSION = 9


class FrameError(ValueError):
    """Bytes that are no valid frame: damaged, cut short or of another version."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes
    ----------
    seq
        1..255, chosen by the host; 0 in a reply to a request too damaged to tell.
    opcode
        Number of the operation (`Opcode` where it is a known one).
    payload
        At most `LARGEST_PAYLOAD` bytes; of a reply, the first one is the status.
    is_reply
        Whether the board sent it.
    """

    seq: int
    opcode: int
    payload: bytes = b""
    is_reply: bool = False


def encode(frame: Frame) -> bytes:
    """Bytes of a frame as they go on the wire, the closing zero included.

    Raises
    ------
    ValueError
        A field does not fit.
    """
    if len(frame.payload) > LARGEST_PAYLOAD:
        raise ValueError(f"a frame carries at most {LARGEST_PAYLOAD} bytes, not {len(frame.payload)}")
    if not 0 <= frame.seq <= 0xFF or not 0 <= frame.opcode <= 0xFF:
        raise ValueError(f"seq {frame.seq} and opcode {frame.opcode} must fit in one byte each")
    flags = _REPLY if frame.is_reply else 0
    body = _HEADER.pack(VERSION, frame.seq, frame.opcode, flags, len(frame.payload)) + frame.payload
    return cobs.encode(body + _CRC.pack(_crc(body))) + END


def decode(encoded: bytes) -> Frame:
    """Frame from the bytes before its closing zero.

    Raises
    ------
    FrameError
        The bytes were damaged; the message says how that was seen.
    """
    try:
        raw = cobs.decode(encoded)
    except cobs.DecodeError as error:
        raise FrameError(f"no COBS frame: {error}") from error
    if len(raw) < _HEADER.size + _CRC.size:
        raise FrameError(f"only {len(raw)} bytes, too short for a frame")
    body = raw[: -_CRC.size]
    if _CRC.unpack_from(raw, len(body))[0] != _crc(body):
        raise FrameError(f"checksum wrong in a frame of {len(raw)} bytes")
    version, seq, opcode, flags, length = _HEADER.unpack_from(body)
    if version != VERSION:
        raise FrameError(f"protocol version {version}; this host speaks version {VERSION}")
    if length != len(body) - _HEADER.size:
        raise FrameError(f"header promises {length} bytes of payload, {len(body) - _HEADER.size} came")
    return Frame(seq, opcode, body[_HEADER.size :], bool(flags & _REPLY))


def _crc(body: bytes) -> int:
    """CRC-16-CCITT, polynomial 0x1021, start 0xFFFF, not reflected."""
    return binascii.crc_hqx(body, 0xFFFF)
