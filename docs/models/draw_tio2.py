"""Draw the figure of tio2.md: half-select drift beside the database, and how one cell is written."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mapping.writing.converge import ConvergeToTarget, Ramps
from sim_backends.array.devices.tio2 import WRITE_WIDTH, TiO2Devices

FIT = runpy.run_path(str(Path(__file__).with_name("fit_tio2.py")))


def draw(arrays: int = 500) -> Figure:
    figure, (drift, ramp) = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
    _draw_drift(drift, arrays)
    _draw_ramp(ramp)
    return figure


def _draw_drift(axes: Axes, arrays: int) -> None:
    _, _, written = FIT["write_random"](arrays, np.random.default_rng(21))
    events = np.array(list(FIT["MEASURED"]))
    count, mean, sd = np.array(list(FIT["MEASURED"].values())).T
    tolerance = np.array([FIT["mean_tolerance"](k) for k in events])
    axes.fill_between(events, 0.85 * sd, 1.15 * sd, color="C0", alpha=0.2, linewidth=0)
    axes.fill_between(events, mean - tolerance, mean + tolerance, color="C1", alpha=0.2, linewidth=0)
    axes.errorbar(events, sd, fmt="o", ms=3, color="C0", label="SD, measured (band: 15 %)")
    axes.errorbar(events, mean, sd / np.sqrt(count), fmt="o", ms=3, color="C1", label="mean, measured (band: see text)")
    ours = [written.drift(k) * 1e6 for k in events]
    axes.plot(events, [np.nanstd(d) for d in ours], "C0", label="SD, simulated")
    axes.plot(events, [np.nanmean(d) for d in ours], "C1", label="mean, simulated")
    axes.set(xlabel="later programming events in the array", ylabel="change of a written cell (uS)", ylim=(-12, 34))
    axes.legend(fontsize=7, loc="upper left")


def _draw_ramp(axes: Axes) -> None:
    rng = np.random.default_rng(4)
    devices, target = TiO2Devices.draw((1, 1), rng, g=450e-6), 200e-6
    ramps = Ramps(ConvergeToTarget(), 1)
    path, amplitudes = [], []
    while True:
        read = devices.g[0] * (1 + devices.read_noise()[0] * rng.standard_normal(1))
        path.append(read[0] * 1e6)
        if abs(read[0] / target - 1) <= ramps.settings.tolerance:
            break
        v = ramps.amplitude(read < target, np.ones(1, dtype=bool))
        amplitudes.append(v[0])
        devices.pulse(v[None], WRITE_WIDTH, rng)
    axes.axhspan(198, 202, color="0.85")
    axes.plot(path, "k.-", ms=4, linewidth=0.8)
    axes.set(xlabel="pulses", ylabel="conductance as read (uS), black", title="one cell from 450 to 200 uS +- 1 %")
    beside = axes.twinx()
    beside.bar(
        np.arange(len(amplitudes)) + 1, amplitudes, color=["C3" if v > 0 else "C0" for v in amplitudes], alpha=0.4
    )
    beside.set(ylabel="pulse (V), bars", ylim=(-5, 2.4))
    beside.axhline(0, color="0.6", linewidth=0.6)


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("tio2.png"), dpi=110)
