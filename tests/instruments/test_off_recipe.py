"""Making safe: the order, each instrument's own time, and what is tried when something does not answer."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruments.roles.off_recipe import DISCHARGE, Device, KeepAlive, OffRecipe, OffStep, Stage, make_safe


class Wire:
    """A transport that plays a script: `answers` holds, per message sent, what comes back (an exception is raised)."""

    def __init__(self, *answers, takes=0.0, opens=None, log=None):
        self.answers, self.takes, self.opens = list(answers), takes, opens
        self.sent, self.arriving, self.opened = [], [], 0
        self.log = [] if log is None else log

    def open(self):
        self.opened += 1
        self.arriving.clear()
        if isinstance(self.opens, Exception):
            raise self.opens
        if self.opens is not None:
            self.answers = list(self.opens)

    def send(self, data):
        self.sent.append(data)
        self.log.append((data, time.monotonic()))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        self.arriving += [] if answer is None else answer

    def receive(self, terminator, timeout):
        time.sleep(min(self.takes, timeout))
        if not self.arriving:
            time.sleep(max(0.0, timeout - self.takes))
            raise TimeoutError("no complete reply in time")
        return self.arriving.pop(0)


def recipe(stage=Stage.SOURCE, steps=1, limit=0.4, reply=b"ok.*", **more):
    return OffRecipe(stage, tuple(OffStep(b"off%d" % n, reply) for n in range(steps)), b"\n", limit=limit, **more)


def test_stages_in_order_and_side_by_side_within_one():
    log = []
    stages = (Stage.FIELD, Stage.PROBER, Stage.SOURCE, Stage.MATRIX, Stage.SOURCE)
    devices = [
        Device(f"{n}", Wire([b"ok"], takes=0.1, log=log), OffRecipe(stage, (OffStep(b"%d" % n, b"ok"),), b"\n"))
        for n, stage in enumerate(stages)
    ]
    began = time.monotonic()
    outcomes = make_safe(devices)
    took = time.monotonic() - began
    assert [outcome.name for outcome in outcomes] == list("01234")
    assert [outcome.fault for outcome in outcomes] == [""] * 5
    order = [data for data, _ in log]
    assert set(order[:2]) == {b"2", b"4"} and order[2:] == [b"3", b"1", b"0"]
    times = dict(log)
    assert abs(times[b"2"] - times[b"4"]) < 0.08
    assert times[b"3"] - max(times[b"2"], times[b"4"]) >= 0.1 + DISCHARGE
    assert took < 0.6


def test_one_that_does_not_answer_holds_nobody_up_beyond_its_limit():
    silent, hanging = Wire(), Wire([b"ok"])
    hanging.send = lambda data: time.sleep(30)
    prober = Wire([b"ok"])
    began = time.monotonic()
    outcomes = make_safe(
        [
            Device("silent", silent, recipe(limit=0.2)),
            Device("hanging", hanging, recipe(limit=0.2)),
            Device("prober", prober, recipe(Stage.PROBER)),
        ]
    )
    assert time.monotonic() - began < 1.2
    assert "in time" in outcomes[0].fault and "time limit" in outcomes[1].fault and outcomes[2].fault == ""
    assert prober.sent == [b"off0"]


def test_every_step_is_sent_whatever_became_of_the_one_before():
    wire = Wire(RuntimeError("bus error"), [b"nonsense"], [b"ok"], opens=ConnectionError("nobody there"))
    (outcome,) = make_safe([Device("source", wire, recipe(steps=3))])
    assert wire.sent == [b"off0", b"off1", b"off2"]
    assert "bus error" in outcome.fault and "nobody there" in outcome.fault


def test_a_dead_connection_is_opened_again_and_introduced_to():
    wire = Wire(ConnectionError("reset"), ConnectionError("reset"), opens=[None, [b"ok"], [b"ok"]])
    (outcome,) = make_safe([Device("source", wire, recipe(steps=2, opening=(OffStep(b"*RCS 1"),)))])
    assert outcome.fault == "" and wire.opened == 1
    assert wire.sent == [b"off0", b"off1", b"*RCS 1", b"off0", b"off1"]


def test_an_answer_that_does_not_come_costs_half_the_time():
    wire = Wire(None, opens=[[b"ok"]])
    (outcome,) = make_safe([Device("source", wire, recipe(limit=0.4))])
    assert outcome.fault == "" and 0.2 <= outcome.seconds < 0.35


def test_a_stale_answer_is_dropped_even_if_it_looks_right():
    wire = Wire([b"ok, but to the question before"])
    answered = threading.Timer(0.1, lambda: wire.arriving.append(b"ok"))
    answered.start()
    original = wire.receive

    def receive(terminator, timeout):
        until = time.monotonic() + timeout
        while not wire.arriving and time.monotonic() < until:
            time.sleep(0.01)
        return original(terminator, 0.0)

    wire.receive = receive
    (outcome,) = make_safe([Device("prober", wire, recipe(Stage.PROBER, limit=2.0), outstanding=1)])
    assert outcome.fault == "" and outcome.seconds >= 0.09 and wire.opened == 0


def test_a_stale_answer_that_was_lost_is_not_waited_for_for_ever():
    wire = Wire([b"ok"])
    (outcome,) = make_safe([Device("prober", wire, recipe(Stage.PROBER, limit=0.4), outstanding=1)])
    assert outcome.fault == "" and wire.opened == 0 and wire.sent == [b"off0"]


def test_what_starts_when_its_port_is_opened_is_told_again_over_that_connection():
    """To open it once more would start it once more."""
    starting = Wire(ConnectionError("gone"), opens=[None, None, [b"ok"]])
    (outcome,) = make_safe([Device("board", starting, recipe(limit=3.0, numbered=True))])
    assert outcome.fault == "" and starting.opened == 1 and len(starting.sent) == 4
    assert outcome.seconds < 1.5


def test_a_connection_that_breaks_at_once_is_opened_again_and_not_talked_at():
    broken = Wire(*[ConnectionError("gone")] * 50)
    (outcome,) = make_safe([Device("board", broken, recipe(limit=1.0, numbered=True))])
    assert "gone" in outcome.fault and len(broken.sent) <= broken.opened + 1 <= 5


def test_numbered_answers_need_no_counting():
    wire = Wire([b"late", b"ok"])
    (outcome,) = make_safe([Device("board", wire, recipe(limit=5.0, numbered=True), outstanding=1)])
    assert outcome.fault == "" and outcome.seconds < 0.2


steps = st.builds(OffStep, st.binary(), st.none() | st.binary(), st.floats(0, 10))


@given(
    st.builds(OffRecipe, st.sampled_from(Stage), st.tuples(steps, steps), st.binary(max_size=3), st.tuples(steps),
              st.floats(0, 100), st.booleans())
)  # fmt: skip
def test_a_recipe_survives_its_way(recipe):
    assert OffRecipe.from_tree(recipe.to_tree()) == recipe


@given(st.builds(KeepAlive, st.binary(), st.binary(), st.binary(), st.floats(0, 10)))
def test_a_keep_alive_survives_its_way(message):
    assert KeepAlive.from_tree(message.to_tree()) == message
    assert KeepAlive.from_tree(None) is None


def test_nothing_to_make_safe():
    assert make_safe([]) == []


@pytest.mark.parametrize("outstanding", [0, 2])
def test_nobody_is_told_safe_who_never_said_so(outstanding):
    wire = Wire([b"busy"], opens=[[b"busy"]])
    (outcome,) = make_safe([Device("source", wire, recipe(limit=0.2), outstanding=outstanding)])
    assert "b'busy'" in outcome.fault
