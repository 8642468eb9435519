"""Whether the die under the needles is the one that the record means, judged before a pulse is fired."""

from contextlib import contextmanager

import numpy as np
import pytest
from happened import happened, of_kind
from in_process import simulated_station

from analysis.record.record import Record
from instruments.station import load_station
from mapping.dies.die_record import DieRecord
from mapping.placement.placement import place
from mapping.writing.schedule import build_schedule
from protocols.bench.bench import Bench, Die, WrongDieError
from protocols.bench.conductances import read_conductances
from protocols.bench.mtj_identity import SAME_DIE, fingerprint, scatter_likeness
from protocols.steps.characterise import measure_states
from protocols.steps.write_verify import program


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("identity")


@contextmanager
def _bench_at(folder, seed, record):
    with simulated_station("mtj", seed, folder) as file, load_station(file) as station:
        bench = Bench(station.prober, station.array, record, record.begin_run("test", {}))
        yield bench
        bench.leave()


def _first(bench):
    site = bench.prober.die_sites()[0]
    return Die(str(site), site, 0)


def _measure(bench, die):
    """Measure a die into the record, as a run does."""
    bench.enter(die)
    data, array = measure_states(bench, die), bench.array
    array._record.append_step(array._run, "test", die.name, "measure", "", "", {}, 0.0, data)
    return DieRecord.from_dataset(data)


def test_a_die_of_another_lot_is_refused_before_a_pulse(home):
    """The lot of another seed is on the chuck under the same record. (Before the fixtures: one station at a time.)"""
    with Record.open(home / "other") as record:
        with _bench_at(home / "one", 1, record) as bench:
            die = _first(bench)
            _measure(bench, die)
        with _bench_at(home / "two", 2, record) as bench:
            with pytest.raises(WrongDieError, match="Nothing was fired"):
                bench.enter(die)
            assert bench.die is None
    entries = happened(home / "two" / "station" / "physical.jsonl")
    assert of_kind(entries, "pulse") == [] and len(of_kind(entries, "contact")) == 1
    assert of_kind(entries, "contact", "separation")[-1]["what"] == "separation"


@pytest.fixture(scope="module")
def bench(home):
    """A bench at a lot, with a record of its own."""
    with Record.open(home / "lot") as record, _bench_at(home / "one", 1, record) as bench:
        yield bench


@pytest.fixture(scope="module")
def die(bench):
    return _first(bench)


@pytest.fixture(scope="module")
def measured(bench, die):
    """What the record holds of the first die."""
    return _measure(bench, die)


def test_the_die_is_known_again_whatever_is_programmed_on_it(bench, die, measured):
    rng = np.random.default_rng(3)
    placement = place([(100, 80), (80, 10)], measured.geometry)
    weights = [rng.choice(np.array([-1, 1], np.int8), (n_out, n_in)) for n_in, n_out in placement.shapes]
    outcome = program(bench, die, schedule=build_schedule(weights, placement, die=measured), die_record=measured)
    assert outcome.attrs["changed"] > 5000
    bench.leave()
    bench.enter(die)
    assert bench.die == die


def test_a_shifted_map_is_refused_before_a_pulse(home, bench, die, measured):
    """The prober's origin is one die off: it goes to a neighbour and calls it by the name of the first."""
    bench.leave()
    log = home / "one" / "station" / "physical.jsonl"
    before = len(happened(log))
    neighbour = bench.prober.die_sites()[1]
    with pytest.raises(WrongDieError, match=f"the die at {die.name} is not the one"):
        bench.enter(Die(die.name, neighbour, 0))
    new = happened(log)[before:]
    assert of_kind(new, "pulse") == []
    assert new[-1]["what"] == "separation" or of_kind(new, "separation")
    bench.enter(die)  # and the right one is still right


def test_a_first_visit_needs_no_fingerprint(home, bench, measured):
    site = bench.prober.die_sites()[2]
    bench.enter(Die(str(site), site, 2))
    assert bench.contact_check.passed


def _now(measured, bench, die):
    """Fresh reads of the kernels that carry the fingerprint, and what is known of them."""
    known = fingerprint(measured)
    bench.enter(die)
    kernels = [int(kernel) for kernel in known["fingerprint_kernel"].values]
    reads = read_conductances(bench.array, known.attrs["fingerprint_v_read"], kernels=kernels)[kernels]
    return reads, known["fingerprint_g_p"].values, known["fingerprint_g_ap"].values


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("columns", lambda g: g[:, :, ::-1]),
        ("rows", lambda g: g[:, ::-1]),
        ("turned by 180 degrees", lambda g: g[:, ::-1, ::-1]),
        ("kernels", lambda g: g[::-1]),
        ("rows for columns", lambda g: g.transpose(0, 2, 1)),
        ("shifted by one row", lambda g: np.roll(g, 1, axis=1)),
    ],
)
def test_a_mirrored_map_does_not_look_alike(bench, die, measured, name, wrong):
    now, g_p, g_ap = _now(measured, bench, die)
    assert scatter_likeness(now, g_p, g_ap) > 0.9
    assert abs(scatter_likeness(wrong(now), g_p, g_ap)) < 0.2 < SAME_DIE


def test_a_die_that_does_not_conduct_has_no_likeness(measured, bench, die):
    now, g_p, g_ap = _now(measured, bench, die)
    air = np.random.default_rng(0).normal(0.0, 1e-7, now.shape)
    assert abs(scatter_likeness(air, g_p, g_ap)) < 0.2
    assert scatter_likeness(np.full(now.shape, np.nan), g_p, g_ap) == 0.0


def test_repeated_reads_differ_and_their_mean_narrows_as_the_root_of_their_number(bench, die, measured):
    bench.enter(die)
    v_read, groups, size = 0.1, 6, 16
    good = measured.cell_class[0] == 0
    reads = np.stack([bench.array.read(0, v_read) for _ in range(groups * size)])[:, good] / v_read
    single = np.sqrt(reads.var(axis=0, ddof=1).mean())
    of_sixteen = np.sqrt(reads.reshape(groups, size, -1).mean(axis=1).var(axis=0, ddof=1).mean())
    assert (reads.std(axis=0) > 0).all() and 1e-3 < single / reads.mean() < 3e-2
    assert single / of_sixteen == pytest.approx(np.sqrt(size), rel=0.1)
    averaged = np.stack([bench.array.read(0, v_read, averages=size) for _ in range(groups)])[:, good] / v_read
    by_the_board = np.sqrt(averaged.var(axis=0, ddof=1).mean())
    assert single / by_the_board == pytest.approx(np.sqrt(size), rel=0.1)
