"""`xbar map`: from a weights file to a schedule file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import xarray as xr

from analysis.record.own_files import check_output, is_schedule
from analysis.record.record import Record
from analysis.record.step_names import MEASURE_ANALOG, MEASURE_STATES
from instruments.roles.quantities import SHARE, VOLT, Dimension
from mapping.dies.analog_die import AnalogDie
from mapping.dies.die_record import DieRecord
from mapping.dies.geometry import NAMED, ArrayGeometry
from mapping.map_analog import map_analog
from mapping.map_weights import map_weights
from mapping.placement.differential_pairs import MAPS
from mapping.writing.conductance_targets import check_tolerance
from mapping.writing.converge import ARRAY, ConvergeToTarget
from protocols.terminal.console import console

#: Pulses in a row at a cap that was lowered: there they do the work that rising ones do elsewhere (assumed).
PULSES_AT_LOW_CAP = 60


class MapError(ValueError):
    """An argument of `xbar map` is wrong; the message says what there is."""


def map_to_file(
    weights: Path,
    output: Path,
    geometry: str,
    coding: str,
    binarise: bool,
    copies: Sequence[int] | None,
    rows: int | None,
    die: Path | None,
) -> None:
    """Map `weights` and save the schedule; prints what was placed where."""
    check_output(output, "--output", is_schedule)
    if coding not in ("binary", "ternary"):
        raise MapError(f"--coding {coding!r}: choose binary, ternary or analog")
    measured = None if die is None else find_die(str(die))
    schedule = map_weights(
        weights,
        geometry_named(geometry),
        coding,  # type: ignore[arg-type]  # checked above
        copies,
        measured,
        binarise,
        rows_per_multiply=rows,
    )
    try:
        schedule.save(output)
    except OSError as error:
        raise MapError(f"cannot write {output}: {error.strerror}; choose another --output") from error
    used = int(schedule.placement.used.sum())
    shown = console()
    for number, layer in enumerate(schedule.placement.layers):
        shown.print(
            f"layer {number + 1}: {layer.n_in} inputs x {layer.n_out} outputs, {layer.copies} "
            f"{'copy' if layer.copies == 1 else 'copies'}, {layer.groups} input groups, {len(layer.reads)} multiplies"
        )
    share = used / schedule.geometry.cells
    shown.print(f"{used} of {schedule.geometry.cells} cells ({share:.0%}); about {schedule.station_time:.1f} s a die")
    shown.print(f"schedule: {output}   (sha-256 {schedule.content_digest()[:16]})")


def map_analog_to_file(
    weights: Path,
    output: Path,
    geometry: str,
    *,
    pairs: str,
    scheme: str,
    parallel: str,
    tolerance: str,
    cap: str | None,
    copies: Sequence[int] | None,
    die: Path | None,
) -> None:
    """Map `weights` as conductances and save the schedule; prints what it will do.

    `tolerance` is a share (``0.01`` or ``1 %``), `cap` the largest amplitude of either polarity (``1.2V``), where that
    is less than the laboratory's caps.
    """
    check_output(output, "--output", is_schedule)
    if pairs not in MAPS:
        raise MapError(f"--pairs {pairs!r}: choose {' or '.join(MAPS)}")
    if parallel not in ("cell", "line"):
        raise MapError(f"--parallel {parallel!r}: choose cell or line")
    highest = None if cap is None else _quantity("cap", cap, VOLT)
    settings = settings_with(tolerance=_quantity("tolerance", tolerance, SHARE), cap=highest)
    schedule = map_analog(
        weights,
        geometry_named(geometry),
        pairs=MAPS[pairs],
        settings=settings,
        scheme=scheme,
        parallel=parallel,  # type: ignore[arg-type]  # checked above
        copies=copies,
        die=None if die is None else find_analog_die(str(die)),
    )
    try:
        schedule.save(output)
    except OSError as error:
        raise MapError(f"cannot write {output}: {error.strerror}; choose another --output") from error
    shown = console()
    shown.print(
        f"{schedule.cells} of {schedule.geometry.cells} cells, {schedule.provenance['layout']}, {pairs} pairs, "
        f"{schedule.scheme}, {settings.cap_reset:+g} to {settings.cap_set:+g} V; "
        f"about {schedule.station_time:.1f} s a die"
    )
    shown.print(f"schedule: {output}   (sha-256 {schedule.content_digest()[:16]})")


def _quantity(option: str, text: str, dimension: Dimension) -> float:
    """The value of an option."""
    try:
        return dimension.read(text)
    except ValueError as error:
        raise MapError(f"--{option}: {error}") from error


def settings_with(*, tolerance: float, cap: float | None) -> ConvergeToTarget:
    """Settings for arrays with another tolerance and lower caps; at lower caps a ramp stays there for longer.

    Raises
    ------
    MapError, TargetError
        If that leaves nothing to fire, or asks for more than a read can tell.
    """
    check_tolerance(tolerance, ARRAY.averages)
    try:
        settings = replace(ARRAY, tolerance=tolerance)
        if cap is None:
            return settings
        highest = max(ARRAY.cap_set, -ARRAY.cap_reset)
        if not ARRAY.start <= cap <= highest:  # written so that NaN is refused: it would leave the caps as they are
            raise ValueError(
                f"a cap of {cap:g} V: ramps start at {ARRAY.start:g} V and end at {highest:g} V; give something "
                "between, such as 1.6V"
            )
        cap_set, cap_reset = min(ARRAY.cap_set, cap), max(ARRAY.cap_reset, -cap)
        return replace(settings, cap_set=cap_set, cap_reset=cap_reset, pulses_at_cap=PULSES_AT_LOW_CAP)
    except ValueError as error:
        raise MapError(f"--tolerance, --cap: {error}") from error


def geometry_named(name: str) -> ArrayGeometry:
    """A geometry by name, or from a JSON file with the fields of `ArrayGeometry`."""
    if name in NAMED:
        return NAMED[name]
    path = Path(name)
    if not path.is_file():
        raise MapError(f"no geometry {name!r}; there are {', '.join(NAMED)}, or a JSON file of one")
    try:
        return ArrayGeometry.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise MapError(
            f"{path} is not a geometry: {error}; write the fields of mapping.dies.geometry.ArrayGeometry as JSON"
        ) from error


def find_die(text: str) -> DieRecord:
    """The newest measured record of a die, given as ``FOLDER:DIE``."""
    return DieRecord.from_dataset(_find(text, MEASURE_STATES))


def find_analog_die(text: str) -> AnalogDie:
    """As `find_die`, of a die of analog cells."""
    return AnalogDie.from_dataset(_find(text, MEASURE_ANALOG))


def _find(text: str, step: str) -> xr.Dataset:
    """The newest result of a step, of a die given as ``FOLDER:DIE``."""
    folder, _, name = text.rpartition(":")
    if not folder:
        raise MapError(f"--die takes FOLDER:DIE (a run's folder and a die such as c3r2), got {text!r}")
    with Record.open(folder, create=False, write=False) as record:
        dies: dict[str, xr.Dataset] = {}
        for protocol in sorted({run["protocol"] for run in record.runs()}):
            dies |= {die: sets[-1] for die, sets in record.results(protocol, step).items()}
    if name not in dies:
        raise MapError(f"{folder} has no measured die {name!r}; it has {', '.join(sorted(dies)) or 'none'}")
    return dies[name]
