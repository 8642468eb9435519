"""Analog write-verify on a passive die: ramps, verification of the whole array, touch-up, until all is in tolerance.

What to fire is decided in `mapping` (`converge`, `touch_up`); here it is fired, read and kept. Pulses are committed to
the record before they are fired, and what was read after them is kept with them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import numpy as np
import xarray as xr

from analysis.record import step_names
from analysis.record.record import Pulse
from instruments.roles.interfaces import ArrayCapabilities, LimitError
from mapping.dies.analog_die import AnalogDie
from mapping.writing.analog_schedule import AnalogBatch, AnalogSchedule, batches_of
from mapping.writing.converge import BoolArray, CellWrites, ConvergeToTarget, FloatArray, IntArray, Outcome
from mapping.writing.touch_up import TouchUp
from protocols.bench.bench import Bench, Die
from protocols.bench.conductances import read_ranging
from protocols.sequencer.verdicts import PASSING_SHARE
from protocols.source.marks import step

DIMS = ("kernel", "row", "column")


@step(step_names.WRITE_ANALOG)
def write_analog(bench: Bench, die: Die, *, schedule: AnalogSchedule, found: AnalogDie | None = None) -> xr.Dataset:
    """Bring the cells of a schedule to their conductances, and keep them there until the whole array is finished.

    It reads before it pulses, so that a step cut in the middle and begun again never fires at a cell that is right.
    Cells that `found` holds for broken are not pulsed, but reported. Verdict ``pass`` if at least 95 % of all cells
    that have a target, broken ones among them, are in tolerance in a read of all after the last pulse.

    Returns
    -------
    xarray.Dataset
        Of every cell ``[kernel, row, column]``: `target`, `achieved` (by the read of all at the end), `outcome`
        (`mapping.writing.converge.Outcome`: 1 within its tolerance, above that why it was given up), `pulses`; of the
        first pass `order` (its place, -1 for none), `written` and `after_pass` (conductance when its own write ended,
        and when the pass had ended, so their difference is the drift). `within` is the share of the cells with a target
        that are in tolerance after each pass. Counts are attributes: `cells` (that have a target), `known_broken` and
        `healthy` (those among them that `found` holds for broken, and the others), `within_tolerance` (a share of
        `cells`), `mean_error` (relative, of `cells`; one that cannot be read counts as 100 % off), `gave_up`,
        `reasons`, `passes`, `pulses`, `pulses_per_cell` (of the healthy ones, which alone are pulsed).

    Raises
    ------
    LimitError, TargetError
        Before any pulse, if tester, schedule and die do not go together.
    """
    check_analog(bench.array.capabilities(), schedule.settings, schedule.scheme)
    schedule.targets.check(schedule.settings, found)
    return _Write(bench, schedule, found).run()


def check_analog(caps: ArrayCapabilities, settings: ConvergeToTarget, scheme: str) -> None:
    """Refuse what the tester would refuse in the middle of a write.

    Raises
    ------
    LimitError
        Naming the setting.
    """
    if scheme not in caps.schemes:
        there = f"it has {', '.join(caps.schemes)}" if caps.schemes else f"its cells ({caps.cell}) have gates"
        raise LimitError(f"bias scheme {scheme!r}: the tester does not have it; {there}")
    for name, value in (("cap_set", settings.cap_set), ("cap_reset", settings.cap_reset)):
        if not caps.v_min <= value <= caps.v_max:
            raise LimitError(f"{name} of {value:g} V: this station fires {caps.v_min:g} to {caps.v_max:g} V; lower it")
    if not abs(settings.v_read) <= caps.v_read_max:
        raise LimitError(f"v_read of {settings.v_read:g} V: this station reads with {caps.v_read_max:g} V at most")
    if not caps.width_min <= settings.width <= caps.width_max:
        fires = f"this station fires {caps.width_min:g} to {caps.width_max:g} s"
        raise LimitError(f"width of {settings.width:g} s: {fires}")
    if settings.averages > caps.averages_max:
        raise LimitError(f"averages of {settings.averages}: this station averages {caps.averages_max} reads at most")


def pulses_for(
    kernel: int, cells: BoolArray, amplitudes: FloatArray, settings: ConvergeToTarget, scheme: str, lsb: float
) -> list[Pulse]:
    """Amplitudes (V) of the cells of a mask ``[row, column]``, in row-major order, as pulses; equal ones at once.

    Amplitudes are rounded towards zero to what the tester's converter of step `lsb` (V) puts out, so none goes beyond
    a cap. The strongest come first: the weaker ones, whose cells are nearly there, then come after what disturbs them.
    """
    steps = np.trunc(amplitudes / lsb * (1 + 1e-12)).astype(np.int64)
    pulses = []
    for level in sorted(set(steps[steps != 0].tolist()), key=abs, reverse=True):
        mask = np.zeros_like(cells)
        mask[cells] = steps == level
        pulses.append(Pulse(kernel, mask, level * lsb, settings.width, 1, scheme))
    return pulses


def read_everything(bench: Bench, settings: ConvergeToTarget) -> FloatArray:
    """Conductance of every cell (S), ``[kernel, row, column]``, as writes with these settings read it."""
    caps = bench.array.capabilities()
    everything = np.ones((caps.kernels, caps.rows, caps.columns), bool)
    return read_ranging(bench.array, settings.v_read, everything, averages=settings.averages, expected=settings.g_min)


class _Write:
    """One write of one die, and what is known of it so far."""

    def __init__(self, bench: Bench, schedule: AnalogSchedule, found: AnalogDie | None) -> None:
        self.bench, self.schedule, self.settings = bench, schedule, schedule.settings
        shape = schedule.geometry.shape
        targets = schedule.targets
        self.writable = np.ones(shape, bool) if found is None else found.writable
        self.work = TouchUp(targets.g, targets.tolerance, self.writable, schedule.passes)
        self.before = bench.array.dose()
        self.lsb = bench.array.capabilities().dac_lsb
        self.pulses: IntArray = np.zeros(shape, dtype=np.int64)
        self.order: IntArray = np.full(shape, -1, dtype=np.int64)
        self.written, self.after_pass = np.full((2, *shape), np.nan)
        self.within: list[float] = []

    def run(self) -> xr.Dataset:
        """All passes; the result."""
        read = self._read_all()
        while (cells := self.work.next_pass(read)).any():
            first = self.work.passes == 1
            batches: Iterable[AnalogBatch] = self.schedule.batches if first else self._batches(cells, read)
            done = 0
            for batch in batches:
                mask = batch.mask & cells[batch.kernel]
                self.bench.report(f"pass {self.work.passes}", done / max(1, int(cells.sum())))
                done += int(np.count_nonzero(mask))
                if mask.any():
                    self._write(batch.kernel, mask, first)
            read = self._read_all()
            self.within.append(self._share(read))
            if first:
                self.after_pass = np.where(self.order >= 0, read, np.nan)
        return self._result(read)

    def _batches(self, cells: BoolArray, read: FloatArray) -> Iterable[AnalogBatch]:
        """Of a touch-up pass: what needs strong pulses comes first, among equals what matters less."""
        strength, care = self.work.strength(read), self.schedule.targets.sensitivity
        return batches_of(cells, -strength, -care, self.schedule.parallel)

    def _write(self, kernel: int, mask: BoolArray, first: bool) -> None:
        """Write the cells of one batch, ``[row, column]``, until each is done or given up."""
        settings, cells = self.settings, np.zeros(self.pulses.shape, bool)
        goal, tolerance = self.work.goal[kernel][mask], self.work.tolerance[kernel][mask]
        writes, fired = CellWrites(settings, goal, tolerance), None
        spent = (self.before + self.pulses)[kernel][mask]
        written = np.full(goal.shape, np.nan)
        while (going := writes.going).any():
            cells[kernel][mask] = going
            g = read_ranging(
                self.bench.array,
                settings.v_read,
                cells,
                averages=settings.averages,
                expected=1.2 * float(goal[going].max()),
            )
            self.bench.array.keep_readings(fired, g)
            read = g[kernel][mask]
            written[going] = read[going]
            amplitude = writes.next(read)
            out_of_dose = (amplitude != 0) & (spent + writes.pulses > self.schedule.dose_limit)
            writes.give_up(out_of_dose, Outcome.DOSE)
            writes.pulses -= out_of_dose
            amplitude[out_of_dose] = 0.0
            fired = self.bench.array.fire(pulses_for(kernel, mask, amplitude, settings, self.schedule.scheme, self.lsb))
        self._keep(kernel, mask, writes, written, first)

    def _keep(self, kernel: int, mask: BoolArray, writes: CellWrites, written: FloatArray, first: bool) -> None:
        """Note how the writes of a batch ended."""
        self.pulses[kernel][mask] += writes.pulses
        outcome = np.zeros(self.pulses.shape, np.int8)
        outcome[kernel][mask] = writes.outcome
        cells = np.zeros(self.pulses.shape, bool)
        cells[kernel] = mask
        peak = np.zeros(self.pulses.shape)
        peak[kernel][mask] = writes.peak
        self.work.note(cells, outcome, peak)
        if first:
            count = int(np.count_nonzero(mask))
            self.order[kernel][mask] = self.order.max() + 1 + np.arange(count)
            self.written[kernel][mask] = np.where(np.isfinite(written), written, np.nan)

    def _read_all(self) -> FloatArray:
        return read_everything(self.bench, self.settings)

    def _share(self, read: FloatArray) -> float:
        return float(self.work.within(read).sum() / max(1, self.work.wanted.sum()))

    def _result(self, read: FloatArray) -> xr.Dataset:
        work, settings = self.work, self.settings
        wanted, healthy = work.wanted, work.wanted & self.writable
        outcome, share = work.outcome(read), self._share(read)
        reasons = Counter(Outcome(int(code)).words for code in outcome[outcome > Outcome.REACHED])
        error = np.abs(read - work.goal)[wanted] / work.goal[wanted]
        failed = not share >= PASSING_SHARE
        said = ", ".join(f"{count} {words}" for words, count in reasons.most_common()) or "none was asked for"
        why = f"{share:.1%} of {int(wanted.sum())} cells are in tolerance: {said}"
        attrs = {
            "verdict": "fail" if failed else "pass",
            **({"reason": why} if failed else {}),
            "cells": int(wanted.sum()),
            "healthy": int(healthy.sum()),
            "known_broken": int((wanted & ~self.writable).sum()),
            "within_tolerance": share,
            "mean_error": float(np.mean(np.where(np.isfinite(error), error, 1.0))) if error.size else 1.0,
            "gave_up": int(np.count_nonzero(outcome > Outcome.REACHED)),
            "reasons": json.dumps(dict(reasons)),
            "passes": work.passes,
            "pulses": int(self.pulses.sum()),
            "pulses_per_cell": float(self.pulses.sum() / max(1, healthy.sum())),
            "scheme": self.schedule.scheme,
            "settings": json.dumps(settings.to_dict()),
        }
        siemens = {"units": "S"}
        return xr.Dataset(
            {
                "target": (DIMS, work.goal, siemens),
                "achieved": (DIMS, np.where(np.isfinite(read), read, np.nan), siemens),
                "outcome": (DIMS, outcome, {"long_name": "Outcome"}),
                "pulses": (DIMS, self.pulses.astype(np.int32)),
                "order": (DIMS, self.order.astype(np.int32)),
                "written": (DIMS, self.written, siemens),
                "after_pass": (DIMS, np.where(np.isfinite(self.after_pass), self.after_pass, np.nan), siemens),
                "within": ("pass", np.array(self.within, dtype=np.float64)),
            },
            attrs=attrs,
        )


def gave_up(result: xr.Dataset) -> list[tuple[tuple[int, int, int], Outcome]]:
    """Cells ``(kernel, row, column)`` that `write_analog` gave up, each with its reason."""
    outcome = result["outcome"].values
    return [
        ((int(k), int(r), int(c)), Outcome(int(outcome[k, r, c]))) for k, r, c in np.argwhere(outcome > Outcome.REACHED)
    ]


def drift(result: xr.Dataset) -> xr.Dataset:
    """Change of each cell from the end of its own write to the end of the first pass (S), against its place in it.

    Cells that were given up in that pass are among them.
    """
    order = result["order"].values
    chosen = order >= 0
    place = order[chosen]
    change = (result["after_pass"].values - result["written"].values)[chosen][np.argsort(place)]
    return xr.Dataset({"drift": ("event", change, {"units": "S"})}, coords={"event": np.sort(place)})
