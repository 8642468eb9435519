"""`KepcoMagnet` against the simulated supply over a socket, judged by what physically happened there."""

import itertools
import json
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qcodes.instrument import Instrument

from instruments.drivers import kepco
from instruments.drivers.kepco import KepcoMagnet
from instruments.roles.interfaces import FieldSource, InstrumentError, LimitError, LinkError
from instruments.roles.off_recipe import Device, Stage, make_safe
from instruments.wire.sessions import VisaSession
from instruments.wire.transports import transport_of
from sim_backends.bench.clock import StationClock
from sim_backends.bench.physical_log import PhysicalLog
from sim_backends.virtual.kepco import Kepco, KepcoSpec
from sim_backends.wire.tcp import InstrumentServer

CONSTANT = 0.05  # T/A
RATE = 2.0  # T/s; 40 A/s
QUICK = KepcoSpec(inductance=0.05, response=5e-3)


class Supply(Kepco):
    """The simulated supply on a port, with a wire that can lose answers and a panel that can be turned.

    `lost` tells for the next answers to a line which of them are lost, `answers` maps lines to false answers, and
    `watch` is called before and after every line.
    """

    def __init__(self, folder, spec=QUICK):
        self.path = folder / "physical.jsonl"
        self.log = PhysicalLog(self.path, StationClock())
        super().__init__(self.log, spec)
        self.lines, self.lost, self.answers, self.watch = [], {}, {}, lambda: None
        self.server = InstrumentServer(self, "127.0.0.1", 0, "magnet")
        self.server.start()
        self.address = f"TCPIP::{self.server.address[0]}::{self.server.address[1]}::SOCKET"

    def receive(self, data):
        return b"".join(self._answer(line) for line in data.decode().splitlines())

    def _answer(self, line):
        self.lines.append(line)
        self.watch()
        answer = super().receive(line.encode() + b"\n")
        self.watch()
        question = line.rpartition(";")[2]
        if question in self.answers:
            return self.answers[question].encode() + b"\n"
        return b"" if self.lost.get(question) and self.lost[question].pop(0) else answer

    def by_hand(self, lines, wait=0.15):
        """What another program, or somebody at the panel, does."""
        super().receive(lines.encode() + b"\n")
        time.sleep(wait)

    def entries(self, what="magnet"):
        self.log.flush()
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [each for each in lines if each["what"] == what]

    def settings(self):
        """Lines that are not only questions."""
        return [line for line in self.lines if not line.partition(";")[0].endswith("?")]


@pytest.fixture
def supply(tmp_path):
    made = Supply(tmp_path)
    yield made
    Instrument.close_all()
    made.server.stop()


@pytest.fixture
def left(monkeypatch):
    """The off-recipes that sessions leave with whoever holds their connections."""
    recipes = []
    monkeypatch.setattr(VisaSession, "register", lambda session, off: recipes.append(off))
    return recipes


def first_level(recipe):
    """The first set-point of an off-recipe."""
    return float(recipe.steps[1].send.split()[1])


def connected(supply, **changes):
    settings = {"tesla_per_ampere": CONSTANT, "current_limit": 2.0, "ramp_rate": RATE, "settling": 0.05, "timeout": 0.4}
    return KepcoMagnet("magnet", supply.address, **{**settings, **changes})


@pytest.fixture
def magnet(supply):
    driver = connected(supply)
    yield driver
    driver.close()


def until_settled(magnet):
    deadline = time.monotonic() + 3
    while not magnet.settled():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def never_kicked(supply):
    return supply.entries("coil_kick") == []


def assert_never_faster(entries, rate):
    """Between any two set-points under current, at most `rate` (A/s) and one step of a ramp."""
    given = [(each["wall_s"], each["set_current"]) for each in entries if each["output"] and each["mode"] == "current"]
    for (t1, one), (t2, two) in itertools.combinations(given, 2):
        assert abs(two - one) <= rate * (t2 - t1 + kepco.STEP) + 0.01


