"""The simulated Kepco supply: its SCPI, its coil, and a third-party driver, unmodified, against it."""

import json
import math
import re
import socket
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pymeasure.instruments.kepco import KepcoBOP3612
from scipy.integrate import solve_ivp

from sim_backends.bench.clock import StationClock
from sim_backends.bench.physical_log import PhysicalLog
from sim_backends.virtual.kepco import Kepco, KepcoSpec, driven_current
from sim_backends.wire.scpi import Scpi, header_pattern, without
from sim_backends.wire.tcp import InstrumentServer

STEP = 24.0 / 2**14  # A, of the default converters


class Supply:
    """The instrument without a socket, and what happened to it."""

    def __init__(self, path, spec):
        self.log = PhysicalLog(path, StationClock())
        self.kepco = Kepco(self.log, spec)

    def send(self, line):
        return self.kepco.receive(line.encode() + b"\n").decode().rstrip("\n")

    def errors(self):
        """Numbers in the error queue, oldest first."""
        found = []
        while (code := int(self.send("SYST:ERR?").split(",")[0])) != 0:
            found.append(code)
        return found

    def entries(self, what):
        self.log.flush()
        lines = [json.loads(line) for line in self.log.path.read_text().splitlines()]
        return [each for each in lines if each["what"] == what]

    def drive(self, current, voltage=36):
        """Current mode, switched on, and settled."""
        self.send(f"FUNC:MODE CURR;:VOLT {voltage};:CURR {current};:OUTP ON")
        time.sleep(0.25)


@pytest.fixture
def supply(tmp_path):
    return Supply(tmp_path / "physical.jsonl", KepcoSpec())


@contextmanager
def served(supply):
    server = InstrumentServer(supply.kepco, "127.0.0.1", 0, "magnet")
    server.start()
    try:
        yield server.address
    finally:
        server.stop()


class TestScpi:
    @pytest.mark.parametrize(
        "line",
        [
            "CURR 1.5",
            "curr 1.5",
            "CURRent 1.5",
            ":CURR 1.5",
            "SOUR:CURR 1.5",
            "source:current:level:immediate:amplitude 1.5",
            "CURR:LEV 1.5",
            "  CURR   15E-1  ",
            "CURR 1.5\r",
            "*CLS;CURR 1.5",
            "CURR:LIM 2;LEV 1.5",
            "VOLT 5;CURR 1.5",
        ],
    )
    def test_ways_to_write_a_command(self, supply, line):
        assert supply.send(line) == ""
        assert float(supply.send("CURR?")) == pytest.approx(1.5, abs=STEP)
        assert supply.errors() == []

    @pytest.mark.parametrize(
        ("line", "code"),
        [
            ("CURRE 1", -113),
            ("CUR 1", -113),
            ("BOGUS", -113),
            ("CURR:LIM:BOGUS 1", -113),
            ("CURR 12.1", -222),
            ("CURR -12.1", -222),
            ("CURR 1E999", -222),
            ("CURR:LIM 13", -222),
            ("CURR:LIM -1", -222),
            ("CURR", -109),
            ("CURR one", -120),
            ("CURR nan", -120),
            ("CURR 1,2", -108),
            ("OUTP? 1", -108),
            ("CURR? MIN,MAX", -108),
            ("FUNC:MODE POWER", -141),
            ("OUTP 2", -141),
        ],
    )
    def test_errors_change_nothing_and_answer_nothing(self, supply, line, code):
        before = supply.send("CURR?;VOLT?;:CURR:LIM?;:OUTP?;:FUNC:MODE?")
        assert supply.send(line) == ""
        assert supply.errors() == [code]
        assert supply.send("CURR?;VOLT?;:CURR:LIM?;:OUTP?;:FUNC:MODE?") == before

    def test_a_set_point_beyond_the_software_limit_is_refused(self, supply):
        supply.send("CURR:LIM 2")
        assert supply.send("CURR:LIM?") == "2.00000E+00,2.00000E+00"
        supply.send("CURR 2.5")
        assert supply.errors() == [-222]
        supply.send("CURR -2;:CURR:LIM 1")
        assert supply.errors() == [-221]
        assert float(supply.send("CURR? MAX")) == 2.0
        assert float(supply.send("CURR? MINIMUM")) == -2.0

    def test_a_fault_ends_its_line(self, supply):
        assert supply.send("OUTP?;BOGUS;CURR 3") == "0"
        assert float(supply.send("CURR?")) == 0
        assert supply.errors() == [-113]

    def test_the_queue_overflows_and_is_cleared(self, supply):
        for _ in range(30):
            supply.send("BOGUS")
        errors = supply.errors()
        assert (errors[0], errors[-1], len(errors)) == (-113, -350, 15)
        supply.send("BOGUS")
        supply.send("*CLS")
        assert supply.send("SYST:ERR:NEXT?") == '0,"No error"'

    def test_events(self, supply):
        assert supply.send("*ESR?") == "128", "power-on"
        supply.send("BOGUS")
        supply.send("CURR 99")
        supply.send("*OPC")
        assert int(supply.send("*ESR?")) == 32 + 16 + 1
        assert supply.send("*ESR?") == "0"

    def test_common_commands(self, supply):
        assert supply.send("*IDN?;*TST?;*OPC?;*WAI") == "KEPCO,BOP 36-12,SIM0001,1.0;0;1"
        supply.send("CURR 1;:CURR:LIM 2;:FUNC:MODE CURR")
        supply.send("*RST")
        assert supply.send("FUNC:MODE?;:CURR:LIM?") == "0;1.20000E+01,1.20000E+01"
        assert float(supply.send("CURR?")) == 0

    def test_lines_in_pieces(self, supply):
        kepco = supply.kepco
        assert kepco.receive(b"OUT") == b""
        assert kepco.receive(b"P?\r\n*IDN?\nOU") == b"0\nKEPCO,BOP 36-12,SIM0001,1.0\n"
        kepco.connected()
        assert kepco.receive(b"OUTP?\n") == b"0\n", "half a line of the last client is forgotten"

    def test_a_line_that_is_too_long_is_thrown_away_up_to_its_end(self, supply):
        for piece in (b"X" * 5000, b"X" * 5000, b";OUTP 1;"):
            assert supply.kepco.receive(piece) == b""
        assert supply.kepco.receive(b":OUTP 1\nOUTP?\n") == b"0\n"
        assert supply.errors() == [-363]

    @given(st.binary(max_size=60))
    @settings(max_examples=150, deadline=None)
    def test_any_bytes_leave_it_in_order(self, noise):
        kepco = Kepco(PhysicalLog(None, StationClock()), KepcoSpec())
        kepco.receive(noise + b"\n")
        assert kepco.receive(b"*CLS\n*OPC?\n") == b"1\n"

    @given(st.lists(st.booleans(), min_size=3, max_size=3), st.booleans(), st.booleans())
    def test_every_spelling_of_a_header(self, long, optional, upper):
        words = [full if use else short for use, (full, short) in zip(long, WORDS, strict=True)]
        header = ":".join(words if optional else words[1:])
        answered = Scpi("x", {"[SOURce:]CURRent:LIMit?": without(lambda: "yes")}, lambda: None)
        line = (header if upper else header.lower()).encode() + b"?\n"
        assert answered.receive(line) == b"yes\n"

    def test_no_spelling_between_short_and_long(self):
        pattern = re.compile(header_pattern("CURRent"))
        fits = [size for size in range(1, 8) if pattern.fullmatch("CURRENT"[:size])]
        assert fits == [4, 7]


