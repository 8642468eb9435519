"""What libraries need of the machine, where it has it not: a home folder, for their settings and for compiled code."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

#: Where libraries keep things in the home of a user, and what tells them of another place.
KEPT_AT = {"QCODES_USER_PATH": "qcodes", "MPLCONFIGDIR": "matplotlib", "NUMBA_CACHE_DIR": "numba"}


def find_home() -> str:
    """Give libraries a private folder in place of a home that is not there or cannot be written, also for children.

    Returns
    -------
    What to tell the user; empty if his home is as it should be.
    """
    home = _home()
    if home is not None and home.is_dir() and os.access(home, os.W_OK | os.X_OK):
        return ""
    folder = private_folder()
    if home is None:
        os.environ["HOME"] = str(folder)
    for name, place in KEPT_AT.items():
        os.environ.setdefault(name, str(folder / place))
    what = "there is no home folder" if home is None else f"the home folder {home} cannot be written"
    return (
        f"{what}: settings and compiled code of libraries go to {folder}; set HOME to a folder to keep them elsewhere"
    )


def _home() -> Path | None:
    try:
        return Path.home()
    except (RuntimeError, OSError):
        return None


def private_folder() -> Path:
    """A folder for temporary files that nobody else can write: what lies there is read and run again."""
    if os.name == "nt":  # the one for temporary files is the user's own
        folder = Path(tempfile.gettempdir()) / "xbarlab"
        folder.mkdir(exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"xbarlab-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="xbarlab-"))
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if own else Path(tempfile.mkdtemp(prefix="xbarlab-"))


def find_working_folder() -> None:
    """Go where a working folder still is: libraries ask for it while they are loaded.

    Raises
    ------
    SystemExit
        With status 1 if the one of this process was removed.
    """
    try:
        Path.cwd()
    except OSError as error:
        sys.stderr.write(f"xbar: the working folder is gone ({error.strerror}): go to another one, as with cd ~\n")
        raise SystemExit(1) from None
