"""One station at a time may keep its dies in a folder, or write a log: two would overwrite each other's states."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from filelock import FileLock, Timeout

from sim_backends.bench.files import write_atomically

PATIENCE = 40.0  # s; longer than a station serves on when the program that started it is gone


class StateInUseError(RuntimeError):
    """Another station keeps its dies in the folder."""


class StateLock:
    """The right to use a folder of states; ends with the process, however it dies.

    Parameters
    ----------
    folder
        The folder; made if it is not there.
    patience
        How long (s) to wait for another station to end.
    name
        Of the files in the folder that stand for the right: what is locked if it is not the folder.
    """

    def __init__(self, folder: Path, patience: float = PATIENCE, *, name: str = ".station") -> None:
        self._folder, self._patience = folder, patience
        self._what = folder if name == ".station" else folder / name.removeprefix(".")
        self._holder = folder / f"{name}.pid"  # not in the lock itself: Windows lets nobody read that
        self._lock = FileLock(folder / f"{name}.lock", thread_local=False)

    def acquire(self) -> None:
        """Take the folder.

        Raises
        ------
        StateInUseError
            If another station has it for all that time; says which, as far as that is known.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=self._patience)
        except Timeout as error:
            raise StateInUseError(
                f"{self._what} is in use by another station ({self._who()}) and was not given free within "
                f"{self._patience:.0f} s; end that one, or choose another state folder or log"
            ) from error
        write_atomically(self._holder, lambda file: file.write(str(os.getpid()).encode()))

    def release(self) -> None:
        """Give the folder free; does nothing if it is not held."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # a reader has it open: the next station overwrites it
                self._holder.unlink(missing_ok=True)
            self._lock.release()

    def _who(self) -> str:
        try:
            return f"process {int(self._holder.read_text())}"
        except (OSError, ValueError):
            return "its process is not known"
