"""Scripts that a record names: one's own go on, of anything else nothing is imported before the user agrees."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from analysis.record.record import Record
from protocols.commands.replay import replay
from protocols.commands.resume import resume
from protocols.sequencer.execute import execute
from protocols.sequencer.selection import RunSettings
from protocols.source import trust
from protocols.source.catalogue import ProtocolNotFoundError, find
from protocols.source.trust import NotTrustedError, check_trust, note_run, script_digest
from protocols.terminal.console import console

SCRIPT = """
from pathlib import Path

Path(__file__).with_suffix(".ran").write_text("ran")
from protocols.sequencer.run import protocol


@protocol
def look(run):
    pass
"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    name = "LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME"
    monkeypatch.setenv(name, str(tmp_path / "state"))
    return tmp_path / "state" / "xbarlab" / trust.FILE


@pytest.fixture
def mine(tmp_path):
    """A script of the user's own, and the name by which it is found."""
    (tmp_path / "lab").mkdir()
    script = tmp_path / "lab" / "mine.py"
    script.write_text(SCRIPT, encoding="utf-8")
    return f"{script}:look"


@pytest.fixture
def lot(tmp_path, mine):
    """A folder with a run of that script that did not finish."""
    record_of(tmp_path / "lot", mine)
    return tmp_path / "lot"


def record_of(folder, find, **more):
    known = {"find": find, "inputs": {}, "folder": "", "settings": {"seed": 0}, "lot": "mtj", "station_file": None}
    with Record.open(folder) as record:
        run = record.begin_run("mine.py:look", known | more)
        record.end_run(run, "failed")


def script_of(find):
    return Path(find.rpartition(":")[0])


def test_a_run_that_is_killed_right_after_it_began_is_known_to_be_the_users(lot, mine, monkeypatch, tmp_path):
    class Killed(BaseException):
        pass

    def dies(*given, **how):
        begin(*given, **how)
        raise Killed

    begin = Record.begin_run
    monkeypatch.setattr(Record, "begin_run", dies)
    with pytest.raises(Killed):
        execute(find(mine), mine, {}, out=lot, station=None, lot="mtj", settings=RunSettings(seed=1), console=console())
    check_trust(lot, 2, mine, agreed=False)


def test_the_users_own_runs_go_on_without_a_word(lot, mine, capsys):
    note_run(lot, 1, mine)
    check_trust(lot, 1, mine, agreed=False)
    assert capsys.readouterr().out == ""


def test_a_script_of_somebody_else_is_not_imported_until_the_user_agrees(lot, mine):
    for again in (resume, lambda folder: replay(folder, 1)):
        with pytest.raises((NotTrustedError, RuntimeError)) as said:
            again(lot)
        assert isinstance(said.value, NotTrustedError) or "did nothing with hardware" in str(said.value)
    assert not script_of(mine).with_suffix(".ran").exists()
    check_trust(lot, 1, mine, agreed=True)
    check_trust(lot, 1, mine, agreed=False)  # it is kept


@pytest.mark.parametrize("where", ["lot/evil.py", "lab/evil.py"])
def test_a_record_that_names_another_script_than_was_run(lot, mine, tmp_path, where):
    note_run(lot, 1, mine)
    (tmp_path / where).write_text(SCRIPT + "# another", encoding="utf-8")
    with pytest.raises(NotTrustedError, match=r"names the script .*evil\.py .*you ran .*mine\.py.*--trust"):
        check_trust(lot, 1, f"{tmp_path / where}:look", agreed=False)


def test_a_relative_name_is_that_of_a_file_too(lot, mine, monkeypatch):
    note_run(lot, 1, mine)
    monkeypatch.chdir(script_of(mine).parent)
    check_trust(lot, 1, "mine.py:look", agreed=False)
    monkeypatch.chdir(lot)
    Path("mine.py").write_text(SCRIPT, encoding="utf-8")
    with pytest.raises(NotTrustedError):
        check_trust(lot, 1, "mine.py:look", agreed=False)


