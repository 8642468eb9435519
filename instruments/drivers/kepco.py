"""Magnets on Kepco BOP bipolar supplies, as a QCoDeS instrument."""

from __future__ import annotations

import math
import time
from itertools import zip_longest
from typing import Annotated, Literal, TypeVar, Unpack

from qcodes.instrument import Instrument, InstrumentBaseKWArgs
from qcodes.validators import Numbers

from instruments.roles.interfaces import InstrumentError, LimitError, LinkError
from instruments.roles.off_recipe import OffRecipe, OffStep, Stage
from instruments.roles.quantities import AMPERE, SECOND, SHARE, VOLT, Timeout, in_unit
from instruments.wire import repeatable
from instruments.wire.sessions import open_visa

TeslaPerAmpere = Annotated[float, in_unit("T/A").within(-1.0, 1.0)]
"""Constant of a coil, of either sign."""
TeslaPerSecond = Annotated[float, in_unit("T/s").within(0.0, 10.0, above=True)]
CoilCurrent = Annotated[float, AMPERE.within(0.0, 100.0, above=True, example="5 A")]
CoilVoltage = Annotated[float, VOLT.within(0.0, 400.0, above=True, example="10 V")]
Settling = Annotated[float, SECOND.within(0.0, 600.0, example="500 ms")]
CurrentTolerance = Annotated[float, SHARE.within(0.0, 0.5, above=True, example="1 %")]

T = TypeVar("T")

STEP = 0.05
"""Seconds between two set-points of a ramp."""

OFF_STEPS = 10
"""Set-points in which a magnet is ramped down by one who cannot ask it anything."""

Level = Literal["CURR", "VOLT"]  # what the supply regulates, by the command that sets it
_LEVELS: dict[str, Level] = {"0": "VOLT", "1": "CURR"}  # by the answer to FUNC:MODE?


