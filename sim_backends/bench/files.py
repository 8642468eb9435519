"""Files that are either whole or not there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_TRIES = 20
_BETWEEN_TRIES = 0.05  # s


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a new file, then put it in place of `path`.

    Whenever the process dies, `path` holds the old content or the new one. Not flushed to the disk itself: it
    survives the death of the process, not that of the computer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as file:
            write(file)
        _replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _replace(fresh: Path, path: Path) -> None:
    """Windows refuses while somebody reads the old file; readers of these files are quick."""
    for _ in range(_TRIES - 1):
        try:
            fresh.replace(path)
            return
        except PermissionError:
            time.sleep(_BETWEEN_TRIES)
    fresh.replace(path)
