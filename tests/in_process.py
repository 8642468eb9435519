"""Simulated stations that serve from threads of the test's process: the same station behind the same sockets.

An interpreter of its own costs a station some two seconds of processor time. Tests whose subject is what becomes of
processes start it as one (`sim_backends.station_process`); all others take these.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from protocols.sequencer import open_station
from sim_backends.array.dies.lot import is_lot_file
from sim_backends.bench.physical_log import summary_path
from sim_backends.station import Station, StationConfig, load_station, station_config

#: `protocols.sequencer.open_station.simulated_station`, in this process.
simulated_station: Callable[..., AbstractContextManager[Path]] = partial(
    open_station.simulated_station, in_process=True
)


@dataclass(frozen=True)
class StationHere:
    """The addresses of a station, as `StationProcess` gives them."""

    addresses: dict[str, Any]

    @property
    def prober(self) -> str:
        return self.addresses["prober"]

    @property
    def board(self) -> str:
        return self.addresses.get("board", "")


@contextmanager
def serve_here(config: Mapping[str, Any]) -> Iterator[StationHere]:
    """A station of such a configuration while the test is in this context; saved at the end."""
    with Station(station_config(dict(config), "test", Path.cwd())) as station:
        yield StationHere(station.addresses())


@contextmanager
def sim_here(station: str | Path, *, write: Path, **given: Any) -> Iterator[Path]:
    """What `xbar sim STATION --write FILE` serves, of a station file, or a lot by name or file; gives that file."""
    of_station = Path(station).is_file() and not is_lot_file(Path(station))
    config = load_station(Path(station)) if of_station else StationConfig(lot=str(station))
    config = StationConfig.model_validate(config.model_dump(exclude_unset=True) | given)
    with Station(config) as serving:
        clock = summary_path(config.log) if config.log else None
        open_station.write_simulated_station(write, serving.addresses(), clock)
        yield write


def stations_here() -> AbstractContextManager[Any]:
    """In this context a run without a station file starts its simulated one in this process."""
    return mock.patch.object(open_station, "simulated_station", simulated_station)
