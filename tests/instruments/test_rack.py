"""The rack's drivers against its stand-ins: routes, compliance, pulses that are never fired twice, rest and safety."""

import json
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from instruments.drivers.keithley_707 import check_route
from instruments.roles.interfaces import (
    CompliancePolicyError,
    InstrumentError,
    InterlockError,
    LimitError,
    PulseNotFiredError,
    RouteError,
    UnknownOutcomeError,
)
from instruments.station import load_station, write_rack_station
from sim_backends.station import Station, station_config
from sim_backends.virtual import keithley_2600, keysight_33500

HEALTHY = 3  # seed of a lot whose first die has no defect
WIDTH, V_READ, RANGE = 1e-6, 0.2, 4
TIMEOUT = 0.4  # s; a lost reply costs that much
MASK = np.zeros((8, 8), dtype=bool)
MASK[2, 3] = True


class Opened:
    """A station with a rack, its needles on the first die."""

    def __init__(self, station, served, log):
        self.station, self.array = station, station.array
        self.smu, self.pulser, self.matrix = (station.components[name] for name in ("smu", "pulser", "matrix"))
        self.die = served.bench.die(0)
        self._log = log
        self._served = served

    def entries(self, *what):
        self._served.log.flush()
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [each for each in lines if each["what"] in what]

    def fired(self):
        return len(self.entries("pulse"))


@contextmanager
def opened(folder, *, faults=(), pulse_limit=1.6, series_resistance=0.0, sweeps=False):
    log = folder / "physical.jsonl"
    tree = {
        "lot": "tio2-8x8",
        "seed": HEALTHY,
        "dies": 1,
        "log": str(log),
        "faults": list(faults),
        "rack": {"wiring": {"series_resistance": series_resistance}},
    }
    with Station(station_config(tree, "test", folder)) as served:
        addresses = served.addresses()
        wired = addresses["rack"]
        file = write_rack_station(
            folder / "station.yaml",
            addresses,
            outputs=wired["rows"],
            rows=wired["die_rows"],
            columns=wired["die_columns"],
            pulse_limit=pulse_limit,
            series_resistance=series_resistance,
        )
        content = yaml.safe_load(file.read_text())
        for name in ("smu", "pulser", "matrix"):
            content["instruments"][name].setdefault("init", {})["timeout"] = TIMEOUT
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        with load_station(file) as station:
            station.prober.first_die()
            station.prober.contact()
            yield Opened(station, served, log)
    entries = [json.loads(line) for line in Path(log).read_text().splitlines()]
    never = ("damage", "hot_switch") if sweeps else ("damage", "hot_switch", "dwell")
    assert not [each for each in entries if each["what"] in never], "whatever a test does"
    assert [each["outputs"] for each in entries if each["what"] == "separation"][-1] == "hard_ground"


@pytest.fixture
def rack(tmp_path):
    with opened(tmp_path) as rack:
        yield rack


class TestReading:
    def test_every_cell_is_read_as_the_die_has_it(self, rack):
        currents = rack.array.read(0, V_READ, current_range=RANGE)
        np.testing.assert_allclose(currents, rack.die.read(0, V_READ), rtol=0.01)
        assert np.all(rack.array.read(0, -V_READ, mask=MASK, current_range=RANGE)[MASK] < 0)

    def test_a_mask_and_a_range(self, rack):
        read = rack.array.read(0, V_READ, mask=MASK, current_range=RANGE, averages=4)
        assert np.isfinite(read[MASK]).all() and np.isnan(read[~MASK]).all()
        assert np.isposinf(rack.array.read(0, V_READ, mask=MASK, current_range=0)[2, 3])
        assert np.isneginf(rack.array.read(0, -V_READ, mask=MASK, current_range=0)[2, 3])

    def test_averages_quieten(self, rack):
        read = [
            [rack.array.read(0, V_READ, mask=MASK, current_range=RANGE, averages=n)[2, 3] for _ in range(12)]
            for n in (1, 100)
        ]
        assert np.mean(read[0]) == pytest.approx(np.mean(read[1]), rel=0.005)

    @pytest.mark.parametrize("direction", ["forward", "backward"])
    def test_a_product_is_the_sum_of_its_cells(self, rack, direction):
        vectors = np.random.default_rng(5).uniform(-0.15, 0.15, (2, 3))
        driven, sensed = np.zeros((2, 8), dtype=bool)
        driven[[0, 2, 5]], sensed[[1, 7]] = True, True
        rack.array.load_vectors(1, vectors)
        found = rack.array.multiply(0, 1, direction=direction, driven=driven, sensed=sensed, current_range=RANGE)
        full = np.zeros((2, 8))
        full[:, driven] = np.round(vectors, 3)
        truth = rack.die.product(0, direction, driven, 0.2).currents(full)[:, sensed]
        np.testing.assert_allclose(found, truth, rtol=0.03, atol=2e-7)

    def test_reading_leaves_nothing_on_the_lines(self, rack):
        rack.array.read(0, V_READ, mask=MASK, current_range=RANGE)
        assert rack.entries("smu")[-1]["level"] == 0


