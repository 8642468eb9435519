"""What makes two steps the same: name and source of the function, and all of its inputs."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analysis.digest import digest


@dataclass(frozen=True)
class Identity:
    """A step as it is looked for in the record: its inputs, defaults filled in, and digests of source and inputs.

    Defaults count as inputs, so that an edited default is a changed input.
    """

    name: str
    function: str
    text: str
    inputs: dict[str, Any]

    @property
    def source(self) -> str:
        """SHA-256 of the source text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def key(self) -> str:
        """SHA-256 of the inputs."""
        return digest(self.inputs)


def of_step(function: Callable[..., Any], inputs: dict[str, Any]) -> Identity:
    """A step at hardware: it is the same as long as the function itself is."""
    return Identity(name_of(function), path_of(function), inspect.getsource(function), _with_defaults(function, inputs))


def of_computation(function: Callable[..., Any], inputs: dict[str, Any]) -> Identity:
    """A pure computation: it is the same as long as the module that it stands in is."""
    module = inspect.getmodule(function) or function
    return Identity(name_of(function), path_of(function), inspect.getsource(module), _with_defaults(function, inputs))


def name_of(function: Callable[..., Any]) -> str:
    """What a step is called: the name that `protocols.run.step` gave it, else where it lies."""
    return str(getattr(function, "__step_name__", "")) or path_of(function)


def path_of(function: Callable[..., Any]) -> str:
    """Module and name of a function."""
    return f"{function.__module__}.{function.__qualname__}"


def _with_defaults(function: Callable[..., Any], inputs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return defaults | inputs
