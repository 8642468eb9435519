"""What a record holds, as schema 3 had it."""

import sqlite3
from contextlib import closing

from analysis import record_schema_3


def as_schema_3(new, old):
    """Write what the record in folder `new` holds into folder `old`, which is made if need be."""
    old.mkdir(exist_ok=True)
    with closing(sqlite3.connect(old / "record.sqlite", isolation_level=None)) as database:
        database.executescript(record_schema_3.SCHEMA)
        database.execute("ATTACH ? AS new", (str(new / "record.sqlite"),))
        for (table,) in database.execute("SELECT name FROM main.sqlite_master WHERE type='table'").fetchall():
            columns = ", ".join(row[1] for row in database.execute(f"PRAGMA main.table_info({table})"))
            database.execute(f"INSERT INTO main.{table} SELECT {columns} FROM new.{table}")
        database.execute("PRAGMA main.user_version=3")
