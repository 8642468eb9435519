"""From a recorded run to a twin lot, and the twin measured and programmed over the wire as the real dies were."""

import numpy as np
import pytest
import yaml
from command_line import xbar
from in_process import serve_here
from safetensors.numpy import save_file

from analysis.record.record import Record
from analysis.twin.fit import write_twin
from analysis.twin.recorded_dies import kept_reads, on_die
from mapping.dies.die_record import CellClass, DieRecord
from mapping.writing.schedule import WriteSchedule
from sim_backends.array.dies.lot import load_lot
from sim_backends.array.dies.mtj_die import Die
from sim_backends.bench.bench import load_state, state_path

#: The first die of the route of this lot has dead lines; the board is noisier than boards are.
SEED, FIRST, SITE = 33, "c2r6", (2, 6)
CELL_NOISE = 0.01


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("twin")


@pytest.fixture(scope="module")
def schedules(home):
    """Two networks, mapped."""
    rng = np.random.default_rng(8)
    for name in ("one", "other"):
        weights = {
            f"fc{i}.weight": rng.choice(np.array([-1, 1], np.float32), s) for i, s in ((1, (40, 75)), (2, (10, 40)))
        }
        save_file(weights, str(home / f"{name}.safetensors"))
        done = xbar("map", home / f"{name}.safetensors", "-o", home / f"{name}.h5", "--copies", 2, "--copies", 2)
        assert done.status == 0, done.said
    return {name: home / f"{name}.h5" for name in ("one", "other")}


@pytest.fixture(scope="module")
def recorded(home, schedules):
    """A run on the first die of a station whose cells are noisy."""
    from instruments.station import write_station

    config = {"lot": "mtj", "seed": SEED, "state": home / "dies", "board": {"readout": {"cell_noise": CELL_NOISE}}}
    with serve_here(config) as process:
        station = write_station(home / "station.yaml", process.prober, process.board)
        done = xbar("program", schedules["one"], "--station", station, "--dies", 1, "--out", home / "recorded")
    assert done.status == 0, done.said
    return home / "recorded"


@pytest.fixture(scope="module")
def twin(home, recorded):
    return write_twin(recorded, home / "lot.yaml")


@pytest.fixture(scope="module")
def again(home, schedules, twin):
    """The same schedule, programmed onto the twin."""
    done = xbar("program", schedules["one"], "--lot", twin.lot, "--seed", 5, "--out", home / "again")
    assert done.status == 0, done.said
    return home / "again"


def record_of(folder):
    with Record.open(folder, create=False, write=False) as record:
        measured = DieRecord.from_dataset(record.latest_with(FIRST, "cell_class"))
        programmed = record.latest_with(FIRST, "pulses")
        batches = [on_die(data, measured.geometry.shape) for _, data in record.readings(FIRST)]
        return measured, programmed, batches, kept_reads(record, FIRST, measured.geometry.shape)


def test_the_twin_lot_is_one_die_at_its_site_and_says_where_values_come_from(twin, recorded):
    lot = load_lot(twin.lot)
    assert lot.wafer.sites() == [SITE] and lot.wafer.dies == 1
    assert lot.devices.v_half == pytest.approx(0.5, rel=0.05) and twin.v_half_fitted
    assert lot.devices.r_p == pytest.approx(5000, rel=0.01) and lot.devices.tmr == pytest.approx(1.2, rel=0.01)
    assert "does not tell" in lot.sources["devices.r_selector"]
    assert "pulses" in lot.sources["devices.switching.v_critical_to_ap"]
    said = str(twin)
    assert FIRST in said and "fitted from" in said and "3 line_faults" in said
    assert twin.dies[0].cells == record_of(recorded)[0].counts()
    assert yaml.safe_load(twin.lot.read_text(encoding="utf-8"))["measured"] == twin.measured.name


def test_critical_voltages_are_those_of_the_dies_that_were_recorded(twin):
    """To AP about 400 pulses of the measurement failed; to P hardly any, so nothing is fitted from them."""
    to_ap, to_p = twin.switching["to_ap"], twin.switching["to_p"]
    assert to_ap.failed > 100 and 0 < to_ap.v_critical_error < 0.01
    assert abs(to_ap.law.v_critical - 0.75) < 3 * to_ap.v_critical_error
    assert abs(to_ap.law.spread - 0.05) < 3 * to_ap.spread_error
    assert to_p.failed < 20 and to_p.v_critical_error is None and to_p.agrees and to_p.law.v_critical == 0.65


