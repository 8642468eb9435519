"""A whole simulated station: one wafer, a prober, an array board or a rack, and perhaps a magnet on TCP ports.

``python -m sim_backends.station STATION.yaml`` prints one JSON line with the addresses and serves until its standard
input closes (so that it dies with the process that started it) and its clients are gone, or until it is interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import Field, ValidationError

from sim_backends.array.dies.kinds import compile_ahead, load_any_lot
from sim_backends.array.dies.lot import LotError, describe
from sim_backends.array.files.plain_yaml import PlainYamlError, read_yaml
from sim_backends.array.files.quantity import Integer, Specification, split_sources
from sim_backends.bench.bench import Bench, StateError
from sim_backends.bench.clock import StationClock, Timing
from sim_backends.bench.physical_log import PhysicalLog, previous_summary
from sim_backends.bench.state_lock import StateInUseError, StateLock
from sim_backends.lifetime import wait_for_end
from sim_backends.virtual.board import Board
from sim_backends.virtual.board_requests import BoardSpec
from sim_backends.virtual.kepco import Kepco, KepcoSpec
from sim_backends.virtual.prober import Prober, ProberSpec
from sim_backends.virtual.rack import INSTRUMENTS, RackStationSpec, rack_instruments
from sim_backends.virtual.sentio import Sentio
from sim_backends.wire.faults import Fault, FaultPlan
from sim_backends.wire.faulty_wire import Dialect, FaultyWire
from sim_backends.wire.tcp import InstrumentServer, Service, Wire

_VISA, _PYSERIAL = "TCPIP::{}::{}::SOCKET", "socket://{}:{}"


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
        Folder in which dies keep their state when the station ends; one station uses it at a time.
    log, truth
        Files for what physically happened and for the hidden truth. One station writes a log at a time; its clock is
        kept beside it (`physical_log.summary_path`).
    rack
        A source measure unit, a pulse generator and a switch matrix at the needles, in place of the board.
    magnet, magnet_port
        The supply of a magnet, if there is one.
    faults
        What shall go wrong (docs/simulation.md).
    """

    lot: str = "mtj"
    seed: Integer = Field(default=0, ge=0)
    dies: Integer | tuple[Integer, ...] | None = None
    host: str = "127.0.0.1"
    prober_port: Integer = Field(default=0, ge=0, le=65535)
    board_port: Integer = Field(default=0, ge=0, le=65535)
    realtime: bool = False
    state: Path | None = None
    log: Path | None = None
    truth: Path | None = None
    prober: ProberSpec = ProberSpec()
    board: BoardSpec = BoardSpec()
    rack: RackStationSpec | None = None
    magnet: KepcoSpec | None = None
    magnet_port: Integer = Field(default=0, ge=0, le=65535)
    timing: Timing = Timing()
    faults: tuple[Fault, ...] = ()

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
        raise StationError(f"{origin}: a station file is a mapping of entries, see docs/simulation.md")
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
        tree = read_yaml(path)
    except PlainYamlError as error:
        raise StationError(str(error)) from error
    return station_config(tree or {}, str(path), path.parent.resolve())


