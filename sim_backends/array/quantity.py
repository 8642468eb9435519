"""Physical values in configuration files: "5 kOhm", 5000 or {value: 5 kOhm, source: "..."}."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from quantiphy import InvalidNumber, Quantity


def parse_quantity(value: Any, unit: str) -> float:
    """Turn a number or a text with a unit into a float in SI.

    Parameters
    ----------
    value
        A number (already in `unit`) or a text such as ``"5 kOhm"``; a fraction may be written ``"5 %"``.
    unit
        Expected unit, "" for a fraction or a plain number.

    Raises
    ------
    ValueError
        If the text is no number or carries another unit.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a number{f' or a text in {unit}' if unit else ''}, got {value!r}")
    if not isinstance(value, str):
        return float(value)
    try:
        quantity = Quantity(value)
    except InvalidNumber as error:
        raise ValueError(f"{value!r} is no number with a unit; write for example '5 {unit}'") from error
    if quantity.units == "%" and unit == "":
        return float(quantity) / 100
    if quantity.units not in ("", unit):
        raise ValueError(f"{value!r} is in {quantity.units}, expected {unit or 'a plain number or %'}")
    return float(quantity)


def _in(unit: str) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_quantity(value, unit))


Ohm = Annotated[float, _in("Ohm")]
Siemens = Annotated[float, _in("S")]
Volt = Annotated[float, _in("V")]
Ampere = Annotated[float, _in("A")]
Second = Annotated[float, _in("s")]
Metre = Annotated[float, _in("m")]
Fraction = Annotated[float, _in("")]


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
