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
from typing import Any

from instruments.transports import Transport


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
        Seconds allowed for all of it.
    """

    stage: Stage
    steps: tuple[OffStep, ...]
    terminator: bytes
    opening: tuple[OffStep, ...] = ()
    limit: float = 5.0

    def to_tree(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "stage": int(self.stage),
            "steps": [_step_tree(step) for step in self.steps],
            "terminator": self.terminator.hex(),
            "opening": [_step_tree(step) for step in self.opening],
            "limit": self.limit,
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


@dataclass
class Device:
    """An instrument as the one who makes it safe sees it.

    `outstanding`: answers that may still arrive for requests sent before; they are read and dropped first.
    """

    name: str
    transport: Transport
    recipe: OffRecipe
    outstanding: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a recipe: `fault` is empty if every step was answered as it must be."""

    name: str
    fault: str
    seconds: float


def make_safe(devices: list[Device]) -> list[Outcome]:
    """Run the recipes of all devices, stage by stage; returns what became of each. Raises nothing."""
    outcomes: list[Outcome] = []
    for stage in Stage:
        due = [device for device in devices if device.recipe.stage is stage]
        threads = [threading.Thread(target=lambda d=device: outcomes.append(_run(d)), daemon=True) for device in due]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + max((device.recipe.limit for device in due), default=0.0) + 0.5
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    done = {outcome.name for outcome in outcomes}
    late = [Outcome(d.name, "did not end within its time limit", d.recipe.limit) for d in devices if d.name not in done]
    return [*outcomes, *late]


def _run(device: Device) -> Outcome:
    """One recipe: over the connection there is, and if that does not answer, over a new one."""
    began = time.monotonic()
    deadline = began + device.recipe.limit
    fault = _attempt(device, began + device.recipe.limit / 2, device.outstanding)
    if fault:
        try:
            device.transport.open()
        except Exception as error:
            again = f"cannot be opened again ({error})"
        else:
            for step in device.recipe.opening:
                _try_step(device, step, deadline, 0)
            again = _attempt(device, deadline, 0)
        fault = again and f"{fault}; {again}"
    return Outcome(device.name, fault, time.monotonic() - began)


def _attempt(device: Device, deadline: float, outstanding: int) -> str:
    """Send every step; returns the first thing that went wrong."""
    first = ""
    for step in device.recipe.steps:
        fault = _try_step(device, step, deadline, outstanding)
        outstanding = 0
        first = first or fault
        time.sleep(step.pause)
    return first


def _try_step(device: Device, step: OffStep, deadline: float, outstanding: int) -> str:
    try:
        device.transport.send(step.send)
        if step.reply is None:
            return ""
        while True:
            message = device.transport.receive(device.recipe.terminator, max(0.01, deadline - time.monotonic()))
            if outstanding > 0:
                outstanding -= 1
            elif re.fullmatch(step.reply, message, re.DOTALL):
                return ""
    except Exception as error:
        return str(error) or type(error).__name__


def _step_tree(step: OffStep) -> dict[str, Any]:
    return {"send": step.send.hex(), "reply": step.reply and step.reply.hex(), "pause": step.pause}


def _step_of(tree: Mapping[str, Any]) -> OffStep:
    reply = tree["reply"]
    return OffStep(bytes.fromhex(tree["send"]), None if reply is None else bytes.fromhex(reply), float(tree["pause"]))
