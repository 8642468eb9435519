"""What a user may give by mistake, or somebody else by intent: refused in one message with a way on.

Each time: exit status 1 or 2, no traceback, no code run, nothing moved, the record as it was.
"""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
import zipfile

import h5py
import numpy as np
import pytest
import torch
from command_line import xbar
from happened import ACTIONS, happened, of_kind
from in_process import serve_here, sim_here
from safetensors.numpy import save_file
from short_lot import write_lot

from protocols.sequencer.open_station import traffic_file

SCRIPT = """
import os

import xarray as xr

from protocols.steps.characterise import check_contact, measure_states
from protocols.sequencer.run import protocol


def read(bench, die, *, v_read):
    return xr.Dataset({"current": (("row", "column"), bench.array.read(0, v_read), {"units": "A"})})


@protocol
def look(run, *, v_read: float = 0.1):
    for die in run.dies():
        run.step(check_contact, die)
        run.step(measure_states, die, averages=1, retries=0)
        if os.environ.get("BREAK_OFF"):
            raise OSError("the needle card is on fire")
        run.step(read, die, v_read=v_read)
"""
#: Words of a message that says what to do next, or what there is.
WAY_ON = re.compile(
    r"\b(give|choose|restore|bring|take|use|start|make|there (is|are)|allowed|expected|look|write|connect|known|put|"
    r"remove|needs|try|save|one of|see docs|should be|read from|must be|read with|export|check|it has|the board has|"
    r"the lot has|may stand there|train again|is given in|if you like)\b|xbar \w|--\w",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="module")
def lot(home):
    return write_lot(home / "lot.yaml")


@pytest.fixture(scope="module")
def station(home, lot):
    """A station of two small dies, and its log."""
    file, log = home / "station.yaml", home / "physical.jsonl"
    with sim_here(lot, seed=3, log=log, truth=home / "truth.npz", write=file):
        yield file, log


@pytest.fixture(scope="module")
def look(home):
    (home / "mine.py").write_text(SCRIPT, encoding="utf-8")
    return f"{home / 'mine.py'}:look"


