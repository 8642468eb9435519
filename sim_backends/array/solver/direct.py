"""Direct solution of an array's network: perfect and broken lines, floating lines, any cell, to high accuracy.

Each line is a chain of nodes: a source, one node per cell, the source at the other end. Nodes that zero resistance
joins are one node, so perfect lines leave at most one unknown per line; nodes of a source are known. What remains is
nodal analysis with an LU factorisation.

Rounding is the difficulty, not the algebra. A segment of 1 mOhm beside a cell of 1 nS leaves four digits of the cell
in the matrix, and a picovolt of drop in voltages near 1 V. So the solution is kept in two doubles per node and
improved with the factorised matrix, from residuals that are summed from the current through each resistor. Current
errors are then the rounding of those sums, whatever the matrix lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csc_array, csr_array
from scipy.sparse.csgraph import breadth_first_order
from scipy.sparse.linalg import splu

from sim_backends.array.devices.interface import BoolArray, FloatArray, cell_name
from sim_backends.array.solver.errors import ConvergenceError, NetworkError

IndexArray = NDArray[np.intp]

DENSE_MAX = 200  # unknown nodes up to which dense LAPACK is faster than a sparse factorisation
CURRENT_ERROR = 1e-10  # largest error of a terminal current, of the largest current anywhere
VOLTAGE_ERROR = 1e-10  # last correction of any node, of the largest voltage
STEPS_MAX = 12
EPSILON = float(np.finfo(np.float64).eps)
CHUNK = 4_000_000  # numbers held at once per intermediate array


@dataclass(frozen=True)
class DirectSolution:
    """Voltages and currents, for B conductance sets and K drives.

    Attributes
    ----------
    v_row, v_column
        Voltage of the row node and the column node at each cell, ``[B, K, row, column]`` (V).
    v_cell, i_cell
        Voltage across (V) and current through (A) each cell, ``[B, K, row, column]``, from row to column. More digits
        than ``v_row - v_column`` has.
    i_left, i_right
        Currents of the row terminals, into the array, ``[B, K, row]`` (A).
    i_bottom, i_top
        Currents of the column terminals, out of the array, ``[B, K, column]`` (A).
    rounding
        Currents that are indistinguishable from none, ``[B, K]`` (A).
    """

    v_row: FloatArray
    v_column: FloatArray
    v_cell: FloatArray
    i_cell: FloatArray
    i_left: FloatArray
    i_right: FloatArray
    i_bottom: FloatArray
    i_top: FloatArray
    rounding: FloatArray


class DirectNetwork:
    """Lines and terminals of one array, for any cells.

    Parameters
    ----------
    rows, columns
        Size of the array.
    r_row
        Resistance of the row segments (Ohm), scalar or anything that broadcasts to ``[row, columns + 1]``: entry 0 lies
        between left terminal and first cell, the last between last cell and right terminal. Zero is a perfect
        conductor, infinity a break.
    r_column
        The same for the columns, ``[rows + 1, column]``: entry 0 at the top terminal, the last at the bottom.
    left, right, bottom, top
        Resistance between each terminal and its source (Ohm), one per line or one for all: contact resistance plus
        source resistance. Zero holds the terminal at the source's voltage; infinity: nothing is connected.

    Raises
    ------
    NetworkError
        For a resistance that is negative or NaN, naming the segment; for wrong shapes; if nothing is connected at all.

    Notes
    -----
    Refused when solving, with the line or cell: two different voltages on one node; a cell of infinite conductance; a
    line, or a part of one, that nothing connects to a source. The currents of such an island are zero but its voltage,
    and that of its cells, is anything: hold it, or give an opened cell the leakage it really has.

    A perfect line with a source at both ends, both without resistance, does not say which of them carries the current.
    It is shared as in the limit of small equal segments: in inverse proportion to the distance.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        r_row: ArrayLike,
        r_column: ArrayLike,
        *,
        left: ArrayLike = np.inf,
        right: ArrayLike = np.inf,
        bottom: ArrayLike = np.inf,
        top: ArrayLike = np.inf,
    ) -> None:
        self.shape = (rows, columns)
        row_segments = _resistances("row", r_row, (rows, columns + 1))
        column_segments = _resistances("column", r_column, (rows + 1, columns))
        self._rows = _chains(
            "row", row_segments, _terminals("left", left, rows), _terminals("right", right, rows), first_node=0
        )
        self._columns = _chains(
            "column",
            column_segments.T,
            _terminals("top", top, columns),
            _terminals("bottom", bottom, columns),
            first_node=int(self._rows.node.max(initial=-1)) + 1,
        )
        if not any(np.any(chains.connected) for chains in (self._rows, self._columns)):
            raise NetworkError("no terminal of the array is connected to a source")
        self._edges = _Edges.of(self._rows, self._columns)
        self._matrix = _MatrixPattern.of(self._edges)

    def solve(
        self,
        ga: FloatArray,
        gb: FloatArray,
        *,
        offset: FloatArray | float = 0.0,
        left: ArrayLike = 0.0,
        right: ArrayLike = 0.0,
        bottom: ArrayLike = 0.0,
        top: ArrayLike = 0.0,
    ) -> DirectSolution:
        """Solve for cells of current ``ga v_row - gb v_column + offset``.

        Parameters
        ----------
        ga, gb
            Derivative of each cell's current by the voltage of its row node, and minus that by its column node,
            ``[B, row, column]`` (S), never negative; the same array for two-terminal cells, zero where opened.
        offset
            Part of the cell current that does not depend on the voltages, broadcasts to ``[B, K, row, column]`` (A).
        left, right, bottom, top
            Voltages of the sources, broadcast to ``[B, K, line]`` (V); ignored where no source is connected.

        Returns
        -------
        DirectSolution
            For B conductance sets, each factorised once, and K drives.

        Raises
        ------
        NetworkError
            If the network has no defined solution, naming the line or cell (see the notes of the class).
        ConvergenceError
            If the currents do not balance to 1e-10 of the largest current, or voltages do not settle.
        """
        ga, gb = np.asarray(ga, dtype=np.float64), np.asarray(gb, dtype=np.float64)
        self._check_cells(ga, gb)
        given = [np.asarray(v, dtype=np.float64) for v in (left, right, bottom, top)]
        offset = np.asarray(offset, dtype=np.float64)
        batch = ga.shape[0]
        drives = np.broadcast_shapes(*(v.shape[-2:-1] for v in given), offset.shape[-3:-2], (1,))[0]
        rows, columns = self.shape
        v_left, v_right = (np.broadcast_to(v, (batch, drives, rows)) for v in given[:2])
        v_bottom, v_top = (np.broadcast_to(v, (batch, drives, columns)) for v in given[2:])
        held = np.zeros((self._edges.nodes, batch, drives))
        self._rows.hold(held, v_left, v_right, ("left", "right"))
        self._columns.hold(held, v_top, v_bottom, ("top", "bottom"))
        self.refuse_islands(ga > 0, gb > 0)
        offset = np.broadcast_to(offset, (batch, drives, rows, columns))
        return self._solve_in_chunks(ga, gb, offset, held)

    def _check_cells(self, ga: FloatArray, gb: FloatArray) -> None:
        if ga.ndim != 3 or ga.shape != gb.shape or ga.shape[1:] != self.shape:
            raise NetworkError(f"conductances {ga.shape} and {gb.shape} do not fit an array of {self.shape}")
        for g in (ga, gb):
            if not np.all((g >= 0) & (g < np.inf)):
                index = tuple(np.argwhere(~((g >= 0) & (g < np.inf)))[0])
                place = _in_batch(index, g.shape[0])
                if g[index] == np.inf:
                    raise NetworkError(f"cell at {place} is a short of infinite conductance: give it a finite one")
                raise NetworkError(f"cell at {place} has a conductance of {g[index]:g} S")

    def refuse_islands(self, a_conducts: BoolArray, b_conducts: BoolArray) -> None:
        """Refuse nodes from which no current finds a way to a source.

        Cells ``[B, row, column]`` conduct by the voltage of their row node (a), and by that of their column node (b).
        """
        batch = a_conducts.shape[0]
        conducts = np.concatenate([a_conducts.reshape(batch, -1), b_conducts.reshape(batch, -1)], axis=1)
        _, of_each_pattern = np.unique(np.packbits(conducts, axis=1), axis=0, return_index=True)
        for index in np.sort(of_each_pattern):
            stranded = self._edges.stranded(*np.split(conducts[index], 2))
            if np.any(stranded):
                line = self._rows.describe(stranded) or self._columns.describe(stranded)
                place = f"{line} of array {index}" if batch > 1 else line
                raise NetworkError(
                    f"{place}: no segment or cell connects it to a source, so its voltage is undetermined; hold it or "
                    "give its open cells a leakage"
                )

    def _solve_in_chunks(self, ga: FloatArray, gb: FloatArray, offset: FloatArray, held: FloatArray) -> DirectSolution:
        batch, drives, rows, columns = offset.shape
        unknowns = self._matrix.unknowns
        dense = unknowns <= DENSE_MAX
        sets = max(1, CHUNK // max(unknowns**2, self._edges.count)) if dense else 1
        cells, of_rows, of_columns = (batch, drives, rows, columns), (batch, drives, rows), (batch, drives, columns)
        shapes = (cells, cells, cells, cells, of_rows, of_rows, of_columns, of_columns, (batch, drives))
        solution = DirectSolution(*(np.empty(shape) for shape in shapes))
        for start in range(0, batch, sets):
            some = slice(start, start + sets)
            invert = (
                self._matrix.inverted(ga[some], gb[some]) if dense else self._matrix.factorised(ga[start], gb[start])
            )
            vectors = max(1, CHUNK // (self._edges.count * ga[some].shape[0]))
            for first in range(0, drives, vectors):
                here = (some, slice(first, first + vectors))
                currents = _EdgeCurrents(self._edges, ga[some], gb[some], offset[here])
                v = _balance(currents, invert, self._matrix.free, held[:, *here])
                self._store(solution, here, currents, v)
        return solution

    def _store(
        self, solution: DirectSolution, here: tuple[slice, slice], currents: _EdgeCurrents, v: _TwoDoubles
    ) -> None:
        edge, leaving = currents.at(v)
        at_row, at_column = self._edges.row_of_cell, self._edges.column_of_cell

        def per_cell(values: FloatArray) -> FloatArray:
            return np.moveaxis(values, 0, -1).reshape(*values.shape[1:], *self.shape)

        i_cell = per_cell(edge[self._edges.lines :])
        solution.v_row[here] = per_cell(v.high[at_row])
        solution.v_column[here] = per_cell(v.high[at_column])
        solution.v_cell[here] = per_cell(v.difference(at_row, at_column))
        solution.i_cell[here] = i_cell
        solution.i_left[here], solution.i_right[here] = self._rows.source_currents(leaving, i_cell)
        into_columns = self._columns.source_currents(leaving, -np.swapaxes(i_cell, -1, -2))
        solution.i_top[here], solution.i_bottom[here] = (-current for current in into_columns)
        solution.rounding[here] = currents.rounding(v)


@dataclass(frozen=True)
class _Chains:
    """All lines of one direction, each a chain source - cells - source.

    ``node[line, place]``: number of the node at place 0 (source at the start), 1 .. cells, cells + 1 (source at the
    end); places joined by zero resistance have the same number. ``connected[line, end]``: whether there is a source.
    """

    kind: str
    resistance: FloatArray  # [line, segment], with those of the terminals
    node: IndexArray
    connected: BoolArray

    @property
    def both_ends_on_one_node(self) -> BoolArray:
        return self.node[:, 0] == self.node[:, -1]

    def hold(self, held: FloatArray, start: FloatArray, end: FloatArray, sides: tuple[str, str]) -> None:
        """Put the voltages of the sources, ``[B, K, line]``, on their nodes ``[node, B, K]``."""
        for side, v, connected in zip(sides, (start, end), self.connected.T, strict=True):
            unfit = ~np.isfinite(v) & connected
            if np.any(unfit):
                line = np.argwhere(unfit)[0][-1]
                raise NetworkError(f"the {side} terminal of {self.kind} {line} is driven with {v[unfit][0]:g} V")
        contradiction = self.both_ends_on_one_node & (start != end)
        if np.any(contradiction):
            index = tuple(np.argwhere(contradiction)[0])
            raise NetworkError(
                f"{self.kind} {index[-1]} has no resistance between its two sources of {start[index]:g} V "
                f"({sides[0]}) and {end[index]:g} V ({sides[1]})"
            )
        for place, v in ((0, start), (-1, end)):
            end_of_line = 0 if place == 0 else 1
            held[self.node[:, place]] = np.moveaxis(np.where(self.connected[:, end_of_line], v, 0.0), -1, 0)

    def source_currents(self, leaving: FloatArray, outward: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Currents from the sources at start and end into the line, ``[B, K, line]``.

        `leaving` is what leaves each node through resistors, ``[node, B, K]``; `outward` what leaves the line through
        each cell, ``[B, K, line, cell]``.
        """
        start, end = (np.moveaxis(leaving[self.node[:, place]], 0, -1) for place in (0, -1))
        shared = self.both_ends_on_one_node
        if np.any(shared):
            cells = outward.shape[-1]
            to_end = np.arange(1, cells + 1) / (cells + 1)
            start = np.where(shared, outward @ (1 - to_end), start)
            end = np.where(shared, outward @ to_end, end)
        return start, end

    def describe(self, marked: BoolArray) -> str | None:
        """Name the first line, or the part of it, whose nodes are marked."""
        places = marked[self.node[:, 1:-1]]
        if not np.any(places):
            return None
        line = int(np.argwhere(places)[0][0])
        if np.all(places[line]):
            return f"{self.kind} {line}"
        cells = np.flatnonzero(places[line])
        last = cells[0] + np.argmin(np.append(places[line][cells[0] :], False)) - 1
        across = "column" if self.kind == "row" else "row"
        part = f"{across} {cells[0]}" if last == cells[0] else f"{across}s {cells[0]} to {last}"
        return f"the part of {self.kind} {line} at {part}"


def _chains(kind: str, segments: FloatArray, start: FloatArray, end: FloatArray, *, first_node: int) -> _Chains:
    resistance = segments.copy()
    resistance[:, 0] += start
    resistance[:, -1] += end
    begins = np.ones((resistance.shape[0], resistance.shape[1] + 1), dtype=np.bool_)
    begins[:, 1:] = resistance > 0
    node = first_node - 1 + np.cumsum(begins).reshape(begins.shape)
    return _Chains(kind, resistance, node, np.isfinite(np.stack([start, end], axis=1)))


@dataclass(frozen=True)
class _Edges:
    """Every resistor between two different nodes: first the segments of lines, then the cells row by row."""

    nodes: int
    held: BoolArray  # [node]
    tail: IndexArray  # [edge], a positive current flows from tail to head
    head: IndexArray
    g_lines: FloatArray  # [edge of a line]
    incidence: csr_array  # [node, edge]

    @classmethod
    def of(cls, rows: _Chains, columns: _Chains) -> _Edges:
        nodes = int(columns.node.max()) + 1
        held = np.zeros(nodes, dtype=np.bool_)
        tails, heads, g_lines = [], [], []
        for chains in (rows, columns):
            held[chains.node[:, [0, -1]]] = True
            there = (chains.resistance > 0) & np.isfinite(chains.resistance)
            tails.append(chains.node[:, :-1][there])
            heads.append(chains.node[:, 1:][there])
            g_lines.append(1.0 / chains.resistance[there])
        cells = np.broadcast_arrays(rows.node[:, 1:-1], columns.node[:, 1:-1].T)
        tail, head = np.concatenate([*tails, cells[0].ravel()]), np.concatenate([*heads, cells[1].ravel()])
        edge = np.arange(tail.size)
        sign = np.repeat([1.0, -1.0], tail.size)
        where = (np.concatenate([tail, head]), np.concatenate([edge, edge]))
        return cls(nodes, held, tail, head, np.concatenate(g_lines), csr_array((sign, where), shape=(nodes, tail.size)))

    @property
    def count(self) -> int:
        return self.tail.size

    @property
    def lines(self) -> int:
        """How many edges are segments of lines."""
        return self.g_lines.size

    @property
    def row_of_cell(self) -> IndexArray:
        return self.tail[self.lines :]

    @property
    def column_of_cell(self) -> IndexArray:
        return self.head[self.lines :]

    def stranded(self, a_conducts: BoolArray, b_conducts: BoolArray) -> BoolArray:
        """Nodes ``[node]`` that no chain of conductances leads to a source.

        A node gets rid of an injected current through the derivatives by its own voltage: over a cell from its row
        where ga is not zero, from its column where gb is not. A saturated transistor leads in one direction only.
        """
        everywhere = np.ones(self.lines, dtype=np.bool_)
        down = np.concatenate([everywhere, a_conducts])
        up = np.concatenate([everywhere, b_conducts])
        source = self.nodes
        number = np.where(self.held, source, np.arange(self.nodes))
        leaks_to = number[np.concatenate([self.head[down], self.tail[up]])]
        leaks_from = number[np.concatenate([self.tail[down], self.head[up]])]
        arcs = csr_array((np.ones(leaks_to.size), (leaks_to, leaks_from)), shape=(source + 1, source + 1))
        stranded = ~self.held
        reached = breadth_first_order(arcs, source, directed=True, return_predecessors=False)
        stranded[reached[reached < source]] = False
        return stranded


@dataclass(frozen=True)
class _MatrixPattern:
    """Where the conductances of the edges go in the nodal matrix of the unknown nodes."""

    free: BoolArray  # [node]
    lines: FloatArray  # [entry], what the segments of lines contribute
    from_a: csr_array  # [entry, cell]
    from_b: csr_array
    row: IndexArray  # [entry], columns of the matrix one after another
    column: IndexArray

    @classmethod
    def of(cls, edges: _Edges) -> _MatrixPattern:
        free = ~edges.held
        number = np.where(free, np.cumsum(free) - 1, -1)
        unknowns = int(np.count_nonzero(free))
        tail, head = number[edges.tail], number[edges.head]
        row, column = np.concatenate([tail, head, tail, head]), np.concatenate([tail, tail, head, head])
        edge = np.tile(np.arange(edges.count), 4)
        is_a = np.repeat([True, False], 2 * edges.count)
        sign = np.repeat([1.0, -1.0, -1.0, 1.0], edges.count)
        kept = (row >= 0) & (column >= 0)
        keys, entry = np.unique(column[kept] * unknowns + row[kept], return_inverse=True)
        edge, is_a, sign = edge[kept], is_a[kept], sign[kept]
        of_line = edge < edges.lines
        lines = np.zeros(keys.size)
        np.add.at(lines, entry[of_line], sign[of_line] * edges.g_lines[edge[of_line]])

        def from_cells(chosen: BoolArray) -> csr_array:
            where = (entry[chosen], edge[chosen] - edges.lines)
            return csr_array((sign[chosen], where), shape=(keys.size, edges.count - edges.lines))

        column, row = np.divmod(keys, max(unknowns, 1))
        return cls(free, lines, from_cells(~of_line & is_a), from_cells(~of_line & ~is_a), row, column)

    @property
    def unknowns(self) -> int:
        return int(np.count_nonzero(self.free))

    def inverted(self, ga: FloatArray, gb: FloatArray) -> Callable[[FloatArray], FloatArray]:
        """Dense inverses, for currents ``[unknown, B, K]``."""
        batch = ga.shape[0]
        entries = self.from_a @ ga.reshape(batch, -1).T + self.from_b @ gb.reshape(batch, -1).T + self.lines[:, None]
        matrix = np.zeros((batch, self.unknowns, self.unknowns))
        matrix[:, self.row, self.column] = entries.T
        try:
            inverse = np.linalg.inv(matrix)
        except np.linalg.LinAlgError:
            raise ConvergenceError(TOO_FAR_APART) from None
        return lambda current: np.moveaxis(inverse @ np.moveaxis(current, 0, 1), 0, 1)

    def factorised(self, ga: FloatArray, gb: FloatArray) -> Callable[[FloatArray], FloatArray]:
        """Sparse factorisation of one conductance set, for currents ``[unknown, 1, K]``."""
        entries = self.from_a @ ga.ravel() + self.from_b @ gb.ravel() + self.lines
        starts = np.searchsorted(self.column, np.arange(self.unknowns + 1))
        matrix = csc_array((entries, self.row, starts), shape=(self.unknowns, self.unknowns))
        try:
            # Columns are diagonally dominant, so the diagonal is a stable pivot and the order may serve sparsity alone.
            factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        except RuntimeError:
            raise ConvergenceError(TOO_FAR_APART) from None
        return lambda current: factors.solve(current[:, 0, :])[:, None, :]


@dataclass
class _TwoDoubles:
    """Voltages ``[node, B, K]`` as unevaluated sums ``high + low``."""

    high: FloatArray
    low: FloatArray

    def add(self, where: BoolArray, correction: FloatArray) -> None:
        high = self.high[where]
        total = high + correction
        rest = total - high
        self.low[where] += (high - (total - rest)) + (correction - rest)
        self.high[where] = total

    def difference(self, tail: IndexArray, head: IndexArray) -> FloatArray:
        return (self.high[tail] - self.high[head]) + (self.low[tail] - self.low[head])


class _EdgeCurrents:
    """Current through every resistor at given voltages.

    A cell is a resistor of the smaller of ga and gb, and a source that its row or its column controls with the rest.
    """

    def __init__(self, edges: _Edges, ga: FloatArray, gb: FloatArray, offset: FloatArray) -> None:
        batch = ga.shape[0]

        def per_cell(values: FloatArray) -> FloatArray:
            return values.reshape(batch, -1).T[:, :, None]

        self._edges = edges
        lines = np.broadcast_to(edges.g_lines[:, None, None], (edges.lines, batch, 1))
        self._g = np.concatenate([lines, per_cell(np.minimum(ga, gb))])
        two_terminal = ga is gb or np.array_equal(ga, gb)
        self._more = None if two_terminal else (per_cell(np.maximum(ga - gb, 0.0)), per_cell(np.maximum(gb - ga, 0.0)))
        self._offset = np.moveaxis(offset.reshape(*offset.shape[:2], -1), -1, 0) if np.any(offset) else None

    def at(self, v: _TwoDoubles) -> tuple[FloatArray, FloatArray]:
        """Current of each edge ``[edge, B, K]`` and what leaves each node ``[node, B, K]`` through all of them (A)."""
        edges = self._edges
        edge = self._g * v.difference(edges.tail, edges.head)
        if self._more is not None:  # each cell has only one of the two
            of_row, of_column = self._more
            for part in (v.high, v.low):
                edge[edges.lines :] += of_row * part[edges.row_of_cell] - of_column * part[edges.column_of_cell]
        if self._offset is not None:
            edge[edges.lines :] += self._offset
        leaving = edges.incidence @ edge.reshape(edges.count, -1)
        return edge, leaving.reshape(edges.nodes, *edge.shape[1:])

    def rounding(self, v: _TwoDoubles) -> FloatArray:
        """Currents ``[B, K]`` (A) that are indistinguishable from zero, where parts of the same size cancel."""
        highest = np.max(np.abs(v.high), axis=0)
        current = EPSILON**2 * np.sum(self._g, axis=0) * highest
        if self._more is not None:
            current = current + EPSILON * np.sum(self._more[0] + self._more[1], axis=0) * highest
        if self._offset is not None:
            current = current + EPSILON * np.sum(np.abs(self._offset), axis=0)
        return 4 * current


TOO_FAR_APART = (
    "conductances of the array and its lines are too far apart to be solved together: set negligible segment "
    "resistances to zero, and negligible conductances to zero"
)


def _balance(
    currents: _EdgeCurrents, invert: Callable[[FloatArray], FloatArray], free: BoolArray, held: FloatArray
) -> _TwoDoubles:
    """Voltages at which no current is left over at any unknown node.

    A current left over at a node flows off to the sources, so no terminal current is wrong by more than the sum of all.
    """
    v = _TwoDoubles(held.copy(), np.zeros_like(held))
    if not np.any(free):
        return v
    settled = False
    for step in range(STEPS_MAX):
        edge, leaving = currents.at(v)
        left_over = leaving[free]
        if settled:
            error = np.sum(np.abs(left_over), axis=0)
            largest = np.max(np.abs(edge), axis=0, initial=0.0)
            if np.all(error <= CURRENT_ERROR * largest) or np.all(
                error <= CURRENT_ERROR * largest + currents.rounding(v)
            ):
                return v
        correction = invert(-left_over)
        if not np.all(np.isfinite(correction)):
            break
        v.add(free, correction)
        size = np.max(np.abs(v.high), axis=0)
        settled = step > 0 and bool(np.all(np.max(np.abs(correction), axis=0) <= VOLTAGE_ERROR * size))
    raise ConvergenceError(TOO_FAR_APART)


def _resistances(kind: str, given: ArrayLike, shape: tuple[int, int]) -> FloatArray:
    r = np.asarray(given, dtype=np.float64)
    try:
        r = np.broadcast_to(r, shape)
    except ValueError:
        raise NetworkError(f"r_{kind} has shape {r.shape}, which does not broadcast to {shape}") from None
    if not np.all(r >= 0):
        row, column = np.argwhere(~(r >= 0))[0]
        line, segment = (row, column) if kind == "row" else (column, row)
        raise NetworkError(f"segment {segment} of {kind} {line} has a resistance of {r[row, column]:g} Ohm")
    return r


def _terminals(side: str, given: ArrayLike, lines: int) -> FloatArray:
    r = np.asarray(given, dtype=np.float64)
    if r.shape not in ((), (1,), (lines,)):
        raise NetworkError(f"{side} terminals: {r.shape} resistances for {lines} lines")
    r = np.broadcast_to(r, (lines,))
    if not np.all(r >= 0):
        line = int(np.flatnonzero(~(r >= 0))[0])
        kind = "row" if side in ("left", "right") else "column"
        raise NetworkError(f"the {side} terminal of {kind} {line} has a resistance of {r[line]:g} Ohm")
    return r


def _in_batch(index: tuple[int, ...], batch: int) -> str:
    return cell_name(index if batch > 1 else index[1:])
