"""Write schedules: what is to be written into a die, in which order, with which pulses, and how it is verified.

A schedule is a file that goes to the station by itself: it names the source of its weights, and holds the placement
that `protocols` needs to multiply with what was written. It holds no time and no host, so equal inputs give equal
content.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapping.dies.die_record import HARD_DEFECTS, DieRecord
from mapping.dies.geometry import ArrayGeometry
from mapping.placement.coding import AP, DONT_CARE, P, encode
from mapping.placement.placement import Placement
from mapping.writing import durations
from mapping.writing.checked_fields import check_numbers
from mapping.writing.schedule_file import (
    ScheduleFileError,
    check_format,
    content_digest,
    dump,
    geometry_arrays,
    placement_arrays,
    read_array,
    read_geometry,
    read_placement,
    read_text,
    write_file,
)

FORMAT = "xbarlab write schedule"
VERSION = 1


@dataclass(frozen=True)
class PulseSettings:
    """Pulses that write a cell. Cell voltage is column minus row; opposite signs write opposite states.

    The defaults are assumed, not of any die: junctions that switch at about 0.7 V (generic for spin-transfer torque at
    about 100 ns) behind a selector that takes a quarter of the voltage. They suit the simulated lot that ships with
    this package; measure the switching voltages of yours.

    Attributes
    ----------
    amplitude_to_ap, amplitude_to_p : float
        First amplitude for P -> AP and for AP -> P (V).
    width : float
        Pulse width (s).
    attempts_max : int
        Pulses to a cell in one write before it is given up.
    amplitude_step : float
        What each further attempt adds to the magnitude (V).
    amplitude_ceiling : float
        Largest magnitude (V); no attempt goes beyond it.
    dose_limit : int
        Pulses to a cell over its whole life, by the record's ledger.
    """

    amplitude_to_ap: float = 1.05
    amplitude_to_p: float = -0.9
    width: float = 200e-9
    attempts_max: int = 8
    amplitude_step: float = 0.05
    amplitude_ceiling: float = 1.25
    dose_limit: int = 10_000

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.amplitude_to_ap * self.amplitude_to_p >= 0:
            both = f"{self.amplitude_to_ap:g} V to AP and {self.amplitude_to_p:g} V to P"
            raise ValueError(f"amplitudes {both}: signs must be opposite")
        if max(abs(self.amplitude_to_ap), abs(self.amplitude_to_p)) > self.amplitude_ceiling:
            raise ValueError(f"an amplitude is above the ceiling of {self.amplitude_ceiling:g} V")
        if self.width <= 0 or self.amplitude_step < 0:
            raise ValueError(f"width {self.width:g} s must be positive, step {self.amplitude_step:g} V not negative")
        if self.attempts_max < 1 or self.dose_limit < 1:
            raise ValueError(f"attempts_max {self.attempts_max} and dose_limit {self.dose_limit} must be at least 1")

    def amplitude(self, state: int, attempt: int = 0) -> float:
        """Amplitude (V, signed) of attempt 0, 1, 2, ... to write a state (`coding.AP` or `coding.P`)."""
        first = self.amplitude_to_ap if state == AP else self.amplitude_to_p
        return math.copysign(min(abs(first) + attempt * self.amplitude_step, self.amplitude_ceiling), first)


ThresholdRule = Literal["cell", "kernel"]


@dataclass(frozen=True)
class VerifyRule:
    """How a written cell is read and judged: conductance above its threshold is P, below it AP.

    Attributes
    ----------
    v_read : float
        Read voltage (V).
    averages : int
        Reads averaged.
    threshold : str
        ``"cell"``: half way between the two measured states of that cell (needs a die record). ``"kernel"``: half way
        between the medians of the two states over the good cells of its kernel.
    """

    v_read: float = 0.1
    averages: int = 4
    threshold: ThresholdRule = "cell"

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.v_read == 0 or self.averages < 1:
            raise ValueError(f"v_read {self.v_read:g} V must not be 0, averages {self.averages} at least 1")
        if self.threshold not in ("cell", "kernel"):
            raise ValueError(f"threshold {self.threshold!r}: 'cell' or 'kernel'")

    def thresholds(self, record: DieRecord) -> NDArray[np.float64]:
        """Threshold of every cell (S), ``[kernel, row, column]``.

        Cells without two measured states (shorts beyond the range, dead lines) take the threshold of their kernel, and
        kernels without good cells that of the die.
        """
        middle = (record.g_p + record.g_ap) / 2
        good = (record.cell_class == 0) & np.isfinite(middle)
        if not good.any():
            raise ValueError(f"die {record.die} has no good cell to take thresholds from")
        of_die = float(np.median(middle[good]))
        of_kernel = [float(np.median(m[ok])) if ok.any() else of_die for m, ok in zip(middle, good, strict=True)]
        common = np.broadcast_to(np.array(of_kernel)[:, None, None], middle.shape)
        if self.threshold == "kernel":
            return common.copy()
        return np.where(np.isfinite(middle) & ~np.isin(record.cell_class, HARD_DEFECTS), middle, common)


@dataclass(frozen=True)
class StationTimes:
    """What an exchange with the station costs, for estimates (all assumed; measure yours).

    Attributes
    ----------
    exchange : float
        One request and its reply (s).
    settling : float
        From setting a column's lines to the pulse or the conversion (s).
    conversion : float
        One reading of one cell (s).
    pulses_per_cell : float
        Attempts that a cell takes on average.
    """

    exchange: float = durations.EXCHANGE
    settling: float = durations.SETTLING
    conversion: float = durations.CONVERSION
    pulses_per_cell: float = 1.5

    def __post_init__(self) -> None:
        check_numbers(self)
        if min(self.exchange, self.settling, self.conversion, self.pulses_per_cell) < 0:
            raise ValueError(f"a time is negative: {self}")


@dataclass(frozen=True, eq=False)
class Batch:
    """Cells of one kernel that are written to one state: legal to fire at once.

    The board takes a kernel column by column with one gate on, drives the column to one amplitude and holds only the
    selected rows; cells of one amplitude in any rows and columns of one kernel never meet half-selected.

    Attributes
    ----------
    kernel : int
    state : int
        `coding.P` or `coding.AP`.
    mask : bool ``[rows, columns]``
    """

    kernel: int
    state: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class WriteSchedule:
    """What is written into a die, in order.

    Attributes
    ----------
    geometry : ArrayGeometry
    placement : Placement
    states : int8 ``[kernel, row, column]``
        Wanted state of every cell: 1 P, 0 AP, -1 whatever it is.
    batches : tuple of Batch
        In the order of writing.
    pulse, verify, times
        Settings.
    provenance : dict
        Where the weights come from: plain text, numbers and lists.
    """

    geometry: ArrayGeometry
    placement: Placement
    states: NDArray[np.int8]
    batches: tuple[Batch, ...]
    pulse: PulseSettings = field(default_factory=PulseSettings)
    verify: VerifyRule = field(default_factory=VerifyRule)
    times: StationTimes = field(default_factory=StationTimes)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        """Cells that are written."""
        return sum(int(np.count_nonzero(batch.mask)) for batch in self.batches)

    @property
    def station_time(self) -> float:
        """Estimated time at the station (s): a read before, pulses, and a read after each attempt."""
        times, total = self.times, 0.0
        for batch in self.batches:
            cells, columns = np.count_nonzero(batch.mask), np.count_nonzero(batch.mask.any(axis=0))
            read = times.exchange + columns * times.settling + cells * self.verify.averages * times.conversion
            fire = times.exchange + columns * times.settling + cells * self.pulse.width
            total += read + times.pulses_per_cell * (fire + read)
        return total

    def content_digest(self) -> str:
        """SHA-256 of everything in the schedule, in hexadecimal."""
        return content_digest(f"{FORMAT} {VERSION}", _settings(self), _arrays(self))

    def save(self, path: Path | str) -> None:
        """Write an HDF5 file beside `path`, force it to disk, then rename it: `path` is whole or as it was."""
        settings = {name: dump(value) for name, value in _settings(self).items()}
        head = {"format": FORMAT, "version": VERSION, "digest": self.content_digest()}
        write_file(Path(path), head | settings, _arrays(self))

    @classmethod
    def load(cls, path: Path | str) -> WriteSchedule:
        """Read a file written by `save`; nothing in it is trusted.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ScheduleFileError
            If it is not a schedule of a version we know, or an array has a wrong shape, type or range, or batches and
            states contradict each other, or it is not what was saved.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no write schedule at {path}; xbar map makes one")
        try:
            with h5py.File(path, "r") as file:
                schedule, digest = _read(file)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ScheduleFileError(
                f"{path} is not a sound write schedule: {error}; make it again with xbar map"
            ) from error
        if schedule.content_digest() != digest:
            raise ScheduleFileError(
                f"{path} was changed after it was saved: its content does not have its digest; make it again with "
                "xbar map"
            )
        return schedule