class TestConnecting:
    def test_it_fills_the_role(self, magnet):
        assert isinstance(magnet, FieldSource)
        assert magnet.identify() == "KEPCO,BOP 36-12,SIM0001,1.0"
        assert magnet.get_idn() == {"vendor": "KEPCO", "model": "BOP 36-12", "serial": "SIM0001", "firmware": "1.0"}

    def test_connecting_and_closing_change_nothing(self, supply):
        supply.by_hand("FUNC:MODE CURR;:VOLT 20;:CURR 1;:OUTP 1")
        before = supply.entries()
        connected(supply).close()
        assert supply.settings() == []
        assert supply.entries() == before
        assert supply.current == pytest.approx(1, abs=0.01)

    def test_something_else_at_the_address(self, supply):
        supply.answers["*IDN?"] = "ACME,Oven,1,1"
        with pytest.raises(InstrumentError, match="not the identity of a Kepco"):
            connected(supply)

    def test_nobody_at_the_address(self, supply):
        supply.server.stop()
        with pytest.raises(LinkError):
            connected(supply)
        supply.server = InstrumentServer(supply, "127.0.0.1", 0, "magnet")  # for the fixture to stop

    @pytest.mark.parametrize("wrong", [{"tesla_per_ampere": 0.0}, {"current_limit": 0.0}, {"ramp_rate": -1.0}])
    def test_a_coil_that_cannot_be(self, supply, wrong):
        with pytest.raises(LimitError, match="must"):
            connected(supply, **wrong)
        assert supply.lines == []


class TestSwitchingOn:
    def test_limits_are_set_and_read_back_before_the_output(self, supply, magnet):
        magnet.set_field(0.02)
        on = supply.lines.index("OUTP 1")
        for line in ("FUNC:MODE CURR", "CURR 0", "VOLT 10", "CURR:LIM 2", "VOLT?", "CURR:LIM?", "CURR?", "SYST:ERR?"):
            assert line in supply.lines[:on]
        first = next(each for each in supply.entries() if each["output"])
        assert (first["set_current"], first["limit"], first["mode"]) == (0, 2, "current")
        assert first["set_voltage"] == pytest.approx(10, abs=0.01)

    @pytest.mark.parametrize(
        ("question", "answer", "message"),
        [
            ("CURR:LIM?", "1.0,1.0", "magnet reads back 1 A, asked 2 A; refusing to switch on"),
            ("CURR:LIM?", "2.0,1.0", "magnet reads back 1 A, asked 2 A; refusing to switch on"),
            ("VOLT?", "36", "magnet reads back 36 V, asked 10 V; refusing to switch on"),
            ("CURR?", "0.5", "magnet reads back 0.5 A, asked 0 A; refusing to switch on"),
            ("FUNC:MODE?", "0", "stays in voltage mode; refusing to switch on"),
            ("SYST:ERR?", '-222,"Data out of range"', "says -222.*refusing to switch on"),
        ],
    )
    def test_a_setting_that_does_not_take(self, supply, magnet, question, answer, message):
        supply.answers[question] = answer
        with pytest.raises(InstrumentError, match=message):
            magnet.set_field(0.02)
        assert not any(each["output"] for each in supply.entries())

    def test_an_output_that_does_not_come_on(self, supply, magnet):
        supply.answers["OUTP?"] = "0"
        with pytest.raises(InstrumentError, match="does not switch on"):
            magnet.set_field(0.02)

    def test_a_supply_without_a_limit_of_its_own(self, tmp_path):
        older = Supply(tmp_path, KepcoSpec(limits=False, inductance=0.05, response=5e-3))
        try:
            strict = connected(older)
            with pytest.raises(InstrumentError, match=r"-113.*limit_in_supply: false.*refusing to switch on"):
                strict.set_field(0.02)
            strict.close()
            assert not any(each["output"] for each in older.entries())
            relaxed = connected(older, limit_in_supply=False)
            relaxed.set_field(0.02)
            until_settled(relaxed)
            with pytest.raises(LimitError):
                relaxed.set_field(0.11)
            relaxed.ramp_down()
            relaxed.close()
        finally:
            older.server.stop()

    def test_an_output_found_on_with_other_settings_is_ramped_down_first(self, supply, magnet):
        supply.by_hand("FUNC:MODE CURR;:VOLT 30;:CURR -1.5;:OUTP 1")
        found = len(supply.entries())
        magnet.set_field(0.02)
        until_settled(magnet)
        outputs = [each["output"] for each in supply.entries()[found - 1 :]]
        assert [on for on, _ in itertools.groupby(outputs)] == [True, False, True]
        assert_never_faster(supply.entries()[found - 1 :], RATE / CONSTANT)
        assert never_kicked(supply)

    def test_an_output_found_on_as_it_should_be_stays_on(self, supply, magnet):
        magnet.set_field(0.05)
        magnet.close()
        again = connected(supply)
        began = len(supply.entries())
        until_settled(again)
        again.set_field(0.06)
        until_settled(again)
        assert all(each["output"] and each["set_current"] > 0.99 for each in supply.entries()[began:])
        again.close()


