"""A die of the lot, and what can be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

from instruments.roles.interfaces import DieSite, InstrumentError


class DieFault(InstrumentError):
    """Something is wrong with this die or with the needles on it; other dies may be in order."""


class NoContactError(DieFault):
    """The needles are up by the prober's word, but the die does not conduct."""


class DoseError(DieFault):
    """A cell would get more pulses over its life than it may."""


class WrongDieError(InstrumentError):
    """The die under the needles is not the one that was measured before at this place."""


@dataclass(frozen=True)
class Die:
    """A die of the lot: its name in the record and its place on the wafer."""

    name: str
    site: DieSite
    index: int
