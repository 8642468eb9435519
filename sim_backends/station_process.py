"""A simulated station in a process of its own, for programs and tests that want to meet it only on the wire."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from sim_backends.bench.state_lock import PATIENCE
from sim_backends.lifetime import LINGER
from sim_backends.station import StationConfig, StationError, load_station, station_config

_READY_TIMEOUT = PATIENCE + 60.0  # it may wait for its state folder
_END_TIMEOUT = LINGER + 30.0


class StationProcess:
    """A running station; a context manager that ends it.

    Attributes
    ----------
    prober, board
        Addresses: a VISA resource name and a URL for pyserial; no board where there is a rack.
    addresses
        All that the station said of itself (also ``pid``, ``lot``, ``seed``).
    config
        What it was started with.
    """

    def __init__(self, config: StationConfig) -> None:
        self.config = config
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = start_interpreter(self._errors)
        try:
            self._send(config)
            self.addresses: dict[str, Any] = json.loads(self._first_line())
        except BaseException:
            self.close()
            raise
        self.prober: str = self.addresses["prober"]
        self.board: str = self.addresses.get("board", "")

    @property
    def pid(self) -> int:
        """Process id of the station."""
        return self._process.pid

    def close(self) -> None:
        """End the station: it saves what it has to; killed if it does not end by itself."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):  # it is dead already
                self._process.stdin.close()
        try:
            self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def kill(self) -> None:
        """End the station at once, as a crash would; what it had not saved is lost."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> StationProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, config: StationConfig) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(config.model_dump_json(exclude_unset=True).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise StationError(f"the station did not start: {self._error_text()}") from error

    def _first_line(self) -> bytes:
        """The line the station prints when it is ready; a thread reads it, for Windows cannot wait on pipes."""
        assert self._process.stdout is not None
        lines: list[bytes] = []
        stdout = self._process.stdout
        reader = threading.Thread(target=lambda: lines.append(stdout.readline()), daemon=True)
        reader.start()
        reader.join(_READY_TIMEOUT)
        if not lines or not lines[0]:
            if not lines:
                self._process.kill()
            self._process.wait()
            raise StationError(f"the station did not start:\n{self._error_text()}")
        return lines[0]

    def _error_text(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip() or "it said nothing"


def start_interpreter(errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """An interpreter that takes one line of JSON from its standard input and serves that station."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "sim_backends.station", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=_environment(),
        # an interrupt from the keyboard is for the program that measures: it still needs its station to leave a die
        start_new_session=os.name == "posix",
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


def spawn_station(config: StationConfig | Mapping[str, Any] | str | Path) -> StationProcess:
    """Start a station in a process of its own and wait until it serves.

    Parameters
    ----------
    config
        A configuration, its content as a mapping (paths relative to the working directory), or a station file.

    Returns
    -------
    StationProcess
        Use it as a context manager; the station ends with it, and with this process however it dies.

    Raises
    ------
    StationError
        With what the station said, if it did not come up.
    """
    if isinstance(config, Mapping):
        config = station_config(dict(config), "configuration", Path.cwd())
    elif not isinstance(config, StationConfig):
        config = load_station(Path(config))
    return StationProcess(config)


def _environment() -> dict[str, str]:
    """Environment in which the child finds this package, wherever the parent runs."""
    home = str(Path(__file__).resolve().parent.parent)
    theirs = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(each).is_absolute()]
    path = os.pathsep.join([home, *theirs])  # what is relative is meant for the folder the program was started in
    # small matrices: more threads only fight over the processor with the program that measures
    threads = {name: os.environ.get(name, "1") for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**os.environ, **threads, "PYTHONPATH": path}
