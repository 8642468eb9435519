"""Where kernels sit in the blocks of a die, and which cells lie on one physical line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.devices.interface import BoolArray


@dataclass(frozen=True)
class Topology:
    """A die of equal blocks, each tiled by kernels.

    Kernels are numbered block by block, in a block column half by column half (or however many parts the columns
    have), in a part from the first rows to the last. With 4 blocks of 100 x 50 and kernels of 25 x 25:
    ``kernel = 8 * block + 4 * column_half + row_quarter``.
    """

    blocks: int
    block_rows: int
    block_columns: int
    rows: int
    columns: int

    @property
    def row_parts(self) -> int:
        """Kernels of a block below one another."""
        return self.block_rows // self.rows

    @property
    def column_parts(self) -> int:
        """Kernels of a block side by side."""
        return self.block_columns // self.columns

    @property
    def kernels(self) -> int:
        """Kernels of a die."""
        return self.blocks * self.row_parts * self.column_parts

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a per-cell array: ``[kernel, row, column]``."""
        return self.kernels, self.rows, self.columns

    @cached_property
    def kernel_block(self) -> NDArray[np.int64]:
        """Block of each kernel."""
        return np.arange(self.kernels) // (self.row_parts * self.column_parts)

    @cached_property
    def kernel_row(self) -> NDArray[np.int64]:
        """Row of the block at which the first cell of each kernel sits."""
        return np.arange(self.kernels) % self.row_parts * self.rows

    @cached_property
    def kernel_column(self) -> NDArray[np.int64]:
        """Column of the block at which the first cell of each kernel sits."""
        return np.arange(self.kernels) // self.row_parts % self.column_parts * self.columns

    def row_mask(self, block: int | None, row: int) -> BoolArray:
        """Cells ``[kernel, row, column]`` on one row line of a block, or of all blocks if `block` is None."""
        rows = self.kernel_row[:, None] + np.arange(self.rows)
        hit = (rows == row) & self._in_block(block)[:, None]
        return np.broadcast_to(hit[:, :, None], self.shape)

    def column_mask(self, block: int | None, column: int) -> BoolArray:
        """Cells ``[kernel, row, column]`` on one column (or gate) line of a block, or of all blocks."""
        columns = self.kernel_column[:, None] + np.arange(self.columns)
        hit = (columns == column) & self._in_block(block)[:, None]
        return np.broadcast_to(hit[:, None, :], self.shape)

    def _in_block(self, block: int | None) -> BoolArray:
        return np.ones(self.kernels, dtype=bool) if block is None else self.kernel_block == block


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
