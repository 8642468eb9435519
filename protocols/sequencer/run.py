"""The sequencer: a protocol is a plain function, what it does to hardware it does in steps, and steps are kept.

`run.step(function, die, **inputs)` commits the result before it returns it, as read back from the record. When the
same run is started again, steps whose function, source and inputs agree with the recorded history of that die come
from the record and touch no hardware; from the first difference on, everything later on that die is done anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import xarray as xr

from analysis.record import step_names
from analysis.record.digest import describe
from analysis.record.record import COMPUTED, Record, Step
from analysis.record.values import keepable
from instruments.roles.interfaces import DieSite, InstrumentError
from protocols.bench.bench import Bench, Die, DieFault, NoContactError
from protocols.sequencer.carried import Asked, carried, due_retests
from protocols.sequencer.golden import GOLDEN, GoldenDieError, GoldenRhythm, check_golden, drifted
from protocols.sequencer.pausing import Requests
from protocols.sequencer.run_interface import RunInterface
from protocols.sequencer.selection import RunSettings, chosen, golden_die
from protocols.sequencer.stopping import RunStopped, StopRequest
from protocols.sequencer.verdicts import RunVerdicts, VerdictError, word, word_of_step
from protocols.source import identity
from protocols.source.identity import Identity
from protocols.source.marks import StepNameError
from protocols.source.marks import needs_no_contact as needs_no_contact
from protocols.source.marks import protocol as protocol
from protocols.source.marks import step as step

log = logging.getLogger(__name__)

#: Name under which steps of the whole lot stand in the record.
LOT = ""
#: What is said of a step whose result is not as it should be.
_KEPT = (
    "What could be kept of it is in the record: xbar resume goes on behind it and does nothing twice, unless the "
    "function is changed"
)


class OpenBench(Protocol):
    """Opens the station when the first step needs it; a run that finds everything in the record never does."""

    def __call__(self, run: int) -> Bench:
        """Connect and return the bench."""


class Watch(Protocol):
    """What shows a run to the person who waits for it."""

    def die(self, name: str, index: int, count: int) -> None:
        """The run is at this die now."""

    def step(self, name: str, recorded: bool) -> None:
        """A step begins (or came from the record)."""

    def progress(self, text: str, share: float) -> None:
        """How far the current step is, 0..1."""


class Run(RunInterface):
    """One run of one protocol over a lot."""

    def __init__(
        self,
        record: Record,
        protocol_name: str,
        settings: RunSettings,
        open_bench: OpenBench,
        watch: Watch,
        stop: StopRequest,
        provenance: dict[str, Any],
        *,
        resumes: int | None = None,
    ) -> None:
        self.record, self.settings, self.protocol_name = record, settings, protocol_name
        self._carried = carried(record, resumes)
        self.id = record.begin_run(protocol_name, provenance, resumes=resumes)
        self.executed_s: dict[str, float] = {}
        #: Steps that this run did with hardware, so far; events that change the order of traffic quote it.
        self.steps_done = 0
        self._open_bench, self._watch, self._stop = open_bench, watch, stop
        self._requests = Requests(record, self.id, stop)
        self._verdicts = RunVerdicts(record, self.id, settings.stop_after)
        self._rhythm = GoldenRhythm(settings.golden_every)
        self._bench: Bench | None = None
        self._histories: dict[str, list[Step]] = {}
        self._positions: dict[str, int] = {}
        self._dies: list[Die] | None = None
        self._golden: Die | None = None
        self._survey: xr.Dataset | None = None
        self._asked: Asked | None = None
        self._attempting: Die | None = None
        self._paths: dict[str, str] = {}

    # what a protocol uses

    def survey(self) -> xr.Dataset:
        """The lot as the station shows it: dies of the route, capabilities, identities (a step of the lot)."""
        if self._survey is None:
            self._survey = self._step(_survey, None, {})
            self._choose_dies(self._survey)
        return self._survey

    def dies(self) -> Iterator[Die]:
        """The dies of this run in route order; going on from a die gives it the verdict of its steps.

        Raises
        ------
        SelectionError
            If a die, verdict or bin of the settings does not exist.
        TooManyFailuresError
            If so many dies in a row did not pass as the settings allow.
        """
        if self._dies is None:
            self.survey()
        dies = self._dies or []
        for place, die in enumerate(dies):
            self._depart()
            self._watch.die(die.name, place, len(dies))
            self._verdicts.arrive(die)
            yield die
        self._depart()

    def step(self, function: Callable[..., xr.Dataset], die: Die, **inputs: Any) -> xr.Dataset:
        """Do `function(bench, die, **inputs)` once and for all; returns its result as the record holds it.

        Raises
        ------
        RunStopped, RunAborted
            If that was asked for; nothing was begun.
        NoContactError
            If the die does not conduct and the function needs it to.
        GoldenDieError
            If the golden die was due and has drifted.
        """
        return self._step(function, die, inputs)

    def compute(self, function: Callable[..., xr.Dataset], **inputs: Any) -> xr.Dataset:
        """Do `function(report, **inputs)` unless it was done with the same content before; no hardware.

        `report(text, share)` shows progress. Found by content, wherever in the script it stands.
        """
        asked = identity.of_computation(function, inputs)
        self._check_name(asked)
        found = asked.computed_in(self.record, self.protocol_name)
        self._begin_step(asked.shown, COMPUTED, recorded=found is not None)
        if found is None:
            self.rest()
            found = self._execute(asked, COMPUTED, lambda: function(self._watch.progress, **asked.inputs))
        self.record.event(self.id, "computed", asked.name, COMPUTED, step=found.id)  # which of several holds now
        return self.record.load(found)

    @contextmanager
    def attempt(self, die: Die) -> Iterator[None]:
        """Do what follows; if the die turns out faulty (`DieFault`), leave it, note that, and go on after the block.

        The verdict of the die is then inconclusive. A run that goes on with this one passes the die over in the same
        place, without touching it: what came later was decided without it.
        """
        self._attempting = die
        try:
            yield
        except DieFault as fault:
            self.rest()
            self._keep_fault(fault)
            self.verdict(die, "inconclusive", reason=str(fault))
        finally:
            self._attempting, self._asked = None, None

    def verdict(self, die: Die, verdict: str, *, bin: int | None = None, reason: str = "") -> None:
        """Give a die its verdict by hand, whatever its steps say: pass, fail, inconclusive, ...

        Raises
        ------
        VerdictError
            For an unknown verdict.
        """
        self._verdicts.give(die, word(verdict, bin, reason))

    def rest(self) -> None:
        """Lift the needles while nothing is measured (long computations, end of a pass)."""
        if self._bench is not None:
            self._bench.leave()

    def poll(self) -> None:
        """Look what other processes ask of the run, within a step.

        Raises
        ------
        RunAborted
            If it is to be aborted now.
        """
        self._requests.poll()

    def close(self, *, failed: bool, error: BaseException | None = None) -> None:
        """Leave the die (or abort, when `failed`); then keep the verdict of the die that was being worked on.

        `error` is what ended the run, None if it came to its end. After an abort the prober is not told a bin.

        Raises
        ------
        InstrumentError
            Something could not be made safe; the message names it.
        """
        faults: list[str] = []
        if self._bench is not None:
            if failed:
                faults = self._bench.abort()
            else:
                self._bench.leave()
        try:
            if error is None and not failed:
                self._depart(check=False)
            elif error is not None and not isinstance(error, RunStopped):
                self._break_off(error)
        finally:  # whatever became of the record, this must be said
            if faults:
                raise InstrumentError(
                    f"THE STATION IS NOT SAFE. See to it by hand: outputs off, needles up. {'; '.join(faults)}"
                )

    # which dies

    def _choose_dies(self, survey: xr.Dataset) -> None:
        """Take the dies of the settings, note those that are skipped, and forget what is to be done anew."""
        route = route_of(survey)
        dies = chosen(self.settings, route)
        again = due_retests(self.record, self.settings, self._carried, dies)
        for name in again or ():
            self.record.supersede(self.record.history(self.protocol_name, name), self.id)
        if again is not None:
            text = f"{len(again)} dies anew"
            self.record.event(self.id, "retest", text, asked=self.settings.retests, dies=again)
            self._carried = self._carried.without(again)
        for name in self.settings.skip:
            self._verdicts.skip(name)
        self._dies, self._golden = dies, golden_die(self.settings, route)

    def _depart(self, *, check: bool = True) -> None:
        """Keep the verdict of the die that the run goes on from, tell it to the prober, and look at the row."""
        new = self._verdicts.depart()
        self.record.fold_in()  # a copy of the one file holds everything but what is done next
        if new is not None and self._bench is not None:
            die, said = new
            self._bench.prober.set_bin(die.site, said.bin)
        if check:
            self._verdicts.check(self.record.folder)

    def _break_off(self, error: BaseException) -> None:
        """The verdict of a die whose work was broken off."""
        aborted = isinstance(error, KeyboardInterrupt | SystemExit)
        text = f"terminated, status {error}" if isinstance(error, SystemExit) else str(error)
        if aborted:
            self.record.event(self.id, "aborted", text, step=self.steps_done)
        self._verdicts.break_off("aborted" if aborted else "error", f"{type(error).__name__}: {text}")

    # how a step is done

    def _step(self, function: Callable[..., xr.Dataset], die: Die | None, inputs: dict[str, Any]) -> xr.Dataset:
        place = die.name if die else LOT
        asked = identity.of_step(function, inputs)
        self._check_name(asked)
        recorded = self._recorded(place, asked)
        self._begin_step(asked.shown, place, recorded=recorded is not None)
        if recorded is None:
            self._asked = (place, self._positions[place], asked.name, asked.source, asked.key)
            if die is not None and die == self._attempting and (fault := self._carried.fault(self._asked)):
                raise PassedOverError(fault)
            bench = self._bench_at(die, function)
            recorded = self._execute(asked, place, lambda: self._at(bench, die, function, asked.inputs))
            self._histories[place].append(recorded)
        self._positions[place] += 1
        result = self.record.load(recorded)
        if die is not None:
            self._verdicts.hear(place, word_of_step(asked.name, result.attrs))
        return result

    def _check_name(self, asked: Identity) -> None:
        """Refuse a second function of a name: what is in the record under it would be taken for either's."""
        if self._paths.setdefault(asked.name, asked.function) != asked.function:
            raise StepNameError(
                f"{self._paths[asked.name]} and {asked.function} are both called {asked.name!r}; give one of them "
                "another name with @step"
            )

    def _begin_step(self, name: str, place: str, *, recorded: bool) -> None:
        """Show it, and do what was asked for meanwhile: this is where stopping and pausing are safe."""
        self._watch.step(name, recorded)
        self._requests.poll()
        self._requests.wait(self.rest, self.steps_done)
        if recorded:
            return
        try:
            self._stop.check()
        except RunStopped as stopped:
            self.record.event(self.id, "stopped", str(stopped), step=self.steps_done)
            raise
        self.record.event(self.id, "step", name, place, step=self.steps_done)

    def _recorded(self, place: str, asked: Identity) -> Step | None:
        """The next step of this die's history if it is the one asked for; else what follows it no longer holds."""
        history = self._histories.setdefault(place, self.record.history(self.protocol_name, place))
        position = self._positions.setdefault(place, 0)
        if position >= len(history):
            return None
        step = history[position]
        if asked.is_of(self.record, step):
            return step
        text = f"{asked.name} differs; {len(history) - position} steps anew"
        self.record.event(self.id, "superseded", text, place)
        self.record.supersede(history[position:], self.id)
        del history[position:]
        return None

    def _bench_at(self, die: Die | None, function: Callable[..., Any]) -> Bench:
        if self._bench is None:
            self._bench = self._open_bench(self.id)
        if die is None:
            return self._bench
        if self._golden is not None and self._rhythm.due(die):
            self._look_at_golden(self._bench, self._golden)
        self._verdicts.touch(die)
        self._bench.contact = self.contact
        self._bench.enter(die)
        check = self._bench.contact_check
        if not check.passed and not hasattr(function, "__needs_no_contact__"):
            raise NoContactError(f"{die.name}: {check.advice}")
        return self._bench

    def _at(
        self, bench: Bench, die: Die | None, function: Callable[..., xr.Dataset], inputs: dict[str, Any]
    ) -> xr.Dataset:
        """Do a step; what was measured while contact was lost is no result."""
        result = function(bench, die, **inputs)
        if die is not None:
            bench.check_contact()
        return result

    def _look_at_golden(self, bench: Bench, die: Die) -> None:
        """Read the golden die; what is wrong with it is wrong with the station, and stops the run."""
        try:
            bench.enter(die)
        except DieFault as fault:
            raise GoldenDieError(f"golden {fault}") from fault
        if not bench.contact_check.passed:
            raise GoldenDieError(f"golden die {die.name} does not conduct: clean or replace the needles, then go on "
                                 "with xbar resume")  # fmt: skip
        first = self.record.history(GOLDEN, die.name)[:1]
        known = self.record.load(first[0]) if first else None
        asked = identity.of_step(check_golden, {"known": known})
        step = self._execute(asked, die.name, lambda: check_golden(bench, die, **asked.inputs), kept_as=GOLDEN)
        if step.verdict == "fail":
            raise drifted(die, self.record.load(step))

    def _execute(self, asked: Identity, place: str, do: Callable[[], xr.Dataset], *, kept_as: str = "") -> Step:
        """Do a step and commit its result, with the source it had."""
        started = time.time()
        returned = do()
        result, lost = keepable(returned, asked.name)
        fault = self._judge(asked, returned, result) if place not in (LOT, COMPUTED) else _no_dataset(asked, returned)
        self.record.keep_source(asked.text)
        step = self.record.append_step(
            self.id, kept_as or self.protocol_name, place, asked.function, asked.source, asked.key,
            describe(asked.inputs), started, result, name=asked.name,
        )  # fmt: skip
        self.executed_s[asked.name] = self.executed_s.get(asked.name, 0.0) + step.ended - step.started
        self.steps_done += place != COMPUTED
        if lost:
            log.warning("%s: could not be kept as it was: %s", asked.name, "; ".join(lost))
            self.record.event(self.id, "not_kept", asked.name, place, step=step.id, what=lost)
        if fault is not None:
            raise fault
        return step

    def _judge(self, asked: Identity, returned: Any, result: xr.Dataset) -> Exception | None:
        """What is wrong with what a step returned; the die is inconclusive then, but what was measured is kept."""
        fault = _no_dataset(asked, returned)
        try:
            word_of_step(asked.name, result.attrs)
        except VerdictError as error:
            fault = VerdictError(f"{error}. {_KEPT}")
        if fault is not None:
            result.attrs |= {"verdict": "inconclusive", "reason": str(fault)}
        return fault

    def _keep_fault(self, fault: DieFault) -> None:
        """Note which step a fault broke off, so that a run that goes on with this one passes it over."""
        if self._asked is None or isinstance(fault, PassedOverError):
            return
        place, position, name, source, key = self._asked
        self.record.event(
            self.id, "fault", str(fault), place,
            position=position, name=name, source=source, inputs=key, error=type(fault).__name__,
            step=self.steps_done,
        )  # fmt: skip


