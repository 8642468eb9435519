"""A pulse, and which ones a record takes: those that some tester could fire. Anything else would make a dose wrong."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bounds beyond which a pulse is a mistake, whatever fires it: volt, seconds, pulses at once.
AMPLITUDE_MAX, WIDTH_MAX, COUNT_MAX = 100.0, 1e5, 1_000_000


@dataclass(frozen=True)
class Pulse:
    """Pulses to be fired at one kernel: `count` of `amplitude` (V) and `width` (s) at each cell of the mask.

    `scheme` names the bias scheme of a passive array (None: cells with gates), under which every other cell sees a part
    of the amplitude. The dose counts the cells of the mask only.
    """

    kernel: int
    mask: NDArray[np.bool_]
    amplitude: float
    width: float
    count: int = 1
    scheme: str | None = None


class PulseError(ValueError):
    """No pulse that a tester could fire; nothing was committed."""


def check_pulse(pulse: Pulse, shape: tuple[int, int, int] | None) -> None:
    """Refuse a pulse that cannot be; `shape` is that of the die's cells, ``[kernel, row, column]``, where it is known.

    Raises
    ------
    PulseError
        Saying which of its fields is wrong, and how.
    """
    _whole("kernel", pulse.kernel, 0, 2**31 - 1 if shape is None else shape[0] - 1)
    _whole("count", pulse.count, 1, COUNT_MAX)
    _real("amplitude", pulse.amplitude, -AMPLITUDE_MAX, AMPLITUDE_MAX, "V")
    _real("width", pulse.width, 0.0, WIDTH_MAX, "s")
    if pulse.scheme is not None and not isinstance(pulse.scheme, str):
        raise PulseError(f"a pulse has scheme {pulse.scheme!r}, which is no name of a bias scheme")
    mask = pulse.mask
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2:
        kind = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise PulseError(f"the mask of a pulse must be bool [row, column]; this one is {kind}")
    if shape is not None and mask.shape != shape[1:]:
        raise PulseError(f"the mask of a pulse is {list(mask.shape)}, the kernels of the die are {list(shape[1:])}")
    if not mask.any():
        raise PulseError("the mask of a pulse selects no cell")


def _whole(name: str, value: Any, low: int, high: int) -> None:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not low <= int(value) <= high:
        raise PulseError(f"a pulse has {name} {value!r}; it must be a whole number from {low} to {high}")


def _real(name: str, value: Any, low: float, high: float, unit: str) -> None:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not low <= value <= high:
        raise PulseError(f"a pulse has {name} {value!r}; it must be a number from {low:g} to {high:g} {unit}")
