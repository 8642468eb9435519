"""What functions of a protocol are marked with: that they are one, what a step is called, what it needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def protocol(function: F) -> F:
    """Mark a function ``(run, *, parameters...)`` as a protocol that `xbar run` can start."""
    function.__is_protocol__ = True  # type: ignore[attr-defined]
    return function


def step(name: str) -> Callable[[F], F]:
    """Give a step or computation the name that it has in records, which stays when its code moves.

    Without it the name is that of the script and the function. Two functions of one name are refused in a run.

    Raises
    ------
    StepNameError
        If the name is not of letters, digits, hyphens and underscores.
    """
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise StepNameError(f"@step takes the step's name, of letters, digits and hyphens: @step(\"read-noise\"), not "
                            f"{name!r}")  # fmt: skip

    def mark(function: F) -> F:
        function.__step_name__ = name  # type: ignore[attr-defined]
        return function

    return mark


class StepNameError(ValueError):
    """Steps are not named as records need it."""


def needs_no_contact(function: F) -> F:
    """Mark a step that may run on a die that does not conduct, because it is the one that finds out."""
    function.__needs_no_contact__ = True  # type: ignore[attr-defined]
    return function