class KepcoMagnet(Instrument):
    """A magnet driven by a Kepco BOP in current mode; fills the role `FieldSource`.

    Connecting changes nothing: neither output nor set-points. The first field that is asked for sets mode, limits and
    compliance, reads them back, and switches on at zero current. An output that is found on with other settings is
    ramped down first. From then on the current only ever ramps; it stays on until `ramp_down`. A question that fails
    is asked once more over a new connection, a setting never.

    Parameters
    ----------
    name
        Name of the instrument in the station.
    address
        VISA resource, e.g. ``GPIB0::6::INSTR`` or ``TCPIP::host::5025::SOCKET``.
    tesla_per_ampere
        Constant of the coil at the sample (T/A); negative if the coil is connected the other way round.
    current_limit
        Largest current (A), either sign.
    ramp_rate
        Fastest change of the field (T/s), and the one of `ramp_down`. The default is assumed.
    voltage_limit
        Compliance of the supply (V). The default is assumed.
    settling
        Seconds in which the current has followed a set-point; what is waited before an output is switched off
        unseen. The default is assumed.
    tolerance
        Share of `current_limit` that read-back may differ from what was asked. The default is assumed.
    limit_in_supply
        Whether the supply has a current limit of its own (``CURR:LIM``: BOP-MG and later). Without one only this
        driver holds `current_limit`.
    timeout
        Seconds allowed for an answer.
    backend
        PyVISA back end (``@py``, ``@ivi``, path of a vendor's VISA library).

    Raises
    ------
    LinkError
        Nobody answers at the address.
    InstrumentError
        What answers is no Kepco.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        tesla_per_ampere: TeslaPerAmpere,
        current_limit: CoilCurrent,
        ramp_rate: TeslaPerSecond = 0.2,
        voltage_limit: CoilVoltage = 10.0,
        settling: Settling = 0.5,
        tolerance: CurrentTolerance = 0.01,
        limit_in_supply: bool = True,
        timeout: Timeout = 5.0,
        backend: str = "@py",
        **kwargs: Unpack[InstrumentBaseKWArgs],
    ) -> None:
        super().__init__(name, **kwargs)
        self._constant, self._limit = _checked_coil(name, tesla_per_ampere, current_limit, ramp_rate)
        self._rate = ramp_rate
        self._compliance = voltage_limit
        self._settling = settling
        self._tolerance = tolerance * current_limit
        self._limit_in_supply = limit_in_supply
        self._request = 0
        self._regulates: Level = "CURR"
        self._on = False
        self._level = 0.0  # what an off-recipe starts from: never beyond the set-point of the supply
        self._left: OffRecipe | None = None
        self._session = open_visa(address, timeout=timeout, backend=backend)
        try:
            self._identity = self._introduce()
        except BaseException:
            self._session.close()
            raise
        self._target = self._level if self._regulates == "CURR" else 0.0
        self._add_parameters()

    def _add_parameters(self) -> None:
        largest = abs(self._constant) * self._limit
        self.add_parameter(
            "magnetic_field",
            unit="T",
            label="Magnetic field",
            docstring="Control the magnetic field (T): ramped to at the safe rate; read from the coil current.",
            get_cmd=self.field,
            set_cmd=self.set_field,
            vals=Numbers(-largest, largest),
        )
        self.add_parameter(
            "current",
            unit="A",
            label="Coil current",
            docstring="Measure the current of the coil (A).",
            get_cmd=self._current,
        )

    # -- the role ----------------------------------------------------------------------------------------------------

    def identify(self) -> str:
        """Maker, model, serial number and firmware."""
        return self._identity

    def get_idn(self) -> dict[str, str | None]:
        """`identify` as QCoDeS keeps it."""
        parts = [each.strip() for each in self._identity.split(",", 3)]
        return {key: part or None for key, part in zip_longest(("vendor", "model", "serial", "firmware"), parts)}

    def set_field(self, tesla: float, rate: float | None = None) -> None:
        """Ramp to `tesla` (T) at `rate` (T/s), at most and by default the safe rate; switch on first if need be.

        Returns when the last set-point is given; the coil may still follow, see `settled`.

        Raises
        ------
        LimitError
            The field or the rate is beyond the limits; nothing was sent.
        InstrumentError
            The supply does not take a setting, or another ramp was asked for meanwhile. The current stays where it is.
        """
        target = self._checked_current(tesla)
        speed = self._checked_rate(rate)
        request = self._begin()
        self._make_ready(request)
        self._target = target
        self._ramp(target, speed / abs(self._constant), request)

    def field(self) -> float:
        """The field (T), from the current that is read back and the constant of the coil."""
        return self._constant * self._current()

    def settled(self) -> bool:
        """Whether the current that is read back is the one asked for."""
        return abs(self._current() - self._target) <= self._tolerance

    def ramp_down(self) -> None:
        """Ramp to zero at the safe rate, wait until no current flows, then switch the output off; from any state.

        Raises
        ------
        InstrumentError
            The current does not go down; the output is left on then.
        """
        request = self._begin()
        try:
            self._bring_down(request)
        except LinkError as error:
            self.log.warning("ramping down again: %s", error)
            self._bring_down(request)

    def safe(self) -> None:
        """`ramp_down`, from any thread; a ramp that another thread is in is given up.

        Raises
        ------
        InstrumentError
            The current may still flow: it must be turned down at the supply by hand.
        """
        try:
            self.ramp_down()
        except InstrumentError as error:
            raise InstrumentError(
                f"{self.name} MAY STILL CARRY CURRENT ({error}). Turn its current down at the front panel, then switch "
                "its output off; do not pull a cable."
            ) from error

    def off_lines(self) -> list[tuple[str, float]]:
        """Lines that bring the magnet down without asking it anything, each with the seconds to wait after it.

        They start below the last set-point, so none of them raises the current, as long as they are asked for anew
        after every set-point. They take the time of a ramp at the safe rate and `settling`.
        """
        level, steps = self._level, OFF_STEPS if self._level else 1
        reach = abs(level) if self._regulates == "CURR" else self._limit
        pause = abs(self._constant) * reach / self._rate / OFF_STEPS
        falling = [(f"{self._regulates} {level * (steps - k) / steps:.7g}", pause) for k in range(1, steps)]
        return [*falling, (f"{self._regulates} 0", self._settling), ("OUTP 0", 0.0)]

    def close(self) -> None:
        """Close the connection; the current stays as it is."""
        session = self.__dict__.get("_session")
        if session is not None:
            session.close()
        super().close()

    # -- limits ------------------------------------------------------------------------------------------------------

    def _checked_current(self, tesla: float) -> float:
        """Current (A) that makes a field."""
        current = tesla / self._constant
        if not abs(current) <= self._limit * (1 + 1e-9):  # not a number is beyond, too
            raise LimitError(
                f"{self.name}: {tesla:g} T takes {abs(current):g} A; current_limit is {self._limit:g} A, "
                f"{abs(self._constant) * self._limit:g} T either way"
            )
        return max(-self._limit, min(self._limit, current))

    def _checked_rate(self, rate: float | None) -> float:
        if rate is None:
            return self._rate
        if not 0 < rate <= self._rate:
            raise LimitError(f"{self.name}: asked for {rate:g} T/s; above 0 and at most ramp_rate, {self._rate:g} T/s")
        return rate

    # -- on and off --------------------------------------------------------------------------------------------------

    def _make_ready(self, request: int) -> None:
        """See that the output is on, in current mode, with the limits of this magnet."""
        self._survey()
        if self._on:
            if self._regulates == "CURR" and self._limits_differ() is None:
                return
            self.log.warning("%s is on with other settings than asked; ramping it down first", self.name)
            self._bring_down(request)
        self._switch_on(request)

    def _switch_on(self, request: int) -> None:
        """Set everything, read it back, and only then switch on, at zero current."""
        settings = ["*CLS", "FUNC:MODE CURR", "CURR 0", f"VOLT {self._compliance:.7g}"]
        if self._limit_in_supply:
            settings.append(f"CURR:LIM {self._limit:.7g}")
        for line in settings:
            self._set(line, request)
        self._survey()
        fault = self._refused() or self._limits_differ()
        if self._regulates != "CURR":
            fault = fault or "stays in voltage mode"
        if fault is None and abs(found := self._number("CURR?")) > self._tolerance:
            fault = f"reads back {found:g} A, asked 0 A"
        if fault is not None:
            raise InstrumentError(f"{self.name} {fault}; refusing to switch on")
        self._set("OUTP 1", request)
        self._survey()
        if not self._on:
            raise InstrumentError(f"{self.name} does not switch on: look for a fault or an interlock on the supply")

    def _refused(self) -> str | None:
        """What the supply says to the settings, if anything."""
        code, error = self._ask("SYST:ERR?", repeatable.scpi_error)
        if code == 0:
            return None
        hint = "; if it has no CURR:LIM, set limit_in_supply: false" if code == -113 else ""
        return f"says {error}{hint}"

    def _limits_differ(self) -> str | None:
        """Which limit is read back otherwise than asked."""
        pairs = [("VOLT?", self._compliance, "V")]
        if self._limit_in_supply:
            pairs.insert(0, ("CURR:LIM?", self._limit, "A"))
        for question, asked, unit in pairs:
            for found in self._numbers(question):
                if not math.isclose(abs(found), asked, rel_tol=0.01):
                    return f"reads back {found:g} {unit}, asked {asked:g} {unit}"
        return None

    def _bring_down(self, request: int) -> None:
        self._survey()
        if not self._on:
            self._survey()  # twice: nobody would bring down a magnet that a damaged answer says is off
        if not self._on:
            return
        self._target = 0.0
        self._ramp(0.0, self._falling_rate(), request)
        self._wait_for_zero(request)
        self._set("OUTP 0", request)
        self._survey()
        if self._on:
            raise InstrumentError(f"{self.name} is at zero current but its output does not switch off")

    def _falling_rate(self) -> float:
        """The safe rate in what the supply regulates: A/s, or, found running in voltage mode, V/s."""
        rate = self._rate / abs(self._constant)
        if self._regulates == "CURR":
            return rate
        current = abs(self._current())
        return rate * abs(self._level) / current if current > self._tolerance else math.inf

    def _wait_for_zero(self, request: int) -> None:
        deadline = time.monotonic() + 20 * self._settling
        while abs(current := self._current()) > 2 * self._tolerance:
            self._require_latest(request)
            if time.monotonic() > deadline:
                raise InstrumentError(
                    f"{self.name} is set to zero but carries {current:g} A; its output is left on, for a current must "
                    "not be cut off. See that the coil is connected and voltage_limit can drive it, then ramp down."
                )
            time.sleep(STEP)

    # -- ramps -------------------------------------------------------------------------------------------------------

    def _begin(self) -> int:
        """A new ramp: whatever another thread is in the middle of is given up."""
        with self._session.lock:
            self._request += 1
            return self._request

    def _require_latest(self, request: int) -> None:
        if request != self._request:
            raise InstrumentError(f"{self.name}: the ramp was given up, another was asked for meanwhile")

    def _ramp(self, target: float, rate: float, request: int) -> None:
        """Set-points from the present one to `target`, never faster than `rate` (per second).

        They follow from start, target and rate alone, not from the clock: a replay sends the same.
        """
        start, reach = self._level, rate * STEP
        steps = max(1, math.ceil(abs(target - start) / reach)) if target != start else 0
        sent = time.monotonic()
        for step in range(1, steps + 1):
            time.sleep(max(0.0, sent + STEP - time.monotonic()))
            sent = time.monotonic()
            self._give(target if step == steps else start + math.copysign(step * reach, target - start), request)

    def _give(self, level: float, request: int) -> None:
        """One set-point, read back; the off-recipe starts below both the old and the new one meanwhile."""
        with self._session.lock:
            if not self._on:
                raise InstrumentError(f"{self.name} is found switched off in the middle of a ramp; ramp given up")
            self._hold(_lower(self._level, level))
            self._require_latest(request)
            found = self._once(f"{self._regulates} {level:.7g};{self._regulates}?")
            allowed = self._tolerance if self._regulates == "CURR" else 0.01 * self._compliance
            if abs(found - level) > allowed:
                raise InstrumentError(
                    f"{self.name} reads back a set-point of {found:g}, asked {level:g}; ramp given up"
                )
            self._hold(level)

    def _hold(self, level: float) -> None:
        """Leave the off-recipe for a set-point with whoever holds the connection."""
        self._level = level
        recipe = _recipe(self.off_lines())
        if recipe != self._left:
            self._session.register(recipe)
            self._left = recipe

    # -- the wire ----------------------------------------------------------------------------------------------------

    def _introduce(self) -> str:
        """Ask who is there and how it stands; returns its identity."""
        identity = repeatable.identified(
            self._session, "KEPCO", "(BOP|BIT).*", "a Kepco supply BOP, or of its interface card BIT"
        )
        self._take_stock()
        return identity

    def _survey(self) -> None:
        """Read what the supply regulates, at which level, and whether it is on."""
        with self._session.lock:
            try:
                self._reconnect()
                self._take_stock()
            except LinkError as error:
                self.log.warning("asking for the state again: %s", error)
                self._reconnect()
                self._take_stock()

    def _take_stock(self) -> None:
        self._regulates = repeatable.once(self._session, "FUNC:MODE?", lambda answer: _LEVELS[answer.strip()])
        self._on = repeatable.once(self._session, "OUTP?", lambda answer: bool(repeatable.whole(answer, 0, 1)))
        self._hold(self._once(f"{self._regulates}?") if self._on else 0.0)

    def _current(self) -> float:
        return self._number("MEAS:CURR?")

    def _set(self, line: str, request: int) -> None:
        """Send one setting, once, unless another ramp was asked for."""
        with self._session.lock:
            self._require_latest(request)
            self._session.write(line)

    def _ask(self, question: str, read: repeatable.Read[T]) -> T:
        """What is read from the answer to a question; a lost one is asked for once more, over a new connection."""
        return repeatable.ask(self._session, question, self._reintroduce, read)

    def _reconnect(self) -> None:
        repeatable.reopened(self._session, self._reintroduce)

    def _reintroduce(self) -> None:
        identity = self._introduce()
        if identity != self._identity:
            raise LinkError(f"{self._session.address}: {identity!r} answers now, before it was {self._identity!r}")

    def _number(self, question: str) -> float:
        return self._numbers(question)[0]

    def _numbers(self, question: str) -> list[float]:
        return self._ask(question, _numbers)

    def _once(self, question: str) -> float:
        """The number that answers a question; one that is lost is not asked for again."""
        return repeatable.once(self._session, question, repeatable.decimal)


def _numbers(answer: str) -> list[float]:
    return [repeatable.decimal(each) for each in answer.split(",")]


def _checked_coil(name: str, constant: float, limit: float, rate: float) -> tuple[float, float]:
    if not (math.isfinite(constant) and constant != 0 and limit > 0 and rate > 0):
        raise LimitError(f"{name}: tesla_per_ampere must not be zero, current_limit and ramp_rate must be above zero")
    return constant, limit


def _lower(one: float, other: float) -> float:
    """The set-point that lies between both and zero."""
    return 0.0 if one * other <= 0 else min(one, other, key=abs)


def _recipe(lines: list[tuple[str, float]]) -> OffRecipe:
    """Off-recipe of some lines. Its first step asks whether anybody hears; the others have no answer.

    A recipe is sent once more from its beginning, over a new connection, if an answer is missing or a step cannot be
    sent. If the lines got through, the output is off by then; if the connection broke between them, the current may
    rise once more, to less than it was.
    """
    seconds = sum(pause for _, pause in lines)
    steps = (OffStep(b"OUTP?\n", rb"\s*[01]\s*"), *(OffStep(line.encode() + b"\n", None, p) for line, p in lines))
    return OffRecipe(Stage.FIELD, steps, b"\n", limit=4 * seconds + 2)
