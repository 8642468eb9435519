"""`xbar simulate mtj-lots`: methods over many drawn lots, from die records, without the wire.

Every point is a lot with one value changed. Dies are drawn and measured (`protocols.studies.drawn_dies`), all methods
are trained for them and emulated on them (`protocols.studies.lot_methods`). A point is written to `lots.json` as soon
as it is done; the same folder goes on where it ended.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from analysis.figures.table import duration
from analysis.record.digest import array_digest
from analysis.results.summary import TRAININGS
from analysis.studies.lot_curves import conclusions, write_page
from analysis.studies.lot_sweeps import SWEEPS, LotPoint, Place, sweeps
from mapping.training.binary import Architecture, Report
from mapping.training.mnist import Digits, load_mnist
from mapping.training.network import BinaryNetwork
from protocols.sequencer.provenance import provenance
from protocols.source import source_code
from protocols.studies.drawn_dies import geometry_of, measured_records, scaled_lot
from protocols.studies.lot_methods import Methods, Recipes
from protocols.terminal.console import can_redraw, console
from protocols.terminal.progress import TimesColumn
from sim_backends.array.dies.lot import Lot, load_lot
from sim_backends.array.files.npz import UNREADABLE, read_npz

#: What is swept, each with the others as the lot file has them (whose own value is always among them).
VALUES: dict[str, tuple[float, ...]] = {
    "defect_rate": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    "short": (30.0, 100.0, 1e3, 3e3),
    "selector": (0.5e3, 2e3, 5e3),
}
EMULATED = "every error is emulated from die records; nothing here was measured through arrays"
FILE = "lots.json"
_NETWORK_LARGEST = 1 << 24  # bytes of a network that lies beside the results
CAPTION = (
    "rate in multiples of the lot's own, short and selector in Ohm; statistics are\n"
    "fitted from every other die, both halves are in lots.html and lots.json"
)


class LotsFolderError(ValueError):
    """The folder holds results that this command cannot go on with."""


def simulate_lots(
    folder: Path,
    *,
    lot: str,
    seeds: range,
    dies: int,
    epochs: int | None,
    values: Mapping[str, Sequence[float]] = VALUES,
    digits: Digits | None = None,
) -> None:
    """Compare all methods over sweeps of a lot file; writes `lots.json` and `lots.html`, prints a table.

    Parameters
    ----------
    folder : Path
        What is finished in it is kept.
    lot : str
        Name of a lot, or a lot file.
    seeds : range
        Each draws other lots and trains other networks.
    dies : int
        Dies drawn at every point.
    epochs : int, optional
        Of every training; by default each has its own number (`protocols.studies.lot_methods.Recipes`).
    values : mapping, optional
        Values of the sweeps: multiples of the defect rate, resistances of short and selector (Ohm).
    digits : Digits, optional
        Instead of the embedded ones.

    Raises
    ------
    LotError
        If the lot file cannot be used.
    LotsFolderError
        If the folder holds results of other settings.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LotsFolderError(f"cannot write into {folder}: {error}; choose another folder with --out") from error
    study = _Study.prepare(folder, load_lot(lot), lot, dies, epochs, values, digits or load_mnist())
    shown = console()
    try:
        with _progress(shown) as show:
            for seed in seeds:
                study.run_seed(seed, seeds, show)
    except KeyboardInterrupt:
        shown.print(f"stopped; run the same command with --out {folder} to go on")
        raise
    finally:
        if study.points:
            _show(shown, study)


