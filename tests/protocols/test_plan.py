"""A plan against a real small run over sockets, and everything that a plan refuses."""

import json
from io import StringIO

import numpy as np
import pytest
import xarray as xr
import yaml
from in_process import stations_here
from rich.console import Console
from typer.testing import CliRunner

from analysis.record.record import Record
from instruments.board_protocol.caps import BoardCaps, capabilities
from instruments.roles.interfaces import ArrayTester, DieSite, LimitError, Prober
from instruments.station import write_station
from instruments.wire.traffic import Kind, read_traffic
from mapping.dies.geometry import MTJ_20K
from mapping.placement.placement import place
from mapping.writing.schedule import PulseSettings, StationTimes, build_schedule
from protocols.cli import app
from protocols.plan.counting_bench import CostingProber, CostingTester, Costs, Durations
from protocols.plan.plan import plan_protocol
from protocols.plan.station import BAUDRATE, DOCUMENTED, serial_link, wire_of
from protocols.plan.table import show_plan
from protocols.sequencer.open_station import traffic_file
from protocols.sequencer.run import protocol
from protocols.shipped.mtj_mnist import mtj_mnist
from protocols.shipped.program import program_lot
from protocols.source.catalogue import find, name_in_record
from sim_backends.array.dies.lot import BUILT_IN
from sim_backends.bench.clock import Timing

SCRIPT = """
import numpy as np
import xarray as xr

from mapping.dies.die_record import DieRecord
from mapping.placement.placement import place
from mapping.writing.schedule import build_schedule
from protocols.steps.characterise import check_contact, measure_states
from protocols.sequencer.run import protocol
from protocols.steps.write_verify import program


def think(report):
    return xr.Dataset(attrs={"weight": 1})


def multiply_some(bench, die):
    rng = np.random.default_rng(0)
    bench.array.load_vectors(0, rng.uniform(-0.1, 0.1, (50, 25)))
    current_range = bench.array.range_for(400e-6)
    out = np.stack([bench.array.multiply(k, 0, current_range=current_range, averages=2) for k in (0, 5)])
    return xr.Dataset({"i": (("kernel", "vector", "line"), out, {"units": "A"})})


@protocol
def two_passes(run, *, v_read: float = 0.1):
    found = {}
    for die in run.dies():
        run.step(check_contact, die)
        found[die] = DieRecord.from_dataset(run.step(measure_states, die, v_read=v_read))
    run.compute(think)
    geometry = next(iter(found.values())).geometry
    weights = [np.random.default_rng(1).choice(np.array([-1, 1], np.int8), (30, 40))]
    schedule = build_schedule(weights, place([(40, 30)], geometry))
    for die in run.dies():
        run.step(program, die, schedule=schedule, die_record=found[die])
        run.step(multiply_some, die)
"""
DIES = 2


def planned(function, parameters=None, *, name="test", station=None, dies=DIES, seed=0, like=None):
    return plan_protocol(function, name, parameters or {}, station=station, dies=dies, seed=seed, like=like)


# against a real run


