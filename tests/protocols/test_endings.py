"""What a run leaves however it ends: JSON with its status, the right next command, no folder of nothing."""

import json
import os
import sys

import pytest

from analysis.record.record import Record
from protocols.commands.show import KINDS
from protocols.commands.status import lot_status, next_commands
from protocols.source.catalogue import REPORTED, SHIPPED

pytestmark = pytest.mark.slow

SCRIPT = """
import xarray as xr
from protocols.sequencer.run import protocol
from protocols.sequencer.stopping import RunStopped

def number(report, *, n):
    return xr.Dataset(attrs={"n": n})

@protocol
def mine(run, *, how: str = "finished", compute: bool = True):
    if compute:
        run.compute(number, n=3)
    if how == "fail":
        raise OSError("the needle card is on fire")
    if how == "stop":
        raise RunStopped("stopped as asked")
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "exit":
        raise SystemExit(143)
"""


@pytest.fixture
def begin(xbar, tmp_path, monkeypatch):
    """Runs the script above in a folder of the test, with JSON asked for."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def run(how, *options, out="lot"):
        return xbar("run", "script.py:mine", "--set", f"how={how}", "--out", out, "--json", "n.json", *options)

    return run


@pytest.mark.parametrize(
    ("how", "status", "ended"),
    [("finished", 0, "finished"), ("fail", 1, "failed"), ("stop", 130, "stopped"), ("interrupt", 130, "aborted"),
     ("exit", 143, "aborted")],
)  # fmt: skip
def test_json_is_written_however_a_run_ends(begin, tmp_path, how, status, ended):
    done = begin(how)
    assert done.status == status, done.said
    numbers = json.loads((tmp_path / "n.json").read_text(encoding="utf-8"))
    assert (numbers["status"], numbers["protocol"], numbers["run"]) == (ended, "script.py:mine", 1)
    assert ("on fire" in numbers["reason"]) == (how == "fail")
    assert begin("finished").status == 0  # its own file, it writes again


def test_numbers_of_a_finished_run_of_any_protocol(begin, xbar, tmp_path):
    begin("finished")
    assert xbar("report", "lot", "--json", "again.json").status == 0
    one, two = (json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("n.json", "again.json"))
    assert one.pop("reason") == "" and {*one} == {*two} and one["inputs"]["how"] == "finished"


@pytest.mark.parametrize("how", ["fail", "stop", "interrupt"])
@pytest.mark.parametrize("there", [False, True])
def test_a_run_in_which_nothing_came_to_be_leaves_nothing(begin, tmp_path, how, there):
    if there:
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "b" / "notes.txt").write_text("mine", encoding="utf-8")
    done = begin(how, "--set", "compute=no", out="a/b")
    assert done.status != 0 and "resume" not in done.said
    left = sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if "__pycache__" not in str(each))
    assert left == sorted(["n.json", "script.py", *(["a", "a/b", "a/b/notes.txt"] if there else [])])


def test_a_run_with_results_stays_and_says_how_to_go_on(begin, tmp_path):
    done = begin("stop", out="lot [/b] y")
    assert "xbar resume 'lot [/b] y' goes on" in done.said
    assert lot_status(tmp_path / "lot [/b] y")["next"] == [f"xbar resume '{tmp_path / 'lot [/b] y'}'"]


@pytest.mark.parametrize("name", ["report.html", "station.yaml"])
def test_a_folder_of_somebody_else_is_no_lot(begin, tmp_path, name):
    (tmp_path / name).write_text("# mine", encoding="utf-8")
    done = begin("finished", out=".")
    assert done.status == 1 and name in done.said and "--out" in done.said
    assert (tmp_path / name).read_text(encoding="utf-8") == "# mine" and not (tmp_path / "record.sqlite").exists()


def test_json_of_somebody_else_is_kept(begin, tmp_path):
    (tmp_path / "n.json").write_text('{"mine": 1}', encoding="utf-8")
    done = begin("finished")
    assert done.status == 1 and "n.json is not replaced" in done.said and not (tmp_path / "lot").exists()


def test_json_that_cannot_be_written_at_the_end_fails_nothing_else(begin, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("protocols.commands.show.write_whole", full)
    done = begin("finished")
    assert "No space left" in done.said and "record:" in done.said


def run_of(protocol, status, number=1, started="find"):
    return {"id": number, "protocol": protocol, "status": status, "provenance": {started: protocol}}


@pytest.mark.parametrize("protocol", [*SHIPPED, "mine.py:mine"])
def test_the_next_command_of_every_protocol(protocol, tmp_path):
    shows = "report" if protocol in REPORTED else "export"
    (said,) = next_commands([run_of(protocol, "finished")], "finished", tmp_path)
    assert said.startswith(f"xbar {shows} ")
    for status in ("failed", "stopped", "aborted", "died"):
        kept = "running" if status == "died" else status
        assert next_commands([run_of(protocol, kept)], status, tmp_path) == [f"xbar resume {tmp_path}"]


def test_the_next_command_of_other_lots(tmp_path):
    assert next_commands([], "empty", tmp_path) == [f"xbar run PROTOCOL --out {tmp_path}"]
    both = [run_of("forming", "stopped"), run_of("iv-sweep", "finished", 2)]
    assert next_commands(both, "finished", tmp_path) == [f"xbar resume {tmp_path}", f"xbar report {tmp_path}"]
    (said,) = next_commands([run_of("test", "failed", started="by hand")], "failed", tmp_path)
    assert said.startswith("xbar export")  # xbar resume could not start it


def test_what_has_a_page_is_told_once():
    assert {kind.protocol for kind in KINDS.values()} == set(REPORTED)


def test_help_lists_what_ships(xbar):
    for command in ("run", "plan"):
        said = " ".join(xbar(command, "--help").said.split())
        assert all(name in said.replace("- ", "-") for name in SHIPPED)


def test_a_module_beside_the_script_is_found_and_hides_nothing(xbar, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    (tmp_path / "beside_the_script.py").write_text("N = 41\n", encoding="utf-8")
    (tmp_path / "json.py").write_text("raise OSError('hides a module of Python')\n", encoding="utf-8")
    (tmp_path / "mapping.py").write_text("raise OSError('hides a package of ours')\n", encoding="utf-8")
    (tmp_path / "script.py").write_text(
        "import json, mapping.training.mnist\n"
        "from beside_the_script import N\n"
        "from protocols.sequencer.run import protocol\n"
        "@protocol\n"
        "def mine(run):\n"
        "    import beside_the_script\n"
        "    return beside_the_script.N + 1\n",
        encoding="utf-8",
    )
    done = xbar("run", f"{tmp_path / 'script.py'}:mine", "--out", tmp_path / "lot")
    assert done.status == 0 and "42" in done.said, done.said


def test_a_run_that_nobody_sees_any_more_says_so_in_its_record(begin, tmp_path, monkeypatch):
    monkeypatch.setattr("protocols.terminal.progress.lost", lambda console: "Broken pipe")
    done = begin("finished")
    assert done.status == 0 and "standard output is gone (Broken pipe)" in done.said
    with Record.open(tmp_path / "lot", create=False, write=False) as record:
        assert [event["message"] for event in record.events("output")] == ["standard output is gone: Broken pipe"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes")
@pytest.mark.parametrize("name", [b"lot\xff", "Wafer µ 漢".encode(), b"a b", b"-x", b"a:100:b", b"%s", b"~"])
def test_odd_names_of_folders(begin, tmp_path, name):
    folder = os.fsdecode(name)
    done = begin("finished", out=f"./{folder}")
    assert done.status == 0 and (tmp_path / folder / "record.sqlite").is_file(), done.said
