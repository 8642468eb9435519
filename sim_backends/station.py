"""A whole simulated station: one wafer, a prober and an array board on TCP ports.

``python -m sim_backends.station STATION.yaml`` prints one JSON line with the addresses and serves until its standard
input closes (so that it dies with the process that started it) or until it is interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from pydantic import Field, ValidationError

from sim_backends.array.lot import LotError, describe, load_lot
from sim_backends.array.quantity import Specification, split_sources
from sim_backends.bench import Bench, StateError
from sim_backends.board import Board
from sim_backends.board_requests import BoardSpec
from sim_backends.clock import StationClock, Timing
from sim_backends.physical_log import PhysicalLog, previous_summary
from sim_backends.prober import Prober, ProberSpec
from sim_backends.sentio import Sentio
from sim_backends.tcp import InstrumentServer


class StationError(RuntimeError):
    """A station file that cannot be used, or a station that did not come up."""


class StationConfig(Specification):
    """What a station file says. Paths are relative to the file.

    Attributes
    ----------
    lot
        A lot file, or the name of a built-in lot.
    seed
        Of the lot: with the lot file it fixes every die.
    dies
        Dies on the prober's route: so many from the centre of the wafer outwards, or a list of indices; all if left
        out. The rest of the lot is on the wafer, but not selected.
    prober_port, board_port, host
        Where to listen; port 0 takes a free one. Anybody who can reach the ports can use the station.
    realtime
        Wait for moves, settling and pulses as hardware would.
    state
        Folder in which dies keep their state when the station ends.
    log, truth
        Files for what physically happened and for the hidden truth.
    """

    lot: str = "mtj"
    seed: int = Field(default=0, ge=0)
    dies: int | tuple[int, ...] | None = None
    host: str = "127.0.0.1"
    prober_port: int = Field(default=0, ge=0, le=65535)
    board_port: int = Field(default=0, ge=0, le=65535)
    realtime: bool = False
    state: Path | None = None
    log: Path | None = None
    truth: Path | None = None
    prober: ProberSpec = ProberSpec()
    board: BoardSpec = BoardSpec()
    timing: Timing = Timing()

    def route(self, dies: int) -> list[int]:
        """Indices of the dies on the route, of a wafer of `dies`.

        Raises
        ------
        StationError
            If there are not so many.
        """
        chosen = range(dies) if self.dies is None else range(self.dies) if isinstance(self.dies, int) else self.dies
        if not chosen or min(chosen) < 0 or max(chosen) >= dies:
            raise StationError(f"dies: {self.dies} asked for, the lot has {dies}, indices 0 to {dies - 1}")
        return list(chosen)


def station_config(tree: Any, origin: str, folder: Path) -> StationConfig:
    """Check the content of a station file; `origin` names it in errors, paths are relative to `folder`.

    Raises
    ------
    StationError
        Naming every entry that is unknown or wrong.
    """
    if not isinstance(tree, dict):
        raise StationError(f"{origin}: a station file is a mapping of entries")
    values, _ = split_sources(tree)
    try:
        config = StationConfig.model_validate(values)
    except ValidationError as error:
        raise StationError(f"{origin}:\n{describe(error)}") from error
    paths = {name: folder / path for name in ("state", "log", "truth") if (path := getattr(config, name)) is not None}
    lot = str(folder / config.lot) if (folder / config.lot).is_file() else config.lot
    return config.model_copy(update={**paths, "lot": lot})


def load_station(path: Path) -> StationConfig:
    """Read a station file.

    Raises
    ------
    StationError
        If there is no such file, or an entry is unknown or wrong.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise StationError(f"{path}: {error}") from error
    return station_config(tree or {}, str(path), path.parent.resolve())


