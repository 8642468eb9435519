"""Which errors are written for the user, and which are faults of the program or of a script."""

from __future__ import annotations

import sys
from pathlib import Path

#: Errors defined in files below are written for the user. By place: anybody's own package may be called `analysis`.
ROOMS = [
    Path(__file__).resolve().parents[2] / room
    for room in ("instruments", "sim_backends", "mapping", "protocols", "analysis")
]


def for_the_user(error: Exception) -> bool:
    """Whether an error says what to do; anything else is shown with where it came from."""
    file = getattr(sys.modules.get(type(error).__module__), "__file__", None)
    return file is not None and any(room in Path(file).resolve().parents for room in ROOMS)
