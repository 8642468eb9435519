"""`xbar resume`: what it takes over, what it says of changes before anything moves, and what it refuses."""

import json
import os
import shutil

import pytest
from schema_3 import as_schema_3
from typer.testing import CliRunner

from analysis.record.record import Record, RecordError
from protocols.bench.bench import Bench
from protocols.cli import app

pytestmark = pytest.mark.slow

SCRIPT = """
import os
from pathlib import Path

import numpy as np
import xarray as xr

from instruments.roles.interfaces import InstrumentError
from protocols.sequencer.run import protocol


def look(bench, die, *, v_read: float):
    if os.environ.get("FAIL_AT") == die.name:
        raise InstrumentError("the cable is out")
    return xr.Dataset({"current": (("row", "column"), bench.array.read(0, v_read), {"units": "A"})})


def again(bench, die, *, number: int):
    return xr.Dataset(attrs={"number": number})


def total(report, *, scale: float, text: str):
    return xr.Dataset(attrs={"total": scale})


@protocol
def looks(run, *, v_read: float = 0.1, scale: float = 1.0, file: Path | None = None):
    text = "" if file is None else file.read_text()
    run.compute(total, scale=scale, text=text)
    for die in run.dies():
        run.step(look, die, v_read=v_read)
        for number in range(2):
            run.step(again, die, number=number)
    return "looked at all"
"""


