"""Which errors are written for the user, and which are faults of the program or of a script."""

from __future__ import annotations

#: Errors defined in these packages are written for the user.
ROOMS = ("instruments", "sim_backends", "mapping", "protocols", "analysis")


def for_the_user(error: Exception) -> bool:
    """Whether an error says what to do; anything else is shown with where it came from."""
    return type(error).__module__.partition(".")[0] in ROOMS
