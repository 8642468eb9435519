"""What has been measured of a die of analog cells: what they hold, what moves them, and what is broken."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mapping.dies.classify_cells import ClassLimits, dead_lines
from mapping.dies.die_record import HARD_DEFECTS, CellClass, DieRecordError, LineFault, classes_of, numbers_of
from mapping.dies.geometry import ArrayGeometry

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class AnalogLimits:
    """Where the classes begin.

    Attributes
    ----------
    open_below
        A cell that reads less than this (S) after SET pulses is open. Assumed: a tenth of the 45 uS to which RESET
        takes the default device, and half of what stuck-HRS cells of the laboratory reach down to (10 uS).
    short_above
        A cell that reads more than this (S) is a short. Assumed: twice the soft bound of the default device, and far
        above stuck-LRS cells (573 +- 99 uS in the code of the authors of arXiv:2305.18495).
    moved
        A cell moves if its reads change by more than this share of the window in the probe (assumed).
    """

    open_below: float = 5e-6
    short_above: float = 1.8e-3
    moved: float = 0.05


#: The defaults.
LIMITS = AnalogLimits()


@dataclass(frozen=True, eq=False)
class AnalogDie:
    """Measured map of one die of analog cells.

    Attributes
    ----------
    die : str
        Identity: lot and site.
    geometry : ArrayGeometry
    g : float64 ``[kernel, row, column]``
        Conductance as last read, after the probe (S); 0 where nothing flows.
    read_noise : float64 ``[kernel, row, column]``
        Standard deviation of one read, relative, as measured.
    v_set, v_reset : float64 ``[kernel, row, column]``
        First amplitudes that moved each cell (V, the second negative); NaN where none did.
    cell_class : uint8 ``[kernel, row, column]``
        `CellClass`.
    line_faults : tuple of LineFault
    conditions : dict
        Voltages, temperature, instrument, calibration.

    Raises
    ------
    DieRecordError
        Naming the cell, for one that holds no number, and for a class that there is not.
    """

    die: str
    geometry: ArrayGeometry
    g: FloatArray
    read_noise: FloatArray
    v_set: FloatArray
    v_reset: FloatArray
    cell_class: NDArray[np.uint8]
    line_faults: tuple[LineFault, ...] = ()
    conditions: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("g", "read_noise", "v_set", "v_reset"):
            object.__setattr__(self, name, numbers_of(self.die, name, getattr(self, name), self.geometry))
        object.__setattr__(self, "cell_class", classes_of(self.die, self.cell_class, self.geometry))
        wrong = ~np.isfinite(self.g)  # also of a stuck cell: `stuck` says NaN of those that can be written
        if wrong.any():
            kernel, row, column = (int(index) for index in np.argwhere(wrong)[0])
            raise DieRecordError(
                f"die {self.die}: cell at kernel {kernel}, row {row}, column {column} holds "
                f"{self.g[kernel, row, column]:g} S; measure it again, or say what it holds"
            )

    @property
    def writable(self) -> BoolArray:
        """Cells without a hard defect, ``[kernel, row, column]``."""
        return ~np.isin(self.cell_class, HARD_DEFECTS)

    @property
    def stuck(self) -> FloatArray:
        """What each cell that cannot be written holds (S), NaN where it can be written."""
        return np.where(self.writable, np.nan, self.g)

    def to_dataset(self) -> xr.Dataset:
        """As a dataset with named dimensions and units, for the record."""
        dims, unit = ("kernel", "row", "column"), {"g": "S", "read_noise": "1", "v_set": "V", "v_reset": "V"}
        data = {name: (dims, getattr(self, name), {"units": units}) for name, units in unit.items()}
        lines = [[fault.kind, fault.block, fault.index] for fault in self.line_faults]
        return xr.Dataset(
            {**data, "cell_class": (dims, self.cell_class, {"long_name": "CellClass"})},
            attrs={
                "die": self.die,
                "geometry": json.dumps(self.geometry.to_dict()),
                "line_faults": json.dumps(lines),
                "conditions": json.dumps(self.conditions),
            },
        )

    @classmethod
    def from_dataset(cls, data: xr.Dataset) -> AnalogDie:
        """Inverse of `to_dataset`."""
        real = {name: data[name].values for name in ("g", "read_noise", "v_set", "v_reset")}
        return cls(
            die=data.attrs["die"],
            geometry=ArrayGeometry.from_dict(json.loads(data.attrs["geometry"])),
            **real,
            cell_class=data["cell_class"].values,
            line_faults=tuple(LineFault(*line) for line in json.loads(data.attrs["line_faults"])),
            conditions=json.loads(data.attrs["conditions"]),
        )


def classify_analog(
    g: FloatArray,
    v_set: FloatArray,
    v_reset: FloatArray,
    geometry: ArrayGeometry,
    middle: float,
    limits: AnalogLimits = LIMITS,
) -> tuple[NDArray[np.uint8], tuple[LineFault, ...]]:
    """Class of every cell after a set/reset probe, and the dead lines.

    A cell that moved under neither polarity is stuck, one that moved under one of them only is weak: it may still reach
    its target from one side.

    Parameters
    ----------
    g
        Conductance as last read (S), ``[kernel, row, column]``; inf where the range saturates.
    v_set, v_reset
        First amplitudes that moved each cell, NaN where none did.
    geometry
        Which lines there are.
    middle
        Tells LRS from HRS (S): the middle of the window.
    limits
        Where the classes begin.
    """
    still = np.isnan(v_set) & np.isnan(v_reset)
    weak = np.isnan(v_set) ^ np.isnan(v_reset)
    stuck = np.where(g > middle, CellClass.STUCK_LRS, CellClass.STUCK_HRS)
    found = np.where(still, stuck, np.where(weak, CellClass.WEAK, CellClass.GOOD))
    found[still & (g < limits.open_below)] = CellClass.OPEN
    found[g > limits.short_above] = CellClass.SHORT
    faults = dead_lines(found == CellClass.OPEN, geometry, ClassLimits())
    for fault in faults:
        found[fault.cells(geometry)] = CellClass.DEAD_LINE
    return found.astype(np.uint8), faults
