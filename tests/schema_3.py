"""What a record holds, as schema 3 had it."""

import sqlite3
from contextlib import closing

from analysis.record import schema_3 as record_schema_3
from analysis.record.datasets import seal
from analysis.record.step_names import OLD_NAMES

OLD_FUNCTIONS = {name: function for function, name in OLD_NAMES.items()}
SEALED = "id, run, protocol, die, function, source, inputs_digest, inputs, started, ended, verdict, attrs, variables"


def as_schema_3(new, old):
    """Write what the record in folder `new` holds into folder `old`, which is made if need be."""
    old.mkdir(exist_ok=True)
    with closing(sqlite3.connect(old / "record.sqlite", isolation_level=None)) as database:
        database.executescript(record_schema_3.SCHEMA)
        database.execute("ATTACH ? AS new", (str(new / "record.sqlite"),))
        for (table,) in database.execute("SELECT name FROM main.sqlite_master WHERE type='table'").fetchall():
            columns = ", ".join(row[1] for row in database.execute(f"PRAGMA main.table_info({table})"))
            database.execute(f"INSERT INTO main.{table} SELECT {columns} FROM new.{table}")
        for row in database.execute(f"SELECT name, {SEALED} FROM new.steps").fetchall():
            name, number, *rest = row
            if name in OLD_FUNCTIONS:  # which lay elsewhere then
                rest[3] = OLD_FUNCTIONS[name]
                change = "UPDATE main.steps SET function=?, seal=? WHERE id=?"
                database.execute(change, (rest[3], seal(number, *rest), number))
        database.execute("PRAGMA main.user_version=3")
