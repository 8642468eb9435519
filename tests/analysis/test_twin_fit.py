"""What is fitted for a twin, on made-up dies of known parameters; tests/flow/test_twin.py goes over the wire."""

import numpy as np
import pytest
import xarray as xr
import yaml

from analysis.record.record import Pulse, Record, RecordError
from analysis.twin.fit import TwinError, write_twin
from analysis.twin.junctions import Circuit, cell_resistance, junction_map, pulse_voltage, read_among_p, v_half_of
from analysis.twin.lot_file import NOT_TOLD, LotTree
from analysis.twin.pulse_trials import trials_of_die
from analysis.twin.read_noise import Reads, fit_read_noise
from analysis.twin.recorded_dies import RecordedDie
from analysis.twin.switching import Law, Trials, draw_critical, fit_switching
from mapping.dies.die_record import CellClass, DieRecord
from mapping.dies.geometry import ArrayGeometry
from sim_backends.array.circuit.line_drops import cell_voltages
from sim_backends.array.dies.lot import load_lot, lot_from_tree
from sim_backends.array.dies.mtj_die import Die

pytestmark = pytest.mark.slow

ASSUMED = Law(v_critical=0.75, spread=0.05, delta=45.0, tau0=1e-9, error_floor=1e-5)
WIDTH, V_READ = 200e-9, 0.1


def write_verify(law, *, cells, rounds, first, rng, step=0.036, attempts=8):
    """Trials of cells that are written again and again with rising pulses, and their true critical voltages."""
    critical = law.v_critical * (1 + law.spread * rng.standard_normal(cells))
    share = 1 + 0.02 * rng.standard_normal(cells)  # of the pulse that a junction gets: resistances scatter
    parts = []
    for _ in range(rounds):
        wrong = np.flatnonzero(rng.random(cells) < 0.5)
        for attempt in range(attempts):
            v = (first + attempt * step) * share[wrong]
            rate = WIDTH / law.tau0 * np.exp(-law.delta * (1 - v / critical[wrong]))
            switched = rng.random(wrong.size) < (1 - law.error_floor) * -np.expm1(-rate)
            parts.append(Trials(wrong, v, np.full(wrong.size, WIDTH), switched))
            wrong = wrong[~switched]
    return Trials.joined(parts), critical


@pytest.mark.parametrize(("v_critical", "spread", "rounds"), [(0.75, 0.05, 1), (0.75, 0.05, 3), (0.55, 0.08, 1)])
def test_critical_voltage_and_spread_are_recovered_within_their_errors(v_critical, spread, rounds):
    truth = Law(v_critical, spread, ASSUMED.delta, ASSUMED.tau0, ASSUMED.error_floor)
    trials, _ = write_verify(truth, cells=20_000, rounds=rounds, first=v_critical, rng=np.random.default_rng(11))
    (fit,) = fit_switching([trials], [ASSUMED])
    assert fit.pulses == trials.cell.size and fit.failed == trials.failed > 50
    assert 0 < fit.v_critical_error < 0.02 * v_critical and 0 < fit.spread_error < 0.2 * spread
    assert abs(fit.law.v_critical - v_critical) < 3 * fit.v_critical_error
    assert abs(fit.law.spread - spread) < 3 * fit.spread_error
    assert (fit.law.delta == ASSUMED.delta and fit.delta_error is None) or abs(fit.law.delta - 45) < 3 * fit.delta_error


def test_delta_is_fitted_where_the_same_cells_failed_and_switched_often_enough():
    truth = Law(0.75, 0.08, 65.0, 1e-9, 1e-5)
    trials, _ = write_verify(truth, cells=1500, rounds=6, first=0.72, rng=np.random.default_rng(4))
    (fit,) = fit_switching([trials], [ASSUMED])
    assert fit.delta_error is not None and abs(fit.law.delta - 65) < 3 * fit.delta_error < 10
    assert abs(fit.law.v_critical - 0.75) < 3 * fit.v_critical_error + 0.002


