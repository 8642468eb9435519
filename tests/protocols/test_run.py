"""The sequencer: what is recorded is not done again, what differs is, and stopping loses nothing.

The bench here is a scripted one that counts what it is asked; the real instruments are in tests/flow.
"""

import numpy as np
import pytest
import xarray as xr
from scripted_run import start_run

from protocols.sequencer.run import NoContactError, RunSettings, needs_no_contact
from protocols.sequencer.stopping import RunStopped, StopRequest
from protocols.sequencer.verdicts import VerdictError

CALLS = []


def measure(bench, die, *, v=0.1):
    CALLS.append((die.name, v))
    return xr.Dataset({"x": ("i", np.array([v, die.index]))})


def later(bench, die, *, n=0):
    CALLS.append((die.name, f"later {n}"))
    return xr.Dataset(attrs={"n": n})


@needs_no_contact
def look(bench, die):
    return xr.Dataset(attrs={"conducting": bench.contact_check.conducting})


def double(report, *, data):
    CALLS.append("double")
    return data * 2


@pytest.fixture
def go(tmp_path):
    """Run a script against the record of this test; gives the bench it used, or None if it opened none."""
    CALLS.clear()
    stop = StopRequest()

    def start(script, dies=None, dead=()):
        return start_run(tmp_path, script, RunSettings(3, dies), stop=stop, dead=dead)

    start.stop = stop
    return start


def test_a_finished_run_comes_from_the_record_without_opening_the_station(go):
    seen = []

    def script(run):
        seen.append([run.step(measure, die)["x"].values.tolist() for die in run.dies()])

    assert go(script) is not None
    assert go(script) is None
    assert len(CALLS) == 3
    assert seen[0] == seen[1] == [[0.1, 0.0], [0.1, 1.0], [0.1, 2.0]]


def test_from_the_first_difference_on_everything_on_that_die_is_done_anew(go):
    def script(v):
        def steps(run):
            for die in run.dies():
                run.step(measure, die, v=v if die.name == "c1r0" else 0.1)
                run.step(later, die)

        return steps

    go(script(0.1))
    CALLS.clear()
    bench = go(script(0.2))
    assert CALLS == [("c1r0", 0.2), ("c1r0", "later 0")]
    assert set(bench.entered) == {"c1r0"}
    CALLS.clear()
    assert go(script(0.2)) is None and CALLS == []


def test_a_default_given_by_hand_is_the_same_input(go):
    go(lambda run: [run.step(measure, die) for die in run.dies()])
    assert go(lambda run: [run.step(measure, die, v=0.1) for die in run.dies()]) is None


def test_an_exception_keeps_what_was_committed(go):
    def failing(run):
        for die in run.dies():
            run.step(measure, die)
            if die.index == 1:
                raise OSError("cable pulled")

    with pytest.raises(OSError):
        go(failing)
    CALLS.clear()
    go(lambda run: [run.step(measure, die) for die in run.dies()])
    assert CALLS == [("c2r0", 0.1)]


def test_a_stop_request_stops_between_steps_and_leaves_the_die(go):
    def script(run):
        for die in run.dies():
            run.step(measure, die)
            go.stop.requested = die.index == 1

    with pytest.raises(RunStopped):
        go(script)
    assert [name for name, _ in CALLS] == ["c0r0", "c1r0"]
    go.stop.requested = False
    CALLS.clear()
    go(script_without_stop := lambda run: [run.step(measure, die) for die in run.dies()])
    assert [name for name, _ in CALLS] == ["c2r0"]
    assert go(script_without_stop) is None


def test_computations_are_found_by_content_wherever_they_stand(go):
    data = xr.Dataset({"x": ("i", np.arange(4.0))})

    def first(run):
        run.compute(double, data=data)

    def second(run):
        list(run.dies())
        assert run.compute(double, data=data)["x"].values.tolist() == [0, 2, 4, 6]
        run.compute(double, data=data + 1)

    go(first)
    go(second)
    assert CALLS.count("double") == 2


def test_a_die_without_contact_is_refused_except_to_the_step_that_looks(go):
    def script(run):
        for die in run.dies():
            run.step(look, die)
            run.step(measure, die)

    with pytest.raises(NoContactError, match="needles"):
        go(script, dead=("c1r0",))
    assert [name for name, _ in CALLS] == ["c0r0"]


def test_random_numbers_and_the_time_are_the_same_on_every_resume(go):
    drawn = []
    go(lambda run: drawn.append((run.now(), run.rng("a").random(), run.rng("b").random())))
    go(lambda run: drawn.append((run.now(), run.rng("a").random(), run.rng("b").random())))
    assert drawn[0] == drawn[1] and drawn[0][1] != drawn[0][2]


def test_a_step_that_returns_no_dataset_is_refused(go):
    def wrong(bench, die):
        return 3

    with pytest.raises(TypeError, match=r"returns an xarray\.Dataset"):
        go(lambda run: [run.step(wrong, die) for die in run.dies()])


class Strange:
    """Something that no record holds."""


RETURNED = {"strange attribute": xr.Dataset({"x": ("i", [1.0])}, attrs={"n": np.int64(3), "of": Strange()}),
            "none": None, "dict": {"x": np.array([1.0]), "n": 3}, "array": xr.DataArray([1.0], dims="i", name="x"),
            "verdict": xr.Dataset({"x": ("i", [1.0])}, attrs={"verdict": "good"})}  # fmt: skip


@needs_no_contact
def returns(bench, die, *, what):
    CALLS.append(what)
    return RETURNED[what]


@pytest.mark.parametrize("what", RETURNED)
def test_what_a_step_did_is_kept_whatever_it_returns_and_not_done_again(go, what, caplog):
    seen = []

    def script(run):
        for die in run.dies():
            seen.append(run.step(returns, die, what=what))

    if what == "strange attribute":
        go(script, dies=1)
        assert seen[0].attrs["n"] == 3 and "attrs['of']" in seen[0].attrs["not_kept"][0]
        assert "could not be kept" in caplog.text
    else:
        with pytest.raises((TypeError, VerdictError), match="does nothing twice"):
            go(script, dies=1)
        assert go(script, dies=1) is None  # goes on behind it, without the station
        assert seen[0].attrs["verdict"] == "inconclusive" and seen[0].attrs["reason"]
    assert [what] == CALLS and (what == "none" or seen[0]["x"].values == [1.0])
