"""The file of measured dies beside a lot file: what a lot that was measured holds instead of what would be drawn.

One ``.npz`` (``numpy.load(..., allow_pickle=False)``), for D dies of [K, R, C] cells and L dead lines:

- ``format`` text, `FORMAT`
- ``site`` [D, 2] int64, column and row on the wafer map, by die index
- ``v_read`` float64, the voltage (V) at which conductances were read, column by column, all rows sensed
- ``g_p``, ``g_ap`` [D, K, R, C] float32, conductance (S) of every cell as read, selector and lines included, with all
  cells in P and with all cells in AP
- ``kind`` [D, K, R, C] uint8, index of `sim_backends.array.dies.lot.KINDS`; any for cells on dead lines
- ``state`` [D, K, R, C] bool, True = AP, as last known
- ``v_critical_to_ap``, ``v_critical_to_p`` [D, K, R, C] float32, critical voltages (V) across the junction
- ``line_die`` [L] index, ``line_kind`` [L] index of `LINE_KINDS`, ``line_block`` [L] (-1: all blocks), ``line_index``
  [L] row or column of the block, all int64

Whoever measures a lot may write it; nothing in it is trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.dies.topology import Topology
from sim_backends.array.files.npz import UNREADABLE, read_npz

FORMAT = "xbarlab measured dies 1"
LINE_KINDS = ("row", "column", "gate", "row_shared")

_CELL_BYTES = 32  # more than all arrays of a cell together
_OTHER_BYTES = 4_000_000  # lines, sites and headers
_CELLS: dict[str, tuple[type, float, float]] = {
    "g_p": (np.float32, -1.0, 1.0),
    "g_ap": (np.float32, -1.0, 1.0),
    "kind": (np.uint8, 0, 5),
    "state": (np.bool_, 0, 1),
    "v_critical_to_ap": (np.float32, 1e-3, 100.0),
    "v_critical_to_p": (np.float32, 1e-3, 100.0),
}  # dtype, smallest and largest value


class MeasuredFileError(ValueError):
    """The file of measured dies cannot be used; the message says which part of it."""


@dataclass(frozen=True, eq=False)
class MeasuredDies:
    """Content of the file (see the module), checked."""

    v_read: float
    g_p: FloatArray
    g_ap: FloatArray
    kind: NDArray[np.uint8]
    state: BoolArray
    v_critical_to_ap: FloatArray
    v_critical_to_p: FloatArray
    lines: tuple[tuple[int, str, int | None, int], ...]
    """Die index, kind, block (None: all) and row or column of each dead line."""

    def lines_of(self, index: int) -> list[tuple[str, int | None, int]]:
        """Kind, block and row or column of the dead lines of a die."""
        return [(kind, block, place) for die, kind, block, place in self.lines if die == index]


def read_measured(path: Path, topology: Topology, sites: Sequence[tuple[int, int]]) -> MeasuredDies:
    """Read and check the measured dies of a lot.

    Parameters
    ----------
    path
        The ``.npz``.
    topology
        Of the lot; the arrays must have its shape.
    sites
        Column and row of each die index, as the lot file has them.

    Raises
    ------
    MeasuredFileError
        If it is no such file, or an array is missing, has another type or shape, or values out of range.
    """
    try:
        file = read_npz(path, len(sites) * int(np.prod(topology.shape)) * _CELL_BYTES + _OTHER_BYTES)
        if str(file["format"]) != FORMAT:
            raise ValueError(f"its format is {str(file['format'])[:40]!r}, expected {FORMAT!r}")
        return _checked(file, topology, sites)
    except UNREADABLE as error:
        raise MeasuredFileError(
            f"{path} is no file of the measured dies of this lot: {error}; make lot file and dies again with xbar twin"
        ) from error


def _checked(file: Any, topology: Topology, sites: Sequence[tuple[int, int]]) -> MeasuredDies:
    shape = (len(sites), *topology.shape)
    cells = {name: _array(file, name, dtype, shape, low, high) for name, (dtype, low, high) in _CELLS.items()}
    site = _array(file, "site", np.int64, (len(sites), 2), -(2**31), 2**31)
    if [tuple(place) for place in site.tolist()] != [tuple(place) for place in sites]:
        raise ValueError("its sites are not those that the lot file lists")
    return MeasuredDies(
        v_read=float(_array(file, "v_read", np.float64, (), 1e-4, 10.0)),
        g_p=cells["g_p"].astype(np.float64),
        g_ap=cells["g_ap"].astype(np.float64),
        kind=cells["kind"],
        state=cells["state"],
        v_critical_to_ap=cells["v_critical_to_ap"].astype(np.float64),
        v_critical_to_p=cells["v_critical_to_p"].astype(np.float64),
        lines=_lines(file, topology, len(sites)),
    )


def _lines(file: Any, topology: Topology, dies: int) -> tuple[tuple[int, str, int | None, int], ...]:
    count = int(np.size(file["line_die"]))
    longest = max(topology.block_rows, topology.block_columns)
    die = _array(file, "line_die", np.int64, (count,), 0, dies - 1)
    kind = _array(file, "line_kind", np.int64, (count,), 0, len(LINE_KINDS) - 1)
    block = _array(file, "line_block", np.int64, (count,), -1, topology.blocks - 1)
    index = _array(file, "line_index", np.int64, (count,), 0, longest - 1)
    lines = []
    for d, k, b, i in zip(die.tolist(), kind.tolist(), block.tolist(), index.tolist(), strict=True):
        name = LINE_KINDS[k]
        if i >= (topology.block_rows if name.startswith("row") else topology.block_columns):
            raise ValueError(f"a dead {name} has index {i}, beyond its block")
        if (b < 0) != (name == "row_shared"):
            raise ValueError(f"a dead {name} has block {b}")
        lines.append((d, name, None if b < 0 else b, i))
    return tuple(lines)


def _array(file: Any, name: str, dtype: type, shape: tuple[int, ...], low: float, high: float) -> NDArray[Any]:
    """An array of the given type, shape and range."""
    if name not in file:
        raise ValueError(f"{name} is missing")
    values = np.asarray(file[name])
    if values.dtype != np.dtype(dtype) or values.shape != shape:
        raise ValueError(f"{name} is {values.dtype} {list(values.shape)}, expected {np.dtype(dtype)} {list(shape)}")
    if not np.all((values >= low) & (values <= high)):  # written so that NaN is out of range
        raise ValueError(f"{name} has values outside {low:g} to {high:g}")
    return values
