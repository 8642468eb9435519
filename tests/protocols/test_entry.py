"""How `xbar` begins: which version it is, and what stands in the place of its own packages."""

import os
import subprocess
import sys
import types

import pytest

from protocols.terminal.user_errors import for_the_user
from xbarlab import __version__
from xbarlab.command import ROOMS, hidden_rooms

BEGIN = (sys.executable, "-P", "-c", "from xbarlab.command import main; main()")


def xbar(*arguments, begin=BEGIN, **environment):
    done = subprocess.run(
        [*begin, *arguments], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    return done.returncode, done.stdout + done.stderr


def test_the_version():
    assert xbar("--version") == (0, f"xbarlab {__version__}\n")


def test_nothing_of_ours_is_hidden():
    assert hidden_rooms() == {}


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_package_of_somebody_else_is_named(room, kind, tmp_path):
    if kind == "folder":
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("class MySmu: pass", encoding="utf-8")
    else:
        (tmp_path / f"{room}.py").write_text("raise OSError('must not be imported')", encoding="utf-8")
    status, said = xbar("status", str(tmp_path), PYTHONPATH=str(tmp_path))
    assert status == 1 and "Traceback" not in said
    assert str(tmp_path / (room if kind == "folder" else f"{room}.py")) in said and repr(room) in said


def test_a_folder_that_is_no_package_hides_nothing(tmp_path):
    """Results kept in a folder that happens to be called so."""
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "notes.py").write_text("", encoding="utf-8")
    assert xbar("--version", PYTHONPATH=str(tmp_path))[0] == 0


def test_errors_of_another_package_of_our_name_are_no_messages_of_ours(tmp_path):
    foreign = types.ModuleType("analysis.lab")
    foreign.__file__ = str(tmp_path / "analysis" / "lab.py")
    error = type("LabError", (Exception,), {"__module__": "analysis.lab"})
    sys.modules["analysis.lab"] = foreign
    try:
        assert not for_the_user(error())
    finally:
        del sys.modules["analysis.lab"]
