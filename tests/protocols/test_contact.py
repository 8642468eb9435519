"""Contact at dies that conduct nowhere because they were never formed, and at needles that do not touch."""

from __future__ import annotations

import numpy as np
import pytest
from virgin import virgin_station

from analysis.record.record import Record
from instruments.station import load_station
from mapping.writing.forming import Forming
from protocols.bench.bench import Bench, Die
from protocols.bench.contact import CONDUCTION, ContactCheck, ContactRule, leakage
from protocols.steps.characterise import check_contact
from protocols.steps.forming import form

SOME = Forming(start=3.5, step=0.05, cap=4.4, confirmations=3)


@pytest.fixture
def home(tmp_path):
    """Makes a bench at a station of dies that leak so much, and a list of what its prober does."""
    import contextlib

    with contextlib.ExitStack() as stack:

        def opened(leak: float):
            file, simulated = stack.enter_context(virgin_station(tmp_path, leak=leak))
            station = stack.enter_context(load_station(file))
            record = stack.enter_context(Record.open(tmp_path / "lot"))
            bench = Bench(station.prober, station.array, record, record.begin_run("test", {}))
            stack.callback(bench.leave)
            heights: list[float] = []
            lower = station.prober.contact
            station.prober.contact = lambda overtravel=0.0: (heights.append(overtravel), lower(overtravel))
            station.prober.overtravel_max = lambda: 20e-6
            site = station.prober.die_sites()[0]
            return bench, Die(str(site), site, 0), heights, simulated

        yield opened


def test_a_die_that_was_never_formed_is_not_pressed_deeper(home):
    bench, die, heights, _ = home(100e-9)
    bench.enter(die)
    check = bench.contact_check
    assert heights == [0.0, 0.0] and not check.passed and check.never_formed
    assert 50e-9 < check.leakage < 200e-9
    said = check_contact(bench, die)
    assert said.attrs["verdict"] == "fail" and "never formed" in said.attrs["reason"]


def test_its_leakage_is_contact_for_forming_and_it_is_formed(home):
    bench, die, heights, simulated = home(100e-9)
    bench.contact = ContactRule("leakage")
    bench.enter(die)
    assert heights == [0.0] and bench.contact_check.passed and bench.contact_check.conducting < 0.2
    cells = np.zeros((1, 8, 8), bool)
    cells[0, 2, 1:4] = True
    found = form(bench, die, settings=SOME, cells=cells)
    formed = found["outcome"].values[cells] == 1
    assert formed.sum() >= 2 and (found["pulses"].values[cells][formed] >= 1).all()
    assert (found["g"].values[cells][formed] > 1 / SOME.r_formed).all()
    bench.check_contact()
    really = simulated.bench.die(0).devices
    assert int(really.works_as_made.sum() - really.virgin.sum()) >= formed.sum()
    said = check_contact(bench, die, by="leakage").attrs
    assert said["verdict"] == "pass" and "never formed" in said["contact"]


def test_needles_in_the_air_do_not_leak_and_are_not_pressed_where_dies_may_be_virgin(home):
    bench, die, heights, simulated = home(100e-9)
    bench.contact = ContactRule("leakage")
    simulated.bench.touch = lambda: setattr(simulated.bench, "_contact", True)  # at contact height, and not touching
    bench.enter(die)
    assert heights == [0.0] * 3 and not bench.contact_check.passed
    assert "say trusted" in bench.contact_check.advice


def test_what_leaks_too_little_to_be_seen_needs_a_word_of_the_user(home):
    bench, die, heights, _ = home(1e-12)
    bench.contact = ContactRule("leakage")
    bench.enter(die)
    assert not bench.contact_check.passed and set(heights) == {0.0}
    bench.contact = ContactRule("trusted")
    bench.enter(die)  # looks anew: it is another question
    said = check_contact(bench, die, by="trusted").attrs
    assert said["verdict"] == "pass" and said["contact"] == "the user's word"


def test_a_test_structure_is_looked_at_alone(home):
    bench, die, _, simulated = home(100e-9)
    short = simulated.bench.die(0).devices
    short._resistor[7, 7] = 10e-3
    short.virgin[7, 7] = False
    bench.contact = ContactRule.parse("cells 7,7", 8, 8)
    bench.enter(die)
    assert bench.contact_check.passed and bench.contact_check.conducting == 1.0


@pytest.mark.slow
def test_a_die_that_was_never_formed_is_formed_from_the_command_line(xbar, tmp_path):
    asked = ("--cells", "2,1 2,2", "--v-step", "50mV", "--v-cap", "4.4V", "--dies", 1, "--out", tmp_path / "lot")
    with virgin_station(tmp_path) as (file, simulated):
        refused = xbar("run", "forming", "--station", file, "--contact", "hope", *asked)
        assert refused.status != 0 and "trusted" in " ".join(refused.said.split())
        done = xbar("run", "forming", "--station", file, *asked)
        assert done.status == 0, done.said
        devices = simulated.bench.die(0).devices
        assert (~devices.virgin & devices.works_as_made)[2, 1:3].all()
    with Record.open(tmp_path / "lot", create=False, write=False) as record:
        ((looked,),) = record.results("forming", "check-contact").values()
        assert looked.attrs["verdict"] == "pass" and "never formed" in looked.attrs["contact"]
        ((found,),) = record.results("forming", "form").values()
        assert found.attrs["formed"] == 2 and found.attrs["pulses"] >= 2


def test_rules_are_read_from_words():
    assert (
        ContactRule.parse("leakage", 8, 8) == ContactRule("leakage")
        and ContactRule.parse("conduction", 8, 8) == CONDUCTION
    )
    for wrong in ("", "leak", "cells", "cells 9,9", "trusted 0,0", "Leakage please"):
        with pytest.raises(ValueError):
            ContactRule.parse(wrong, 8, 8)


def test_leakage_must_stand_out_of_the_noise():
    rng = np.random.default_rng(0)
    noise = lambda: rng.normal(0, 1e-8, 64)  # noqa: E731
    assert not any(leakage(noise(), noise())[1] for _ in range(300))
    assert leakage(noise() + 1e-7, noise())[1] and leakage(np.full(64, np.inf), noise())[1]
    some = np.where(np.arange(64) < 20, 3e-4, 1e-7)
    assert leakage(noise() + some, noise())[1], "cells that are formed already hide nothing"
    assert not leakage(np.zeros(64), np.zeros(64))[1] and not leakage(np.ones(1), np.zeros(1))[1]


def test_a_plain_check_passes_by_conducting_cells():
    assert ContactCheck(0.5, 1).passed and not ContactCheck(0.49, 1).passed
