"""A virtual Kepco BOP bipolar supply with a magnet coil on its output.

The supply regulates its output current with a first-order response, as far as its compliance voltage can drive the
coil: the current lags behind what is asked. Time is that of the wall clock. An output that is switched off while
current flows lets the coil kick: the log has a ``coil_kick`` then, which must never happen.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Annotated, Self

from pydantic import Field, model_validator

from sim_backends.array.files.quantity import AMPERE, VOLT, Dimension, Integer, Ohm, Second, Share, Specification
from sim_backends.bench.physical_log import PhysicalLog
from sim_backends.wire.scpi import CONFLICT, NOT_ALLOWED, Handler, Scpi, ScpiFault, number, one_of, with_one, without

Henry = Annotated[float, Dimension(("H",), "200 mH", 0.0, 1000.0, above=True)]
RatedVoltage = Annotated[float, VOLT.within(0.0, 400.0, above=True, example="36 V")]
RatedCurrent = Annotated[float, AMPERE.within(0.0, 100.0, above=True, example="12 A")]

VOLTAGE, CURRENT = 0, 1
_MODES = {"VOLTage": VOLTAGE, "CURRent": CURRENT}
_SWITCH = {"OFF": 0, "0": 0, "ON": 1, "1": 1}


class KepcoSpec(Specification):
    """The supply and its coil. Ratings are those that the model is named for, everything else is assumed."""

    model: str = "BOP 36-12"
    rated_voltage: RatedVoltage = 36.0
    rated_current: RatedCurrent = 12.0
    limits: bool = True
    """Whether there is ``CURRent:LIMit`` (BOP-MG and later) or not (the older interface cards)."""
    resistance: Ohm = Field(default=2.0, gt=0)
    """Of the coil."""
    inductance: Henry = 0.2
    """Of the coil."""
    response: Second = Field(default=20e-3, gt=0)
    """Time constant with which the supply regulates its current."""
    bits: Integer = Field(default=14, ge=8, le=24)
    """Of the converters, over both signs."""
    kick: Share = Field(default=0.05, gt=0)
    """Share of the current limit above which switching off harms."""

    @model_validator(mode="after")
    def _responds_faster_than_the_coil(self) -> Self:
        if self.response >= self.inductance / self.resistance:
            raise ValueError("response must be shorter than inductance / resistance: the supply regulates the coil")
        return self


class Kepco:
    """The supply's side of the wire; a `tcp.Service`.

    Parameters
    ----------
    log
        Gets a ``magnet`` entry for every change of output, mode, set-point or limit, and ``coil_kick``.
    spec
        The supply and its coil.
    """

    def __init__(self, log: PhysicalLog, spec: KepcoSpec) -> None:
        self._log = log
        self._spec = spec
        self._rating = {VOLTAGE: spec.rated_voltage, CURRENT: spec.rated_current}
        self._limit = {CURRENT: (-spec.rated_current, spec.rated_current)}
        self._level = {VOLTAGE: 0.0, CURRENT: 0.0}
        self._mode = VOLTAGE
        self._on = False
        self._origin = (time.monotonic(), 0.0)  # when something last changed, and the coil current then
        identity = f"KEPCO,{spec.model},SIM0001,1.0"
        self._scpi = Scpi(identity, self._commands(), self._reset)

    # -- the wire ------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Forget what the last client sent half of; output and set-points stay."""
        self._scpi.forget()

    def receive(self, data: bytes) -> bytes:
        """Answer all complete lines."""
        return self._scpi.receive(data)

    def deadline(self) -> float | None:
        """Nothing happens by itself: the current of the coil is worked out when it is asked for."""
        return None

    def expired(self) -> None:
        """Never called."""

    def _commands(self) -> dict[str, Handler]:
        commands: dict[str, Handler] = {
            "[SOURce:]FUNCtion:MODE": with_one(self._set_mode),
            "[SOURce:]FUNCtion:MODE?": without(lambda: str(self._mode)),
            "OUTPut[:STATe]": with_one(self._set_output),
            "OUTPut[:STATe]?": without(lambda: str(int(self._on))),
            "MEASure[:SCALar]:CURRent[:DC]?": without(lambda: self._measured(CURRENT, self.current)),
            "MEASure[:SCALar]:VOLTage[:DC]?": without(lambda: self._measured(VOLTAGE, self.voltage)),
            "SYSTem:BEEP": without(lambda: None),
            "SYSTem:VERSion?": without(lambda: "1995.0"),
        }
        for word, what in _MODES.items():
            level = f"[SOURce:]{word}[:LEVel][:IMMediate][:AMPlitude]"
            commands[level] = with_one(partial(self._set_level, what))
            commands[f"{level}?"] = partial(self._tell_level, what)
        if self._spec.limits:
            limit = "[SOURce:]CURRent[:LEVel]:LIMit[:BOTH]"
            commands[limit] = with_one(self._set_limit)
            commands[f"{limit}?"] = without(lambda: ",".join(_text(abs(each)) for each in self._limit[CURRENT][::-1]))
        return commands

    # -- what it is told -----------------------------------------------------------------------------------------

    def _range(self, what: int) -> tuple[float, float]:
        return self._limit.get(what, (-self._rating[what], self._rating[what]))

    def _set_level(self, what: int, text: str) -> None:
        low, high = self._range(what)
        value = number(text, low, high)
        self._hold()
        self._level[what] = min(high, max(low, self._converted(what, value)))
        self._note()

    def _tell_level(self, what: int, parameters: list[str]) -> str:
        if len(parameters) > 1:
            raise ScpiFault(NOT_ALLOWED)
        if not parameters:
            return _text(self._level[what])
        return _text(self._range(what)[one_of(parameters[0], {"MINimum": 0, "MAXimum": 1})])

    def _set_limit(self, text: str) -> None:
        limit = number(text, 0.0, self._spec.rated_current)
        if abs(self._level[CURRENT]) > limit:
            raise ScpiFault(CONFLICT)
        self._limit[CURRENT] = (-limit, limit)
        self._note()

    def _set_mode(self, text: str) -> None:
        mode = one_of(text, _MODES)
        self._hold()
        self._mode = mode
        self._note()

    def _set_output(self, text: str) -> None:
        self._switch(bool(one_of(text, _SWITCH)))

    def _switch(self, on: bool) -> None:
        current = self.current
        self._hold()
        if self._on and not on:
            limit = self._limit[CURRENT][1]
            if abs(current) > self._spec.kick * limit:
                self._log.add("coil_kick", current=current, limit=limit)
            self._origin = (time.monotonic(), 0.0)
        self._on = on
        self._note()
        self._log.flush()

    def _reset(self) -> None:
        self._switch(False)
        self._mode = VOLTAGE
        self._level = {VOLTAGE: 0.0, CURRENT: 0.0}
        self._limit[CURRENT] = (-self._spec.rated_current, self._spec.rated_current)
        self._note()

    def _note(self) -> None:
        self._log.add(
            "magnet",
            output=self._on,
            mode="current" if self._mode == CURRENT else "voltage",
            set_current=self._level[CURRENT],
            set_voltage=self._level[VOLTAGE],
            limit=self._limit[CURRENT][1],
            current=self.current,
        )

    # -- what the coil does --------------------------------------------------------------------------------------

    @property
    def current(self) -> float:
        """Current of the coil now (A)."""
        began, start = self._origin
        if not self._on:
            return 0.0
        voltage, wanted = self._level[VOLTAGE], self._level[CURRENT]
        seconds = time.monotonic() - began
        if self._mode == CURRENT:
            return driven_current(self._spec, start, wanted, abs(voltage), seconds)
        end = _clip(voltage / self._spec.resistance, abs(wanted))
        return end + (start - end) * math.exp(-seconds * self._spec.resistance / self._spec.inductance)

    @property
    def voltage(self) -> float:
        """Voltage across the coil now (V)."""
        if not self._on:
            return 0.0
        current, limit = self.current, self._level[VOLTAGE]
        if self._mode == CURRENT:
            return _clip(_wanted_voltage(self._spec, current, self._level[CURRENT]), abs(limit))
        return _clip(limit, abs(self._level[CURRENT]) * self._spec.resistance)

    def _hold(self) -> None:
        """From here on the coil goes another way."""
        self._origin = (time.monotonic(), self.current)

    def _converted(self, what: int, value: float) -> float:
        step = 2 * self._rating[what] / 2**self._spec.bits
        return round(value / step) * step

    def _measured(self, what: int, value: float) -> str:
        return _text(self._converted(what, value))


