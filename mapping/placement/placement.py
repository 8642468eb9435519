"""Which weight of which layer, and which sign of it, sits in which cell of a die.

A layer of `n_in` inputs and `n_out` outputs needs two sensed lines for every output, "plus" and "minus"; line
``2 * output`` is the plus line, ``2 * output + 1`` the minus line, and the difference of their currents is formed off
chip. Inputs are on rows and lines on columns (the board's *backward* multiply: drive rows, sense columns). Inputs that
do not fit on the rows of one kernel are cut into groups whose partial sums are added off chip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mapping.dies.die_record import CellClass, DieRecord
from mapping.dies.geometry import ArrayGeometry

#: A cell further from the healthy medians than this many median differences is no worse than one at it (inf included).
WORST_CELL = 20.0


class PlacementError(ValueError):
    """Layers, copies or die do not go together; the message says what would."""


class DoesNotFitError(PlacementError):
    """The network needs more cells than the die has."""


@dataclass(frozen=True, eq=False)
class Tile:
    """The lines of one copy of one input group in one kernel.

    Attributes
    ----------
    kernel, group, copy : int
    row_mask : bool ``[rows]``
        Driven rows; input j of the group (in row order) is on the j-th of them.
    column_mask : bool ``[columns]``
        Sensed columns.
    lines : int ``[sensed columns]``
        What each sensed column carries, in ascending columns: ``2 * output + sign``, sign 0 plus and 1 minus.
    """

    kernel: int
    group: int
    copy: int
    row_mask: NDArray[np.bool_]
    column_mask: NDArray[np.bool_]
    lines: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Read:
    """One multiply of the board: all lines of one input group in one kernel, of whatever copy.

    As `Tile`, with the copy of every sensed column in `copies` (int ``[sensed columns]``).
    """

    kernel: int
    group: int
    row_mask: NDArray[np.bool_]
    column_mask: NDArray[np.bool_]
    lines: NDArray[np.int64]
    copies: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerPlacement:
    """Where the weights of one layer are.

    Attributes
    ----------
    geometry : ArrayGeometry
    input_group : int ``[n_in]``
        Group of every input.
    input_row : int ``[n_in]``
        Position of every input among the inputs of its group.
    cells : int ``[copies, n_in, n_out, 2]``
        Flat index ``(kernel * rows + row) * columns + column`` of the plus ``[..., 0]`` and the minus ``[..., 1]``
        cell of every weight.
    """

    geometry: ArrayGeometry
    input_group: NDArray[np.int64]
    input_row: NDArray[np.int64]
    cells: NDArray[np.int64]

    @property
    def copies(self) -> int:
        """How often the layer is on the die."""
        return int(self.cells.shape[0])

    @property
    def n_in(self) -> int:
        """Inputs of the layer."""
        return int(self.cells.shape[1])

    @property
    def n_out(self) -> int:
        """Outputs of the layer."""
        return int(self.cells.shape[2])

    @cached_property
    def groups(self) -> int:
        """Number of input groups."""
        return int(self.input_group.max()) + 1

    def inputs_of(self, group: int) -> NDArray[np.int64]:
        """Inputs of one group in row order: the vector that its tiles are driven with is ``x[inputs_of(group)]``."""
        members = np.flatnonzero(self.input_group == group)
        return members[np.argsort(self.input_row[members], kind="stable")]

    def in_groups_of(self, rows: int) -> LayerPlacement:
        """The same cells driven at most `rows` rows at a time: every group is cut into equal parts.

        More multiplies, but a partial sum over few inputs shows a defect that one over many hides.

        Raises
        ------
        ValueError
            If `rows` is less than 1.
        """
        if rows < 1:
            raise ValueError(f"at least one row is driven at a time, not {rows}")
        group, row = np.empty_like(self.input_group), np.empty_like(self.input_row)
        first = 0
        for number in range(self.groups):
            members = self.inputs_of(number)
            parts = np.array_split(members, -(-members.size // rows))
            for part in parts:
                group[part], row[part] = first, np.arange(part.size)
                first += 1
        return LayerPlacement(self.geometry, group, row, self.cells)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, by copy, group and kernel."""
        reads = [(copy, read) for copy in range(self.copies) for read in _reads(self, (copy,))]
        return tuple(Tile(r.kernel, r.group, copy, r.row_mask, r.column_mask, r.lines) for copy, r in reads)

    @cached_property
    def reads(self) -> tuple[Read, ...]:
        """All multiplies that the layer needs, by group and kernel; the tiles of several copies merged."""
        return tuple(_reads(self, range(self.copies)))