@pytest.fixture(scope="module")
def perfect_lot(tmp_path_factory):
    """The lot that ships, without defects and without chance in writing; cells scatter as ever."""
    tree = yaml.safe_load((BUILT_IN / "mtj.yaml").read_text(encoding="utf-8"))
    tree["defects"] |= {"rate_median": 1e-12, "dead_rows": 0, "dead_columns": 0, "dead_gates": 0, "dead_rows_shared": 0}
    tree["devices"] |= {"v_breakdown_spread": 0}
    tree["devices"]["switching"] |= {"v_critical_spread": 0, "delta_spread": 0, "error_floor": 0}
    path = tmp_path_factory.mktemp("lot") / "perfect.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def real(perfect_lot, tmp_path_factory):
    """A real run of the script: its function and name, its folder, and what physically happened."""
    home = tmp_path_factory.mktemp("real")
    script, lot = home / "passes.py", home / "lot"
    script.write_text(SCRIPT, encoding="utf-8")
    name = f"{script}:two_passes"
    with stations_here():
        done = CliRunner().invoke(app, ["run", name, *map(str, ("--lot", perfect_lot, "--dies", DIES, "--out", lot))])
    assert done.exit_code == 0, done.output
    log = (lot / "station" / "physical.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in log]
    begin = next(i for i, entry in enumerate(entries) if entry["what"] == "start")
    return find(name), name_in_record(name), lot, entries[begin:]


@pytest.mark.slow
def test_a_plan_counts_what_a_real_run_does(real):
    function, name, folder, entries = real
    plan = planned(function, name=name)
    assert plan.refusals == ()

    def of(kind):
        return [entry for entry in entries if entry["what"] == kind]

    costs = plan.costs
    assert costs.moves == len(of("move")) and costs.contacts == len(of("contact"))
    assert costs.pulse_requests == len(of("pulse"))
    assert costs.pulses == sum(entry["cells"] * entry["count"] for entry in of("pulse"))
    assert costs.cells_read == sum(entry["cells"] for entry in of("read"))
    assert costs.vectors == sum(entry["vectors"] for entry in of("multiply"))
    with Record.open(folder, create=False) as record:
        dies = [f"c{c}r{r}" for c, r in record.latest_with("", "sites")["sites"].values[:DIES]]
        steps = [step.function.rpartition(".")[2] for die in dies for step in record.history(name, die)]
        took = record.events("time")[-1]["data"]["station_s"]
        dose = max(int(record.dose(die, MTJ_20K.shape).max()) for die in dies)
    assert {step.name: step.count for step in plan.steps} == {step: steps.count(step) for step in steps}
    assert plan.executed < len(steps), "a step of an equal die is not done again"
    assert plan.dose_max == dose
    assert plan.costs.station_time == pytest.approx(took, rel=0.25)
    size = sum(file.stat().st_size for file in folder.glob("record.sqlite*"))
    assert plan.record_bytes == pytest.approx(size, rel=0.3)
    wire = [e.payload for e in read_traffic(traffic_file(folder, 1)) if e.kind in (Kind.SEND, Kind.MESSAGE)]
    assert costs.board_bytes + costs.prober_bytes == pytest.approx(sum(map(len, wire)), rel=0.05)
    assert 2 * (costs.board_requests + costs.prober_requests) == pytest.approx(len(wire), rel=0.1)


@pytest.mark.slow
def test_a_plan_like_an_earlier_run_has_its_dies_and_limits(real):
    function, name, folder, _ = real
    like = planned(function, name=name, like=folder, dies=None)
    with Record.open(folder, create=False) as record:
        survey = record.latest_with("", "sites")
    assert like.dies == survey.sizes["die"] and str(folder) in like.source
    assert like.capabilities.v_max == survey.attrs["limits"]["v_max"]
    assert [name for name, _ in like.wire_times] == ["network"]  # the recorded station's board is on a socket


# the protocol that ships


@pytest.mark.slow
def test_the_plan_of_mtj_mnist_trains_nothing_and_measures_everything():
    plan = planned(mtj_mnist, {"images": 50, "epochs": 1}, name="mtj-mnist")
    assert plan.refusals == ()
    counts = {step.name: step.count for step in plan.steps}
    assert counts["check_contact"] == counts["measure_states"] == DIES
    assert counts["classify_images"] == 7 * DIES and counts["calibrate_on_die"] == 2 * DIES
    assert set(plan.stand_ins) == {
        "train_unaware", "train_die_aware", "train_statistics_aware", "emulate_moved", "sensitivity",
    }  # fmt: skip
    assert plan.costs.moves == plan.costs.contacts == 2 * DIES
    assert 0 < plan.dose_max < plan.dose_limit == PulseSettings().dose_limit
    text = StringIO()
    show_plan(Console(file=text, width=80), plan)
    for word in ("classify_images", "contacts", "station time", "disk", "nothing is against it"):
        assert word in text.getvalue()


def test_a_die_more_costs_what_a_die_costs():
    """Steps that are not done again are counted all the same."""

    @protocol
    def read_and_pulse(run):
        for die in run.dies():
            run.step(pulse_once, die, amplitude=1.05)
            run.step(pulse_once, die, amplitude=-0.9)

    one, seven = planned(read_and_pulse, dies=1), planned(read_and_pulse, dies=7)
    assert one.executed == seven.executed == 2
    assert seven.costs.pulses == 7 * one.costs.pulses > 0
    assert seven.costs.energy == pytest.approx(7 * one.costs.energy)
    assert (seven.dose_max, seven.energy_max) == (one.dose_max, pytest.approx(one.energy_max))
    g = 140e-6
    assert one.energy_max == pytest.approx((1.05**2 + 0.9**2) * g * 200e-9, rel=0.2)  # cells scatter


def pulse_once(bench, die, *, amplitude: float, width: float = 200e-9):
    bench.array.pulse(3, np.ones((25, 25), bool), amplitude, width)
    return xr.Dataset(attrs={"die": die.name})


def test_a_result_taken_over_from_an_equal_die_names_its_own_die():
    seen = []

    @protocol
    def look(run):
        seen.extend((die.name, run.step(pulse_once, die, amplitude=1.05).attrs["die"]) for die in run.dies())

    assert planned(look, dies=3).executed == 1
    assert [die for die, _ in seen] == [named for _, named in seen] and len(set(seen)) == 3


# what is refused


def one_refusal(plan):
    (refusal,) = plan.refusals
    assert not plan.possible
    return refusal


def test_a_pulse_beyond_the_limit_names_step_die_limit_and_way_out():
    @protocol
    def too_strong(run):
        for die in run.dies():
            run.step(pulse_once, die, amplitude=2.0)

    plan = planned(too_strong)
    refusal = one_refusal(plan)
    assert (refusal.step, refusal.die) == ("pulse_once", "c0r0")
    assert "2 V" in refusal.message and "v_max" in refusal.message and "choose a smaller" in refusal.message
    assert plan.costs.pulses == 0
    text = StringIO()
    show_plan(Console(file=text, width=80), plan)
    assert "pulse_once on c0r0" in text.getvalue() and "would not work" in text.getvalue()


def test_a_read_voltage_beyond_the_limit(tmp_path):
    refusal = one_refusal(planned(program_lot, a_schedule(tmp_path) | {"v_read": 0.5}, name="program"))
    assert (refusal.step, refusal.die) == ("program", "") and "0.3 V" in refusal.message and "v_read" in refusal.message


def test_a_network_that_does_not_fit():
    plan = planned(mtj_mnist, {"hidden": 2000, "images": 10}, name="mtj-mnist")
    assert "2000" in one_refusal(plan).message and plan.costs.moves == 0


def test_pulses_that_would_get_stuck_at_a_later_attempt(tmp_path):
    """The first attempt is allowed by the station's pulse_limit, the last is not; the costing bench needs only one."""
    station = write_station(tmp_path / "bench.yaml", "TCPIP::10.0.0.2::35555::SOCKET", "COM4")
    content = yaml.safe_load(station.read_text(encoding="utf-8"))
    content["instruments"]["array"]["init"] = {"pulse_limit": "1.1 V"}
    station.write_text(yaml.safe_dump(content), encoding="utf-8")

    @protocol
    def write(run):
        for die in run.dies():
            run.step(write_all, die, pulse=PulseSettings())

    assert planned(write).possible
    refusal = one_refusal(planned(write, station=station))
    assert "attempt 8" in refusal.message and "1.25 V" in refusal.message and "pulse_limit" in refusal.message


def write_all(bench, die, *, pulse: PulseSettings):
    bench.array.pulse(0, np.ones((25, 25), bool), pulse.amplitude_to_ap, pulse.width)
    return xr.Dataset()


def a_schedule(folder, **pulse):
    weights = [np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (20, 20))]
    path = folder / "net.h5"
    build_schedule(weights, place([(20, 20)], MTJ_20K), PulseSettings(**pulse)).save(path)
    return {"schedule": path}


