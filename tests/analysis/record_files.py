"""Short ways to fill and to spoil a record, for the tests of it."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import numpy as np
import xarray as xr

SHAPE = (2, 3, 5)


def append(record, run, result, die="d", function="m.f", protocol="p"):
    """Commit a step."""
    return record.append_step(run, protocol, die, function, "s", "k", {"v": 0.1}, time.time(), result)


def some_result(number=1.0):
    """A result with two arrays."""
    return xr.Dataset(
        {"x": ("i", np.full(1000, number), {"units": "S"}), "ok": ("i", np.arange(1000) % 2 == 0)},
        attrs={"number": number, "nothing": float("nan"), "deep": {"a": [float("inf"), None, "text"]}},
    )


def edit(folder, statement, *values):
    """Change a record behind its back."""
    with closing(sqlite3.connect(folder / "record.sqlite", isolation_level=None)) as database:
        changed = database.execute(statement, values)
        assert changed.rowcount != 0, "the test would change nothing"


@contextmanager
def another_process(code, *arguments):
    """A Python process that runs `code`; it is killed at the end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
