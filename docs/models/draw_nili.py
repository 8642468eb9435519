"""Draw the figure of nili.md: the steps of one pulse, and the drift of half-selected devices."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sim_backends.array.devices.nili import V_STILL, Nili, conductance_change

STATES = {"7 uS": 7e-6, "40 uS": 40e-6, "140 uS": 140e-6}


def draw() -> Figure:
    figure, (steps, drift) = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
    for color, (name, g) in zip(["C0", "C1", "C2"], STATES.items(), strict=True):
        for sign, limit, mark in [(1, 1.15, "-"), (-1, 1.5, "--")]:
            for low, high, width in [(0.8, limit, 1.8), (V_STILL, 0.8, 0.7)]:
                size = np.linspace(low, high, 100)
                change = np.abs(conductance_change(np.array(g), sign * size, 1e-6)) * 1e6
                named = name if sign > 0 and low == 0.8 else None
                steps.semilogy(size, change, mark, color=color, linewidth=width, label=named)
    steps.axvline(0.8, color="0.7", linewidth=0.8)
    steps.set(
        xlabel="amplitude (V)",
        ylabel="step (uS)",
        ylim=(1e-4, 100),
        title="1 us: SET solid, RESET dashed,\nextrapolated thin",
    )
    steps.legend(fontsize=8)

    rng = np.random.default_rng(8)
    devices = Nili.draw((1, 200), rng, g=120e-6)
    average = Nili(np.array([[120e-6]]))
    count, v = 400, 0.5
    path = np.empty((count + 1, 200))
    closed = np.empty(count + 1)
    for k in range(count + 1):
        path[k], closed[k] = devices.g[0] * 1e6, average.g[0, 0] * 1e6
        devices.pulse(np.full((1, 200), v), 1e-6, rng)
        average.pulse(np.array([[v]]), 1e-6, rng)
    low, high = np.quantile(path, [0.05, 0.95], axis=1)
    drift.fill_between(np.arange(count + 1), low, high, alpha=0.25, label="5 .. 95 % of 200 drawn devices")
    drift.plot(closed, label="average device, pulse by pulse")
    step = float(conductance_change(np.array(120e-6), np.array(v), 1e-6)) * 1e6
    drift.plot([0, count], [120, 120 + count * step], "k:", label="closed form, k dG")
    drift.set(
        xlabel="pulses of 0.5 V, 1 us (V/2 of 1.0 V)",
        ylabel="conductance (uS)",
        title="half-selected from 120 uS\n(extrapolated)",
    )
    drift.legend(fontsize=7, loc="upper left")
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("nili.png"), dpi=110)