@pytest.fixture(scope="module")
def home(served, tmp_path_factory):
    """Folder with script, station file and lot of a run that ended on the second of three dies, and a copy of it."""
    home = tmp_path_factory.mktemp("resume") / "home"
    home.mkdir()
    (home / "mine.py").write_text(SCRIPT, encoding="utf-8")
    (home / "text.txt").write_text("text", encoding="utf-8")
    (home / "bench.yaml").write_text(served.file.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIL_AT", "c3r6")
        patch.chdir(home)
        words = ("--station bench.yaml --dies 4 --skip c5r5 --out lot --set v_read=100mV --set file=text.txt "
                 "--set scale=1e-7 --seed 3")  # fmt: skip
        done = CliRunner().invoke(app, ["run", "mine.py:looks", *words.split()])
    assert "the cable is out" in str(done.exception)
    shutil.copytree(home, home.with_name("as_begun"))
    return home


@pytest.fixture
def begun(home, served, tmp_path, monkeypatch):
    """The lot of that run as it was left; the command is given from another folder."""
    shutil.rmtree(home)
    shutil.copytree(home.with_name("as_begun"), home)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    served.new_actions()
    return home / "lot"


def _flat(done):
    return " ".join(done.said.split())


def _edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_it_takes_over_everything_that_the_run_was_started_with(xbar, served, begun):
    done = xbar("resume", begun)
    assert done.status == 0, done.said
    assert "4 steps from the record, goes on at die c3r6, step look" in _flat(done) and "looked at all" in done.said
    with Record.open(begun, write=False) as record:
        first, second = record.runs()
        assert second["resumes"] == first["id"] and second["status"] == "finished"
        same = ("find", "inputs", "seed", "dies", "settings", "lot", "station_file", "station_sha256", "source")
        assert {key: first["provenance"][key] for key in same} == {key: second["provenance"][key] for key in same}
        found = {die: v.verdict for die, v in record.verdicts().items()}
        assert found == {"c2r6": "pass", "c3r6": "pass", "c5r5": "skipped", "c4r5": "pass"}
        assert record.source(first["provenance"]["source"]) == SCRIPT
        step = record.history("mine.py:looks", "c3r6")[0]
        assert record.source(step.source).startswith("#:: mine.py.look\ndef look(bench, die")
        assert record.source(first["provenance"]["station_sha256"]) == (begun.parent / "bench.yaml").read_text()
    assert {tuple(e["site"]) for e in served.new_actions() if e["what"] == "read"}.isdisjoint({(2, 6), (5, 5)})


def test_nothing_is_left_to_resume(xbar, served, begun):
    assert xbar("resume", begun).status == 0
    served.new_actions()
    done = xbar("resume", begun)
    assert done.status == 0 and "nothing to resume" in done.said
    assert served.new_actions() == []


@pytest.mark.parametrize(
    ("edit", "options", "says"),
    [
        (("bench.array.read(0", "bench.array.read(1"), (),
         "die c2r6, step look: source changed; 3 steps there are done anew"),
        (('{"number": number}', '{"number": number, "more": 1}'), (),
         "die c2r6, step again: source changed; 2 steps there are done anew"),
        (("range(2)", "range(1, 2)"), (), "die c2r6, step again: input number changed; 2 steps there are done anew"),
        (None, ("--set", "v_read=150mV"), "die c2r6, step look: input v_read changed; 3 steps there are done anew"),
        (None, ("--set", "scale=2"), "computation total: input scale changed; it is done anew"),
        (("run.step(again", "run.step(look2"), (), "die c2r6, step look2: was again"),
    ],
)  # fmt: skip
def test_what_has_changed_is_named_before_anything_moves(xbar, served, begun, edit, options, says):
    if edit:
        _edit(begun.parent / "mine.py", *edit)
        if "look2" in edit[1]:
            _edit(begun.parent / "mine.py", "def again(", "def look2(")
    done = xbar("resume", begun, *options)
    assert done.status == 1 and says in _flat(done) and "add --yes to do these anew" in done.said, done.said
    assert served.new_actions() == []
    with Record.open(begun, write=False) as record:
        assert len(record.runs()) == 1


def test_with_yes_it_is_done_anew_from_there_on(xbar, served, begun):
    _edit(begun.parent / "mine.py", "bench.array.read(0", "bench.array.read(1")
    done = xbar("resume", begun, "--yes")
    assert done.status == 0 and "step look: source changed" in _flat(done), done.said
    reads = [entry for entry in served.new_actions() if entry["what"] == "read" and entry["kernel"] == 1]
    assert {tuple(entry["site"]) for entry in reads} == {(2, 6), (3, 6), (4, 5)}
    with Record.open(begun, write=False) as record:
        assert {step.run for step in record.history("mine.py:looks", "c2r6")} == {2}


@pytest.mark.parametrize("edit", [None, ("bench.array.read(0", "bench.array.read(1")])
def test_a_record_of_schema_3_is_gone_on_with_or_says_which_code_differs(xbar, served, begun, edit):
    """Nothing of it is changed before the user has agreed; then it is one of today, with both runs in it."""
    new = begun / "new"
    new.mkdir()
    (begun / "record.sqlite").rename(new / "record.sqlite")
    as_schema_3(new, begun)
    if edit:
        _edit(begun.parent / "mine.py", *edit)
        before = (begun / "record.sqlite").read_bytes()
        done = xbar("resume", begun)
        assert done.status == 1 and "die c2r6, step look: source changed; 3 steps there are done anew" in _flat(done)
        assert served.new_actions() == [] and (begun / "record.sqlite").read_bytes() == before
    done = xbar("resume", begun, *(["--yes"] if edit else []))
    assert done.status == 0 and "looked at all" in done.said, done.said
    with Record.open(begun, write=False) as record:
        first, second = record.runs()
        assert second["resumes"] == first["id"] and second["status"] == "finished"
        assert {step.run for step in record.history("mine.py:looks", "c2r6")} == {2 if edit else 1}


def test_a_computation_whose_module_was_edited(xbar, served, begun):
    _edit(begun.parent / "mine.py", '{"total": scale}', '{"total": 2 * scale}')
    done = xbar("resume", begun)
    assert done.status == 1 and "computation total: source changed; it is done anew" in _flat(done)
    assert served.new_actions() == []


def test_a_station_file_that_was_edited(xbar, served, begun):
    with (begun.parent / "bench.yaml").open("a", encoding="utf-8") as file:
        file.write("# the new cable\n")
    done = xbar("resume", begun)
    assert done.status == 1 and "bench.yaml: other content than the run had" in _flat(done)
    assert served.new_actions() == []
    assert xbar("resume", begun, "--yes").status == 0
    (begun.parent / "bench.yaml").unlink()
    done = xbar("resume", begun)
    assert "nothing to resume" in done.said


def test_a_station_file_that_is_gone(xbar, begun):
    (begun.parent / "bench.yaml").unlink()
    done = xbar("resume", begun)
    assert done.status == 1 and "cannot be read" in done.said and "--station" in done.said


def test_other_settings_for_the_rest(xbar, begun):
    done = xbar("resume", begun, "--stop-after", 0, "--skip", "c3r6")
    assert done.status == 0, done.said
    with Record.open(begun, write=False) as record:
        settings = record.runs()[-1]["provenance"]["settings"]
        assert settings["stop_after"] == 0 and settings["skip"] == ["c5r5", "c3r6"]
        assert record.history("mine.py:looks", "c3r6") == []


def test_words_that_resume_does_not_know(xbar, served, begun, tmp_path):
    for options, says in (
        (("--set", "v_raed=1"), "no parameter 'v_raed'"),
        (("--skip", "c9r9"), "--skip c9r9: no such die"),
        (("--lease", "0 s"), "above 0"),
        (("--lease", "3 V"), "--lease"),
    ):
        done = xbar("resume", begun, *options)
        assert done.status != 0 and says in _flat(done), done.said
    assert served.new_actions() == []
    done = xbar("resume", tmp_path / "elsewhere")
    assert done.status == 1 and "no record in" in done.said


def test_a_run_of_another_process(xbar, begun, monkeypatch):
    monkeypatch.setattr("protocols.commands.abort.PATIENCE", 0.2)
    with Record.open(begun) as record:
        run = record.begin_run("mine.py:looks", {})
        for command in ("resume", "run"):
            words = (begun,) if command == "resume" else (f"{begun.parent / 'mine.py'}:looks", "--out", begun)
            done = xbar(command, *words)
            assert done.status == 1 and str(os.getpid()) in done.said and "xbar abort" in done.said, done.said
        assert "asked: the run pauses" in xbar("pause", begun).said
        assert record.take_requests() == ["pause"]
        record.set_status(run, "paused")
        assert json.loads(xbar("status", begun, "--json").said)["status"] == "paused"
        done = xbar("resume", begun)
        assert done.status == 0 and "goes on" in done.said
        assert record.take_requests() == ["resume"]
        assert f"no broker of {begun} is known" in _flat(xbar("abort", begun))
        assert record.take_requests() == ["abort"]
    done = xbar("abort", begun)
    assert done.status == 1 and "no run" in done.said


def test_a_run_that_was_not_started_by_the_command(xbar, tmp_path):
    with Record.open(tmp_path / "own") as record:
        record.begin_run("notebook", {})
    done = xbar("resume", tmp_path / "own")
    assert done.status == 1 and "was not started by xbar run" in done.said


def test_status_says_where_a_lot_stands(xbar, begun):
    said = _flat(xbar("status", begun))
    for words in ("run 1 mine.py:looks failed 5 steps", "bin 1 pass, 1: c2r6", "bin 4 skipped, 1: c5r5",
                  "bin 6 error, 1: c3r6 (InstrumentError: the cable is out)", "next: xbar resume"):  # fmt: skip
        assert words in said, said
    found = json.loads(xbar("status", begun, "--json").said)
    assert found["status"] == "failed" and found["dies"]["c3r6"]["bin"] == 6 and found["unfired"] == {}
    with Record.open(begun) as record:
        record.begin_run("mine.py:looks", {})  # and the process is gone
    assert json.loads(xbar("status", begun, "--json").said)["status"] == "died"
    assert xbar("resume", begun).status == 1  # that run has no provenance
    done = xbar("status", begun.parent)
    assert done.status == 1 and "no record in" in done.said


def test_a_record_that_fails_hides_nothing_and_keeps_nothing_from_being_made_safe(begun, xbar, monkeypatch):
    order = []
    abort = Bench.abort

    def failing(*_, **__):
        order.append("record")
        raise RecordError("the disk is full")

    def noted(bench):
        order.append("abort")
        monkeypatch.setattr(Record, "set_verdict", failing)
        monkeypatch.setattr(Record, "end_run", failing)
        abort(bench)

    monkeypatch.setattr(Bench, "abort", noted)
    monkeypatch.setenv("FAIL_AT", "c3r6")
    done = xbar("resume", begun)
    assert order[0] == "abort" and "record" in order
    assert done.status == 1 and "the cable is out" in done.said and done.said.count("xbar: ") == 1


BAD = """
import xarray as xr
from protocols.sequencer.run import protocol


def judge(bench, die):
    return xr.Dataset(attrs={"verdict": "pass" if die.index > 2 else "fail", "reason": "no light"})


@protocol
def judged(run):
    for die in run.dies():
        run.step(judge, die)
"""


def test_too_many_bad_dies_leave_the_die_and_resume_goes_on(xbar, served, tmp_path):
    (tmp_path / "bad.py").write_text(BAD, encoding="utf-8")
    lot = tmp_path / "lot"
    served.new_actions()
    done = xbar("run", f"{tmp_path / 'bad.py'}:judged", "--station", served.file, "--dies", 5, "--out", lot)
    assert done.status == 1 and "3 dies in a row did not pass" in done.said and "c2r6 fail (no light)" in done.said
    assert f"xbar resume {lot} --stop-after 0" in done.said
    assert json.loads(xbar("status", lot, "--json").said)["status"] == "stopped"
    done = xbar("resume", lot, "--stop-after", 0)
    assert done.status == 0 and "4 steps from the record, goes on at die c4r5, step judge" in _flat(done), done.said
    found = json.loads(xbar("status", lot, "--json").said)
    assert found["status"] == "finished" and [die["bin"] for die in found["dies"].values()] == [2, 2, 2, 1, 1]
    assert not any(entry["contact_while_moving"] for entry in served.new_actions() if entry["what"] == "move")
