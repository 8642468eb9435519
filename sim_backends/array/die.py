"""One die of a lot: its devices, its defects, its state, and what it does when it is read and pulsed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.inverse import measured_junctions
from sim_backends.array.lines import Direction, column_by_column
from sim_backends.array.lot import KINDS, Lot
from sim_backends.array.measured import MeasuredDies
from sim_backends.array.mtj import (
    BoolArray,
    FloatArray,
    Junctions,
    cell_current,
    junction_current,
    junction_voltage,
    repeated,
    switching_probability,
)
from sim_backends.array.product import ProductModel, fit_odd_polynomial, product_model
from sim_backends.array.topology import Topology

_DEVICES, _DEFECTS, _LINES, _STATE, _NOISE = range(1, 6)  # purposes of the random streams of a die
_MODELS_KEPT = 64
_SHORT, _OPEN, _STUCK_P, _STUCK_AP, _WEAK = (
    KINDS.index(kind) for kind in ("short", "open", "stuck_p", "stuck_ap", "weak_tmr")
)


def stream(*key: int) -> np.random.Generator:
    """Random numbers that depend on a key of non-negative integers and on nothing else."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))


@dataclass(frozen=True)
class DeadLine:
    """A line that carries no current.

    `kind` is "row", "column", "gate" or "row_shared"; `block` is None for a line dead in all blocks; `index` counts
    rows or columns of the block; `mask` marks its cells, ``[kernel, row, column]``.
    """

    kind: str
    block: int | None
    index: int
    mask: BoolArray


@dataclass(frozen=True)
class Devices:
    """What was made: per-cell arrays ``[kernel, row, column]`` that never change.

    `r_p` (Ohm) and `tmr` already include defects (a short is `r_short` without TMR); `kind` is an index of `KINDS`.
    """

    r_p: FloatArray
    tmr: FloatArray
    v_critical_to_ap: FloatArray
    v_critical_to_p: FloatArray
    delta: FloatArray
    v_breakdown: FloatArray
    kind: NDArray[np.uint8]


