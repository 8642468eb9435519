"""What a step returns, made into what a record holds: nothing that was measured is lost over a value of another kind.

Values are turned into the plain ones that mean the same: numpy scalars into numbers, small arrays in attributes into
lists, arrays of Python text into fixed-length text, levels of a multi-index into coordinates. What has no such value
stands as its text, and is named in the attribute `NOT_KEPT` of the result.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from analysis.record.datasets import to_json

#: Attribute of a result that names what could not be kept as it was, one text each.
NOT_KEPT = "not_kept"

#: Largest array of a result (bytes): SQLite holds 1e9 bytes in one value.
LARGEST = 900_000_000

_KINDS = "biufcmMSU"  # of dtypes that a record holds
_LIST_MAX = 4096  # numbers of an array that may stand in an attribute
_DEPTH_MAX = 32
_DIGITS_MAX = 4000  # Python reads no longer whole numbers back
_SHOWN = 1000  # characters of what is kept as text


class NotKeptError(TypeError):
    """There is no plain value that means the same."""


def keepable(result: Any, what: str) -> tuple[xr.Dataset, list[str]]:
    """A dataset that a record holds, with all of `result` that can be kept.

    Parameters
    ----------
    result
        What a step returned: a dataset, or by mistake anything else. It is not changed.
    what
        Name of the step, for what is said.

    Returns
    -------
    The dataset (the same one if a record holds it as it is), and what could not be kept, one text each; the dataset
    names it too.
    """
    if isinstance(result, xr.Dataset) and _holds(result, what):
        return result, []
    lost: list[str] = []
    kept = xr.Dataset()
    for name, (dims, array, attrs) in _variables(result, lost):
        _add(kept, _free(name, kept.variables), dims, array, attrs, lost)
    given = result.attrs if isinstance(result, xr.Dataset | xr.DataArray) else {}
    for name, value in given.items():
        _add_attribute(kept, name, value, lost)
    if isinstance(result, xr.Dataset | xr.DataArray):
        kept = kept.set_coords([name for name in map(_key, result.coords) if name in kept])
    if lost:
        kept.attrs[NOT_KEPT] = [*map(str, kept.attrs.get(NOT_KEPT, [])), *lost]
    return kept, lost


def plain(value: Any, depth: int = 0) -> Any:
    """A value of None, bool, int, float, text, lists and dicts of them that means the same.

    Raises
    ------
    NotKeptError
        There is none.
    """
    if depth > _DEPTH_MAX:
        raise NotKeptError(f"it is nested more than {_DEPTH_MAX} deep")
    if isinstance(value, enum.Enum) and not isinstance(value, int | float | str):
        return value.name
    for kind, made in _PLAIN:
        if isinstance(value, kind):
            return made(value, depth + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name), depth + 1) for each in dataclasses.fields(value)}
    raise NotKeptError(f"{type(value).__name__} is no number, text, or list of them")


def _whole(value: int, depth: int) -> int | str:
    return int(value) if value.bit_length() < 3 * _DIGITS_MAX else f"{value:#x}"


def _array(value: NDArray[Any], depth: int) -> Any:
    if value.size > _LIST_MAX:
        raise NotKeptError(f"an array of {value.size} numbers is no attribute")
    return plain(value.tolist() if value.dtype.kind not in "mMV" else _listed(value), depth)


def _listed(value: NDArray[Any]) -> Any:
    return [_listed(each) for each in value] if value.ndim else value[()]


def _scalar(value: np.generic, depth: int) -> Any:
    if value.dtype.kind in "mM":
        return str(value)
    item = value.item()
    return float(item) if isinstance(item, np.floating) else plain(item, depth)  # long doubles have no item


def _pairs(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        found[_free(_key(key), found)] = plain(item, depth)
    return found


def _text_of(value: bytes, depth: int) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex(" ")


#: How values become plain ones; the first kind that fits.
_PLAIN: tuple[tuple[Any, Callable[[Any, int], Any]], ...] = (
    (type(None), lambda value, depth: None),
    (bool, lambda value, depth: bool(value)),
    (int, _whole),
    (np.generic, _scalar),
    (float, lambda value, depth: float(value)),
    (str, lambda value, depth: str.__str__(value)),
    (complex, lambda value, depth: {"real": value.real, "imag": value.imag}),
    (bytes | bytearray | memoryview, lambda value, depth: _text_of(bytes(value), depth)),
    (datetime.date | datetime.time, lambda value, depth: value.isoformat()),
    (datetime.timedelta, lambda value, depth: value.total_seconds()),
    (PurePath, lambda value, depth: str(value)),
    (np.ndarray, _array),
    (xr.DataArray | xr.Variable | pd.Index | pd.Series, lambda value, depth: _array(np.asarray(value.values), depth)),
    (Mapping, _pairs),
    (set | frozenset, lambda value, depth: sorted((plain(each, depth) for each in value), key=repr)),
    (list | tuple | range, lambda value, depth: [plain(each, depth) for each in value]),
)

_Variable = tuple[tuple[str, ...], Any, Mapping[Any, Any]]


def _holds(result: xr.Dataset, what: str) -> bool:
    """Whether a record holds a dataset as it is."""
    for name, variable in result.variables.items():
        dims = variable.dims
        plain_name = isinstance(name, str) and all(isinstance(dim, str) for dim in dims)
        if not plain_name or len(set(dims)) < len(dims) or not isinstance(variable.dtype, np.dtype):
            return False
        if variable.dtype.kind not in _KINDS or variable.nbytes > LARGEST or variable.chunks is not None:
            return False
    try:
        for attrs in (result.attrs, *(variable.attrs for variable in result.variables.values())):
            if not all(isinstance(key, str) for key in attrs) or _deeper(attrs, _DEPTH_MAX):
                return False
            to_json(dict(attrs), what)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and dicts of a value are nested more than so many levels deep."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return bool(inner) and (levels < 0 or any(_deeper(each, levels - 1) for each in inner))


def _variables(result: Any, lost: list[str]) -> Iterable[tuple[str, _Variable]]:
    """Name, dimensions, array and attributes of all arrays in what a step returned, coordinates first."""
    if isinstance(result, xr.DataArray):
        result = xr.Dataset({_key(result.name) if result.name is not None else "values": result.variable}
                            | {_key(name): each.variable for name, each in result.coords.items()})  # fmt: skip
    if isinstance(result, xr.Dataset):
        levels = [name for name, index in result.indexes.items() if isinstance(index, pd.MultiIndex)]
        tuples = {index.name for index in result.indexes.values() if isinstance(index, pd.MultiIndex)} | set(levels)
        for name, variable in sorted(result.variables.items(), key=lambda item: item[0] not in result.coords):
            if name in tuples and name in variable.dims:
                continue  # pairs of what its levels hold
            yield _key(name), (_dims(variable.dims), lambda variable=variable: variable.values, variable.attrs)
        return
    lost.append(f"it returned {type(result).__name__}, not an xarray.Dataset")
    parts: dict[Any, Any] = {}
    if isinstance(result, Mapping):
        parts = dict(result)
    elif isinstance(result, list | tuple):
        parts = {f"item_{place}": each for place, each in enumerate(result)}
    elif result is not None:
        parts = {"values": result}
    for name, value in parts.items():
        if isinstance(value, xr.Dataset):
            lost.append(f"attributes of {_key(name)}") if value.attrs else None
            for each, variable in value.variables.items():
                own = tuple(f"{_key(name)}.{dim}" for dim in _dims(variable.dims))
                yield f"{_key(name)}.{_key(each)}", (own, lambda variable=variable: variable.values, variable.attrs)
            continue
        where = _dims(value.dims) if isinstance(value, xr.DataArray) else None
        yield _key(name), (where, lambda value=value: _asarray(value), {})  # type: ignore[misc]


def _asarray(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        return np.asarray(np.ma.filled(value.astype(float), np.nan))
    try:
        return np.asarray(value)
    except ValueError:  # rows of different lengths
        return np.array(repr(value)[:_SHOWN])


def _add(
    kept: xr.Dataset, name: str, dims: tuple[str, ...] | None, values: Callable[[], Any], attrs: Mapping[Any, Any],
    lost: list[str],
) -> None:  # fmt: skip
    """Put an array into the dataset, as it is or as what means the same."""
    try:
        array = _fixed(np.asarray(values()), name, lost)
        if array.nbytes > LARGEST:
            raise NotKeptError(f"{array.nbytes / 1e9:.1f} GB are too large; return parts of it in steps of their own")
        where = tuple(f"{name}_{axis}" for axis in range(array.ndim)) if dims is None else dims
        variable = xr.Variable(where, array)
        clash = any(kept.sizes.get(str(dim), size) != size for dim, size in variable.sizes.items())
        if clash:
            variable = xr.Variable(tuple(f"{name}.{dim}" for dim in where), array)
        for key, value in attrs.items():
            variable.attrs[_free(_key(key), variable.attrs)] = _attribute(value, f"{name}.attrs[{key!r}]", lost)
        kept[name] = variable
    except Exception as error:  # lazy arrays compute here: whatever goes wrong in them costs this array alone
        lost.append(f"{name}: {type(error).__name__}: {error}"[:_SHOWN])


def _fixed(array: NDArray[Any], name: str, lost: list[str]) -> NDArray[Any]:
    """An array of numbers or fixed-length text."""
    if array.dtype.kind in _KINDS:
        return array
    if array.dtype.kind == "T":
        return array.astype(np.str_)
    if array.dtype.kind == "O":
        items = list(array.flat)
        if all(isinstance(each, str) for each in items):
            return np.array([str.__str__(each) for each in items], np.str_).reshape(array.shape)
        if all(isinstance(each, bool | np.bool_) for each in items):
            return array.astype(np.bool_)
        numbers = all(each is None or isinstance(each, int | float | complex | np.number) for each in items)
        numbers = numbers and not any(isinstance(each, bool) for each in items)
        dates = all(isinstance(each, datetime.datetime | np.datetime64) or each is None for each in items)
        if numbers and any(each is not None for each in items):
            made = np.array([math.nan if each is None else each for each in items])
            if made.dtype.kind in "iufc":
                return made.reshape(array.shape)
        elif dates and any(each is not None for each in items):
            return array.astype("datetime64[us]")
    lost.append(f"{name}: of dtype {array.dtype}; kept as the texts of its elements")
    texts = [each if isinstance(each, str) else repr(each)[:_SHOWN] for each in array.flat]
    return np.array(texts, np.str_).reshape(array.shape)


def _add_attribute(kept: xr.Dataset, name: Any, value: Any, lost: list[str]) -> None:
    """Put an attribute into the dataset; an array that is too long for one becomes a variable."""
    key = _free(_key(name), kept.attrs)
    if isinstance(value, np.ndarray) and value.size > _LIST_MAX and value.dtype.kind in _KINDS:
        _add(kept, _free(key, kept.variables), None, lambda: value, {}, lost)
        lost.append(f"attrs[{key!r}]: an array of {value.size} numbers; kept as a variable")
        return
    kept.attrs[key] = _attribute(value, f"attrs[{key!r}]", lost)


def _attribute(value: Any, what: str, lost: list[str]) -> Any:
    try:
        return plain(value)
    except Exception as error:  # what an object of somebody else's raises when it is looked at
        lost.append(f"{what}: {error}; kept as its text")
        return _repr(value)


def _repr(value: Any) -> str:
    try:
        return repr(value)[:_SHOWN]
    except Exception as error:
        return f"<{type(value).__name__} whose text raises {type(error).__name__}>"


def _key(name: Any) -> str:
    """A name as text; the record's own key for numbers that JSON has no word for is nobody else's."""
    text = str.__str__(name) if isinstance(name, str) else str(name)
    return f"{text}_" if text == "$float" else text


def _dims(names: tuple[Any, ...]) -> tuple[str, ...]:
    """Names of dimensions as texts, each once."""
    found: dict[str, None] = {}
    for name in names:
        found[_free(_key(name), found)] = None
    return tuple(found)


def _free(name: str, taken: Iterable[Any]) -> str:
    """A name that is not taken: itself, or with a number."""
    used = set(taken)
    return next(each for each in (name, *(f"{name}_{n}" for n in range(2, len(used) + 3))) if each not in used)