@dataclass(frozen=True)
class Served:
    """An instrument of a station: where it listens, how clients write that address (host, port), and over which wire
    it is reached (None: one without faults)."""

    name: str
    service: Service
    port: int
    resource: str
    wire: Wire | None = None


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
        self.config = config
        self._locks = [StateLock(config.state)] if config.state is not None else []
        if config.log is not None:
            self._locks.append(StateLock(config.log.parent, name=f".{config.log.name}"))
        self._servers: dict[str, InstrumentServer] = {}
        try:
            for lock in self._locks:
                lock.acquire()
            self._instruments = self._build()
            for served in self._instruments:
                self._servers[served.name] = self._server(served)
        except StateInUseError as error:
            raise StationError(str(error)) from error
        except BaseException:
            for server in self._servers.values():
                server.stop()
            self._unlock()
            raise

    def _build(self) -> list[Served]:
        """Put a wafer on the bench and instruments around it."""
        config = self.config
        lot = load_any_lot(config.lot)
        route = config.route(lot.wafer.dies)
        start = float(previous_summary(config.log)["station_time_s"]) if config.log else 0.0
        self.clock = StationClock(config.realtime, start)
        self.log = PhysicalLog(config.log, self.clock)
        self.bench = Bench(
            lot, config.seed, self.clock, self.log, state=config.state, truth=config.truth, truth_dies=route
        )
        _check_lines(config.faults, lot.topology.rows, lot.topology.columns)
        faults = {name: FaultPlan(name, config.faults, self.log) for name in ("prober", "board", *INSTRUMENTS)}
        self.prober = Prober(self.bench, config.prober, config.timing, route, faults["prober"])
        sentio = Sentio(self.prober)
        magnet = config.magnet
        return [
            Served("prober", sentio, config.prober_port, _VISA, _wire(sentio, faults["prober"])),
            *self._at_the_needles(faults),
            *([] if magnet is None else [Served("magnet", Kepco(self.log, magnet), config.magnet_port, _VISA)]),
        ]

    def _at_the_needles(self, faults: Mapping[str, FaultPlan]) -> list[Served]:
        """What drives the lines of the die: a rack if the file has one, else a board."""
        config = self.config
        if config.rack is None:
            board = Board(self.bench, config.board, config.timing, faults["board"])
            return [Served("board", board, config.board_port, _PYSERIAL, _wire(board, faults["board"]))]
        try:
            rack = rack_instruments(self.bench, config.rack)
        except ValueError as error:
            raise StationError(str(error)) from error
        return [
            Served(each.name, each.service, each.port, _VISA, _wire(each.service, faults[each.name])) for each in rack
        ]

    def _server(self, served: Served) -> InstrumentServer:
        return InstrumentServer(
            served.service,
            self.config.host,
            served.port,
            served.name,
            wire=served.wire,
            on_client=lambda connected: self.log.add("client", instrument=served.name, connected=connected),
        )

    @property
    def has_clients(self) -> bool:
        """Whether a client is connected to any instrument."""
        return any(server.has_client for server in self._servers.values())

    def start(self) -> None:
        """Begin to serve."""
        compile_ahead(self.bench.lot)
        self.log.add("start", lot=self.bench.lot.name, seed=self.config.seed, pid=os.getpid())
        for server in self._servers.values():
            server.start()

    def close(self) -> None:
        """Stop serving, then save dies, truth and log."""
        try:
            for server in self._servers.values():
                server.stop()
            self.log.add("end", **self.log.summary())
            self.bench.save()
        finally:
            self._unlock()

    def _unlock(self) -> None:
        for lock in self._locks:
            lock.release()

    def addresses(self) -> dict[str, Any]:
        """What a client needs: the address of each instrument by its name, what is plugged in where, and who serves."""
        resources: dict[str, Any] = {
            served.name: served.resource.format(*self._servers[served.name].address) for served in self._instruments
        }
        if self.config.rack is not None:
            topology = self.bench.lot.topology
            wiring = self.config.rack.wiring.for_die(topology.rows, topology.columns)
            resources["rack"] = wiring.model_dump(include={"rows", "die_rows", "die_columns", "series_resistance"})
        return {**resources, "pid": os.getpid(), "lot": self.bench.lot.name, "seed": self.config.seed}

    def __enter__(self) -> Station:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _wire(service: Dialect, plan: FaultPlan) -> Wire | None:
    return FaultyWire(service, plan) if plan else None


def _check_lines(faults: Sequence[Fault], rows: int, columns: int) -> None:
    """A fault of a line that the board does not have would never be noticed."""
    lines = {"stuck_channel": ("channels", max(rows, columns)), "stuck_relay": ("columns", columns)}
    for fault in faults:
        what, count = lines.get(fault.kind, ("", 0))
        if fault.kind in lines and fault.index is not None and fault.index >= count:
            raise StationError(f"faults: {fault.kind} with index {fault.index}; the board has {count} {what}")


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
        wait_for_end(forever=options.forever, in_use=lambda: station.has_clients)
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
    return StationConfig.model_validate({**config.model_dump(exclude_unset=True), **changes})


if __name__ == "__main__":
    sys.exit(main())
