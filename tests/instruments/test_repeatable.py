"""Answers that cannot be read are asked again; instruments that a driver does not know are refused by name."""

import math

import pytest
from damaged_replies import DamagingBroker, services

from instruments.drivers.keithley_707 import Keithley707
from instruments.drivers.keithley_2600 import Keithley2602BSmu
from instruments.drivers.kepco import KepcoMagnet
from instruments.drivers.keysight_33500 import Keysight33512BPulser
from instruments.drivers.sentio import Sentio
from instruments.roles.interfaces import CompliancePolicyError, InstrumentError, LinkError
from instruments.wire import repeatable
from instruments.wire.sessions import open_visa, through

KEPCO = {"tesla_per_ampere": 0.05, "current_limit": 5.0}


class Edited:
    """A stand-in whose lines or answers are edited: `lines` on the way there, `answers` on the way back."""

    end = b"\n"

    def __init__(self, service):
        self.service, self.asked = service, []
        self.answers = []  # (what the answer holds, what comes instead, how often)

    def connected(self):
        self.service.connected()

    def receive(self, data):
        self.asked.append(data.decode().strip())
        answer = self.service.receive(data)
        for at, (holds, instead, left) in enumerate(self.answers):
            if holds in answer and left:
                self.answers[at] = (holds, instead, left - 1)
                return answer.replace(holds, instead, 1)
        return answer


@pytest.fixture
def bench():
    """Stand-ins that can be edited, reached by their names as addresses."""
    broker = DamagingBroker({}, None, 0.0)
    found = {name: Edited(service) for name, service in services().items()}
    from damaged_replies import DamagingWire

    class Never:
        def random(self):
            return 1.0

    broker.wires = {name: DamagingWire(service, Never(), 0.0) for name, service in found.items()}
    with through(broker):
        yield found


@pytest.fixture
def made():
    instruments = []
    yield instruments.append
    for each in instruments:
        each.close()


def smu(made):
    driver = Keithley2602BSmu("smu", "smu")
    made(driver)
    return driver


# -- readers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "x", "nan", "inf", "1_0", "0x10", "1e400", "9" * 400, "١", "1,0", "1 0", "--1", "1e"]
)
def test_what_is_no_decimal_number(text):
    with pytest.raises(ValueError, match="no number"):
        repeatable.decimal(text)
    with pytest.raises(ValueError, match="no "):
        repeatable.whole(text)


@pytest.mark.parametrize("text", ["0", "-1.5", "+1.50000e-03", " .5 ", "5.", "1E+9"])
def test_a_decimal_number_is_what_it_says(text):
    assert repeatable.decimal(text) == float(text)


def test_whole_numbers_may_be_printed_as_any():
    assert repeatable.whole("6.00000e+00") == 6 and repeatable.whole("-3", -3, 3) == -3
    for text in ("1.5", "4", "1e300"):
        with pytest.raises(ValueError, match="whole number"):
            repeatable.whole(text, -3, 3)


@pytest.mark.parametrize("error", [ValueError, KeyError, IndexError, OverflowError, TypeError, UnicodeError])
def test_whatever_a_reader_stumbles_over_is_asked_again_once(bench, error):
    session, left = open_visa("smu"), [1]

    def read(answer):
        if left[0]:
            left[0] -= 1
            raise error("x")
        return answer

    assert repeatable.ask(session, "print(1)", lambda: None, read) == "1.00000e+00"
    left[0] = 2
    with pytest.raises(LinkError, match="is no answer to 'print\\(1\\)'"):
        repeatable.ask(session, "print(1)", lambda: None, read)
    assert repeatable.ask(session, "print(1)", lambda: None, str) == "1.00000e+00"


# -- drivers -----------------------------------------------------------------------------------------------------------


def test_a_damaged_off_answer_is_asked_again(bench, made):
    driver = smu(made)
    for damage in (b"0.00 00e+00", b"\xb0.00000e+00", b"nan", b"1e400", b"8.00000e+00", b""):
        bench["smu"].answers = [(b"0.00000e+00", damage, 1)]
        driver.switch_off()
    bench["smu"].answers = [(b"0.00000e+00", b"1.00000e+00", 9)]
    with pytest.raises(InstrumentError, match="switch it off by hand"):
        driver.switch_off()


def test_digits_that_another_program_has_left(bench, made):
    bench["smu"].service.receive(b"format.asciiprecision=2\n")
    driver = smu(made)
    driver.switch_on("a", 1.2345e-3)
    assert driver.compliance("a") == pytest.approx(1.2345e-3)
    bench["smu"].answers = [(b"6.00000e+00", b"2.0e+00", 9)]
    driver.close()
    with pytest.raises(LinkError, match=r"format\.asciiprecision"):
        smu(made)


