"""What a protocol sees of its run, whether it is done, planned, replayed or rehearsed."""

from __future__ import annotations

import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import xarray as xr

from analysis.record import step_names
from analysis.record.record import Record
from protocols.bench.bench import Die
from protocols.bench.contact import CONDUCTION, ContactRule
from protocols.sequencer.selection import RunSettings
from protocols.source.marks import step


class RunInterface(ABC):
    """The run as its protocol uses it; `protocols.sequencer.run.Run` says what each method does."""

    record: Record
    settings: RunSettings
    protocol_name: str
    id: int
    contact: ContactRule = CONDUCTION
    """How contact is found at the dies of this run; a protocol for dies that do not conduct yet sets another rule."""

    @abstractmethod
    def survey(self) -> xr.Dataset:
        """The lot as the station shows it."""

    @abstractmethod
    def dies(self) -> Iterator[Die]:
        """The dies of this run in route order."""

    @abstractmethod
    def step(self, function: Callable[..., xr.Dataset], die: Die, **inputs: Any) -> xr.Dataset:
        """Do `function(bench, die, **inputs)` once and for all."""

    @abstractmethod
    def compute(self, function: Callable[..., xr.Dataset], **inputs: Any) -> xr.Dataset:
        """Do `function(report, **inputs)` unless it was done with the same content before."""

    @abstractmethod
    def attempt(self, die: Die) -> AbstractContextManager[None]:
        """Do what follows; if the die turns out faulty, leave it and go on after the block."""

    @abstractmethod
    def verdict(self, die: Die, verdict: str, *, bin: int | None = None, reason: str = "") -> None:
        """Give a die its verdict by hand."""

    @abstractmethod
    def rest(self) -> None:
        """Lift the needles while nothing is measured."""

    @abstractmethod
    def poll(self) -> None:
        """Look what other processes ask of the run, within a step."""

    def now(self) -> float:
        """Seconds since the epoch when the run first asked; the same on every resume."""
        return float(self.compute(_now).attrs["time"])

    def rng(self, name: str) -> np.random.Generator:
        """A random generator of the run's seed and `name`; the same on every resume."""
        return np.random.default_rng([self.settings.seed, zlib.crc32(name.encode())])


@step(step_names.NOW)
def _now(report: Callable[[str, float], None]) -> xr.Dataset:
    return xr.Dataset(attrs={"time": time.time()})
