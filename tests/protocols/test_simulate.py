"""Methods over drawn lots: records come from reading drawn dies, points are kept, a stronger short costs more."""

import json
from unittest import mock

import numpy as np
import pytest

from analysis.results.summary import TRAININGS
from mapping.dies.die_record import HARD_DEFECTS, CellClass
from mapping.training.binary import Architecture, Recipe, die_pairs, emulate
from mapping.training.mnist import Digits, load_mnist
from mapping.training.network import ideal_multiply
from protocols.studies.drawn_dies import geometry_of, measured_records, scaled_lot
from protocols.studies.lot_methods import Methods, Recipes, record_multiply
from protocols.studies.mtj_lots import LotsFolderError, simulate_lots
from sim_backends.array.dies.lot import KINDS, load_lot
from sim_backends.array.dies.mtj_die import Die

pytestmark = pytest.mark.slow

LOT = load_lot("mtj")
DIES = 2
TRUTH = {"good": CellClass.GOOD, "short": CellClass.SHORT, "open": CellClass.OPEN, "stuck_p": CellClass.STUCK_P,
         "stuck_ap": CellClass.STUCK_AP, "weak_tmr": CellClass.WEAK}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    """400 digits to train with, 100 to test."""
    whole = load_mnist().first_test(100)
    return Digits(whole.train_images[::10], whole.train_labels[::10], whole.test_images, whole.test_labels, "few")


@pytest.fixture(scope="module")
def methods(digits):
    recipe = Recipe(epochs=30, maps=1, images=50, rate=2e-2)
    return Methods.prepare(digits, Architecture(), Recipes(unaware=recipe), seed=0)


@pytest.fixture(scope="module")
def unaware(methods):
    return methods.unaware(geometry_of(LOT), lambda text, share: None)


@pytest.fixture(scope="module")
def study(digits, tmp_path_factory):
    """A folder with one point, and the same a second time with a point more."""
    folder = tmp_path_factory.mktemp("lots")
    with mock.patch("protocols.studies.mtj_lots.write_page"):  # drawn when all is there
        simulate(folder, digits, values={})
    first = numbers(folder)
    first["points"][0]["errors"]["unaware"] = [0.125, 0.375]  # a mark that computing anew would not give
    (folder / "lots.json").write_text(json.dumps(first), encoding="utf-8")
    simulate(folder, digits, values={"defect_rate": (4.0,)})
    return folder


def simulate(folder, digits, *, values, dies=DIES, lot="mtj"):
    simulate_lots(folder, lot=lot, seeds=range(1), dies=dies, epochs=1, values=values, digits=digits)


def numbers(folder):
    return json.loads((folder / "lots.json").read_text(encoding="utf-8"))


# records


def test_hard_defects_are_found_by_reading():
    lot = scaled_lot(LOT, 4.0, LOT.devices.r_short, LOT.devices.r_selector)
    for index, record in enumerate(measured_records(lot, 3, range(DIES))):
        die = Die.from_lot(lot, 3, index)
        truth = np.array([TRUTH[kind] for kind in KINDS])[die.kind]
        judged = (record.cell_class != CellClass.DEAD_LINE) & die.alive & np.isin(truth, HARD_DEFECTS)
        assert judged.sum() > 50
        assert np.mean(record.cell_class[judged] == truth[judged]) > 0.98
        lines = {line.mask.tobytes() for line in die.dead_lines}
        assert {fault.cells(record.geometry).tobytes() for fault in record.line_faults} == lines


def test_a_record_is_a_reading_and_not_the_truth():
    lot = scaled_lot(LOT, 4.0, 3e3, LOT.devices.r_selector)  # 3 kOhm: conducts like P, whatever it is called
    (record,) = measured_records(lot, 3, range(1))
    die = Die.from_lot(lot, 3, 0)
    shorts = (die.kind == KINDS.index("short")) & die.alive
    assert np.isin(record.cell_class[shorts], (CellClass.STUCK_P, CellClass.DEAD_LINE)).all()
    good = record.cell_class == CellClass.GOOD
    noise = record.g_p[good] / die.conductance(0.1, antiparallel=False)[good] - 1
    assert 1e-4 < noise.std() < 0.01
    again = measured_records(lot, 3, range(1))[0]
    np.testing.assert_array_equal(again.g_p, record.g_p)


