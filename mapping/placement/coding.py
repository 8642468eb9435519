"""Weights as states of cells: a weight is a pair of cells, its value the difference of the two.

====== ====== =======
weight plus   minus
====== ====== =======
+1     P      AP
−1     AP     P
0      AP     AP
====== ====== =======

Zero is two AP cells and not two P cells: the pair then draws the least current and heats and drops the least voltage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapping.dies.geometry import ArrayGeometry
from mapping.placement.placement import Placement

#: States of a cell in `CellTargets.states`.
AP, P, DONT_CARE = 0, 1, -1


@dataclass(frozen=True, eq=False)
class CellTargets:
    """The state that every cell of a die is to have.

    Attributes
    ----------
    geometry : ArrayGeometry
    states : int8 ``[kernel, row, column]``
        `P` (1), `AP` (0), or `DONT_CARE` (-1) for cells that hold no weight.
    """

    geometry: ArrayGeometry
    states: NDArray[np.int8]


def encode(weights: Sequence[ArrayLike], placement: Placement) -> CellTargets:
    """States of the cells that hold the weights, every copy alike.

    Parameters
    ----------
    weights : one array ``[n_out, n_in]`` of -1, 0, +1 for each layer
    placement : Placement

    Raises
    ------
    ValueError
        If a layer has another shape than its placement, or other values than -1, 0 and +1.
    """
    if len(weights) != len(placement.layers):
        raise ValueError(f"{len(weights)} layers of weights for a placement of {len(placement.layers)}")
    states = np.full(placement.geometry.cells, DONT_CARE, np.int8)
    for number, (values, layer) in enumerate(zip(weights, placement.layers, strict=True)):
        w = np.asarray(values)
        if w.shape != (layer.n_out, layer.n_in):
            placed = (layer.n_out, layer.n_in)
            raise ValueError(f"layer {number} has weights {w.shape}, placed are {placed} (outputs, inputs)")
        if not np.isin(w, (-1, 0, 1)).all():
            raise ValueError(f"layer {number} has weights other than -1, 0 and +1")
        states[layer.cells[..., 0]] = np.where(w.T > 0, P, AP)
        states[layer.cells[..., 1]] = np.where(w.T < 0, P, AP)
    return CellTargets(placement.geometry, states.reshape(placement.geometry.shape))


def decode(states: NDArray[np.int8], placement: Placement, copy: int = 0) -> list[NDArray[np.int8]]:
    """Weights that the states of a die stand for; the inverse of `encode`.

    Parameters
    ----------
    states : int8 ``[kernel, row, column]``
        Wanted or measured. Two P cells, which `encode` never writes, are 0 as two AP cells are.
    placement : Placement
    copy : int
        Which copy to look at, where there is a choice; layers with fewer copies give their last one.

    Returns
    -------
    list of int8 ``[n_out, n_in]``

    Raises
    ------
    ValueError
        If a cell that holds a weight has no state.
    """
    flat = np.asarray(states, np.int8)
    if flat.shape != placement.geometry.shape:
        raise ValueError(f"states of shape {flat.shape} for a geometry of {placement.geometry.shape}")
    flat = flat.ravel()
    weights = []
    for number, layer in enumerate(placement.layers):
        pair = flat[layer.cells[min(copy, layer.copies - 1)]]
        if not np.isin(pair, (AP, P)).all():
            raise ValueError(f"layer {number}: cells that hold weights have no state")
        weights.append(np.ascontiguousarray((pair[..., 0] - pair[..., 1]).T))
    return weights
