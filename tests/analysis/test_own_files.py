"""A file that this program did not write itself, or that was edited since, is not replaced."""

import json
import os
import sys

import numpy as np
import pytest

from analysis.record.own_files import (
    NotOursError,
    check_output,
    dump_json,
    is_clock,
    is_json,
    is_measured_dies,
    is_physical_log,
    is_sealed,
    is_station,
    is_truth,
    sealed,
    write_whole,
)
from instruments.station import write_station

KINDS = [is_sealed, is_station, is_json, is_truth, is_measured_dies, is_physical_log, is_clock]
FOREIGN = [
    b"# my bench, three weeks of work\n",
    b"{}\n",
    b"[1]",
    b"\xff\xfe\x00",
    b"PK\x03\x04",
    b"instruments: {}\n",
    b'{"what": 1}\n',
    b"[" * 100_000,
    b"a: &a [*a]\n",
]


@pytest.mark.slow
@pytest.mark.parametrize("ours", KINDS)
@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_of_somebody_else_is_kept(tmp_path, ours, content):
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(NotOursError, match=r"file is not replaced.*another --write, or move it away"):
        check_output(file, "--write", ours)
    assert file.read_bytes() == content


def test_a_sealed_text_is_ours_until_it_is_edited(tmp_path):
    file = tmp_path / "lot.yaml"
    write_whole(file, sealed("a: 1\nb: 2\n"))
    check_output(file, "--output", is_sealed)
    file.write_text(file.read_text(encoding="utf-8").replace("b: 2", "b: 3"), encoding="utf-8")
    with pytest.raises(NotOursError):
        check_output(file, "--output", is_sealed)


def test_lines_may_end_as_on_windows(tmp_path):
    file = tmp_path / "lot.yaml"
    file.write_bytes(sealed("a: 1\nb: 2\n").replace("\n", "\r\n").encode())
    assert is_sealed(file)


def test_station_files_of_a_simulated_station(tmp_path):
    """Also as they were written before they had a seal; not those of a bench, and not edited ones."""
    file = write_station(tmp_path / "s.yaml", "TCPIP::127.0.0.1::35555::SOCKET", "socket://127.0.0.1:5555",
                         clock=tmp_path / "summary.json")  # fmt: skip
    assert is_station(file)
    file.write_text(sealed(file.read_text(encoding="utf-8")), encoding="utf-8")
    assert is_station(file)
    file.write_text(file.read_text(encoding="utf-8") + "# limits\n", encoding="utf-8")
    assert not is_station(file)
    assert not is_station(write_station(file, "TCPIP::127.0.0.1::35555::SOCKET", "COM4"))
    assert not is_station(write_station(file, "TCPIP::192.168.1.20::35555::SOCKET", "socket://127.0.0.1:5555"))


def test_json_of_ours(tmp_path):
    file = tmp_path / "n.json"
    write_whole(file, dump_json({"a": float("nan"), "b": [float("inf"), 1.5], "µ": "\udcff"}))
    assert is_json(file)
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["a"] is None and content["b"] == [None, 1.5]
    content["b"] = 3
    file.write_text(json.dumps(content), encoding="utf-8")
    assert not is_json(file)


def test_files_of_the_simulated_station(tmp_path):
    np.savez(tmp_path / "truth.npz", die=1, site=1, meta="{}", line_mask=1)
    assert is_truth(tmp_path / "truth.npz") and not is_measured_dies(tmp_path / "truth.npz")


@pytest.mark.parametrize("name", ["", "new", "deep/er/new.json"])
def test_a_place_is_checked_without_leaving_anything(tmp_path, name):
    if not name:
        (tmp_path / "empty").touch()
        name = "empty"
    before = sorted(tmp_path.rglob("*"))
    check_output(tmp_path / name, "--json", is_json)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", [".", "file/new.json", "x" * 300])
def test_a_place_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(NotOursError, match="another --json"):
        check_output(tmp_path / name, "--json", is_json)


@pytest.mark.skipif(sys.platform == "win32", reason="devices and links of another kind")
def test_what_is_no_file_is_written_into(tmp_path):
    check_output(os.devnull and tmp_path.__class__(os.devnull), "--json", is_json)
    write_whole(tmp_path.__class__(os.devnull), "x")
    assert not os.path.isfile(os.devnull)  # noqa: PTH113
    (tmp_path / "real").write_text("", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text(encoding="utf-8") == "x"


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "n.json"
    write_whole(file, "old")
    monkeypatch.setattr("analysis.record.own_files.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError):
        write_whole(file, "new")
    assert file.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [file]
