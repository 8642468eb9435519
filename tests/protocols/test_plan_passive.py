"""Plans of passive dies: counts against a real run over a rack's sockets, what bounds the current, what is refused."""

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import yaml
from in_process import stations_here
from rich.console import Console

from analysis.record.record import Record
from instruments.roles.interfaces import ArrayTester, CellSweeper
from instruments.station import write_rack_station, write_station
from instruments.wire.traffic import Kind, read_traffic
from mapping.dies.geometry import ArrayGeometry
from mapping.writing.analog_schedule import build_analog_schedule
from mapping.writing.conductance_targets import ConductanceTargets
from mapping.writing.converge import ARRAY
from mapping.writing.iv_sweep import IVSweep
from protocols.plan.counting_bench import CostingProber, Costs, Durations
from protocols.plan.counting_dies import PassiveDie
from protocols.plan.counting_rack import CostingRack
from protocols.plan.plan import plan_protocol
from protocols.plan.station import PlanSourceError, planned_station
from protocols.plan.table import show_plan
from protocols.sequencer.execute import execute
from protocols.sequencer.open_station import traffic_file
from protocols.sequencer.run import protocol
from protocols.sequencer.selection import RunSettings
from protocols.source.catalogue import find, lot_of
from protocols.steps.analog_write import write_analog

pytestmark = pytest.mark.slow

OUTPUTS = {"A": "smu.a", "B": "smu.b", "C": "pulser.1", "D": "pulser.2", "H": "ground"}


def plan_of(name, *, lot=None, dies=1, station=None, like=None, **parameters):
    where = {"station": station, "like": like, "dies": dies, "seed": 0, "lot": lot or lot_of(name)}
    return plan_protocol(find(name), name, parameters, **where)


def shown(plan):
    text = StringIO()
    show_plan(Console(file=text, width=200), plan)
    return text.getvalue()


def rack_file(path, **changes):
    addresses = {
        name: f"TCPIP::10.0.0.{at}::5025::SOCKET" for at, name in enumerate(("prober", "smu", "pulser", "matrix"))
    }
    rows, columns = ([f"{slot}{at:02d}" for at in range(1, 9)] for slot in (1, 2))
    return write_rack_station(path, addresses, outputs=OUTPUTS, rows=rows, columns=columns, **changes)


@pytest.fixture(scope="module")
def loops(tmp_path_factory):
    """A real run of two loops over a rack, in its lot folder."""
    out = tmp_path_factory.mktemp("plan") / "lot"
    how = {"cells": "1,1 2,5", "points": 40, "t_sweep": 0.4}
    where = {"out": out, "station": None, "lot": "tio2-8x8@rack", "settings": RunSettings(3, 1)}
    with stations_here():
        execute(find("iv-sweep"), "iv-sweep", how, **where, console=Console(quiet=True))
    return out


def test_a_plan_of_loops_counts_what_the_run_did(loops):
    plan = plan_of("iv-sweep", like=loops, cells="1,1 2,5", points=40, t_sweep=0.4)
    assert plan.possible, plan.refusals
    with Record.open(loops, create=False, write=False) as record:
        (die,) = record.dies()
        dose = record.dose(die, (1, 8, 8))
        took = record.events("time")[-1]["data"]["station_s"]
    sent = [each for each in read_traffic(traffic_file(loops, 1)) if each.kind is Kind.SEND]
    assert plan.costs.pulses == dose.sum() == 4 and plan.dose_max == dose.max() == 2
    assert {step.name: step.count for step in plan.steps} == {"check_contact": 1, "sweep_cell": 2}
    assert plan.costs.station_time == pytest.approx(took, rel=0.1)
    assert plan.costs.board_requests + plan.costs.prober_requests == pytest.approx(len(sent), rel=0.1)
    assert "survey of" in plan.source and plan.current_bound == pytest.approx(1.5 / 50)


@pytest.mark.parametrize(
    ("lot", "pulses", "seconds", "record", "traffic"),
    [("tio2-8x8@rack", 48_840, 5643, 43.5e6, 7.93e6), ("tio2-8x8", 40_046, 33.2, 35.0e6, 2.53e6)],
)
def test_moons_take_what_they_took(lot, pulses, seconds, record, traffic):
    """Against runs of eight simulated dies with seed 0, pulses of probing among them."""
    plan = plan_of("tio2-moons", lot=lot)
    assert plan.possible and not [text for text in plan.warnings if "fails" in text]
    assert plan.costs.pulses == pytest.approx(pulses / 8, rel=0.3)
    assert plan.costs.station_time == pytest.approx(seconds / 8, rel=0.2)
    assert plan.record_bytes == pytest.approx(record / 8, rel=0.2)
    assert plan.traffic_bytes == pytest.approx(traffic / 8, rel=0.3)
    assert plan.extremes.pulse_high <= 2.1 and plan.stand_ins.keys() >= {"train_networks", "plan_dies"}


def test_the_plan_says_what_a_pulse_can_drive(tmp_path):
    plan = plan_of("iv-sweep", station=rack_file(tmp_path / "rack.yaml"))
    assert plan.possible and plan.current_bound == pytest.approx(1.5 / 50)
    said = shown(plan)
    assert "pulse current" in said and "30 mA" in said and "no resistor is in its lines" in said
    soft = plan_of("iv-sweep", station=rack_file(tmp_path / "soft.yaml", series_resistance=950.0))
    assert soft.current_bound == pytest.approx(1.5e-3) and "no resistor" not in shown(soft)
    board = plan_of("grey-picture", lot="tio2-8x8", scheme="V/2")
    assert board.possible and board.current_bound is None and "pulse current" not in shown(board)


