"""The results of a run as a table of plain text, and that table in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.results.lot import LotResults
from analysis.results.summary import TRAININGS, summary

NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """One training in words; `name` is its key, `where` the die that is worst."""

    name: str
    label: str
    mean: str
    sd: str
    worst: str
    where: str
    difference: str
    interval: str


def results_table(results: LotResults) -> Table:
    """The answer of a run for the terminal; 80 columns are enough."""
    numbers = summary(results)
    table = Table(title=Text(title(numbers)), box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for heading, justify in (("training", "left"), ("mean", "right"), ("sd", "right"), ("worst die", "left")):
        table.add_column(heading, justify=justify, no_wrap=heading != "worst die")  # type: ignore[arg-type]
    table.add_column("minus software, points", no_wrap=True)
    short = dict(zip(results.dies, results.short_names, strict=True))
    for row in rows(numbers):
        where = Text(f"{row.worst:>6} {short.get(row.where, row.where)}".rstrip())
        cells = (Text(row.label), Text(row.mean), Text(row.sd), where, Text(f"{row.difference:>5} {row.interval}"))
        table.add_row(*cells)
    table.caption = Text("\n".join(f"{what:<18}{value}" for what, value in notes(numbers)), style="not italic not dim")
    return table


def title(numbers: dict[str, Any]) -> str:
    """What was measured, in one line."""
    return (
        f"Misclassification on {counted(numbers['dies'], 'die')} of {numbers['cells_per_die']:,} cells, "
        f"{numbers['images']:,} test images"
    )


def rows(numbers: dict[str, Any]) -> list[Row]:
    """Rows of the results table from `analysis.results.summary.summary`: software first, then each training run."""
    error = numbers["error"]
    out = []
    if "software" in error:
        out.append(Row("software", "software", percent(error["software"]), NOTHING, NOTHING, "", NOTHING, ""))
    for name, label in TRAININGS.items():
        if name == "die_aware_moved" and "mean" not in error.get(name, {}):
            out += _moved_rows(error)
        elif name in error:
            out.append(_row(name, label, error[name]))
    return out


def _row(name: str, label: str, part: dict[str, Any]) -> Row:
    difference = part.get("difference", {})
    interval = f"[{points(difference['low'])}, {points(difference['high'])}]" if "low" in difference else ""
    return Row(
        name=name,
        label=label,
        mean=percent(part["mean"]),
        sd=percent(part["sd"]),
        worst=percent(part.get("worst")),
        where=part.get("worst_die", ""),
        difference=points(difference.get("mean")),
        interval=interval,
    )


def _moved_rows(error: dict[str, Any]) -> list[Row]:
    """Moved networks of which only errors are known, not images: no paired interval."""
    moved, software = error.get("die_aware_moved", {}), error.get("software")
    for kind in ("measured", "emulated"):
        if kind in moved:
            part = dict(moved[kind])
            part["difference"] = {"mean": part["mean"] - software} if software is not None else {}
            part.pop("worst_die", None)
            label = TRAININGS["die_aware_moved"] if kind == "measured" else "moved (emulated)"
            return [_row("die_aware_moved", label, part)]
    return []


def notes(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands below the table: programming and time, as pairs of name and value."""
    programming, time = numbers["programming"], numbers["time"]
    found = []
    if programming.get("cells"):
        right = programming.get("verified", 0) / programming["cells"]
        found.append(("programmed right", f"{percent(right, 2)} of {programming['cells']:,.0f} cells"))
    if programming.get("pulses_per_cell") is not None:
        found.append(("pulses per cell", f"{programming['pulses_per_cell']:.2f}"))
    words = {"station_s": "station time", "training_s": "training time", "wall_s": "wall time"}
    found += [(label, duration(time[key])) for key, label in words.items() if time.get(key) is not None]
    return found


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in per cent."""
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """A difference of fractions in percentage points, signed."""
    if value is None:
        return NOTHING
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def counted(count: int, thing: str) -> str:
    """``1 die``, ``36 dies``."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def duration(seconds: float) -> str:
    """A time the way one says it: ``2 h 05 min``, ``3 min 20 s``, ``1.4 s``."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def print_lot(console: Console, results: LotResults) -> None:
    """Print how the trainings came out."""
    console.print(results_table(results))
