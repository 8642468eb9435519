"""Networks of resistors by star-mesh elimination: slow, independent of the product, and accurate in plain doubles.

Eliminating a node of conductances ``w`` to its neighbours puts ``w_i w_j / sum(w)`` between each two of them. Only
positive numbers are added, multiplied and divided, so the conductances between terminals come out with all their
digits, whatever the ratio of wires and cells. A perfect conductor is one of 1e30 S.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
SIDES = ("left", "right", "top", "bottom")
PERFECT = 1e30


@dataclass(frozen=True)
class Found:
    """Currents into the rows at left and right, out of the columns at top and bottom (A); cell voltages (V)."""

    i_left: FloatArray
    i_right: FloatArray
    i_top: FloatArray
    i_bottom: FloatArray
    v_cell: FloatArray
    dissipated: float
    """In cells, lines, contacts and sources, added up resistor by resistor (W)."""

    @property
    def largest(self) -> float:
        """Largest terminal current (A)."""
        return max(float(np.max(np.abs(getattr(self, f"i_{side}")))) for side in SIDES)


def solve(
    g: FloatArray,
    voltages: Mapping[str, ArrayLike],
    *,
    r_row: ArrayLike = 0.0,
    r_column: ArrayLike = 0.0,
    r_contact: float = 0.0,
    r_source: Mapping[str, ArrayLike] | None = None,
) -> Found:
    """Solve one array of cells `g` (S) with sources at any sides; a voltage of NaN is no source."""
    rows, columns = g.shape
    cells = rows * columns
    terminals = {"left": rows, "right": rows, "top": columns, "bottom": columns}
    row_node = np.arange(cells).reshape(rows, columns)
    column_node = cells + row_node
    total = 2 * cells + sum(terminals.values())
    wires = np.zeros((total, total))

    def connect(a: NDArray[np.intp], b: NDArray[np.intp], conductance: FloatArray) -> None:
        wires[a, b] += conductance
        wires[b, a] += conductance

    segments = {
        "row": np.broadcast_to(np.asarray(r_row, dtype=float), (rows, columns + 1)),
        "column": np.broadcast_to(np.asarray(r_column, dtype=float), (rows + 1, columns)),
    }
    connect(row_node, column_node, g)
    connect(row_node[:, :-1], row_node[:, 1:], _conductance(segments["row"][:, 1:-1]))
    connect(column_node[:-1], column_node[1:], _conductance(segments["column"][1:-1]))
    first_cells = {"left": row_node[:, 0], "right": row_node[:, -1], "top": column_node[0], "bottom": column_node[-1]}
    first_segments = {
        "left": segments["row"][:, 0],
        "right": segments["row"][:, -1],
        "top": segments["column"][0],
        "bottom": segments["column"][-1],
    }
    v = np.zeros(total)
    place = {}
    start = 2 * cells
    for side, count in terminals.items():
        place[side] = np.arange(start, start + count)
        start += count
        given = np.broadcast_to(np.asarray(voltages.get(side, np.nan), dtype=float), (count,))
        source = np.broadcast_to(np.asarray((r_source or {}).get(side, 0.0), dtype=float), (count,))
        conductance = _conductance(first_segments[side] + r_contact + source)
        connect(place[side], first_cells[side], np.where(np.isnan(given), 0.0, conductance))
        v[place[side]] = np.nan_to_num(given)
    resistors = wires.copy()
    shares = _eliminate(wires, 2 * cells)
    for node in reversed(range(2 * cells)):
        v[node] = shares[node] @ v[node + 1 :]
    outer = slice(2 * cells, None)
    into = np.sum(wires[outer, outer] * (v[outer, None] - v[None, outer]), axis=1)
    current = {side: into[place[side] - 2 * cells] * (1 if side in ("left", "right") else -1) for side in SIDES}
    drops = v[:, None] - v[None, :]
    drops[resistors >= PERFECT / 100] = 0.0  # of a perfect conductor only rounding is left
    return Found(
        *(current[side] for side in SIDES),
        v_cell=v[row_node] - v[column_node],
        dissipated=0.5 * float(np.sum(resistors * drops**2)),
    )


def _conductance(r: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.minimum(1.0 / r, PERFECT)


def _eliminate(wires: FloatArray, count: int) -> list[FloatArray]:
    """Eliminate the first nodes in place; what part of each node's voltage comes from each later node."""
    shares = []
    for node in range(count):
        to = wires[node, node + 1 :]
        share = to / np.sum(to)
        shares.append(share)
        touched = np.flatnonzero(to)
        where = np.ix_(node + 1 + touched, node + 1 + touched)
        wires[where] += np.outer(to[touched], share[touched])
        np.fill_diagonal(wires, 0.0)
    return shares
