"""The frames of docs/board_protocol.md: round trips, and damage that is always seen."""

import binascii
import struct
from contextlib import suppress

import pytest
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st

from instruments.board_protocol.frames import LARGEST_PAYLOAD, Frame, FrameError, Opcode, _crc, decode, encode

BYTE = st.integers(0, 255)


@given(seq=BYTE, opcode=BYTE, payload=st.binary(max_size=600), is_reply=st.booleans())
def test_a_frame_comes_back_as_it_went(seq, opcode, payload, is_reply):
    frame = Frame(seq, opcode, payload, is_reply)
    encoded = encode(frame)
    assert encoded.index(b"\0") == len(encoded) - 1
    assert decode(encoded[:-1]) == frame


@given(payload=st.binary(max_size=80), data=st.data())
def test_a_flipped_bit_never_passes(payload, data):
    encoded = bytearray(encode(Frame(7, Opcode.PULSE, payload)))[:-1]
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    if 0 in encoded:  # a zero ends the frame early: two pieces, neither of them valid
        for piece in bytes(encoded).split(b"\0"):
            with pytest.raises(FrameError):
                decode(piece)
    else:
        with pytest.raises(FrameError):
            decode(bytes(encoded))


@given(payload=st.binary(max_size=80), data=st.data())
def test_a_piece_of_a_frame_never_passes(payload, data):
    encoded = encode(Frame(7, Opcode.READ, payload))[:-1]
    end = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(FrameError):
        decode(encoded[:end])


@given(st.binary(max_size=40))
def test_noise_raises_nothing_else(noise):
    with suppress(FrameError):
        decode(noise)


def test_the_checksum_is_the_one_of_the_document():
    # CRC-16-CCITT, polynomial 0x1021, start 0xFFFF: check value 0x29B1 for "123456789" (catalogue of CRC parameters)
    assert _crc(b"123456789") == 0x29B1


def test_layout_of_a_frame():
    # version 1, seq 2, HEARTBEAT, request, 4 bytes: 1000 ms, then the CRC, all little-endian
    raw = cobs.decode(encode(Frame(2, Opcode.HEARTBEAT, (1000).to_bytes(4, "little")))[:-1])
    assert raw[:-2] == bytes([1, 2, 0x22, 0, 4, 0, 0xE8, 0x03, 0, 0])


def test_largest_payload():
    assert len(decode(encode(Frame(1, 1, bytes(LARGEST_PAYLOAD)))[:-1]).payload) == LARGEST_PAYLOAD
    with pytest.raises(ValueError, match="at most 65535"):
        encode(Frame(1, 1, bytes(LARGEST_PAYLOAD + 1)))


def test_another_version_is_refused():
    body = struct.pack("<BBBBH", 2, 1, 1, 0, 0)
    with pytest.raises(FrameError, match="version 2"):
        decode(cobs.encode(body + struct.pack("<H", binascii.crc_hqx(body, 0xFFFF))))
