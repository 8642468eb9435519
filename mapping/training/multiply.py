"""What a multiply is: a layer and inputs in, pair differences in weight units out; and which inputs it takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapping.placement.placement import Placement

FloatArray = NDArray[np.float64]
Multiply = Callable[[int, FloatArray], FloatArray]
"""``(layer, x) -> partials``: `x` is ``[n, n_in]``, -1 to 1; `partials` ``[n, copies, groups, n_out]``."""

SLACK = 1e-9  # beyond 1: rounding of whoever scaled the inputs


class MultiplyError(ValueError):
    """Inputs that a multiply is not defined for."""


def checked_inputs(placement: Placement, layer: int, x: ArrayLike) -> FloatArray:
    """Inputs of a layer as float64 ``[n, n_in]``, within -1 to 1; the same check for every form of a multiply.

    Raises
    ------
    MultiplyError
        Naming the layer or the input, for a layer that is not placed, for another number of inputs, and for what is no
        real number from -1 to 1: an input of 1 is the whole read voltage, more would disturb the cells.
    """
    layers = len(placement.layers)
    if isinstance(layer, bool) or not isinstance(layer, int | np.integer) or not 0 <= layer < layers:
        raise MultiplyError(f"there is no layer {layer!r}: {layers} are placed, counted from 0")
    wanted = placement.layers[layer].n_in
    return checked_vectors(x, wanted, f"layer {layer}", "scale them, as the network was trained with")


def checked_vectors(x: ArrayLike, width: int, name: str, advice: str, lowest: float = -1.0) -> FloatArray:
    """Vectors ``[n, width]`` of real numbers from `lowest` to 1 as float64; raises `MultiplyError` else."""
    if np.ma.is_masked(x):
        raise MultiplyError(f"{name}: masked inputs; give all of them numbers")
    try:
        values = np.asarray(x)
    except ValueError as error:
        raise MultiplyError(f"{name}: inputs are no array: {error}") from None
    if values.dtype.kind not in "biuf":
        raise MultiplyError(f"{name}: inputs are of type {values.dtype}; give real numbers")
    if values.ndim != 2 or values.shape[1] != width:
        raise MultiplyError(
            f"{name}: inputs have shape {values.shape}, it takes [n, {width}]; a bias is digital and no input"
        )
    found = values.astype(np.float64)
    wrong = ~((found >= lowest - SLACK) & (found <= 1 + SLACK))
    if wrong.any():
        vector, place = (int(index) for index in np.argwhere(wrong)[0])
        what = f"input {place} of vector {vector} is {found[vector, place]:g}, outside of {lowest:g} to 1"
        raise MultiplyError(f"{name}: {what}; {advice}")
    return np.clip(found, lowest, 1.0)
