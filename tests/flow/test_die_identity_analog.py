"""Whether a passive die under the needles is the one that the record means, judged before a pulse is fired."""

import numpy as np
import pytest
from happened import happened, of_kind
from in_process import simulated_station

from analysis.record.record import Record
from instruments.station import load_station
from mapping.dies.analog_die import AnalogDie
from mapping.writing.analog_schedule import build_analog_schedule
from mapping.writing.conductance_targets import ConductanceTargets
from mapping.writing.converge import ARRAY
from protocols.bench.analog_identity import SAME_DIE, last_known, likeness
from protocols.bench.bench import Bench, Die, WrongDieError
from protocols.steps.analog_write import write_analog
from protocols.steps.characterise_analog import measure_analog


class PowerCutError(BaseException):
    """The program ends here; no refusal of the tester, after which its count would be asked at once."""


def _do(bench, die, function, **inputs):
    """A step into the record, as a run does it."""
    data, array = function(bench, die, **inputs), bench.array
    array._record.append_step(array._run, "test", die.name, function.__name__, "", "", {}, 0.0, data)
    return data


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A die that was measured and written until a cut in a pulse; then another lot on the chuck, then its own."""
    home = tmp_path_factory.mktemp("identity_analog")
    with Record.open(home / "lot") as record:
        with simulated_station("tio2-8x8", 3, home / "one") as file, load_station(file) as station:
            bench = Bench(station.prober, station.array, record, record.begin_run("test", {}))
            site = station.prober.die_sites()[0]
            die = Die(str(site), site, 0)
            bench.enter(die)
            found = AnalogDie.from_dataset(_do(bench, die, measure_analog, settings=ARRAY))
            rng = np.random.default_rng(5)
            targets = ConductanceTargets.of(found.geometry, rng.uniform(100e-6, 500e-6, (1, 8, 8)))
            pulse, left = station.array.pulse, iter(range(900))

            def cut(*arguments, **how):
                if next(left, None) is None:
                    raise PowerCutError  # the intent is in the record, and nobody knows what became of it
                return pulse(*arguments, **how)

            station.array.pulse = cut
            with pytest.raises(PowerCutError):
                write_analog(bench, die, schedule=build_analog_schedule(targets, ARRAY, die=found), found=found)
            bench.leave()
        assert len(record.unfired(die.name)) == 1
        with simulated_station("tio2-8x8", 4, home / "two") as file, load_station(file) as station:
            bench = Bench(station.prober, station.array, record, record.begin_run("test", {}))
            with pytest.raises(WrongDieError, match="Nothing was fired") as error:
                bench.enter(die)
            assert bench.die is None and len(record.unfired(die.name)) == 1, "no foreign die settles what was cut"
        with simulated_station("tio2-8x8", 3, home / "one") as file, load_station(file) as station:
            bench = Bench(station.prober, station.array, record, record.begin_run("test", {}))
            expected = last_known(record, die.name)
            bench.enter(die)  # the right die, half written: nobody complains
            assert not record.unfired(die.name)
            now = np.stack([bench._read(0)])
            shares = [likeness(now, expected), likeness(now, found.g)]
            bench.leave()
    return home, shares, str(error.value)


def test_a_die_that_was_cut_in_the_middle_is_known_again_by_its_last_readings(home):
    _, (by_readings, by_step), _ = home
    assert by_readings > 0.85
    assert by_step < by_readings - 0.2, "by the newest step alone it would be nearly a stranger"


def test_a_die_of_another_lot_is_refused_before_a_pulse(home):
    folder, _, said = home
    assert "wrong wafer" in said
    entries = happened(folder / "two" / "station" / "physical.jsonl")
    assert of_kind(entries, "pulse") == [] and len(of_kind(entries, "contact")) == 1
    assert of_kind(entries, "contact", "separation")[-1]["what"] == "separation"


def test_dies_are_told_apart():
    """64 cells anywhere in the window: 2,000 pairs of dies, and dies that were pushed down by up to a half."""
    rng = np.random.default_rng(1)
    one, two = rng.uniform(100e-6, 500e-6, (2, 2000, 1, 8, 8))
    others = np.array([likeness(a, b) for a, b in zip(one, two, strict=True)])
    pushed = one * rng.uniform(0.55, 1.05, one.shape)
    same = np.array([likeness(a, b) for a, b in zip(pushed, one, strict=True)])
    assert others.max() < SAME_DIE < same.min()
    assert others.std() == pytest.approx(1 / 8, rel=0.1)


def test_what_tells_nothing_is_not_taken_for_a_proof():
    rng = np.random.default_rng(2)
    known = np.full((1, 8, 8), 1e-9)
    known[0, 0] = 300e-6
    assert likeness(np.full((1, 8, 8), 300e-6), known) is None
    alike = 300e-6 * rng.normal(1, 0.01, (1, 8, 8))
    assert likeness(alike, alike) is None
    assert likeness(np.full((1, 8, 8), np.inf), rng.uniform(100e-6, 500e-6, (1, 8, 8))) == pytest.approx(0, abs=1e-9)
