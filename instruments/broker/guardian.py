"""What is left when the program that measures and its broker were both killed: it makes the station safe.

``python -m instruments.broker.guardian FILE PID STARTED`` holds no connection and does nothing while the broker lives,
whose end of a pipe it reads. When that ends and the broker has left the file of recipes, the program of that number may
do it (`instruments.broker.client`), if it lives; then it is done here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from instruments.broker.kept_recipes import make_kept_safe

PATIENCE = 6.0
"""Seconds that the program has to make the station safe itself: it sees within that time that its broker is gone."""

_LOOK = 0.1  # s


def start_guardian(recipes: str, owner: int) -> subprocess.Popen[bytes] | None:
    """Start one for the broker that calls this; None if that is not possible: a run does not fail over it."""
    detached = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "DETACHED_PROCESS", 0)
    try:
        started = psutil.Process(owner).create_time()
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "instruments.broker.guardian", recipes, str(owner), repr(started)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(each for each in sys.path if Path(each).is_absolute())},
            start_new_session=os.name == "posix",
            creationflags=detached,
        )
    except (OSError, psutil.Error) as error:
        sys.stderr.write(f"nobody is left to make the station safe if this broker is killed, too: {error}\n")
        return None


def main() -> int:
    """Wait, and make safe what was left; returns the exit status."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    recipes, owner, started = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    sys.stdin.buffer.read()  # to the end of the broker
    end = time.monotonic() + PATIENCE
    while recipes.exists() and time.monotonic() < end and _lives(owner, started):
        time.sleep(_LOOK)
    with contextlib.suppress(OSError, ValueError):
        make_kept_safe(recipes)
    return 0


def _lives(pid: int, started: float) -> bool:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    sys.exit(main())
