"""What an array tester may be asked: every limit of its capabilities, checked before anything is sent.

Plain functions over `ArrayCapabilities`, so a driver refuses with them and a plan can be checked without hardware.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from instruments.roles.interfaces import ArrayCapabilities, LimitError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

_SLACK = 1e-9  # relative; forgives the last bit of a decimal written in binary, nothing an instrument could tell


def read_codes(caps: ArrayCapabilities, voltages: ArrayLike) -> NDArray[np.int16]:
    """DAC codes of voltages that read or multiply.

    Parameters
    ----------
    caps
        The tester's capabilities.
    voltages
        Volt, any shape.

    Returns
    -------
    Codes of the same shape, ``V = code * dac_lsb``: the nearest one that lies within the limit.

    Raises
    ------
    LimitError
        A voltage lies beyond `v_read_max`, or is not a number.
    """
    limit = caps.v_read_max
    return _codes(caps, voltages, -limit, limit, f"v_read_max, {limit:g} V either way")


def pulse_code(caps: ArrayCapabilities, amplitude: float) -> int:
    """DAC code of a pulse of `amplitude` (V): the nearest one within `v_min` and `v_max`."""
    name = f"v_min and v_max, {caps.v_min:g} V to {caps.v_max:g} V"
    return int(_codes(caps, amplitude, caps.v_min, caps.v_max, name))


def applied_read_voltage(caps: ArrayCapabilities, voltages: ArrayLike) -> FloatArray:
    """Voltages (V) that the tester's DAC really puts out when asked to read or multiply with `voltages` (V)."""
    return read_codes(caps, voltages).astype(np.float64) * caps.dac_lsb


def check_amplitude(caps: ArrayCapabilities, amplitude: float) -> float:
    """`amplitude` (V) of a pulse if it lies within `v_min` and `v_max`."""
    volts = check_number("pulse amplitude", amplitude)
    slack = _SLACK * max(abs(caps.v_min), abs(caps.v_max))
    if not caps.v_min - slack <= volts <= caps.v_max + slack:
        pulse_code(caps, volts)  # says how it is beyond
    return volts


def check_width(caps: ArrayCapabilities, width: float) -> float:
    """`width` (s) of a pulse if the tester can do exactly that."""
    seconds = check_number("pulse width", width)
    pulse_width_ns(caps, seconds)
    return seconds


def pulse_width_ns(caps: ArrayCapabilities, width: float) -> int:
    """Whole nanoseconds of a pulse of `width` (s).

    Raises
    ------
    LimitError
        The width is beyond `width_min` or `width_max`, or no multiple of `width_step`: a pulse of another width than
        asked would be another dose, so it is refused, not rounded.
    """
    if not caps.width_min * (1 - _SLACK) <= width <= caps.width_max * (1 + _SLACK):
        raise LimitError(
            f"pulse width {width:g} s is outside width_min and width_max, {caps.width_min:g} s to {caps.width_max:g} s"
        )
    steps = round(width / caps.width_step)
    if not math.isclose(steps * caps.width_step, width, rel_tol=1e-6):
        raise LimitError(f"pulse width {width:g} s is not a multiple of width_step, {caps.width_step:g} s")
    return round(steps * caps.width_step * 1e9)


def check_kernel(caps: ArrayCapabilities, kernel: int) -> int:
    """`kernel` if the tester has it."""
    return _index("kernel", kernel, caps.kernels)


def check_bank(caps: ArrayCapabilities, bank: int) -> int:
    """`bank` if the tester has it."""
    return _index("bank", bank, caps.banks)


def check_range(caps: ArrayCapabilities, current_range: int) -> int:
    """`current_range` if the tester has it."""
    known = [each.index for each in caps.ranges]
    if current_range not in known:
        raise LimitError(f"current range {current_range} does not exist; ranges are {known}")
    return int(current_range)


def check_count(caps: ArrayCapabilities, count: int) -> int:
    """`count` of pulses if it lies within 1 and `count_max`."""
    return _between("pulse count", count, 1, caps.count_max, "count_max")


def check_cell(caps: ArrayCapabilities, row: int, column: int) -> tuple[int, int]:
    """`row` and `column` of a cell of a kernel, counted from 0."""
    return _index("row", row, caps.rows), _index("column", column, caps.columns)


