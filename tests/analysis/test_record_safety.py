"""What the record promises: a kill loses nothing, one process writes, damage is named, a full disk harms nothing."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
import xarray as xr
from record_files import another_process, append, edit, some_result

from analysis.record.datasets import seal
from analysis.record.digest import array_digest
from analysis.record.record import Pulse, Record, RecordError, running, send_request

WRITER = """
import os, sys, time, numpy as np, xarray as xr
from analysis.record.record import Pulse, Record

def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()

def write(folder, first):
    record = Record.open(folder)
    run = record.begin_run("p", {})
    for i in range(first, 1000000):
        batch = record.intend(run, "d", [Pulse(0, np.ones((5, 5), bool), 0.8, 1e-7)] * 3)
        say(f"intent {batch}")
        result = xr.Dataset({"x": ("i", np.full(1000, i))})
        record.append_step(run, "p", "d", "f", "s", str(i), {}, 0.0, result)
        say(f"step {i}")

"""
WRITE = WRITER + "write(sys.argv[1], 0)"
WRITE_AGAIN_AND_AGAIN = (
    WRITER
    + """
import tempfile
with tempfile.TemporaryDirectory() as elsewhere, Record.open(elsewhere) as record:  # no child has to import anything
    run = record.begin_run("p", {})
    record.append_step(run, "p", "d", "f", "s", "0", {}, 0.0, xr.Dataset({"x": ("i", np.zeros(1000))}))
while True:
    first = int(sys.stdin.readline())
    child = os.fork()
    if not child:
        write(sys.argv[1], first)
    say(f"writer {child}")
    os.waitpid(child, 0)
    say("dead")
"""
)

HOLDER = """
import sys, time
from analysis.record.record import Record
record = Record.open(sys.argv[1])
run = record.begin_run("p", {})
sys.stdout.write("began\\n"); sys.stdout.flush()
while True:
    for what in record.take_requests():
        record.event(run, "asked", what)
        sys.stdout.write(what + "\\n"); sys.stdout.flush()
    time.sleep(0.01)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="forks, to be quick")
def test_nothing_committed_is_lost_by_kills(tmp_path):
    steps, chance = 0, random.Random(4)
    with another_process(WRITE_AGAIN_AND_AGAIN, tmp_path) as writers:
        for number in range(10):
            writers.stdin.write(f"{steps}\n")
            writers.stdin.flush()
            said = _kill_a_writer(writers.stdout, number, chance.uniform(0.0, 0.005))
            with Record.open(tmp_path) as record:
                history = record.history("p", "d")
                assert [int(step.inputs_digest) for step in history] == list(range(len(history)))
                assert [int(record.load(step)["x"].values[-1]) for step in history] == list(range(len(history)))
                assert len(history) > max((int(what[1]) for what in said if what[0] == "step"), default=steps - 1)
                waiting = len(record.unfired("d"))
                assert waiting >= max((int(what[1]) for what in said if what[0] == "intent"), default=0)
                assert (record.dose("d", (1, 5, 5)) == 3 * waiting).all()  # batches are there whole or not at all
                steps = len(history)
    assert steps >= 10


def _kill_a_writer(stdout, lines, pause):
    """Let a writer say so many lines, wait, kill it; returns all it said."""
    said, pid = [], None
    while pid is None or len(said) < lines:
        words = stdout.readline().split()
        pid = int(words[1]) if words[0] == "writer" else pid
        said += [words] if words[0] != "writer" else []
    time.sleep(pause)
    os.kill(pid, signal.SIGKILL)
    while (words := stdout.readline().split()) != ["dead"]:
        said.append(words)
    return said


@pytest.mark.slow
def test_a_reader_sees_whole_steps_while_another_process_writes(tmp_path):
    with another_process(WRITE, tmp_path) as writer:
        for _ in range(5):
            writer.stdout.readline()
        with Record.open(tmp_path, write=False) as record:
            counts = []
            for _ in range(10):
                history = record.history("p", "d")
                counts.append(len(history))
                assert int(record.load(history[-1])["x"].values[0]) == len(history) - 1
                for _ in range(20):
                    writer.stdout.readline()
            assert counts == sorted(counts) and counts[-1] > counts[0]
            assert running(tmp_path)["pid"] == writer.pid


