"""A passive crossbar that is read and pulsed: devices, lines and bias scheme together, every cell seen at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from sim_backends.array.circuit.bias import GROUNDED, HALF, BiasScheme
from sim_backends.array.devices.interface import BoolArray, Devices, FloatArray
from sim_backends.array.solver.network import Lines, Solution, solve

TOLERANCE = 1e-6  # of the largest current: far below the spread of any device


class PassiveArray:
    """One array, or many that are worked on together.

    Parameters
    ----------
    devices
        Devices with a memory, ``[..., row, column]``; pulses change their state in place.
    lines
        Resistance of segments and contacts.
    sides
        Ends of the lines that sources are connected to: rows "left" or "right" or both, columns "bottom" or "top" or
        both.
    tolerance
        Relative error of the network's solution.
    """

    def __init__(
        self,
        devices: Devices,
        lines: Lines,
        *,
        sides: Sequence[str] = ("left", "bottom"),
        tolerance: float = TOLERANCE,
    ) -> None:
        unknown = set(sides) - {"left", "right", "bottom", "top"}
        if unknown or not {"left", "right"} & set(sides) or not {"bottom", "top"} & set(sides):
            raise ValueError(f"sides {tuple(sides)}: give left or right for the rows and bottom or top for the columns")
        self.devices = devices
        self.lines = lines
        self.sides = tuple(sides)
        self.tolerance = tolerance
        self._near: dict[str, Solution] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.devices.shape

    def biased(
        self, rows: BoolArray, columns: BoolArray, amplitude: ArrayLike, scheme: BiasScheme, *, cells: bool = True
    ) -> Solution:
        """The network while cells are selected.

        Parameters
        ----------
        rows, columns
            Selected lines ``[..., row]`` and ``[..., column]`` (`sim_backends.array.circuit.bias.line_mask`).
        amplitude
            Voltage that the selected cells are meant to see, ``[...]`` (V).
        scheme
            What the lines are held at.
        cells
            Whether the voltage and current of every cell are wanted.
        """
        v_row, v_column = scheme.voltages(rows, columns, amplitude)
        source = {side: v_row if side in ("left", "right") else v_column for side in self.sides}
        solution = solve(
            self.devices,
            left=source.get("left"),
            right=source.get("right"),
            bottom=source.get("bottom"),
            top=source.get("top"),
            lines=self.lines,
            cells=cells,
            tolerance=self.tolerance,
            near=self._near.get(scheme.name),
        )
        self._near[scheme.name] = solution
        return solution

    def pulse(
        self,
        rows: BoolArray,
        columns: BoolArray,
        amplitude: ArrayLike,
        width: float,
        rng: np.random.Generator,
        scheme: BiasScheme = HALF,
    ) -> Solution:
        """Fire one pulse at the selected cells; it acts on every device through the voltage that it really sees.

        Parameters
        ----------
        rows, columns, amplitude, scheme
            As in `biased`; arrays with an amplitude of zero are left alone.
        width
            Pulse width (s).
        rng
            Source of the devices' cycle-to-cycle spread.

        Returns
        -------
        Solution
            The network at the start of the pulse.

        Raises
        ------
        DeviceLimitError
            If a device anywhere would see more than it can bear; nothing has been fired then.
        """
        solution = self.biased(rows, columns, amplitude, scheme)
        self.devices.check(solution.v_cell, width)
        self.devices.pulse(solution.v_cell, width, rng)
        return solution

    def read(
        self, rows: BoolArray, v_read: float, rng: np.random.Generator | None = None, scheme: BiasScheme = GROUNDED
    ) -> FloatArray:
        """Conductance of the cells of one selected row as their columns see it, ``[..., column]`` (S).

        Parameters
        ----------
        rows
            One selected row of each array, ``[..., row]``.
        v_read
            Read voltage (V).
        rng
            Source of the read noise; None: without noise.
        scheme
            What the other lines are held at; columns are all selected, so they are sense amplifiers.

        Raises
        ------
        ValueError
            If the read voltage is zero or no number.
        """
        if not 0 < abs(v_read) < np.inf:
            raise ValueError(f"a read at {v_read:g} V measures nothing: give a voltage other than zero")
        solution = self.biased(rows, np.ones(self.shape[-1], dtype=bool), v_read, scheme, cells=False)
        g = (solution.i_bottom + solution.i_top) / v_read
        if rng is None:
            return g
        noise, row = self.devices.read_noise(), np.argmax(rows, axis=-1)
        if rows.ndim == 1 and noise.ndim == 2:
            of_row = noise[row]
        else:
            noise = np.broadcast_to(noise, np.broadcast_shapes(self.shape, (*rows.shape, 1)))
            of_row = np.take_along_axis(noise, row[..., None, None], axis=-2)[..., 0, :]
        noisy: FloatArray = g * (1 + of_row * rng.standard_normal(g.shape))
        return noisy

    def read_all(self, v_read: float, rng: np.random.Generator | None = None) -> FloatArray:
        """Conductance of every cell as read row by row, all other lines grounded, ``[..., row, column]`` (S)."""
        rows = self.shape[-2]
        selected = np.eye(rows, dtype=bool)
        one_by_one = [self.read(np.broadcast_to(row, self.shape[:-1]), v_read, rng) for row in selected]
        return np.stack(one_by_one, axis=-2)
