"""Two-channel waveform generators of Keysight's series 33500 as pulse generators, on QCoDeS's driver."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, TypeVar, Unpack

from qcodes.instrument import InstrumentBaseKWArgs
from qcodes.instrument_drivers.Keysight import Keysight33512B

from instruments.roles.interfaces import (
    CompliancePolicyError,
    InstrumentError,
    LimitError,
    LinkError,
    PulseNotFiredError,
    UnknownOutcomeError,
)
from instruments.roles.off_recipe import OffRecipe, OffStep, Stage
from instruments.roles.quantities import OHM, Timeout
from instruments.wire import repeatable
from instruments.wire.session_resource import SessionResource
from instruments.wire.sessions import open_visa

SeriesResistance = Annotated[float, OHM.within(0.0, 1e6, example="1 kOhm")]

T = TypeVar("T")

MODELS = ("33510B", "33512B", "33522B", "33622A")
"""Models with two channels that QCoDeS's driver knows."""
CHANNELS = (1, 2)
SOURCE_RESISTANCE = 50.0
"""Ohm of each output (data sheet of the series)."""
LEVEL_MIN, LEVEL_MAX = 2e-3, 10.0
"""Smallest and largest level of a pulse from 0 V without a load (V; data sheet)."""
WIDTH_MIN, WIDTH_MAX, WIDTH_STEP = 20e-9, 10e-3, 1e-9
"""Widths of a pulse (s): the series does 16 ns and more, and longer ones than this."""
COUNT_MAX = 10_000
"""Pulses of one burst: more would take longer than anybody wants to wait for."""

_OFF = ":OUTP1 OFF;:OUTP2 OFF;:OUTP1?;:OUTP2?"
_IS_OFF = rb"0;0"
_SETTLING = 0.2  # s; in which a command that was on its way when a connection broke has arrived or never will
_SAME = 1e-3  # relative; what a setting may read back otherwise than asked
_MARK = re.compile(r"[\w/. -]{1,30}")


