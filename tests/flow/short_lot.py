"""A short lot for tests that kill what runs it: two small dies, each measured, then each programmed.

`xbar run short_lot.py:short_lot`; two passes, so that dies are left and found again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
import yaml

from mapping.dies.die_record import DieRecord
from mapping.dies.geometry import ArrayGeometry
from mapping.placement.placement import place
from mapping.writing.schedule import build_schedule
from protocols.sequencer.run import Run, protocol
from protocols.steps.characterise import check_contact, measure_states
from protocols.steps.write_verify import program
from sim_backends.array.dies.lot import BUILT_IN

#: Kernels beyond the first and the last are not looked at by a contact check: who reads them, means them.
KERNELS, ROWS, COLUMNS = 4, 25, 25
INPUTS, OUTPUTS = 40, 25


def write_lot(path: Path) -> Path:
    """The built-in lot with two dies of one block of four kernels, as a lot file.

    Its healthy junctions switch at the first pulse: whether one that switches now and then did so is not what two runs
    are compared for. What is left between equal runs is the noise of reading.
    """
    lot = yaml.safe_load((BUILT_IN / "mtj.yaml").read_text(encoding="utf-8"))
    lot["geometry"] |= {"blocks": 1, "block_rows": 2 * ROWS, "block_columns": 2 * COLUMNS}
    lot["wafer"]["dies"] = 2
    lot["devices"]["switching"] |= {"v_critical_spread": "1 %", "delta_spread": "1 %", "error_floor": 0.0}
    path.write_text(yaml.safe_dump(lot), encoding="utf-8")
    return path


def draw_weights(report, *, seed: int) -> xr.Dataset:
    """Random binary weights."""
    weights = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (OUTPUTS, INPUTS))
    return xr.Dataset({"weights": (("out", "in"), weights)})


@protocol
def short_lot(run: Run) -> None:
    """Measure every die, then program every die."""
    geometry = ArrayGeometry(**run.survey().attrs["geometry"])
    weights = run.compute(draw_weights, seed=int(run.rng("weights").integers(1000)))["weights"].values
    schedule = build_schedule([weights], place([(INPUTS, OUTPUTS)], geometry))
    measured = {}
    for die in run.dies():
        if run.step(check_contact, die).attrs["verdict"] == "pass":
            measured[die.name] = DieRecord.from_dataset(run.step(measure_states, die, averages=4, retries=1))
    for die in run.dies():
        if die.name in measured:
            run.step(program, die, schedule=schedule, die_record=measured[die.name])
