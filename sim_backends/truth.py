"""The hidden truth of dies as a file, for comparison with what was measured. Nothing else ever sees it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim_backends.array.die import DeadLine, Die
from sim_backends.array.lot import KINDS
from sim_backends.files import write_atomically

LINE_KINDS = ("row", "column", "gate", "row_shared")


class TruthFile:
    """Writes the truth of dies, again and again as it changes, to one ``.npz`` file.

    Arrays (``numpy.load(..., allow_pickle=False)``), for D dies of [K, R, C] cells and L dead lines:

    - ``die`` [D] index, ``site`` [D, 2] column and row of the wafer map
    - ``r_p``, ``r_ap`` [D, K, R, C] resistance of the junction at low bias as made (Ohm); equal where there is only
      one state
    - ``kind`` [D, K, R, C] uint8, index of ``kinds``
    - ``state`` [D, K, R, C] bool, True = AP, now; ``broken`` bool, shorted by a pulse since
    - ``alive`` [D, K, R, C] bool, on no dead line
    - ``g_p``, ``g_ap`` [D, K, R, C] conductance of the cell with selector at ``v_read`` (S), 0 on dead lines; a broken
      cell has that of a short
    - ``line_die`` [L] index, ``line_kind`` [L] index of ``line_kinds``, ``line_block`` [L] (-1: all blocks),
      ``line_index`` [L] row or column of the block, ``line_mask`` [L, K, R, C] bool
    - ``meta`` JSON text: lot, seed, v_read, kinds, line_kinds

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
        self._made: dict[tuple[int, int], dict[str, Any]] = {}  # by die and broken cells: slow to compute

    def write(self, dies: Sequence[Die]) -> None:
        """Replace the file by the truth of `dies`."""
        per_die = [
            {**self._unchanging(die), "state": die.devices.antiparallel, "broken": die.devices.broken} for die in dies
        ]
        arrays: dict[str, Any] = {name: np.stack([values[name] for values in per_die]) for name in per_die[0]}
        arrays |= {
            "die": np.array([die.index for die in dies]),
            "site": np.array([self._sites[die.index] for die in dies]),
            "meta": np.array(json.dumps(_meta(dies[0]))),
        }
        arrays |= _line_arrays([(die.index, line) for die in dies for line in die.dead_lines], dies[0].devices.shape)
        write_atomically(self.path, lambda file: np.savez(file, **arrays))

    def _unchanging(self, die: Die) -> dict[str, Any]:
        key = (die.index, int(die.devices.broken.sum()))
        if key not in self._made:
            devices, v_read = die.devices, die.lot.v_read
            self._made[key] = {
                "r_p": devices.r_p.astype(np.float32),
                "r_ap": (devices.r_p * (1 + devices.tmr)).astype(np.float32),
                "kind": die.kind,
                "alive": die.alive,
                "g_p": die.conductance(v_read, antiparallel=False).astype(np.float32),
                "g_ap": die.conductance(v_read, antiparallel=True).astype(np.float32),
            }
        return self._made[key]


def _line_arrays(lines: list[tuple[int, DeadLine]], shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "line_die": np.array([die for die, _ in lines], dtype=np.int64),
        "line_kind": np.array([LINE_KINDS.index(line.kind) for _, line in lines], dtype=np.int64),
        "line_block": np.array([-1 if line.block is None else line.block for _, line in lines], dtype=np.int64),
        "line_index": np.array([line.index for _, line in lines], dtype=np.int64),
        "line_mask": np.array([line.mask for _, line in lines], dtype=bool).reshape(-1, *shape),
    }


def _meta(die: Die) -> dict[str, object]:
    return {
        "lot": die.lot.name,
        "seed": die.seed,
        "v_read": die.lot.v_read,
        "kinds": KINDS,
        "line_kinds": LINE_KINDS,
    }
