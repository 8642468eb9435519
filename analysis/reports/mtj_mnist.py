"""The report of a run: one HTML file that opens anywhere, offline."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from bokeh.resources import Resources
from markupsafe import Markup

from analysis.figures import maps as drawn
from analysis.figures.page import embedded, write_whole
from analysis.figures.table import counted, duration, percent, points, rows, title
from analysis.results.lot import DEFECTS, LotResults
from analysis.results.summary import CLOSE, TRAININGS, summary

#: What the checks below the headline hold to be in order.
AGREEMENT_LIMIT = 0.02
EXTRA_FAILURES_LIMIT = 0.01
WRITABLE_WRONG_LIMIT = 1e-3
#: Share of the programmed cells that may not hold what was asked, whatever the reason, known defects among them.
NOT_VERIFIED_LIMIT = 0.05
WORST_DIES = 5
COUNTED = (
    ("cells", "cells programmed"),
    ("verified", "verified"),
    ("gave_up", "given up"),
    ("writable_wrong", "given up though not known as defective"),
)


@dataclass(frozen=True)
class Check:
    """A reason to believe the numbers, or not. `verdict`: ``ok``, ``look`` or ``open`` (cannot be told)."""

    what: str
    verdict: str
    found: str


def write_report(results: LotResults, path: str | Path) -> Path:
    """Write the report of `results` to `path` and return it.

    The file holds everything it needs (Bokeh's scripts too). It is written beside its place and moved there, so that
    a reader never meets half a report.
    """
    return write_whole(Path(path), render(results))


def render(results: LotResults) -> str:
    """The report as HTML. All text from the results is escaped, by Jinja in the page and by Bokeh in the figures."""
    numbers = summary(results)
    plots = drawn.figures(results)
    script, places = embedded(plots) if plots else ("", {})
    resources = Resources(mode="inline", components=["bokeh", "bokeh-widgets"])
    page = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.figures", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    return page.render(
        title=title(numbers),
        numbers=numbers,
        headline=headline(numbers),
        rows=rows(numbers),
        checks=checks(results, numbers),
        ordered_by=drawn.order_words(results),
        worst=die_table(results, drawn.worst_first(results)[:WORST_DIES]),
        every_die=die_table(results, list(range(len(results.dies)))),
        plots=defaultdict(str, {name: Markup(place) for name, place in places.items()}),
        wafers=[Markup(place) for name, place in places.items() if name.startswith("wafer_")],
        scale=error_scale(results),
        captions=captions(results, numbers),
        programming=programming(numbers),
        defects=defect_rows(numbers),
        colours=drawn.TRAINING_COLOURS,
        trainings=TRAININGS,
        script=Markup(script),
        bokeh=Markup(resources.render()) if plots else "",
    )


def headline(numbers: dict[str, Any]) -> list[str]:
    """The answer in sentences, with the numbers; only of what was run."""
    error = numbers["error"]
    software = error.get("software")
    said = [_in_short(error)] if {"unaware", "statistics_aware", "software"} <= error.keys() else []
    if software is not None:
        said.append(f"In software, without a die, the network misclassifies {percent(software)} of the test images.")
    if "unaware" in error:
        part = error["unaware"]
        said.append(
            f"Programmed as it is into {_dies(part)}, knowing nothing of their defects, it misclassifies "
            f"{_mean_and_worst(part)}{_versus_software(part)}."
        )
    if "die_aware" in error:
        part = error["die_aware"]
        said.append(
            f"Trained for each die's own defects: {_mean_and_worst(part)}{_versus_software(part)}.{_moved(error)}"
        )
    if "statistics_aware" in error:
        said.append(_statistics_sentence(error["statistics_aware"]))
    if "calibrated" in error:
        part = error["calibrated"]
        said.append(
            f"With digital scale and offset calibrated per die: {_mean_and_worst(part)}{_versus_software(part)}."
        )
    return said


def _in_short(error: dict[str, Any]) -> str:
    """The two trainings that the paper sets against each other, on the dies that have seen both."""
    pairs = zip(error["unaware"]["per_die"], error["statistics_aware"]["per_die"], strict=True)
    both = [pair for pair in pairs if None not in pair]
    if not both:
        return "Unaware and statistics-aware networks have not been measured on the same dies yet."
    before, after = np.mean(both, axis=0)
    verb = "lowers" if after < before else "does not lower"
    return (
        f"Training for the statistics of defects {verb} the mean error over {counted(len(both), 'die')}: "
        f"{percent(before)} without, {percent(after)} with it; software has {percent(error['software'])}."
    )


def _statistics_sentence(part: dict[str, Any]) -> str:
    text = f"One network trained for the statistics of defects, the same for all dies: {_mean_and_worst(part)}"
    text += f"{_versus_software(part)}."
    if "dies_close" in part:
        text += f" It stays within {100 * CLOSE:.0f} points of software on {part['dies_close']} of {_dies(part)}"
        text += "." if "unseen_half" not in part else ", "
    if "unseen_half" in part:
        unseen = part["unseen_half"]
        text += f"and its mean is {percent(unseen['mean'])} on the dies whose defects it has never seen."
    return text


def _moved(error: dict[str, Any]) -> str:
    moved = error.get("die_aware_moved", {})
    for kind, part in (
        ("measured", moved),
        ("measured", moved.get("measured", {})),
        ("emulated", moved.get("emulated", {})),
    ):
        if part.get("mean") is not None:
            return f" The same networks moved to another die: {percent(part['mean'])} ({kind})."
    return " Moving them to another die was not tried."


def _dies(part: dict[str, Any]) -> str:
    return counted(sum(error is not None for error in part["per_die"]), "die")


def _mean_and_worst(part: dict[str, Any]) -> str:
    if part["sd"] is None:
        return percent(part["mean"])
    return f"{percent(part['mean'])} on average, {percent(part['worst'])} on the worst die ({part['worst_die']})"


def _versus_software(part: dict[str, Any]) -> str:
    difference = part.get("difference")
    if not difference:
        return ""
    low, high = points(difference["low"]), points(difference["high"])
    return f"; {points(difference['mean'])} points against software (95 % interval {low} to {high})"


def checks(results: LotResults, numbers: dict[str, Any]) -> list[Check]:
    """What speaks for and against the numbers."""
    found = [_complete(numbers), _programmed(results, numbers), _agrees(numbers), _generalises(numbers)]
    return [*found, _resolution(numbers)]


def _complete(numbers: dict[str, Any]) -> Check:
    gaps = numbers["missing"]
    return Check(
        "Everything was run", "look" if gaps else "ok", f"{len(gaps)} parts missing" if gaps else "nothing missing"
    )


def _programmed(results: LotResults, numbers: dict[str, Any]) -> Check:
    what, part = "Cells hold what was asked", numbers["programming"]
    if not part.get("cells"):
        return Check(what, "open", "no programming numbers")
    failed = 1 - part.get("verified", 0) / part["cells"]
    text = f"{percent(failed, 2)} of the programmed cells did not verify"
    if part.get("writable_wrong") is not None:
        few = part["writable_wrong"] <= WRITABLE_WRONG_LIMIT * part["cells"] and failed <= NOT_VERIFIED_LIMIT
        verdict = "ok" if few else "look"
        return Check(
            what, verdict, f"{text}; {counted(int(part['writable_wrong']), 'cell')} of them could have been written"
        )
    if not results.defects.size or not results.cells_per_die:
        return Check(what, "open", text)
    hard = sum(results.defect_counts[key].mean() for key in DEFECTS if key in results.defect_counts and key != "weak")
    share = float(hard) / results.cells_per_die
    verdict = "ok" if failed <= share + EXTRA_FAILURES_LIMIT else "look"
    return Check(what, verdict, f"{text}; {percent(share, 2)} of the cells are hard defects and cannot")


def _agrees(numbers: dict[str, Any]) -> Check:
    what = "Emulation agrees with measurement"
    agreement = numbers["error"].get("die_aware_moved", {}).get("measured", {}).get("agreement")
    if not agreement:
        return Check(what, "open", "no moved network was both emulated and measured")
    verdict = "ok" if abs(agreement["mean_difference"]) <= AGREEMENT_LIMIT else "look"
    text = f"measured minus emulated over {counted(agreement['pairs'], 'moved network')}: mean "
    return Check(
        what, verdict, f"{text}{points(agreement['mean_difference'])} points, largest {100 * agreement['largest']:.1f}"
    )


def _generalises(numbers: dict[str, Any]) -> Check:
    what, part = "Statistics hold for dies they were not fitted on", numbers["error"].get("statistics_aware", {})
    fit, unseen = part.get("fit_half"), part.get("unseen_half")
    if not fit or not unseen or fit["sd"] is None or unseen["sd"] is None:
        return Check(what, "open", "needs two dies or more in each half")
    gap = unseen["mean"] - fit["mean"]
    doubt = 2 * np.hypot(fit["sd"] / np.sqrt(fit["dies"]), unseen["sd"] / np.sqrt(unseen["dies"]))
    text = f"unseen half {percent(unseen['mean'])} (sd {percent(unseen['sd'])}), fitted half {percent(fit['mean'])}: "
    text += f"{points(gap)} points, uncertain by {100 * doubt:.1f}"
    return Check(what, "ok" if gap <= doubt else "look", text)


def _resolution(numbers: dict[str, Any]) -> Check:
    what, images = "Enough test images", numbers["images"]
    level = numbers["error"].get("statistics_aware", {}).get("mean") or numbers["error"].get("software")
    if not images or level is None:
        return Check(what, "open", "no test images")
    doubt = 1.96 * np.sqrt(level * (1 - level) / images)
    text = f"{images:,} images: the error of a single die is uncertain by {100 * doubt:.1f} points"
    return Check(what, "ok" if doubt <= CLOSE else "look", text)


def die_table(results: LotResults, dies: list[int]) -> dict[str, Any]:
    """Heads and rows of a table of dies: name, place, error for each training, defects per class, dead lines."""
    names = drawn.run_trainings(results)
    classes = [key for key in DEFECTS if key in results.defect_counts]
    words = {key: drawn.CLASS_WORDS[drawn.CellClass[key.upper()]] for key in classes}
    errors = {name: results.error(name) for name in names}
    table = []
    for die in dies:
        table.append(
            {
                "die": results.dies[die],
                "site": "x {} y {}".format(*results.sites[die]) if results.sites.size else "",
                "errors": [percent(None if np.isnan(errors[name][die]) else errors[name][die]) for name in names],
                "defects": f"{results.defects[die]:,}" if classes else "",
                "classes": [f"{results.defect_counts[key][die]:,}" for key in classes],
                "lines": ", ".join(results.line_faults[die]) if results.line_faults else "",
            }
        )
    return {"trainings": names, "classes": [words[key] for key in classes], "rows": table}


def error_scale(results: LotResults) -> dict[str, Any]:
    """Colours and ends of the scale that the wafer maps share."""
    stops = drawn.ERROR_PALETTE[:: len(drawn.ERROR_PALETTE) // 16]
    return {"colours": ", ".join(stops), "top": f"{drawn.error_top(results):.0f} %"}


def captions(results: LotResults, numbers: dict[str, Any]) -> dict[str, str]:
    """Numbers said below single figures."""
    said = {"defects": _ranks(results), "sensitivity": ""}
    curve = numbers["sensitivity"].get("unaware_minus_statistics_aware")
    if curve and curve["low"][0] is not None:
        at = int(np.argmin(np.abs(np.array(numbers["sensitivity"]["scale"], float) - 1)))
        scale = numbers["sensitivity"]["scale"][at]
        said["sensitivity"] = (
            f"On the same draws, at {scale:g} x the lot's rate, the unaware error minus the statistics-aware one is "
            f"{points(curve['mean'][at])} points on average (95 % interval {points(curve['low'][at])} to "
            f"{points(curve['high'][at])})."
        )
    return said


def _ranks(results: LotResults) -> str:
    """How far the count of defects alone orders the dies, per training."""
    if len(results.dies) < 3 or not results.defects.size:
        return ""
    from scipy.stats import spearmanr  # here: it takes a second to load

    told = []
    for name in drawn.run_trainings(results):
        error = results.error(name)
        there = np.isfinite(error)
        if there.sum() > 2 and np.ptp(error[there]) > 0 and np.ptp(results.defects[there]) > 0:
            rank = spearmanr(results.defects[there], error[there]).statistic
            told.append(f"{TRAININGS[name]} {rank:+.2f}".replace("-0", "−0"))
    return "Rank correlation of error with defect count: " + ", ".join(told) + "." if told else ""


def programming(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """Programming and time as pairs of name and value."""
    part, time = numbers["programming"], numbers["time"]
    found = []
    for key, words in COUNTED:
        if part.get(key) is not None:
            share = f" ({percent(part[key] / part['cells'], 2)})" if key != "cells" and part.get("cells") else ""
            found.append((words, f"{part[key]:,.0f}{share}"))
    if part.get("pulses_per_cell") is not None:
        found.append(("pulses per cell, mean", f"{part['pulses_per_cell']:.2f}"))
    labels = {
        "station_s": "station time (what the hardware would need)",
        "training_s": "training time",
        "wall_s": "wall time",
    }
    return found + [(label, duration(time[key])) for key, label in labels.items() if time.get(key) is not None]


def defect_rows(numbers: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Class, mean cells per die and range, for the whole lot."""
    part, cells = numbers["defects"], numbers["cells_per_die"]
    found = []
    for key, counts in part.get("per_class", {}).items():
        share = f"{counts['mean']:,.1f} ({percent(counts['mean'] / cells, 2)})" if cells else f"{counts['mean']:,.1f}"
        words = drawn.CLASS_WORDS[drawn.CellClass[key.upper()]]
        found.append((words, share, f"{min(counts['per_die']):,} to {max(counts['per_die']):,}"))
    return found
