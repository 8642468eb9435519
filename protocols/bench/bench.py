"""The bench: prober and array tester together, and the one place where a die is entered, left and aborted.

Order, always (a needle on a live line can destroy a die):

* leave: `instruments.roles.order.leave`: lines to hard ground, separate, read back that the needles are off, field
  down;
* move: interlocks, separated, step, the index read back must be the one planned;
* enter: contact, read back, lines to hard ground, electrical contact check with bounded retries (each a little deeper,
  as far as the prober may go; never at a die that shows that it is touched, see `protocols.bench.contact`), limits read
  back, watchdog on, what an interrupted batch did is asked and read, fingerprint;
* abort: as leave, every action in its own try, order kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.record.record import Record
from instruments.roles import limits, order
from instruments.roles.interfaces import ArrayTester, FieldSource, InstrumentError, LimitError, Prober, ZState
from protocols.bench import analog_identity as analog_fingerprint
from protocols.bench import mtj_identity as fingerprint
from protocols.bench.conductances import read_ranging
from protocols.bench.contact import (
    CONDUCTING_SHARE,
    CONDUCTION,
    ContactCheck,
    conducting_share,
    leakage,
    small_conductance,
)
from protocols.bench.die import Die, DieFault, DoseError, NoContactError, WrongDieError
from protocols.bench.ledgered_tester import DOSE_LIMIT, LedgeredTester

FloatArray = NDArray[np.float64]

__all__ = [
    "DOSE_LIMIT",
    "Bench",
    "ContactCheck",
    "Die",
    "DieFault",
    "DoseError",
    "LedgeredTester",
    "NoContactError",
    "WrongDieError",
]

log = logging.getLogger(__name__)

#: Seconds without a word after which a tester grounds its lines by itself, where somebody keeps it quiet (assumed).
WATCHDOG = 2.0


#: How often a step that waits looks whether it may go on (s).
LOOK_EVERY = 0.2
#: Longest that a step may wait (s): a month is a mistake in the unit.
WAIT_MAX = 31 * 86400.0


class Lease(Protocol):
    """What is told that this program is alive (`instruments.broker.client.BrokerClient`)."""

    def renew(self) -> None:
        """The program makes progress."""

    def rest(self) -> None:
        """The needles are up and the outputs off: silence is harmless."""


class Bench:
    """What a step sees of the station: `array` for the die under the needles, `report` for progress.

    Parameters
    ----------
    prober, tester, field
        The parts of the station; `field` may be missing.
    parts
        All that is made safe when a die is left; by default these three.
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
        Makes the station safe when all else fails; by default the order of `instruments.roles.order.abort`.
    report
        Shows progress.
    let_pass
        Lets time (s) pass in a step that waits; by default that of the wall clock.
    clock
        Tells the station's own time (s), where it keeps one that does not run with the wall clock.

    Attributes
    ----------
    contact
        How contact is found at the dies that are entered.
    contact_check
        How it was found at this one.
    waited
        Seconds that steps have waited and the station's own clock has not counted.
    """

    def __init__(
        self,
        prober: Prober,
        tester: ArrayTester,
        record: Record,
        run: int,
        *,
        field: FieldSource | None = None,
        parts: order.Parts | None = None,
        v_check: float = 0.1,
        contact_attempts: int = 3,
        dose_limit: int = DOSE_LIMIT,
        lease: Lease | None = None,
        make_safe: Callable[[], None] | None = None,
        report: Callable[[str, float], None] = lambda text, share: None,
        let_pass: Callable[[float], None] | None = None,
        clock: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.prober, self._tester = prober, tester
        self.array = LedgeredTester(tester, record, run, self.check_interlocks, dose_limit)
        self.die: Die | None = None
        self.contact = CONDUCTION
        self.contact_check = ContactCheck(0.0, 0)
        self.waited = 0.0
        self._found_by = CONDUCTION
        self._air: FloatArray | None = None  # what is measured with the needles up (S); None: not looked at
        self._parts = parts or order.Parts([tester], prober, field)
        self._ready = False
        self._record, self._run = record, run
        self._v_check, self._contact_attempts = v_check, contact_attempts
        self._lease, self._make_safe, self._report = lease, make_safe, report
        self._let_pass, self._clock = self._wait_by_the_clock if let_pass is None else let_pass, clock

    def report(self, text: str, share: float) -> None:
        """Show how far a step is (0..1); also the sign that the program is alive during long work on the host."""
        if self._lease is not None:
            self._lease.renew()
        self._report(text, share)

    def wait(self, seconds: float) -> None:
        """Let time pass within a step (retention, relaxation, settling), needles and outputs as they are.

        Progress is shown, the lease of the station is kept, and an abort is heeded. A plan counts the time as station
        time and goes on at once; so does a replay. Between two steps there is nothing to keep: wait within one.

        Raises
        ------
        LimitError
            It is negative, no finite number, or longer than a month.
        RunAborted
            If that was asked for meanwhile.
        """
        total = limits.check_number("a wait (s)", seconds)
        if not 0 <= total <= WAIT_MAX:
            raise LimitError(f"a wait of {total:g} s is outside of 0 to {WAIT_MAX:g} s")
        began = self._clock()
        self._let_pass(total)
        counted = (self._clock() or 0.0) - began if began is not None else 0.0
        self.waited += max(0.0, total - counted)

    def _wait_by_the_clock(self, total: float) -> None:
        end = time.monotonic() + total
        while (left := end - time.monotonic()) > 0:
            self.report(f"waiting for {total:g} s", 1 - left / total)
            time.sleep(min(left, LOOK_EVERY))
        self.report(f"waited for {total:g} s", 1.0)

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
        if self.die == die and self._found_by == self.contact:
            return
        self.leave()
        self.check_interlocks()
        if not self._ready:
            self._tester.reset()  # a stop of an earlier run stays latched in the board; with the needles off it may go
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
            self._tester.arm_watchdog(0.0)
            order.leave(self._parts)
            if self.die is not None:
                self._record.event(self._run, "leave", f"left {self.die.name}", self.die.name)
            self.die, self.array.die = None, ""
        if self._lease is not None:
            self._lease.rest()

    def abort(self) -> list[str]:
        """Make everything safe, whatever failed before; nothing is skipped. Returns what is not safe now."""
        self.die, self.array.die = None, ""
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
        if self.die is None or not self.contact_check.passed or self._found_by.way == "trusted":
            return
        share = self._conducting_share()
        if share < CONDUCTING_SHARE and not (self._found_by.way == "leakage" and self._leaks()[1]):
            raise NoContactError(
                f"{self.die.name}: contact was lost: {share:.0%} of the cells looked at conduct, "
                f"{self.contact_check.conducting:.0%} did when the needles came down. What the step measured is not "
                "kept. If it happens again, clean the needles; --retest inconclusive does such dies anew"
            )

    def _touch(self) -> None:
        """Contact with bounded retries, each a little deeper, until the die conducts; see `contact_check`.

        A die that shows otherwise that it is touched, or may never have been formed, is not pressed deeper.
        """
        self._found_by, self._air = self.contact, None
        way, deepest = self.contact.way, self.prober.overtravel_max()
        if way == "leakage":
            self._air = self._in_the_air()
        overtravel = 0.0
        for attempt in range(1, self._contact_attempts + 1):
            self._lower(overtravel)
            self.contact_check = self._look(attempt)
            if self.contact_check.passed or self.contact_check.leaks or attempt == self._contact_attempts:
                return
            touched = small_conductance(self.array) if self._may_leak() and self._air is None else None
            order.leave(self._parts)
            if touched is not None:
                self._air = self._in_the_air()
                if leakage(touched, self._air)[1]:
                    continue  # at the same height: the next look will show it
            if way != "leakage":
                overtravel = deepest * attempt / max(1, self._contact_attempts - 1)

    def _lower(self, overtravel: float) -> None:
        self.prober.contact(overtravel)
        if self.prober.z_state() is not ZState.CONTACT:
            raise InstrumentError("the prober was told to contact and reports no contact; check contact height")
        self._tester.arm_watchdog(0.0 if self._lease is None else WATCHDOG)
        self.array.idle("hard_ground")

    def _look(self, attempt: int) -> ContactCheck:
        """What shows that the needles touch."""
        share = self._conducting_share()
        more, leaks = self._leaks() if share < CONDUCTING_SHARE else (np.nan, False)
        accepted = {
            "trusted": "the user's word",
            "leakage": "leakage of cells that were never formed" if leaks else "",
        }.get(self.contact.way, "")
        return ContactCheck(share, attempt, more, leaks, accepted)

    def _leaks(self) -> tuple[float, bool]:
        """Mean leakage of the cells (S) and whether it stands out, if it is known what the air shows."""
        return (np.nan, False) if self._air is None else leakage(small_conductance(self.array), self._air)

    def _may_leak(self) -> bool:
        """Whether a die of this kind that does not conduct may be one that was never formed."""
        return bool(self.array.capabilities().schemes) and self.contact.way == "conduction"

    def _in_the_air(self) -> FloatArray:
        """What the tester measures with the needles up (S); lines are grounded before they come down again."""
        measured = small_conductance(self.array)
        self.array.idle("hard_ground")
        return measured

    def _conducting_share(self) -> float:
        return conducting_share(self.array, self._v_check, self.contact)

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
        return read_ranging(self.array, self._v_check, cells)[kernel]

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
