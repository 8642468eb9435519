"""What makes an instrument safe when the program that drove it no longer can, as data: messages in order.

Drivers register a recipe with their session before anything can be switched on. Whoever holds the connections runs
the recipes, stage by stage: first what drives lines, then what connects them, then the needles, then a magnet's field
(which takes its time). Instruments of one stage are made safe at the same time, each within its own time limit.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

DISCHARGE = 2e-3
"""Seconds between grounding the lines and lifting the needles (assumed: many times R C of probe, cable and line)."""

_AGAIN = 0.3
"""Seconds before an instrument that cannot be reached is tried again."""

_ANOTHER = 1.0
"""Seconds in which the right answer must follow a wrong one."""

_FIRST_PATIENCE = 0.25  # s; for an instrument whose answers are numbered, doubled for each that does not come
_MARGIN = 0.5  # s; beyond the limit of a stage


class Stage(IntEnum):
    """When an instrument's turn comes: a needle must not lift off, nor a relay open, under a live line."""

    SOURCE = 0
    MATRIX = 1
    PROBER = 2
    FIELD = 3


@dataclass(frozen=True)
class OffStep:
    """One message, and what must answer it.

    Attributes
    ----------
    send
        The message, terminator included. Sending it twice must do no harm.
    reply
        Regular expression that the whole answer must match; None where none is given.
    pause
        Seconds to wait after it.
    """

    send: bytes
    reply: bytes | None = None
    pause: float = 0.0


@dataclass(frozen=True)
class OffRecipe:
    """How one instrument is made safe.

    Attributes
    ----------
    stage
        When.
    steps
        What is sent, in order; every step is sent, whatever became of the one before.
    terminator
        Ends every answer.
    opening
        What a fresh connection needs first.
    limit
        Seconds allowed for all of it; half of that for the connection there is, before a new one is tried.
    numbered
        Whether an answer names what it answers, so that a late one to something else never matches.
    """

    stage: Stage
    steps: tuple[OffStep, ...]
    terminator: bytes
    opening: tuple[OffStep, ...] = ()
    limit: float = 5.0
    numbered: bool = False

    def to_tree(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "stage": int(self.stage),
            "steps": [_step_tree(step) for step in self.steps],
            "terminator": self.terminator.hex(),
            "opening": [_step_tree(step) for step in self.opening],
            "limit": self.limit,
            "numbered": self.numbered,
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> OffRecipe:
        """Inverse of `to_tree`."""
        return cls(
            Stage(tree["stage"]),
            tuple(_step_of(step) for step in tree["steps"]),
            bytes.fromhex(tree["terminator"]),
            tuple(_step_of(step) for step in tree["opening"]),
            float(tree["limit"]),
            bool(tree["numbered"]),
        )


@dataclass(frozen=True)
class KeepAlive:
    """A message that tells an instrument's watchdog that its host lives, and the answer to it.

    `reply` is a regular expression; `period` (s) is how long the session may be silent before it is sent.
    """

    send: bytes
    reply: bytes
    terminator: bytes
    period: float

    def to_tree(self) -> dict[str, Any]:
        """As JSON values."""
        names = ("send", "reply", "terminator")
        return {**{name: getattr(self, name).hex() for name in names}, "period": self.period}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any] | None) -> KeepAlive | None:
        """Inverse of `to_tree`; None for None."""
        if tree is None:
            return None
        sent, reply, terminator = (bytes.fromhex(tree[name]) for name in ("send", "reply", "terminator"))
        return cls(sent, reply, terminator, float(tree["period"]))


class Reached(Protocol):
    """What making safe needs of a transport (`instruments.wire.transports`)."""

    def open(self) -> None:
        """Connect anew."""

    def send(self, data: bytes) -> None:
        """Send bytes."""

    def receive(self, terminator: bytes, timeout: float) -> bytes:
        """The next message."""


