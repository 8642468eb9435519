"""Modified nodal analysis of one array in exact or many-digit arithmetic: slow, plain, and independent of the product.

Every cell has its own row node and column node; a perfect conductor or a source without resistance is a branch whose
current is an unknown. Nothing is merged, so nothing can be merged wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Singular(Exception):
    """The network has no solution, or more than one."""


@dataclass(frozen=True)
class Network:
    """An array: resistances (Ohm) with infinity for a break or an open terminal, and source voltages (V)."""

    r_row: FloatArray  # [row, columns + 1]
    r_column: FloatArray  # [rows + 1, column]
    r_left: FloatArray
    r_right: FloatArray
    r_bottom: FloatArray
    r_top: FloatArray
    v_left: FloatArray
    v_right: FloatArray
    v_bottom: FloatArray
    v_top: FloatArray
    ga: FloatArray
    gb: FloatArray
    offset: FloatArray


@dataclass(frozen=True)
class Solution:
    v_row: FloatArray
    v_column: FloatArray
    i_cell: FloatArray
    i_left: FloatArray
    i_right: FloatArray
    i_bottom: FloatArray
    i_top: FloatArray
    largest: float
    """Largest of all currents in the network (A)."""


def solve(network: Network, number: type[Fraction] | type[Decimal]) -> Solution:
    """Solve in exact fractions, or in decimals of 60 digits; values are taken as the decimals they print as."""
    with localcontext() as context:
        context.prec = 60
        return _solve(network, lambda value: number(repr(float(value))))


def _solve(network: Network, number: Callable[[float], Any]) -> Solution:
    rows, columns = network.ga.shape
    cells = rows * columns
    resistors: list[tuple[int, int | None, float, float, tuple[str, int] | None]] = []
    for i in range(rows):
        line = [i * columns + j for j in range(columns)]
        ends = (("left", network.r_left[i], network.v_left[i]), ("right", network.r_right[i], network.v_right[i]))
        resistors += _line(line, network.r_row[i], ends, i)
    for j in range(columns):
        line = [cells + i * columns + j for i in range(rows)]
        ends = (("top", network.r_top[j], network.v_top[j]), ("bottom", network.r_bottom[j], network.v_bottom[j]))
        resistors += _line(line, network.r_column[:, j], ends, j)
    shorts = [branch for branch in resistors if branch[2] == 0]
    size = 2 * cells + len(shorts)
    a = np.full((size, size), number(0), dtype=object)
    b = np.full(size, number(0), dtype=object)
    for node, other, r, v, _ in resistors:
        if r > 0:
            g = 1 / number(r)
            a[node, node] += g
            if other is None:
                b[node] += g * number(v)
            else:
                a[node, other] -= g
                a[other, node] -= g
                a[other, other] += g
    for k, (node, other, _, v, _) in enumerate(shorts, start=2 * cells):  # unknown k: current from other into node
        a[node, k] -= 1
        a[k, node] += 1
        b[k] = number(v)
        if other is not None:
            a[other, k] += 1
            a[k, other] -= 1
    for cell in range(cells):
        ga, gb, offset = (number(x.flat[cell]) for x in (network.ga, network.gb, network.offset))
        for node, sign in ((cell, 1), (cells + cell, -1)):
            a[node, cell] += sign * ga
            a[node, cells + cell] -= sign * gb
            b[node] -= sign * offset
    x = _eliminate(a, b)
    lines = {"left": rows, "right": rows, "bottom": columns, "top": columns}
    currents = {side: np.zeros(count) for side, count in lines.items()}
    largest = 0.0
    short = iter(x[2 * cells :])
    for node, other, r, v, terminal in resistors:
        into = next(short) if r == 0 else ((number(v) if other is None else x[other]) - x[node]) / number(r)
        largest = max(largest, abs(float(into)))
        if terminal is not None:
            currents[terminal[0]][terminal[1]] = float(into)
    i_cell = np.zeros((rows, columns))
    for cell in range(cells):
        ga, gb, offset = (number(part.flat[cell]) for part in (network.ga, network.gb, network.offset))
        i_cell.flat[cell] = float(ga * x[cell] - gb * x[cells + cell] + offset)
    largest = max(largest, float(np.max(np.abs(i_cell))))
    voltage = np.array([float(value) for value in x[: 2 * cells]]).reshape(2, rows, columns)
    return Solution(
        v_row=voltage[0],
        v_column=voltage[1],
        i_cell=i_cell,
        i_left=currents["left"],
        i_right=currents["right"],
        i_bottom=-currents["bottom"],
        i_top=-currents["top"],
        largest=largest,
    )


def _line(
    line: list[int], segments: FloatArray, ends: tuple[tuple[str, float, float], ...], number: int
) -> list[tuple[int, int | None, float, float, tuple[str, int] | None]]:
    """Resistors of a line: node, other node (None: a source), Ohm, source voltage, terminal."""
    found: list[tuple[int, int | None, float, float, tuple[str, int] | None]] = []
    for (side, r, v), node, segment in zip(ends, (line[0], line[-1]), (segments[0], segments[-1]), strict=True):
        if np.isfinite(r + segment):
            found.append((node, None, float(r + segment), float(v), (side, number)))
    for node, other, r in zip(line[:-1], line[1:], segments[1:-1], strict=True):
        if np.isfinite(r):
            found.append((node, other, float(r), 0.0, None))
    return found


def _eliminate(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    size = len(b)
    for k in range(size):
        pivot = k + int(np.argmax(np.abs(a[k:, k])))
        if a[pivot, k] == 0:
            raise Singular
        a[[k, pivot]], b[[k, pivot]] = a[[pivot, k]], b[[pivot, k]]
        below = k + 1 + np.flatnonzero(a[k + 1 :, k])
        across = k + np.flatnonzero(a[k, k:])
        factor = a[below, k] / a[k, k]
        a[np.ix_(below, across)] -= np.multiply.outer(factor, a[k, across])
        b[below] -= factor * b[k]
    x = b.copy()
    for k in reversed(range(size)):
        x[k] = (b[k] - np.sum(a[k, k + 1 :] * x[k + 1 :])) / a[k, k]
    return x
