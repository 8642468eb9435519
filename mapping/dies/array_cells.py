"""Cells of an array as a person names them."""

from __future__ import annotations


class CellNameError(ValueError):
    """A text that names no cells of the array."""


def cells_of(text: str, rows: int, columns: int) -> list[tuple[int, int]]:
    """Cells that a text names: ``diagonal``, ``all``, or pairs of row and column, ``3,4 0,7``.

    The diagonal has every row and every column of a square array once.

    Raises
    ------
    CellNameError
        Naming what cannot be read, or is not in the array.
    """
    if text == "all":
        return [(row, column) for row in range(rows) for column in range(columns)]
    if text == "diagonal":
        return [(at % rows, at % columns) for at in range(max(rows, columns))]
    found = []
    for word in text.split():
        try:
            row, column = (int(each) for each in word.split(","))
        except ValueError:
            raise CellNameError(f"cells {word!r}: give diagonal, all, or rows and columns such as '3,4 0,7'") from None
        if not (0 <= row < rows and 0 <= column < columns):
            raise CellNameError(f"cells {word!r}: the array has rows 0 to {rows - 1} and columns 0 to {columns - 1}")
        found.append((row, column))
    if not found or len(set(found)) < len(found):
        raise CellNameError(f"cells {text!r}: name at least one cell, and each of them once")
    return found