def test_a_dose_limit_that_measuring_alone_uses_up(tmp_path):
    assert planned(program_lot, a_schedule(tmp_path), name="program").possible
    refusal = one_refusal(planned(program_lot, a_schedule(tmp_path, dose_limit=2), name="program"))
    assert (refusal.step, refusal.die) == ("program", "c0r0")
    assert "have had 2 pulses" in refusal.message and "Raise dose_limit" in refusal.message


def test_a_width_that_the_tester_cannot_do(tmp_path):
    plan = planned(program_lot, a_schedule(tmp_path, width=205e-9), name="program")
    assert "width_step" in one_refusal(plan).message


@pytest.mark.parametrize("array", ["socket://10.0.0.2:35555", "TCPIP0::10.0.0.2::35555::SOCKET"])
def test_two_instruments_on_one_wire(tmp_path, array):
    station = write_station(tmp_path / "bench.yaml", "TCPIP::10.0.0.2::35555::SOCKET", array)
    plan = planned(program_lot, a_schedule(tmp_path), name="program", station=station)
    refusal = one_refusal(plan)
    assert "instruments.prober and instruments.array" in refusal.message and "10.0.0.2:35555" in refusal.message
    assert plan.costs.moves > 0, "everything else is planned all the same"


def test_a_station_without_an_array(tmp_path):
    station = write_station(tmp_path / "bench.yaml", "TCPIP::10.0.0.2::35555::SOCKET", "COM4")
    content = yaml.safe_load(station.read_text(encoding="utf-8"))
    content["instruments"]["tester"] = content["instruments"].pop("array")
    station.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert "nothing is called array" in one_refusal(planned(lambda run: list(run.dies()), station=station)).message


