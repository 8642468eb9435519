"""What a run takes over from the interrupted runs that it goes on with, beside their steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from analysis.record.record import Record
from analysis.record.step_names import name_of
from protocols.bench.bench import Die
from protocols.sequencer.selection import RunSettings, to_retest

#: Where a step of a die stands and what it is: die, place in its history, name, source, inputs.
Asked = tuple[str, int, str, str, str]

#: The source of a step that failed in a record of schema 3: it did not keep one that could be compared.
ANY = "(any)"


@dataclass(frozen=True)
class Carried:
    """What is taken over.

    `retests`: what these runs were asked to do anew and began; it is not begun a second time. `faults`: steps that
    failed by a fault of their die and were passed over. The run goes on without them, since all that was decided later
    was decided without them; only dies of a row that stopped a run are tried again, for that was hardly their fault.
    """

    retests: list[Any] = field(default_factory=list)
    faults: dict[Asked, str] = field(default_factory=dict)

    def fault(self, asked: Asked) -> str:
        """How a step failed, empty if it did not."""
        die, position, name, _, inputs = asked
        return self.faults.get(asked) or self.faults.get((die, position, name, ANY, inputs), "")

    def without(self, dies: Sequence[str]) -> Carried:
        """The same without the faults of some dies."""
        return replace(self, faults={asked: text for asked, text in self.faults.items() if asked[0] not in dies})


def carried(record: Record, resumes: int | None) -> Carried:
    """What the run `resumes`, and those that it went on with, hand on."""
    chain, taken = chain_of(record, resumes), Carried()
    if not chain:
        return taken
    for event in record.events():
        data = event["data"]
        if event["run"] not in chain:
            continue
        if event["kind"] == "fault":
            named = (data["name"], data["source"]) if "name" in data else (name_of(data["function"]), ANY)
            asked = (event["die"], data["position"], *named, data["inputs"])
            taken.faults[asked] = event["message"]
        elif event["kind"] == "retest":
            taken.retests.append(data["asked"])
        if event["kind"] in ("retest", "too_many_failures"):
            taken = taken.without(data["dies"])
    return taken


def chain_of(record: Record, run: int | None) -> set[int]:
    """A run and those that it went on with."""
    before = {known["id"]: known["resumes"] for known in record.runs()}
    chain: set[int] = set()
    while run is not None and run not in chain:
        chain.add(run)
        run = before.get(run)
    return chain


def due_retests(record: Record, settings: RunSettings, taken: Carried, dies: Sequence[Die]) -> list[str] | None:
    """Names of the dies that are to be done anew; None if that was not asked for, or was begun already."""
    if not settings.retests or settings.retests in taken.retests:
        return None
    return to_retest(settings, dies, record.verdicts())


def interrupted(record: Record, protocol: str) -> int | None:
    """The newest run of a protocol if it did not finish: the same command goes on with it."""
    runs = [run for run in record.runs() if run["protocol"] == protocol]
    return runs[-1]["id"] if runs and runs[-1]["status"] != "finished" else None


def bury(record: Record) -> None:
    """Close those runs that the record holds for running; whoever writes the record now is the only one."""
    for run in record.runs():
        if run["status"] in ("running", "paused"):
            record.end_run(run["id"], "died")
            record.event(run["id"], "died", "the process of this run ended without a word")
