"""Current-voltage curves of single cells over the rack's sockets: right, bounded, and safe in every end."""

import threading

import numpy as np
import pytest
from test_rack import opened

from instruments.drivers.rack_sweep import bias_of
from instruments.roles.interfaces import CellSweeper, InstrumentError, InterlockError, LimitError
from sim_backends.array.devices.tio2 import DEFAULT, V_READ

pytestmark = pytest.mark.slow

ROW, COLUMN = 2, 3
GENTLE = np.linspace(0.04, 0.4, 10)  # V; moves nothing
#: Lines of which one is spoiled: most go to the source measure unit.
EVERY = {"smu": 29, "pulser": 11, "matrix": 11}


@pytest.fixture
def rack(tmp_path):
    with opened(tmp_path, sweeps=True) as rack:
        yield rack


def law(g, volts):
    """Current (A) of a cell of the lot at a voltage (V)."""
    return g * V_READ * np.sinh(DEFAULT.beta * volts) / np.sinh(DEFAULT.beta * V_READ)


def sweep(rack, volts, compliance=1e-3, dwell=0.0, cell=(ROW, COLUMN)):
    return rack.array.sweep(0, *cell, volts, compliance=compliance, dwell=dwell)


def test_it_is_a_sweeper(rack):
    assert isinstance(rack.array, CellSweeper)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("cell", [(ROW, COLUMN), (7, 7)])
def test_a_curve_below_the_thresholds_is_that_of_the_cell_alone(rack, sign, cell):
    before = rack.die.devices.conductance.copy()
    curve = sweep(rack, sign * GENTLE, cell=cell)
    assert not curve.turned and abs(curve.leak_change) < 0.02
    for way in curve.current:
        np.testing.assert_allclose(way, law(before[cell], sign * GENTLE), rtol=0.05, atol=1e-6)
    assert np.array_equal(rack.die.devices.conductance, before)


def test_set_and_reset_move_the_cell_and_no_other(rack):
    before = rack.die.devices.conductance.copy()
    volts = np.linspace(0.02, 1.2, 60)  # a third of it is 5 standard deviations below the thresholds
    high = sweep(rack, volts, dwell=0.04)
    assert rack.die.devices.conductance[ROW, COLUMN] > 1.5 * before[ROW, COLUMN]
    assert high.turned and np.nanmax(high.current[0]) == pytest.approx(1e-3, rel=0.1)
    measured = np.isfinite(high.current)
    assert measured[0].any() and not measured[0].all() and not (measured[1] & ~measured[0]).any()
    np.testing.assert_allclose(
        high.current[1, 5:20], law(rack.die.devices.conductance[ROW, COLUMN], volts[5:20]), rtol=0.05
    )
    low = sweep(rack, -volts, compliance=5e-3, dwell=0.04)
    assert not low.turned and rack.die.devices.conductance[ROW, COLUMN] < 60e-6
    assert abs(low.current[1, 9]) < 0.2 * abs(low.current[0, 9])
    others = np.ones((8, 8), bool)
    others[ROW, COLUMN] = False
    assert np.array_equal(rack.die.devices.conductance[others], before[others])


def test_no_other_cell_sees_more_than_a_third(rack):
    """What every cell of the die really sees, at every dwell of the sweep."""
    seen, act = [], rack.die.pulse_terminals
    rack.die.pulse_terminals = lambda *a, **k: seen.append(act(*a, **k)) or seen[-1]
    sweep(rack, np.linspace(0.1, 1.2, 12), dwell=1e-3)
    top = max(seen, key=lambda each: each[ROW, COLUMN])
    assert top[ROW, COLUMN] > 0.8
    others = np.delete(top.ravel(), ROW * 8 + COLUMN)
    assert others.max() < 1.1 * top[ROW, COLUMN] / 3 and others.min() > 0.8 * top[ROW, COLUMN] / 3


def test_limits_are_the_compliance_and_what_the_row_carries(rack):
    g = rack.die.devices.conductance
    sweep(rack, np.linspace(0.05, 1.2, 24), compliance=0.4e-3)
    limit, level, in_force = 0.0, 0.0, []
    for each in rack.entries("smu"):
        level = each["level"] if each["channel"] == "smu.a" else level
        limit = each["limit"] if each["channel"] == "smu.b" else limit
        in_force += [limit] if level > 0.5 else []  # beyond a third of the top: the sweep itself
    row = np.delete(g[ROW], COLUMN).sum() * 1.2 / 3
    assert 0.4e-3 + row < max(in_force) < 0.4e-3 + 1.3 * row
    rack.array.check_limits()
    rack.array.read(0, 0.2, current_range=4)
    rack.array.check_limits()  # readings have their own limit again