@pytest.mark.parametrize(
    ("one", "other"),
    [("COM4", "ASRL4::INSTR"), ("/dev/ttyUSB0", "ASRL/dev/ttyUSB0::INSTR"), ("socket://H:5", "TCPIP0::h::5::SOCKET")],
)
def test_one_wire_has_many_spellings(one, other):
    assert wire_of(one) == wire_of(other) != wire_of("COM5")


def test_a_fault_of_the_script_is_no_refusal():
    def broken(bench, die):
        raise KeyError("typo")

    with pytest.raises(KeyError, match="typo"):
        planned(lambda run: [run.step(broken, die) for die in run.dies()])


# the instruments that count


@pytest.fixture
def costing():
    costs, durations = Costs(), Durations()
    prober = CostingProber([DieSite(0, 0), DieSite(1, 0)], costs, durations, "p")
    return prober, CostingTester(prober, capabilities(BoardCaps.model_validate(DOCUMENTED)), costs, durations, "t")


def test_they_fill_the_roles(costing):
    prober, tester = costing
    assert isinstance(prober, Prober) and isinstance(tester, ArrayTester)


def test_no_contact_no_current(costing):
    prober, tester = costing
    prober.goto_die(DieSite(0, 0))
    assert (tester.read(0, 0.1) == 0).all()
    prober.contact()
    assert (tester.read(0, 0.1) > 0).all()


def test_pulses_write_only_their_cells_and_dies_keep_their_states(costing):
    prober, tester = costing
    mask = np.zeros((25, 25), bool)
    mask[3, 4] = True
    prober.goto_die(DieSite(0, 0))
    prober.contact()
    for amplitude, state in ((1.05, "lower"), (-0.9, "higher"), (-0.3, "the same")):
        before = tester.read(2, 0.1)
        tester.pulse(2, mask, 1.05 if state == "higher" else -0.9, 200e-9)  # into the other state first
        other = tester.read(2, 0.1)
        tester.pulse(2, mask, amplitude, 200e-9)
        after = tester.read(2, 0.1)
        sign = {"lower": -1, "higher": 1, "the same": 0}[state]
        assert np.sign(after - other)[3, 4] == sign
        assert np.array_equal(after[~mask], before[~mask])
    dose = tester.cells(DieSite(0, 0)).dose
    assert dose[2, 3, 4] == 6 and dose.sum() == 6 and tester.cells(DieSite(1, 0)).dose.sum() == 0