def test_without_failures_nothing_is_fitted_and_without_contradiction_nothing_is_moved():
    trials, _ = write_verify(ASSUMED, cells=3000, rounds=1, first=0.95, rng=np.random.default_rng(1))
    (fit,) = fit_switching([trials], [ASSUMED])
    assert trials.failed == 0 and fit.law == ASSUMED
    assert fit.agrees and fit.v_critical_error is None and fit.spread_error is None
    (nothing,) = fit_switching([Trials.joined([])], [ASSUMED])
    assert nothing.law == ASSUMED and nothing.pulses == 0


def test_an_assumed_critical_voltage_that_the_record_contradicts_gives_way():
    """All switch at pulses that would leave most cells of the assumed lot unswitched."""
    easy = Law(0.4, 0.05, 45.0, 1e-9, 1e-5)
    trials, _ = write_verify(easy, cells=3000, rounds=1, first=0.6, rng=np.random.default_rng(1))
    (fit,) = fit_switching([trials], [ASSUMED])
    assert not fit.agrees and 0.4 < fit.law.v_critical < 0.65


def test_each_cell_gets_a_critical_voltage_that_its_own_pulses_allow():
    trials, critical = write_verify(ASSUMED, cells=20_000, rounds=6, first=0.75, rng=np.random.default_rng(2))
    drawn = draw_critical(trials, 25_000, ASSUMED, np.random.default_rng(0))
    failed = np.unique(trials.cell[~trials.switched])
    assert np.corrcoef(drawn[failed], critical[failed])[0, 1] > 0.5
    assert drawn[failed].mean() == pytest.approx(critical[failed].mean(), rel=0.01)
    never = drawn[20_000:]
    assert never.mean() == pytest.approx(0.75, rel=0.005) and never.std() == pytest.approx(0.0375, rel=0.05)
    assert drawn[:20_000].std() == pytest.approx(critical.std(), rel=0.05)  # the lot keeps its spread


@pytest.fixture(scope="module")
def die():
    return Die.from_lot(load_lot("mtj"), 3, 0)


@pytest.fixture(scope="module")
def circuit(die):
    lines, devices = die.lot.lines, die.lot.devices
    return Circuit(devices.r_selector, devices.v_half, lines.r_row, lines.r_column, lines.r_contact)


def read(die, kernel, volts, antiparallel):
    die.put(antiparallel)
    return die.read(kernel, volts) / volts


def test_junctions_are_those_that_were_read(die, circuit):
    junctions = junction_map(read(die, 0, V_READ, False), read(die, 0, V_READ, True), V_READ, circuit)
    good = die.switchable[0]
    np.testing.assert_allclose(junctions.r_p[good], die.devices.r_p[0][good], rtol=1e-6)
    np.testing.assert_allclose(junctions.tmr[good], die.devices.tmr[0][good], rtol=1e-5)
    shorts = die.alive[0] & (die.kind[0] == 1)
    np.testing.assert_allclose(cell_resistance(read(die, 0, V_READ, True), V_READ, circuit)[shorts], 2100, rtol=1e-6)


@pytest.mark.parametrize("antiparallel", [False, True])
def test_voltage_under_a_pulse_is_that_of_the_simulated_array(die, circuit, antiparallel):
    junctions = junction_map(read(die, 0, V_READ, False), read(die, 0, V_READ, True), V_READ, circuit)
    current = read(die, 0, 1.0, antiparallel)
    lines = die.lot.lines
    expected = cell_voltages(current, 1.0, lines.r_row, lines.r_column, r_contact=lines.r_contact) - 2000 * current
    everything, good = np.ones((25, 25), bool), die.switchable[0]
    found = pulse_voltage(junctions, die.devices.antiparallel[0], 1.0, everything, circuit)
    np.testing.assert_allclose(found[good], expected[good], rtol=1e-4)
    few = np.zeros((25, 25), bool)
    few[3, 4] = True
    alone = pulse_voltage(junctions, die.devices.antiparallel[0], 1.0, few, circuit)
    assert alone[3, 4] > found[3, 4] and np.count_nonzero(alone) == 1


