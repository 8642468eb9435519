"""One digest for anything a step takes or returns, so that equal inputs are recognised whatever they are made of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr


def array_digest(array: np.ndarray) -> str:
    """SHA-256 over dtype, shape and bytes of an array."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def describe(value: Any) -> Any:
    """A JSON-able description of `value` in which large parts stand as digests; equal values describe equally.

    Raises
    ------
    TypeError
        For anything whose content cannot be told (open files, functions, objects without fields).
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return describe(value.item())
    if isinstance(value, np.ndarray):
        return f"array:{value.dtype.str}{list(value.shape)}:{array_digest(value)[:32]}"
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, xr.Dataset):
        return {
            "attrs": describe(value.attrs),
            "arrays": {str(k): describe(v.values) for k, v in value.variables.items()},
        }
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: describe(getattr(value, f.name)) for f in fields(value) if f.compare}
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    raise TypeError(f"a step input of type {type(value).__name__} cannot be recorded; pass numbers, text, arrays, "
                    "datasets, or dataclasses of them")  # fmt: skip


def digest(value: Any) -> str:
    """SHA-256 of `describe(value)`."""
    return hashlib.sha256(json.dumps(describe(value), sort_keys=True).encode()).hexdigest()
