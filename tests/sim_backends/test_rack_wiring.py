"""What flows in a rack: relays are wires, sources have limits, and the die is solved with whatever is connected."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from virtual_rack import VirtualRack

from sim_backends.array.solver.network import Drive
from sim_backends.virtual.rack_wiring import GROUND, Output, RackSpec

R_PULSER = 50.0


@pytest.fixture
def rack(tmp_path):
    return VirtualRack(tmp_path)


@pytest.fixture(scope="module")
def any_rack(tmp_path_factory):
    """A rack that is wired anew by each example; nothing is pulsed."""
    return VirtualRack(tmp_path_factory.mktemp("any"))


def out(rack, **outputs):
    for name, output in outputs.items():
        rack.wiring.put_out({"a": "smu.a", "b": "smu.b", "p1": "pulser.1", "p2": "pulser.2"}[name], output, "test")


def test_one_cell_between_two_channels_is_that_cell(rack):
    rack.connect("1B01,2A01", "H")
    out(rack, a=Output(0.2), b=Output(0.0))
    now = rack.wiring.operate()
    v_row = np.zeros(8)
    v_column = np.where(np.arange(8) == 0, 0.2, 0.0)
    i_row, i_column = rack.die.terminal_currents(v_row, v_column)
    assert now.current["smu.a"] == pytest.approx(i_column[0], rel=1e-9)
    assert now.current["smu.b"] == pytest.approx(i_row[0], rel=1e-9)
    assert sum(now.current.values()) == pytest.approx(0, abs=1e-12)


def test_an_open_relay_floats_and_no_contact_no_current(rack, tmp_path_factory):
    rack.connect("2A01")
    out(rack, a=Output(0.2), b=Output(0.0))
    assert abs(rack.wiring.operate().current["smu.a"]) < 1e-12
    apart = VirtualRack(tmp_path_factory.mktemp("apart"), touch=False)
    apart.connect("1B01,2A01", "H")
    out(apart, a=Output(0.2), b=Output(0.0))
    assert set(apart.wiring.operate().current.values()) == {0.0}


def test_floating_lines_carry_sneak_currents(rack):
    rack.connect("1B01,2A01")
    out(rack, a=Output(0.2), b=Output(0.0))
    floating = rack.wiring.operate().current["smu.a"]
    i_row, _ = rack.die.terminal_currents(
        np.where(np.arange(8) == 0, 0.0, np.nan), np.where(np.arange(8) == 0, 0.2, np.nan)
    )
    assert floating == pytest.approx(-i_row[0], rel=1e-6)
    alone = rack.die.devices.conductance[0, 0] * 0.2
    assert floating > 1.2 * alone


def test_a_floating_net_of_several_lines_takes_the_voltage_at_which_nothing_flows(rack):
    rack.connect("1B01,2A01", "E")  # row E carries nothing: it ties the other lines together
    out(rack, a=Output(0.2), b=Output(0.0))
    now = rack.wiring.operate()
    tied = now.columns[1]
    assert np.allclose(now.rows[1:], tied) and 0 < tied < 0.2
    i_row, i_column = rack.die.terminal_currents(now.rows, now.columns)
    assert i_row[1:].sum() + i_column[1:].sum() == pytest.approx(0, abs=1e-9)


def test_the_generator_is_a_voltage_behind_its_resistance(rack):
    rack.connect("1H01,2C01")
    out(rack, p1=Output(1.0, R_PULSER))
    now = rack.wiring.operate()
    first = np.arange(8) == 0
    _, i_column = rack.die.terminal_currents(
        np.where(first, 0.0, np.nan), Drive(np.where(first, 1.0, np.nan), R_PULSER)
    )
    assert now.current["pulser.1"] == pytest.approx(i_column[0], rel=1e-5)
    assert now.columns[0] == pytest.approx(1.0 - R_PULSER * i_column[0], rel=1e-6)


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from("ABCDEH "), min_size=16, max_size=16),
    st.floats(-0.5, 0.5),
    st.floats(-1.5, 1.5),
    st.floats(1e-6, 3e-3),
)
def test_currents_balance_and_no_limit_is_passed(any_rack, lines, v_smu, v_pulse, limit):
    """Kirchhoff at every net, whatever is connected; a unit at its limit gives exactly that."""
    rack = any_rack
    pads = [f"1{{}}{at:02d}" for at in range(1, 9)] + [f"2{{}}{at:02d}" for at in range(1, 9)]
    relays = ",".join(pad.format(row) for pad, row in zip(pads, lines, strict=True) if row != " ")
    rack.matrix(f'channel.exclusiveclose("{relays}")')
    out(rack, a=Output(v_smu, limit=limit), b=Output(0.0, limit=limit), p1=Output(v_pulse, 50.0), p2=Output(0.1, 50.0))
    now = rack.wiring.operate()
    largest = max(map(abs, now.current.values()))
    i_row, i_column = rack.die.terminal_currents(now.rows, now.columns)
    for name, row in {"smu.a": "A", "smu.b": "B", "pulser.1": "C", "pulser.2": "D", GROUND: "H"}.items():
        held = np.array([each == row for each in lines])
        into = i_row[held[:8]].sum() + i_column[held[8:]].sum()
        assert now.current[name] == pytest.approx(into, abs=1e-11 + 1e-6 * largest)
        if name.startswith("smu"):
            assert abs(into) <= limit + 1e-11 + 1e-6 * largest
            assert name not in now.limited or abs(into) == pytest.approx(limit, abs=1e-11 + 1e-6 * largest)
        if name.startswith("pulser") and held.any():
            v = np.concatenate([now.rows, now.columns])[held][0]
            asked = v_pulse if name == "pulser.1" else 0.1
            assert now.current[name] == pytest.approx((asked - v) / R_PULSER, abs=1e-11 + 1e-6 * largest)


def test_a_channel_at_its_limit_is_a_source_of_current(rack):
    rack.connect("1B01,2A01", "H")
    free = Output(0.2), Output(0.0)
    out(rack, a=free[0], b=free[1])
    needed = rack.wiring.operate().current["smu.a"]
    out(rack, a=Output(0.2, limit=needed / 3))
    now = rack.wiring.operate()
    assert now.current["smu.a"] == pytest.approx(needed / 3, rel=1e-6)
    assert now.limited == {"smu.a"} and 0.05 < now.voltage["smu.a"] < 0.1


def test_a_source_of_current_stops_at_its_compliance_voltage(rack):
    rack.connect("1H01,2A01", "H")
    out(rack, a=Output(0.5, current=1e-4))
    now = rack.wiring.operate()
    assert now.current["smu.a"] == pytest.approx(1e-4, rel=1e-6) and not now.limited
    out(rack, a=Output(0.01, current=1e-3))
    now = rack.wiring.operate()
    assert now.voltage["smu.a"] == pytest.approx(0.01) and now.limited == {"smu.a"}
    rack.connect("2A01")
    out(rack, a=Output(0.5, current=1e-4))
    assert rack.wiring.operate().voltage["smu.a"] == pytest.approx(0.5), "nothing can flow"


def test_two_sources_on_one_line_are_a_fault_that_shows(rack):
    rack.smu("smua.source.limiti=1e-3 smua.source.levelv=0.2 smua.source.output=1")
    rack.pulser("OUTP1 ON")
    assert rack.entries("damage") == []
    rack.matrix('channel.close("1A01,1C01")')
    (entry,) = rack.entries("damage")
    assert entry["kind"] == "tied" and entry["outputs"] == ["pulser.1", "smu.a"]
    assert rack.pulser("OUTP1?") == "0", "it protects itself"
    assert rack.pulser("SYST:ERR?") == '-300,"Device-specific error"'
    rack.matrix('channel.exclusiveclose("1A01,1H01")')
    assert rack.entries("damage")[1]["outputs"] == ["ground", "smu.a"]
    assert rack.smu("print(smua.source.compliance)") == "true"
    assert float(rack.smu("print(smua.measure.i())")) == pytest.approx(1e-3, rel=0.01)


def test_a_relay_that_moves_under_a_live_line_is_logged(rack):
    rack.smu("smua.source.output=1")
    rack.connect("2A01")
    assert rack.entries("hot_switch") == []
    rack.smu("smua.source.levelv=0.5")
    rack.connect("")
    assert rack.entries("hot_switch")[0]["relays"] == ["2A01"]


def test_a_voltage_that_is_left_on_writes(rack):
    rack.connect("1B01,2A01", "H")
    before = rack.die.devices.conductance.copy()
    rack.smu("smua.source.output=1 smub.source.output=1 smua.source.levelv=0.2")
    rack.smu("print(smua.measure.i())")
    assert np.array_equal(rack.die.devices.conductance, before)
    rack.smu("smua.source.levelv=1 print(smua.measure.i())")
    moved = rack.die.devices.conductance != before
    assert moved[:, 0].any() and not moved[:, 1:].any()
    assert rack.entries("dwell")[0]["width_s"] == pytest.approx(0.0202)


class TestPulses:
    def armed(self, rack, low=0.0, high=1.2, half=(0.0, 0.6), polarity="NORM"):
        rack.connect("1H01,2C01", "D")
        for channel, levels in ((1, (low, high)), (2, half)):
            rack.pulser(
                f"OUTP{channel}:LOAD INF;POL {polarity};:SOUR{channel}:FUNC PULS;:SOUR{channel}:VOLT:HIGH {levels[1]};"
                f":SOUR{channel}:VOLT:LOW {levels[0]};:SOUR{channel}:FUNC:PULS:WIDT 1E-6;:SOUR{channel}:BURS:STAT 1;"
                f":TRIG{channel}:SOUR BUS;:OUTP{channel} ON"
            )
        assert rack.pulser("SYST:ERR?") == '+0,"No error"'

    def test_one_trigger_is_one_pulse_at_the_selected_cell(self, rack):
        self.armed(rack)
        before = rack.die.devices.conductance.copy()
        rack.pulser("*TRG")
        (pulse,) = rack.entries("pulse")
        assert pulse["cell"] == [0, 0] and 0.9 < pulse["v"] < 1.2, "the lines and 50 Ohm take the rest"
        grown = rack.die.devices.conductance - before
        assert grown[0, 0] > 1e-6 and np.abs(grown[1:, 1:]).max() == 0

    def test_a_negative_pulse_rests_at_zero(self, rack):
        self.armed(rack, -1.2, 0.0, (-0.6, 0.0), "INV")
        assert np.abs(rack.wiring.operate().across).max() < 1e-9
        before = rack.die.devices.conductance.copy()
        rack.pulser("*TRG")
        assert rack.entries("pulse")[0]["v"] < -0.9
        assert rack.die.devices.conductance[0, 0] < before[0, 0]

    def test_levels_belong_to_the_load_that_was_told(self, rack):
        self.armed(rack)
        assert float(rack.pulser("VOLT:HIGH?")) == pytest.approx(1.2)
        rack.pulser("OUTP1:LOAD 50")
        assert float(rack.pulser("VOLT:HIGH?")) == pytest.approx(0.6)
        rack.pulser("*TRG")
        assert rack.entries("pulse")[0]["volts"]["pulser.1"] == pytest.approx(1.2), "the output is the same"

    def test_an_output_that_is_off_fires_nothing(self, rack):
        self.armed(rack)
        before = rack.die.devices.conductance.copy()
        rack.pulser("OUTP1 OFF;:OUTP2 OFF;*TRG")
        assert rack.entries("pulse") == []
        assert np.array_equal(rack.die.devices.conductance, before)

    def test_a_burst_of_many_and_pulses_of_two_widths(self, rack):
        self.armed(rack)
        rack.pulser("BURS:NCYC 5;:SOUR2:BURS:NCYC 5;*TRG")
        assert [each["count"] for each in rack.entries("pulse")] == [5]
        rack.pulser("BURS:NCYC 1;:SOUR2:BURS:NCYC 1;:FUNC:PULS:WIDT 2E-6;*TRG")
        widths = [each["width_s"] for each in rack.entries("pulse")[1:]]
        assert widths == pytest.approx([1e-6, 1e-6]), "both on, then the longer one alone"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"rows": {"Z": "smu.a"}}, "'Z' is no row of the matrix"),
        ({"rows": {"A": "smu.c"}}, "'smu.c' is none of"),
        ({"rows": {"A": "smu.a", "B": "smu.a"}}, "plugged into two rows"),
        ({"die_rows": ["113"]}, "'113' is no slot"),
        ({"die_rows": ["101"], "die_columns": ["101"]}, "two pads on one column"),
        ({"series_resistance": -1}, "less than 0 Ohm"),
    ],
)
def test_wiring_that_cannot_be(spec, message):
    with pytest.raises(ValidationError, match=message):
        RackSpec.model_validate(spec)


def test_a_large_die_has_more_lines_than_the_matrix():
    assert RackSpec().for_die(36, 36).slots == 6
    with pytest.raises(ValueError, match="more than the six slots"):
        RackSpec().for_die(64, 64)
    with pytest.raises(ValueError, match="pads for 1 rows"):
        RackSpec(die_rows=("101",)).for_die(8, 8)


def test_what_changed_is_seen_by_the_next_look(rack):
    """A solution is kept while nothing changes: a level, a relay, a pulse and a dwell each make it another."""
    rack.connect("1B01,2A01", "H")
    out(rack, a=Output(0.2), b=Output(0.0))
    looks = [rack.wiring.operate().current["smu.a"]]
    assert rack.wiring.operate().current["smu.a"] == looks[0]

    def look():
        looks.append(rack.wiring.operate().current["smu.a"])
        assert looks[-1] != looks[-2]
        i_column = rack.die.terminal_currents(rack.wiring.operate().rows, rack.wiring.operate().columns)[1]
        assert looks[-1] == pytest.approx(i_column[0], rel=1e-6)

    out(rack, a=Output(0.25))
    look()
    out(rack, a=Output(0.0))
    rack.connect("1B01,2A01", "E")
    out(rack, a=Output(0.25))
    look()
    out(rack, a=Output(0.0))
    rack.connect("1B01,2A01", "H")
    out(rack, a=Output(0.25))
    look()
    rack.wiring.pulse({"smu.a": 1.4}, 20e-6, 3, {})
    look()
    out(rack, a=Output(1.2))
    look()
    rack.wiring.dwell(0.1)
    look()
