"""The report as a file: complete, closed in itself, safe, and there even for half a run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from bokeh.models import Legend
from test_summary import made_up

from analysis.figures import maps as figures
from analysis.reports.mtj_mnist import checks, headline, render, write_report
from analysis.results.lot import LotResults, Training
from analysis.results.summary import TRAININGS, summary
from mapping.dies.die_record import CellClass

SECTIONS = (
    "answer", "trust", "bad", "dies", "wafer", "defects", "transfer", "sensitivity", "map", "conductances",
    "programming", "provenance",
)  # fmt: skip


class Page(HTMLParser):
    """Tags, anchors and text of a page, scripts and styles apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._code = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._code = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._code = False

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


WHEN = "2026-11-29 18:27 to 2026-11-30 02:10 (UTC+0100)"


@pytest.fixture(scope="module")
def results() -> LotResults:
    made = made_up(4)
    return replace(made, provenance={**made.provenance, "measured": WHEN})


@pytest.fixture(scope="module")
def page(results: LotResults) -> Page:
    return Page(render(results))


@pytest.mark.slow
def test_opens_offline(page: Page) -> None:
    loaded = [attrs.get("src") or attrs.get("href") for _, attrs in page.tags if "src" in attrs or "href" in attrs]
    assert loaded
    assert all(str(target).startswith("#") for target in loaded)


@pytest.mark.slow
def test_prints_whole_tables_and_says_when(page: Page) -> None:
    text = page.html
    assert f"Measured {WHEN}." in text
    assert "@media print" in text and ".scroll { overflow: visible; }" in text and "beforeprint" in text


def test_what_draws_nothing_has_no_entry_in_a_legend(results: LotResults) -> None:
    shorts = np.where(results.cell_class == CellClass.SHORT, CellClass.SHORT, CellClass.GOOD)
    (legend,) = figures.defect_map(replace(results, cell_class=shorts)).select({"type": Legend})
    assert [item.label.value for item in legend.items] == [figures.CLASS_WORDS[CellClass.SHORT]]


def test_every_section_is_there_and_linked(page: Page) -> None:
    assert tuple(attrs["id"] for tag, attrs in page.tags if tag == "section") == SECTIONS
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert links == {f"#{name}" for name in SECTIONS}


def test_says_the_numbers(page: Page, results: LotResults) -> None:
    error = summary(results)["error"]
    assert f"{100 * error['statistics_aware']['mean']:.1f} %" in page.words
    assert error["statistics_aware"]["worst_die"] in page.words
    assert "1.00 % of the programmed cells did not verify" in page.words
    assert "row 12 of block 1" in page.words
    assert "Assumed, not measured: everything" in page.words


def test_headline_compares_on_the_dies_that_saw_both(results: LotResults) -> None:
    unaware = results.trainings["unaware"]
    few = Training("unaware", unaware.correct[:2], unaware.software_correct, dies=np.array([0, 1]))
    said = headline(summary(replace(results, trainings=results.trainings | {"unaware": few})))[0]
    robust = results.trainings["statistics_aware"].per_die[:2].mean()
    assert f"over 2 dies: {100 * few.per_die.mean():.1f} % without, {100 * robust:.1f} % with it" in said


def test_checks_look_up_when_something_is_off(results: LotResults) -> None:
    def verdicts(which: LotResults) -> dict[str, str]:
        return {check.what: check.verdict for check in checks(which, summary(which))}

    fine = verdicts(results)
    assert fine["Emulation agrees with measurement"] == "ok"
    assert fine["Cells hold what was asked"] == "ok"
    off = replace(results, moved_measured=((0, 1, 0.4),), programming={"cells": 100, "verified": 80})
    assert verdicts(off)["Emulation agrees with measurement"] == "look"
    assert verdicts(off)["Cells hold what was asked"] == "look"
    spoilt = results.programming | {"writable_wrong": 5}
    assert verdicts(replace(results, programming=spoilt))["Cells hold what was asked"] == "look"
    assert verdicts(replace(results, moved_measured=()))["Emulation agrees with measurement"] == "open"


