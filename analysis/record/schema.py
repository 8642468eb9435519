"""What a record's database is made of: the tables of the present version, and a look at what a file really holds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache

from analysis.record.lock import RecordError

SCHEMA_VERSION = 4

#: What every committed pulse is, whoever wrote it; anything else was never fired and would make a dose wrong. A shape
#: reads "[rows, columns]" (SQLite's functions for JSON are not allowed in a constraint).
_ROWS, _COLUMNS = "CAST(substr(shape, 2) AS INTEGER)", "CAST(substr(shape, instr(shape, ',') + 1) AS INTEGER)"
PULSE_HOLDS = (
    "typeof(kernel) = 'integer' AND kernel >= 0 "
    "AND typeof(count) = 'integer' AND count >= 1 AND count <= 1000000 "
    "AND typeof(amplitude) = 'real' AND abs(amplitude) <= 100.0 "
    "AND typeof(width) = 'real' AND width >= 0.0 AND width <= 1e5 "
    f"AND shape = '[' || {_ROWS} || ', ' || {_COLUMNS} || ']' AND {_ROWS} >= 1 AND {_COLUMNS} >= 1 "
    f"AND typeof(mask) = 'blob' AND length(mask) = ({_ROWS} * {_COLUMNS} + 7) / 8 "
    "AND mask <> zeroblob(length(mask))"
)

#: Tables that are as they were in version 3, with their indexes.
UNCHANGED = """
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, protocol TEXT NOT NULL, started REAL NOT NULL, ended REAL, status TEXT NOT NULL,
  provenance TEXT NOT NULL, resumes INTEGER, pid INTEGER NOT NULL);
CREATE TABLE events (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, die TEXT NOT NULL, time REAL NOT NULL,
  kind TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL);
CREATE TABLE verdicts (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, die TEXT NOT NULL, verdict TEXT NOT NULL,
  bin INTEGER NOT NULL, reason TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE requests (id INTEGER PRIMARY KEY, what TEXT NOT NULL, sent REAL NOT NULL, taken REAL);
CREATE INDEX requests_waiting ON requests (id) WHERE taken IS NULL;
CREATE TABLE sources (digest TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE arrays (
  hash TEXT PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL, stored TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE readings (
  id INTEGER PRIMARY KEY, batch INTEGER NOT NULL REFERENCES batches, time REAL NOT NULL, attrs TEXT NOT NULL,
  variables TEXT NOT NULL, seal TEXT NOT NULL);
CREATE INDEX readings_of_batch ON readings (batch);
"""

#: Tables of version 4. `power_on`: the tester's power-on id when the batch was committed (NULL: it tells none).
#: `last_seq`: the number of the last pulse frame that it had executed (NULL: it does not count). `kernels`: how many
#: the die has, where that is known.
#: `settled_by`: the run that found out what became of the batch.
NEW = f"""
CREATE TABLE steps (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, protocol TEXT NOT NULL, die TEXT NOT NULL,
  name TEXT NOT NULL, function TEXT NOT NULL, source TEXT NOT NULL, inputs_digest TEXT NOT NULL, inputs TEXT NOT NULL,
  started REAL NOT NULL, ended REAL NOT NULL, verdict TEXT NOT NULL, attrs TEXT NOT NULL, variables TEXT NOT NULL,
  seal TEXT NOT NULL, superseded_by INTEGER);
CREATE INDEX steps_of_die ON steps (die, protocol, id);
CREATE TABLE batches (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, die TEXT NOT NULL, time REAL NOT NULL,
  tester TEXT NOT NULL, actions INTEGER, power_on TEXT, last_seq INTEGER, after_step INTEGER NOT NULL,
  seal TEXT NOT NULL, fired REAL, settled REAL, settled_by INTEGER, frames INTEGER CHECK (frames >= 0));
CREATE INDEX batches_of_die ON batches (die, id);
CREATE INDEX batches_settled ON batches (die) WHERE settled IS NOT NULL;
CREATE TABLE pulses (
  batch INTEGER NOT NULL REFERENCES batches, position INTEGER NOT NULL, kernel INTEGER NOT NULL,
  amplitude REAL NOT NULL, width REAL NOT NULL, count INTEGER NOT NULL, scheme TEXT, shape TEXT NOT NULL,
  mask BLOB NOT NULL, kernels INTEGER,
  PRIMARY KEY (batch, position),
  CONSTRAINT "a pulse that cannot be" CHECK ({PULSE_HOLDS}),
  CONSTRAINT "a kernel that the die has not" CHECK (kernels IS NULL OR kernel < kernels));
"""

SCHEMA = UNCHANGED + NEW


@cache
def objects(schema: str) -> frozenset[tuple[str, str, str]]:
    """Type, name and text of everything that a schema makes."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(schema)
        return _objects_of(database)


def check_objects(database: sqlite3.Connection, schema: str) -> None:
    """Look at what a file holds before anything of it is used: tables as they should be, and nothing else.

    A trigger, a view or a table that computes would act when a record is read or written.

    Raises
    ------
    RecordError
        Naming what is missing, other than it should be, or does not belong into a record.
    """
    found, expected = _objects_of(database), objects(schema)
    if missing := sorted(name for _, name, _ in expected - found):
        raise RecordError(f"{missing[0]!r} is missing, or is not what a record has under that name")
    if strange := sorted((kind, name) for kind, name, _ in found - expected):
        kind, name = strange[0]
        raise RecordError(f"it holds the {kind} {name!r}, which does not belong into a record and might act on it")


def _objects_of(database: sqlite3.Connection) -> frozenset[tuple[str, str, str]]:
    """All but what SQLite makes for itself: indexes of keys, statistics of ANALYZE."""
    rows = database.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite@_%' ESCAPE '@'")
    return frozenset((str(kind), str(name), " ".join(str(sql).split())) for kind, name, sql in rows)
