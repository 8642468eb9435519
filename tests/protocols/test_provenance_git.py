"""The commit that a run quotes is that of the program, not of a repository that happens to lie around it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from protocols.sequencer import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of the user's with one commit; a copy of our file in it, installed and not tracked."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]

    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    git("add", "notes.txt")
    git("commit", "-qm", "mine")
    folder = tmp_path / ".venv" / "site-packages" / "protocols"
    folder.mkdir(parents=True)
    shutil.copy(provenance.__file__, folder)
    return folder, git


def test_a_repository_around_the_virtual_environment(repository):
    folder, _ = repository
    assert provenance._git_state(folder) == {"git": "", "git_diff_sha256": ""}


def test_the_checkout_of_the_program(repository, monkeypatch):
    folder, git = repository
    git("add", "-f", ".venv")
    git("commit", "-qm", "ours")
    assert len(provenance._git_state(folder)["git"]) == 12
    monkeypatch.setenv("GIT_DIR", str(Path(folder).parent))  # as in a hook of another repository
    assert len(provenance._git_state(folder)["git"]) == 12
    (folder / Path(provenance.__file__).name).write_text("edited", encoding="utf-8")
    assert provenance._git_state(folder)["git"].endswith("-dirty")