def test_a_product_is_the_sum_of_the_cells_read_one_by_one(costing):
    prober, tester = costing
    prober.goto_die(DieSite(0, 0))
    prober.contact()
    g = tester.read(7, 0.1) / 0.1
    volts = np.linspace(-0.1, 0.1, 25)[None]
    tester.load_vectors(0, volts)
    rows = tester.multiply(7, 0, direction="backward", current_range=2)
    columns = tester.multiply(7, 0, direction="forward", current_range=2)
    assert rows[0] == pytest.approx(volts[0] @ g, abs=2e-6) and columns[0] == pytest.approx(g @ volts[0], abs=2e-6)


@pytest.mark.parametrize(
    "ask",
    [
        lambda tester, mask: tester.read(0, 0.31),
        lambda tester, mask: tester.read(32, 0.1),
        lambda tester, mask: tester.pulse(0, mask, 1.7, 200e-9),
        lambda tester, mask: tester.pulse(0, mask, 1.0, 205e-9),
        lambda tester, mask: tester.pulse(0, mask, 1.0, 200e-9, count=1001),
        lambda tester, mask: tester.pulse(0, mask[:5], 1.0, 200e-9),
        lambda tester, mask: tester.load_vectors(16, np.zeros((1, 25))),
        lambda tester, mask: tester.load_vectors(0, np.full((1, 25), 0.4)),
        lambda tester, mask: tester.multiply(0, 3),
    ],
)
def test_limits_are_those_of_the_drivers(costing, ask):
    with pytest.raises(LimitError):
        ask(costing[1], np.ones((25, 25), bool))


def test_map_plan_and_simulated_station_assume_the_same_durations():
    mapped, planned, simulated = StationTimes(), Durations(), Timing()
    assert mapped.exchange == serial_link(BAUDRATE).exchange
    assert (mapped.settling, mapped.conversion) == (planned.settling, planned.conversion)
    assert (planned.settling, planned.conversion) == (simulated.line_settling, simulated.sample)
    assert (planned.die_step, planned.approach, planned.retreat, planned.pulse_gap, planned.request) == (
        simulated.die_step, simulated.approach, simulated.retreat, simulated.pulse_gap, simulated.frame,
    )  # fmt: skip


@pytest.mark.slow
def test_instruments_that_are_not_ours_are_shown(tmp_path, xbar):
    """What they are, and how each is switched off; or that one cannot be in a station."""
    for type, status, says in (
        ("qcodes.instrument_drivers.Keithley.Keithley2450", 0, "at GPIB0::24::INSTR; switched off by :OUTP OFF, then"),
        ("qcodes.instrument_drivers.stanford_research.SR830", 1, "how a SR830 is switched off"),
        ("numpy.f2py.__main__.X", 1, "none of the packages whose drivers are imported"),
    ):
        (tmp_path / "lab.yaml").write_text(
            "instruments:\n"
            "  prober: {type: instruments.drivers.sentio.Sentio, address: 'TCPIP::127.0.0.1::1::SOCKET'}\n"
            "  array: {type: instruments.drivers.board.FramedBoard, address: 'socket://127.0.0.1:2'}\n"
            f"  meter: {{type: {type}, address: 'GPIB0::24::INSTR'}}\n"
        )
        done = xbar("plan", "mtj-mnist", "--station", tmp_path / "lab.yaml", "--dies", 1)
        assert done.status == status and says in " ".join(done.said.split()), done.said
