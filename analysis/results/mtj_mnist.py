"""From the record of a lot to its results: everything the report shows is read back from the record."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.assumed import assumed
from analysis.record.record import COMPUTED, Record
from analysis.record.step_names import (
    CLASSIFY_IMAGES,
    EMULATE_MOVED,
    MEASURE_STATES,
    PROGRAM,
    SENSITIVITY,
    SOFTWARE,
    SURVEY,
    TRAIN_DIE_AWARE,
    TRAIN_STATISTICS_AWARE,
    TRAIN_UNAWARE,
)
from analysis.results import summary
from analysis.results.lot import LotResults, Training
from mapping.dies.die_record import CellClass, DieRecord, LineFault

TRAININGS = tuple(summary.TRAININGS)
#: Computations whose time is told of.
TRAINED = (TRAIN_UNAWARE, TRAIN_DIE_AWARE, TRAIN_STATISTICS_AWARE)


class NothingMeasuredError(RuntimeError):
    """The record holds no measured die yet."""


def lot_results(record: Record, protocol: str = "mtj-mnist") -> LotResults:
    """Results of the newest history of `protocol` in a record, finished or not.

    Raises
    ------
    NothingMeasuredError
        If no die was measured.
    """
    measured = {
        die: r for die, r in record.results(protocol, MEASURE_STATES).items() if r[-1].attrs["verdict"] == "pass"
    }
    survey = record.results(protocol, SURVEY)
    if not measured or not survey:
        raise NothingMeasuredError(
            f"no die of {protocol} was measured in {record.folder}; run it first. "
            f"Of other protocols there is no report, but xbar export {record.folder} --to csv"
        )
    sites = [tuple(int(v) for v in site) for site in survey[""][-1]["sites"].values]
    names = [f"c{column}r{row}" for column, row in sites]
    run = [run for run in record.runs() if run["protocol"] == protocol][-1]
    names = _of_run(names, run["provenance"])  # an earlier run may have gone further on the route
    kept = [i for i, name in enumerate(names) if name in measured]
    dies = [names[i] for i in kept]
    records = [DieRecord.from_dataset(measured[die][-1]) for die in dies]
    software, moved = _latest(record, protocol, SOFTWARE), _latest(record, protocol, EMULATE_MOVED)
    classified = _present(record.results(protocol, CLASSIFY_IMAGES), software)
    return LotResults(
        dies=tuple(dies),
        sites=np.array([sites[i] for i in kept]),
        software_correct=_software(software, "unaware"),
        trainings=_trainings(classified, dies, software),
        moved_emulated=_matrix(moved, len(dies)),
        moved_measured=tuple(_moved_entries(classified, dies)),
        sensitivity=_sensitivity(_latest(record, protocol, SENSITIVITY)),
        programming=_programming({d: r for d, r in record.results(protocol, PROGRAM).items() if d in dies}),
        time=_time(record, protocol),
        seed=int(run["provenance"]["seed"]),
        data="" if software is None else str(software.attrs["data"]),
        assumed=assumed(record, run, [] if software is None else software.attrs["assumed"]),
        provenance=_provenance(record, run, survey[""][-1]),
        halves=_halves(_latest(record, protocol, TRAIN_STATISTICS_AWARE), dies),
        **_cells(records),
    )


def _latest(record: Record, protocol: str, name: str) -> xr.Dataset | None:
    """What the newest run took as the result of a computation: not the newest one, if it came from the record."""
    used = [event["data"]["step"] for event in record.events("computed")]
    steps = {step.id: step for step in record.history(protocol, COMPUTED) if step.name == name}
    held = [steps[step] for step in used if step in steps] or list(steps.values())
    return record.load(held[-1]) if held else None


def _software(data: xr.Dataset | None, training: str) -> NDArray[np.bool_]:
    if data is None:
        return np.zeros(0, bool)
    return np.asarray(data["correct"].sel(training=training).values, bool)


def _present(classified: dict[str, list[xr.Dataset]], software: xr.Dataset | None) -> dict[str, list[xr.Dataset]]:
    """Measurements with the present test images; a die not visited again since may still hold those with others."""
    if software is None:
        return {}
    images = software.sizes["image"]
    return {die: [data for data in sets if data.sizes["image"] == images] for die, sets in classified.items()}


def _of_run(names: list[str], provenance: dict[str, Any]) -> list[str]:
    """Those dies of a route that a run was asked to do."""
    chosen = provenance.get("settings", {})
    only = set(chosen.get("only") or names)
    skip = {*(chosen.get("skip") or ()), chosen.get("golden")}
    return [name for name in names[: provenance.get("dies")] if name in only - skip]


def _matrix(moved: xr.Dataset | None, dies: int) -> NDArray[np.float64]:
    """Emulated transfer matrix, NaN where there is none for these dies."""
    if moved is None or moved["error"].shape != (dies, dies):
        return np.full((dies, dies), np.nan)
    return np.asarray(moved["error"].values, float)


def _trainings(
    classified: dict[str, list[xr.Dataset]], dies: list[str], software: xr.Dataset | None
) -> dict[str, Training]:
    """What was measured of each training, die by die."""
    trainings = {}
    for name in TRAININGS:
        of_name = {die: [d for d in sets if d.attrs["training"] == name] for die, sets in classified.items()}
        rows = [d for die in dies for d in of_name.get(die, [])]
        if not rows or software is None:
            continue
        base = name if name in software["training"].values else "unaware"
        correct = np.stack([np.asarray(row["correct"].values, bool) for row in rows])
        on = np.array([dies.index(die) for die in dies for _ in of_name.get(die, [])])
        trainings[name] = Training(name, correct, _software(software, base), on)
    return trainings


def _moved_entries(classified: dict[str, list[xr.Dataset]], dies: list[str]) -> list[tuple[int, int, float]]:
    return [
        (dies.index(data.attrs["network_of"]), dies.index(die), float(1 - data["correct"].values.mean()))
        for die in dies
        for data in classified.get(die, [])
        if data.attrs["training"] == "die_aware_moved" and data.attrs["network_of"] in dies
    ]


def _cells(records: list[DieRecord]) -> dict[str, Any]:
    kinds = [kind for kind in CellClass if kind is not CellClass.GOOD]
    classes = np.stack([record.cell_class for record in records])
    return {
        "defect_counts": {k.name.lower(): np.count_nonzero(classes == k, axis=(1, 2, 3)) for k in kinds},
        "line_faults": tuple(tuple(_words(fault) for fault in record.line_faults) for record in records),
        "cell_class": np.stack([record.geometry.to_blocks(record.cell_class) for record in records]),
        "g_p": np.stack([record.g_p.ravel() for record in records]).astype(np.float32),
        "g_ap": np.stack([record.g_ap.ravel() for record in records]).astype(np.float32),
        "cell_class_flat": classes.reshape(len(records), -1),
    }


def _words(fault: LineFault) -> str:
    if fault.kind == "shared_row":
        return f"row {fault.index} in all blocks"
    return f"{fault.kind} {fault.index} in block {fault.block}"


def _halves(fit: xr.Dataset | None, dies: list[str]) -> NDArray[np.int64]:
    """Which dies the statistics were fitted on (0) and which not (1), as the fit says; before it did: every other."""
    if fit is None or "fitted_on" not in fit.attrs:
        return np.arange(len(dies)) % 2
    fitted = set(fit.attrs["fitted_on"])
    return np.array([int(die not in fitted) for die in dies], np.int64)


def _sensitivity(data: xr.Dataset | None) -> dict[str, Any]:
    if data is None:
        return {}
    error = {str(name): data["error"].sel(training=name).values for name in data["training"].values}
    return {"scale": data["scale"].values, "error": error}


def _programming(programmed: dict[str, list[xr.Dataset]]) -> dict[str, float]:
    attrs = [data.attrs for sets in programmed.values() for data in sets]
    total = {key: sum(a[key] for a in attrs) for key in ("cells", "verified", "gave_up", "writable_wrong", "changed")}
    pulses = sum(a["pulses"] for a in attrs)
    per_cell = {"pulses_per_cell": pulses / max(1, total["cells"])}
    return total | per_cell | {"pulses_per_changed_cell": pulses / max(1, total["changed"])}


def _time(record: Record, protocol: str) -> dict[str, float]:
    """Wall and station time of all runs of this history, and the time that the trainings of the newest took."""
    ours = {run["id"] for run in record.runs() if run["protocol"] == protocol}
    times = [event["data"] for event in record.events("time") if event["run"] in ours]
    newest = {event["data"]["step"] for event in record.events("computed") if event["run"] == max(ours)}
    trained = [step for step in record.history(protocol, COMPUTED) if step.id in newest and step.name in TRAINED]
    return {
        "wall_s": sum(t["wall_s"] for t in times),
        "station_s": sum(t["station_s"] for t in times),
        "training_s": sum(step.ended - step.started for step in trained),
    }


def _provenance(record: Record, run: dict[str, Any], survey: xr.Dataset) -> dict[str, str]:
    known = run["provenance"]
    packages = ", ".join(f"{name} {version}" for name, version in known.get("packages", {}).items() if version)
    return {
        "measured": _when(record, run),
        "protocol": run["protocol"],
        "station": known.get("station", ""),
        "prober": survey.attrs["prober"],
        "array tester": survey.attrs["array"],
        "inputs": json.dumps(known.get("inputs", {})),
        "source": known.get("git", ""),
        "python": known.get("python", ""),
        "packages": packages,
    }


def _when(record: Record, run: dict[str, Any]) -> str:
    """When a run was done, with those that it went on with: ``2026-11-29 18:27 to 2026-11-30 02:10 (UTC+0100)``."""
    runs = {known["id"]: known for known in record.runs()}
    first = run
    while first["resumes"] in runs and first["resumes"] < first["id"]:
        first = runs[first["resumes"]]
    began = time.localtime(first["started"])
    text = time.strftime("%Y-%m-%d %H:%M", began)
    if run["ended"] is not None:
        text += f" to {time.strftime('%Y-%m-%d %H:%M', time.localtime(run['ended']))}"
    return f"{text} (UTC{time.strftime('%z', began)})"
