"""A run as a QCoDeS database: one QCoDeS run per step, of an experiment per die. Open it with `load_by_id` or plottr.

Variables are array parameters set by their dimensions: by the coordinate of a dimension, or the index where there is
none. Scalars have one element. QCoDeS wants parameter names that are Python names; others have underscores. What
QCoDeS has no place for is in the metadata of each run as JSON: `xbarlab_step`, `xbarlab_attrs`, `xbarlab_variables`
(parameter -> name, dimensions, shape, attributes) and `xbarlab_run` with the provenance.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.datasets import to_json
from analysis.record.record import COMPUTED, Step, StepRow
from analysis.record.run_contents import RunContents, same

if TYPE_CHECKING:
    from qcodes.dataset.sqlite.connection import AtomicConnection


@dataclass(frozen=True)
class _Parameter:
    """A parameter of a QCoDeS run: its name there, its values, and the setpoints (name -> values of the same shape)."""

    name: str
    variable: str
    values: NDArray[Any]
    setpoints: dict[str, NDArray[Any]]
    units: str


def write(contents: RunContents, path: Path) -> None:
    """Write a new database; the user's own QCoDeS database and settings are not touched."""
    from qcodes.dataset.experiment_container import new_experiment

    experiments: dict[str, int] = {}
    with _database(path) as connection:
        connection.execute("PRAGMA synchronous=OFF")  # it is read back, and appears under its name only then
        for row in contents.steps:
            die = {"": "lot", COMPUTED: "computed"}.get(row.step.die, row.step.die)
            if die not in experiments:
                experiments[die] = new_experiment(row.protocol, die, conn=connection).exp_id
            _write_step(connection, experiments[die], row, contents)


def difference(contents: RunContents, path: Path) -> str | None:
    """The first step that is not as in the record, None if all are."""
    from qcodes.dataset import load_by_id

    with _database(path) as connection:
        for number, row in enumerate(contents.steps, start=1):
            data, result = load_by_id(number, conn=connection), contents.result(row)
            if any(data.metadata.get(key) != text for key, text in _metadata(row, result, contents).items()):
                return f"step {row.step.id}, metadata"
            if (data.run_timestamp_raw, data.completed_timestamp_raw) != (row.step.started, row.step.ended):
                return f"step {row.step.id}, its times"
            read = data.get_parameter_data()
            for parameter in _parameters(result):
                if not _agrees(read.get(parameter.name, {}), parameter):
                    return f"step {row.step.id}, {parameter.variable}"
    return None


def _write_step(connection: AtomicConnection, experiment: int, row: StepRow, contents: RunContents) -> None:
    from qcodes.dataset.data_set import new_data_set
    from qcodes.dataset.descriptions.dependencies import InterDependencies_
    from qcodes.parameters import ParamSpecBase

    result = contents.result(row)
    parameters = _parameters(result)
    axes = {name for parameter in parameters for name in parameter.setpoints}
    specs = {name: ParamSpecBase(name, "array") for name in axes}
    specs |= {p.name: ParamSpecBase(p.name, "array", label=p.variable, unit=p.units) for p in parameters}
    data = new_data_set(row.step.name.rpartition(".")[2], exp_id=experiment, conn=connection)
    data.set_interdependencies(
        InterDependencies_(
            dependencies={specs[p.name]: tuple(specs[s] for s in p.setpoints) for p in parameters if p.setpoints},
            standalones=tuple(specs[p.name] for p in parameters if not p.setpoints),
        )
    )
    data.mark_started()
    for parameter in parameters:
        data.add_results([{parameter.name: parameter.values, **parameter.setpoints}])
    for key, text in _metadata(row, result, contents).items():
        data.add_metadata(key, text)
    data.mark_completed()
    _set_times(connection, data.run_id, row.step)


def _set_times(connection: AtomicConnection, run: int, step: Step) -> None:
    """Give a QCoDeS run, and the experiment it is of, the times at which it was measured, not those of the export."""
    from qcodes.dataset.sqlite.connection import atomic

    times = {"started": step.started, "ended": step.ended, "run": run}
    with atomic(connection) as change:
        change.execute("UPDATE runs SET run_timestamp=:started, completed_timestamp=:ended WHERE run_id=:run", times)
        change.execute(
            "UPDATE experiments SET (start_time, end_time) = "
            "(SELECT MIN(run_timestamp), MAX(completed_timestamp) FROM runs WHERE runs.exp_id = experiments.exp_id) "
            "WHERE exp_id = (SELECT exp_id FROM runs WHERE run_id=:run)",
            times,
        )


def _parameters(result: xr.Dataset) -> list[_Parameter]:
    """The variables of a result; one that only sets others is their setpoint and none itself."""
    names: dict[str, str] = {}
    for name in (*result.dims, *result.variables):
        _name(str(name), names)
    axes = {dim: result[dim].values if dim in result.coords else np.arange(n) for dim, n in result.sizes.items()}
    found = []
    for name, variable in result.variables.items():
        if name in result.dims and any(name in other.dims for key, other in result.variables.items() if key != name):
            continue
        dims = [dim for dim in variable.dims if dim != name]
        grids = np.meshgrid(*(axes[dim] for dim in dims), indexing="ij") if dims else []
        setpoints = {names[str(dim)]: grid for dim, grid in zip(dims, grids, strict=True)}
        values = np.asarray(variable.values)
        units = str(variable.attrs.get("units", ""))
        found.append(_Parameter(names[str(name)], str(name), values.reshape(values.shape or (1,)), setpoints, units))
    return found or [_Parameter("no_variables", "", np.zeros(1), {}, "")]  # QCoDeS wants at least one


def _name(name: str, names: dict[str, str]) -> None:
    """Give a variable a name that QCoDeS takes as a parameter and SQL as a column, and that no other has."""
    python = re.sub(r"\W", "_", name)
    python = python if python.isidentifier() else f"_{python}"
    while name not in names and (_is_sql(python) or python.casefold() in map(str.casefold, names.values())):
        python += "_"
    names.setdefault(name, python)


@cache
def _is_sql(name: str) -> bool:
    """Whether a column of a QCoDeS table cannot have this name (QCoDeS does not quote it)."""
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.execute(f"CREATE TABLE results (id INTEGER, {name} array)")
        except sqlite3.OperationalError:
            return True
    return False


def _metadata(row: StepRow, result: xr.Dataset, contents: RunContents) -> dict[str, str]:
    step = {**asdict(row.step), "protocol": row.protocol, "inputs": row.inputs}
    variables = {
        p.name: {
            "name": p.variable,
            "dims": list(result[p.variable].dims),
            "shape": list(result[p.variable].shape),
            "attrs": dict(result[p.variable].attrs),
        }
        for p in _parameters(result)
        if p.variable in result.variables
    }
    return {
        "xbarlab_step": to_json(step, "step"),
        "xbarlab_attrs": to_json(dict(result.attrs), "attributes"),
        "xbarlab_variables": to_json(variables, "variables"),
        "xbarlab_run": to_json(contents.run, "run"),
    }


def _agrees(read: dict[str, NDArray[Any]], parameter: _Parameter) -> bool:
    wanted = {parameter.name: parameter.values, **parameter.setpoints}
    return read.keys() == wanted.keys() and all(same(read[key][0], values) for key, values in wanted.items())


@contextmanager
def _database(path: Path) -> Iterator[AtomicConnection]:
    from qcodes.dataset.sqlite.database import connect

    connection = connect(path)
    try:
        yield connection
    finally:
        connection.close()
