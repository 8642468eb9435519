"""A run that is killed where it hurts, again and again, and gone on with: nothing is lost, repeated or unsafe.

The short form of benchmarks/kill_runner.py, which kills some hundred times more; `kill_trials` says what is looked at.
"""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import xbar
from kill_trials import Moment, kill, own_place, served_place, trial, undisturbed

from analysis.record.record import Pulse, Record
from protocols.bench.bench import LedgeredTester

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="how a process dies is judged by a signal that Windows lacks"
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run that nobody disturbed."""
    with own_place(tmp_path_factory.mktemp("undisturbed")) as place:
        return undisturbed(place)


def test_killed_at_a_station_that_outlives_the_run(reference, tmp_path):
    """The board goes on counting: how much of a batch was fired is known."""
    moments = [
        Moment(reference.nth("frame, sent", 6)),  # while the first die is measured
        Moment(15),  # of the run that goes on: while it finds out what was fired
        Moment(seconds=1.5, victim="broker"),
    ]
    with served_place(tmp_path) as place:
        _check(trial(place, reference, moments), reference, "frame, sent")


def test_killed_with_the_station_that_the_run_started(reference, tmp_path):
    """The board ends with the run and has forgotten what it counted: all pulses of the batch count as fired."""
    moments = [
        Moment(reference.nth("fired, before", 3)),  # all were fired, and that is not committed
        Moment(30),  # of the run that goes on
    ]
    with own_place(tmp_path) as place:
        _check(trial(place, reference, moments), reference, "fired, before")


def _check(judged, reference, name):
    """The trial went where it was meant to."""
    assert judged.kills[0].name == name and len(judged.kills[0].unfired) == 1
    assert judged.identical + judged.within_noise == len(reference.steps) and judged.within_noise >= 2


def test_killed_before_there_is_a_run(tmp_path):
    """The record is there and holds nothing: the same command begins, and `xbar resume` says so."""
    with own_place(tmp_path) as place:
        killed = kill(place, Moment(2))
        assert killed.name == "record, after" and killed.rows["runs"] == {}
        refused = xbar("resume", place.folder)
        assert refused.status == 1 and "no run was begun" in refused.said and "xbar run" in refused.said
        assert place.command()[0] == "run"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_count_of_a_tester_is_not_trusted_after_pulses_elsewhere(tmp_path, elsewhere):
    """A tester that was restarted and has pulsed another die since seems to have fired less than it did."""
    tester = SimpleNamespace(identify=lambda: "board 1", last_action=lambda: (8, 8))
    pulses = [Pulse(kernel, np.ones((2, 2), bool), 0.9, 200e-9) for kernel in range(4)]
    with Record.open(tmp_path) as record:
        run = record.begin_run("test", {})
        record.intend(run, "c0r0", pulses, tester="board 1", actions=5)
        if elsewhere:
            record.fired(record.intend(run, "c1r0", pulses[:3], tester="board 1", actions=5))
        settled = LedgeredTester(tester, record, run, lambda: None, 1000).settle(*record.unfired("c0r0"))
        assert settled == (None if elsewhere else 3)
        assert record.dose("c0r0", (4, 2, 2)).sum() == 4 * (4 if elsewhere else 3)
