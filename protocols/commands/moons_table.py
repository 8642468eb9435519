"""What `xbar run tio2-moons` prints when it is done."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.figures.table import percent
from analysis.results.analog import defects, programming
from analysis.results.tio2_moons import MoonsResults, numbers


def print_moons(console: Console, results: MoonsResults) -> None:
    """Print what was found of each die, the four numbers, and how they compare with drawn lots."""
    found = numbers(results)
    console.print(die_table(results))
    console.print(metrics_table(found))
    for sentence in agreement(found):
        console.print(sentence)


def die_table(results: MoonsResults) -> Table:
    """A row for each die that was measured."""
    table = Table("die", "found broken", "in tolerance", "gave up", "passes", "pulses a cell", "analog", "by map")
    done = {each.die: each for each in results.of_dies}
    for die, data in results.measured.items():
        broken = defects(data)
        said = ", ".join([*broken["lines"], *(f"{n} {words}" for words, n in broken["cells"].items())]) or "-"
        if die not in done:
            table.add_row(die, said, "not written", *["-"] * 5)
            continue
        each, took = done[die], programming([done[die].writes], whole=True)
        accuracies = f"{each.right.mean():.1%}", f"{each.right_map.mean():.1%}"
        counts = str(took["gave_up"]), str(took["passes"]), f"{took['pulses_per_cell'] or 0:.1f}"
        table.add_row(die, said, percent(took["within_tolerance"]), *counts, *accuracies)
    return table


def metrics_table(found: dict[str, Any]) -> Table:
    """The four numbers of the loop as measured, and of what it is compared with."""
    table = Table("", "f95", "mean accuracy", "noise-free", "worst point")
    own = {"f95": found["f95"], "mean": found["accuracy"]["mean"], "worst": found["accuracy"]["worst"]}
    noise_free = found["accuracy"]["noise_free"]
    rows = [("closed loop, analog reads", own, noise_free), ("closed loop, by map", found["by_map"], noise_free)]
    rows += [(f"{name}, emulated from the maps", part, None) for name, part in found["others"].items()]
    for name, part, free in rows:
        table.add_row(name, *(_share(value) for value in (part["f95"], part["mean"], free, part["worst"])))
    return table


def agreement(found: dict[str, Any]) -> list[str]:
    """The measured figures beside those of drawn lots, in sentences."""
    drawn = found["monte_carlo"]
    if drawn is None:
        return []
    said = []
    for name, words in (("f95", "f95"), ("mean", "mean accuracy"), ("worst", "worst point")):
        part = drawn[name]
        verdict = {True: "within", False: "OUTSIDE of", None: "not compared with"}[part["within"]]
        said.append(
            f"Monte Carlo, {drawn['lots']} lots of {drawn['dies']} drawn dies: {words} {part['mean']:.3f} "
            f"({part['low']:.3f} to {part['high']:.3f}); measured {_share(part['measured'])}, {verdict} that"
        )
    return said


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
