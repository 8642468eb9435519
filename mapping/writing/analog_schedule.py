"""Write schedules of analog dies: which conductance goes into which cell, in which order, by which algorithm.

A file as a `mapping.writing.schedule.WriteSchedule` is one: it names the source of its weights, holds what `protocols`
needs to multiply with what was written, no time and no host, and reads back bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from mapping.dies.analog_die import AnalogDie
from mapping.dies.geometry import ArrayGeometry
from mapping.placement.placement import Placement
from mapping.writing.conductance_targets import ConductanceTargets
from mapping.writing.converge import ConvergeToTarget
from mapping.writing.schedule import StationTimes
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
from mapping.writing.touch_up import Passes, check_writing, may_be_written_at_once, write_order

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

FORMAT = "xbarlab analog write schedule"
VERSION = 1

Parallel = Literal["cell", "line"]

#: Pulses that a cell takes in all passes, for estimates (8 x 8 default devices at V/2, docs/models/tio2.md).
PULSES_PER_CELL = 34


@dataclass(frozen=True, eq=False)
class AnalogBatch:
    """Cells of one kernel that are worked on together: what the scheme can select at once, and nothing else.

    Pulses of the same amplitude are fired at once; after each round all cells of the batch are read.

    Attributes
    ----------
    kernel : int
    mask : bool ``[rows, columns]``
    """

    kernel: int
    mask: BoolArray


@dataclass(frozen=True, eq=False)
class AnalogSchedule:
    """What is written into an analog die, and how.

    Attributes
    ----------
    targets : ConductanceTargets
    batches : tuple of AnalogBatch
        In the order of the first writing; later passes go by what a read of the whole array finds.
    settings : ConvergeToTarget
        The algorithm and its limits.
    scheme : str
        Bias scheme of the pulses, ``"V/2"`` or ``"V/3"``.
    parallel : str
        ``"cell"``: one cell at a time. ``"line"``: all cells of a column, as far as they need the same amplitude.
    passes : Passes
        When to stop.
    dose_limit : int
        Pulses to a cell over its whole life, by the record's ledger.
    placement : Placement or None
        Where the weights are, if that is not plain from elsewhere.
    times : StationTimes
        For estimates.
    provenance : dict
        Where the targets come from: plain text, numbers and lists.
    """

    targets: ConductanceTargets
    batches: tuple[AnalogBatch, ...]
    settings: ConvergeToTarget = field(default_factory=ConvergeToTarget)
    scheme: str = "V/2"
    parallel: Parallel = "cell"
    passes: Passes = field(default_factory=Passes)
    dose_limit: int = 10_000
    placement: Placement | None = None
    times: StationTimes = field(default_factory=StationTimes)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_writing(self.scheme)
        if self.parallel not in ("cell", "line"):
            raise ValueError(f"parallel {self.parallel!r}: 'cell' or 'line'")
        if isinstance(self.dose_limit, bool) or not isinstance(self.dose_limit, int) or self.dose_limit < 1:
            raise ValueError(f"dose_limit {self.dose_limit!r} must be a whole number of at least 1")

    @property
    def geometry(self) -> ArrayGeometry:
        """Of the die."""
        return self.targets.geometry

    @property
    def cells(self) -> int:
        """Cells that are written."""
        return sum(int(np.count_nonzero(batch.mask)) for batch in self.batches)

    @property
    def station_time(self) -> float:
        """Estimated time at the station (s): a read and a pulse for each round of each batch."""
        times, rounds = self.times, PULSES_PER_CELL * len(self.batches)
        reads = rounds * (times.exchange + times.settling) + PULSES_PER_CELL * self.cells * times.conversion
        return reads + rounds * (times.exchange + times.settling) + PULSES_PER_CELL * self.cells * self.settings.width

    def content_digest(self) -> str:
        """SHA-256 of everything in the schedule, in hexadecimal."""
        return content_digest(f"{FORMAT} {VERSION}", _settings(self), _arrays(self))

    def save(self, path: Path | str) -> None:
        """Write an HDF5 file beside `path`, force it to disk, then rename it: `path` is whole or as it was."""
        settings = {name: dump(value) for name, value in _settings(self).items()}
        head = {"format": FORMAT, "version": VERSION, "digest": self.content_digest()}
        write_file(Path(path), head | settings, _arrays(self))

    @classmethod
    def load(cls, path: Path | str) -> AnalogSchedule:
        """Read a file written by `save`; nothing in it is trusted.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ScheduleFileError
            If it is no analog schedule of a version we know, or not a sound one, or not what was saved.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no write schedule at {path}; xbar map makes one")
        try:
            with h5py.File(path, "r") as file:
                schedule, digest = _read(file)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise ScheduleFileError(
                f"{path} is not a sound analog schedule: {error}; make it again with xbar map"
            ) from error
        if schedule.content_digest() != digest:
            raise ScheduleFileError(
                f"{path} was changed after it was saved: its content does not have its digest; make it again with "
                "xbar map"
            )
        return schedule