def test_a_cell_read_in_p_among_ap_is_known_as_it_reads_among_p(die, circuit):
    all_p, all_ap = read(die, 0, V_READ, False), read(die, 0, V_READ, True)
    apart = die.switchable[0] & (np.random.default_rng(1).random((25, 25)) < 0.02)
    die.devices.antiparallel[0] = np.where(die.switchable[0], ~apart, die.devices.antiparallel[0])
    mixed = np.where(apart, die.read(0, V_READ) / V_READ, all_p)
    assert np.max(np.abs(mixed / all_p - 1)[apart]) > 3e-3
    np.testing.assert_allclose(read_among_p(mixed, all_ap, apart, V_READ, circuit), all_p, rtol=2e-5, atol=1e-12)


def test_v_half_from_the_curvature_of_typical_cells(die):
    devices = die.lot.devices
    lines = {"r_row": 0, "r_column": 0, "r_contact": 0}
    tree = die.lot.model_dump(exclude_none=True) | {"lines": lines}
    tree["devices"] |= {"r_p_spread": 0, "tmr_spread": 0, "v_half": 0.35}
    plain = Die.from_lot(lot_from_tree(tree, "test"), 0, 0)
    good = plain.switchable[0]
    full, half = (np.median(read(plain, 0, volts, True)[good]) for volts in (V_READ, V_READ / 2))
    tmr_read = (1 / full - devices.r_selector) / devices.r_p - 1
    found = v_half_of((1 - half / full) / 0.75, devices.r_p, tmr_read, V_READ, devices.r_selector)
    assert found == pytest.approx(0.35, rel=1e-3)
    assert v_half_of(-0.01, 5e3, 1.0, V_READ, 2e3) is None
    assert v_half_of(float("nan"), 5e3, 1.0, V_READ, 2e3) is None


@pytest.mark.parametrize(("cell", "current"), [(0.003, 50e-9), (0.01, 20e-9), (0.0, 80e-9)])
def test_both_parts_of_the_noise_are_recovered(cell, current):
    rng, averages = np.random.default_rng(5), 4
    g = np.where(rng.random((32, 25, 25)) < 0.5, 143e-6, 77e-6) * np.exp(0.05 * rng.standard_normal((32, 25, 25)))
    g[:12, :, 3] = 0.0  # dead lines
    reads = []
    for number in range(4):
        if number == 2:
            g[5:20] = np.where(g[5:20] > 100e-6, g[5:20] / 1.8, g[5:20] * 1.8)  # these kernels were written
        sigma = np.sqrt(current**2 + (cell * g * V_READ) ** 2) / V_READ / np.sqrt(averages)
        reads.append(Reads(g + sigma * rng.standard_normal(g.shape), V_READ, averages))
    fit = fit_read_noise([reads])
    for level in (0.0, 7.7e-6, 14.3e-6):
        sigma, found = (np.hypot(floor, share * level) for floor, share in ((current, cell), (fit.current, fit.cell)))
        assert found == pytest.approx(sigma, rel=0.08)
    assert fit_read_noise([reads[:1]]) is None and fit_read_noise([]) is None


def test_a_lot_file_of_nothing_but_assumptions_is_the_built_in_lot():
    tree, built_in = LotTree(), load_lot("mtj")
    assert tree.number("devices.tmr") == pytest.approx(1.2) and tree.number("devices.r_p") == 5000.0
    lot = lot_from_tree(yaml.safe_load(tree.text()), "test")
    assert lot.model_dump(exclude={"sources"}) == built_in.model_dump(exclude={"sources"})
    assert set(lot.sources.values()) == {NOT_TOLD}
    tree.put("devices.r_p", 6000.0, "measured")
    assert tree.source("devices.r_p") == "measured" and tree.source("read_noise.cell") == NOT_TOLD


