"""The forward pass on a measured die without the die: multiplies from its record, lines and bias included.

It gives what the instrument gives (`multiply(layer, x)` -> pair differences in weight units), so a network cannot tell
which of the two it runs on. Left out: noise, quantisation and saturation of the converters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.dies.die_record import HARD_DEFECTS, CellClass, DieRecord, DieRecordError
from mapping.placement.coding import AP, P
from mapping.placement.placement import LayerPlacement, Placement
from mapping.training.multiply import Multiply, checked_inputs
from sim_backends.array.circuit.line_drops import column_resistance
from sim_backends.array.solver.network import Lines, transfer_matrix

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LineResistance:
    """Resistance of the lines of a kernel (Ohm); assumed, as nothing is published for these arrays.

    Attributes
    ----------
    row, column : float
        One segment between neighbouring cells.
    driver : float
        Between each terminal and its line: driver or sense amplifier, switch, pad and needle.
    """

    row: float = 0.5
    column: float = 0.5
    driver: float = 1.0


def cell_arrays(record: DieRecord) -> tuple[FloatArray, FloatArray]:
    """Mean and half difference of the two states of every cell (S), flat: a cell is ``m + d`` in P, ``m - d`` in AP.

    What was not measured is replaced and never NaN: a saturated reading by `largest_conductance`, a missing one by 0
    (a dead line carries nothing).
    """
    g_p, g_ap = _measured(record)
    return ((g_p + g_ap) / 2).ravel(), ((g_p - g_ap) / 2).ravel()


def weight_unit(record: DieRecord) -> float:
    """Difference of the states that counts as a weight of one (S): the median over the good cells of the die."""
    good = record.cell_class == CellClass.GOOD
    if not good.any():
        raise ValueError(f"die {record.die} has no good cell")
    unit = float(np.median(record.g_p[good] - record.g_ap[good]))
    if not unit > 0:
        raise DieRecordError(
            f"die {record.die}: its good cells conduct no more after writing P than after writing AP ({unit:g} S); "
            "measure it again"
        )
    return unit


def largest_conductance(record: DieRecord) -> float:
    """What stands for a saturated reading (S): ``conditions["g_max"]``, else the largest that was measured."""
    finite = np.concatenate([g[np.isfinite(g)] for g in (record.g_p, record.g_ap)])
    return float(record.conditions.get("g_max", finite.max(initial=0.0)))


def emulate_multiply(
    record: DieRecord,
    states: NDArray[np.int8],
    placement: Placement,
    v_read: float | None = None,
    lines: LineResistance | None = None,
) -> Multiply:
    """Multiplies of all layers on a die in given states.

    Parameters
    ----------
    record : DieRecord
        Measured conductances of both states. ``conditions`` may say at which voltage (`v_read`, V) and how both states
        depend on it: ``G(V) = G(v_read) * (1 + k * ((V / v_read)**2 - 1))`` with k `curvature_p` and `curvature_ap`,
        see `curvatures`.
    states : int8 ``[kernel, row, column]``
        Wanted, or as read back; cells in neither state count as the mean of the two.
    placement : Placement
    v_read : float, optional
        Voltage of an input of 1 (V); that of the record by default.
    lines : LineResistance, optional

    Returns
    -------
    multiply : ``(layer, x) -> partials``
        `x` is ``[n, n_in]``, -1 to 1; `partials` ``[n, copies, groups, n_out]`` are the differences of the plus and the
        minus line of each output, in units of ``v_read * weight_unit(record)``.
    """
    lines = lines or LineResistance()
    v_record = float(record.conditions.get("v_read", v_read or 0.1))
    v_read = v_record if v_read is None else v_read
    linear, cubic = _cells(record, states, v_read / v_record, lines)
    unit = weight_unit(record)
    coefficients = [_pairs(layer, linear, cubic, lines) for layer in placement.layers]

    def multiply(layer: int, x: FloatArray) -> FloatArray:
        x = checked_inputs(placement, layer, x)
        placed, (first, third) = placement.layers[layer], coefficients[layer]
        partials = np.empty((len(x), placed.copies, placed.groups, placed.n_out))
        for group in range(placed.groups):
            inputs = placed.inputs_of(group)
            part = x[:, inputs]
            partials[:, :, group] = np.tensordot(part, first[inputs], 1) + np.tensordot(part**3, third[inputs], 1)
        return partials / unit

    return multiply


def without_lines(g: FloatArray, lines: LineResistance) -> FloatArray:
    """Conductance of the cells themselves (S), from what a read of whole kernels ``[kernel, row, column]`` gave.

    A read drives one column and senses all rows, so the currents of a column add up along it; a row carries that of one
    cell. With the measured currents known the drops are too: no iteration.
    """
    rows, columns = g.shape[-2:]
    along_column = column_resistance(rows, lines.column, lines.driver)
    own_row = lines.driver + lines.row * (np.arange(columns) + 1.0)
    left = 1 - along_column @ g - own_row * g
    return np.where(left > 0.1, g / np.maximum(left, 0.1), g)


def curvatures(record: DieRecord) -> tuple[FloatArray, FloatArray]:
    """Curvature k of every cell after writing P and after writing AP, from those of healthy cells in `conditions`.

    What bends with the voltage is the magnetoresistance, so a cell bends as far as it switches: weak cells less, shorts
    and cells stuck in P as a healthy P cell, cells stuck in AP as a healthy AP cell whatever was written.
    """
    k_p, k_ap = (float(record.conditions.get(f"curvature_{state}", 0.0)) for state in ("p", "ap"))
    g_p, g_ap = _measured(record)
    switched = 1 - np.divide(g_ap, g_p, out=np.ones_like(g_p), where=g_p > 0)
    good = record.cell_class == CellClass.GOOD
    typical = float(np.median(switched[good])) if good.any() else 1.0
    share = np.where(np.isin(record.cell_class, HARD_DEFECTS), 0.0, np.clip(switched / typical, 0.0, 2.0))
    stuck_ap = record.cell_class == CellClass.STUCK_AP
    return np.where(stuck_ap, k_ap, k_p), np.where(stuck_ap, k_ap, k_p + (k_ap - k_p) * share)


def _measured(record: DieRecord) -> tuple[FloatArray, FloatArray]:
    largest = largest_conductance(record)
    return (
        np.nan_to_num(record.g_p, nan=0.0, posinf=largest, neginf=largest),
        np.nan_to_num(record.g_ap, nan=0.0, posinf=largest, neginf=largest),
    )


def _cells(
    record: DieRecord, states: NDArray[np.int8], drive: float, lines: LineResistance
) -> tuple[FloatArray, FloatArray]:
    """Conductance of every cell for an input of 1, and the part of it that goes with the square of the input (S).

    `drive` is the voltage of an input of 1 over that of the record.
    """
    curved = []
    for g, k in zip(_measured(record), curvatures(record), strict=True):
        cells = without_lines(g, lines)
        curved.append((cells * (1 + k * (drive**2 - 1)), cells * k * drive**2))
    (p, p_square), (ap, ap_square) = curved

    def chosen(in_p: FloatArray, in_ap: FloatArray) -> FloatArray:
        return np.where(states == P, in_p, np.where(states == AP, in_ap, (in_p + in_ap) / 2))

    return chosen(p, ap), chosen(p_square, ap_square)


def _pairs(
    layer: LayerPlacement, g: FloatArray, square: FloatArray, lines: LineResistance
) -> tuple[FloatArray, FloatArray]:
    """Coefficients of x and of x cubed of every pair, ``[n_in, copies, n_out]`` (S), lines included.

    Lines are solved with the cells at full drive. What a cell deviates from that at a smaller input passes the lines as
    the rest of it does; a drop of a few per cent of a deviation of a few per cent is all that is neglected.
    """
    first = np.empty((layer.n_in, layer.copies, 2 * layer.n_out))
    third = np.empty_like(first)
    conducting = np.maximum(g, 0.0)  # a reading below zero is the noise of a cell that is open
    gated = np.stack([np.where(read.column_mask, conducting[read.kernel], 0.0) for read in layer.reads])
    transfers = transfer_matrix(gated, lines=Lines(lines.row, lines.column, lines.driver))
    for read, transfer in zip(layer.reads, transfers, strict=True):
        part = np.ix_(read.row_mask, read.column_mask)
        through, cells = transfer.T[part], g[read.kernel][part]
        cube = np.divide(through * square[read.kernel][part], cells, out=np.zeros_like(cells), where=cells > 0)
        inputs = layer.inputs_of(read.group)[:, None]
        first[inputs, read.copies, read.lines] = through - cube
        third[inputs, read.copies, read.lines] = cube
    return first[..., 0::2] - first[..., 1::2], third[..., 0::2] - third[..., 1::2]
