"""`xbar run mtj-mnist`: a lot of MTJ dies, from trained weights to measured error.

Two passes over the lot. First every die is measured. Then networks are trained: one that knows of no defects, one for
each die, one for the statistics of the defects. Second pass: each die is programmed with each network by write-verify,
verified, and the test images go through its arrays as analog multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record import step_names
from analysis.record.record import Record
from analysis.results.lot import LotResults
from analysis.results.mtj_mnist import lot_results
from instruments.roles.quantities import ReadVoltage
from mapping.dies.defects import DefectStatistics
from mapping.dies.die_record import DieRecord
from mapping.dies.geometry import ArrayGeometry
from mapping.placement.placement import place
from mapping.training import binary as training
from mapping.training.binary import Architecture, Recipe
from mapping.training.mnist import SIDE, Digits, load_mnist
from mapping.training.network import BinaryNetwork, Layer, calibrate, ideal_multiply
from mapping.writing.schedule import WriteSchedule, build_schedule
from protocols.bench.bench import Bench, Die
from protocols.bench.checks import check_pulses, check_read_voltage
from protocols.sequencer.planned import planned_as
from protocols.sequencer.run import Run
from protocols.source.marks import protocol, step
from protocols.steps.characterise import WRITE, check_contact, measure_states
from protocols.steps.inference import ArrayMultiplier
from protocols.steps.write_verify import program

#: Off-diagonal entries of the transfer matrix that are really programmed and measured.
MOVED = 10
#: Unlabelled training images that a die is calibrated with.
CALIBRATION_IMAGES = 500
#: Multiples of the lot's own defect rate at which networks are compared under fresh defects, and dies drawn at each.
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
DRAWS = 24

#: What this protocol takes for granted, whatever the station; the report says so.
ASSUMED = (
    "input pixels, hidden units, training: ours; the paper's are not known to us",
    "write pulses 1.05 V / -0.90 V, 200 ns, raised by 50 mV per attempt",
    "emulated results leave out line resistance, bias dependence and converters",
)

Report = Callable[[str, float], None]


@protocol
def mtj_mnist(
    run: Run,
    *,
    images: int = 1000,
    epochs: int | None = None,
    mnist: Path | None = None,
    v_read: ReadVoltage = 0.1,
    hidden: int = 100,
    inputs: int = 75,
) -> Callable[[Record], LotResults]:
    """Train, program, read back and classify on every die of a lot.

    Parameters
    ----------
    images : int
        Test images.
    epochs : int, optional
        Epochs of every training; by default each has its own number (`mapping.training.binary`).
    mnist : Path, optional
        Folder with the four IDX files of MNIST, instead of the embedded 5,000 images.
    v_read : float
        Read voltage (V), also that of an input of 1.
    hidden, inputs : int
        Size of the network; it must fit on the die.
    """
    digits = load_mnist(mnist).first_test(images)
    architecture = Architecture(inputs=inputs, hidden=hidden)
    geometry = ArrayGeometry.from_dict(run.survey().attrs["geometry"])
    check_size(architecture, epochs)
    check_fit(architecture, geometry)
    check_read_voltage(run.survey(), v_read)
    check_pulses(run.survey(), WRITE)
    dies, records = _measure_lot(run, v_read)
    networks = _train(run, digits, architecture, dies, records, epochs)
    run.compute(software, networks=networks["all"], digits=digits, geometry=geometry)
    run.compute(emulate_moved, networks=networks["die_aware"], records=records, digits=digits)
    run.compute(sensitivity, networks=networks["all"], statistics=networks["statistics"], digits=digits,
                seed=run.settings.seed)  # fmt: skip
    _measure_networks(run, dies, records, networks, digits)
    return lot_results


class SizeError(ValueError):
    """A size of the network or of its training is out of range."""


def check_size(architecture: Architecture, epochs: int | None) -> None:
    """Raise `SizeError` if there is no such network or training."""
    if not 1 <= architecture.inputs <= SIDE**2:
        raise SizeError(f"inputs {architecture.inputs}: images have {SIDE**2} pixels, choose 1 to {SIDE**2} of them")
    if architecture.hidden < 1:
        raise SizeError(f"hidden {architecture.hidden}: at least 1 hidden unit is needed")
    if epochs is not None and epochs < 1:
        raise SizeError(f"epochs {epochs}: at least 1 is needed; leave it out for each training's own number")


def check_fit(architecture: Architecture, geometry: ArrayGeometry) -> None:
    """Raise `DoesNotFitError` if the network does not fit, before anything moves."""
    shapes = [(architecture.inputs, architecture.hidden), (architecture.hidden, 10)]
    place(shapes, geometry, architecture.copies, rows_per_multiply=architecture.rows_per_multiply)


# first pass


def _measure_lot(run: Run, v_read: float) -> tuple[list[Die], list[DieRecord]]:
    """Every die that conducts and switches, with its record."""
    dies, records = [], []
    for die in run.dies():
        with run.attempt(die):
            if run.step(check_contact, die).attrs["verdict"] != "pass":
                continue
            measured = run.step(measure_states, die, v_read=v_read)
            if measured.attrs["verdict"] == "pass":
                dies.append(die)
                records.append(DieRecord.from_dataset(measured))
    if not dies:
        raise NoUsableDieError("no die of the lot conducts and switches; check needles, overtravel and write pulses")
    return dies, records


class NoUsableDieError(RuntimeError):
    """No die could be measured."""


# training


def _train(
    run: Run,
    digits: Digits,
    architecture: Architecture,
    dies: list[Die],
    records: list[DieRecord],
    epochs: int | None,
) -> dict[str, Any]:
    """Networks of all trainings; statistics come from every other die, so that half of the lot is unseen."""
    common = {"digits": digits, "architecture": architecture, "seed": run.settings.seed}
    unaware = network_of(
        run.compute(train_unaware, geometry=records[0].geometry, recipe=_recipe(training.UNAWARE, epochs), **common)
    )
    aware = run.compute(
        train_die_aware, records=records, start=unaware, recipe=_recipe(training.DIE_AWARE, epochs), **common
    )
    statistics = DefectStatistics.fit(records[::2])
    general = network_of(
        run.compute(
            train_statistics_aware,
            statistics=statistics,
            fitted_on=[die.name for die in dies[::2]],
            recipe=_recipe(training.STATISTICS_AWARE, epochs),
            **common,
        )
    )
    guarded = unaware.with_guard(architecture.rows_per_multiply)
    return {
        "all": {"unaware": unaware, "unaware_guarded": guarded, "statistics_aware": general},
        "die_aware": networks_of(aware),
        "statistics": statistics,
    }


def _recipe(default: Recipe, epochs: int | None) -> Recipe:
    return default if epochs is None else replace(default, epochs=epochs)


#: Share of the weights that a plan takes to differ from the unaware network (measured on the simulated lot: 2 to 3 %,
#: and 25 to 37 %); it sets how many cells are pulsed when one network follows the other on a die.
CHANGED = {"die_aware": 0.03, "statistics_aware": 0.35}


def untrained(digits: Digits, architecture: Architecture) -> BinaryNetwork:
    """A network of random weights, read like the unaware one: it costs the same to write and to read."""
    data = training.training_set(digits.train_images, digits.train_labels, architecture.inputs)
    rng, layers = np.random.default_rng(0), []
    for n_in, n_out in ((architecture.inputs, architecture.hidden), (architecture.hidden, 10)):
        weights = rng.choice(np.array([-1, 1], np.int8), (n_out, n_in))
        layers.append(Layer(weights, np.full(n_out, n_in**-0.5), np.zeros(n_out)))
    return BinaryNetwork(data.pixels, data.centre, (layers[0], layers[1]), architecture.copies, (None, None), False)


def retrained(start: BinaryNetwork, architecture: Architecture, changed: float, seed: int) -> BinaryNetwork:
    """A network with some of its weights turned over, guarded."""
    rng = np.random.default_rng(seed)
    layers = [
        replace(layer, weights=np.where(rng.random(layer.weights.shape) < changed, -layer.weights, layer.weights))
        for layer in start.layers
    ]
    return replace(start, layers=(layers[0], layers[1])).with_guard(architecture.rows_per_multiply)


def _planned_unaware(*, digits: Digits, architecture: Architecture, **_: Any) -> xr.Dataset:
    return dataset_of([untrained(digits, architecture)])


def _planned_die_aware(
    *, architecture: Architecture, records: list[DieRecord], start: BinaryNetwork, **_: Any
) -> xr.Dataset:
    """Three networks in turn: those of two dies differ, and few steps are new to a plan."""
    three = [retrained(start, architecture, CHANGED["die_aware"], seed) for seed in range(3)]
    return dataset_of([three[die % 3] for die in range(len(records))])


def _planned_statistics_aware(*, digits: Digits, architecture: Architecture, **_: Any) -> xr.Dataset:
    start = untrained(digits, architecture)
    return dataset_of([retrained(start, architecture, CHANGED["statistics_aware"], 3)])


def _planned_moved(*, networks: list[BinaryNetwork], records: list[DieRecord], **_: Any) -> xr.Dataset:
    return xr.Dataset({"error": (("network", "die"), np.zeros((len(networks), len(records))))})


def _planned_sensitivity(*, networks: Mapping[str, BinaryNetwork], **_: Any) -> xr.Dataset:
    error = np.zeros((len(networks), len(SCALES), DRAWS))
    coords = {"training": np.array(list(networks)), "scale": np.array(SCALES)}
    return xr.Dataset({"error": (("training", "scale", "draw"), error)}, coords)


@step(step_names.TRAIN_UNAWARE)
@planned_as(_planned_unaware)
def train_unaware(
    report: Report, *, digits: Digits, architecture: Architecture, geometry: ArrayGeometry, recipe: Recipe, seed: int
) -> xr.Dataset:
    """The network that knows of no defects."""
    data = training.training_set(digits.train_images, digits.train_labels, architecture.inputs)
    network = training.train_unaware(data, architecture, geometry, seed=seed, recipe=recipe, report=report)
    return dataset_of([network])


@step(step_names.TRAIN_DIE_AWARE)
@planned_as(_planned_die_aware)
def train_die_aware(
    report: Report,
    *,
    digits: Digits,
    architecture: Architecture,
    records: list[DieRecord],
    start: BinaryNetwork,
    recipe: Recipe,
    seed: int,
) -> xr.Dataset:
    """One network for each die."""
    data = training.training_set(digits.train_images, digits.train_labels, architecture.inputs)
    networks = training.train_die_aware(data, architecture, records, start, seed=seed, recipe=recipe, report=report)
    return dataset_of(networks)


@step(step_names.TRAIN_STATISTICS_AWARE)
@planned_as(_planned_statistics_aware)
def train_statistics_aware(
    report: Report,
    *,
    digits: Digits,
    architecture: Architecture,
    statistics: DefectStatistics,
    fitted_on: list[str],
    recipe: Recipe,
    seed: int,
) -> xr.Dataset:
    """One network for all dies; the result says which dies its statistics are of."""
    data = training.training_set(digits.train_images, digits.train_labels, architecture.inputs)
    network = training.train_statistics_aware(data, architecture, statistics, seed=seed, recipe=recipe, report=report)
    return dataset_of([network]).assign_attrs(fitted_on=fitted_on)


def dataset_of(networks: list[BinaryNetwork]) -> xr.Dataset:
    """Networks of one shape as a dataset, for the record."""
    arrays = [network.to_arrays() for network in networks]
    stacked = {name: np.stack([a[name] for a in arrays]) for name in arrays[0]}
    return xr.Dataset({n: (("network", *(f"{n}_{i}" for i in range(v.ndim - 1))), v) for n, v in stacked.items()})


def networks_of(data: xr.Dataset) -> list[BinaryNetwork]:
    """Inverse of `dataset_of`."""
    return [
        BinaryNetwork.from_arrays({str(name): variable.values[i] for name, variable in data.data_vars.items()})
        for i in range(data.sizes["network"])
    ]


def network_of(data: xr.Dataset) -> BinaryNetwork:
    """The only network of a dataset."""
    return networks_of(data)[0]


# what is computed beside the measurement


@step(step_names.SOFTWARE)
def software(
    report: Report, *, networks: Mapping[str, BinaryNetwork], digits: Digits, geometry: ArrayGeometry
) -> xr.Dataset:
    """Test images through each network in ideal arithmetic: the baseline."""
    correct = []
    for network in networks.values():
        placement = network.place(geometry)
        found = network.classify(digits.test_images, placement, ideal_multiply(network.weights, placement))
        correct.append(found == digits.test_labels)
    coords = {"training": np.array(list(networks))}
    attrs = {"data": digits.source, "assumed": list(ASSUMED)}
    return xr.Dataset({"correct": (("training", "image"), np.stack(correct))}, coords, attrs)


@step(step_names.EMULATE_MOVED)
@planned_as(_planned_moved)
def emulate_moved(
    report: Report, *, networks: list[BinaryNetwork], records: list[DieRecord], digits: Digits
) -> xr.Dataset:
    """Error of the network of every die (first axis) on every die (second axis), from the die records."""
    placement = networks[0].place(records[0].geometry)
    found = training.emulate(networks, placement, training.die_pairs(records, placement), digits.test_images)
    error = (found != digits.test_labels).mean(axis=2)
    return xr.Dataset({"error": (("network", "die"), error)}, attrs={"emulated": "from die records"})


@step(step_names.SENSITIVITY)
@planned_as(_planned_sensitivity)
def sensitivity(
    report: Report,
    *,
    networks: Mapping[str, BinaryNetwork],
    statistics: DefectStatistics,
    digits: Digits,
    seed: int,
) -> xr.Dataset:
    """Error of each network under the same fresh dies, at multiples of the lot's own defect rate; emulated."""
    error = np.empty((len(networks), len(SCALES), DRAWS))
    for column, scale in enumerate(SCALES):
        dies = training.drawn_dies(statistics.scaled(scale), np.random.default_rng([seed, column]))(DRAWS)
        for row, network in enumerate(networks.values()):
            report("sensitivity", (column * len(networks) + row) / (len(networks) * len(SCALES)))
            placement = network.place(statistics.geometry)
            found = training.emulate([network], placement, training.pairs_of(dies, placement), digits.test_images)
            error[row, column] = (found[0] != digits.test_labels).mean(axis=1)
    coords = {"training": np.array(list(networks)), "scale": np.array(SCALES)}
    return xr.Dataset({"error": (("training", "scale", "draw"), error)}, coords)


