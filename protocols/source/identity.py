"""What makes two steps the same: name, code and all inputs.

The code of a step at hardware is what it uses of its own room (`protocols`) and of its script; that of a pure
computation what it uses of any of our packages and of its script. `protocols.source.source_code` says how far that
goes.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from analysis.record.digest import digest
from analysis.record.record import Record, Step
from protocols.source import source_code
from protocols.source.source_code import Parts


@dataclass(frozen=True)
class Identity:
    """A step as it is looked for in the record: what it is called, its code, and its inputs, defaults filled in.

    Defaults count as inputs, so that an edited default is a changed input. `function` is where it lies.
    """

    name: str
    function: str
    code: Parts
    inputs: dict[str, Any]

    @property
    def shown(self) -> str:
        """The name without the module, for people."""
        return self.name.rpartition(".")[2]

    @cached_property
    def text(self) -> str:
        """The code as one text."""
        return source_code.to_text(self.code)

    @cached_property
    def source(self) -> str:
        """SHA-256 of the code."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def key(self) -> str:
        """SHA-256 of the inputs."""
        return digest(self.inputs)

    def changed_since(self, record: Record, step: Step) -> list[str]:
        """Names of those parts of the code that are not what they were when a step was done; empty: it is the same.

        Of a step of schema 3 the record has the function alone, of a computation its module: more is not compared.
        """
        if step.source == self.source:
            return []
        text = record.source(step.source)
        if text is None:
            return [self.name]
        before = source_code.from_text(text)
        if source_code.is_code(text):
            return source_code.differing(before, self.code)
        return self._changed_since_schema_3(before)

    def is_of(self, record: Record, step: Step) -> bool:
        """Whether a recorded step is the one that is asked for."""
        same = (step.name, step.inputs_digest) == (self.name, self.key)
        return same and not self.changed_since(record, step)

    def computed_in(self, record: Record, protocol: str) -> Step | None:
        """The newest computation of the lot with the same code and inputs."""
        found = record.find(protocol, self.name, self.source, self.key)
        if found is not None:
            return found
        return next((step for step in record.computed(protocol, self.name, self.key) if self.is_of(record, step)), None)

    def _changed_since_schema_3(self, before: Parts) -> list[str]:
        module, _, own = self.function.rpartition(".")
        module = module.partition(".<locals>")[0] if "<locals>" in module else module
        ours = {name.rpartition(".")[2]: (name, source) for name, source in self.code.items() if "<locals>" not in name
                and name.startswith(f"{module}.") and " " not in name}  # fmt: skip
        ours.setdefault(own, (self.function, next(iter(self.code.values()), "")))
        known = ours if len(before) > 1 else {own: ours[own]}  # the text of the module, or of the function
        return [
            name
            for short, (name, source) in known.items()
            if source_code.bare(before.get(short, "")) != source_code.bare(source)
        ]


def of_step(function: Callable[..., Any], inputs: dict[str, Any]) -> Identity:
    """A step at hardware."""
    return _identity(function, inputs, ("protocols",))


def of_computation(function: Callable[..., Any], inputs: dict[str, Any]) -> Identity:
    """A pure computation."""
    return _identity(function, inputs, source_code.ROOMS)


def _identity(function: Callable[..., Any], inputs: dict[str, Any], packages: tuple[str, ...]) -> Identity:
    path = source_code.path_of(function)
    name = str(getattr(function, "__step_name__", "")) or path
    return Identity(name, path, source_code.code_of(function, packages), _with_defaults(function, inputs))


def _with_defaults(function: Callable[..., Any], inputs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return defaults | inputs