def build_analog_schedule(
    targets: ConductanceTargets,
    settings: ConvergeToTarget | None = None,
    *,
    scheme: str = "V/2",
    parallel: Parallel = "cell",
    passes: Passes | None = None,
    dose_limit: int = 10_000,
    placement: Placement | None = None,
    times: StationTimes | None = None,
    provenance: dict[str, Any] | None = None,
    die: AnalogDie | None = None,
) -> AnalogSchedule:
    """Schedule that writes targets: insensitive cells first, sensitive ones last, what has most to change before.

    Parameters
    ----------
    targets, settings, scheme, parallel, passes, dose_limit, placement, times, provenance
        See `AnalogSchedule`.
    die
        A measured die: its broken cells are left out of the batches, and how far each cell has to go is known.

    Raises
    ------
    TargetError, SchemeError
        If that cannot be written, see `ConductanceTargets.check`.
    """
    settings = settings or ConvergeToTarget()
    targets.check(settings, die)
    cells = targets.wanted if die is None else targets.wanted & die.writable
    goal = np.where(targets.wanted, targets.g, settings.g_min)
    start = (settings.g_min + settings.g_max) / 2 if die is None else die.g
    batches = tuple(batches_of(cells, targets.sensitivity, np.abs(goal - start) / goal, parallel))
    return AnalogSchedule(
        targets,
        batches,
        settings,
        scheme,
        parallel,
        passes or Passes(),
        dose_limit,
        placement,
        times or StationTimes(),
        json.loads(dump(provenance or {})),
    )


def batches_of(cells: BoolArray, late: FloatArray, early: FloatArray, parallel: Parallel) -> Iterator[AnalogBatch]:
    """Cells ``[kernel, row, column]`` as batches in the order of writing, see `mapping.writing.touch_up.write_order`.

    A line is as late as the latest of its cells, and as early as the earliest among those.
    """
    kernels, rows, columns = cells.shape
    for kernel in range(kernels):
        chosen = cells[kernel]
        if parallel == "line":
            latest, earliest = (np.where(chosen, key[kernel], -np.inf).max(axis=0) for key in (late, early))
            for column in write_order(chosen.any(axis=0), latest, earliest):
                if column >= 0:
                    yield AnalogBatch(kernel, chosen & (np.arange(columns) == column))
            continue
        for cell in write_order(chosen.ravel(), late[kernel].ravel(), early[kernel].ravel()):
            if cell >= 0:
                yield AnalogBatch(kernel, (np.arange(rows * columns) == cell).reshape(rows, columns))


def _settings(schedule: AnalogSchedule) -> dict[str, Any]:
    """What goes into attributes, as JSON."""
    return {
        "settings": schedule.settings.to_dict(),
        "scheme": schedule.scheme,
        "parallel": schedule.parallel,
        "passes": asdict(schedule.passes),
        "dose_limit": schedule.dose_limit,
        "placed": schedule.placement is not None,
        "times": asdict(schedule.times),
        "provenance": schedule.provenance,
    }


def _arrays(schedule: AnalogSchedule) -> dict[str, NDArray[Any]]:
    """What goes into datasets, little-endian whatever the machine."""
    geometry, targets = schedule.geometry, schedule.targets
    masks = np.zeros((len(schedule.batches), geometry.rows, geometry.columns), np.uint8)
    for number, batch in enumerate(schedule.batches):
        masks[number] = batch.mask
    return {
        **geometry_arrays(geometry),
        "targets/g": targets.g.astype("<f8"),
        "targets/tolerance": targets.tolerance.astype("<f8"),
        "targets/sensitivity": targets.sensitivity.astype("<f8"),
        "batches/kernel": np.array([batch.kernel for batch in schedule.batches], "<i8"),
        "batches/mask": masks,
        **(placement_arrays(schedule.placement) if schedule.placement is not None else {}),
    }


def _read(file: h5py.File) -> tuple[AnalogSchedule, str]:
    check_format(file, FORMAT, VERSION)
    geometry = read_geometry(file)
    names = ("scheme", "parallel", "dose_limit", "provenance", "placed")
    said = {name: json.loads(read_text(file, name)) for name in names}
    if not isinstance(said["provenance"], dict):
        raise ValueError("its provenance is not a table")
    real = [
        read_array(file, f"targets/{name}", "<f8", geometry.shape, (-np.inf, np.inf)).astype(np.float64)
        for name in ("g", "tolerance", "sensitivity")
    ]
    settings = ConvergeToTarget.from_dict(json.loads(read_text(file, "settings")))
    targets = ConductanceTargets(geometry, *real)
    targets.check(settings)
    schedule = AnalogSchedule(
        targets,
        _read_batches(file, targets, said["scheme"]),
        settings,
        said["scheme"],
        said["parallel"],
        Passes(**json.loads(read_text(file, "passes"))),
        said["dose_limit"],
        read_placement(file, geometry) if said["placed"] else None,
        StationTimes(**json.loads(read_text(file, "times"))),
        said["provenance"],
    )
    return schedule, read_text(file, "digest")


def _read_batches(file: h5py.File, targets: ConductanceTargets, scheme: str) -> tuple[AnalogBatch, ...]:
    """Batches, checked: cells that have a target, none twice, each batch legal to fire at once."""
    geometry = targets.geometry
    kernel = read_array(file, "batches/kernel", "<i8", None, (0, geometry.kernels - 1))
    mask = read_array(file, "batches/mask", "u1", (kernel.size, geometry.rows, geometry.columns), (0, 1)).astype(bool)
    seen = np.zeros(geometry.shape, bool)
    for k, m in zip(kernel, mask, strict=True):
        if np.any(m & (seen[k] | ~targets.wanted[k])):
            raise ValueError(f"a batch of kernel {k} writes a cell twice, or one that has no target")
        if not may_be_written_at_once(m, scheme):
            raise ValueError(f"a batch of kernel {k} has cells that {scheme} cannot select at once")
        seen[k] |= m
    return tuple(AnalogBatch(int(k), m) for k, m in zip(kernel, mask, strict=True))