@dataclass(eq=False)
class _Study:
    """The points of a folder, and what is needed to compute more."""

    folder: Path
    lot: Lot
    settings: dict[str, Any]
    places: list[Place]
    digits: Digits
    recipes: Recipes
    points: list[LotPoint] = field(default_factory=list)

    @classmethod
    def prepare(
        cls,
        folder: Path,
        lot: Lot,
        name: str,
        dies: int,
        epochs: int | None,
        values: Mapping[str, Sequence[float]],
        digits: Digits,
    ) -> _Study:
        """Read what the folder holds, and check that it was made with the same settings."""
        recipes = Recipes().with_epochs(epochs)
        study = cls(folder, lot, {}, _places(lot, values), digits, recipes)
        study.settings = _settings(lot, name, dies, digits, recipes)
        if (folder / FILE).is_file():
            study.points = _load(folder / FILE, study.settings)
        return study

    @property
    def default(self) -> Place:
        """The lot as its file says."""
        return 1.0, self.lot.devices.r_short, self.lot.devices.r_selector

    def run_seed(self, seed: int, seeds: Sequence[int], show: _Show) -> None:
        """Compute and keep every point of one seed that is not there yet."""
        done = {p.place for p in self.points if p.seed == seed}
        todo = [place for place in self.places if place not in done]
        show.points(len(self.places) * seeds.index(seed) + len(done & set(self.places)), len(self.places) * len(seeds))
        if not todo:
            return
        show.report("augmenting images", 0.0)
        methods = Methods.prepare(self.digits, Architecture(), self.recipes, seed)
        unaware = self._unaware(methods, show.report)
        software = methods.software(unaware, geometry_of(self.lot))
        for place in todo:
            self.points.append(self._point(place, methods, unaware, software, show.report))
            self.save()
            show.finished(self.points[-1])

    def save(self) -> None:
        """Write everything to a new file, force it to disk, rename it: the file is whole or as it was."""
        new = self.folder / f"{FILE}.part"
        with new.open("w", encoding="utf-8") as file:
            json.dump(self.numbers(), file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.folder / FILE)

    def numbers(self) -> dict[str, Any]:
        """Content of `lots.json`."""
        seeds = sorted({p.seed for p in self.points})
        planned = {(place, seed) for place in self.places for seed in seeds}
        done = {(p.place, p.seed) for p in self.points}
        return {
            "emulated": EMULATED,
            "settings": self.settings,
            "seeds": seeds,
            "provenance": provenance("mtj-lots", {"lot": self.settings["lot"]}, seeds[0], "none: drawn dies, no wire"),
            "missing": len(planned - done),
            "sweeps": sweeps(self.points, self.default),
            "points": [p.to_dict() for p in self.points],
        }

    def _point(
        self, place: Place, methods: Methods, unaware: BinaryNetwork, software: float, report: Report
    ) -> LotPoint:
        began, dies = time.monotonic(), self.settings["dies"]
        report("drawing and measuring dies", 0.0)
        records = measured_records(scaled_lot(self.lot, *place), methods.seed, range(dies))
        if len(records) < 2:
            raise LotsFolderError(f"only {len(records)} of {dies} dies at {words_of(place)} can be measured; draw more")
        errors = methods.errors(records, unaware, report)
        found = np.array([record.defects for record in records])
        seconds = time.monotonic() - began
        return LotPoint(
            place, methods.seed, software, dies - len(records), found, errors, methods.fitted(records), seconds
        )

    def _unaware(self, methods: Methods, report: Report) -> BinaryNetwork:
        """The unaware network of the seed; trained once and kept beside the results."""
        path = self.folder / f"unaware-{methods.seed}.npz"
        if path.is_file():
            try:
                return BinaryNetwork.from_arrays(read_npz(path, _NETWORK_LARGEST))
            except UNREADABLE as error:
                raise LotsFolderError(
                    f"{path} is no network of a study: {error}; remove it, it is trained anew"
                ) from error
        network = methods.unaware(geometry_of(self.lot), report)
        new = path.with_suffix(".part.npz")
        np.savez(new, **network.to_arrays())  # type: ignore[arg-type]
        new.replace(path)
        return network


def words_of(place: Place) -> str:
    """A place of the sweeps in words."""
    scale, r_short, r_selector = place
    return f"{scale:g} x defects, short {r_short:g} Ohm, selector {r_selector:g} Ohm"


