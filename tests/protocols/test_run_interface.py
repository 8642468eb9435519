"""A protocol sees the same of its run whether it is done, replayed, planned or rehearsed before it goes on."""

import inspect

import pytest

from protocols.commands.resume import Rehearsal
from protocols.plan.run import PlanRun
from protocols.sequencer.run import Run
from protocols.sequencer.run_interface import RunInterface


def public(kind):
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_everything_public_of_a_run_is_in_the_interface():
    assert public(Run) - {"close"} == public(RunInterface)


@pytest.mark.parametrize("kind", [Run, Rehearsal, PlanRun])
def test_each_kind_of_run_has_it_with_the_same_arguments(kind):
    assert not kind.__abstractmethods__
    for name in public(RunInterface):
        ours, theirs = (inspect.signature(getattr(each, name)).parameters for each in (kind, RunInterface))
        assert list(ours) == list(theirs), name
