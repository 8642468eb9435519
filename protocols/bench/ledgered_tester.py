"""The array tester as a protocol has it: nothing is fired that is not in the record, and nothing else can pulse."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.record import Batch, Pulse, Record
from analysis.record.values import keepable
from instruments.roles import limits
from instruments.roles.interfaces import (
    ArrayCapabilities,
    ArrayTester,
    BusyError,
    CellSweeper,
    Direction,
    Executed,
    IdleMode,
    LimitError,
    LinkError,
    PowerOnCounter,
    PulseNotFiredError,
    SweptCell,
    UnknownOutcomeError,
)
from protocols.bench.die import DoseError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Pulses to a cell over its whole life by the record's ledger that the bench lets through (assumed).
DOSE_LIMIT = 10_000
#: Bias scheme of sweeps, as the record has it: it is not one of those that pulses have.
SWEPT = "V/3, sweep"
#: Seconds before each new attempt at a pulse that the tester says it did not fire (busy, request lost).
NOT_FIRED_PAUSES = (0.1, 0.3, 1.0)


@dataclass(frozen=True)
class _Committed:
    """A batch in the record, and what the tester had executed before it."""

    batch: Batch
    before: Executed


class LedgeredTester:
    """An `ArrayTester` whose pulses are checked against its limits and committed to the record before they are fired.

    What it passes on to the tester is written out here, method by method, and none of it pulses: whatever else a
    driver can do is out of reach of a protocol.
    """

    def __init__(
        self, tester: ArrayTester, record: Record, run: int, check: Callable[[], None], dose_limit: int
    ) -> None:
        self._tester, self._record, self._run = tester, record, run
        self._check, self._dose_limit = check, dose_limit
        self._counter = tester if isinstance(tester, PowerOnCounter) else None  # once: it takes long to find out
        self._identity = ""
        self.die = ""
        """Name of the die under the needles; nothing is fired without one."""

    # -- what changes no cell ------------------------------------------------------------------------------------

    def identify(self) -> str:
        """Vendor, model, serial number and firmware, as the tester says it now."""
        return self._tester.identify()

    def capabilities(self) -> ArrayCapabilities:
        """Geometry and limits."""
        return self._tester.capabilities()

    def calibration_id(self, current_range: int) -> str:
        """Name of the calibration that turns this range's codes into currents."""
        return self._tester.calibration_id(current_range)

    def range_for(self, current: float) -> int:
        """The smallest range that digitises `current` (A)."""
        return self._tester.range_for(current)

    def read(
        self, kernel: int, voltage: float, *, mask: BoolArray | None = None, current_range: int = 0, averages: int = 1
    ) -> FloatArray:
        """As `ArrayTester.read`; a voltage beyond `v_read_max` is refused here, whatever the tester would do."""
        limits.read_codes(self.capabilities(), voltage)
        how: dict[str, Any] = {"mask": mask, "current_range": current_range, "averages": averages}
        return self._tester.read(kernel, voltage, **how)

    def load_vectors(self, bank: int, voltages: FloatArray) -> None:
        """As `ArrayTester.load_vectors`; voltages beyond `v_read_max` are refused here."""
        limits.read_codes(self.capabilities(), voltages)
        self._tester.load_vectors(bank, voltages)

    def multiply(
        self,
        kernel: int,
        bank: int,
        *,
        direction: Direction = "backward",
        driven: BoolArray | None = None,
        sensed: BoolArray | None = None,
        start: int = 0,
        count: int | None = None,
        current_range: int = 0,
        averages: int = 1,
    ) -> FloatArray:
        """As `ArrayTester.multiply`, with what `load_vectors` let through."""
        how: dict[str, Any] = {"direction": direction, "driven": driven, "sensed": sensed, "start": start}
        how |= {"count": count, "current_range": current_range, "averages": averages}
        return self._tester.multiply(kernel, bank, **how)

    def last_action(self) -> tuple[int, int]:
        """Sequence number of the last pulse frame that was executed, and how many since power-on."""
        return self._tester.last_action()

    def check_limits(self) -> None:
        """Read back the limits that the tester was given; `LimitError` if it holds others."""
        self._tester.check_limits()

    def current_bound(self, amplitude: float) -> float | None:
        """Largest current (A) that a pulse of `amplitude` (V) can drive; None if the tester does not say."""
        bound = getattr(self._tester, "current_bound", None)
        return None if bound is None else float(bound(amplitude))

    def can_sweep(self) -> bool:
        """Whether the tester takes current-voltage curves."""
        return isinstance(self._tester, CellSweeper)

    def idle(self, mode: IdleMode = "hard_ground") -> None:
        """Put all lines at rest."""
        self._tester.idle(mode)

    def safe(self) -> None:
        """Ground everything; it stays so until the bench enters a die anew."""
        self._tester.safe()

    # -- what pulses ---------------------------------------------------------------------------------------------

    def fire(self, pulses: Iterable[Pulse]) -> int | None:
        """Commit a batch of pulses, fire them in order, note that all were answered.

        Returns
        -------
        Number of the batch in the record, for `keep_readings`; None if no cell is selected.

        Raises
        ------
        LimitError
            One of them is beyond the tester's limits, or is none; none was fired, nothing is in the record.
        DoseError, InterlockError
            Nothing was fired.
        PulseNotFiredError
            The tester did not fire one of them, however often it was asked; those before it were fired.
        UnknownOutcomeError
            Whether one of them was fired cannot be found out now; the bench asks when it comes back to the die.
        """
        caps = self.capabilities()
        checked = [self._checked(pulse, caps) for pulse in pulses]
        checked = [pulse for pulse in checked if pulse.mask.any() and 2 * abs(pulse.amplitude) > caps.dac_lsb]
        if not checked:
            return None
        committed = self._intend(checked)
        for place, each in enumerate(checked):
            how = {"count": each.count, **_under(each.scheme)}
            shot = partial(self._tester.pulse, each.kernel, each.mask, each.amplitude, each.width, **how)
            self._shoot(committed, place, shot)
        self._record.fired(committed.batch.id)
        return committed.batch.id

    def pulse(
        self,
        kernel: int,
        mask: BoolArray,
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
        mask: BoolArray,
        amplitude: float,
        width: float,
        read_voltage: float,
        *,
        count: int = 1,
        current_range: int = 0,
        averages: int = 1,
        scheme: str | None = None,
    ) -> FloatArray:
        """As `ArrayTester.pulse_and_read`, committed first; what was read is kept with the batch."""
        caps = self.capabilities()
        pulse = self._checked(Pulse(kernel, mask, amplitude, width, count, scheme), caps)
        limits.read_codes(caps, read_voltage)
        limits.check_range(caps, current_range)
        limits.check_averages(caps, averages)
        if not pulse.mask.any():
            raise ValueError("no cell is selected; read without a pulse instead")
        committed = self._intend([pulse])
        how: dict[str, Any] = {"current_range": current_range, "averages": averages}
        pulsed = {"count": pulse.count, **_under(pulse.scheme)}
        shot = partial(
            self._tester.pulse_and_read, pulse.kernel, pulse.mask, pulse.amplitude, pulse.width, read_voltage,
            **pulsed, **how,
        )  # fmt: skip
        currents = self._shoot(committed, 0, shot)
        self._record.fired(committed.batch.id)
        if currents is None:  # fired, and what it read was lost
            currents = self._tester.read(pulse.kernel, read_voltage, mask=pulse.mask, **how)
        read = {"current": (("row", "column"), currents.astype(np.float32), {"units": "A"})}
        kept = xr.Dataset(read, attrs={"kernel": pulse.kernel, "v_read": float(read_voltage)})
        self._record.keep_readings(committed.batch.id, kept)
        return currents

    def check_sweep(self, voltage: FloatArray, compliance: float, dwell: float) -> None:
        """As `CellSweeper.check_sweep`; `LimitError` also if the tester takes no curves."""
        self._sweeper().check_sweep(voltage, compliance, dwell)

    def sweep(
        self, kernel: int, row: int, column: int, voltage: FloatArray, *, compliance: float, dwell: float
    ) -> tuple[int, SweptCell]:
        """As `CellSweeper.sweep`, committed first: as one pulse of its highest voltage and whole duration.

        Returns
        -------
        Number of the batch in the record, for `keep_readings`, and the curve.
        """
        sweeper, caps = self._sweeper(), self.capabilities()
        how: dict[str, Any] = {
            "compliance": limits.check_number("compliance", compliance),
            "dwell": limits.check_number("dwell", dwell),
        }
        sweeper.check_sweep(voltage, **how)
        steps = limits.check_steps(caps, voltage)
        mask = np.zeros((caps.rows, caps.columns), bool)
        at = limits.check_cell(caps, row, column)
        mask[at] = True
        peak = float(steps[np.argmax(np.abs(steps))])
        stress = Pulse(limits.check_kernel(caps, kernel), mask, peak, 2 * steps.size * how["dwell"], 1, SWEPT)
        committed = self._intend([stress], counted=False)
        curve = sweeper.sweep(stress.kernel, *at, steps, **how)
        self._record.fired(committed.batch.id)
        return committed.batch.id, curve

    # -- what the record knows -----------------------------------------------------------------------------------

    def keep_readings(self, batch: int | None, g: FloatArray) -> None:
        """Keep the conductances ``[kernel, row, column]`` (S, NaN where not read) that were read after a batch."""
        if batch is None:
            return
        try:
            read = np.asarray(g, dtype=np.float64)
            kernels = np.flatnonzero(~np.isnan(read).all(axis=(1, 2)))
            self._record.keep_conductances(batch, kernels, read[kernels].astype(np.float32))
        except (ValueError, TypeError, IndexError) as error:  # the pulses are fired: the step must not end over this
            kept, lost = keepable({"g": g}, "readings")
            text = f"readings must be [kernel, row, column] ({error}); kept as they are"
            log.warning("%s: batch %d: %s", self.die, batch, text)
            self._record.event(self._run, "not_kept", text, self.die, batch=batch, what=lost)
            self._record.keep_readings(batch, kept)

    def dose(self) -> np.ndarray:
        """Pulses that every cell of the die has had in this lot, ``[kernel, row, column]``, as an upper bound."""
        return self._record.dose(self.die, self._shape())

    def settle(self, batch: Batch) -> int | None:
        """Find out how much of a batch that was cut in the middle was fired, by the tester's own count.

        Returns
        -------
        Pulse frames of the batch that were executed; None if the tester cannot tell: it was or may have been
        restarted, it is another one, or other dies were pulsed meanwhile, which would hide a restart.
        """
        frames, now = None, self._executed()
        later = any(self._record.intents(die, after=batch.id) for die in self._record.dies())
        if batch.tester == self._who() and (now.power_on or not later):
            frames = frames_fired(batch, now)
        self._record.settle(batch.id, frames)
        return frames

    # -- how it is done ------------------------------------------------------------------------------------------

    def _checked(self, pulse: Pulse, caps: ArrayCapabilities) -> Pulse:
        """The pulse with fields of one type each and a mask that nobody else changes; `LimitError` if it cannot be."""
        if not isinstance(pulse, Pulse) or pulse.mask is None:
            raise LimitError(f"{pulse!r} is no analysis.record.record.Pulse of cells; nothing was fired")
        return Pulse(
            limits.check_kernel(caps, pulse.kernel),
            limits.check_mask(caps, pulse.mask).copy(),
            limits.check_amplitude(caps, pulse.amplitude),
            limits.check_width(caps, pulse.width),
            limits.check_count(caps, pulse.count),
            limits.check_scheme(caps, pulse.scheme),
        )

    def _sweeper(self) -> CellSweeper:
        if not isinstance(self._tester, CellSweeper):
            raise LimitError("this tester takes no current-voltage curves")
        return self._tester

    def _shape(self) -> tuple[int, int, int]:
        caps = self.capabilities()
        return caps.kernels, caps.rows, caps.columns

    def _who(self) -> str:
        """Who the tester says it is; asked once."""
        self._identity = self._identity or self._tester.identify()
        return self._identity

    def _executed(self) -> Executed:
        """What the tester has executed since it was switched on."""
        if self._counter is not None:
            return self._counter.executed()
        return Executed(*self._tester.last_action())

    def _intend(self, pulses: list[Pulse], *, counted: bool = True) -> _Committed:
        """Commit a batch that may be fired, with what the tester had executed before.

        What the tester does not count (`counted`) is taken for done if it is cut.
        """
        if not self.die:
            raise LimitError("no die is under the needles: nothing is fired. Enter one first (run.step does)")
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
        before = self._executed()
        told: dict[str, Any] = {"actions": before.count if counted else None, "power_on": before.power_on or None}
        told["last_seq"] = before.seq if counted else None
        number = self._record.intend(self._run, self.die, pulses, tester=self._who(), shape=self._shape(), **told)
        kernels = tuple(pulse.kernel for pulse in pulses)
        return _Committed(Batch(number, self._run, self.die, self._who(), kernels=kernels, **told), before)

    def _shoot(self, committed: _Committed, place: int, shot: Callable[[], T]) -> T | None:
        """Fire the pulse frame at a place of a batch; returns what `shot` does, None if its answer was lost.

        A tester that refuses for a reason that only it knows leaves the batch settled, if its count proves what was
        fired: what was refused is no dose.
        """
        try:
            return self._attempts(committed, place, shot)
        except LinkError:
            raise
        except Exception:
            self._settle_refused(committed.batch)
            raise

    def _attempts(self, committed: _Committed, place: int, shot: Callable[[], T]) -> T | None:
        """As `_shoot`.

        If the tester says that it fired nothing, the same intent is tried again, a few times, each time after the
        tester's count has been asked once more: that is no repetition.
        """
        for pause in NOT_FIRED_PAUSES:
            try:
                return shot()
            except PulseNotFiredError as error:
                log.warning("%s: tried again in %g s: %s", self.die, pause, error)
                self._record.event(self._run, "not_fired", str(error), self.die, batch=committed.batch.id)
                time.sleep(pause)
                self._check()
                if self._fired_late(committed, place, refused=isinstance(error, BusyError)):
                    return None
        try:
            return shot()
        except PulseNotFiredError as error:
            raise PulseNotFiredError(
                f"{self.die}: the tester did not fire a pulse in {len(NOT_FIRED_PAUSES) + 1} attempts, last: {error} "
                "See to its cable and supply; the pulses that were fired before are in the record"
            ) from error

    def _fired_late(self, committed: _Committed, place: int, *, refused: bool) -> bool:
        """Whether a frame that was said not to be fired was fired after all; `refused`: by an answer to it.

        Raises
        ------
        UnknownOutcomeError
            The count does not tell.
        """
        before, now = committed.before, self._executed()
        expected, same = before.count + place, now.power_on == before.power_on
        if same and now.count == expected + 1:
            return True
        if same and now.count == expected and (refused or now.power_on or now.count > 0):
            return False
        raise UnknownOutcomeError(
            f"{self.die}: the tester has fired {now.count} pulse frames, expected were {expected}: it was restarted "
            f"or another program uses it. All pulses of batch {committed.batch.id} count as fired; see that nobody "
            "else is connected, then go on"
        )

    def _settle_refused(self, batch: Batch) -> None:
        """Note how many pulses of a batch that ended with a refusal were fired, where that is certain."""
        try:
            frames = frames_fired(batch, self._executed())
            if frames is not None:
                self._record.settle(batch.id, frames)
        except Exception as error:  # the refusal itself is what must be said; all of the batch counts as fired
            log.error("what was fired of batch %d could not be found out: %s", batch.id, error)
            log.debug("how that came about", exc_info=True)


def frames_fired(batch: Batch, now: Executed) -> int | None:
    """How many pulse frames of a batch were executed, by the tester's count: never fewer than were; None if unknown.

    With a power-on id the count is proof. Without one a restart in the middle of the batch could explain a count that
    is not higher than the batch is long; that all of it was fired is safe to say, and so is that nothing was if the
    last frame is the one from before and the count is not zero.
    """
    if batch.actions is None or (batch.power_on or "") != now.power_on:
        return None
    frames, done = len(batch.kernels), now.count - batch.actions
    if not 0 <= done <= frames:
        return None
    if now.power_on or done == frames or (done and now.count > frames):
        return done
    return 0 if not done and now.count > 0 and batch.last_seq in (None, now.seq) else None


def _under(scheme: str | None) -> dict[str, Any]:
    """The bias scheme as an argument, for testers of passive arrays only."""
    return {} if scheme is None else {"scheme": scheme}
