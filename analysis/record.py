"""The record of a lot: one SQLite database that holds everything done to its dies.

What is promised, and when
--------------------------
* A step's result is durable against the death of the process as soon as `append_step` returns (WAL, synchronous
  NORMAL: after a power cut the last few commits may be missing, never damaged).
* A pulse intent is durable against a power cut as soon as `intend` returns (synchronous FULL): it is committed before
  the pulses are fired, so the record is an upper bound of the dose of every cell.
* Nothing is ever deleted. A step that no longer holds (its source or inputs changed) is marked as superseded.
* Nothing is stored as a pickle: arrays are raw bytes with dtype and shape, everything else is JSON.
"""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.digest import array_digest

SCHEMA_VERSION = 1

#: What stands as the die of a pure computation: it belongs to no die and is found by its content.
COMPUTED = "(computed)"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
  id INTEGER PRIMARY KEY, protocol TEXT NOT NULL, started REAL NOT NULL, ended REAL, status TEXT NOT NULL,
  provenance TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS steps (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, protocol TEXT NOT NULL, die TEXT NOT NULL,
  function TEXT NOT NULL, source TEXT NOT NULL, inputs_digest TEXT NOT NULL, inputs TEXT NOT NULL,
  started REAL NOT NULL, ended REAL NOT NULL, verdict TEXT NOT NULL, attrs TEXT NOT NULL, superseded_by INTEGER);
CREATE INDEX IF NOT EXISTS steps_of_die ON steps (protocol, die, id);
CREATE TABLE IF NOT EXISTS step_arrays (
  step INTEGER NOT NULL REFERENCES steps, name TEXT NOT NULL, is_coordinate INTEGER NOT NULL, dims TEXT NOT NULL,
  attrs TEXT NOT NULL, hash TEXT NOT NULL REFERENCES arrays, PRIMARY KEY (step, name));
CREATE TABLE IF NOT EXISTS arrays (
  hash TEXT PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS intents (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, die TEXT NOT NULL, time REAL NOT NULL,
  kernel INTEGER NOT NULL, amplitude REAL NOT NULL, width REAL NOT NULL, count INTEGER NOT NULL,
  shape TEXT NOT NULL, mask BLOB NOT NULL, batch INTEGER NOT NULL, fired REAL);
CREATE INDEX IF NOT EXISTS intents_of_die ON intents (die, batch);
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, die TEXT NOT NULL, time REAL NOT NULL,
  kind TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL);
"""


class RecordError(RuntimeError):
    """The record cannot be opened or written; the message says what to change."""


@dataclass(frozen=True)
class Step:
    """A committed step of a die's history (`die` is "" for steps of the whole lot)."""

    id: int
    run: int
    die: str
    function: str
    source: str
    inputs_digest: str
    started: float
    ended: float
    verdict: str


@dataclass(frozen=True)
class Pulse:
    """Pulses to be fired at one kernel: `count` of `amplitude` (V) and `width` (s) at each cell of the mask."""

    kernel: int
    mask: NDArray[np.bool_]
    amplitude: float
    width: float
    count: int = 1


