"""Reading a whole die: conductances of every cell, in as few exchanges as there are kernels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np

from instruments.roles.interfaces import ArrayReader
from instruments.roles.limits import applied_read_voltage

#: The read range must digitise a short behind its selector: about 480 uS (short 100 Ohm + selector 2 kOhm, assumed).
LARGEST_CONDUCTANCE = 700e-6


def read_conductances(
    array: ArrayReader, v_read: float, *, averages: int = 1, kernels: Iterable[int] | None = None
) -> np.ndarray:
    """Conductance (S) of every cell at `v_read` (V), ``[kernel, row, column]``; inf where the range saturates.

    With `kernels`, only those are read and the others are NaN.
    """
    array = _tester(array)
    capabilities = array.capabilities()
    current_range = array.range_for(LARGEST_CONDUCTANCE * abs(v_read))
    applied = applied_read_voltage(capabilities, v_read)
    g = np.full((capabilities.kernels, capabilities.rows, capabilities.columns), np.nan)
    wanted = range(capabilities.kernels) if kernels is None else kernels
    for kernel in wanted:
        g[kernel] = array.read(kernel, v_read, current_range=current_range, averages=averages) / applied
    return g


def read_ranging(
    array: ArrayReader, v_read: float, cells: np.ndarray, *, averages: int = 1, expected: float = 0.0
) -> np.ndarray:
    """Conductance (S) of some cells at `v_read` (V), each in the smallest range that holds it.

    Analog cells span several ranges: in one that holds the largest, the smallest would have few steps.

    Parameters
    ----------
    array
        The tester whose needles are on the die.
    v_read
        Read voltage (V).
    cells
        Which, bool ``[kernel, row, column]``.
    averages
        Reads averaged.
    expected
        The first range tried is the smallest that holds this conductance (S); the smallest of all by default.

    Returns
    -------
    ``[kernel, row, column]``, NaN in other cells, infinite where even the largest range saturates.
    """
    array = _tester(array)
    capabilities = array.capabilities()
    applied = applied_read_voltage(capabilities, v_read)
    ranges = sorted(capabilities.ranges, key=lambda each: each.full_scale)
    fitting = [each for each in ranges if each.full_scale >= expected * abs(applied)] or ranges[-1:]
    g = np.full(cells.shape, np.nan)
    for kernel in np.flatnonzero(cells.any(axis=(1, 2))):
        left = cells[kernel]
        for each in fitting:
            read = array.read(int(kernel), v_read, mask=left, current_range=each.index, averages=averages)
            g[kernel][left] = read[left] / applied
            left = left & np.isinf(g[kernel])
            if not left.any():
                break
    return g


def _tester(array: ArrayReader) -> ArrayReader:
    """The tester; of a bench, which these functions took before 0.2, the one that it holds."""
    held = getattr(array, "array", None)
    if held is None:
        return array
    warnings.warn("give bench.array in place of the bench", DeprecationWarning, stacklevel=3)
    return held
