"""What every device in a crosspoint offers: its current, and for those with a memory what a pulse does to them.

An object of these classes is a whole array of devices in the state they are in. Per-cell arrays are
``[..., row, column]``; leading axes are dies, draws or whatever else is computed together. A cell voltage is row node
minus column node (V), a positive current flows from row to column (A).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class DeviceLimitError(ValueError):
    """A voltage, width or state outside of what a device can bear, or of what its model is valid for."""


class Conducting(Protocol):
    """Two-terminal devices with a monotonic current."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        ...

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current (A) and its derivative (S, never negative) at cell voltages ``[..., row, column]`` (V).

        Leading axes of `v` broadcast against those of the devices.
        """
        ...


class Devices(Conducting, Protocol):
    """Two-terminal devices with a memory."""

    @property
    def assumed(self) -> Mapping[str, str]:
        """What is not measured: the name of each such parameter or law, and what was assumed instead."""
        ...

    def check(self, v: FloatArray, width: float) -> None:
        """Refuse a pulse of cell voltages ``[..., row, column]`` (V) and a width (s) that must not be fired.

        Raises
        ------
        DeviceLimitError
            Naming the first cell whose limit it passes, or the validity of the model.
        """
        ...

    def pulse(self, v: FloatArray, width: float, rng: np.random.Generator) -> None:
        """Let a rectangular pulse act: cell voltages ``[..., row, column]`` (V), zero where none; a width (s).

        Changes the state in place. Does not check limits; `check` does.
        """
        ...

    def read_noise(self) -> FloatArray:
        """Standard deviation of one read, relative to the current, ``[..., row, column]``."""
        ...


def cell_name(index: tuple[int, ...]) -> str:
    """How an error names a cell, from its index ``(..., row, column)``."""
    *leading, row, column = (int(part) for part in index)
    place = f"row {row}, column {column}"
    return f"{place} of array {', '.join(map(str, leading))}" if leading else place


def refuse_where(wrong: BoolArray, message: Callable[[tuple[int, ...]], str]) -> None:
    """Raise `DeviceLimitError` for the first cell that is wrong, if there is one.

    `message` gets the index of the cell ``(..., row, column)``; what it returns is put behind the name of the cell.
    """
    if np.any(wrong):
        index = tuple(int(part) for part in np.argwhere(wrong)[0])
        raise DeviceLimitError(f"cell at {cell_name(index)}: {message(index)}")
