"""What every kind of die offers to the instruments around it, and the one place that knows which kinds there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.circuit.product import Direction
from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.dies.fired import Fired
from sim_backends.array.dies.lot import LotError, Wafer, mtj_lot, read_lot_file
from sim_backends.array.dies.mtj_die import Die
from sim_backends.array.dies.mtj_die import compile_ahead as compile_mtj
from sim_backends.array.dies.passive_die import PassiveDie
from sim_backends.array.dies.passive_die import compile_ahead as compile_tio2
from sim_backends.array.dies.passive_lot import passive_lot_from_tree
from sim_backends.array.dies.readout import ReadoutSpec
from sim_backends.array.dies.topology import DeadLine, Topology


class ArrayLot(Protocol):
    """What dies of a lot have in common, whatever they are made of.

    `cell` is what boards call such cells; `schemes` are the bias schemes that pulses can have, as boards number them,
    none for cells that have gates.
    """

    kind: ClassVar[str]
    cell: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str:
        """Name of the lot."""
        ...

    @property
    def wafer(self) -> Wafer:
        """Where the dies sit."""
        ...

    @property
    def v_read(self) -> float:
        """Voltage at which truth files give conductances (V)."""
        ...

    @property
    def topology(self) -> Topology:
        """Kernels and lines of a die."""
        ...

    def read_by(self, readout: ReadoutSpec) -> ReadoutSpec:
        """The converters of a board as they read these dies."""
        ...


class Product(Protocol):
    """A kernel in one state, ready to be multiplied with vectors of voltages."""

    def currents(self, vectors: FloatArray) -> FloatArray:
        """Currents of the sensed lines ``[n, sensed]`` (A) for vectors ``[n, driven]`` (V)."""
        ...

    def cell_noise(self, vectors: FloatArray, relative: float) -> FloatArray:
        """Standard deviation ``[n, sensed]`` (A) of the white noise of the cells; `relative` is the board's part."""
        ...


class ArrayDie(Protocol):
    """A die under the needles. Masks and currents are ``[row, column]``; a cell voltage is column minus row.

    `operations` counts reads, pulses and products: it keys the noise. `kinds` are the defect kinds that the codes in
    `truth` stand for.
    """

    index: int
    seed: int
    operations: int
    kinds: ClassVar[tuple[str, ...]]

    @property
    def lot(self) -> ArrayLot:
        """What it was drawn from."""
        ...

    @property
    def dead_lines(self) -> tuple[DeadLine, ...]:
        """Lines that carry no current, or only a part of them does."""
        ...

    def noise(self, kernel: int) -> np.random.Generator:
        """The noise of the next operation on a kernel; counts it."""
        ...

    def cell_noise(self, kernel: int, of_board: float) -> FloatArray:
        """Noise of one sample of each cell, relative to its current; `of_board` is what a board is said to add."""
        ...

    def read(self, kernel: int, voltage: float, columns: BoolArray | None = None) -> FloatArray:
        """Currents (A) when the columns are driven one by one, all rows sensed; zero outside of `columns`."""
        ...

    def pulse(
        self,
        kernel: int,
        mask: BoolArray,
        amplitude: float,
        width: float,
        count: int,
        rng: np.random.Generator,
        scheme: str,
    ) -> Fired:
        """Fire `count` pulses (V, s) at the cells of a mask, column by column; the die refuses nothing."""
        ...

    def product(self, kernel: int, direction: Direction, columns: BoolArray, amplitude: float) -> Product:
        """A kernel ready for products with vectors up to `amplitude` (V); gates of `columns` on, if it has any."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """What the die remembers, as arrays to be saved."""
        ...

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state that `checked_state` has let through."""
        ...

    def truth(self) -> dict[str, NDArray[Any]]:
        """What the truth file says of the die."""
        ...


@dataclass(frozen=True)
class _Kind:
    """How lots and dies of a kind are made, from the content of a lot file and its path, and by lot, seed and index."""

    lot: Callable[[dict[str, Any], Path], Any]
    die: Callable[[Any, int, int], ArrayDie]
    checked_state: Callable[[Any, Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]
    compile_ahead: Callable[[Any], None]


_KINDS = {
    "mtj": _Kind(mtj_lot, Die.from_lot, Die.checked_state, lambda lot: compile_mtj()),
    "tio2": _Kind(
        lambda tree, path: passive_lot_from_tree(tree, str(path)),
        PassiveDie.from_lot,
        PassiveDie.checked_state,
        compile_tio2,
    ),
}


def load_any_lot(name: str | Path) -> ArrayLot:
    """Read a lot file, or one of the built-in lots by name (such as ``"mtj"`` or ``"tio2-8x8"``); ``kind`` tells which.

    Raises
    ------
    LotError
        If there is no such file, or an entry is unknown, missing or wrong.
    """
    kind, tree, path = read_lot_file(name)
    if kind not in _KINDS:
        raise LotError(f"{path}: kind: {kind!r}; known: {', '.join(_KINDS)}")
    lot: ArrayLot = _KINDS[kind].lot(tree, path)
    return lot


def die_of(lot: ArrayLot, seed: int, index: int) -> ArrayDie:
    """Die `index` of a lot; the same lot, seed and index are the same die for ever."""
    return _KINDS[lot.kind].die(lot, seed, index)


def checked_state(lot: ArrayLot, saved: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The state of a die of a lot as read from a file, ready for `ArrayDie.restore`.

    Raises
    ------
    ValueError, KeyError
        If it is none.
    """
    return _KINDS[lot.kind].checked_state(lot, saved)


def compile_ahead(lot: ArrayLot) -> None:
    """Have compiled what reads, pulses and products of dies of a lot need, so that nobody at a wire waits for it."""
    _KINDS[lot.kind].compile_ahead(lot)
