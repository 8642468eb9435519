"""What belongs to one run of a lot: everything the run committed, or took from the record instead of doing it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.record import COMPUTED, Intent, Record, RecordError, StepRow, Verdict


@dataclass(frozen=True)
class RunContents:
    """A run as it was at its end (or is now, while it goes on).

    Attributes
    ----------
    run : dict
        As `Record.runs` gives it.
    steps : tuple of StepRow
        Those of the run's protocol that held on any die at the run's end, and the computations that the run used.
    intents : dict
        Die -> pulses that this and earlier runs committed for it, of any protocol.
    verdicts, events
        Of this and earlier runs, oldest first.
    """

    record: Record
    run: dict[str, Any]
    steps: tuple[StepRow, ...]
    intents: dict[str, list[Intent]]
    verdicts: list[Verdict]
    events: list[dict[str, Any]]

    def result(self, row: StepRow) -> xr.Dataset:
        """The result of a step."""
        return self.record.load(row.step)

    def dose(self, die: str) -> NDArray[np.int64]:
        """Pulses per cell, ``[kernel, row, column]``, up to the run's end, as an upper bound."""
        return dose_of(self.intents[die])


def run_contents(record: Record, run: int | None = None) -> RunContents:
    """Contents of a run; None is the newest.

    Raises
    ------
    RecordError
        If there is no such run.
    """
    runs = {known["id"]: known for known in record.runs()}
    if not runs or (run is not None and run not in runs):
        wanted = "run" if run is None else f"run {run}"
        raise RecordError(f"there is no {wanted} in {record.folder}; there are {', '.join(map(str, runs)) or 'none'}")
    chosen = runs[max(runs) if run is None else run]
    number = chosen["id"]
    events = [event for event in record.events() if event["run"] <= number]
    used = {event["data"]["step"] for event in events if event["kind"] == "computed" and event["run"] == number}
    rows = [row for row in record.steps() if row.protocol == chosen["protocol"]]
    intents = {die: [i for i in record.intents(die) if i.run <= number] for die in record.dies()}
    return RunContents(
        record,
        chosen,
        tuple(row for row in rows if _held(row, number, used)),
        {die: of_die for die, of_die in intents.items() if of_die},
        [verdict for verdict in record.all_verdicts() if verdict.run <= number],
        events,
    )


def dose_of(intents: list[Intent], shape: tuple[int, int, int] | None = None) -> NDArray[np.int64]:
    """Sum of pulses that may have been fired, ``[kernel, row, column]``; by default just as large as they need."""
    if shape is None:
        kernels = 1 + max((intent.pulse.kernel for intent in intents), default=-1)
        masks = [intent.pulse.mask.shape for intent in intents] or [(0, 0)]
        shape = (kernels, max(rows for rows, _ in masks), max(columns for _, columns in masks))
    total = np.zeros(shape, np.int64)
    for intent in intents:
        if intent.fired is not False:
            rows, columns = intent.pulse.mask.shape
            total[intent.pulse.kernel, :rows, :columns] += intent.pulse.mask * max(0, intent.pulse.count)
    return total


def same(exported: NDArray[np.generic], recorded: NDArray[np.generic]) -> bool:
    """Whether two arrays agree in type, shape and every value (any NaN is a NaN)."""
    if exported.dtype != recorded.dtype or exported.shape != recorded.shape:
        return False
    if exported.tobytes() == recorded.tobytes():
        return True
    return bool(recorded.dtype.kind in "fcmM" and np.array_equal(exported, recorded, equal_nan=True))


def _held(row: StepRow, run: int, used: set[int]) -> bool:
    """Whether a step of the protocol held at the end of a run, and counts as the run's."""
    if row.step.die == COMPUTED:
        return row.step.run == run or row.step.id in used
    return row.step.run <= run and (row.superseded_by is None or row.superseded_by > run)
