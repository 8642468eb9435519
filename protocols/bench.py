"""The bench: prober and array tester together, and the one place where a die is entered, left and aborted.

Order, always (a needle on a live line can destroy a die):

* leave: lines to hard ground, separate, read back that the needles are off;
* move: separated, step, the index read back must be the one planned;
* enter: contact, read back, lines to hard ground, electrical contact check with bounded retries, fingerprint;
* abort: as leave, every action in its own try, order kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.record import Pulse, Record
from instruments.roles import ArrayTester, DieSite, InstrumentError, Prober, ZState
from protocols import fingerprint

log = logging.getLogger(__name__)

#: A contacted die has at least this share of conducting cells in the kernels that are looked at (assumed; a die
#: with that many open cells is no use either).
CONDUCTING_SHARE = 0.5
#: A cell conducts above this (S): well below AP (about 77 uS) and above the offset of a board without contact.
CONDUCTING = 20e-6


class NoContactError(InstrumentError):
    """The needles are up by the prober's word, but the die does not conduct."""


class WrongDieError(InstrumentError):
    """The die under the needles is not the one that was measured before at this place."""


@dataclass(frozen=True)
class Die:
    """A die of the lot: its name in the record and its place on the wafer."""

    name: str
    site: DieSite
    index: int


@dataclass(frozen=True)
class ContactCheck:
    """Share of conducting cells in the kernels looked at, and how often contact was made for it."""

    conducting: float
    attempts: int

    @property
    def passed(self) -> bool:
        """Whether enough cells conduct."""
        return self.conducting >= CONDUCTING_SHARE


class LedgeredTester:
    """An `ArrayTester` whose pulses are committed to the record before they are fired.

    Everything else is the tester's own; a protocol never holds the tester itself.
    """

    def __init__(self, tester: ArrayTester, record: Record, run: int) -> None:
        self._tester, self._record, self._run = tester, record, run
        self.die = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tester, name)

    def fire(self, pulses: Sequence[Pulse]) -> None:
        """Commit a batch of pulses, fire them in order, note that all were answered."""
        pulses = [pulse for pulse in pulses if pulse.mask.any()]
        if not pulses:
            return
        batch = self._record.intend(self._run, self.die, pulses)
        for pulse in pulses:
            self._tester.pulse(pulse.kernel, pulse.mask, pulse.amplitude, pulse.width, count=pulse.count)
        self._record.fired(batch)

    def dose(self) -> np.ndarray:
        """Pulses that every cell of the die has had in this lot, ``[kernel, row, column]``, as an upper bound."""
        capabilities = self._tester.capabilities()
        return self._record.dose(self.die, (capabilities.kernels, capabilities.rows, capabilities.columns))

    def pulse(self, kernel: int, mask: np.ndarray, amplitude: float, width: float, *, count: int = 1) -> None:
        """As `ArrayTester.pulse`, committed first."""
        self.fire([Pulse(kernel, mask, amplitude, width, count)])

    def pulse_and_read(
        self,
        kernel: int,
        mask: np.ndarray,
        amplitude: float,
        width: float,
        read_voltage: float,
        *,
        count: int = 1,
        current_range: int = 0,
        averages: int = 1,
    ) -> np.ndarray:
        """As `ArrayTester.pulse_and_read`, committed first."""
        if not mask.any():
            raise ValueError("no cell is selected; read without a pulse instead")
        batch = self._record.intend(self._run, self.die, [Pulse(kernel, mask, amplitude, width, count)])
        currents = self._tester.pulse_and_read(
            kernel, mask, amplitude, width, read_voltage, count=count, current_range=current_range, averages=averages
        )
        self._record.fired(batch)
        return currents


class Bench:
    """What a step sees of the station: `array` for the die under the needles, `report` for progress."""

    def __init__(
        self,
        prober: Prober,
        tester: ArrayTester,
        record: Record,
        run: int,
        *,
        v_check: float = 0.1,
        contact_attempts: int = 3,
        report: Callable[[str, float], None] = lambda text, share: None,
    ) -> None:
        self.prober = prober
        self.array = LedgeredTester(tester, record, run)
        self.report = report
        self.die: Die | None = None
        self.contact_check = ContactCheck(0.0, 0)
        self._ready = False
        self._record, self._run = record, run
        self._v_check, self._contact_attempts = v_check, contact_attempts

    def enter(self, die: Die) -> None:
        """Go to a die and touch it, unless the needles are on it already.

        Raises
        ------
        WrongDieError
            If the die does not show the fingerprint it had.
        InstrumentError
            If the prober did not get there.
        """
        if self.die == die:
            return
        self.leave()
        if not self._ready:
            self.array.reset()  # a stop of an earlier run stays latched in the board; with the needles off it may go
            self._ready = True
        self.prober.goto_die(die.site)
        self.array.die = die.name
        self._record.event(self._run, "enter", f"at {die.name}", die.name)
        self._touch()
        self.die = die
        if self.contact_check.passed:
            self._check_fingerprint(die)

    def leave(self) -> None:
        """Ground all lines and lift the needles; read back that they are off."""
        if self.prober.z_state() is ZState.SEPARATED and self.die is None:
            return
        self.array.idle("hard_ground")
        self.prober.separate()
        state = self.prober.z_state()
        if state is not ZState.SEPARATED:
            raise InstrumentError(f"the prober was told to separate and reports {state.value}; check the chuck by hand")
        if self.die is not None:
            self._record.event(self._run, "leave", f"left {self.die.name}", self.die.name)
        self.die = None

    def abort(self) -> None:
        """Make everything safe, whatever failed before: ground, then lift; nothing is skipped."""
        for action in (self.array.safe, self.prober.separate):
            try:
                action()
            except Exception:
                log.exception("abort: %s failed; going on", getattr(action, "__qualname__", action))
        self.die = None

    def _touch(self) -> None:
        """Contact with bounded retries until the die conducts; the outcome is in `contact_check`."""
        for attempt in range(1, self._contact_attempts + 1):
            self.prober.contact()
            if self.prober.z_state() is not ZState.CONTACT:
                raise InstrumentError("the prober was told to contact and reports no contact; check contact height")
            self.array.idle("hard_ground")
            self.contact_check = ContactCheck(self._conducting_share(), attempt)
            if self.contact_check.passed or attempt == self._contact_attempts:
                return
            self.array.idle("hard_ground")
            self.prober.separate()

    def _conducting_share(self) -> float:
        capabilities = self.array.capabilities()
        kernels = np.unique(np.linspace(0, capabilities.kernels - 1, 2).astype(int))
        currents = np.stack([self.array.read(int(k), self._v_check) for k in kernels])
        return float(np.mean(np.abs(currents) > CONDUCTING * self._v_check))

    def _check_fingerprint(self, die: Die) -> None:
        known = self._record.latest_with(die.name, "fingerprint_g_p")
        if known is None:
            return
        likeness = fingerprint.likeness(self.array, known)
        if likeness < fingerprint.SAME_DIE:
            try:
                self.leave()
            except InstrumentError:  # the run aborts with the error below and tries again; this must not hide it
                log.exception("could not leave %s", die.name)
            raise WrongDieError(
                f"the die at {die.name} is not the one measured there before (likeness {likeness:.2f}, "
                f"needs {fingerprint.SAME_DIE}): wrong wafer, wrong notch, a mirrored map or a shifted origin. "
                "Nothing was fired. Check the wafer and the prober's map, or use a new lot folder with --out."
            )
