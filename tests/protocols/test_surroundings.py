"""A machine without a home, without a working folder, without a place for compiled code: said, and gone on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim_backends.array import compiled_code
from xbarlab import surroundings
from xbarlab.surroundings import KEPT_AT, find_home, private_folder


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in ("NUMBA_CACHE_DIR", *KEPT_AT):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def nowhere():
    raise RuntimeError("Could not determine home directory.")


def test_a_home_as_it_should_be(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert find_home() == "" and not set(KEPT_AT) & os.environ.keys()


@pytest.mark.parametrize("home", [None, "none", "file"])
def test_a_home_that_is_none(monkeypatch, tmp_path, home):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", "x")
    monkeypatch.setattr(Path, "home", nowhere if home is None else lambda: tmp_path / home)
    said = find_home()
    folder = private_folder()
    assert str(folder) in said and "set HOME" in said
    assert {os.environ[name] for name in KEPT_AT} == {str(folder / place) for place in KEPT_AT.values()}
    assert os.environ["HOME"] == ("x" if home else str(folder))


@pytest.mark.skipif(os.name == "nt", reason="Windows has a folder for temporary files for each user")
def test_a_folder_of_somebody_else_is_not_trusted(tmp_path):
    """What lies there is read and run again."""
    planted = tmp_path / f"xbarlab-{os.getuid()}"
    planted.mkdir(mode=0o777)
    planted.chmod(0o777)
    assert private_folder() != planted
    planted.rmdir()
    (tmp_path / "elsewhere").mkdir()
    planted.symlink_to(tmp_path / "elsewhere")
    assert private_folder() != planted
    planted.unlink()
    assert private_folder() == planted == private_folder() and planted.stat().st_mode & 0o777 == 0o700


def test_compiled_code_without_a_place(monkeypatch):
    monkeypatch.setattr(compiled_code, "_can_write", lambda folder: False)
    monkeypatch.setattr(sys.modules["numba"].config, "CACHE_DIR", "") if "numba" in sys.modules else None
    compiled_code.keep_somewhere()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).is_dir()


def test_compiled_code_stays_where_it_can(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled_code, "_users_folder", lambda: tmp_path)
    compiled_code.keep_somewhere()
    assert "NUMBA_CACHE_DIR" not in os.environ


@pytest.mark.skipif(os.name == "nt", reason="Windows does not remove a working folder")
def test_a_working_folder_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); from xbarlab.command import main; main()"
    root = str(Path(surroundings.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-P", "-c", code, "status", "x"], cwd=gone, capture_output=True, text=True,
                          check=False, env=os.environ | {"PYTHONPATH": root})  # fmt: skip
    assert done.returncode == 1 and "the working folder is gone" in done.stderr and "Traceback" not in done.stderr