@dataclass
class Die:
    """A die; reading and pulsing it needs no wire.

    Attributes
    ----------
    lot, seed, index
        What it was drawn from: the same three are the same die for ever.
    devices, dead_lines
        Hidden truth.
    state
        True where a cell is antiparallel (AP), ``[kernel, row, column]``.
    broken
        True where a pulse has broken the barrier (a short from then on).
    operations
        Reads, pulses and products so far; it keys the noise.
    """

    lot: Lot
    seed: int
    index: int
    devices: Devices
    dead_lines: tuple[DeadLine, ...]
    state: BoolArray
    broken: BoolArray
    operations: int = 0
    _models: dict[tuple[object, ...], ProductModel] = field(default_factory=dict, repr=False)

    @classmethod
    def from_lot(cls, lot: Lot, seed: int, index: int) -> Die:
        """Die `index` of a lot, drawn or as it was measured; the same lot, seed and index are the same die for ever.

        Of a measured die only what no read tells is drawn: thermal stability and breakdown voltages.
        """
        rng, measured = stream(seed, index, _DEVICES), lot.measured_dies
        if measured is not None:
            lines = measured_dead_lines(lot, measured, index)
            devices, state = measured_devices(lot, measured, index, lines, rng), measured.state[index]
        else:
            lines = draw_dead_lines(lot, stream(seed, index, _LINES))
            devices = draw_devices(lot, draw_defects(lot, stream(seed, index, _DEFECTS)), rng)
            state = stream(seed, index, _STATE).random(lot.topology.shape) < lot.devices.fresh_ap_share
        return cls(
            lot=lot,
            seed=seed,
            index=index,
            devices=devices,
            dead_lines=lines,
            state=np.where(devices.kind == _STUCK_P, False, np.where(devices.kind == _STUCK_AP, True, state)),
            broken=np.zeros(lot.topology.shape, dtype=bool),
        )

    @cached_property
    def alive(self) -> BoolArray:
        """Cells on no dead line, ``[kernel, row, column]``."""
        return cells_off(self.dead_lines, self.lot)

    @cached_property
    def switchable(self) -> BoolArray:
        """Cells that a pulse can switch unless it has broken them."""
        return self.alive & np.isin(self.devices.kind, (0, _WEAK))

    def junctions(self, kernel: int | slice = slice(None), state: BoolArray | bool | None = None) -> Junctions:
        """Junctions of a kernel (or of all), in their present state or another one."""
        antiparallel = self.state[kernel] if state is None else state
        broken = self.broken[kernel]
        devices = self.lot.devices
        return Junctions(
            r_low=np.where(broken, devices.r_short, self.devices.r_p[kernel]),
            tmr=np.where(antiparallel & ~broken, self.devices.tmr[kernel], 0.0),
            v_half=devices.v_half,
            r_selector=devices.r_selector,
        )

    def conductance(
        self, voltage: float, kernel: int | slice = slice(None), state: BoolArray | bool | None = None
    ) -> FloatArray:
        """Conductance of cells with their selector (S) at a cell voltage, without line resistance; 0 on dead lines."""
        cells = self.junctions(kernel, state)
        return self.alive[kernel] * cell_current(np.full(cells.r_low.shape, voltage), cells) / voltage

    def noise(self, kernel: int) -> np.random.Generator:
        """The noise of the next operation on a kernel; counts it."""
        rng = stream(self.seed, self.index, _NOISE, kernel, self.operations)
        self.operations += 1
        return rng

    def read(self, kernel: int, voltage: float, columns: BoolArray | None = None) -> FloatArray:
        """Currents ``[row, column]`` (A) when the columns are read one by one, all rows sensed; without noise.

        `columns` ``[column]`` limits the reading; the rest is zero.
        """
        rows, width = self.lot.topology.shape[1:]
        read = np.ones(width, dtype=bool) if columns is None else columns
        return self._drive_columns(kernel, voltage, np.broadcast_to(read, (rows, width)))[1]

    def pulse(
        self, kernel: int, mask: BoolArray, amplitude: float, width: float, count: int, rng: np.random.Generator
    ) -> None:
        """Fire `count` pulses (V, s) at the cells of a mask ``[row, column]``, column by column.

        A positive amplitude switches P to AP, a negative one AP to P. Cells whose junction sees more than its
        breakdown voltage, in the state they start or end in, become shorts.
        """
        if amplitude == 0 or not mask.any():
            return
        to_ap = amplitude > 0
        v_cell, i_cell = self._drive_columns(kernel, amplitude, mask)
        v_junction = np.abs(v_cell - self.lot.devices.r_selector * i_cell)
        switching = self.lot.devices.switching
        critical = self.devices.v_critical_to_ap if to_ap else self.devices.v_critical_to_p
        once = switching_probability(
            v_junction, width, critical[kernel], self.devices.delta[kernel], switching.tau0, switching.error_floor
        )
        able = mask & self.switchable[kernel] & ~self.broken[kernel] & (self.state[kernel] != to_ap)
        switched = able & (rng.random(mask.shape) < repeated(once, count))
        self.state[kernel] ^= switched
        self._break_down(kernel, v_cell, v_junction)
        self._models = {key: model for key, model in self._models.items() if key[0] != kernel}

    def product(self, kernel: int, direction: Direction, columns: BoolArray, amplitude: float) -> ProductModel:
        """A kernel ready for products: gates of `columns` ``[column]`` on, vectors up to `amplitude` (V).

        Kept until the die is pulsed again.
        """
        key = (kernel, direction, columns.tobytes(), amplitude)
        if key not in self._models:
            lines = self.lot.lines
            conducting = self.alive[kernel] & columns
            self._models[key] = product_model(
                conducting * fit_odd_polynomial(self.junctions(kernel), amplitude),
                amplitude,
                direction,
                lines.r_row,
                lines.r_column,
                r_contact=lines.r_contact,
            )
            while len(self._models) > _MODELS_KEPT:
                del self._models[next(iter(self._models))]
        return self._models[key]

    def _break_down(self, kernel: int, v_cell: FloatArray, v_start: FloatArray) -> None:
        ended = self.junctions(kernel)
        v_end = np.abs(junction_voltage(v_cell, ended))
        weakest = self.devices.v_breakdown[kernel]
        barrier = self.devices.kind[kernel] != _SHORT
        conducting = self.alive[kernel] & (self.devices.kind[kernel] != _OPEN)
        self.broken[kernel] |= conducting & barrier & (np.maximum(v_start, v_end) > weakest)

    def _drive_columns(self, kernel: int, voltage: float, connected: BoolArray) -> tuple[FloatArray, FloatArray]:
        cells = self.junctions(kernel)
        conducting = self.alive[kernel] & connected
        v_junction: FloatArray | None = None

        def current(v_cell: FloatArray) -> FloatArray:
            nonlocal v_junction  # the previous sweep's solution is a very good start
            v_junction = junction_voltage(v_cell, cells, start=v_junction)
            return np.where(conducting, junction_current(v_junction, cells), 0.0)

        lines = self.lot.lines
        v_cell, i_cell = column_by_column(
            current, voltage, conducting, lines.r_row, lines.r_column, r_contact=lines.r_contact
        )
        return v_cell, i_cell