class TestPulsing:
    def test_a_pulse_moves_its_cell_and_half_a_pulse_few_others(self, rack):
        before = rack.die.devices.conductance.copy()
        rack.array.pulse(0, MASK, 1.1, WIDTH, count=3, scheme="V/2")
        rack.array.pulse(0, MASK, 1.1, WIDTH, count=3, scheme="V/2")
        grown = rack.die.devices.conductance - before
        assert grown[2, 3] > 0 and np.argmax(grown) == 2 * 8 + 3
        off_lines = np.delete(np.delete(grown, 2, axis=0), 3, axis=1)
        assert np.abs(off_lines).max() == 0
        assert rack.array.last_action() == (2, 2)
        assert [(each["cell"], each["count"]) for each in rack.entries("pulse")] == [([2, 3], 3)] * 2
        rack.array.pulse(0, MASK, -1.3, WIDTH, count=3, scheme="V/2")
        assert rack.die.devices.conductance[2, 3] < before[2, 3] + grown[2, 3]

    def test_columns_with_the_same_rows_are_pulsed_together(self, rack):
        mask = np.zeros((8, 8), dtype=bool)
        mask[1:3, 0] = mask[1:3, 4] = mask[5, 6] = True
        rack.array.pulse(0, mask, 1.1, WIDTH, scheme="V/2")
        assert rack.fired() == 2 and rack.array.last_action() == (1, 1)

    def test_pulse_and_read_reads_the_same_cells(self, rack):
        read = rack.array.pulse_and_read(0, MASK, 1.2, WIDTH, V_READ, current_range=RANGE, scheme="V/2")
        assert read[2, 3] == pytest.approx(rack.die.read(0, V_READ)[2, 3], rel=0.01)
        assert rack.array.pulse_and_read(0, MASK, 1.2, WIDTH, V_READ, current_range=RANGE, scheme="floating")[2, 3] > 0

    def test_a_resistor_bounds_the_current_and_takes_voltage(self, tmp_path):
        with opened(tmp_path, series_resistance=1000.0) as rack:
            assert rack.array.current_bound(1.5) == pytest.approx(1.5 / 1050)
            assert rack.array.pulse_current_max() == pytest.approx(1.6 / 1050)
            rack.array.pulse(0, MASK, 1.5, WIDTH, scheme="V/2")
            assert rack.entries("pulse")[0]["v"] < 0.9

    def test_small_steps_of_a_ramp_take_two_exchanges_each(self, rack):
        for step in range(10):
            rack.array.pulse(0, MASK, 0.9 + 0.02 * step, WIDTH, scheme="V/2")
        outputs = [each for each in rack.entries("outputs") if "OUTP" in each["why"]]
        assert len(outputs) <= 3, "the outputs are not switched for every step"
        volts = [each["volts"]["pulser.1"] for each in rack.entries("pulse")]
        assert volts == pytest.approx([0.9 + 0.02 * step for step in range(10)])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"amplitude": 1.7}, "beyond v_min and v_max, -1.6 V to 1.6 V"),
            ({"amplitude": float("nan")}, "voltage nan V is beyond"),
            ({"amplitude": 0.002}, "channel 2 is outside of 0.002 V"),
            ({"width": 1e-9}, "outside width_min and width_max"),
            ({"width": 1.0005e-6}, "not a multiple of width_step"),
            ({"count": 0}, "pulse count 0 is outside"),
            ({"kernel": 1}, "kernel 1 is outside"),
            ({"mask": MASK[:4]}, "a mask must be bool"),
            ({"scheme": None}, "needs a bias scheme; give scheme=, one of V/2, floating"),
            ({"scheme": "V/3"}, "three outputs beside ground; the generator has two. Use V/2"),
            ({"scheme": "grounded"}, "would see the whole pulse"),
            ({"scheme": "V/7"}, "bias scheme 'V/7'"),
        ],
    )
    def test_what_cannot_be_is_refused_before_any_pulse(self, rack, arguments, message):
        asked = {"kernel": 0, "mask": MASK, "amplitude": 1.0, "width": WIDTH, "scheme": "V/2"} | arguments
        with pytest.raises(LimitError, match=message):
            rack.array.pulse(**asked)
        assert rack.fired() == 0 and rack.array.last_action() == (0, 0)