def _places(lot: Lot, values: Mapping[str, Sequence[float]]) -> list[Place]:
    """The lot as it is first, then the sweeps; points that sweeps share once."""
    default: Place = (1.0, lot.devices.r_short, lot.devices.r_selector)
    out = [default]
    for name, (part, _) in SWEEPS.items():
        for value in values.get(name, ()):
            scale, r_short, r_selector = (float(value) if i == part else own for i, own in enumerate(default))
            out.append((scale, r_short, r_selector))
    return list(dict.fromkeys(out))


def _settings(lot: Lot, name: str, dies: int, digits: Digits, recipes: Recipes) -> dict[str, Any]:
    """What must be the same for points to be compared, as JSON."""
    settings = {
        "lot": name,
        "lot_values": lot.model_dump(exclude={"sources"}),
        "dies": dies,
        "recipes": asdict(recipes),
        "architecture": asdict(Architecture()),
        "data": digits.source,
        "training_images": len(digits.train_labels),
        "test_images": len(digits.test_labels),
        "images_digest": array_digest(digits.train_images)[:16] + array_digest(digits.test_images)[:16],
        "source": source_code.digest(Methods, measured_records, scaled_lot, geometry_of),
    }
    return json.loads(json.dumps(settings))


def _load(path: Path, settings: dict[str, Any]) -> list[LotPoint]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        points = [LotPoint.from_dict(point) for point in content["points"]]
        before = dict(content["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise LotsFolderError(f"{path} is not a result of xbar simulate: {error!r}; choose another --out") from error
    different = [key for key, value in settings.items() if before.get(key) != value]
    if different:
        raise LotsFolderError(
            f"{path} was made with other settings ({', '.join(different)}), its points cannot be compared with new "
            "ones; choose another --out"
        )
    return points


# what one sees


class _Show:
    """Progress over the points and within one; on what is no terminal a line per point instead."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._points = progress.add_task("points", total=None)
        self._step = progress.add_task("", total=1.0)

    def points(self, done: int, total: int) -> None:
        """So many points are there already."""
        self._progress.update(self._points, completed=done, total=total)

    def report(self, text: str, share: float) -> None:
        """How far the current point is."""
        self._progress.update(self._step, description=text, completed=share)

    def finished(self, point: LotPoint) -> None:
        """A point was computed and written."""
        self._progress.advance(self._points)
        self._console.print(f"{words_of(point.place)}, seed {point.seed}: {duration(point.seconds)}")


@contextmanager
def _progress(console: Console) -> Iterator[_Show]:
    columns = (TextColumn("{task.description:<30}", markup=False), BarColumn(bar_width=28), MofNCompleteColumn())
    shown = Progress(*columns, TimesColumn(), console=console, transient=True, disable=not can_redraw(console))
    with shown:
        yield _Show(console, shown)


def _show(console: Console, study: _Study) -> None:
    """Table, conclusions and page of what is there; numbers anew, for they are told by the program that is here."""
    study.save()
    numbers = study.numbers()
    page = write_page(numbers, study.folder / "lots.html")
    console.print(table(numbers))
    for sentence in conclusions(numbers):
        console.print(sentence)
    console.print(f"results: {study.folder / FILE}\npage:    {page}")


def table(numbers: dict[str, Any]) -> Table:
    """Mean error of every method at every value."""
    title = "Mean error over dies (%), emulated from die records"
    out = Table(title=title, caption=CAPTION, box=box.SIMPLE_HEAD, padding=0, title_justify="left",
                caption_justify="left")  # fmt: skip
    out.add_column("", no_wrap=True)
    for heading in ("software", *TRAININGS.values()):
        short = heading.replace("statistics", "stats").replace("calibrated", "calib.").replace("-", "-\n")
        out.add_column(short, justify="right", vertical="bottom")
    for name, sweep in numbers["sweeps"].items():
        for point in sweep["points"]:
            shown = [f"{100 * point['methods'][method]['mean']:.1f}" for method in ("software", *TRAININGS)]
            out.add_row(f"{name.split('_')[-1]} {point['value']:g}", *shown)
        out.add_section()
    return out
