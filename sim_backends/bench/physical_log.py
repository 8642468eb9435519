"""What physically happened at a station: one JSON object per line. Tests of safety judge by it."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sim_backends.array.devices.interface import BoolArray
from sim_backends.bench.clock import StationClock
from sim_backends.bench.files import write_atomically

_BUFFERED = 2000
_BUFFERED_FOR = 1.0  # s
_AT_ONCE = {"start", "client", "outputs", "move", "contact", "separation", "fault", "magnet", "coil_kick"}


class PhysicalLog:
    """Append-only log of pulses, reads, products, moves, contacts, outputs, clients and faults.

    Every entry has ``what``, ``station_s`` (station time) and ``wall_s`` (seconds since 1970). Entries about outputs,
    moves, contact, separation, clients and faults are in the file at once, and all before them; reads, products and
    pulses are buffered until the next of those or of `flush`, and at most a second while entries come. `flush`, which
    the station calls at every separation, emergency stop and bite of the watchdog, and when it closes, also rewrites
    the summary beside the log (`summary_path`): station time and the number of entries of each kind.

    Parameters
    ----------
    path
        The log, appended to; None keeps only the counts.
    clock
        Station clock.
    """

    def __init__(self, path: Path | None, clock: StationClock) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._buffer: list[str] = []
        self._lock = threading.Lock()
        self._written = time.monotonic()
        if path is not None:
            before = previous_summary(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self.counts.update(before["counts"])

    def add(self, what: str, **details: Any) -> None:
        """Append an entry; `details` must be plain JSON values."""
        with self._lock:
            self.counts[what] += 1
            if self.path is None:
                return
            entry = {"what": what, "station_s": round(self._clock.now, 9), "wall_s": time.time(), **details}
            self._buffer.append(json.dumps(entry))
            if what in _AT_ONCE or len(self._buffer) >= _BUFFERED or time.monotonic() - self._written > _BUFFERED_FOR:
                self._write()

    def flush(self) -> None:
        """Bring all entries and the summary to their files."""
        with self._lock:
            if self.path is None:
                return
            self._write()
            text = json.dumps(self.summary(), indent=1)
            write_atomically(summary_path(self.path), lambda file: file.write(text.encode()))

    def summary(self) -> dict[str, Any]:
        """Station time, and how often what happened."""
        return {
            "station_time_s": self._clock.now,
            "pulses": self.counts["pulse"],
            "moves": self.counts["move"],
            "counts": dict(self.counts),
        }

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._buffer and self.path is not None:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write("\n".join(self._buffer) + "\n")
            self._buffer.clear()


def summary_path(log: Path) -> Path:
    """Where the summary of a log lies: two stations that log into one folder do not share a clock."""
    return log.with_name(f"{log.name}.summary.json")


def previous_summary(log: Path) -> dict[str, Any]:
    """Summary that an earlier run of the station left beside its log: station time (s, 0 if none) and counts."""
    known = summary_path(log)
    if not known.exists() and log.exists() and log.stat().st_size:
        known = log.with_name("summary.json")  # where versions before 2027 put it
    try:
        summary = json.loads(known.read_text(encoding="utf-8"))
        seconds, counts = float(summary["station_time_s"]), dict(summary["counts"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {"station_time_s": 0.0, "counts": {}}
    whole = {str(what): count for what, count in counts.items() if isinstance(count, int)}
    return {"station_time_s": seconds if 0 <= seconds < math.inf else 0.0, "counts": whole}


def mask_digest(mask: BoolArray) -> str:
    """Short name of a mask: equal masks have equal names."""
    return hashlib.blake2b(mask.tobytes(), digest_size=8).hexdigest()