class TestField:
    @given(st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=3))
    @settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_what_is_set_is_read_back_and_never_faster_than_the_rate(self, supply, magnet, fields):
        for tesla in fields:
            magnet.set_field(tesla)
            until_settled(magnet)
            assert magnet.field() == pytest.approx(tesla, abs=0.01 * 0.1)
            assert magnet.current() * CONSTANT == pytest.approx(tesla, abs=0.01 * 0.1)
        assert_never_faster(supply.entries()[-60:], RATE / CONSTANT)
        assert never_kicked(supply)

    def test_a_slower_rate(self, supply, magnet):
        began = time.monotonic()
        magnet.set_field(0.1, rate=0.2)
        assert time.monotonic() - began >= 0.5
        assert_never_faster(supply.entries(), 0.2 / CONSTANT)

    def test_a_coil_connected_the_other_way_round(self, supply):
        magnet = connected(supply, tesla_per_ampere=-CONSTANT)
        magnet.set_field(0.05)
        until_settled(magnet)
        assert supply.current == pytest.approx(-1, abs=0.02)
        assert magnet.field() == pytest.approx(0.05, abs=1e-3)
        magnet.close()

    def test_not_settled_while_the_coil_follows(self, tmp_path):
        slow = Supply(tmp_path, KepcoSpec(inductance=2.0, response=0.3))
        magnet = connected(slow, settling=1.0)
        try:
            magnet.set_field(0.05)
            assert not magnet.settled()
            assert abs(magnet.field()) < 0.04
            magnet.ramp_down()
            assert never_kicked(slow), "the output is switched off when the current is gone, not the set-point"
            assert not slow.entries()[-1]["output"]
        finally:
            magnet.close()
            slow.server.stop()

    @pytest.mark.parametrize("tesla", [0.11, -0.11, float("nan"), float("inf")])
    def test_beyond_the_limit_nothing_is_sent(self, supply, magnet, tesla):
        with pytest.raises(LimitError, match=r"current_limit is 2 A, 0\.1 T either way"):
            magnet.set_field(tesla)
        assert supply.settings() == []

    @pytest.mark.parametrize("rate", [0.0, -1.0, 2.1, float("nan")])
    def test_a_rate_beyond_the_safe_one(self, supply, magnet, rate):
        with pytest.raises(LimitError, match="at most ramp_rate, 2 T/s"):
            magnet.set_field(0.05, rate=rate)
        assert supply.settings() == []

    def test_the_same_ramp_sends_the_same_lines(self, supply, magnet):
        for _ in range(2):
            magnet.set_field(0.07)
            magnet.set_field(-0.02)
            magnet.ramp_down()
        sent, half = supply.settings(), len(supply.settings()) // 2
        assert sent[:half] == sent[half:], "set-points do not depend on the clock, so a replay finds them again"
        assert half > 8

    def test_as_qcodes_parameters(self, supply, magnet):
        magnet.magnetic_field(0.03)
        until_settled(magnet)
        assert magnet.magnetic_field() == pytest.approx(0.03, abs=1e-3)
        with pytest.raises(ValueError):
            magnet.magnetic_field(0.2)
        for each in (magnet.magnetic_field, magnet.current):
            assert each.__doc__.lstrip().startswith(("Control", "Measure"))
            assert f"({each.unit})" in each.__doc__
        assert magnet.snapshot(update=True)["parameters"]["current"]["value"] == pytest.approx(0.6, abs=0.02)


