"""What a record of a die may say of its cells."""

import numpy as np
import pytest

from mapping.dies.analog_die import AnalogDie
from mapping.dies.defects import DefectStatistics
from mapping.dies.die_record import CellClass, DieRecord, DieRecordError
from mapping.dies.geometry import NAMED, ArrayGeometry
from mapping.training.emulation import cell_arrays, weight_unit

GEOMETRY = NAMED["mtj-20k"]
CELL = (3, 4, 5)


def record(kind=CellClass.GOOD, conditions=None, **values):
    rng = np.random.default_rng(0)
    cells = {"g_p": rng.normal(140e-6, 7e-6, GEOMETRY.shape), "g_ap": rng.normal(78e-6, 4e-6, GEOMETRY.shape)}
    classes = np.zeros(GEOMETRY.shape, np.uint8)
    classes[CELL] = kind
    for name, value in values.items():
        cells[name][CELL] = value
    return DieRecord("W1 3,4", GEOMETRY, **cells, cell_class=classes, conditions=conditions or {"v_read": 0.1})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["g_p", "g_ap"])
@pytest.mark.parametrize("kind", [CellClass.GOOD, CellClass.WEAK])
def test_a_working_cell_without_a_number_is_named(kind, name, value):
    with pytest.raises(DieRecordError, match=rf"W1 3,4.*kernel 3, row 4, column 5.*{name} is"):
        record(kind, **{name: value})


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", [kind for kind in CellClass if kind not in (CellClass.GOOD, CellClass.WEAK)])
def test_broken_cells_need_no_number_and_give_none_away(kind, value):
    found = record(kind, g_p=value, g_ap=value)
    assert all(np.isfinite(part).all() for part in cell_arrays(found))
    assert 0 < weight_unit(found) < np.inf
    assert np.isfinite(DefectStatistics.fit([found, record()]).log_g).all()


def test_a_stored_record_is_checked_when_it_is_read():
    stored = record().to_dataset()
    stored["g_p"][CELL] = np.nan
    with pytest.raises(DieRecordError, match="kernel 3, row 4, column 5"):
        DieRecord.from_dataset(stored)


def test_a_record_is_not_changed_from_outside():
    values = np.full(GEOMETRY.shape, 1e-4)
    found = DieRecord("die", GEOMETRY, 2 * values, values, np.zeros(GEOMETRY.shape, np.uint8))
    values[CELL] = np.nan
    assert np.isfinite(found.g_ap).all()


@pytest.mark.parametrize("wrong", [np.ones((2, 2)), np.full(GEOMETRY.shape, 1e-4 + 0j), np.full(GEOMETRY.shape, "1")])
def test_arrays_of_another_shape_or_kind_are_refused(wrong):
    right, classes = np.full(GEOMETRY.shape, 1e-4), np.zeros(GEOMETRY.shape, np.uint8)
    for given in ((wrong, right, classes), (right, wrong, classes), (right, right, wrong)):
        with pytest.raises(DieRecordError):
            DieRecord("die", GEOMETRY, *given)


@pytest.mark.parametrize("kind", [7, -1, 255, 256, 0.5, np.nan])
def test_a_class_that_there_is_not_is_refused(kind):
    classes = np.zeros(GEOMETRY.shape)
    classes[CELL] = kind
    with pytest.raises(DieRecordError, match="kernel 3, row 4, column 5"):
        DieRecord("die", GEOMETRY, np.full(GEOMETRY.shape, 2e-4), np.full(GEOMETRY.shape, 1e-4), classes)


@pytest.mark.parametrize(
    "conditions", [{"v_read": 0.0}, {"v_read": np.nan}, {"v_read": "0.1"}, {"curvature_p": np.nan}, {"g_max": np.inf}]
)
def test_conditions_that_emulation_would_multiply_with_are_numbers(conditions):
    with pytest.raises(DieRecordError, match=next(iter(conditions))):
        record(conditions=conditions)


def test_a_die_that_switches_the_wrong_way_round_has_no_weight_unit():
    values = np.full(GEOMETRY.shape, 1e-4)
    swapped = DieRecord("die", GEOMETRY, values, 2 * values, np.zeros(GEOMETRY.shape, np.uint8))
    with pytest.raises(DieRecordError, match="no more after writing P"):
        weight_unit(swapped)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_analog_die_says_what_every_cell_holds(value):
    """NaN of a stuck cell would make it one that can be written."""
    geometry = ArrayGeometry.tiled(8, 8, 1, 8, 8)
    g = np.full(geometry.shape, 1e-4)
    g[0, 1, 2] = value
    classes = np.full(geometry.shape, int(CellClass.STUCK_LRS), np.uint8)
    volts = np.full(geometry.shape, np.nan)
    with pytest.raises(DieRecordError, match="kernel 0, row 1, column 2"):
        AnalogDie("die", geometry, g, np.zeros(geometry.shape), volts, volts, classes)
