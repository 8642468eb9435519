"""Failures of arrays: what they do to conductances, their rates, and the character of the five published maps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_backends.array.dies.failures import CAUSES, KINDS_PUBLISHED, FailureRates, Failures, ReadFloor, draw_failures
from sim_backends.array.dies.statistics import StuckCells

G = np.linspace(100e-6, 500e-6, 64).reshape(8, 8)
NEVER = FailureRates(
    stuck=StuckCells(rate_lrs=0.0, rate_hrs=0.0),
    cell_open=0.0,
    cell_short=0.0,
    row_open=0.0,
    column_open=0.0,
    row_lrs=0.0,
    row_hrs=0.0,
    row_short=0.0,
    rows_tied=0.0,
    alternating=0.0,
)
SEEDS = range(20)


def map_of(kind, seed):
    """Resistances (Ohm) that the published tester would show of an array of a kind."""
    rng = np.random.default_rng(seed)
    return ReadFloor().resistance(KINDS_PUBLISHED[kind].draw(rng).between_terminals(G), rng)


def cause(failures, name):
    return failures.cause == CAUSES.index(name)


def test_a_working_array_is_left_alone():
    failures = Failures.none((8, 8))
    np.testing.assert_array_equal(failures.between_terminals(G), G)
    np.testing.assert_array_equal(failures.cells(G), G)
    drawn = draw_failures(NEVER, (50, 8, 8), np.random.default_rng(1))
    np.testing.assert_array_equal(drawn.between_terminals(G), np.broadcast_to(G, (50, 8, 8)))


def test_a_break_cuts_off_what_lies_behind_it():
    failures = Failures.none((3, 4))
    failures.row_reach[1] = 2  # row 1 ends after its second cell, counted from the left
    failures.column_reach[3] = 1  # column 3 ends after its first cell, counted from the bottom
    expected = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(failures.cut_off, expected)
    g = np.full((3, 4), 1e-4)
    np.testing.assert_array_equal(failures.between_terminals(g) == 0, expected)
    np.testing.assert_array_equal(failures.cells(g), g)
    assert not failures.open_rows.any() and not failures.open_columns.any()


@given(st.integers(0, 4), st.integers(0, 5))
def test_cells_joined_are_those_within_reach(row_reach, column_reach):
    failures = Failures.none((5, 4))
    failures.row_reach[:] = row_reach
    failures.column_reach[:] = column_reach
    assert np.count_nonzero(~failures.cut_off) == row_reach * column_reach
    assert failures.open_rows.all() == (row_reach == 0)
    assert failures.open_columns.all() == (column_reach == 0)


def test_rows_shorted_to_each_other_read_their_sum():
    failures = Failures.none((8, 8))
    failures.row_net[6] = 2
    seen = failures.between_terminals(G)
    np.testing.assert_allclose(seen[[2, 6]], np.stack([G[2] + G[6]] * 2), rtol=1e-12)
    others = [0, 1, 3, 4, 5, 7]
    np.testing.assert_allclose(seen[others], G[others], rtol=1e-12)
    failures.row_reach[6] = 0
    assert not failures.between_terminals(G)[6].any()
    np.testing.assert_allclose(failures.between_terminals(G)[2], G[2], rtol=1e-12)


def test_fixed_cells_forget_what_was_written():
    failures = draw_failures(FailureRates(cell_open=0.1, cell_short=0.1), (200, 8, 8), np.random.default_rng(2))
    fixed = failures.cause != CAUSES.index("works")
    np.testing.assert_array_equal(fixed, ~np.isnan(failures.fixed))
    low, high = failures.cells(np.full((8, 8), 1e-4)), failures.cells(np.full((8, 8), 5e-4))
    np.testing.assert_array_equal(low[fixed], high[fixed])
    assert (low[~fixed] == 1e-4).all() and (high[~fixed] == 5e-4).all()
    assert (low[cause(failures, "open")] == 0).all()
    assert (low[cause(failures, "short")] == FailureRates().short).all()


def test_rates_are_kept():
    rates = replace(
        NEVER,
        stuck=StuckCells(rate_lrs=0.02, rate_hrs=0.01),
        cell_open=0.03,
        cell_short=0.04,
        row_open=0.05,
        column_open=0.1,
        rows_tied=0.3,
    )
    failures = draw_failures(rates, (20_000, 8, 8), np.random.default_rng(3))
    for name, rate in (("stuck_lrs", 0.02), ("stuck_hrs", 0.01), ("open", 0.03), ("short", 0.04)):
        assert cause(failures, name).mean() == pytest.approx(rate, rel=0.03)
    for reach, rate in ((failures.row_reach, 0.05), (failures.column_reach, 0.1)):
        assert (reach < 8).mean() == pytest.approx(rate, rel=0.03)
        assert (reach == 0).mean() == pytest.approx(rate * (0.5 + 0.5 / 8), rel=0.05)
    tied = np.array([len(set(nets)) < 8 for nets in failures.row_net[:5000]])
    assert tied.mean() == pytest.approx(0.3, rel=0.1)
    assert (np.sort(failures.row_net, axis=1)[:, 1:] == np.sort(failures.row_net, axis=1)[:, :-1]).sum(
        axis=1
    ).max() == 1


def test_isolated_stuck_cells_have_the_published_values():
    failures = draw_failures(replace(NEVER, stuck=StuckCells(0.1, 0.1)), (2000, 8, 8), np.random.default_rng(4))
    lrs, hrs = failures.fixed[cause(failures, "stuck_lrs")], failures.fixed[cause(failures, "stuck_hrs")]
    assert lrs.mean() == pytest.approx(573e-6, rel=0.01) and lrs.std() == pytest.approx(99e-6, rel=0.03)
    assert hrs.min() >= 10e-6 and hrs.max() <= 100e-6 and hrs.mean() == pytest.approx(55e-6, rel=0.02)


def test_rows_fail_as_a_whole():
    rates = replace(NEVER, row_lrs=0.2, row_hrs=0.1, row_short=0.15)
    failures = draw_failures(rates, (4000, 8, 8), np.random.default_rng(5))
    assert (failures.cause == failures.cause[..., :1]).all()
    for name, rate, ohm in (
        ("row_lrs", 0.2, rates.lrs_ohm),
        ("row_hrs", 0.1, rates.hrs_ohm),
        ("row_short", 0.15, rates.short_ohm),
    ):
        struck = cause(failures, name)[..., 0]
        assert struck.mean() == pytest.approx(rate, rel=0.05)
        typical = np.exp(-np.log(failures.fixed[struck]).mean(axis=1))
        assert 0.8 * ohm[0] < typical.min() < 1.3 * ohm[0] and 0.75 * ohm[1] < typical.max() < 1.2 * ohm[1]
    one_value = failures.fixed[cause(failures, "row_short")[..., 0]]
    scatter = np.log(one_value).var(axis=1, ddof=1).mean() ** 0.5
    assert scatter == pytest.approx(0.01, rel=0.05)


def test_rows_low_and_high_by_turns():
    failures = draw_failures(replace(NEVER, alternating=1.0), (40, 8, 8), np.random.default_rng(6))
    low = failures.fixed[..., 0] > 200e-6
    assert (low[:, 1:] != low[:, :-1]).all()
    assert 0 < low[:, 0].sum() < 40


@pytest.mark.parametrize("seed", SEEDS)
def test_open_lines_as_published(seed):
    """P464EC_HD: 22 of 64 cells above 0.5 MOhm, row 3 and columns 3 and 4; the others from 304 to 851 Ohm."""
    shown = map_of("open lines", seed)
    high = shown > 0.5e6
    assert high.sum() == 22 and high[3].all() and high[:, 3:5].all()
    assert shown[~high].min() > 200 and shown[~high].max() < 1400
    floor = np.array([2.62e6, 0.926e6, 0.5627e6])
    assert (np.abs(shown[high][:, None] / floor - 1).min(axis=1) < 0.01).all()


def test_read_floor_comes_up_as_often_as_published():
    """Of the 22 cells on open lines 3 read 2.6, 16 read 0.93 and 3 read 0.56 MOhm."""
    shown = ReadFloor().resistance(np.zeros(100_000), np.random.default_rng(7))
    share = [np.mean(np.abs(shown / floor - 1) < 0.01) for floor in (2.61e6, 0.926e6, 0.5626e6)]
    np.testing.assert_allclose(share, [3 / 22, 16 / 22, 3 / 22], atol=0.04)
    assert sum(share) > 0.995


def test_read_floor_does_not_touch_what_conducts():
    g = np.array([1 / 136.0, 500e-6, 100e-6])
    shown = ReadFloor(offset=0.0).resistance(np.broadcast_to(g, (1000, 3)), np.random.default_rng(8))
    np.testing.assert_allclose(shown.mean(axis=0), 1 / g, rtol=2e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_low_and_high_rows_as_published(seed):
    """P464EC_TD: rows 0, 3, 5, 7 from 0.63 to 1.8 kOhm, the others from 15.9 to 560 kOhm; 99 % of the variance of log R
    lies between rows, and no cell is in the window of 2 to 10 kOhm.
    """
    shown = map_of("low and high rows", seed)
    low = shown < 2.5e3
    np.testing.assert_array_equal(low.all(axis=1), [True, False, False, True, False, True, False, True])
    assert low.sum() == 32 and shown[low].min() > 400
    assert shown[~low].min() > 5e3 and shown[~low].max() < 1e6
    logarithm = np.log(shown)
    assert logarithm.mean(axis=1).var() / logarithm.var() > 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_of_one_value_as_published(seed):
    """P464EC_TG: row 5 is 6 kOhm with 1.1 % scatter; rows 0 and 6 are alike in every column, and so are 2, 3 and 4;
    row 7 is 23 to 33 kOhm; 48 cells are below 2 kOhm.
    """
    shown = map_of("rows of one value", seed)
    assert shown[5].std() / shown[5].mean() < 0.025 and shown[5].mean() == pytest.approx(5986, rel=0.05)
    np.testing.assert_allclose(shown[0], shown[6], rtol=0.02)
    np.testing.assert_allclose(shown[[3, 4]], shown[[2, 2]], rtol=0.02)
    assert np.median(shown[0]) == pytest.approx(1690, rel=0.15) and np.median(shown[2]) == pytest.approx(660, rel=0.2)
    assert shown[7].min() > 15e3 and shown[7].max() < 45e3
    assert (shown < 2e3).sum() == pytest.approx(48, abs=3)


def test_out_of_window_as_published():
    """P464ED_BG: 0.76 to 5.9 kOhm, 22 cells below 2 kOhm, 42 from 2 to 10 kOhm; nothing broken."""
    maps = np.array([map_of("out of window", seed) for seed in SEEDS])
    assert maps.min() > 500 and maps.max() < 9e3
    low = (maps < 2e3).sum(axis=(1, 2))
    assert low.mean() == pytest.approx(22, abs=5) and low.min() > 5


@pytest.mark.parametrize("seed", SEEDS)
def test_all_low_as_published(seed):
    """P464ED_HD: 136 to 724 Ohm everywhere; rows 1 and 3, the lowest, alike in every column."""
    shown = map_of("all low", seed)
    assert shown.min() > 60 and shown.max() < 1300
    np.testing.assert_allclose(shown[1], shown[3], rtol=0.01)
    assert np.argsort(np.median(shown, axis=1))[:2].tolist() in ([1, 3], [3, 1])


def test_rates_that_are_no_shares_are_refused():
    with pytest.raises(ValueError, match=r"row_open is a share .* not -0.1"):
        FailureRates(row_open=-0.1)
    with pytest.raises(ValueError, match=r"row_lrs \+ row_hrs \+ row_short is a share"):
        FailureRates(row_lrs=0.6, row_hrs=0.5)