@pytest.fixture(scope="module")
def broken_off(home, station, look):
    """A run on one die that ended before its last step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BREAK_OFF", "1")
        ended = xbar("run", look, "--station", station[0], "--dies", 1, "--out", home / "broken_off")
    assert ended.status == 1 and "on fire" in ended.said, ended.said
    return home / "broken_off"


@pytest.fixture(scope="module")
def finished(home, broken_off):
    """The same run gone on with to its end."""
    folder = shutil.copytree(broken_off, home / "finished")
    done = xbar("resume", folder, "--trust")
    assert done.status == 0, done.said
    return folder


@pytest.fixture(scope="module")
def twin(home, finished):
    """A lot file of the finished run's die, the cells beside it."""
    done = xbar("twin", finished, "-o", home / "twin.yaml")
    assert done.status == 0, done.said
    return home / "twin.yaml"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to be spoiled."""
    return shutil.copytree(finished, tmp_path / "run")


def refused(*command, names):
    """What a command says that refuses: one message that names what is wrong and a way on."""
    ended = xbar(*command)
    said = " ".join(ended.said.split())
    assert ended.status in (1, 2), said
    assert "Traceback" not in said
    for name in names if isinstance(names, tuple) else (names,):
        assert str(name) in said, said
    assert WAY_ON.search(said.removeprefix("xbar: ")), f"no way on: {said}"
    return said


def contents(folder):
    """Everything that a record holds; its bytes, if it cannot be read."""
    path = folder / "record.sqlite"
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            return "\n".join(database.iterdump())
    except sqlite3.Error:
        return path.read_bytes()


@contextlib.contextmanager
def unchanged(folder):
    """The record in the folder is the same afterwards."""
    before = contents(folder)
    yield
    assert contents(folder) == before


@contextlib.contextmanager
def nothing_moves(log):
    """No die is moved to, touched, read or pulsed meanwhile."""
    before = len(of_kind(happened(log), *ACTIONS))
    yield
    assert of_kind(happened(log), *ACTIONS)[before:] == []


# -- folders and records -------------------------------------------------------------------------------------------

#: Every command that takes a folder of a run. A copy of a folder is not known as the user's own, so he says that it is.
OF_A_RUN = {
    "status": ("status", "RUN"),
    "pause": ("pause", "RUN"),
    "abort": ("abort", "RUN"),
    "resume": ("resume", "RUN", "--trust"),
    "report": ("report", "RUN"),
    "replay": ("replay", "RUN", "--trust"),
    "export": ("export", "RUN", "--to", "csv"),
    "score": ("score", "RUN", "TRUTH"),
    "twin": ("twin", "RUN", "-o", "OUT/lot.yaml"),
    "map": ("map", "WEIGHTS", "-o", "OUT/net.h5", "--die", "RUN:c0r1"),
    "plan": ("plan", "LOOK", "--like", "RUN"),
}
#: Those, and the ones that write into such a folder.
OF_A_RECORD = OF_A_RUN | {
    "run": ("run", "LOOK", "--station", "STATION", "--out", "RUN"),
    "program": ("program", "SCHEDULE", "--station", "STATION", "--out", "RUN"),
}


@pytest.fixture(scope="module")
def weights(home):
    """A small network, and its schedule for a die of the lot."""
    rng = np.random.default_rng(1)
    save_file({"fc.weight": rng.choice(np.array([-1, 1], np.float32), (10, 20))}, str(home / "net.safetensors"))
    geometry = {"rows": 25, "columns": 25, "kernels": 4, "blocks": 1, "block_rows": 50, "block_columns": 50}
    places = {"kernel_block": [0] * 4, "kernel_row": [0, 0, 25, 25], "kernel_column": [0, 25, 0, 25]}
    (home / "die.json").write_text(json.dumps(geometry | places), encoding="utf-8")
    file = home / "net.safetensors"
    done = xbar("map", file, "-o", home / "net.h5", "--geometry", home / "die.json", "--copies", 1)
    assert done.status == 0, done.said
    return file


@pytest.fixture
def given(home, station, look, weights, tmp_path):
    """Puts files in the place of the capital words of a command."""
    words = {"LOOK": look, "STATION": station[0], "TRUTH": home / "truth.npz", "WEIGHTS": weights,
             "SCHEDULE": home / "net.h5", "OUT": tmp_path, "HOME": home}  # fmt: skip

    def fill(command, **more):
        for word, file in (words | more).items():
            command = tuple(re.sub(rf"\b{word}\b", str(file), part) for part in command)
        return command

    return fill


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_folder_without_a_record(given, tmp_path, name):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "gone"):
        refused(*given(OF_A_RUN[name], RUN=folder), names=folder)
    assert not (tmp_path / "gone").exists() and list((tmp_path / "empty").iterdir()) == []


def spoilt_database(statement):
    def spoil(path):
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute(statement)
            database.commit()
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    return spoil


def cut(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


UNREADABLE = {
    "version 1": spoilt_database("PRAGMA user_version=1"),
    "version 99": spoilt_database("PRAGMA user_version=99"),
    "empty": cut(0),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "cut after the header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "cut in the middle": cut(0.5),
    "cut at the end": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a text": lambda path: path.write_text("SQLite is a database.\n" * 99, encoding="utf-8"),
    "another database": lambda path: (path.unlink(), spoilt_database("CREATE TABLE notes (text)")(path)),
    "garbage pages": lambda path: path.write_bytes(path.read_bytes()[:100] + os.urandom(path.stat().st_size - 100)),
}


SOME = ("version 99", "cut in the middle", "a text")
#: Every command with some of them, and two with all.
READ = [(name, how) for name in OF_A_RECORD for how in UNREADABLE if name in ("run", "export") or how in SOME]


@pytest.mark.parametrize(("name", "how"), READ)
def test_a_file_that_is_no_record_of_this_version(station, given, run, name, how):
    UNREADABLE[how](run / "record.sqlite")
    before = (run / "record.sqlite").read_bytes()
    with nothing_moves(station[1]):
        said = refused(*given(OF_A_RECORD[name], RUN=run), names=run)
    assert (run / "record.sqlite").read_bytes() == before
    assert how.split()[-1] in said or "record.sqlite cannot be read" in said


#: An edit of a finished record, and the commands that read what was edited.
EDITS = {
    "array": "UPDATE arrays SET data=zeroblob(length(data))",
    "array shape": "UPDATE arrays SET shape='[1]'",
    "array dtype": "UPDATE arrays SET dtype='object'",
    "attributes": "UPDATE steps SET attrs=replace(attrs, 'pass', 'fail')",
    "attributes no JSON": "UPDATE steps SET attrs='{'",
    "variables": "UPDATE steps SET variables='[]'",
    "inputs": "UPDATE steps SET inputs='{}', inputs_digest='0'",
    "die of a step": "UPDATE steps SET die='c0r0' WHERE die='c0r1'",
    "array missing": "DELETE FROM arrays",
    "provenance": "UPDATE runs SET provenance='{'",
}
READ_RESULTS = ("export", "replay", "twin", "score", "map")


@pytest.mark.parametrize(
    ("name", "what"), [(n, e) for n in READ_RESULTS for e in EDITS if n == "export" or e in ("array", "attributes")]
)
def test_an_edited_record(given, run, name, what):
    spoilt_database(EDITS[what])(run / "record.sqlite")
    with unchanged(run):
        refused(*given(OF_A_RUN[name], RUN=run), names="record.sqlite")


# -- traffic -------------------------------------------------------------------------------------------------------


def flipped(position):
    def flip(path):
        content = bytearray(path.read_bytes())
        content[int(position * (len(content) - 1))] ^= 1
        path.write_bytes(bytes(content))

    return flip


TRAFFIC = {
    "missing": lambda path: path.unlink(),
    "empty": cut(0),
    "a flipped byte at the beginning": flipped(0.0),
    "a flipped byte after the beginning": flipped(0.02),
    "a flipped byte in the middle": flipped(0.5),
    "a flipped byte at the end": flipped(1.0),
    "another version": lambda path: path.write_bytes(b"xbarlab traffic 9\n" + path.read_bytes()[18:]),
    "a text": lambda path: path.write_text("MEAS?\n" * 99, encoding="utf-8"),
    "of another run": lambda path: shutil.copy(traffic_file(path.parent.parent, 2), path),
}


@pytest.mark.parametrize("how", TRAFFIC)
def test_traffic_that_is_not_what_was_recorded(run, how):
    TRAFFIC[how](traffic_file(run, 1))
    with unchanged(run):
        said = refused("replay", run, "--run", 1, "--trust", names="run-0001.traffic")
    if how.startswith("a flipped byte"):
        assert "was damaged or edited" in said or "of this version" in said


@pytest.mark.parametrize("share", [0.5, 0.999])
def test_traffic_that_was_torn_off(run, share):
    """What a power cut left out may be no more than the farewells; else the replay says where it ends."""
    cut(share)(traffic_file(run, 1))
    with unchanged(run):
        done = xbar("replay", run, "--run", 1, "--trust")
    assert (done.status, "3 of 3 steps" in done.said) in ((0, True), (1, False))
    assert done.status == 0 or "run-0001.traffic" in done.said.replace("\n", "")


# -- a record in use -----------------------------------------------------------------------------------------------

HOLDER = """
import sys
from analysis.record.record import Record
with Record.open(sys.argv[1]) as record:
    record.begin_run("mine.py:look", {})
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(run):
    """A run that another process does."""
    command = [sys.executable, "-c", HOLDER, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield run, process
        process.stdin.close()


def test_a_record_that_another_process_holds(held, given, station, tmp_path):
    folder, holder = held
    with nothing_moves(station[1]), unchanged(folder):
        for name in ("run", "program", "resume"):
            said = refused(*given(OF_A_RECORD[name], RUN=folder), names=(folder, holder.pid))
            assert "xbar abort" in said
        assert "running" in xbar("status", folder).said
        for name in ("export", "score", "twin"):
            done = xbar(*given(OF_A_RUN[name], RUN=folder), *(["--run", 2] if name == "export" else []))
            assert done.status == 0, done.said
        assert "no die of mtj-mnist" in refused("report", folder, names=folder)
    assert xbar("pause", folder).status == 0
    done = xbar("abort", folder)  # the request is left; that nobody made the station safe is no success
    assert done.status == 1 and "see to the station by hand" in done.said


# -- another station, another die ----------------------------------------------------------------------------------


@pytest.fixture
def unfinished(broken_off, station, tmp_path):
    """A copy of the broken-off run; its station file is as it was afterwards."""
    text = station[0].read_text(encoding="utf-8")
    yield shutil.copytree(broken_off, tmp_path / "run")
    station[0].write_text(text, encoding="utf-8")


@pytest.mark.parametrize("change", ["other", "gone", "binary"])
def test_a_station_file_that_is_not_the_recorded_one(station, unfinished, change):
    file, log = station
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + {"other": b"# one more line\n", "binary": b"\xff\xfe"}[change])
    with nothing_moves(log), unchanged(unfinished):
        refused("resume", unfinished, "--trust", names=file)