def test_what_no_twin_can_be_made_of_is_said(tmp_path):
    with pytest.raises(RecordError, match="no record"):
        write_twin(tmp_path / "nothing", tmp_path / "lot.yaml")
    with Record.open(tmp_path / "empty"):
        pass
    with pytest.raises(TwinError, match=r"no die .* was measured"):
        write_twin(tmp_path / "empty", tmp_path / "lot.yaml")
    with pytest.raises(TwinError, match=r"ends with \.yaml"):
        write_twin(tmp_path / "empty", tmp_path / "lot.npz")
    assert not (tmp_path / "lot.yaml").exists() and not (tmp_path / "lot.npz").exists()


SMALL = ArrayGeometry.tiled(rows=2, columns=3, blocks=1, block_rows=2, block_columns=3)
G_P, G_AP = 140e-6, 77e-6


class Ledger:
    """A record of pulses and reads on one small die whose cells are all good but the last."""

    def __init__(self, folder):
        self.record = Record.open(folder)
        self.run = self.record.begin_run("test", {})
        classes = np.zeros(SMALL.shape, np.uint8)
        classes[0, 1, 2] = CellClass.WEAK
        measured = DieRecord("c0r0", SMALL, np.full(SMALL.shape, G_P), np.full(SMALL.shape, G_AP), classes)
        nowhere = np.zeros(SMALL.shape, bool)
        self.die = RecordedDie("c0r0", (0, 0), measured, nowhere, nowhere)

    def batch(self, *pulses, reads=None, fired=True):
        """Commit pulses as (cells, amplitude); `reads` are the cells then in AP, None if nothing was read."""
        masks = [(np.isin(np.arange(6).reshape(2, 3), cells), amplitude) for cells, amplitude in pulses]
        batch = self.record.intend(self.run, "c0r0", [Pulse(0, mask, volts, WIDTH) for mask, volts in masks])
        if fired:
            self.record.fired(batch)
        else:
            self.record.settle(batch, None)
        if reads is not None:
            g = np.where(np.isin(np.arange(6).reshape(SMALL.shape), reads), G_AP, G_P)
            data = xr.Dataset({"g": (("kernel", "row", "column"), g)}, coords={"kernel": [0]})
            self.record.keep_readings(batch, data)

    def trials(self):
        """Cells and outcomes of the trials to AP and to P."""
        circuit = Circuit(2000.0, 0.5, 0.0, 0.0, 0.0)
        junctions = junction_map(self.die.record.g_p, self.die.record.g_ap, V_READ, circuit)
        found = trials_of_die(self.record, self.die, junctions, circuit, 100)
        self.record.close()
        return [list(zip((t.cell - 100).tolist(), t.switched.tolist(), strict=True)) for t in found]


def test_a_pulse_between_two_reads_is_a_trial_of_the_good_cells_in_the_other_state(tmp_path):
    ledger = Ledger(tmp_path)
    everything = range(6)
    ledger.batch((everything, -0.9), reads=[0])  # what they were before is not known
    ledger.batch((everything, 1.05), reads=[0, 1, 2, 5])  # 0 was in AP, 5 is weak, 3 and 4 failed
    ledger.batch(([3], 1.10), ([1], -0.9), reads=[0, 2, 3, 5])  # 4 was not pulsed
    assert ledger.trials() == [[(1, True), (2, True), (3, False), (3, True), (4, False)], [(1, True)]]


def test_pulses_of_which_nobody_knows_what_they_did_are_no_trials(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.batch((range(6), -0.9), reads=[])
    ledger.batch(([0], 1.05), reads=None)  # not read
    ledger.batch(([0], 1.10), reads=[0])  # so it is not known in which state this one found it
    ledger.batch(([1], 1.05), reads=[0, 1], fired=False)  # perhaps never fired
    ledger.batch(([2], 1.05), ([2], 1.10), reads=[0, 1, 2])  # either of two
    ledger.batch(([1], -0.9), reads=[0, 2])  # what was read is known again
    assert ledger.trials() == [[], [(1, True)]]
