"""`xbar resume`: go on with a run that did not finish, with everything it was started with, after saying what is new.

Before anything moves the protocol is rehearsed against the record: where it goes on, and what would be done anew
because a step's source, an input or the station file is not what it was.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr

from analysis.record.digest import describe
from analysis.record.record import COMPUTED, Record, Step, running, send_request
from instruments.plain_yaml import PlainYamlError, read_text
from protocols.bench.bench import Die
from protocols.commands.show import run_and_show
from protocols.sequencer.carried import Carried, carried, chain_of, due_retests
from protocols.sequencer.open_station import LEASE
from protocols.sequencer.parameters import parse
from protocols.sequencer.provenance import in_folder_of, program_differences
from protocols.sequencer.run import LOT, PassedOverError, _survey, route_of
from protocols.sequencer.run_interface import RunInterface
from protocols.sequencer.selection import RunSettings, chosen
from protocols.source import identity
from protocols.source.catalogue import find
from protocols.source.identity import Identity
from protocols.source.trust import check_trust
from protocols.terminal.console import say

#: How many names of a list are shown.
SHOWN = 8


class ResumeError(RuntimeError):
    """The run cannot be gone on with; the message says what to do instead."""


@dataclass(frozen=True)
class Interrupted:
    """A run that did not finish, as it was started."""

    id: int
    protocol: str
    function: Callable[..., Any]
    parameters: dict[str, Any]
    settings: RunSettings
    station: Path | None
    station_sha256: str | None
    lot: str


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal found.

    Attributes
    ----------
    steps
        How many come from the record.
    changes
        What is not what it was.
    goes_on
        Where the run goes on, empty for nowhere.
    error
        By which error the protocol itself ended, though what it was given may have led to that: the results of steps
        that have changed since.
    """

    steps: int
    changes: tuple[str, ...]
    goes_on: str
    error: str = ""


def resume(
    folder: Path,
    *,
    yes: bool = False,
    stop_after: int | None = None,
    assignments: dict[str, str] | None = None,
    skip: tuple[str, ...] = (),
    lease: float = LEASE,
    trust: bool = False,
    given: Sequence[str] = (),
) -> None:
    """Go on with the newest run of a lot that did not finish; a run that is paused goes on by itself.

    Parameters
    ----------
    yes : bool
        Do anew what has changed.
    stop_after, skip
        In place of, and in addition to, what the run was started with.
    assignments : dict of str to str
        Parameters of the protocol that are to be others.
    trust : bool
        Import the script that the record names though it is not known to be the user's own.
    given : sequence of str
        Options that the user gave, which a run that only pauses cannot take.

    Raises
    ------
    NotTrustedError
        If the script is not known to be the user's own, and `trust` was not given.
    ResumeError
        If no run was begun, another process does it, or it was not started in a way that can be repeated.
    SystemExit
        1 if something has changed and `yes` was not given: nothing has moved.
    """
    folder = folder.resolve()
    if _told_to_go_on(folder, given):
        return
    with Record.open(folder, create=False, write=False) as record:
        run = unfinished(record)
        if not record.runs():
            raise ResumeError(f"no run was begun in {folder} yet; begin it with xbar run and --out {folder}")
        if run is None:
            say(f"nothing to resume in {folder}: every protocol there is finished")
            return
        earlier = record.is_of_earlier_schema()
        with in_folder_of(run):
            check_trust(folder, run["id"], run["provenance"].get("find"), agreed=trust)
            found = _as_started(run, assignments or {}, stop_after, skip)
            rehearsed = rehearse(record, found)
    if earlier:
        say("an earlier xbarlab made this record, which kept the functions of steps but not what they use: more of it "
            "cannot be compared. Going on converts the record; what was measured stays as it is")  # fmt: skip
    for difference in program_differences(run["provenance"]):
        say(f"other than in run {run['id']}: {difference}")
    for change in rehearsed.changes:
        say(f"changed: {change}")
    if rehearsed.error:
        say(f"with the results of before the protocol ends there by {rehearsed.error}")
    if rehearsed.changes and not yes:
        say("nothing has moved; add --yes to do these anew")
        raise SystemExit(1)
    where = f"goes on at {rehearsed.goes_on}" if rehearsed.goes_on else "nothing is left to do at the station"
    say(f"{rehearsed.steps} steps from the record, {where}")
    with in_folder_of(run):
        run_and_show(
            found.function, found.protocol, found.parameters, folder, found.station, found.lot, found.settings, None,
            lease=lease, resumes=found.id,
        )  # fmt: skip


def unfinished(record: Record) -> dict[str, Any] | None:
    """The newest run that did not finish and whose protocol no later run took up."""
    newest = {run["protocol"]: run for run in record.runs()}
    left = [run for run in newest.values() if run["status"] != "finished"]
    return max(left, key=lambda run: int(run["id"])) if left else None


