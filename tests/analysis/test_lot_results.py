"""Results from a record that earlier runs with other settings have left their steps in."""

import numpy as np
import pytest
import xarray as xr

from analysis.record.record import COMPUTED, Record
from analysis.record.step_names import CLASSIFY_IMAGES, EMULATE_MOVED, MEASURE_STATES, SOFTWARE, SURVEY
from analysis.results.mtj_mnist import NothingMeasuredError, lot_results
from mapping.dies.die_record import DieRecord
from mapping.dies.geometry import ArrayGeometry

GEOMETRY = ArrayGeometry.tiled(2, 3, 1, 2, 3)
DIES = ("c0r0", "c1r0")


def measured(die):
    g = np.full(GEOMETRY.shape, 1e-4)
    data = DieRecord(die, GEOMETRY, g, g / 2, np.zeros(GEOMETRY.shape, np.uint8), (), {"v_read": 0.1}).to_dataset()
    return data.assign_attrs(verdict="pass")


def classified(training, images, of=""):
    return xr.Dataset({"correct": ("image", np.ones(images, bool))}, attrs={"training": training, "network_of": of})


@pytest.fixture
def record(tmp_path):
    """Two measured dies; one was classified with 5 images by an earlier run, both will be with 8."""
    with Record.open(tmp_path) as opened:
        run = opened.begin_run("mtj-mnist", {"seed": 0})

        def put(die, function, data):
            opened.append_step(run, "mtj-mnist", die, function, "s", function + die, {}, 0.0, data)

        sites = np.array([[0, 0], [1, 0]])
        put("", SURVEY, xr.Dataset({"sites": (("die", "axis"), sites)}, attrs={"prober": "p", "array": "a"}))
        for die in DIES:
            put(die, MEASURE_STATES, measured(die))
        correct = (("training", "image"), np.ones((1, 8), bool))
        software = xr.Dataset({"correct": correct}, {"training": ["unaware"]}, {"data": "d", "assumed": ["x"]})
        put(COMPUTED, SOFTWARE, software)
        put("c0r0", CLASSIFY_IMAGES, classified("unaware", 8))
        put("c1r0", CLASSIFY_IMAGES, classified("unaware", 5))
        put("c1r0", CLASSIFY_IMAGES, classified("die_aware_moved", 5, "c0r0"))
        yield opened


def test_results_with_another_number_of_images_do_not_mix_with_the_present_ones(record):
    results = lot_results(record)
    assert results.dies == DIES
    assert results.trainings["unaware"].correct.shape == (1, 8)
    assert results.trainings["unaware"].die_index.tolist() == [0]
    assert "die_aware_moved" not in results.trainings and results.moved_measured == ()


def test_a_transfer_matrix_of_other_dies_is_not_shown(record):
    data = xr.Dataset({"error": (("network", "die"), np.zeros((3, 3)))})
    record.append_step(1, "mtj-mnist", COMPUTED, EMULATE_MOVED, "s", "k", {}, 0.0, data)
    assert np.isnan(lot_results(record).moved_emulated).all()


def test_an_empty_record_says_so(tmp_path):
    with Record.open(tmp_path) as empty, pytest.raises(NothingMeasuredError, match="run it first"):
        lot_results(empty)
