"""Which recorded pulses switched their cell and which did not, by what was read before and after them."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from analysis.record.record import Intent, Pulse, Record
from analysis.twin.junctions import Circuit, JunctionMap, pulse_voltage
from analysis.twin.recorded_dies import RecordedDie, on_die
from analysis.twin.switching import Trials

BoolArray = NDArray[np.bool_]

Pair = tuple[list[Trials], list[Trials]]


def trials_of_die(
    record: Record, die: RecordedDie, junctions: JunctionMap, circuit: Circuit, number: int
) -> tuple[Trials, Trials]:
    """Trials to AP and to P of one die; its cells are numbered from `number` on.

    A pulse is a trial of a cell if the cell is good, was read in the other state before it with no pulse in between,
    and was read after its batch, in which it got no other pulse. Whoever fired it, and why, does not matter.
    """
    shape = die.record.geometry.shape
    middle = (die.record.g_p + die.record.g_ap) / 2
    read = {batch: on_die(data, shape) for batch, data in record.readings(die.name) if "g" in data}
    cells = number + np.arange(middle.size).reshape(shape)
    known, antiparallel = np.zeros(shape, bool), np.zeros(shape, bool)
    parts: Pair = ([], [])
    for batch, intents in groupby(record.intents(die.name), key=lambda intent: intent.batch):
        g = read.get(batch, np.full(shape, np.nan))
        pulses, pulsed = _fired(list(intents), shape)
        usable = die.good & known & np.isfinite(g) & (pulsed == 1)
        for pulse in pulses:
            k, to_ap = pulse.kernel, pulse.amplitude > 0
            at = pulse.mask & usable[k] & (antiparallel[k] != to_ap)
            of_kernel = JunctionMap(junctions.r_p[k], junctions.tmr[k])
            voltage = pulse_voltage(of_kernel, antiparallel[k], pulse.amplitude, pulse.mask, circuit)
            switched = (g[k] < middle[k]) == to_ap
            width = np.full(int(np.count_nonzero(at)), pulse.width * pulse.count)
            parts[0 if to_ap else 1].append(Trials(cells[k][at], voltage[at], width, switched[at]))
        known = np.where(pulsed > 0, np.isfinite(g), known | np.isfinite(g))
        antiparallel = np.where(np.isfinite(g), g < middle, antiparallel)
    return Trials.joined(parts[0]), Trials.joined(parts[1])


def _fired(intents: list[Intent], shape: tuple[int, int, int]) -> tuple[list[Pulse], NDArray[np.int64]]:
    """Pulses of a batch that were fired for sure, and how often every cell may have been pulsed by the batch."""
    pulsed = np.zeros(shape, np.int64)
    for intent in intents:
        if intent.fired is not False:
            # a pulse that may have been fired counts twice: what it did is not known
            pulsed[intent.pulse.kernel] += intent.pulse.mask * (1 if intent.fired else 2)
    return [intent.pulse for intent in intents if intent.fired], pulsed