def rehearse(record: Record, run: Interrupted) -> Rehearsed:
    """Go through a protocol with the results of the record, up to the first thing that is not in it; nothing is done.

    Of steps and computations that have changed the former results are taken, to see what else has changed.

    An error of the protocol itself comes as it would come in the run, unless results that have changed may have led to
    it: then it is told beside them.
    """
    rehearsal = Rehearsal(record, run)
    goes_on, fault = "", ""
    try:
        run.function(rehearsal, **run.parameters)
    except _NotInRecord as end:
        goes_on = str(end)
    except Exception as error:
        if not rehearsal.changes():
            raise
        goes_on, fault = "the first of these changes", f"{type(error).__name__}: {error}"
    changes = [*_station_changes(run), *rehearsal.changes()]
    return Rehearsed(rehearsal.steps, tuple(changes), goes_on, fault)


class _NotInRecord(BaseException):
    """The rehearsal came to what has to be done; no Exception, so that no protocol takes it for a fault."""


class Rehearsal(RunInterface):
    """What a protocol sees of its run while it is rehearsed: as `protocols.sequencer.run.Run`, but it only reads."""

    def __init__(self, record: Record, run: Interrupted) -> None:
        self.record, self.settings, self.protocol_name = record, run.settings, run.protocol
        self.id, self.steps = run.id, 0
        self._found: dict[tuple[str, str], list[tuple[str, int]]] = {}
        self._taken: Carried = carried(record, run.id)
        self._used = _computations_of(record, run.id)
        self._histories: dict[str, list[Step]] = {}
        self._positions: dict[str, int] = {}
        self._changed: set[str] = set()
        self._calls: dict[str, int] = {}
        self._dies: list[Die] | None = None
        self._attempting: Die | None = None

    def survey(self) -> xr.Dataset:
        """As `Run.survey`."""
        self._positions[LOT] = 0
        survey = self._step(_survey, None, {})
        if self._dies is None:
            self._dies = chosen(self.settings, route_of(survey))
            for name in due_retests(self.record, self.settings, self._taken, self._dies) or ():
                self._histories[name] = []
        return survey

    def dies(self) -> Iterator[Die]:
        """As `Run.dies`."""
        if self._dies is None:
            self.survey()
        yield from self._dies or ()

    def changes(self) -> list[str]:
        """What is not what it was: steps by the dies that they were done on, with how many of each come after them."""
        said = []
        for (which, what), places in self._found.items():
            if not places:
                said.append(f"{which}: {what}; it is done anew, and what depends on it")
                continue
            names, steps = [at.removeprefix("die ") for at, _ in places], sum(count for _, count in places)
            where = places[0][0] if len(names) == 1 else f"{len(names)} dies ({_listed(names)})"
            said.append(f"{where}, {which}: {what}; {steps} step{'s' if steps > 1 else ''} there are done anew")
        return said

    def step(self, function: Callable[..., xr.Dataset], die: Die, **inputs: Any) -> xr.Dataset:
        """As `Run.step`: the recorded result, also of a step that is not what it was."""
        return self._step(function, die, inputs)

    def compute(self, function: Callable[..., xr.Dataset], **inputs: Any) -> xr.Dataset:
        """As `Run.compute`."""
        asked = identity.of_computation(function, inputs)
        call = self._calls[asked.name] = self._calls.get(asked.name, -1) + 1
        found = asked.computed_in(self.record, self.protocol_name)
        if found is None:
            before = self._used.get(asked.name, [])[call : call + 1]
            if not before:
                raise _NotInRecord(f"computation {asked.shown}")
            what = self._difference(before[0], asked)
            self._found.setdefault((f"computation {asked.shown}", what), [])
            found = before[0]
        return self.record.load(found)

    @contextlib.contextmanager
    def attempt(self, die: Die) -> Iterator[None]:
        """As `Run.attempt`."""
        self._attempting = die
        with contextlib.suppress(PassedOverError):
            yield
        self._attempting = None

    def verdict(self, die: Die, verdict: str, *, bin: int | None = None, reason: str = "") -> None:
        """As `Run.verdict`, without keeping it."""

    def rest(self) -> None:
        """As `Run.rest`; there is nothing to lift."""

    def poll(self) -> None:
        """As `Run.poll`; nothing runs that could be asked for something."""

    def _step(self, function: Callable[..., xr.Dataset], die: Die | None, inputs: dict[str, Any]) -> xr.Dataset:
        place = die.name if die else LOT
        asked, at = identity.of_step(function, inputs), f"die {place}" if die else "the lot"
        history = self._histories.setdefault(place, self.record.history(self.protocol_name, place))
        position = self._positions.setdefault(place, 0)
        if position >= len(history):
            if die == self._attempting and self._taken.fault((place, position, asked.name, asked.source, asked.key)):
                raise PassedOverError(place)
            raise _NotInRecord(f"{at}, step {asked.shown}")
        step = history[position]
        what = self._difference(step, asked)
        if what and place not in self._changed:
            self._changed.add(place)
            self._found.setdefault((f"step {asked.shown}", what), []).append((at, len(history) - position))
        if step.name != asked.name:  # its result is no answer to this script
            raise _NotInRecord(f"{at}, step {asked.shown}")
        self.steps += place not in self._changed
        self._positions[place] += 1
        return self.record.load(step)

    def _difference(self, step: Step, asked: Identity) -> str:
        """What is not as it was, in words; empty if nothing is."""
        if step.name != asked.name:
            return f"was {_last(step.name)}"
        words = _words_for_code(asked, asked.changed_since(self.record, step))
        if step.inputs_digest != asked.key:
            row = next(row for row in self.record.steps(step.die) if row.step.id == step.id)
            names = [name for name, value in asked.inputs.items() if describe(value) != row.inputs.get(name)]
            words.append(f"input {', '.join(names)} changed" if names else "inputs changed")
        return " and ".join(words)