@contextlib.contextmanager
def in_its_place(file, log, **config):
    """Another simulated station, under the station file of the recorded one; gives nothing."""
    from instruments.station import write_station

    with serve_here({"log": log, **config}) as process:
        write_station(file, process.prober, process.board)
        yield


def test_another_board(station, unfinished, lot, tmp_path):
    log, board = tmp_path / "log", {"identity": "xbarlab,virtual array board,VB0002,1.0"}
    with in_its_place(station[0], log, lot=str(lot), seed=3, board=board):
        said = refused("resume", unfinished, "--yes", "--trust", names=("VB0001", "VB0002", "array"))
    assert "--out" in said
    assert of_kind(happened(log), *ACTIONS) == []


def assert_only_looked_at(log):
    """The needles went down once and up again, and fired nothing."""
    entries = happened(log)
    assert of_kind(entries, "pulse") == [] and len(of_kind(entries, "contact")) >= 1
    assert of_kind(entries, "contact", "separation")[-1]["what"] == "separation"


def test_another_wafer(station, unfinished, lot, tmp_path):
    log = tmp_path / "log"
    with in_its_place(station[0], log, lot=str(lot), seed=4):
        refused("resume", unfinished, "--yes", "--trust", names=("c0r1", "Nothing was fired"))
    assert_only_looked_at(log)


