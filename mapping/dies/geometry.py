"""Topology of a die as data: kernels, blocks and the lines they share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ArrayGeometry:
    """How the cells of a die are addressed and which lines they share.

    A die has `kernels` tiles of `rows` x `columns` cells; maps of a die are ``[kernel, row, column]``. Kernel k lies in
    block `kernel_block[k]` with its first cell at (`kernel_row[k]`, `kernel_column[k]`) of that block. Kernels of a
    block at the same `kernel_row` share their row lines, those at the same `kernel_column` their column and gate lines.
    """

    rows: int
    columns: int
    kernels: int
    blocks: int
    block_rows: int
    block_columns: int
    kernel_block: tuple[int, ...]
    kernel_row: tuple[int, ...]
    kernel_column: tuple[int, ...]

    @classmethod
    def tiled(cls, rows: int, columns: int, blocks: int, block_rows: int, block_columns: int) -> ArrayGeometry:
        """Blocks cut into kernels, column half first: ``kernel = per_block * block + down * column_part + row_part``.

        The order of the platform's kernel address (array bits, column half, row quarter, from high to low).
        """
        if block_rows % rows or block_columns % columns:
            raise ValueError(
                f"blocks of {block_rows} x {block_columns} do not divide into kernels of {rows} x {columns}"
            )
        down, across = block_rows // rows, block_columns // columns
        address = [(b, r * rows, c * columns) for b in range(blocks) for c in range(across) for r in range(down)]
        block, row, column = zip(*address, strict=True)
        return cls(rows, columns, len(address), blocks, block_rows, block_columns, block, row, column)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a map of the die, ``(kernels, rows, columns)``."""
        return self.kernels, self.rows, self.columns

    @property
    def cells(self) -> int:
        """Number of cells of the die."""
        return self.kernels * self.rows * self.columns

    def row_lines(self) -> NDArray[np.int64]:
        """Physical row line of every ``[kernel, row]``, numbered ``block * block_rows + row``."""
        start = np.asarray(self.kernel_block) * self.block_rows + np.asarray(self.kernel_row)
        return start[:, None] + np.arange(self.rows)

    def column_lines(self) -> NDArray[np.int64]:
        """Physical column line of every ``[kernel, column]``, numbered ``block * block_columns + column``."""
        start = np.asarray(self.kernel_block) * self.block_columns + np.asarray(self.kernel_column)
        return start[:, None] + np.arange(self.columns)

    def to_blocks(self, cells: NDArray[Any]) -> NDArray[Any]:
        """A map ``[kernel, row, column]`` laid out as on the die, ``[block, block row, block column]``."""
        out = np.empty((self.blocks, self.block_rows, self.block_columns), cells.dtype)
        for kernel in range(self.kernels):
            row, column = self.kernel_row[kernel], self.kernel_column[kernel]
            out[self.kernel_block[kernel], row : row + self.rows, column : column + self.columns] = cells[kernel]
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for files."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ArrayGeometry:
        """Inverse of `to_dict`.

        Raises
        ------
        TypeError, ValueError
            A field is missing, unknown, no whole number, or kernels lie outside of their blocks.
        """
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        found = cls(**values)
        found._check()
        return found

    def _check(self) -> None:
        """Refuse what is no geometry, such as rows that are true or 25.0: files come from anywhere."""
        for name, value in asdict(self).items():
            several = name.startswith("kernel_")
            each = value if isinstance(value, tuple) else (value,)
            if isinstance(value, tuple) != several or any(
                isinstance(v, bool) or not isinstance(v, int | np.integer) for v in each
            ):
                wanted = "a list of whole numbers" if several else "a whole number"
                raise ValueError(f"{name}: {str(value)[:60]} is not {wanted}")
            if several and len(value) != self.kernels:
                raise ValueError(f"{name} has {len(value)} entries for {self.kernels} kernels")
        if min(self.rows, self.columns, self.kernels, self.blocks) < 1:
            raise ValueError("rows, columns, kernels and blocks are at least 1")
        for name, first, largest in (
            ("kernel_block", self.kernel_block, self.blocks - 1),
            ("kernel_row", self.kernel_row, self.block_rows - self.rows),
            ("kernel_column", self.kernel_column, self.block_columns - self.columns),
        ):
            if not 0 <= min(first) <= max(first) <= largest:
                raise ValueError(f"{name} goes from {min(first)} to {max(first)}; it lies in 0 to {largest}")


#: 20,000 cells as 4 blocks of 100 x 50, 32 kernels of 25 x 25 (facts of the platform: NIST daffodil-lib).
MTJ_20K = ArrayGeometry.tiled(rows=25, columns=25, blocks=4, block_rows=100, block_columns=50)

#: One passive array of 8 x 8 cells, as those of the laboratory of arXiv:2305.18495, and of 64 x 64 (Kim 2021).
PASSIVE_8X8 = ArrayGeometry.tiled(rows=8, columns=8, blocks=1, block_rows=8, block_columns=8)
PASSIVE_64X64 = ArrayGeometry.tiled(rows=64, columns=64, blocks=1, block_rows=64, block_columns=64)

#: Geometries that have a name on the command line.
NAMED = {"mtj-20k": MTJ_20K, "passive-8x8": PASSIVE_8X8, "passive-64x64": PASSIVE_64X64}


class CellKindError(ValueError):
    """Weights are coded for cells that the die does not have; the message says what to choose."""


def check_cells(geometry: ArrayGeometry, *, analog: bool) -> None:
    """Refuse conductances for cells with gates, and states for cells without, where the geometry tells which it has.

    A passive die is one array; a die of several kernels has cells with gates. A single array of another size than the
    named ones may be either: the station refuses what its dies are not.

    Raises
    ------
    CellKindError
        With the geometries and codings that go together.
    """
    passive = geometry in (PASSIVE_8X8, PASSIVE_64X64)
    if analog and geometry.kernels > 1:
        raise CellKindError(
            f"--coding analog: dies of {geometry.kernels} kernels have cells with a gate each, which hold two states; "
            "choose --geometry passive-8x8 or passive-64x64, or --coding binary or ternary"
        )
    if passive and not analog:
        raise CellKindError(
            f"a passive die of {geometry.rows} x {geometry.columns} cells has no gates: its cells are written by "
            "--coding analog; choose that, or --geometry mtj-20k"
        )
