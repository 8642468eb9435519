"""Methods compared over many drawn lots: errors at every point, and the numbers told of them.

A point is a lot with one value changed (defect rate, resistance of a short, resistance of the selector) and one seed.
All errors are emulated from die records, fractions of the test images, 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.results.summary import CLOSE, TRAININGS

FloatArray = NDArray[np.float64]

#: A place in the sweeps: multiple of the lot's defect rate, resistance of a short (Ohm), of the selector (Ohm).
Place = tuple[float, float, float]

#: Sweeps by name: which part of a place varies, and the words for its axis.
SWEEPS = {
    "defect_rate": (0, "defect rate (multiple of the lot's own)"),
    "short": (1, "resistance of a short (Ohm)"),
    "selector": (2, "resistance of the selector (Ohm)"),
}

#: The share of the loss that a method recovers is told where the unaware network loses this much; else it is noise.
LOSS_MIN = 0.01

#: Methods whose network knows the defects of every other die: told apart for both halves.
FITTED = ("statistics_aware", "calibrated")


@dataclass(frozen=True, eq=False)
class LotPoint:
    """What the methods gave on the dies of one drawn lot.

    Attributes
    ----------
    place : Place
    seed : int
        Of the lot and of all trainings.
    software : float
        Error of the unaware network in ideal arithmetic.
    unusable : int
        Dies that were drawn and could not be measured.
    defects : int ``[die]``
        Cells of each die that are not good.
    errors : dict of float ``[die]``
        By method.
    fitted : int ``[any]``
        Dies that the statistics were fitted on.
    seconds : float
        Computing time.
    """

    place: Place
    seed: int
    software: float
    unusable: int
    defects: NDArray[np.int64]
    errors: dict[str, FloatArray]
    fitted: NDArray[np.int64]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `from_dict` gives the same back."""
        scale, r_short, r_selector = self.place
        where = {"scale": scale, "r_short": r_short, "r_selector": r_selector, "seed": self.seed}
        errors = {name: error.tolist() for name, error in self.errors.items()}
        found = {"software": self.software, "unusable": self.unusable, "defects": self.defects.tolist(),
                 "fitted": self.fitted.tolist()}  # fmt: skip
        return {**where, **found, "seconds": self.seconds, "errors": errors}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LotPoint:
        """Inverse of `to_dict`."""
        return cls(
            place=(float(data["scale"]), float(data["r_short"]), float(data["r_selector"])),
            seed=int(data["seed"]),
            software=float(data["software"]),
            unusable=int(data["unusable"]),
            defects=np.asarray(data["defects"], np.int64),
            errors={name: np.asarray(error, float) for name, error in data["errors"].items()},
            fitted=np.asarray(data.get("fitted", range(0, len(data["defects"]), 2)), np.int64),
            seconds=float(data["seconds"]),
        )


def sweeps(points: Sequence[LotPoint], default: Place) -> dict[str, Any]:
    """Numbers of every sweep, JSON: per value and method mean, sd over dies, worst, deciles, per seed, both halves.

    A point belongs to a sweep if nothing but the swept value differs from `default`.
    """
    out: dict[str, dict[str, Any]] = {}
    for name, (part, words) in SWEEPS.items():
        others = [i for i in range(3) if i != part]
        own = [p for p in points if all(p.place[i] == default[i] for i in others)]
        values = sorted({p.place[part] for p in own})
        at = [_at_value(value, [p for p in own if p.place[part] == value]) for value in values]
        out[name] = {"axis": words, "default": default[part], "points": at}
    out["defect_rate"]["leaves_software"] = {m: leaves_software(out["defect_rate"]["points"], m) for m in TRAININGS}
    return out


def leaves_software(points: list[dict[str, Any]], method: str) -> dict[str, Any]:
    """Where on the axis of defect rates the mean error of a method is `CLOSE` above software.

    Interpolated between points, over the logarithm of the rate. `found` is ``at``, ``below`` (the first point is worse
    already), ``above`` (no point is) or ``unknown``.
    """
    there = [(p["value"], p["methods"][method]["minus_software"]) for p in points if method in p["methods"]]
    if not there:
        return {"found": "unknown", "value": None}
    worse = [w >= CLOSE for _, w in there]
    if not any(worse):
        return {"found": "above", "value": there[-1][0]}
    first = worse.index(True)
    if first == 0:
        return {"found": "below", "value": there[0][0]}
    (x0, y0), (x1, y1) = there[first - 1], there[first]
    share = (CLOSE - y0) / (y1 - y0)
    return {"found": "at", "value": float(np.exp((1 - share) * np.log(x0) + share * np.log(x1)))}


def _at_value(value: float, points: list[LotPoint]) -> dict[str, Any]:
    """Numbers of all methods at one value, over dies and seeds."""
    software = float(np.mean([p.software for p in points]))
    before = float(np.mean(np.concatenate([p.errors["unaware"] for p in points])))
    methods: dict[str, Any] = {
        "software": {"mean": software, "per_seed": {str(p.seed): {"mean": p.software} for p in points}}
    }
    for name in TRAININGS:
        methods[name] = _method(points, name, software, before)
    return {
        "value": value,
        "dies": sum(p.defects.size for p in points),
        "unusable": sum(p.unusable for p in points),
        "defective_cells": float(np.mean(np.concatenate([p.defects for p in points]))),
        "methods": methods,
    }


def _method(points: list[LotPoint], name: str, software: float, before: float) -> dict[str, Any]:
    error = np.concatenate([p.errors[name] for p in points])
    low, high = np.percentile(error, [10, 90])
    lost = before - software
    out = _spread(error) | {"low": float(low), "high": float(high), "minus_software": float(error.mean()) - software}
    out["recovered"] = float((before - error.mean()) / lost) if lost >= LOSS_MIN else None
    out["per_seed"] = {str(p.seed): _spread(p.errors[name]) | {"per_die": p.errors[name].tolist()} for p in points}
    if name in FITTED:
        out["fit_half"] = _spread(np.concatenate([p.errors[name][p.fitted] for p in points]))
        out["unseen_half"] = _spread(np.concatenate([np.delete(p.errors[name], p.fitted) for p in points]))
    return out


def _spread(error: FloatArray) -> dict[str, Any]:
    sd = float(error.std(ddof=1)) if error.size > 1 else None
    return {"mean": float(error.mean()), "sd": sd, "worst": float(error.max())}