def test_a_mirrored_die(station, unfinished, twin, tmp_path):
    """The recorded die as a twin, which is known again; and the twin with its columns the other way round."""
    shutil.copy(twin, tmp_path / "twin.yaml")
    with np.load(twin.with_suffix(".npz"), allow_pickle=False) as file:
        cells = dict(file)
    log = tmp_path / "log"
    np.savez(tmp_path / "twin.npz", **cells | {k: cells[k][..., ::-1] for k in ("g_p", "g_ap", "kind", "state")})
    with in_its_place(station[0], log, lot=str(tmp_path / "twin.yaml")):
        refused("resume", unfinished, "--yes", "--trust", names=("c0r1", "Nothing was fired"))
    assert_only_looked_at(log)
    np.savez(tmp_path / "twin.npz", **cells)
    with in_its_place(station[0], tmp_path / "log 2", lot=str(tmp_path / "twin.yaml")):
        done = xbar("resume", unfinished, "--yes", "--trust")
    assert done.status == 0, done.said


# -- words of the command line -------------------------------------------------------------------------------------

WORDS = {
    ("--retest-bin", "7"): "bin 7",
    ("--retest-bin", "x"): "--retest-bin x",
    ("--retest", "fail"): "verdict fail",
    ("--retest", "nonsense"): "--retest nonsense",
    ("--only", "c9r9"): "--only c9r9",
    ("--skip", "c9r9"): "--skip c9r9",
    ("--golden", "c9r9"): "--golden c9r9",
    ("--only", "c0r1", "--skip", "c0r1"): "no die is left",
    ("--dies", "0"): "--dies",
    ("--stop-after", "-1"): "--stop-after",
    ("--lease", "nonsense"): "--lease",
    ("--lease", "0 s"): "--lease: '0 s' is 0 s, not above 0 s",
    ("--lease", "-3 s"): "not above 0 s",
    ("--lease", "5 kg"): "kg",
    ("--lease", "nan"): "--lease: 'nan' is no quantity",
    ("--set", "v_read"): "name=value",
    ("--set", "v_red=1"): "v_red",
    ("--v-read", "abc"): "v_read",
    ("--v-read", "100 kg"): "kg",
    ("--v-read",): "--v-read needs a value",
    ("--station", "GONE.yaml"): "GONE.yaml",
    ("--station", "OUT"): "OUT",
    ("--json", "HOME"): "HOME",
    ("more",): "'more'",
}


@pytest.mark.parametrize("options", WORDS, ids=" ".join)
def test_words_that_mean_nothing(station, given, run, options):
    with nothing_moves(station[1]):
        command = given(("run", "LOOK", "--station", "STATION", "--out", "RUN", *options), RUN=run)
        refused(*command, names=given((WORDS[options],)))


COMMANDS = {
    ("run", "nonsense"): "nonsense",
    ("run", "gone.py:look"): "gone.py",
    ("run", "HOME/mine.py:look_again"): "look_again",
    ("run", "HOME/mine.py:read"): "@protocol",
    ("run", "STATION:look"): "STATION",
    ("plan", "nonsense"): "nonsense",
    ("plan", "LOOK", "--station", "GONE"): "GONE",
    ("export", "RUN", "--to", "unknown"): "unknown",
    ("export", "RUN", "--to", "csv", "--run", "9"): "9",
    ("export", "RUN", "--to", "csv", "-o", "HOME/mine.py"): "mine.py",
    ("export", "RUN", "--to", "csv", "-o", "HOME/mine.py/beside"): "mine.py",
    ("export", "RUN", "--to", "hdf5", "-o", "HOME/mine.py/beside"): "mine.py",
    ("export", "RUN", "--to", "qcodes", "-o", "HOME/mine.py/beside"): "mine.py",
    ("replay", "RUN", "--run", "9"): "9",
    ("twin", "RUN", "-o", "OUT/twin.txt"): "twin.txt",
    ("twin", "RUN", "-o", "HOME/mine.py/twin.yaml"): "mine.py",
    ("score", "RUN", "GONE"): "GONE",
    ("map", "GONE.npz", "-o", "OUT/x.h5"): "GONE.npz",
    ("map", "WEIGHTS", "-o", "HOME/mine.py/x.h5"): "mine.py",
    ("map", "WEIGHTS", "-o", "OUT/x.h5", "--geometry", "unknown"): "unknown",
    ("map", "WEIGHTS", "-o", "OUT/x.h5", "--geometry", "HOME/mine.py"): "mine.py",
    ("map", "WEIGHTS", "-o", "OUT/x.h5", "--coding", "unknown"): "unknown",
    ("map", "WEIGHTS", "-o", "OUT/x.h5", "--die", "c0r1"): "FOLDER:DIE",
    ("map", "WEIGHTS", "-o", "OUT/x.h5", "--die", "RUN:c9r9"): "c9r9",
    ("map", "WEIGHTS", "-o", "OUT/x.h5", "--die", "RUN:c0r1"): "c0r1",
    ("map", "WEIGHTS", "-o", "OUT/x.h5", "--copies", "0"): "copies",
    ("map", "WEIGHTS", "-o", "OUT/x.h5", "--copies", "1", "--copies", "2"): "copies",
    ("program", "GONE.h5"): "GONE.h5",
    ("sim", "unknown"): "unknown",
    ("sim", "HOME"): "HOME",
    ("sim", "HOME/lot.yaml", "--state", "HOME/mine.py"): "mine.py",
    ("sim", "HOME/lot.yaml", "--log", "HOME/mine.py/log"): "mine.py",
    ("sim", "HOME/lot.yaml", "--write", "HOME/mine.py/station.yaml"): "mine.py",
    ("simulate", "unknown"): "unknown",
    ("simulate", "mtj-lots", "--lot", "unknown"): "unknown",
    ("simulate", "mtj-lots", "--out", "HOME/mine.py"): "mine.py",
    ("resume", "RUN", "--lease", "nonsense"): "--lease",
    ("resume", "RUN", "--set", "v_read"): "name=value",
    ("run", "LOOK", "--out", "HOME/mine.py"): "mine.py",
    ("run", "LOOK", "--lot", "unknown", "--out", "OUT/new"): "unknown",
}


