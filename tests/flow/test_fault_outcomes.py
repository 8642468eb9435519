"""What becomes of a run when something goes wrong, fault by fault (docs/faults.md).

Every run is judged by the physical log of its station and by the record: nothing fired that is not in the record,
nothing fired twice, lines grounded before needles lift, needles up and outputs off at the end.
"""

import io
import re
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from happened import fired_per_cell, happened, of_kind
from in_process import serve_here
from rich.console import Console

from analysis.record import database as record_database
from analysis.record.record import Pulse, Record, RecordError
from instruments.roles.interfaces import (
    ArrayCapabilities,
    CurrentRange,
    InstrumentError,
    InterlockError,
    LimitError,
    LinkError,
    ProberError,
    PulseNotFiredError,
    UnknownOutcomeError,
)
from instruments.station import write_station
from mapping.dies.die_record import DieRecord
from mapping.dies.geometry import MTJ_20K
from mapping.placement.coding import AP, DONT_CARE, P
from mapping.placement.placement import place
from mapping.writing.schedule import Batch, PulseSettings, WriteSchedule
from protocols.bench.bench import DOSE_LIMIT, WATCHDOG, LedgeredTester
from protocols.sequencer.execute import execute
from protocols.sequencer.run import protocol
from protocols.sequencer.selection import RunSettings
from protocols.steps.characterise import check_contact
from protocols.steps.write_verify import program

SHAPE = MTJ_20K.shape
DIES = ("c3r3", "c3r2")
STEPS = ["check-contact", "read_and_pulse", "program"]
PATCH = np.zeros(SHAPE[1:], bool)
PATCH[2:10, 2:10] = True  # sound cells of kernel 0 on both dies
MEASURED = DieRecord("any", MTJ_20K, np.full(SHAPE, 140e-6), np.full(SHAPE, 75e-6), np.zeros(SHAPE, np.uint8))

#: What a test has happen when a die is about to be pulsed for the first time.
BEFORE_PULSING = {}


def checkers():
    """A schedule that writes a small checkerboard into kernel 0."""
    states = np.full(SHAPE, DONT_CARE, np.int8)
    states[0][PATCH] = (np.indices(PATCH.shape).sum(axis=0) % 2)[PATCH]
    batches = tuple(Batch(0, state, states[0] == state) for state in (AP, P))
    return WriteSchedule(MTJ_20K, place([(4, 4)], MTJ_20K), states, batches)


def read_and_pulse(bench, die):
    BEFORE_PULSING.get(die.name, lambda: None)()
    reads = []
    for amplitude in (-1.0, 1.05):
        bench.array.fire([Pulse(kernel, PATCH, amplitude, 200e-9) for kernel in (0, 31)])
        reads.append(bench.array.read(0, 0.1))
    reads.append(np.nan_to_num(bench.array.pulse_and_read(31, PATCH, -0.9, 200e-9, 0.1)))
    return xr.Dataset({"current": (("i", "row", "column"), np.array(reads), {"units": "A"})})


@protocol
def exercise(run):
    for die in run.dies():
        with run.attempt(die):
            if run.step(check_contact, die).attrs["verdict"] == "pass":
                run.step(read_and_pulse, die)
                run.step(program, die, schedule=checkers(), die_record=MEASURED)


