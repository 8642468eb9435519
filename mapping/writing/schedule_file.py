"""Files of schedules: HDF5 that is written whole, read back bit for bit, and trusted in nothing."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mapping.dies.geometry import ArrayGeometry
from mapping.placement.placement import LayerPlacement, Placement

#: More cells than any die has; a file that claims more is not read.
CELLS_MAX = 100_000_000
_PACKED, _SMALL = 100, 1 << 20  # how much smaller a dataset may be stored; bytes for which nobody asks


class ScheduleFileError(ValueError):
    """The file is not a schedule, or not a sound one."""


def dump(value: Any) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def content_digest(head: str, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of format and version, settings and arrays, in hexadecimal."""
    digest = hashlib.sha256(f"{head}\n{dump(settings)}\n".encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def write_file(path: Path, attributes: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an HDF5 file beside `path`, force it to disk, then rename it: `path` is whole or as it was."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with h5py.File(new, "w", libver=("earliest", "v110")) as file:
            for name, value in attributes.items():
                file.attrs[name] = value
            for name, array in arrays.items():
                file.create_dataset(name, data=array, track_times=False)
        with new.open("rb+") as written:
            os.fsync(written.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def check_format(file: h5py.File, known: str, version: int) -> None:
    """Refuse a file of another format or version."""
    if read_text(file, "format") != known:
        raise ValueError(f"its format is {read_text(file, 'format')!r}")
    if int(file.attrs["version"]) != version:
        raise ValueError(f"its version is {file.attrs['version']}; this program reads version {version}")


def format_of(path: Path | str) -> str:
    """What a file says that it is; empty if it says nothing of the kind."""
    try:
        with h5py.File(path, "r") as file:
            return read_text(file, "format")
    except (OSError, KeyError, ValueError, RuntimeError):
        return ""


def geometry_arrays(geometry: ArrayGeometry) -> dict[str, NDArray[Any]]:
    """What `read_geometry` reads."""
    sizes = [geometry.rows, geometry.columns, geometry.kernels, geometry.blocks]
    return {
        "geometry/sizes": np.array([*sizes, geometry.block_rows, geometry.block_columns], "<i8"),
        "geometry/kernels": np.array([geometry.kernel_block, geometry.kernel_row, geometry.kernel_column], "<i8"),
    }


def placement_arrays(placement: Placement) -> dict[str, NDArray[Any]]:
    """What `read_placement` reads."""
    arrays: dict[str, NDArray[Any]] = {"layers/count": np.array([len(placement.layers)], "<i8")}
    for number, layer in enumerate(placement.layers):
        arrays[f"layers/{number}/input_group"] = layer.input_group.astype("<i8")
        arrays[f"layers/{number}/input_row"] = layer.input_row.astype("<i8")
        arrays[f"layers/{number}/cells"] = layer.cells.astype("<i8")
    return arrays


def read_geometry(file: h5py.File) -> ArrayGeometry:
    """Geometry of a file, checked."""
    rows, columns, kernels, blocks, *block = (
        int(n) for n in read_array(file, "geometry/sizes", "<i8", (6,), (1, CELLS_MAX))
    )
    if rows * columns * kernels > CELLS_MAX:
        raise ValueError(f"{kernels} kernels of {rows} x {columns} are more cells than any die has")
    place = read_array(file, "geometry/kernels", "<i8", (3, kernels), (0, CELLS_MAX))
    limit = np.array([blocks - 1, block[0] - rows, block[1] - columns])
    if np.any(place > limit[:, None]):
        raise ValueError("a kernel lies outside its block")
    kernel_block, kernel_row, kernel_column = (tuple(int(n) for n in line) for line in place)
    return ArrayGeometry(rows, columns, kernels, blocks, block[0], block[1], kernel_block, kernel_row, kernel_column)


def read_placement(file: h5py.File, geometry: ArrayGeometry) -> Placement:
    """Placement of a file, checked."""
    count = int(read_array(file, "layers/count", "<i8", (1,), (1, 1000))[0])
    placement = Placement(geometry, tuple(_read_layer(file, number, geometry) for number in range(count)))
    placement.check()
    return placement


def _read_layer(file: h5py.File, number: int, geometry: ArrayGeometry) -> LayerPlacement:
    last = geometry.cells - 1
    cells = read_array(file, f"layers/{number}/cells", "<i8", None, (0, last)).astype(np.int64)
    if cells.ndim != 4 or cells.shape[3] != 2:
        raise ValueError(f"cells of layer {number} have shape {cells.shape}")
    group = read_array(file, f"layers/{number}/input_group", "<i8", cells.shape[1:2], (0, last)).astype(np.int64)
    row = read_array(file, f"layers/{number}/input_row", "<i8", cells.shape[1:2], (0, last)).astype(np.int64)
    return LayerPlacement(geometry, group, row, cells)


def read_text(file: h5py.File, name: str) -> str:
    """An attribute that is text."""
    value = file.attrs[name]
    if not isinstance(value, str):
        raise ValueError(f"attribute {name} is not text")
    return value


def read_array(
    file: h5py.File, name: str, dtype: str, shape: tuple[int, ...] | None, limits: tuple[float, float]
) -> NDArray[Any]:
    """A dataset of the given type, shape (any if None) and range.

    Links to other files, data kept in other files and virtual datasets are refused: they would make a schedule read
    files that its user never named.
    """
    here: Any = file
    for part in name.split("/"):
        if not isinstance(here, h5py.Group) or not isinstance(here.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is missing")
        here = here[part]
    if not isinstance(here, h5py.Dataset) or here.external or here.is_virtual:
        raise ValueError(f"{name} is not an ordinary dataset")
    if here.dtype != np.dtype(dtype) or (shape is not None and here.shape != shape):
        raise ValueError(f"{name} is {here.dtype} {here.shape} instead of {np.dtype(dtype)} {shape or ''}".rstrip())
    if here.size is None or here.size > CELLS_MAX:
        raise ValueError(f"{name} has {here.size} elements")
    takes = max(here.size, math.prod(here.chunks or ())) * here.dtype.itemsize
    if takes > _PACKED * here.id.get_storage_size() + _SMALL:
        raise ValueError(f"{name} claims {takes} bytes, and {here.id.get_storage_size()} are stored of it")
    values = here[()]
    if values.size and (values.min() < limits[0] or values.max() > limits[1]):
        raise ValueError(f"{name} has values outside {limits[0]} ... {limits[1]}")
    return np.asarray(values)
