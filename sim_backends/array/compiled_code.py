"""Where numba keeps compiled code: it refuses to load kernels that it can keep neither beside them nor in the home."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path


def keep_somewhere() -> None:
    """Name a folder of this process for compiled code where there is no other; all is then compiled anew each time.

    Children inherit the name. Whoever wants to keep what was compiled sets NUMBA_CACHE_DIR to a folder of his own.
    """
    given, here = os.environ.get("NUMBA_CACHE_DIR"), Path(__file__).parent
    if (given and _can_write(Path(given))) or _can_write(here / "__pycache__") or _can_write(_users_folder()):
        return
    folder = tempfile.mkdtemp(prefix="xbarlab-numba-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = folder
    if "numba" in sys.modules:  # it has read the name already
        sys.modules["numba"].config.CACHE_DIR = folder


def _users_folder() -> Path | None:
    """Where numba would keep compiled code of this user."""
    named = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    try:
        return Path(named) if named else Path.home() / ".cache"
    except (RuntimeError, OSError):
        return None


def _can_write(folder: Path | None) -> bool:
    """Whether a folder can be written, or made."""
    if folder is None:
        return False
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False