@pytest.mark.slow
class TestFaults:
    """Whatever happens to a reply: no pulse is fired twice, and the caller knows what happened."""

    @pytest.mark.parametrize("kind", ["lost_reply", "garbled_reply", "disconnect", "late_reply"])
    def test_a_pulse_whose_reply_is_lost_was_fired_once(self, tmp_path, kind):
        fault = {"kind": kind, "where": "pulser", "matching": "*TRG", "nth": 2}
        if kind == "late_reply":
            fault["seconds"] = 2 * TIMEOUT
        with opened(tmp_path, faults=[fault]) as rack:
            for _ in range(3):
                rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
            assert rack.fired() == 3 and rack.array.last_action() == (3, 3)

    def test_what_nobody_asked_for_keeps_the_next_pulse_from_being_fired(self, tmp_path):
        fault = {"kind": "duplicated_reply", "where": "pulser", "matching": "*TRG", "nth": 1}
        with opened(tmp_path, faults=[fault]) as rack:
            rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
            with pytest.raises(PulseNotFiredError):
                rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
            assert rack.fired() == 1 and rack.array.last_action() == (1, 1)
            rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
            assert rack.fired() == 2 and rack.array.last_action() == (2, 2)

    @pytest.mark.parametrize(("kind", "more"), [("lost_request", {}), ("disconnect", {"before": True})])
    def test_a_pulse_that_did_not_arrive_is_reported_as_not_fired(self, tmp_path, kind, more):
        fault = {"kind": kind, "where": "pulser", "matching": "*TRG", "nth": 2} | more
        with opened(tmp_path, faults=[fault]) as rack:
            rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
            with pytest.raises(PulseNotFiredError, match="was not fired"):
                rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
            assert rack.fired() == 1 and rack.array.last_action() == (1, 1)
            rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
            assert rack.fired() == 2 and rack.array.last_action() == (2, 2)

    def test_half_a_mask_is_reported_as_unknown(self, tmp_path):
        fault = {"kind": "lost_request", "where": "pulser", "matching": "*TRG", "nth": 2}
        mask = MASK.copy()
        mask[5, 6] = True
        with opened(tmp_path, faults=[fault]) as rack:
            with pytest.raises(UnknownOutcomeError, match=r"1 groups .* rows \[5\] of columns \[6\] and later"):
                rack.array.pulse(0, mask, 1.1, WIDTH, scheme="V/2")
            assert rack.fired() == 1

    def test_a_generator_that_is_gone_leaves_the_outcome_unknown(self, tmp_path):
        fault = {"kind": "refuse_connections", "where": "pulser", "matching": "*TRG", "for": "1.5 s"}
        with opened(tmp_path, faults=[fault]) as rack:
            with pytest.raises(UnknownOutcomeError, match="Count it as fired"):
                rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
            assert rack.fired() == 1
            time.sleep(1.5)

    @pytest.mark.parametrize("where", ["smu", "matrix", "pulser"])
    @pytest.mark.parametrize("kind", ["lost_reply", "garbled_reply", "disconnect"])
    def test_questions_and_settings_are_asked_again(self, tmp_path, where, kind):
        with opened(tmp_path, faults=[{"kind": kind, "where": where, "every": 9}]) as rack:
            read = rack.array.read(0, V_READ, mask=MASK, current_range=RANGE)
            for _ in range(4):
                rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
                read = rack.array.read(0, V_READ, mask=MASK, current_range=RANGE)
            assert rack.fired() == 4
            assert read[2, 3] == pytest.approx(rack.die.read(0, V_READ)[2, 3], rel=0.01)


