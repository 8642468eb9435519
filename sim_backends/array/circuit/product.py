"""Matrix-vector products of a kernel with nonlinear cells and resistive lines, for whole batches of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sim_backends.array.circuit.line_drops import column_resistance, row_resistance
from sim_backends.array.devices.interface import Conducting, FloatArray
from sim_backends.array.solver.network import Lines, transfer_matrix

Direction = Literal["forward", "backward"]
"""Which lines are driven, and which sensed: columns and rows, or rows and columns."""

ORDERS = (1, 3, 5)  # powers of the cell voltage; the current is an odd function of it


@dataclass(frozen=True)
class ProductModel:
    """A kernel in one state, ready to be multiplied with vectors of voltages.

    ``I = T_1 V + T_3 V^3 + T_5 V^5 - (W_0 + W_2 V^2 + W_4 V^4) * L`` with ``L`` the linear part ``T_1 V`` and
    element-wise powers and product: the polynomials of the cells, with the line drops in them. The last term is the
    rise of each sensed line, by its own current, under cells whose slope differs from their secant at the amplitude.

    Attributes
    ----------
    odd
        ``T_1``, ``T_3``, ``T_5``, each ``[sensed, driven]`` (A/V, A/V^3, A/V^5).
    rise
        ``W_0``, ``W_2``, ``W_4``, each ``[sensed, driven]`` (1, 1/V^2, 1/V^4).
    squared
        Square of the cell conductances, ``[driven, sensed]`` (S^2), for the noise of the cells.
    amplitude
        Largest vector element for which the fit holds (V).
    """

    odd: tuple[FloatArray, FloatArray, FloatArray]
    rise: tuple[FloatArray, FloatArray, FloatArray]
    squared: FloatArray
    amplitude: float

    def currents(self, vectors: FloatArray) -> FloatArray:
        """Currents of the sensed lines ``[n, sensed]`` (A) for vectors ``[n, driven]`` (V).

        Raises
        ------
        ValueError
            For an element beyond the amplitude of the fit, or no number.
        """
        largest = float(np.max(np.abs(vectors), initial=0.0))
        if not largest <= self.amplitude * (1 + 1e-9):
            raise ValueError(f"a vector of up to {largest:g} V, but the product was fitted for {self.amplitude:g} V")
        v2 = vectors * vectors
        v4 = v2 * v2
        t1, t3, t5 = self.odd
        w0, w2, w4 = self.rise
        linear = vectors @ t1.T
        mismatch = w0.sum(axis=1) + v2 @ w2.T + v4 @ w4.T
        return linear + (vectors * v2) @ t3.T + (vectors * v4) @ t5.T - linear * mismatch

    def cell_noise(self, vectors: FloatArray, relative: float) -> FloatArray:
        """Standard deviation ``[n, sensed]`` (A) of the white noise of the cells, `relative` to each cell's current."""
        return relative * np.sqrt((vectors * vectors) @ self.squared)


def fit_odd_polynomial(devices: Conducting, amplitude: float) -> FloatArray:
    """Coefficients a, b, c of ``I = a V + b V^3 + c V^5`` for ``|V| <= amplitude``, ``[3, ..., row, column]``.

    Interpolates the exact current of each cell, an odd function of the voltage, at the three positive Chebyshev nodes
    of degree six, which is within a small factor of the best fit. Units: S, A/V^3, A/V^5.
    """
    nodes = amplitude * np.cos(np.pi / 12 * np.array([1, 3, 5]))
    shape = devices.shape
    exact, _ = devices.current(np.broadcast_to(nodes.reshape(-1, *[1] * len(shape)), (3, *shape)))
    powers = nodes[:, None] ** np.array(ORDERS)
    return np.tensordot(np.linalg.inv(powers), exact, axes=1)


def product_model(
    coefficients: FloatArray,
    amplitude: float,
    direction: Direction,
    r_row: float,
    r_column: float,
    *,
    r_contact: float = 0.0,
) -> ProductModel:
    """Put the polynomials of the cells of one kernel into its lines.

    Parameters
    ----------
    coefficients
        From `fit_odd_polynomial`, ``[3, row, column]``; zero where a gate is off or a line dead.
    amplitude
        Largest vector element (V) of the fit.
    direction
        "backward" drives rows and senses columns, "forward" drives columns and senses rows.
    r_row, r_column, r_contact
        Resistance of one line segment, and between each terminal and its line (Ohm). Row terminals are at the left,
        column terminals at the bottom.

    Notes
    -----
    The lines are solved exactly for cells of the secant conductance ``I(A) / A`` at the amplitude A. What the cells
    deviate from it, ``p(v) = I(v) - v I(A) / A``, is added with first-order line drops. At 0.1 V that leaves less than
    1e-4 of the largest output.
    """
    rows, columns = coefficients.shape[-2:]
    secant = np.tensordot(amplitude ** np.array([0.0, 2.0, 4.0]), coefficients, axes=1)
    transfer = transfer_matrix(secant, lines=Lines(r_row, r_column, r_contact))
    along_row = row_resistance(columns, r_row, r_contact)
    along_column = column_resistance(rows, r_column, r_contact)
    deviation = np.concatenate([coefficients[:1] - secant, coefficients[1:]])
    if direction == "forward":
        swapped = np.swapaxes(deviation, -1, -2)
        return _embed(secant.T, swapped, transfer.T, along_column, along_row, amplitude)
    return _embed(secant, deviation, transfer, along_row, along_column, amplitude)


def _embed(
    secant: FloatArray,
    deviation: FloatArray,
    transfer: FloatArray,
    along_driven: FloatArray,
    along_sensed: FloatArray,
    amplitude: float,
) -> ProductModel:
    """Add the deviation of the cells from their secant; cell arrays are ``[driven, sensed]`` here.

    `kept` is the share of the drive voltage left at a cell when only its own line is driven; `arriving` the share of
    a current injected by a cell that leaves through its sense amplifier (by reciprocity the same with the roles of
    the lines exchanged). A sensed line rises at a cell by `rise` times its current.
    """
    kept = 1 / (1 + secant @ along_driven)
    arriving = 1 / (1 + along_sensed @ secant)
    rise = along_sensed @ (secant / np.maximum(secant.sum(axis=0), 1e-30))  # Ohm; current spread as conductances are
    odd = [(d * kept**n * arriving).T for n, d in zip(ORDERS, deviation, strict=True)]
    slopes = [(n * d * kept ** (n - 1) * rise * arriving).T for n, d in zip(ORDERS, deviation, strict=True)]
    return ProductModel(
        odd=(transfer + odd[0], odd[1], odd[2]),
        rise=(slopes[0], slopes[1], slopes[2]),
        squared=secant * secant,
        amplitude=amplitude,
    )