@dataclass(frozen=True, eq=False)
class Placement:
    """Where all layers of a network are on one die."""

    geometry: ArrayGeometry
    layers: tuple[LayerPlacement, ...]

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """``(n_in, n_out)`` of every layer."""
        return tuple((layer.n_in, layer.n_out) for layer in self.layers)

    @property
    def copies(self) -> tuple[int, ...]:
        """Copies of every layer."""
        return tuple(layer.copies for layer in self.layers)

    @property
    def used(self) -> NDArray[np.bool_]:
        """Cells that hold a weight, ``[kernel, row, column]``."""
        mask = np.zeros(self.geometry.cells, bool)
        for layer in self.layers:
            mask[layer.cells] = True
        return mask.reshape(self.geometry.shape)

    def check(self) -> None:
        """Raise `ValueError` unless every weight has two cells of its own and every line is one column of a kernel."""
        for number, layer in enumerate(self.layers):
            if layer.geometry != self.geometry:
                raise ValueError(f"layer {number} is placed on another geometry than the placement")
            _check_inputs(layer, number)
            _check_lines(layer, number)
        every = np.concatenate([layer.cells.ravel() for layer in self.layers])
        if np.unique(every).size != every.size:
            raise ValueError("a cell is used by two weights")


def place(
    shapes: Sequence[tuple[int, int]],
    geometry: ArrayGeometry,
    copies: Sequence[int] | None = None,
    avoid: DieRecord | None = None,
    input_groups: Sequence[NDArray[np.int64] | None] | None = None,
    rows_per_multiply: Sequence[int | None] | None = None,
) -> Placement:
    """Place the layers of a network on a die.

    Every column of every kernel is a bin as high as the kernel has rows; a line of an input group is an item as high as
    the group has inputs. Items go highest first into the first column with room (first fit decreasing), all copies of a
    group one after the other, so that they share kernels and with that the multiplies of the board. The result depends
    on nothing but the arguments.

    Parameters
    ----------
    shapes : sequence of (n_in, n_out)
        Layers in the order of the network.
    geometry : ArrayGeometry
    copies : sequence of int, optional
        How often each layer is placed; once each by default.
    avoid : DieRecord, optional
        A measured die. Where there is room to choose, damaged cells stay unused, see `_sound_order`.
    input_groups : sequence of int ``[n_in]`` or None, optional
        Group of every input, per layer. By default input i is in group ``i % groups``, with as few groups as possible:
        groups are balanced, and neighbouring inputs (pixels), which tend to be large together, load different groups.
    rows_per_multiply : sequence of int or None, optional
        At most so many rows are driven at a time, per layer, see `LayerPlacement.in_groups_of`; None: all of a group.

    Raises
    ------
    DoesNotFitError
        If the network needs more than the die has. Nothing else has happened then.
    PlacementError
        If `copies` are not one for each layer, or `avoid` is a die of another geometry.
    """
    copies = _checked_copies(shapes, copies)
    if avoid is not None and avoid.geometry != geometry:
        raise PlacementError(
            f"the record of die {avoid.die} has another geometry than the placement, {_size(avoid.geometry)} instead "
            f"of {_size(geometry)}: give a die of this kind, or the geometry of that die"
        )
    given = input_groups if input_groups is not None else [None] * len(shapes)
    if len(given) != len(shapes):
        raise ValueError(f"{len(shapes)} layers but {len(given)} input groupings")
    groupings = [_grouping(n_in, geometry.rows, g) for (n_in, _), g in zip(shapes, given, strict=True)]
    streams = _streams(shapes, copies, groupings)
    packed = _pack(streams, geometry.kernels * geometry.columns, geometry.rows)
    if packed is None:
        raise DoesNotFitError(_advice(shapes, geometry, copies, groupings, streams))
    column_order, row_order = _natural_order(geometry)
    if avoid is not None:
        bins_used = 1 + max(int(bins.max()) for bins, _ in packed)
        column_order, row_order = _sound_order(avoid, bins_used, max(stream.height for stream in streams))
    layers = []
    for number, (n_in, n_out) in enumerate(shapes):
        cells = np.empty((copies[number], n_in, n_out, 2), np.int64)
        group, row = groupings[number]
        for stream, (bins, start) in zip(streams, packed, strict=True):
            if stream.layer == number:
                inputs = np.flatnonzero(group == stream.group)
                inputs = inputs[np.argsort(row[inputs])]
                flat = _flat_cells(geometry, column_order[bins], start, row_order, stream.height)
                cells[:, inputs] = flat.reshape(stream.height, copies[number], n_out, 2).swapaxes(0, 1)
        layers.append(LayerPlacement(geometry, group, row, cells))
    at_once = rows_per_multiply or [None] * len(shapes)
    if len(at_once) != len(shapes):
        raise ValueError(f"{len(shapes)} layers but {len(at_once)} numbers of rows per multiply")
    cut = (layer if rows is None else layer.in_groups_of(rows) for layer, rows in zip(layers, at_once, strict=True))
    return Placement(geometry, tuple(cut))


