"""Forming ramps: they end at the first steady low resistance, or at the cap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.writing.converge import Outcome
from mapping.writing.forming import Forming, FormingRamps

SHORT = Forming(start=3.5, step=0.5, cap=5.0, confirmations=3)


def follow(ohms, how=SHORT):
    ramp = FormingRamps(how, 1)
    return [float(ramp.next(np.array([1 / r]))[0]) for r in ohms], ramp


def test_ramp_and_confirmations_in_a_row():
    amplitudes, ramp = follow([1e6, 1e6, 19e3, 19e3, 21e3, 18e3, 18e3, 18e3])
    assert amplitudes == [3.5, 4.0, 0, 0, 4.5, 0, 0, 0]
    assert ramp.outcome[0] == Outcome.REACHED and ramp.last[0] == 4.5 and ramp.pulses[0] == 3


def test_the_cap_ends_it():
    amplitudes, ramp = follow([1e6] * 6)
    assert amplitudes == [3.5, 4.0, 4.5, 5.0, 0, 0] and ramp.outcome[0] == Outcome.CAP


def test_a_short_is_no_formed_device():
    ramp = FormingRamps(SHORT, 1)
    assert ramp.next(np.array([np.inf]))[0] == 0 and ramp.outcome[0] == Outcome.UNREADABLE


def test_the_laboratory_settings():
    """3.5 V, +10 mV a pulse, up to 10 V, until 20 kOhm are seen ten times."""
    how = Forming()
    amplitudes, ramp = follow([1e6] * 700, how)
    fired = np.array([v for v in amplitudes if v])
    np.testing.assert_allclose(fired, 3.5 + 0.01 * np.arange(651))
    assert ramp.outcome[0] == Outcome.CAP
    amplitudes, ramp = follow([1e6] + [20e3] * 10, how)
    assert amplitudes == [3.5] + [0] * 10 and ramp.outcome[0] == Outcome.REACHED


@given(st.lists(st.floats(1e-9, 1e-2) | st.just(np.inf) | st.just(np.nan), max_size=80))
@settings(deadline=None)
def test_no_reading_leads_beyond_the_cap_or_pulses_a_formed_device(reads):
    ramp = FormingRamps(SHORT, 1)
    for g in reads:
        amplitude = ramp.next(np.array([g]))[0]
        assert amplitude <= SHORT.cap
        assert not (amplitude and g * SHORT.r_formed >= 1)


@pytest.mark.parametrize("wrong", [{"start": 11.0}, {"step": 0.0}, {"confirmations": 0}, {"i_max": -1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"start must be|confirmations|i_max"):
        replace(Forming(), **wrong)
