"""Weights of a 2-8-1 network on one 8 x 8 array: differential pairs, and back from measured conductances.

The network has 32 weights in three tensors (16 of the inputs, 8 biases of the hidden units, 8 of the output) and an
output bias that stays digital. Each weight is a pair of devices, ``w = scale (G+ - G-) / span``, so 64 devices fill the
array: one column for each hidden unit, and in it two rows for each of its four weights.

    row      0   1   2   3   4      5      6        7
    holds    x0+ x0- x1+ x1- bias+  bias-  output+  output-      column = hidden unit

Arrays of devices are ``[..., 2, 32]`` (plus and minus, weight); `to_cells` and `from_cells` go to ``[..., row,
column]``. Weights are counted ``2 unit + input``, then ``16 + unit``, then ``24 + unit``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.floating[Any]]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

INPUTS, HIDDEN = 2, 8
WEIGHTS = (INPUTS + 2) * HIDDEN
PARAMETERS = WEIGHTS + 1  # and the digital output bias
DEVICES = 2 * WEIGHTS
SHAPE = (2 * (INPUTS + 2), HIDDEN)
TENSORS = (slice(0, 16), slice(16, 24), slice(24, 32))
"""Input weights, hidden biases, output weights; each is scaled by its largest weight, and is one sequence of writes."""
TENSOR_OF = np.repeat([0, 1, 2], [16, 8, 8])
"""Tensor of each weight."""


@dataclass(frozen=True)
class PairMap:
    """How a weight becomes two conductances: ``low + span |w| / scale`` for the sign it has, ``low`` for the other.

    Attributes
    ----------
    name
        For tables and files.
    low, high
        Conductance of a device that holds nothing, and the highest one (S).
    """

    name: str
    low: float
    high: float

    @property
    def span(self) -> float:
        """Difference of the highest and the lowest conductance (S)."""
        return self.high - self.low

    @property
    def window(self) -> tuple[float, float]:
        """Lowest and highest target (S)."""
        return self.low, self.high

    def targets(self, weights: Reals, scale: Reals) -> Reals:
        """Conductances (S) ``[..., 2, 32]`` of weights ``[..., 32]``; `scale` is that of `scales`.

        Raises
        ------
        ValueError
            If a weight is larger than its scale, naming it.
        """
        relative = weights / per_weight(scale)
        if not np.all(np.abs(relative) <= 1 + 1e-6):
            where = np.argwhere(~(np.abs(relative) <= 1 + 1e-6))[0]
            raise ValueError(
                f"weight {where.tolist()} is {relative[tuple(where)]:g} of its scale; at most 1 can be written"
            )
        return self.conductances(np.clip(relative, -1, 1))

    def conductances(self, relative: Reals, axis: int = -2) -> Reals:
        """Conductances (S) of weights in units of their scale, plus and minus on a new axis."""
        return self.low + self.span * np.stack([np.maximum(relative, 0), np.maximum(-relative, 0)], axis=axis)

    def compensated(self, weights: Reals, scale: Reals, stuck: Reals) -> Reals:
        """As `targets`, where devices are known to hold `stuck` (S, ``[..., 2, 32]``, NaN where they can be written).

        The partner of a stuck device takes what makes the difference right, as far as its range goes. What is given
        for a stuck device itself is what it holds; it is not to be written.
        """
        difference = self.span * weights / per_weight(scale)
        partner = np.stack([stuck[..., 1, :] + difference, stuck[..., 0, :] - difference], axis=-2)
        healthy = np.where(np.isnan(stuck).all(axis=-2), weights, 0)
        wanted = np.where(np.isnan(partner), self.targets(healthy, scale), np.clip(partner, self.low, self.high))
        return np.where(np.isnan(stuck), wanted, stuck)

    def weights(self, conductance: Reals, scale: Reals) -> Reals:
        """Weights ``[..., 32]`` of measured conductances ``[..., 2, 32]`` (S)."""
        return per_weight(scale) * ((conductance[..., 0, :] - conductance[..., 1, :]) / self.span)

    def reach(self, stuck: Reals) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest weight, in units of the scale, of pairs with `stuck` devices; both ``[..., 32]``."""
        lowest = np.where(np.isnan(stuck), self.low, stuck)
        highest = np.where(np.isnan(stuck), self.high, stuck)
        return (
            np.asarray((lowest[..., 0, :] - highest[..., 1, :]) / self.span, dtype=np.float64),
            np.asarray((highest[..., 0, :] - lowest[..., 1, :]) / self.span, dtype=np.float64),
        )


