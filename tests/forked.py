"""Programs in forks of an interpreter that has loaded everything, for tests that start the same ones all the time.

Loading pandas, xarray, QCoDeS and the compiled solver takes two to three seconds of processor time before a program
does the first thing that is tested. So one interpreter loads them once, and becomes each program in a fork of its own:
a process like any other, with its own number, environment, streams and end. Started as a script, this file is that
interpreter. Where nothing can be forked (Windows), programs are started as ever.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

from instruments.broker import client as broker_client

POSSIBLE = hasattr(os, "fork") and hasattr(socket, "send_fds")
#: Where the interpreter that forks is reached, for programs that start others themselves.
PLACE = "XBARLAB_TEST_FORKS"
#: What it loads beforehand; none of it is a program.
LOADED = (
    "protocols.sequencer.execute",
    "protocols.commands.resume",
    "protocols.commands.show",
    "protocols.source.trust",
    "instruments.station",
    "instruments.drivers.board",
    "instruments.drivers.sentio",
    "instruments.drivers.rack",
    "analysis.record.record",
    "sim_backends.station",
    "instruments.broker.process",
    "pyvisa",
    "pyvisa_py",
    "dask.array",
    "pint",
    "dying_xbar",
    "short_lot",
)
_ONE_AT_A_TIME = threading.Lock()
_SERVERS: list[subprocess.Popen[bytes]] = []
_MESSAGE = 1 << 20
_INHERITED = ("SIGINT", "SIGHUP")  # what a process that is started has ignored if its parent ignores it


class Forked:
    """A program in a fork, as `subprocess.Popen` has it.

    Parameters
    ----------
    program
        Function that it consists of, ``module:name``.
    arguments
        What follows the name of the program on its command line.
    stdin, stdout, stderr
        Descriptors; None: nothing.
    env
        Its whole environment.
    new_session
        Whether it leaves the session of this process.
    """

    def __init__(
        self,
        program: str,
        arguments: Sequence[str] = (),
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
        new_session: bool = False,
    ) -> None:
        self.returncode: int | None = None
        self._hearing = threading.Lock()
        self.args = [program, *map(str, arguments)]
        request = {
            "program": self.args,
            "env": dict(os.environ if env is None else env),
            "cwd": str(Path.cwd()),
            "new_session": new_session,
            "ignored": [name for name in _INHERITED if signal.getsignal(getattr(signal, name)) is signal.SIG_IGN],
        }
        self._said = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _ONE_AT_A_TIME:
            self._said.connect(os.environ.get(PLACE) or _server())
        with Path(os.devnull).open("r+b") as nothing:
            streams = [nothing.fileno() if each is None else each for each in (stdin, stdout, stderr)]
            socket.send_fds(self._said, [json.dumps(request).encode() + b"\n"], streams)
        self._lines = self._said.makefile("rb")
        self.pid = int(self._lines.readline())

    def poll(self) -> int | None:
        """Exit status, None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Exit status, waited for."""
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """A signal to the program, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            with contextlib.suppress(ValueError, OSError):  # another thread has heard of the end
                if not select.select([self._said], [], [], timeout)[0]:
                    return None
            with self._hearing:
                if self.returncode is None:
                    line = self._lines.readline()
                    self.returncode = int(line) if line else -signal.SIGKILL  # who forked it is gone, and it with that
                    self._lines.close()
                    self._said.close()
        return self.returncode


@cache
def _server() -> str:
    """Start the interpreter that forks; where it is reached. It ends with this process."""
    place = str(Path(tempfile.mkdtemp(prefix="xbarlab-forks-")) / "s")
    lifeline, theirs = os.pipe()[::-1]
    home = Path(__file__).resolve().parent
    path = os.pathsep.join([str(home.parent), str(home), str(home / "flow"), os.environ.get("PYTHONPATH", "")])
    _SERVERS.append(
        subprocess.Popen(
            [sys.executable, "-P", __file__, place],
            stdin=theirs,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path.rstrip(os.pathsep)},
        )
    )
    os.close(theirs)
    os.set_inheritable(lifeline, False)
    deadline = time.monotonic() + 120
    while not Path(place).exists():
        assert time.monotonic() < deadline, "the interpreter that forks did not come up"
        time.sleep(0.02)
    return place


class _Served(Forked):
    """A program in a session of its own that is talked to over its standard input and output."""

    def __init__(self, program: str, arguments: Sequence[str], errors: IO[bytes]) -> None:
        theirs, ours = os.pipe()
        told, tells = os.pipe()
        self.stdin, self.stdout = os.fdopen(ours, "wb"), os.fdopen(told, "rb")
        env = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        super().__init__(
            program, arguments, stdin=theirs, stdout=tells, stderr=errors.fileno(), env=env, new_session=True
        )
        os.close(theirs)
        os.close(tells)


def fork_brokers() -> None:
    """From now on brokers of this process are started as forks."""
    if POSSIBLE:
        broker_client.start_interpreter = lambda errors: _Served("instruments.broker.process:main", [], errors)


def _fork_stations() -> None:
    from sim_backends import station_process  # here: it takes a second to load, and most tests need none

    station_process.start_interpreter = lambda errors: _Served("sim_backends.station:main", ["-"], errors)


# -- in the interpreter that forks -----------------------------------------------------------------------------------


def _serve(place: str) -> tuple[dict[str, Any], list[int]] | None:
    """Fork whatever is asked for; comes back in each fork with what it shall become, and with None at the end."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(place + ".")
    listener.listen(64)
    listener.setblocking(False)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    Path(place + ".").rename(place)  # it is there when it answers
    asked: dict[int, socket.socket] = {}
    while True:
        ready = select.select([0, woken, listener], [], [])[0]
        if 0 in ready and not os.read(0, 4096):
            shutil.rmtree(Path(place).parent, ignore_errors=True)
            return None
        if woken in ready:
            os.read(woken, 4096)
            _tell_ended(asked)
        if listener in ready:
            connection, _ = listener.accept()
            line, streams, *_ = socket.recv_fds(connection, _MESSAGE, 3)
            while not line.endswith(b"\n") and (more := connection.recv(_MESSAGE)):
                line += more
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                for each in (listener, connection, *asked.values()):
                    each.close()
                os.close(woken)
                os.close(wakes)
                return json.loads(line), streams
            for each in streams:
                os.close(each)
            connection.sendall(b"%d\n" % pid)
            asked[pid] = connection


def _tell_ended(asked: dict[int, socket.socket]) -> None:
    """Tell whoever started them how programs have ended."""
    while asked:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        connection = asked.pop(pid)
        with contextlib.suppress(OSError):  # who started it is gone
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        connection.close()


def _become(request: dict[str, Any], streams: list[int], place: str) -> NoReturn:
    """Go on as a program that was started just now."""
    if request["new_session"]:
        os.setsid()
    for to, stream in enumerate(streams):
        os.dup2(stream, to)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"] | {PLACE: place})
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in request["ignored"]:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    random.seed()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    program, *arguments = request["program"]
    module, _, function = program.partition(":")
    sys.argv = [module, *arguments]
    sys.exit(getattr(importlib.import_module(module), function)())


def _load() -> None:
    for module in LOADED:
        importlib.import_module(module)
    dies = importlib.import_module("sim_backends.array.dies.kinds")
    dies.compile_ahead(dies.load_any_lot("mtj"))
    fork_brokers()
    _fork_stations()
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _load()
    if (asked := _serve(sys.argv[1])) is not None:
        _become(*asked, sys.argv[1])
