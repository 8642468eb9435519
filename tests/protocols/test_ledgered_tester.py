"""The array tester of a protocol: what it lets through, and what a count of pulses is taken for."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.record.record import Batch, Pulse, Record
from instruments.roles.interfaces import (
    ArrayCapabilities,
    ArrayTester,
    BusyError,
    CurrentRange,
    Executed,
    LimitError,
    PulseNotFiredError,
    UnknownOutcomeError,
)
from protocols.bench import ledgered_tester
from protocols.bench.ledgered_tester import LedgeredTester, frames_fired

CAPS = ArrayCapabilities(
    rows=3, columns=4, kernels=2, blocks=1, block_rows=3, block_columns=8, kernel_block=(0, 0), kernel_row=(0, 0),
    kernel_column=(0, 4), v_min=-1.5, v_max=1.5, v_read_max=0.3, dac_lsb=1e-3, adc_bits=12,
    ranges=(CurrentRange(0, 1e-4),), width_min=2e-8, width_max=1e-3, width_step=1e-8, count_max=1000,
    averages_max=64, banks=2, vectors_max=8, cell="2T1R",
)  # fmt: skip
SHAPE = (2, 3, 4)
ONE = np.zeros((3, 4), bool)
ONE[1, 2] = True


class Careless:
    """Fires whatever it is told and checks nothing; `script` holds what happens instead of a pulse."""

    def __init__(self, power_on: str | None = "on 1") -> None:
        self.got, self.count, self.power_on, self.script = [], 0, power_on, []
        if power_on is not None:
            self.executed = lambda: Executed(self.count % 255, self.count, self.power_on)

    def capabilities(self):
        return CAPS

    def identify(self):
        return "tester 1"

    def last_action(self):
        return self.count % 255, self.count

    def pulse(self, *pulse, **how):
        if self.script:
            self.script.pop(0)(self)
            return
        self.got.append((*pulse, how))
        self.count += 1

    def read(self, kernel, voltage, **how):
        self.got.append(("read", voltage))
        return np.zeros((3, 4))

    def load_vectors(self, bank, voltages):
        self.got.append(("load", voltages))

    def burn(self):
        self.got.append("burnt")


@pytest.fixture
def record(tmp_path):
    with Record.open(tmp_path / "lot") as record:
        record.begin_run("test", {})
        yield record


@pytest.fixture
def ledger(record, monkeypatch):
    monkeypatch.setattr(ledgered_tester, "NOT_FIRED_PAUSES", (0.0, 0.0, 0.0))

    def made(tester):
        array = LedgeredTester(tester, record, 1, lambda: None, 100)
        array.die = "c0r0"
        return array

    return made


def raising(error):
    def happens(tester):
        raise error

    return happens


WRONG = [
    {"count": -4}, {"count": 0}, {"count": 1001}, {"count": 1.5}, {"count": "2"}, {"count": True}, {"count": np.nan},
    {"amplitude": 1.6}, {"amplitude": -1.6}, {"amplitude": np.nan}, {"amplitude": np.inf}, {"amplitude": "1 V"},
    {"amplitude": True}, {"amplitude": 1 + 0j}, {"width": 1.0}, {"width": 0.0}, {"width": -1e-7}, {"width": np.nan},
    {"width": 1.05e-8 + 1e-7}, {"kernel": -1}, {"kernel": 2}, {"kernel": 0.5}, {"kernel": None},
    {"mask": np.ones((4, 3), bool)}, {"mask": np.ones((3, 4))}, {"mask": None}, {"scheme": "V/2"},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize("way", ["fire", "pulse", "pulse_and_read"])
def test_what_is_beyond_the_limits_is_refused_before_it_is_committed(record, ledger, wrong, way):
    tester = Careless()
    array = ledger(tester)
    array.pulse(0, ONE, 1.0, 1e-7, count=5)
    pulse = {"kernel": 0, "mask": ONE, "amplitude": 1.0, "width": 1e-7, "count": 1, "scheme": None} | wrong
    with pytest.raises(LimitError):
        if way == "fire":
            array.fire([Pulse(0, ONE, 1.0, 1e-7), Pulse(**pulse)])
        elif way == "pulse":
            array.pulse(**pulse)
        else:
            array.pulse_and_read(**pulse, read_voltage=0.1)
    assert len(tester.got) == 1 and record.dose("c0r0", SHAPE)[0, 1, 2] == 5 and not record.unfired("c0r0")


def test_a_mask_that_is_changed_later_is_not_what_was_fired(record, ledger):
    mask = ONE.copy()
    tester = Careless()
    tester.script = [lambda _: mask.fill(True)]
    ledger(tester).fire([Pulse(0, mask, 1.0, 1e-7), Pulse(0, mask, 1.0, 1e-7)])
    assert tester.got[0][1].sum() == 1 and record.dose("c0r0", SHAPE).sum() == 2


def test_nothing_that_a_driver_can_do_besides_is_within_reach(ledger):
    array = ledger(Careless())
    with pytest.raises(AttributeError):
        array.burn()
    public = {name for name in dir(array) if not name.startswith("_")}
    own = {"fire", "keep_readings", "dose", "settle", "can_sweep", "sweep", "check_sweep", "current_bound", "die"}
    roles = {name for name in dir(ArrayTester) if not name.startswith("_")}
    assert public == own | roles - {"reset", "arm_watchdog"}


def test_reading_and_multiplying_stay_below_what_writes_whatever_the_tester_would_do(ledger):
    tester = Careless()
    array = ledger(tester)
    for volts in (0.31, -1.0, np.nan, np.inf):
        with pytest.raises(LimitError):
            array.read(0, volts)
        with pytest.raises(LimitError):
            array.load_vectors(0, np.full((2, 3), volts))
        with pytest.raises(LimitError):
            array.pulse_and_read(0, ONE, 1.0, 1e-7, volts)
    assert tester.got == []


def test_nothing_is_fired_without_a_die(record, ledger):
    tester = Careless()
    array = ledger(tester)
    array.die = ""
    with pytest.raises(LimitError, match="no die"):
        array.pulse(0, ONE, 1.0, 1e-7)
    assert tester.got == []


def test_a_refusal_that_only_the_tester_knows_is_settled_if_its_count_proves_it(record, ledger):
    tester = Careless()
    array = ledger(tester)
    tester.script = [lambda t: setattr(t, "count", t.count + 1), raising(LimitError("too hot for 1 V"))]
    with pytest.raises(LimitError, match="too hot"):
        array.fire([Pulse(0, ONE, 1.0, 1e-7)] * 3)
    assert record.dose("c0r0", SHAPE)[0, 1, 2] == 1 and not record.unfired("c0r0")


def test_a_refusal_of_a_tester_without_a_power_on_id_proves_nothing_at_a_count_of_zero(record, ledger):
    tester = Careless(power_on=None)
    tester.script = [raising(LimitError("too hot"))]
    with pytest.raises(LimitError):
        ledger(tester).pulse(0, ONE, 1.0, 1e-7)
    assert record.dose("c0r0", SHAPE)[0, 1, 2] == 1 and len(record.unfired("c0r0")) == 1


@pytest.mark.parametrize("power_on", [None, "on 1"])
@pytest.mark.parametrize("count", [0, 3])
def test_a_pulse_that_was_not_fired_is_tried_again_only_if_no_restart_can_explain_the_count(ledger, power_on, count):
    tester = Careless(power_on)
    tester.count, tester.script = count, [raising(PulseNotFiredError("lost"))]
    if power_on is None and count == 0:
        with pytest.raises(UnknownOutcomeError, match="restarted"):
            ledger(tester).pulse(0, ONE, 1.0, 1e-7)
        assert tester.got == []
    else:
        ledger(tester).pulse(0, ONE, 1.0, 1e-7)
        assert len(tester.got) == 1


def test_a_busy_tester_is_asked_again_whatever_its_count(ledger):
    tester = Careless(power_on=None)
    tester.script = [raising(BusyError("busy"))] * 2
    ledger(tester).pulse(0, ONE, 1.0, 1e-7)
    assert len(tester.got) == 1


def test_a_restart_between_two_attempts_is_seen_by_the_power_on_id(ledger):
    tester = Careless()

    def restart(tester):
        tester.power_on, tester.count = "on 2", 0
        raise PulseNotFiredError("lost")

    tester.script = [restart]
    with pytest.raises(UnknownOutcomeError):
        ledger(tester).pulse(0, ONE, 1.0, 1e-7)
    assert tester.got == []


def batch(actions, frames, power_on=None, last_seq=None):
    return Batch(1, 1, "d", "t", actions, (0,) * frames, power_on, last_seq)


@pytest.mark.parametrize(("cut", "now", "fired"), [
    # with the same power-on id the count is proof
    (batch(0, 3, "a"), Executed(0, 0, "a"), 0), (batch(0, 3, "a"), Executed(9, 2, "a"), 2),
    (batch(5, 3, "a"), Executed(9, 8, "a"), 3), (batch(5, 3, "a"), Executed(9, 9, "a"), None),
    (batch(5, 3, "a"), Executed(9, 4, "a"), None),
    # another power-on, or one that is not told any more: unknown
    (batch(5, 3, "a"), Executed(9, 5, "b"), None), (batch(0, 1, "a"), Executed(0, 0, "b"), None),
    (batch(5, 3, "a"), Executed(9, 5), None), (batch(5, 3), Executed(9, 5, "a"), None),
    # none at all: zero proves nothing, an unchanged count does, and so does one that is higher than the batch is long
    (batch(0, 3), Executed(0, 0), None), (batch(0, 1), Executed(4, 1), 1), (batch(5, 3), Executed(7, 5), 0),
    (batch(5, 3, last_seq=7), Executed(7, 5), 0), (batch(5, 3, last_seq=7), Executed(8, 5), None),
    (batch(5, 3), Executed(9, 7), 2), (batch(5, 3), Executed(9, 8), 3), (batch(0, 4), Executed(3, 3), None),
    (batch(1, 3), Executed(9, 2), None), (batch(5, 3), Executed(9, 2), None),
    (batch(None, 1), Executed(9, 2, "a"), None),
])  # fmt: skip
def test_what_a_count_is_taken_for(cut, now, fired):
    assert frames_fired(cut, now) == fired


def test_a_count_is_never_taken_for_fewer_frames_than_were_fired():
    """Every history of a batch of up to four frames, with a restart before any of them, or none, or two."""
    for before in range(6):
        for frames in range(1, 5):
            for done in range(frames + 1):
                for restarts in ((), *((at,) for at in range(done + 1)), (0, done), (1, done)):
                    count, last = before, 100 if before else 0
                    for frame in range(done + 1):
                        for _ in range(restarts.count(frame)):
                            count, last = 0, 0
                        if frame < done:
                            count, last = count + 1, 200 + frame
                    told = frames_fired(batch(before, frames, last_seq=100 if before else 0), Executed(last, count))
                    assert told is None or told >= done
                    known = Executed(last, count, f"on {len(restarts)}")
                    told = frames_fired(batch(before, frames, "on 0", 100), known)
                    assert told == (None if restarts else done)


@pytest.mark.parametrize("g", [np.ones((3, 4)), [[1.0]], "text", None, np.ones(SHAPE), [[[1.0] * 4] * 3] * 2])
def test_readings_of_another_shape_do_not_end_a_step_whose_pulses_were_fired(record, ledger, g):
    array = ledger(Careless())
    array.keep_readings(array.fire([Pulse(0, ONE, 1.0, 1e-7)]), g)
    ((_, kept),) = record.readings("c0r0")
    assert "g" in kept and len(record.events("not_kept")) == (np.shape(g) != SHAPE)


def test_dose_is_limited_by_what_a_cell_may_get(ledger):
    array = ledger(Careless())
    array.pulse(0, ONE, 1.0, 1e-7, count=100)
    with pytest.raises(Exception, match="more than 100 over its life"):
        array.pulse(0, ONE, 1.0, 1e-7)