def test_a_queue_of_errors_that_does_not_end_is_said(bench, made):
    driver = smu(made)
    bench["smu"].answers = [(b"0.00000e+00\tQueue", b"1.00000e+00\tQueue", math.inf)]
    with pytest.raises(InstrumentError, match="reports more than 100 errors"):
        driver.switch_on("a", 1e-3)
    pulser = Keysight33512BPulser("pulser", "pulser")
    made(pulser)
    bench["pulser"].answers = [(b'+0,"No', b'-300,"No', math.inf)]
    with pytest.raises(InstrumentError, match="reports more than 100 errors"):
        pulser.arm({1: 0.5}, 1e-6)


def test_a_limit_that_reads_back_otherwise_switches_nothing_on(bench, made):
    driver = smu(made)
    bench["smu"].answers = [(b"1.00000e-03", b"1.00000e-02", 9)]
    with pytest.raises(CompliancePolicyError, match=r"reads back 0\.01 A"):
        driver.switch_on("a", 1e-3)
    assert bench["smu"].service.receive(b"print(smua.source.output)\n") == b"0.00000e+00\n"


@pytest.mark.parametrize("damage", [b"\xff", b"2,", b",", b"x", b"1e400"])
def test_parameters_of_qcodes_are_asked_again(bench, made, damage):
    driver = smu(made)
    driver.smua.limiti(2e-3)
    bench["smu"].answers = [(b"2.0", damage, 1)]
    assert driver.smua.limiti() == pytest.approx(2e-3) or damage == b"1e400"
    bench["smu"].answers = [(b"2.0", b"x", 9)]
    with pytest.raises(LinkError):
        driver.smua.limiti()
    bench["smu"].answers = []
    assert driver.smua.limiti() == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("name", "was", "found", "make", "known"),
    [
        ("smu", b"Model 2602B", b"Model 2602A", lambda: Keithley2602BSmu("x", "smu"), "2602B"),
        ("smu", b"Model 2602B", b"Model 2612B", lambda: Keithley2602BSmu("x", "smu"), "2602B"),
        ("smu", b"Model 2602B", b"Model 2636B", lambda: Keithley2602BSmu("x", "smu"), "2602B"),
        ("smu", b"Keithley Instruments", b"ACME 26", lambda: Keithley2602BSmu("x", "smu"), "2602B"),
        ("pulser", b"33512B", b"33612A", lambda: Keysight33512BPulser("x", "pulser"), "33510B, 33512B, 33522B, 33622A"),
        ("pulser", b"33512B", b"33511B", lambda: Keysight33512BPulser("x", "pulser"), "33510B, 33512B"),
        ("pulser", b"Agilent", b"Rigol", lambda: Keysight33512BPulser("x", "pulser"), "33510B, 33512B"),
        ("matrix", b"MODEL 707B", b"MODEL 707A", lambda: Keithley707("x", "matrix", outputs={}), "707B"),
        ("magnet", b"BOP 36-12", b"MST 36-5M", lambda: KepcoMagnet("x", "magnet", **KEPCO), "BOP"),
        ("magnet", b"KEPCO", b"TDK", lambda: KepcoMagnet("x", "magnet", **KEPCO), "Kepco supply BOP"),
    ],
)
def test_models_that_a_driver_does_not_know_are_refused(bench, name, was, found, make, known):
    bench[name].answers = [(was, found, math.inf)]
    with pytest.raises(InstrumentError, match="not the identity of") as caught:
        make()
    assert known in str(caught.value) and found.decode().removeprefix("Model ") in str(caught.value)
    bench[name].answers = []
    make().close()


@pytest.mark.parametrize("version", [b"2\xb5.2.3", b"25..3", b"25", b"x", b""])
def test_a_version_that_is_none_is_refused(bench, version):
    bench["prober"].answers = [(b"25.2.3", version, math.inf)]
    with pytest.raises(InstrumentError, match="version"):
        Sentio("x", "prober")


@pytest.mark.parametrize("damage", [b"nan", b"inf", b"1e999", b"1.5", b"", b"1_2", b"9" * 400])
def test_a_prober_that_counts_oddly_is_asked_again(bench, made, monkeypatch, damage):
    monkeypatch.setattr("instruments.drivers.sentio.PAUSES", (0.0, 0.0, 0.0))
    driver = Sentio("prober", "prober")
    made(driver)
    sites = driver.die_sites()
    bench["prober"].answers = [(f"0,0,{len(sites)}".encode(), b"0,0," + damage, 1)]
    assert driver.die_sites() == sites
    bench["prober"].answers = [(f"0,0,{len(sites)}".encode(), b"0,0," + damage, 99)]
    with pytest.raises(LinkError, match="does not answer"):
        driver.die_sites()


@pytest.mark.parametrize("damage", [b"nan", b"1e400", b"x", b"\xff", b"0,0", b""])
def test_a_current_that_is_none_is_asked_again(bench, made, damage):
    driver = KepcoMagnet("magnet", "magnet", **KEPCO)
    made(driver)
    bench["magnet"].answers = [(b"0.00000E+00", damage, 1)]
    assert driver.field() == 0.0
    bench["magnet"].answers = [(b"0.00000E+00", b"x", 99)]
    with pytest.raises(LinkError, match="is no answer to 'MEAS:CURR\\?'"):
        driver.field()
