"""The network of a crossbar array: every node's voltage, solved exactly, with any device in the crosspoints.

One call does it::

    solution = solve(g, left=v, bottom=0.0, lines=Lines(r_row=2.0, r_column=2.0))
    solution.i_bottom  # A, out of every column

Rows (word lines) have terminals at their left and right ends, columns (bit lines) at their top and bottom ends. Between
a terminal and the first cell, and between neighbouring cells, lies one line segment.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from sim_backends.array.devices.interface import Conducting, FloatArray
from sim_backends.array.solver import direct_method, line_method
from sim_backends.array.solver.errors import ConvergenceError, NetworkError
from sim_backends.array.solver.problem import Drive, Lines, Problem, Solution, real_numbers

__all__ = ["ConvergenceError", "Drive", "Lines", "Method", "NetworkError", "Solution", "solve"]

Method = Literal["auto", "lines", "transfer", "direct"]


def solve(
    devices: ArrayLike | Conducting,
    /,
    *,
    left: ArrayLike | Drive | None = None,
    right: ArrayLike | Drive | None = None,
    bottom: ArrayLike | Drive | None = None,
    top: ArrayLike | Drive | None = None,
    lines: Lines = Lines(),  # noqa: B008 (frozen)
    cells: bool = False,
    tolerance: float = 1e-9,
    method: Method = "auto",
    near: Solution | None = None,
) -> Solution:
    """Solve Kirchhoff's laws for an array, or for many.

    Parameters
    ----------
    devices
        Conductances ``[..., row, column]`` (S), 0 = open; or devices with a nonlinear current
        (`sim_backends.array.devices`).
    left, right
        Voltages of the sources at the ends of the rows, ``[..., row]`` (V) or one for all. NaN: that line is not
        connected; None: nothing is connected at this side. Zero volt is a ground, and a virtual ground alike. A
        `Drive` adds the resistance of the sources.
    bottom, top
        The same for the columns, ``[..., column]``.
    lines
        Resistance of segments and contacts (Ohm).
    cells
        Whether the voltage and current of every cell are wanted too.
    tolerance
        Largest error of a terminal current, relative to the largest one.
    method
        "lines": every line exactly, conjugate gradients across them, Newton's method if the devices are nonlinear;
        fastest for single vectors and changing conductances. "transfer": the response to each terminal once, then one
        matrix product; for many vectors on the same linear cells. "direct": LU factorisation of all nodes; does
        perfect, broken and uneven lines too. "auto" chooses.
    near
        Solution of a similar problem of the same shape, from which Newton's method starts.

    Returns
    -------
    Solution
        Leading axes of devices and voltages broadcast: ``g[row, column]`` with ``left[k, row]`` are k vectors on one
        array, ``g[b, row, column]`` with ``left[row]`` b arrays, ``g[b, 1, row, column]`` with ``left[k, row]`` all of
        both.

    Raises
    ------
    NetworkError
        For input that describes no network with a defined solution, naming the cell or line.
    ConvergenceError
        If the tolerance was not reached. There is no solution then.
    """
    problem = Problem.of(devices, (left, right, top, bottom), lines, tolerance, near)
    if method == "auto":
        return _solve_as_fits(problem, cells)
    if method == "direct":
        return direct_method.solve(problem, cells)
    if method not in ("lines", "transfer"):
        raise NetworkError(f"no method {method!r}: give auto, lines, transfer or direct")
    line_method.refuse_unfit(problem)
    if method == "lines":
        return _solve_by_lines(problem, cells)
    return line_method.solve_by_transfer(problem, cells)


def _solve_as_fits(problem: Problem, cells: bool) -> Solution:
    if line_method.unfit(problem):
        return direct_method.solve(problem, cells)
    if line_method.transfer_pays(problem):
        with suppress(ConvergenceError):
            return line_method.solve_by_transfer(problem, cells)
    try:
        return _solve_by_lines(problem, cells)
    except ConvergenceError:
        return direct_method.solve(problem, cells)


def _solve_by_lines(problem: Problem, cells: bool) -> Solution:
    if problem.devices is None:
        return line_method.solve(problem, cells)
    from sim_backends.array.solver import newton  # not needed, and not compiled, for ohmic cells

    return newton.solve(problem, cells)


def transfer_matrix(g: ArrayLike, *, lines: Lines, tolerance: float = 1e-9) -> FloatArray:
    """Current out of each column per volt at each row, ``[..., column, row]`` (S): rows driven left, columns grounded.

    Terminal admittances of resistors are symmetric: the transpose is the current out of each row per volt at each
    column, seen from the rows.

    Parameters
    ----------
    g
        Conductances ``[..., row, column]`` (S).
    lines, tolerance
        As in `solve`.
    """
    g = real_numbers(g, "conductances", "siemens")
    if g.ndim < 2 or 0 in g.shape[-2:]:
        raise NetworkError(f"conductances have shape {g.shape}: give [..., row, column] with at least one of each")
    unit = np.eye(g.shape[-2])
    solution = solve(g[..., None, :, :], left=unit, bottom=0.0, lines=lines, tolerance=tolerance)
    return np.swapaxes(solution.i_bottom, -1, -2)
