"""A run on the costing bench: the sequencer's own way, with every step checked first and counted."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from analysis.record.digest import describe
from analysis.record.record import Record
from instruments.roles.interfaces import LimitError
from mapping.dies.die_record import DieRecord
from mapping.writing.analog_schedule import AnalogSchedule
from mapping.writing.schedule import PulseSettings, WriteSchedule
from protocols.bench.bench import DOSE_LIMIT, Bench, Die
from protocols.plan.checks import check_analog_schedule, check_dose, check_life, check_pulse_settings, check_schedule
from protocols.plan.counting_bench import CostingProber, CostingTester, Costs, Durations
from protocols.plan.counting_dies import Cells
from protocols.plan.counting_rack import CostingRack
from protocols.plan.station import PlannedStation
from protocols.sequencer.planned import typical_of
from protocols.sequencer.run import Run, RunSettings
from protocols.sequencer.stopping import RunStopped, StopRequest
from protocols.terminal.user_errors import for_the_user


@dataclass(frozen=True)
class Refusal:
    """Why a run could not work: in which step and on which die (empty: before any), and what to change."""

    step: str
    die: str
    message: str


class CostingStation:
    """Prober and tester that only count, of the kind that a plan is made for."""

    def __init__(self, planned: PlannedStation) -> None:
        self.planned, self.costs, self.durations = planned, Costs(), Durations()
        self.prober = CostingProber(planned.sites, self.costs, self.durations, planned.prober)
        kind = CostingTester if planned.resistance is None else CostingRack
        self.tester = kind(self.prober, planned.capabilities, self.costs, self.durations, planned.array)

    def bench(self, record: Record, run: int) -> Bench:
        """The bench of a run."""
        return Bench(self.prober, self.tester, record, run, let_pass=self._pass)

    def _pass(self, seconds: float) -> None:
        """A step that waits costs station time, and nobody waits for it."""
        self.costs.station_time += seconds


class Quiet:
    """Shows nothing: a plan is over before there is something to see."""

    def die(self, name: str, index: int, count: int) -> None:
        """The run is at this die now."""

    def step(self, name: str, recorded: bool) -> None:
        """A step begins."""

    def progress(self, text: str, share: float) -> None:
        """How far it is."""


@dataclass(frozen=True)
class _Done:
    """A step that was done on the costing bench: result, costs, and what it left on the die (None: all as it was)."""

    die: str
    result: xr.Dataset
    costs: Costs
    stored: int
    left: Cells | None


@dataclass
class Tally:
    """What a plan counts beside the costs.

    Attributes
    ----------
    steps
        Steps by function.
    dies
        Names of the dies that have one.
    executed
        Steps that were done on the costing bench, and not taken over from an equal one.
    stand_ins
        Computations that were not done.
    stored
        Bytes of results and inputs in the record.
    dose_limit
        The smallest that was met.
    warnings, refusals
        Each once; warnings with how often they came.
    """

    steps: Counter[str] = field(default_factory=Counter)
    dies: set[str] = field(default_factory=set)
    executed: int = 0
    stand_ins: Counter[str] = field(default_factory=Counter)
    stored: int = 0
    dose_limit: int = DOSE_LIMIT
    warnings: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)


class PlanRun(Run):
    """A run on a costing station.

    A step that an equal die has had with equal inputs is not done again: it has the same result at the same costs.
    """

    def __init__(self, record: Record, name: str, settings: RunSettings, station: CostingStation) -> None:
        super().__init__(record, name, settings, functools.partial(station.bench, record), Quiet(), StopRequest(), {})
        self.tally = Tally()
        self.station = station
        self._done: dict[str, _Done] = {}
        self._names = {str(site) for site in station.planned.sites}

    def step(self, function: Callable[..., xr.Dataset], die: Die, **inputs: Any) -> xr.Dataset:
        """As `Run.step`; what the station would refuse is noted before it is raised."""
        self.tally.steps[function.__name__] += 1
        self.tally.dies.add(die.name)
        try:
            result = super().step(self._costed(function), die, **inputs)
        except Exception as error:
            if for_the_user(error) and not isinstance(error, RunStopped):
                self.refuse(function.__name__, die.name, error)
            raise
        if result.attrs.get("verdict") == "fail":
            self._warn(f"{function.__name__} fails even on a typical die; see its limits and pulses")
        if result.attrs.get("gave_up"):
            reasons = result.attrs.get("reasons", "")
            self._warn(
                f"{function.__name__} gives up {result.attrs['gave_up']} cells even on a typical die {reasons}".rstrip()
            )
        return result

    def compute(self, function: Callable[..., xr.Dataset], **inputs: Any) -> xr.Dataset:
        """As `Run.compute`, with the typical result where there is one; the needles are lifted for it all the same."""
        typical = typical_of(function)
        if typical is None:
            return super().compute(function, **inputs)
        self.tally.stand_ins[function.__name__] += 1
        self.rest()
        given = inspect.signature(function).bind(None, **inputs)
        given.apply_defaults()
        result = typical(**dict(list(given.arguments.items())[1:]))
        self.tally.stored += _stored(result) + len(json.dumps(describe(inputs)))
        return result

    def refuse(self, step: str, die: str, error: Exception) -> None:
        """Note why the run could not work; the same fault on more dies is noted once."""
        message, advice = str(error), ""
        if die and isinstance(error, LimitError):  # from an instrument; a protocol's own says what to do
            advice = "; choose a smaller value in the protocol or its parameters, or a station that allows it"
        self.tally.refusals.setdefault(message, Refusal(step, die, message + advice))

    def _warn(self, text: str) -> None:
        self.tally.warnings[text] = self.tally.warnings.get(text, 0) + 1

    def _costed(self, function: Callable[..., xr.Dataset]) -> Callable[..., xr.Dataset]:
        """The step function with its inputs checked first, done only if no equal die has had it."""

        @functools.wraps(function)
        def costed(bench: Bench, die: Die, **inputs: Any) -> xr.Dataset:
            cells = self.station.tester.cells(die.site)
            self._check(inputs, cells)
            description = json.dumps(describe(inputs), sort_keys=True)
            key = self._key(function, description, cells)
            if key in self._done:
                result = self._again(self._done[key], die, cells)
            else:
                self._done[key] = self._do(lambda: function(bench, die, **inputs), die, cells, len(description))
                result = self._done[key].result
            check_life(cells)
            return result

        return costed

    def _key(self, function: Callable[..., xr.Dataset], description: str, cells: Cells) -> str:
        """Equal for steps that cannot differ: function, content of the inputs, and what the die has been through."""
        for name in self._names:
            description = description.replace(f'"{name}"', '"(die)"')
        digest = hashlib.sha256(f"{function.__module__}.{function.__qualname__} {description}".encode())
        for array in (cells.state, cells.dose):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _do(self, step: Callable[[], xr.Dataset], die: Die, cells: Cells, described: int) -> _Done:
        """Do a step on the costing bench; `described` are the bytes of its inputs in the record."""
        before, was = self.station.costs.copy(), cells.copy()
        result = step()
        stored = described + (_stored(result) if isinstance(result, xr.Dataset) else 0)
        self.tally.stored += stored
        self.tally.executed += 1
        pulsed = not np.array_equal(cells.dose, was.dose)
        left = Cells(cells.state.copy(), cells.dose - was.dose, cells.energy - was.energy) if pulsed else None
        return _Done(die.name, result, self.station.costs.since(before), stored, left)

    def _again(self, done: _Done, die: Die, cells: Cells) -> xr.Dataset:
        """Count a step once more; its result with the name of this die in it."""
        self.station.costs.add(done.costs)
        self.tally.stored += done.stored
        if done.left is not None:
            cells.state[:] = done.left.state
            cells.dose += done.left.dose
            cells.energy += done.left.energy
        attrs = {key: die.name if value == done.die else value for key, value in done.result.attrs.items()}
        return done.result.copy().assign_attrs(attrs)

    def _check(self, inputs: dict[str, Any], cells: Cells) -> None:
        """Refuse pulses and schedules that would get stuck half-way, though their first pulse may be allowed."""
        caps = self.station.planned.capabilities
        for pulse in (value for value in inputs.values() if isinstance(value, PulseSettings)):
            check_pulse_settings(caps, pulse)
            self.tally.dose_limit = min(self.tally.dose_limit, pulse.dose_limit)
        records = [value for value in inputs.values() if isinstance(value, DieRecord)]
        for analog in (value for value in inputs.values() if isinstance(value, AnalogSchedule)):
            self.tally.dose_limit = min(self.tally.dose_limit, analog.dose_limit)
            check_analog_schedule(caps, analog, cells)
        for schedule in (value for value in inputs.values() if isinstance(value, WriteSchedule)):
            check_schedule(caps, schedule)
            self.tally.dose_limit = min(self.tally.dose_limit, schedule.pulse.dose_limit)
            check_dose(schedule, cells, records[0] if records else None)


def _stored(result: xr.Dataset) -> int:
    """Bytes of the arrays of a result in the record."""
    arrays = (np.ascontiguousarray(variable.values) for variable in result.variables.values())
    return sum(len(zlib.compress(array.tobytes(), 1)) for array in arrays)