def driven_current(spec: KepcoSpec, start: float, wanted: float, compliance: float, seconds: float) -> float:
    """Current (A) of a coil that a regulated supply drives.

    Parameters
    ----------
    spec
        The supply and its coil.
    start
        Current at the beginning (A).
    wanted
        Current that the supply goes for (A).
    compliance
        Largest voltage of the supply (V), both signs.
    seconds
        How long ago that was.

    Notes
    -----
    The supply wants ``dI/dt = (wanted - I) / response``, which takes ``V = R I + L dI/dt``. As long as that is beyond
    its compliance it gives what it has, ``L dI/dt = +-V - R I``; both pieces are exponentials.
    """
    wanted = _clip(wanted, compliance / spec.resistance)
    drive = _wanted_voltage(spec, start, wanted)
    if abs(drive) > compliance:
        limit = math.copysign(compliance, drive)
        stiffness = spec.inductance / spec.response  # V/A
        end, turn = limit / spec.resistance, (limit - stiffness * wanted) / (spec.resistance - stiffness)
        left = (turn - end) / (start - end)
        lag = spec.inductance / spec.resistance
        until = -lag * math.log(left) if left > 0 else math.inf
        if seconds <= until:
            return end + (start - end) * math.exp(-seconds / lag)
        start, seconds = turn, seconds - until
    return wanted + (start - wanted) * math.exp(-seconds / spec.response)


def _wanted_voltage(spec: KepcoSpec, current: float, wanted: float) -> float:
    return spec.resistance * current + spec.inductance * (wanted - current) / spec.response


def _clip(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))


def _text(value: float) -> str:
    return f"{value:.5E}"
