"""What a request for pulses did to a die, for the log of the station."""

from __future__ import annotations

from dataclasses import dataclass

GATED = "gated"
"""Name of the bias of cells with a selector: the gates of one column are on, all other cells see nothing."""


@dataclass(frozen=True)
class Fired:
    """Pulses that were fired.

    Attributes
    ----------
    scheme
        Name of the bias scheme.
    v_other
        Largest voltage, of either sign, that a cell which was not selected saw (V, magnitude).
    times
        How often lines were selected, one after the other; each time all pulses of the request are fired.
    """

    scheme: str
    v_other: float
    times: int
