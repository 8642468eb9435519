"""A run as a folder of CSV files (UTF-8, comma, one header line), for whatever reads tables.

* `run.json`: the run with its provenance.
* `steps.csv`, `verdicts.csv`, `events.csv`.
* `pulses.csv`: a line per pulse; `mask` is the packed mask in hex, row by row, lowest bit first.
* `dose.csv`: a line per cell that had a pulse.
* `steps/NUMBER_DIE_FUNCTION/`: a table per set of dimensions (`kernel-row-column.csv`: a line per cell; `scalars.csv`:
  one line), and `about.json` with attributes, and type, shape and attributes of every variable.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from analysis.record.datasets import from_json, to_json
from analysis.record.record import COMPUTED, StepRow
from analysis.record.run_contents import RunContents, same

_FIRED = {True: "yes", False: "no", None: "unknown"}
_Table = tuple[list[str], list[list[str]]]


def write(contents: RunContents, path: Path) -> None:
    """Write a new folder."""
    path.mkdir()
    _write_json(path / "run.json", contents.run)
    for name, table in _tables(contents).items():
        _write_table(path / name, table)
    for row in contents.steps:
        folder, result = path / _place(row), contents.result(row)
        folder.mkdir(parents=True)
        _write_json(folder / "about.json", _about(row, result))
        for file, columns in _frames(result):
            frame = pd.DataFrame({name: _texts(values) for name, values in columns.items()})
            frame.to_csv(folder / file, index=False, lineterminator="\n", na_rep="nan")


def difference(contents: RunContents, path: Path) -> str | None:
    """The first part of a folder that is not as in the record, None if all is."""
    if _read_json(path / "run.json") != to_json(contents.run, "run"):
        return "run.json"
    for name, table in _tables(contents).items():
        if _read_table(path / name) != table:
            return name
    for row in contents.steps:
        folder, result = path / _place(row), contents.result(row)
        if _read_json(folder / "about.json") != to_json(_about(row, result), "about"):
            return f"{folder.name}/about.json"
        for file, columns in _frames(result):
            read = pd.read_csv(folder / file, dtype=str, keep_default_na=False)
            if list(read) != list(columns):
                return f"{folder.name}/{file}"
            for name, values in columns.items():
                if not same(_values(read[name], values.dtype), values):
                    return f"{folder.name}/{file}, {name}"
    return None


# steps


def _place(row: StepRow) -> str:
    die = {"": "lot", COMPUTED: "computed"}.get(row.step.die, row.step.die)
    return f"steps/{row.step.id:06d}_{_word(die)}_{_word(row.step.name.rpartition('.')[2])}"


def _about(row: StepRow, result: xr.Dataset) -> dict[str, Any]:
    variables = {
        str(name): {
            "dims": list(variable.dims),
            "shape": list(variable.shape),
            "dtype": variable.dtype.str,
            "attrs": dict(variable.attrs),
        }
        for name, variable in result.variables.items()
    }
    about = {"step": asdict(row.step), "protocol": row.protocol, "inputs": row.inputs}
    return about | {"attrs": dict(result.attrs), "variables": variables}


def _frames(result: xr.Dataset) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """File name and columns of each table of a result: index or coordinate of each dimension, then the variables."""
    axes = {dim: result[dim].values if dim in result.coords else np.arange(n) for dim, n in result.sizes.items()}
    names: set[str] = set()
    for dims in dict.fromkeys(variable.dims for variable in result.variables.values()):
        grids = np.meshgrid(*(axes[dim] for dim in dims), indexing="ij") if dims else []
        columns = {str(dim): grid.ravel() for dim, grid in zip(dims, grids, strict=True)}
        for name, variable in result.variables.items():
            if variable.dims == dims and name not in dims:
                columns[str(name)] = np.asarray(variable.values).ravel()
        file = "-".join(_word(str(dim)) for dim in dims) or "scalars"
        while file in names:
            file += "_"
        names.add(file)
        yield f"{file}.csv", columns


def _texts(values: NDArray[Any]) -> NDArray[Any]:
    """Values as pandas writes them without loss: dates as text, durations as their count of units."""
    kind = values.dtype.kind
    return values.astype(str) if kind == "M" else values.view(np.int64) if kind == "m" else values


def _values(read: pd.Series[str], dtype: np.dtype[Any]) -> NDArray[Any]:
    texts = read.to_numpy(object).astype(str) if len(read) else np.zeros(0, str)
    if dtype.kind == "b":
        return texts == "True"
    return texts.astype(np.int64).view(dtype) if dtype.kind == "m" else texts.astype(dtype)


# what is not a step


def _tables(contents: RunContents) -> dict[str, _Table]:
    return {
        "steps.csv": _steps(contents),
        "verdicts.csv": _rows(["run", "die", "verdict", "bin", "reason", "time"], map(asdict, contents.verdicts)),
        "events.csv": _rows(["run", "die", "time", "kind", "message", "data"], contents.events),
        "pulses.csv": _pulses(contents),
        "dose.csv": _dose(contents),
    }


def _steps(contents: RunContents) -> _Table:
    keys = ["id", "run", "protocol", "die", "name", "function", "source", "inputs_digest", "started", "ended",
            "verdict", "inputs"]  # fmt: skip
    rows = ({**asdict(row.step), "protocol": row.protocol, "inputs": row.inputs} for row in contents.steps)
    return _rows(keys, rows)


def _pulses(contents: RunContents) -> _Table:
    keys = ["die", "run", "batch", "position", "time", "kernel", "amplitude", "width", "count", "scheme",
            "cells", "fired", "rows", "columns", "mask"]  # fmt: skip
    rows = []
    for die, intents in contents.intents.items():
        for intent in intents:
            pulse, (lines, columns) = intent.pulse, intent.pulse.mask.shape
            mask = np.packbits(pulse.mask, bitorder="little").tobytes().hex()
            rows.append([die, intent.run, intent.batch, intent.position, intent.time, pulse.kernel, pulse.amplitude,
                         pulse.width, pulse.count, pulse.scheme or "", int(pulse.mask.sum()), _FIRED[intent.fired],
                         lines, columns, mask])  # fmt: skip
    return keys, [[_text(value) for value in row] for row in rows]


def _dose(contents: RunContents) -> _Table:
    rows = []
    for die in contents.intents:
        dose = contents.dose(die)
        rows += [[die, *map(str, cell), str(dose[tuple(cell)])] for cell in np.argwhere(dose)]
    return ["die", "kernel", "row", "column", "pulses"], rows


def _rows(keys: list[str], rows: Any) -> _Table:
    return keys, [[_text(row[key]) for key in keys] for row in rows]


def _text(value: Any) -> str:
    return to_json(value, "value") if isinstance(value, dict | list) else str(value)


def _word(name: str) -> str:
    """A name as every file system takes it."""
    return re.sub(r"[^\w.-]", "_", name)


def _write_table(path: Path, table: _Table) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([table[0], *table[1]])


def _read_table(path: Path) -> _Table:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(json.loads(to_json(value, path.name)), indent=1), encoding="utf-8")


def _read_json(path: Path) -> str:
    return to_json(from_json(path.read_text(encoding="utf-8")), path.name)
