"""Who may write a record: one process at a time, held by the operating system, so that no death leaves it locked."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from filelock import FileLock, Timeout

#: How long to try (s): `is_held` of another process takes the lock for a moment to find out.
_PATIENCE = 0.25


class RecordError(RuntimeError):
    """The record cannot be opened, read or written; the message says what to change."""


class RecordLock:
    """The right to write the record in a folder, from construction to `release` or the death of the process.

    Raises
    ------
    RecordError
        If another process holds it.
    OSError
        If the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = FileLock(folder / "record.lock", thread_local=False)
        try:
            self._lock.acquire(timeout=_PATIENCE, poll_interval=0.02)
        except Timeout:
            raise RecordError(
                f"{folder} is being written by {_writer(folder)}: look with `xbar status {folder}`, end it with "
                f"`xbar abort {folder}`, or choose another folder with --out"
            ) from None

    def release(self) -> None:
        """Let others write."""
        self._lock.release()


def is_held(folder: Path) -> bool:
    """Whether a living process writes the record in `folder`."""
    file = folder / "record.lock"
    if not file.is_file():
        return False
    try:
        with FileLock(file, thread_local=False).acquire(timeout=0):
            return False
    except (Timeout, PermissionError):  # a lock of another user: ask no further, the run says that it is running
        return True


def _writer(folder: Path) -> str:
    """The process that holds the lock, as far as its record tells."""
    unnamed = "another process"
    try:
        with closing(sqlite3.connect(f"{(folder / 'record.sqlite').resolve().as_uri()}?mode=ro", uri=True)) as database:
            row = database.execute(
                "SELECT pid, id, protocol, status FROM runs WHERE status IN ('running', 'paused') ORDER BY id DESC"
            ).fetchone()
    except sqlite3.Error:
        return unnamed
    return unnamed if row is None else f"process {row[0]} (run {row[1]}, {row[2]}, {row[3]})"
