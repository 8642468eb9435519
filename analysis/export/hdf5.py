"""A run as one HDF5 file.

* `/`: attributes of the run, `provenance` (JSON).
* `/dies/DIE/steps/NUMBER_FUNCTION`, `/lot/steps/...`, `/computed/steps/...`: a group per step. Its attributes are those
  of the result, and, after ``step.``, what the record says of the step. Its datasets are the variables; dimensions are
  labelled, and coordinates of a dimension are its scale.
* `/dies/DIE/pulses`: a column per property, `mask` is ``[pulse, row, column]``.
* `/dies/DIE/dose`: pulses per cell, ``[kernel, row, column]``.
* `/verdicts`, `/events`: a column per property.

What HDF5 has no type for: values of attributes that are lists, dicts or None are JSON (their names are in the
attribute `json`); dates are int64, text is UTF-8 (the attribute `dtype` says what it was).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.datasets import from_json, to_json
from analysis.record.record import COMPUTED, Intent, StepRow
from analysis.record.run_contents import RunContents, same

_TEXT = h5py.string_dtype()


def write(contents: RunContents, path: Path) -> None:
    """Write a new file."""
    with h5py.File(path, "w", libver=("v108", "latest")) as file:  # v108: attributes may be longer than 64 kB
        _put_attrs(file, _about(contents))
        for row in contents.steps:
            _put_step(file.create_group(_place(row)), row, contents.result(row))
        for die, intents in contents.intents.items():
            group = file.require_group(f"dies/{_word(die)}")
            _put_columns(group.create_group("pulses"), _pulse_columns(intents))
            group["dose"] = contents.dose(die)
            _label(group["dose"], ("kernel", "row", "column"))
        for name, columns in _tables(contents).items():
            _put_columns(file.create_group(name), columns)


def difference(contents: RunContents, path: Path) -> str | None:
    """The first part of a file that is not as in the record, None if all is."""
    with h5py.File(path, "r") as file:
        if _get_attrs(file) != _comparable(_about(contents)):
            return "the run"
        for row in contents.steps:
            found = _step_difference(file[_place(row)], row, contents.result(row))
            if found:
                return f"step {row.step.id}, {found}"
        for die, intents in contents.intents.items():
            group = file[f"dies/{_word(die)}"]
            if not _columns_agree(group["pulses"], _pulse_columns(intents)):
                return f"pulses of {die}"
            if not same(group["dose"][()], contents.dose(die)):
                return f"dose of {die}"
        for name, columns in _tables(contents).items():
            if not _columns_agree(file[name], columns):
                return name
    return None


def _about(contents: RunContents) -> dict[str, Any]:
    return {"format": "xbarlab run 1", **contents.run}


def _place(row: StepRow) -> str:
    home = {"": "lot", COMPUTED: "computed"}.get(row.step.die, f"dies/{_word(row.step.die)}")
    return f"{home}/steps/{row.step.id:06d}_{_word(row.step.name.rpartition('.')[2])}"


def _word(name: str) -> str:
    """A name as HDF5 takes it: no path."""
    return name.replace("/", "|") if name.strip(".") else f"|{name}"


# steps


def _put_step(group: h5py.Group, row: StepRow, result: xr.Dataset) -> None:
    _put_attrs(group, _step_attrs(row, result))
    for name, variable in result.variables.items():
        dataset = _put_array(group, _word(str(name)), np.asarray(variable.values))
        _put_attrs(dataset, _variable_attrs(variable))
        _label(dataset, variable.dims)
    for dim in result.dims:
        if dim in result.coords:
            scale = group[_word(str(dim))]
            scale.make_scale(str(dim))
            for name, variable in result.variables.items():
                if name != dim and dim in variable.dims:
                    group[_word(str(name))].dims[variable.dims.index(dim)].attach_scale(scale)


def _label(dataset: h5py.Dataset, dims: Any) -> None:
    for axis, dim in enumerate(dims):
        dataset.dims[axis].label = str(dim)


def _step_attrs(row: StepRow, result: xr.Dataset) -> dict[str, Any]:
    about = {**asdict(row.step), "protocol": row.protocol, "inputs": row.inputs}
    return dict(result.attrs) | {f"step.{key}": value for key, value in about.items()}


def _variable_attrs(variable: xr.Variable) -> dict[str, Any]:
    units = {key: value for key, value in variable.attrs.items() if key == "units"}
    return {"attrs": dict(variable.attrs), **units}


def _step_difference(group: h5py.Group, row: StepRow, result: xr.Dataset) -> str | None:
    if _get_attrs(group) != _comparable(_step_attrs(row, result)):
        return "attributes"
    if set(group) != {_word(str(name)) for name in result.variables}:
        return "variables"
    for name, variable in result.variables.items():
        dataset = group[_word(str(name))]
        named = tuple(axis.label for axis in dataset.dims) == tuple(map(str, variable.dims))
        if not named or _get_attrs(dataset) != _comparable(_variable_attrs(variable)):
            return f"attributes of {name}"
        if not same(_get_array(dataset), np.asarray(variable.values)):
            return f"{name}"
    return None


# pulses, verdicts, events


def _pulse_columns(intents: list[Intent]) -> dict[str, Any]:
    """Arrays of one entry per pulse; masks of smaller arrays are padded (their sizes are in `rows`, `columns`)."""
    shapes = np.array([intent.pulse.mask.shape for intent in intents], np.int64)
    masks = np.zeros((len(intents), *shapes.max(axis=0)), bool)
    for mask, intent in zip(masks, intents, strict=True):
        rows, columns = intent.pulse.mask.shape
        mask[:rows, :columns] = intent.pulse.mask
    fired = {True: "yes", False: "no", None: "unknown"}
    return {
        **{key: np.array([getattr(i, key) for i in intents], np.int64) for key in ("run", "batch", "position")},
        **{key: np.array([getattr(i.pulse, key) for i in intents], np.int64) for key in ("kernel", "count")},
        **{key: np.array([getattr(i.pulse, key) for i in intents]) for key in ("amplitude", "width")},
        "time": np.array([intent.time for intent in intents]),
        "rows": shapes[:, 0],
        "columns": shapes[:, 1],
        "mask": masks,
        "fired": [fired[intent.fired] for intent in intents],
        "scheme": [intent.pulse.scheme or "" for intent in intents],
    }


def _tables(contents: RunContents) -> dict[str, dict[str, Any]]:
    verdicts = [asdict(verdict) for verdict in contents.verdicts]
    events = [event | {"data": to_json(event["data"], "event")} for event in contents.events]
    texts, numbers = ("die", "verdict", "reason"), ("run", "bin", "time")
    return {
        "verdicts": _columns(verdicts, texts, numbers),
        "events": _columns(events, ("die", "kind", "message", "data"), ("run", "time")),
    }


def _columns(rows: list[dict[str, Any]], texts: tuple[str, ...], numbers: tuple[str, ...]) -> dict[str, Any]:
    return {key: [str(row[key]) for row in rows] for key in texts} | {
        key: np.array([row[key] for row in rows], np.float64 if key == "time" else np.int64) for key in numbers
    }


def _put_columns(group: h5py.Group, columns: dict[str, Any]) -> None:
    for name, values in columns.items():
        if isinstance(values, list):
            group.create_dataset(name, data=values, dtype=_TEXT, shape=(len(values),))
        else:
            packed = {"compression": "gzip", "compression_opts": 1} if values.dtype == bool and values.size else {}
            group.create_dataset(name, data=values, **packed)


def _columns_agree(group: h5py.Group, columns: dict[str, Any]) -> bool:
    def agrees(name: str, values: Any) -> bool:
        found = group[name]
        return found.asstr()[()].tolist() == values if isinstance(values, list) else same(found[()], values)

    return set(group) == set(columns) and all(agrees(name, values) for name, values in columns.items())


# arrays and attributes


def _put_array(group: h5py.Group, name: str, array: NDArray[Any]) -> h5py.Dataset:
    if array.dtype.kind == "U":
        dataset = group.create_dataset(name, data=array.astype(object), dtype=_TEXT)
    else:
        dataset = group.create_dataset(name, data=array.view(np.int64) if array.dtype.kind in "mM" else array)
    dataset.attrs["dtype"] = array.dtype.str
    return dataset


def _get_array(dataset: h5py.Dataset) -> NDArray[Any]:
    dtype = np.dtype(dataset.attrs["dtype"])
    if dtype.kind == "U":
        return np.asarray(dataset.asstr()[()], object).astype(dtype)
    values = np.asarray(dataset[()])
    return values.view(dtype) if dtype.kind in "mM" else values


def _put_attrs(owner: h5py.Group | h5py.Dataset, attrs: dict[str, Any]) -> None:
    as_json = sorted(key for key, value in attrs.items() if not _is_plain(value))
    for key, value in attrs.items():
        owner.attrs[key] = to_json(value, key) if key in as_json else value
    if as_json:
        owner.attrs["json"] = as_json


def _get_attrs(owner: h5py.Group | h5py.Dataset) -> str:
    """Attributes as `_comparable` gives them."""
    as_json = set(owner.attrs.get("json", ()))
    ours = {"json", "dtype", "CLASS", "NAME", "DIMENSION_LIST", "DIMENSION_LABELS", "REFERENCE_LIST"}
    if isinstance(owner, h5py.Group):
        ours = {"json"}
    read = {key: owner.attrs[key] for key in owner.attrs if key not in ours}
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in read.items()}
    return _comparable({key: from_json(value) if key in as_json else value for key, value in plain.items()})


def _comparable(attrs: dict[str, Any]) -> str:
    """Attributes as one text, in which NaN is NaN and the order does not matter."""
    return to_json({key: attrs[key] for key in sorted(attrs)}, "attributes")


def _is_plain(value: Any) -> bool:
    """Whether HDF5 has a type for a value."""
    if isinstance(value, str):
        return "\0" not in value
    return isinstance(value, bool | float) or (isinstance(value, int) and -(2**63) <= value < 2**63)