@pytest.mark.parametrize(
    ("volts", "how", "said"),
    [
        (np.linspace(0.1, 1.7, 9), {}, "pulse_limit is 1.6 V: lower the voltage"),
        (GENTLE, {"compliance": 11e-3}, "at most sweep_limit, 0.01 A"),
        (GENTLE, {"compliance": 0.0}, "must be positive"),
        (GENTLE, {"compliance": float("nan")}, "must be positive"),
        (GENTLE, {"dwell": 60.0}, "it waits 10 s at most"),
        (GENTLE[::-1], {}, "rise in size"),
        (np.array([-0.1, 0.2]), {}, "one sign"),
        (np.array([0.1]), {}, "at least two numbers"),
        (np.array([0.1, np.nan]), {}, "at least two numbers"),
        (GENTLE, {"cell": (8, 0)}, r"no cell \[8, 0\]"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_driven(rack, volts, how, said):
    with pytest.raises(LimitError, match=said):
        sweep(rack, volts, **how)
    assert not [each for each in rack.entries("smu") if each["output"]]


def test_soft_lines_are_refused(tmp_path):
    with opened(tmp_path, series_resistance=5e3, sweeps=True) as rack:
        with pytest.raises(LimitError, match=r"cannot hold the other lines\. Take the resistor out"):
            sweep(rack, GENTLE)
        assert not rack.entries("dwell")


def test_a_stop_in_the_middle_leaves_all_off(rack):
    volts = np.linspace(0.001, 0.4, 2000)
    stop = threading.Timer(0.6, rack.array.safe)
    stop.start()
    with pytest.raises(InterlockError, match="was made safe"):
        sweep(rack, volts)
    stop.join()
    last = {each["channel"]: each for each in rack.entries("smu")}
    assert not last["smu.a"]["output"] and not last["smu.b"]["output"]
    assert rack.matrix.closed() == rack.array._grounded()


def test_an_instrument_that_fails_in_the_middle_leaves_all_off(rack, monkeypatch):
    hold, calls = rack.pulser.hold, []

    def failing(levels):
        calls.append(levels)
        if len(calls) == 20:
            raise InstrumentError("the generator has gone")
        hold(levels)

    monkeypatch.setattr(rack.pulser, "hold", failing)
    with pytest.raises(InstrumentError, match="has gone"):
        sweep(rack, np.linspace(0.01, 0.4, 60))
    last = {each["channel"]: each for each in rack.entries("smu")}
    assert not last["smu.a"]["output"] and last["smu.a"]["level"] == 0
    assert rack.entries("outputs")[-1]["mode"] != "driven"
    monkeypatch.undo()
    assert np.isfinite(rack.array.read(0, 0.2, current_range=4)).all()


@pytest.mark.parametrize("where", ["smu", "pulser", "matrix"])
@pytest.mark.parametrize("kind", ["lost_reply", "garbled_reply", "disconnect"])
def test_a_curve_gets_over_lost_lines(tmp_path, kind, where):
    """A step that is asked for again holds what it held."""
    with opened(tmp_path, faults=[{"kind": kind, "where": where, "every": EVERY[where]}], sweeps=True) as rack:
        before = rack.die.devices.conductance.copy()
        curve = sweep(rack, GENTLE)
        for way in curve.current:
            np.testing.assert_allclose(way, law(before[ROW, COLUMN], GENTLE), rtol=0.05, atol=1e-6)
        assert np.array_equal(rack.die.devices.conductance, before)


def test_levels_against_closed_forms():
    g = np.full((4, 5), 1e-3)
    bias = bias_of(g, 1, 2, 0.0)
    assert (bias.rows, bias.columns) == pytest.approx((2 / 3, 1 / 3))
    soft = bias_of(
        g, 1, 2, 50.0
    )  # others: 3 x 4 cells of 1 mS; into the rows (12 - 3) mS/3, out of the columns (12 - 4)
    assert soft.rows == pytest.approx(2 / 3 + 50 * 9e-3 / 3)
    assert soft.columns == pytest.approx(1 / 3 - 50 * 8e-3 / 3)
    g[3, 4] = np.inf
    with pytest.raises(LimitError, match=r"cell \[3, 4\] is a short"):
        bias_of(g, 1, 2, 50.0)
