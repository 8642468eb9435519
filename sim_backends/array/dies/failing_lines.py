"""The network of an array whose lines may be broken, or shorted to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sim_backends.array.devices.interface import Conducting, FloatArray
from sim_backends.array.dies.failures import Failures, IntArray
from sim_backends.array.solver.network import Drive, Lines, solve

TIE = 1.0
"""Conductance from a row to what ties it to another one (S); assumed."""
TOLERANCE = 1e-7  # of the largest terminal current: far below the noise of any reading
_NOWHERE = -1  # takes the place of the terminal of a line that has none


@dataclass(frozen=True)
class Flow:
    """What flows in an array.

    Attributes
    ----------
    i_row, i_column
        Current from each source into its line, ``[..., row]`` and ``[..., column]`` (A); zero where there is none.
    v_cell
        Voltage of every cell, row minus column, ``[..., row, column]`` (V); None if it was not asked for.
    """

    i_row: FloatArray
    i_column: FloatArray
    v_cell: FloatArray | None


class FailingLines:
    """Lines of one array with its failures; terminals of rows at the left, of columns at the bottom.

    The network has one line for each piece of a line: the loose end of a broken row is a row of its own beside the
    first one, with no source, and likewise for columns. Rows that are tied to each other cross one more column at the
    left, which conducts to them and to nothing else, so that two sources on tied rows work against each other as they
    would on a bench. All segments stay equal, which is what solvers are fast at; the price is that lines are one
    segment longer where they cross a loose end or a tie.

    Parameters
    ----------
    lines
        Resistances of whole lines, one number for all rows and one for all columns.
    failures
        Of one array ``[row, column]``; cells that failed are not looked at.
    """

    def __init__(self, lines: Lines, failures: Failures) -> None:
        self.lines = lines
        rows, columns = failures.shape
        joined = np.where(failures.open_rows, _NOWHERE, failures.row_net)  # a break in front of all cells frees a row
        nets = [net for net in np.unique(joined) if net != _NOWHERE and np.count_nonzero(joined == net) > 1]
        self._row_terminal, row_piece = _pieces(failures.row_reach, columns)
        self._column_terminal, column_piece = _pieces(failures.column_reach, rows)
        front, rear = row_piece
        behind_row = np.arange(columns) >= failures.row_reach[:, None]
        row = np.where(behind_row, rear[:, None], front[:, None])
        front, rear = column_piece
        behind_column = np.arange(rows)[::-1, None] >= failures.column_reach
        column = np.where(behind_column, rear, front) + len(nets)
        self._column_terminal = np.concatenate([np.full(len(nets), _NOWHERE), self._column_terminal])
        size = self._row_terminal.size, self._column_terminal.size
        self._whole = size == (rows, columns) and bool(
            (failures.row_reach > 0).all() & (failures.column_reach > 0).all()
        )
        self._place = row * size[1] + column  # of each cell in the network, counted through
        self._ties = np.zeros(size)
        for number, net in enumerate(nets):
            tied = np.isin(self._row_terminal, np.flatnonzero(joined == net))
            self._ties[tied, number] = TIE

    def flow(
        self, cells: Conducting, rows: ArrayLike | Drive, columns: ArrayLike | Drive, *, inside: bool = False
    ) -> Flow:
        """Solve the network.

        Parameters
        ----------
        cells
            What is in the crosspoints, ``[row, column]``.
        rows, columns
            Voltages of the terminals, ``[..., row]`` and ``[..., column]`` or one for all (V); NaN: not connected. A
            `Drive` adds the resistance of the sources.
        inside
            Whether the voltages of the cells are wanted.

        Raises
        ------
        NetworkError
            If the voltages are no network with a defined solution, naming the line.
        """
        network: Conducting = cells
        if not self._whole:
            network = _Placed(cells, self._place, self._ties)
            rows, columns = _at(self._row_terminal, rows), _at(self._column_terminal, columns)
        if not (_connects(rows) or _connects(columns)):
            return _nothing(rows, columns, cells.shape[-2:])
        found = solve(network, left=rows, bottom=columns, lines=self.lines, cells=inside, tolerance=TOLERANCE)
        i_row, i_column, v_cell = found.i_left, -found.i_bottom, found.v_cell if inside else None
        if self._whole:
            return Flow(i_row, i_column, v_cell)
        return Flow(
            _to_terminals(i_row, self._row_terminal, cells.shape[-2]),
            _to_terminals(i_column, self._column_terminal, cells.shape[-1]),
            None if v_cell is None else _take(v_cell, self._place),
        )


class _Placed:
    """Cells ``[row, column]`` at places of a larger array, which conducts as `ties` (S) everywhere else."""

    def __init__(self, cells: Conducting, place: IntArray, ties: FloatArray) -> None:
        self._cells, self._place, self._ties = cells, place, ties
        self.shape = ties.shape

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current (A) and its derivative (S) at voltages of the larger array (V)."""
        of_cells = self._cells.current(_take(v, self._place))
        i, slope = self._ties * v, np.broadcast_to(self._ties, v.shape).copy()
        for everywhere, here in zip((i, slope), of_cells, strict=True):
            everywhere.reshape(*v.shape[:-2], -1)[..., self._place] = here
        return i, slope


