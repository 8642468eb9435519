"""A 2-8-1 network on the array under the needles: two analog products; sigmoids and the output bias are digital."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mapping.placement.differential_pairs import HIDDEN, INPUTS, PHYSICAL, SHAPE
from mapping.training.multiply import checked_vectors
from protocols.bench.bench import Bench

FloatArray = NDArray[np.float64]

#: The bank of the tester's memory that vectors go to.
BANK = 0
#: What a range must digitise beyond the largest current that is expected from the reads of the cells (assumed).
HEADROOM = 1.3
INPUT_ROWS = np.arange(SHAPE[0]) < 6
OUTPUT_ROWS = ~INPUT_ROWS


def input_voltages(x: FloatArray, scale: FloatArray, v_read: float) -> FloatArray:
    """Voltages (V) of the six input rows, ``[point, 6]``, for points ``[point, 2]`` within 0 ... 1.

    The two rows of a pair get opposite voltages, so that a column carries the difference of its pairs; the tensor with
    the larger scale gets the whole read voltage, so that inputs and bias add up in one product.

    Raises
    ------
    MultiplyError
        Naming the first coordinate that is outside of 0 ... 1.
    """
    x = checked_vectors(x, INPUTS, "points", "scale both axes, as `mapping.training.moons` does", lowest=0.0)
    share = scale[:2] / scale[:2].max()
    parts = np.column_stack([x * share[0], np.full(len(x), share[1])])
    return v_read * np.repeat(parts, 2, axis=1) * np.tile([1.0, -1.0], 3)


def sigmoid(z: FloatArray) -> FloatArray:
    """``1 / (1 + exp(-z))``."""
    out: FloatArray = 0.5 * (1 + np.tanh(0.5 * z))
    return out


class MoonsOnArray:
    """Classifies points with what the cells of the die under the needles hold.

    Hidden layer: input rows driven, columns sensed. Output: columns driven with the hidden units, the two output rows
    sensed; their difference is taken digitally.

    Parameters
    ----------
    bench
        The die under its needles.
    g
        Conductances as just read (S), ``[row, column]``: what ranges are chosen by, and nothing else.
    scale
        Scale of each tensor, ``[3]``.
    v_read
        Largest voltage on a line (V).
    averages
        Of each product.
    """

    def __init__(self, bench: Bench, g: FloatArray, scale: FloatArray, *, v_read: float, averages: int) -> None:
        self._bench, self._g, self._scale, self._v_read, self._averages = bench, g, scale, v_read, averages

    def logits(self, x: FloatArray, bias: float) -> FloatArray:
        """Output before the last sigmoid ``[point]`` for points ``[point, 2]``."""
        chunk = self._bench.array.capabilities().vectors_max
        return np.concatenate([self._logits(x[at : at + chunk], bias) for at in range(0, len(x), chunk)])

    def _logits(self, x: FloatArray, bias: float) -> FloatArray:
        per_weight = 1 / (self._v_read * PHYSICAL.span)
        self._bench.report("hidden layer", 0.0)
        currents = self._product(input_voltages(x, self._scale, self._v_read), "backward", INPUT_ROWS)
        hidden = sigmoid(currents * per_weight * self._scale[:2].max())
        self._bench.report("output", 0.7)
        lines = self._product(hidden * self._v_read, "forward", OUTPUT_ROWS)
        return (lines[:, 0] - lines[:, 1]) * per_weight * self._scale[2] + bias

    def _product(self, voltages: FloatArray, direction: str, rows: NDArray[np.bool_]) -> FloatArray:
        """Currents (A) of all columns (backward) or of the given rows (forward), held within the range."""
        array, columns = self._bench.array, np.ones(HIDDEN, bool)
        backward = direction == "backward"
        matrix = self._g[rows] if backward else self._g[rows].T
        of_lines = np.abs(voltages @ matrix).max()
        of_cells = (np.abs(voltages).max(axis=0)[:, None] * matrix).max()  # a rack measures cell by cell
        ranges = array.capabilities().ranges
        need = HEADROOM * float(max(of_lines, of_cells))
        index = array.range_for(min(need, max(each.full_scale for each in ranges)))
        full_scale = next(each.full_scale for each in ranges if each.index == index)
        array.load_vectors(BANK, voltages)
        currents = array.multiply(
            0,
            BANK,
            direction="backward" if backward else "forward",
            driven=rows if backward else columns,
            sensed=columns if backward else rows,
            count=len(voltages),
            current_range=index,
            averages=self._averages,
        )
        return np.clip(currents, -full_scale, full_scale)