def build_schedule(
    weights: Sequence[ArrayLike],
    placement: Placement,
    pulse: PulseSettings | None = None,
    *,
    verify: VerifyRule | None = None,
    times: StationTimes | None = None,
    provenance: dict[str, Any] | None = None,
    die: DieRecord | None = None,
) -> WriteSchedule:
    """Schedule that writes weights into their cells.

    Kernels come in order. In a kernel the state with the stronger pulse is written first (AP first if they are equal:
    the P state draws more current under the same voltage): what a strong pulse disturbs in its neighbours is then
    written and verified afterwards, by pulses that disturb less.

    Parameters
    ----------
    weights : one array ``[n_out, n_in]`` of -1, 0, +1 for each layer
    placement : Placement
    pulse, verify, times, provenance
        See `WriteSchedule`.
    die : DieRecord, optional
        A measured die: cells with a hard defect are left out of the batches. Pulses would not change them, and a short
        takes the current of several cells.
    """
    pulse = pulse or PulseSettings()
    states = encode(weights, placement).states
    writable = np.ones(states.shape, bool) if die is None else ~np.isin(die.cell_class, HARD_DEFECTS)
    if writable.shape != states.shape:
        raise ValueError(f"the record of die {die.die if die else ''} has another geometry than the placement")
    ap_first = abs(pulse.amplitude_to_ap) >= abs(pulse.amplitude_to_p)
    batches = []
    for kernel in range(placement.geometry.kernels):
        for state in (AP, P) if ap_first else (P, AP):
            mask = (states[kernel] == state) & writable[kernel]
            if mask.any():
                batches.append(Batch(kernel, state, mask))
    return WriteSchedule(
        placement.geometry,
        placement,
        states,
        tuple(batches),
        pulse,
        verify or VerifyRule(),
        times or StationTimes(),
        json.loads(dump(provenance or {})),
    )


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file, in hexadecimal, for `WriteSchedule.provenance`."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settings(schedule: WriteSchedule) -> dict[str, Any]:
    """What goes into attributes, as JSON."""
    return {
        "pulse": asdict(schedule.pulse),
        "verify": asdict(schedule.verify),
        "times": asdict(schedule.times),
        "provenance": schedule.provenance,
    }


