"""The TSP interpreter: what drivers send, line by line, and the error queue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_backends.wire.tsp import RUNTIME, SYNTAX, Attribute, Tsp, TspFault, constant, number


class Instrument:
    def __init__(self):
        self.level = 0.0
        self.calls = []
        names = {
            "smua.source.levelv": Attribute(lambda: self.level, self._set),
            "smua.measure.i": lambda: 1.5e-3,
            "smua.measure.iv": lambda: (1.5e-3, 0.2),
            "channel.close": self.calls.append,
            "slot[1].idn": constant("7072"),
            "smua.on": constant(True),
        }
        self.tsp = Tsp("Keithley,707B,1,2", names, lambda: self._set(0.0))

    def _set(self, value):
        self.level = number(value, -40, 40)

    def send(self, line):
        return self.tsp.receive(line.encode() + b"\n").decode().rstrip("\n")

    def error(self):
        code, message, *_ = self.send("print(errorqueue.next())").split("\t")
        return int(float(code)), message


@pytest.fixture
def instrument():
    return Instrument()


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("print(smua.measure.i())", "1.50000e-03"),
        ("print(smua.measure.i(), smua.source.levelv)", "1.50000e-03\t0.00000e+00"),
        ("print(smua.measure.iv())", "1.50000e-03\t2.00000e-01"),
        ("print(smua.measure.iv(), smua.measure.iv())", "1.50000e-03\t1.50000e-03\t2.00000e-01"),
        ("smua.source.levelv=0.2 print(smua.source.levelv)", "2.00000e-01"),
        ("smua.source.levelv = -1.5e-1; print( smua.source.levelv )", "-1.50000e-01"),
        ("x = 2 print(x + 1 * 3, -x, (x - 3) / 2)", "5.00000e+00\t-2.00000e+00\t-5.00000e-01"),
        ("print(nobody)", "nil"),
        ("print(smua.on, nil, 'a', \"b\")", "true\tnil\ta\tb"),
        ("print(slot[1].idn)", "7072"),
        ("format.asciiprecision = 10 print(smua.measure.i())", "1.500000000e-03"),
        ("print(errorqueue.next())", "0.00000e+00\tQueue Is Empty\t0.00000e+00\t1.00000e+00"),
        ("*IDN?", "Keithley,707B,1,2"),
        ("*OPC?", "1"),
    ],
)
def test_what_is_answered(instrument, line, answer):
    assert instrument.send(line) == answer
    assert instrument.error() == (0, "Queue Is Empty")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("print(", SYNTAX),
        ("smua.source.levelv 3", SYNTAX),
        ("smua.source.levelv = = 3", SYNTAX),
        ("print(1 @ 2)", SYNTAX),
        ("smua.source.bogus = 3", RUNTIME),
        ("print(smua.source.bogus)", RUNTIME),
        ("smua.bogus()", RUNTIME),
        ("smua.measure.i(1, 2)", RUNTIME),
        ("slot[1].idn = 'x'", RUNTIME),
        ("smua.source.levelv = 'x'", RUNTIME),
        ("smua.source.levelv = 41", 1101),
        ("smua.source.levelv = -41", 1102),
        ("*BOGUS", -113),
    ],
)
def test_what_cannot_be_done_changes_and_answers_nothing(instrument, line, code):
    instrument.send("smua.source.levelv = 7")
    assert instrument.send(line) == ""
    assert instrument.send("print(errorqueue.count)") == "1.00000e+00"
    assert instrument.error()[0] == code
    assert instrument.level == 7


def test_a_line_that_cannot_be_read_is_not_begun_and_one_that_fails_ends_there(instrument):
    instrument.send("smua.source.levelv = 1 print(")
    assert instrument.level == 0
    instrument.send("smua.source.levelv = 1 smua.source.bogus = 3 smua.source.levelv = 2")
    assert instrument.level == 1


def test_setting_lines_answer_nothing(instrument):
    for line in ("smua.source.levelv=1", 'channel.close("1A01")', "errorqueue.clear()", "*CLS", "reset()"):
        assert instrument.send(line) == ""
    assert instrument.calls == ["1A01"]


def test_scripts_are_refused_whole(instrument):
    for line in ("loadandrunscript", "for i = 1, 3 do", "smua.source.levelv = i", "end", "endscript"):
        assert instrument.send(line) == ""
    assert instrument.level == 0
    assert instrument.error()[0] == SYNTAX
    assert instrument.error()[0] == 0


def test_the_queue_overflows(instrument):
    for _ in range(30):
        instrument.send("smua.bogus()")
    codes = []
    while (code := instrument.error()[0]) != 0:
        codes.append(code)
    assert len(codes) == 20 and codes[-1] == -350


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_no_line_breaks_it(line):
    instrument = Instrument()
    instrument.send(line)
    assert instrument.send("print(1)").splitlines()[-1:] in (["1.00000e+00"], [])


def test_lines_may_come_in_pieces(instrument):
    assert instrument.tsp.receive(b"print(smua.mea") == b""
    assert instrument.tsp.receive(b"sure.i())\r\nprint(1)\n") == b"1.50000e-03\n1.00000e+00\n"
    instrument.tsp.receive(b"print(sm")
    instrument.tsp.forget()
    assert instrument.send("print(2)") == "2.00000e+00"


def test_a_fault_has_a_code():
    with pytest.raises(TspFault, match="too big") as caught:
        number(3.0, 0, 2)
    assert caught.value.code == 1101
