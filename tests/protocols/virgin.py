"""A simulated station in this process whose passive dies were never formed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

import sim_backends
from instruments.station import write_served_station
from sim_backends.station import Station, station_config


def virgin_lot(folder: Path, **virgin: Any) -> Path:
    """A lot file like that of the 8 x 8 dies, never formed."""
    tree = yaml.safe_load((Path(sim_backends.__file__).parent / "lots" / "tio2-8x8.yaml").read_text(encoding="utf-8"))
    path = folder / "virgin.yaml"
    path.write_text(yaml.safe_dump(tree | {"name": "virgin", "virgin": virgin}), encoding="utf-8")
    return path


@contextmanager
def virgin_station(folder: Path, seed: int = 2, **virgin: Any) -> Iterator[tuple[Path, Station]]:
    """Its station file, and the station itself; the board can fire what forming needs."""
    tree = {"lot": str(virgin_lot(folder, **virgin)), "seed": seed, "dies": 2}
    tree["board"] = {"readout": {"v_max": "4.4 V", "v_min": "-2.5 V"}}
    station = Station(station_config(tree, "test", folder))
    station.start()
    try:
        yield write_served_station(folder / "station.yaml", station.addresses()), station
    finally:
        station.close()