class Record:
    """A lot folder's record. Open it with `Record.open`; one writer, any number of readers."""

    def __init__(self, database: sqlite3.Connection, folder: Path) -> None:
        self._db = database
        self.folder = folder

    @classmethod
    def open(cls, folder: Path | str, *, create: bool = True) -> Record:
        """Open the record in `folder`, making folder and record when `create`.

        Raises
        ------
        RecordError
            If the folder cannot be written, holds no record, or a record of another version.
        """
        folder = Path(folder)
        path = folder / "record.sqlite"
        if not create and not path.is_file():
            raise RecordError(f"no record in {folder}: give the folder of a run (it holds record.sqlite)")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                database.executescript(_SCHEMA + f"PRAGMA user_version={SCHEMA_VERSION};")
            elif version != SCHEMA_VERSION:
                raise RecordError(f"{path} has record version {version}, this program reads {SCHEMA_VERSION}")
        except (OSError, sqlite3.Error) as error:
            raise RecordError(
                f"cannot write a record in {folder}: {error}; choose another folder with --out"
            ) from error
        return cls(database, folder)

    def close(self) -> None:
        """Close the database; what was committed stays."""
        self._db.close()

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One atomic change; `durable` waits until it would survive a power cut."""
        if durable:
            self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        finally:
            if durable:
                self._db.execute("PRAGMA synchronous=NORMAL")

    # runs and events

    def begin_run(self, protocol: str, provenance: dict[str, Any]) -> int:
        """Enter a run; returns its number."""
        row = (protocol, time.time(), "running", json.dumps(provenance))
        cursor = self._db.execute("INSERT INTO runs (protocol, started, status, provenance) VALUES (?,?,?,?)", row)
        return int(cursor.lastrowid or 0)

    def end_run(self, run: int, status: str) -> None:
        """Close a run as ``finished``, ``stopped`` or ``failed``."""
        self._db.execute("UPDATE runs SET ended=?, status=? WHERE id=?", (time.time(), status, run))

    def runs(self) -> list[dict[str, Any]]:
        """All runs of the lot, oldest first."""
        rows = self._db.execute("SELECT id, protocol, started, ended, status, provenance FROM runs ORDER BY id")
        keys = ("id", "protocol", "started", "ended", "status", "provenance")
        return [dict(zip(keys, (*row[:5], json.loads(row[5])), strict=True)) for row in rows]

    def event(self, run: int, kind: str, message: str, die: str = "", **data: Any) -> None:
        """Note something that happened."""
        row = (run, die, time.time(), kind, message, json.dumps(data))
        self._db.execute("INSERT INTO events (run, die, time, kind, message, data) VALUES (?,?,?,?,?,?)", row)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Events, oldest first, of one kind or all."""
        rows = self._db.execute(
            "SELECT run, die, time, kind, message, data FROM events WHERE ?1 IS NULL OR kind=?1 ORDER BY id", (kind,)
        )
        keys = ("run", "die", "time", "kind", "message", "data")
        return [dict(zip(keys, (*row[:5], json.loads(row[5])), strict=True)) for row in rows]

    # steps

    def history(self, protocol: str, die: str) -> list[Step]:
        """The steps of a protocol that hold on a die, in the order they were done."""
        rows = self._db.execute(
            "SELECT id, run, die, function, source, inputs_digest, started, ended, verdict FROM steps "
            "WHERE protocol=? AND die=? AND superseded_by IS NULL ORDER BY id",
            (protocol, die),
        )
        return [Step(*row) for row in rows]

    def supersede(self, steps: Iterable[Step], run: int) -> None:
        """Mark steps as no longer holding; they stay in the record."""
        with self._transaction() as db:
            db.executemany("UPDATE steps SET superseded_by=? WHERE id=?", [(run, step.id) for step in steps])

    def append_step(
        self,
        run: int,
        protocol: str,
        die: str,
        function: str,
        source: str,
        inputs_digest: str,
        inputs: Any,
        started: float,
        result: xr.Dataset,
    ) -> Step:
        """Commit a step with its result in one transaction."""
        ended = time.time()
        verdict = str(result.attrs.get("verdict", ""))
        row = (run, protocol, die, function, source, inputs_digest, json.dumps(inputs), started, ended, verdict,
               _attrs_json(result.attrs, function))  # fmt: skip
        with self._transaction() as db:
            cursor = db.execute(
                "INSERT INTO steps (run, protocol, die, function, source, inputs_digest, inputs, started, ended, "
                "verdict, attrs) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                row,
            )
            step = int(cursor.lastrowid or 0)
            for name, variable in result.variables.items():
                key = self._put_array(np.asarray(variable.values), f"{function}: {name}")
                entry = (step, str(name), int(name in result.coords), json.dumps(list(variable.dims)),
                         _attrs_json(variable.attrs, f"{function}: {name}"), key)  # fmt: skip
                db.execute("INSERT INTO step_arrays VALUES (?,?,?,?,?,?)", entry)
        return Step(step, run, die, function, source, inputs_digest, started, ended, verdict)

    def load(self, step: Step) -> xr.Dataset:
        """The result of a step."""
        attrs = self._db.execute("SELECT attrs FROM steps WHERE id=?", (step.id,)).fetchone()[0]
        rows = self._db.execute(
            "SELECT name, is_coordinate, dims, attrs, hash FROM step_arrays WHERE step=?", (step.id,)
        ).fetchall()
        variables = {
            name: (is_coordinate, (json.loads(dims), self._get_array(key), json.loads(array_attrs)))
            for name, is_coordinate, dims, array_attrs, key in rows
        }
        return xr.Dataset(
            {name: value for name, (is_coordinate, value) in variables.items() if not is_coordinate},
            coords={name: value for name, (is_coordinate, value) in variables.items() if is_coordinate},
            attrs=json.loads(attrs),
        )

    def results(self, protocol: str, function: str) -> dict[str, list[xr.Dataset]]:
        """All results of a step function that hold, by die."""
        rows = self._db.execute(
            "SELECT id, run, die, function, source, inputs_digest, started, ended, verdict FROM steps "
            "WHERE protocol=? AND function=? AND superseded_by IS NULL ORDER BY id",
            (protocol, function),
        ).fetchall()
        found: dict[str, list[xr.Dataset]] = {}
        for step in (Step(*row) for row in rows):
            found.setdefault(step.die, []).append(self.load(step))
        return found

    def latest_with(self, die: str, variable: str) -> xr.Dataset | None:
        """The newest result for a die, of any protocol, that has `variable`; None if there is none."""
        row = self._db.execute(
            "SELECT s.id, s.run, s.die, s.function, s.source, s.inputs_digest, s.started, s.ended, s.verdict "
            "FROM steps s JOIN step_arrays a ON a.step = s.id WHERE s.die=? AND a.name=? ORDER BY s.id DESC LIMIT 1",
            (die, variable),
        ).fetchone()
        return None if row is None else self.load(Step(*row))

    def find(self, protocol: str, function: str, source: str, inputs_digest: str) -> Step | None:
        """A computation of the lot that was done before with the same source and inputs."""
        row = self._db.execute(
            "SELECT id, run, die, function, source, inputs_digest, started, ended, verdict FROM steps WHERE "
            "protocol=? AND die='(computed)' AND function=? AND source=? AND inputs_digest=? ORDER BY id DESC LIMIT 1",
            (protocol, function, source, inputs_digest),
        ).fetchone()
        return None if row is None else Step(*row)

    def _put_array(self, array: NDArray[Any], what: str) -> str:
        if array.dtype.kind in "OV":
            raise TypeError(f"{what} has dtype {array.dtype}; a record holds numbers, booleans and fixed-length text")
        key = array_digest(array)
        row = (key, array.dtype.str, json.dumps(array.shape), zlib.compress(np.ascontiguousarray(array).tobytes(), 1))
        self._db.execute("INSERT OR IGNORE INTO arrays VALUES (?,?,?,?)", row)
        return key

    def _get_array(self, key: str) -> NDArray[Any]:
        dtype, shape, data = self._db.execute("SELECT dtype, shape, data FROM arrays WHERE hash=?", (key,)).fetchone()
        return np.frombuffer(zlib.decompress(data), np.dtype(dtype)).reshape(json.loads(shape)).copy()

    # pulses

    def intend(self, run: int, die: str, pulses: Iterable[Pulse]) -> int:
        """Commit pulses that are about to be fired; durable when this returns. Returns the number of the batch."""
        now = time.time()
        with self._transaction(durable=True) as db:
            batch = int(db.execute("SELECT COALESCE(MAX(batch), 0) + 1 FROM intents").fetchone()[0])
            db.executemany(
                "INSERT INTO intents (run, die, time, kernel, amplitude, width, count, shape, mask, batch) "
                "VALUES (?,?,?,?,?,?,?,?,?,?)",
                [
                    (run, die, now, p.kernel, p.amplitude, p.width, p.count, json.dumps(p.mask.shape),
                     np.packbits(p.mask, bitorder="little").tobytes(), batch)
                    for p in pulses
                ],
            )  # fmt: skip
        return batch

    def fired(self, batch: int) -> None:
        """Note that every pulse of a batch was fired and answered."""
        self._db.execute("UPDATE intents SET fired=? WHERE batch=?", (time.time(), batch))

    def pulses(self, die: str) -> list[Pulse]:
        """Every pulse that was intended for a die, oldest first: an upper bound of what it got."""
        rows = self._db.execute(
            "SELECT kernel, mask, shape, amplitude, width, count FROM intents WHERE die=? ORDER BY id", (die,)
        )
        found = []
        for kernel, mask, shape, amplitude, width, count in rows:
            rows_columns = json.loads(shape)
            bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=int(np.prod(rows_columns)), bitorder="little")
            found.append(Pulse(kernel, bits.reshape(rows_columns).astype(bool), amplitude, width, count))
        return found

    def dose(self, die: str, shape: tuple[int, int, int]) -> NDArray[np.int64]:
        """Pulses per cell of a die, ``[kernel, row, column]``, as an upper bound."""
        total = np.zeros(shape, np.int64)
        for pulse in self.pulses(die):
            total[pulse.kernel] += pulse.mask * pulse.count
        return total

    def unfired(self, die: str) -> int:
        """Batches that were committed and never confirmed: the cells among them must be read before any pulse."""
        row = self._db.execute(
            "SELECT COUNT(DISTINCT batch) FROM intents WHERE die=? AND fired IS NULL", (die,)
        ).fetchone()
        return int(row[0])


def _attrs_json(attrs: Any, what: str) -> str:
    try:
        return json.dumps({str(key): value for key, value in attrs.items()})
    except TypeError as error:
        raise TypeError(f"{what}: attributes must be numbers, text or lists of them ({error})") from error
