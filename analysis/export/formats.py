"""From the record to the files that people open: HDF5, a QCoDeS database, CSV. Each is read back before it is there."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from analysis.record.record import Record
from analysis.record.run_contents import RunContents, run_contents

Format = Literal["hdf5", "qcodes", "csv"]


class ExportError(RuntimeError):
    """Nothing was exported; the message says why and what to do."""


class _Writer(NamedTuple):
    """How a format is written, and how it is found to differ from the record (None: it does not)."""

    write: Callable[[RunContents, Path], None]
    difference: Callable[[RunContents, Path], str | None]


def export(folder: Path | str, run: int | None, to: Format, out: Path | str) -> Path:
    """Write a run to `out` and compare it with the record, value by value; `out` appears only when both are done.

    Parameters
    ----------
    folder : path
        A lot's folder; it may be in use by a run.
    run : int or None
        Number of a run, None for the newest. Exported is what the run committed or took from the record: the steps of
        its protocol that held at its end, pulses and dose of each die up to then, verdicts, events, provenance.
    to : str
        ``hdf5``: one file. ``qcodes``: a QCoDeS database, one QCoDeS run per step (pulses and events are not in it).
        ``csv``: a folder.
    out : path
        Where; must not exist.

    Raises
    ------
    ExportError
        If `out` exists or cannot be written, or a value reads back differently (nothing is left at `out` then).
    RecordError
        If there is no such run, or the record is damaged.
    """
    out = Path(out)
    writer = _writer(to)
    if out.exists():
        raise ExportError(f"{out} exists; choose another --out or remove it")
    part = out.with_name(f"{out.name}.part")
    with Record.open(folder, create=False, write=False) as record:
        contents = run_contents(record, run)
        try:
            _remove(part)
            out.parent.mkdir(parents=True, exist_ok=True)
            writer.write(contents, part)
            difference = writer.difference(contents, part)
            if difference:
                raise ExportError(f"{to} of run {contents.run['id']}: {difference} does not read back as it is in the "
                                  "record; nothing was exported, choose another format and report this")  # fmt: skip
            part.replace(out)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, sqlite3.Error) as error:
            if type(error).__module__.startswith("analysis."):  # ours: says already what to do
                raise
            raise ExportError(
                f"cannot write {out}: {error.__cause__ or error}; choose another --out or another format"
            ) from error
        finally:
            with suppress(OSError):
                _remove(part)
    return out


def _writer(to: str) -> _Writer:
    from analysis.export import hdf5 as export_hdf5
    from analysis.export import qcodes as export_qcodes
    from analysis.export import tables as export_csv

    formats = {"hdf5": export_hdf5, "qcodes": export_qcodes, "csv": export_csv}
    if to not in formats:
        raise ExportError(f"there is {', '.join(formats)}, not {to!r}")
    return _Writer(formats[to].write, formats[to].difference)


def _remove(part: Path) -> None:
    """Remove what an export has begun, with what SQLite keeps beside a database."""
    if part.is_dir():
        shutil.rmtree(part)
    for beside in ("", "-wal", "-shm", "-journal"):
        part.with_name(part.name + beside).unlink(missing_ok=True)
