"""The folder of a run that is being started: one in which nothing came to be is taken back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from analysis.record.lock import RecordError
from analysis.record.record import Record

#: What a run makes in its folder before its station answers; and all that begins like the first.
MADE = ("record.sqlite", "traffic", "station", "station.yaml", "broker.json")


@contextmanager
def folder_of_start(folder: Path) -> Iterator[None]:
    """While a run goes on in here; if it leaves a record without a step and without a station, that is taken away.

    Folders that were there before stay, with what was in them.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    before = set() if missing else {each.name for each in folder.iterdir()}
    try:
        yield
    finally:
        if "record.sqlite" not in before and _is_empty(folder):
            _take_back(folder, before, missing)


def _is_empty(folder: Path) -> bool:
    """Whether a record holds nothing that anybody could want."""
    try:
        with Record.open(folder, create=False, write=False) as record:
            return not record.steps() and not record.events("station")
    except RecordError:
        return not (folder / "record.sqlite").exists()


def _take_back(folder: Path, before: set[str], made: list[Path]) -> None:
    """Remove what this run made; on a system that does not let go of a file yet, that one stays."""
    with suppress(OSError):
        for each in folder.iterdir():
            if each.name in before or not (each.name in MADE or each.name.startswith(MADE[0])):
                continue
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)
        for each in made:  # the innermost first; one that somebody else uses by now is not empty
            each.rmdir()
