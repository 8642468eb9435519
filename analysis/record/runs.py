"""The part of a record that tells of runs: what began and ended, events, verdicts, requests, sources."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from typing import Any

from analysis.record.database import Database, cannot_read
from analysis.record.datasets import DamagedError, from_json, to_json
from analysis.record.lock import RecordError

VERDICTS = ("pass", "fail", "inconclusive", "skipped", "aborted", "error")
REQUESTS = ("pause", "resume", "abort")
GOING_ON = ("running", "paused")
ENDED = ("finished", "stopped", "failed", "aborted", "died")


@dataclass(frozen=True)
class Verdict:
    """What a run said of a die: one of `VERDICTS`, the bin for the prober, why, and when (s since the epoch)."""

    run: int
    die: str
    verdict: str
    bin: int
    reason: str
    time: float


class Runs(Database):
    """Runs of a lot and what was noted about them."""

    def begin_run(self, protocol: str, provenance: dict[str, Any], *, resumes: int | None = None) -> int:
        """Enter a run of this process; returns its number. Requests to earlier runs are void from here on."""
        row = (protocol, time.time(), "running", to_json(provenance, "provenance"), resumes, os.getpid())
        with self._transaction() as db:
            db.execute("UPDATE requests SET taken=? WHERE taken IS NULL", (time.time(),))
            cursor = db.execute(
                "INSERT INTO runs (protocol, started, status, provenance, resumes, pid) VALUES (?,?,?,?,?,?)", row
            )
        return int(cursor.lastrowid or 0)

    def next_run(self) -> int:
        """The number that `begin_run` gives next."""
        return int(self._rows("SELECT coalesce(max(id), 0) + 1 FROM runs")[0][0])

    def set_status(self, run: int, status: str) -> None:
        """Note that a run is ``running`` or ``paused``."""
        _check(status, GOING_ON)
        self._change("UPDATE runs SET status=? WHERE id=?", (status, run))

    def end_run(self, run: int, status: str) -> None:
        """Close a run as ``finished``, ``stopped``, ``failed`` or ``aborted``."""
        _check(status, ENDED)
        self._change("UPDATE runs SET ended=?, status=? WHERE id=?", (time.time(), status, run))

    def runs(self) -> list[dict[str, Any]]:
        """All runs of the lot, oldest first."""
        keys = ("id", "protocol", "started", "ended", "status", "resumes", "pid", "provenance")
        rows = self._rows(f"SELECT {', '.join(keys)} FROM runs ORDER BY id")
        return [dict(zip(keys, (*row[:-1], self._parsed(row[-1], f"run {row[0]}")), strict=True)) for row in rows]

    def event(self, run: int, kind: str, message: str, die: str = "", **data: Any) -> None:
        """Note something that happened."""
        row = (run, die, time.time(), kind, _storable(message), to_json(data, kind))
        self._change("INSERT INTO events (run, die, time, kind, message, data) VALUES (?,?,?,?,?,?)", row)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Events, oldest first, of one kind or all."""
        keys = ("run", "die", "time", "kind", "message", "data")
        rows = self._rows(f"SELECT {', '.join(keys)}, id FROM events WHERE ?1 IS NULL OR kind=?1 ORDER BY id", (kind,))
        return [
            dict(zip(keys, (*row[:-2], self._parsed(row[-2], f"event {row[-1]} of run {row[0]}")), strict=True))
            for row in rows
        ]

    def set_verdict(self, run: int, die: str, verdict: str, *, bin: int, reason: str = "") -> None:
        """Say what became of a die in a run; the newest holds."""
        _check(verdict, VERDICTS)
        row = (run, die, verdict, bin, _storable(reason), time.time())
        self._change("INSERT INTO verdicts (run, die, verdict, bin, reason, time) VALUES (?,?,?,?,?,?)", row)

    def verdicts(self) -> dict[str, Verdict]:
        """The newest verdict of each die, over all runs."""
        return {verdict.die: verdict for verdict in self.all_verdicts()}

    def all_verdicts(self) -> list[Verdict]:
        """Every verdict of every run, oldest first."""
        rows = self._rows("SELECT run, die, verdict, bin, reason, time FROM verdicts ORDER BY id")
        return [Verdict(*row) for row in rows]

    def take_requests(self) -> list[str]:
        """What other processes asked for since the last time, oldest first; cheap when there is nothing."""
        waiting = self._rows("SELECT id, what FROM requests WHERE taken IS NULL ORDER BY id")
        if waiting:
            last = waiting[-1][0]
            self._change("UPDATE requests SET taken=? WHERE taken IS NULL AND id<=?", (time.time(), last))
        return [what for _, what in waiting]

    def keep_source(self, text: str) -> str:
        """Store a source text once; returns its SHA-256."""
        text = _storable(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if not self._rows("SELECT 1 FROM sources WHERE digest=?", (digest,)):
            self._change("INSERT INTO sources (digest, text) VALUES (?,?)", (digest, text))
        return digest

    def source(self, digest: str) -> str | None:
        """A source text that was kept; None if there is none of this digest."""
        row = self._row("SELECT text FROM sources WHERE digest=?", (digest,))
        if row is None:
            return None
        text = str(row[0])
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise RecordError(
                f"source {digest[:12]} in {self.path} was edited or damaged; restore the file from a backup"
            )
        return text

    def _parsed(self, text: str, row: str) -> dict[str, Any]:
        """The JSON object of a row."""
        try:
            found = from_json(text)
        except DamagedError as error:
            raise cannot_read(self.path, f"{row}: {error}") from error
        if not isinstance(found, dict):
            raise cannot_read(self.path, f"{row}: damaged text ({str(found)[:40]!r} is no object)")
        return found


def _storable(text: str) -> str:
    """A text as a database takes it: half characters, as names of files may have them, are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _check(word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise ValueError(f"{word!r} is none of {', '.join(known)}")
