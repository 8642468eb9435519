"""Arguments of SENTIO remote commands: what they may look like, and the faults they cause."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from sim_backends.bench.wafer_map import Site
from sim_backends.virtual.prober import PARAMETER, ProberFault

FORMAT, COUNT = 5, 7
LARGEST = 2**31 - 1
"""Of integers, either sign."""
_REAL = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[-+]?\d{1,10}", re.ASCII)
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
    text = text_at(arguments, at)
    if not _REAL.fullmatch(text) or not math.isfinite(value := float(text)):
        raise ProberFault(FORMAT, f"Not a number: {text}")
    return value


def integer_at(arguments: Arguments, at: int) -> int:
    """Argument as an integer of 32 bits."""
    text = text_at(arguments, at)
    if not _INTEGER.fullmatch(text) or abs(value := int(text)) > LARGEST:
        raise ProberFault(FORMAT, f"Not an integer: {text}")
    return value


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
