"""Draw the figure of messaris.md: one pulse on each fit, and why the model is not for arrays."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sim_backends.array.devices.messaris import N1257R, O921C, O921C_4K, Messaris, MessarisFit


def after(fit: MessarisFit, start: float, volts: np.ndarray, width: float) -> np.ndarray:
    devices = Messaris(fit, np.full((1, volts.size), start))
    devices.pulse(volts[None], width, np.random.default_rng(0))
    return devices.r[0]


def draw() -> Figure:
    figure, (pulses, anomaly) = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
    volts = np.linspace(-2.0, 2.0, 801)
    for fit, start in [(N1257R, 2.3e3), (O921C, 7.3e3), (O921C_4K, 8.9e3)]:
        change = after(fit, start, volts, 200e-9) / start - 1
        pulses.plot(volts, 100 * change, label=f"{fit.name}, {start / 1e3} kOhm")
    pulses.set(
        xlabel="pulse (V), SET positive",
        ylabel="change of resistance (%)",
        title="one pulse of 200 ns,\nfrom the middle of the window",
    )
    pulses.legend(fontsize=7, loc="lower left")

    amplitude = np.linspace(0.0, 1.6, 801)
    moved = after(O921C, 2e3, -amplitude, 1.04e-6) / 1e3
    anomaly.plot(amplitude, moved, color="C1")
    for size, name in [(1.2, "selected, -1.2 V"), (0.6, "half-selected, -0.6 V")]:
        value = np.interp(size, amplitude, moved)
        anomaly.plot(size, value, "o", color="C1" if size > 1 else "C3")
        anomaly.annotate(name, (size, value), (8, 2), textcoords="offset points", fontsize=8)
    anomaly.set(
        xlabel="RESET amplitude (V)",
        ylabel="resistance after (kOhm)",
        title="O921C at room temperature,\n1.04 us from 2 kOhm",
        xlim=(None, 2.0),
        ylim=(0, None),
    )
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("messaris.png"), dpi=110)
