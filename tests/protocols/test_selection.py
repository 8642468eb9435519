"""Which dies a run works on, what becomes of each, and what stops a run: too many bad dies, a drifting golden die."""

import threading
import time

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scripted_run import start_run

from analysis.record.record import VERDICTS, Record, running, send_request
from instruments.roles.interfaces import InstrumentError
from protocols.bench.bench import DieFault
from protocols.sequencer.golden import GoldenDieError
from protocols.sequencer.selection import RunSettings, SelectionError, bins, names, of_options
from protocols.sequencer.stopping import RunAborted
from protocols.sequencer.verdicts import TooManyFailuresError, VerdictError

DONE = []
#: What the step gives as verdict on a die, or raises; changed by the tests.
FOUND = {}


@pytest.fixture(autouse=True)
def fresh():
    DONE.clear()
    FOUND.clear()


@pytest.fixture
def lot(tmp_path):
    """Runs scripts over one record, one after the other; `lot.record()` reads it."""

    def start(script, settings=None, **rest):
        return start_run(tmp_path, script, settings, **rest)

    start.folder = tmp_path
    start.record = lambda: Record.open(tmp_path, create=False, write=False)
    return start


def measure(bench, die, *, n=0):
    DONE.append(die.name)
    found = FOUND.get(die.name, "pass")
    if isinstance(found, BaseException):
        raise found
    attrs = {"verdict": found, "reason": f"{found} of {die.name}"} if found else {}
    return xr.Dataset({"x": ("i", np.array([n]))}, attrs=attrs)


def each(run):
    for die in run.dies():
        run.step(measure, die)


def attempts(run):
    for die in run.dies():
        with run.attempt(die):
            run.step(measure, die)


def verdicts(lot):
    with lot.record() as record:
        return {die: (v.verdict, v.bin, v.reason) for die, v in record.verdicts().items()}


# which dies


