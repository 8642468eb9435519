"""The database file of a record: opened, checked, changed in transactions; every failure says what to do next."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from analysis.record import schema_3 as record_schema_3
from analysis.record.datasets import LARGEST
from analysis.record.lock import RecordError, RecordLock
from analysis.record.schema import SCHEMA, SCHEMA_VERSION, check_objects

#: Measured with one 20 kB array a commit: small pages and a log of 16 MB between checkpoints are fastest.
_PAGE_SIZE, _CHECKPOINT_PAGES = 4096, 4000

#: What records that this program reads are made of, by their version.
_SCHEMAS = {SCHEMA_VERSION: SCHEMA, record_schema_3.VERSION: record_schema_3.SCHEMA}


class Database:
    """An open record file. Every read and change of a record goes through here, from one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, folder: Path, lock: RecordLock | None) -> None:
        self._db, self._lock = connection, lock
        self._one_at_a_time = threading.RLock()
        self._waits = True
        self.folder = folder
        self.path = folder / "record.sqlite"
        self.origin = self.path  # the record that damage is reported of: a copy is as damaged as what it was made of

    def close(self) -> None:
        """Close the database and let go of the lock; what was committed stays."""
        with self._one_at_a_time:
            self._db.close()
        if self._lock is not None:
            self._lock.release()

    def is_of_earlier_schema(self) -> bool:
        """Whether the file was made by an earlier version; it is converted when it is opened to be written."""
        return bool(self._rows("PRAGMA user_version") == [(record_schema_3.VERSION,)])

    def fold_in(self) -> None:
        """Write the log beside the file into the file, so that a copy of that alone holds all that was committed.

        As far as readers let it: nobody waits for it, and what cannot be written now stays in the log.
        """
        self._must_write()
        with self._one_at_a_time, suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _never_wait(self) -> None:
        """Let no commit wait for the disk or for readers; only for a record that nobody else opens or needs later."""
        self._waits = False
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One atomic change, whole or not at all; `durable` waits until it would survive a power cut."""
        self._must_write()
        durable &= self._waits
        with self._one_at_a_time:
            try:
                if durable:
                    self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._cannot_write(error) from error
            finally:
                if self._db.in_transaction:  # after a full disk SQLite may have rolled back by itself
                    self._db.execute("ROLLBACK")
                if durable:
                    self._db.execute("PRAGMA synchronous=NORMAL")

    def _change(self, statement: str, values: Sequence[Any]) -> sqlite3.Cursor:
        """One statement, committed."""
        self._must_write()
        try:
            with self._one_at_a_time:
                return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise self._cannot_write(error) from error

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            with self._one_at_a_time:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise cannot_read(self.path, error) from error

    def _row(self, statement: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        rows = self._rows(statement, values)
        return rows[0] if rows else None

    def _must_write(self) -> None:
        if self._lock is None:
            raise RecordError(f"{self.path} was opened for reading only; open it with write=True to change it")

    def _cannot_write(self, error: sqlite3.Error) -> RecordError:
        said = f"cannot write {self.path}: {error}. Nothing of this change was stored, the record is as it was before. "
        kind = getattr(error, "sqlite_errorname", "")
        if kind.startswith("SQLITE_BUSY"):
            return RecordError(said + "Close the other programs that have it open, then go on with the same folder")
        if not kind.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            return RecordError(said + "Go on with the same folder")
        disk = self.folder.resolve()
        while not disk.is_mount() and disk != disk.parent:
            disk = disk.parent
        free = shutil.disk_usage(disk).free / 1e6
        return RecordError(
            f"{said}The disk {disk} has {free:.1f} MB free: make room there, then go on with the same folder"
        )


def open_database(folder: Path, *, create: bool, write: bool) -> tuple[sqlite3.Connection, RecordLock | None]:
    """Connection to the record in `folder`, and the lock that is held for it if `write`.

    Raises
    ------
    RecordError
        If there is no record, it is damaged, of another version, cannot be written, or another process writes it.
    """
    path = folder / "record.sqlite"
    if not path.is_file() and not (create and write):
        raise RecordError(f"no record in {folder}: give the folder of a run (it holds record.sqlite)")
    if not write:
        return _connect_reader(path), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = RecordLock(folder)
    except OSError as error:
        raise RecordError(f"cannot write a record in {folder}: {error}; choose another folder with --out") from error
    try:
        if not path.is_file():
            _create(path)
        return _connect_writer(path), lock
    except BaseException:
        lock.release()
        raise


@contextmanager
def opened_for_request(folder: Path) -> Iterator[sqlite3.Connection]:
    """A record that another process writes, to leave it a request."""
    with _sound(folder / "record.sqlite", "rw") as database, closing(database):
        yield database


def cannot_read(path: Path, error: Exception | str) -> RecordError:
    """What to say when a file is no sound record."""
    return RecordError(
        f"{path} cannot be read as a record: {error}. "
        "Restore the file from a backup, or choose another folder with --out"
    )


def _create(path: Path) -> None:
    """A new record, complete under its name or not there: an empty record.sqlite is always a damaged one."""
    new = path.with_name("record.sqlite.new")
    try:
        _clear(new)
        with closing(_connect(new, "rwc")) as database:
            database.execute(f"PRAGMA page_size={_PAGE_SIZE}")
            database.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            if database.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                raise RecordError(f"{path.parent} cannot hold a record (a network drive?); choose another with --out")
        with _sound(new, "ro") as database:  # a full disk may have let go of a part without a word
            database.close()
        _clear(new, but_itself=True)
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
    except (OSError, sqlite3.Error) as error:
        _clear(new)
        folder = path.parent
        raise RecordError(f"cannot write a record in {folder}: {error}; choose another folder with --out") from error
    except BaseException:
        _clear(new)
        raise


def _clear(path: Path, *, but_itself: bool = False) -> None:
    """Remove a database that is not finished, with what SQLite keeps beside it."""
    for ending in ("-wal", "-shm", "-journal", *([] if but_itself else [""])):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _connect_writer(path: Path) -> sqlite3.Connection:
    with _sound(path, "rw") as database:
        if database.execute("PRAGMA user_version").fetchone()[0] == record_schema_3.VERSION:
            record_schema_3.convert(database)
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    return database


def _connect_reader(path: Path) -> sqlite3.Connection:
    try:
        with _sound(path, "ro") as database:
            return _readable(database)
    except RecordError:
        if os.access(path.parent, os.W_OK):
            raise
        # SQLite keeps an index beside a database in use; where that cannot be made nobody writes the record either
        if not _has_log(path):
            with _sound(path, "ro&immutable=1") as database:
                return _readable(database)
        return _connect_copy(path)


def _connect_copy(path: Path) -> sqlite3.Connection:
    """A record that was copied to a read-only medium with its log: read from a copy in memory."""
    try:
        with tempfile.TemporaryDirectory() as home:
            for ending in ("", "-wal"):
                shutil.copyfile(path.with_name(path.name + ending), Path(home) / (path.name + ending))
            memory = _guarded(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
            with _sound(Path(home) / path.name, "rw") as database, closing(database):
                database.backup(memory)
    except OSError as error:
        raise cannot_read(path, f"its log cannot be copied to {tempfile.gettempdir()}: {error}") from error
    return _readable(memory)


def _has_log(path: Path) -> bool:
    logged = path.with_name(path.name + "-wal")
    return logged.exists() and logged.stat().st_size > 0


def _readable(database: sqlite3.Connection) -> sqlite3.Connection:
    """The same connection; an earlier record looks as one of today through it."""
    if database.execute("PRAGMA user_version").fetchone()[0] == record_schema_3.VERSION:
        record_schema_3.see(database)
    return database


@contextmanager
def _sound(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """A connection to a record of this version; closed again if it turns out to be none."""
    _check_length(path)
    database: sqlite3.Connection | None = None
    try:
        database = _connect(path, mode)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if "steps" not in tables:
            raise cannot_read(path, "it is an SQLite database, but not a record")
        schema = _SCHEMAS.get(version)
        if schema is None:
            raise RecordError(_other_version(path, version))
        try:
            check_objects(database, schema)
        except RecordError as error:
            raise cannot_read(path, error) from error
        yield database
    except BaseException as error:
        if database is not None:
            database.close()
        if isinstance(error, sqlite3.Error):
            raise cannot_read(path, error) from error
        raise


def _other_version(path: Path, version: int) -> str:
    reads = " and ".join(map(str, sorted(_SCHEMAS)))
    written = "an earlier" if version < SCHEMA_VERSION else "a later"
    return (
        f"{path} has record version {version}, this program reads {reads}: written by {written} xbarlab; "
        "read it with that version, or choose another folder with --out"
    )


def _check_length(path: Path) -> None:
    """Find a file that is no database or was cut short, which SQLite notices only when it gets to what is missing."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
        size = path.stat().st_size
    except OSError as error:
        raise cannot_read(path, error) from error
    if not size:
        raise cannot_read(path, "it is empty")
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise cannot_read(path, "it is not an SQLite database")
    (page,), (pages,) = struct.unpack(">H", header[16:18]), struct.unpack(">I", header[28:32])
    whole = pages * (65536 if page == 1 else page)
    if size < whole and not _has_log(path):
        raise cannot_read(path, f"it was cut short, it has {size} of {whole} bytes")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=10.0, check_same_thread=False
    )
    return _guarded(database)


def _guarded(database: sqlite3.Connection) -> sqlite3.Connection:
    """The same connection, such that a file from elsewhere runs nothing and takes no more than a record needs."""
    database.execute("PRAGMA trusted_schema=OFF")
    database.execute("PRAGMA cell_size_check=ON")
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST + 4096)
    return database
