"""Reading a whole die: conductances of every cell, in as few exchanges as there are kernels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from instruments.limits import applied_read_voltage
from protocols.bench import Bench

#: The read range must digitise a short behind its selector: about 480 uS (short 100 Ohm + selector 2 kOhm, assumed).
LARGEST_CONDUCTANCE = 700e-6


def read_conductances(
    bench: Bench, v_read: float, *, averages: int = 1, kernels: Iterable[int] | None = None
) -> np.ndarray:
    """Conductance (S) of every cell at `v_read` (V), ``[kernel, row, column]``; inf where the range saturates.

    With `kernels`, only those are read and the others are NaN.
    """
    capabilities = bench.array.capabilities()
    current_range = bench.array.range_for(LARGEST_CONDUCTANCE * abs(v_read))
    applied = applied_read_voltage(capabilities, v_read)
    g = np.full((capabilities.kernels, capabilities.rows, capabilities.columns), np.nan)
    wanted = range(capabilities.kernels) if kernels is None else kernels
    for kernel in wanted:
        g[kernel] = bench.array.read(kernel, v_read, current_range=current_range, averages=averages) / applied
    return g
