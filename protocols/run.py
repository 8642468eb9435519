"""The sequencer: a protocol is a plain function, what it does to hardware it does in steps, and steps are kept.

`run.step(function, die, **inputs)` commits the result before it returns it, as read back from the record. When the
same run is started again, steps whose function, source and inputs agree with the recorded history of that die come
from the record and touch no hardware; from the first difference on, everything later on that die is done anew.
"""

from __future__ import annotations

import hashlib
import inspect
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import xarray as xr

from analysis.digest import describe, digest
from analysis.record import COMPUTED, Record, Step
from instruments.roles import DieSite
from protocols.bench import Bench, Die, NoContactError
from protocols.stopping import StopRequest

F = TypeVar("F", bound=Callable[..., Any])

#: Name under which steps of the whole lot stand in the record.
LOT = ""


def protocol(function: F) -> F:
    """Mark a function ``(run, *, parameters...)`` as a protocol that `xbar run` can start."""
    function.__is_protocol__ = True  # type: ignore[attr-defined]
    return function


def needs_no_contact(function: F) -> F:
    """Mark a step that may run on a die that does not conduct, because it is the one that finds out."""
    function.__needs_no_contact__ = True  # type: ignore[attr-defined]
    return function


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


@dataclass(frozen=True)
class RunSettings:
    """What is the same for every protocol: seed, and how many dies of the route (None: all)."""

    seed: int = 0
    dies: int | None = None


class Run:
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
    ) -> None:
        self.record, self.settings, self.protocol_name = record, settings, protocol_name
        self.id = record.begin_run(protocol_name, provenance)
        self.executed_s: dict[str, float] = {}
        self._open_bench, self._watch, self._stop = open_bench, watch, stop
        self._bench: Bench | None = None
        self._histories: dict[str, list[Step]] = {}
        self._positions: dict[str, int] = {}
        self._dies: list[Die] | None = None
        self._survey: xr.Dataset | None = None

    # what a protocol uses

    def survey(self) -> xr.Dataset:
        """The lot as the station shows it: dies of the route, capabilities, identities (a step of the lot)."""
        if self._survey is None:
            self._survey = self._step(_survey, None, {})
        return self._survey

    def dies(self) -> Iterator[Die]:
        """The dies of this run in route order."""
        if self._dies is None:
            sites = self.survey()["sites"].values[: self.settings.dies]
            places = [DieSite(int(column), int(row)) for column, row in sites]
            self._dies = [Die(str(site), site, index) for index, site in enumerate(places)]
        for die in self._dies:
            self._watch.die(die.name, die.index, len(self._dies))
            yield die

    def step(self, function: Callable[..., xr.Dataset], die: Die, **inputs: Any) -> xr.Dataset:
        """Do `function(bench, die, **inputs)` once and for all; returns its result as the record holds it.

        Raises
        ------
        RunStopped
            If a stop was asked for; nothing was begun.
        NoContactError
            If the die does not conduct and the function needs it to.
        """
        return self._step(function, die, inputs)

    def compute(self, function: Callable[..., xr.Dataset], **inputs: Any) -> xr.Dataset:
        """Do `function(report, **inputs)` unless it was done with the same content before; no hardware.

        `report(text, share)` shows progress. Found by content, wherever in the script it stands.
        """
        inputs = _with_defaults(function, inputs)
        name, source = _identity(function, inspect.getmodule(function) or function)
        key = digest(inputs)
        found = self.record.find(self.protocol_name, name, source, key)
        self._watch.step(function.__name__, found is not None)
        if found is None:
            self._stop.check()
            self.rest()
            found = self._execute(lambda: function(self._watch.progress, **inputs), COMPUTED, name, source, key, inputs)
        self.record.event(self.id, "computed", name, COMPUTED, step=found.id)  # which of several holds in this run
        return self.record.load(found)

    def now(self) -> float:
        """Seconds since the epoch when the run first asked; the same on every resume."""
        return float(self.compute(_now).attrs["time"])

    def rng(self, name: str) -> np.random.Generator:
        """A random generator of the run's seed and `name`; the same on every resume."""
        return np.random.default_rng([self.settings.seed, zlib.crc32(name.encode())])

    def rest(self) -> None:
        """Lift the needles while nothing is measured (long computations, end of a pass)."""
        if self._bench is not None:
            self._bench.leave()

    def close(self, *, failed: bool) -> None:
        """Leave the die (or abort, when `failed`)."""
        if self._bench is None:
            return
        if failed:
            self._bench.abort()
        else:
            self._bench.leave()

    # how it is done

    def _step(self, function: Callable[..., xr.Dataset], die: Die | None, inputs: dict[str, Any]) -> xr.Dataset:
        place = die.name if die else LOT
        inputs = _with_defaults(function, inputs)
        name, source = _identity(function, function)
        key = digest(inputs)
        recorded = self._recorded(place, name, source, key)
        self._watch.step(function.__name__, recorded is not None)
        if recorded is None:
            self._stop.check()
            bench = self._bench_at(die, function)
            recorded = self._execute(lambda: function(bench, die, **inputs), place, name, source, key, inputs)
            self._histories[place].append(recorded)
        self._positions[place] += 1
        return self.record.load(recorded)

    def _recorded(self, place: str, name: str, source: str, key: str) -> Step | None:
        """The next step of this die's history if it is the one asked for; else what follows it no longer holds."""
        history = self._histories.setdefault(place, self.record.history(self.protocol_name, place))
        position = self._positions.setdefault(place, 0)
        if position >= len(history):
            return None
        step = history[position]
        if (step.function, step.source, step.inputs_digest) == (name, source, key):
            return step
        self.record.event(self.id, "superseded", f"{name} differs; {len(history) - position} steps anew", place)
        self.record.supersede(history[position:], self.id)
        del history[position:]
        return None

    def _bench_at(self, die: Die | None, function: Callable[..., Any]) -> Bench:
        if self._bench is None:
            self._bench = self._open_bench(self.id)
        if die is not None:
            self._bench.enter(die)
            check = self._bench.contact_check
            if not check.passed and not hasattr(function, "__needs_no_contact__"):
                raise NoContactError(
                    f"{die.name}: only {check.conducting:.0%} of the cells looked at conduct after {check.attempts} "
                    "contacts. Clean or replace the needles, check overtravel; skip the die with a check_contact step"
                )
        return self._bench

    def _execute(
        self, do: Callable[[], xr.Dataset], place: str, name: str, source: str, key: str, inputs: dict[str, Any]
    ) -> Step:
        started = time.time()
        result = do()
        if not isinstance(result, xr.Dataset):
            raise TypeError(f"{name} returned {type(result).__name__}; a step returns an xarray.Dataset")
        step = self.record.append_step(
            self.id, self.protocol_name, place, name, source, key, describe(inputs), started, result
        )
        self.executed_s[name] = self.executed_s.get(name, 0.0) + step.ended - step.started
        return step


def _identity(function: Callable[..., Any], source_of: Any) -> tuple[str, str]:
    """Name of a step function and digest of its source."""
    name = f"{function.__module__}.{function.__qualname__}"
    return name, hashlib.sha256(inspect.getsource(source_of).encode()).hexdigest()


def _with_defaults(function: Callable[..., Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """All keyword inputs of a step, defaults filled in, so that an edited default counts as a changed input."""
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return defaults | inputs


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
    }
    return xr.Dataset({"sites": (("die", "axis"), np.asarray(sites, np.int64))}, attrs=attrs)


def _now(report: Callable[[str, float], None]) -> xr.Dataset:
    return xr.Dataset(attrs={"time": time.time()})
