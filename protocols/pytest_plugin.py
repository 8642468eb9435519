"""Fixtures for tests against a simulated station: `lot`, `station`, `record`, `bench`, `die`.

Installed with the package, so that a test of a protocol or driver needs no more than::

    def test_my_step(bench, die):
        result = my_step(bench, die, v_read=0.1)

Override `lot` to choose another lot file, seed or number of dies. Everything runs over loopback sockets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from analysis.record.record import Record
    from instruments.station import Station
    from protocols.bench.bench import Bench, Die


@dataclass(frozen=True)
class LotChoice:
    """Which lot the simulated station of a test holds: a name or lot file, and its seed."""

    name: str = "mtj"
    seed: int = 0


@pytest.fixture
def lot() -> LotChoice:
    """The lot of the simulated station; override to choose another."""
    return LotChoice()


@pytest.fixture
def station_file(lot: LotChoice, tmp_path: Path) -> Iterator[Path]:
    """Station file of a simulated station that serves from threads of this process while the test runs."""
    from protocols.sequencer.open_station import simulated_station

    with simulated_station(lot.name, lot.seed, tmp_path / "station", in_process=True) as path:
        yield path


@pytest.fixture
def station(station_file: Path) -> Iterator[Station]:
    """The station, connected: `station.prober`, `station.array`."""
    from instruments.station import load_station

    with load_station(station_file) as loaded:
        yield loaded


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    """An empty record in a folder of the test."""
    from analysis.record.record import Record

    with Record.open(tmp_path / "lot") as opened:
        yield opened


@pytest.fixture
def bench(station: Station, record: Record) -> Iterator[Bench]:
    """A bench over the station, its pulses kept in `record`; left safely at the end."""
    from protocols.bench.bench import Bench

    opened = Bench(station.prober, station.array, record, record.begin_run("test", {}))
    yield opened
    opened.leave()


@pytest.fixture
def die(bench: Bench) -> Die:
    """The first die of the route, in contact."""
    from protocols.bench.bench import Die

    site = bench.prober.die_sites()[0]
    first = Die(str(site), site, 0)
    bench.enter(first)
    return first
