"""`xbar run tio2-moons`: half moons on a lot of passive 8 x 8 TiO2 dies, from training to measured classification.

Two passes over the lot. First every die is measured: which cells are stuck, which lines dead. Then a network is trained
with all techniques, and adapted to each die by what was measured of it (`mapping.training.closed_loop`; training points
only). Second pass: each die is written by analog write-verify until the whole array is in tolerance, partners make up
for cells that could not be written, all cells are read, and the test points go through the array as analog products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record import step_names
from analysis.record.record import Record
from analysis.results.tio2_moons import MoonsResults, moons_results
from instruments.roles.quantities import Tolerance
from mapping.dies.analog_die import AnalogDie
from mapping.dies.die_record import CellClass
from mapping.dies.geometry import ArrayGeometry
from mapping.placement.differential_pairs import PHYSICAL, SHAPE, WEIGHTS, from_cells, per_weight, scales, to_cells
from mapping.training import closed_loop, written_dies
from mapping.training.closed_loop import DiePlan, Measures, fitted_bias
from mapping.training.moon_training import EPOCHS, RECIPES, Batch, fresh_weights, train
from mapping.training.moons import Moons, half_moons, read_moons
from mapping.training.transfer_metrics import classify, survivors, with_bias
from mapping.writing.analog_schedule import AnalogSchedule, Parallel, build_analog_schedule
from mapping.writing.conductance_targets import READ_NOISE, ConductanceTargets, check_tolerance
from mapping.writing.converge import ARRAY, ConvergeToTarget, Outcome
from mapping.writing.touch_up import check_writing
from protocols.bench.bench import Bench, Die
from protocols.bench.checks import SettingError, check_caps, check_read_voltage, check_scheme
from protocols.sequencer.planned import planned_as
from protocols.sequencer.run import Run
from protocols.source.marks import protocol, step
from protocols.steps.analog_write import read_everything, write_analog
from protocols.steps.characterise import check_contact
from protocols.steps.characterise_analog import PROBE, measure_analog, within_caps
from protocols.steps.inference_moons import MoonsOnArray
from sim_backends.array.dies.statistics import StuckCells, TransferStatistics

FloatArray = NDArray[np.float64]
Report = Callable[[str, float], None]

#: Networks that are trained; the others stand for what the closed loop is compared with.
ALL, REGULAR = "all techniques", "regular"
#: Share of the training points that a plan must get right on paper, or its die is not written (assumed: a straight
#: line gets 0.87 or so).
FIT = 0.9
#: Lots that the Monte Carlo draws for its spread.
MONTE_CARLO_LOTS = 20
#: Pulses at a cap before a cell is given up where the caps are lower than those of `ARRAY`: 0.3 V less moves a cell a
#: few times less (assumed).
PULSES_AT_LOWER_CAP = 30
#: Averages of a product.
AVERAGES = 8


@protocol
def tio2_moons(
    run: Run,
    *,
    epochs: int = EPOCHS,
    tolerance: Tolerance = 0.01,
    moons: Path | None = None,
    scheme: str = "V/2",
    parallel: str = "cell",
    averages: int = AVERAGES,
) -> Callable[[Record], MoonsResults]:
    """Train, write, read back and classify on every die of a lot.

    Parameters
    ----------
    epochs : int
        Epochs of the networks that all dies start from.
    tolerance : float
        Half-width of each cell's band, relative to its target.
    moons : Path, optional
        Folder with other points (`mapping.training.moons.FILES`) than our own half moons.
    scheme : str
        Bias scheme of the pulses, ``V/2`` or ``V/3``.
    parallel : str
        ``cell`` or ``line``: what is written at once.
    averages : int
        Measurements averaged for each current of a product.
    """
    points = half_moons() if moons is None else read_moons(moons)
    check_settings(epochs, tolerance, averages, parallel)
    check_writing(scheme)
    geometry = ArrayGeometry.from_dict(run.survey().attrs["geometry"])
    check_fit(geometry)
    settings = settings_within(run.survey().attrs["limits"], tolerance)
    check_read_voltage(run.survey(), settings.v_read)
    check_scheme(run.survey(), scheme)
    check_caps(run.survey(), settings)
    how = _How(settings, scheme, "line" if parallel == "line" else "cell", averages)
    dies, found = _measure_lot(run, how)
    seed = run.settings.seed
    trained = run.compute(train_networks, moons=points, epochs=epochs, seed=seed)
    networks = {str(name): trained["weights"].sel(network=name).values for name in trained["network"].values}
    stuck = np.stack([from_cells(each.stuck[0]) for each in found])
    planned = run.compute(plan_dies, network=networks[ALL], stuck=stuck, moons=points, seed=seed)
    written = _write_lot(run, how, dies, found, planned, points)
    if written:
        run.compute(emulate_others, networks=networks, moons=points, **errors_of(written, stuck, dies))
        run.compute(monte_carlo, network=networks[ALL], moons=points, dies=len(written), seed=seed)
    return moons_results


# before anything moves


def check_settings(epochs: int, tolerance: float, averages: int, parallel: str) -> None:
    """Raise `SettingError` or `TargetError` for a parameter that makes no sense, naming it."""
    if epochs < 1:
        raise SettingError(f"epochs {epochs}: at least 1 is needed; {EPOCHS} are the default")
    check_tolerance(tolerance, ARRAY.averages)
    if averages < 1:
        raise SettingError(f"averages {averages}: at least 1 is needed")
    if parallel not in ("cell", "line"):
        raise SettingError(f"parallel {parallel!r}: choose cell or line")


def check_fit(geometry: ArrayGeometry) -> None:
    """Raise `SettingError` if the dies are not one passive array of 8 x 8."""
    if geometry.shape != (1, *SHAPE):
        kernels, rows, columns = geometry.shape
        raise SettingError(
            f"the dies have {kernels} kernels of {rows} x {columns} cells; this network takes one array of "
            f"{SHAPE[0]} x {SHAPE[1]}: choose another lot, such as tio2-8x8"
        )


def settings_within(limits: dict[str, float], tolerance: float) -> ConvergeToTarget:
    """How cells are written: settings for whole arrays; where the station fires less, more pulses at its limit."""
    cap_set, cap_reset = min(ARRAY.cap_set, limits["v_max"]), max(ARRAY.cap_reset, limits["v_min"])
    lower = cap_set < ARRAY.cap_set or cap_reset > ARRAY.cap_reset
    at_cap = PULSES_AT_LOWER_CAP if lower else ARRAY.pulses_at_cap
    return replace(ARRAY, tolerance=tolerance, cap_set=cap_set, cap_reset=cap_reset, pulses_at_cap=at_cap)


@dataclass(frozen=True)
class _How:
    settings: ConvergeToTarget
    scheme: str
    parallel: Parallel
    averages: int


class NoUsableDieError(RuntimeError):
    """No die could be measured."""


# first pass


def _measure_lot(run: Run, how: _How) -> tuple[list[Die], list[AnalogDie]]:
    """Every die that conducts and moves, with what was found of it."""
    dies, found = [], []
    for die in run.dies():
        with run.attempt(die):
            if run.step(check_contact, die).attrs["verdict"] != "pass":
                continue
            probe = within_caps(PROBE, how.settings)
            measured = run.step(measure_analog, die, settings=how.settings, scheme=how.scheme, probe=probe)
            if measured.attrs["verdict"] == "pass":
                dies.append(die)
                found.append(AnalogDie.from_dataset(measured))
    if not dies:
        raise NoUsableDieError("no die of the lot conducts and moves; check needles, overtravel and caps")
    return dies, found


# training


def _planned_networks(*, moons: Moons, epochs: int, seed: int) -> xr.Dataset:
    """Untrained networks: they are written and classified with as trained ones are."""
    names = (ALL, REGULAR)
    weights = np.stack([fresh_weights(seed)] * len(names))
    return xr.Dataset({"weights": (("network", "parameter"), weights)}, coords={"network": list(names)})


@step(step_names.TRAIN_NETWORKS)
@planned_as(_planned_networks)
def train_networks(report: Report, *, moons: Moons, epochs: int, seed: int) -> xr.Dataset:
    """The network with all techniques, and the one that knows of nothing."""
    names = (ALL, REGULAR)
    recipes = [replace(RECIPES[name], epochs=epochs) for name in names]
    start = np.stack([fresh_weights(seed)] * len(names))
    weights = train(Batch(start, [seed] * len(names), recipes, [PHYSICAL] * len(names)), moons, report=report)
    accuracy = [classify(weights, points)[1] for points in (moons.train, moons.test)]
    return xr.Dataset(
        {
            "weights": (("network", "parameter"), weights),
            "accuracy": (("part", "network"), np.stack(accuracy)),
            "x": (("point", "axis"), moons.test.x),
            "label": ("point", moons.test.label),
        },
        coords={"network": list(names), "part": ["train", "test"]},
        attrs={"data": moons.source, "epochs": epochs},
    )


def _planned_dies(*, network: NDArray[Any], stuck: FloatArray, **_: Any) -> xr.Dataset:
    """The network as it is, on every die, written from the largest conductance down."""
    weights = network[:WEIGHTS].astype(float)
    scale = scales(weights)
    targets = PHYSICAL.targets(weights, scale)
    order = np.argsort(np.argsort(-targets, axis=None)).reshape(targets.shape)
    of_die = {"targets": targets, "events": order, "networks": network, "scale": scale}
    same = {name: np.repeat(np.asarray(value)[None], len(stuck), axis=0) for name, value in of_die.items()}
    return xr.Dataset(
        {
            "networks": (("die", "parameter"), same["networks"]),
            "scale": (("die", "tensor"), same["scale"]),
            "targets": (("die", "side", "weight"), same["targets"], {"units": "S"}),
            "events": (("die", "side", "weight"), same["events"]),
            "fit": ("die", np.ones(len(stuck))),
        }
    )


@step(step_names.PLAN_DIES)
@planned_as(_planned_dies)
def plan_dies(report: Report, *, network: NDArray[Any], stuck: FloatArray, moons: Moons, seed: int) -> xr.Dataset:
    """What is to be written into each die, from its stuck cells ``[die, 2, 32]`` (S; NaN where a cell works)."""
    plan = _planned(network, stuck, moons, seed, report)
    return xr.Dataset(
        {
            "networks": (("die", "parameter"), plan.networks),
            "scale": (("die", "tensor"), plan.scale),
            "targets": (("die", "side", "weight"), plan.targets, {"units": "S"}),
            "events": (("die", "side", "weight"), plan.events),
            "fit": ("die", fit_of(plan, stuck, moons)),
            "noise_free": ("die", classify(plan.networks, moons.test)[1]),
        }
    )


def _planned(
    network: NDArray[Any], stuck: FloatArray, moons: Moons, seed: int, report: Report | None = None
) -> DiePlan:
    return closed_loop.plan(
        network, stuck, PHYSICAL, moons, TransferStatistics(), Measures(), recipe=written_dies.TUNING_ONLY,
        one_sequence=True, seed=seed, report=report,
    )  # fmt: skip


def fit_of(plan: DiePlan, stuck: FloatArray, moons: Moons) -> FloatArray:
    """Share of the training points that each plan gets right if its targets are met and stuck cells stay, ``[die]``."""
    held = np.where(np.isnan(stuck), plan.targets, stuck)
    seen = with_bias(PHYSICAL.weights(held, plan.scale), plan.networks[:, WEIGHTS])
    seen[:, WEIGHTS] = fitted_bias(seen, moons.train)
    return classify(seen, moons.train)[1]


def made_up(network: FloatArray, scale: FloatArray, held: FloatArray) -> FloatArray:
    """Targets (S) ``[2, 32]`` of a network ``[33]`` when some devices hold what they `held` (NaN where they work)."""
    limit = per_weight(scale)
    weights = np.clip(network[:WEIGHTS], -limit, limit)
    return np.asarray(np.clip(PHYSICAL.compensated(weights, scale, held), *PHYSICAL.window), np.float64)


# second pass


def _write_lot(
    run: Run, how: _How, dies: list[Die], found: list[AnalogDie], planned: xr.Dataset, moons: Moons
) -> dict[str, xr.Dataset]:
    """Write and classify on every die whose plan is worth it; the last write of each die that was classified."""
    written = {}
    place = {die: number for number, die in enumerate(dies)}
    for die in run.dies():
        if die not in place:
            continue
        plan = planned.isel(die=place[die])
        if float(plan["fit"]) < FIT:
            reason = f"with its stuck cells the network gets {float(plan['fit']):.0%} of the training points right"
            run.verdict(die, "fail", reason=f"{reason}; {FIT:.0%} are wanted, so it is not written")
            continue
        with run.attempt(die):
            written[die.name] = _write_die(run, how, die, found[place[die]], plan, moons)
    return written


def _write_die(run: Run, how: _How, die: Die, found: AnalogDie, plan: xr.Dataset, moons: Moons) -> xr.Dataset:
    """Write one die, a second time if cells could not be written, and classify with it."""
    result = run.step(write_analog, die, schedule=schedule_of(how, plan, found, plan["targets"].values), found=found)
    outcome = result["outcome"].values
    if ((outcome > Outcome.REACHED) & found.writable).any():
        missed = (outcome > Outcome.REACHED) & (outcome != Outcome.DRIFTED)  # what only drifted is written once more
        found = given_up(found, missed, result["achieved"].values, how.settings)
        targets = made_up(plan["networks"].values.astype(float), plan["scale"].values, from_cells(found.stuck[0]))
        result = run.step(write_analog, die, schedule=schedule_of(how, plan, found, targets), found=found)
    run.step(
        classify_points,
        die,
        network=plan["networks"].values,
        scale=plan["scale"].values,
        moons=moons,
        settings=how.settings,
        averages=how.averages,
    )
    return result


def schedule_of(how: _How, plan: xr.Dataset, found: AnalogDie, targets: FloatArray) -> AnalogSchedule:
    """Schedule that writes targets ``[2, 32]`` (S) into the cells that can be written, what matters most last."""
    wanted = np.where(found.writable, to_cells(targets), np.nan)
    sensitivity = -to_cells(plan["events"].values).astype(float)  # fewer events follow on what matters more
    goal = ConductanceTargets.of(found.geometry, wanted, how.settings.tolerance, sensitivity)
    return build_analog_schedule(goal, how.settings, scheme=how.scheme, parallel=how.parallel, die=found)


def given_up(
    found: AnalogDie, missed: NDArray[np.bool_], achieved: FloatArray, settings: ConvergeToTarget
) -> AnalogDie:
    """The die with cells that could not be written taken for stuck at what they hold."""
    held = np.where(missed & found.writable, np.nan_to_num(achieved), found.g)
    middle = (settings.g_min + settings.g_max) / 2
    stuck = np.where(held > middle, CellClass.STUCK_LRS, CellClass.STUCK_HRS)
    classes = np.where(missed & found.writable, stuck, found.cell_class).astype(np.uint8)
    return replace(found, g=held, cell_class=classes)


@step(step_names.CLASSIFY_POINTS)
def classify_points(
    bench: Bench,
    die: Die,
    *,
    network: NDArray[Any],
    scale: FloatArray,
    moons: Moons,
    settings: ConvergeToTarget,
    averages: int,
) -> xr.Dataset:
    """Read all cells, set the digital output bias for what they hold (training points), classify the test points.

    Returns
    -------
    xarray.Dataset
        `g` (S) of all cells, `logit` and `right` of each test point by analog products, `right_map` by arithmetic with
        what was read, `network` as read, with the bias that was set. Verdict ``pass``.
    """
    g = read_everything(bench, settings)
    finite = np.nan_to_num(g, nan=0.0, posinf=float(np.max(g[np.isfinite(g)], initial=0.0)))
    seen = with_bias(PHYSICAL.weights(from_cells(finite[0]), scale), network[WEIGHTS])
    seen[WEIGHTS] = fitted_bias(seen[None], moons.train)[0]
    on_array = MoonsOnArray(bench, finite[0], scale, v_read=settings.v_read, averages=averages)
    logit = on_array.logits(moons.test.x, float(seen[WEIGHTS]))
    label = moons.test.label > 0
    return xr.Dataset(
        {
            "g": (("kernel", "row", "column"), finite, {"units": "S"}),
            "logit": ("point", logit),
            "right": ("point", (logit > 0) == label),
            "right_map": ("point", classify(seen[None], moons.test)[0] > 0.5),
            "network": ("parameter", seen),
        },
        attrs={"verdict": "pass", "accuracy": float(np.mean((logit > 0) == label)), "bias": float(seen[WEIGHTS])},
    )


# what is computed beside the measurement


def errors_of(written: dict[str, xr.Dataset], stuck: FloatArray, dies: list[Die]) -> dict[str, FloatArray]:
    """Of the dies that were written: stuck devices (S), and relative errors of the others, ``[die, 2, 32]``.

    Stuck are those that were known to be, and those that the last write left alone because an earlier one gave them up.
    """
    names = [die.name for die in dies]
    known = np.stack([stuck[names.index(name)] for name in written])
    achieved, target = (np.stack([from_cells(each[variable].values[0]) for each in written.values()])
                        for variable in ("achieved", "target"))  # fmt: skip
    held = np.where(np.isnan(known) & np.isnan(target), np.nan_to_num(achieved), known)
    return {"stuck": held, "error": np.nan_to_num(achieved / target - 1, nan=0.0)}


@step(step_names.EMULATE_OTHERS)
def emulate_others(
    report: Report, *, networks: dict[str, NDArray[Any]], moons: Moons, stuck: FloatArray, error: FloatArray
) -> xr.Dataset:
    """Networks without the loop on the same dies, from what was measured of these: emulated, not written.

    Devices that are stuck hold what they hold; the others get the targets with the relative errors of the real write.
    """
    right = []
    for network in networks.values():
        weights = network[:WEIGHTS].astype(float)
        scale = scales(weights)
        g = np.where(np.isnan(stuck), PHYSICAL.targets(weights, scale) * (1 + error), stuck)
        arrived = with_bias(PHYSICAL.weights(g, scale), network[WEIGHTS])
        right.append([classify(one[None], moons.test)[0] > 0.5 for one in arrived])
    coords = {"network": list(networks)}
    return xr.Dataset({"right": (("network", "die", "point"), np.array(right))}, coords, {"emulated": "from maps"})


def _planned_monte_carlo(**_: Any) -> xr.Dataset:
    return xr.Dataset({name: ("lot", np.ones(1)) for name in ("f95", "mean", "worst")})


@step(step_names.MONTE_CARLO)
@planned_as(_planned_monte_carlo)
def monte_carlo(report: Report, *, network: NDArray[Any], moons: Moons, dies: int, seed: int) -> xr.Dataset:
    """The same loop without the wire on lots of so many drawn dies, for the spread between lots (`mapping`).

    Dies are drawn with stuck cells only, of the published rates; lines are perfect. As at the station, dies whose plan
    does not fit are left out.
    """
    rng = np.random.default_rng([seed, 11])
    count = MONTE_CARLO_LOTS * dies
    report(f"Monte Carlo, {count} dies", 0.0)
    law = TransferStatistics().stuck or StuckCells(0.0, 0.0)
    drawn = written_dies.Dies.draw(closed_loop.draw_stuck(law, count, rng), rng)
    found = drawn.probe(rng)
    plan = _planned(network, found, moons, seed)
    written = drawn.write(plan, found, rng)
    usable = fit_of(plan, found, moons) >= FIT
    g = from_cells(drawn.array.conductance)
    right = _right_of(plan, g, moons, rng)
    lots = [right[lot * dies : (lot + 1) * dies][usable[lot * dies : (lot + 1) * dies]]
            for lot in range(MONTE_CARLO_LOTS)]  # fmt: skip
    lots = [lot for lot in lots if len(lot)]
    return xr.Dataset(
        {
            "f95": ("lot", np.array([survivors(lot.mean(axis=0)) for lot in lots])),
            "mean": ("lot", np.array([lot.mean() for lot in lots])),
            "worst": ("lot", np.array([lot.mean(axis=0).min() for lot in lots])),
        },
        attrs={
            "dies": dies,
            "left_out": int((~usable).sum()),
            "within_tolerance": written_dies.within_tolerance(written),
            "pulses_per_cell": float(written.pulses.mean()),
        },
    )


def _right_of(plan: DiePlan, g: FloatArray, moons: Moons, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether each die gets each test point right, with its bias set for what was read, ``[die, point]``."""
    read = g * (1 + READ_NOISE * rng.standard_normal(g.shape))
    seen = with_bias(PHYSICAL.weights(read, plan.scale), plan.networks[:, WEIGHTS])
    networks = with_bias(PHYSICAL.weights(g, plan.scale), fitted_bias(seen, moons.train))
    return np.stack([classify(one[None], moons.test)[0] > 0.5 for one in networks])