def _no_dataset(asked: Identity, returned: Any) -> Exception | None:
    if isinstance(returned, xr.Dataset):
        return None
    return TypeError(f"{asked.name} returned {type(returned).__name__}; a step returns an xarray.Dataset. {_KEPT}")


class PassedOverError(DieFault):
    """The step failed by a fault of the die in a run that this one goes on with; the die was not touched again."""


def route_of(survey: xr.Dataset) -> list[DieSite]:
    """The dies of the station's route, as a survey holds them."""
    return [DieSite(int(column), int(row)) for column, row in survey["sites"].values]


@step(step_names.SURVEY)
def _survey(bench: Bench, die: None) -> xr.Dataset:
    """Dies of the route and what the instruments say they are."""
    sites = [(site.column, site.row) for site in bench.prober.die_sites()]
    capabilities = bench.array.capabilities()
    geometry = {
        name: list(value) if isinstance(value := getattr(capabilities, name), tuple) else value
        for name in ("rows", "columns", "kernels", "blocks", "block_rows", "block_columns",
                     "kernel_block", "kernel_row", "kernel_column")
    }  # fmt: skip
    attrs = {
        "prober": bench.prober.identify(),
        "array": bench.array.identify(),
        "chuck_temperature": bench.prober.chuck_temperature(),
        "geometry": geometry,
        "limits": {name: getattr(capabilities, name) for name in ("v_min", "v_max", "v_read_max", "dac_lsb")},
        "cell": capabilities.cell,
        "schemes": list(capabilities.schemes),
        "sweeps": bench.array.can_sweep(),
    }
    return xr.Dataset({"sites": (("die", "axis"), np.asarray(sites, np.int64))}, attrs=attrs)
