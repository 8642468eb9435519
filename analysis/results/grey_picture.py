"""From the record of dies that a picture was written into to its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.assumed import assumed
from analysis.record.record import Record
from analysis.record.step_names import KEEP_PICTURE, MEASURE_ANALOG, WRITE_ANALOG
from analysis.results.analog import defects, history, programming, times
from analysis.results.mtj_mnist import NothingMeasuredError, _latest
from mapping.dies.analog_die import AnalogDie

FloatArray = NDArray[np.float64]

PROTOCOL = "grey-picture"
#: Kinds of work that its time is told of.
KINDS = {"measuring_s": (MEASURE_ANALOG,), "writing_s": (WRITE_ANALOG,)}
#: What is compared with: Kim 2021 (Nat. Commun. 12:5198), 64 x 64 passive cells, about 99 % of them functional.
PUBLISHED = 0.04

ASSUMED = (
    "the caps and the bias scheme for large arrays: found on simulated dies",
    "errors are those of one averaged read of all cells after the last pulse, so read noise is in them",
)


@dataclass(frozen=True, eq=False)
class PictureResults:
    """A lot.

    Attributes
    ----------
    wanted : ``[row, column]``
        The picture as conductances (S).
    name : str
        Of the picture.
    scale : tuple
        Conductances of black and white (S).
    measured, written : dict
        Results of `measure_analog` and of the last `write_analog`, by die in route order.
    """

    wanted: FloatArray
    name: str
    scale: tuple[float, float]
    measured: dict[str, xr.Dataset]
    written: dict[str, xr.Dataset]
    seed: int
    time: dict[str, float]
    provenance: dict[str, str]
    assumed: tuple[str, ...] = ASSUMED


def picture_results(record: Record, protocol: str = PROTOCOL) -> PictureResults:
    """Results of the newest history of `protocol` in a record, finished or not.

    Raises
    ------
    NothingMeasuredError
        If no die was measured.
    """
    found, kept = history(record, protocol, MEASURE_ANALOG), _latest(record, protocol, KEEP_PICTURE)
    if kept is None:
        raise NothingMeasuredError(f"{protocol} did not come to its picture in {record.folder}; run it first")
    written = record.results(protocol, WRITE_ANALOG)
    return PictureResults(
        wanted=np.asarray(kept["wanted"].values, np.float64),
        name=str(kept.attrs["name"]),
        scale=(float(kept.attrs["g_min"]), float(kept.attrs["g_max"])),
        measured={name: each[-1] for name, each in found.dies.items()},
        written={name: written[name][-1] for name in found.dies if written.get(name)},
        seed=found.seed,
        time=times(record, protocol, KINDS),
        provenance=found.provenance,
        assumed=assumed(record, found.run, ASSUMED),
    )


def relative_error(results: PictureResults, die: str) -> FloatArray:
    """Relative error of every cell of a die in the end, ``[kernel, row, column]``; broken cells too, as they read."""
    held = np.nan_to_num(results.written[die]["achieved"].values)
    return np.asarray(held / results.wanted - 1, np.float64)


def of_die(results: PictureResults, die: str) -> dict[str, Any]:
    """The numbers of one die: shares, and relative errors (magnitudes) of functional cells and of all."""
    data = results.written[die]
    good = functional(results, die)
    error = np.abs(relative_error(results, die))
    own, took = error[good], programming([[data]])
    return {
        "functional": float(good.mean()),
        "mean_error": float(own.mean()) if own.size else None,
        "worst_error": float(own.max()) if own.size else None,
        "mean_error_all_cells": float(error.mean()),
        "within_tolerance": took["within_tolerance"],
        "known_broken": took["known_broken"],
        "gave_up": took["gave_up"],
        "passes": int(data.attrs["passes"]),
        "pulses_per_cell": float(data.attrs["pulses_per_cell"]),
    }


def functional(results: PictureResults, die: str) -> NDArray[np.bool_]:
    """Cells that could be written when the die was measured, ``[kernel, row, column]``: neither stuck nor dead."""
    return np.asarray(AnalogDie.from_dataset(results.measured[die]).writable)


def numbers(results: PictureResults) -> dict[str, Any]:
    """What ``--json`` writes: plain dictionaries, lists, numbers and None (where nothing was written)."""
    dies = {die: of_die(results, die) for die in results.written}
    cells = [np.abs(relative_error(results, die))[functional(results, die)] for die in results.written]
    errors = np.concatenate(cells) if cells else np.zeros(0)
    return {
        "picture": results.name,
        "mean_error": float(errors.mean()) if errors.size else None,
        "worst_error": float(errors.max()) if errors.size else None,
        "functional": float(np.mean([each["functional"] for each in dies.values()])) if dies else None,
        "programming": programming([data] for data in results.written.values()),
        "dies": dies,
        "not_written": {
            die: str(data.attrs.get("reason", "was not reached"))
            for die, data in results.measured.items() if die not in results.written
        },
        "defects": {die: defects(data) for die, data in results.measured.items()},
        "time": dict(results.time),
        "seed": results.seed,
        "assumed": list(results.assumed),
        "provenance": dict(results.provenance),
    }  # fmt: skip
