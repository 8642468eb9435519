"""Numbers and page of methods over drawn lots, from made-up points."""

import re

import numpy as np
import pytest

from analysis.results.summary import TRAININGS
from analysis.studies.lot_curves import conclusions, render, write_page
from analysis.studies.lot_sweeps import LotPoint, leaves_software, sweeps

DEFAULT = (1.0, 100.0, 2e3)
SOFTWARE = 0.04


def point(scale=1.0, r_short=100.0, r_selector=2e3, seed=0, **worse):
    """Four dies on which each method is worse than software by so much, half a point more or less."""
    wobble = np.array([-0.005, 0.005, -0.005, 0.005])
    errors = {name: SOFTWARE + worse.get(name, 0.01) + wobble for name in TRAININGS}
    return LotPoint(
        (scale, r_short, r_selector), seed, SOFTWARE, 0, np.full(4, int(100 * scale)), errors, np.array([0, 2]), 1.0
    )


@pytest.fixture
def points():
    rates = [point(s, unaware=0.04 * s, statistics_aware=0.005, calibrated=0.03) for s in (0.25, 1.0, 4.0)]
    return [*rates, point(seed=1, unaware=0.06), point(r_short=3e3, unaware=0.02), point(r_selector=5e3, unaware=0.005)]


@pytest.fixture
def numbers(points):
    provenance = {"git": "<b>dirty</b>", "python": "3.11", "packages": {"numpy": "2.0"}}
    settings = {"lot": "mtj", "dies": 4, "data": "made up", "test_images": 100, "source": "0",
                "recipes": {"unaware": {"epochs": 1}}}  # fmt: skip
    return {"emulated": "all", "settings": settings, "seeds": [0, 1], "provenance": provenance, "missing": 0,
            "sweeps": sweeps(points, DEFAULT), "points": [p.to_dict() for p in points]}  # fmt: skip


def test_points_survive_their_file(points):
    again = LotPoint.from_dict(points[3].to_dict())
    assert (again.place, again.seed) == (points[3].place, 1)
    np.testing.assert_array_equal(again.errors["unaware"], points[3].errors["unaware"])


def test_a_point_is_in_the_sweeps_whose_other_values_are_the_lot_s_own(numbers):
    values = {name: [p["value"] for p in sweep["points"]] for name, sweep in numbers["sweeps"].items()}
    assert values == {"defect_rate": [0.25, 1.0, 4.0], "short": [100.0, 3e3], "selector": [2e3, 5e3]}


def test_numbers_are_over_dies_and_seeds(numbers):
    methods = numbers["sweeps"]["defect_rate"]["points"][1]["methods"]
    assert methods["unaware"]["mean"] == pytest.approx(SOFTWARE + 0.05)
    assert methods["unaware"]["minus_software"] == pytest.approx(0.05)
    assert methods["unaware"]["worst"] == pytest.approx(SOFTWARE + 0.065)
    assert set(methods["unaware"]["per_seed"]) == {"0", "1"}
    assert methods["statistics_aware"]["fit_half"]["mean"] == pytest.approx(
        methods["statistics_aware"]["unseen_half"]["mean"] - 0.01
    )
    assert methods["die_aware"]["recovered"] == pytest.approx(0.8)


def test_recovery_of_no_loss_is_not_told(numbers):
    recovered = {name: numbers["sweeps"][name]["points"][1]["methods"]["die_aware"]["recovered"] for name in
                 ("short", "selector")}  # fmt: skip
    assert recovered == {"short": pytest.approx(0.5), "selector": None}


@pytest.mark.parametrize(
    ("worse", "found", "value"),
    [((0.0, 0.01), "above", 4.0), ((0.03, 0.05), "below", 1.0), ((0.0, 0.04), "at", 2.0), ((0.01, 0.02), "at", 4.0)],
)
def test_where_a_method_leaves_software(worse, found, value):
    line = [{"value": v, "methods": {"unaware": {"minus_software": w}}} for v, w in zip((1.0, 4.0), worse, strict=True)]
    left = leaves_software(line, "unaware")
    assert left["found"] == found and left["value"] == pytest.approx(value)


def test_conclusions_name_the_rates(numbers):
    said = conclusions(numbers)
    assert said[0] == "unaware: 2 points above software at 0.35 times the lot's defect rate."
    assert any(s.startswith("statistics-aware: less than 2 points above software up to 4 times") for s in said)
    assert any(s.startswith("calibrated: more than 2 points above software already at 0.25 times") for s in said)


@pytest.mark.slow
def test_page_opens_offline_and_holds_every_curve(numbers, tmp_path):
    page = write_page(numbers, tmp_path / "lots.html").read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|link)[^>]+(?:src|href)=", page)
    for words in ("Defect rate", "Strength of the short", "Selector", *TRAININGS.values()):
        assert words in page
    assert "<b>dirty</b>" not in page
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_half_a_sweep_has_a_page_that_says_so(numbers, points):
    numbers |= {"sweeps": sweeps(points[:1], DEFAULT), "missing": 10}
    page = render(numbers)
    assert "10 points are missing" in page
    assert "Strength of the short" not in page
