"""Parameters of a protocol from the command line: text in, checked values out, units understood."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantiphy import InvalidNumber, Quantity

#: Unit that a parameter has by the first word of its name (``v_read``); a value with another one is a slip.
UNITS = {"v": "V", "i": "A", "r": "Ohm", "g": "S", "t": "s"}

#: Units that a number may have where the name of its parameter tells none.
PLAIN = ("V", "A", "Ohm", "Ω", "S", "s", "Hz", "F", "W", "J", "m", "K", "C", "°C", "T")


class ParameterError(ValueError):
    """A parameter is unknown or cannot be read; the message lists what there is."""


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword parameters of a protocol (all but its run)."""
    return dict(list(inspect.signature(function).parameters.items())[1:])


def parse(function: Callable[..., Any], given: dict[str, str]) -> dict[str, Any]:
    """Values for the parameters of a protocol from text such as ``{"v_read": "100mV"}``.

    Raises
    ------
    ParameterError
        For an unknown name or a value that is not of the parameter's type.
    """
    known = parameters_of(function)
    hints = typing.get_type_hints(function)
    values = {}
    for name, text in given.items():
        name = name.replace("-", "_")
        if name not in known:
            offered = ", ".join(f"{key}={p.default!r}" for key, p in known.items()) or "none"
            raise ParameterError(f"{function.__name__} has no parameter {name!r}; it has: {offered}")
        values[name] = _value(name, text, hints.get(name, str))
    missing = [n for n, p in known.items() if p.default is inspect.Parameter.empty and n not in values]
    if missing:
        raise ParameterError(f"{function.__name__} needs {', '.join(missing)}: give --set {missing[0]}=VALUE")
    return values


def _value(name: str, text: str, hint: Any) -> Any:
    """`text` as the annotated type; ``X | None`` also takes ``none``."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if text.lower() == "none" else _value(name, text, options[0])
    try:
        if hint is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if hint is int:
            return int(text)
        if hint is float:
            return _number(name, text)
        if hint is Path:
            return Path(text)
    except ParameterError:
        raise
    except (ValueError, KeyError, InvalidNumber) as error:
        kind = {bool: "yes or no", int: "a whole number", float: "a number, with a unit if you like (100mV, 200ns)"}
        raise ParameterError(f"{name}={text!r} is not {kind.get(hint, hint)}") from error
    return text


def _number(name: str, text: str) -> float:
    """A number with or without unit; where the parameter's name tells its unit, no other one is taken.

    A prefix after an exponent (``2e2 ns``) is refused: quantiphy takes it for part of the unit and leaves it out.
    """
    quantity = Quantity(text)
    if quantity.units == "%":
        return float(quantity) / 100
    unit = UNITS.get(name.partition("_")[0])
    allowed = ("", unit) if unit else ("", *PLAIN)
    if quantity.units not in allowed:
        hint = f"{name} is given in {unit}" if unit else f"known are {', '.join(PLAIN)}"
        raise ParameterError(
            f"{name}={text!r} is in {quantity.units}; {hint}, with a prefix (200 ns) or an exponent (2e-7), not both"
        )
    return float(quantity)
