"""Defect statistics: what is drawn has the statistics, and fitting drawn dies gives them back."""

import numpy as np
import pytest
from known_statistics import G_AP, statistics

from mapping.dies.classify_cells import classify
from mapping.dies.defects import LINES, POINT, DefectStatistics, DieSampler, StatisticsError
from mapping.dies.die_record import CellClass, DieRecord
from mapping.dies.geometry import MTJ_20K


def records(count, **changes):
    mean, half = DieSampler(statistics(**changes), np.random.default_rng(5))(count)
    found = []
    for m, h in zip(mean.astype(float), half.astype(float), strict=True):
        g_p, g_ap = (m + h).reshape(MTJ_20K.shape), (m - h).reshape(MTJ_20K.shape)
        cell_class, faults = classify(g_p, g_ap, MTJ_20K)
        found.append(DieRecord("d", MTJ_20K, g_p, g_ap, cell_class, faults))
    return found


def test_drawn_dies_have_the_rate_kinds_and_levels_of_the_statistics():
    dies = records(40)
    counts = np.array([[np.count_nonzero(die.cell_class == kind) for kind in POINT] for die in dies])
    rate = counts.sum(axis=1) / MTJ_20K.cells
    assert np.exp(np.log(rate).mean()) == pytest.approx(0.01, rel=0.25)
    assert np.log(rate).std() == pytest.approx(0.4, abs=0.15)
    assert counts.sum(axis=0) / counts.sum() == pytest.approx(statistics().shares, abs=0.03)
    good = dies[0].cell_class == CellClass.GOOD
    assert np.log(dies[0].g_p[good]).std() == pytest.approx(np.sqrt(0.0013), rel=0.05)
    assert np.median(dies[0].g_ap[good]) == pytest.approx(G_AP, rel=0.01)


def test_fitting_drawn_dies_gives_the_statistics_back():
    fitted, known = DefectStatistics.fit(records(40)), statistics()
    assert np.exp(fitted.rate_mu) == pytest.approx(0.01, rel=0.25)
    assert fitted.rate_sigma == pytest.approx(0.4, abs=0.15)
    assert fitted.shares == pytest.approx(known.shares, abs=0.03)
    assert fitted.lines == pytest.approx(known.lines, abs=0.25)
    assert fitted.log_g == pytest.approx(known.log_g, abs=0.01)
    assert fitted.log_g_cov == pytest.approx(known.log_g_cov, rel=0.15)
    assert fitted.levels[[0, 2, 3]] == pytest.approx(known.levels[[0, 2, 3]], rel=0.02)
    assert 0.05 < fitted.weak[0] < fitted.weak[1] < 0.45


def test_dead_lines_are_drawn_whole():
    only_lines = {"rate_mu": np.log(1e-9), "lines": np.array([1.0, 1.0, 0.5])}
    dies = records(20, **only_lines)
    kinds = [fault.kind for die in dies for fault in die.line_faults]
    assert {kind: kinds.count(kind) > 3 for kind in LINES} == dict.fromkeys(LINES, True)
    for die in dies:
        dead = np.zeros(MTJ_20K.shape, bool)
        for fault in die.line_faults:
            dead |= fault.cells(MTJ_20K)
        assert (die.g_p[dead] == 0).all() and (die.g_p[~dead] > 0).all()


def test_scaling_scales_rate_and_lines():
    double = statistics().scaled(2.0)
    assert np.exp(double.rate_mu) == pytest.approx(0.02)
    assert double.rate_max == pytest.approx(0.12)
    assert double.lines == pytest.approx(2 * statistics().lines)


def test_draws_are_fresh_but_repeatable():
    first, second = (DieSampler(statistics(), np.random.default_rng(seed)) for seed in (1, 1))
    a, b = first(3), second(3)
    assert (a[0] == b[0]).all() and (a[1] == b[1]).all()
    assert not (first(3)[0] == a[0]).all()


def test_nothing_to_fit_from_is_an_error():
    with pytest.raises(StatisticsError, match="measure some dies"):
        DefectStatistics.fit([])
