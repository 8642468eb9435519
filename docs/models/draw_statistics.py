"""Figure of statistics.md: tuning imprecision, half-select drift, and what arrives of a target."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sim_backends.array.dies.statistics import (
    HalfSelectDrift,
    TransferStatistics,
    TuningImprecision,
    drift_deviation,
    drift_mean,
    drift_table,
    transfer,
)

US = 1e6
# k, mean and standard deviation (uS) of the half-select database of the authors of arXiv:2305.18495
COUNTS = [1, 2, 4, 8, 16, 24, 32, 40]
MEANS = [-0.37, -0.91, -1.73, -3.35, -5.48, -6.40, -7.66, -7.6]
DEVIATIONS = [6.7, 8.2, 10.0, 11.7, 13.9, 16.8, 19.4, 18.5]


def draw(draws: int = 200_000) -> Figure:
    """Three panels."""
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    tuning, moments, arrived = figure.subplots(1, 3)

    law = TuningImprecision()
    g = np.linspace(100e-6, 500e-6, 50)
    tuning.plot(US * g, 100 * law.spread(g), label="state-dependent part")
    tuning.plot(US * g, 100 * law.deviation(g) / g, label="with the spread of the offset")
    tuning.set(xlabel="target (µS)", ylabel="standard deviation (%)", title="tuning imprecision", ylim=(0, None))
    tuning.legend(fontsize=8)

    k = np.arange(1, 41)
    table = drift_table(HalfSelectDrift(outlier=None))[1:]
    moments.fill_between(
        k, *(US * np.quantile(table, level, axis=1) for level in (0.05, 0.95)), alpha=0.2, label="5-95 %"
    )
    moments.plot(k, US * table.mean(axis=1), "C0", label="mean of draws")
    moments.plot(k, US * table.std(axis=1), "C1", label="SD of draws")
    moments.plot(k, US * drift_mean(k), "C0--", lw=1, label="closed forms")
    moments.plot(k, US * drift_deviation(k), "C1--", lw=1)
    moments.plot(COUNTS, MEANS, "k.", label="database")
    moments.plot(COUNTS, DEVIATIONS, "k.")
    moments.set(xlabel="later programming events k", ylabel="change (µS)", title="half-select drift", ylim=(-62, 30))
    moments.legend(fontsize=7, ncols=2, loc="lower center")

    rng = np.random.Generator(np.random.SFC64(1))
    targets = np.full(17, 300e-6)
    result = transfer(targets, TransferStatistics(), rng, draws=draws)
    bins = np.linspace(0, 800, 161)
    for device in (0, 8, 15, 16):
        share = np.histogram(US * result.conductance[:, device], bins)[0] / len(result.conductance)
        arrived.stairs(share, bins, label=f"{16 - device} written later")
    arrived.set(yscale="log", xlabel="achieved (µS)", ylabel="share in 5 µS", title="all sources, target 300 µS")
    arrived.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("statistics.png"), dpi=110)