def check_steps(caps: ArrayCapabilities, voltages: ArrayLike) -> FloatArray:
    """Voltages ``[n]`` (V) that a sweep steps through, all within `v_min` and `v_max`."""
    try:
        steps = np.array(voltages, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise LimitError(f"the voltages of a sweep must be numbers ({error})") from error
    if steps.ndim != 1 or steps.size < 2:
        raise LimitError(f"the voltages of a sweep must be a list of at least two; these are {list(steps.shape)}")
    slack = _SLACK * max(abs(caps.v_min), abs(caps.v_max))
    beyond = ~((steps >= caps.v_min - slack) & (steps <= caps.v_max + slack))
    if beyond.any():
        raise LimitError(
            f"a sweep to {steps[beyond][0]:g} V is beyond v_min and v_max, {caps.v_min:g} V to {caps.v_max:g} V "
            "(pulse_limit): lower the voltage"
        )
    return steps


def check_number(name: str, value: Any) -> float:
    """`value` as a float if it is one finite number; a bool or a text is none."""
    plain = type(value) is float or type(value) is int
    real = plain or (isinstance(value, numbers.Real | np.number) and not isinstance(value, bool | np.complexfloating))
    if not real or not math.isfinite(value):
        raise LimitError(f"{name} must be a finite number; this one is {value!r}")
    return float(value)


def check_averages(caps: ArrayCapabilities, averages: int) -> int:
    """`averages` if it lies within 1 and `averages_max`."""
    return _between("averages", averages, 1, caps.averages_max, "averages_max")


def check_scheme(caps: ArrayCapabilities, scheme: str | None) -> str | None:
    """`scheme` if the tester can hold the lines that way; a passive array is never pulsed without one."""
    known = ", ".join(caps.schemes)
    if scheme is None and caps.schemes:
        raise LimitError(f"a pulse at a passive array needs a bias scheme; give scheme=, one of {known}")
    if scheme is not None and scheme not in caps.schemes:
        has = f"the tester has {known}" if known else f"cells of kind {caps.cell} have gates and take none"
        raise LimitError(f"bias scheme {scheme!r}: {has}")
    return scheme


def check_mask(caps: ArrayCapabilities, mask: BoolArray | None) -> BoolArray:
    """A mask ``[rows, columns]`` of the cells of one kernel; all cells for None."""
    if mask is None:
        return np.ones((caps.rows, caps.columns), dtype=np.bool_)
    mask = np.asarray(mask)
    if mask.shape != (caps.rows, caps.columns) or mask.dtype != np.bool_:
        raise LimitError(
            f"a mask must be bool [{caps.rows}, {caps.columns}] (rows, columns); "
            f"this one is {mask.dtype} {list(mask.shape)}"
        )
    return mask


def check_lines(name: str, lines: BoolArray | None, available: int) -> NDArray[np.intp]:
    """Indices, ascending, of the lines that a bool array ``[available]`` selects; all lines for None."""
    if lines is None:
        return np.arange(available)
    lines = np.asarray(lines)
    if lines.shape != (available,) or lines.dtype != np.bool_:
        raise LimitError(f"{name} must be bool [{available}]; this one is {lines.dtype} {list(lines.shape)}")
    if not lines.any():
        raise LimitError(f"{name} selects no line")
    return np.flatnonzero(lines)


def range_for(caps: ArrayCapabilities, current: float) -> int:
    """Index of the smallest range that digitises `current` (A, either sign)."""
    for each in sorted(caps.ranges, key=lambda one: one.full_scale):
        if abs(current) <= each.full_scale:
            return each.index
    largest = max(each.full_scale for each in caps.ranges)
    raise LimitError(f"current {current:g} A is beyond the largest range, {largest:g} A full scale")


def _codes(caps: ArrayCapabilities, voltages: ArrayLike, low: float, high: float, limit: str) -> NDArray[np.int16]:
    slack = _SLACK * max(abs(low), abs(high))
    first = max(math.ceil(low / caps.dac_lsb - _SLACK), -(2**15))
    last = min(math.floor(high / caps.dac_lsb + _SLACK), 2**15 - 1)
    # a single voltage is asked of several times for every pulse and read: the same without arrays, ten times faster
    if isinstance(voltages, float) and low - slack <= voltages <= high + slack:
        code: NDArray[np.int16] = np.asarray(min(max(round(voltages / caps.dac_lsb), first), last), np.int16)[()]
        return code
    volts = np.asarray(voltages, dtype=np.float64)
    beyond = ~((volts >= low - slack) & (volts <= high + slack))  # written so that NaN is beyond
    if beyond.any():
        worst = volts[beyond].flat[0]
        raise LimitError(f"voltage {worst:g} V is beyond {limit}")
    return np.clip(np.rint(volts / caps.dac_lsb), first, last).astype(np.int16)


def _index(name: str, value: int, available: int) -> int:
    return _between(name, value, 0, available - 1, f"{available} of them")


def _between(name: str, value: int, low: int, high: int, limit: str) -> int:
    whole = check_number(name, value)
    if whole != int(whole) or not low <= whole <= high:
        raise LimitError(f"{name} {value} is outside {low}..{high} ({limit})")
    return int(whole)
