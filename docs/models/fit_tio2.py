"""Compare the default TiO2 device with the laboratory's half-select database: python fit_tio2.py half_select_drift.csv

The laboratory's writing is simulated on many 8 x 8 arrays at once: V/2 scheme, one cell after the other to random
targets, each by converge-to-target, beginning anywhere in the window. The voltages are ideal: at 8 x 8 and 100 to
500 uS, lines of 1 Ohm per segment lose about 1 %. The database's samples are changes of a written cell by k later
events, one event being the whole writing of another cell; samples beyond +-40 uS are not in it, so they are left out
here too, and so are cells that were given up at a cap.

Source of the database: repository 3it-inpaqt/Hardware-Aware-Article of the authors of arXiv:2305.18495 (MIT licence,
Copyright (c) 2023 Philippe Drolet).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.writing.converge import ConvergeToTarget, Ramps
from sim_backends.array.devices.tio2 import V_LIMITS, WINDOW, WRITE_WIDTH, TiO2Devices

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

DRIFT_MAX = 40e-6  # S; samples beyond it are not in the database
SEQUENTIAL_SHARE = 0.2  # of arrays written row by row, the others in random order; assumed, fitted with the device

#: Events after the writing of a cell: number of samples, mean and standard deviation of its change (uS). From the
#: database, all that have at least 150 samples.
MEASURED = {
    1: (1259, -0.37, 6.68),
    2: (1163, -0.91, 8.22),
    3: (1070, -1.23, 8.91),
    4: (994, -1.73, 10.03),
    5: (920, -2.17, 10.48),
    6: (855, -2.47, 10.66),
    7: (799, -2.80, 11.38),
    8: (746, -3.35, 11.67),
    9: (704, -3.82, 12.28),
    10: (650, -4.10, 12.09),
    11: (607, -4.63, 12.66),
    12: (568, -5.33, 12.98),
    13: (528, -5.60, 13.07),
    14: (491, -5.90, 13.31),
    15: (458, -5.68, 13.56),
    16: (429, -5.48, 13.92),
    17: (401, -5.15, 13.93),
    18: (375, -4.63, 13.98),
    19: (353, -4.49, 14.07),
    20: (337, -5.07, 14.83),
    21: (317, -5.16, 15.13),
    22: (299, -5.52, 15.82),
    23: (280, -6.04, 16.00),
    24: (264, -6.40, 16.82),
    25: (248, -7.25, 17.10),
    26: (230, -7.32, 17.59),
    27: (214, -7.85, 17.77),
    28: (201, -7.40, 18.03),
    29: (189, -7.94, 18.07),
    30: (178, -7.70, 18.51),
    31: (168, -7.98, 18.93),
    32: (159, -7.66, 19.44),
}


@dataclass(frozen=True)
class Written:
    """What writing arrays cell by cell has shown; cells are counted row by row.

    Attributes
    ----------
    order
        Cell that was written as the e-th, ``[array, event]``.
    reads
        Conductance of every cell as read after each event (S), ``[array, event, cell]``.
    pulses, gave_up
        Pulses taken, and whether the cell was given up at a cap, ``[array, cell]``.
    """

    order: IntArray
    reads: FloatArray
    pulses: IntArray
    gave_up: BoolArray

    def drift(self, k: int) -> FloatArray:
        """Changes of written cells by `k` later events (S), ``[array, sample]``, NaN where they do not count."""
        array = np.arange(len(self.order))[:, None]
        event = np.arange(self.order.shape[1] - k)
        cell = self.order[:, event]
        change = self.reads[array, event + k, cell] - self.reads[array, event, cell]
        left_out = self.gave_up[array, cell] | (np.abs(change) >= DRIFT_MAX)
        return np.where(left_out, np.nan, change)


def orders(arrays: int, cells: int, rng: np.random.Generator) -> IntArray:
    """In which order cells are written, ``[array, event]``: row by row in some arrays, random in the others."""
    order = rng.permuted(np.tile(np.arange(cells), (arrays, 1)), axis=1)
    order[: round(SEQUENTIAL_SHARE * arrays)] = np.arange(cells)
    return order


def write(
    devices: TiO2Devices,
    targets: FloatArray,
    order: IntArray,
    rng: np.random.Generator,
    caps: tuple[float, float] = (V_LIMITS[1], V_LIMITS[0]),
    pulses_at_cap: int = 1,
    keep_reads: bool = True,
) -> Written:
    """Write arrays ``[array, row, column]`` cell by cell, each array at its own pace; a read in the band ends a cell.

    Parameters
    ----------
    devices
        Changed in place.
    targets
        Conductances (S), ``[array, cell]``.
    order
        ``[array, event]``.
    caps
        Highest amplitude of SET and of RESET (V); default: those of the laboratory.
    pulses_at_cap
        Pulses in a row at a cap after which a cell is given up.
    keep_reads
        Whether `Written.reads` is wanted; without it there are no events in it.
    """
    arrays, rows, columns = devices.shape
    cells, every = rows * columns, np.arange(arrays)
    reads = np.empty((arrays, cells if keep_reads else 0, cells))
    pulses, gave_up = np.zeros((arrays, cells), dtype=np.int64), np.zeros((arrays, cells), dtype=bool)
    settings = ConvergeToTarget(cap_set=caps[0], cap_reset=caps[1], pulses_at_cap=pulses_at_cap)
    event, ramps = np.zeros(arrays, dtype=np.int64), Ramps(settings, arrays)
    while np.any(going := event < cells):
        cell = order[every, np.minimum(event, cells - 1)]
        g, noise = devices.g.reshape(arrays, cells), devices.read_noise().reshape(arrays, cells)
        read = g[every, cell] * (1 + noise[every, cell] * rng.standard_normal(arrays))
        target = targets[every, cell]
        reached = going & (np.abs(read - target) <= settings.tolerance * target)
        amplitude = ramps.amplitude(read < target, going & ~reached)
        stopped = np.isnan(amplitude)
        gave_up[every[stopped], cell[stopped]] = True

        done = reached | stopped
        if keep_reads and done.any():
            reads[done, event[done]] = g[done] * (1 + noise[done] * rng.standard_normal((done.sum(), cells)))
            reads[every[done], event[done], cell[done]] = read[done]
        event += done
        ramps.restart(done)

        half = np.where(stopped, 0.0, amplitude / 2)
        v = np.zeros(devices.shape)
        v[every, cell // columns, :] += half[:, None]
        v[every, :, cell % columns] += half[:, None]
        devices.pulse(v, WRITE_WIDTH, rng)
        pulses[every, cell] += half != 0
    return Written(order, reads, pulses, gave_up)


def write_random(arrays: int, rng: np.random.Generator) -> tuple[TiO2Devices, FloatArray, Written]:
    """Draw 8 x 8 arrays in random states and write them to random targets in the window: devices, targets, record."""
    devices = TiO2Devices.draw((arrays, 8, 8), rng)
    targets = rng.uniform(*WINDOW, (arrays, 64))
    return devices, targets, write(devices, targets, orders(arrays, 64, rng), rng)


def mean_tolerance(k: int) -> float:
    """How far the mean may lie from the measured one (uS): 15 %, or two standard errors of the database."""
    count, mean, sd = MEASURED[k]
    return max(0.15 * abs(mean), 2 * sd / np.sqrt(count))


def kurtosis(samples: FloatArray) -> float:
    """Fourth standardised moment; 3 for a normal distribution."""
    return float(np.mean((samples - samples.mean()) ** 4) / np.var(samples) ** 2)


def bootstrap(drift: FloatArray, rng: np.random.Generator, repeats: int = 200) -> FloatArray:
    """Standard errors of mean and standard deviation of ``[group, sample]``, drawing whole groups anew."""
    drawn = (drift[rng.integers(0, len(drift), len(drift))] for _ in range(repeats))
    return np.std([(np.nanmean(d), np.nanstd(d)) for d in drawn], axis=0)


def main(database: str, arrays: int = 1000, seed: int = 1) -> None:
    """Print measured and simulated statistics of the drift side by side (uS)."""
    content = np.loadtxt(database, delimiter=",", skiprows=1)
    rng = np.random.default_rng(seed)
    _, _, written = write_random(arrays, rng)
    print("mean and SD in uS, +- bootstrap standard error; off: distance of the mean in tolerances, of the SD in %")
    print(f"{'':>3} | {'measured':^48} | {'simulated':^40} |")
    print(
        f"{'k':>3} | {'n':>5} {'mean':>15} {'SD':>15} {'kurtosis':>10} | {'mean':>14} {'SD':>14} {'kurtosis':>10} | off"
    )
    for k in MEASURED:
        measured = content[content[:, 0] == k, 1]
        drift = written.drift(k) * 1e6
        simulated = drift[~np.isnan(drift)]
        m_error, s_error = bootstrap(measured[:, None], rng), bootstrap(drift, rng)
        mean_off = (simulated.mean() - measured.mean()) / mean_tolerance(k)
        print(
            f"{k:>3} | {len(measured):>5} {measured.mean():>7.2f} +- {m_error[0]:.2f} {measured.std():>7.2f} +- "
            f"{m_error[1]:.2f} {kurtosis(measured):>8.1f} | {simulated.mean():>6.2f} +- {s_error[0]:.2f} "
            f"{simulated.std():>6.2f} +- {s_error[1]:.2f} {kurtosis(simulated):>8.1f} | "
            f"{mean_off:>+5.2f} {100 * (simulated.std() / measured.std() - 1):>+4.0f} %"
        )


if __name__ == "__main__":
    main(sys.argv[1])