# second pass


def _measure_networks(
    run: Run, dies: list[Die], records: list[DieRecord], networks: dict[str, Any], digits: Digits
) -> None:
    """Program and measure every network on every die, and some networks on dies they were not trained for."""
    moved = moved_entries(len(dies), run.rng("moved"))
    known = {die: place for place, die in enumerate(dies)}
    for die in run.dies():
        if die not in known:
            continue
        with run.attempt(die):
            _measure_die(_OnDie(run, die, records[known[die]], digits), known[die], dies, networks, moved)


def _measure_die(
    on_die: _OnDie, place: int, dies: list[Die], networks: dict[str, Any], moved: list[tuple[int, int]]
) -> None:
    """All networks of one die, which is the `place`-th of the lot."""
    on_die.measure("unaware", networks["all"]["unaware"])
    guarded = networks["all"]["unaware_guarded"]
    on_die.measure("unaware_guarded", guarded)
    on_die.calibrated("unaware_calibrated", guarded)  # the control: what calibration does without robust training
    on_die.measure("die_aware", networks["die_aware"][place], of=dies[place].name)
    for source in (i for i, j in moved if j == place):
        on_die.measure("die_aware_moved", networks["die_aware"][source], of=dies[source].name)
    general = networks["all"]["statistics_aware"]
    on_die.measure("statistics_aware", general)
    on_die.calibrated("calibrated", general)


