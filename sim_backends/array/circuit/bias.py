"""Bias schemes as data: what the lines of a passive array are held at while some cells are written or read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim_backends.array.devices.interface import BoolArray, FloatArray

NOT_CONNECTED = float("nan")


@dataclass(frozen=True)
class BiasScheme:
    """Line voltages as parts of the amplitude; a selected cell sees the difference of the first two.

    Attributes
    ----------
    name
        For records and messages.
    selected_row, selected_column
        Voltage of the lines of the cells that are meant; `NOT_CONNECTED` leaves a line floating.
    other_rows, other_columns
        Voltage of all other lines.
    """

    name: str
    selected_row: float = 1.0
    selected_column: float = 0.0
    other_rows: float = 0.0
    other_columns: float = 0.0

    def __post_init__(self) -> None:
        drive = self.selected_row - self.selected_column
        if not np.isfinite(drive) or drive == 0:
            raise ValueError(
                f"bias scheme {self.name}: selected row at {self.selected_row:g} and selected column at "
                f"{self.selected_column:g} of the amplitude put no voltage across the cell; give two different numbers"
            )
        if np.isinf([self.other_rows, self.other_columns]).any():
            raise ValueError(
                f"bias scheme {self.name}: a line at infinity; give a part of the amplitude or NOT_CONNECTED"
            )

    def voltages(self, rows: BoolArray, columns: BoolArray, amplitude: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Voltages of the row and column sources.

        Parameters
        ----------
        rows, columns
            Selected lines, ``[..., row]`` and ``[..., column]``.
        amplitude
            Voltage of the selected cells, row minus column, ``[...]`` (V).

        Returns
        -------
        tuple
            ``[..., row]`` and ``[..., column]`` (V), NaN where not connected.
        """
        scale = np.asarray(amplitude, dtype=np.float64)[..., None]
        unit = self.selected_row - self.selected_column
        return (
            scale * (np.where(rows, self.selected_row, self.other_rows) / unit),
            scale * (np.where(columns, self.selected_column, self.other_columns) / unit),
        )


HALF = BiasScheme("V/2", 1.0, 0.0, 0.5, 0.5)
"""Half-selected cells see V/2, unselected ones nothing. Safe where the amplitude is below twice the threshold."""

THIRD = BiasScheme("V/3", 1.0, 0.0, 1 / 3, 2 / 3)
"""All other cells see V/3, unselected ones reversed. Safe below three times the threshold, at a higher power."""

GROUNDED = BiasScheme("grounded", 1.0, 0.0, 0.0, 0.0)
"""All other lines at zero: reads without sneak currents. Other cells of the selected row see the whole amplitude."""

FLOATING = BiasScheme("floating", 1.0, 0.0, NOT_CONNECTED, NOT_CONNECTED)
"""All other lines left open: sneak paths through them."""

SCHEMES = {scheme.name: scheme for scheme in (HALF, THIRD, GROUNDED, FLOATING)}


def line_mask(index: ArrayLike, lines: int) -> BoolArray:
    """Mask of one selected line of `lines`, ``[..., line]``, from its index ``[...]``.

    Raises
    ------
    ValueError
        If there is no such line.
    """
    chosen: NDArray[np.intp] = np.asarray(index)
    if np.any((chosen < 0) | (chosen >= lines)):
        raise ValueError(
            f"line {int(chosen[(chosen < 0) | (chosen >= lines)].flat[0])} of {lines}: count from 0 to {lines - 1}"
        )
    mask: BoolArray = chosen[..., None] == np.arange(lines)
    return mask
