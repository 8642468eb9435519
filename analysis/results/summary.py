"""A run over a lot in numbers: what ``--json`` writes and what the table and the report quote.

Errors are fractions of the test images, 0..1. A number that cannot be known (the spread of one die) is None, a part
that has not been run is absent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.results.lot import DEFECTS, BoolArray, FloatArray, LotResults, Training

#: Trainings in the order in which they are told, with the words for them.
TRAININGS = {
    "unaware": "unaware",
    "unaware_guarded": "unaware, guarded",
    "unaware_calibrated": "unaware, calibrated",
    "die_aware": "die-aware",
    "die_aware_moved": "die-aware, moved",
    "statistics_aware": "statistics-aware",
    "calibrated": "calibrated",
}

#: A die on which a training stays this close to software counts as one on which it works (the paper's 2 points).
CLOSE = 0.02

#: A run without these is complete too.
OPTIONAL = ("unaware_guarded", "unaware_calibrated")

BOOTSTRAP_DRAWS = 2000
_CHUNK = 100


def summary(results: LotResults) -> dict[str, Any]:
    """Numbers of a run as plain dictionaries, lists, numbers and None, ready for `json.dumps`.

    Keys: dies, names, cells_per_die, images, error, sensitivity, programming, defects, time, seed, data, assumed,
    provenance, missing. ``error[training]`` has mean, sd (between dies), worst, per_die (None where not measured),
    software (the same network in ideal arithmetic), difference (to the software baseline, with its interval) and
    dies_close (dies within `CLOSE` of the baseline).
    """
    numbers = {
        "dies": len(results.dies),
        "names": list(results.dies),
        "cells_per_die": results.cells_per_die,
        "images": int(results.software_correct.size),
        "error": _errors(results),
        "sensitivity": _sensitivity(results.sensitivity),
        "programming": dict(results.programming),
        "defects": _defects(results),
        "time": dict(results.time),
        "seed": results.seed,
        "data": results.data,
        "assumed": list(results.assumed),
        "provenance": dict(results.provenance),
        "missing": missing(results),
    }
    return _plain(numbers)


def missing(results: LotResults) -> list[str]:
    """What a complete run has and this one has not, in words."""
    found = []
    moved_possible = len(results.dies) > 1
    for name, words in TRAININGS.items():
        if name == "die_aware_moved" and not moved_possible:
            continue
        measured = int(np.isfinite(results.error(name)).sum())
        if not measured and name not in OPTIONAL:
            found.append(f"{words}: not measured")
        elif 0 < measured < len(results.dies) and name != "die_aware_moved":
            found.append(f"{words}: measured on {measured} of {len(results.dies)} dies")
    parts: dict[str, Any] = {
        "software baseline": results.software_correct.size,
        "transfer between dies, emulated": results.moved_emulated.size or not moved_possible,
        "sensitivity to fresh defects": results.sensitivity,
        "defect counts": results.defects.size,
        "cell maps": results.cell_class.size,
        "conductances": results.g_p.size,
        "programming numbers": results.programming,
    }
    return found + [part for part, there in parts.items() if not there]


def paired_difference(
    correct: BoolArray, software_correct: BoolArray, seed: int, draws: int = BOOTSTRAP_DRAWS
) -> dict[str, float]:
    """Mean error on the dies minus the software error on the same images, with a 95 % interval.

    The interval is a percentile bootstrap over two things drawn independently, with replacement: dies and images. Both
    are samples: another lot would have had other defects, another test set other hard digits. Drawing dies only would
    treat the thousand or so test images as all there are, and drawing images only would take these dies for every die,
    and either interval is too narrow for the question "how much worse than software is this method". Every die sees
    the same images as software, so each drawn image brings its result on all dies and in software along: what is hard
    for both cancels. With one die the interval speaks of images only.

    Parameters
    ----------
    correct : bool ``[die, image]``
    software_correct : bool ``[image]``
    seed : int
        The same seed and shape give the same draws, so that trainings of a run are compared under the same draws.
    """
    worse = software_correct.astype(np.float32) - correct.astype(np.float32)
    dies, images = worse.shape
    rng = np.random.default_rng([abs(seed), 0x70616972])
    means = np.empty(draws)
    for start in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - start)
        die_weight, image_weight = _resampled(rng, count, dies), _resampled(rng, count, images)
        means[start : start + count] = np.einsum("bi,bi->b", die_weight @ worse, image_weight, dtype=np.float64)
    low, high = np.percentile(means / (dies * images), [2.5, 97.5])
    return {"mean": float(worse.mean(dtype=np.float64)), "low": float(low), "high": float(high)}


def _resampled(rng: np.random.Generator, draws: int, size: int) -> NDArray[np.float32]:
    """How often each of `size` things is in a sample of `size` with replacement, ``[draw, thing]``."""
    picked = rng.integers(0, size, (draws, size)) + size * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float32)


def _errors(results: LotResults) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if results.software_correct.size:
        out["software"] = (~results.software_correct).mean()
    for name in TRAININGS:
        if name in results.trainings and len(results.trainings[name].correct):
            out[name] = _training(results, results.trainings[name])
    if "statistics_aware" in out:
        out["statistics_aware"] |= _halves(results, results.trainings["statistics_aware"])
    moved = _moved(results)
    if moved:
        out["die_aware_moved"] = out.get("die_aware_moved", {}) | moved
    return out


def _training(results: LotResults, training: Training) -> dict[str, Any]:
    index = training.die_index
    out = _spread(training.per_die, [results.dies[die] for die in index])
    out["per_die"] = results.error(training.name)
    out["software"] = (~training.software_correct).mean()
    if results.software_correct.size:
        close = training.per_die <= (~results.software_correct).mean() + CLOSE + 1e-9
        out["dies_close"] = int(close.sum())
        out["difference"] = paired_difference(training.correct, results.software_correct, results.seed)
    return out


def _halves(results: LotResults, training: Training) -> dict[str, Any]:
    """Error on the dies that lent their defects to the statistics, and on those the training knows nothing of."""
    out: dict[str, Any] = {}
    if not results.halves.size:
        return out
    half = results.halves[training.die_index]
    for key, code in (("fit_half", 0), ("unseen_half", 1)):
        rows = np.flatnonzero(half == code)
        if not rows.size:
            continue
        out[key] = _spread(training.per_die[rows], [results.dies[training.die_index[row]] for row in rows])
        out[key]["dies"] = int(rows.size)
        if results.software_correct.size:
            out[key]["difference"] = paired_difference(training.correct[rows], results.software_correct, results.seed)
    return out


def _moved(results: LotResults) -> dict[str, Any]:
    """Networks on a die they were not trained for: emulated for every pair, measured for some."""
    out: dict[str, Any] = {}
    emulated = results.moved_emulated
    if emulated.size > 1:
        pairs = [(i, j) for i, j in np.ndindex(emulated.shape) if i != j and np.isfinite(emulated[i, j])]
        away = np.array([emulated[pair] for pair in pairs])
        if away.size:
            out["emulated"] = _spread(away, [f"{results.dies[i]} on {results.dies[j]}" for i, j in pairs])
            out["emulated"] |= {"own_die_mean": np.nanmean(np.diag(emulated)), "pairs": len(pairs)}
    if results.moved_measured:
        entries = [_moved_entry(results, *entry) for entry in results.moved_measured]
        errors = np.array([entry["error"] for entry in entries])
        out["measured"] = {"mean": errors.mean(), "sd": _sd(errors), "entries": entries}
        gaps = np.array([e["error"] - e["emulated"] for e in entries if e["emulated"] is not None])
        if gaps.size:
            agreement = {"pairs": gaps.size, "mean_difference": gaps.mean(), "largest": np.abs(gaps).max()}
            out["measured"]["agreement"] = agreement
    return out


def _moved_entry(results: LotResults, trained_for: int, on: int, error: float) -> dict[str, Any]:
    emulated = results.moved_emulated[trained_for, on] if results.moved_emulated.size else np.nan
    return {
        "trained_for": results.dies[trained_for],
        "measured_on": results.dies[on],
        "error": float(error),
        "emulated": float(emulated) if np.isfinite(emulated) else None,
    }


def _sensitivity(curves: dict[str, Any]) -> dict[str, Any]:
    """Mean error per multiple of the lot's defect rate, and what unaware loses to statistics-aware on equal draws."""
    if not curves:
        return {}
    errors = {name: np.asarray(draws, float) for name, draws in curves["error"].items()}
    out: dict[str, Any] = {"scale": curves["scale"], "mean": {name: e.mean(axis=1) for name, e in errors.items()}}
    if {"unaware", "statistics_aware"} <= errors.keys():
        gap = errors["unaware"] - errors["statistics_aware"]
        half = 1.96 * gap.std(axis=1, ddof=1) / np.sqrt(gap.shape[1]) if gap.shape[1] > 1 else np.full(len(gap), np.nan)
        mean = gap.mean(axis=1)
        out["unaware_minus_statistics_aware"] = {"mean": mean, "low": mean - half, "high": mean + half}
    return out


def _defects(results: LotResults) -> dict[str, Any]:
    total = results.defects
    if not total.size:
        return {}
    classes = {key: results.defect_counts[key] for key in DEFECTS if key in results.defect_counts}
    rate = total.mean() / results.cells_per_die if results.cells_per_die else None
    return {
        **_spread(total.astype(float), list(results.dies)),
        "rate": rate,
        "per_die": total,
        "per_class": {key: {"mean": np.mean(count), "per_die": count} for key, count in classes.items()},
        "lines": [list(lines) for lines in results.line_faults],
    }


def _spread(values: FloatArray, names: list[str]) -> dict[str, Any]:
    worst = int(np.argmax(values))
    return {"mean": values.mean(), "sd": _sd(values), "worst": values[worst], "worst_die": names[worst]}


def _sd(values: FloatArray) -> float | None:
    return float(values.std(ddof=1)) if values.size > 1 else None


def _plain(value: Any) -> Any:
    """The same with nothing but what JSON knows; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
