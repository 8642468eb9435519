"""Running a protocol from the command line and showing what came out: table, report, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.moons_results import PROTOCOL as MOONS
from analysis.moons_results import MoonsResults, moons_results
from analysis.picture_results import PROTOCOL as PICTURE
from analysis.picture_results import PictureResults, picture_results
from analysis.record import Record
from analysis.results import LotResults
from instruments.roles import InstrumentError
from protocols.execute import execute
from protocols.moons_table import show_moons
from protocols.open_station import LEASE
from protocols.picture_table import show_picture
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
    console = Console(stderr=False)
    where: dict[str, Any] = {"out": out, "station": station, "lot": lot, "settings": settings, "console": console}
    try:
        outcome = execute(function, name, parameters, **where, lease=lease, resumes=resumes)
    except (KeyboardInterrupt, SystemExit) as end:
        how = "terminated" if isinstance(end, SystemExit) else "aborted"
        _say_how_to_go_on(console, f"{how}; the record is complete up to the last step", out)
        raise SystemExit(end.code if isinstance(end, SystemExit) else STOPPED) from None
    except InstrumentError as error:
        error.add_note(f"when that is put right, xbar resume {out} goes on; every finished step is in the record")
        raise
    value = outcome.value
    if isinstance(value, LotResults):
        show_lot(console, value, out, json_path)
    elif isinstance(value, MoonsResults):
        show_moons(console, value, out, json_path)
    elif isinstance(value, PictureResults):
        show_picture(console, value, out, json_path)
    elif value is not None:
        console.print(value)
    console.print(f"record: {out.resolve()}", soft_wrap=True, highlight=False)
    if outcome.status == "stopped":  # a script that goes on after us must see that the run is not finished
        _say_how_to_go_on(console, "stopped", out)
        raise SystemExit(STOPPED)


def show_lot(console: Console, results: LotResults, out: Path, json_path: Path | None) -> None:
    """Print the table, write `report.html` into the lot folder and the JSON file."""
    from analysis.report import write_report
    from analysis.summary import summary
    from analysis.table import results_table

    report = out / "report.html"
    write_report(results, report)
    console.print(results_table(results))
    if json_path is not None:
        json_path.write_text(json.dumps(summary(results), indent=2) + "\n", encoding="utf-8")
    console.print(f"report: {report.resolve()}", soft_wrap=True, highlight=False)


def show_record(folder: Path, json_path: Path | None) -> None:
    """Table, report and JSON of a run from its record."""
    from analysis.lot_results import lot_results

    with Record.open(folder, create=False, write=False) as record:
        runs = record.runs()
        if runs and runs[-1]["protocol"] == MOONS:
            show_moons(Console(), moons_results(record), folder, json_path)
        elif runs and runs[-1]["protocol"] == PICTURE:
            show_picture(Console(), picture_results(record), folder, json_path)
        else:
            show_lot(Console(), lot_results(record), folder, json_path)


def show_score(folder: Path, truth: Path, json_path: Path | None) -> None:
    """Print how a record compares with the truth, die by die and in total."""
    from analysis.score import score, totals

    with Record.open(folder, create=False, write=False) as record:
        scores = score(record, truth)
    table = Table("die", "cells in state", "hard defects", "found", "right", "lines", "found", "right")
    for s in scores:
        counts = (s.defects_true, s.defects_found, s.defects_right, s.lines_true, s.lines_found, s.lines_right)
        table.add_row(s.die, f"{s.in_state} of {s.healthy}", *map(str, counts))
    console = Console()
    console.print(table)
    whole = totals(scores)
    for name, value in whole.items():
        console.print(f"{name.replace('_', ' '):18} {value:.5g}", highlight=False)
    if json_path is not None:
        json_path.write_text(json.dumps(whole | {"per_die": [asdict(s) for s in scores]}, indent=2) + "\n", "utf-8")


def _say_how_to_go_on(console: Console, how: str, out: Path) -> None:
    with suppress(OSError):  # a terminal that was closed is no reason to end otherwise
        console.print(f"{how}; xbar resume {out} goes on", soft_wrap=True, highlight=False)
