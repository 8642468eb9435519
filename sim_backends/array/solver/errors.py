"""What goes wrong in an array's network: a network that cannot be solved, and a solution that was not found."""

from __future__ import annotations


class NetworkError(ValueError):
    """A network that has no defined solution, or input that describes none; names the line or cell."""


class ConvergenceError(RuntimeError):
    """No solution of the promised accuracy was found; there is no number to go on with."""


ADVICE = "use method='direct' or 'auto', or a larger tolerance"
"""What to do about a network that another method may solve."""