PHYSICAL = PairMap("physical", 100e-6, 500e-6)
"""Devices of 100 to 500 uS (10 and 2 kOhm): what is there."""
PAPER = PairMap("paper", -400e-6, 400e-6)
"""As the code of the authors of arXiv:2305.18495 scales each device of a pair; only to repeat their figures."""
MAPS = {kind.name: kind for kind in (PHYSICAL, PAPER)}


def scales(weights: Reals) -> Reals:
    """Largest size of a weight in each tensor, ``[..., 3]``, of weights ``[..., 32]``; 1 where all are zero."""
    largest = np.stack([np.abs(weights[..., part]).max(axis=-1) for part in TENSORS], axis=-1)
    return np.where(largest > 0, largest, largest.dtype.type(1))


def per_weight(scale: Reals) -> Reals:
    """A number for each tensor ``[..., 3]`` as one for each weight, ``[..., 32]``."""
    return scale[..., TENSOR_OF]


def events_by_tensor() -> IntArray:
    """Later programming events of each device, ``[2, 32]``, as the authors' code counts them.

    Each tensor is a sequence of its own, G+ and G- alike; the input weights are walked input by input (all units of x0,
    then all of x1: column by column of their ``[unit, input]``). Weight j of n gets ``n - j``, the last one 0.

    Source: `sample_adj_effect_offsets` of 3it-inpaqt/Hardware-Aware-Article. What really follows weight j is
    ``n - 1 - j`` others; see `as_authors_count` and, for the physical order of a whole array, `events_in_one_array`.
    """
    inputs = np.arange(INPUTS * HIDDEN)[::-1].reshape(INPUTS, HIDDEN).T.ravel()
    after = np.concatenate([inputs, np.arange(HIDDEN)[::-1], np.arange(HIDDEN)[::-1]])
    return as_authors_count(np.stack([after, after]))


def as_authors_count(later: IntArray) -> IntArray:
    """What the authors' code takes for so many later events of a sequence: one more (its own), but 0 for the last."""
    return np.where(later > 0, later + 1, 0)


def events_in_one_array() -> IntArray:
    """What really follows each device if all 64 are one sequence, as they are in an array written row by row."""
    return from_cells(np.arange(DEVICES)[::-1].reshape(SHAPE))


def to_cells(devices: NDArray[Any]) -> NDArray[Any]:
    """Values of devices ``[..., 2, 32]`` at their places in the array, ``[..., row, column]``."""
    flat = devices.reshape(*devices.shape[:-2], DEVICES)
    return flat[..., _DEVICE_AT].reshape(*devices.shape[:-2], *SHAPE)


def from_cells(cells: NDArray[Any]) -> NDArray[Any]:
    """Inverse of `to_cells`."""
    flat = cells.reshape(*cells.shape[:-2], DEVICES)
    return flat[..., _CELL_OF].reshape(*cells.shape[:-2], 2, WEIGHTS)


def weight_of_unit() -> IntArray:
    """Numbers of the four weights of each hidden unit, ``[unit, 4]``: of x0 and x1, its bias, and its output weight."""
    unit = np.arange(HIDDEN)
    return np.stack([2 * unit, 2 * unit + 1, 16 + unit, 24 + unit], axis=1)


def _device_at() -> IntArray:
    """Flat index in ``[2, 32]`` of the device in each cell, row by row."""
    of_unit = weight_of_unit()
    return np.concatenate([side * WEIGHTS + of_unit[:, part] for part in range(INPUTS + 2) for side in range(2)])


_DEVICE_AT = _device_at()
_CELL_OF = np.argsort(_DEVICE_AT)
