"""Figure of retention.md: conductances that fall, and traces of telegraph noise."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sim_backends.array.devices.retention import Retention, RetentionStatistics
from sim_backends.array.devices.telegraph import Telegraph, TelegraphStatistics


def draw() -> Figure:
    """Two panels."""
    rng = np.random.default_rng(2)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    falling, jumping = figure.subplots(1, 2)

    retention = Retention.draw(RetentionStatistics(), (20,), rng)
    times = np.geomspace(1e-4, 1e8, 100)
    falling.semilogx(times, 300 * retention.fallen(np.ones(20), 0.0, times[:, None]), "C0", lw=0.8, alpha=0.7)
    falling.set(xlabel="time after the write (s)", ylabel="conductance (µS)", title="retention: 20 devices, 300 µS")

    traps = Telegraph.draw(TelegraphStatistics(dwell_min=3e-3, dwell_max=0.3), (3,), rng)
    reads, interval = 2000, 1e-3
    trace = np.empty((reads, 3))
    for read in range(reads):
        trace[read] = traps.factor
        traps.advance(interval, rng)
    jumping.plot(interval * np.arange(reads), 100 * (trace - 1) + 1.5 * np.arange(3), lw=0.7)
    jumping.set(xlabel="time (s)", ylabel="change (%), shifted by 1.5 each", title="telegraph noise: 3 devices")
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("retention.png"), dpi=110)
