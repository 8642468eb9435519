"""Physical quantities where people write them: a number in SI units, or text such as ``100 mV``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BeforeValidator
from quantiphy import InvalidNumber, Quantity


def in_unit(unit: str) -> Callable[[object], object]:
    """A pydantic validator that turns text in `unit` into a number in SI units and leaves everything else alone."""

    def parse(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            quantity = Quantity(value, ignore_sf=False)
        except InvalidNumber as error:
            raise ValueError(f"{value!r} is no quantity; write for example 0.1 or '100 m{unit}'") from error
        if quantity.units not in ("", unit):
            raise ValueError(f"{value!r} is in {quantity.units!r}, expected {unit!r}")
        return float(quantity)

    return parse


Volts = Annotated[float, BeforeValidator(in_unit("V"))]
Seconds = Annotated[float, BeforeValidator(in_unit("s"))]
Metres = Annotated[float, BeforeValidator(in_unit("m"))]
