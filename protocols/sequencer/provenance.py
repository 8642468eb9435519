"""Where a run comes from: versions, source state, command, machine, and all that it takes to go on with it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import inspect
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from analysis.record.record import Record
from instruments.plain_yaml import PlainYamlError, read_text
from protocols.sequencer.selection import RunSettings
from protocols.source.catalogue import SHIPPED

PACKAGES = (
    "xbarlab", "numpy", "torch", "scipy", "xarray", "qcodes", "pyvisa", "pyvisa-py", "pyserial", "h5py", "pandas",
    "pydantic", "filelock", "mlxtend", "safetensors",
)  # fmt: skip

#: What a hook of git has set, for the repository that it is of.
_OF_ANOTHER_REPOSITORY = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE",
    "GIT_PREFIX",
)  # fmt: skip


def provenance(
    protocol: str, inputs: dict[str, Any], seed: int, station: str, dies: int | None = None
) -> dict[str, Any]:
    """What is kept with anything that was computed or measured, all of it JSON."""
    return {
        "protocol": protocol,
        "inputs": {key: str(value) for key, value in inputs.items()},
        "seed": seed,
        "dies": dies,
        "station": station,
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        **_git_state(Path(__file__).parent),
    }


def run_provenance(
    record: Record,
    function: Callable[..., Any],
    name: str,
    parameters: dict[str, Any],
    settings: RunSettings,
    station: Path | None,
    lot: str,
) -> dict[str, Any]:
    """What is kept with a run: `provenance`, and what `xbar resume` needs to start it again from anywhere.

    ``source`` and ``station_sha256`` are digests of texts in the record (`Record.source`): the file of the protocol,
    and the station file.
    """
    where = f"simulated, lot {lot}" if station is None else str(station)
    return provenance(name, parameters, settings.seed, where, settings.dies) | {
        "find": find_name(function, name),
        "source": record.keep_source(_source(function)),
        "settings": settings.to_dict(),
        "lot": lot,
        "station_file": None if station is None else str(station.resolve()),
        "station_sha256": None if station is None else _kept(record, station),
        "folder": str(Path.cwd()),
    }


def program_differences(known: dict[str, Any]) -> list[str]:
    """What of the program is not what it was when a run was begun, by its provenance: versions and source."""
    now: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        **_git_state(Path(__file__).parent),
    }
    before = {"python": known.get("python"), **dict(known.get("packages") or {})}
    before |= {key: known.get(key) for key in ("git", "git_diff_sha256")}
    said = [
        f"{name} {now[name] or 'not installed'} (was {before[name] or 'not installed'})"
        for name in ("python", *PACKAGES)
        if before.get(name) is not None and before[name] != now[name]
    ]
    if any(before[key] is not None and before[key] != now[key] for key in ("git", "git_diff_sha256")):
        same = " with other edits" if before["git"] == now["git"] else ""
        said.append(f"xbarlab at {now['git'] or 'no commit'}{same} (was {before['git'] or 'no commit'})")
    return said


def made_by(known: dict[str, Any]) -> str:
    """Which other xbarlab made a run, and what to install to have it; empty if it was this one, as far as one can tell.

    Its drivers may speak otherwise, so that a replay finds other bytes.
    """
    version, commit = str((known.get("packages") or {}).get("xbarlab", "")), str(known.get("git") or "")
    if (version, commit) == (_version("xbarlab"), _git_state(Path(__file__).parent)["git"]):
        return ""
    named = f"xbarlab {version or 'of an unknown version'}{f', commit {commit}' if commit else ''}"
    install = f"check out {commit.removesuffix('-dirty')}" if commit else f"pip install xbarlab=={version}"
    return f"the run was made by {named}, not by this one: install that to replay it byte for byte ({install})"


def find_name(function: Callable[..., Any], name: str) -> str:
    """The name by which `catalogue.find` gets a protocol, wherever it is called from."""
    if name in SHIPPED:
        return name
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        file = None
    return f"{Path(file or name).resolve()}:{function.__name__}"


@contextlib.contextmanager
def in_folder_of(run: dict[str, Any]) -> Iterator[None]:
    """Where a run was started, so that the files that it was given are found; here, if that is gone."""
    folder = str(run["provenance"].get("folder", ""))
    with contextlib.chdir(folder) if folder and Path(folder).is_dir() else contextlib.nullcontext():
        yield


def _kept(record: Record, station: Path) -> str | None:
    """Digest of a station file; None if it cannot be read, which the driver that needs it tells better."""
    try:
        return record.keep_source(read_text(station))
    except PlainYamlError:
        return None


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):  # typed in at a prompt
        return ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git_state(folder: Path) -> dict[str, str]:
    """Commit of the checkout that the program runs from, ``-dirty`` if it was edited, and a digest of the edits.

    Empty outside of a checkout: of a repository that lies around an installed copy, as around a virtual environment,
    nothing is taken.
    """
    if not _git(folder, "ls-files", "--", Path(__file__).name):
        return {"git": "", "git_diff_sha256": ""}
    described = _git(folder, "describe", "--always", "--dirty", "--abbrev=12")
    edits = _git(folder, "diff", "HEAD") if described.endswith("-dirty") else ""
    return {"git": described, "git_diff_sha256": hashlib.sha256(edits.encode()).hexdigest() if edits else ""}


def _git(folder: Path, *command: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command],
            env={name: text for name, text in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY},
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
