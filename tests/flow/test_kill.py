"""A run that is killed where it hurts, again and again, and gone on with: nothing is lost, repeated or unsafe.

The short form of benchmarks/kill_runner.py, which kills some hundred times more; `kill_trials` says what is looked at.
"""

import os

import pytest
from command_line import xbar
from kill_trials import Moment, kill, own_place, served_place, trial, undisturbed

pytestmark = pytest.mark.skipif(os.name != "posix", reason="how a process dies is judged by a signal that Windows lacks")


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