@pytest.fixture
def no_station_stays(monkeypatch):
    """`xbar sim` would wait for Ctrl-C if it took what it is to refuse."""

    def wait_for_end(**_):
        raise AssertionError("the station was served")

    monkeypatch.setattr("sim_backends.station.wait_for_end", wait_for_end)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_that_cannot_be_done(given, finished, no_station_stays, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with unchanged(finished):
        refused(*given(command, RUN=finished), names=given((COMMANDS[command],), RUN=finished))


# -- files made to do harm -----------------------------------------------------------------------------------------


@pytest.fixture
def marker(tmp_path):
    """A file that appears if anything in a file runs as code."""
    path = tmp_path / "it ran"
    yield path
    assert not path.exists()


def bomb(key, level="[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]", levels=9):
    """Levels of references to the level before: a few hundred bytes that are 10^9 values and more when written out."""
    steps = ["&l0 [x]", *(f"&l{n} {level.format(f'*l{n - 1}')}" for n in range(1, levels + 1))]
    return f"{key}: [{', '.join(steps)}]\n" if key else f"[{', '.join(steps)}]"


CODE = "!!python/object/apply:os.system ['touch MARKER']"
PROBER = "  prober: {type: instruments.drivers.sentio.Sentio, address: x}\n"
BOARD = "type: instruments.drivers.board.FramedBoard, address: x"


def an_array(entry):
    return f"instruments:\n{PROBER}  array: {{{entry}}}\n"


STATIONS = {
    "code": f"instruments: {CODE}\n",
    "code in a setting": an_array(f"{BOARD}, init: {{x: {CODE}}}"),
    "new object": "instruments: !!python/object/new:subprocess.Popen [[touch, 'MARKER']]\n",
    "module": "instruments: !!python/module:antigravity ''\n",
    "bomb": f"{bomb('levels')}instruments: *l9\n",
    "bomb in a setting": an_array(f"{BOARD}, init: {{a: {bomb('')}, pulse_limit: *l9}}"),
    "bomb in a parameter": an_array(f"{BOARD}, parameters: {{a: {{b: {bomb('')}, initial_value: *l9}}}}"),
    "bomb of mappings": an_array(f"{BOARD}, parameters: {bomb('', '{{a: {0}, b: {0}, c: {0}}}', 30)}"),
    "endless": "instruments: &a {array: *a, prober: *a}\n",
    "endless setting": an_array(f"{BOARD}, init: &a {{pulse_limit: *a}}"),
    "deep": "instruments: " + "[" * 400 + "]" * 400 + "\n",
    "empty": "",
    "a list": "- prober\n- array\n",
    "a number": "instruments: 7\n",
    "a date that is none": "instruments: 2026-99-99\n",
    "no array": "instruments: {}\n",
    "unknown section": "instruments: {}\nlot: mtj\n",
    "unknown key": an_array("type: instruments.drivers.board.FramedBoard, adress: COM4"),
    "unknown setting": an_array(f"{BOARD}, init: {{volts: 3}}"),
    "wrong type": an_array("type: instruments.drivers.board.FramedBoard, address: [1, 2]"),
    "wrong unit": an_array(f"{BOARD}, init: {{pulse_limit: 3 kg}}"),
    "no YAML": "instruments: [\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "binary": "instruments: \xff\n",
    "a function": an_array("type: os.system, address: x"),
    "a module that acts": an_array("type: antigravity.Board"),
    "a module that prints": an_array("type: this.Board"),
    "builtins": an_array("type: builtins.eval, init: {source: x}"),
    "no such module": an_array("type: nowhere.Board"),
    "relative": an_array("type: ..Board"),
    "another role": an_array("type: instruments.drivers.sentio.Sentio, address: x"),
    "a base class": an_array("type: qcodes.instrument.Instrument"),
    "a further one that is none": an_array(BOARD) + "  more: {type: qcodes.station.Station}\n",
}


@pytest.fixture
def quick():
    """Whatever is refused is refused at once."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("what", STATIONS)
def test_a_station_file_made_to_do_harm(look, tmp_path, marker, quick, monkeypatch, what):
    monkeypatch.delitem(sys.modules, "this", raising=False)
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    file = tmp_path / "bench.yaml"
    file.write_text(STATIONS[what].replace("MARKER", str(marker)), encoding="latin-1")
    refused("run", look, "--station", file, "--out", tmp_path / "run", names=file)
    if what in ("code", "bomb in a parameter", "a function"):
        refused("plan", look, "--station", file, names="bench.yaml")
    assert not {"this", "antigravity"} & set(sys.modules)


LOTS = {
    "code": f"geometry: {CODE}\ndevices: 1\n",
    "code in a value": f"geometry: 1\ndevices: {{r_p: {CODE}}}\n",
    "bomb": f"{bomb('levels')}geometry: *l9\ndevices: *l9\nlot: *l9\n",
    "bomb of mappings": f"{bomb('levels', '{{a: {0}, b: {0}, c: {0}}}', 30)}geometry: *l30\ndevices: *l30\nlot: *l30\n",
    "endless": "geometry: &a {value: *a, source: x}\ndevices: *a\n",
    "deep": "geometry: " + "[" * 400 + "]" * 400 + "\ndevices: 1\n",
    "a list": "- 1\n",
    "no YAML": "geometry: [\n",
    "wrong types": "geometry: 3\ndevices: x\nwafer: [1]\n",
    "unknown key": "geometri: 3\ngeometry: 3\ndevices: x\n",
    "keys of all kinds": "1: 2\ngeometry: {1: 2, null: 3}\ndevices: 1\n",
    "binary": "geometry: \xff\n",
}
OF_A_LOT = {
    "sim": ("sim", "FILE"),
    "simulate": ("simulate", "mtj-lots", "--lot", "FILE", "--out", "OUT/x"),
    "run": ("run", "LOOK", "--lot", "FILE", "--out", "OUT/x"),
}


@pytest.mark.parametrize(
    ("name", "what"), [(n, w) for n in OF_A_LOT for w in LOTS if n == "sim" or w in ("code", "bomb", "deep", "binary")]
)
def test_a_lot_made_to_do_harm(given, tmp_path, marker, quick, no_station_stays, name, what):
    file = tmp_path / "bad.yaml"
    file.write_text(LOTS[what].replace("MARKER", str(marker)), encoding="latin-1")
    refused(*given(OF_A_LOT[name], FILE=file), names=file)


SIMULATED = {
    "unknown key": "lott: mtj\n",
    "wrong types": "seed: x\nfaults: 3\nprober: 7\n",
    "negative": "seed: -1\n",
    "a port that is none": "board_port: 99999\n",
    "no such fault": "faults: [{kind: fire, where: board, nth: 1}]\n",
    "a fault that strikes nobody": "faults: [{kind: stuck_channel, where: board, index: 999, nth: 1}]\n",
    "no such die": "dies: [999]\n",
    "no such lot": "lot: nowhere\n",
    "code in a fault": f"faults: [{CODE}]\n",
}


@pytest.mark.parametrize("what", SIMULATED)
def test_a_simulated_station_made_to_do_harm(tmp_path, marker, no_station_stays, what):
    file = tmp_path / "simulated.yaml"
    file.write_text(SIMULATED[what].replace("MARKER", str(marker)), encoding="utf-8")
    refused("sim", file, "--write", tmp_path / "x.yaml", names=())


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def objects(marker):
    array = np.empty(1, object)
    array[0] = Bomb(marker)
    return array


def npz_with_code(path, marker):
    np.savez(path, **dict.fromkeys(("meta", "format", "identity", "fc.weight"), objects(marker)))


def npz_that_claims_much(path, marker):
    """An array of 2^40 bytes by its header, none of which is there."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**37,)})
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("meta", "format", "identity", "fc.weight", "site"):
            archive.writestr(f"{name}.npy", header.getvalue())


NPZ = {
    "code": npz_with_code,
    "a pickle": lambda path, marker: path.write_bytes(pickle.dumps(Bomb(marker), protocol=2)),
    "a claim": npz_that_claims_much,
    "a zip of something else": lambda path, marker: npz_of_text(path),
    "a single array": lambda path, marker: path.write_bytes(npy_of(np.zeros(3))),
    "cut": lambda path, marker: (np.savez(path, meta="{}"), cut(0.5)(path)),
    "garbage": lambda path, marker: path.write_bytes(b"PK\x03\x04" + bytes(range(256))),
    "empty": lambda path, marker: path.write_bytes(b""),
    "other arrays": lambda path, marker: np.savez(path, meta="{}", site=np.zeros(3), identity="{}", format="x"),
    "no arrays": lambda path, marker: np.savez(path),
}


def npz_of_text(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta", "{}")
        archive.writestr("site.npy", "no array")


def npy_of(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("what", NPZ)
@pytest.mark.parametrize("where", ["truth", "weights"])
def test_an_npz_made_to_do_harm(given, finished, tmp_path, marker, quick, what, where):
    file = tmp_path / "bad.npz"
    NPZ[what](file, marker)
    command = {"truth": ("score", "RUN", "FILE"), "weights": ("map", "FILE", "-o", "OUT/net.h5")}[where]
    with unchanged(finished):
        refused(*given(command, RUN=finished, FILE=file), names=file.name)


@pytest.mark.parametrize("what", NPZ)
def test_measured_dies_made_to_do_harm(given, twin, tmp_path, marker, quick, no_station_stays, what):
    shutil.copy(twin, tmp_path / "twin.yaml")
    NPZ[what](tmp_path / "twin.npz", marker)
    for name in ("sim", "simulate"):
        refused(*given(OF_A_LOT[name], FILE=tmp_path / "twin.yaml"), names="twin.npz")


@pytest.mark.parametrize("what", NPZ)
def test_states_of_dies_made_to_do_harm(given, lot, tmp_path, marker, quick, no_station_stays, what):
    (tmp_path / "dies").mkdir()
    NPZ[what](tmp_path / "dies" / "die_0.npz", marker)
    refused("sim", lot, "--state", tmp_path / "dies", "--write", tmp_path / "x.yaml", names="die_0.npz")


def torch_with_code(path, marker):
    torch.save({"fc.weight": torch.ones(2, 2), "more": Bomb(marker)}, path)


WEIGHTS = {
    "code.pt": torch_with_code,
    "code.pth": torch_with_code,
    "pickle.pt": lambda path, marker: path.write_bytes(pickle.dumps(Bomb(marker), protocol=2)),
    "old.pt": lambda path, marker: torch.save({"fc.weight": Bomb(marker)}, path, _use_new_zipfile_serialization=False),
    "cut.pt": lambda path, marker: (torch.save({"fc.weight": torch.ones(9, 9)}, path), cut(0.5)(path)),
    "tensor.pt": lambda path, marker: torch.save(torch.ones(2, 2), path),
    "empty.pt": lambda path, marker: path.write_bytes(b""),
    "text.pt": lambda path, marker: path.write_text("weights"),
    "nan.pt": lambda path, marker: torch.save({"fc.weight": torch.full((2, 2), torch.nan)}, path),
    "real.pt": lambda path, marker: torch.save({"fc.weight": torch.rand(5, 5)}, path),
    "picture.pt": lambda path, marker: torch.save({"tensor": torch.ones(2, 2, 3, 3)}, path),
    "garbage.safetensors": lambda path, marker: path.write_bytes(bytes(range(256))),
    "claim.safetensors": lambda path, marker: path.write_bytes(struct.pack("<Q", 2**62) + b"{}"),
    "header.safetensors": lambda path, marker: path.write_bytes(struct.pack("<Q", 2) + b"[]"),
    "empty.safetensors": lambda path, marker: path.write_bytes(b""),
    "pickle.safetensors": lambda path, marker: path.write_bytes(pickle.dumps(Bomb(marker), protocol=2)),
    "weights.onnx": lambda path, marker: path.write_bytes(b"x"),
}


#: Files that are sound; the message names the tensor.
OF_TENSORS = ("nan.pt", "real.pt", "picture.pt")


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_made_to_do_harm(tmp_path, marker, quick, name):
    WEIGHTS[name](tmp_path / name, marker)
    refused("map", tmp_path / name, "-o", tmp_path / "net.h5", names="tensor" if name in OF_TENSORS else name)
    assert not (tmp_path / "net.h5").exists()


def replaced(name, **new):
    """Another dataset in the place of one; `new` as for `h5py.Group.create_dataset`."""

    def spoil(file, marker):
        del file[name]
        file.create_dataset(name, **{k: v(marker) if callable(v) else v for k, v in new.items()})

    return spoil


def linked(name, link):
    def spoil(file, marker):
        del file[name]
        file[name] = link(marker.parent)

    return spoil


def virtual(file, marker):
    source = h5py.VirtualSource(str(marker.parent / "secret.h5"), "states", shape=file["states"].shape)
    layout = h5py.VirtualLayout(shape=file["states"].shape, dtype="i1")
    layout[...] = source
    del file["states"]
    file.create_virtual_dataset("states", layout)


SCHEDULES = {
    "objects": replaced("states", data=b"x", dtype=h5py.special_dtype(vlen=bytes)),
    "pickled bytes": replaced(
        "states", data=lambda marker: np.frombuffer(pickle.dumps(Bomb(marker), protocol=2), "u1")
    ),
    "references": lambda file, marker: replaced("states", data=file.ref, dtype=h5py.ref_dtype)(file, marker),
    "an external link": linked("states", lambda folder: h5py.ExternalLink(str(folder / "secret.h5"), "states")),
    "a soft link outside": linked("states", lambda folder: h5py.SoftLink("/../../secret")),
    "a soft link inside": linked("states", lambda folder: h5py.SoftLink("/batches/mask")),
    "a soft link to itself": linked("states", lambda folder: h5py.SoftLink("/states")),
    "data in another file": replaced(
        "states", shape=(2500,), dtype="i1", external=lambda marker: [(str(marker.parent / "secret.h5"), 0, 2500)]
    ),
    "a virtual dataset": virtual,
    "a huge claim": replaced("states", shape=(2**40, 25, 25), dtype="i1", chunks=(1, 25, 25)),
    "a huge claim of batches": replaced("batches/kernel", shape=(2**40,), dtype="<i8", chunks=(1,)),
    "a huge claim of layers": replaced("layers/count", data=np.array([2**40])),
    "no states": lambda file, marker: file.__delitem__("states"),
    "a group for an array": lambda file, marker: (file.__delitem__("states"), file.create_group("states")),
    "another version": lambda file, marker: file.attrs.__setitem__("version", 99),
    "a version that is text": lambda file, marker: file.attrs.__setitem__("version", "x"),
    "another format": lambda file, marker: file.attrs.__setitem__("format", "record"),
    "settings that are no JSON": lambda file, marker: file.attrs.__setitem__("pulse", "{"),
    "settings that are deep": lambda file, marker: file.attrs.__setitem__("provenance", "[" * 10**4 + "]" * 10**4),
    "other settings": lambda file, marker: file.attrs.__setitem__("pulse", '{"volts": 3}'),
    "a stronger pulse": lambda file, marker: file.attrs.__setitem__(
        "pulse", file.attrs["pulse"].replace('"dose_limit": ', '"dose_limit": 1')
    ),
    "an edited cell": lambda file, marker: file["layers/0/cells"].__setitem__((0, 0, 0, 0), 7),
    "a batch twice": lambda file, marker: file["batches/mask"].__setitem__(Ellipsis, 1),
}


@pytest.mark.parametrize("what", SCHEDULES)
def test_a_schedule_made_to_do_harm(given, home, weights, station, tmp_path, marker, quick, what):
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["states"] = np.ones((4, 25, 25), "i1")
    bad = shutil.copy(home / "net.h5", tmp_path / "bad.h5")
    with h5py.File(bad, "r+") as file:
        SCHEDULES[what](file, marker)
    with nothing_moves(station[1]):
        refused("program", bad, "--station", station[0], "--out", tmp_path / "run", names="bad.h5")


@pytest.mark.parametrize("content", [b"", b"weights", b"\x89HDF\r\n\x1a\n" + bytes(600)])
def test_a_schedule_that_is_no_hdf5(station, tmp_path, content):
    (tmp_path / "bad.h5").write_bytes(content)
    with nothing_moves(station[1]):
        refused("program", tmp_path / "bad.h5", "--station", station[0], "--out", tmp_path / "run", names="bad.h5")


# -- folders and the file of the broker ----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"{", b'{"port": 1, "token": "x", "pid": 1, "run": 1}'])
def test_a_broker_file_that_was_left_or_edited_means_nothing(unfinished, content):
    """Nobody trusts it: the broker of a run is the one that the run itself started."""
    (unfinished / "broker.json").write_bytes(content)
    assert xbar("status", unfinished).status == 0
    done = xbar("resume", unfinished, "--trust")
    assert done.status == 0, done.said
    assert not (unfinished / "broker.json").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing keeps an administrator from writing")
def test_a_folder_that_cannot_be_written(given, run):
    run.chmod(0o500)
    try:
        refused(*given(OF_A_RECORD["run"], RUN=run), names=run)
    finally:
        run.chmod(0o700)
