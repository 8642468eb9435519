"""A clock that a station keeps in a file: station time where it does not run with the wall clock."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from qcodes.instrument import Instrument

_LONGEST = 1e12  # s; no station runs for so long
_log = logging.getLogger(__name__)


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
        self._doubted = False

    def elapsed(self) -> float | None:
        """Get the station time (s); None as long as the station has not written any, or what it wrote is no time."""
        try:
            seconds = json.loads(self._path.read_text(encoding="utf-8"))["station_time_s"]
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST:
                raise ValueError(f"station_time_s is {seconds!r:.40}")
            return float(seconds)
        except FileNotFoundError:  # not yet
            return None
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            self._doubt(error)
            return None

    def _doubt(self, why: object) -> None:
        """Say once that there is no time in the file; it is no reason to end a run whose data are fine."""
        if not self._doubted:
            self._doubted = True
            _log.warning(
                "%s holds no station time (%s): the run goes on, and its station time counts as unknown. See to what "
                "writes the file, or take the clock out of the station file", self._path, why,
            )  # fmt: skip

    def get_idn(self) -> dict[str, str | None]:
        """Say what this is; a file has no maker."""
        return {"vendor": "xbarlab", "model": "file clock", "serial": str(self._path), "firmware": None}