class TestCompliance:
    def test_a_limit_that_reads_back_otherwise_is_not_switched_on(self, tmp_path, monkeypatch):
        assign = keithley_2600._Channel._assign

        def stubborn(channel, name, low, high, value):
            assign(channel, name, low, high, 0.105 if name == "source.limiti" else value)

        monkeypatch.setattr(keithley_2600._Channel, "_assign", stubborn)
        with opened(tmp_path) as rack:
            with pytest.raises(CompliancePolicyError, match=r"limiti reads back 0\.105 A, asked 0\.005 A; refusing"):
                rack.array.read(0, V_READ, mask=MASK, current_range=RANGE)
            assert not any(each["output"] for each in rack.entries("smu"))

    def test_a_level_that_reads_back_otherwise_is_not_fired(self, tmp_path, monkeypatch):
        set_high = keysight_33500.Keysight33500._set_high
        monkeypatch.setattr(
            keysight_33500.Keysight33500, "_set_high", lambda self, channel, text: set_high(self, channel, "1.5")
        )
        with opened(tmp_path) as rack:
            with pytest.raises(CompliancePolicyError, match=r":SOUR1:VOLT:HIGH\? reads back .* asked 1\.1"):
                rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
            assert rack.fired() == 0

    def test_somebody_else_changes_the_limit(self, rack):
        rack.array.read(0, V_READ, mask=MASK, current_range=RANGE)
        rack.array.check_limits()
        rack.smu.smua.limiti(0.1)
        with pytest.raises(LimitError, match=r"reads back a limit of 0\.1 A, asked was 0\.005 A"):
            rack.array.check_limits()

    def test_a_short_is_met_by_the_limit(self, rack):
        rack.array._current_limit = 1e-3  # as `current_limit: 1 mA` in the station file
        broken = MASK.copy()
        rack.die.devices.restore(rack.die.devices.tio2.g, broken)  # 10 mS
        assert rack.die.read(0, 0.3)[2, 3] > 1.5e-3
        read = rack.array.read(0, 0.3, current_range=5)
        assert np.isposinf(read[:, 3]).all(), "the column does not reach its voltage"
        assert np.isfinite(np.delete(read, 3, axis=1)).all()

    def test_an_error_of_the_unit_is_raised_by_its_name(self, rack):
        rack.smu.write("smua.source.bogus = 1")
        with pytest.raises(InstrumentError, match="says -286 TSP Runtime error"):
            rack.array.read(0, V_READ, mask=MASK, current_range=RANGE)
            rack.smu.write("smua.source.bogus = 1")
            rack.array.read(0, V_READ, mask=MASK, current_range=RANGE)
        assert np.isfinite(rack.array.read(0, V_READ, mask=MASK, current_range=RANGE)[2, 3])


OUTPUTS = {"A": "smu.a", "B": "smu.b", "C": "pulser.1", "H": "ground"}


