"""What records of dies of analog cells have in common, whatever was written into them: defects, writing, time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from analysis.lot_results import NothingMeasuredError, _of_run, _provenance
from analysis.record import COMPUTED, Record
from analysis.step_names import SURVEY
from mapping.converge import Outcome
from mapping.die_record import CellClass

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


def programming(dies: Iterable[Sequence[xr.Dataset]]) -> dict[str, Any]:
    """What writing took and how it ended, over all dies, from the writes of each; shares are of the healthy cells."""
    dies = list(dies)
    last = [writes[-1] for writes in dies]
    healthy = sum(data.attrs["healthy"] for data in last)
    within = sum(data.attrs["within_tolerance"] * data.attrs["healthy"] for data in last)
    pulses = sum(int(data["pulses"].sum()) for writes in dies for data in writes)
    reasons: Counter[str] = Counter()
    for writes in dies:
        for data in writes:
            reasons.update(json.loads(data.attrs["reasons"]))
    cells = sum(writes[0].attrs["healthy"] for writes in dies)
    return {
        "cells": cells,
        "within_tolerance": (within / cells) if cells else None,
        "within_tolerance_second_round": (within / healthy) if healthy else None,
        "pulses_per_cell": pulses / cells if cells else None,
        "gave_up": sum(_gave_up(writes) for writes in dies),
        "reasons": dict(reasons),
        "passes": max((sum(data.attrs["passes"] for data in writes) for writes in dies), default=0),
        "mean_error": float(np.mean([data.attrs["mean_error"] for data in last])) if last else None,
        "second_rounds": sum(len(writes) > 1 for writes in dies),
    }


def _gave_up(writes: Sequence[xr.Dataset]) -> int:
    """Cells taken for healthy before the first write that are not within tolerance after the last one."""
    held = writes[-1]["outcome"].values == Outcome.REACHED
    return int(writes[0].attrs["healthy"] - np.count_nonzero(held))


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
