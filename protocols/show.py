"""Running a protocol from the command line and showing what came out: table, report, JSON."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis import iv_results, lot_results, moons_results, picture_results
from analysis.iv_results import IVResults
from analysis.moons_results import MoonsResults
from analysis.picture_results import PictureResults
from analysis.record import Record
from analysis.results import LotResults
from analysis.summary import summary
from analysis.table import print_lot
from instruments.roles import InstrumentError
from protocols.console import console
from protocols.execute import execute
from protocols.iv_table import print_iv
from protocols.moons_table import print_moons
from protocols.open_station import LEASE
from protocols.picture_table import print_picture
from protocols.selection import RunSettings

#: Exit status of a run that was stopped or aborted by Ctrl-C and can be gone on with; the shell's number for that.
STOPPED = 130


def run_and_show(
    function: Callable[..., Any],
    name: str,
    parameters: dict[str, Any],
    out: Path,
    station: Path | None,
    lot: str,
    settings: RunSettings,
    json_path: Path | None,
    *,
    lease: float = LEASE,
    resumes: int | None = None,
) -> None:
    """Run a protocol; print its table, write its report and, if wanted, its numbers as JSON."""
    if station is not None:
        from instruments.station import check_station

        check_station(station)  # before a run is entered in the record for it
    shown = console()
    where: dict[str, Any] = {"out": out, "station": station, "lot": lot, "settings": settings, "console": shown}
    try:
        outcome = execute(function, name, parameters, **where, lease=lease, resumes=resumes)
    except (KeyboardInterrupt, SystemExit) as end:
        how = "terminated" if isinstance(end, SystemExit) else "aborted"
        _say_how_to_go_on(shown, f"{how}; the record is complete up to the last step", out)
        raise SystemExit(end.code if isinstance(end, SystemExit) else STOPPED) from None
    except InstrumentError as error:
        error.add_note(f"when that is put right, xbar resume {out} goes on; every finished step is in the record")
        raise
    if type(outcome.value) in KINDS:
        show(shown, outcome.value, out, json_path)
    elif outcome.value is not None:
        shown.print(outcome.value)
    shown.print(f"record: {out.resolve()}")
    if outcome.status == "stopped":  # a script that goes on after us must see that the run is not finished
        _say_how_to_go_on(shown, "stopped", out)
        raise SystemExit(STOPPED)


@dataclass(frozen=True)
class Kind:
    """Results of one kind.

    Attributes
    ----------
    protocol
        That they are of.
    of_record
        Takes them from a record.
    numbers
        What ``--json`` writes of them.
    print
        Shows them on a console.
    report
        Name of the module and function that writes their page; loaded when it is needed, as figures take long to load.
    """

    protocol: str
    of_record: Callable[[Record], Any]
    numbers: Callable[[Any], dict[str, Any]]
    print: Callable[[Console, Any], None]
    report: str


#: By the class of the results. A record of any other protocol is looked at as the first.
KINDS: dict[type, Kind] = {
    LotResults: Kind("mtj-mnist", lot_results.lot_results, summary, print_lot, "analysis.report:write_report"),
    MoonsResults: Kind(
        moons_results.PROTOCOL, moons_results.moons_results, moons_results.numbers, print_moons,
        "analysis.moons_report:write_moons_report",
    ),
    PictureResults: Kind(
        picture_results.PROTOCOL, picture_results.picture_results, picture_results.numbers, print_picture,
        "analysis.picture_report:write_picture_report",
    ),
    IVResults: Kind(
        iv_results.PROTOCOL, iv_results.iv_results, iv_results.numbers, print_iv, "analysis.iv_report:write_iv_report"
    ),
}  # fmt: skip


def show(console: Console, results: Any, out: Path, json_path: Path | None) -> None:
    """Print results, write `report.html` into the lot folder and, if wanted, their numbers as JSON."""
    kind, report = KINDS[type(results)], out / "report.html"
    module, write = kind.report.split(":")
    getattr(importlib.import_module(module), write)(results, report)
    kind.print(console, results)
    if json_path is not None:
        json_path.write_text(json.dumps(kind.numbers(results), indent=2) + "\n", encoding="utf-8")
    console.print(f"report: {report.resolve()}")


def show_record(folder: Path, json_path: Path | None) -> None:
    """Table, report and JSON of a run from its record."""
    with Record.open(folder, create=False, write=False) as record:
        runs = record.runs()
        named = [kind for kind in KINDS.values() if runs and kind.protocol == runs[-1]["protocol"]]
        kind = named[0] if named else KINDS[LotResults]
        show(console(), kind.of_record(record), folder, json_path)


def show_score(folder: Path, truth: Path, json_path: Path | None) -> None:
    """Print how a record compares with the truth, die by die and in total."""
    from analysis.score import score, totals

    with Record.open(folder, create=False, write=False) as record:
        scores = score(record, truth)
    table = Table("die", "cells in state", "hard defects", "found", "right", "lines", "found", "right")
    for s in scores:
        counts = (s.defects_true, s.defects_found, s.defects_right, s.lines_true, s.lines_found, s.lines_right)
        table.add_row(s.die, f"{s.in_state} of {s.healthy}", *map(str, counts))
    shown = console()
    shown.print(table)
    whole = totals(scores)
    for name, value in whole.items():
        shown.print(f"{name.replace('_', ' '):18} {value:.5g}")
    if json_path is not None:
        json_path.write_text(json.dumps(whole | {"per_die": [asdict(s) for s in scores]}, indent=2) + "\n", "utf-8")


def _say_how_to_go_on(console: Console, how: str, out: Path) -> None:
    console.print(f"{how}; xbar resume {out} goes on")
