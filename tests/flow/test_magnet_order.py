"""A magnet in the station: its field goes down after the needles are off, whichever way a die is left."""

import numpy as np
import pytest
import yaml
from command_line import wait_for
from happened import happened, of_kind
from in_process import serve_here

from analysis.record.record import Record
from instruments.station import load_station, write_station
from protocols.bench.bench import Bench, Die


@pytest.fixture
def station(tmp_path):
    """A station with a magnet, and its physical log."""
    log = tmp_path / "physical.jsonl"
    with serve_here({"lot": "mtj", "seed": 0, "log": log, "magnet": {}}) as served:
        file = write_station(tmp_path / "station.yaml", served.prober, served.board)
        content = yaml.safe_load(file.read_text())
        magnet = {"type": "instruments.drivers.kepco.KepcoMagnet", "address": served.addresses["magnet"]}
        content["instruments"]["magnet"] = magnet | {"init": {"tesla_per_ampere": 0.1, "current_limit": "2 A"}}
        file.write_text(yaml.safe_dump(content))
        with load_station(file) as loaded:
            yield loaded, log


@pytest.mark.parametrize("way", ["leave", "abort"])
def test_the_field_goes_down_after_the_needles_are_off(station, tmp_path, way):
    loaded, log = station
    with Record.open(tmp_path / "lot") as record:
        bench = Bench(loaded.prober, loaded.array, record, record.begin_run("test", {}), field=loaded.parts().field)
        site = loaded.prober.die_sites()[0]
        bench.enter(Die(str(site), site, 0))
        loaded.parts().field.set_field(0.05)
        wait_for(loaded.parts().field.settled)
        getattr(bench, way)()
    assert loaded.parts().field.field() == pytest.approx(0.0, abs=1e-3)
    entries = happened(log)
    assert not of_kind(entries, "coil_kick")
    separated = entries.index(of_kind(entries, "separation")[-1])
    lowered = [i for i, entry in enumerate(entries) if entry["what"] == "magnet" and i > separated]
    assert lowered and np.all(np.array(lowered) > separated)
    assert of_kind(entries, "separation")[-1]["outputs"] == "hard_ground"
