"""From the record of a lot of passive dies to its results: half moons classified by written 2-8-1 networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.assumed import assumed
from analysis.record.record import Record
from analysis.record.step_names import (
    CLASSIFY_POINTS,
    EMULATE_OTHERS,
    MEASURE_ANALOG,
    MONTE_CARLO,
    PLAN_DIES,
    TRAIN_NETWORKS,
    WRITE_ANALOG,
)
from analysis.results.analog import defects, history, programming, times
from analysis.results.mtj_mnist import _latest

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

PROTOCOL = "tio2-moons"
#: Kinds of work that its time is told of.
KINDS = {
    "measuring_s": (MEASURE_ANALOG,),
    "training_s": (TRAIN_NETWORKS, PLAN_DIES),
    "writing_s": (WRITE_ANALOG,),
    "classifying_s": (CLASSIFY_POINTS,),
}

#: What this protocol takes for granted, whatever the station; the report says so.
ASSUMED = (
    "half moons of noise 0.2: ours, made like those of arXiv:2305.18495",
    "the output bias is digital and is set for each die from a read of its cells, with training points only",
    "networks without the loop are emulated from what was measured of the same dies, not written",
)


@dataclass(frozen=True, eq=False)
class Written:
    """What was done to one die and what came of it.

    Attributes
    ----------
    die : str
    writes : list of xarray.Dataset
        Results of `write_analog`, the last one being what was classified with.
    right, right_map : bool ``[point]``
        Test points by analog products, and by arithmetic with the cells as read.
    network : ``[33]``
        As read back from the cells.
    """

    die: str
    writes: list[xr.Dataset]
    right: BoolArray
    right_map: BoolArray
    network: FloatArray


@dataclass(frozen=True, eq=False)
class MoonsResults:
    """A lot; `of_dies` are those that were written and classified, in route order.

    Attributes
    ----------
    measured : dict
        Result of `measure_analog` of each die.
    of_dies : tuple of Written
    fit : dict
        Share of the training points that each die's plan gets right on paper.
    noise_free : float
        Accuracy of the written networks at the test points before they are written; NaN if none was.
    others : dict
        Test points right ``[die, point]`` of networks without the loop, emulated from the maps.
    monte_carlo : xarray.Dataset or None
        Metrics of drawn lots.
    x, label : ``[point, 2]``, ``[point]``
        Test points.
    """

    measured: dict[str, xr.Dataset]
    of_dies: tuple[Written, ...]
    fit: dict[str, float]
    noise_free: float
    others: dict[str, BoolArray]
    monte_carlo: xr.Dataset | None
    x: FloatArray
    label: NDArray[np.int64]
    seed: int
    data: str
    time: dict[str, float]
    provenance: dict[str, str]
    assumed: tuple[str, ...] = ASSUMED

    @property
    def right(self) -> BoolArray:
        """Test points by analog products, ``[die, point]``."""
        return np.stack([each.right for each in self.of_dies]) if self.of_dies else np.zeros((0, len(self.label)), bool)


def moons_results(record: Record, protocol: str = PROTOCOL) -> MoonsResults:
    """Results of the newest history of `protocol` in a record, finished or not.

    Raises
    ------
    NothingMeasuredError
        If no die was measured.
    """
    found = history(record, protocol, MEASURE_ANALOG)
    measured = {name: each[-1] for name, each in found.dies.items()}
    usable = [name for name, each in measured.items() if each.attrs["verdict"] == "pass"]
    trained, plan = _latest(record, protocol, TRAIN_NETWORKS), _latest(record, protocol, PLAN_DIES)
    written, classified = record.results(protocol, WRITE_ANALOG), record.results(protocol, CLASSIFY_POINTS)
    of_dies = [_written(name, written[name], classified[name][-1]) for name in usable if classified.get(name)]
    fitting = plan if plan is not None and plan.sizes["die"] == len(usable) else None
    done = [usable.index(each.die) for each in of_dies]
    others = _latest(record, protocol, EMULATE_OTHERS)
    return MoonsResults(
        measured=measured,
        of_dies=tuple(of_dies),
        fit={} if fitting is None else dict(zip(usable, fitting["fit"].values.tolist(), strict=True)),
        noise_free=float(fitting["noise_free"].values[done].mean()) if fitting is not None and done else float("nan"),
        others=_others(others, len(of_dies)),
        monte_carlo=_latest(record, protocol, MONTE_CARLO),
        x=np.zeros((0, 2)) if trained is None else trained["x"].values,
        label=np.zeros(0, np.int64) if trained is None else trained["label"].values,
        seed=found.seed,
        data="" if trained is None else str(trained.attrs["data"]),
        time=times(record, protocol, KINDS),
        provenance=found.provenance,
        assumed=assumed(record, found.run, ASSUMED),
    )


def _written(die: str, writes: list[xr.Dataset], classified: xr.Dataset) -> Written:
    right, right_map = (classified[name].values.astype(bool) for name in ("right", "right_map"))
    return Written(die, writes, right, right_map, classified["network"].values)


def _others(data: xr.Dataset | None, dies: int) -> dict[str, BoolArray]:
    if data is None or data.sizes["die"] != dies:
        return {}
    return {str(name): data["right"].sel(network=name).values.astype(bool) for name in data["network"].values}


def metrics(right: BoolArray) -> dict[str, float | None]:
    """f95, mean accuracy and worst point of test points ``[die, point]``."""
    from mapping.training.transfer_metrics import (
        survivors,  # compiled code: only runs that have such points wait for it
    )

    if not right.size:
        return {"f95": None, "mean": None, "worst": None}
    share = right.mean(axis=0)
    return {"f95": survivors(share), "mean": float(right.mean()), "worst": float(share.min())}


def numbers(results: MoonsResults) -> dict[str, Any]:
    """What ``--json`` writes: plain dictionaries, lists, numbers and None (where nothing was measured).

    `f95` and `accuracy` are those of analog products on the dies that were written; `dies` says how many these are.
    """
    found = metrics(results.right)
    noise_free = results.noise_free if np.isfinite(results.noise_free) else None
    by_map = metrics(np.stack([each.right_map for each in results.of_dies])) if results.of_dies else metrics(
        np.zeros((0, 0), bool)
    )  # fmt: skip
    return {
        "dies": {
            "measured": len(results.measured),
            "written": len(results.of_dies),
            "names": [each.die for each in results.of_dies],
            "not_written": {die: _why(results, die) for die in results.measured if die not in _names(results)},
        },
        "f95": found["f95"],
        "accuracy": {"mean": found["mean"], "noise_free": noise_free, "worst": found["worst"],
                     "per_die": results.right.mean(axis=1).tolist() if results.of_dies else []},
        "by_map": by_map,
        "others": {name: metrics(right) for name, right in results.others.items()},
        "monte_carlo": _monte_carlo(results),
        "programming": programming((each.writes for each in results.of_dies), whole=True),
        "defects": {die: defects(data) for die, data in results.measured.items()},
        "time": dict(results.time),
        "seed": results.seed,
        "data": results.data,
        "assumed": list(results.assumed),
        "provenance": dict(results.provenance),
    }  # fmt: skip


def _names(results: MoonsResults) -> set[str]:
    return {each.die for each in results.of_dies}


def _why(results: MoonsResults, die: str) -> str:
    data = results.measured[die]
    if data.attrs["verdict"] != "pass":
        return str(data.attrs.get("reason", "could not be measured"))
    if die in results.fit and results.fit[die] < 1:
        return f"on paper its network gets {results.fit[die]:.0%} of the training points right"
    return "was not reached"


def _monte_carlo(results: MoonsResults) -> dict[str, Any] | None:
    """Metrics of drawn lots, and whether what was measured lies within what they span."""
    data = results.monte_carlo
    if data is None:
        return None
    found = metrics(results.right)
    out: dict[str, Any] = {"lots": data.sizes["lot"], **dict(data.attrs)}
    for name in ("f95", "mean", "worst"):
        values = data[name].values
        low, high = float(values.min()), float(values.max())
        own = found[name]
        inside = None if own is None else bool(low - 1e-9 <= own <= high + 1e-9)
        out[name] = {"mean": float(values.mean()), "low": low, "high": high, "measured": own, "within": inside}
    return out