def test_the_twin_holds_what_the_die_was_left_with(home, twin, recorded):
    real = Die.from_lot(load_lot("mtj"), SEED, load_lot("mtj").wafer.sites().index(SITE))
    load_state(real, state_path(home / "dies", real.index))
    ours = Die.from_lot(load_lot(twin.lot), 5, 0)
    healthy = real.switchable & ours.switchable
    assert healthy.mean() > 0.98
    np.testing.assert_array_equal(ours.devices.antiparallel[healthy], real.devices.antiparallel[healthy])
    np.testing.assert_array_equal(ours.alive, real.alive)


def test_every_cell_of_the_twin_reads_as_recorded_within_the_noise_of_a_read(twin, again):
    """Of what is read of the twin only the noise is new; cells that failed a write are not in the state meant."""
    with np.load(twin.measured, allow_pickle=False) as file:
        g_p, g_ap = (file[name][0].astype(float) for name in ("g_p", "g_ap"))
    measured, _, batches, reads = record_of(again)
    middle, noise = (g_p + g_ap) / 2, twin.noise
    off = measured.cell_class == CellClass.DEAD_LINE
    for g, recorded, in_state in ((batches[0], g_p, batches[0] > middle), (batches[1], g_ap, batches[1] < middle)):
        cells = ~off & (in_state | (measured.cell_class != CellClass.GOOD))
        assert cells.mean() > 0.95
        expected = np.hypot(noise.current, noise.cell * recorded * 0.1) / 0.1 / np.sqrt(reads[0].averages)
        z = ((g - recorded) / expected)[cells]
        assert abs(np.median(z)) < 0.2 and np.mean(np.abs(z) > 5) < 1e-3
        assert 0.5 < np.std(np.clip(z, -5, 5)) < 1.1


def test_classes_are_the_same(recorded, again):
    first, second = record_of(recorded)[0], record_of(again)[0]
    assert np.mean(first.cell_class == second.cell_class) > 0.9995
    assert first.line_faults == second.line_faults and len(first.line_faults) == 3


def test_the_same_schedule_leaves_the_same_cells_wrong(recorded, again):
    wrong = [data["states"].values != data["wanted"].values for data in (record_of(f)[1] for f in (recorded, again))]
    assert np.count_nonzero(wrong[0]) > 20
    assert np.count_nonzero(wrong[0] ^ wrong[1]) <= 0.1 * np.count_nonzero(wrong[0])
    first, second = (record_of(folder)[1].attrs for folder in (recorded, again))
    assert second["pulses"] == pytest.approx(first["pulses"], rel=0.01)


def test_reads_of_the_twin_are_as_noisy_as_those_recorded(home, twin, again):
    """The noise is the lot's, though the station of the twin has a board of less."""
    assert twin.noise.cell == pytest.approx(CELL_NOISE, rel=0.05)
    of_twin = write_twin(again, home / "twin_of_twin.yaml")
    for current in (7.7e-6, 14.3e-6):
        recorded, found = (np.hypot(fit.current, fit.cell * current) for fit in (twin.noise, of_twin.noise))
        assert found == pytest.approx(recorded, rel=0.06)


def test_other_weights_go_onto_the_twin(home, schedules, twin, recorded):
    out = home / "else"
    done = xbar("program", schedules["other"], "--lot", twin.lot, "--out", out)
    assert done.status == 0, done.said
    _, programmed, *_ = record_of(out)
    states = WriteSchedule.load(schedules["other"]).states
    broken = np.isin(record_of(recorded)[0].cell_class, (1, 2, 3, 4, 6)) & (states >= 0)
    right = programmed["states"].values == states
    assert right[~broken].mean() > 0.9999 and (~right[broken]).mean() > 0.3


def test_the_same_record_gives_the_same_twin(home, twin, recorded):
    other = write_twin(recorded, home / "second" / "lot.yaml")
    assert other.lot.read_bytes() == twin.lot.read_bytes()
    assert other.measured.read_bytes() == twin.measured.read_bytes()
