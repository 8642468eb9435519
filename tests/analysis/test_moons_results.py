"""Numbers and report of a lot of passive dies, from results that are made up."""

import json

import numpy as np
import pytest
import xarray as xr

from analysis.reports.tio2_moons import drift_of, figures, headline, pulses_of, render
from analysis.results.analog import defects, programming
from analysis.results.tio2_moons import MoonsResults, Written, metrics, numbers
from mapping.dies.die_record import CellClass
from mapping.writing.converge import Outcome

DIMS = ("kernel", "row", "column")
SHAPE = (1, 8, 8)
POINTS = 40


def write(missed=(), left_out=(), pulses=10, passes=3):
    """A result of `write_analog`."""
    outcome = np.full(SHAPE, int(Outcome.REACHED), np.int8)
    for cell in missed:
        outcome[(0, *cell)] = Outcome.CAP
    for cell in left_out:
        outcome[(0, *cell)] = Outcome.GOING
    healthy = int((outcome > 0).sum())
    within = float((outcome == Outcome.REACHED).sum() / healthy)
    target = np.full(SHAPE, 200e-6)
    order = np.where(outcome > 0, np.arange(64).reshape(SHAPE), -1)
    return xr.Dataset(
        {
            "target": (DIMS, target),
            "achieved": (DIMS, target * 1.002),
            "outcome": (DIMS, outcome),
            "pulses": (DIMS, np.where(outcome > 0, pulses, 0)),
            "order": (DIMS, order),
            "written": (DIMS, target),
            "after_pass": (DIMS, target * 0.99),
        },
        attrs={"healthy": healthy, "within_tolerance": within, "passes": passes, "mean_error": 0.002,
               "reasons": json.dumps({"at a cap": len(missed)} if missed else {})},
    )  # fmt: skip


def measured(broken=(), lines=()):
    """A result of `measure_analog`."""
    classes = np.full(SHAPE, CellClass.GOOD, np.uint8)
    for cell in broken:
        classes[(0, *cell)] = CellClass.STUCK_LRS
    return xr.Dataset(
        {"g": (DIMS, np.full(SHAPE, 300e-6)), "cell_class": (DIMS, classes)},
        attrs={"verdict": "pass", "line_faults": json.dumps([["row", 0, line] for line in lines])},
    )


def lot(dies=2, wrong=0, **change):
    right = np.ones((dies, POINTS), bool)
    right[0, :wrong] = False
    of_dies = tuple(Written(f"c{d}r1", [write()], right[d], right[d], np.zeros(33)) for d in range(dies))
    rng = np.random.default_rng(0)
    drawn = xr.Dataset({name: ("lot", np.array([0.9, 1.0])) for name in ("f95", "mean", "worst")}, attrs={"dies": dies})
    fields = {
        "measured": {each.die: measured() for each in of_dies} | {"c9r9": measured([(1, 2)], [3])},
        "of_dies": of_dies,
        "fit": {"c9r9": 0.61},
        "noise_free": 0.98,
        "others": {"regular": ~right},
        "monte_carlo": drawn,
        "x": rng.random((POINTS, 2)),
        "label": np.arange(POINTS) % 2,
        "seed": 0,
        "data": "half moons",
        "time": dict.fromkeys(("wall_s", "station_s", "measuring_s", "training_s", "writing_s", "classifying_s"), 1.0),
        "provenance": {"source": "<b>here</b>"},
    }  # fmt: skip
    return MoonsResults(**(fields | change))


def test_a_second_round_does_not_hide_what_could_not_be_written():
    missed = [(0, 1), (2, 3)]
    took = programming([[write(missed), write(left_out=missed, pulses=1, passes=1)]])
    assert took["cells"] == 64 and took["gave_up"] == 2
    assert took["within_tolerance"] == pytest.approx(62 / 64) and took["within_tolerance_second_round"] == 1
    assert took["passes"] == 4 and took["second_rounds"] == 1
    assert took["pulses_per_cell"] == pytest.approx((640 + 62) / 64)


def test_what_is_known_as_broken_is_part_of_the_whole():
    """A third of the cells is left out, or all are: neither is 100 % in tolerance."""
    third = [(row, column) for row in range(8) for column in range(3)][:21]
    took = programming([[write(left_out=third)]], whole=True)
    assert (took["cells"], took["known_broken"], took["gave_up"]) == (64, 21, 0)
    assert took["within_tolerance"] == 43 / 64 and took["pulses_per_cell"] == 10
    broken = write()
    broken["outcome"][:] = Outcome.DEFECT
    broken.attrs["healthy"] = 0
    took = programming([[broken]])
    assert (took["cells"], took["known_broken"], took["within_tolerance"]) == (64, 64, 0.0)
    assert took["pulses_per_cell"] is None
    unread = write()
    unread["achieved"][0, 0] = np.nan
    assert programming([[unread]])["mean_error"] == pytest.approx((8 + 56 * 0.002) / 64)


def test_f95_wants_every_die_of_a_few_and_nothing_is_made_up_where_nothing_was_measured():
    right = np.array([[True, True, False, True], [True, False, False, True]])
    assert metrics(right) == {"f95": 0.5, "mean": 5 / 8, "worst": 0.0}
    assert metrics(np.zeros((0, 4), bool)) == {"f95": None, "mean": None, "worst": None}


def test_numbers_are_plain_and_say_what_was_not_written_and_why():
    found = numbers(lot(wrong=2))
    json.dumps(found, allow_nan=False)
    assert found["f95"] == pytest.approx(38 / 40) and found["accuracy"]["worst"] == 0.5
    assert found["accuracy"]["noise_free"] == 0.98
    assert found["dies"]["written"] == 2 and "61%" in found["dies"]["not_written"]["c9r9"]
    assert found["defects"]["c9r9"] == {"cells": {"stuck LRS": 1}, "lines": ["row 3"]}
    drawn = found["monte_carlo"]
    assert drawn["f95"]["within"] and not drawn["worst"]["within"] and drawn["lots"] == 2


def test_without_written_dies_there_are_numbers_and_a_report_too():
    empty = lot(of_dies=(), others={}, monte_carlo=None, noise_free=float("nan"))
    found = numbers(empty)
    json.dumps(found, allow_nan=False)
    assert found["f95"] is None and found["programming"]["within_tolerance"] is None
    assert "none was written" in headline(found)[0] and "Dies, stuck cells" in render(empty)


@pytest.mark.slow
def test_the_report_holds_every_figure_and_no_markup_from_outside():
    results = lot(wrong=1)
    assert {"decision", "cumulative", "achieved", "pulses", "drift", "die_c9r9"} <= set(figures(results))
    page = render(results)
    assert "<b>here</b>" not in page and "row 3" in page and "http://" not in page.split("</script>")[-1]


def test_drift_is_relative_and_pulses_are_summed_over_rounds():
    place, change = drift_of(write(left_out=[(0, 0)]))
    assert len(place) == 63 and np.allclose(change, -0.01)
    each = Written("a", [write(left_out=[(0, 0)]), write(pulses=2)], np.ones(1, bool), np.ones(1, bool), np.zeros(33))
    assert pulses_of(each).tolist() == [12] * 63


def test_defects_are_counted_by_class():
    assert defects(measured([(0, 0), (1, 1)])) == {"cells": {"stuck LRS": 2}, "lines": []}