class Keysight33512BPulser(Keysight33512B):
    """A Keysight 33512B; fills the role `Pulser`.

    All parameters are those of QCoDeS's driver (``ch1.amplitude`` ...), which speaks through our session. Connecting
    changes nothing.

    The instrument does not count its bursts. So every trigger goes out in one line with a text for its display, the
    mark: it is carried out together with the trigger or not at all, and still tells after a lost reply, and to another
    program after a crash, which pulse was the last. A trigger is never sent again unless the mark says that nothing was
    fired, and then only by whoever asks for the pulse.

    Parameters
    ----------
    name
        Name of the instrument in the station.
    address
        VISA resource, e.g. ``TCPIP::host::5025::SOCKET`` or ``GPIB0::10::INSTR``.
    series_resistance
        Resistor in each line, beside the 50 Ohm of the output: the generator has no compliance, so this is what bounds
        the current into a short.
    timeout
        Seconds allowed for an answer, beyond the time that a burst takes.
    backend
        PyVISA back end.

    Raises
    ------
    LinkError
        Nobody answers at the address.
    InstrumentError
        What answers is no generator of the series.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        series_resistance: SeriesResistance = 0.0,
        timeout: Timeout = 5.0,
        backend: str = "@py",
        **kwargs: Unpack[InstrumentBaseKWArgs],
    ) -> None:
        if not 0 <= series_resistance < math.inf:
            raise LimitError(f"{name}: series_resistance {series_resistance:g} Ohm; give 0 or more")
        self._wire = open_visa(address, timeout=timeout, backend=backend)
        self._resistance = SOURCE_RESISTANCE + series_resistance
        self._armed: tuple[dict[int, float], float, int] | None = None  # levels, width, count; outputs are on
        self._held: frozenset[int] = frozenset()  # channels that hold a voltage; outputs are on
        self._mark: str | None = None  # that the instrument shows, if that is known
        try:
            self._identity = self._introduction()
            self._wire.register(OffRecipe(Stage.SOURCE, (OffStep(_OFF.encode() + b"\n", _IS_OFF),), b"\n"))
            resource = SessionResource.of(self._wire)
            with repeatable.of_qcodes(self._wire):
                super().__init__(
                    name,
                    None,  # type: ignore[arg-type]  # a resource takes the place of the address
                    silent=True,
                    resource=resource,
                    device_clear=False,
                    timeout=timeout,
                    **kwargs,
                )
            repeatable.guard_parameters(self, self._wire, self._reintroduce)
        except BaseException:
            self._wire.close()
            raise

    # -- the role ------------------------------------------------------------------------------------------------

    def identify(self) -> str:
        """Maker, model, serial number and firmware."""
        return self._identity

    def current_bound(self, voltage: float) -> float:
        """Largest current (A) that a pulse of `voltage` (V) can drive: into a short, through what is in the line."""
        return abs(voltage) / self._resistance

    def arm(self, levels: Mapping[int, float], width: float, *, count: int = 1) -> None:
        """Ready channels for pulses of these levels (V without a load, by channel), read back; outputs on at 0 V.

        Channels without a level are switched off.

        Raises
        ------
        LimitError
            A level, the width or the count is beyond what the generator does; nothing was sent.
        CompliancePolicyError
            A setting reads back otherwise; outputs are off.
        """
        wanted = (dict(levels), width, count)
        self._check(*wanted)
        if self._armed == wanted:
            return
        with self._wire.lock:
            on = self._only_levels_change(wanted)
            try:
                if not on:
                    self.switch_off()
                    self._set_up(*wanted)
                self._armed = None
                self._set_levels(levels)
                if not on:
                    self._switch_on(list(levels))
            except InstrumentError:
                self.switch_off()
                raise
            self._armed = wanted

    def fire(self, mark: str) -> None:
        """Fire once, never repeated, and leave `mark` in the instrument with the same command.

        Raises
        ------
        PulseNotFiredError
            The reply is lost, and the instrument shows the mark of the pulse before.
        UnknownOutcomeError
            The reply is lost, and whether it was fired cannot be found out.
        InstrumentError
            Nothing is armed (nothing was fired), or the generator reports an error after it has fired.
        """
        if not _MARK.fullmatch(mark):
            raise LimitError(f"{self.name}: the mark {mark!r} must be 1 to 30 letters, digits and / . - _")
        with self._wire.lock:
            if self._armed is None:
                raise InstrumentError(f"{self.name}: no pulse is armed; nothing was fired")
            before = self.last_mark() if self._mark is None else self._mark
            if before == mark:
                raise LimitError(f"{self.name}: the mark {mark!r} was used for the last pulse; choose another")
            _, width, count = self._armed
            self._mark = None
            line = f"*TRG;*WAI;:DISP:TEXT '{mark}';:DISP:TEXT?;:SYST:ERR?"
            try:
                error = repeatable.once(
                    self._wire,
                    line,
                    lambda answer: _after_trigger(answer, mark),
                    self._wire.timeout + 4 * width * count,
                )
            except LinkError as fault:
                self._find_out(mark, before, fault)
                return
            self._mark = mark
        if error[0]:
            self._armed = None
            raise InstrumentError(
                f"{self.name} fired {mark!r} and says {error[1]}; look for a short or a source against it"
            )

    def hold(self, levels: Mapping[int, float]) -> None:
        """Hold channels at voltages (V without a load, by channel) until told otherwise, read back.

        From off they go on at 0 V first. Channels without a level are switched off.

        Raises
        ------
        LimitError
            A level is beyond what the generator does; nothing was sent.
        CompliancePolicyError
            A setting reads back otherwise; outputs are off.
        """
        for channel, level in levels.items():
            self._check_channel(channel)
            if not abs(level) <= LEVEL_MAX:
                raise LimitError(
                    f"{self.name}: {level:g} V on channel {channel}; it holds {LEVEL_MAX:g} V, either sign"
                )
        with self._wire.lock:
            try:
                if self._held != levels.keys():
                    self.switch_off()
                    self._set_up_direct(levels)
                    self._set_offsets(dict.fromkeys(levels, 0.0))
                    self._switch_on(list(levels))
                    self._held = frozenset(levels)
                self._set_offsets(levels)
            except InstrumentError:
                self.switch_off()
                raise

    def source_resistance(self) -> float:
        """Resistance (Ohm) of an output and what is in its line: what a load takes of a level."""
        return self._resistance

    def last_mark(self) -> str:
        """The mark of the last pulse that was fired; empty since power-on."""
        return self._ask("DISP:TEXT?", _in_quotes)

    def switch_off(self) -> None:
        """Switch all channels off, and read back that they are."""
        self._armed, self._held = None, frozenset()
        self._see_off(lambda: self._ask(_OFF, _outputs))

    def safe(self) -> None:
        """Switch off, whatever another thread asks of it.

        Raises
        ------
        InstrumentError
            It does not say that it is off: switch it off by hand.
        """
        self._armed, self._held = None, frozenset()
        self._see_off(lambda: repeatable.off(self._wire, _OFF, self._reintroduce, _outputs))

    def close(self) -> None:
        """Close the connection; outputs stay as they are."""
        wire = self.__dict__.get("_wire")
        if wire is not None:
            wire.close()
        super().close()

    # -- pulses --------------------------------------------------------------------------------------------------

    def _check(self, levels: dict[int, float], width: float, count: int) -> None:
        for channel, level in levels.items():
            self._check_channel(channel)
            if not LEVEL_MIN <= abs(level) <= LEVEL_MAX:
                raise LimitError(
                    f"{self.name}: a pulse of {level:g} V on channel {channel} is outside of {LEVEL_MIN:g} V to "
                    f"{LEVEL_MAX:g} V, either sign"
                )
        if not levels:
            raise LimitError(f"{self.name}: no channel has a level")
        if not WIDTH_MIN <= width <= WIDTH_MAX:
            raise LimitError(f"{self.name}: a width of {width:g} s is outside of {WIDTH_MIN:g} s to {WIDTH_MAX:g} s")
        if not 1 <= count <= COUNT_MAX or count != int(count):
            raise LimitError(f"{self.name}: a burst of {count} pulses is outside of 1 to {COUNT_MAX}")

    def _check_channel(self, channel: int) -> None:
        if channel not in CHANNELS:
            raise LimitError(f"{self.name}: channel {channel} is none of {', '.join(map(str, CHANNELS))}")

    def _set_up_direct(self, channels: Iterable[int]) -> None:
        """Constant voltage, with the outputs off, and read back."""
        for channel in channels:
            source = f":SOUR{channel}"
            settings = f"*CLS;:OUTP{channel}:LOAD INF;{source}:BURS:STAT 0;{source}:FUNC DC;:OUTP{channel}:POL NORM"
            asked: dict[str, str | float] = {
                f":OUTP{channel}:LOAD?": 9.9e37, f"{source}:BURS:STAT?": "0", f"{source}:FUNC?": "DC",
                f":OUTP{channel}:POL?": "NORM",
            }  # fmt: skip
            self._compare(f"{settings};{';'.join(asked)}", asked)
        self._raise_errors()

    def _set_offsets(self, levels: Mapping[int, float]) -> None:
        """Voltages that are held, read back."""
        settings = [f":SOUR{channel}:VOLT:OFFS {level:.6E}" for channel, level in levels.items()]
        asked: dict[str, str | float] = {f":SOUR{channel}:VOLT:OFFS?": level for channel, level in levels.items()}
        self._compare(";".join([*settings, *asked]), asked)

    def _only_levels_change(self, wanted: tuple[dict[int, float], float, int]) -> bool:
        """Whether what is armed differs only in the size of its levels, which leaves the outputs at 0 V."""
        if self._armed is None:
            return False
        before, after = self._armed[0], wanted[0]
        same_signs = before.keys() == after.keys() and all(before[each] * after[each] > 0 for each in after)
        return same_signs and self._armed[1:] == wanted[1:]

    def _set_up(self, levels: dict[int, float], width: float, count: int) -> None:
        """Everything but levels, with the outputs off, and read back."""
        period = 2 * width + 100e-9
        for channel, level in levels.items():
            source, polarity = f":SOUR{channel}", "NORM" if level > 0 else "INV"
            settings = (
                f"*CLS;:OUTP{channel}:LOAD INF;{source}:FUNC PULS;{source}:BURS:STAT 0;{source}:FUNC:PULS:WIDT 2E-8;"
                f"{source}:FUNC:PULS:PER {period:.9E};{source}:FUNC:PULS:WIDT {width:.9E};{source}:BURS:MODE TRIG;"
                f"{source}:BURS:NCYC {count};:TRIG{channel}:SOUR BUS;:TRIG{channel}:DEL 0;{source}:BURS:STAT 1;"
                f":OUTP{channel}:POL {polarity};{source}:VOLT:OFFS 0;{source}:VOLT {2 * LEVEL_MIN:.4E}"
            )
            asked: dict[str, str | float] = {
                f":OUTP{channel}:LOAD?": 9.9e37, f"{source}:FUNC?": "PULS", f"{source}:FUNC:PULS:WIDT?": width,
                f"{source}:BURS:MODE?": "TRIG", f"{source}:BURS:NCYC?": float(count), f":TRIG{channel}:SOUR?": "BUS",
                f":TRIG{channel}:DEL?": 0.0, f"{source}:BURS:STAT?": "1", f":OUTP{channel}:POL?": polarity,
            }  # fmt: skip
            self._compare(f"{settings};{';'.join(asked)}", asked)
        self._raise_errors()

    def _set_levels(self, levels: Mapping[int, float]) -> None:
        """Pulses from 0 V to their levels, read back."""
        settings, asked = [], dict[str, str | float]()
        for channel, level in levels.items():
            volts = f":SOUR{channel}:VOLT"
            moving, resting = ("HIGH", "LOW") if level > 0 else ("LOW", "HIGH")
            settings += [f"{volts}:{moving} {level:.9E}", f"{volts}:{resting} 0"]
            asked |= {f"{volts}:{moving}?": level, f"{volts}:{resting}?": 0.0}
        self._compare(";".join([*settings, *asked]), asked)

    def _compare(self, line: str, asked: Mapping[str, str | float]) -> None:
        """Make settings, and see that every one reads back as it was made."""
        self._ask(line, lambda answer: self._see_same(asked, answer))

    def _see_same(self, asked: Mapping[str, str | float], answer: str) -> None:
        found = answer.split(";")
        for question, wanted, read in zip(asked, asked.values(), found, strict=False):
            if isinstance(wanted, str):
                same = read == wanted
            else:
                near = 1e-4 if "VOLT" in question else 1e-12
                same = math.isclose(repeatable.decimal(read), wanted, rel_tol=_SAME, abs_tol=near)
            if not same:
                raise CompliancePolicyError(
                    f"{self.name}: {question} reads back {read}, asked {wanted}; refusing to switch on"
                )
        if len(found) != len(asked):
            raise ValueError(f"{len(asked)} questions were asked")

    def _switch_on(self, channels: list[int]) -> None:
        states = {each: str(int(each in channels)) for each in CHANNELS}
        line = ";".join(f":OUTP{each} {state}" for each, state in states.items())
        answer = self._ask(f"{line};:OUTP1?;:OUTP2?", _outputs)
        if answer.split(";") != list(states.values()):
            raise InstrumentError(f"{self.name} does not switch on as it should: outputs are {answer}")

    def _find_out(self, mark: str, before: str, fault: LinkError) -> None:
        """Whether a trigger whose reply is lost was carried out; returns if it was.

        The outputs are switched off first: should the trigger still be on its way, it fires nothing.
        """
        self._armed = None
        try:
            shown = self._ask(f"{_OFF};:DISP:TEXT?", lambda answer: _in_quotes(answer.split(";", 2)[2]))
            if shown == before:
                time.sleep(_SETTLING)
                shown = self.last_mark()
        except InstrumentError as error:
            raise UnknownOutcomeError(
                f"{self.name}: pulse {mark!r} was sent and its reply lost ({fault}); nobody answers now ({error}). "
                "Count it as fired"
            ) from error
        if shown == mark:
            self.log.warning("%s: the reply to pulse %r was lost, it was fired: %s", self.name, mark, fault)
            return
        if shown == before and before:  # an empty one may be that of a restart, which takes the mark with it
            raise PulseNotFiredError(f"{self.name}: pulse {mark!r} was not fired: {fault}")
        raise UnknownOutcomeError(
            f"{self.name}: the reply to pulse {mark!r} was lost, and the generator shows {shown!r}: it was or may have "
            "been restarted, or another program uses it. Count the pulse as fired"
        )

    # -- the wire ------------------------------------------------------------------------------------------------

    def _introduction(self) -> str:
        makers = "AGILENT|KEYSIGHT"
        return repeatable.identified(
            self._wire, makers, "|".join(MODELS), f"a 33500 generator that is known here: {', '.join(MODELS)}"
        )

    def _reintroduce(self) -> None:
        identity = self._introduction()
        if identity != self._identity:
            raise LinkError(f"{self._wire.address}: {identity!r} answers now, before it was {self._identity!r}")

    def _raise_errors(self) -> None:
        """Read the error queue; the first error is raised, the rest is in the log."""
        errors = repeatable.drained(lambda: self._ask("SYST:ERR?", repeatable.scpi_error), self.name)
        for each in errors[1:]:
            self.log.warning("%s: %s", self.name, each)
        if errors:
            raise InstrumentError(f"{self.name} says {errors[0]}")

    def _see_off(self, told: Callable[[], str]) -> None:
        if told() != "0;0" and (answer := told()) != "0;0":  # twice: a damaged zero is no output that stays on
            raise InstrumentError(f"{self.name} was told to switch off and reports {answer!r}: switch it off by hand")

    def _ask(self, line: str, read: repeatable.Read[T]) -> T:
        return repeatable.ask(self._wire, line, self._reintroduce, read)


def _outputs(answer: str) -> str:
    return repeatable.matching("[01];[01]", answer)[0]


def _in_quotes(answer: str) -> str:
    return repeatable.matching(r'"(.*)"', answer)[1].replace('""', '"')


def _after_trigger(answer: str, mark: str) -> tuple[int, str]:
    """What the error queue says after a trigger, if the mark was left with it."""
    shown, _, error = answer.partition(";")
    if _in_quotes(shown) != mark:
        raise ValueError(f"it does not show the mark {mark!r}")
    return repeatable.scpi_error(error)
