"""What a run over a lot showed: the numbers behind the table, the JSON file and the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

#: Keys of `LotResults.defect_counts`, in the order of the codes 1.. of `mapping.dies.die_record.CellClass`.
DEFECTS = ("short", "open", "stuck_p", "stuck_ap", "weak", "dead_line")


@dataclass(frozen=True)
class Training:
    """How one training did on the dies: everything measured through the arrays unless the name says otherwise.

    Attributes
    ----------
    name : str
        A key of `analysis.results.summary.TRAININGS`.
    correct : bool ``[measured die, image]``
        Whether each test image was classified right on each die (for a moved network: on the die it was moved to).
    software_correct : bool ``[image]``
        The same network without a die: ideal arithmetic.
    dies : int ``[measured die]``, optional
        Place in `LotResults.dies` of each row of `correct`. None: every die of the lot, in order.
    """

    name: str
    correct: BoolArray
    software_correct: BoolArray
    dies: NDArray[np.int64] | None = None

    @property
    def die_index(self) -> NDArray[np.int64]:
        """Place in `LotResults.dies` of each row of `correct`."""
        return np.arange(len(self.correct)) if self.dies is None else np.asarray(self.dies)

    @property
    def per_die(self) -> FloatArray:
        """Misclassification error of each measured die, 0..1, in the order of `correct`."""
        return (~self.correct).mean(axis=1)


@dataclass(frozen=True)
class LotResults:
    """A finished (or partly finished) run over a lot.

    What a partly finished run has not reached is left out of the dictionaries, and an array of size 0 elsewhere.

    Attributes
    ----------
    dies : tuple of str
        Names of the dies in route order.
    sites : int ``[die, 2]``
        Column and row on the wafer map.
    software_correct : bool ``[image]``
        The unaware network in ideal arithmetic: the software baseline.
    trainings : dict
        By name.
    moved_emulated : float ``[die, die]``
        Error of the network trained for die i (row) emulated on die j (column); the diagonal is its own die.
        NaN where not emulated.
    moved_measured : tuple of (int, int, float)
        Off-diagonal entries that were really programmed and measured: i, j, error.
    defect_counts : dict of int ``[die]``
        Cells per class (keys: `DEFECTS`).
    line_faults : tuple of tuple of str
        Per die, dead lines in words.
    cell_class : uint8 ``[die, block, row, column]``
        Class of every cell, laid out as on the die (codes of `mapping.dies.die_record.CellClass`).
    g_p, g_ap : float32 ``[die, cell]``
        Measured conductances (S), any order of cells, same order as `cell_class_flat`.
    sensitivity : dict
        ``{"scale": [s], "error": {training: [s, draw]}}``: error under fresh random defect draws (the same draws for
        every training) at `scale` times the lot's own defect rate; emulated.
    halves : int ``[die]``
        0 where the die's record was used to fit the defect statistics, 1 where it was not.
    programming : dict
        cells, verified, gave_up, pulses_per_cell.
    time : dict
        wall_s, station_s, training_s.
    """

    dies: tuple[str, ...]
    sites: NDArray[np.int64]
    software_correct: BoolArray
    trainings: dict[str, Training]
    moved_emulated: FloatArray
    moved_measured: tuple[tuple[int, int, float], ...]
    defect_counts: dict[str, NDArray[np.int64]]
    line_faults: tuple[tuple[str, ...], ...]
    cell_class: NDArray[np.uint8]
    g_p: NDArray[np.float32]
    g_ap: NDArray[np.float32]
    cell_class_flat: NDArray[np.uint8]
    sensitivity: dict[str, Any]
    halves: NDArray[np.int64]
    programming: dict[str, float]
    time: dict[str, float]
    seed: int
    data: str
    assumed: tuple[str, ...]
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def cells_per_die(self) -> int:
        """Cells of a die; 0 where no die has been read."""
        maps = self.cell_class if self.cell_class.size else self.g_p
        return int(np.prod(maps.shape[1:])) if maps.size else 0

    @property
    def defects(self) -> NDArray[np.int64]:
        """Cells of each die that are not good (`mapping.dies.die_record.DieRecord.defects`); empty where not known."""
        counts = [np.asarray(self.defect_counts[key]) for key in DEFECTS if key in self.defect_counts]
        return np.sum(counts, axis=0, dtype=np.int64) if counts else np.empty(0, np.int64)

    @property
    def short_names(self) -> tuple[str, ...]:
        """Names of the dies without the beginning that all share (``lot7/x03y05`` is ``x03y05``), for axes."""
        if len(self.dies) < 2:
            return self.dies
        first, last = min(self.dies), max(self.dies)
        shared = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), 0)
        start = 1 + max(first.rfind(mark, 0, shared) for mark in "/:_- ")
        return tuple(name[start:] for name in self.dies)

    def error(self, name: str) -> FloatArray:
        """Measured error of a training on every die of the lot, 0..1; NaN where it has not been measured.

        Several networks on one die (moved ones) give their mean. Moved networks of which only single errors are known
        (`moved_measured`) count on the die they were moved to.
        """
        out = np.full(len(self.dies), np.nan)
        if name in self.trainings:
            on, errors = self.trainings[name].die_index, self.trainings[name].per_die
        elif name == "die_aware_moved":
            on = np.array([die for _, die, _ in self.moved_measured], np.int64)
            errors = np.array([error for *_, error in self.moved_measured])
        else:
            return out
        for die in np.unique(on):
            out[die] = errors[on == die].mean()
        return out