@dataclass
class FaultyStation:
    """A station with faults, the lot that is measured at it, and what is known of both."""

    home: Path
    file: Path

    def run(self):
        """Run the protocol, or go on with it."""
        console = Console(file=io.StringIO())
        given = {"lot": "mtj", "settings": RunSettings(), "console": console}
        return execute(exercise, "exercise", {}, out=self.home / "lot", station=self.file, **given)

    def record(self):
        return Record.open(self.home / "lot", write=False)

    def verdicts(self):
        with self.record() as record:
            return {die: said.verdict for die, said in record.verdicts().items()}

    def steps(self, die):
        with self.record() as record:
            return [step.name.rpartition(".")[2] for step in record.history("exercise", die)]

    def happened(self, *kinds):
        """What physically happened up to now; only entries of `kinds`, if given."""
        entries = happened(self.home / "physical.jsonl")
        return of_kind(entries, *kinds) if kinds else entries

    def struck(self):
        return [entry["kind"] for entry in self.happened("fault")]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Attempts follow each other faster than they would at a bench."""
    monkeypatch.setattr("instruments.drivers.sentio.PAUSES", (0.02, 0.1, 0.6))
    monkeypatch.setattr("instruments.drivers.sentio.BUSY_PAUSES", (0.05,) * 4)
    monkeypatch.setattr("instruments.board_protocol.link.PAUSE", 0.02)
    monkeypatch.setattr("protocols.bench.ledgered_tester.NOT_FIRED_PAUSES", (0.05,) * 3)


@pytest.fixture
def at_station(tmp_path):
    """Starts a station with faults; when the test is over, everything that happened at it is judged."""
    BEFORE_PULSING.clear()
    log = tmp_path / "physical.jsonl"
    started = ExitStack()

    def start(*faults, **settings):
        config = {"lot": "mtj", "seed": 0, "dies": 2, "log": log, "faults": faults, **settings}
        served = started.enter_context(serve_here(config))
        file = write_station(tmp_path / "station.yaml", served.prober, served.board)
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        tree["instruments"]["prober"]["init"] = {"timeout": "250 ms", "move_timeout": "500 ms"}
        tree["instruments"]["array"]["init"] = {"timeout": "250 ms", "pulse_limit": "1.3 V"}
        file.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return FaultyStation(tmp_path, file)

    with started:
        yield start
    _judge(happened(log), tmp_path / "lot")


def _judge(entries, folder):
    """Safe at the end and on every way there; nothing fired that is not in the record, and nothing twice."""
    needles = of_kind(entries, "contact", "separation")
    assert not needles or needles[-1]["what"] == "separation", "the chuck is down"
    assert {entry["outputs"] for entry in of_kind(entries, "separation")} <= {"hard_ground"}
    outputs = of_kind(entries, "outputs")
    assert not outputs or outputs[-1]["mode"] == "hard_ground", "outputs are off"
    assert not any(entry["contact_while_moving"] for entry in of_kind(entries, "move"))
    assert all(entry["actions"] == at for at, entry in enumerate(of_kind(entries, "pulse"), start=1))
    with Record.open(folder, write=False) as record:
        for die in DIES:
            assert (fired_per_cell(entries, record, die, SHAPE) <= record.dose(die, SHAPE)).all()
            site = tuple(map(int, re.findall(r"\d+", die)))
            really = [entry for entry in of_kind(entries, "pulse") if tuple(entry["site"] or ()) == site]
            assert len(really) <= sum(intent.fired is not False for intent in record.intents(die))


def _every_pulse_once(station):
    """The dies got exactly what the record says."""
    with station.record() as record:
        for die in DIES:
            really = fired_per_cell(station.happened(), record, die, SHAPE)
            assert np.array_equal(really, record.dose(die, SHAPE))


def _finished(station):
    """Everything was done and judged good."""
    assert station.verdicts() == dict.fromkeys(DIES, "pass")
    assert all(station.steps(die) == STEPS for die in DIES)


def on_board(kind, matching, nth=1, **more):
    return {"kind": kind, "where": "board", "matching": matching, "nth": nth, **more}


def on_prober(kind, matching, nth=1, **more):
    return {"kind": kind, "where": "prober", "matching": matching, "nth": nth, **more}


READ, PULSE, BOTH = "READ", "PULSE", "PULSE_READ"
HEIGHT, STEP, UP, DOWN = "get_chuck_z", "map:step", "move_chuck_contact", "move_chuck_separation"

#: What a run gets over by itself. Reads and questions are repeated. A pulse whose reply is lost is settled by the
#: board's count: fired, and the run goes on; not fired, and the same intent is tried again. A prober that does not
#: answer a movement is asked where it is. Busy means that nothing was done, so the command is given again.
#: With the faults: how many pulses the board said it had not fired.
GONE_ON = {
    "board, lost replies and requests": (2, [
        on_board("lost_reply", READ, 3), on_board("lost_reply", PULSE, 2), on_board("lost_reply", BOTH),
        on_board("lost_request", READ, 7), on_board("lost_request", PULSE, 4), on_board("lost_request", BOTH, 2)]),
    "board, late and duplicated replies": (0, [
        on_board("late_reply", READ, 3, seconds=0.4), on_board("late_reply", PULSE, 2, seconds=0.4),
        on_board("late_reply", "LAST_ACTION", 2, seconds=0.4),
        {"kind": "duplicated_reply", "where": "board", "every": 1}]),
    "board, garbled replies and busy": (3, [
        {"kind": "garbled_reply", "where": "board", "every": 8, "matching": [READ, PULSE, BOTH]},
        on_board("busy", READ, 4), on_board("busy", PULSE, 1, **{"for": 2}), on_board("busy", BOTH)]),
    "board, disconnected, refuses connections": (1, [
        on_board("disconnect", PULSE, 2), on_board("disconnect", PULSE, 4, before=True), on_board("disconnect", BOTH),
        on_board("disconnect", "IDLE", 2), on_board("refuse_connections", READ, 9, **{"for": "100 ms"})]),
    "prober, lost replies and requests": (0, [
        on_prober("lost_reply", HEIGHT, 2), on_prober("lost_reply", STEP, 2), on_prober("lost_reply", UP),
        on_prober("lost_reply", DOWN), on_prober("lost_request", STEP, 1), on_prober("lost_request", DOWN, 2)]),
    "prober, late and duplicated replies": (0, [
        on_prober("late_reply", HEIGHT, 3, seconds=0.4), on_prober("late_reply", STEP, 2, seconds=0.8),
        {"kind": "duplicated_reply", "where": "prober", "every": 7}]),
    "prober, garbled replies and busy": (0, [
        {"kind": "garbled_reply", "where": "prober", "every": 11}, on_prober("busy", HEIGHT, 2),
        on_prober("busy", STEP, 2), on_prober("busy", UP, 2), on_prober("busy", "get_door", 2)]),
    "prober, disconnected, refuses connections": (0, [
        on_prober("disconnect", HEIGHT, 2), on_prober("disconnect", STEP, 2),
        on_prober("disconnect", DOWN, before=True),
        on_prober("refuse_connections", "get_door", 4, **{"for": "200 ms"})]),
    "prober, loses contact when the needles come down": (0, [on_prober("loses_contact", HEIGHT, 3)]),
}  # fmt: skip


@pytest.mark.parametrize(("not_fired", "faults"), GONE_ON.values(), ids=GONE_ON.keys())
def test_a_run_gets_over_it(at_station, not_fired, faults):
    station = at_station(*faults)
    assert station.run().status == "finished"
    assert {fault["kind"] for fault in faults} == set(station.struck())
    _finished(station)
    _every_pulse_once(station)
    with station.record() as record:
        assert len(record.events("not_fired")) == not_fired


#: What no run goes on with: it aborts before anything is touched or fired that should not be, says why, and once
#: that is put right the same command goes on. Fault, error, what the message must say, steps that are kept.
ABORTED = {
    "lifts but does not step": (
        {"kind": "no_step", "nth": 2}, ProberError, "sent to c3r2 .* index says c3r3.*nothing was touched", (3, 0)),
    "steps twice": (
        {"kind": "double_step"}, ProberError, "sent to c3r3 .* index says c3r2.*stepped too far", (0, 0)),
    "reports the wrong die": (
        {"kind": "wrong_die", "matching": "map:die", "nth": 2}, ProberError, "sent to c3r2 .* says c3r3", (3, 0)),
    "does not separate": (
        {"kind": "no_separation", "for": 2}, ProberError, "reports success .* height says contact.*See where", (3, 0)),
    "board is busy for good": (
        on_board("busy", PULSE, 2, **{"for": 4}), PulseNotFiredError, "did not fire .* 4 attempts.*busy", (1, 0)),
    "board is gone after a pulse": (
        on_board("refuse_connections", PULSE, 2, **{"for": "2.2 s"}),
        UnknownOutcomeError, "Count the pulses as fired", (1, 0)),
    "prober is gone with the needles down": (
        on_prober("refuse_connections", HEIGHT, 4, **{"for": "2 s"}),
        LinkError, "does not answer.*cable is in", (0, 0)),
    "door is open before contact": (
        {"kind": "door_open", "matching": STEP, "nth": 2, "for": "0.8 s"}, InterlockError, "door.*close it", (3, 0)),
    "door opens between pulses": (
        {"kind": "door_open", "matching": "get_door", "nth": 4, "for": "0.8 s"},
        InterlockError, "door.*Close it", (1, 0)),
    "chuck gets too hot": (
        {"kind": "over_temperature", "celsius": 125.5, "matching": "status:get_chuck_temp", "nth": 6, "for": "0.8 s"},
        InterlockError, "125.5 °C, above 125 °C.*let it cool", (1, 0)),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "error", "message", "kept"), ABORTED.values(), ids=ABORTED.keys())
def test_a_run_is_aborted_safely_and_goes_on_when_it_is_cured(at_station, fault, error, message, kept):
    station = at_station(fault)
    with pytest.raises(error, match=message) as raised:
        station.run()
    assert getattr(raised.value, "__notes__", []) == [], "everything else went well"
    assert fault["kind"] in station.struck()
    before = [station.steps(die) for die in DIES]
    assert tuple(map(len, before)) == kept
    _judge(station.happened(), station.home / "lot")
    time.sleep(0.8 if fault["kind"] in ("door_open", "over_temperature") else 0)
    assert station.run().status == "finished"
    _finished(station)
    _every_pulse_once(station)
    with station.record() as record:
        assert record.events("superseded") == []
        runs = [[step.run for step in record.history("exercise", die)] for die in DIES]
    assert [[run for run in of_die if run == 1] for of_die in runs] == [[1] * len(steps) for steps in before]


def test_a_die_that_loses_contact_is_left_and_the_run_goes_on(at_station):
    station = at_station(on_board("loses_contact", PULSE, 2))
    assert station.run().status == "finished"
    assert station.verdicts() == {DIES[0]: "inconclusive", DIES[1]: "pass"}
    assert [station.steps(die) for die in DIES] == [STEPS[:1], STEPS]
    with station.record() as record:
        reason = record.verdicts()[DIES[0]].reason
    assert re.search(r"contact was lost: 0% .* 100% did when the needles came down.*clean the needles", reason)


def test_limits_that_the_board_ignores_are_noticed_before_anything_moves(at_station):
    station = at_station({"kind": "limits_ignored", "for": 1})
    with pytest.raises(
        LimitError, match=r"reads back .* 1\.649 V, asked were .* 1\.299 V; refusing to pulse.*firmware"
    ):
        station.run()
    assert station.happened("move", "contact", "pulse", "read") == []
    station.run()
    _finished(station)


@pytest.mark.parametrize("kind", ["stuck_channel", "stuck_relay"])
def test_what_is_stuck_costs_no_more_pulses_than_the_schedule_allows(at_station, kind):
    station = at_station({"kind": kind, "index": 3, "matching": READ, "nth": 4})
    assert station.run().status == "finished"
    assert station.verdicts() == dict.fromkeys(DIES, "fail")
    line = {"stuck_channel": "row 3", "stuck_relay": "column 3"}[kind]
    with station.record() as record:
        for die in DIES:
            reason = record.verdicts()[die].reason
            assert re.search(rf"[48] of 64 .* wrong after up to 8 pulses each, .* {line} of the kernels: check", reason)
            assert record.dose(die, SHAPE).max() <= 2 + PulseSettings().attempts_max
    _every_pulse_once(station)


class Disk:
    """The disk that holds the record of the run."""

    def __init__(self, monkeypatch):
        self.record = None
        connect = record_database._connect

        def noted(path, mode):
            database = connect(path, mode)
            self.record = database if mode == "rw" else self.record
            return database

        monkeypatch.setattr(record_database, "_connect", noted)

    def fill(self):
        """No page more than there is."""
        self.record.execute("PRAGMA max_page_count=1")

    def slow_down(self):
        """Every statement takes its time; one commit longer than the board waits for a word of its host."""
        waits = iter([WATCHDOG + 0.3])
        self.record.set_trace_callback(lambda said: time.sleep(next(waits, 0.01) if said == "COMMIT" else 0.001))


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def test_a_full_disk_aborts_the_run_and_loses_nothing(at_station, disk):
    station = at_station()
    BEFORE_PULSING[DIES[1]] = disk.fill
    with pytest.raises(RecordError, match=r"disk is full.*record is as it was.*make room there, then go on") as raised:
        station.run()
    assert not any("NOT SAFE" in note for note in getattr(raised.value, "__notes__", []))
    assert [station.steps(die) for die in DIES] == [STEPS, STEPS[:1]]
    _judge(station.happened(), station.home / "lot")
    BEFORE_PULSING.clear()
    assert station.run().status == "finished"
    _finished(station)
    _every_pulse_once(station)


def test_a_slow_disk_only_takes_longer(at_station, disk):
    station = at_station()
    BEFORE_PULSING[DIES[1]] = disk.slow_down
    assert station.run().status == "finished"
    assert "watchdog" not in [entry["why"] for entry in station.happened("outputs")]
    _finished(station)
    _every_pulse_once(station)


def test_what_could_not_be_made_safe_is_said(at_station, monkeypatch):
    station = at_station({"kind": "no_step", "nth": 2})

    def unheard(self, reason="asked to"):
        raise InstrumentError("prober: cannot be opened again")

    with monkeypatch.context() as patch:
        patch.setattr("instruments.station.Station.safe", unheard)
        with pytest.raises(ProberError) as raised:
            station.run()
    assert any("NOT SAFE" in note and "needles up" in note for note in raised.value.__notes__)


CAPS = ArrayCapabilities(
    **vars(MTJ_20K), v_min=-1.5, v_max=1.5, v_read_max=0.3, dac_lsb=1e-3, adc_bits=12, ranges=(CurrentRange(0, 1e-4),),
    width_min=2e-8, width_max=1e-3, width_step=1e-8, count_max=1000, averages_max=64, banks=2, vectors_max=8,
    cell="2T1R",
)  # fmt: skip


class LateTester:
    """A tester that says it fired nothing, and then counts `late` frames more: a request was still on its way."""

    def __init__(self, late):
        self.actions, self.pulses, self._late = 7, 0, late

    def capabilities(self):
        return CAPS

    def identify(self):
        return "late"

    def last_action(self):
        return 0, self.actions

    def pulse(self, *_, **__):
        self.pulses += 1
        self.actions += self._late
        raise PulseNotFiredError("busy; nothing was fired.")


@pytest.mark.parametrize(("late", "sent"), [(0, 4), (1, 1), (2, 1)])
def test_a_pulse_that_was_fired_late_is_not_fired_again(tmp_path, late, sent):
    """Not fired: tried four times. Fired after all: not again. Anything else: unknown, and all of it counts."""
    outcome = {0: pytest.raises(PulseNotFiredError, match="4 attempts"), 1: nullcontext(),
               2: pytest.raises(UnknownOutcomeError, match="expected were 7: it was restarted")}[late]  # fmt: skip
    tester = LateTester(late)
    with Record.open(tmp_path) as record:
        array = LedgeredTester(tester, record, record.begin_run("test", {}), lambda: None, DOSE_LIMIT)
        array.die = "c0r0"
        with outcome:
            array.fire([Pulse(0, PATCH, 1.0, 200e-9)])
        assert tester.pulses == sent
        assert record.dose("c0r0", SHAPE)[0].max() == 1 and len(record.unfired("c0r0")) == (late != 1)
