"""Draw the figure of mtj.md: resistance of both states, and what share of cells a pulse switches."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sim_backends.array.devices.mtj import GENERIC, Mtj, switching_probability


def average(antiparallel: bool) -> Mtj:
    kind = GENERIC
    values = [kind.r_p, kind.tmr, kind.v_critical_to_ap, kind.v_critical_to_p, kind.delta, kind.v_breakdown]
    return Mtj(*(np.full((1, 1), value) for value in values), antiparallel=np.array(antiparallel))


def law(cell: Mtj, volts: np.ndarray, v_critical: float, width: float) -> np.ndarray:
    v_junction = np.abs(cell.junction_voltage(volts[:, None, None]).ravel())
    return switching_probability(
        v_junction, width, np.array(v_critical), np.array(GENERIC.delta), GENERIC.tau0, GENERIC.error_floor
    )


def draw() -> Figure:
    figure, (resistance, switching) = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
    volts = np.linspace(-1.3, 1.3, 260)  # an even number: none of them is zero
    for antiparallel, color, name in [(True, "C3", "AP"), (False, "C0", "P")]:
        current, _ = average(antiparallel).current(volts[:, None, None])
        whole = volts / current.ravel() / 1e3
        resistance.plot(volts, whole, color=color, label=f"{name}, cell")
        resistance.plot(volts, whole - GENERIC.r_selector / 1e3, "--", color=color, label=f"{name}, junction")
    resistance.set(xlabel="cell voltage (V)", ylabel="resistance (kOhm)", ylim=(0, 16), title="the average cell")
    resistance.legend(fontsize=8, loc="upper right", ncol=2)

    size = np.linspace(0.5, 1.3, 161)
    for color, (name, width) in zip(
        ["C2", "C4", "C1"], {"20 ns": 2e-8, "200 ns": 2e-7, "10 us": 1e-5}.items(), strict=True
    ):
        for sign, to_ap, v_critical in [(-1, True, GENERIC.v_critical_to_ap), (1, False, GENERIC.v_critical_to_p)]:
            cell = average(not to_ap)
            switching.plot(sign * size, law(cell, size, v_critical, width), color=color, label=name if to_ap else None)
            rng = np.random.default_rng(1)
            for v in size[::10]:
                cells = Mtj.draw((40, 50), rng, antiparallel=not to_ap)
                cells.pulse(np.full(cells.shape, sign * v), width, rng)
                switching.plot(sign * v, np.mean(cells.antiparallel == to_ap), ".", color=color, markersize=4)
    switching.annotate("← writes AP", (0, 0.5), ha="center", fontsize=8)
    switching.annotate("writes P →", (0, 0.4), ha="center", fontsize=8)
    switching.set(
        xlabel="cell voltage, row minus column (V)",
        ylabel="switched by one pulse",
        title="lines: average cell; dots: cells with spread",
    )
    switching.legend(fontsize=8, loc="upper center")
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("mtj.png"), dpi=110)
