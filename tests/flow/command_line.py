"""The `xbar` command as tests call it: in this process, as a process of its own, and a station served by hand."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from unittest import mock

import forked
import psutil
from happened import happened, safe_after
from in_process import stations_here

from protocols.cli import main
from protocols.sequencer.left_broker import known_broker

Process = subprocess.Popen[bytes] | forked.Forked
#: The command, independent of where the interpreter keeps its scripts.
XBAR = (sys.executable, "-P", "-c", "from protocols.cli import main; main()")
#: Seconds that a command may take; a busy machine may be given more.
PATIENCE = float(os.environ.get("XBARLAB_TEST_PATIENCE", "60"))


@dataclass(frozen=True)
class Finished:
    """How a command ended: exit status and everything it said."""

    status: int
    said: str


def xbar(*arguments: object) -> Finished:
    """Run a command in this process; a simulated station that it starts serves from this process, too."""
    said, status = io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["xbar", *map(str, arguments)]),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        stations_here(),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Finished(status, said.getvalue())


def start_xbar(*arguments: object, said: Path, **environment: str) -> Process:
    """Start a command as a process of its own; what it says goes to a file (a full pipe would hold it up)."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with said.open("wb") as file:
        if forked.POSSIBLE:
            return forked.Forked(
                "protocols.cli:main",
                [str(each) for each in arguments],
                stdout=file.fileno(),
                stderr=file.fileno(),
                env=env,
            )
        return subprocess.Popen(
            [*XBAR, *map(str, arguments)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


def run_xbar(*arguments: object, said: Path) -> Finished:
    """Run a command as a process of its own."""
    with ended(start_xbar(*arguments, said=said)) as process:
        status = process.wait(5 * PATIENCE)
    return Finished(status, said.read_text(encoding="utf-8"))


@contextlib.contextmanager
def served(*arguments: object, write: Path) -> Iterator[Process]:
    """`xbar sim ...` as somebody serves it in another terminal, up when this gives it."""
    said = write.with_suffix(".said")
    with ended(start_xbar("sim", *arguments, "--write", write, said=said)) as process:
        wait_for(lambda: "Ctrl-C ends" in said.read_text(encoding="utf-8") or process.poll() is not None)
        assert process.poll() is None, said.read_text(encoding="utf-8")
        yield process


def end_served(process: Process, number: int | None = None) -> int:
    """End what `served` started as from its terminal (or by `number`), and give its exit status."""
    process.send_signal(number or getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
    return process.wait(PATIENCE)


@contextlib.contextmanager
def ended(process: Process) -> Iterator[Process]:
    """Whatever happens in between, the process is gone afterwards."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(condition, patience: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def wait_for_broker(folder: Path) -> None:
    """Wait until the broker of a lot, if one is known that lives, has ended."""
    known = known_broker(folder)
    process = None if known is None else known.process()
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.wait(PATIENCE)


def start_dying(noted: Path, boundary: int, command: Sequence[str], said: IO[bytes]) -> Process:
    """Start a command that kills itself at a boundary (0: at none), as `dying_xbar` says."""
    env, arguments = {**os.environ, "OMP_NUM_THREADS": "1"}, [str(noted), str(boundary), *command]
    if forked.POSSIBLE:
        return forked.Forked("dying_xbar:command", arguments, stdout=said.fileno(), stderr=said.fileno(), env=env)
    script = str(Path(__file__).parent / "dying_xbar.py")
    return subprocess.Popen([sys.executable, script, *arguments], stdout=said, stderr=subprocess.STDOUT, env=env)


def killed_at(boundary: int, *arguments: object, out: Path) -> float:
    """Run a command until it kills itself at a boundary (`dying_xbar`), and wait for its broker; when that was (s).

    The lot is in `out`; what was said and which boundaries were passed lies beside it.
    """
    said, noted = out.with_suffix(".said"), out.with_suffix(".boundaries")
    with said.open("wb") as file:
        child = start_dying(noted, boundary, [*map(str, arguments), "--out", str(out)], file)
        with ended(child):
            assert child.wait(3 * PATIENCE) == -signal.SIGKILL, said.read_text(encoding="utf-8")
    when = float(noted.read_text(encoding="utf-8").splitlines()[-1].split("\t")[2])
    wait_for(lambda: safe_after(happened(out / "station" / "physical.jsonl"), when) is not None, 10)
    wait_for_broker(out)
    return when