def most_copies(
    shapes: Sequence[tuple[int, int]], geometry: ArrayGeometry, layer: int = -1, limit: int = 64
) -> tuple[int, ...]:
    """Copies of every layer when one layer fills what the others (one copy each) leave free.

    Raises
    ------
    DoesNotFitError
        If not even one copy of everything fits.
    """
    copies = [1] * len(shapes)
    place(shapes, geometry, copies)
    groupings = [_grouping(n_in, geometry.rows, None) for n_in, _ in shapes]
    while copies[layer] < limit:
        copies[layer] += 1
        if _pack(_streams(shapes, copies, groupings), geometry.kernels * geometry.columns, geometry.rows) is None:
            copies[layer] -= 1
            break
    return tuple(copies)


@dataclass(frozen=True)
class _Stream:
    """The lines of one input group, all copies one after the other, each `height` cells high."""

    layer: int
    group: int
    height: int
    lines: int


_Grouping = tuple[NDArray[np.int64], NDArray[np.int64]]
_Packed = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


def _size(geometry: ArrayGeometry) -> str:
    return f"{geometry.kernels} kernels of {geometry.rows} x {geometry.columns}"


def _checked_copies(shapes: Sequence[tuple[int, int]], copies: Sequence[int] | None) -> list[int]:
    if not shapes or any(n_in < 1 or n_out < 1 for n_in, n_out in shapes):
        raise ValueError(f"shapes {list(shapes)}: at least one layer, and at least one input and output each")
    checked = [1] * len(shapes) if copies is None else [int(n) for n in copies]
    if len(checked) != len(shapes) or min(checked) < 1:
        raise PlacementError(f"copies {checked} for {len(shapes)} layers: give one number of at least 1 for each layer")
    return checked


