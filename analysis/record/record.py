"""The record of a lot: one SQLite database that holds everything done to its dies.

What is promised, and when
--------------------------
* Death of the process, however it dies: what a method committed is there as soon as it returns, and what was being
  committed is there whole or not at all (write-ahead log).
* Power loss: a pulse intent is on the disk as soon as `intend` returns (synchronous FULL), and with it everything
  committed before. It is committed before the pulses are fired, so the record is an upper bound of the dose of every
  cell. Steps, readings and events committed after the last intent may be missing, from the end (synchronous NORMAL),
  never damaged. This holds for disks that write what they say they have written.
* Full disk: a commit that fails leaves the record as it was and raises `RecordError` naming the disk.
* One process writes (a lock of the operating system, gone with the process), any number read meanwhile.
* Nothing is ever deleted. A step that no longer holds (its source or inputs changed) is marked as superseded.
* Steps, readings and pulse batches carry a seal, arrays are named by their hash; both are checked on every reading. A
  row that was edited or damaged raises `RecordError`. Seals find accidents, not forgers: they hold no secret.
* Nothing is stored as a pickle: arrays are raw bytes with dtype and shape, everything else is JSON.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from analysis.record import schema_3 as record_schema_3
from analysis.record.database import open_database, opened_for_request
from analysis.record.ledger import Batch, Intent, Ledger, Pulse
from analysis.record.lock import RecordError, is_held
from analysis.record.runs import GOING_ON, REQUESTS, VERDICTS, Runs, Verdict
from analysis.record.steps import COMPUTED, Step, StepRow

__all__ = [
    "COMPUTED",
    "VERDICTS",
    "Batch",
    "Intent",
    "Pulse",
    "Record",
    "RecordError",
    "Step",
    "StepRow",
    "Verdict",
    "running",
    "send_request",
]


class Record(Runs, Ledger):
    """A lot folder's record: its runs, steps and pulses. Open it with `Record.open`."""

    @classmethod
    def open(cls, folder: Path | str, *, create: bool = True, write: bool = True, kept: bool = True) -> Record:
        """Open the record in `folder`.

        Parameters
        ----------
        create : bool
            Make folder and record if they are not there (only together with `write`).
        write : bool
            Hold the lock of the record until it is closed. False: read only, also while another process writes; makes
            nothing but the index files that SQLite keeps beside a database in use.
        kept : bool
            False: the record goes with its folder when the process is done (a plan's), so nothing of it waits for the
            disk. Nobody else can read it, and nothing is promised of it after a power cut.

        Raises
        ------
        RecordError
            If the folder cannot be written, another process writes it, or it holds no sound record of this version.
        """
        folder = Path(folder)
        connection, lock = open_database(folder, create=create, write=write)
        record = cls(connection, folder, lock)
        if not kept:
            record._never_wait()
        return record

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def copy_before(self, run: int, folder: Path | str) -> Record:
        """A new record in `folder`: the lot's record as it was when `run` began, and all pure computations of any run.

        What later runs superseded holds again, what later runs settled is unsettled again. Numbers stay as they are;
        the next run that begins in the copy gets the number `run`.

        Raises
        ------
        RecordError
            If there is no such run, or `folder` holds a record already.
        """
        folder = Path(folder)
        runs = [known["id"] for known in self.runs()]
        if run not in runs:
            raise RecordError(
                f"there is no run {run} in {self.folder}; there are {', '.join(map(str, runs)) or 'none'}"
            )
        if (folder / "record.sqlite").exists():
            raise RecordError(f"{folder} holds a record already; choose another folder for the copy")
        copy = Record.open(folder)
        copy.origin = self.path
        try:
            copy._fill_from(self.path, run)
        except BaseException:
            copy.close()
            raise
        return copy

    def _fill_from(self, other: Path, run: int) -> None:
        self._change("ATTACH ? AS lot", (f"{other.resolve().as_uri()}?mode=ro",))
        ((version,),) = self._rows("PRAGMA lot.user_version")
        earlier = version == record_schema_3.VERSION
        if earlier:
            record_schema_3.see(self._db, "lot", "lot_")
        tables = {name: f"lot_{name}" if earlier else f"lot.{name}" for name in ("steps", "batches")}
        with self._transaction() as db:
            for statement in _COPY:
                db.execute(statement.format(**tables), {"run": run, "computed": COMPUTED})
        for name in tables.values() if earlier else ():
            self._change(f"DROP VIEW temp.{name}", ())
        self._change("DETACH lot", ())


