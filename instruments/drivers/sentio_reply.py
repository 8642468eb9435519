"""Replies of the SENTIO remote protocol, and what an operator can do about its error codes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from instruments.roles.interfaces import InterlockError, ProberError

OK = 0
NO_HANDLER = 3
UNKNOWN_COMMAND = 4
END_OF_ROUTE = 11
NOT_ALLOWED = 12
NOT_SUPPORTED = 13

_LAST_DIE = 1

_DOORS = (60, 61, 66, 67, 69)
_DOOR = "A door or cover is open or unlocked: close it, then go on."
_ADVICE = {
    1: "Internal error of the prober: see its own screen.",
    2: "The prober could not carry it out: see its own screen (an open door that limits the speed also gives this).",
    12: "Not allowed now: see on the prober's screen what it is busy with, and that remote control is enabled.",
    13: "This prober does not support it.",
    15: "Open a project on the prober first.",
    18: "Set the home position on the prober first.",
    19: "The prober's own time ran out: see on its screen whether it is blocked.",
    23: "The contact height is not set: teach it on the prober (chuck, set contact), then start again.",
    38: "The chuck is not at separation, so the prober refuses to step: separate first.",
    **dict.fromkeys(_DOORS, _DOOR),
    62: "The door lock failed: close the doors and see that the lock is enabled.",
    63: "Vacuum fault: see that the wafer lies flat and the vacuum is on.",
    68: "Vacuum or door lock fault: see the prober's screen.",
    120: "The overtravel would leave the axis: reduce the overtravel or teach the contact height again.",
}


class DoorOpenError(ProberError, InterlockError):
    """The prober does not move because a door or cover is open."""


@dataclass(frozen=True)
class Reply:
    """One reply ``N,cmdId,text``: the error is in the low ten bits of N, status flags lie above.

    Attributes
    ----------
    error
        0, or the maker's number.
    flags
        1: this is the last die of the route; 2: the last subsite.
    command_id
        Of an asynchronous command; not 0 only for those.
    text
        The answer itself.
    """

    error: int
    flags: int
    command_id: int
    text: str

    @property
    def last_die(self) -> bool:
        """Whether the prober stands on the last die of its route."""
        return bool(self.flags & _LAST_DIE)


def parse(line: str) -> Reply:
    """Reply from a line.

    Raises
    ------
    ValueError
        The line is no reply.
    """
    found = re.fullmatch(r"\s*(\d{1,10})\s*,\s*(\d{1,10})\s*,(.*)", line, re.DOTALL | re.ASCII)
    if found is None:
        raise ValueError(f"{line!r} is no reply of the form number,id,text")
    number = int(found[1])
    return Reply(number & 1023, number >> 10, int(found[2]), found[3].strip())


def refusal(command: str, reply: Reply) -> ProberError:
    """The error to raise for a reply that refuses a command."""
    advice = _ADVICE.get(reply.error, "Look the code up in the maker's remote command manual.")
    kind = DoorOpenError if reply.error in _DOORS else ProberError
    return kind(f"the prober refused {command!r}: {reply.text!r} (code {reply.error}). {advice}", reply.error)
