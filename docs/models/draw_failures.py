"""Figure of failures.md: an array of each published kind, as the tester would show it."""

from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from sim_backends.array.dies.failures import KINDS_PUBLISHED, ReadFloor


def draw() -> Figure:
    """Five maps."""
    rng = np.random.default_rng(3)
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    axes = figure.subplots(1, len(KINDS_PUBLISHED))
    for axis, (name, kind) in zip(axes, KINDS_PUBLISHED.items(), strict=True):
        seen = kind.draw(rng).between_terminals(np.full((8, 8), 300e-6))
        image = axis.imshow(ReadFloor().resistance(seen, rng) / 1e3, norm=LogNorm(0.1, 3000), cmap="turbo")
        axis.set(title=f"{name}\n(as {kind.array})", xlabel="column", xticks=range(8), yticks=range(8))
        axis.title.set_fontsize(9)
    axes[0].set_ylabel("row")
    figure.colorbar(image, ax=axes, label="resistance shown (kOhm)", shrink=0.8)
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("failures.png"), dpi=110)
