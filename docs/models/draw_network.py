"""Draw the figure of network.md: what every cell sees under V/2, and what sneak paths add to a read."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim_backends.array.circuit.bias import FLOATING, HALF, line_mask
from sim_backends.array.solver.network import Lines, solve

CELL = 300e-6  # S, the middle of the TiO2 crossbar's range
V_WRITE, V_READ = 1.2, 0.2


def draw() -> Figure:
    figure, (cells, read) = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained", width_ratios=(1, 1.1))
    _half_selected(figure, cells)
    _sneak_paths(read)
    return figure


def _half_selected(figure: Figure, axes: Axes) -> None:
    rows, columns = HALF.voltages(line_mask(20, 64), line_mask(44, 64), V_WRITE)
    solution = solve(np.full((64, 64), CELL), left=rows, bottom=columns, lines=Lines(2.0, 2.0), cells=True)
    image = axes.imshow(solution.v_cell, cmap="viridis")
    axes.set(xlabel="column", ylabel="row", title=f"V/2 at {V_WRITE} V, segments of 2 Ohm")
    axes.annotate(
        f"{solution.v_cell[20, 44]:.2f} V",
        (44, 20),
        (50, 8),
        color="white",
        arrowprops={"color": "white", "width": 0.5},
    )
    figure.colorbar(image, ax=axes, label="cell voltage (V)")


def _sneak_paths(axes: Axes) -> None:
    sizes = np.array([2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96])
    for r, marker in ((0.0, "o"), (2.0, "s"), (20.0, "^")):
        axes.plot(sizes, [_reads(int(size), r) for size in sizes], marker, label=f"solved, {r:g} Ohm", markersize=5)
    n = np.linspace(2, 96, 300)
    axes.plot(n, 1 + 1 / (2 / (n - 1) + 1 / (n - 1) ** 2), "k-", linewidth=0.8, zorder=0, label="closed form, 0 Ohm")
    axes.set(xlabel="rows and columns", ylabel="read / true conductance", title="all other lines floating")
    axes.set(xscale="log", yscale="log", xticks=[2, 4, 8, 16, 32, 64], yticks=[1, 2, 5, 10, 20, 50])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(fontsize=8)


def _reads(size: int, r: float) -> float:
    """What a read of the first cell gives, in parts of its conductance."""
    rows, columns = FLOATING.voltages(line_mask(0, size), line_mask(0, size), V_READ)
    solution = solve(np.full((size, size), CELL), left=rows, bottom=columns, lines=Lines(r, r))
    return float(solution.i_bottom[0] / (V_READ * CELL))


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("network.png"), dpi=110)
