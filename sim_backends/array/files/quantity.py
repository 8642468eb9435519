"""Physical values in configuration files: "5 kOhm", 5000 or {value: 5 kOhm, source: "..."}.

Every value has a dimension, declared where the entry is declared, and a bound beyond which it is a slip of the pen. A
text is the decimal number that it says, rounded once, or it is refused; the grammar is that of
`instruments.roles.quantities`, which this side of the wire may not import: a number, an exponent or a prefix, a unit.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from quantiphy import Quantity

#: Powers of ten by prefix; both letters that are drawn as a micro sign are one.
PREFIXES = {"f": -15, "p": -12, "n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9}
_TEXT = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))([eE][+-]?[0-9]+)?(?: ?([^\s\d.,+_-][^\s,]*))?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,4000}")


@dataclass(frozen=True)
class Dimension:
    """What a quantity is measured in, and between what values it is plausible; the metadata of an annotated float.

    Attributes
    ----------
    symbols
        How the unit is written; the first is the one shown. Empty: a plain number.
    example
        A text that is right, for messages.
    least, most
        Smallest and largest plausible value (SI).
    above
        Whether `least` itself is refused.
    prefixed
        Whether the unit takes a prefix.
    scale
        Power of ten of the unit itself, as -2 of a percent.
    """

    symbols: tuple[str, ...]
    example: str
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    prefixed: bool = True
    scale: int = 0

    def within(self, least: float, most: float, *, above: bool = False, example: str = "") -> Dimension:
        """The same with other bounds (SI), and with an example that lies within them."""
        return replace(self, least=least, most=most, above=above, example=example or self.example)

    def read(self, value: object) -> float:
        """The value (SI) of a number or a text.

        Raises
        ------
        ValueError
            It is no such quantity, in another unit, not finite or not plausible; the message says what to write.
        """
        if isinstance(value, str):
            return self._plausible(self._text(value), value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{_shown(value)} is no quantity; {self._write()}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"{_shown(value)} is no finite number; {self._write()}")
        return self._plausible(number, value)

    def shown(self, value: float) -> str:
        """A value (SI) with its unit, as people write it."""
        if self.scale == -2:
            return f"{value * 100:.6g} %"
        if not self.symbols or not self.prefixed:
            return " ".join((f"{value:.6g}", *self.symbols[:1]))
        return str(Quantity(value, self.symbols[0]).render(prec=5))

    def _text(self, text: str) -> float:
        found = _TEXT.fullmatch(text)
        if found is None:
            hint = "write a point for a decimal comma, " if "," in text else ""
            raise ValueError(f"{_shown(text)} is no quantity; {hint}{self._write()}")
        digits, exponent, unit = found.groups()
        power = self._power(text, unit)
        if exponent and power:
            raise ValueError(f"{_shown(text)} has a prefix and an exponent: give one, not both; {self._write()}")
        number = float(digits + (exponent or f"e{power}"))
        if not math.isfinite(number) or (number == 0 and digits.strip("+-0.")):
            raise ValueError(f"{_shown(text)} is beyond what a number can be; {self._write()}")
        return number

    def _power(self, text: str, unit: str | None) -> int:
        """Power of ten that a unit stands for."""
        if not unit:
            return 0
        for symbol in self.symbols:
            prefix = unit.removesuffix(symbol)
            if unit.endswith(symbol) and prefix in (PREFIXES if self.prefixed else ("",)):
                return PREFIXES[prefix] + self.scale
        expected = f"expected {self.symbols[0]!r}" if self.symbols else "expected a plain number"
        raise ValueError(f"{_shown(text)} is in {unit!r}, {expected}; {self._write()}")

    def _plausible(self, number: float, given: object) -> float:
        low = number <= self.least if self.above else number < self.least
        if not low and number <= self.most:
            return number
        what = f"{_shown(given)} is {self.shown(number)}"
        where = f"not above {self.shown(self.least)}" if low and self.above else (
            f"less than {self.shown(self.least)}" if low else f"more than {self.shown(self.most)}"
        )  # fmt: skip
        raise ValueError(f"{what}, {where}, which is not plausible here; {self._meant(given)}{self._write()}")

    def _meant(self, given: object) -> str:
        """The same digits with a prefix, or a percent sign, that would be plausible."""
        digits = _TEXT.fullmatch(str(given))
        if digits is None or digits[2] or not self.symbols:
            return ""
        ways = ("m", "u", "n", "k", "M") if self.prefixed else ("",)
        for prefix in ways:
            number = float(f"{digits[1]}e{PREFIXES[prefix] + self.scale}")
            if (self.least < number or (number == self.least and not self.above)) and number <= self.most:
                return f"did you mean {digits[1]} {prefix}{self.symbols[0]}? "
        return ""

    def _write(self) -> str:
        return f"write for example {self.example}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read with this what pydantic gets for a field."""
        return core_schema.no_info_before_validator_function(self.read, handler(source))


