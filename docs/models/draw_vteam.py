"""Draw the figure of vteam.md: what one pulse does, and a V/2 write with no half-select drift at all."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sim_backends.array.devices.vteam import GENERIC, Vteam, VteamParameters

#: Thresholds for V/2 at 1 V; made up for the figure.
WRITABLE = VteamParameters(r_on=2e3, r_off=10e3, k_on=-0.05, k_off=0.05, a_on=2.0, a_off=1.5, v_on=-0.6, v_off=0.7)


def draw() -> Figure:
    rng = np.random.default_rng(0)
    figure, (pulse, train) = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
    volts = np.linspace(-0.4, 0.4, 1601)
    for width, name in [(1e-10, "0.1 ns"), (1e-9, "1 ns"), (1e-6, "1 us")]:
        devices = Vteam(np.full((1, volts.size), GENERIC.d / 2))
        devices.pulse(volts[None], width, rng)
        pulse.plot(volts, devices.resistance[0], label=name)
    for threshold in (GENERIC.v_on, GENERIC.v_off):
        pulse.axvline(threshold, color="0.7", linewidth=0.8)
    pulse.set(xlabel="pulse (V)", ylabel="resistance after (Ohm)", title="generic parameters, from 525 Ohm")
    pulse.legend(fontsize=8)

    pair = Vteam(np.zeros((1, 2)), WRITABLE)
    path = [pair.resistance[0] / 1e3]
    for v in np.repeat([1.0, -1.0], 60):
        pair.pulse(np.array([[v, v / 2]]), 2e-9, rng)
        path.append(pair.resistance[0] / 1e3)
    selected, half = np.transpose(path)
    train.plot(selected, label="selected, 1 V")
    train.plot(half, label="half-selected, 0.5 V")
    train.set(
        xlabel="pulse of 2 ns: 60 RESET, 60 SET",
        ylabel="resistance (kOhm)",
        title="thresholds of -0.6 V and 0.7 V",
        ylim=(0, None),
    )
    train.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("vteam.png"), dpi=110)
