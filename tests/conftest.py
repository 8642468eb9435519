"""What holds for all tests: hypothesis measures laws, not the machine's speed, and what starts starts quickly."""

import functools
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import typer.main
from hypothesis import settings

# before numpy and torch are loaded: tests go on side by side, and more threads would only fight over the processors
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# a hundred processes are started: none of them shall compile all modules anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# a pulse is on the disk before it is fired; no test pulls a plug, so what they write lies in memory where there is room
_MEMORY, _ROOM = Path("/dev/shm"), 4 * 2**30
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
# what runs note of themselves is no matter of the person who tests
os.environ["LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="xbarlab-state-")

# under nohup we go on, but what tests start must meet a hangup as at a terminal: a handler is not inherited
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

# tests call `xbar` in their own process again and again: its commands are put together once, as in a process of xbar
typer.main.get_command = functools.cache(typer.main.get_command)

pytest_plugins = ["pytester"]

import forked  # noqa: E402 - what it loads reads the settings above

forked.fork_brokers()

# laws that need more draws, or can do with fewer, say so themselves
settings.register_profile("xbarlab", deadline=None, max_examples=50)
settings.load_profile("xbarlab")

FLOW = Path(__file__).parent / "flow"


def pytest_configure(config):
    # files go to the workers in the order below; by the number of their tests the longest ones would come last
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items):
    """Tests of the whole way are slow; files with slow tests come first, so that no worker waits for one at the end."""
    for item in items:
        if FLOW in item.path.parents:
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
