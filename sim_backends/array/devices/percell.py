"""Per-cell parameters: checked once when devices are made, and laid out for compiled loops when they are used."""

from __future__ import annotations

from math import prod
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from sim_backends.array.devices.interface import FloatArray, refuse_where

Sign = Literal["any", "not negative", "positive"]


def per_cell(name: str, value: ArrayLike, sign: Sign) -> FloatArray:
    """A parameter as finite real numbers ``[..., row, column]``, in an array of its own.

    Parameters
    ----------
    name
        What an error calls it.
    value
        ``[..., row, column]``; one number stands for all cells and becomes ``[1, 1]``.
    sign
        Which signs are right.

    Raises
    ------
    ValueError
        If these are not real numbers, or of one axis.
    DeviceLimitError
        Naming the first cell whose value is not finite or has the wrong sign.
    """
    array = real_array(name, value)
    if array.ndim == 1:
        raise ValueError(
            f"{name} has shape {array.shape}; it has to be [..., row, column], or one number for all cells"
        )
    if array.ndim == 0:
        array = array.reshape(1, 1)
    wrong = ~np.isfinite(array)
    if sign == "not negative":
        wrong |= array < 0
    elif sign == "positive":
        wrong |= array <= 0
    wanted = "finite" if sign == "any" else f"finite and {sign}"
    refuse_where(wrong, lambda cell: f"{name} is {array[cell]:g}; it has to be {wanted}")
    return array


def real_array(name: str, value: ArrayLike) -> FloatArray:
    """Real numbers as float64, C-contiguous, in an array of its own.

    Raises
    ------
    ValueError
        If these are not real numbers: masked, complex, of yes and no, or objects.
    """
    if np.ma.is_masked(value):
        raise ValueError(f"{name} has masked values; it has to be real numbers")
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} has to be real numbers, not {array.dtype}")
    return np.array(array, dtype=np.float64, order="C")


def of_one_shape(**parameters: FloatArray) -> list[FloatArray]:
    """Parameters broadcast to their common shape, each an array of its own.

    Raises
    ------
    ValueError
        If their shapes do not fit together.
    """
    try:
        shape = np.broadcast_shapes(*(array.shape for array in parameters.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in parameters.items())
        raise ValueError(f"shapes of per-cell parameters do not fit together: {shapes}") from None
    return [array if array.shape == shape else np.array(np.broadcast_to(array, shape)) for array in parameters.values()]


def in_blocks(
    v: tuple[FloatArray, ...], parameters: tuple[FloatArray, ...]
) -> tuple[tuple[int, ...], tuple[FloatArray, ...], tuple[FloatArray, ...]]:
    """Voltages and parameters as two-dimensional arrays ``[block, cell]`` for a compiled loop.

    Where one side has leading axes that the other lacks, the other is one block, used again for every block: nothing
    is copied. Only shapes that interleave (axes of length one against longer ones) are written out.

    Parameters
    ----------
    v
        Voltages (V) that broadcast against each other and the parameters.
    parameters
        Per-cell parameters, all of one shape, C-contiguous.

    Returns
    -------
    shape, v, parameters
        Shape of the result; the voltages, all with the same number of blocks; the parameters likewise.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """
    own = parameters[0].shape
    v = tuple(_volts(array) for array in v)
    v_shape = v[0].shape
    if any(array.shape != v_shape for array in v):
        v_shape = np.broadcast_shapes(*(array.shape for array in v))
        v = tuple(np.broadcast_to(array, v_shape) for array in v)
    try:
        shape = own if v_shape == own else np.broadcast_shapes(v_shape, own)
    except ValueError:
        raise ValueError(f"cell voltages of shape {v_shape} do not fit devices of shape {own}") from None
    block = _common_block(shape, v_shape, own)
    return shape, _as_blocks(v, block, shape), _as_blocks(parameters, block, shape)


def _volts(v: ArrayLike) -> FloatArray:
    if isinstance(v, np.ndarray) and v.dtype == np.float64 and not isinstance(v, np.ma.MaskedArray):
        return v
    return real_array("cell voltage (V)", v)


def _common_block(shape: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that repeats: the smaller one, if the larger one is just a stack of it, else everything."""
    if a == b:
        return shape
    for small, large in ((a, b), (b, a)):
        stripped = small
        while stripped and stripped[0] == 1 and len(stripped) > 2:
            stripped = stripped[1:]
        if large == shape and shape[len(shape) - len(stripped) :] == stripped:
            return stripped
    return shape


def _as_blocks(
    arrays: tuple[FloatArray, ...], block: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[FloatArray, ...]:
    # compiled loops are specialised for writable, contiguous arrays: a read-only view would make numba compile again
    size = prod(block)
    blocks = []
    for array in arrays:
        if array.size != size and array.shape != shape:
            array = np.broadcast_to(array, shape)
        flags = array.flags
        if not (flags.c_contiguous and flags.writeable):
            array = array.copy()
        blocks.append(array.reshape(-1, size) if size else array.reshape(0, 0))
    return tuple(blocks)
