"""Running a protocol from the command line and showing what came out: table, report, JSON."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.figures.table import print_lot
from analysis.record.own_files import check_output, dump_json, is_station, write_whole
from analysis.record.record import Record
from analysis.record.run_numbers import run_numbers
from analysis.results import grey_picture as picture_results
from analysis.results import iv_sweep as iv_results
from analysis.results import mtj_mnist as lot_results
from analysis.results import tio2_moons as moons_results
from analysis.results.grey_picture import PictureResults
from analysis.results.iv_sweep import IVResults
from analysis.results.lot import LotResults
from analysis.results.summary import summary
from analysis.results.tio2_moons import MoonsResults
from instruments.roles.interfaces import InstrumentError
from protocols.commands.iv_table import print_iv
from protocols.commands.moons_table import print_moons
from protocols.commands.picture_table import print_picture
from protocols.sequencer.execute import execute, status_of
from protocols.sequencer.open_station import LEASE
from protocols.sequencer.selection import RunSettings
from protocols.terminal.console import command, console, say

log = logging.getLogger(__name__)

REPORT = "report.html"
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
    _check_folder(out, simulated=station is None)
    shown = console()
    where: dict[str, Any] = {"out": out, "station": station, "lot": lot, "settings": settings, "console": shown}
    try:
        outcome = execute(function, name, parameters, **where, lease=lease, resumes=resumes)
    except BaseException as error:
        _write_ending(json_path, out, name, status_of(error), str(error) or type(error).__name__)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            how = "terminated" if isinstance(error, SystemExit) else "aborted"
            _say_how_to_go_on(shown, f"{how}; the record is complete up to the last step", out)
            raise SystemExit(error.code if isinstance(error, SystemExit) else STOPPED) from None
        if isinstance(error, InstrumentError) and _has_record(out):
            go_on = command("xbar", "resume", out)
            error.add_note(f"when that is put right, {go_on} goes on; every finished step is in the record")
        raise
    if outcome.status == "stopped":  # a script that goes on after us must see that the run is not finished
        _write_ending(json_path, out, name, "stopped", outcome.reason)
        shown.print(f"record: {out.resolve()}")
        _say_how_to_go_on(shown, "stopped", out)
        raise SystemExit(STOPPED)
    if type(outcome.value) in KINDS:
        show(shown, outcome.value, out, json_path, status="finished")
    else:
        _write_ending(json_path, out, name, "finished", "")
        if outcome.value is not None:
            shown.print(outcome.value)
    shown.print(f"record: {out.resolve()}")


def _check_folder(out: Path, *, simulated: bool) -> None:
    """Refuse to begin a lot in a folder that holds files of somebody else under the names that a lot has.

    Raises
    ------
    NotOursError
        Naming the file.
    """
    if simulated:
        check_output(out / "station.yaml", "--out", is_station)
    if not _has_record(out):
        check_output(out / REPORT, "--out", lambda _: False)


def _has_record(out: Path) -> bool:
    return (out / "record.sqlite").is_file()


def _write_ending(path: Path | None, out: Path, protocol: str, status: str, reason: str) -> None:
    """Write the JSON of a run that has no results, or not all; what goes wrong with that is said and ends nothing."""
    if path is None:
        return
    try:
        write_whole(path, dump_json(_ending(out, protocol, status, reason)))
    except OSError as error:
        sys.stderr.write(f"xbar: cannot write {path}: {error.strerror or error}\n")


def _ending(out: Path, protocol: str, status: str, reason: str) -> dict[str, Any]:
    """How a run of this process ended, in numbers as far as its record has them."""
    found: dict[str, Any] = {"protocol": protocol, "run": None, "status": status, "reason": reason}
    if not _has_record(out):
        return found
    try:
        with Record.open(out, create=False, write=False) as record:
            ours = [run["id"] for run in record.runs() if run["pid"] == os.getpid() and run["protocol"] == protocol]
            if ours:
                found = run_numbers(record, ours[-1]) | {"status": status, "reason": reason}
                kind = next((each for each in KINDS.values() if each.protocol == protocol), None)
                if kind is not None:
                    found |= kind.numbers(kind.of_record(record))
    except Exception as error:  # whatever a run that broke off left: how it ended is known, and must not be lost
        log.debug("no results of %s: %s", out, error)
    return found


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
    LotResults: Kind(
        "mtj-mnist", lot_results.lot_results, summary, print_lot, "analysis.reports.mtj_mnist:write_report",
    ),
    MoonsResults: Kind(
        moons_results.PROTOCOL, moons_results.moons_results, moons_results.numbers, print_moons,
        "analysis.reports.tio2_moons:write_moons_report",
    ),
    PictureResults: Kind(
        picture_results.PROTOCOL, picture_results.picture_results, picture_results.numbers, print_picture,
        "analysis.reports.grey_picture:write_picture_report",
    ),
    IVResults: Kind(
        iv_results.PROTOCOL, iv_results.iv_results, iv_results.numbers, print_iv,
        "analysis.reports.iv_sweep:write_iv_report",
    ),
}  # fmt: skip


def show(
    console: Console, results: Any, out: Path, json_path: Path | None, *, page_in: Path | None = None, **also: Any
) -> None:
    """Write the numbers of results as JSON if wanted (with `also` in it), then print them, then write `report.html`.

    The page goes into the folder `page_in`, by default that of the lot, `out`.

    Raises
    ------
    ShowError
        If one of the files cannot be written; everything else was done.
    """
    kind, report, faults = KINDS[type(results)], (page_in or out) / REPORT, list[str]()
    again = command("xbar", "report", out)
    if json_path is not None:
        try:
            write_whole(json_path, dump_json(kind.numbers(results) | also))
        except OSError as error:
            faults.append(f"cannot write {json_path}: {error.strerror or error}; {again} --json FILE writes it again")
    kind.print(console, results)
    module, write = kind.report.split(":")
    try:
        getattr(importlib.import_module(module), write)(results, report)
        console.print(f"report: {report.resolve()}")
    except OSError as error:
        faults.append(
            f"cannot write {report}: {error.strerror or error}; make room, or choose a place: {again} --out FOLDER"
        )
    if faults:
        raise ShowError("; ".join(faults))


class ShowError(RuntimeError):
    """What came out could not be written to a file; the record holds all of it."""


def show_record(folder: Path, json_path: Path | None, out: Path | None = None) -> None:
    """Table, report and JSON from a record, of its newest run that has a page, else (JSON alone) of its newest run.

    The report goes into `out`, by default beside the record.
    """
    with Record.open(folder, create=False, write=False) as record:
        protocols = [run["protocol"] for run in record.runs()]
        paged = {kind.protocol: kind for kind in KINDS.values()}
        shown = next((name for name in reversed(protocols) if name in paged), None)
        if shown is None and protocols and json_path is not None:  # no page, but numbers
            write_whole(json_path, dump_json(run_numbers(record, record.runs()[-1]["id"])))
            say(f"numbers: {json_path} (there is no page for {protocols[-1]})")
            return
        if shown is not None and shown != protocols[-1]:
            say(f"this is of {shown}; there is no page for {protocols[-1]}, which was run since")
        kind = KINDS[LotResults] if shown is None else paged[shown]
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            check_output(out / REPORT, "--out", lambda _: _has_record(out))
        show(console(), kind.of_record(record), folder, json_path, page_in=out)


def show_score(folder: Path, truth: Path, json_path: Path | None) -> None:
    """Print how a record compares with the truth, die by die and in total."""
    from analysis.score import score, totals

    with Record.open(folder, create=False, write=False) as record:
        scores = score(record, truth)
    whole = totals(scores)
    if json_path is not None:
        write_whole(json_path, dump_json(whole | {"per_die": [asdict(s) for s in scores]}))
    table = Table(
        "die", "cells in state", "of the healthy", "hard defects", "found", "right", "lines", "found", "right"
    )
    for s in scores:
        counts = (s.defects_true, s.defects_found, s.defects_right, s.lines_true, s.lines_found, s.lines_right)
        table.add_row(s.die, f"{s.right} of {s.asked}", f"{s.in_state} of {s.healthy}", *map(str, counts))
    shown = console()
    shown.print(table)
    for name, value in whole.items():
        shown.print(f"{name.replace('_', ' '):18} {'-' if value is None else f'{value:.5g}'}")


def _say_how_to_go_on(console: Console, how: str, out: Path) -> None:
    if _has_record(out):
        console.print(f"{how}; {command('xbar', 'resume', out)} goes on")
    else:
        console.print("ended before anything was begun; nothing is left of it")
