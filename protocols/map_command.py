"""`xbar map`: from a weights file to a schedule file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import xarray as xr
from rich.console import Console

from analysis.lot_results import MEASURE
from analysis.record import Record
from mapping.die_record import DieRecord
from mapping.geometry import NAMED, ArrayGeometry
from mapping.map_weights import map_weights


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
    if coding not in ("binary", "ternary"):
        raise MapError(f"--coding {coding!r}: choose binary or ternary")
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
    console = Console()
    for number, layer in enumerate(schedule.placement.layers):
        console.print(
            f"layer {number + 1}: {layer.n_in} inputs x {layer.n_out} outputs, {layer.copies} "
            f"{'copy' if layer.copies == 1 else 'copies'}, {layer.groups} input groups, {len(layer.reads)} multiplies",
            highlight=False,
        )
    share = used / schedule.geometry.cells
    console.print(f"{used} of {schedule.geometry.cells} cells ({share:.0%}); about {schedule.station_time:.1f} s a die")
    console.print(f"schedule: {output}   (sha-256 {schedule.content_digest()[:16]})", highlight=False)


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
            f"{path} is not a geometry: {error}; write the fields of mapping.geometry.ArrayGeometry as JSON"
        ) from error


def find_die(text: str) -> DieRecord:
    """The newest measured record of a die, given as ``FOLDER:DIE``."""
    folder, _, name = text.rpartition(":")
    if not folder:
        raise MapError(f"--die takes FOLDER:DIE (a run's folder and a die such as c3r2), got {text!r}")
    with Record.open(folder, create=False, write=False) as record:
        dies: dict[str, xr.Dataset] = {}
        for protocol in sorted({run["protocol"] for run in record.runs()}):
            dies |= {die: sets[-1] for die, sets in record.results(protocol, MEASURE).items()}
    if name not in dies:
        raise MapError(f"{folder} has no measured die {name!r}; it has {', '.join(sorted(dies)) or 'none'}")
    return DieRecord.from_dataset(dies[name])
