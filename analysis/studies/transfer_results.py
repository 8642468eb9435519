"""Results of simulated transfers: what is swept, and the numbers told of the points of all seeds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

#: Shares of the transfers at which the cumulative curve is given.
LEVELS: tuple[float, ...] = tuple(round(0.5 + 0.01 * step, 2) for step in range(51))
#: Rates of stuck cells of either kind (LRS and HRS each).
RATES: tuple[float, ...] = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1)
#: Rate of the bad dies on which the ablation of the loop is told again.
BAD_RATE = 0.1
#: Points on either axis of a decision map.
GRID = 60
METRICS = {"f95": "f95", "mean": "mean accuracy", "noise_free": "noise-free", "worst": "worst point"}
LOOP = "closed loop"
REGULAR, ALL = "regular", "all techniques"

#: What the figures of the paper, and of an independent repetition of it, lead one to expect of f95 (means over seeds).
BANDS = {REGULAR: (0.05, 0.25), ALL: (0.65, 0.82)}
GAIN = 3.0


def spread(values: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean, lowest and highest of each metric over seeds, and all values."""
    out = {}
    for key in METRICS:
        each = [value[key] for value in values]
        out[key] = {"mean": float(np.mean(each)), "low": min(each), "high": max(each), "per_seed": each}
    return out


def summary(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers over seeds for each map, JSON."""
    out: dict[str, Any] = {}
    for name in dict.fromkeys(point["map"] for point in points):
        own = [point for point in points if point["map"] == name]
        out[name] = {
            "seeds": [point["seed"] for point in own],
            "table": _over_seeds([point["table"] for point in own]),
            "sources": _over_seeds_twice([point["sources"] for point in own]),
            "curves": {net: np.mean([p["curves"][net] for p in own], axis=0).round(4).tolist()
                       for net in own[0]["curves"]},
            "cliff": {net: [spread(at) for at in zip(*(p["cliff"][net] for p in own), strict=True)]
                      for net in own[0]["cliff"]},
            "checks": checks(own),
        }  # fmt: skip
        if "loop" in own[0]:
            out[name] |= _loop_summary(own)
    return out


def checks(own: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the points of one map should show, each with its numbers and whether they do."""
    f95 = {net: float(np.mean([p["table"][net]["f95"] for p in own])) for net in own[0]["table"]}
    found: dict[str, dict[str, Any]] = {}
    for net, (low, high) in BANDS.items():
        found[f"f95 of {net} within {low:g} to {high:g}"] = {"value": f95[net], "holds": low <= f95[net] <= high}
    gain = f95[ALL] / max(f95[REGULAR], 1e-9)
    found[f"gain of all techniques at least {GAIN:g}"] = {"value": gain, "holds": gain >= GAIN}
    alone = {source: float(np.mean([p["sources"][REGULAR][source]["f95"] for p in own])) for source in
             ("tuning", "drift", "stuck")}  # fmt: skip
    order = max(alone["drift"], alone["stuck"]) < alone["tuning"]
    found["regular network: drift and stuck cells each cost more than tuning"] = {"value": alone, "holds": order}
    cliff = [float(np.mean([p["cliff"][REGULAR][at]["f95"] for p in own])) for at in range(len(RATES))]
    falls = all(later <= before + 0.01 for before, later in pairwise(cliff))
    found["regular network: f95 falls with the rate of stuck cells"] = {"value": cliff, "holds": falls}
    at_one = cliff[RATES.index(0.01)]
    found["regular network: f95 at most 0.1 at 1 % + 1 % stuck"] = {"value": at_one, "holds": at_one <= 0.1}
    return found


def _loop_summary(own: Sequence[dict[str, Any]]) -> dict[str, Any]:
    loops, devices = [point["loop"] for point in own], [point["device"] for point in own]
    pairs = [(p["table"][ALL]["f95"], p["loop"]["ceiling"]["f95"], p["loop"]["ablation"][LOOP]) for p in own]
    halfway = [0.5 * (before + ceiling) for before, ceiling, _ in pairs]
    one_sequence = _over_seeds([point["one_sequence"] for point in own])
    return {
        "one_sequence": one_sequence | {LOOP: spread([loop["one_sequence"] for loop in loops])},
        "loop": {
            "ablation": _over_seeds([loop["ablation"] for loop in loops]),
            "bad_dies": _over_seeds([loop["bad_dies"] for loop in loops]),
            "ceiling": spread([loop["ceiling"] for loop in loops]),
            "limit": spread([loop["limit"] for loop in loops]),
            "cliff": [spread(at) for at in zip(*(loop["cliff"] for loop in loops), strict=True)],
            "halfway": halfway,
            "reached": [after["f95"] >= goal and after["mean"] >= 0.95
                        for goal, (_, _, after) in zip(halfway, pairs, strict=True)],
            **{key: loops[0][key] for key in ("dies", "transfers_per_die", "devices", "calibration")},
            "detection": _total([loop["detection"] for loop in loops]),
        },
        "device": {
            "metrics": spread([device["metrics"] for device in devices]),
            **{key: float(np.mean([device[key] for device in devices])) for key in
               ("within_tolerance", "pulses_per_cell", "passes")},
            "dies": sum(device["dies"] for device in devices),
            "detection": _total([device["detection"] for device in devices]),
        },
    }  # fmt: skip


def _total(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {key: sum(count[key] for count in counts) for key in counts[0]}


def _over_seeds(each: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    return {name: spread([one[name] for one in each]) for name in each[0]}


def _over_seeds_twice(each: Sequence[dict[str, dict[str, dict[str, float]]]]) -> dict[str, Any]:
    return {name: _over_seeds([one[name] for one in each]) for name in each[0]}
