"""Where a run comes from: versions, source state, command, machine."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("xbarlab", "numpy", "torch", "scipy", "xarray", "qcodes", "pyvisa", "pyserial", "h5py", "pandas")


def provenance(
    protocol: str, inputs: dict[str, Any], seed: int, station: str, dies: int | None = None
) -> dict[str, Any]:
    """What is kept with a run, all of it JSON."""
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
        "git": _git_state(Path(__file__).parent),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git_state(folder: Path) -> str:
    """Commit of the checkout that the program runs from, with ``-dirty`` if it was edited; empty outside of one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