def test_ones_own_script_that_was_edited_is_said_and_one_that_came_with_the_record_is_asked_for(lot, mine, capsys):
    inside = lot / "inside.py"
    inside.write_text(SCRIPT, encoding="utf-8")
    note_run(lot, 1, mine)
    note_run(lot, 2, f"{inside}:look")
    for script in (script_of(mine), inside):
        script.write_text(SCRIPT + "# edited", encoding="utf-8")
    check_trust(lot, 1, mine, agreed=False)
    assert "is not what it was when run 1 was begun" in capsys.readouterr().out
    with pytest.raises(NotTrustedError, match="has changed since you ran it"):
        check_trust(lot, 2, f"{inside}:look", agreed=False)


def test_a_folder_that_was_moved_and_another_run_are_not_known(lot, mine, tmp_path):
    note_run(lot, 1, mine)
    moved = lot.rename(tmp_path / "moved")
    for folder, run in ((moved, 1), (lot, 2)):
        with pytest.raises(NotTrustedError, match="its folder was moved"):
            check_trust(folder, run, mine, agreed=False)


@pytest.mark.parametrize(
    ("imports", "file"),
    [
        ("import beside", "beside.py"),
        ("import beside.deep as d", "beside/deep.py"),
        ("import beside.deep as d", "beside/__init__.py"),
        ("from beside import deep", "beside/deep.py"),
        ("def look():\n    from beside import x", "beside.py"),
        ("import other", "third.py"),
    ],
)
def test_modules_beside_a_script_belong_to_it(tmp_path, imports, file):
    script, module = tmp_path / "p.py", tmp_path / file
    module.parent.mkdir(exist_ok=True)
    for name in ("unused.py", "other.py"):
        (tmp_path / name).write_text("import third", encoding="utf-8")
    for path, text in ((script, imports), (module, "x = 1")):
        path.write_text(text, encoding="utf-8")
    first = script_digest(script)
    (tmp_path / "unused.py").write_text("other", encoding="utf-8")
    assert script_digest(script) == first
    module.write_text("x = 2", encoding="utf-8")
    assert script_digest(script) != first


def test_what_ships_needs_no_trust(lot):
    check_trust(lot, 1, "mtj-mnist", agreed=False)


def test_a_name_that_is_no_file(lot):
    with pytest.raises(ProtocolNotFoundError, match="no file can be"):
        check_trust(lot, 1, "a\0b.py:look", agreed=False)


def test_a_state_folder_that_is_missing_or_cannot_be_written_is_said_and_ends_nothing(lot, mine, monkeypatch, capsys):
    for name in ("HOME", "USERPROFILE", "XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(trust.Path, "home", no_home)
    note_run(lot, 1, mine)
    assert "will ask for --trust" in capsys.readouterr().out
    with pytest.raises(NotTrustedError):
        check_trust(lot, 1, mine, agreed=False)
    (lot.parent / "file").write_text("")
    monkeypatch.setenv("LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME", str(lot.parent / "file"))
    note_run(lot, 1, mine)
    assert "cannot keep" in capsys.readouterr().out


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_a_list_that_is_damaged_is_read_as_far_as_it_goes(lot, mine, state):
    note_run(lot, 1, mine)
    text = state.read_text(encoding="utf-8")
    state.write_text("[1]\nnull\n{}\n" + text + '{"folder"' + "[" * 5000, encoding="utf-8")
    check_trust(lot, 1, mine, agreed=False)


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_list_that_others_can_write_counts_for_nothing(lot, mine, state):
    note_run(lot, 1, mine)
    assert state.stat().st_mode & 0o077 == 0
    state.chmod(0o666)
    with pytest.raises(NotTrustedError):
        check_trust(lot, 1, mine, agreed=False)


@pytest.mark.parametrize("known", [{"find": ["x"]}, {"settings": 3}, {"inputs": "x"}])
def test_a_record_that_says_odd_things_of_its_run_is_an_error_for_the_user(tmp_path, mine, known):
    lot = tmp_path / "odd"
    record_of(lot, mine)
    with closing(sqlite3.connect(lot / "record.sqlite", isolation_level=None)) as database:
        (text,) = database.execute("SELECT provenance FROM runs").fetchone()
        database.execute("UPDATE runs SET provenance=?", (json.dumps(json.loads(text) | known),))
    note_run(lot, 1, mine)
    with pytest.raises((RuntimeError, ValueError)):
        resume(lot)
