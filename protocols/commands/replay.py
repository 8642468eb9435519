"""`xbar replay`: a recorded run again, same protocol, same drivers, against a broker that answers from the recording.

No station is needed. Steps of earlier runs and pure computations come from the lot's record; everything that this run
did with hardware is done again, byte for byte, and its results are compared with the recorded ones. The first byte
that differs, in a request or in a result, ends the replay and is shown with both sides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from rich.console import Console

from analysis.record.digest import digest
from analysis.record.record import COMPUTED, Record, RecordError, Step
from instruments.broker.client import Broker, BrokerError, ReplayError
from instruments.foreign.own_connections import nobody_connects
from instruments.station import load_station
from protocols.bench.bench import Bench
from protocols.commands.show import KINDS
from protocols.sequencer.open_station import describe_station, traffic_file
from protocols.sequencer.parameters import parse
from protocols.sequencer.provenance import in_folder_of, made_by
from protocols.sequencer.run import Run
from protocols.sequencer.selection import RunSettings
from protocols.sequencer.stopping import RunStopped, StopRequest
from protocols.source import identity
from protocols.source.catalogue import find
from protocols.source.trust import check_trust
from protocols.terminal.console import PlainConsole, console
from protocols.terminal.progress import RunProgress


class CannotReplayError(RuntimeError):
    """There is nothing that could be replayed; the message says why."""


@dataclass(frozen=True)
class Replayed:
    """What a replay gave.

    Attributes
    ----------
    run
        Number of the run.
    steps
        Steps that the run did with hardware.
    same
        How many of them the replay did, with the same result bit for bit.
    ended
        How the recorded run ended.
    deviation
        The first difference, both sides; empty if there is none.
    value
        What the protocol gave (`protocols.sequencer.execute.Outcome`).
    made_by
        Which other version of the program made the run, and what to install to replay it; empty if it was this one.
    """

    run: int
    steps: int
    same: int
    ended: str
    deviation: str
    value: Any = None
    made_by: str = ""

    @property
    def exact(self) -> bool:
        """Whether every result was reproduced."""
        return not self.deviation and self.same == self.steps


def replay(folder: Path, run: int | None = None, shown: Console | None = None, *, trust: bool = False) -> Replayed:
    """Do a run of a lot again from its recording.

    Parameters
    ----------
    run
        Number of the run; the newest one that did something with hardware if None.
    trust
        Import the script that the record names though it is not known to be the user's own.

    Raises
    ------
    NotTrustedError
        The script is not known to be the user's own, and `trust` was not given.
    CannotReplayError
        The run has no recording, the recording is damaged (the message says where), or the run was not started in a
        way that can be repeated.
    RecordError
        The record is damaged; the message says where.
    """
    folder = folder.resolve()  # the protocol runs where the run was begun, which may be elsewhere
    with Record.open(folder, create=False, write=False) as lot, ExitStack() as stack:
        stack.enter_context(nobody_connects())
        known = _run_of(lot, run)
        number = int(known["id"])
        recording = traffic_file(folder, number)
        if not recording.is_file():
            raise CannotReplayError(
                f"run {number} of {folder} did nothing with hardware, or its {recording} is missing: restore it from a "
                "backup, or choose another --run"
            )
        with in_folder_of(known):
            check_trust(folder, number, known["provenance"]["find"], agreed=trust)
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        record = stack.enter_context(lot.copy_before(number, home / "lot"))
        progress = stack.enter_context(RunProgress(shown or PlainConsole(quiet=True)))
        opener = _Opener(stack, record, _station_file(lot, number, home), recording, progress)
        replaying = _replaying(lot, known, record, opener, progress)
        value, deviation = _do(replaying, known)
        result = value(record) if callable(value) else value
        same, difference = _compared(lot, record, number)
        if known["status"] != "finished" and "ends here" in deviation:
            deviation = ""  # the run was cut off there
        steps = len(_steps(lot, number))
        return Replayed(
            number, steps, same, known["status"], difference or deviation, result, made_by(known["provenance"])
        )


def replay_and_show(folder: Path, run: int | None, *, trust: bool = False) -> None:
    """Replay a run and say what came of it; exit status 1 if anything was different."""
    shown = console()
    found = replay(folder, run, shown, trust=trust)
    kind = KINDS.get(type(found.value))
    if kind is not None:
        kind.print(shown, found.value)
    shown.print(
        f"run {found.run} ({found.ended}): {found.same} of {found.steps} steps reproduced bit for bit, no station used"
    )
    if not found.exact:
        why = found.deviation or "the replay did not come to the other steps"
        shown.print(f"first difference: {why}")
        recording = traffic_file(folder, found.run)
        if found.made_by:
            shown.print(found.made_by)
        shown.print(f"if {recording} or the record was exchanged or edited, restore them from a backup")
        raise SystemExit(1)


class _Replaying(Run):
    """A run that rests and stops where the recorded one did."""

    def __init__(self, *arguments: Any, rests: set[int], stops: set[int], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._rests, self._stops = rests, stops
        self._computed: set[int] = set()

    def compute(self, function: Callable[..., xr.Dataset], **inputs: Any) -> xr.Dataset:
        """From the record; where the recorded run computed it, the needles were off."""
        asked = identity.of_computation(function, inputs)
        found = asked.computed_in(self.record, self.protocol_name)
        if found is not None and found.run == self.id and found.id not in self._computed:
            self._computed.add(found.id)
            self.rest()
        return super().compute(function, **inputs)

    def _begin_step(self, name: str, place: str, *, recorded: bool) -> None:
        if self.steps_done in self._rests:
            self._rests.discard(self.steps_done)
            self.rest()
        if not recorded and self.steps_done in self._stops:
            raise RunStopped("the recorded run was stopped here")
        super()._begin_step(name, place, recorded=recorded)


class _Opener:
    """Opens the recorded station."""

    def __init__(self, stack: ExitStack, record: Record, station: Path, recording: Path, progress: RunProgress) -> None:
        self._stack, self._record, self._station = stack, record, station
        self._recording, self._progress = recording, progress

    def __call__(self, run: int) -> Bench:
        """Connect the drivers to the recording; nothing needs to be left in order at its end."""
        try:
            broker = self._stack.enter_context(Broker(self._station, recording=self._recording, lease=1e9))
        except BrokerError as error:
            said = f"{error}. Results are read without it: xbar export {self._record.origin.parent} --to csv"
            raise CannotReplayError(said) from error
        station = load_station(self._station, broker)
        self._stack.callback(station.forget)
        describe_station(self._record, run, self._station, station)  # what the run asked before it began
        return Bench(station.prober, station.array, self._record, run, parts=station.parts(), lease=broker,
                     report=self._progress.progress, let_pass=lambda seconds: None)  # fmt: skip


def _run_of(lot: Record, run: int | None) -> dict[str, Any]:
    """A run by its number, or the newest one that has steps of its own."""
    runs = {known["id"]: known for known in lot.runs()}
    if run is None:
        done = [row.step.run for row in lot.steps() if row.step.die != COMPUTED]
        if not done:
            raise CannotReplayError(f"no run of {lot.folder} did anything with hardware")
        run = max(done)
    if run not in runs:
        raise CannotReplayError(f"there is no run {run} in {lot.folder}; there are {', '.join(map(str, runs))}")
    if "find" not in runs[run]["provenance"]:
        raise CannotReplayError(f"run {run} was not started by xbar run; its protocol is not known")
    return runs[run]


def _station_file(lot: Record, run: int, home: Path) -> Path:
    """The station file that the run had."""
    texts = [event["data"]["station"] for event in lot.events("station") if event["run"] == run]
    if not texts:
        raise CannotReplayError(f"run {run} of {lot.folder} never connected to a station")
    file = home / "station.yaml"
    file.write_text(texts[-1], encoding="utf-8")
    return file


def _replaying(
    lot: Record, known: dict[str, Any], record: Record, opener: _Opener, progress: RunProgress
) -> _Replaying:
    settings = RunSettings.from_dict(known["provenance"]["settings"])
    events = [event for event in lot.events() if event["run"] == known["id"]]
    rests, stops = ({e["data"]["step"] for e in events if e["kind"] == kind} for kind in ("paused", "stopped"))
    return _Replaying(
        record, known["protocol"], settings, opener, progress, StopRequest(), known["provenance"],
        resumes=known["resumes"], rests=rests, stops=stops,
    )  # fmt: skip


def _do(run: _Replaying, known: dict[str, Any]) -> tuple[Any, str]:
    """Run the protocol to its end, or to where the recording ends; what it gave, and the deviation that ended it."""
    try:
        with in_folder_of(known):
            function: Callable[..., Any] = find(known["provenance"]["find"])
            value = function(run, **parse(function, known["provenance"]["inputs"]))
        run.close(failed=False)
    except RunStopped:
        return None, ""
    except ReplayError as deviation:
        return None, str(deviation)
    except (CannotReplayError, RecordError):  # what was recorded cannot be read; that says nothing of the run
        raise
    except Exception:
        if known["status"] == "finished":
            raise
        return None, ""  # the run ended by an error then, and it does so now; the steps tell whether all was the same
    run.record.end_run(run.id, "finished")
    return value, ""


def _steps(record: Record, run: int) -> list[Step]:
    return [row.step for row in record.steps() if row.step.run == run and row.step.die != COMPUTED]


def _compared(lot: Record, copy: Record, run: int) -> tuple[int, str]:
    """How many steps have the same result, and the first one that has another."""
    same = 0
    for then, now in zip(_steps(lot, run), _steps(copy, run), strict=False):
        difference = _difference(lot, then, copy, now)
        if difference:
            what = f"step {same + 1}, {then.name.rpartition('.')[2]} on {then.die or 'the lot'}"
            return same, f"{what}: {difference}"
        same += 1
    return same, ""


def _difference(lot: Record, then: Step, copy: Record, now: Step) -> str:
    """What differs between a recorded step and the same one of the replay; both sides."""
    if (then.name, then.die, then.inputs_digest) != (now.name, now.die, now.inputs_digest):
        return f"in the replay it is {now.name.rpartition('.')[2]} on {now.die or 'the lot'}, or its inputs differ"
    recorded, replayed = lot.load(then), copy.load(now)
    if digest(recorded.attrs) != digest(replayed.attrs):
        return f"attributes differ\n  recorded: {recorded.attrs}\n  replayed: {replayed.attrs}"
    for name in recorded.variables:
        if name not in replayed or digest(recorded[name].values) != digest(replayed[name].values):
            return f"{name} differs\n  recorded: {recorded[name].values}\n  replayed: {replayed.get(name)}"
    return ""
