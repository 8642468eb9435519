"""docs/own_network.md, followed from an empty folder: every command of the page, with little training and one die."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from protocols.cli import app

DOCS = Path(__file__).parents[2] / "docs"
#: What makes the commands of the page short enough for a test; a later option wins.
SHORTER = {"own_network.py": ["--epochs", "1"], "program": ["--dies", "1"], "run": ["--dies", "1", "--images", "60"]}


def commands_of_the_page():
    page = (DOCS / "own_network.md").read_text(encoding="utf-8")
    return [shlex.split(line) for line in re.findall(r"^    ((?:python|xbar) .*)$", page, re.MULTILINE)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for script in ("own_network.py", "classify_own_network.py"):
        shutil.copy(DOCS / "examples" / script, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_page_works_from_an_empty_folder(folder):
    said = []
    for number, (program, first, *rest) in enumerate(commands_of_the_page()):
        arguments = [first, *rest, *SHORTER.get(first, [])]
        if program == "python":
            done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            said.append(done.stdout)
            continue
        out = ["--out", f"out{number}"] if first in ("program", "run") else []
        result = CliRunner().invoke(app, [*arguments, *out], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        said.append(result.output)
    trained, mapped, programmed, classified = said
    assert "own_network.safetensors" in trained
    assert "layer 1: 196 inputs x 40 outputs, 1 copy, 40 input groups" in mapped
    assert "18880 of 20000 cells" in mapped
    assert re.search(r"c2r6 +│ pass", programmed)
    software, measured = (float(share) for share in re.findall(r"([0-9.]+)%", classified))
    assert software < 60, "one epoch of training is better than guessing"
    assert abs(measured - software) < 15


def test_training_part_imports_nothing_of_ours():
    source = (DOCS / "examples" / "own_network.py").read_text(encoding="utf-8")
    imported = re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)
    assert not {"mapping", "protocols", "analysis", "instruments", "sim_backends"} & set(imported)