@dataclass
class Device:
    """An instrument as the one who makes it safe sees it.

    `outstanding`: answers that may still arrive for requests sent before. They are read and dropped first; but if
    fewer come, since one was lost, the last that matches counts.
    """

    name: str
    transport: Reached
    recipe: OffRecipe
    outstanding: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a recipe: `fault` is empty if every step was answered as it must be."""

    name: str
    fault: str
    seconds: float


def make_safe(devices: list[Device]) -> list[Outcome]:
    """Run the recipes of all devices, stage by stage; returns what became of each, in their order. Raises nothing."""
    outcomes: dict[int, Outcome] = {}
    for stage in Stage:
        due = [(at, device) for at, device in enumerate(devices) if device.recipe.stage is stage]
        if due:
            _run_at_once(due, outcomes)
        if due and stage is Stage.SOURCE:
            time.sleep(DISCHARGE)
    late = "did not end within its time limit"
    return [outcomes.get(at) or Outcome(each.name, late, each.recipe.limit) for at, each in enumerate(devices)]


def _run_at_once(due: list[tuple[int, Device]], outcomes: dict[int, Outcome]) -> None:
    """Run recipes side by side; one that does not end in time is left to itself."""

    def run(at: int, device: Device) -> None:
        outcomes[at] = _run(device)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in due]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread, (_, device) in zip(threads, due, strict=True):
        thread.join(max(0.0, began + device.recipe.limit + _MARGIN - time.monotonic()))


def _run(device: Device) -> Outcome:
    """One recipe: over the connection there is, and if that does not answer, over new ones until its time is over."""
    began = time.monotonic()
    half, end = began + device.recipe.limit / 2, began + device.recipe.limit
    fault = _attempt(device, device.recipe.steps, half, 0 if device.recipe.numbered else device.outstanding)
    again = _anew(device, end) if fault else ""
    while again and time.monotonic() < end - _AGAIN:  # what refuses a connection now may take it in a second
        time.sleep(_AGAIN)
        again = _anew(device, end)
    return Outcome(device.name, again and f"{fault}; {again}", time.monotonic() - began)


def _anew(device: Device, end: float) -> str:
    """The recipe over a new connection; returns the first thing that went wrong."""
    try:
        device.transport.open()
    except Exception as error:
        return f"cannot be opened again ({error})"
    _attempt(device, device.recipe.opening, (time.monotonic() + end) / 2, 0)
    if not device.recipe.numbered:
        return _attempt(device, device.recipe.steps, end, 0)
    patience = _FIRST_PATIENCE
    while True:  # what starts when its port is opened hears nothing at first; to open it once more would restart it
        deadline = min(end, time.monotonic() + patience)
        fault = _attempt(device, device.recipe.steps, deadline, 0)
        if not fault or time.monotonic() < deadline or deadline == end:  # done, broken, or out of time
            return fault
        patience *= 2


def _attempt(device: Device, steps: tuple[OffStep, ...], deadline: float, outstanding: int) -> str:
    """Send every step; returns the first thing that went wrong."""
    first = ""
    for step in steps:
        try:
            device.transport.send(step.send)
            if step.reply is not None:
                _await(device, step.reply, deadline, outstanding)
                outstanding = 0
        except Exception as error:
            first = first or str(error) or type(error).__name__
        time.sleep(step.pause)
    return first


def _await(device: Device, reply: bytes, deadline: float, outstanding: int) -> None:
    """Wait for the answer to what was just sent; raises what keeps it from coming."""
    matched, other = False, b""
    while True:
        try:
            message = device.transport.receive(device.recipe.terminator, max(0.01, deadline - time.monotonic()))
        except TimeoutError as error:
            if matched:  # what came was no late answer after all
                return
            if other:
                raise ValueError(f"answers {other[:80]!r}, which is not what makes it safe") from error
            raise
        matches = re.fullmatch(reply, message, re.DOTALL) is not None
        if matches and outstanding == 0:
            return
        if not matches and outstanding == 0:
            other, deadline = message, min(deadline, time.monotonic() + _ANOTHER)
        matched = matched or matches
        outstanding = max(0, outstanding - 1)


def _step_tree(step: OffStep) -> dict[str, Any]:
    return {"send": step.send.hex(), "reply": None if step.reply is None else step.reply.hex(), "pause": step.pause}


def _step_of(tree: Mapping[str, Any]) -> OffStep:
    reply = tree["reply"]
    return OffStep(bytes.fromhex(tree["send"]), None if reply is None else bytes.fromhex(reply), float(tree["pause"]))