class TestRoutes:
    @pytest.mark.parametrize(
        ("relays", "message"),
        [
            (["1A01", "1C01"], "relays 1A01, 1C01 would tie smu.a (row A) to pulser.1 (row C)"),
            (["1A01", "1H01"], "would tie smu.a (row A) to ground (row H)"),
            (
                ["1A01", "1E01", "2E05", "2B05"],
                "relays 1A01, 1E01, 2B05, 2E05 would tie smu.a (row A) to smu.b (row B)",
            ),
            (["1A13"], "relay '1A13' does not exist"),
            (["9A01"], "relay '9A01' does not exist"),
        ],
    )
    def test_a_route_that_ties_outputs_is_refused_by_name(self, rack, relays, message):
        before = rack.matrix.closed()
        moved = len(rack.entries("relays"))
        with pytest.raises(RouteError, match=message.replace("(", r"\(").replace(")", r"\)")):
            rack.matrix.route(relays)
        assert rack.matrix.closed() == before and len(rack.entries("relays")) == moved

    @given(st.sets(st.tuples(st.sampled_from("12"), st.sampled_from("ABCDEH"), st.integers(1, 4)), max_size=8))
    def test_it_refuses_what_is_connected_and_nothing_else(self, relays):
        nodes = ["A", "B", "C", "D", "E", "H", *(f"{slot}{at:02d}" for slot in "12" for at in range(1, 5))]
        ends = [(nodes.index(row), nodes.index(f"{slot}{at:02d}")) for slot, row, at in relays]
        rows, columns = (list(each) for each in zip(*ends, strict=True)) if ends else ([], [])
        graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(nodes), len(nodes)))
        _, label = connected_components(graph, directed=False)
        of_outputs = [label[nodes.index(row)] for row in OUTPUTS]
        tied = len(set(of_outputs)) < len(of_outputs)
        names = [f"{slot}{row}{at:02d}" for slot, row, at in relays]
        if tied:
            with pytest.raises(RouteError, match="would tie"):
                check_route(names, OUTPUTS)
        else:
            check_route(names, OUTPUTS)

    def test_a_rack_that_is_wired_wrongly_is_refused_when_it_is_opened(self, tmp_path):
        tree = {"lot": "tio2-8x8", "dies": 1, "rack": {}}
        with Station(station_config(tree, "test", tmp_path)) as served:
            addresses = served.addresses()
            wired = addresses["rack"]
            pads = {"rows": wired["die_rows"], "columns": wired["die_columns"]}
            file = tmp_path / "station.yaml"
            for change, message in (
                ({"rows": ["101"] * 8}, "two lines on column 101"),
                ({"smu": "nobody"}, "no instrument 'nobody' is open; list it above array"),
                ({"smu": "matrix"}, "matrix is a Keithley707, needed is a SourceMeter"),
                ({"pulse_limit": 0}, "pulse_limit: 0 is 0 V, not above 0 V"),
                ({"pulser_rows": ["A", "D"]}, "row A is taken twice"),
            ):
                write_rack_station(file, addresses, outputs=wired["rows"], pulse_limit=1.5, **pads)
                content = yaml.safe_load(file.read_text())
                content["instruments"]["array"]["init"] |= change
                file.write_text(yaml.safe_dump(content, sort_keys=False))
                with pytest.raises(InstrumentError, match=message):
                    load_station(file)


class TestSafety:
    def test_made_safe_it_refuses_until_reset(self, rack):
        rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
        rack.array.safe()
        assert rack.entries("outputs")[-1]["mode"] == "hard_ground"
        with pytest.raises(InterlockError, match="reset it"):
            rack.array.pulse(0, MASK, 1.1, WIDTH, scheme="V/2")
        with pytest.raises(InterlockError, match="reset it"):
            rack.array.read(0, V_READ)
        rack.array.reset()
        assert np.isfinite(rack.array.read(0, V_READ, mask=MASK, current_range=RANGE)[2, 3])

    def test_safe_comes_through_while_another_thread_works(self, rack):
        stopped = []

        def work():
            try:
                while True:
                    rack.array.read(0, V_READ, current_range=RANGE)
            except InstrumentError as error:
                stopped.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.1)
        rack.array.safe()
        thread.join(10)
        assert stopped and not thread.is_alive()
        assert rack.entries("outputs")[-1]["mode"] == "hard_ground"

    def test_resting_grounds_or_floats_the_lines(self, rack):
        rack.array.read(0, V_READ, mask=MASK, current_range=RANGE)
        rack.array.idle("float")
        assert rack.entries("outputs")[-1]["mode"] == "float" and rack.matrix.closed() == frozenset()
        rack.array.idle()
        assert rack.entries("outputs")[-1]["mode"] == "hard_ground" and len(rack.matrix.closed()) == 16
        with pytest.raises(LimitError, match="no amplifiers"):
            rack.array.idle("soft_ground")

    def test_connecting_changes_nothing(self, rack):
        clients = [
            at for at, each in enumerate(rack.entries("client", "outputs", "relays", "smu")) if each["what"] == "client"
        ]
        after = rack.entries("client", "outputs", "relays", "smu")[clients[0] :]
        assert {each["what"] for each in after} == {"client"}

    def test_parameters_say_what_they_are(self, rack):
        for each in rack.array.parameters.values():
            assert each.name == "IDN" or each.__doc__.lstrip().startswith("Get")
