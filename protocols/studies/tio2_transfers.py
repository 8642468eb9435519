"""`xbar simulate tio2-transfers`: networks written thousands of times into passive TiO2 arrays, without the wire.

A point is one map of weights to conductances and one seed (`protocols.studies.transfer_study`); it is written to
`transfers.json` as soon as it is done, and the same folder goes on where it ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from analysis.figures.table import duration
from analysis.record.digest import array_digest
from analysis.studies.transfer_curves import conclusions, write_page
from analysis.studies.transfer_results import LOOP, METRICS, summary
from mapping.placement.differential_pairs import MAPS
from mapping.training.moon_training import RECIPES
from mapping.training.moons import Moons, half_moons, read_moons
from protocols.sequencer.provenance import provenance
from protocols.source import source_code
from protocols.studies.transfer_study import Study
from protocols.terminal.console import can_redraw, console
from protocols.terminal.progress import TimesColumn

FILE, PAGE = "transfers.json", "transfers.html"


class TransfersFolderError(ValueError):
    """The folder holds results that this command cannot go on with, or cannot be written."""


class MapNameError(ValueError):
    """There is no such map of weights to conductances."""


def simulate_transfers(
    folder: Path,
    *,
    transfers: int,
    seeds: Sequence[int],
    maps: str = "both",
    moons: Path | None = None,
    epochs: int | None = None,
) -> None:
    """Train all networks, transfer them, run the closed loop; writes JSON and page, prints tables.

    Parameters
    ----------
    folder
        What is finished in it is kept.
    transfers
        Of each network.
    seeds
        Each trains other networks and draws other transfers.
    maps
        "physical", "paper" or "both".
    moons
        Folder with points instead of our own (`mapping.training.moons.read_moons`).
    epochs
        Of every training, instead of each recipe's own number.

    Raises
    ------
    MoonsError
        If the points cannot be read.
    MapNameError
        For a map that there is not.
    TransfersFolderError
        If the folder holds results of other settings.
    """
    if maps != "both" and maps not in MAPS:
        raise MapNameError(f"no map {maps!r}: choose --map {', '.join(MAPS)} or both")
    points = half_moons() if moons is None else read_moons(moons)
    study = Study(points, transfers, epochs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TransfersFolderError(f"cannot write into {folder}: {error}; choose another folder with --out") from error
    kept = _Kept(folder, _settings(study, points))
    todo = [(name, seed) for seed in seeds for name in (MAPS if maps == "both" else (maps,))]
    shown = console()
    try:
        _compute(study, kept, todo, shown)
    except KeyboardInterrupt:
        shown.print(f"stopped; run the same command with --out {folder} to go on")
        raise
    finally:
        if kept.points:
            _show(shown, kept)


def _compute(study: Study, kept: _Kept, todo: Sequence[tuple[str, int]], on: Console) -> None:
    """Compute and keep every point that is not there yet."""
    columns = (TextColumn("{task.description:<36}", markup=False), BarColumn(bar_width=28), MofNCompleteColumn())
    live = Progress(*columns, TimesColumn(), console=on, transient=True, disable=not can_redraw(on))
    with live as shown:
        whole, step = shown.add_task("maps and seeds", total=len(todo)), shown.add_task("", total=1.0)
        for name, seed in todo:
            if not kept.has(name, seed):
                point = study.point(
                    MAPS[name], seed, lambda what, share: shown.update(step, description=what, completed=share)
                )
                kept.add(point)
                on.print(f"{name} map, seed {seed}: {duration(point['seconds'])}")
            shown.advance(whole)


class _Kept:
    """The points of a folder."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.points: list[dict[str, Any]] = _load(folder / FILE, settings) if (folder / FILE).is_file() else []

    def has(self, name: str, seed: int) -> bool:
        """Whether a point is there."""
        return any(point["map"] == name and point["seed"] == seed for point in self.points)

    def add(self, point: dict[str, Any]) -> None:
        """Keep one more."""
        self.points = sorted([*self.points, point], key=lambda p: (list(MAPS).index(p["map"]), p["seed"]))
        self.save()

    def save(self) -> None:
        """Write everything to a new file, force it to disk, rename it: the file is whole or as it was."""
        new = self.folder / f"{FILE}.part"
        with new.open("w", encoding="utf-8") as file:
            json.dump(self.numbers(), file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.folder / FILE)

    def numbers(self) -> dict[str, Any]:
        """Content of `transfers.json`."""
        made = provenance("tio2-transfers", {"moons": self.settings["moons"]}, self.points[0]["seed"], "none: no wire")
        return {"settings": self.settings, "provenance": made, "maps": summary(self.points), "points": self.points}


def _settings(study: Study, moons: Moons) -> dict[str, Any]:
    """What must be the same for points to be compared, as JSON."""
    settings = {
        "transfers": study.transfers,
        "dies": study.dies,
        "epochs": study.epochs,
        "moons": moons.source,
        "points": [len(moons.train), len(moons.validation), len(moons.test)],
        "points_digest": [array_digest(part.x)[:16] for part in (moons.train, moons.validation, moons.test)],
        "recipes": {name: asdict(recipe) for name, recipe in RECIPES.items()},
        "statistics": asdict(study.statistics),
        "source": source_code.digest(Study),
    }
    return json.loads(json.dumps(settings))


def _load(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        points, before = list(content["points"]), dict(content["settings"])
        summary(points)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise TransfersFolderError(
            f"{path} is not a result of xbar simulate tio2-transfers: {error!r}; choose another --out"
        ) from error
    different = [key for key, value in settings.items() if before.get(key) != value]
    if different:
        raise TransfersFolderError(
            f"{path} was made with other settings ({', '.join(different)}), its points cannot be compared with new "
            "ones; choose another --out"
        )
    return points


def _show(console: Console, kept: _Kept) -> None:
    """Tables, conclusions and page of what is there."""
    kept.save()
    numbers = kept.numbers()
    page = write_page(numbers, kept.folder / PAGE)
    for name, found in numbers["maps"].items():
        console.print(network_table(name, found))
        if "loop" in found:
            console.print(loop_table(found))
    for sentence in conclusions(numbers):
        console.print(sentence)
    console.print(f"results: {kept.folder / FILE}\npage:    {page}")


def network_table(name: str, found: dict[str, Any]) -> Table:
    """The four metrics of each network of one map: mean and range over seeds."""
    title = f"{name} map, seeds {', '.join(str(seed) for seed in found['seeds'])}: means over seeds"
    return _metrics_table(title, "trained with", found["table"])


def loop_table(found: dict[str, Any]) -> Table:
    """The same of the closed loop and its ablation."""
    loop, device = found["loop"], found["device"]
    rows = {**loop["ablation"], "ceiling: no stuck cells": loop["ceiling"],
            f"{LOOP} on the array device": device["metrics"]}  # fmt: skip
    title = f"closed loop, physical map, {loop['dies']} dies a seed"
    return _metrics_table(title, "measures", rows)


def _metrics_table(title: str, first: str, rows: dict[str, Any]) -> Table:
    out = Table(title=title, box=box.SIMPLE_HEAD, padding=0, title_justify="left")
    out.add_column(first)
    for words in ("f95", "seeds", "mean", "noise-free", "worst"):
        out.add_column(words, justify="right", no_wrap=True)
    for name, metrics in rows.items():
        f95 = metrics["f95"]
        means = (f"{metrics[key]['mean']:.3f}" for key in METRICS)
        out.add_row(name, next(means), f"{f95['low']:.2f} to {f95['high']:.2f}", *means)
    return out