def test_only_and_skip(lot):
    lot(each, RunSettings(only=("c2r0", "c0r0"), skip=("c0r0",)))
    assert DONE == ["c2r0"]
    lot(each, RunSettings(skip=("c1r0",)))
    assert DONE == ["c2r0", "c0r0"]  # the other one comes from the record
    assert verdicts(lot)["c1r0"] == ("skipped", 4, "skip list") and verdicts(lot)["c0r0"][0] == "pass"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (RunSettings(only=("c9r9",)), "--only c9r9: no such die; the run has 3 dies: c0r0, c1r0, c2r0"),
        (RunSettings(dies=2, only=("c2r0",)), "--only c2r0: no such die; the run has 2 dies: c0r0, c1r0"),
        (RunSettings(skip=("x",)), "--skip x"),
        (RunSettings(golden="x"), "--golden x"),
        (RunSettings(skip=("c0r0", "c1r0", "c2r0")), "no die is left"),
        (RunSettings(retest_verdicts=("error",)), r"no die has verdict error; there are fail \(1 die\), pass \(2 dies"),
        (RunSettings(retest_bins=(7,)), r"no die has bin 7; there are 1 \(pass, 2 dies\), 2 \(fail, 1 die\)"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_moves(lot, settings, says):
    FOUND["c1r0"] = "fail"
    lot(each)
    DONE.clear()
    with pytest.raises(SelectionError, match=says):
        lot(each, settings)
    assert DONE == []


def test_unknown_words():
    with pytest.raises(SelectionError, match=f"--retest bad: a verdict is one of {', '.join(VERDICTS)}"):
        RunSettings(retest_verdicts=("bad",))
    with pytest.raises(SelectionError, match="whole numbers"):
        bins("2,x")


WORDS = st.lists(st.text("cr0123456789", min_size=1), max_size=4).map(tuple)


@given(WORDS, WORDS, st.lists(st.sampled_from(VERDICTS)).map(tuple), st.lists(st.integers(0, 255)).map(tuple))
def test_settings_survive_the_record_and_the_command_line(only, skip, again, numbers):
    settings = RunSettings(4, None, only, skip, again, numbers, 0, "c1r1", 2)
    assert RunSettings.from_dict(settings.to_dict()) == settings
    assert names(", ".join(only)) == only
    words = (",".join(only), ",".join(skip), ",".join(again), ",".join(map(str, numbers)))
    assert of_options(4, None, *words, 0, "c1r1", 2) == settings


def test_a_retest_does_these_dies_anew_and_only_once(lot):
    FOUND["c1r0"], FOUND["c2r0"] = "fail", "inconclusive"
    lot(each)
    DONE.clear()
    FOUND["c2r0"] = InstrumentError("cable")
    again = RunSettings(retest_verdicts=("fail",), retest_bins=(3,))
    with pytest.raises(InstrumentError):
        lot(each, again)
    assert DONE == ["c1r0", "c2r0"]
    FOUND.clear()
    lot(each, again)  # goes on: c1r0 was done anew, and is not a second time, though it failed again
    assert DONE == ["c1r0", "c2r0", "c2r0"]
    assert verdicts(lot)["c1r0"][0] == "fail" and verdicts(lot)["c2r0"][0] == "pass"
    lot(each, RunSettings(retest_verdicts=("fail",)))
    assert DONE[3:] == ["c1r0"] and verdicts(lot)["c1r0"] == ("pass", 1, "pass of c1r0")


# verdicts


def test_the_worst_word_of_the_steps_is_the_verdict_and_the_prober_gets_its_bin(lot):
    def two(run):
        for die in run.dies():
            run.step(measure, die)
            FOUND[die.name] = {"c0r0": "pass", "c1r0": "pass", "c2r0": ""}[die.name]
            run.step(measure, die, n=1)

    FOUND.update({"c0r0": "inconclusive", "c1r0": "fail", "c2r0": ""})
    bench = lot(two)
    assert verdicts(lot) == {
        "c0r0": ("inconclusive", 3, "inconclusive of c0r0"),
        "c1r0": ("fail", 2, "fail of c1r0"),
        "c2r0": ("pass", 1, ""),  # steps that say nothing found nothing bad
    }
    assert bench.bins == {"c0r0": 3, "c1r0": 2, "c2r0": 1}
    with lot.record() as record:
        before = len(record.all_verdicts())
    assert lot(two) is None
    with lot.record() as record:
        assert len(record.all_verdicts()) == before  # nothing new was found out


def test_a_protocol_gives_its_own_verdict(lot):
    def own(run):
        for die in run.dies():
            run.step(measure, die)
            if die.name == "c1r0":
                run.verdict(die, "fail", bin=7, reason="too slow")

    assert lot(own).bins == {"c0r0": 1, "c1r0": 7, "c2r0": 1}
    assert verdicts(lot)["c1r0"] == ("fail", 7, "too slow")
    with pytest.raises(VerdictError, match="'bad'"):
        lot(lambda run: [run.verdict(die, "bad") for die in run.dies()])


def test_a_step_with_an_unknown_verdict(lot):
    FOUND["c1r0"] = "FAIL"
    with pytest.raises(VerdictError, match=r"measure gave verdict 'FAIL'; a step's verdict is pass"):
        lot(each)
    with lot.record() as record:
        (step,) = record.history("p", "c1r0")  # what was measured is kept, for someone to judge
        assert step.verdict == "inconclusive" and record.load(step)["x"].values.tolist() == [0]
        assert "measure gave verdict 'FAIL'" in record.load(step).attrs["reason"]


@pytest.mark.parametrize(
    ("error", "verdict", "bin", "reason"),
    [
        (InstrumentError("no answer"), "error", 6, "InstrumentError: no answer"),
        (KeyboardInterrupt("second Ctrl-C"), "aborted", 5, "KeyboardInterrupt: second Ctrl-C"),
        (SystemExit(143), "aborted", 5, "SystemExit: terminated, status 143"),
    ],
)
def test_what_breaks_off_a_die_is_its_verdict(lot, error, verdict, bin, reason):
    FOUND["c1r0"] = error
    with pytest.raises(type(error)):
        lot(each)
    assert verdicts(lot) == {"c0r0": ("pass", 1, "pass of c0r0"), "c1r0": (verdict, bin, reason)}


# too many


def test_dies_in_a_row_that_do_not_pass_stop_the_run(lot):
    FOUND.update({f"c{n}r0": "fail" for n in (1, 3, 4)} | {"c5r0": "inconclusive"})
    says = r"3 dies in a row did not pass: c3r0 fail \(fail of c3r0\); c4r0 .*; c5r0 inconclusive .*--stop-after 0"
    with pytest.raises(TooManyFailuresError, match=says):
        lot(each, count=8)
    assert len(DONE) == 6 and DONE[-1] == "c5r0"
    assert verdicts(lot)["c5r0"][0] == "inconclusive"
    lot(each, RunSettings(stop_after=0), count=8)
    assert DONE[6:] == ["c6r0", "c7r0"]


def test_dies_from_the_record_do_not_count(lot):
    FOUND.update({f"c{n}r0": "fail" for n in range(6)})
    with pytest.raises(TooManyFailuresError):
        lot(each, RunSettings(stop_after=3), count=8)
    with pytest.raises(TooManyFailuresError, match=r"c3r0.*c4r0.*c5r0"):
        lot(each, RunSettings(stop_after=3), count=8)


def test_passes_over_the_lot_count_each_die_once_a_pass(lot):
    def passes(run):
        for n in range(2):
            for die in run.dies():
                run.step(measure, die, n=n)

    FOUND["c0r0"] = FOUND["c1r0"] = "fail"
    lot(passes)  # c2r0 passes between two rows of two
    assert len(DONE) == 6


# faults


def test_a_fault_of_a_die_is_passed_over_and_stays_so_when_the_run_goes_on(lot):
    FOUND.update({"c1r0": DieFault("c1r0 lost contact"), "c2r0": InstrumentError("cable")})
    with pytest.raises(InstrumentError, match="cable"):
        lot(attempts)
    assert verdicts(lot)["c1r0"] == ("inconclusive", 3, "c1r0 lost contact")
    assert verdicts(lot)["c2r0"][0] == "error"
    DONE.clear()
    FOUND.clear()
    bench = lot(attempts)  # the same run: what came later was decided without c1r0
    assert DONE == ["c2r0"] and "c1r0" not in bench.entered
    lot(attempts)  # a new run
    assert DONE == ["c2r0", "c1r0"] and verdicts(lot)["c1r0"][0] == "pass"


def test_a_fault_leaves_the_die(lot):
    FOUND["c1r0"] = DieFault("lost")
    assert lot(attempts).left == 2  # at the fault, and at the end


def test_dies_of_a_row_that_stopped_a_run_are_tried_again(lot):
    FOUND.update({f"c{n}r0": DieFault("needles") for n in range(3)})
    with pytest.raises(TooManyFailuresError, match="needles"):
        lot(attempts)
    FOUND.clear()
    lot(attempts)
    assert DONE == ["c0r0", "c1r0", "c2r0"] * 2
    assert {v[0] for v in verdicts(lot).values()} == {"pass"}


# the golden die


def test_the_golden_die_is_looked_at_every_so_many_dies_and_not_worked_on(lot):
    bench = lot(each, RunSettings(golden="c1r0", golden_every=2), count=5)
    assert bench.entered == ["c1r0", "c0r0", "c2r0", "c1r0", "c3r0", "c4r0"]
    with lot.record() as record:
        assert [step.verdict for step in record.history("golden", "c1r0")] == ["pass", "pass"]
        assert record.history("p", "c1r0") == []
    DONE.clear()
    assert lot(each, RunSettings(golden="c1r0", golden_every=2), count=5) is None


@pytest.mark.parametrize(("drift", "stops"), [(0.04, False), (0.06, True), (-0.06, True)])
def test_a_golden_die_that_drifts_stops_the_run(lot, drift, stops):
    settings = RunSettings(golden="c2r0", golden_every=1)

    def drifting(run):
        for die in run.dies():
            run.step(measure, die)
            run._bench.g *= 1 + drift

    if not stops:
        lot(drifting, settings)
        return
    with pytest.raises(GoldenDieError, match=r"golden die c2r0: conductance is 6\.0% off.*needles"):
        lot(drifting, settings)
    assert DONE == ["c0r0"]
    assert verdicts(lot)["c0r0"][0] == "pass"


def test_a_golden_die_without_contact(lot):
    with pytest.raises(GoldenDieError, match="does not conduct"):
        lot(attempts, RunSettings(golden="c2r0"), dead=("c2r0",))


# from another process


def test_a_pause_waits_between_two_steps_with_the_needles_off(lot):
    said, seen = [], []

    def later():
        while (run := running(lot.folder)) is None or run["status"] != "paused":
            time.sleep(0.02)
        seen.append(list(DONE))
        send_request(lot.folder, "resume")

    def script(run):
        for die in run.dies():
            if die.index == 1:
                send_request(lot.folder, "pause")
                threading.Thread(target=later).start()
            run.step(measure, die)

    bench = lot(script, said=said)
    assert seen == [["c0r0"]] and len(DONE) == 3
    assert bench.left == 2
    assert f"xbar resume {lot.folder} goes on" in " ".join(said)
    with lot.record() as record:
        assert [event["data"]["step"] for event in record.events("paused")] == [2]  # the survey, and c0r0
        assert len(record.events("resumed")) == 1


def test_an_abort_breaks_off_the_step_at_its_next_sign_of_progress(lot):
    def long(report, *, n):
        send_request(lot.folder, "abort")
        report("on", 0.5)
        DONE.append("never")
        return xr.Dataset()

    def script(run):
        for die in run.dies():
            run.step(measure, die)
            run._watch.progress = lambda text, share: run.poll()
            run.compute(long, n=die.index)

    with pytest.raises(RunAborted, match="xbar abort"):
        lot(script)
    assert DONE == ["c0r0"] and verdicts(lot)["c0r0"][0] == "aborted"


def test_polling_is_cheap(lot):
    def script(run):
        began = time.perf_counter()
        for _ in range(1000):
            run.poll()
        assert time.perf_counter() - began < 0.2

    lot(script)