WORDS = [("SOURCE", "SOUR"), ("CURRENT", "CURR"), ("LIMIT", "LIM")]


class TestSetPoints:
    @given(st.floats(-12, 12))
    @settings(max_examples=100, deadline=None)
    def test_a_current_is_read_back_within_half_a_step(self, current):
        kepco = Kepco(PhysicalLog(None, StationClock()), KepcoSpec())
        kepco.receive(f"CURR {current!r}\n".encode())
        assert float(kepco.receive(b"CURR?\n")) == pytest.approx(current, abs=STEP / 2 + 1e-4)

    def test_cards_without_a_software_limit(self, tmp_path):
        older = Supply(tmp_path / "log", KepcoSpec(limits=False))
        older.send("CURR:LIM 2")
        assert older.errors() == [-113]

    def test_a_supply_slower_than_its_coil_is_no_supply(self):
        with pytest.raises(ValidationError, match="response must be shorter"):
            KepcoSpec(response="1 s")
        assert KepcoSpec(inductance="300 mH", resistance="2 Ohm").inductance == 0.3


class TestCoil:
    @pytest.mark.parametrize(
        ("start", "wanted", "compliance"),
        [(0, 2, 36), (0, 2, 5), (0, 2, 3), (2, -2, 5), (2, 0, 5), (-1, 1, 10), (4, 0, 0.5), (1, 1, 36), (0, 0, 0)],
    )
    def test_against_integration(self, start, wanted, compliance):
        spec = KepcoSpec()

        def slope(_, current):
            drive = spec.resistance * current + spec.inductance * (wanted_now - current) / spec.response
            return (np.clip(drive, -compliance, compliance) - spec.resistance * current) / spec.inductance

        wanted_now = np.clip(wanted, -compliance / spec.resistance, compliance / spec.resistance)
        times = np.linspace(0, 0.5, 11)
        solved = solve_ivp(slope, (0, 0.5), [start], t_eval=times, max_step=1e-3, rtol=1e-8, atol=1e-10)
        closed = [driven_current(spec, start, wanted, compliance, t) for t in times]
        assert closed == pytest.approx(solved.y[0], abs=2e-4)

    @given(
        st.floats(-12, 12), st.floats(-12, 12), st.floats(0, 36), st.floats(0, 0.3), st.floats(0, 0.3), st.floats(0, 10)
    )
    def test_time_in_two_pieces_is_time_in_one(self, start, wanted, compliance, one, two, more):
        spec = KepcoSpec(inductance=0.1 + more)
        at_once = driven_current(spec, start, wanted, compliance, one + two)
        between = driven_current(spec, start, wanted, compliance, one)
        assert driven_current(spec, between, wanted, compliance, two) == pytest.approx(at_once, abs=1e-6)

    def test_the_current_lags_and_arrives(self, supply):
        supply.send("FUNC:MODE CURR;:VOLT 36;:CURR 2;:OUTP ON")
        assert supply.kepco.current < 1.0
        time.sleep(0.25)
        assert float(supply.send("MEAS:CURR?")) == pytest.approx(2.0, abs=2 * STEP)
        assert float(supply.send("MEAS:VOLT?")) == pytest.approx(4.0, abs=0.05)

    def test_compliance_limits_the_current(self, supply):
        supply.drive(2, voltage=1)
        time.sleep(0.4)
        assert float(supply.send("MEAS:CURR?")) == pytest.approx(0.5, abs=0.01)
        assert float(supply.send("MEAS:VOLT?")) == pytest.approx(1.0, abs=0.01)

    def test_voltage_mode(self, supply):
        supply.send("VOLT 3;CURR 5;OUTP 1")
        time.sleep(0.5)
        assert float(supply.send("MEAS:CURR?")) == pytest.approx(1.5, abs=0.03)
        supply.send("CURR 1")
        time.sleep(0.5)
        assert float(supply.send("MEAS:CURR?")) == pytest.approx(1.0, abs=0.03)

    def test_nothing_flows_while_it_is_off(self, supply):
        supply.send("FUNC:MODE CURR;:CURR 2;:VOLT 36")
        assert float(supply.send("MEAS:CURR?")) == 0 == float(supply.send("MEAS:VOLT?"))


