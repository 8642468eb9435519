"""The hidden truth of dies as a file, for comparison with what was measured. Nothing else ever sees it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim_backends.array.dies.kinds import ArrayDie
from sim_backends.array.dies.topology import DeadLine
from sim_backends.bench.files import write_atomically

LINE_KINDS = ("row", "column", "gate", "row_shared")


class TruthFile:
    """Writes the truth of dies, again and again as it changes, to one ``.npz`` file.

    Arrays (``numpy.load(..., allow_pickle=False)``), for D dies of [K, R, C] cells and L dead lines:

    - ``die`` [D] index, ``site`` [D, 2] column and row of the wafer map
    - ``kind`` [D, K, R, C] uint8, index of ``kinds``; ``broken`` [D, K, R, C] bool, shorted by a pulse since
    - ``alive`` [D, K, R, C] bool, on no dead line
    - ``line_die`` [L] index, ``line_kind`` [L] index of ``line_kinds``, ``line_block`` [L] (-1: all blocks),
      ``line_index`` [L] row or column of the block, ``line_mask`` [L, K, R, C] bool
    - ``meta`` JSON text: lot, seed, cell, v_read, kinds, line_kinds

    Of MTJ dies:

    - ``r_p``, ``r_ap`` [D, K, R, C] resistance of the junction at low bias as made (Ohm); equal where there is only
      one state
    - ``state`` [D, K, R, C] bool, True = AP, now
    - ``g_p``, ``g_ap`` [D, K, R, C] conductance of the cell with selector at ``v_read`` (S), 0 on dead lines; a broken
      cell has that of a short

    Of passive dies:

    - ``g`` [D, K, R, C] conductance of each cell by itself, now (S); ``g_read`` that of a read at ``v_read`` without
      noise, with the lines and their failures in it
    - ``row_net`` [D, K, R] number of the net of each row; rows of one net are shorted to each other

    Parameters
    ----------
    path
        The file; it is whole or not there, whenever the process ends.
    sites
        Map site of each die index.
    """

    def __init__(self, path: Path, sites: Sequence[tuple[int, int]]) -> None:
        self.path = path
        self._sites = sites

    def write(self, dies: Sequence[ArrayDie]) -> None:
        """Replace the file by the truth of `dies`."""
        per_die = [die.truth() for die in dies]
        arrays: dict[str, Any] = {name: np.stack([values[name] for values in per_die]) for name in per_die[0]}
        arrays |= {
            "die": np.array([die.index for die in dies]),
            "site": np.array([self._sites[die.index] for die in dies]),
            "meta": np.array(json.dumps(_meta(dies[0]))),
        }
        arrays |= _line_arrays(
            [(die.index, line) for die in dies for line in die.dead_lines], dies[0].lot.topology.shape
        )
        write_atomically(self.path, lambda file: np.savez(file, **arrays))


def _line_arrays(lines: list[tuple[int, DeadLine]], shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "line_die": np.array([die for die, _ in lines], dtype=np.int64),
        "line_kind": np.array([LINE_KINDS.index(line.kind) for _, line in lines], dtype=np.int64),
        "line_block": np.array([-1 if line.block is None else line.block for _, line in lines], dtype=np.int64),
        "line_index": np.array([line.index for _, line in lines], dtype=np.int64),
        "line_mask": np.array([line.mask for _, line in lines], dtype=bool).reshape(-1, *shape),
    }


def _meta(die: ArrayDie) -> dict[str, object]:
    return {
        "lot": die.lot.name,
        "seed": die.seed,
        "cell": die.lot.cell,
        "v_read": die.lot.v_read,
        "kinds": die.kinds,
        "line_kinds": LINE_KINDS,
    }