def test_a_reader_changes_and_makes_nothing(tmp_path):
    with pytest.raises(RecordError, match="no record in"):
        Record.open(tmp_path / "none", write=False)
    assert not (tmp_path / "none").exists()
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        step = append(record, run, some_result())
    with Record.open(tmp_path, write=False) as record:
        for change in (
            lambda: record.begin_run("p", {}),
            lambda: append(record, run, some_result()),
            lambda: record.intend(run, "d", []),
            lambda: record.event(run, "k", "m"),
            lambda: record.supersede([step], run),
            lambda: record.keep_source("text"),
        ):
            with pytest.raises(RecordError, match="reading only"):
                change()
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            record._db.execute("DELETE FROM steps")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that cannot be written")
def test_a_record_in_a_folder_that_cannot_be_written_can_be_read(tmp_path):
    with Record.open(tmp_path) as record:
        append(record, record.begin_run("p", {}), some_result())
    tmp_path.chmod(0o500)
    try:
        with Record.open(tmp_path, write=False) as record:
            assert len(record.steps()) == 1
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.slow
def test_one_process_writes_and_the_others_are_told_which_and_can_ask_it(tmp_path):
    assert running(tmp_path) is None
    with another_process(HOLDER, tmp_path) as holder:
        assert holder.stdout.readline() == "began\n"
        with pytest.raises(RecordError, match=rf"process {holder.pid} \(run 1.*xbar status.*xbar abort.*--out"):
            Record.open(tmp_path)
        assert running(tmp_path)["id"] == 1
        for what in ("pause", "resume", "abort"):
            send_request(tmp_path, what)
        assert [holder.stdout.readline().strip() for _ in range(3)] == ["pause", "resume", "abort"]
        holder.kill()
        holder.wait()
        assert running(tmp_path) is None
        with pytest.raises(RecordError, match="nothing to abort"):
            send_request(tmp_path, "abort")
    with Record.open(tmp_path) as record:  # the lock died with its process
        assert [event["message"] for event in record.events("asked")] == ["pause", "resume", "abort"]
        assert running(tmp_path)["status"] == "running"  # as its run was never ended


def test_requests_are_taken_once_and_not_by_the_next_run(tmp_path):
    with Record.open(tmp_path) as record:
        record.end_run(record.begin_run("p", {}), "finished")
        with pytest.raises(RecordError, match="nothing to pause"):
            send_request(tmp_path, "pause")
        record.begin_run("p", {})
        send_request(tmp_path, "pause")
        send_request(tmp_path, "resume")
        assert record.take_requests() == ["pause", "resume"] and record.take_requests() == []
        send_request(tmp_path, "abort")
        record.begin_run("p", {})
        assert record.take_requests() == []
        with pytest.raises(ValueError, match="none of pause"):
            send_request(tmp_path, "explode")


def test_the_lock_is_let_go_when_opening_fails(tmp_path):
    (tmp_path / "record.sqlite").write_text("no record")
    for _ in range(2):
        with pytest.raises(RecordError, match="not an SQLite database"):
            Record.open(tmp_path)
    (tmp_path / "record.sqlite").unlink()
    Record.open(tmp_path).close()


# damage


@pytest.fixture
def damaged(tmp_path):
    """A closed record of two steps, a batch and its readings."""
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        for number in (1.0, 2.0):
            append(record, run, some_result(number))
        record.keep_readings(record.intend(run, "d", [Pulse(0, np.ones((2, 2), bool), 0.8, 1e-7)]), some_result(3.0))
    return tmp_path


NOISE = zlib.compress(np.full(1000, 2.5).tobytes())


