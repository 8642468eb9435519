"""What stands for the result of a computation while a run is only planned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import xarray as xr

F = TypeVar("F", bound=Callable[..., Any])


def planned_as(typical: Callable[..., xr.Dataset]) -> Callable[[F], F]:
    """Mark a long computation: a plan takes ``typical(**inputs)`` for its result and does not do it.

    What follows must cost at the station what it would cost with the real result: an untrained network for a trained
    one of the same shape. `typical` gets the inputs of the computation, without its `report`.
    """

    def mark(function: F) -> F:
        function.__planned_as__ = typical  # type: ignore[attr-defined]
        return function

    return mark


def typical_of(function: Callable[..., Any]) -> Callable[..., xr.Dataset] | None:
    """What was given to `planned_as` for a computation; None if a plan does it for real."""
    return getattr(function, "__planned_as__", None)