class TestKick:
    @pytest.mark.parametrize("line", ["OUTP OFF", "OUTP 0", "*RST"])
    def test_switching_off_under_current(self, supply, line):
        supply.drive(2)
        supply.send(line)
        (kick,) = supply.entries("coil_kick")
        assert kick["current"] == pytest.approx(2, abs=0.01)
        assert supply.kepco.current == 0

    def test_zero_set_but_not_yet_reached(self, supply):
        supply.drive(2)
        supply.send("CURR 0;OUTP 0")
        assert len(supply.entries("coil_kick")) == 1, "what counts is the current of the coil, not the set-point"

    def test_switching_off_at_rest(self, supply):
        supply.drive(2)
        supply.send("CURR 0")
        time.sleep(0.25)
        supply.send("OUTP 0")
        assert supply.entries("coil_kick") == []

    def test_the_threshold_follows_the_limit(self, supply):
        supply.send("CURR:LIM 2")
        supply.drive(0.2)
        supply.send("OUTP 0")
        assert len(supply.entries("coil_kick")) == 1, "0.2 A are much for a limit of 2 A, little for 12 A"

    def test_every_change_is_in_the_log(self, supply):
        supply.send("FUNC:MODE CURR;:VOLT 5;CURR 1;CURR:LIM 2;:OUTP 1")
        entries = supply.entries("magnet")
        assert len(entries) == 5
        last = entries[-1]
        assert (last["output"], last["mode"], last["limit"]) == (True, "current", 2.0)
        assert last["set_current"] == pytest.approx(1, abs=STEP)
        assert math.isclose(last["set_voltage"], 5, abs_tol=0.005)


def test_pymeasure(supply):
    with served(supply) as (host, port):
        bop = KepcoBOP3612(f"TCPIP::{host}::{port}::SOCKET", visa_library="@py")
        try:
            assert bop.id == "KEPCO,BOP 36-12,SIM0001,1.0"
            assert bop.confidence_test == 0
            assert bop.operating_mode == "VOLT"
            bop.operating_mode = "CURR"
            assert bop.operating_mode == "CURR"
            bop.voltage_setpoint, bop.current_setpoint = 10, 1.5
            assert bop.voltage_setpoint == pytest.approx(10, abs=0.005)
            assert bop.current_setpoint == pytest.approx(1.5, abs=STEP)
            bop.output_enabled = True
            assert bop.output_enabled is True
            bop.wait_to_continue()
            time.sleep(0.3)
            assert bop.current == pytest.approx(1.5, abs=0.01)
            assert bop.voltage == pytest.approx(3.0, abs=0.05)
            bop.current_setpoint = 0
            time.sleep(0.3)
            bop.output_enabled = False
            bop.beep()
            assert bop.check_errors() == []
        finally:
            bop.adapter.close()
    assert supply.entries("coil_kick") == []


def test_a_client_that_goes_leaves_the_current(supply):
    with served(supply) as address:
        with socket.create_connection(address) as client:
            client.sendall(b"FUNC:MODE CURR;:VOLT 36;:CURR 2;:OUTP 1\r\nOUTP?\r\n")
            assert client.recv(10) == b"1\n"
        with socket.create_connection(address) as client:
            client.sendall(b"CURR?;:OUTP?\n")
            assert client.recv(100) == b"1.99951E+00;1\n", "the nearest the converter has to 2 A"
