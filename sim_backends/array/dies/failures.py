"""What does not work in a passive array: single cells, and whole lines.

The failed 8 x 8 arrays of die P464E that the authors of arXiv:2305.18495 published (repository
3it-inpaqt/Hardware-Aware-Article) fail by lines, not cell by cell: open rows and columns, rows that are low or high as
a whole, rows that read the same in every cell, rows that read as another row does. `KINDS_PUBLISHED` draws arrays of
each of the five kinds; `draw_failures` draws arrays from rates.

Rows count from the top, columns from the left; a row's terminal is at its left end, a column's at its bottom end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.dies.statistics import StuckCells

IntArray = NDArray[np.int64]

CAUSES = ("works", "stuck_lrs", "stuck_hrs", "open", "short", "row_lrs", "row_hrs", "row_short", "as_found")


@dataclass(frozen=True)
class Failures:
    """Failures of arrays ``[..., row, column]``.

    Attributes
    ----------
    fixed
        Conductance (S) that a cell has whatever is written, ``[..., row, column]``; NaN where it works, 0 where open.
    cause
        Why it is fixed, ``[..., row, column]``: an index of `CAUSES`.
    row_reach
        Cells of each row that are still joined to its terminal, ``[..., row]``: all columns where the line is whole, 0
        where it is broken in front of the first cell.
    column_reach
        The same of each column, ``[..., column]``.
    row_net
        Number of the net that each row belongs to, ``[..., row]``: rows of one net are shorted to each other.
    """

    fixed: FloatArray
    cause: NDArray[np.uint8]
    row_reach: IntArray
    column_reach: IntArray
    row_net: IntArray

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Failures:
        """Arrays ``[..., row, column]`` in which everything works."""
        *leading, rows, columns = shape
        return cls(
            fixed=np.full(shape, np.nan),
            cause=np.zeros(shape, dtype=np.uint8),
            row_reach=np.full((*leading, rows), columns, dtype=np.int64),
            column_reach=np.full((*leading, columns), rows, dtype=np.int64),
            row_net=np.broadcast_to(np.arange(rows), (*leading, rows)).copy(),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.fixed.shape

    @property
    def open_rows(self) -> BoolArray:
        """Rows none of whose cells is joined to the terminal, ``[..., row]``; in a network they float."""
        return self.row_reach == 0

    @property
    def open_columns(self) -> BoolArray:
        """Columns none of whose cells is joined to the terminal, ``[..., column]``; in a network they float."""
        return self.column_reach == 0

    @property
    def cut_off(self) -> BoolArray:
        """Cells that lie behind a break of their row or their column, ``[..., row, column]``."""
        rows, columns = self.shape[-2:]
        behind_row = np.arange(columns) >= self.row_reach[..., :, None]
        behind_column = np.arange(rows)[::-1, None] >= self.column_reach[..., None, :]
        return behind_row | behind_column

    def cells(self, g: FloatArray) -> FloatArray:
        """Conductances of the cells themselves (S), ``[..., row, column]``, for a network that has the lines in it.

        `g` is what was written (S); leading axes broadcast.
        """
        return np.where(np.isnan(self.fixed), g, self.fixed)

    def between_terminals(self, g: FloatArray) -> FloatArray:
        """Conductance (S) that a terminal pair shows, ``[..., row, column]``, lines ideal and all others grounded.

        A cell behind a break shows nothing; rows shorted to each other show the sum of their cells in the column.
        `g` is what was written (S); leading axes broadcast.
        """
        cut_off = self.cut_off
        joined = np.where(cut_off, 0.0, self.cells(g))
        same_net = self.row_net[..., :, None] == self.row_net[..., None, :]
        return np.where(cut_off, 0.0, same_net.astype(float) @ joined)


@dataclass(frozen=True)
class FailureRates:
    """How often arrays fail, and to what; the cells' stuck rates and values are measured, all else is assumed.

    Attributes
    ----------
    stuck
        Isolated stuck cells; source: the code of the authors of arXiv:2305.18495.
    cell_open, cell_short
        Share of cells that carry nothing, or are a short of `short` (S).
    row_open, column_open
        Share of lines that are broken; half of the breaks are in front of the first cell, the others anywhere.
    row_lrs, row_hrs
        Share of rows that are low or high as a whole: the row has a typical resistance, log-uniform in `lrs_ohm` or
        `hrs_ohm` (Ohm), and its cells scatter about it by `within_row` (log-normal). The ranges are those of the
        published map with alternating rows.
    row_short
        Share of rows shorted to something: all cells read the same within `within_short`, log-uniform in `short_ohm`
        (Ohm; from the lowest cell of the published maps to the row of one value in one of them).
    rows_tied
        Probability that two rows of an array are shorted to each other.
    alternating
        Probability that all rows of an array are low and high by turns.
    """

    stuck: StuckCells = field(default_factory=StuckCells)
    cell_open: float = 0.001
    cell_short: float = 0.001
    row_open: float = 0.005
    column_open: float = 0.005
    row_lrs: float = 0.003
    row_hrs: float = 0.003
    row_short: float = 0.003
    rows_tied: float = 0.02
    alternating: float = 0.01
    short: float = 10e-3
    lrs_ohm: tuple[float, float] = (600.0, 1800.0)
    hrs_ohm: tuple[float, float] = (16e3, 560e3)
    short_ohm: tuple[float, float] = (136.0, 6000.0)
    within_row: float = 0.12
    within_short: float = 0.01

    @property
    def assumed(self) -> Mapping[str, str]:
        """What is not measured."""
        return {
            "rates of opens, shorts and line failures": "placeholders: five failed arrays say how arrays fail, "
            "not how often",
            "independence": "each line and cell fails on its own",
            "place of a break": "half in front of the first cell, the others anywhere on the line",
        }

    def __post_init__(self) -> None:
        for group in (
            ("cell_open", "cell_short"),
            ("row_lrs", "row_hrs", "row_short"),
            ("row_open",),
            ("column_open",),
            ("rows_tied",),
            ("alternating",),
        ):
            shares = [getattr(self, name) for name in group]
            if not (min(shares) >= 0 and sum(shares) <= 1):
                raise ValueError(
                    f"{' + '.join(group)} is a share from 0 to 1, not {' + '.join(f'{s:g}' for s in shares)}"
                )


def draw_failures(rates: FailureRates, shape: tuple[int, ...], rng: np.random.Generator) -> Failures:
    """Draw the failures of arrays ``[..., row, column]``; what befalls a row covers what befalls its cells."""
    failures = Failures.none(shape)
    _draw_cells(failures, rates, rng)
    _draw_rows(failures, rates, rng)
    _break_lines(failures.row_reach, shape[-1], rates.row_open, rng)
    _break_lines(failures.column_reach, shape[-2], rates.column_open, rng)
    if shape[-2] > 1:
        _tie_rows(failures.row_net, rates.rows_tied, rng)
    return failures


def _fix(failures: Failures, cells: BoolArray, cause: str, conductances: FloatArray) -> None:
    failures.fixed[cells] = conductances
    failures.cause[cells] = CAUSES.index(cause)


def _draw_cells(failures: Failures, rates: FailureRates, rng: np.random.Generator) -> None:
    stuck = rates.stuck
    fate = _categories((stuck.rate_lrs, stuck.rate_hrs, rates.cell_open, rates.cell_short), failures.shape, rng)
    _fix(failures, fate == 0, "stuck_lrs", stuck.draw_lrs(int(np.count_nonzero(fate == 0)), rng))
    _fix(failures, fate == 1, "stuck_hrs", stuck.draw_hrs(int(np.count_nonzero(fate == 1)), rng))
    _fix(failures, fate == 2, "open", np.array(0.0))
    _fix(failures, fate == 3, "short", np.array(rates.short))


def _draw_rows(failures: Failures, rates: FailureRates, rng: np.random.Generator) -> None:
    *leading, rows, columns = failures.shape
    fate = _categories((rates.row_lrs, rates.row_hrs, rates.row_short), (*leading, rows), rng)
    by_turns = (np.arange(rows) + rng.integers(0, 2, (*leading, 1))) % 2
    fate = np.where(rng.random((*leading, 1)) < rates.alternating, by_turns, fate)
    for number, cause, ohm, within in (
        (0, "row_lrs", rates.lrs_ohm, rates.within_row),
        (1, "row_hrs", rates.hrs_ohm, rates.within_row),
        (2, "row_short", rates.short_ohm, rates.within_short),
    ):
        struck = fate == number
        count = int(np.count_nonzero(struck))
        typical = np.exp(rng.uniform(np.log(ohm[0]), np.log(ohm[1]), (count, 1)))
        cells = typical * np.exp(within * rng.standard_normal((count, columns)))
        failures.fixed[struck] = 1 / cells
        failures.cause[struck] = CAUSES.index(cause)


def _break_lines(reach: IntArray, cells: int, rate: float, rng: np.random.Generator) -> None:
    broken = rng.random(reach.shape) < rate
    at_terminal = rng.random(reach.shape) < 0.5
    place = rng.integers(0, cells, reach.shape)
    reach[broken] = np.where(at_terminal, 0, place)[broken]


def _tie_rows(net: IntArray, rate: float, rng: np.random.Generator) -> None:
    """In a share of the arrays, give one row the net of another one."""
    rows = net.shape[-1]
    tied = rng.random(net.shape[:-1]) < rate
    first = rng.integers(0, rows, net.shape[:-1])
    other = (first + rng.integers(1, rows, net.shape[:-1])) % rows
    joins = tied[..., None] & (np.arange(rows) == other[..., None])
    net[joins] = np.broadcast_to(first[..., None], net.shape)[joins]


def _categories(shares: tuple[float, ...], shape: tuple[int, ...], rng: np.random.Generator) -> IntArray:
    """Which of several exclusive fates, 0, 1, ..., each of a shape has met; ``len(shares)`` for none."""
    return np.searchsorted(np.cumsum(shares), rng.random(shape), side="right")


@dataclass(frozen=True)
class RowGroup:
    """A row: its typical resistance is log-uniform in `ohm` (Ohm), its cells scatter by `within` (log-normal)."""

    ohm: tuple[float, float]
    within: float
    cause: str = "row_lrs"


@dataclass(frozen=True)
class PublishedKind:
    """The kind of failure of one published map of 8 x 8 cells.

    Attributes
    ----------
    array
        Its name in the authors' repository.
    rows
        What the cells of each row are by themselves. Ranges and scatter are read off the map.
    open_rows, open_columns
        Lines that are open.
    tied_rows
        Rows that read alike in every column, taken as shorted to each other.
    """

    array: str
    rows: tuple[RowGroup, ...]
    open_rows: tuple[int, ...] = ()
    open_columns: tuple[int, ...] = ()
    tied_rows: tuple[tuple[int, ...], ...] = ()

    def draw(self, rng: np.random.Generator) -> Failures:
        """An array of this kind; all of its cells are fixed, as a map does not say which could still be written."""
        failures = Failures.none((len(self.rows), 8))
        for row, group in enumerate(self.rows):
            typical = rng.uniform(np.log(group.ohm[0]), np.log(group.ohm[1]))
            failures.fixed[row] = np.exp(-typical - group.within * rng.standard_normal(8))
            failures.cause[row] = CAUSES.index(group.cause)
        failures.row_reach[list(self.open_rows)] = 0
        failures.column_reach[list(self.open_columns)] = 0
        for tied in self.tied_rows:
            failures.row_net[list(tied)] = tied[0]
        return failures


_LOW = RowGroup((680.0, 1400.0), 0.13)
_HIGH = RowGroup((16e3, 204e3), 0.33, "row_hrs")
_HALF_OF_PAIR = RowGroup((3.3e3, 3.5e3), 0.07)  # two in parallel read 1.7 kOhm
_THIRD_OF_THREE = RowGroup((1.95e3, 2.0e3), 0.18)  # three in parallel read 0.66 kOhm
_LOWEST = RowGroup((350.0, 600.0), 0.16)
_HALF_OF_LOW_PAIR = RowGroup((390.0, 420.0), 0.38)  # two in parallel read 0.2 kOhm
_NEAR_2K = RowGroup((1.8e3, 2.2e3), 0.28, "as_found")
_NEAR_4K = RowGroup((3.6e3, 3.8e3), 0.12, "as_found")
_NEAR_5K = RowGroup((5.1e3, 5.6e3), 0.10, "as_found")

KINDS_PUBLISHED: Mapping[str, PublishedKind] = {
    "open lines": PublishedKind(
        "P464EC_HD", (RowGroup((470.0, 770.0), 0.14),) * 8, open_rows=(3,), open_columns=(3, 4)
    ),
    "low and high rows": PublishedKind("P464EC_TD", (_LOW, _HIGH, _HIGH, _LOW, _HIGH, _LOW, _HIGH, _LOW)),
    "rows of one value": PublishedKind(
        "P464EC_TG",
        (
            _HALF_OF_PAIR,
            RowGroup((700.0, 730.0), 0.10),
            *(_THIRD_OF_THREE,) * 3,
            RowGroup((5.9e3, 6.1e3), 0.012, "row_short"),
            _HALF_OF_PAIR,
            RowGroup((26e3, 28e3), 0.12, "row_hrs"),
        ),
        tied_rows=((0, 6), (2, 3, 4)),
    ),
    "out of window": PublishedKind(
        "P464ED_BG", (_NEAR_2K, _NEAR_2K, _NEAR_4K, _NEAR_5K, _NEAR_2K, _NEAR_4K, _NEAR_2K, _NEAR_2K)
    ),
    "all low": PublishedKind(
        "P464ED_HD",
        (_LOWEST, _HALF_OF_LOW_PAIR, _LOWEST, _HALF_OF_LOW_PAIR, *(_LOWEST,) * 4),
        tied_rows=((1, 3),),
    ),
}


@dataclass(frozen=True)
class ReadFloor:
    """How the tester behind the published maps shows a conductance.

    The 30 currents below 3 uA in the maps (reads at 0.2 V) lie on a ladder within 0.05 steps: `lowest` plus whole
    multiples of `step`. That larger currents do too is assumed; 0.14 uA is little to them.
    The 22 cells on open lines show its first three rungs, 2.6, 0.93 and 0.56 MOhm, 3, 16 and 3 times: no current reads
    as the second rung, with a noise of about 0.43 steps.

    Attributes
    ----------
    v_read
        Read voltage (V).
    step
        Distance of two current readings (A).
    lowest
        Smallest current shown (A).
    offset
        Mean reading of no current (A).
    noise
        Standard deviation of a reading before it is rounded (A).
    """

    v_read: float = 0.2
    step: float = 0.1394e-6
    lowest: float = 0.0766e-6
    offset: float = 0.2160e-6
    noise: float = 0.43 * 0.1394e-6

    def resistance(self, g: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Resistances (Ohm) that are shown for conductances between terminals (S), of the same shape."""
        current = self.v_read * g + self.offset + self.noise * rng.standard_normal(np.shape(g))
        rung = np.maximum(np.rint((current - self.lowest) / self.step), 0.0)
        return self.v_read / (self.lowest + self.step * rung)
