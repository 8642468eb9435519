"""Arguments of SENTIO remote commands: what they may look like, and the faults they cause."""

from __future__ import annotations

import math
from collections.abc import Callable

from sim_backends.prober import PARAMETER, ProberFault
from sim_backends.wafer_map import Site

FORMAT, COUNT = 5, 7
XY_REFERENCES = {"h": "home", "r": "current", "z": "zero", "c": "center", "m": "machine", "a": "realpos"}
Z_REFERENCES = {"c": "contact", "s": "separation", "h": "hover", "z": "zero", "r": "current"}

Arguments = list[str]
Answer = str | tuple[int, str]  # text, or flags and text
Handler = Callable[[Arguments], Answer]


def text_at(arguments: Arguments, at: int) -> str:
    """Argument as text; missing is a fault."""
    if len(arguments) <= at:
        raise ProberFault(COUNT, f"Invalid number of parameters: {len(arguments)}")
    return arguments[at]


def real_at(arguments: Arguments, at: int) -> float:
    """Argument as a finite number."""
    try:
        value = float(text_at(arguments, at))
    except ValueError as error:
        raise ProberFault(FORMAT, f"Not a number: {arguments[at]}") from error
    if not math.isfinite(value):
        raise ProberFault(FORMAT, f"Not a number: {arguments[at]}")
    return value


def integer_at(arguments: Arguments, at: int) -> int:
    """Argument as an integer."""
    try:
        return int(text_at(arguments, at))
    except ValueError as error:
        raise ProberFault(FORMAT, f"Not an integer: {arguments[at]}") from error


def boolean_at(arguments: Arguments, at: int) -> bool:
    """Booleans come as True/False from some clients and as 1/0 from others."""
    word = text_at(arguments, at).lower()
    if word not in ("true", "false", "0", "1"):
        raise ProberFault(FORMAT, f"Not a boolean: {word}")
    return word in ("true", "1")


def site_at(arguments: Arguments, at: int) -> Site:
    """Two arguments as column and row of a die."""
    return integer_at(arguments, at), integer_at(arguments, at + 1)


def one_of(arguments: Arguments, at: int, references: dict[str, str]) -> str:
    """A reference given by its letter or its full name, as versions of the client differ."""
    word = text_at(arguments, at).lower()
    if word in references:
        return references[word]
    if word in references.values():
        return word
    raise ProberFault(PARAMETER, f"Unknown reference {word}")


def z_reference(arguments: Arguments) -> str:
    """First argument as a height reference."""
    return one_of(arguments, 0, Z_REFERENCES)


def decimal(value: float) -> str:
    """Number of a reply: one decimal, three where they are needed."""
    return f"{value:.1f}" if float(f"{value:.1f}") == value else f"{value:.3f}"