class TestRampDown:
    @pytest.mark.parametrize(
        "state",
        [
            "",
            "FUNC:MODE CURR;:VOLT 20;:CURR 1.5;:OUTP 0",
            "FUNC:MODE CURR;:VOLT 20;:CURR 0;:OUTP 1",
            "FUNC:MODE CURR;:VOLT 20;:CURR 2;:OUTP 1",
            "FUNC:MODE CURR;:VOLT 20;:CURR -6;:OUTP 1",
            "FUNC:MODE CURR;:VOLT 1;:CURR 2;:OUTP 1",
            "FUNC:MODE VOLT;:VOLT 3;:CURR 5;:OUTP 1",
            "FUNC:MODE VOLT;:VOLT -3;:CURR 1;:OUTP 1",
        ],
    )
    def test_from_any_state(self, supply, magnet, state):
        supply.by_hand(state)
        began = len(supply.entries())
        magnet.ramp_down()
        assert supply.current == 0
        assert not any(each["output"] for each in supply.entries()[-1:])
        assert never_kicked(supply)
        assert_never_faster(supply.entries()[began:], RATE / CONSTANT)

    def test_twice_is_harmless(self, supply, magnet):
        magnet.set_field(0.1)
        magnet.ramp_down()
        entries = len(supply.entries())
        magnet.ramp_down()
        assert len(supply.entries()) == entries

    def test_a_current_that_stays_is_never_cut(self, supply):
        magnet = connected(supply, settling=0.02)
        magnet.set_field(0.1)
        supply.answers["MEAS:CURR?"] = "1.9"
        with pytest.raises(InstrumentError, match=r"carries 1.9 A; its output is left on"):
            magnet.ramp_down()
        with pytest.raises(InstrumentError, match=r"MAY STILL CARRY CURRENT.*front panel"):
            magnet.safe()
        assert supply.entries()[-1]["output"]
        supply.answers.clear()
        magnet.safe()
        assert never_kicked(supply) and not supply.entries()[-1]["output"]

    def test_safe_from_another_thread_ends_a_ramp(self, supply, magnet):
        failed = []

        def sweep():
            try:
                magnet.set_field(0.1, rate=0.05)
            except InstrumentError as error:
                failed.append(str(error))

        thread = threading.Thread(target=sweep)
        thread.start()
        time.sleep(0.4)
        magnet.safe()
        thread.join(5)
        assert "given up" in failed[0]
        assert supply.current == 0 and never_kicked(supply)
        assert not supply.entries()[-1]["output"]


class TestLostAnswers:
    def test_a_question_is_asked_again_over_a_new_connection(self, supply, magnet):
        magnet.set_field(0.05)
        until_settled(magnet)
        supply.lost["MEAS:CURR?"] = [True]
        assert magnet.field() == pytest.approx(0.05, abs=1e-3)
        assert supply.lines.count("*IDN?") == 2

    def test_a_set_point_is_not_sent_again(self, supply, magnet):
        magnet.set_field(0.05)
        before = len(supply.entries())
        supply.lost["CURR?"] = [False, True]
        with pytest.raises(LinkError):
            magnet.set_field(0.1)
        assert len(supply.entries()) == before + 1, "one step went out, its answer was lost, and nothing after it"
        magnet.ramp_down()
        assert never_kicked(supply) and supply.current == 0

    def test_ramping_down_goes_on_from_where_the_supply_is(self, supply, magnet):
        magnet.set_field(0.1)
        supply.lost["CURR?"] = [False, False, True]
        began = len(supply.entries())
        magnet.ramp_down()
        assert_never_faster(supply.entries()[began:], RATE / CONSTANT)
        assert never_kicked(supply) and not supply.entries()[-1]["output"]

    @pytest.mark.parametrize("question", ["FUNC:MODE?", "MEAS:CURR?"])
    def test_garbage_ends_the_connection(self, supply, magnet, question):
        supply.answers[question] = "what?"
        with pytest.raises(LinkError, match="is no answer to"):
            magnet.ramp_down() if question == "FUNC:MODE?" else magnet.field()
        supply.answers.clear()
        assert magnet.field() == 0.0

    def test_switched_off_in_the_middle_of_a_ramp(self, supply, magnet):
        magnet.set_field(0.05)
        thread = threading.Timer(0.2, lambda: supply.answers.update({"CURR?": "0"}))
        thread.start()
        with pytest.raises(InstrumentError, match=r"reads back a set-point of 0.*ramp given up"):
            magnet.set_field(0.1, rate=0.05)
        supply.answers.clear()
        magnet.ramp_down()
        assert never_kicked(supply)


