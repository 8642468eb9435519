"""Pulses a second when passive arrays are written with every cell seen at every pulse.

    python benchmarks/array_write.py            # about half a minute
    python benchmarks/array_write.py --pulses 20000 --seed 3

Default TiO2 devices are written to random targets by converge-to-target under V/2: before every pulse a read, and for
each of both the whole network is solved, nonlinear, with line resistance. All reads, decisions and device updates are
in the time. Two cases: one array of 64 x 64 (0.2 Ohm segments), and 1,000 arrays of 8 x 8 (2 Ohm) at once. Beside them,
what the network of one pulse costs in a direct solution (scipy's sparse LU, ohmic cells), which is what one would write
first.
"""

import argparse
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from mapping.writing.converge import ConvergeToTarget, write
from sim_backends.array.circuit.passive_array import PassiveArray
from sim_backends.array.devices.tio2 import WINDOW, TiO2Devices
from sim_backends.array.solver.network import Lines, solve


def start(shape, r_segment, rng):
    """A drawn array, random targets, and a random order of its cells."""
    array = PassiveArray(TiO2Devices.draw(shape, rng), Lines(r_row=r_segment, r_column=r_segment))
    targets = rng.uniform(*WINDOW, shape)
    cells = shape[-2] * shape[-1]
    arrays = shape[0] if len(shape) == 3 else 1
    order = rng.permuted(np.tile(np.arange(cells), (arrays, 1)), axis=1)
    return array, targets, order


def timed_write(shape, r_segment, pulses, seed):
    """Pulses fired, seconds, share of cells that converged, and error of those as read at the end of their write.

    Cells are written until so many pulses have been fired.
    """
    rng = np.random.default_rng(seed)
    array, targets, order = start(shape, r_segment, rng)
    write(array, targets, order[:, :1], rng)  # compiles
    per_cell, cells = 40, order.shape[1]
    events = min(cells - 1, max(1, round(pulses / (per_cell * len(order)))))
    begin = time.perf_counter()
    written = write(array, targets, order[:, 1 : 1 + events], rng, ConvergeToTarget())
    seconds = time.perf_counter() - begin
    return int(written.pulses.sum()), seconds, 1 - written.gave_up.sum() / (events * len(order))


def direct_seconds(shape, r_segment, seed, repeats):
    """Seconds of a direct solution of the network of one pulse on one array, ohmic cells; median."""
    rng = np.random.default_rng(seed)
    rows, columns = shape[-2:]
    g = rng.uniform(*WINDOW, (rows, columns))
    v_row, v_column = np.full(rows, 0.7), np.full(columns, 0.7)
    v_row[rows // 2], v_column[columns // 2] = 1.4, 0.0
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        solve(g, left=v_row, bottom=v_column, lines=Lines(r_segment, r_segment), cells=True, method="direct")
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pulses", type=int, default=8000, help="on 64 x 64; 100 times as many on 8 x 8")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = Table("array", "pulses", "a second", "wanted", "cells converged", "a direct solution costs", "times faster")
    for shape, r_segment, pulses, wanted in (
        ((64, 64), 0.2, options.pulses, 2_000),
        ((1000, 8, 8), 2.0, 100 * options.pulses, 50_000),
    ):
        fired, seconds, converged = timed_write(shape, r_segment, pulses, options.seed)
        direct = direct_seconds(shape, r_segment, options.seed, 5)
        table.add_row(
            " x ".join(map(str, shape)),
            f"{fired:,}",
            f"{fired / seconds:,.0f}",
            f"{wanted:,}",
            f"{100 * converged:.1f} %",
            f"{1e3 * direct:.2f} ms a pulse",
            f"{direct * fired / seconds:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
