"""Parameters of a protocol from the command line: text in, checked values out, units understood."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError

from instruments.roles.quantities import NUMBER, Dimension, Whole, in_unit

#: What a text with a unit is in where a plain `float` is annotated, by the first word of its name (``v_read``).
#: Every other quantity declares its own (``width: Seconds``), and has bounds then.
NAMED: dict[str, Dimension] = {
    "v": in_unit("V"), "i": in_unit("A"), "r": in_unit("Ohm"), "g": in_unit("S"), "t": in_unit("s"),
}  # fmt: skip

_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


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
        For an unknown name or a value that is not of the parameter's type, not in its unit or not plausible.
    """
    known = parameters_of(function)
    hints = _hints(function)
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


def shown(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, str]:
    """Every parameter that has a unit as it was understood, with the unit; defaults among them."""
    hints = _hints(function)
    texts = {}
    for name, parameter in parameters_of(function).items():
        dimension = dimension_of(name, hints.get(name, str))
        value = values.get(name, parameter.default)
        if dimension is not None and isinstance(value, float | int):
            texts[name] = dimension.shown(value)
    return texts


def dimension_of(name: str, hint: Any) -> Dimension | None:
    """What a parameter is measured in: as declared, else as its name says; None for what is no quantity."""
    for option in _options(hint):
        found = [each for each in typing.get_args(option)[1:] if isinstance(each, Dimension)]
        if typing.get_origin(option) is Annotated and found:
            return found[-1]
        if option is float:
            return NAMED.get(name.partition("_")[0], NUMBER)
    return None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ParameterError(
            f"{function.__name__}: an annotation of its parameters cannot be read ({error}); import that name at the "
            "top of the script"
        ) from error


def _options(hint: Any) -> list[Any]:
    """The types that a value may have, without None."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return [option for option in typing.get_args(hint) if option is not type(None)]
    return [hint]


def _value(name: str, text: str, hint: Any) -> Any:
    """`text` as the annotated type; ``X | None`` also takes ``none``."""
    options = _options(hint)
    if options != [hint]:
        return None if text.lower() == "none" else _value(name, text, options[0])
    try:
        if hint is bool:
            return _SWITCH[text.lower()]
        if hint is int:
            return Whole().read(text)
        if hint is float:
            return _undeclared(name, text)
        if hint is Path:
            return Path(text)
        if typing.get_origin(hint) in (Annotated, Literal):
            return TypeAdapter(hint).validate_python(text)
    except KeyError as error:
        raise ParameterError(f"{name}={text!r} is not yes or no") from error
    except ValidationError as error:
        raise ParameterError(f"{name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    except ValueError as error:
        raise ParameterError(f"{name}: {error}") from error
    return text


def _undeclared(name: str, text: str) -> float:
    """A plain number; with a unit only where the parameter's name says which."""
    dimension = NAMED.get(name.partition("_")[0])
    if dimension is not None:
        return dimension.read(text)
    try:
        return NUMBER.read(text)
    except ValueError as error:
        raise ParameterError(
            f"{name}: {error}; for a unit, declare it in the protocol, such as {name}: Seconds "
            "(instruments.roles.quantities)"
        ) from error