def test_more_defects_keep_those_that_were_there():
    few, many = (Die.from_lot(scaled_lot(LOT, scale, 100.0, 2e3), 0, 1).kind.astype(bool) for scale in (1.0, 4.0))
    assert few.sum() < many.sum() and many[few].all()


# methods


def test_a_stronger_short_costs_a_fixed_network_more(methods, unaware):
    errors = []
    for r_short in (30.0, 3e3):
        records = measured_records(scaled_lot(LOT, 4.0, r_short, 500.0), 0, range(4))
        errors.append(methods.emulated([unaware] * 4, records).mean())
    assert errors[0] > errors[1] + 0.05
    assert errors[1] < methods.software(unaware, geometry_of(LOT)) + 0.1


def test_multiplies_of_a_record_are_those_of_the_batched_emulation(methods, unaware, digits):
    guarded = unaware.with_guard(Architecture().rows_per_multiply)
    placement = guarded.place(geometry_of(LOT))
    pairs = die_pairs(measured_records(LOT, 0, range(1)), placement)
    found = guarded.classify(digits.test_images, placement, record_multiply(guarded, placement, pairs))
    np.testing.assert_array_equal(found, emulate([guarded], placement, pairs, digits.test_images)[0, 0])
    x = guarded.encode(digits.test_images)
    ideal = ideal_multiply(guarded.weights, placement)(0, x)
    assert np.corrcoef(record_multiply(guarded, placement, pairs)(0, x).ravel(), ideal.ravel())[0, 1] > 0.9


# folders


def test_what_is_finished_is_kept(study):
    points = numbers(study)["points"]
    assert [(p["scale"], p["seed"]) for p in points] == [(1.0, 0), (4.0, 0)]
    assert points[0]["errors"]["unaware"] == [0.125, 0.375]


def test_results_have_every_number(study):
    found = numbers(study)
    assert set(found) == {"emulated", "settings", "seeds", "provenance", "missing", "sweeps", "points"}
    assert set(found["sweeps"]) == {"defect_rate", "short", "selector"}
    assert [p["value"] for p in found["sweeps"]["defect_rate"]["points"]] == [1.0, 4.0]
    assert [p["value"] for p in found["sweeps"]["short"]["points"]] == [LOT.devices.r_short]
    methods = found["sweeps"]["defect_rate"]["points"][1]["methods"]
    trained = set(TRAININGS)
    assert set(methods) == trained | {"software"}
    for name in trained:
        assert {"mean", "sd", "worst", "low", "high", "minus_software", "recovered", "per_seed"} <= set(methods[name])
        assert len(methods[name]["per_seed"]["0"]["per_die"]) == DIES
    for name in ("statistics_aware", "calibrated"):
        both = methods[name]["fit_half"]["mean"] + methods[name]["unseen_half"]["mean"]
        assert both / 2 == pytest.approx(methods[name]["mean"])
    assert found["provenance"]["packages"]["torch"]
    assert "emulated" in found["emulated"]
    assert (study / "lots.html").is_file()


def test_a_folder_of_other_settings_is_refused(study, digits):
    before = (study / "lots.json").read_bytes()
    with pytest.raises(LotsFolderError, match=r"other settings \(dies\).*another --out"):
        simulate(study, digits, values={}, dies=DIES + 1)
    assert (study / "lots.json").read_bytes() == before


def test_a_damaged_file_is_refused(tmp_path, digits):
    (tmp_path / "lots.json").write_text("{", encoding="utf-8")
    with pytest.raises(LotsFolderError, match="not a result of xbar simulate"):
        simulate(tmp_path, digits, values={})
