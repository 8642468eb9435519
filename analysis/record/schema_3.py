"""Records of schema 3: read through temporary views as if they were of today, without a change to the file.

Steps had no names of their own, batches no power-on id and no word on which run settled them, and impossible pulses
were not refused. Seals stay as they are, since they cover what is new only where it is there (`analysis.record.steps`).
A program that is to write such a record converts it first, in one transaction.
"""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

from analysis.record.datasets import seal
from analysis.record.schema import NEW, PULSE_HOLDS, SCHEMA_VERSION, UNCHANGED
from analysis.record.step_names import OLD_NAMES

VERSION = 3

SCHEMA = (
    UNCHANGED
    + """
CREATE TABLE steps (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, protocol TEXT NOT NULL, die TEXT NOT NULL,
  function TEXT NOT NULL, source TEXT NOT NULL, inputs_digest TEXT NOT NULL, inputs TEXT NOT NULL,
  started REAL NOT NULL, ended REAL NOT NULL, verdict TEXT NOT NULL, attrs TEXT NOT NULL, variables TEXT NOT NULL,
  seal TEXT NOT NULL, superseded_by INTEGER);
CREATE INDEX steps_of_die ON steps (die, protocol, id);
CREATE TABLE batches (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, die TEXT NOT NULL, time REAL NOT NULL,
  tester TEXT NOT NULL, actions INTEGER, after_step INTEGER NOT NULL, seal TEXT NOT NULL,
  fired REAL, settled REAL, frames INTEGER);
CREATE INDEX batches_of_die ON batches (die, id);
CREATE INDEX batches_settled ON batches (die) WHERE settled IS NOT NULL;
CREATE TABLE pulses (
  batch INTEGER NOT NULL REFERENCES batches, position INTEGER NOT NULL, kernel INTEGER NOT NULL,
  amplitude REAL NOT NULL, width REAL NOT NULL, count INTEGER NOT NULL, scheme TEXT, shape TEXT NOT NULL,
  mask BLOB NOT NULL,
  PRIMARY KEY (batch, position));
"""
)

#: Columns of today's tables, of the old ones under another name.
_STEPS = (
    "id, run, protocol, die, COALESCE((SELECT name FROM temp.old_names o WHERE o.function = s.function), s.function) "
    "AS name, function, source, inputs_digest, inputs, started, ended, verdict, attrs, variables, seal, superseded_by"
)
_BATCHES = (
    "id, run, die, time, tester, actions, NULL AS power_on, NULL AS last_seq, after_step, seal, fired, settled, "
    "CASE WHEN settled IS NOT NULL THEN COALESCE((SELECT MAX(r.id) FROM {schema}.runs r WHERE r.id >= b.run "
    "AND r.started <= b.settled), b.run) END AS settled_by, frames"
)


def see(database: sqlite3.Connection, schema: str = "main", prefix: str = "") -> None:
    """Make the views that show the tables of a record of schema 3 as those of today.

    Parameters
    ----------
    schema, prefix : str
        Under which name the record is attached, and what stands before the names of the views.
    """
    database.execute("PRAGMA temp_store=MEMORY")
    database.execute("CREATE TEMP TABLE IF NOT EXISTS old_names (function TEXT PRIMARY KEY, name TEXT NOT NULL)")
    database.executemany("INSERT OR IGNORE INTO temp.old_names VALUES (?,?)", OLD_NAMES.items())
    database.execute(f"CREATE TEMP VIEW {prefix}steps AS SELECT {_STEPS} FROM {schema}.steps s")
    database.execute(
        f"CREATE TEMP VIEW {prefix}batches AS SELECT {_BATCHES.format(schema=schema)} FROM {schema}.batches b"
    )


def convert(database: sqlite3.Connection) -> None:
    """Make a record of schema 3 one of today, whole or not at all; what was measured stays as it is, with its seals."""
    database.execute("BEGIN IMMEDIATE")
    try:
        if database.execute("PRAGMA main.user_version").fetchone()[0] == VERSION:  # nobody was quicker
            _convert(database)
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _convert(database: sqlite3.Connection) -> None:
    for table in ("steps", "batches", "pulses"):
        database.execute(f"CREATE TEMP TABLE old_{table} AS SELECT * FROM main.{table}")
        database.execute(f"DROP TABLE main.{table}")
    for statement in filter(str.strip, NEW.split(";\n")):
        database.execute(statement)
    database.execute("CREATE TEMP TABLE IF NOT EXISTS old_names (function TEXT PRIMARY KEY, name TEXT NOT NULL)")
    database.executemany("INSERT OR IGNORE INTO temp.old_names VALUES (?,?)", OLD_NAMES.items())
    database.execute(f"INSERT INTO main.steps SELECT {_STEPS} FROM temp.old_steps s ORDER BY id")
    database.execute(
        f"INSERT INTO main.batches SELECT {_BATCHES.format(schema='main')} FROM temp.old_batches b ORDER BY id"
    )
    _move_impossible(database)
    database.execute("INSERT INTO main.pulses SELECT *, NULL FROM temp.old_pulses ORDER BY batch, position")
    for table in ("steps", "batches", "pulses"):
        database.execute(f"DROP TABLE temp.old_{table}")
    database.execute(f"PRAGMA main.user_version={SCHEMA_VERSION}")


def _move_impossible(database: sqlite3.Connection) -> None:
    """Pulses that no tester fires (a count of -4) were noted before they were refused: they become events."""
    batches = [batch for (batch,) in database.execute(
        f"SELECT DISTINCT batch FROM temp.old_pulses WHERE NOT COALESCE({PULSE_HOLDS}, 0) ORDER BY batch"
    )]  # fmt: skip
    for batch in batches:
        row = database.execute(
            "SELECT id, run, die, time, tester, actions, after_step, seal FROM main.batches WHERE id=?", (batch,)
        ).fetchone()
        if row is None or row[-1] != _seal(database, row[:-1]):
            continue  # damaged: its pulses are refused when it is read
        impossible = _pulses(database, batch, f"NOT COALESCE({PULSE_HOLDS}, 0)")
        database.execute(f"DELETE FROM temp.old_pulses WHERE batch=? AND NOT COALESCE({PULSE_HOLDS}, 0)", (batch,))
        database.execute("UPDATE main.batches SET seal=? WHERE id=?", (_seal(database, row[:-1]), batch))
        database.execute(
            "INSERT INTO events (run, die, time, kind, message, data) VALUES (?,?,?,?,?,?)",
            (row[1], row[2], time.time(), "impossible", f"batch {batch} held pulses that no tester fires",
             json.dumps({"batch": batch, "pulses": [repr(pulse) for pulse in impossible]})),
        )  # fmt: skip
    # what is left of them belongs to damaged batches: without their pulses their seals do not hold, as before
    database.execute(f"DELETE FROM temp.old_pulses WHERE NOT COALESCE({PULSE_HOLDS}, 0)")


def _pulses(database: sqlite3.Connection, batch: int, which: str = "1") -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT kernel, amplitude, width, count, scheme, shape, mask FROM temp.old_pulses "
        f"WHERE batch=? AND {which} ORDER BY position",
        (batch,),
    ).fetchall()


def _seal(database: sqlite3.Connection, row: tuple[Any, ...]) -> str:
    """Of a batch with the pulses that it has now."""
    return seal(*row, *((*pulse[:-1], bytes(pulse[-1]).hex()) for pulse in _pulses(database, row[0])))
