"""What has been measured of one die: resistance of every cell in each state, its class, and dead lines."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mapping.dies.geometry import ArrayGeometry


class CellClass(IntEnum):
    """What a cell turned out to be; for ReRAM, P is LRS (high conductance) and AP is HRS."""

    GOOD = 0
    SHORT = 1
    OPEN = 2
    STUCK_P = 3
    STUCK_AP = 4
    STUCK_LRS = 3
    STUCK_HRS = 4
    WEAK = 5
    DEAD_LINE = 6


#: Cells that cannot hold a bit, whatever is written.
HARD_DEFECTS = (CellClass.SHORT, CellClass.OPEN, CellClass.STUCK_P, CellClass.STUCK_AP, CellClass.DEAD_LINE)


#: Cells of which both states were measured: a number is promised for each.
MEASURED = (CellClass.GOOD, CellClass.WEAK)


class DieRecordError(ValueError):
    """A record of a die that says of a cell what cannot be; names the cell."""


@dataclass(frozen=True)
class LineFault:
    """A dead line. `kind` is ``row``, ``column`` or ``shared_row`` (the same row line dead in every block).

    `block` is -1 for a shared row; `index` is the row or column of the block. A dead gate kills the same cells as a
    dead column and cannot be told from it by reading, so it is reported as a column.
    """

    kind: str
    block: int
    index: int

    def cells(self, geometry: ArrayGeometry) -> NDArray[np.bool_]:
        """The cells on the line, ``[kernel, row, column]``."""
        block = np.asarray(geometry.kernel_block)
        mask = np.zeros(geometry.shape, bool)
        if self.kind == "column":
            on_line = geometry.column_lines() == self.block * geometry.block_columns + self.index
            mask |= on_line[:, None, :]
        else:
            row_of_block = geometry.row_lines() - block[:, None] * geometry.block_rows
            on_line = (row_of_block == self.index) & ((block == self.block) | (self.kind == "shared_row"))[:, None]
            mask |= on_line[:, :, None]
        return mask


def numbers_of(die: str, name: str, values: NDArray[Any], geometry: ArrayGeometry) -> NDArray[np.float64]:
    """Real numbers of all cells, ``[kernel, row, column]``, in an array of their own; else `DieRecordError`."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or np.ma.is_masked(values):
        raise DieRecordError(f"die {die}: {name} has masked values or is of type {array.dtype}; give real numbers")
    if array.shape != geometry.shape:
        raise DieRecordError(f"die {die}: {name} has shape {array.shape}, the geometry {geometry.shape}")
    return np.array(array, dtype=np.float64)


def classes_of(die: str, values: NDArray[Any], geometry: ArrayGeometry) -> NDArray[np.uint8]:
    """`CellClass` of all cells, ``[kernel, row, column]``, in an array of their own; else `DieRecordError`."""
    array = numbers_of(die, "cell_class", values, geometry)
    wrong = ~np.isin(array, [int(kind) for kind in CellClass])
    if wrong.any():
        cell = tuple(np.argwhere(wrong)[0])
        raise DieRecordError(f"die {die}: {_named(cell)} has class {array[cell]:g}, which there is not")
    return array.astype(np.uint8)


def refuse_unmeasured(die: str, name: str, values: NDArray[np.float64], measured: NDArray[np.bool_]) -> None:
    """Raise `DieRecordError` for the first cell that counts as `measured` and has no finite conductance (S)."""
    wrong = measured & ~np.isfinite(values)
    if wrong.any():
        cell = tuple(np.argwhere(wrong)[0])
        raise DieRecordError(
            f"die {die}: {_named(cell)} counts as working, but its {name} is {values[cell]:g} S "
            f"({np.count_nonzero(wrong)} such cells); measure it again, or give it the class of its defect"
        )


def _named(cell: tuple[np.int64, ...]) -> str:
    kernel, row, column = (int(index) for index in cell)
    return f"cell at kernel {kernel}, row {row}, column {column}"


@dataclass(frozen=True)
class DieRecord:
    """Measured map of one die.

    Attributes
    ----------
    die : str
        Identity: lot and site.
    geometry : ArrayGeometry
    g_p, g_ap : float64 ``[kernel, row, column]``, siemens
        Conductance at `conditions["v_read"]` after writing P and after writing AP; selector included. Finite for good
        and weak cells; of others it may be infinite (saturated) or NaN (not measured).
    cell_class : uint8 ``[kernel, row, column]``
        `CellClass` of every cell.
    line_faults : tuple of LineFault
    conditions : dict
        Voltage, temperature, instrument, calibration id, curvature of the I-V of both states.

    Raises
    ------
    DieRecordError
        Naming the cell, for a good or weak one without a number, and for a class that there is not.
    """

    die: str
    geometry: ArrayGeometry
    g_p: NDArray[np.float64]
    g_ap: NDArray[np.float64]
    cell_class: NDArray[np.uint8]
    line_faults: tuple[LineFault, ...] = ()
    conditions: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("g_p", "g_ap"):
            object.__setattr__(self, name, numbers_of(self.die, name, getattr(self, name), self.geometry))
        object.__setattr__(self, "cell_class", classes_of(self.die, self.cell_class, self.geometry))
        for name in ("g_p", "g_ap"):
            refuse_unmeasured(self.die, name, getattr(self, name), np.isin(self.cell_class, MEASURED))
        for name in ("v_read", "g_max", "curvature_p", "curvature_ap"):
            value = self.conditions.get(name, 1.0)
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool) and np.isfinite(value)
            if not number or (name == "v_read" and not value > 0):
                raise DieRecordError(f"die {self.die}: {name} of its conditions is {value!r}, not a number it can be")

    @property
    def defects(self) -> int:
        """Cells that are not good, those on dead lines included."""
        return int(np.count_nonzero(self.cell_class != CellClass.GOOD))

    def counts(self) -> dict[str, int]:
        """Cells of each class and dead lines."""
        cells = {kind.name.lower(): int(np.count_nonzero(self.cell_class == kind)) for kind in CellClass}
        return cells | {"line_faults": len(self.line_faults)}

    def to_dataset(self) -> xr.Dataset:
        """As a dataset with named dimensions and units, for the record."""
        dims = ("kernel", "row", "column")
        data = {
            "g_p": (dims, self.g_p, {"units": "S", "long_name": "conductance after writing P"}),
            "g_ap": (dims, self.g_ap, {"units": "S", "long_name": "conductance after writing AP"}),
            "cell_class": (dims, self.cell_class, {"long_name": "CellClass"}),
        }
        lines = [[fault.kind, fault.block, fault.index] for fault in self.line_faults]
        attrs = {
            "die": self.die,
            "geometry": json.dumps(self.geometry.to_dict()),
            "line_faults": json.dumps(lines),
            "conditions": json.dumps(self.conditions),
        }
        return xr.Dataset(data, attrs=attrs)

    @classmethod
    def from_dataset(cls, data: xr.Dataset) -> DieRecord:
        """Inverse of `to_dataset`."""
        return cls(
            die=data.attrs["die"],
            geometry=ArrayGeometry.from_dict(json.loads(data.attrs["geometry"])),
            g_p=data["g_p"].values,
            g_ap=data["g_ap"].values,
            cell_class=data["cell_class"].values,
            line_faults=tuple(LineFault(*line) for line in json.loads(data.attrs["line_faults"])),
            conditions=json.loads(data.attrs["conditions"]),
        )