def _arrays(schedule: WriteSchedule) -> dict[str, NDArray[Any]]:
    """What goes into datasets, little-endian whatever the machine."""
    geometry, batches = schedule.geometry, schedule.batches
    masks = np.zeros((len(batches), geometry.rows, geometry.columns), np.uint8)
    for number, batch in enumerate(batches):
        masks[number] = batch.mask
    arrays: dict[str, NDArray[Any]] = {
        **geometry_arrays(geometry),
        "states": schedule.states.astype("i1"),
        "batches/kernel": np.array([batch.kernel for batch in batches], "<i8"),
        "batches/state": np.array([batch.state for batch in batches], "i1"),
        "batches/mask": masks,
        **placement_arrays(schedule.placement),
    }
    return arrays


def _read(file: h5py.File) -> tuple[WriteSchedule, str]:
    check_format(file, FORMAT, VERSION)
    geometry = read_geometry(file)
    states = read_array(file, "states", "i1", geometry.shape, (DONT_CARE, P)).astype(np.int8)
    placement = read_placement(file, geometry)
    if np.any((states == DONT_CARE) == placement.used):
        raise ValueError("states are given for other cells than those that hold weights")
    provenance = json.loads(read_text(file, "provenance"))
    if not isinstance(provenance, dict):
        raise ValueError("its provenance is not a table")
    schedule = WriteSchedule(
        geometry,
        placement,
        states,
        _read_batches(file, geometry, states),
        PulseSettings(**json.loads(read_text(file, "pulse"))),
        VerifyRule(**json.loads(read_text(file, "verify"))),
        StationTimes(**json.loads(read_text(file, "times"))),
        provenance,
    )
    return schedule, read_text(file, "digest")


def _read_batches(file: h5py.File, geometry: ArrayGeometry, states: NDArray[np.int8]) -> tuple[Batch, ...]:
    """Batches, checked against the states: no cell twice, each to the state it is to have."""
    kernel = read_array(file, "batches/kernel", "<i8", None, (0, geometry.kernels - 1))
    n = kernel.size
    state = read_array(file, "batches/state", "i1", (n,), (AP, P))
    mask = read_array(file, "batches/mask", "u1", (n, geometry.rows, geometry.columns), (0, 1)).astype(bool)
    seen = np.zeros(geometry.shape, bool)
    for k, s, m in zip(kernel, state, mask, strict=True):
        if np.any(m & (seen[k] | (states[k] != s))):
            raise ValueError(f"a batch of kernel {k} writes a cell twice or to a state that it is not to have")
        seen[k] |= m
    return tuple(Batch(int(k), int(s), m) for k, s, m in zip(kernel, state, mask, strict=True))
