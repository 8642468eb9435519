"""Frames, opcodes and statuses of the array-board protocol, version 1 (docs/board_protocol.md), on the board's side."""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass
from enum import IntEnum

from cobs import cobs

VERSION = 1
REPLY = 1  # bit 0 of the flags
PAYLOAD_MAX = 0xFFFF
_HEADER = struct.Struct("<BBBBH")
_CRC = struct.Struct("<H")
ENCODED_MAX = (_HEADER.size + PAYLOAD_MAX + _CRC.size) * 255 // 254 + 2


class Opcode(IntEnum):
    """What a frame asks for."""

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
    """First byte of a reply."""

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


class DamagedFrameError(ValueError):
    """The bytes are no frame, or their checksum is wrong."""


@dataclass(frozen=True)
class Frame:
    """A decoded frame; `length_ok` tells whether the payload has the length that the header says."""

    version: int
    seq: int
    opcode: int
    flags: int
    payload: bytes
    length_ok: bool = True


def encode(frame: Frame) -> bytes:
    """Bytes on the wire, with the zero at the end."""
    header = _HEADER.pack(frame.version, frame.seq, frame.opcode, frame.flags, len(frame.payload))
    body = header + frame.payload
    return cobs.encode(body + _CRC.pack(binascii.crc_hqx(body, 0xFFFF))) + b"\0"


def decode(encoded: bytes) -> Frame:
    """Frame from the bytes between two zeros.

    Raises
    ------
    DamagedFrameError
        If the frame cannot be trusted.
    """
    try:
        raw = cobs.decode(encoded)
    except cobs.DecodeError as error:
        raise DamagedFrameError(f"COBS: {error}") from error
    if len(raw) < _HEADER.size + _CRC.size:
        raise DamagedFrameError(f"{len(raw)} bytes are no frame")
    body, (crc,) = raw[: -_CRC.size], _CRC.unpack(raw[-_CRC.size :])
    if binascii.crc_hqx(body, 0xFFFF) != crc:
        raise DamagedFrameError("checksum")
    version, seq, opcode, flags, length = _HEADER.unpack_from(body)
    payload = body[_HEADER.size :]
    return Frame(version, seq, opcode, flags, payload, length_ok=len(payload) == length)
