"""A virtual Keithley 2602B source measure unit: two channels, TSP, wired to the rack.

What it puts out and measures is what the rack's network says: a channel holds its voltage until its current limit, and
is a source of that current beyond it. A channel that is off holds its line at 0 V with 1 mA (`offmode` NORMAL), or is
disconnected (HIGH_Z). Ranges and limits are those of the model; accuracy and noise are assumed from its class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated

import numpy as np

from sim_backends.array.dies.streams import stream
from sim_backends.array.files.quantity import NUMBER, Second, Specification, Spread
from sim_backends.virtual.rack_wiring import Output, RackWiring
from sim_backends.wire.tsp import (
    CONFLICT,
    DELAY_MAX,
    RUNTIME,
    Attribute,
    Function,
    Tsp,
    TspFault,
    Value,
    constant,
    number,
    whole,
)

_WHOLE = {"source.func", "source.output", "source.offmode", "sense", "source.autorangev", "source.autorangei",
          "measure.autorangev", "measure.autorangei", "measure.filter.type", "measure.filter.enable",
          "measure.filter.count", "measure.count", "measure.autozero", "source.highc"}  # fmt: skip
V_RANGES = (0.1, 1.0, 6.0, 40.0)
I_RANGES = (100e-9, 1e-6, 10e-6, 100e-6, 1e-3, 10e-3, 100e-3, 1.0, 3.0)
_OVER = 1.01  # full scale of a range
_OVERFLOW = 9.91e37  # what a reading beyond its range is
_CURRENT, _VOLTAGE = 0, 1
_OFF, _ON, _OFF_HIGH_Z = 0, 1, 2
_NORMAL, _HIGH_Z, _ZERO = 0, 1, 2
_BOTH_CHANNELS, _USER_SCREEN = 2.0, 3.0
_ERRORS = 2**32 - 3  # key of the unit's own stream of random numbers


LineFrequency = Annotated[float, NUMBER.within(1.0, 1000.0, example="50")]


class SmuSpec(Specification):
    """The unit. Accuracy and noise are assumed from its class of instruments."""

    model: str = "2602B"
    line_frequency: LineFrequency = 50.0
    gain_error: Spread = 2e-4
    """Standard deviation of the gain of each channel."""
    offset_error: Spread = 2e-5
    """Standard deviation of the offset of each channel, of the range."""
    noise: Spread = 5e-6
    """Standard deviation of a reading at 1 power line cycle, of the range."""
    settling: Second = 200e-6
    """What a reading takes beside its integration."""


class Keithley2602:
    """The unit's side of the wire; a `faulty_wire.Dialect`.

    Parameters
    ----------
    wiring
        What its outputs are wired to.
    spec
        The unit.
    """

    end = b"\n"

    def __init__(self, wiring: RackWiring, spec: SmuSpec) -> None:
        self._wiring = wiring
        rng = stream(wiring.bench.seed, _ERRORS)
        self._channels = {name: _Channel(name, wiring, spec, rng) for name in ("a", "b")}
        self._text, self._screen = "", _BOTH_CHANNELS
        names: dict[str, Attribute | Function] = {
            "localnode.model": constant(spec.model),
            "localnode.serialno": constant("SIM0002"),
            "localnode.revision": constant("3.3.5"),
            "localnode.linefreq": constant(spec.line_frequency),
            "delay": lambda seconds: wiring.dwell(number(seconds, 0, DELAY_MAX)),
            "display.clear": lambda: self._set_text(""),
            "display.settext": self._set_text,
            "display.gettext": lambda: self._text,
            "display.screen": Attribute(lambda: self._screen, self._set_screen),
            "display.SMUA": constant(0.0),
            "display.SMUB": constant(1.0),
            "display.SMUA_SMUB": constant(_BOTH_CHANNELS),
            "display.USER": constant(_USER_SCREEN),
            "display.sendkey": lambda key: None,
            "beeper.beep": lambda seconds, hertz: None,
        }
        for channel in self._channels.values():
            names |= channel.names()
        self._tsp = Tsp(f"Keithley Instruments Inc., Model {spec.model}, SIM0002, 3.3.5", names, self._reset,
                        lock=wiring.bench.lock)  # fmt: skip

    def connected(self) -> None:
        """Forget what the last client sent half of; outputs and settings stay."""
        self._tsp.forget()

    def receive(self, data: bytes) -> bytes:
        """Answer all complete lines."""
        return self._tsp.receive(data)

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

    def _reset(self) -> None:
        self._text, self._screen = "", _BOTH_CHANNELS
        for channel in self._channels.values():
            channel.reset()

    def _set_text(self, text: Value) -> None:
        if not isinstance(text, str):
            raise TspFault(RUNTIME, "TSP Runtime error at line 1: string expected")
        self._text, self._screen = text, _USER_SCREEN

    def _set_screen(self, value: Value) -> None:
        self._screen = whole(value, 0, 3)


class _Channel:
    """One channel: its settings, and the output that follows from them."""

    def __init__(self, letter: str, wiring: RackWiring, spec: SmuSpec, rng: np.random.Generator) -> None:
        self._smu = f"smu{letter}"
        self._output = f"smu.{letter}"
        self._wiring, self._spec = wiring, spec
        self._gain = 1 + spec.gain_error * rng.standard_normal(2)  # of current and voltage
        self._offset = spec.offset_error * rng.standard_normal(2)
        self._noise = np.random.Generator(np.random.SFC64(rng.integers(2**63)))
        self._set: dict[str, float] = {}
        self._condition = 0
        wiring.attach(self._output)
        self.reset()

    def reset(self) -> None:
        """Settings of a unit that was just switched on: output off, 0 V, 100 mA."""
        self._set = {
            "source.func": _VOLTAGE,
            "source.output": _OFF,
            "source.levelv": 0.0,
            "source.leveli": 0.0,
            "source.limitv": 40.0,
            "source.limiti": 0.1,
            "source.rangev": V_RANGES[0],
            "source.rangei": I_RANGES[0],
            "source.autorangev": 1.0,
            "source.autorangei": 1.0,
            "source.offmode": _NORMAL,
            "source.offlimiti": 1e-3,
            "source.highc": 0.0,
            "source.settling": 0.0,
            "source.delay": 0.0,
            "measure.nplc": 1.0,
            "measure.rangev": V_RANGES[0],
            "measure.rangei": I_RANGES[0],
            "measure.autorangev": 1.0,
            "measure.autorangei": 1.0,
            "measure.count": 1.0,
            "measure.delay": 0.0,
            "measure.interval": 0.0,
            "measure.autozero": 1.0,
            "measure.filter.count": 1.0,
            "measure.filter.type": 1.0,
            "measure.filter.enable": 0.0,
            "sense": 0.0,
        }
        self._condition = 0
        self._put_out("reset")

    def names(self) -> Mapping[str, Attribute | Function]:
        """Everything of the channel that TSP can name."""
        bounds: dict[str, tuple[float, float]] = {
            "source.func": (0, 1),
            "source.output": (0, 2),
            "source.levelv": (-40.4, 40.4),
            "source.leveli": (-3.03, 3.03),
            "source.limitv": (10e-3, 40.4),
            "source.limiti": (10e-9, 3.03),
            "source.offmode": (0, 2),
            "source.offlimiti": (1e-9, 3.03),
            "measure.nplc": (0.001, 25),
            "measure.count": (1, 60000),
            "measure.filter.count": (1, 100),
            "measure.filter.type": (0, 2),
        }
        found: dict[str, Attribute | Function] = {}
        for name in self._set:
            low, high = bounds.get(name, (0, 1) if not name.endswith(("delay", "interval")) else (0, 1e3))
            setter = self._set_range if name.rpartition(".")[2] in ("rangev", "rangei") else self._assign
            found[f"{self._smu}.{name}"] = Attribute(partial(self._get, name), partial(setter, name, low, high))
        found |= {
            f"{self._smu}.source.compliance": Attribute(lambda: self._limited()),
            f"{self._smu}.measure.i": lambda: self._measure("i"),
            f"{self._smu}.measure.v": lambda: self._measure("v"),
            f"{self._smu}.measure.r": lambda: self._measure("r"),
            f"{self._smu}.measure.p": lambda: self._measure("p"),
            f"{self._smu}.measure.iv": lambda: (self._measure("i"), self._measure("v")),
            f"{self._smu}.reset": self.reset,
            f"status.measurement.instrument.{self._smu}.condition": Attribute(lambda: float(self._condition)),
        }
        words = {"OUTPUT_DCAMPS": _CURRENT, "OUTPUT_DCVOLTS": _VOLTAGE, "OUTPUT_OFF": _OFF, "OUTPUT_ON": _ON,
                 "OUTPUT_HIGH_Z": _OFF_HIGH_Z, "OUTPUT_NORMAL": _NORMAL, "OUTPUT_ZERO": _ZERO, "AUTORANGE_OFF": 0,
                 "AUTORANGE_ON": 1, "SENSE_LOCAL": 0, "SENSE_REMOTE": 1, "FILTER_OFF": 0, "FILTER_ON": 1,
                 "FILTER_MOVING_AVG": 0, "FILTER_REPEAT_AVG": 1, "FILTER_MEDIAN": 2}  # fmt: skip
        return found | {f"{self._smu}.{word}": constant(float(value)) for word, value in words.items()}

    # -- settings ------------------------------------------------------------------------------------------------

    def _get(self, name: str) -> float:
        if name.startswith("measure.range") and f"source.level{name[-1]}" == self._sourced():
            return float(self._set[f"source.range{name[-1]}"])  # what is sourced is measured on the range of the source
        return float(self._set[name])

    def _assign(self, name: str, low: float, high: float, value: Value) -> None:
        limited = whole if name in _WHOLE else number
        worth = limited(float(value) if isinstance(value, bool) else value, low, high)
        quantity = name[-1]
        if name in ("source.levelv", "source.leveli"):
            if self._set[f"source.autorange{quantity}"]:
                self._set[f"source.range{quantity}"] = _range(quantity, worth)
            elif abs(worth) > _OVER * self._set[f"source.range{quantity}"]:
                raise TspFault(CONFLICT, "Value too big for range")
        self._set[name] = worth
        if name.startswith("source."):
            self._put_out(f"{self._smu}.{name}")

    def _set_range(self, name: str, low: float, high: float, value: Value) -> None:
        quantity = name[-1]
        largest = (V_RANGES if quantity == "v" else I_RANGES)[-1]
        found = _range(quantity, number(value, -largest * _OVER, largest * _OVER))
        if name.startswith("source") and abs(self._set[f"source.level{quantity}"]) > _OVER * found:
            raise TspFault(CONFLICT, "Value too big for range")
        self._set[name] = found
        self._set[name.replace("range", "autorange")] = 0.0

    def _put_out(self, why: str) -> None:
        """Have the rack know what the output does now."""
        state, output = self._set, int(self._set["source.output"])
        put: Output | None
        if output == _ON and state["source.func"] == _VOLTAGE:
            put = Output(state["source.levelv"], limit=state["source.limiti"])
        elif output == _ON:
            put = Output(state["source.limitv"], current=state["source.leveli"])
        elif output == _OFF_HIGH_Z or state["source.offmode"] == _HIGH_Z:
            put = None
        else:
            put = Output(0.0, limit=state["source.offlimiti"], on=False)
        self._wiring.put_out(self._output, put, why)
        self._wiring.bench.log.add(
            "smu",
            channel=self._output,
            output=output == _ON,
            source="v" if state["source.func"] == _VOLTAGE else "i",
            level=state["source.levelv" if state["source.func"] == _VOLTAGE else "source.leveli"],
            limit=state["source.limiti" if state["source.func"] == _VOLTAGE else "source.limitv"],
        )

    # -- measuring -----------------------------------------------------------------------------------------------

    def _limited(self) -> bool:
        return self._output in self._wiring.operate().limited

    def _measure(self, quantity: str) -> float:
        """One reading, which takes its time; the mean of several if the filter is on."""
        state, spec = self._set, self._spec
        several = state["measure.filter.count"] if state["measure.filter.enable"] else 1.0
        cycles = state["measure.nplc"] * several
        self._wiring.dwell(cycles / spec.line_frequency + spec.settling + state["measure.delay"])
        current, voltage, limited = self._wiring.measure(self._output)
        self._condition = (1 if state["source.func"] == _CURRENT else 2) if limited else 0
        if quantity == "i":
            return self._reading("i", current, cycles)
        if quantity == "v":
            return self._reading("v", voltage, cycles)
        i, v = self._reading("i", current, cycles), self._reading("v", voltage, cycles)
        if quantity == "p":
            return i * v
        return v / i if i else _OVERFLOW

    def _reading(self, quantity: str, value: float, cycles: float) -> float:
        which = "measure" if f"source.level{quantity}" != self._sourced() else "source"
        if not self._set[f"{which}.autorange{quantity}"]:
            found = self._set[f"{which}.range{quantity}"]
        else:
            found = _range(quantity, value)
            self._set[f"measure.range{quantity}"] = found
        at = 0 if quantity == "i" else 1
        read = value * self._gain[at] + found * (
            self._offset[at] + self._spec.noise / math.sqrt(cycles) * self._noise.standard_normal()
        )
        return float(read) if abs(read) <= _OVER * found else _OVERFLOW

    def _sourced(self) -> str:
        return "source.levelv" if self._set["source.func"] == _VOLTAGE else "source.leveli"


def _range(quantity: str, value: float) -> float:
    """The smallest range that holds a value."""
    ranges = V_RANGES if quantity == "v" else I_RANGES
    return next((each for each in ranges if abs(value) <= _OVER * each), ranges[-1])