EVIL = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'"{{ 7 * 7 }}"""


@pytest.mark.slow
def test_nothing_in_a_file_becomes_html(results: LotResults, page: Page) -> None:
    evil = replace(
        results,
        dies=tuple(f"{EVIL}{die}" for die in range(4)),
        line_faults=((EVIL,),) * 4,
        data=EVIL,
        assumed=(EVIL,),
        provenance={EVIL: EVIL, "measured": EVIL},
    )
    hostile = Page(render(evil))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in page.tags]
    assert not [attrs for _, attrs in hostile.tags if "onerror" in attrs]
    assert EVIL in "".join(hostile.text)


@pytest.mark.slow
def test_half_a_run_gives_a_report_that_says_what_is_missing(results: LotResults) -> None:
    nothing = np.empty(0)
    half = replace(
        results,
        trainings={"unaware": results.trainings["unaware"]},
        moved_emulated=np.empty((0, 0)),
        moved_measured=(),
        sensitivity={},
        programming={},
        g_p=nothing.astype(np.float32),
        g_ap=nothing.astype(np.float32),
    )
    page = Page(render(half))
    sections = {attrs["id"] for tag, attrs in page.tags if tag == "section"}
    assert sections == set(SECTIONS) - {"transfer", "sensitivity", "conductances"}
    assert "This run is not complete." in page.words
    assert "statistics-aware: not measured" in page.words


def test_a_run_without_anything_gives_a_report() -> None:
    empty = LotResults(
        dies=(), sites=np.empty((0, 2), int), software_correct=np.empty(0, bool), trainings={},
        moved_emulated=np.empty((0, 0)), moved_measured=(), defect_counts={}, line_faults=(),
        cell_class=np.empty(0, np.uint8), g_p=np.empty(0, np.float32), g_ap=np.empty(0, np.float32),
        cell_class_flat=np.empty(0, np.uint8), sensitivity={}, halves=np.empty(0, int), programming={}, time={}, seed=0,
        data="none", assumed=(),
    )  # fmt: skip
    assert "Nothing has been measured yet." in Page(render(empty)).words


@pytest.mark.slow
def test_one_die(tmp_path: Path) -> None:
    page = Page(write_report(made_up(1), tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "transfer" not in {attrs.get("id") for _, attrs in page.tags}
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.slow
def test_36_dies_stay_below_10_megabytes(tmp_path: Path) -> None:
    lot = made_up(36)
    rng = np.random.default_rng(0)
    crowded = np.where(rng.random(lot.cell_class.shape) < 0.1, 1, lot.cell_class).astype(np.uint8)
    path = write_report(replace(lot, cell_class=crowded), tmp_path / "report.html")
    assert path.stat().st_size < 10e6


def test_defect_map_opens_on_the_worst_die_and_names_dead_lines(results: LotResults) -> None:
    column = figures.defect_map(results)
    menu, plot = column.children  # type: ignore[attr-defined]
    worst = int(np.argmax(results.error("statistics_aware")))
    assert menu.value == str(worst)
    assert plot.title.text.startswith(results.dies[worst])
    assert "row 12" in json.dumps([list(r.data_source.data.get("text", [])) for r in plot.renderers])


def test_menu_of_the_defect_map_reaches_every_class(results: LotResults) -> None:
    """One view per class and one filter for all: a view shared between sources draws nothing after the first change."""
    _, plot = figures.defect_map(results).children  # type: ignore[attr-defined]
    chosen = [renderer for renderer in plot.renderers if "die" in renderer.data_source.data]
    assert len(chosen) == len(figures.CellClass)  # all but good, and the labels
    assert len({renderer.view.id for renderer in chosen}) == len(chosen)
    assert len({renderer.view.filter.id for renderer in chosen}) == 1


def test_every_training_has_its_own_colour_and_marker() -> None:
    assert len(set(figures.TRAINING_COLOURS.values())) == len(set(figures.MARKERS.values())) == len(TRAININGS)
    assert set(figures.CLASS_COLOURS) == set(figures.CellClass)
