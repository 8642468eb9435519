"""The order in which needles, lines and field are made safe: the one place where it is written down.

A needle that lifts off under a live line can destroy a die, and so can a relay that opens under one; current cut off in
a coil can destroy its supply. So, always: lines to ground, wait until they are discharged, needles off (read back), and
then the field down.

* `leave` is the way out of a die that is in order; it stops at the first thing that is not.
* `abort` does the same whatever fails; nothing is skipped, and it says what went wrong.

`instruments.roles.off_recipe` keeps the same order for a program that is gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from instruments.roles.interfaces import FieldSource, IdleMode, InstrumentError, Prober, ZState
from instruments.roles.off_recipe import DISCHARGE

_log = logging.getLogger(__name__)


class Rests(Protocol):
    """Something that drives lines and can be brought to rest."""

    def idle(self, mode: IdleMode = "hard_ground") -> None:
        """Bring it to rest."""

    def safe(self) -> None:
        """Stop it."""


@dataclass(frozen=True)
class Parts:
    """What has to be made safe, in its order: all that drives lines, the prober, a magnet if there is one, the rest."""

    sources: Sequence[Rests]
    prober: Prober
    field: FieldSource | None = None
    others: Sequence[Rests] = ()


def leave(parts: Parts) -> None:
    """Ground all lines, lift the needles, take the field down.

    Raises
    ------
    InstrumentError
        Something did not do it; what comes after it has not been tried (`abort` is next).
    """
    for source in parts.sources:
        source.idle("hard_ground")
    time.sleep(DISCHARGE)
    separate(parts.prober)
    if parts.field is not None:
        parts.field.ramp_down()
    for other in parts.others:
        other.idle("hard_ground")


def separate(prober: Prober) -> None:
    """Lower the chuck and read back that the needles are off."""
    prober.separate()
    state = prober.z_state()
    if state is not ZState.SEPARATED:
        raise InstrumentError(f"the prober was told to separate and reports {state.value}; check the chuck by hand")


def abort(parts: Parts) -> list[str]:
    """Make everything safe, each thing tried whatever became of the others; returns what went wrong."""
    actions: list[tuple[str, Callable[[], object]]] = [
        *(("make a source safe", source.safe) for source in parts.sources),
        ("discharge", lambda: time.sleep(DISCHARGE)),
        ("separate", lambda: separate(parts.prober)),
    ]
    if parts.field is not None:
        actions.append(("ramp the field down", parts.field.ramp_down))
    actions += [("make another instrument safe", other.safe) for other in parts.others]
    return [fault for what, action in actions if (fault := attempt(what, action))]


def attempt(what: str, action: Callable[[], object]) -> str:
    """Do something; what went wrong, or nothing."""
    try:
        action()
    except Exception as error:
        _log.error("%s failed: %s; going on", what, error)
        _log.debug("how that came about", exc_info=True)
        return f"{what} failed: {error}"
    return ""
