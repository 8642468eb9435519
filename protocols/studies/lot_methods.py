"""The methods that are compared over drawn lots: each is trained for the records of a lot and emulated on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mapping.dies.defects import DefectStatistics
from mapping.dies.die_record import DieRecord
from mapping.dies.geometry import ArrayGeometry
from mapping.placement.placement import Placement
from mapping.training import binary as training
from mapping.training.binary import Architecture, Pairs, Recipe, Report, TrainingSet
from mapping.training.mnist import Digits
from mapping.training.multiply import Multiply, checked_inputs
from mapping.training.network import BinaryNetwork, calibrate, ideal_multiply
from protocols.shipped.mtj_mnist import CALIBRATION_IMAGES

FloatArray = NDArray[np.float64]


#: Shorter (and where that helps, steeper) than at the station, for there are many points; docs/simulation.md says what
#: that costs.
DIE_AWARE = replace(training.DIE_AWARE, epochs=7, rate=1.2e-2)
STATISTICS_AWARE = replace(training.STATISTICS_AWARE, epochs=60)


@dataclass(frozen=True)
class Recipes:
    """How each training is done."""

    unaware: Recipe = training.UNAWARE
    die_aware: Recipe = DIE_AWARE
    statistics_aware: Recipe = STATISTICS_AWARE

    def with_epochs(self, epochs: int | None) -> Recipes:
        """The same with so many epochs each; None: each its own number."""
        if epochs is None:
            return self
        parts = (self.unaware, self.die_aware, self.statistics_aware)
        return Recipes(*(replace(recipe, epochs=epochs) for recipe in parts))


@dataclass(frozen=True, eq=False)
class Methods:
    """Trains and emulates all methods; what does not change from lot to lot is made once.

    Attributes
    ----------
    digits : Digits
    data : TrainingSet
        With its augmented versions, which all trainings share.
    architecture : Architecture
    recipes : Recipes
    seed : int
    """

    digits: Digits
    data: TrainingSet
    architecture: Architecture
    recipes: Recipes
    seed: int

    @classmethod
    def prepare(cls, digits: Digits, architecture: Architecture, recipes: Recipes, seed: int) -> Methods:
        """Choose the pixels and make the augmented images."""
        data = training.training_set(digits.train_images, digits.train_labels, architecture.inputs)
        data = training.with_variants(data, recipes.unaware.augmentation, seed)
        return cls(digits, data, architecture, recipes, seed)

    def unaware(self, geometry: ArrayGeometry, report: Report) -> BinaryNetwork:
        """The network that knows of no defects."""
        return training.train_unaware(
            self.data, self.architecture, geometry, seed=self.seed, recipe=self.recipes.unaware, report=report
        )

    def software(self, network: BinaryNetwork, geometry: ArrayGeometry) -> float:
        """Error of a network in ideal arithmetic."""
        placement = network.place(geometry)
        multiply = ideal_multiply(network.weights, placement)
        return self._error(network.classify(self.digits.test_images, placement, multiply))

    def errors(self, records: Sequence[DieRecord], unaware: BinaryNetwork, report: Report) -> dict[str, FloatArray]:
        """Error of every method on every die, ``[die]``; emulated from the die records.

        The statistics are fitted from every other die (the first, the third, ...). A moved network is that of the die
        before (that of the last on the first).
        """
        guarded = unaware.with_guard(self.architecture.rows_per_multiply)
        own = self._die_aware(records, unaware, report)
        general = self._statistics_aware([records[die] for die in self.fitted(records)], report)
        return {
            "unaware": self.emulated([unaware] * len(records), records),
            "unaware_guarded": self.emulated([guarded] * len(records), records),
            "unaware_calibrated": self.calibrated(guarded, records, report),
            "die_aware": self.emulated(own, records),
            "die_aware_moved": self.emulated([own[-1], *own[:-1]], records),
            "statistics_aware": self.emulated([general] * len(records), records),
            "calibrated": self.calibrated(general, records, report),
        }

    def fitted(self, records: Sequence[DieRecord]) -> NDArray[np.int64]:
        """Which dies the statistics are fitted on."""
        return np.arange(0, len(records), 2)

    def emulated(self, networks: Sequence[BinaryNetwork], records: Sequence[DieRecord]) -> FloatArray:
        """Error of network k on die k, ``[die]``."""
        placement, out = networks[0].place(records[0].geometry), []
        for network, record in zip(networks, records, strict=True):
            pairs = training.die_pairs([record], placement)
            out.append(self._error(training.emulate([network], placement, pairs, self.digits.test_images)[0, 0]))
        return np.array(out)

    def calibrated(self, network: BinaryNetwork, records: Sequence[DieRecord], report: Report) -> FloatArray:
        """Error of the network with scale and offset of its partial sums calibrated on each die, ``[die]``."""
        placement, out = network.place(records[0].geometry), []
        step = np.linspace(0, len(self.digits.train_images) - 1, CALIBRATION_IMAGES).astype(int)
        images = self.digits.train_images[np.unique(step)]
        for number, record in enumerate(records):
            report("calibrating", number / len(records))
            multiply = record_multiply(network, placement, training.die_pairs([record], placement))
            on_die = calibrate(network, images, placement, multiply)
            out.append(self._error(on_die.classify(self.digits.test_images, placement, multiply)))
        return np.array(out)

    def _die_aware(self, records: Sequence[DieRecord], start: BinaryNetwork, report: Report) -> list[BinaryNetwork]:
        return training.train_die_aware(
            self.data, self.architecture, records, start, seed=self.seed, recipe=self.recipes.die_aware,
            report=_named("die-aware", report),
        )  # fmt: skip

    def _statistics_aware(self, records: Sequence[DieRecord], report: Report) -> BinaryNetwork:
        return training.train_statistics_aware(
            self.data, self.architecture, DefectStatistics.fit(records), seed=self.seed,
            recipe=self.recipes.statistics_aware, report=_named("statistics-aware", report),
        )  # fmt: skip

    def _error(self, found: NDArray[np.int64]) -> float:
        return float(np.mean(found != self.digits.test_labels))


def record_multiply(network: BinaryNetwork, placement: Placement, die: tuple[Pairs, ...]) -> Multiply:
    """Multiplies of a network on one emulated die (``die_pairs([record], placement)``), in the form a die gives them.

    The same arithmetic as `mapping.training.binary.emulate`, open to a calibration.
    """
    coefficients = []
    for layer, pairs, placed in zip(network.layers, die, placement.layers, strict=True):
        a, b = pairs.a[0].numpy().astype(float), pairs.b[0].numpy().astype(float)  # [copies, groups, rows, n_out]
        members = [placed.inputs_of(group) for group in range(placed.groups)]
        weights = layer.weights.T
        coefficients.append([(m, a[:, g, : m.size] + b[:, g, : m.size] * weights[m]) for g, m in enumerate(members)])

    def multiply(layer: int, x: FloatArray) -> FloatArray:
        x = checked_inputs(placement, layer, x)
        partials = [np.tensordot(x[:, inputs], pair, (1, 1)) for inputs, pair in coefficients[layer]]
        return np.stack(partials, axis=2)

    return multiply


def _named(name: str, report: Report) -> Callable[[str, float], None]:
    return lambda text, share: report(f"{text}, {name}", share)