def draw_defects(lot: Lot, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Defect kind of each cell, ``[kernel, row, column]``, index of `KINDS`.

    The share of bad cells is drawn first, log-normal; a share above the limit is drawn again.
    """
    defects = lot.defects
    rate = np.inf
    while rate > defects.rate_max:
        rate = defects.rate_median * np.exp(defects.rate_log_sigma * rng.standard_normal())
    bad = rng.random(lot.topology.shape) < rate
    shares = np.array([defects.shares.get(kind, 0.0) for kind in KINDS[1:]])
    kinds = rng.choice(np.arange(1, len(KINDS)), p=shares / shares.sum(), size=lot.topology.shape)
    return np.where(bad, kinds, 0).astype(np.uint8)


def draw_devices(lot: Lot, kind: NDArray[np.uint8], rng: np.random.Generator) -> Devices:
    """Parameters of each device, with its defect applied."""
    devices, switching, shape = lot.devices, lot.devices.switching, kind.shape
    r_p = devices.r_p * np.exp(devices.r_p_spread * rng.standard_normal(shape))
    tmr = devices.tmr * np.exp(devices.tmr_spread * rng.standard_normal(shape))
    critical_spread = 1 + switching.v_critical_spread * rng.standard_normal((2, *shape))
    delta = switching.delta * (1 + switching.delta_spread * rng.standard_normal(shape))
    v_breakdown = devices.v_breakdown * (1 + devices.v_breakdown_spread * rng.standard_normal(shape))
    tmr = np.where(kind == _WEAK, tmr * rng.uniform(*lot.defects.weak_tmr_factor, shape), tmr)
    without_barrier = (kind == _SHORT) | (kind == _OPEN)
    return Devices(
        r_p=np.where(kind == _SHORT, devices.r_short, np.where(kind == _OPEN, devices.r_open, r_p)),
        tmr=np.where(without_barrier, 0.0, tmr),
        v_critical_to_ap=switching.v_critical_to_ap * critical_spread[0],
        v_critical_to_p=switching.v_critical_to_p * critical_spread[1],
        delta=delta,
        v_breakdown=v_breakdown,
        kind=kind,
    )


def draw_dead_lines(lot: Lot, rng: np.random.Generator) -> tuple[DeadLine, ...]:
    """Dead lines of a die: Poisson counts, uniform places. A row spans all column parts, a column all row parts."""
    topology, defects = lot.topology, lot.defects
    lines = []
    for kind, mean in (
        ("row", defects.dead_rows),
        ("column", defects.dead_columns),
        ("gate", defects.dead_gates),
        ("row_shared", defects.dead_rows_shared),
    ):
        for _ in range(rng.poisson(mean)):
            block = None if kind == "row_shared" else int(rng.integers(topology.blocks))
            index = int(rng.integers(topology.block_rows if kind.startswith("row") else topology.block_columns))
            lines.append(dead_line(topology, kind, block, index))
    return tuple(lines)


def dead_line(topology: Topology, kind: str, block: int | None, index: int) -> DeadLine:
    """A dead line with its cells."""
    of_line = topology.row_mask if kind.startswith("row") else topology.column_mask
    return DeadLine(kind, block, index, of_line(block, index))


def cells_off(lines: tuple[DeadLine, ...], lot: Lot) -> BoolArray:
    """Cells on none of the lines, ``[kernel, row, column]``."""
    dead = np.zeros(lot.topology.shape, dtype=bool)
    for line in lines:
        dead |= line.mask
    return ~dead


def measured_dead_lines(lot: Lot, measured: MeasuredDies, index: int) -> tuple[DeadLine, ...]:
    """Dead lines of a measured die."""
    return tuple(dead_line(lot.topology, *line) for line in measured.lines_of(index))


def measured_devices(
    lot: Lot, measured: MeasuredDies, index: int, lines: tuple[DeadLine, ...], rng: np.random.Generator
) -> Devices:
    """Devices that read as those of a measured die did; what no read tells is drawn."""
    kind = measured.kind[index]
    alive = cells_off(lines, lot)
    r_p, tmr = measured_junctions(measured.g_p[index], measured.g_ap[index], kind, alive, measured.v_read, lot)
    return replace(
        draw_devices(lot, kind, rng),
        r_p=r_p,
        tmr=tmr,
        v_critical_to_ap=measured.v_critical_to_ap[index],
        v_critical_to_p=measured.v_critical_to_p[index],
    )
