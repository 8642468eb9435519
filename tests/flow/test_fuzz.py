"""Nothing that is sent ends a stand-in, and no reply makes a driver stumble: the benchmarks of that, in short.

`benchmarks/fuzz_standins.py` sends 2 million random bytes and 100,000 odd lines to every stand-in,
`benchmarks/damaged_replies.py` makes 270,000 calls.
"""

import logging
import random
from unittest.mock import patch

import pytest
from damaged_replies import DRIVERS, SHARE, DamagingBroker, services, trial
from fuzz_standins import dialects, fuzz, over_sockets, stations

from instruments.wire.sessions import through
from sim_backends.station import Station

SEED = 12


@pytest.fixture(scope="module")
def served():
    found = [Station(config) for config in stations()]
    for station in found:
        station.bench.move_to(0)
        station.bench.touch()
    yield found
    for station in found:
        station.close()


@pytest.mark.parametrize("at", [0, 1], ids=["board", "rack"])
def test_stand_ins_answer_after_whatever_was_sent(served, at, caplog):
    for name, (service, how) in dialects(served[at]).items():
        outcome = fuzz(service, how, random.Random(f"{SEED} {name}"), 30_000, 300)
        assert (outcome.answered, outcome.raised) == (outcome.asked, 0), f"{name}: {outcome.first}"
        assert outcome.longest < 10
    assert "not foreseen" not in caplog.text


def test_and_over_sockets():
    with Station(stations()[1]) as station:
        told = over_sockets(station, random.Random(SEED), 20_000, 20)
    assert set(told.values()) == {True}, told


@pytest.mark.filterwarnings("ignore:Integration time")
@pytest.mark.parametrize("name", DRIVERS)
def test_drivers_raise_errors_of_ours_alone(name, monkeypatch):
    logging.disable(logging.CRITICAL)
    rng = random.Random(f"{SEED} {name}")
    broker = DamagingBroker(services(), rng, SHARE)
    try:
        with through(broker), patch("time.sleep", lambda seconds: None):
            told, first = trial(name, broker, rng, 300)
    finally:
        logging.disable(logging.NOTSET)
    assert told["FOREIGN"] == 0, first
    assert told["error of ours"] and told["damaged"] > 20 and told["right or harmless"] > 100
