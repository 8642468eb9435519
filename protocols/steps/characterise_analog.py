"""Measuring a die of analog cells: what they hold, how well that is read, what moves them, what is stuck or dead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import xarray as xr

from analysis.record import step_names
from analysis.record.record import Pulse
from mapping.dies.analog_die import AnalogDie, classify_analog
from mapping.dies.die_record import CellClass
from mapping.writing.checked_fields import check_numbers
from mapping.writing.converge import BoolArray, ConvergeToTarget, FloatArray
from protocols.bench.bench import Bench, Die
from protocols.bench.conductances import read_ranging
from protocols.source.marks import step
from protocols.steps.analog_write import check_analog, read_everything
from protocols.steps.characterise import geometry_of


@dataclass(frozen=True)
class Probe:
    """Pulses that find out which cells can be written: rising SET pulses to all that have not moved yet, then RESET.

    Attributes
    ----------
    start, step
        First amplitude and increment (V); half of the start is what the laboratory's first write puts on neighbours.
    cap_set, cap_reset
        Highest and lowest amplitude (V): below the caps of writing, where every healthy cell of the default device
        moves (assumed, and measured on simulated dies).
    pulses_at_cap
        Pulses at a cap before a cell counts as stuck: where caps are low, one of them moves little (assumed).
    width
        Pulse width (s).
    moved
        A cell has moved when its conductance differs by this share of the window (assumed: far above read noise).
    reads
        Reads of all cells before, for the noise.
    """

    start: float = 1.1
    step: float = 0.05
    cap_set: float = 1.8
    cap_reset: float = -2.0
    pulses_at_cap: int = 20
    width: float = 1.04e-6
    moved: float = 0.05
    reads: int = 8

    def __post_init__(self) -> None:
        check_numbers(self)
        if not (0 < self.start <= min(self.cap_set, -self.cap_reset) and self.step > 0 and self.width > 0):
            raise ValueError(f"{self}: the start must be positive and not above the caps, step and width positive")
        if not 0 < self.moved < 1 or self.reads < 2 or self.pulses_at_cap < 1:
            raise ValueError(f"{self}: moved lies between 0 and 1, reads is at least 2 and pulses_at_cap at least 1")

    def amplitudes(self, sign: int) -> FloatArray:
        """All amplitudes of a polarity (V, signed), those at the cap last."""
        cap = self.cap_set if sign > 0 else -self.cap_reset
        rising = np.arange(self.start, cap - 1e-9, self.step)
        return sign * np.append(rising, np.full(self.pulses_at_cap, cap))


#: The defaults.
PROBE = Probe()


def within_caps(probe: Probe, settings: ConvergeToTarget) -> Probe:
    """The same probe with caps that are not beyond those of writing."""
    return replace(
        probe, cap_set=min(probe.cap_set, settings.cap_set), cap_reset=max(probe.cap_reset, settings.cap_reset)
    )


@step(step_names.MEASURE_ANALOG)
def measure_analog(
    bench: Bench,
    die: Die,
    *,
    settings: ConvergeToTarget,
    scheme: str = "V/2",
    probe: Probe = PROBE,
) -> xr.Dataset:
    """Map of a die of analog cells, its stuck cells and dead lines.

    Reads all cells a few times; then, column by column, fires rising SET pulses at the cells that have not moved yet,
    then RESET pulses. `pulses` counts them per cell.

    Parameters
    ----------
    settings
        How it will be written: window, read voltage, averages and caps, which the probe stays within.
    scheme
        Bias scheme of the pulses.
    probe
        What is fired.

    Returns
    -------
    xarray.Dataset
        That of `mapping.dies.analog_die.AnalogDie`, and `g_initial` (S), `pulses`. Verdict ``fail`` if fewer than half
        of the cells are good.

    Raises
    ------
    LimitError, ValueError
        Before any pulse.
    """
    check_analog(bench.array.capabilities(), settings, scheme)
    if probe.cap_set > settings.cap_set or probe.cap_reset < settings.cap_reset:
        raise ValueError(
            f"the probe goes to {probe.cap_set:g} / {probe.cap_reset:g} V, beyond the caps of writing, "
            f"{settings.cap_set:g} / {settings.cap_reset:g} V: lower its caps"
        )
    geometry = geometry_of(bench)
    everything = np.ones(geometry.shape, bool)
    looks = []
    for number in range(probe.reads):
        bench.report("read", number / probe.reads)
        looks.append(read_everything(bench, settings))
    first = np.mean(looks, axis=0)
    before = bench.array.dose()
    v_set, v_reset, g = _probe_columns(bench, everything, probe, settings, scheme)
    cell_class, faults = classify_analog(g, v_set, v_reset, geometry, (settings.g_min + settings.g_max) / 2)
    noise = _noise(np.stack(looks), settings)
    conditions = {
        "v_read": settings.v_read,
        "averages": settings.averages,
        "scheme": scheme,
        "chuck_temperature": bench.prober.chuck_temperature(),
        "instrument": bench.array.identify(),
        "calibration": bench.array.calibration_id(0),
    }
    finite = np.nan_to_num(g, nan=0.0, posinf=float(np.max(g[np.isfinite(g)], initial=0.0)))
    measured = AnalogDie(die.name, geometry, finite, noise, v_set, v_reset, cell_class, faults, conditions)
    dims = ("kernel", "row", "column")
    result = measured.to_dataset().assign(
        g_initial=(dims, np.where(np.isfinite(first), first, np.nan), {"units": "S"}),
        pulses=(dims, (bench.array.dose() - before).astype(np.int32)),
    )
    good = float(np.mean(cell_class == CellClass.GOOD))
    result.attrs["verdict"] = "pass" if good > 0.5 else "fail"
    if good <= 0.5:
        result.attrs["reason"] = f"only {good:.0%} of the cells move under both polarities"
    return result


def _probe_columns(
    bench: Bench, cells: BoolArray, probe: Probe, settings: ConvergeToTarget, scheme: str
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """First amplitudes that moved each cell up and down (NaN where none did), and what all hold in the end.

    A column at a time: in a large array the pulses at other columns would move cells as far as their own do.
    """
    v_set, v_reset = np.full((2, *cells.shape), np.nan)
    kernels, _, columns = cells.shape
    for kernel in range(kernels):
        for column in range(columns):
            bench.report("probe", (kernel * columns + column) / (kernels * columns))
            chosen = np.zeros_like(cells)
            chosen[kernel, :, column] = True
            for found, sign in ((v_set, +1), (v_reset, -1)):
                found[chosen] = _probe(bench, chosen, sign, probe, settings, scheme)[chosen]
    return v_set, v_reset, read_everything(bench, settings)


def _probe(
    bench: Bench, cells: BoolArray, sign: int, probe: Probe, settings: ConvergeToTarget, scheme: str
) -> FloatArray:
    """First amplitude of one polarity that moved each of the cells of a column; NaN where none did."""
    lsb = bench.array.capabilities().dac_lsb
    enough = probe.moved * (settings.g_max - settings.g_min)
    kernel = int(np.flatnonzero(cells.any(axis=(1, 2)))[0])
    read = partial(read_ranging, bench.array, settings.v_read, averages=settings.averages, expected=settings.g_min)
    start = read(cells)
    found, left = np.full(start.shape, np.nan), np.isfinite(start)
    for amplitude in probe.amplitudes(sign):
        volts = float(np.trunc(amplitude / lsb * (1 + 1e-12)) * lsb)
        batch = bench.array.fire([Pulse(kernel, left[kernel], volts, probe.width, 1, scheme)])
        g = read(left)
        bench.array.keep_readings(batch, g)
        moved = left & (sign * (np.nan_to_num(g, posinf=1.0) - start) > enough)
        found[moved] = volts
        left = left & ~moved
        if not left.any():
            break
    return found


def _noise(looks: FloatArray, settings: ConvergeToTarget) -> FloatArray:
    """Noise of one unaveraged read, relative, ``[kernel, row, column]``.

    A few reads tell the noise of one cell badly, so cells share it: the root of the mean square over those that read
    within a factor of two of the window.
    """
    mean = looks.mean(axis=0)
    sound = np.isfinite(mean) & (mean > 0.5 * settings.g_min) & (mean < 2 * settings.g_max)
    if not sound.any():
        return np.full(mean.shape, np.nan)
    relative = looks[:, sound].std(axis=0, ddof=1) / mean[sound]
    return np.full(mean.shape, float(np.sqrt(np.mean(relative**2) * settings.averages)))