@pytest.mark.parametrize(
    ("statement", "values", "says"),
    [
        ("UPDATE steps SET attrs=replace(attrs, 'text', 'next') WHERE id=2", (), r"step 2 \(m.f on d\).*edited"),
        ("UPDATE steps SET inputs_digest='other' WHERE id=2", (), "step 2.*seal"),
        ("UPDATE steps SET verdict='pass' WHERE id=2", (), "step 2.*seal"),
        ("UPDATE steps SET variables=replace(variables, '\"i\"', '\"j\"') WHERE id=2", (), "step 2.*seal"),
        ("UPDATE arrays SET data=? WHERE length(data) > 20", (NOISE,), "step 1.*array 'x' was edited"),
        ("UPDATE arrays SET data=substr(data, 1, 20)", (), "step 1.*array '.*' was edited"),
        ("UPDATE arrays SET shape='[1000, 1000]'", (), "step 1.*was edited"),
        ("UPDATE arrays SET dtype='|O'", (), "step 1.*was edited"),
        ("DELETE FROM arrays", (), "step 1.*array '.*' is missing"),
    ],
)
def test_a_step_that_was_edited_is_named(damaged, statement, values, says):
    edit(damaged, statement, *values)
    with Record.open(damaged) as record, pytest.raises(RecordError, match=f"(?s){says}.*backup.*--out"):
        for step in record.history("p", "d"):
            record.load(step)


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        ("UPDATE pulses SET count=count + 1", "dose"),
        ("UPDATE pulses SET mask=x'01'", "dose"),
        ("DELETE FROM pulses", "dose"),
        ("UPDATE batches SET die='d', actions=7", "pulses"),
        ("UPDATE readings SET attrs='{}'", "readings"),
    ],
)
def test_a_batch_that_was_edited_is_named(damaged, statement, read):
    edit(damaged, statement)
    with Record.open(damaged) as record, pytest.raises(RecordError, match=r"batch 1 on d.*backup"):
        record.dose("d", (1, 2, 2)) if read == "dose" else getattr(record, read)("d")


@pytest.mark.slow
def test_a_file_made_to_do_harm_runs_nothing(tmp_path):
    """Seals and hashes hold, but what the array claims to be would be objects, or more than there is memory for."""
    with Record.open(tmp_path) as record:
        append(record, record.begin_run("p", {}), xr.Dataset({"x": ("i", np.zeros(4))}))
    bomb = zlib.compress(bytes(10_000_000))
    edit(tmp_path, "UPDATE arrays SET dtype='|O', stored='zlib', data=?", bomb)
    with Record.open(tmp_path) as record, pytest.raises(RecordError, match="'x' was edited"):
        record.load(1)
    edit(tmp_path, "UPDATE arrays SET dtype='<f8'")
    with Record.open(tmp_path) as record, pytest.raises(RecordError, match="'x' was edited"):
        record.load(1)
    modules = subprocess.run(
        [sys.executable, "-c", "import sys, inspect\n"
            "import analysis.record.record, analysis.export.formats, analysis.open_run\n"
         "print([n for n, m in list(sys.modules.items()) if n.startswith('analysis')"
         " and any(word in inspect.getsource(m) for word in ('import pickle', 'np.load', 'eval(', 'exec('))])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert modules.stdout == "[]\n"


def test_the_seal_covers_every_column_of_a_step(damaged):
    """What is not under the seal may change: only what marks a step as superseded."""
    with Record.open(damaged) as record:
        columns = [row[1] for row in record._db.execute("PRAGMA table_info(steps)")]
        row = record._db.execute("SELECT * FROM steps WHERE id=1").fetchone()
        name = columns.index("name")  # under the seal where it is not the one that the function had in schema 3
        assert columns[-2:] == ["seal", "superseded_by"] and seal(*row[:name], *row[name + 1 : -2]) == row[-2]
        assert array_digest(record.load(1)["x"].values) in row[columns.index("variables")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"words " * 100, "not an SQLite database"),
        (b"SQLite", "not an SQLite database"),
        (-4096, "cut short.*bytes"),
        (100, "cut short.*bytes"),
    ],
)
@pytest.mark.parametrize("write", [True, False])
def test_a_file_that_is_no_whole_record_is_named(damaged, content, says, write):
    path = damaged / "record.sqlite"
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:content])
    with pytest.raises(RecordError, match=rf"record\.sqlite.*{says}.*backup.*choose another folder with --out"):
        Record.open(damaged, write=write)


def test_pages_of_nonsense_are_found_when_they_are_read(damaged):
    path = damaged / "record.sqlite"
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"record\.sqlite"), Record.open(damaged) as record:
        for step in record.history("p", "d"):
            record.load(step)


@pytest.mark.parametrize(("version", "says"), [(1, "an earlier xbarlab; read it with"), (99, "a later xbarlab")])
@pytest.mark.parametrize("write", [True, False])
def test_a_record_of_another_version_says_what_wrote_it(damaged, version, says, write):
    edit(damaged, f"PRAGMA user_version={version}")
    with pytest.raises(RecordError, match=rf"version {version}, this program reads 3 and 4: written by {says}.*--out"):
        Record.open(damaged, write=write)


def test_another_database_is_not_taken_for_a_record(tmp_path):
    with sqlite3.connect(tmp_path / "record.sqlite") as other:
        other.execute("CREATE TABLE diary (text)")
    other.close()
    with pytest.raises(RecordError, match="not a record"):
        Record.open(tmp_path)


