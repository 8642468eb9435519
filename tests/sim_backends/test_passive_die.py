"""A passive die by its terminals and as testers use it, against arrays that are solved on their own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_backends.array.circuit.bias import SCHEMES
from sim_backends.array.circuit.passive_array import PassiveArray
from sim_backends.array.devices.interface import DeviceLimitError
from sim_backends.array.devices.tio2 import TiO2Devices
from sim_backends.array.dies.failures import CAUSES
from sim_backends.array.dies.passive_die import PassiveDie
from sim_backends.array.dies.streams import stream
from sim_backends.array.solver.network import Drive, Lines, solve

WIDTH = 1.04e-6
NOISE = 5  # purpose of the stream of pulses and reads


def twin_of(die):
    """The same cells as an array of its own, in which rows are above columns where the die has it the other way."""
    devices, kind = die.devices.tio2, die.devices.tio2.parameters
    copy = TiO2Devices(
        devices.g,
        kind,
        devices.set_threshold_factor,
        devices.reset_threshold_factor,
        devices.set_rate_factor,
        devices.reset_rate_factor,
    )
    lines = die.lot.lines
    return PassiveArray(copy, Lines(lines.r_row, lines.r_column, lines.r_contact), tolerance=1e-10)


def cell(die, row, column):
    mask = np.zeros(die.devices.shape, dtype=bool)
    mask[row, column] = True
    return mask


@pytest.fixture
def die(sound_lot):
    return PassiveDie.from_lot(sound_lot, 3, 0)


def test_the_same_die_for_ever(tio2_lot):
    first, again, other = (PassiveDie.from_lot(tio2_lot, 7, index) for index in (4, 4, 5))
    np.testing.assert_array_equal(first.devices.conductance, again.devices.conductance)
    assert first.noise(0).random() == again.noise(0).random() != other.noise(0).random()
    assert first.noise(0).random() != first.noise(0).random()
    assert not np.array_equal(first.devices.conductance, other.devices.conductance)


@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("amplitude", [1.6, -1.8])
def test_a_pulse_moves_every_cell_as_the_network_says(die, scheme, amplitude):
    """Selected, half-selected and all other cells, to the precision of the solvers."""
    twin, mask = twin_of(die), cell(die, 2, 5)
    before, operation = die.devices.conductance, die.operations
    fired = die.pulse(0, mask, amplitude, WIDTH, 3, die.noise(0), scheme)
    rng = stream(3, 0, NOISE, 0, operation)
    seen = [twin.pulse(mask.any(axis=1), mask.any(axis=0), amplitude, WIDTH, rng, SCHEMES[scheme]) for _ in range(3)]
    np.testing.assert_allclose(die.devices.conductance, twin.devices.g, rtol=1e-5)
    others = max(np.abs(np.where(mask, 0.0, one.v_cell)).max() for one in seen)
    assert fired.v_other == pytest.approx(others, rel=1e-5)
    assert (fired.scheme, fired.times) == (scheme, 1)
    moved = np.abs(die.devices.conductance - before) > 1e-9
    assert moved[2, 5]
    assert np.sign(die.devices.conductance[2, 5] - before[2, 5]) == np.sign(amplitude), "positive is SET"
    if scheme == "V/2":
        assert moved[2].any() and moved[:, 5].any()
        off_lines = np.ones(mask.shape, dtype=bool)
        off_lines[2], off_lines[:, 5] = False, False
        assert not moved[off_lines].any(), "cells off the lines see too little"


def test_a_rectangle_is_fired_at_once_and_anything_else_by_sets_of_rows(die):
    twin, operation = twin_of(die), die.operations
    rows, columns = np.isin(np.arange(8), (1, 4)), np.isin(np.arange(8), (0, 3, 6))
    assert die.pulse(0, np.outer(rows, columns), 1.2, WIDTH, 1, die.noise(0), "V/2").times == 1
    twin.pulse(rows, columns, 1.2, WIDTH, stream(3, 0, NOISE, 0, operation))
    np.testing.assert_allclose(die.devices.conductance, twin.devices.g, rtol=1e-5)
    odd = cell(die, 0, 0) | cell(die, 5, 0) | cell(die, 0, 1) | cell(die, 5, 1) | cell(die, 2, 7)
    assert die.pulse(0, odd, 1.2, WIDTH, 1, die.noise(0), "V/2").times == 2
    assert die.pulse(0, odd & ~odd, 1.2, WIDTH, 1, die.noise(0), "V/2").times == 0


def test_reads_are_those_of_the_network_and_close_to_the_cells(die):
    v, g = 0.2, die.devices.conductance
    lines = die.lot.lines
    exact = solve(
        die.devices.tio2, left=0.0, bottom=v * np.eye(8), lines=Lines(lines.r_row, lines.r_column, lines.r_contact),
        method="direct",
    ).i_left  # fmt: skip
    np.testing.assert_allclose(die.read(0, v), -exact.T, rtol=1e-6)
    np.testing.assert_allclose(die.read(0, v) / v, g, rtol=0.06)
    assert (die.read(0, v) < v * g).all(), "lines take their part"
    some = np.isin(np.arange(8), (2, 3))
    part = die.read(0, v, some)
    np.testing.assert_allclose(part[:, some], die.read(0, v)[:, some], rtol=1e-6)
    assert not part[:, ~some].any()
    before = die.devices.conductance
    die.read(0, -0.3)
    np.testing.assert_array_equal(die.devices.conductance, before, "a read does nothing")


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 100), forward=st.booleans())
def test_products_are_those_of_the_network(sound_lot, seed, forward):
    die = PassiveDie.from_lot(sound_lot, seed, 0)
    vectors = np.random.default_rng(seed).uniform(-0.2, 0.2, (70, 8))
    product = die.product(0, "forward" if forward else "backward", np.ones(8, dtype=bool), 0.2)
    currents = product.currents(vectors)
    lines, side = Lines(die.lot.lines.r_row, die.lot.lines.r_column, die.lot.lines.r_contact), vectors[:, :]
    if forward:
        exact = -solve(die.devices.tio2, left=0.0, bottom=side, lines=lines, method="direct").i_left
    else:
        exact = solve(die.devices.tio2, left=side, bottom=0.0, lines=lines, method="direct").i_bottom
    np.testing.assert_allclose(currents, exact, atol=1e-6 * np.abs(exact).max())
    g = die.devices.conductance
    ideal = vectors @ (g.T if forward else g)
    np.testing.assert_allclose(currents, ideal, atol=0.08 * np.abs(ideal).max())
    noise = product.cell_noise(vectors, 0.0)
    one = np.sqrt(
        np.square(vectors) @ np.square((g * die.devices.read_noise()).T if forward else g * die.devices.read_noise())
    )
    np.testing.assert_allclose(noise, one)


def test_terminals_with_floating_lines_and_series_resistance(die):
    lines = Lines(die.lot.lines.r_row, die.lot.lines.r_column, die.lot.lines.r_contact)
    rng = np.random.default_rng(1)
    v_row, v_column = rng.uniform(-0.3, 0.3, (3, 8)), rng.uniform(-0.3, 0.3, (3, 8))
    v_row[0, 2:], v_column[1, :4] = np.nan, np.nan
    i_row, i_column = die.terminal_currents(v_row, Drive(v_column, 1e3))
    exact = solve(die.devices.tio2, left=v_row, bottom=Drive(v_column, 1e3), lines=lines, method="direct")
    np.testing.assert_allclose(i_row, exact.i_left, atol=1e-10)
    np.testing.assert_allclose(i_column, -exact.i_bottom, atol=1e-10)
    np.testing.assert_allclose(i_row.sum(axis=1) + i_column.sum(axis=1), 0.0, atol=1e-10)
    nothing = die.terminal_currents(np.full((2, 8), np.nan), np.full(8, np.nan))
    assert [part.shape for part in nothing] == [(2, 8), (2, 8)] and not np.any(nothing)
    assert not die.pulse_terminals(np.nan, np.nan, WIDTH, die.noise(0)).any()


def test_a_pulse_beyond_a_cap_breaks_the_cell_for_ever_and_only_that(die):
    mask = cell(die, 3, 3)
    over = np.full((8, 8), 0.0)
    over[3, 3] = -2.3  # row minus column: SET of 2.3 V
    with pytest.raises(DeviceLimitError, match="row 3, column 3"):
        die.devices.check(over, WIDTH)
    die.pulse(0, mask, 2.05, WIDTH, 1, die.noise(0), "V/2")
    assert not die.devices.broken.any()
    die.pulse(0, mask, 2.4, WIDTH, 2, die.noise(0), "V/3")
    np.testing.assert_array_equal(die.devices.broken, mask)
    short = die.lot.devices.short
    assert die.devices.conductance[3, 3] == short
    assert die.read(0, 0.2)[3, 3] / 0.2 == pytest.approx(short, rel=0.4), "as far as the lines let it"
    die.pulse(0, mask, -1.5, WIDTH, 1, die.noise(0), "V/2")
    assert die.devices.conductance[3, 3] == short


def test_noise_of_a_cell_is_the_law_of_the_device_and_that_of_the_board(die):
    g = die.devices.conductance
    np.testing.assert_allclose(die.cell_noise(0, 0.0), 1.672e-7 / g + 6.645e-4)
    np.testing.assert_allclose(die.cell_noise(0, 0.01), np.hypot(1.672e-7 / g + 6.645e-4, 0.01))


def test_defects_come_as_often_as_the_lot_says(vary_tio2, tio2_lot):
    lot = vary_tio2(tio2_lot, defects={"stuck_lrs": 0.05, "stuck_hrs": 0.1, "cell_open": 0.02, "cell_short": 0.03})
    dies = [PassiveDie.from_lot(lot, 1, index) for index in range(200)]
    causes = np.stack([die.failures.cause for die in dies])
    shares = np.bincount(causes.ravel(), minlength=len(CAUSES)) / causes.size
    for cause, share in (("stuck_lrs", 0.05), ("stuck_hrs", 0.1), ("open", 0.02), ("short", 0.03)):
        assert shares[CAUSES.index(cause)] == pytest.approx(share, rel=0.15)
    g = np.stack([die.devices.conductance for die in dies])
    lrs, hrs = g[causes == CAUSES.index("stuck_lrs")], g[causes == CAUSES.index("stuck_hrs")]
    assert np.mean(lrs) == pytest.approx(573e-6, rel=0.03) and np.std(lrs) == pytest.approx(99e-6, rel=0.1)
    assert hrs.min() >= 10e-6 and hrs.max() <= 100e-6 and np.mean(hrs) == pytest.approx(55e-6, rel=0.05)


def test_stuck_cells_stay_whatever_is_written_and_others_move(vary_tio2, sound_lot):
    lot = vary_tio2(sound_lot, defects={"stuck_lrs": 0.2, "stuck_hrs": 0.2, "cell_open": 0.1})
    die = PassiveDie.from_lot(lot, 2, 0)
    stuck, before = ~np.isnan(die.failures.fixed), die.devices.conductance
    assert 10 < stuck.sum() < 54
    for _ in range(3):
        die.pulse(0, np.ones((8, 8), dtype=bool), 1.8, WIDTH, 1, die.noise(0), "V/2")
    after = die.devices.conductance
    np.testing.assert_array_equal(after[stuck], before[stuck])
    assert (after[~stuck] > before[~stuck]).all()
    opens = die.failures.cause == CAUSES.index("open")
    assert (np.abs(die.read(0, 0.2)[opens]) < 1e-7).all(), "but for what sneaks through the lines"


def test_state_goes_away_and_comes_back(tio2_lot):
    die, fresh = (PassiveDie.from_lot(tio2_lot, 7, 3) for _ in range(2))
    die.pulse(0, cell(die, 0, 7), 2.3, WIDTH, 1, die.noise(0), "V/3")
    die.pulse(0, cell(die, 6, 7), 1.5, WIDTH, 1, die.noise(0), "V/2")
    fresh.restore(PassiveDie.checked_state(tio2_lot, die.state()))
    np.testing.assert_array_equal(fresh.devices.conductance, die.devices.conductance)
    np.testing.assert_array_equal(fresh.devices.broken, die.devices.broken)
    assert die.devices.broken.any() and fresh.operations == die.operations == 2
    np.testing.assert_array_equal(fresh.read(0, 0.2), die.read(0, 0.2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("g", np.full((8, 8), np.nan)),
        ("g", np.full((8, 8), 1.0)),
        ("g", np.full((8, 7), 1e-4)),
        ("g", np.full((8, 8), 1e-4, dtype=np.float32)),
        ("broken", np.zeros((8, 8), dtype=np.uint8)),
        ("operations", np.array(-1)),
    ],
)
def test_a_state_that_is_none_is_refused(tio2_lot, name, value):
    die = PassiveDie.from_lot(tio2_lot, 7, 3)
    with pytest.raises(ValueError, match=r"conductance|cells"):
        PassiveDie.checked_state(tio2_lot, {**die.state(), name: value})


def test_truth_tells_what_is_there(vary_tio2, sound_lot):
    lot = vary_tio2(sound_lot, defects={"row_open": 0.3, "column_open": 0.3})
    die = next(
        die
        for index in range(36)
        if (die := PassiveDie.from_lot(lot, 5, index)).failures.open_rows.any()
        and (die.failures.cut_off & ~die.failures.open_rows[:, None] & ~die.failures.open_columns).any()
    )
    truth, failures = die.truth(), die.failures
    assert {name: values.shape for name, values in truth.items()} == {
        **dict.fromkeys(("g", "g_read", "kind", "broken", "alive"), (1, 8, 8)), "row_net": (1, 8),
    }  # fmt: skip
    np.testing.assert_array_equal(truth["alive"][0], ~(failures.open_rows[:, None] | failures.open_columns))
    behind = failures.cut_off & truth["alive"][0]
    assert (truth["kind"][0][behind] == CAUSES.index("open")).all()
    np.testing.assert_allclose(truth["g_read"][0], die.read(0, 0.2) / 0.2)
    assert np.median(np.abs(truth["g_read"][0][failures.cut_off])) < 1e-6, "only what sneaks is read behind a break"
    dead = np.any([line.mask for line in die.dead_lines], axis=0)
    np.testing.assert_array_equal(dead, ~truth["alive"])
