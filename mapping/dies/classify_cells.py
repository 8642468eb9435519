"""What every cell of a die turned out to be, from two reads: after writing P everywhere and after writing AP.

Levels are taken from the die itself. Whole lines are looked for before cells, so that a dead line is reported as one
fault of a line and not as a hundred broken cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.dies.die_record import CellClass, LineFault
from mapping.dies.geometry import ArrayGeometry

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

#: Stands for a saturated reading (S); far above any cell.
SATURATED = 1.0


class NotSwitchingError(ValueError):
    """Too few cells of the die switch to tell its two states."""


@dataclass(frozen=True)
class ClassLimits:
    """Where the classes begin, relative to the healthy cells of the same die.

    Attributes
    ----------
    short_above : float
        A cell above this many medians of P, in either read, is a short. (Either: a cell that broke down between the
        two reads is a short now.)
    open_below : float
        A cell below this share of the median of AP, in either read, is open.
    weak_below : float
        A cell that switches by less than this share of the median is weak. What is compared is the ratio of the states
        (the TMR), which the size of the junction does not enter.
    read_noise : float
        Noise of one read, relative. Give that of the mean if reads are averaged: single / sqrt(averages).
    noise_floor : float
        Noise of one read (S) that does not scale with the conductance: quantisation, offset drift.
    noise_sigmas : float
        A cell switches if its reads differ by more than this many standard deviations of their noise. 5 makes one
        false call in a million; the weakest cells worth the name (a tenth of the median TMR) differ by about 10.
    dead_line_share : float
        A line is dead if at least this share of its cells is open. Below 1, as the platform's dead rows carry 21 to 25
        open cells of 25; far above what independent opens reach by chance.
    dead_line_cells : int
        A line of fewer cells than this is never called dead.
    """

    short_above: float = 1.8
    open_below: float = 0.2
    weak_below: float = 0.5
    read_noise: float = 0.005
    noise_floor: float = 0.2e-6
    noise_sigmas: float = 5.0
    dead_line_share: float = 0.8
    dead_line_cells: int = 5


@dataclass(frozen=True)
class Levels:
    """Median conductance of the healthy cells in each state (S)."""

    p: float
    ap: float


def classify(
    g_p: FloatArray, g_ap: FloatArray, geometry: ArrayGeometry, limits: ClassLimits | None = None
) -> tuple[NDArray[np.uint8], tuple[LineFault, ...]]:
    """Class of every cell, and the dead lines.

    Parameters
    ----------
    g_p, g_ap : float ``[kernel, row, column]``, siemens
        Conductance after writing P, and after writing AP; inf where the range saturated.
    geometry : ArrayGeometry
    limits : ClassLimits, optional

    Returns
    -------
    cell_class : uint8 ``[kernel, row, column]``
        `CellClass`. All cells of a dead line are `DEAD_LINE`, the odd one that conducts too. Cells of a line that is
        dead in one kernel only are `OPEN`: there is no telling a broken line from broken cells.
    line_faults : tuple of LineFault
        Columns and rows by block, then rows that are dead in every block.

    Raises
    ------
    ValueError
        If shapes are wrong or cells were not read (NaN).
    NotSwitchingError
        If the die has no two states: not contacted, not written, or broken altogether.
    """
    limits = limits or ClassLimits()
    p, ap = _readings(g_p, geometry), _readings(g_ap, geometry)
    levels = healthy_levels(p, ap)
    cell_class = _classify_cells(p, ap, levels, limits)
    faults = dead_lines((p + ap) / 2 < limits.open_below * levels.ap, geometry, limits)
    for fault in faults:
        cell_class[fault.cells(geometry)] = CellClass.DEAD_LINE
    return cell_class, faults


def healthy_levels(g_p: FloatArray, g_ap: FloatArray) -> Levels:
    """Medians of the two states over the cells that switch.

    A cell counts as switching if its reads differ by a quarter of what the best cells do (the 95th percentile), so
    the medians hold until about nine cells of ten are defective.
    """
    difference = np.where(np.maximum(g_p, g_ap) < SATURATED, g_p - g_ap, 0.0)
    best = float(np.quantile(difference, 0.95))
    switching = difference > 0.25 * best
    if best <= 0 or not switching.any():
        raise NotSwitchingError("no cell conducts more after writing P than after writing AP: was the die written?")
    p, ap = float(np.median(g_p[switching])), float(np.median(g_ap[switching]))
    spread = float(np.median(np.abs(g_ap[switching] - ap)))
    if ap <= 0 or spread > 0.5 * ap:
        raise NotSwitchingError(
            f"cells read {p:.3g} S after writing P and {ap:.3g} S (spread {spread:.2g}) after writing AP: "
            "no two states; check contact and pulses"
        )
    return Levels(p, ap)


def dead_lines(is_open: BoolArray, geometry: ArrayGeometry, limits: ClassLimits) -> tuple[LineFault, ...]:
    """Lines of which (nearly) all cells are open, given the open cells ``[kernel, row, column]``."""
    blocks = geometry.to_blocks(is_open)
    dead_column = _dead(blocks, 1, limits)
    dead_row = _dead(blocks, 2, limits)
    shared = dead_row.all(axis=0) if geometry.blocks > 1 else np.zeros(geometry.block_rows, bool)
    columns = [LineFault("column", int(b), int(c)) for b, c in np.argwhere(dead_column)]
    rows = [LineFault("row", int(b), int(r)) for b, r in np.argwhere(dead_row & ~shared)]
    return (*columns, *rows, *(LineFault("shared_row", -1, int(r)) for r in np.flatnonzero(shared)))


def _readings(g: FloatArray, geometry: ArrayGeometry) -> FloatArray:
    values = np.asarray(g, float)
    if values.shape != geometry.shape:
        raise ValueError(f"readings of shape {values.shape} for a geometry of {geometry.shape}")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} cells were not read")
    return np.where(np.isinf(values), SATURATED, values)


def _classify_cells(p: FloatArray, ap: FloatArray, levels: Levels, limits: ClassLimits) -> NDArray[np.uint8]:
    """Every cell by itself."""
    noise = np.sqrt(limits.read_noise**2 * (p**2 + ap**2) + 2 * limits.noise_floor**2)
    switches = np.abs(p - ap) > limits.noise_sigmas * noise
    tmr = p / np.maximum(ap, np.finfo(float).tiny) - 1
    weak = tmr < limits.weak_below * (levels.p / levels.ap - 1)
    level = np.sqrt(levels.p * levels.ap)
    stuck = np.where((p + ap) / 2 > level, CellClass.STUCK_P, CellClass.STUCK_AP)
    result = np.where(switches, np.where(weak, CellClass.WEAK, CellClass.GOOD), stuck)
    result[np.minimum(p, ap) < limits.open_below * levels.ap] = CellClass.OPEN
    result[np.maximum(p, ap) > limits.short_above * levels.p] = CellClass.SHORT
    return result.astype(np.uint8)


def _dead(is_open: BoolArray, axis: int, limits: ClassLimits) -> BoolArray:
    """Lines of blocks ``[block, row, column]`` that run along an axis and are dead."""
    if is_open.shape[axis] < limits.dead_line_cells:
        return np.zeros(is_open.any(axis=axis).shape, bool)
    return np.asarray(is_open.mean(axis=axis) >= limits.dead_line_share)