def _words_for_code(asked: Identity, parts: list[str]) -> list[str]:
    """Which parts of a step's code have changed; the function itself goes without saying."""
    if not parts:
        return []
    named = [_last(part) for part in parts if part not in (asked.name, asked.function)]
    return [f"source changed ({_listed(named)})" if named else "source changed"]


def _last(name: str) -> str:
    """A name without its module."""
    return name if " " in name else name.rpartition(".")[2]


def _listed(names: list[str]) -> str:
    return ", ".join([*names[:SHOWN], *([f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else [])])


def _computations_of(record: Record, run: int) -> dict[str, list[Step]]:
    """The computations that an interrupted run, or one that it went on with, used; by name, in their order."""
    steps = {row.step.id: row.step for row in record.steps(COMPUTED)}
    used: dict[str, list[Step]] = {}
    for number in sorted(chain_of(record, run)):  # the newest that came as far as that
        of_run: dict[str, list[Step]] = {}
        for event in record.events("computed"):
            if event["run"] == number:
                step = steps[event["data"]["step"]]
                of_run.setdefault(step.name, []).append(step)
        used |= of_run
    return used


def _told_to_go_on(folder: Path, given: Sequence[str]) -> bool:
    """Whether a process holds the run and was told to go on.

    Raises
    ------
    ResumeError
        If it is not paused, or is to go on otherwise than it was started.
    """
    alive = running(folder)
    if alive is None:
        return False
    if alive["status"] != "paused":
        raise ResumeError(
            f"run {alive['id']} of {folder} is being done by process {alive['pid']}; xbar status {folder} shows it, "
            f"xbar pause or xbar abort {folder} interrupts it"
        )
    if given:
        raise ResumeError(
            f"run {alive['id']} of {folder} is paused and goes on as it was started: {', '.join(given)} has an effect "
            f"only on a run that ended; leave it out, or xbar abort {folder} first"
        )
    send_request(folder, "resume")
    say(f"run {alive['id']} goes on")
    return True


def _as_started(
    run: dict[str, Any], assignments: dict[str, str], stop_after: int | None, skip: tuple[str, ...]
) -> Interrupted:
    """A run by its provenance, with what is to be other this time."""
    known = run["provenance"]
    if "find" not in known:
        raise ResumeError(
            f"run {run['id']} ({run['protocol']}) was not started by xbar run; start it as it was started"
        )
    function = find(known["find"])
    try:
        settings, inputs = RunSettings.from_dict(known["settings"]), dict(known["inputs"])
        station, lot = known["station_file"], str(known["lot"])
        station_file = Path(station) if station else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResumeError(
            f"what the record says of how run {run['id']} was started cannot be used ({type(error).__name__}: "
            f"{error}); start it as it was started"
        ) from error
    settings = replace(settings, skip=tuple(dict.fromkeys((*settings.skip, *skip))))
    return Interrupted(
        id=run["id"],
        protocol=run["protocol"],
        function=function,
        parameters=parse(function, inputs | assignments),
        settings=settings if stop_after is None else replace(settings, stop_after=stop_after),
        station=station_file,
        station_sha256=known.get("station_sha256"),
        lot=lot,
    )


def _station_changes(run: Interrupted) -> list[str]:
    """Whether the station file is another one than the run had."""
    if run.station is None:
        return []
    try:
        text = read_text(run.station)
    except PlainYamlError as error:
        raise ResumeError(
            f"the station file of the run: {error}; bring it back, or start the run again with xbar run --station and "
            "the same --out"
        ) from error
    if hashlib.sha256(text.encode()).hexdigest() == run.station_sha256:
        return []
    return [f"station file {run.station}: other content than the run had; what is still to do is done with it"]