def _grouping(n_in: int, rows: int, group: NDArray[np.int64] | None) -> _Grouping:
    """Group of every input, and its position in the group."""
    if group is None:
        groups = -(-n_in // rows)
        index = np.arange(n_in, dtype=np.int64)
        return index % groups, index // groups
    group = np.asarray(group, np.int64)
    if group.shape != (n_in,) or group.min() < 0:
        raise ValueError(f"input groups of shape {group.shape} for {n_in} inputs")
    size = np.bincount(group)
    if size.max() > rows or size.min() == 0:
        raise ValueError(f"input groups of {size.tolist()} inputs: each needs 1 to {rows} (the rows of a kernel)")
    row = np.empty(n_in, np.int64)
    for number in range(size.size):
        row[group == number] = np.arange(size[number])
    return group, row


def _streams(shapes: Sequence[tuple[int, int]], copies: Sequence[int], groupings: list[_Grouping]) -> list[_Stream]:
    """Highest first; equal heights stay in the order of the network."""
    streams = [
        _Stream(number, group, int(height), 2 * n_out * copies[number])
        for number, (_, n_out) in enumerate(shapes)
        for group, height in enumerate(np.bincount(groupings[number][0]))
    ]
    return sorted(streams, key=lambda stream: -stream.height)


def _pack(streams: list[_Stream], bins: int, height: int) -> _Packed | None:
    """Bin and start in the bin of every line of every stream; None if they do not fit.

    Lines side by side are sensed in one multiply, lines above each other are not; so a stream is first spread over
    columns, and only if that wastes too much is it stacked. The bins used are always the first ones.
    """
    for stack in (False, True):
        fill = np.zeros(bins, np.int64)
        packed = [_first_fit(stream, fill, height, stack) for stream in streams]
        if all(item is not None for item in packed):
            return [item for item in packed if item is not None]
    return None


def _first_fit(
    stream: _Stream, fill: NDArray[np.int64], height: int, stack: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Put the lines of a stream into the first bins with room; `fill` is changed."""
    chosen: list[NDArray[np.int64]] = []
    start: list[NDArray[np.int64]] = []
    left = stream.lines
    while left:
        room = (height - fill) // stream.height
        levels = room if stack else np.minimum(room, 1)
        bins = np.repeat(np.arange(fill.size), levels)[:left]
        if not bins.size:
            return None
        taken = np.bincount(bins, minlength=fill.size)
        level = np.arange(bins.size) - np.repeat(np.cumsum(taken) - taken, taken)
        chosen.append(bins)
        start.append(fill[bins] + level * stream.height)
        fill += taken * stream.height
        left -= bins.size
    return np.concatenate(chosen), np.concatenate(start)


def _natural_order(geometry: ArrayGeometry) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns in the order of kernels, rows from the top: bin -> ``kernel * columns + column``, ``[kernel, rows]``."""
    rows = np.broadcast_to(np.arange(geometry.rows), (geometry.kernels, geometry.rows))
    return np.arange(geometry.kernels * geometry.columns), rows


def _sound_order(record: DieRecord, bins_used: int, highest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order in which columns and rows are filled on a measured die, as `_natural_order`.

    What it does: in every kernel the rows with the most damage (dead rows first of all) are filled last, so groups with
    fewer inputs than rows leave them out; the columns with the most damage are set aside, as many as the network does
    not need; kernels whose worst row is bad come last, where the groups with few inputs go. What it does not do: look
    at the weights, trade one layer against another, or move single weights; without slack nothing changes but the
    order of the kernels.
    """
    geometry = record.geometry
    damage = cell_damage(record)
    row_damage = damage.sum(axis=2)
    row_order = np.argsort(row_damage, axis=1, kind="stable")
    filled = np.take_along_axis(damage, row_order[:, :, None], axis=1)[:, :highest]
    column_damage = filled.sum(axis=1).ravel()
    slack = geometry.kernels * geometry.columns - bins_used
    worst_first = np.argsort(-column_damage, kind="stable")
    aside = worst_first[:slack]
    kept = np.ones(column_damage.size, bool)
    kept[aside[column_damage[aside] > 0]] = False
    kernel_rank = np.argsort(np.argsort(row_damage.max(axis=1), kind="stable"))
    column_order = np.argsort(np.repeat(kernel_rank, geometry.columns), kind="stable")
    return column_order[kept[column_order]], row_order


def cell_damage(record: DieRecord) -> NDArray[np.float64]:
    """How far each cell that is not good is from a healthy one, ``[kernel, row, column]``.

    The distance of both states from the medians of the good cells, in median differences of the states; 0 for good
    cells, and at most `WORST_CELL`. A short is worth several stuck cells, as it is in the currents.
    """
    good = record.cell_class == CellClass.GOOD
    if not good.any():
        return np.ones(record.geometry.shape)
    p, ap = np.median(record.g_p[good]), np.median(record.g_ap[good])
    distance = np.abs(record.g_p - p) + np.abs(record.g_ap - ap)
    distance = np.nan_to_num(distance / max(abs(p - ap), np.finfo(float).tiny), nan=WORST_CELL, posinf=WORST_CELL)
    return np.where(good, 0.0, np.minimum(distance, WORST_CELL))


def _flat_cells(
    geometry: ArrayGeometry,
    columns: NDArray[np.int64],
    start: NDArray[np.int64],
    row_order: NDArray[np.int64],
    height: int,
) -> NDArray[np.int64]:
    """Cells of lines on the given columns (``kernel * columns + column``), ``[height, line]``, rows ascending."""
    kernel = columns // geometry.columns
    rows = np.sort(row_order[kernel[:, None], start[:, None] + np.arange(height)], axis=1).T
    return (kernel * geometry.rows + rows) * geometry.columns + columns % geometry.columns


def _reads(layer: LayerPlacement, copies: Sequence[int]) -> list[Read]:
    """The lines of some copies, those that are driven by the same rows of the same kernel together."""
    geometry, found = layer.geometry, []
    chosen = layer.cells[list(copies)]
    copy_of, line_of = (a.ravel() for a in np.indices((len(copies), 2 * layer.n_out)))
    for group in range(layer.groups):
        cells = chosen[:, layer.inputs_of(group)].swapaxes(0, 1).reshape(-1, copy_of.size)
        kernel = cells[0] // (geometry.rows * geometry.columns)
        row, column = cells // geometry.columns % geometry.rows, cells[0] % geometry.columns
        keys, member = np.unique(np.vstack([kernel, row]), axis=1, return_inverse=True)
        for number in range(keys.shape[1]):
            lines = np.flatnonzero(member.ravel() == number)
            lines = lines[np.argsort(column[lines])]
            row_mask, column_mask = np.zeros(geometry.rows, bool), np.zeros(geometry.columns, bool)
            row_mask[keys[1:, number]] = True
            column_mask[column[lines]] = True
            copy = np.asarray(copies)[copy_of[lines]]
            found.append(Read(int(keys[0, number]), group, row_mask, column_mask, line_of[lines], copy))
    return found


def _check_inputs(layer: LayerPlacement, number: int) -> None:
    """Every group has its inputs on positions 0, 1, 2, ... ."""
    shape = (layer.n_in,)
    if layer.cells.ndim != 4 or layer.cells.shape[3] != 2 or min(layer.cells.shape) < 1:
        raise ValueError(f"layer {number}: cells of shape {layer.cells.shape} instead of [copies, n_in, n_out, 2]")
    if layer.input_group.shape != shape or layer.input_row.shape != shape:
        raise ValueError(f"layer {number}: groups and rows of shape {layer.input_group.shape} for {layer.n_in} inputs")
    if layer.input_group.min() < 0 or layer.groups > layer.n_in:
        raise ValueError(f"layer {number}: input groups outside 0 ... {layer.n_in - 1}")
    for group in range(layer.groups):
        row = np.sort(layer.input_row[layer.input_group == group])
        if not row.size or row.size > layer.geometry.rows or np.any(row != np.arange(row.size)):
            raise ValueError(f"layer {number}: group {group} does not count its inputs from 0")


def _check_lines(layer: LayerPlacement, number: int) -> None:
    """Every line of a group is in one column of one kernel, its inputs on ascending rows."""
    geometry = layer.geometry
    if layer.cells.min() < 0 or layer.cells.max() >= geometry.cells:
        raise ValueError(f"layer {number}: cells outside the {geometry.cells} cells of the die")
    for group in range(layer.groups):
        cells = layer.cells[:, layer.inputs_of(group)]
        kernel, row = cells // (geometry.rows * geometry.columns), cells // geometry.columns % geometry.rows
        line = kernel * geometry.columns + cells % geometry.columns
        if np.any(line != line[:, :1]) or np.any(np.diff(row, axis=1) <= 0):
            raise ValueError(f"layer {number}: a line of group {group} is not one column with ascending rows")


def _advice(
    shapes: Sequence[tuple[int, int]],
    geometry: ArrayGeometry,
    copies: Sequence[int],
    groupings: list[_Grouping],
    streams: list[_Stream],
) -> str:
    """What does not fit, and what to change."""
    needed = sum(2 * n_in * n_out * n for (n_in, n_out), n in zip(shapes, copies, strict=True))
    bins = geometry.kernels * geometry.columns
    lines = sum(stream.lines for stream in streams)
    network = "-".join(str(n) for n in (shapes[0][0], *(n_out for _, n_out in shapes)))
    text = (
        f"network {network} with copies {tuple(copies)} needs {needed} cells in {lines} lines of up to "
        f"{max(stream.height for stream in streams)} cells; the die has {geometry.cells} cells in {bins} columns "
        f"of {geometry.rows} ({geometry.kernels} kernels of {geometry.rows} x {geometry.columns})."
    )
    if _pack(_streams(shapes, [1] * len(shapes), groupings), bins, geometry.rows) is not None:
        return f"{text} Ask for fewer copies: one of each layer fits."
    biggest = max(range(len(shapes)), key=lambda n: shapes[n][0] * shapes[n][1])
    n_in, n_out = shapes[biggest]
    largest = f"layer {biggest} ({n_in} x {n_out}) alone takes {2 * n_in * n_out} cells"
    return f"{text} Use fewer hidden units or fewer inputs: {largest}."
