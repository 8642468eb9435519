"""How results are kept: arrays as raw bytes named by their hash, everything else as JSON under a seal. No pickle."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import zlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.digest import array_digest

#: An array is compressed if this many bytes from its middle have fewer distinct values than the second number: random
#: floats have about 145 and would take ten times as long to store for nothing, maps of states have a handful.
_TRIAL_BYTES, _DISTINCT = 256, 96

#: Most bytes of an array: what a damaged or hostile file may ask for (assumed; protocols take up to 50 MB).
LARGEST = 2**29

#: Key of the one number that JSON has no word for.
_FLOAT = "$float"
_FINITE = json.JSONEncoder(allow_nan=False)

#: Dtype, shape, how stored, and data of an array by its hash; None if there is none.
Fetch = Callable[[str], tuple[str, str, str, bytes] | None]


class DamagedError(ValueError):
    """What was read is not what was stored; the message names the part."""


def to_json(value: Any, what: str) -> str:
    """Valid JSON of `value`, in which NaN and infinities stand as objects.

    Raises
    ------
    TypeError
        If it holds anything but numbers, text, None, and lists and dicts of them.
    """
    try:
        text = _dump_finite(value)
    except TypeError as error:
        raise TypeError(f"{what}: attributes must be numbers, text or lists of them ({error})") from error
    except ValueError:
        text = json.dumps(_spelled(value))
    return text


def from_json(text: str) -> Any:
    """The value of `to_json`."""
    try:
        return json.loads(text, object_hook=lambda d: float(d[_FLOAT]) if d.keys() == {_FLOAT} else d)
    except (ValueError, TypeError) as error:
        raise DamagedError(f"damaged text ({error})") from error
    except RecursionError as error:
        raise DamagedError("damaged text (lists or objects that are nested too deeply)") from error


def _dump_finite(value: Any) -> str:
    text = _FINITE.encode(value)
    if f'"{_FLOAT}":' in text:
        raise TypeError(f"the key {_FLOAT!r} is the record's own")
    return text


def _spelled(value: Any) -> Any:
    """`value` with numbers that JSON does not know as objects."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(float(value))}
    if isinstance(value, dict):
        if _FLOAT in value:
            raise TypeError(f"the key {_FLOAT!r} is the record's own")
        return {key: _spelled(item) for key, item in value.items()}
    return [_spelled(item) for item in value] if isinstance(value, list | tuple) else value


def seal(*content: Any) -> str:
    """SHA-256 over what a row holds, so that a row that was edited or damaged is noticed."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def put_dataset(db: sqlite3.Connection, dataset: xr.Dataset, what: str) -> str:
    """Store the arrays of a dataset; returns the description of its variables (JSON).

    Raises
    ------
    TypeError
        If an array or attribute is not of a kind that a record holds.
    """
    coordinates, variables = dataset.coords, []
    for name, variable in dataset.variables.items():
        attrs = {str(key): value for key, value in variable.attrs.items()}
        content = np.asarray(variable.values)
        variables.append(_put_variable(db, str(name), name in coordinates, variable.dims, attrs, content, what))
    return to_json(variables, what)


def put_conductances(db: sqlite3.Connection, kernels: NDArray[Any], g: NDArray[Any], what: str) -> str:
    """As `put_dataset` of `g` (S), ``[kernel, row, column]``, of some kernels; without the time that a dataset takes.

    Raises
    ------
    ValueError
        If `g` is not of that shape.
    """
    if g.ndim != 3 or kernels.shape != g.shape[:1]:
        raise ValueError(f"{list(g.shape)} is not [kernel, row, column] of {list(kernels.shape)} kernels")
    variables = [
        _put_variable(db, "g", False, ("kernel", "row", "column"), {"units": "S"}, g, what),
        _put_variable(db, "kernel", True, ("kernel",), {}, kernels, what),
    ]
    return to_json(variables, what)


def get_dataset(variables: str, attrs: str, fetch: Fetch) -> xr.Dataset:
    """The dataset of a description and its attributes (JSON both).

    Raises
    ------
    DamagedError
        If an array is missing or is not what was stored.
    """
    found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    try:
        for name, is_coordinate, dims, its_attrs, array in from_json(variables):
            try:
                found[bool(is_coordinate)][name] = (dims, _get_array(array, fetch), its_attrs)
            except DamagedError as error:
                raise DamagedError(f"array {name!r} {error}") from error
        data, coordinates = found
        return xr.Dataset(data, coords=coordinates, attrs=from_json(attrs))
    except DamagedError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"its description fits no dataset ({error})") from error


def _put_variable(
    db: sqlite3.Connection,
    name: str,
    coordinate: bool,
    dims: Sequence[Hashable],
    attrs: dict[str, Any],
    content: NDArray[Any],
    what: str,
) -> list[Any]:
    """Store the content of a variable; returns its part of the description."""
    return [name, coordinate, list(dims), attrs, _put_array(db, content, f"{what}: {name}")]


def _put_array(db: sqlite3.Connection, array: NDArray[Any], what: str) -> str:
    if array.dtype.kind in "OV":
        raise TypeError(f"{what} has dtype {array.dtype}; a record holds numbers, booleans and fixed-length text")
    if array.nbytes > LARGEST:
        raise TypeError(
            f"{what} has {array.nbytes / 1e6:.0f} MB; a record holds arrays of up to {LARGEST / 1e6:.0f} MB"
        )
    key, data, stored = array_digest(array), array.tobytes(), "raw"
    middle = max(0, len(data) - _TRIAL_BYTES) // 2
    if len(data) > _TRIAL_BYTES and len(set(data[middle : middle + _TRIAL_BYTES])) < _DISTINCT:
        data, stored = zlib.compress(data, 1), "zlib"
    row = (key, array.dtype.str, json.dumps(array.shape), stored, data)
    db.execute("INSERT OR IGNORE INTO arrays (hash, dtype, shape, stored, data) VALUES (?,?,?,?,?)", row)
    return key


def _size(kind: np.dtype[Any], sizes: Any) -> int:
    """Bytes of an array as it was declared, if that can be."""
    if kind.kind not in "biufcSUmM" or kind.hasobject:
        raise ValueError(f"type {kind}")
    if not isinstance(sizes, list) or not all(type(size) is int and 0 <= size <= LARGEST for size in sizes):
        raise ValueError(f"shape {str(sizes)[:60]}")
    size = kind.itemsize * math.prod(sizes)
    if size > LARGEST:
        raise ValueError(f"{size} bytes, more than a record holds")
    return size


def _get_array(key: str, fetch: Fetch) -> NDArray[Any]:
    row = fetch(key) if isinstance(key, str) else None
    if row is None:
        raise DamagedError("is missing")
    dtype, shape, stored, data = row
    try:
        kind, sizes = np.dtype(dtype), json.loads(shape)
        size = _size(kind, sizes)
        if stored == "zlib":  # no more than there should be, whatever the file says
            data = zlib.decompressobj().decompress(data, size + 1)
        array = np.frombuffer(data, kind).reshape(sizes).copy()
    except (zlib.error, ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"was edited or damaged ({error})") from error
    if array_digest(array) != key:
        raise DamagedError("was edited or damaged (its content is not what its hash says)")
    return array