def test_a_board_takes_the_place_of_the_rack_that_was_assumed(tmp_path):
    file = write_station(tmp_path / "board.yaml", "TCPIP::10.0.0.1::35555::SOCKET", "COM3")
    content = yaml.safe_load(file.read_text())
    content["instruments"]["array"]["init"] = {"pulse_limit": "2.2 V"}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    plan = planned_station(file, None, "tio2-8x8@rack")
    assert plan.resistance is None and plan.capabilities.v_max == 2.2 and "V/3" in plan.capabilities.schemes


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"name": "tio2-moons", "scheme": "V/3"}, "bias scheme 'V/3': this station does not have it"),
        ({"name": "grey-picture", "lot": "mtj"}, "gates"),
        ({"name": "tio2-moons", "tolerance": 1e-4}, "tolerance"),
        ({"name": "iv-sweep", "v_set": 2.5}, "v_set of 2.5 V"),
        ({"name": "iv-sweep", "lot": "tio2-8x8"}, "takes no current-voltage curves"),
        ({"name": "forming"}, "v_cap of 10 V: this station fires 2.1 V at most"),
    ],
)
def test_what_would_be_refused_is_refused_in_the_plan(how, said):
    plan = plan_of(**how)
    assert not plan.possible and said in plan.refusals[0].message
    assert not plan.costs.pulses


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda array: array.update(columns=array["rows"]), "two lines on column 101"),
        (lambda array: array.update(pulse_limit="12 V"), "pulse_limit: '12 V' is 12 V, more than 10 V"),
        (lambda array: array.update(smu="smu2"), "there is no smu 'smu2'"),
        (lambda array: array.update(ground_row="A"), "row A is taken twice"),
    ],
)
def test_wirings_that_cannot_be_are_refused(tmp_path, change, said):
    file = rack_file(tmp_path / "rack.yaml")
    content = yaml.safe_load(file.read_text())
    change(content["instruments"]["array"]["init"])
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    plan = planned_station(file, None, "tio2-8x8@rack")
    assert said in plan.refusals[0]


def test_dies_that_a_plan_does_not_know():
    for lot in ("tio2-9x9", "mtj@rack"):
        with pytest.raises(PlanSourceError, match="a plan knows the dies mtj, tio2-8x8"):
            planned_station(None, None, lot)


@protocol
def write_again(run, *, times: int = 1, scheme: str = "V/2", cap: float = 2.1, limit: int = 500):
    """Writes a checkerboard and its inverse by turns, in two rows."""
    geometry = ArrayGeometry.from_dict(run.survey().attrs["geometry"])
    settings = replace(ARRAY, cap_set=min(ARRAY.cap_set, cap), cap_reset=-cap)
    for die in run.dies():
        for turn in range(times):
            g = np.where((np.indices((8, 8)).sum(axis=0) + turn) % 2, 150e-6, 450e-6)
            g[2:] = np.nan
            targets = ConductanceTargets.of(geometry, g, 0.02)
            schedule = build_analog_schedule(targets, settings, scheme=scheme, dose_limit=limit)
            run.step(write_analog, die, schedule=schedule)


def test_analog_schedules_are_checked_before_their_first_pulse():
    def planned(**parameters):
        where = {"station": None, "like": None, "dies": 2, "seed": 0, "lot": "tio2-8x8@rack"}
        return plan_protocol(write_again, "write_again", parameters, **where)

    fine = planned()
    assert fine.possible and fine.executed == 1  # the second die is like the first
    scheme = planned(scheme="V/3")
    assert scheme.refusals[0].step == "write_analog" and scheme.refusals[0].die
    assert "it has V/2, floating" in scheme.refusals[0].message and not scheme.costs.pulses
    assert "this station fires -2.1 to 2.1 V; lower it" in planned(cap=2.4).refusals[0].message
    spent = planned(times=2, limit=20).refusals
    assert "dose_limit is 20" in spent[0].message and spent[0].message.startswith("cell [")


def test_a_pulse_moves_the_cell_and_others_by_the_scheme():
    die = PassiveDie((1, 8, 8), 1.0)
    only = np.zeros((8, 8), bool)
    only[2, 3] = True
    for scheme, volts, touched in (("V/2", 1.4, 14), ("V/3", 1.4, 0), ("V/2", 0.9, 0)):
        cells = die.fresh()
        before = cells.state.copy()
        die.pulse(cells, 0, only, volts, 1e-6, 1, scheme)
        moved = cells.state[0] > before[0] * (1 + 1e-9)
        assert moved[2, 3] and cells.dose.sum() == 1 and cells.energy[0, 2, 3] > 0
        others = np.delete(moved.ravel(), 2 * 8 + 3)
        assert 0.5 * touched <= others.sum() <= touched
    assert np.all(cells.state <= 890e-6)


def test_it_fills_the_roles():
    caps = planned_station(None, None, "tio2-8x8@rack").capabilities
    costs = Costs()
    rack = CostingRack(CostingProber([], costs, Durations(), "p"), caps, costs, Durations(), "r")
    assert isinstance(rack, ArrayTester) and isinstance(rack, CellSweeper)
    before = costs.copy()
    rack.check_sweep(IVSweep().voltages(1.4), 1e-3, 0.04)
    assert costs == before