# a full disk


def test_a_full_disk_leaves_the_record_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        first = append(record, run, some_result())
        pages = record._db.execute("PRAGMA page_count").fetchone()[0]
        record._db.execute(f"PRAGMA max_page_count={pages + 3}")
        large = xr.Dataset({"y": ("i", rng.random(100_000))})
        mask = rng.random((1000, 1000)) < 0.5
        for change in (
            lambda: append(record, run, large),
            lambda: record.intend(run, "d", [Pulse(0, mask, 0.8, 1e-7)]),
            lambda: record.event(run, "k", "m" * 100_000),
            lambda: record.keep_source("s" * 100_000),
        ):
            with pytest.raises(RecordError, match=r"database or disk is full.*record is as it was.*MB free"):
                change()
        assert [row.step.id for row in record.steps()] == [first.id] and record.pulses("d") == []
        assert record.load(first).equals(some_result())
        record._db.execute("PRAGMA max_page_count=1000000")  # room was made
        assert record.load(append(record, run, large)).equals(large)
    with Record.open(tmp_path) as record:
        assert len(record.steps()) == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the size of a file is limited by a POSIX call")
def test_a_file_that_cannot_grow_leaves_the_record_as_it_was(tmp_path):
    """As `max_page_count`, but from below: the operating system refuses to write."""
    code = (
        "import resource, signal, sys, numpy as np, xarray as xr\n"
        "from analysis.record.record import Record, RecordError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "record = Record.open(sys.argv[1])\n"
        "run = record.begin_run('p', {})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))\n"
        "rng, done = np.random.default_rng(0), 0\n"
        "data = lambda: xr.Dataset({'x': ('i', rng.random(2500))})\n"
        "try:\n"
        "    while True:\n"
        "        record.append_step(run, 'p', 'd', 'f', 's', 'k', {}, 0.0, data())\n"
        "        done += 1\n"
        "except RecordError as error:\n"
        "    sys.stdout.write(f'{done} {len(record.steps())} {error}')\n"
    )
    said = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
    done, held, message = said.split(" ", 2)
    assert int(done) > 5 and held == done and "MB free: make room there" in message
    with Record.open(tmp_path) as record:
        assert [record.load(row.step).sizes["i"] for row in record.steps()] == [2500] * int(done)


# -- who holds it --------------------------------------------------------------------------------------------------

LOOKER = """
import sys, time
from analysis.record.record import running
said, end = 0, time.time() + 0.5
while time.time() < end:
    said += running(sys.argv[1]) is not None
print(said)
"""


@pytest.mark.slow
def test_several_who_look_never_take_each_other_for_a_writer(tmp_path):
    with Record.open(tmp_path) as record:
        record.begin_run("look", {})
    looking = [
        subprocess.Popen([sys.executable, "-P", "-c", LOOKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [int(each.communicate()[0]) for each in looking] == [0, 0]


def test_who_looks_keeps_nobody_from_writing(tmp_path):
    Record.open(tmp_path).close()
    end = threading.Event()

    def look():
        while not end.is_set():
            running(tmp_path)

    looking = [threading.Thread(target=look) for _ in range(3)]
    for each in looking:
        each.start()
    try:
        for _ in range(20):
            Record.open(tmp_path).close()
    finally:
        end.set()
        for each in looking:
            each.join()


def test_whatever_file_is_removed_there_is_no_second_writer(tmp_path):
    with Record.open(tmp_path) as record:
        record.begin_run("look", {})
        for each in tmp_path.iterdir():
            if each.name.endswith("lock"):
                each.unlink()
        assert running(tmp_path)["protocol"] == "look"
        with pytest.raises(RecordError, match=rf"is being written by process {os.getpid()} "):
            Record.open(tmp_path)
    assert running(tmp_path) is None


@pytest.mark.skipif(os.name != "posix", reason="a folder in use cannot be moved on Windows")
def test_a_folder_that_is_moved_takes_its_lock_along(tmp_path):
    (tmp_path / "lot").mkdir()
    with Record.open(tmp_path / "lot") as record:
        record.begin_run("look", {})
        (tmp_path / "lot").rename(tmp_path / "moved")
        assert running(tmp_path / "moved") is not None and running(tmp_path / "lot") is None
        Record.open(tmp_path / "lot").close()
