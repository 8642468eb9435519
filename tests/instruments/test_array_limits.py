"""Laws of the limits, of the codes they give, and of the currents that codes give."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scripted_peers import CAPS

from instruments.board_protocol.calibration import Calibration
from instruments.board_protocol.caps import capabilities, parse_caps
from instruments.drivers.board import _bits, _chunks, _line_bits
from instruments.roles import limits
from instruments.roles.interfaces import LimitError

BOARD = capabilities(parse_caps(json.dumps(CAPS), "test"))


@given(st.floats(-0.3, 0.3))
def test_a_code_is_the_nearest_within_the_limit(voltage):
    applied = float(limits.applied_read_voltage(BOARD, voltage))
    assert abs(applied) <= BOARD.v_read_max + 1e-12
    assert abs(applied - voltage) <= (0.5 if abs(voltage) < 0.299 else 1.0) * BOARD.dac_lsb * (1 + 1e-9)


@given(st.floats(-1.65, 1.65), st.floats(0.1, 2.0))
def test_a_pulse_never_exceeds_a_narrower_limit(amplitude, allowed):
    narrow = capabilities(parse_caps(json.dumps(CAPS), "test"), allowed)
    if abs(amplitude) > narrow.v_max * (1 + 1e-8):
        with pytest.raises(LimitError):
            limits.pulse_code(narrow, amplitude)
    else:
        assume(abs(amplitude) <= narrow.v_max)
        assert abs(limits.pulse_code(narrow, amplitude) * BOARD.dac_lsb) <= narrow.v_max + 1e-12


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), 0.0])
def test_what_is_no_limit_narrows_nothing_in_silence(limit):
    with pytest.raises(LimitError, match="is no limit"):
        capabilities(parse_caps(json.dumps(CAPS), "test"), limit)


@given(st.integers(2, 100_000))
def test_a_width_on_the_grid_is_kept_to_the_nanosecond(steps):
    assert limits.pulse_width_ns(BOARD, steps * 10e-9) == 10 * steps


@given(st.integers(1, 18), st.integers(1, 18), st.data())
def test_bits_lie_where_the_document_says(rows, columns, data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)))
    packed = _bits(mask.reshape(rows, columns))
    assert len(packed) == -(-rows * columns // 8)
    for bit, chosen in enumerate(mask):
        assert bool(packed[bit // 8] >> bit % 8 & 1) == chosen


@given(st.sets(st.integers(0, 31), min_size=1))
def test_lines_of_a_word(lines):
    assert _line_bits(np.array(sorted(lines))) == sum(1 << line for line in lines)


@given(st.integers(0, 100), st.integers(1, 5000), st.integers(1, 1000))
def test_pieces_of_a_batch_join_without_gap(start, total, largest):
    pieces = list(_chunks(start, total, largest))
    assert [each for first, size in pieces for each in range(first, first + size)] == list(range(start, start + total))
    assert max(size for _, size in pieces) <= largest


@given(st.lists(st.integers(0, 4095), min_size=4, max_size=4), st.sampled_from([1e-8, -1e-8]))
def test_currents_follow_the_formula_and_saturate_by_sign(codes, gain):
    calibration = Calibration("c", np.full(6, gain), np.arange(6.0), 4095)
    channels = np.array([0, 2, 3, 5])
    currents = calibration.currents(np.array([codes], dtype=np.uint16), channels)[0]
    for code, channel, current in zip(codes, channels, currents, strict=True):
        if code in (0, 4095):
            assert current == (np.inf if (code > 0) == (gain > 0) else -np.inf)
        else:
            assert current == pytest.approx(gain * (code - float(channel)), rel=1e-9, abs=1e-18)


def test_lines_must_be_bool_and_some():
    with pytest.raises(LimitError, match="no line"):
        limits.check_lines("driven", np.zeros(4, bool), 4)
    with pytest.raises(LimitError, match="bool"):
        limits.check_lines("driven", np.ones(4), 4)
