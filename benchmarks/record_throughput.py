"""What it costs to keep a measurement: QCoDeS, h5py, plain SQLite and our record, side by side.

    python benchmarks/record_throughput.py --repeats 5

Two loads of a probe station: traces of 2,500 random float64 (20 kB), each kept by itself; and rows of three set-points
and one reading. All stores take the same data, in turn, repeat after repeat, in a fresh folder of the same disk; the
time includes closing. Each store is used as its users do by default: QCoDeS with array parameters and its default write
period (5 s: what it has not written is lost with the process); h5py appends a row and flushes; SQLite (WAL) commits
a row; our record commits a trace as a step, and 1,000 rows as a step of four columns. A step returns an xarray dataset:
making one costs half as much as keeping it, so traces are measured without and with it. Ours and SQLite lose nothing
when the process dies. Only ratios mean something; times depend on the machine. Ratio: our rate over theirs.
"""

import argparse
import contextlib
import io
import sqlite3
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import xarray as xr
from qcodes.dataset import Measurement, new_experiment
from qcodes.dataset.sqlite.database import connect
from qcodes.parameters import ManualParameter

from analysis.record.record import Record

POINTS, ROWS_A_STEP = 2500, 1000
COLUMNS = ("x", "y", "z", "i")


def qcodes_traces(folder, traces):
    """A run with a result per trace."""
    with qcodes_run(folder, ("cell", "t"), "array") as (saver, (cell, t, i)):
        axis = np.arange(POINTS)
        for number, trace in enumerate(traces):
            saver.add_result((cell, number), (t, axis), (i, trace))


def qcodes_rows(folder, rows):
    """A run with a result per row."""
    with qcodes_run(folder, COLUMNS[:3], "numeric") as (saver, parameters):
        for row in rows:
            saver.add_result(*zip(parameters, row, strict=True))


@contextlib.contextmanager
def qcodes_run(folder, setpoints, paramtype):
    """A measurement run of a new database, and its parameters; what it prints is dropped."""
    connection = connect(folder / "bench.db")
    measurement = Measurement(new_experiment("bench", "die", conn=connection))
    parameters = [ManualParameter(name) for name in (*setpoints, "i")]
    for parameter in parameters[:-1]:
        measurement.register_parameter(parameter, paramtype="numeric" if parameter.name == "cell" else paramtype)
    measurement.register_parameter(parameters[-1], setpoints=parameters[:-1], paramtype=paramtype)
    with contextlib.redirect_stdout(io.StringIO()), measurement.run() as saver:
        yield saver, parameters
    connection.close()


def h5py_traces(folder, traces):
    """A row of a growing dataset per trace."""
    h5py_append(folder, traces, (1, POINTS))


def h5py_rows(folder, rows):
    """A row of a growing dataset per row."""
    h5py_append(folder, rows, (1024, len(COLUMNS)))


def h5py_append(folder, rows, chunks):
    """Append and flush each."""
    with h5py.File(folder / "bench.h5", "w") as file:
        kept = file.create_dataset("i", (0, chunks[1]), maxshape=(None, chunks[1]), chunks=chunks, dtype="f8")
        for number, row in enumerate(rows):
            kept.resize(number + 1, axis=0)
            kept[number] = row
            file.flush()


def sqlite_traces(folder, traces):
    """A blob per trace."""
    sqlite_insert(folder, "cell INTEGER, i BLOB", ((n, trace.tobytes()) for n, trace in enumerate(traces)))


def sqlite_rows(folder, rows):
    """A row per row."""
    sqlite_insert(folder, "x REAL, y REAL, z REAL, i REAL", rows)


def sqlite_insert(folder, columns, rows):
    """Insert and commit each."""
    database = sqlite3.connect(folder / "bench.sqlite", isolation_level=None)  # commits every statement
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute(f"CREATE TABLE kept ({columns})")
    insert = f"INSERT INTO kept VALUES ({','.join('?' * (columns.count(',') + 1))})"
    for row in rows:
        database.execute(insert, row)
    database.close()


def as_results(traces):
    """Traces as steps return them."""
    return [xr.Dataset({"i": ("t", trace, {"units": "A"})}) for trace in traces]


def record_results(folder, results):
    """A step per result."""
    with Record.open(folder) as record:
        run = record.begin_run("bench", {})
        for number, result in enumerate(results):
            keep(record, run, number, result)


def record_traces(folder, traces):
    """A step per trace; its dataset is made here."""
    record_results(folder, as_results(traces))


def record_rows(folder, rows):
    """A step per thousand rows."""
    with Record.open(folder) as record:
        run = record.begin_run("bench", {})
        for start in range(0, len(rows), ROWS_A_STEP):
            columns = np.array(rows[start : start + ROWS_A_STEP]).T
            keep(record, run, start, xr.Dataset(dict(zip(COLUMNS, (("row", c) for c in columns), strict=True))))


def keep(record, run, number, result):
    """Commit a step."""
    record.append_step(run, "bench", "c0r0", "bench.measure", "0" * 64, f"{number:064}", {"n": number}, 0.0, result)


ROWS = "rows of three set-points and a reading"
TRACES = "traces of 2,500 float64, each kept by itself"
CASES = {
    TRACES: {
        "QCoDeS": (qcodes_traces, 300),
        "h5py": (h5py_traces, 1000),
        "SQLite": (sqlite_traces, 2000),
        "record and xarray": (record_traces, 2000),
        "record": (record_results, 2000),
    },
    ROWS: {
        "QCoDeS": (qcodes_rows, 2000),
        "h5py": (h5py_rows, 2000),
        "SQLite": (sqlite_rows, 10_000),
        "record": (record_rows, 200_000),
    },
}


def data_of(case, store, count, rng):
    """Measurements of a case, never the same twice."""
    if case == ROWS:
        return rng.random((count, len(COLUMNS))).tolist()
    traces = list(rng.random((count, POINTS)))
    return as_results(traces) if store == "record" else traces


def rate(function, data):
    """Measurements a second, closing included."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        function(Path(folder), data)
        return len(data) / (time.perf_counter() - began)


def main():
    """Compare and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    for case, stores in CASES.items():
        rates = {store: [] for store in stores}
        for _ in range(repeats):
            for store, (function, count) in stores.items():
                rates[store].append(rate(function, data_of(case, store, count, rng)))
        print(f"{case}, a second: median (min to max), our rate over theirs")
        for store, found in rates.items():
            low, median, high = np.percentile(found, [0, 50, 100])
            ratio = np.median(np.array(rates["record"]) / found)
            print(f"  {store:18} {median:10,.0f}  ({low:,.0f} to {high:,.0f})  {ratio:8.2f}", flush=True)


if __name__ == "__main__":
    main()
