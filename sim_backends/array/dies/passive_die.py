"""One passive die of a lot: its cells, its lines, its state, and what it does when its terminals are driven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim_backends.array.circuit.bias import SCHEMES
from sim_backends.array.circuit.product import Direction
from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.devices.tio2 import TiO2Devices
from sim_backends.array.dies.failing_lines import FailingLines
from sim_backends.array.dies.failures import CAUSES, Failures, draw_failures
from sim_backends.array.dies.fired import Fired
from sim_backends.array.dies.passive_cells import PassiveCells
from sim_backends.array.dies.passive_lot import PassiveLot
from sim_backends.array.dies.streams import stream
from sim_backends.array.dies.topology import DeadLine
from sim_backends.array.solver.network import Drive, Lines

_DEVICES, _FAILURES, _NOISE, _VIRGIN = 1, 2, 5, 6  # purposes of the random streams of a die
_OPEN = CAUSES.index("open")
_AT_ONCE = 64  # vectors of a product that are solved together


def compile_ahead(lot: PassiveLot) -> None:
    """Have compiled what reads, pulses and products need, so that nobody at a wire waits for it."""
    die, rng = PassiveDie.from_lot(lot, 0, 0), stream(0)
    one = np.zeros(die.devices.shape, dtype=bool)
    one[0, 0] = True
    die.read(0, lot.v_read)
    for scheme in lot.schemes:
        die.pulse(0, one, lot.v_read, 1e-6, 1, rng, scheme)
    die.product(0, "backward", one[0], lot.v_read).currents(np.full((2, one.shape[0]), lot.v_read))


class PassiveDie:
    """A die; reading and pulsing it needs no wire.

    Every voltage acts on every cell, through the network of lines and cells. The voltage of a cell is row minus column
    in the network, column minus row to a tester (`read`, `pulse`, `product`).

    Parameters
    ----------
    lot, seed, index
        What it was drawn from: the same three are the same die for ever.
    devices
        The cells in the state they are in, ``[row, column]``.
    failures
        What does not work, ``[row, column]``.

    Attributes
    ----------
    operations
        Reads, pulses and products so far; it keys the noise.
    """

    kinds: ClassVar[tuple[str, ...]] = CAUSES

    def __init__(self, lot: PassiveLot, seed: int, index: int, devices: PassiveCells, failures: Failures) -> None:
        self.lot, self.seed, self.index = lot, seed, index
        self.devices, self.failures = devices, failures
        self.operations = 0
        self._network = FailingLines(lot.segments, failures)

    @classmethod
    def from_lot(cls, lot: PassiveLot, seed: int, index: int) -> PassiveDie:
        """Die `index` of a lot; the same lot, seed and index are the same die for ever."""
        shape, rng = lot.topology.shape[1:], stream(seed, index, _DEVICES)
        initial = rng.uniform(*lot.devices.initial, shape)
        failures = draw_failures(lot.defects.rates(), shape, stream(seed, index, _FAILURES))
        devices = TiO2Devices.draw(shape, rng, lot.devices.parameters(), initial)
        leak = v_form = None
        if lot.virgin is not None:
            draw = stream(seed, index, _VIRGIN).standard_normal((2, *shape))
            leak = lot.virgin.leak * np.exp(lot.virgin.leak_spread * draw[0])
            v_form = lot.virgin.v_form * np.exp(lot.virgin.v_form_spread * draw[1])
        cells = PassiveCells(devices, failures, lot.devices.short, leak, v_form)
        return cls(lot, seed, index, cells, failures)

    @property
    def lines(self) -> Lines:
        """Resistance of whole lines; breaks, and rows that are tied to each other, are in `failures`."""
        return self._network.lines

    # -- by its terminals ----------------------------------------------------------------------------------------

    def terminal_currents(self, rows: ArrayLike | Drive, columns: ArrayLike | Drive) -> tuple[FloatArray, FloatArray]:
        """What flows from each source into its line while voltages are held, without noise; nothing is changed.

        Parameters
        ----------
        rows, columns
            Voltages ``[..., row]`` and ``[..., column]`` (V); NaN leaves a line floating. A `Drive` adds the resistance
            of the sources. Leading axes are several sets of voltages, one after the other.

        Returns
        -------
        rows, columns
            ``[..., row]`` and ``[..., column]`` (A); zero where a line floats.

        Raises
        ------
        NetworkError
            For a voltage that is infinite.
        """
        flow = self._network.flow(self.devices, rows, columns)
        return flow.i_row, flow.i_column

    def pulse_terminals(
        self,
        rows: ArrayLike | Drive,
        columns: ArrayLike | Drive,
        width: float,
        rng: np.random.Generator,
        count: int = 1,
    ) -> FloatArray:
        """Hold voltages at the terminals for a pulse, `count` times; every cell gets what it really sees.

        The die refuses nothing: a working cell beyond the caps of its device becomes a short.

        Parameters
        ----------
        rows, columns
            As for `terminal_currents`, one set of voltages: ``[row]``, ``[column]``.
        width
            Pulse width (s).
        rng
            Source of the spread from cycle to cycle (`noise`).
        count
            How often; the network is solved anew for each.

        Returns
        -------
        Largest voltage that each cell saw, ``[row, column]`` (V, magnitude).
        """
        seen = np.zeros(self.devices.shape)
        for _ in range(count):
            v_cell = self._network.flow(self.devices, rows, columns, inside=True).v_cell
            assert v_cell is not None
            np.maximum(seen, np.abs(v_cell), out=seen)
            self.devices.pulse(v_cell, width, rng)
        return seen

    # -- as a tester uses it -------------------------------------------------------------------------------------

    def noise(self, kernel: int) -> np.random.Generator:
        """The noise of the next operation; counts it."""
        rng = stream(self.seed, self.index, _NOISE, kernel, self.operations)
        self.operations += 1
        return rng

    def cell_noise(self, kernel: int, of_board: float) -> FloatArray:
        """Noise of one sample of each cell, relative to its current, ``[row, column]``: the device's and a board's."""
        return np.hypot(self.devices.read_noise(), of_board)

    def read(self, kernel: int, voltage: float, columns: BoolArray | None = None) -> FloatArray:
        """Currents ``[row, column]`` (A) when the columns are driven one by one and all rows sensed; without noise.

        All lines but the driven one are held at ground. `columns` ``[column]`` limits the reading; the rest is zero.
        """
        read = np.ones(self.devices.shape[1], dtype=bool) if columns is None else columns
        currents = np.zeros(self.devices.shape)
        if read.any():
            one_by_one = voltage * np.eye(read.size)[read]
            currents[:, read] = -self._network.flow(self.devices, 0.0, one_by_one).i_row.T
        return currents

    def pulse(
        self,
        kernel: int,
        mask: BoolArray,
        amplitude: float,
        width: float,
        count: int,
        rng: np.random.Generator,
        scheme: str = "V/2",
    ) -> Fired:
        """Fire `count` pulses (V, s) at the cells of a mask ``[row, column]``, what fits together at once.

        Columns with the same selected rows are selected together with these rows, so a mask that fills the rectangle
        of its rows and columns is fired at once; else one set of rows comes after the other. All other lines are held
        as the bias scheme says, and every other cell of the die sees its part. A positive amplitude is SET.
        """
        rows_of = {mask[:, column].tobytes(): mask[:, column] for column in np.flatnonzero(mask.any(axis=0))}
        v_other = 0.0
        for rows in rows_of.values():
            columns = (mask == rows[:, None]).all(axis=0)
            v_row, v_column = SCHEMES[scheme].voltages(rows, columns, -amplitude)
            seen = self.pulse_terminals(v_row, v_column, width, rng, count)
            v_other = max(v_other, float(np.max(seen, where=~np.outer(rows, columns), initial=0.0)))
        return Fired(scheme, v_other, len(rows_of))

    def product(self, kernel: int, direction: Direction, columns: BoolArray, amplitude: float) -> PassiveProduct:
        """The die as it is now, ready for products. It has no gates: all columns take part, whatever `columns` says."""
        return PassiveProduct(self, direction)

    # -- what it remembers ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """What the die remembers: conductances of the devices (S), cells broken by pulses or not formed, operations."""
        return {
            "g": self.devices.tio2.g.copy(),
            "broken": self.devices.broken.copy(),
            "operations": np.array(self.operations),
        } | ({} if self.lot.virgin is None else {"virgin": self.devices.virgin.copy()})

    @staticmethod
    def checked_state(lot: PassiveLot, saved: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """A state read from a file, as `restore` takes it.

        Raises
        ------
        ValueError, KeyError
            If it is none of a die of this lot.
        """
        g, broken, operations = saved["g"], saved["broken"], int(saved["operations"])
        shape, kind = lot.topology.shape[1:], lot.devices
        if g.shape != shape or broken.shape != shape or g.dtype != np.float64 or broken.dtype != np.bool_:
            raise ValueError(f"cells are {g.dtype} {list(g.shape)} and {broken.dtype} {list(broken.shape)}")
        if not (np.all((g >= kind.g_min) & (g <= kind.g_max)) and operations >= 0):
            raise ValueError("a conductance is outside of the bounds of the devices, or the operations are negative")
        state = {"g": g, "broken": broken, "operations": np.array(operations)}
        if lot.virgin is not None:
            state["virgin"] = saved["virgin"]
            if state["virgin"].shape != shape or state["virgin"].dtype != np.bool_:
                raise ValueError(f"cells that were never formed are {state['virgin'].dtype} {state['virgin'].shape}")
        return state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state."""
        self.devices.restore(state["g"], state["broken"], state.get("virgin"))
        self.operations = int(state["operations"])

    # -- what nobody measures ------------------------------------------------------------------------------------

    @property
    def dead_lines(self) -> tuple[DeadLine, ...]:
        """Lines that are broken in front of their first cell."""
        topology = self.lot.topology
        rows, columns = (np.flatnonzero(a).tolist() for a in (self.failures.open_rows, self.failures.open_columns))
        return (
            *(DeadLine("row", 0, row, topology.row_mask(0, row)) for row in rows),
            *(DeadLine("column", 0, column, topology.column_mask(0, column)) for column in columns),
        )

    def truth(self) -> dict[str, NDArray[Any]]:
        """What the truth file says of the die (`sim_backends.bench.truth`), ``[kernel, row, column]``.

        Cells behind a break in the middle of a line are open.
        """
        alive = ~(self.failures.open_rows[:, None] | self.failures.open_columns)
        return {
            "g": self.devices.conductance[None],
            "g_read": self.read(0, self.lot.v_read)[None] / self.lot.v_read,
            "kind": np.where(self.failures.cut_off & alive, _OPEN, self.failures.cause)[None].astype(np.uint8),
            "broken": self.devices.broken[None].copy(),
            "alive": alive[None],
            "row_net": self.failures.row_net[None],
        }


@dataclass(frozen=True)
class PassiveProduct:
    """Products of a passive die with vectors of voltages: all lines take part at once, solved exactly."""

    die: PassiveDie
    direction: Direction

    def currents(self, vectors: FloatArray) -> FloatArray:
        """Currents of the sensed lines ``[n, sensed]`` (A) for vectors ``[n, driven]`` (V)."""
        parts = [vectors[first : first + _AT_ONCE] for first in range(0, len(vectors), _AT_ONCE)]
        if self.direction == "forward":
            return -np.concatenate([self.die.terminal_currents(0.0, part)[0] for part in parts])
        return -np.concatenate([self.die.terminal_currents(part, 0.0)[1] for part in parts])

    def cell_noise(self, vectors: FloatArray, relative: float) -> FloatArray:
        """Standard deviation ``[n, sensed]`` (A) of the white noise of the cells; `relative` is the board's part."""
        noise = self.die.devices.conductance * self.die.cell_noise(0, relative)
        return np.sqrt(np.square(vectors) @ np.square(noise if self.direction == "backward" else noise.T))
