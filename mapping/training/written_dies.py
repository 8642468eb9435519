"""The closed loop on dies of a physical device: found, written by pulses with touch-up, judged by what arrived.

Unlike in the statistics of a transfer (`mapping.training.closed_loop.run`), a write can be repeated here until the
whole array is in tolerance, as at a station (`mapping.writing.array_writes`). Lines are perfect, so that hundreds of
dies go at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mapping.placement.differential_pairs import PHYSICAL, WEIGHTS, from_cells, per_weight, to_cells
from mapping.training.closed_loop import FINE_TUNING, DiePlan, find_stuck, judge
from mapping.training.moons import Moons
from mapping.training.transfer_metrics import Outcome as Classified
from mapping.writing.array_writes import WholeWrite, write_whole
from mapping.writing.converge import ARRAY, Outcome
from sim_backends.array.circuit.ideal_array import IdealArray
from sim_backends.array.devices.tio2 import DEFAULT, TiO2Devices, TiO2Parameters

FloatArray = NDArray[np.float64]

TUNING_ONLY = replace(FINE_TUNING, drift=False)
"""Training for a die whose finished array holds its targets: what is left is the tolerance of the writes."""
PROBE = 2.0
"""Amplitude of the probe (V): below the caps, with enough of it to move every working cell. Assumed."""
PROBE_PULSES = 8
PROBE_MOVES = 0.1
"""Share of the window that a working cell moves at least between the two ends of the probe; most move half of it."""


@dataclass(frozen=True, eq=False)
class Dies:
    """Dies with TiO2 devices, stuck cells and perfect lines: arrays ``[die, row, column]``."""

    array: IdealArray

    @classmethod
    def draw(cls, stuck: FloatArray, rng: np.random.Generator, parameters: TiO2Parameters = DEFAULT) -> Dies:
        """Dies with devices drawn, and `stuck` ones of ``[die, 2, 32]`` (S; NaN where a device works)."""
        fixed = to_cells(stuck)
        return cls(IdealArray(TiO2Devices.draw(fixed.shape, rng, parameters), fixed))

    def probe(self, rng: np.random.Generator) -> FloatArray:
        """Pulse every cell down and up, and find those that do not follow, ``[die, 2, 32]`` (S; NaN where it works).

        One cell after the other, `PROBE_PULSES` pulses of -`PROBE`, a read, as many of +`PROBE`, a read.
        """
        readings = []
        dies, rows, columns = self.array.shape
        for amplitude in (-PROBE, PROBE):
            after = np.empty(self.array.shape)
            for row, column in np.ndindex(rows, columns):
                on_row, on_column = np.eye(rows, dtype=bool)[row], np.eye(columns, dtype=bool)[column]
                chosen = np.broadcast_to(on_row, (dies, rows)), np.broadcast_to(on_column, (dies, columns))
                for _ in range(PROBE_PULSES):
                    self.array.pulse(*chosen, np.full(dies, amplitude), ARRAY.width, rng)
                after[:, row, column] = self.array.read(chosen[0], ARRAY.v_read, rng)[:, column]
            readings.append(from_cells(after))
        return find_stuck(readings[0], readings[1], PHYSICAL, PROBE_MOVES)

    def write(self, plan: DiePlan, found: FloatArray, rng: np.random.Generator) -> WholeWrite:
        """Write the targets of a plan, pass after pass; cells `found` stuck are left alone.

        What could not be written is taken for stuck in a second round, in which the partners make up for it.
        """
        first = self._write(plan, plan.targets, found, rng)
        missed = from_cells(first.outcome) > Outcome.REACHED
        held = np.where(missed, from_cells(first.read), found)
        weights = plan.networks[:, :WEIGHTS].astype(np.float64)
        limit = per_weight(plan.scale)
        targets = PHYSICAL.compensated(np.clip(weights, -limit, limit), plan.scale, held).astype(np.float64)
        second = self._write(plan, targets, held, rng)
        return WholeWrite(second.read, np.where(to_cells(missed), first.outcome, second.outcome),
                          first.pulses + second.pulses, np.concatenate([first.within, second.within]))  # fmt: skip

    def _write(self, plan: DiePlan, targets: FloatArray, held: FloatArray, rng: np.random.Generator) -> WholeWrite:
        sensitivity = -to_cells(plan.events).astype(float)  # fewer events follow on what matters more
        wanted = to_cells(np.where(np.isnan(held), targets, np.nan))
        return write_whole(self.array, wanted, rng, ARRAY, sensitivity=sensitivity)

    def classify(self, plan: DiePlan, moons: Moons, rng: np.random.Generator, *, bias: bool = True) -> Classified:
        """Classify the test points with what the dies hold now."""
        return judge(plan, from_cells(self.array.conductance)[None], PHYSICAL, moons, rng, bias=bias)


def within_tolerance(written: WholeWrite) -> float:
    """Share of all cells, stuck ones among them, that are in tolerance when the whole array is finished."""
    return float(np.mean(written.outcome == Outcome.REACHED))