def moved_entries(dies: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Random off-diagonal entries (network of die i, on die j) of the transfer matrix, without repetition."""
    pairs = [(i, j) for i in range(dies) for j in range(dies) if i != j]
    chosen = rng.permutation(len(pairs))[:MOVED]
    return sorted(pairs[k] for k in chosen)


class _OnDie:
    """The steps of one die in the second pass."""

    def __init__(self, run: Run, die: Die, record: DieRecord, digits: Digits) -> None:
        self._run, self._die, self._record, self._digits = run, die, record, digits

    def measure(self, name: str, network: BinaryNetwork, of: str = "") -> None:
        """Program a network and run the test images through the arrays."""
        schedule = self._schedule(network)
        self._run.step(program, self._die, schedule=schedule, die_record=self._record)
        self._classify(name, network, schedule, of)

    def calibrated(self, name: str, network: BinaryNetwork) -> None:
        """Calibrate the network that is on the die, and run the test images again."""
        schedule, digits = self._schedule(network), self._digits
        step = np.linspace(0, len(digits.train_images) - 1, CALIBRATION_IMAGES).astype(int)
        found = self._run.step(
            calibrate_on_die,
            self._die,
            network=network,
            schedule=schedule,
            die_record=self._record,
            images=digits.train_images[np.unique(step)],
        )
        self._classify(name, network_of(found), schedule, "")

    def _schedule(self, network: BinaryNetwork) -> WriteSchedule:
        return build_schedule(network.weights, network.place(self._record.geometry), die=self._record)

    def _classify(self, name: str, network: BinaryNetwork, schedule: WriteSchedule, of: str) -> None:
        self._run.step(
            classify_images,
            self._die,
            training=name,
            network_of=of,
            network=network,
            schedule=schedule,
            die_record=self._record,
            images=self._digits.test_images,
            labels=self._digits.test_labels,
        )


@step(step_names.CLASSIFY_IMAGES)
def classify_images(
    bench: Bench,
    die: Die,
    *,
    training: str,
    network_of: str,
    network: BinaryNetwork,
    schedule: WriteSchedule,
    die_record: DieRecord,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
) -> xr.Dataset:
    """Verify that the network is on the die, then run images through the arrays.

    Cells that have changed since they were programmed are written again first; `rewritten` counts their pulses.
    """
    verified = program(bench, die, schedule=schedule, die_record=die_record)
    multiply = ArrayMultiplier(bench, schedule.placement, die_record)
    scores = network.scores(images, schedule.placement, multiply)
    found = scores.argmax(axis=1)
    attrs = {
        "training": training,
        "network_of": network_of,
        "rewritten": int(verified["pulses"].sum()),
        "verified": verified.attrs["verified"],
    }
    return xr.Dataset(
        {
            "scores": (("image", "digit"), scores.astype(np.float32)),
            "predicted": ("image", found.astype(np.uint8)),
            "correct": ("image", found == labels),
        },
        attrs=attrs,
    )


@step(step_names.CALIBRATE_ON_DIE)
def calibrate_on_die(
    bench: Bench,
    die: Die,
    *,
    network: BinaryNetwork,
    schedule: WriteSchedule,
    die_record: DieRecord,
    images: NDArray[np.uint8],
) -> xr.Dataset:
    """Scale and offset of the network's partial sums on this die, from images without labels."""
    multiply = ArrayMultiplier(bench, schedule.placement, die_record)
    return dataset_of([calibrate(network, images, schedule.placement, multiply)])
