"""Two-channel source measure units of Keithley's series 2600B (TSP), on QCoDeS's driver."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Unpack

from qcodes.instrument import InstrumentBaseKWArgs
from qcodes.instrument_drivers.Keithley import Keithley2602B

from instruments.roles.interfaces import CompliancePolicyError, InstrumentError, LimitError, LinkError
from instruments.roles.off_recipe import OffRecipe, OffStep, Stage
from instruments.roles.quantities import NUMBER, Timeout
from instruments.wire import repeatable
from instruments.wire.session_resource import SessionResource
from instruments.wire.sessions import open_visa

PowerLineCycles = Annotated[float, NUMBER.within(0.001, 25.0, example="0.1")]

CHANNELS = ("a", "b")
OVERFLOW = 9e37
"""A reading beyond this says that the range was passed."""
AVERAGES_MAX = 100
"""Readings that the unit's filter averages at most."""
DELAY_MAX = 10.0
"""Longest wait at a voltage (s) before a reading: more would look as if the unit hung (assumed)."""

_ZERO = "smua.source.levelv=0 smub.source.levelv=0 smua.source.leveli=0 smub.source.leveli=0"
_OFF = f"{_ZERO} smua.source.output=0 smub.source.output=0 print(smua.source.output, smub.source.output)"
_IS_OFF = rb"0(\.0*)?e\+00\t0(\.0*)?e\+00"
_LIMITED = 3  # bits of the measurement condition: voltage limit, current limit
_SAME = 1e-4  # relative; what a setting may read back otherwise than asked: six digits are printed
_SWITCH = {"true": 1.0, "false": 0.0}
_DIGITS = "format.asciiprecision=6 print(format.asciiprecision)"  # whatever another program has left


