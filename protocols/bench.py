"""The bench: prober and array tester together, and the one place where a die is entered, left and aborted.

Order, always (a needle on a live line can destroy a die):

* leave: `instruments.order.leave`: lines to hard ground, separate, read back that the needles are off, field down;
* move: interlocks, separated, step, the index read back must be the one planned;
* enter: contact, read back, lines to hard ground, electrical contact check with bounded retries (each a little deeper,
  as far as the prober may go), limits read back, watchdog on, what an interrupted batch did is asked and read,
  fingerprint;
* abort: as leave, every action in its own try, order kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import xarray as xr

from analysis.record import Batch, Pulse, Record
from instruments import order
from instruments.roles import (
    ArrayTester,
    CellSweeper,
    DieSite,
    FieldSource,
    InstrumentError,
    Prober,
    PulseNotFiredError,
    SweptCell,
    UnknownOutcomeError,
    ZState,
)
from protocols import analog_fingerprint, fingerprint
from protocols.reading import read_ranging

log = logging.getLogger(__name__)
T = TypeVar("T")

#: A contacted die has at least this share of conducting cells in the kernels that are looked at (assumed; a die
#: with that many open cells is no use either).
CONDUCTING_SHARE = 0.5
#: A cell conducts above this (S): well below AP (about 77 uS) and above the offset of a board without contact.
CONDUCTING = 20e-6
#: Seconds without a word after which a tester grounds its lines by itself, where somebody keeps it quiet (assumed).
WATCHDOG = 2.0
#: Pulses to a cell over its whole life by the record's ledger that the bench lets through (assumed).
DOSE_LIMIT = 10_000
#: Bias scheme of sweeps, as the record has it: it is not one of those that pulses have.
SWEPT = "V/3, sweep"
#: Seconds before each new attempt at a pulse that the tester says it did not fire (busy, request lost).
NOT_FIRED_PAUSES = (0.1, 0.3, 1.0)


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


@dataclass(frozen=True)
class ContactCheck:
    """Share of conducting cells in the kernels looked at, and how often contact was made for it."""

    conducting: float
    attempts: int

    @property
    def passed(self) -> bool:
        """Whether enough cells conduct."""
        return self.conducting >= CONDUCTING_SHARE


class Lease(Protocol):
    """What is told that this program is alive (`instruments.broker_client.BrokerClient`)."""

    def renew(self) -> None:
        """The program makes progress."""

    def rest(self) -> None:
        """The needles are up and the outputs off: silence is harmless."""


class LedgeredTester:
    """An `ArrayTester` whose pulses are committed to the record before they are fired.

    Everything else is the tester's own; a protocol never holds the tester itself.
    """

    def __init__(
        self, tester: ArrayTester, record: Record, run: int, check: Callable[[], None], dose_limit: int
    ) -> None:
        self._tester, self._record, self._run = tester, record, run
        self._check, self._dose_limit = check, dose_limit
        self._identity = ""
        self.die = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tester, name)

    def fire(self, pulses: Sequence[Pulse]) -> int | None:
        """Commit a batch of pulses, fire them in order, note that all were answered.

        Returns
        -------
        Number of the batch in the record, for `keep_readings`; None if no cell is selected.

        Raises
        ------
        DoseError, InterlockError
            Nothing was fired.
        PulseNotFiredError
            The tester did not fire one of them, however often it was asked; those before it were fired.
        UnknownOutcomeError
            Whether one of them was fired cannot be found out now; the bench asks when it comes back to the die.
        """
        pulses = [pulse for pulse in pulses if pulse.mask.any()]
        if not pulses:
            return None
        batch, actions = self._intend(pulses)
        for place, each in enumerate(pulses):
            how = {"count": each.count, **_under(each.scheme)}
            shot = partial(self._tester.pulse, each.kernel, each.mask, each.amplitude, each.width, **how)
            self._shoot(batch, actions + place, shot)
        self._record.fired(batch)
        return batch

    def keep_readings(self, batch: int | None, g: np.ndarray) -> None:
        """Keep the conductances ``[kernel, row, column]`` (S, NaN where not read) that were read after a batch."""
        if batch is None:
            return
        kernels = np.flatnonzero(~np.isnan(g).all(axis=(1, 2)))
        values = ("kernel", "row", "column"), g[kernels].astype(np.float32), {"units": "S"}
        self._record.keep_readings(batch, xr.Dataset({"g": values}, coords={"kernel": kernels}))

    def dose(self) -> np.ndarray:
        """Pulses that every cell of the die has had in this lot, ``[kernel, row, column]``, as an upper bound."""
        capabilities = self._tester.capabilities()
        return self._record.dose(self.die, (capabilities.kernels, capabilities.rows, capabilities.columns))

    def pulse(
        self,
        kernel: int,
        mask: np.ndarray,
        amplitude: float,
        width: float,
        *,
        count: int = 1,
        scheme: str | None = None,
    ) -> None:
        """As `ArrayTester.pulse`, committed first."""
        self.fire([Pulse(kernel, mask, amplitude, width, count, scheme)])

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
        scheme: str | None = None,
    ) -> np.ndarray:
        """As `ArrayTester.pulse_and_read`, committed first; what was read is kept with the batch."""
        if not mask.any():
            raise ValueError("no cell is selected; read without a pulse instead")
        batch, actions = self._intend([Pulse(kernel, mask, amplitude, width, count, scheme)])
        how: dict[str, Any] = {"current_range": current_range, "averages": averages}
        pulsed = {"count": count, **_under(scheme)}
        shot = partial(self._tester.pulse_and_read, kernel, mask, amplitude, width, read_voltage, **pulsed, **how)
        currents = self._shoot(batch, actions, shot)
        self._record.fired(batch)
        if currents is None:  # fired, and what it read was lost
            currents = self._tester.read(kernel, read_voltage, mask=mask, **how)
        read = {"current": (("row", "column"), currents.astype(np.float32), {"units": "A"})}
        self._record.keep_readings(batch, xr.Dataset(read, attrs={"kernel": kernel, "v_read": read_voltage}))
        return currents

    def can_sweep(self) -> bool:
        """Whether the tester takes current-voltage curves."""
        return isinstance(self._tester, CellSweeper)

    def sweep(
        self, kernel: int, row: int, column: int, voltage: np.ndarray, *, compliance: float, dwell: float
    ) -> tuple[int, SweptCell]:
        """As `CellSweeper.sweep`, committed first: as one pulse of its highest voltage and whole duration.

        Returns
        -------
        Number of the batch in the record, for `keep_readings`, and the curve.
        """
        self._tester.check_sweep(voltage, compliance, dwell)  # type: ignore[attr-defined]
        capabilities = self._tester.capabilities()
        mask = np.zeros((capabilities.rows, capabilities.columns), bool)
        mask[row, column] = True
        stress = Pulse(kernel, mask, float(voltage[-1]), 2 * voltage.size * dwell, 1, SWEPT)
        batch, _ = self._intend([stress], counted=False)
        how: dict[str, Any] = {"compliance": compliance, "dwell": dwell}
        curve = self._tester.sweep(kernel, row, column, voltage, **how)  # type: ignore[attr-defined]
        self._record.fired(batch)
        return batch, curve

    def settle(self, batch: Batch) -> int | None:
        """Find out how much of a batch that was cut in the middle was fired, by the tester's own count.

        Returns
        -------
        Pulse frames of the batch that were executed; None if the tester cannot tell: it was restarted, it is another
        one, or other dies were pulsed meanwhile, which would hide a restart.
        """
        frames, now = None, self._tester.last_action()[1]
        later = any(self._record.intents(die, after=batch.id) for die in self._record.dies())
        same = batch.tester == self.identity() and now > 0  # 0: maybe restarted
        if batch.actions is not None and same and not later:
            done = now - batch.actions
            frames = done if 0 <= done <= len(batch.kernels) else None
        self._record.settle(batch.id, frames)
        return frames

    def identity(self) -> str:
        """Who the tester says it is; asked once."""
        self._identity = self._identity or self._tester.identify()
        return self._identity

    def _shoot(self, batch: int, actions: int, shot: Callable[[], T]) -> T | None:
        """Fire one pulse frame, before which the tester had executed `actions`; returns what `shot` does.

        If the tester says that it fired nothing, the same intent is tried again, a few times, each time after the
        tester's count has been asked once more: that is no repetition. None if the count says that it was fired late.
        """
        for pause in NOT_FIRED_PAUSES:
            try:
                return shot()
            except PulseNotFiredError as error:
                log.warning("%s: tried again in %g s: %s", self.die, pause, error)
                self._record.event(self._run, "not_fired", str(error), self.die, batch=batch)
            time.sleep(pause)
            self._check()
            now = self._tester.last_action()[1]
            if now == actions + 1:
                return None
            if now != actions:
                raise UnknownOutcomeError(
                    f"{self.die}: the tester has fired {now} pulse frames, expected were {actions}: it was restarted "
                    f"or another program uses it. All pulses of batch {batch} count as fired; see that nobody else is "
                    "connected, then go on"
                )
        try:
            return shot()
        except PulseNotFiredError as error:
            raise PulseNotFiredError(
                f"{self.die}: the tester did not fire a pulse in {len(NOT_FIRED_PAUSES) + 1} attempts, last: {error} "
                "See to its cable and supply; the pulses that were fired before are in the record"
            ) from error

    def _intend(self, pulses: Sequence[Pulse], *, counted: bool = True) -> tuple[int, int]:
        """Commit a batch that may be fired; its number, and how many pulse frames the tester had executed before.

        What the tester does not count (`counted`) is taken for done if it is cut.
        """
        self._check()
        dose = self.dose()
        for pulse in pulses:
            dose[pulse.kernel] += pulse.mask * pulse.count
        if dose.max() > self._dose_limit:
            kernel, row, column = (int(i) for i in np.unravel_index(dose.argmax(), dose.shape))
            raise DoseError(
                f"{self.die}: cell [{row}, {column}] of kernel {kernel} would have had {dose.max()} pulses, more than "
                f"{self._dose_limit} over its life. Nothing was fired. Take it out of the schedule, or skip the die"
            )
        actions = self._tester.last_action()[1]
        known = actions if counted else None
        return self._record.intend(self._run, self.die, pulses, tester=self.identity(), actions=known), actions


def _under(scheme: str | None) -> dict[str, Any]:
    """The bias scheme as an argument, for testers of passive arrays only."""
    return {} if scheme is None else {"scheme": scheme}


class Bench:
    """What a step sees of the station: `array` for the die under the needles, `report` for progress.

    Parameters
    ----------
    prober, tester, field
        The parts of the station; `field` may be missing.
    record, run
        Where pulses and events are kept.
    v_check
        Voltage of contact checks (V).
    contact_attempts
        How often contact is made at most before a die counts as not conducting.
    dose_limit
        Pulses that a cell may get over its life.
    lease
        What is told that this program is alive, if somebody watches.
    make_safe
        Makes the station safe when all else fails; by default the order of `instruments.order.abort`.
    report
        Shows progress.
    """

    def __init__(
        self,
        prober: Prober,
        tester: ArrayTester,
        record: Record,
        run: int,
        *,
        field: FieldSource | None = None,
        v_check: float = 0.1,
        contact_attempts: int = 3,
        dose_limit: int = DOSE_LIMIT,
        lease: Lease | None = None,
        make_safe: Callable[[], None] | None = None,
        report: Callable[[str, float], None] = lambda text, share: None,
    ) -> None:
        self.prober = prober
        self.array = LedgeredTester(tester, record, run, self.check_interlocks, dose_limit)
        self.die: Die | None = None
        self.contact_check = ContactCheck(0.0, 0)
        self._parts = order.Parts([tester], prober, field)
        self._ready = False
        self._record, self._run = record, run
        self._v_check, self._contact_attempts = v_check, contact_attempts
        self._lease, self._make_safe, self._report = lease, make_safe, report

    def report(self, text: str, share: float) -> None:
        """Show how far a step is (0..1); also the sign that the program is alive during long work on the host."""
        if self._lease is not None:
            self._lease.renew()
        self._report(text, share)

    def check_interlocks(self) -> None:
        """See that doors, temperature and limits are as they must be.

        Raises
        ------
        InterlockError, LimitError
            They are not.
        """
        self.prober.check_interlocks()
        self.array.check_limits()

    def enter(self, die: Die) -> None:
        """Go to a die and touch it, unless the needles are on it already.

        Raises
        ------
        WrongDieError
            If the die does not show the fingerprint it had.
        InstrumentError
            If an interlock is open or the prober did not get there.
        """
        if self.die == die:
            return
        self.leave()
        self.check_interlocks()
        if not self._ready:
            self.array.reset()  # a stop of an earlier run stays latched in the board; with the needles off it may go
            self._ready = True
        self.prober.goto_die(die.site)
        self.array.die = die.name
        self._record.event(self._run, "enter", f"at {die.name}", die.name)
        self._touch()
        self.die = die
        if self.contact_check.passed:
            self._check_fingerprint(die)  # first: what is read to settle must be of this die
            self._settle(die)

    def leave(self) -> None:
        """Ground all lines and lift the needles; read back that they are off."""
        if self.die is not None or self.prober.z_state() is not ZState.SEPARATED:
            self.array.arm_watchdog(0.0)
            order.leave(self._parts)
            if self.die is not None:
                self._record.event(self._run, "leave", f"left {self.die.name}", self.die.name)
            self.die = None
        if self._lease is not None:
            self._lease.rest()

    def abort(self) -> list[str]:
        """Make everything safe, whatever failed before; nothing is skipped. Returns what is not safe now."""
        self.die = None
        if self._make_safe is None:
            return order.abort(self._parts)
        fault = order.attempt("making the station safe", self._make_safe)
        return [fault] if fault else []

    def check_contact(self) -> None:
        """See that the die still conducts: what was measured without contact is no result.

        Raises
        ------
        NoContactError
            It does not, though it did when the needles came down.
        """
        if self.die is None or not self.contact_check.passed:
            return
        share = self._conducting_share()
        if share < CONDUCTING_SHARE:
            raise NoContactError(
                f"{self.die.name}: contact was lost: {share:.0%} of the cells looked at conduct, "
                f"{self.contact_check.conducting:.0%} did when the needles came down. What the step measured is not "
                "kept. If it happens again, clean the needles; --retest inconclusive does such dies anew"
            )

    def _touch(self) -> None:
        """Contact with bounded retries, each a little deeper, until the die conducts; see `contact_check`."""
        deepest = self.prober.overtravel_max()
        for attempt in range(1, self._contact_attempts + 1):
            self.prober.contact(deepest * (attempt - 1) / max(1, self._contact_attempts - 1))
            if self.prober.z_state() is not ZState.CONTACT:
                raise InstrumentError("the prober was told to contact and reports no contact; check contact height")
            self.array.arm_watchdog(0.0 if self._lease is None else WATCHDOG)
            self.array.idle("hard_ground")
            self.contact_check = ContactCheck(self._conducting_share(), attempt)
            if self.contact_check.passed or attempt == self._contact_attempts:
                return
            order.leave(self._parts)

    def _conducting_share(self) -> float:
        capabilities = self.array.capabilities()
        kernels = np.unique(np.linspace(0, capabilities.kernels - 1, 2).astype(int))
        currents = np.stack([self.array.read(int(k), self._v_check) for k in kernels])
        return float(np.mean(np.abs(currents) > CONDUCTING * self._v_check))

    def _settle(self, die: Die) -> None:
        """Read the cells of batches that were cut in the middle and find out what was fired, before anything is pulsed.

        Reading comes first: a run that dies in here leaves the batch unfired, and the next one looks again.
        """
        capabilities = self.array.capabilities()
        for batch in self._record.unfired(die.name):
            g = np.full((capabilities.kernels, capabilities.rows, capabilities.columns), np.nan)
            for kernel in set(batch.kernels):
                g[kernel] = self._read(kernel)
            self.array.keep_readings(batch.id, g)
            fired = self.array.settle(batch)
            known = (
                "how many of its pulses were fired is unknown, all count" if fired is None else f"{fired} were fired"
            )
            text = f"batch {batch.id} of run {batch.run} was cut in the middle: of {len(batch.kernels)} pulses {known}"
            self._record.event(self._run, "settled", text, die.name, batch=batch.id, fired=fired)

    def _read(self, kernel: int) -> np.ndarray:
        """Conductance of the cells of a kernel (S), each in the range that holds it where cells span several."""
        if not self.array.capabilities().schemes:
            return self.array.read(kernel, self._v_check) / self._v_check
        capabilities = self.array.capabilities()
        cells = np.zeros((capabilities.kernels, capabilities.rows, capabilities.columns), bool)
        cells[kernel] = True
        return read_ranging(self, self._v_check, cells)[kernel]

    def _likeness(self, die: Die) -> tuple[float, float] | None:
        """How much the die under the needles is like the one in the record, and how much it must be; None: unknown."""
        known = self._record.latest_with(die.name, "fingerprint_g_p")
        if known is not None:
            return fingerprint.likeness(self.array, known), fingerprint.SAME_DIE
        held = analog_fingerprint.last_known(self._record, die.name)
        if held is None:
            return None
        now = np.stack([self._read(kernel) for kernel in range(len(held))])
        share = analog_fingerprint.likeness(now, held)
        if share is None:
            self._record.event(
                self._run, "identity", "what the cells held does not tell one die from another", die.name
            )
            return None
        return share, analog_fingerprint.SAME_DIE

    def _check_fingerprint(self, die: Die) -> None:
        found = self._likeness(die)
        if found is None:
            return
        likeness, needed = found
        if likeness < needed:
            try:
                self.leave()
            except InstrumentError:  # the run aborts with the error below and tries again; this must not hide it
                log.exception("could not leave %s", die.name)
            raise WrongDieError(
                f"the die at {die.name} is not the one measured there before (likeness {likeness:.2f}, "
                f"needs {needed}): wrong wafer, wrong notch, a mirrored map or a shifted origin, or it was written "
                "by another program. Nothing was fired. Check the wafer and the prober's map, or use a new --out."
            )
