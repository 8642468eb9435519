"""Who may write a record: one process at a time, held by the operating system, so that no death leaves it locked."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

#: How long to try (s): whoever looks whether a record is held keeps it from being taken for some microseconds.
_PATIENCE = 0.5
_AGAIN = 0.005


class RecordError(RuntimeError):
    """The record cannot be opened, read or written; the message says what to change."""


if sys.platform == "win32":
    import msvcrt

    def _opened(folder: Path, *, write: bool) -> int:
        """A file that cannot be removed while it is open."""
        return os.open(folder / "record.lock", (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY) | os.O_BINARY)

    def _take(handle: int) -> None:
        if os.fstat(handle).st_size == 0:
            os.write(handle, b" ")
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def _look(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        os.read(handle, 1)  # a byte that another process has locked cannot be read; looking locks nothing
else:
    import fcntl

    def _opened(folder: Path, *, write: bool) -> int:
        """The folder itself: a lock file in it could be removed while a run goes on."""
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _take(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _look(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: any number may look at a time


class RecordLock:
    """The right to write the record in a folder, from construction to `release` or the death of the process.

    Raises
    ------
    RecordError
        If another process holds it.
    OSError
        If the folder cannot be locked.
    """

    def __init__(self, folder: Path) -> None:
        self._handle: int | None = _opened(folder, write=True)
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                _take(self._handle)
                return
            except (BlockingIOError, PermissionError):
                if time.monotonic() < end:
                    time.sleep(_AGAIN)
                    continue
                self.release()
            except BaseException:
                self.release()
                raise
            raise RecordError(
                f"{folder} is being written by {_writer(folder)}: look with `xbar status {folder}`, end it with "
                f"`xbar abort {folder}`, or choose another folder with --out"
            )

    def release(self) -> None:
        """Let others write."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether a living process writes the record in `folder`; any number of processes may look at a time."""
    try:
        handle = _opened(folder, write=False)
    except OSError:  # there is none, or it cannot even be read
        return False
    try:
        _look(handle)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(handle)
    return False


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
