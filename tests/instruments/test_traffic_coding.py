"""Rearranging messages for the traffic file: every byte comes back, and codes of products become small."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruments.board_protocol.frames import END, Frame, Opcode, encode
from instruments.wire.traffic_coding import fold, unfold


def answer(codes):
    """An answer to MULTIPLY as it comes over the wire."""
    count, width = codes.shape
    payload = b"\0" + count.to_bytes(2, "little") + bytes([width]) + codes.astype("<u2").tobytes()
    return encode(Frame(7, Opcode.MULTIPLY, payload, is_reply=True)).removesuffix(END)


@given(st.integers(64, 300), st.integers(2, 32), st.integers(0, 2**32 - 1), st.sampled_from([2, 4096, 65536]))
def test_every_answer_comes_back(count, width, seed, largest):
    codes = np.random.default_rng(seed).integers(0, largest, (count, width))
    message = answer(codes)
    folded = fold(message)
    assert folded is not None and unfold(folded) == message


@given(st.binary(max_size=3000))
def test_what_is_no_answer_is_left_alone_or_comes_back(message):
    folded = fold(message)
    assert folded is None or unfold(folded) == message


@pytest.mark.parametrize("value", [0, 65535])
def test_saturated_codes_come_back(value):
    message = answer(np.full((100, 25), value))
    assert unfold(fold(message)) == message


def test_products_of_few_lines_become_small():
    rng = np.random.default_rng(0)
    inputs, conductances = rng.random((1000, 5)), rng.choice([1.0, 2.0], (5, 25))
    message = answer(2048 + 200 * inputs @ conductances + rng.normal(0, 8, (1000, 25)))
    assert len(zlib.compress(fold(message), 1)) < 0.75 * len(zlib.compress(message, 1))
