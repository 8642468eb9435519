"""Running a network on the arrays: analog multiplies, kernel by kernel, partial sums for the digital part off chip."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from instruments.roles.limits import applied_read_voltage
from mapping.dies.die_record import CellClass, DieRecord
from mapping.placement.placement import LayerPlacement, Placement, Read
from mapping.training.emulation import weight_unit
from mapping.training.multiply import checked_inputs
from protocols.bench.bench import Bench

FloatArray = NDArray[np.float64]

#: The bank of the board's memory that vectors go to; one is enough, as all multiplies of a group follow each other.
BANK = 0


class ArrayMultiplier:
    """Multiplies vectors with the layers that are programmed on the die under the needles.

    ``multiplier(layer, x)`` drives the rows of every kernel of the layer with ``x * v_read`` (x in -1..1,
    ``[n, n_in]``), senses the columns, and returns the pair differences in weight units
    ``[n, copies, groups, n_out]``: currents divided by ``v * dg``, with dg the median healthy difference of P and AP
    of this die, and v what the converter puts out for `v_read`, as conductances are told everywhere. The same type
    that `mapping.training.emulation` gives.
    """

    def __init__(self, bench: Bench, placement: Placement, die_record: DieRecord, *, averages: int = 1) -> None:
        self._bench, self._placement, self._averages = bench, placement, averages
        self.v_read = float(die_record.conditions["v_read"])
        good = die_record.cell_class == CellClass.GOOD
        self.dg = weight_unit(die_record)
        self._mean = float(np.median((die_record.g_p + die_record.g_ap)[good])) / 2

    def __call__(self, layer: int, x: FloatArray) -> FloatArray:
        """Partial sums of one layer for a batch of inputs; the vectors of each input group are sent once.

        Raises
        ------
        MultiplyError
            For inputs that the layer does not take, before anything is driven.
        """
        x = checked_inputs(self._placement, layer, x)
        place = self._placement.layers[layer]
        current_range, full_scale = self._range(place, x)
        lines = np.zeros((len(x), place.copies, place.groups, 2 * place.n_out))
        loaded = -1
        for number, read in enumerate(place.reads):  # in the order of groups
            self._bench.report(f"multiply, layer {layer + 1}", number / len(place.reads))
            if read.group != loaded:
                self._bench.array.load_vectors(BANK, x[:, place.inputs_of(read.group)] * self.v_read)
                loaded = read.group
            currents = self._multiply(read, len(x), current_range)
            lines[:, read.copies, read.group, read.lines] = np.clip(currents, -full_scale, full_scale)
        applied = float(applied_read_voltage(self._bench.array.capabilities(), self.v_read))
        return (lines[..., 0::2] - lines[..., 1::2]) / (applied * self.dg)

    def _multiply(self, read: Read, count: int, current_range: int) -> FloatArray:
        return self._bench.array.multiply(
            read.kernel,
            BANK,
            direction="backward",
            driven=read.row_mask,
            sensed=read.column_mask,
            count=count,
            current_range=current_range,
            averages=self._averages,
        )

    def _range(self, place: LayerPlacement, x: FloatArray) -> tuple[int, float]:
        """The smallest range that no healthy line can saturate whatever its weights are, or the largest there is."""
        driven = [x[:, place.inputs_of(group)] for group in range(place.groups)]
        worst = max(
            float((self._mean * np.abs(v.sum(axis=1)) + self.dg / 2 * np.abs(v).sum(axis=1)).max()) for v in driven
        )
        need = self.v_read * worst
        ranges = self._bench.array.capabilities().ranges
        index = self._bench.array.range_for(min(need, max(r.full_scale for r in ranges)))
        return index, next(r.full_scale for r in ranges if r.index == index)
