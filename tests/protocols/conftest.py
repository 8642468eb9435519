"""The `xbar` command as a test calls it, and a simulated station whose log tells whether anything moved."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from in_process import simulated_station, stations_here

from instruments.board_protocol.frames import Opcode
from instruments.board_protocol.link import BoardLink
from instruments.wire.sessions import open_port


@dataclass(frozen=True)
class Finished:
    """How a command ended: exit status and everything it said."""

    status: int
    said: str


@pytest.fixture
def xbar(monkeypatch, capsys):
    """Runs a command in this process, through the entry point that the installed command has."""
    from protocols.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["xbar", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            with stations_here():
                main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        output = capsys.readouterr()
        return Finished(status, output.out + output.err)

    return run


class Served:
    """A simulated station: the station file for clients, and what physically happened since it was last asked."""

    def __init__(self, file: Path, log: Path) -> None:
        self.file, self.log, self._seen = file, log, 0
        self._board = yaml.safe_load(file.read_text(encoding="utf-8"))["instruments"]["array"]["address"]
        self.new_actions()

    def new_actions(self) -> list[dict]:
        """Moves, contacts, pulses, reads and products since the last call."""
        board = BoardLink(open_port(self._board))
        board.stop(patience=1.0)  # brings the log to its file
        board.ask(Opcode.RESET)
        board.port.close()
        entries = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        new, self._seen = entries[self._seen :], len(entries)
        return [entry for entry in new if entry["what"] in ("move", "contact", "pulse", "read", "multiply")]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A station that the tests of a module share."""
    folder = tmp_path_factory.mktemp("served")
    with simulated_station("mtj", 0, folder) as file:
        yield Served(file, folder / "station" / "physical.jsonl")


@pytest.fixture(scope="module")
def bench(served, tmp_path_factory):
    """A bench over the station of the module, its pulses kept in a record of its own; left safely at the end."""
    from analysis.record.record import Record
    from instruments.station import load_station
    from protocols.bench.bench import Bench

    with Record.open(tmp_path_factory.mktemp("lot")) as record, load_station(served.file) as station:
        bench = Bench(station.prober, station.array, record, record.begin_run("test", {}))
        yield bench
        bench.leave()


@pytest.fixture(scope="module")
def die(bench):
    """The first die of the route, in contact."""
    from protocols.bench.bench import Die

    site = bench.prober.die_sites()[0]
    first = Die(str(site), site, 0)
    bench.enter(first)
    return first
