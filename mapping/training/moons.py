"""Half moons: two classes of points in the plane, as a small network can be trained on and tested with.

`half_moons` makes them; `read_moons` reads points of others from CSV files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
LabelArray = NDArray[np.int64]

NOISE = 0.2
"""Spread of the points (radii): that of the points which the authors of arXiv:2305.18495 stored."""
SIZES = (875, 125, 200)
"""Points to train with, to validate and to test: the sizes of their stored parts."""
SEED = 0
_LARGEST = 100_000_000  # bytes of a table of points
FILES = ("moons_train.csv", "moons_validation.csv", "moons_test.csv")


class MoonsError(ValueError):
    """A file holds no points of two classes."""


@dataclass(frozen=True, eq=False)
class Points:
    """Points ``[point, 2]`` within 0 ... 1 on both axes, and their classes ``[point]``, 0 or 1."""

    x: FloatArray
    label: LabelArray

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, eq=False)
class Moons:
    """Points to train with, to validate and to test with; `source` says where they come from."""

    train: Points
    validation: Points
    test: Points
    source: str


def half_moons(seed: int = SEED, noise: float = NOISE, sizes: tuple[int, int, int] = SIZES) -> Moons:
    """Two interleaving half circles of radius 1, normal noise on both axes, then each axis scaled to 0 ... 1.

    The upper half circle is about the origin and class 0, the lower one about (1, 1/2) and class 1. Classes alternate
    before the points are shuffled, so both have as many points, to one.

    Parameters
    ----------
    seed
        The same seed makes the same points for ever.
    noise
        Standard deviation of the noise, in radii.
    sizes
        Points to train with, to validate, to test.

    Raises
    ------
    ValueError
        If a part is empty, or the noise is negative.
    """
    if min(sizes) < 1 or not 0 <= noise < np.inf:
        raise ValueError(f"sizes {sizes} and noise {noise:g}: every part needs a point, and noise must not be negative")
    rng = np.random.default_rng(seed)
    count = sum(sizes)
    label = np.arange(count) % 2
    angle = rng.uniform(0.0, np.pi, count)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = np.where(label[:, None] == 0, upper, np.array([1.0, 0.5]) - upper) + noise * rng.standard_normal((count, 2))
    x = (x - x.min(axis=0)) / np.ptp(x, axis=0)
    parts = np.split(rng.permutation(count), np.cumsum(sizes)[:-1])
    train, validation, test = (Points(x[part], label[part]) for part in parts)
    return Moons(train, validation, test, f"half moons, noise {noise:g}, seed {seed}")


def read_moons(folder: Path) -> Moons:
    """Read `FILES` of a folder: CSV with a line of headings, then ``x0,x1,label`` in each.

    Raises
    ------
    MoonsError
        If a file is missing or is not of this kind; says which and where.
    """
    train, validation, test = (_read(folder / name) for name in FILES)
    return Moons(train, validation, test, f"points of {folder.name}")


def _read(path: Path) -> Points:
    try:
        if path.stat().st_size > _LARGEST:  # also: the file itself is there, not one of that name with .gz behind it
            raise MoonsError(f"{path} is larger than {_LARGEST} bytes; is it a table of points?")
        values = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    except OSError as error:
        raise MoonsError(f"cannot read {path}: give a folder with {', '.join(FILES)}") from error
    except ValueError as error:
        raise MoonsError(f"{path} is not a table of x0,x1,label: {error}") from error
    if values.size == 0 or values.shape[1] != 3:
        raise MoonsError(f"{path} has {values.shape[1] if values.size else 0} columns, not x0,x1,label")
    wrong = ~np.isfinite(values[:, :2]).all(axis=1) | ~np.isin(values[:, 2], (0, 1))
    if wrong.any():
        line = int(np.argmax(wrong)) + 2
        raise MoonsError(f"{path}, line {line}: coordinates must be numbers and labels 0 or 1")
    outside = np.any(np.abs(values[:, :2] - 0.5) > 0.5 + 1e-9, axis=1)  # a coordinate of 1 is the whole read voltage
    if outside.any():
        line = int(np.argmax(outside)) + 2
        raise MoonsError(f"{path}, line {line}: coordinates must lie from 0 to 1; scale both axes")
    return Points(values[:, :2], values[:, 2].astype(np.int64))
