"""`xbar status`: where a lot stands, from its record alone, while a run goes on or after it died."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from analysis.record.record import COMPUTED, Record, running
from protocols.source.catalogue import REPORTED
from protocols.terminal.console import command, say

#: Events at the end of the record that are shown.
LAST_EVENTS = 5
#: Kinds that say where the run is, not what happened to it.
POSITIONS = ("step", "computed", "time", "snapshot", "instruments", "station")


def lot_status(folder: Path) -> dict[str, Any]:
    """Where the lot in `folder` stands, all of it JSON.

    Returns
    -------
    dict
        `runs` (each with `id`, `protocol`, `status`, `started`, `ended`, `resumes`, `pid`, `steps`), `status` of the
        newest (running, paused, finished, stopped, failed, aborted, or died: its process is gone without a word),
        `dies` (verdict, bin and reason of each), `now` (die, step and since when; None unless a run goes on), `events`
        (the last ones), `unfired` (batches of each die of which nobody knows whether they were fired), `next`
        (commands to give now).

    Raises
    ------
    RecordError
        If there is no record.
    """
    alive = running(folder)
    with Record.open(folder, create=False, write=False) as record:
        events = record.events()
        steps = _steps_by_run(record)
        runs = [
            {key: run[key] for key in ("id", "protocol", "started", "ended", "resumes", "pid")}
            | {"status": run_status(run, alive), "steps": steps.get(run["id"], 0)}
            for run in record.runs()
        ]
        status = runs[-1]["status"] if runs else "empty"
        return {
            "folder": str(folder),
            "status": status,
            "runs": runs,
            "dies": {
                die: {"verdict": v.verdict, "bin": v.bin, "reason": v.reason} for die, v in record.verdicts().items()
            },
            "now": _now(runs[-1]["id"], events) if alive else None,
            "events": [event for event in events if event["kind"] not in POSITIONS][-LAST_EVENTS:],
            "unfired": {die: count for die in record.dies() if (count := len(record.unfired(die)))},
            "next": next_commands(record.runs(), status, folder),
        }


def run_status(run: dict[str, Any], alive: dict[str, Any] | None) -> str:
    """How a run stands or ended; `alive` is the run that goes on, if any."""
    if run["status"] in ("running", "paused"):
        return str(run["status"]) if alive is not None and alive["id"] == run["id"] else "died"
    return str(run["status"])


def next_commands(runs: list[dict[str, Any]], status: str, folder: Path) -> list[str]:
    """What one would type next, for runs as a record gives them and the status of the newest one."""
    if not runs:
        return [command("xbar", "run", "PROTOCOL", "--out", folder)]
    if status in ("running", "paused"):
        first = "pause" if status == "running" else "resume"
        return [command("xbar", what, folder) for what in (first, "abort")]
    newest = {run["protocol"]: run for run in runs}
    left = [run for run in newest.values() if run["status"] != "finished" and "find" in run["provenance"]]
    found = [command("xbar", "resume", folder)] if left else []
    if status == "finished":
        shows = command("xbar", "report", folder)
        found.append(shows if runs[-1]["protocol"] in REPORTED else command("xbar", "export", folder, "--to", "hdf5"))
    return found or [command("xbar", "export", folder, "--to", "hdf5")]


def show_status(folder: Path, *, as_json: bool = False) -> None:
    """Print where a lot stands."""
    status = lot_status(folder)
    if as_json:
        say(json.dumps(status, indent=2))
        return
    for run in status["runs"]:
        resumes = f", goes on with run {run['resumes']}" if run["resumes"] else ""
        say(f"run {run['id']}  {run['protocol']}  {run['status']}  {run['steps']} steps{resumes}")
    if status["now"]:
        at = status["now"]
        say(f"now: {at['step']} on {at['die'] or 'the lot'}, for {time.time() - at['since']:.0f} s")
    for line in _by_verdict(status["dies"]):
        say(line)
    for die, count in status["unfired"].items():
        say(f"{die}: {count} pulse batches may have been fired or not; the next step there finds out before it pulses")
    for event in status["events"]:
        when = time.strftime("%H:%M:%S", time.localtime(event["time"]))
        say(f"{when}  {event['die'] or '-':6}  {event['kind']}: {event['message']}")
    say(f"next: {' or '.join(status['next'])}")


def _by_verdict(dies: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each verdict and bin; with reasons where they differ from passing."""
    groups: dict[tuple[int, str], list[str]] = {}
    for die, found in dies.items():
        reason = f" ({found['reason']})" if found["reason"] and found["verdict"] not in ("pass", "skipped") else ""
        groups.setdefault((found["bin"], found["verdict"]), []).append(f"{die}{reason}")
    return [f"bin {n} {verdict}, {len(names)}: {' '.join(names)}" for (n, verdict), names in sorted(groups.items())]


def _now(run: int, events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The step that was begun last."""
    begun = [event for event in events if event["run"] == run and event["kind"] == "step"]
    if not begun:
        return None
    die = "" if begun[-1]["die"] == COMPUTED else begun[-1]["die"]
    return {"die": die, "step": begun[-1]["message"], "since": begun[-1]["time"]}


def _steps_by_run(record: Record) -> dict[int, int]:
    """Steps that each run committed, superseded ones too."""
    counts: dict[int, int] = {}
    for row in record.steps():
        counts[row.step.run] = counts.get(row.step.run, 0) + 1
    return counts
