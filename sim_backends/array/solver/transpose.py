"""Transpose of 8 x 8 numbers in registers, for kernels that sweep along rows and along columns in turn.

A compiler given loops moves the numbers one by one; told in shuffles, the same takes an eighth of the time, and on
processors with shorter registers it is split into what they have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

SIDE = 8


def _transpose_tile(typingctx: Any, source: Any, i: Any, j: Any, target: Any, k: Any, m: Any) -> Any:
    """``target[k:k+8, m:m+8] = source[i:i+8, j:j+8].T`` of C-contiguous 2-D float64 arrays; indices are not checked."""
    signature = types.void(source, types.intp, types.intp, target, types.intp, types.intp)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.DoubleType(), SIDE)

        def pointers(position: int) -> Iterator[Any]:
            array, first, second = arguments[position : position + 3]
            array = context.make_array(signature.args[position])(context, builder, array)
            stride = builder.extract_value(array.shape, 1)
            corner = builder.add(builder.mul(first, stride), second)
            for row in range(SIDE):
                offset = builder.add(corner, builder.mul(stride, ir.Constant(stride.type, row)))
                yield builder.bitcast(builder.gep(array.data, [offset]), vector.as_pointer())

        rows = [builder.load(pointer, align=8) for pointer in pointers(0)]
        for distance in (1, 2, 4):
            rows = _exchange(builder, rows, distance)
        for pointer, row in zip(pointers(3), rows, strict=True):
            builder.store(row, pointer, align=8)
        return context.get_dummy_value()

    return signature, build


transpose_tile: Any = intrinsic(_transpose_tile)


def _exchange(builder: Any, rows: list[Any], distance: int) -> list[Any]:
    """Swap the off-diagonal blocks of size `distance`: one of the three stages of a transpose of 8 x 8."""
    low = [k - distance + SIDE if k & distance else k for k in range(SIDE)]
    high = [k + SIDE if k & distance else k + distance for k in range(SIDE)]
    exchanged = list(rows)
    for row in range(SIDE):
        if not row & distance:
            for place, chosen in ((row, low), (row + distance, high)):
                mask = ir.Constant(ir.VectorType(ir.IntType(32), SIDE), chosen)
                exchanged[place] = builder.shuffle_vector(rows[row], rows[row + distance], mask)
    return exchanged


@njit(nogil=True, cache=True)
def transpose_block(source: Any, first: int, rows: int, columns: int, target: Any) -> None:
    """``target[:columns, :rows] = source[first:first+rows, :columns].T``."""
    whole_rows, whole_columns = rows - rows % SIDE, columns - columns % SIDE
    for row in range(0, whole_rows, SIDE):
        for column in range(0, whole_columns, SIDE):
            transpose_tile(source, first + row, column, target, column, row)
    for row in range(rows):
        for column in range(whole_columns if row < whole_rows else 0, columns):
            target[column, row] = source[first + row, column]


@njit(nogil=True, cache=True)
def transpose_back(source: Any, target: Any, first: int, rows: int, columns: int) -> None:
    """``target[first:first+rows, :columns] = source[:columns, :rows].T``."""
    whole_rows, whole_columns = rows - rows % SIDE, columns - columns % SIDE
    for row in range(0, whole_rows, SIDE):
        for column in range(0, whole_columns, SIDE):
            transpose_tile(source, column, row, target, first + row, column)
    for row in range(rows):
        for column in range(whole_columns if row < whole_rows else 0, columns):
            target[first + row, column] = source[column, row]
