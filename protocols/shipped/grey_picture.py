"""`xbar run grey-picture`: a grey-scale picture written into every die of a lot of passive arrays.

Each die is measured first (stuck cells, dead lines), then written by analog write-verify until the whole array is in
tolerance or gives up with a list. What counts is the mean relative error of the functional cells in a read of all of
them after the last pulse, as in the literature (Kim 2021, Nat. Commun. 12:5198: 64 x 64, below 4 %).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record import step_names
from analysis.record.record import Record
from analysis.results.grey_picture import PictureResults, picture_results
from instruments.roles.quantities import PulseLimit, Tolerance
from mapping.dies.analog_die import AnalogDie
from mapping.dies.die_record import CellClass
from mapping.dies.geometry import ArrayGeometry
from mapping.writing.analog_schedule import AnalogSchedule, Parallel, build_analog_schedule
from mapping.writing.conductance_targets import ConductanceTargets, check_tolerance
from mapping.writing.converge import ARRAY, ConvergeToTarget
from mapping.writing.pictures import conductances, read_picture, sphere
from mapping.writing.touch_up import check_writing
from protocols.bench.bench import Die
from protocols.bench.checks import SettingError, check_caps, check_read_voltage, check_scheme
from protocols.sequencer.run import Run
from protocols.source.marks import protocol, step
from protocols.steps.analog_write import write_analog
from protocols.steps.characterise import check_contact
from protocols.steps.characterise_analog import PROBE, measure_analog, within_caps

FloatArray = NDArray[np.float64]
Report = Callable[[str, float], None]

#: Pulses at a cap before a cell is given up: the cap for large arrays is low, and ramps stay there for long (assumed).
PULSES_AT_CAP = 60


@protocol
def grey_picture(
    run: Run,
    *,
    picture: Path | None = None,
    tolerance: Tolerance = 0.01,
    cap: PulseLimit = 1.6,
    scheme: str = "V/3",
    parallel: str = "line",
    averages: int = 4,
) -> Callable[[Record], PictureResults]:
    """Write a picture into every die of a lot.

    Parameters
    ----------
    picture : Path, optional
        A file (PNG, JPEG, ...), scaled to the array; a shaded ball by default.
    tolerance : float
        Half-width of each cell's band, relative to its target.
    cap : float
        Largest amplitude of either sign (V): what a pulse puts on other cells grows with it, and in large arrays there
        are many (assumed, and measured on simulated dies).
    scheme : str
        Bias scheme of the pulses, ``V/2`` or ``V/3``; of a rack ``V/2``.
    parallel : str
        ``cell`` or ``line``: what is written at once.
    averages : int
        Reads averaged, each time a cell is looked at.
    """
    settings = picture_settings(tolerance, cap, averages)
    check_writing(scheme)
    if parallel not in ("cell", "line"):
        raise SettingError(f"parallel {parallel!r}: choose cell or line")
    geometry = ArrayGeometry.from_dict(run.survey().attrs["geometry"])
    shape = geometry.shape[1:]
    grey = sphere(shape) if picture is None else read_picture(picture, shape)
    check_read_voltage(run.survey(), settings.v_read)
    check_scheme(run.survey(), scheme)
    check_caps(run.survey(), settings)
    name = "a shaded ball" if picture is None else picture.name
    run.compute(keep_picture, grey=grey, name=name, settings=settings)
    for die in run.dies():
        with run.attempt(die):
            _write(run, die, conductances(grey, settings.g_min, settings.g_max), settings, scheme, parallel)
    return picture_results


def picture_settings(tolerance: float, cap: float, averages: int) -> ConvergeToTarget:
    """How cells are written.

    Raises
    ------
    TargetError, SettingError
        Naming the setting.
    """
    if averages < 1:
        raise SettingError(f"averages {averages}: at least 1 is needed")
    check_tolerance(tolerance, averages)
    highest = max(ARRAY.cap_set, -ARRAY.cap_reset)
    if not ARRAY.start <= cap <= highest:  # written so that NaN is refused
        raise SettingError(
            f"cap {cap:g} V: ramps start at {ARRAY.start:g} V and end at {highest:g} V; give something "
            "between, such as 1.6V"
        )
    cap_set, cap_reset = min(ARRAY.cap_set, cap), max(ARRAY.cap_reset, -cap)
    lower = cap_set < ARRAY.cap_set or cap_reset > ARRAY.cap_reset
    return replace(
        ARRAY, tolerance=tolerance, cap_set=cap_set, cap_reset=cap_reset, averages=averages,
        pulses_at_cap=PULSES_AT_CAP if lower else ARRAY.pulses_at_cap,
    )  # fmt: skip


@step(step_names.KEEP_PICTURE)
def keep_picture(report: Report, *, grey: FloatArray, name: str, settings: ConvergeToTarget) -> xr.Dataset:
    """What is to be written, for the record."""
    wanted = conductances(grey, settings.g_min, settings.g_max)
    attrs = {"name": name, "g_min": settings.g_min, "g_max": settings.g_max}
    return xr.Dataset({"wanted": (("row", "column"), wanted, {"units": "S"})}, attrs=attrs)


def _write(run: Run, die: Die, wanted: FloatArray, settings: ConvergeToTarget, scheme: str, parallel: str) -> None:
    """The steps of one die."""
    if run.step(check_contact, die).attrs["verdict"] != "pass":
        return
    probe = within_caps(PROBE, settings)
    measured = run.step(measure_analog, die, settings=settings, scheme=scheme, probe=probe)
    if measured.attrs["verdict"] != "pass":
        return
    found = AnalogDie.from_dataset(measured)
    run.step(write_analog, die, schedule=schedule_of(found, wanted, settings, scheme, parallel), found=found)


def schedule_of(
    found: AnalogDie, wanted: FloatArray, settings: ConvergeToTarget, scheme: str, parallel: str
) -> AnalogSchedule:
    """Schedule of a picture ``[row, column]`` (S), without the cells that are known to be on dead lines."""
    dead = found.cell_class == CellClass.DEAD_LINE
    targets = ConductanceTargets.of(found.geometry, wanted, settings.tolerance).without(dead)
    how: Parallel = "line" if parallel == "line" else "cell"
    return build_analog_schedule(targets, settings, scheme=scheme, parallel=how, die=found)
