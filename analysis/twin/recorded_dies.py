"""The dies of a lot as its record knows them: what was measured last, what was programmed, what they hold now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.record import Intent, Record, Step
from analysis.record.step_names import MEASURE_STATES, PROGRAM, SURVEY
from analysis.twin.read_noise import Reads
from mapping.dies.die_record import CellClass, DieRecord
from mapping.dies.geometry import ArrayGeometry
from mapping.placement.coding import AP, DONT_CARE


class TwinError(ValueError):
    """The record does not hold what a twin is made of."""


@dataclass(frozen=True, eq=False)
class RecordedDie:
    """What the record says of one die.

    Attributes
    ----------
    name : str
    site : (int, int)
        Column and row of the wafer map.
    record : DieRecord
        As measured last.
    state : bool ``[kernel, row, column]``
        True where a cell is in AP, as last known.
    apart : bool ``[kernel, row, column]``
        Cells that were written again by themselves when the die was measured: they were read in P among cells in AP.
    """

    name: str
    site: tuple[int, int]
    record: DieRecord
    state: NDArray[np.bool_]
    apart: NDArray[np.bool_]

    @property
    def v_read(self) -> float:
        """Voltage at which it was measured (V)."""
        return float(self.record.conditions.get("v_read", 0.1))

    @property
    def good(self) -> NDArray[np.bool_]:
        """Its good cells, ``[kernel, row, column]``."""
        return np.asarray(self.record.cell_class == CellClass.GOOD)


def measured_dies(record: Record) -> list[RecordedDie]:
    """Every die that was measured and switches, in the order of the route.

    Raises
    ------
    TwinError
        If there is none, or dies are not of one kind that a lot file can describe.
    """
    protocols = dict.fromkeys(run["protocol"] for run in record.runs())
    surveys = [survey for name in protocols for survey in record.results(name, SURVEY).get("", [])]
    sites = dict.fromkeys((int(c), int(r)) for survey in surveys for c, r in survey["sites"].values)
    dies = [die for site in sites if (die := _measured_die(record, site)) is not None]
    if not dies:
        raise TwinError(f"no die in {record.folder} was measured and switches; `xbar run mtj-mnist` measures dies")
    first, v_read = dies[0].record.geometry, dies[0].v_read
    tiled = ArrayGeometry.tiled(first.rows, first.columns, first.blocks, first.block_rows, first.block_columns)
    for die in dies:
        if die.record.geometry != tiled:
            raise TwinError(f"{die.name}: its kernels are not numbered block by block, half by half; "
                            "a lot file cannot describe that, or the dies are of different kinds")  # fmt: skip
        if die.v_read != v_read:
            raise TwinError(f"{die.name} was read at {die.v_read:g} V, {dies[0].name} at {v_read:g} V; measure the "
                            "lot at one voltage")  # fmt: skip
    return dies


def kept_reads(record: Record, die: str, shape: tuple[int, int, int]) -> list[Reads]:
    """What was read on a die after batches of pulses, oldest first, where the step says how it read."""
    step_of = {intent.batch: _in_step(intent) for intent in record.intents(die)}
    told = {(row.step.run, row.step.id): how for row in record.steps(die) if (how := _read_how(row.inputs))}
    reads = []
    for batch, data in record.readings(die):
        how = told.get(step_of[batch])
        if how is not None and "g" in data:
            reads.append(Reads(on_die(data, shape), *how))
    return reads


def _measured_die(record: Record, site: tuple[int, int]) -> RecordedDie | None:
    """A die by its newest measurement, and what was programmed on it."""
    name = f"c{site[0]}r{site[1]}"
    steps = [row.step for row in record.steps(name)]
    measured = [step for step in steps if step.name == MEASURE_STATES and step.verdict == "pass"]
    if not measured:
        return None
    die = DieRecord.from_dataset(record.load(measured[-1]))
    state, known = np.ones(die.geometry.shape, bool), measured[-1].id  # a measurement ends with all written AP
    for step in steps:  # superseded ones too: what they did was done
        if step.name == PROGRAM and step.id > known:
            states = record.load(step)["states"].values
            if states.shape == state.shape:
                state, known = np.where(states == DONT_CARE, state, states == AP), step.id
    state = _read_since(record, name, die, state, known)
    return RecordedDie(name, site, die, state, _apart(record, measured[-1], die.geometry.shape))


def _apart(record: Record, measurement: Step, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    apart = np.zeros(shape, bool)
    for intent in record.intents(measurement.die):
        if _in_step(intent) == (measurement.run, measurement.id) and not intent.pulse.mask.all():
            apart[intent.pulse.kernel] |= intent.pulse.mask
    return apart


def _in_step(intent: Intent) -> tuple[int, int]:
    """Run and number of the step that a batch belongs to if that came to its end: the next one that was committed."""
    return intent.run, intent.after_step + 1


def _read_since(record: Record, name: str, die: DieRecord, state: NDArray[np.bool_], known: int) -> NDArray[np.bool_]:
    """States by what was read after batches later than step `known`: of steps that did not come to their end."""
    later = {intent.batch for intent in record.intents(name) if intent.after_step >= known}
    middle = (die.g_p + die.g_ap) / 2
    for batch, data in record.readings(name):
        if batch in later and "g" in data:
            g = on_die(data, die.geometry.shape)
            state = np.where(np.isnan(g), state, g < middle)
    return state


def on_die(data: xr.Dataset, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Conductances (S) of a reading of some kernels, on the whole die; NaN elsewhere."""
    g = np.full(shape, np.nan)
    g[data["kernel"].values] = data["g"].values
    return g


def _read_how(inputs: Any) -> tuple[float, int] | None:
    """Read voltage (V) and averages of a step by its inputs, or by those of the schedule it writes."""
    if not isinstance(inputs, dict):
        return None
    schedule = inputs.get("schedule")
    how = schedule.get("verify") if isinstance(schedule, dict) else inputs
    if not isinstance(how, dict) or not {"v_read", "averages"} <= set(how):
        return None
    return float(how["v_read"]), int(how["averages"])