class Keithley2602BSmu(Keithley2602B):
    """A Keithley 2602B; fills the role `SourceMeter`.

    All parameters are those of QCoDeS's driver (``smua.volt``, ``smub.limiti`` ...), which speaks through our session.
    Connecting changes nothing but with how many digits numbers are printed. Nothing is switched on by this class before
    its limit was set and read back.

    Parameters
    ----------
    name
        Name of the instrument in the station.
    address
        VISA resource, e.g. ``TCPIP::host::5025::SOCKET`` or ``GPIB0::26::INSTR``.
    nplc
        Power line cycles over which a current is measured, 0.001 to 25. The default is assumed.
    timeout
        Seconds allowed for an answer, beyond the time that a measurement takes.
    backend
        PyVISA back end.

    Raises
    ------
    LinkError
        Nobody answers at the address.
    InstrumentError
        What answers is no 2602B.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        nplc: PowerLineCycles = 0.1,
        timeout: Timeout = 5.0,
        backend: str = "@py",
        **kwargs: Unpack[InstrumentBaseKWArgs],
    ) -> None:
        if not 0.001 <= nplc <= 25:
            raise LimitError(f"{name}: nplc {nplc:g} is outside of 0.001 to 25 power line cycles")
        self._wire = open_visa(address, timeout=timeout, backend=backend)
        self._nplc = nplc
        self._limits: dict[str, float] = {}  # A, of channels that were switched on here
        self._reads: dict[str, tuple[float | None, int]] = {}  # range and averages that a channel has
        try:
            self._identity = self._introduction()
            self._wire.register(OffRecipe(Stage.SOURCE, (OffStep(_OFF.encode() + b"\n", _IS_OFF),), b"\n"))
            resource = SessionResource.of(self._wire)
            with repeatable.of_qcodes(self._wire):
                super().__init__(
                    name,
                    None,  # type: ignore[arg-type]  # a resource takes the place of the address
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

    def source_channels(self) -> tuple[str, ...]:
        """Names of the channels, such as ``a`` and ``b``."""
        return CHANNELS

    def switch_on(self, channel: str, current_limit: float) -> None:
        """Set 0 V and the limit (A), read both back, and only then switch on.

        Raises
        ------
        CompliancePolicyError
            A setting reads back otherwise; the output was not switched on.
        InstrumentError
            The unit reports an error, or does not switch on.
        """
        smu = _smu(channel)
        self._limits.pop(channel, None)
        self._reads.pop(channel, None)
        settings = (
            f"{smu}.source.leveli=0 {smu}.source.levelv=0 {smu}.source.func=1 {smu}.source.autorangev=1 "
            f"{smu}.source.limiti={current_limit:.6g} {smu}.sense=0 {smu}.measure.nplc={self._nplc:g}"
        )
        asked = {"source.func": 1.0, "source.levelv": 0.0, "source.limiti": current_limit, "sense": 0.0}
        found = self._numbers(f"errorqueue.clear() {settings}", [f"{smu}.{each}" for each in asked])
        for (setting, wanted), read in zip(asked.items(), found, strict=True):
            if not math.isclose(read, wanted, rel_tol=_SAME, abs_tol=1e-12):
                unit = {"source.limiti": " A", "source.levelv": " V"}.get(setting, "")
                raise CompliancePolicyError(
                    f"{self.name}: {smu}.{setting} reads back {read:g}{unit}, asked {wanted:g}{unit}; "
                    "refusing to switch on"
                )
        self._raise_errors()
        on, limit = self._numbers(f"{smu}.source.output=1", [f"{smu}.source.output", f"{smu}.source.limiti"])
        if on != 1:
            raise InstrumentError(f"{self.name}: {smu} does not switch on: look for an interlock on the unit")
        self._limits[channel] = limit

    def compliance(self, channel: str) -> float:
        """The current limit (A) as it reads back."""
        return self._numbers("", [f"{_smu(channel)}.source.limiti"])[0]

    def read_current(
        self, sense: str, drive: str, voltage: float, *, full_scale: float | None = None, averages: int = 1
    ) -> float:
        """Put channel `drive` to a voltage (V), measure the current out of channel `sense` (A), go back to 0 V.

        +-inf where the range `full_scale` (A) is passed, or one of the two channels is at its limit: the cell did not
        see the voltage then. An answer is proof that the channel is at 0 V again.

        Raises
        ------
        InstrumentError
            A channel was not switched on by `switch_on`, or the unit reports an error.
        """
        self._require_on(sense, drive)
        source = f"{_smu(drive)}.source"
        line = (
            f"{self._reading(sense, full_scale, averages)}{source}.levelv={voltage:.9g} "
            f"xbar_i={_smu(sense)}.measure.i() xbar_s=status.measurement.instrument.{_smu(sense)}.condition "
            f"xbar_l={source}.compliance {source}.levelv=0 print(xbar_i, xbar_s, xbar_l, errorqueue.count)"
        )
        current, condition, beyond, errors = self._answers(line, "fibi", self._duration(averages))
        if errors:
            self._raise_errors()
        if beyond or int(condition) & _LIMITED or abs(current) > OVERFLOW:
            return math.copysign(math.inf, voltage if sense == drive else -voltage)
        return current

    def hold_voltage(self, drive: str, voltage: float, sense: str, *, delay: float = 0.0) -> tuple[float, bool]:
        """Put channel `drive` to a voltage (V) and leave it there; after `delay` (s), the current out of `sense` (A).

        The unit chooses the range: a curve spans several decades. If the answer is lost, it is asked again: the voltage
        stands as long.

        Returns
        -------
        The current, and whether one of the two channels is at its limit.

        Raises
        ------
        InstrumentError
            A channel was not switched on by `switch_on`, or the unit reports an error.
        """
        self._require_on(sense, drive)
        if not 0 <= delay <= DELAY_MAX:
            raise LimitError(f"{self.name}: a delay of {delay:g} s is outside of 0 to {DELAY_MAX:g} s")
        source, smu = f"{_smu(drive)}.source", _smu(sense)
        line = (
            f"{self._reading(sense, None, 1)}{smu}.measure.delay={delay:.6g} "
            f"{source}.levelv={voltage:.9g} xbar_i={smu}.measure.i() {smu}.measure.delay=0 "
            f"print(xbar_i, {source}.compliance, {smu}.source.compliance, errorqueue.count)"
        )
        current, driving, sensing, errors = self._answers(line, "fbbi", self._duration(1) + 2 * delay)
        if errors:
            self._raise_errors()
        return current, bool(driving or sensing) or abs(current) > OVERFLOW

    def switch_off(self) -> None:
        """Put all channels to 0 V, then switch them off, and read back that they are."""
        self._limits.clear()
        self._see_off(lambda: repeatable.ask(self._wire, _OFF, self._reintroduce, _outputs))

    def safe(self) -> None:
        """Switch off, whatever another thread asks of it.

        Raises
        ------
        InstrumentError
            It does not say that it is off: pull its interlock or switch it off by hand.
        """
        self._limits.clear()
        self._see_off(lambda: repeatable.off(self._wire, _OFF, self._reintroduce, _outputs))

    def close(self) -> None:
        """Close the connection; outputs stay as they are."""
        wire = self.__dict__.get("_wire")
        if wire is not None:
            wire.close()
        super().close()

    def connect_message(self, idn_param: str = "IDN", begin_time: float | None = None) -> None:
        """Say in the log, not on the screen, who has answered."""
        self.log.info("connected to %s", self._identity)

    # -- the wire ------------------------------------------------------------------------------------------------

    def _introduction(self) -> str:
        """Ask who is there, and see to it that numbers are printed with the digits that read-backs need."""
        identity = repeatable.identified(
            self._wire, "KEITHLEY", "2602B", "a series 2600 unit that is known here: 2602B"
        )
        repeatable.once(self._wire, _DIGITS, lambda answer: repeatable.whole(answer, 6, 6))
        return identity

    def _reintroduce(self) -> None:
        identity = self._introduction()
        if identity != self._identity:
            raise LinkError(f"{self._wire.address}: {identity!r} answers now, before it was {self._identity!r}")

    def _require_on(self, *channels: str) -> None:
        for channel in channels:
            if channel not in self._limits:
                raise InstrumentError(f"{self.name}: channel {channel} is not switched on; switch_on it with a limit")

    def _reading(self, sense: str, full_scale: float | None, averages: int) -> str:
        """Settings of a channel for a reading, if it has others."""
        if not 1 <= averages <= AVERAGES_MAX:
            raise LimitError(f"{self.name}: averages {averages} are outside of 1 to {AVERAGES_MAX}")
        if self._reads.get(sense) == (full_scale, averages):
            return ""
        smu = _smu(sense)
        self._reads[sense] = (full_scale, averages)
        ranged = "autorangei=1" if full_scale is None else f"rangei={full_scale:.6g}"
        several = f"{smu}.measure.filter.count={averages} {smu}.measure.filter.type=1 "
        return f"{smu}.measure.{ranged} {several}{smu}.measure.filter.enable={int(averages > 1)} "

    def _duration(self, averages: int) -> float:
        """Seconds that a reading may take: at 50 Hz, twice what it should."""
        return self._wire.timeout + 2 * averages * (self._nplc / 50 + 1e-3)

    def _numbers(self, settings: str, questions: list[str]) -> list[float]:
        """Make settings and read values, in one exchange that may happen twice."""
        return self._answers(f"{settings} print({', '.join(questions)})", "f" * len(questions))

    def _answers(self, line: str, kinds: str, patience: float | None = None) -> list[float]:
        """What a line prints, see `_values`."""
        return repeatable.ask(self._wire, line, self._reintroduce, lambda answer: _values(answer, kinds), patience)

    def _raise_errors(self) -> None:
        """Read the error queue; the first error is raised, the rest is in the log."""
        line = "print(errorqueue.next())"
        errors = repeatable.drained(lambda: repeatable.ask(self._wire, line, self._reintroduce, _error), self.name)
        for each in errors[1:]:
            self.log.warning("%s: %s", self.name, each)
        if errors:
            raise InstrumentError(f"{self.name} says {errors[0]}")

    def _see_off(self, told: Callable[[], list[float]]) -> None:
        if any(told()) and any(outputs := told()):  # twice: a damaged zero is no output that stays on
            raise InstrumentError(f"{self.name} was told to switch off and reports {outputs}: switch it off by hand")


def _smu(channel: str) -> str:
    if channel not in CHANNELS:
        raise LimitError(f"channel {channel!r} is none of {', '.join(CHANNELS)}")
    return f"smu{channel}"


def _values(answer: str, kinds: str) -> list[float]:
    """Printed values by their kinds: ``f`` a number, ``i`` a whole one that is not negative, ``b`` true or false."""
    parts = answer.split("\t")
    if len(parts) != len(kinds):
        hint = "; localnode.prompts=0 switches its prompts off" if "TSP" in answer else ""
        raise ValueError(f"{len(kinds)} values were asked for{hint}")
    readers = {"f": repeatable.decimal, "i": lambda part: repeatable.whole(part, 0), "b": lambda part: _SWITCH[part]}
    return [readers[kind](part) for kind, part in zip(kinds, parts, strict=True)]


def _outputs(answer: str) -> list[float]:
    return _values(answer, "ii")


def _error(answer: str) -> tuple[int, str]:
    code, message, *_ = answer.split("\t")
    return repeatable.whole(code), f"{repeatable.whole(code)} {message}"
