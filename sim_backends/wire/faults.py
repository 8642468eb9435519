"""Faults that a station shall show: which there are, and which requests they strike (docs/simulation.md)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sim_backends.array.files.quantity import Celsius, Integer, Second, Specification
from sim_backends.bench.physical_log import PhysicalLog
from sim_backends.wire.frames import Opcode


class Seam(Enum):
    """Where in the handling of a request a fault strikes."""

    WIRE = "on the way to or from the instrument"
    WORK = "while the instrument does what it concerns; only such requests count"
    LASTING = "from a request on"


@dataclass(frozen=True)
class Kind:
    """What a kind of fault is: instruments that can have it, and entries it needs or takes besides the common ones."""

    where: tuple[str, ...]
    seam: Seam
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


_COMMON = ("kind", "where", "nth", "every", "at", "matching")
_BOTH, _BOARD, _PROBER = ("prober", "board"), ("board",), ("prober",)
_LINES = ("prober", "board", "smu", "pulser", "matrix")
KINDS = {
    "lost_reply": Kind(_LINES, Seam.WIRE, takes=("for",)),
    "lost_request": Kind(_LINES, Seam.WIRE, takes=("for",)),
    "late_reply": Kind(_LINES, Seam.WIRE, needs=("seconds",), takes=("for",)),
    "garbled_reply": Kind(_LINES, Seam.WIRE, takes=("for",)),
    "duplicated_reply": Kind(_LINES, Seam.WIRE, takes=("for",)),
    "disconnect": Kind(_LINES, Seam.WIRE, takes=("before", "for")),
    "refuse_connections": Kind(_LINES, Seam.WIRE, needs=("for",), takes=("before",)),
    "busy": Kind(_BOTH, Seam.WIRE, takes=("for",)),
    "stuck_channel": Kind(_BOARD, Seam.LASTING, needs=("index",), takes=("code", "for")),
    "stuck_relay": Kind(_BOARD, Seam.LASTING, needs=("index",), takes=("for",)),
    "limits_ignored": Kind(_BOARD, Seam.WORK, takes=("for",)),
    "restart": Kind(_BOARD, Seam.WORK, takes=("before", "for")),
    "no_step": Kind(_PROBER, Seam.WORK, takes=("for",)),
    "double_step": Kind(_PROBER, Seam.WORK, takes=("for",)),
    "wrong_die": Kind(_PROBER, Seam.WORK, takes=("for",)),
    "no_separation": Kind(_PROBER, Seam.WORK, takes=("for",)),
    "loses_contact": Kind(_BOTH, Seam.WORK, takes=("for",)),
    "over_temperature": Kind(_PROBER, Seam.LASTING, needs=("celsius",), takes=("for",)),
    "door_open": Kind(_PROBER, Seam.LASTING, takes=("for",)),
}
_FOR_IN_SECONDS = {"refuse_connections", *(name for name, kind in KINDS.items() if kind.seam is Seam.LASTING)}

_One = Annotated[Integer, Field(ge=1)]
_Several = Annotated[tuple[_One, ...], BeforeValidator(lambda v: (v,) if isinstance(v, int) else v)]
_Texts = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]


class Fault(Specification):
    """One entry of ``faults`` in a station file.

    Attributes
    ----------
    kind
        One of `KINDS`.
    where
        The instrument; may be left out where a kind has only one.
    nth, every, at
        Which requests are struck, counted from 1 among those that match: the n-th, every n-th, or those of a list. The
        first if none is given.
    matching
        Only these requests count: names of opcodes (board), beginnings of command lines (all others). All if left
        out.
    for_
        ``for`` in a file: how many requests in a row are struck (default 1). In seconds for `refuse_connections` and
        for what lasts (default: as long as the station).
    seconds
        By how much a reply is late.
    before
        Hang up or restart before the request is carried out, not after.
    index, code
        Channel or column; ADC code that a stuck channel reads.
    celsius
        Temperature of the chuck.
    """

    kind: str
    where: Literal["prober", "board", "smu", "pulser", "matrix"]
    nth: _One | None = None
    every: _One | None = None
    at: _Several | None = None
    matching: _Texts | None = None
    for_: Annotated[Second, Field(gt=0)] | None = Field(default=None, alias="for")
    seconds: Annotated[Second, Field(gt=0)] | None = None
    before: bool | None = None
    index: Annotated[Integer, Field(ge=0)] | None = None
    code: Annotated[Integer, Field(ge=0, le=0xFFFF)] | None = None
    celsius: Celsius | None = None

    @model_validator(mode="before")
    @classmethod
    def _entries_of_the_kind(cls, entries: Any) -> Any:
        """Name what is allowed where a kind or an entry is not; an entry of None is one left out."""
        if not isinstance(entries, dict):
            raise ValueError("a fault is a mapping with a kind")
        given = {"for" if name == "for_" else name: value for name, value in entries.items() if value is not None}
        name = given.get("kind")
        if name not in KINDS:
            raise ValueError(f"unknown kind {name!r}; known: {', '.join(KINDS)}")
        kind = KINDS[name]
        allowed = (*_COMMON, *kind.needs, *kind.takes)
        if unknown := [key for key in given if key not in allowed]:
            raise ValueError(f"{name} does not take {', '.join(map(str, unknown))}; it takes {', '.join(allowed)}")
        if missing := [key for key in kind.needs if key not in given]:
            raise ValueError(f"{name} needs {', '.join(missing)}")
        times = given.get("for", 1)
        if name not in _FOR_IN_SECONDS and (isinstance(times, bool | str) or times < 1):
            raise ValueError(f"for: {times!r} is no number of requests, which {name} takes; write one, such as 3")
        if len(kind.where) == 1:
            given.setdefault("where", kind.where[0])
        if given.get("where") not in kind.where:
            raise ValueError(f"{name} needs where: {' or '.join(kind.where)}, not {given.get('where')!r}")
        return given

    @model_validator(mode="after")
    def _entries_agree(self) -> Fault:
        if sum(entry is not None for entry in (self.nth, self.every, self.at)) > 1:
            raise ValueError("give one of nth, every, at")
        unknown = [name for name in self.matching or () if name not in Opcode.__members__]
        if self.where == "board" and unknown:
            raise ValueError(f"matching {', '.join(unknown)}: the opcodes are {', '.join(Opcode.__members__)}")
        if self.for_ is not None and self.kind not in _FOR_IN_SECONDS and self.for_ != int(self.for_):
            raise ValueError(f"for: {self.for_} requests; {self.kind} strikes a whole number of them in a row")
        return self

    def matches(self, request: str) -> bool:
        """Whether a request (opcode or command line) counts."""
        if self.matching is None:
            return True
        if self.where == "board":
            return request in self.matching
        return request.lower().startswith(tuple(text.lower() for text in self.matching))

    def strikes(self, number: int) -> bool:
        """Whether the request of this number, from 1 among those that count, is struck."""
        row = 1 if self.for_ is None or self.kind in _FOR_IN_SECONDS else int(self.for_)
        if self.at is not None:
            return any(0 <= number - first < row for first in self.at)
        if self.every is not None:
            return number >= self.every and number % self.every < row
        return 0 <= number - (self.nth or 1) < row

    @property
    def lasts(self) -> float:
        """How long (s) a fault that has begun goes on."""
        return math.inf if self.for_ is None else self.for_


class FaultPlan:
    """Counts the requests of one instrument and tells which faults strike. Used from the instrument's thread only.

    Parameters
    ----------
    where
        The instrument.
    faults
        Of the whole station; those of other instruments are left aside.
    log
        Gets an entry ``fault`` for each one that strikes.
    """

    def __init__(self, where: str, faults: Iterable[Fault], log: PhysicalLog) -> None:
        self._faults = [fault for fault in faults if fault.where == where]
        self._log = log
        self._counted = [0] * len(self._faults)
        self._until = [-math.inf] * len(self._faults)
        self._request = ""

    def __bool__(self) -> bool:
        return bool(self._faults)

    def arrives(self, request: str) -> list[Fault]:
        """Count a request: begins what lasts, and returns what strikes the request on the wire."""
        self._request = request
        struck = []
        for place, fault in enumerate(self._faults):
            seam = KINDS[fault.kind].seam
            if seam is Seam.WORK or not self._strikes(place):
                continue
            if seam is Seam.LASTING:
                self._until[place] = time.monotonic() + fault.lasts
            else:
                struck.append(fault)
        return struck

    def fires(self, kind: str) -> bool:
        """Whether a fault strikes the work that the instrument is about to do for the present request; counts it."""
        return bool(self.striking(kind))

    def striking(self, kind: str) -> list[Fault]:
        """Faults of a kind that strike the work for the present request; counts it."""
        return [fault for place, fault in enumerate(self._faults) if fault.kind == kind and self._strikes(place)]

    def lasting(self, kind: str) -> list[Fault]:
        """Faults of a kind that have begun and not ended."""
        now = time.monotonic()
        begun = (fault for fault, until in zip(self._faults, self._until, strict=True) if now < until)
        return [fault for fault in begun if fault.kind == kind]

    def _strikes(self, place: int) -> bool:
        fault = self._faults[place]
        if not fault.matches(self._request):
            return False
        self._counted[place] += 1
        if not fault.strikes(self._counted[place]):
            return False
        self._log.add("fault", kind=fault.kind, where=fault.where, request=self._request, number=self._counted[place])
        return True
