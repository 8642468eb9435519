"""What records of dies of analog cells have in common, whatever was written into them: defects, writing, time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.record import COMPUTED, Record
from analysis.record.step_names import SURVEY
from analysis.results.mtj_mnist import NothingMeasuredError, _of_run, _provenance
from mapping.dies.die_record import CellClass
from mapping.writing.converge import Outcome

#: Words for what is broken on a die of analog cells.
CLASS_WORDS = {
    CellClass.SHORT: "short",
    CellClass.OPEN: "open",
    CellClass.STUCK_LRS: "stuck LRS",
    CellClass.STUCK_HRS: "stuck HRS",
    CellClass.WEAK: "weak",
    CellClass.DEAD_LINE: "on a dead line",
}


@dataclass(frozen=True)
class History:
    """The newest history of a protocol: results of one step by die, in route order, their origin and newest run."""

    dies: dict[str, list[xr.Dataset]]
    seed: int
    provenance: dict[str, str]
    run: dict[str, Any]


def history(record: Record, protocol: str, name: str) -> History:
    """What a step measured of the dies of the newest run of a protocol, finished or not.

    Raises
    ------
    NothingMeasuredError
        If it measured no die.
    """
    found, survey = record.results(protocol, name), record.results(protocol, SURVEY)
    if not found or not survey:
        raise NothingMeasuredError(f"no die of {protocol} was measured in {record.folder}; run it first")
    run = [run for run in record.runs() if run["protocol"] == protocol][-1]
    route = [f"c{column}r{row}" for column, row in survey[""][-1]["sites"].values]
    dies = [die for die in _of_run(route, run["provenance"]) if die in found]
    provenance = _provenance(record, run, survey[""][-1])
    return History({die: found[die] for die in dies}, int(run["provenance"]["seed"]), provenance, run)


def defects(data: xr.Dataset) -> dict[str, Any]:
    """What was found broken on a die: cells of each class, and dead lines in words."""
    classes = data["cell_class"].values
    count = {words: int(np.count_nonzero(classes == kind)) for kind, words in CLASS_WORDS.items()}
    lines = [f"{kind} {index}" for kind, _, index in json.loads(data.attrs["line_faults"])]
    return {"cells": {name: number for name, number in count.items() if number}, "lines": lines}


def programming(dies: Iterable[Sequence[xr.Dataset]], *, whole: bool = False) -> dict[str, Any]:
    """What writing took and how it ended, over all dies, from the writes of each; counted from the arrays of the steps.

    Parameters
    ----------
    dies
        The writes of each die, in order.
    whole
        Whether every cell of the array was asked for, also those that a schedule left out because they were known as
        broken: a network that has the rest make up for them.

    Returns
    -------
    dict
        `cells` asked for, each of which is in tolerance in the end, or else was `known_broken` before the first write
        or is given up (`gave_up`); `within_tolerance` is a share of all of them, `within_tolerance_second_round` one of
        the cells that the last writes asked for. `mean_error` is relative, over these; a cell that cannot be read
        counts as 100 % off. `pulses_per_cell` is of the cells that were not known as broken, which alone are pulsed.
    """
    dies = list(dies)
    ends = [_end(writes, whole) for writes in dies]
    cells, broken, held = (sum(end[at] for end in ends) for at in range(3))
    asked_last = sum(int(np.count_nonzero(_asked(writes[-1]))) for writes in dies)
    held_last = sum(int(np.count_nonzero(_held(writes[-1]))) for writes in dies)
    healthy = sum(int(writes[0].attrs["healthy"]) for writes in dies)
    pulses = sum(int(data["pulses"].sum()) for writes in dies for data in writes)
    reasons: Counter[str] = Counter()
    for writes in dies:
        for data in writes:
            reasons.update(json.loads(data.attrs["reasons"]))
    return {
        "cells": cells,
        "known_broken": broken,
        "within_tolerance": held / cells if cells else None,
        "within_tolerance_second_round": held_last / asked_last if asked_last else None,
        "pulses_per_cell": pulses / healthy if healthy else None,
        "gave_up": cells - broken - held,
        "reasons": dict(reasons),
        "passes": max((sum(data.attrs["passes"] for data in writes) for writes in dies), default=0),
        "mean_error": float(np.mean(np.concatenate([_errors(writes[-1]) for writes in dies]))) if asked_last else None,
        "second_rounds": sum(len(writes) > 1 for writes in dies),
    }


def _end(writes: Sequence[xr.Dataset], whole: bool) -> tuple[int, int, int]:
    """Of one die: cells asked for, those known as broken before the first write, and the others that are in tolerance.

    A cell that was given up and left out of a later write is none that is in tolerance then.
    """
    outcome = writes[0]["outcome"].values
    asked = np.ones(outcome.shape, bool) if whole else _asked(writes[0])
    broken = asked & ((outcome == Outcome.DEFECT) | (outcome == Outcome.GOING))
    return tuple(int(np.count_nonzero(each)) for each in (asked, broken, asked & ~broken & _held(writes[-1])))  # type: ignore[return-value]


def _asked(data: xr.Dataset) -> NDArray[np.bool_]:
    return np.asarray(data["outcome"].values != Outcome.GOING)


def _held(data: xr.Dataset) -> NDArray[np.bool_]:
    return np.asarray(data["outcome"].values == Outcome.REACHED)


def _errors(data: xr.Dataset) -> NDArray[np.float64]:
    """Relative errors of the cells that a write asked for; 1 for one that cannot be read."""
    asked = _asked(data)
    error = np.abs(data["achieved"].values[asked] / data["target"].values[asked] - 1)
    return np.where(np.isfinite(error), error, 1.0)


def times(record: Record, protocol: str, kinds: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Time of all runs of a protocol's history (s), and of kinds of work, by the steps that do it."""
    ours = {run["id"] for run in record.runs() if run["protocol"] == protocol}
    events = [event["data"] for event in record.events("time") if event["run"] in ours]
    steps = [row.step for row in record.steps() if row.protocol == protocol]
    spent = {
        kind: sum(step.ended - step.started for step in steps if step.name in names) for kind, names in kinds.items()
    }
    return {
        "wall_s": sum(each["wall_s"] for each in events),
        "station_s": sum(each["station_s"] for each in events),
        **spent,
        "computing_s": sum(step.ended - step.started for step in steps if step.die == COMPUTED),
    }
