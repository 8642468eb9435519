"""Measuring a die: does it conduct, and what is every cell: both resistances, its class, dead lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from analysis.record import step_names
from analysis.record.record import Pulse
from mapping.dies.classify_cells import NotSwitchingError, classify
from mapping.dies.die_record import CellClass, DieRecord
from mapping.dies.geometry import ArrayGeometry
from mapping.placement.coding import AP, P
from mapping.writing.schedule import PulseSettings
from protocols.bench.bench import Bench, Die
from protocols.bench.conductances import read_conductances
from protocols.bench.mtj_identity import fingerprint
from protocols.source.marks import needs_no_contact, step

#: Pulses that write every cell of a die whose switching is not known yet (the defaults, assumed).
WRITE = PulseSettings()


@step(step_names.CHECK_CONTACT)
@needs_no_contact
def check_contact(bench: Bench, die: Die, *, by: str = "conduction") -> xr.Dataset:
    """Whether the needles touch the die; the bench found out when it entered. Verdict ``pass`` or ``fail``.

    `by`: how that is found (`protocols.bench.contact.ContactRule`), as the run was told (`Run.contact`).
    """
    check = bench.contact_check
    attrs: dict[str, Any] = {
        "verdict": "pass" if check.passed else "fail",
        "conducting": check.conducting,
        "attempts": check.attempts,
        "chuck_temperature": bench.prober.chuck_temperature(),
    }
    if check.accepted:
        attrs["contact"] = check.accepted
    if np.isfinite(check.leakage):
        attrs["leakage"] = check.leakage
    if not check.passed:
        attrs["reason"] = check.advice
    return xr.Dataset(attrs=attrs)


def geometry_of(bench: Bench) -> ArrayGeometry:
    """The geometry that the array tester reports."""
    capabilities: Any = bench.array.capabilities()
    names = ArrayGeometry.__dataclass_fields__
    return ArrayGeometry(**{name: getattr(capabilities, name) for name in names})


@step(step_names.MEASURE_STATES)
def measure_states(
    bench: Bench,
    die: Die,
    *,
    v_read: float = 0.1,
    averages: int = 8,
    retries: int = 3,
    pulse: PulseSettings = WRITE,
) -> xr.Dataset:
    """Write all P, read, write all AP, read; classify cells and lines.

    Cells that did not switch get `retries` more chances, so that a write error is not taken for a stuck cell. Returns
    the die record as a dataset, with the die's fingerprint. Verdict ``fail`` if fewer than half of the cells are good;
    a die that does not switch at all has no record, only its reads and the reason.
    """
    geometry = geometry_of(bench)
    everything = np.ones(geometry.shape, bool)
    g_p = _write_and_read(bench, everything, P, pulse, 0, v_read, averages)
    bias_p = _bias_ratio(bench, v_read)
    g_ap = _write_and_read(bench, everything, AP, pulse, 0, v_read, averages)
    bias_ap = _bias_ratio(bench, v_read)
    for retry in range(retries):
        difference = g_p - g_ap
        still = ~(difference > 0.7 * np.nanmedian(difference))
        again_p = _write_and_read(bench, still, P, pulse, retry + 1, v_read, averages)
        again_ap = _write_and_read(bench, still, AP, pulse, retry + 1, v_read, averages)
        better = still & (again_p - again_ap > difference)
        g_p, g_ap = np.where(better, again_p, g_p), np.where(better, again_ap, g_ap)
    return _die_record(bench, die, g_p, g_ap, bias_p, bias_ap, v_read, averages)


def _die_record(
    bench: Bench,
    die: Die,
    g_p: np.ndarray,
    g_ap: np.ndarray,
    bias_p: np.ndarray,
    bias_ap: np.ndarray,
    v_read: float,
    averages: int,
) -> xr.Dataset:
    """Classify what was measured; a die that does not switch at all is a failed die, not an error of the run."""
    geometry = geometry_of(bench)
    try:
        cell_class, line_faults = classify(g_p, g_ap, geometry)
    except NotSwitchingError as error:
        dims = ("kernel", "row", "column")
        reads = {"g_p": (dims, _finite(g_p), {"units": "S"}), "g_ap": (dims, _finite(g_ap), {"units": "S"})}
        return xr.Dataset(reads, attrs={"verdict": "fail", "reason": str(error)})
    good = cell_class == CellClass.GOOD
    conditions = {
        "v_read": v_read,
        "averages": averages,
        "chuck_temperature": bench.prober.chuck_temperature(),
        "instrument": bench.array.identify(),
        "calibration": bench.array.calibration_id(0),
        "curvature_p": _curvature(bias_p, good),
        "curvature_ap": _curvature(bias_ap, good),
    }
    record = DieRecord(die.name, geometry, _finite(g_p), _finite(g_ap), cell_class, line_faults, conditions)
    result = xr.merge([record.to_dataset(), fingerprint(record)], combine_attrs="no_conflicts")
    result.attrs["verdict"] = "pass" if good.mean() > 0.5 else "fail"
    return result


def _write_and_read(
    bench: Bench, mask: np.ndarray, state: int, pulse: PulseSettings, attempt: int, v_read: float, averages: int
) -> np.ndarray:
    """Pulse the cells of the mask once towards a state, then read the kernels they are in (the others are NaN)."""
    kernels = [int(kernel) for kernel in np.flatnonzero(mask.any(axis=(1, 2)))]
    bench.report(f"write all {'P' if state == P else 'AP'}", 0.0)
    amplitude = pulse.amplitude(state, attempt)
    batch = bench.array.fire([Pulse(kernel, mask[kernel], amplitude, pulse.width) for kernel in kernels])
    bench.report("read", 0.5)
    g = read_conductances(bench.array, v_read, averages=averages, kernels=kernels)
    bench.array.keep_readings(batch, g)
    return g


def _finite(g: np.ndarray) -> np.ndarray:
    """Saturated reads as the largest conductance the range tells apart, so that training sees numbers."""
    largest = np.max(g[np.isfinite(g)])
    return np.nan_to_num(g, nan=0.0, posinf=largest, neginf=0.0)


def _bias_ratio(bench: Bench, v_read: float) -> np.ndarray:
    """Conductance at half the read voltage over that at the full one, for every fourth kernel; NaN elsewhere."""
    kernels = range(0, bench.array.capabilities().kernels, 4)
    half = read_conductances(bench.array, v_read / 2, averages=32, kernels=kernels)
    full = read_conductances(bench.array, v_read, averages=32, kernels=kernels)
    return np.divide(half, full, out=np.full(full.shape, np.nan), where=full != 0)  # a dead cell may read exactly 0


def _curvature(ratio: np.ndarray, good: np.ndarray) -> float:
    """k of G(V) = G(v_read) (1 + k ((V / v_read)^2 - 1)) of one state; the median, so odd cells do not count."""
    values = ratio[good & np.isfinite(ratio)]
    return float((1.0 - np.median(values)) / 0.75) if values.size else 0.0
