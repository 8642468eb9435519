"""A virtual Keysight 33512B waveform generator: two channels, SCPI, wired to the rack.

It keeps the settings of both channels as the real one does (levels belong to the load it is told, the output itself
does not), and fires bursts of pulses when it is triggered. It knows pulses and DC; any other waveform, everything that
runs without a trigger, and an endless burst from its trigger until something ends it, is followed as the largest
voltage that it reaches, which is what it would do to a cell. A burst of many pulses is followed pulse by pulse at
first, then in ever longer pieces, each of them as one pulse of the same length in all. Edges are sharp: they are short
against the width of a pulse that writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

from pydantic import Field

from sim_backends.array.files.quantity import Ohm, Second, Specification
from sim_backends.virtual.rack_wiring import Output, RackWiring
from sim_backends.wire.scpi import (
    BAD_TEXT,
    CONFLICT,
    DEVICE,
    TOO_MUCH,
    Handler,
    Scpi,
    ScpiFault,
    number,
    one_of,
    with_one,
    without,
)
from sim_backends.wire.scpi_message import unquoted

INFINITE = 9.9e37
"""How the instrument writes infinity: a high-impedance load, an endless burst."""

_SWITCH = {"OFF": 0, "0": 0, "ON": 1, "1": 1}
_WORDS = {"SINusoid": "SIN", "SQUare": "SQU", "TRIangle": "TRI", "RAMP": "RAMP", "PULSe": "PULS", "PRBS": "PRBS",
          "NOISe": "NOIS", "ARBitrary": "ARB", "DC": "DC"}  # fmt: skip
_HALF_SPAN = 10.0  # V without a load
_SMALLEST = 2e-3  # Vpp without a load
_SLACK = 1e-9
_TEXT_MAX = 40  # letters that the display holds
_SINGLY = 32  # cycles of a burst that are followed one by one
_GROWTH = 4  # after that, a piece has so small a part of the cycles before it


class PulserSpec(Specification):
    """The generator. Limits are those of the series."""

    model: str = "33512B"
    resistance: Ohm = Field(default=50.0, gt=0)
    """Of each output."""
    width_min: Second = Field(default=16e-9, gt=0)
    trigger_time: Second = 1e-3
    """What a trigger over the bus takes (assumed)."""


@dataclass
class _Channel:
    """Settings of one channel; levels are those without a load (V)."""

    amplitude: float = 0.2
    offset: float = 0.0
    load: float = 50.0
    on: bool = False
    endless: bool = False
    """Whether an endless burst was triggered and nothing has ended it."""
    numbers: dict[str, float] = field(
        default_factory=lambda: {
            "frequency": 1e3, "phase": 0.0, "width": 100e-6, "lead": 8.4e-9, "trail": 8.4e-9, "symmetry": 100.0,
            "ncycles": 1.0, "burst_phase": 0.0, "burst_period": 10e-3, "trigger_count": 1.0, "delay": 0.0,
            "timer": 10e-3,
        }
    )  # fmt: skip
    words: dict[str, str] = field(
        default_factory=lambda: {
            "function": "SIN", "unit": "VPP", "polarity": "NORM", "hold": "WIDT", "frequency_mode": "CW",
            "burst_mode": "TRIG", "gate": "NORM", "trigger": "IMM", "slope": "POS", "burst": "0",
        }
    )  # fmt: skip

    def reset(self) -> None:
        """Back to what it is at power-on."""
        fresh = _Channel()
        self.amplitude, self.offset, self.load, self.on = fresh.amplitude, fresh.offset, fresh.load, fresh.on
        self.endless = False
        self.numbers.update(fresh.numbers)
        self.words.update(fresh.words)

    @property
    def high(self) -> float:
        return self.offset + self.amplitude / 2

    @property
    def low(self) -> float:
        return self.offset - self.amplitude / 2

    @property
    def waits(self) -> bool:
        """Whether it is at rest until it is triggered."""
        return self.words["burst"] == "1" and self.words["trigger"] in ("BUS", "EXT") and not self.endless

    @property
    def rest(self) -> float:
        """Voltage between pulses (V)."""
        if self.words["function"] == "DC":
            return self.offset
        low, high = (self.low, self.high) if self.words["polarity"] == "NORM" else (self.high, self.low)
        return low if self.waits else max(low, high, key=abs)

    @property
    def peak(self) -> float:
        """Voltage within a pulse (V)."""
        return self.high if self.words["polarity"] == "NORM" else self.low


class Keysight33500:
    """The generator's side of the wire; a `faulty_wire.Dialect`.

    Parameters
    ----------
    wiring
        What its outputs are wired to.
    spec
        The generator.
    """

    end = b"\n"

    def __init__(self, wiring: RackWiring, spec: PulserSpec) -> None:
        self._wiring, self._spec = wiring, spec
        self._channels = {1: _Channel(), 2: _Channel()}
        self._text = ""
        self._sync, self._sync_source = "0", "CH1"
        identity = f"Agilent Technologies,{spec.model},SIM0003,3.05-1.19-2.00-52-00"
        handlers: dict[str, Handler] = {
            "*TRG": without(self._trigger),
            "ABORt": without(self._abort),
            "DISPlay:TEXT": with_one(self._set_text),
            "DISPlay:TEXT?": without(self._tell_text),
            "DISPlay:TEXT:CLEar": without(lambda: self._set_text('""')),
            "SYSTem:BEEPer[:IMMediate]": without(lambda: None),
            "SYSTem:VERSion?": without(lambda: "1999.0"),
            "[SOURce:]PHASe:SYNChronize": without(lambda: None),
            "OUTPut:SYNC[:STATe]": with_one(self._set_sync),
            "OUTPut:SYNC[:STATe]?": without(lambda: self._sync),
            "OUTPut:SYNC:SOURce": with_one(self._set_sync_source),
            "OUTPut:SYNC:SOURce?": without(lambda: self._sync_source),
        }
        for at, channel in self._channels.items():
            handlers |= self._commands(at, channel)
            wiring.attach(f"pulser.{at}", partial(self._overloaded, at))
        self._scpi = Scpi(
            identity, handlers, self._reset, plus="+", lock=wiring.bench.lock,
            busy=lambda: any(each.endless for each in self._channels.values()),
        )  # fmt: skip

    # -- the wire ------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Forget what the last client sent half of; outputs and settings stay."""
        self._scpi.forget()

    def receive(self, data: bytes) -> bytes:
        """Answer all complete lines."""
        return self._scpi.receive(data)

    def request_name(self, request: bytes) -> str:
        """The line."""
        return request.decode("ascii", "replace").strip()

    def busy_reply(self, request: bytes) -> bytes:
        """Not how this instrument refuses."""
        return b""

    def deadline(self) -> float | None:
        """Nothing happens by itself."""
        return None

    def expired(self) -> None:
        """Never called."""

    def _commands(self, at: int, channel: _Channel) -> dict[str, Handler]:
        source = "[SOURce[1]:]" if at == 1 else "SOURce2:"
        digit = "[1]" if at == 1 else "2"
        found: dict[str, Handler] = {}

        def control(header: str, write: Callable[[str], None], read: Callable[[], str]) -> None:
            found[header] = with_one(write)
            found[f"{header}?"] = without(read)

        level = f"{source}VOLTage[:LEVel][:IMMediate]"
        control(f"{level}[:AMPlitude]", partial(self._set_amplitude, channel), partial(_shown, channel, "amplitude"))
        control(f"{level}:OFFSet", partial(self._set_offset, channel), partial(_shown, channel, "offset"))
        control(f"{level}:HIGH", partial(self._set_high, channel), partial(_shown, channel, "high"))
        control(f"{level}:LOW", partial(self._set_low, channel), partial(_shown, channel, "low"))
        control(f"{source}VOLTage:UNIT", self._set_unit, lambda: "VPP")
        control(f"{source}FUNCtion[:SHAPe]", partial(self._set_function, channel), lambda: channel.words["function"])
        for header, name, low, high in (
            (f"{source}FREQuency[:CW]", "frequency", 1e-6, 20e6),
            (f"{source}FUNCtion:PULSe:PERiod", "period", 33e-9, 1e6),
            (f"{source}FUNCtion:PULSe:WIDTh", "width", self._spec.width_min, 1e6),
            (f"{source}FUNCtion:PULSe:TRANsition:LEADing", "lead", 8.4e-9, 1e-6),
            (f"{source}FUNCtion:PULSe:TRANsition:TRAiling", "trail", 8.4e-9, 1e-6),
            (f"{source}FUNCtion:RAMP:SYMMetry", "symmetry", 0, 100),
            (f"{source}PHASe[:ADJust]", "phase", -360, 360),
            (f"{source}BURSt:NCYCles", "ncycles", 1, 1e8),
            (f"{source}BURSt:PHASe", "burst_phase", -360, 360),
            (f"{source}BURSt:INTernal:PERiod", "burst_period", 1e-6, 8e3),
            (f"TRIGger{digit}:COUNt", "trigger_count", 1, 1e6),
            (f"TRIGger{digit}:DELay", "delay", 0, 1e3),
            (f"TRIGger{digit}:TIMer", "timer", 1e-6, 8e3),
        ):
            control(header, partial(self._set_number, channel, name, low, high), partial(_told, channel, name))
        edges = f"{source}FUNCtion:PULSe:TRANsition[:BOTH]"
        control(edges, partial(self._set_edges, channel), partial(_told, channel, "lead"))
        for header, name, words in (
            (f"{source}FREQuency:MODE", "frequency_mode", ("CW", "LIST", "SWEep", "FIXed")),
            (f"{source}FUNCtion:PULSe:HOLD", "hold", ("WIDTh", "DCYCle")),
            (f"{source}BURSt:MODE", "burst_mode", ("TRIGgered", "GATed")),
            (f"{source}BURSt:GATE:POLarity", "gate", ("NORMal", "INVerted")),
            (f"TRIGger{digit}:SOURce", "trigger", ("IMMediate", "EXTernal", "TIMer", "BUS")),
            (f"TRIGger{digit}:SLOPe", "slope", ("POSitive", "NEGative")),
            (f"OUTPut{digit}:POLarity", "polarity", ("NORMal", "INVerted")),
        ):
            control(header, partial(self._set_word, channel, name, words), partial(channel.words.__getitem__, name))
        control(f"{source}BURSt[:STATe]", partial(self._set_burst, channel), lambda: channel.words["burst"])
        control(f"OUTPut{digit}[:STATe]", partial(self._set_output, channel), lambda: str(int(channel.on)))
        control(f"OUTPut{digit}:LOAD", partial(self._set_load, channel), lambda: _text(channel.load))
        return found

    # -- levels --------------------------------------------------------------------------------------------------

    def _set_levels(self, channel: _Channel, low: float, high: float) -> None:
        """Levels without a load (V)."""
        if not (low >= -_HALF_SPAN - _SLACK and high <= _HALF_SPAN + _SLACK):
            raise ScpiFault(CONFLICT)
        channel.amplitude, channel.offset = high - low, (high + low) / 2
        self._put_out("VOLT")

    def _set_amplitude(self, channel: _Channel, text: str) -> None:
        share = _share(channel)
        vpp = number(text, _SMALLEST * share, 2 * _HALF_SPAN * share) / share
        self._set_levels(channel, channel.offset - vpp / 2, channel.offset + vpp / 2)

    def _set_offset(self, channel: _Channel, text: str) -> None:
        share = _share(channel)
        offset = number(text, -_HALF_SPAN * share, _HALF_SPAN * share) / share
        half = 0.0 if channel.words["function"] == "DC" else channel.amplitude / 2
        if abs(offset) + half > _HALF_SPAN + _SLACK:
            raise ScpiFault(CONFLICT)
        channel.offset = offset
        self._put_out("VOLT:OFFS")

    def _set_high(self, channel: _Channel, text: str) -> None:
        share = _share(channel)
        high = number(text, -_HALF_SPAN * share, _HALF_SPAN * share) / share
        if high - channel.low >= _SMALLEST - _SLACK:
            self._set_levels(channel, channel.low, high)
            return
        self._set_levels(channel, high - _SMALLEST, high)  # the other level gives way, and it says so
        raise ScpiFault(CONFLICT)

    def _set_low(self, channel: _Channel, text: str) -> None:
        share = _share(channel)
        low = number(text, -_HALF_SPAN * share, _HALF_SPAN * share) / share
        if channel.high - low >= _SMALLEST - _SLACK:
            self._set_levels(channel, low, channel.high)
            return
        self._set_levels(channel, low, low + _SMALLEST)
        raise ScpiFault(CONFLICT)

    def _set_load(self, channel: _Channel, text: str) -> None:
        channel.load = INFINITE if text.upper() in ("INF", "INFINITY") else number(text, 1.0, INFINITE)

    def _set_unit(self, text: str) -> None:
        if text.upper() != "VPP":  # what the others mean depends on the waveform; nobody here needs them
            raise ScpiFault(CONFLICT)

    # -- everything else that is set -----------------------------------------------------------------------------

    def _set_function(self, channel: _Channel, text: str) -> None:
        channel.endless = False
        channel.words["function"] = list(_WORDS.values())[one_of(text, {each: at for at, each in enumerate(_WORDS)})]
        self._put_out("FUNC")

    def _set_number(self, channel: _Channel, name: str, low: float, high: float, text: str) -> None:
        if name == "ncycles":
            self._end(channel, "BURS:NCYC")
        infinite = name in ("ncycles", "trigger_count") and text.upper() in ("INF", "INFINITY")
        value = INFINITE if infinite else number(text, low, high)
        if name == "period":
            name, value = "frequency", 1 / value
        longest = 1 / (value if name == "frequency" else channel.numbers["frequency"]) - self._spec.width_min
        if channel.words["function"] == "PULS":
            if name == "width" and value > longest:
                raise ScpiFault(CONFLICT)
            channel.numbers["width"] = min(channel.numbers["width"], longest)  # it gives way to a shorter period
        channel.numbers[name] = value

    def _set_edges(self, channel: _Channel, text: str) -> None:
        channel.numbers["lead"] = channel.numbers["trail"] = number(text, 8.4e-9, 1e-6)

    def _set_word(self, channel: _Channel, name: str, words: tuple[str, ...], text: str) -> None:
        found = words[one_of(text, {each: at for at, each in enumerate(words)})]
        channel.endless = channel.endless and name not in ("burst_mode", "trigger")
        channel.words[name] = "".join(letter for letter in found if letter.isupper())
        self._put_out(name)

    def _set_burst(self, channel: _Channel, text: str) -> None:
        channel.words["burst"], channel.endless = str(one_of(text, _SWITCH)), False
        self._put_out("BURS")

    def _set_output(self, channel: _Channel, text: str) -> None:
        channel.on = bool(one_of(text, _SWITCH))
        self._put_out("OUTP")

    def _set_text(self, text: str) -> None:
        content = unquoted(text)
        if content is None:
            raise ScpiFault(BAD_TEXT)
        if len(content) > _TEXT_MAX:
            raise ScpiFault(TOO_MUCH)
        self._text = content

    def _tell_text(self) -> str:
        return '"' + self._text.replace('"', '""') + '"'

    def _set_sync(self, text: str) -> None:
        self._sync = str(one_of(text, _SWITCH))

    def _set_sync_source(self, text: str) -> None:
        self._sync_source = f"CH{one_of(text, {'CH1': 1, 'CH2': 2})}"

    def _reset(self) -> None:
        for channel in self._channels.values():
            channel.reset()
        self._text = ""
        self._sync, self._sync_source = "0", "CH1"
        self._put_out("*RST")

    # -- what comes out ------------------------------------------------------------------------------------------

    def _put_out(self, why: str) -> None:
        """Have the rack know what both outputs do now."""
        for at, channel in self._channels.items():
            name, r = f"pulser.{at}", self._spec.resistance + self._wiring.spec.series_resistance
            self._wiring.put_out(name, Output(channel.rest, r) if channel.on else None, f"{name} {why}")

    def _overloaded(self, at: int) -> None:
        """Something drives against an output: it protects itself."""
        self._channels[at].on = False
        self._scpi.fault(DEVICE)
        self._put_out("overload")

    def _trigger(self) -> None:
        """Fire the bursts of all channels that wait for the bus."""
        armed = {
            at: channel
            for at, channel in self._channels.items()
            if channel.waits and channel.words["trigger"] == "BUS" and channel.words["function"] == "PULS"
        }
        firing = {at: channel for at, channel in armed.items() if channel.on}
        endless = [channel for channel in firing.values() if channel.numbers["ncycles"] >= INFINITE]
        for channel in endless:
            channel.endless = True
        if endless:
            self._put_out("endless burst")
        counted = {at: channel for at, channel in firing.items() if not channel.endless}
        if not firing:
            self._wiring.bench.note("trigger_without_output", armed=sorted(armed))
        elif len({(c.numbers["ncycles"], c.numbers["frequency"]) for c in counted.values()}) == 1:
            self._fire(counted)
        else:  # bursts of different lengths are followed one after the other
            for at, channel in counted.items():
                self._fire({at: channel})
        if endless:
            self._wiring.dwell(self._spec.trigger_time)
        else:
            self._wiring.bench.clock.advance(self._spec.trigger_time)

    def _abort(self) -> None:
        for channel in self._channels.values():
            self._end(channel, "ABOR")

    def _end(self, channel: _Channel, why: str) -> None:
        """End an endless burst, if there is one."""
        if channel.endless:
            channel.endless = False
            self._put_out(why)

    def _fire(self, firing: dict[int, _Channel]) -> None:
        """One burst on several channels, edge by edge."""
        shape = next(iter(firing.values())).numbers
        spans = {at: (c.numbers["delay"], c.numbers["delay"] + c.numbers["width"]) for at, c in firing.items()}
        edges = sorted({edge for span in spans.values() for edge in span})
        parts = []
        for begin, end in pairwise(edges):
            high = [at for at, span in spans.items() if span[0] <= begin and end <= span[1]]
            if high:
                parts.append((end - begin, high))
        cycles = int(shape["ncycles"])
        rounds = [(cycles, 1)] if len(parts) == 1 and cycles <= _SINGLY else _pieces(cycles)
        for count, together in rounds:
            for seconds, high in parts:
                volts = {f"pulser.{at}": c.peak if at in high else c.rest for at, c in firing.items()}
                details = {"volts": volts, "text": self._text}
                self._wiring.pulse(volts, seconds, count, details, together=together)
        self._wiring.bench.clock.advance(cycles / shape["frequency"])


def _pieces(cycles: int) -> list[tuple[int, int]]:
    """A burst as what is followed: times, and how many cycles of the burst each time stands for."""
    found, done = [(1, 1)] * min(cycles, _SINGLY), min(cycles, _SINGLY)
    while done < cycles:
        found.append((1, min(cycles - done, max(1, done // _GROWTH))))
        done += found[-1][1]
    return found


def _share(channel: _Channel) -> float:
    """What the load that was told gets of the voltage without a load."""
    return 1.0 if channel.load >= INFINITE else channel.load / (channel.load + 50.0)


def _shown(channel: _Channel, name: str) -> str:
    return _text(getattr(channel, name) * _share(channel))


def _told(channel: _Channel, name: str) -> str:
    value = 1 / channel.numbers["frequency"] if name == "period" else channel.numbers[name]
    return _text(value)


def _text(value: float) -> str:
    return f"{value:+.13E}" if math.isfinite(value) else f"{INFINITE:+.13E}"
