"""A clock that a station keeps in a file: station time where it does not run with the wall clock."""

from __future__ import annotations

import json
from pathlib import Path

from qcodes.instrument import Instrument

_LONGEST = 1e12  # s; no station runs for so long


class FileClock(Instrument):
    """Station time from a JSON file with the entry ``station_time_s``, as a station or its controller writes it.

    Parameters
    ----------
    name
        Name of the instrument in the station.
    address
        Path of the file.
    """

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name)
        self._path = Path(address)

    def elapsed(self) -> float | None:
        """Get the station time (s); None as long as the file has none."""
        try:
            seconds = json.loads(self._path.read_text(encoding="utf-8"))["station_time_s"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        known = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= _LONGEST
        return float(seconds) if known else None

    def get_idn(self) -> dict[str, str | None]:
        """Say what this is; a file has no maker."""
        return {"vendor": "xbarlab", "model": "file clock", "serial": str(self._path), "firmware": None}
