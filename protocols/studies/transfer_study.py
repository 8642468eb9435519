"""What `xbar simulate tio2-transfers` computes for one map and seed; `protocols.studies.tio2_transfers` keeps it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.studies.transfer_results import BAD_RATE, GRID, LEVELS, LOOP, RATES
from mapping.placement.differential_pairs import DEVICES, PHYSICAL, PairMap, events_in_one_array
from mapping.training import closed_loop, written_dies
from mapping.training.closed_loop import Measures
from mapping.training.moon_training import RECIPES, Batch, fresh_weights, train
from mapping.training.moons import Moons
from mapping.training.transfer_metrics import cumulative, evaluate, outputs, transferred
from sim_backends.array.dies.statistics import StuckCells, TransferStatistics

FloatArray = NDArray[np.float64]
Report = Callable[[str, float], None]

SHOWN = ("regular", "early-stopped", "as published", "all techniques")
"""Networks whose cumulative curve, sensitivity, cliff and decision map are shown."""
TRANSFERS_PER_DIE = 10
NOTHING_DONE = Measures(partner=False, placement=False, training=False, order=False, bias=False)
MEASURES: dict[str, Measures] = {
    "nothing": NOTHING_DONE,
    "+ partner": replace(NOTHING_DONE, partner=True),
    "+ placement": Measures(training=False, order=False, bias=False),
    "+ training": Measures(order=False, bias=False),
    "+ order": Measures(bias=False),
    LOOP: Measures(),
    "without stuck cells known": replace(NOTHING_DONE, order=True, bias=True),
    "without placement": Measures(placement=False),
    "without training": Measures(training=False),
    "without order": Measures(order=False),
}
"""Ablation of the loop: one measure after the other, then all but one (all but the bias is "+ order")."""


@dataclass(frozen=True)
class Study:
    """What is the same for all points.

    Attributes
    ----------
    moons
        Points to train and to test with.
    transfers
        Of each network; the loop meets a tenth as many dies, `TRANSFERS_PER_DIE` times each.
    epochs
        Of every training, instead of its own number; None: as the recipes say.
    statistics
        What a transfer does.
    """

    moons: Moons
    transfers: int
    epochs: int | None = None
    statistics: TransferStatistics = field(default_factory=TransferStatistics)

    @property
    def dies(self) -> int:
        """Dies that the loop meets."""
        return max(2, self.transfers // TRANSFERS_PER_DIE)

    def point(self, kind: PairMap, seed: int, report: Report) -> dict[str, Any]:
        """All numbers of one map and seed, JSON."""
        began = time.monotonic()
        networks = self.networks(kind, seed, report)
        report("transferring networks", 0.0)
        out: dict[str, Any] = {
            "map": kind.name,
            "seed": seed,
            "table": {name: self._metrics(network, kind, seed) for name, network in networks.items()},
            "curves": {name: self._curve(networks[name], kind, seed) for name in SHOWN},
            "sources": {name: self._sources(networks[name], kind, seed) for name in SHOWN},
            "cliff": {name: self._cliff(networks[name], kind, seed) for name in SHOWN},
            "decision": {name: self._decision(networks[name], kind, seed) for name in SHOWN},
        }
        if kind is PHYSICAL:
            network = networks["all techniques"]
            out["one_sequence"] = {name: self._in_one_sequence(networks[name], kind, seed) for name in SHOWN}
            out["loop"] = self._loop(network, kind, seed, report)
            out["device"] = self._device(network, seed, report)
        return {**out, "seconds": time.monotonic() - began}

    def networks(self, kind: PairMap, seed: int, report: Report) -> dict[str, NDArray[np.float32]]:
        """A trained network of each recipe, ``[33]``."""
        recipes = list(RECIPES.values())
        if self.epochs is not None:
            recipes = [replace(recipe, epochs=self.epochs) for recipe in recipes]
        count = len(recipes)
        batch = Batch(np.stack([fresh_weights(seed)] * count), [seed] * count, recipes, [kind] * count)
        return dict(zip(RECIPES, train(batch, self.moons, self.statistics, report=report), strict=True))

    # one network

    def _metrics(
        self, network: Any, kind: PairMap, seed: int, law: TransferStatistics | None = None
    ) -> dict[str, float]:
        law = self.statistics if law is None else law
        return evaluate(network, kind, self.moons.test, law, transfers=self.transfers, seed=seed).metrics.to_dict()

    def _curve(self, network: Any, kind: PairMap, seed: int) -> list[float]:
        found = evaluate(network, kind, self.moons.test, self.statistics, transfers=self.transfers, seed=seed)
        return [round(float(share), 4) for share in cumulative(found.right, np.array(LEVELS))]

    def _sources(self, network: Any, kind: PairMap, seed: int) -> dict[str, dict[str, float]]:
        """One source of disturbance at a time."""
        each = {name: self.statistics.only(name) for name in ("tuning", "drift", "stuck")}
        laws = each | {"all": self.statistics, "no stuck cells": self.statistics.only("tuning", "drift")}
        return {name: self._metrics(network, kind, seed, law) for name, law in laws.items()}

    def _cliff(self, network: Any, kind: PairMap, seed: int) -> list[dict[str, float]]:
        """Over the rate of stuck cells of either kind."""
        return [self._metrics(network, kind, seed, self._stuck(rate)) for rate in RATES]

    def _stuck(self, rate: float) -> TransferStatistics:
        return replace(self.statistics, stuck=StuckCells(rate_lrs=rate, rate_hrs=rate))

    def _decision(self, network: Any, kind: PairMap, seed: int) -> dict[str, list[int]]:
        """Mean and spread of the output over the plane, in thousandths, row by row."""
        axis = (np.arange(GRID) + 0.5) / GRID
        x = np.stack([plane.ravel() for plane in np.meshgrid(axis, axis)], axis=1)
        rng = np.random.default_rng([seed, 5])
        arrived = transferred(network, kind, self.statistics, min(self.transfers, 1000), rng)
        return {
            key: [round(1000 * v) for v in values]
            for key, values in zip(("mean", "sd"), outputs(arrived, x), strict=True)
        }

    def _in_one_sequence(self, network: Any, kind: PairMap, seed: int) -> dict[str, float]:
        """All 64 devices written as one sequence, as they are in a real array."""
        where: dict[str, Any] = {"transfers": self.transfers, "seed": seed, "events": events_in_one_array()}
        return evaluate(network, kind, self.moons.test, self.statistics, **where).metrics.to_dict()

    # closed loop

    def _loop(self, network: Any, kind: PairMap, seed: int, report: Report) -> dict[str, Any]:
        """The loop on drawn dies, by statistics: ablation, cliff, and what it costs."""
        stuck, found = self._dies(self.statistics, kind, seed, self.dies)

        def at(what: str) -> Report:
            return lambda _, share: report(f"closed loop: {what}", share)

        def ablation(law: TransferStatistics, *dies: FloatArray) -> dict[str, dict[str, float]]:
            return {name: self._run(network, kind, seed, dies[0], dies[1], law, measures, at(name))
                    for name, measures in MEASURES.items()}  # fmt: skip

        bad = self._stuck(BAD_RATE)
        none = np.full_like(stuck, np.nan)
        limit = self._run(network, kind, seed, none, none, self.statistics, MEASURES["without training"], at("limit"))
        cliff = []
        for rate in RATES:
            law = self._stuck(rate)
            dies = self._dies(law, kind, seed, max(2, self.dies // 2))
            cliff.append(self._run(network, kind, seed, *dies, law, Measures(), at(f"{rate:.2%} stuck")))
        effort = closed_loop.effort(Measures())
        return {
            "dies": self.dies,
            "transfers_per_die": TRANSFERS_PER_DIE,
            "ablation": ablation(self.statistics, stuck, found),
            "bad_dies": ablation(bad, *self._dies(bad, kind, seed, max(2, self.dies // 2))),
            "ceiling": self._metrics(network, kind, seed, self.statistics.only("tuning", "drift")),
            "limit": limit,
            "one_sequence": self._run(
                network, kind, seed, stuck, found, self.statistics, Measures(), at("one sequence"), one_sequence=True
            ),
            "cliff": cliff,
            "devices": DEVICES,
            "calibration": {"writes": effort.writes, "reads": effort.reads},
            "detection": _detection(stuck, found),
        }

    def _dies(self, law: TransferStatistics, kind: PairMap, seed: int, dies: int) -> tuple[FloatArray, FloatArray]:
        """Stuck devices of drawn dies, and what measuring finds of them."""
        rng = np.random.default_rng([seed, 6])
        stuck = closed_loop.draw_stuck(law.stuck or StuckCells(0.0, 0.0), dies, rng)
        return stuck, closed_loop.measure_stuck(stuck, kind, law, rng)

    def _run(
        self, network: Any, kind: PairMap, seed: int, stuck: FloatArray, found: FloatArray, law: TransferStatistics,
        measures: Measures, report: Report, one_sequence: bool = False,
    ) -> dict[str, float]:  # fmt: skip
        planned = closed_loop.plan(
            network, found, kind, self.moons, law, measures, one_sequence=one_sequence, seed=seed, report=report
        )
        where: dict[str, Any] = {"transfers": TRANSFERS_PER_DIE, "seed": seed, "bias": measures.bias}
        return closed_loop.run(planned, stuck, kind, self.moons, law, **where).metrics.to_dict()

    def _device(self, network: Any, seed: int, report: Report) -> dict[str, Any]:
        """The loop on dies of the default TiO2 device, written by pulses with touch-up."""
        report("closed loop on devices", 0.0)
        rng, count = np.random.default_rng([seed, 7]), max(2, self.dies // 2)
        stuck = closed_loop.draw_stuck(self.statistics.stuck or StuckCells(0.0, 0.0), count, rng)
        dies = written_dies.Dies.draw(stuck, rng)
        found = dies.probe(rng)
        planned = closed_loop.plan(
            network, found, PHYSICAL, self.moons, self.statistics, recipe=written_dies.TUNING_ONLY, seed=seed
        )
        written = dies.write(planned, found, rng)
        return {
            "dies": count,
            "metrics": dies.classify(planned, self.moons, rng).metrics.to_dict(),
            "within_tolerance": written_dies.within_tolerance(written),
            "pulses_per_cell": float(written.pulses.mean()),
            "passes": written.passes,
            "detection": _detection(stuck, found),
        }


def _detection(stuck: FloatArray, found: FloatArray) -> dict[str, int]:
    """Stuck devices that there are, that were found, and working ones taken for stuck."""
    there, said = ~np.isnan(stuck), ~np.isnan(found)
    return {"stuck": int(there.sum()), "found": int((there & said).sum()), "wrongly": int((said & ~there).sum())}