class TestOffLines:
    def play(self, supply, lines):
        """Send the lines as one does who knows nothing; returns what happened."""
        began = len(supply.entries())
        for line, pause in lines:
            Kepco.receive(supply, line.encode() + b"\n")
            time.sleep(pause)
        return supply.entries()[began - 1 :]

    @given(tesla=st.floats(-0.1, 0.1))
    @settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_from_any_set_point(self, supply, magnet, tesla):
        magnet.set_field(tesla)
        entries = self.play(supply, magnet.off_lines())
        levels = [abs(each["set_current"]) for each in entries]
        assert levels == sorted(levels, reverse=True), "no line raises the current"
        assert not entries[-1]["output"] and never_kicked(supply)

    def test_a_program_may_die_anywhere_in_a_ramp(self, supply, left):
        """Whatever is left with the holder at a moment, none of its lines raises the current of that moment."""
        seen = []
        supply.by_hand("FUNC:MODE CURR", 0)
        magnet = connected(supply)
        supply.watch = lambda: seen.append((supply.entries()[-1]["set_current"], first_level(left[-1])))
        for tesla in (0.1, -0.1, 0.03, 0.0):
            magnet.set_field(tesla, rate=1.0)
        magnet.ramp_down()
        magnet.close()
        assert len(seen) > 20
        for level, start in seen:
            assert abs(start) < 2e-3 or (start * level > 0 and abs(start) <= abs(level)), "2 mA: the converter's step"

    @pytest.mark.parametrize("state", ["", "FUNC:MODE CURR;:VOLT 20;:CURR 1.8;:OUTP 1", "VOLT 3;CURR 5;OUTP 1"])
    def test_right_after_connecting(self, supply, state):
        supply.by_hand(state)
        magnet = connected(supply)
        lines = magnet.off_lines()
        magnet.close()
        self.play(supply, lines)
        assert supply.current == 0 and never_kicked(supply)

    def test_they_keep_the_safe_rate_and_do_not_take_long(self, supply):
        supply.by_hand("FUNC:MODE CURR;:VOLT 36;:CURR 6;:OUTP 1")
        magnet = KepcoMagnet("magnet", supply.address, tesla_per_ampere=CONSTANT, current_limit=6.0)
        lines = magnet.off_lines()
        magnet.close()
        assert sum(pause for _, pause in lines) <= 2.0, "0.3 T at the default rate"
        assert [line for line, _ in lines[-2:]] == ["CURR 0", "OUTP 0"]
        assert all(pause >= 0.6 * CONSTANT / 0.2 - 1e-9 for _, pause in lines[:-2])

    def test_they_are_left_with_whoever_holds_the_connection(self, supply, left):
        supply.by_hand("FUNC:MODE CURR")
        magnet = connected(supply)
        assert [step.send for step in left[-1].steps] == [b"OUTP?\n", b"CURR 0\n", b"OUTP 0\n"]
        for tesla in (0.1, -0.05, 0.1):
            magnet.set_field(tesla)
        recipe = left[-1]
        magnet.close()
        assert recipe.stage is Stage.FIELD
        assert first_level(recipe) == pytest.approx(1.8, abs=0.01)
        transport = transport_of("visa", supply.address, VISA)
        transport.open()
        (outcome,) = make_safe([Device("magnet", transport, recipe)])
        transport.close()
        assert outcome.fault == ""
        until = time.monotonic() + 5  # the last line has no reply: the supply may be at it still
        while supply.current and time.monotonic() < until:
            time.sleep(0.01)
        assert supply.current == 0 and never_kicked(supply)

    def test_a_broken_connection_is_replaced(self, supply, magnet):
        magnet.set_field(0.1)
        transport = transport_of("visa", supply.address, VISA)  # not open: every message fails
        recipe = kepco._recipe(magnet.off_lines())
        magnet.close()
        (outcome,) = make_safe([Device("magnet", transport, recipe)])
        transport.close()
        assert outcome.fault == "" and outcome.seconds < recipe.limit
        assert supply.current == 0 and never_kicked(supply)


VISA = {"backend": "@py", "terminator": "\n", "baudrate": None, "timeout": 1.0}