@dataclass(frozen=True)
class Whole:
    """A whole number between `least` and `most`; the metadata of an annotated int."""

    least: float = -math.inf
    most: float = math.inf

    def read(self, value: object) -> int:
        """The number of a whole number or a text of decimal digits.

        Raises
        ------
        ValueError
            It is none, or out of bounds; the message says which.
        """
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{_shown(value)} is not a whole number; write it in digits, such as {self._example()}")
        if not self.least <= value <= self.most:
            bounds = [f"at least {self.least:g}"] if math.isfinite(self.least) else []
            bounds += [f"at most {self.most:g}"] if math.isfinite(self.most) else []
            raise ValueError(f"{value} is out of bounds; give {' and '.join(bounds)}")
        return value

    def _example(self) -> str:
        return f"{max(10, int(self.least)) if math.isfinite(self.least) else 10}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read with this what pydantic gets for a field."""
        return core_schema.no_info_before_validator_function(self.read, handler(source))


def _shown(value: object) -> str:
    """A value as it was given, cut short."""
    text = (
        repr(value) if not isinstance(value, int) or isinstance(value, bool) or abs(value) < 10**40 else "this number"
    )
    return text if len(text) <= 60 else f"{text[:57]}..."


# Bounds are those of devices and of a probe station: beyond them a value is a slip, not a description of one.
VOLT = Dimension(("V",), "100 mV", -20.0, 20.0)
AMPERE = Dimension(("A",), "1 mA", 0.0, 1.0)
OHM = Dimension(("Ohm", "Ω", "Ω"), "5 kOhm", 0.0, 1e15)
SIEMENS = Dimension(("S",), "100 uS", 0.0, 1.0)
SECOND = Dimension(("s",), "200 ns", 0.0, 7 * 86400.0)
METRE = Dimension(("m",), "5 mm", 0.0, 1.0)
SHARE = Dimension(("%",), "0.05 or 5 %", 0.0, 1.0, prefixed=False, scale=-2)
CELSIUS = Dimension(("°C", "degC"), "85 °C", -273.15, 1000.0, prefixed=False)
NUMBER = Dimension((), "1.5", -1e12, 1e12)

Volt = Annotated[float, VOLT]
Ampere = Annotated[float, AMPERE]
Ohm = Annotated[float, OHM]
Siemens = Annotated[float, SIEMENS]
Second = Annotated[float, SECOND]
Metre = Annotated[float, METRE]
Share = Annotated[float, SHARE]
"""A fraction of a whole, 0 to 1; ``5 %`` is 0.05."""
Ratio = Annotated[float, SHARE.within(0.0, 20.0)]
"""One quantity over another of its kind, such as TMR; ``120 %`` is 1.2."""
Spread = Annotated[float, SHARE.within(0.0, 5.0)]
"""A relative standard deviation, or one of a logarithm."""
Celsius = Annotated[float, CELSIUS]
Number = Annotated[float, NUMBER]
PerSecond = Annotated[float, Dimension(("/s",), "1.1e4", 0.0, 1e15, prefixed=False)]
PerVolt = Annotated[float, Dimension(("/V",), "1.2", 0.0, 1e3, prefixed=False)]
Integer = Annotated[int, Whole(-1e15, 1e15)]


class Specification(BaseModel):
    """Base of everything read from a file: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def split_sources(tree: Any, path: str = "") -> tuple[Any, dict[str, str]]:
    """Separate values from where they come from.

    Every ``{value: ..., source: ...}`` of the tree is replaced by its value; the sources are returned by dotted path.
    """
    if isinstance(tree, dict):
        if "value" in tree and set(tree) <= {"value", "source"}:
            return tree["value"], {path: str(tree.get("source", "assumed"))}
        values, sources = {}, {}
        for key, branch in tree.items():
            values[key], found = split_sources(branch, f"{path}.{key}" if path else str(key))
            sources.update(found)
        return values, sources
    return tree, {}
