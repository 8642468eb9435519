"""Settings that may come from a file: every field is what its annotation says, and finite."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any


def check_numbers(settings: Any) -> None:
    """Refuse integers that are none and floats that are no finite numbers, in the fields of a dataclass.

    Raises
    ------
    ValueError
        Naming the field.
    """
    for item in fields(settings):
        value = getattr(settings, item.name)
        number = isinstance(value, int) or (item.type == "float" and isinstance(value, float) and math.isfinite(value))
        if item.type in ("int", "float") and (not number or isinstance(value, bool)):
            raise ValueError(f"{item.name} is {value!r}, not a finite {item.type}")
