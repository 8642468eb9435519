"""Forming over the wire: its limits, and a ramp on a die whose cells are called formed at a lower resistance."""

from __future__ import annotations

import numpy as np
import pytest
from in_process import simulated_station

from analysis.record.record import Record
from instruments.roles.interfaces import LimitError
from instruments.station import load_station
from mapping.writing.converge import Outcome
from mapping.writing.forming import Forming
from mapping.writing.touch_up import SchemeError
from protocols.bench.bench import Bench, Die
from protocols.steps.forming import form

#: Cells of the simulated lot are formed: here one counts as formed at 3.3 kOhm, which SET pulses bring about.
LOW = Forming(start=1.2, step=0.01, cap=1.6, r_formed=3.3e3, confirmations=3, width=1.04e-6)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forming")
    with (
        simulated_station("tio2-8x8", 2, folder) as file,
        load_station(file) as station,
        Record.open(folder / "lot") as record,
    ):
        bench = Bench(station.prober, station.array, record, record.begin_run("test", {}))
        bench.record = record
        yield bench
        bench.leave()


@pytest.fixture(scope="module")
def die(bench):
    site = bench.prober.die_sites()[0]
    first = Die(str(site), site, 0)
    bench.enter(first)
    return first


def test_what_the_tester_cannot_do_is_refused_before_any_pulse(bench, die):
    v_max = bench.array.capabilities().v_max
    for change, said in (
        ({}, rf"forming up to cap 10 V: this station fires {v_max:g} V at most"),
        ({"start": 1.0, "cap": 1.5, "width": 1.0}, "width of 1 s"),
        ({"start": 1.0, "cap": 1.5, "i_max": 1e-3}, "does not say what current"),
    ):
        with pytest.raises(LimitError, match=said):
            form(bench, die, settings=Forming(**change))
    with pytest.raises(SchemeError, match="does not write"):
        form(bench, die, settings=LOW, scheme="floating")
    assert not bench.array.dose().any()


def test_a_ramp_ends_when_the_resistance_is_low_and_stays_so(bench, die):
    cells = np.zeros((1, 8, 8), bool)
    cells[0, 2:4, :4] = True
    found = form(bench, die, settings=LOW, cells=cells)
    outcome, pulses, last = (found[name].values for name in ("outcome", "pulses", "amplitude"))
    assert not outcome[~cells].any() and not pulses[~cells].any()
    formed = outcome == Outcome.REACHED
    assert formed.sum() == found.attrs["formed"] >= 6
    assert (found["g"].values[formed] >= 1 / LOW.r_formed).all()
    np.testing.assert_allclose(last[pulses > 0], LOW.start + LOW.step * (pulses[pulses > 0] - 1), atol=2e-3)
    assert np.nanmax(last) <= LOW.cap
    assert np.array_equal(bench.array.dose(), pulses)
    assert found.attrs["verdict"] == ("pass" if formed.sum() == 8 else "fail")
    again = form(bench, die, settings=LOW, cells=formed)
    assert again.attrs["pulses"] <= 8  # half of the pulses at neighbours may have taken one back