class Station:
    """A prober and a board around one wafer, each on its own port and thread; a context manager.

    Parameters
    ----------
    config
        The station.

    Raises
    ------
    StationError, LotError, StateError
        If it cannot be built: nothing is served then.
    """

    def __init__(self, config: StationConfig) -> None:
        lot = load_lot(config.lot)
        route = config.route(lot.wafer.dies)
        start = float(previous_summary(config.log).get("station_time_s", 0.0)) if config.log else 0.0
        self.config = config
        self.clock = StationClock(config.realtime, start)
        self.log = PhysicalLog(config.log, self.clock)
        self.bench = Bench(
            lot, config.seed, self.clock, self.log, state=config.state, truth=config.truth, truth_dies=route
        )
        self.prober = Prober(self.bench, config.prober, config.timing, route)
        self.board = Board(self.bench, config.board, config.timing)
        prober_server = InstrumentServer(Sentio(self.prober), config.host, config.prober_port, "prober")
        try:
            board_server = InstrumentServer(self.board, config.host, config.board_port, "board")
        except OSError:
            prober_server.stop()
            raise
        self._servers = (prober_server, board_server)

    def start(self) -> None:
        """Begin to serve."""
        self.log.add("start", lot=self.bench.lot.name, seed=self.config.seed, pid=os.getpid())
        for server in self._servers:
            server.start()

    def close(self) -> None:
        """Stop serving, then save dies, truth and log."""
        for server in self._servers:
            server.stop()
        self.log.add("end", **self.log.summary())
        self.bench.save()

    def addresses(self) -> dict[str, Any]:
        """What a client needs: VISA resource of the prober, URL of the board, and who serves them."""
        prober, board = (server.address for server in self._servers)
        return {
            "prober": f"TCPIP::{prober[0]}::{prober[1]}::SOCKET",
            "board": f"socket://{board[0]}:{board[1]}",
            "pid": os.getpid(),
            "lot": self.bench.lot.name,
            "seed": self.config.seed,
        }

    def __enter__(self) -> Station:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a station until standard input closes; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        config = _overridden(_configuration(options.station), options)
        station = Station(config)
    except (StationError, LotError, StateError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with station:
        sys.stdout.write(json.dumps(station.addresses()) + "\n")
        sys.stdout.flush()
        wait_for_end(forever=options.forever)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim_backends.station", description=__doc__)
    parser.add_argument("station", help="station file; '-' takes it as one line of JSON from standard input")
    parser.add_argument("--seed", type=int, help="instead of the file's")
    parser.add_argument("--log", type=Path, help="file for what physically happened")
    parser.add_argument("--truth", type=Path, help="file for the hidden truth")
    parser.add_argument("--state", type=Path, help="folder in which dies keep their state")
    parser.add_argument("--realtime", action="store_true", default=None, help="wait as hardware would")
    parser.add_argument("--forever", action="store_true", help="serve on when standard input closes")
    return parser


def _configuration(source: str) -> StationConfig:
    if source != "-":
        return load_station(Path(source))
    try:
        tree = json.loads(sys.stdin.readline())
    except ValueError as error:
        raise StationError(f"standard input: {error}") from error
    return station_config(tree, "standard input", Path.cwd())


def _overridden(config: StationConfig, options: argparse.Namespace) -> StationConfig:
    given = {name: getattr(options, name) for name in ("seed", "log", "truth", "state", "realtime")}
    changes = {name: value for name, value in given.items() if value is not None}
    return StationConfig.model_validate({**config.model_dump(), **changes})


def wait_for_end(*, forever: bool) -> None:
    """Return on an interrupt, on SIGTERM, or when standard input closes."""
    end = threading.Event()
    for name in ("SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: end.set())
    if not forever:
        threading.Thread(target=_watch_input, args=(end,), name="lifeline", daemon=True).start()
    try:
        # short waits: a wait without end cannot be interrupted on Windows
        while not end.wait(0.2):
            pass
    except KeyboardInterrupt:
        return


def _watch_input(end: threading.Event) -> None:
    try:
        # the descriptor itself: a blocked read of sys.stdin would hold a lock that the interpreter wants at its end
        while os.read(sys.stdin.fileno(), 4096):
            pass
    finally:
        end.set()


if __name__ == "__main__":
    sys.exit(main())
