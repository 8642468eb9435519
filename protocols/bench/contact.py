"""What counts as contact, by the kind of die, and how else than by conducting cells it is found.

A formed die conducts, a die that was never formed does not: pressing it deeper changes nothing but the pads. So its
contact shows by something else: the leakage of its cells, above what the tester measures with the needles in the air; a
test structure that conducts in every state; or nothing, and then the user's word stands in the record.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from instruments.roles.interfaces import ArrayCapabilities
from mapping.dies.array_cells import cells_of

FloatArray = NDArray[np.float64]

if TYPE_CHECKING:
    from protocols.bench.ledgered_tester import LedgeredTester

#: A contacted die has at least this share of conducting cells in the kernels that are looked at (assumed; a die
#: with that many open cells is no use either).
CONDUCTING_SHARE = 0.5
#: A cell with a gate conducts above this (S): magnetic junctions are well above it, even AP (about 77 uS), and the
#: offset of a board without contact is well below.
CONDUCTING_GATED = 20e-6
#: A cell of a passive array conducts above this (S): the lowest that the authors of arXiv:2305.18495 draw for cells
#: stuck at high resistance is 10 uS, what RESET goes to is above 45 uS; before forming it is below 1 uS.
CONDUCTING_PASSIVE = 10e-6
#: Leakage must stand out of the air by so many standard errors of its median over the cells.
SIGMAS = 6.0
#: Readings averaged, and cells looked at, for leakage: as many as a rack measures in half a minute.
_AVERAGES, _CELLS, _CELLS_MIN = 16, 64, 4

WAYS = ("conduction", "leakage", "trusted", "cells")


class ContactError(ValueError):
    """There is no such way to find contact."""


@dataclass(frozen=True)
class ContactRule:
    """How contact is found: ``conduction``, ``leakage``, ``trusted`` (the user's word), or conducting ``cells``."""

    way: str = "conduction"
    cells: tuple[tuple[int, int], ...] = ()
    """Row and column of cells of the first kernel that conduct in every state."""

    @classmethod
    def parse(cls, text: str, rows: int, columns: int) -> ContactRule:
        """The rule that a protocol was given: a way by its name, or ``cells 0,0 7,7``.

        Raises
        ------
        ContactError, CellNameError
            Naming what there is.
        """
        way, _, where = text.strip().partition(" ")
        if way not in WAYS or bool(where.strip()) != (way == "cells"):
            raise ContactError(
                f"contact {text!r}: give conduction, leakage, trusted, or the cells of a test structure that conducts "
                "in every state: cells 0,0 7,7 (row,column)"
            )
        return cls(way, tuple(cells_of(where, rows, columns)) if where else ())


#: What a die is taken to be: formed.
CONDUCTION = ContactRule()


@dataclass(frozen=True)
class ContactCheck:
    """Share of conducting cells that were looked at, how often contact was made for it, and what else showed it.

    Attributes
    ----------
    leakage
        Median conductance (S) above that in the air, where that was looked at; NaN else.
    leaks
        Whether it stands out: the needles touch, though no cell conducts.
    accepted
        What counts as contact beside conducting cells, in words; "" if nothing does.
    """

    conducting: float
    attempts: int
    leakage: float = math.nan
    leaks: bool = False
    accepted: str = ""

    @property
    def passed(self) -> bool:
        """Whether the die counts as contacted."""
        return self.conducting >= CONDUCTING_SHARE or bool(self.accepted)

    @property
    def never_formed(self) -> bool:
        """Whether the needles touch and no cell conducts."""
        return self.leaks and self.conducting < CONDUCTING_SHARE

    @property
    def advice(self) -> str:
        """What to say of a die that does not count as contacted."""
        found = f"only {self.conducting:.0%} of the cells looked at conduct after {self.attempts} contacts"
        if self.leaks:
            return (
                f"{found}, though the needles touch: the cells leak, {self.leakage:.3g} S each. The die was never "
                "formed, or is dead; xbar run forming forms it"
            )
        if math.isfinite(self.leakage):
            return (
                f"{found}, and they leak no more than the air does. Clean or replace the needles; where a die that was "
                "never formed leaks too little to be seen, name a test structure (contact: cells 0,0), or say trusted"
            )
        return f"{found}. Clean or replace the needles, check overtravel; skip the die with a check_contact step"


def conducts_above(caps: ArrayCapabilities) -> float:
    """Conductance (S) above which a cell of this kind of die conducts."""
    return CONDUCTING_PASSIVE if caps.schemes else CONDUCTING_GATED


def conducting_share(array: LedgeredTester, voltage: float, rule: ContactRule) -> float:
    """Share of the cells that conduct at `voltage` (V): of the first and the last kernel, or of those of the rule."""
    caps = array.capabilities()
    if rule.cells:
        rows, columns = np.array(rule.cells).T
        mask = np.zeros((caps.rows, caps.columns), bool)
        mask[rows, columns] = True
        currents = array.read(0, voltage, mask=mask)[mask]
    else:
        kernels = np.unique(np.linspace(0, caps.kernels - 1, 2).astype(int))
        currents = np.stack([array.read(int(k), voltage) for k in kernels])
    return float(np.mean(np.abs(currents) > conducts_above(caps) * abs(voltage)))


def small_conductance(array: LedgeredTester) -> FloatArray:
    """Conductance (S) of some cells ``[cell]``, as well as the tester resolves it.

    In the smallest range, and from readings of both signs: offsets of the channels, far larger, drop out.
    """
    caps = array.capabilities()
    smallest = min(caps.ranges, key=lambda each: each.full_scale).index
    mask = np.zeros((caps.rows, caps.columns), bool)
    mask.flat[np.unique(np.linspace(0, mask.size - 1, _CELLS).astype(int))] = True
    volts, averages = caps.v_read_max, min(_AVERAGES, caps.averages_max)
    up, down = (
        array.read(0, sign * volts, mask=mask, current_range=smallest, averages=averages)[mask] for sign in (1, -1)
    )
    return np.asarray((up - down) / (2 * volts))


def leakage(touched: FloatArray, air: FloatArray) -> tuple[float, bool]:
    """Median conductance (S) of cells above that with the needles in the air, and whether it stands out.

    The median and the spread about it, so that a few cells that are formed or short hide nothing.
    """
    more = np.nan_to_num(touched, posinf=np.finfo(float).max / 2, neginf=0.0) - np.nan_to_num(air)
    middle = float(np.median(more))
    error = 1.86 * float(np.median(np.abs(more - middle))) / math.sqrt(more.size)  # of the median, if it is Gaussian
    return middle, bool(more.size >= _CELLS_MIN and middle > SIGMAS * error and middle > 0)
