"""Current-voltage loops over a rack's sockets: the command, its record and page, and what a cut leaves."""

import json

import numpy as np
import pytest
from command_line import xbar
from in_process import simulated_station

from analysis.record.record import Record
from analysis.record.step_names import SWEEP_CELL
from instruments.roles.interfaces import LinkError
from instruments.station import load_station
from mapping.writing.iv_sweep import IVSweep
from protocols.bench.analog_identity import last_known
from protocols.bench.bench import Bench, Die
from protocols.bench.ledgered_tester import SWEPT
from protocols.shipped.iv_sweep import sweep_cell

CELLS = [(1, 1), (2, 5)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("loops")
    how = ("--cells", "1,1 2,5", "--points", 100, "--t-sweep", "4s", "--v-reset=-1.2V")
    where = ("--dies", 1, "--seed", 3, "--out", home / "lot", "--json", home / "numbers.json")
    done = xbar("run", "iv-sweep", *how, *where)
    assert done.status == 0, done.said
    (home / "said").write_text(done.said, encoding="utf-8")
    return home


def test_the_loops_are_told(home):
    numbers = json.loads((home / "numbers.json").read_text(encoding="utf-8"))
    assert numbers["loops"] == 2 and numbers["set"]["switched"] == numbers["reset"]["switched"] == 2
    (loops,) = numbers["dies"].values()
    assert list(loops) == ["1,1", "2,5"]
    for loop in loops.values():  # the thresholds of the lot are 0.595 and -0.53 V, 5 % apart
        assert 0.5 < loop["set"]["v_switch"] < 0.75 and -0.7 < loop["reset"]["v_switch"] < -0.45
        assert loop["set"]["turned"] and 0.9e-3 < loop["set"]["i_max"] < 1.2e-3
        assert loop["set"]["g_after"] > 600e-6 > 100e-6 > loop["reset"]["g_after"]
        assert loop["moved"] == 0
    said = (home / "said").read_text(encoding="utf-8")
    assert "SET: 2 of 2 loops switched" in said
    page = (home / "lot" / "report.html").read_text(encoding="utf-8")
    assert "Current-voltage loops" in page and "turned back at the compliance" in page
    again = xbar("report", home / "lot")
    assert again.status == 0 and "RESET: 2 of 2 loops switched" in again.said


def test_each_half_is_an_intent_and_counts_as_dose(home):
    with Record.open(home / "lot", create=False, write=False) as record:
        (die,) = record.dies()
        halves = record.intents(die)
        dose = record.dose(die, (1, 8, 8))
    assert all(each.fired for each in halves) and {each.pulse.scheme for each in halves} == {SWEPT}
    assert [each.pulse.amplitude for each in halves] == [1.4, -1.2] * 2
    assert [each.pulse.width for each in halves] == [2.0] * 4
    expected = np.zeros((1, 8, 8), int)
    for cell in CELLS:
        expected[0][cell] = 2
    assert np.array_equal(dose, expected)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (("--lot", "tio2-8x8"), "takes no current-voltage curves"),
        (("--v-set", "3V"), "v_set of 3 V: this station puts out"),
        (("--cells", "9,1"), "rows 0 to 7"),
        (("--points", "3"), "choose 40 to 4000"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_moves(tmp_path, how, said):
    done = xbar("run", "iv-sweep", "--dies", 1, "--out", tmp_path / "lot", *how)
    assert done.status != 0 and said in " ".join(done.said.split())
    if (tmp_path / "lot").exists():
        with Record.open(tmp_path / "lot", create=False, write=False) as record:
            assert not record.dies()


def test_a_loop_that_was_cut_counts_and_is_taken_anew(tmp_path, monkeypatch):
    settings = IVSweep(points=40, t_sweep=0.4, v_reset=-1.2)
    with (
        simulated_station("tio2-8x8", 3, tmp_path, rack=True) as file,
        load_station(file) as station,
        Record.open(tmp_path / "lot") as record,
    ):
        bench = Bench(station.prober, station.array, record, record.begin_run("test", {}))
        site = bench.prober.die_sites()[0]
        die = Die(str(site), site, 0)
        bench.enter(die)
        whole = station.components["smu"].hold_voltage
        calls = []

        def cut(*arguments, **how):
            calls.append(arguments)
            if len(calls) == 8:
                raise LinkError("the connection is gone")
            return whole(*arguments, **how)

        monkeypatch.setattr(station.components["smu"], "hold_voltage", cut)
        with pytest.raises(LinkError, match="is gone"):
            sweep_cell(bench, die, row=3, column=3, settings=settings)
        monkeypatch.undo()
        (batch,) = record.unfired(die.name)
        assert batch.actions is None
        bench.leave()
        bench.enter(die)
        assert not record.unfired(die.name) and bench.array.dose()[0, 3, 3] == 1
        found = sweep_cell(bench, die, row=3, column=3, settings=settings)
        assert found.attrs["verdict"] == "pass" and bench.array.dose()[0, 3, 3] == 3
        bench.leave()


def test_a_die_is_known_again_by_what_it_held_after_its_loops(home):
    with Record.open(home / "lot", create=False, write=False) as record:
        (die,) = record.dies()
        held = last_known(record, die)
        last = record.results("iv-sweep", SWEEP_CELL)[die][-1]
    assert np.array_equal(held, last["g_swept"].values) and np.array_equal(held, last["g"].values[-1])


def test_forming_from_the_command_line(tmp_path):
    """The simulated devices are formed, so nothing is fired; what the station cannot do is refused."""
    where = ("--dies", 1, "--seed", 3, "--out", tmp_path / "lot")
    refused = xbar("run", "forming", *where)
    assert refused.status != 0 and "v_cap of 10 V: this station fires 2.1 V at most" in " ".join(refused.said.split())
    done = xbar("run", "forming", "--v-start", "1.2V", "--v-cap", "2V", "--cells", "0,0 3,4", *where)
    assert done.status == 0, done.said
    with Record.open(tmp_path / "lot", create=False, write=False) as record:
        ((found,),) = record.results("forming", "form").values()
    assert found.attrs["formed"] == 2 and found.attrs["pulses"] == 0 and int((found["outcome"].values > 0).sum()) == 2
