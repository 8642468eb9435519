"""Numbers of a run against independent computations on made-up results."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from analysis.figures.table import duration, percent, points, results_table
from analysis.results.lot import DEFECTS, LotResults, Training
from analysis.results.summary import missing, paired_difference, summary
from mapping.dies.die_record import CellClass

IMAGES = 400


def made_up(dies: int = 6, seed: int = 1) -> LotResults:
    """Results no die has ever shown: errors drawn around 8 % (knowing) and 30 % (unaware)."""
    rng = np.random.default_rng(seed)
    software = rng.random(IMAGES) > 0.07
    levels = {"unaware": 0.25, "die_aware": 0.01, "statistics_aware": 0.02, "calibrated": 0.015}
    trainings = {
        name: Training(name, software & (rng.random((dies, IMAGES)) > extra), software)
        for name, extra in levels.items()
    }
    cell_class = np.zeros((dies, 4, 100, 50), np.uint8)
    cell_class[:, 1, 12, :] = CellClass.DEAD_LINE
    cell_class[:, 0, 3, 5] = CellClass.SHORT
    moved = np.full((dies, dies), 0.3)
    np.fill_diagonal(moved, trainings["die_aware"].per_die)
    conductance = rng.lognormal(np.log(1e-4), 0.1, (dies, 20_000)).astype(np.float32)
    return LotResults(
        dies=tuple(f"lot7/x{die}" for die in range(dies)),
        sites=np.array([(die % 3, die // 3) for die in range(dies)]),
        software_correct=software,
        trainings=trainings,
        moved_emulated=moved,
        moved_measured=tuple((die, die + 1, 0.31) for die in range(dies - 1)),
        defect_counts={key: np.full(dies, {"short": 1, "dead_line": 50}.get(key, 0)) for key in DEFECTS},
        line_faults=(("row 12 of block 1",),) * dies,
        cell_class=cell_class,
        g_p=2 * conductance,
        g_ap=conductance,
        cell_class_flat=cell_class.reshape(dies, -1),
        sensitivity={
            "scale": [0.0, 1.0],
            "error": {"unaware": [[0.1] * 4, [0.3] * 4], "statistics_aware": [[0.1] * 4] * 2},
        },
        halves=np.arange(dies) % 2,
        programming={"cells": 1000, "verified": 990, "gave_up": 10, "pulses_per_cell": 1.5},
        time={"wall_s": 10.0, "station_s": 7200.0, "training_s": 3.0},
        seed=5,
        data="made up",
        assumed=("everything",),
        provenance={"made": "up"},
    )


@pytest.fixture
def results() -> LotResults:
    return made_up()


def test_defect_keys_are_the_classes_in_the_order_of_their_codes() -> None:
    assert tuple(kind.name.lower() for kind in CellClass if kind != CellClass.GOOD) == DEFECTS


def test_means_spreads_and_worst_die(results: LotResults) -> None:
    part = summary(results)["error"]["unaware"]
    errors = [float(np.count_nonzero(~row)) / IMAGES for row in results.trainings["unaware"].correct]
    assert part["per_die"] == pytest.approx(errors)
    assert part["mean"] == pytest.approx(sum(errors) / len(errors))
    assert part["sd"] == pytest.approx(np.std(errors, ddof=1))
    assert part["worst_die"] == results.dies[errors.index(max(errors))]
    assert part["worst"] == pytest.approx(max(errors))


def test_difference_is_paired_on_the_images(results: LotResults) -> None:
    part = summary(results)["error"]
    assert part["unaware"]["difference"]["mean"] == pytest.approx(part["unaware"]["mean"] - part["software"])
    same = replace(results.trainings["unaware"], correct=np.tile(results.software_correct, (6, 1)))
    exact = summary(replace(results, trainings={"unaware": same}))["error"]["unaware"]["difference"]
    assert exact == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_interval_covers_the_true_difference() -> None:
    """Dies of known spread and images of known difficulty; about 95 of 100 intervals must hold the true mean."""
    rng = np.random.default_rng(11)
    dies, images, true, covered, repeats = 12, 150, 0.10, 0, 100
    for repeat in range(repeats):
        software = rng.random(images) > 0.08
        extra = rng.uniform(true - 0.06, true + 0.06, (dies, 1)) / 0.92 + rng.uniform(-0.08, 0.08, images)
        correct = software & (rng.random((dies, images)) > extra)
        interval = paired_difference(correct, software, repeat, draws=400)
        covered += interval["low"] <= true <= interval["high"]
    assert 88 <= covered <= 100


def test_interval_knows_both_dies_and_images() -> None:
    software = np.ones(500, bool)
    bad_dies = np.ones((10, 500), bool)
    bad_dies[:5] = False
    bad_images = np.ones((10, 500), bool)
    bad_images[:, :250] = False
    over_dies = paired_difference(bad_dies, software, 0)
    over_images = paired_difference(bad_images, software, 0)
    for found, things in ((over_dies, 10), (over_images, 500)):
        assert found["mean"] == 0.5
        assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(things), rel=0.25)


def test_halves(results: LotResults) -> None:
    part = summary(results)["error"]["statistics_aware"]
    errors = results.trainings["statistics_aware"].per_die
    assert part["fit_half"]["mean"] == pytest.approx(errors[[0, 2, 4]].mean())
    assert part["unseen_half"]["mean"] == pytest.approx(errors[[1, 3, 5]].mean())
    assert part["unseen_half"]["dies"] == 3
    assert part["unseen_half"]["worst_die"] in results.dies[1::2]


def test_moved_networks(results: LotResults) -> None:
    part = summary(results)["error"]["die_aware_moved"]
    assert part["emulated"]["mean"] == pytest.approx(0.3)
    assert part["emulated"]["pairs"] == 30
    assert part["measured"]["mean"] == pytest.approx(0.31)
    assert part["measured"]["entries"][0]["measured_on"] == "lot7/x1"
    assert part["measured"]["agreement"] == pytest.approx({"pairs": 5, "mean_difference": 0.01, "largest": 0.01})
    assert np.isnan(results.error("die_aware_moved")[0])
    assert results.error("die_aware_moved")[1:] == pytest.approx(0.31)


def test_defects_and_sensitivity(results: LotResults) -> None:
    numbers = summary(results)
    assert numbers["defects"]["per_die"] == [51] * 6
    assert numbers["defects"]["rate"] == pytest.approx(51 / 20_000)
    assert numbers["defects"]["per_class"]["dead_line"]["mean"] == 50
    assert numbers["sensitivity"]["unaware_minus_statistics_aware"]["mean"] == pytest.approx([0.0, 0.2])


def test_same_numbers_every_time_and_plain_json(results: LotResults) -> None:
    first, second = (json.dumps(summary(results), allow_nan=False) for _ in range(2))
    assert first == second
    assert json.loads(first)["time"]["station_s"] == 7200.0


def test_one_die_has_no_spread() -> None:
    numbers = summary(made_up(1))
    assert numbers["error"]["unaware"]["sd"] is None
    assert "die_aware_moved" not in numbers["error"]
    json.dumps(numbers, allow_nan=False)


def test_what_has_not_been_run_is_absent_and_named(results: LotResults) -> None:
    unaware = results.trainings["unaware"]
    started = Training("unaware", unaware.correct[:2], unaware.software_correct, dies=np.array([4, 1]))
    part = replace(results, trainings={"unaware": started}, moved_measured=(), sensitivity={})
    numbers = summary(part)
    assert set(numbers["error"]) == {"software", "unaware", "die_aware_moved"}
    assert [error is None for error in numbers["error"]["unaware"]["per_die"]] == [True, False, True, True, False, True]
    assert numbers["error"]["unaware"]["per_die"][4] == pytest.approx(unaware.per_die[0])
    assert "unaware: measured on 2 of 6 dies" in missing(part)
    assert "statistics-aware: not measured" in missing(part)
    assert "sensitivity to fresh defects" in missing(part)


def test_table_fits_80_columns_and_says_it_all(results: LotResults) -> None:
    console = Console(width=80, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(results_table(results))
    text = capture.get()
    for words in ("software", "unaware", "die-aware, moved", "statistics-aware", "calibrated", "99.00 %", "2 h 00 min"):
        assert words in text
    error = summary(results)["error"]["unaware"]
    assert percent(error["mean"]) in text
    assert f"[{points(error['difference']['low'])}, {points(error['difference']['high'])}]" in text
    assert "…" not in text


def test_markup_in_a_name_is_only_text(results: LotResults) -> None:
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(results_table(replace(results, dies=tuple(f"[red]{die}[/red]" for die in range(6)))))
    assert "[red]" in capture.get()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1.44, "1.4 s"), (42.0, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (3599.8, "1 h 00 min")],
)
def test_durations_read_as_one_says_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_short_names_drop_what_all_share(results: LotResults) -> None:
    assert results.short_names == ("x0", "x1", "x2", "x3", "x4", "x5")
    assert replace(results, dies=("a1", "a12", "a13", "b", "c", "d")).short_names == ("a1", "a12", "a13", "b", "c", "d")


def test_import_stays_light() -> None:
    heavy = ("bokeh", "rich", "scipy", "xarray")
    code = f"import sys, analysis.results.summary; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
