"""One die of a lot: its devices, its defects, its state, and what it does when it is read and pulsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.circuit.columns import column_by_column
from sim_backends.array.circuit.product import Direction, ProductModel, fit_odd_polynomial, product_model
from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.devices.mtj import ASSUMED_LAWS, GENERIC, Mtj, MtjParameters
from sim_backends.array.dies.fired import GATED, Fired
from sim_backends.array.dies.inverse import measured_junctions
from sim_backends.array.dies.lot import KINDS, Lot
from sim_backends.array.dies.measured import MeasuredDies
from sim_backends.array.dies.streams import stream
from sim_backends.array.dies.topology import DeadLine, Topology

_DEVICES, _DEFECTS, _LINES, _STATE, _NOISE = range(1, 6)  # purposes of the random streams of a die
_MODELS_KEPT = 64
_GOOD, _SHORT, _OPEN, _STUCK_P, _STUCK_AP, _WEAK = range(len(KINDS))


def compile_ahead() -> None:
    """Have compiled what reads, pulses and products need, so that nobody at a wire waits for it.

    Takes some 15 s the first time on a machine; from then on it is a file that numba keeps.
    """
    cells = Mtj.draw((2, 2), stream(0))
    column_by_column(cells, 0.1, np.ones(cells.shape, dtype=bool), 1.0, 1.0)
    product_model(fit_odd_polynomial(cells, 0.1), 0.1, "forward", 1.0, 1.0)


@dataclass
class Die:
    """A die; reading and pulsing it needs no wire.

    Attributes
    ----------
    lot, seed, index
        What it was drawn from: the same three are the same die for ever.
    devices
        The cells in the state they are in, ``[kernel, row, column]``. Defects are in them: a short is `r_short`
        without magnetoresistance.
    kind
        Defect of each cell, index of `KINDS`.
    dead_lines
        Lines that carry no current.
    operations
        Reads, pulses and products so far; it keys the noise.
    """

    lot: Lot
    seed: int
    index: int
    devices: Mtj
    kind: NDArray[np.uint8]
    dead_lines: tuple[DeadLine, ...]
    operations: int = 0
    _models: dict[tuple[object, ...], ProductModel] = field(default_factory=dict, repr=False)
    _truth: tuple[int, dict[str, NDArray[Any]]] | None = field(default=None, repr=False)

    kinds: ClassVar[tuple[str, ...]] = KINDS

    @classmethod
    def from_lot(cls, lot: Lot, seed: int, index: int) -> Die:
        """Die `index` of a lot, drawn or as it was measured; the same lot, seed and index are the same die for ever.

        Of a measured die only what no read tells is drawn: thermal stability and breakdown voltages.
        """
        rng, measured = stream(seed, index, _DEVICES), lot.measured_dies
        if measured is not None:
            kind, lines = measured.kind[index], measured_dead_lines(lot, measured, index)
            devices, state = measured_devices(lot, measured, index, lines, rng), measured.state[index]
        else:
            kind = draw_defects(lot, stream(seed, index, _DEFECTS))
            lines = draw_dead_lines(lot, stream(seed, index, _LINES))
            state = stream(seed, index, _STATE).random(lot.topology.shape) < lot.devices.fresh_ap_share
            devices = draw_devices(lot, kind, rng)
        devices.antiparallel = np.where(kind == _STUCK_P, False, np.where(kind == _STUCK_AP, True, state))
        return cls(lot, seed, index, devices, kind, lines)

    @cached_property
    def alive(self) -> BoolArray:
        """Cells on no dead line, ``[kernel, row, column]``."""
        return cells_off(self.dead_lines, self.lot)

    @property
    def switchable(self) -> BoolArray:
        """Cells that a pulse can switch unless it has broken them."""
        return self.alive & ~self.devices.fixed

    def put(self, antiparallel: BoolArray | bool) -> None:
        """Put all cells that can switch into a state, ``[kernel, row, column]``, without a pulse."""
        self.devices.antiparallel = np.where(self.switchable, antiparallel, self.devices.antiparallel)
        self._models.clear()

    def conductance(self, voltage: float, antiparallel: BoolArray | bool | None = None) -> FloatArray:
        """Conductance of all cells with their selector (S) at a cell voltage, without line resistance; 0 on dead lines.

        In their present state, or all in another one.
        """
        cells = self.devices if antiparallel is None else self.devices.in_state(antiparallel)
        return self.alive * cells.current(np.full(cells.shape, voltage))[0] / voltage

    def noise(self, kernel: int) -> np.random.Generator:
        """The noise of the next operation on a kernel; counts it."""
        rng = stream(self.seed, self.index, _NOISE, kernel, self.operations)
        self.operations += 1
        return rng

    def cell_noise(self, kernel: int, of_board: float) -> FloatArray:
        """Noise of one sample of each cell, relative to its current: what the board is said to have."""
        return np.full(self.lot.topology.shape[1:], of_board)

    def read(self, kernel: int, voltage: float, columns: BoolArray | None = None) -> FloatArray:
        """Currents ``[row, column]`` (A) when the columns are read one by one, all rows sensed; without noise.

        `columns` ``[column]`` limits the reading; the rest is zero.
        """
        shape = self.lot.topology.shape[1:]
        read = np.ones(shape, dtype=bool) if columns is None else np.broadcast_to(columns, shape)
        return -self._drive_columns(kernel, voltage, read)[1]

    def pulse(
        self,
        kernel: int,
        mask: BoolArray,
        amplitude: float,
        width: float,
        count: int,
        rng: np.random.Generator,
        scheme: str = GATED,
    ) -> Fired:
        """Fire `count` pulses (V, s) at the cells of a mask ``[row, column]``, column by column.

        A positive amplitude switches P to AP, a negative one AP to P. Cells whose junction sees more than its
        breakdown voltage, in the state they start or end in, become shorts. Other cells see nothing: `scheme` is only
        kept for the log.
        """
        fired = Fired(scheme, v_other=0.0, times=int(mask.any(axis=0).sum()))
        if amplitude == 0 or not mask.any():
            return fired
        self.devices.part(kernel).pulse(self._drive_columns(kernel, amplitude, mask)[0], width, rng, count)
        self._models = {key: model for key, model in self._models.items() if key[0] != kernel}
        return fired

    def product(self, kernel: int, direction: Direction, columns: BoolArray, amplitude: float) -> ProductModel:
        """A kernel ready for products: gates of `columns` ``[column]`` on, vectors up to `amplitude` (V).

        Kept until the die is pulsed again.
        """
        key = (kernel, direction, columns.tobytes(), amplitude)
        if key not in self._models:
            lines, conducting = self.lot.lines, self.alive[kernel] & columns
            self._models[key] = product_model(
                conducting * fit_odd_polynomial(self.devices.part(kernel), amplitude),
                amplitude,
                direction,
                lines.r_row,
                lines.r_column,
                r_contact=lines.r_contact,
            )
            while len(self._models) > _MODELS_KEPT:
                del self._models[next(iter(self._models))]
        return self._models[key]

    def state(self) -> dict[str, NDArray[Any]]:
        """What the die remembers: states, cells broken by pulses, operations."""
        return {
            "state": np.packbits(self.devices.antiparallel),
            "broken": np.packbits(self.devices.broken),
            "operations": np.array(self.operations),
        }

    @staticmethod
    def checked_state(lot: Lot, saved: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """A state read from a file, as `restore` takes it.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it is none of a die of this lot.
        """
        shape = lot.topology.shape
        cells = {name: np.unpackbits(saved[name])[: int(np.prod(shape))] for name in ("state", "broken")}
        state: dict[str, NDArray[Any]] = {name: bits.astype(bool).reshape(shape) for name, bits in cells.items()}
        return {**state, "operations": np.array(int(saved["operations"]))}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state."""
        self.devices.antiparallel, self.devices.broken = state["state"], state["broken"]
        self.operations = int(state["operations"])
        self._models.clear()

    def truth(self) -> dict[str, NDArray[Any]]:
        """What the truth file says of the die (`sim_backends.bench.truth`), ``[kernel, row, column]``."""
        devices, broken = self.devices, int(self.devices.broken.sum())
        if self._truth is None or self._truth[0] != broken:  # slow to compute
            v_read = self.lot.v_read
            self._truth = (
                broken,
                {
                    "r_p": devices.r_p.astype(np.float32),
                    "r_ap": (devices.r_p * (1 + devices.tmr)).astype(np.float32),
                    "kind": self.kind,
                    "alive": self.alive,
                    "g_p": self.conductance(v_read, antiparallel=False).astype(np.float32),
                    "g_ap": self.conductance(v_read, antiparallel=True).astype(np.float32),
                },
            )
        return {**self._truth[1], "state": devices.antiparallel, "broken": devices.broken}

    def _drive_columns(self, kernel: int, voltage: float, connected: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Cell voltages and currents, row against column, with `voltage` at the columns and the rows at zero."""
        cells, conducting, lines = self.devices.part(kernel), self.alive[kernel] & connected, self.lot.lines
        return column_by_column(cells, voltage, conducting, lines.r_row, lines.r_column, r_contact=lines.r_contact)


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


def draw_devices(lot: Lot, kind: NDArray[np.uint8], rng: np.random.Generator) -> Mtj:
    """Parameters of each device, with its defect applied; all in P."""
    devices = Mtj.draw(kind.shape, rng, parameters_of(lot))
    weak = rng.uniform(*lot.defects.weak_tmr_factor, kind.shape)
    short, opened = kind == _SHORT, kind == _OPEN
    without_barrier = short | opened
    devices.r_p = np.where(short, lot.devices.r_short, np.where(opened, lot.devices.r_open, devices.r_p))
    devices.tmr = np.where(without_barrier, 0.0, np.where(kind == _WEAK, devices.tmr * weak, devices.tmr))
    devices.v_breakdown = np.where(without_barrier, np.inf, devices.v_breakdown)
    devices.fixed = ~np.isin(kind, (_GOOD, _WEAK))
    devices.assumed = assumed_of(lot)
    return devices


def parameters_of(lot: Lot) -> MtjParameters:
    """What the cells of a lot have in common."""
    values = lot.devices.model_dump(exclude={"switching", "r_open", "fresh_ap_share"})
    noise = GENERIC.read_noise if lot.read_noise is None else lot.read_noise.cell
    return MtjParameters(**values, **lot.devices.switching.model_dump(), read_noise=noise)


def assumed_of(lot: Lot) -> dict[str, str]:
    """What is not measured of the cells of a lot: the laws, and each value whose source does not say otherwise."""
    assumed = dict(ASSUMED_LAWS)
    for path, values in (("devices", lot.devices), ("devices.switching", lot.devices.switching)):
        for name in values.model_dump(exclude={"switching"}):
            source = lot.sources.get(f"{path}.{name}", "assumed")
            if source.startswith("assumed"):
                assumed[name] = source
    return assumed


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
) -> Mtj:
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