_STEPS = ("id, run, protocol, die, name, function, source, inputs_digest, inputs, started, ended, verdict, attrs, "
          "variables, seal, superseded_by")  # fmt: skip
_BATCHES = (
    "id, run, die, time, tester, actions, power_on, last_seq, after_step, seal, fired, settled, settled_by, frames"
)
_PULSES = "batch, position, kernel, amplitude, width, count, scheme, shape, mask"
#: Fills a new record from the attached `lot`, as that was before `:run` began. What came when is told by numbers, for
#: clocks jump.
_COPY = (
    "INSERT INTO runs SELECT * FROM lot.runs WHERE id < :run",
    "INSERT INTO events SELECT * FROM lot.events WHERE run < :run",
    "INSERT INTO verdicts SELECT * FROM lot.verdicts WHERE run < :run",
    "INSERT INTO sources SELECT * FROM lot.sources",
    f"INSERT INTO steps SELECT {_STEPS} FROM {{steps}} WHERE run < :run OR die = :computed",
    "UPDATE steps SET superseded_by = NULL WHERE superseded_by >= :run",
    f"INSERT INTO batches SELECT {_BATCHES} FROM {{batches}} WHERE run < :run",
    "UPDATE batches SET settled = NULL, settled_by = NULL, frames = NULL WHERE settled_by >= :run",
    f"INSERT INTO pulses ({_PULSES}) SELECT {_PULSES} FROM lot.pulses WHERE batch IN (SELECT id FROM batches)",
    "INSERT INTO readings SELECT * FROM lot.readings WHERE batch IN (SELECT id FROM batches)",
    "INSERT INTO arrays SELECT * FROM lot.arrays WHERE hash IN ("
    "SELECT json_extract(v.value, '$[4]') FROM steps, json_each(steps.variables) v UNION "
    "SELECT json_extract(v.value, '$[4]') FROM readings, json_each(readings.variables) v)",
)


def send_request(folder: Path | str, what: str) -> None:
    """Ask the process that runs the lot in `folder` to ``pause``, ``resume`` or ``abort``; it finds out by itself.

    Raises
    ------
    RecordError
        If no run of the lot is running or paused, or there is no sound record.
    """
    if what not in REQUESTS:
        raise ValueError(f"{what!r} is none of {', '.join(REQUESTS)}")
    folder = Path(folder)
    if running(folder) is None:
        none = f"no run of {folder} is running or paused, there is nothing to {what}"
        try:
            Record.open(folder, create=False, write=False).close()
        except RecordError as error:
            raise RecordError(f"{none}: {error}") from error
        raise RecordError(f"{none}; look with xbar status {folder}")
    path = folder / "record.sqlite"
    try:
        with opened_for_request(folder) as database:
            database.execute("INSERT INTO requests (what, sent) VALUES (?,?)", (what, time.time()))
    except sqlite3.Error as error:
        raise RecordError(f"cannot leave the request to {what} in {path}: {error}; try again") from error


def running(folder: Path | str) -> dict[str, Any] | None:
    """The newest run of the lot if it goes on: its status is running or paused and its process lives. Else None.

    As an entry of `Record.runs`.
    """
    folder = Path(folder)
    if not is_held(folder):
        return None
    with Record.open(folder, create=False, write=False) as record:
        going_on = [run for run in record.runs() if run["status"] in GOING_ON]
    return going_on[-1] if going_on else None