def _volts(source: ArrayLike | Drive) -> FloatArray:
    return np.asarray(source.voltage if isinstance(source, Drive) else source, dtype=np.float64)


def _connects(source: ArrayLike | Drive) -> bool:
    """Whether any line has a source."""
    return not bool(np.isnan(_volts(source)).all())


def _nothing(rows: ArrayLike | Drive, columns: ArrayLike | Drive, shape: tuple[int, ...]) -> Flow:
    """What flows where nothing is connected."""
    lead = np.broadcast_shapes(_volts(rows).shape[:-1], _volts(columns).shape[:-1])
    return Flow(np.zeros((*lead, shape[0])), np.zeros((*lead, shape[1])), np.zeros((*lead, *shape)))


def _take(v: FloatArray, place: IntArray) -> FloatArray:
    """Values of a larger array ``[..., row, column]`` at the places of the cells."""
    return v.reshape(*v.shape[:-2], -1)[..., place]


def _pieces(reach: IntArray, cells: int) -> tuple[IntArray, tuple[IntArray, IntArray]]:
    """Terminal of each piece of the lines of one side, and which piece the front and the rear part of each line is."""
    terminals: list[int] = []
    front, rear = np.zeros((2, reach.size), dtype=np.int64)
    for line, joined in enumerate(reach):
        front[line] = rear[line] = len(terminals)
        terminals.append(line if joined else _NOWHERE)
        if 0 < joined < cells:
            rear[line] = len(terminals)
            terminals.append(_NOWHERE)
    return np.array(terminals), (front, rear)


def _at(terminals: IntArray, source: ArrayLike | Drive) -> ArrayLike | Drive:
    """What the pieces of lines are connected to, from what the terminals are; pieces without a terminal to nothing."""
    if isinstance(source, Drive):
        voltage, resistance = (np.asarray(part, dtype=np.float64) for part in (source.voltage, source.resistance))
        return Drive(_volts_at(terminals, voltage), resistance[..., terminals] if resistance.ndim else resistance)
    return _volts_at(terminals, np.asarray(source, dtype=np.float64))


def _volts_at(terminals: IntArray, volts: FloatArray) -> FloatArray:
    return np.where(terminals == _NOWHERE, np.nan, volts[..., terminals] if volts.ndim else volts)


def _to_terminals(currents: FloatArray, terminals: IntArray, lines: int) -> FloatArray:
    """Currents of the pieces that have a terminal, by terminal."""
    out = np.zeros((*currents.shape[:-1], lines))
    there = terminals != _NOWHERE
    out[..., terminals[there]] = currents[..., there]
    return out
