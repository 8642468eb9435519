"""Current-voltage loops: what is stepped through, what a curve tells, and cells by name."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapping.dies.array_cells import CellNameError, cells_of
from mapping.writing.iv_sweep import IVSweep, SweepError, switching_of


def test_the_laboratory_s_loop():
    loop = IVSweep()
    assert loop.halves == ((1.4, 1e-3), (-1.5, 10e-3))
    for peak, _ in loop.halves:
        volts = loop.voltages(peak)
        assert volts[-1] == peak and volts[0] != 0 and volts.size == 62
        np.testing.assert_allclose(np.diff(volts), volts[0])
    assert 4 * 62 * loop.dwell == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"v_set": -1.0}, "v_set -1 V"),
        ({"v_set": 0.1}, "above v_read"),
        ({"v_reset": 1.5}, "v_reset 1.5 V"),
        ({"i_set": 0.0}, "must be positive"),
        ({"points": 20}, "choose 40 to 4000"),
        ({"t_sweep": -1.0}, "not negative"),
    ],
)
def test_settings_that_make_no_sense(change, said):
    with pytest.raises(SweepError, match=said):
        IVSweep(**change)
    with pytest.raises(ValueError, match="finite"):
        IVSweep(**{next(iter(change)): math.nan} if "points" not in change else {"v_set": math.inf})


@given(
    v_switch=st.floats(0.4, 1.2),
    ratio=st.floats(1.5, 30),
    beta=st.floats(0.1, 3),
    sign=st.sampled_from([1, -1]),
    up=st.booleans(),
)
def test_an_abrupt_switch_is_found_whatever_the_law_of_conduction(v_switch, ratio, beta, sign, up):
    volts = np.linspace(0.02, 1.4, 70)
    law = np.sinh(beta * volts) / np.sinh(beta * 0.2) * 0.2
    low, high = (1e-4, ratio * 1e-4) if up else (ratio * 1e-4, 1e-4)
    current = sign * np.stack([law * np.where(volts < v_switch, low, high), law * high])
    found = switching_of(sign * volts, current, 0.2)
    assert found.switched and abs(found.v_switch - sign * v_switch) <= 0.021
    assert found.g_before == pytest.approx(low, rel=0.06) and found.g_after == pytest.approx(high, rel=0.06)
    assert found.i_max == pytest.approx(np.abs(current[0]).max())


def test_a_gradual_switch_is_where_half_of_the_change_has_happened():
    volts = np.linspace(0.02, 1.4, 70)
    g = 1e-4 * 9 ** np.clip((volts - 0.5) / 0.4, 0, 1)
    found = switching_of(volts, np.stack([g * volts, 9e-4 * volts]), 0.2)
    assert found.v_switch == pytest.approx(0.7, abs=1e-6)


def test_a_loop_that_turned_back_and_one_that_did_nothing():
    volts = np.linspace(0.02, 1.4, 70)
    there = np.where(volts < 0.6, 1e-4, 8e-4) * volts
    back = 8e-4 * volts
    there[volts > 1.0], back[volts > 1.0] = np.nan, np.nan
    found = switching_of(volts, np.stack([there, back]), 0.2)
    assert found.v_switch == pytest.approx(0.59, abs=0.021) and found.i_max == pytest.approx(8e-4, rel=0.02)
    still = switching_of(volts, 1e-3 * np.stack([volts, 1.02 * volts]), 0.2)
    assert not still.switched and math.isnan(still.v_switch)
    nothing = switching_of(volts, np.full((2, 70), np.nan), 0.2)
    assert not nothing.switched and math.isnan(nothing.i_max) and math.isnan(nothing.g_before)


def test_cells_by_name():
    assert cells_of("3,4 0,7", 8, 8) == [(3, 4), (0, 7)]
    assert cells_of("diagonal", 2, 3) == [(0, 0), (1, 1), (0, 2)]
    assert len(set(cells_of("all", 8, 8))) == 64
    for text, said in (
        ("8,0", "rows 0 to 7"),
        ("0,-1", "columns 0 to 7"),
        ("first", "give diagonal, all"),
        ("1,2,3", "give diagonal"),
        ("", "at least one cell"),
        ("1,1 1,1", "each of them once"),
    ):
        with pytest.raises(CellNameError, match=said):
            cells_of(text, 8, 8)
