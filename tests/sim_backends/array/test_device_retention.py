"""Retention against its closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_backends.array.devices.retention import Retention, RetentionStatistics

TIMES = st.floats(0, 1e9)


def devices(shape=(4, 8, 8), seed=1):
    return Retention.draw(RetentionStatistics(), shape, np.random.default_rng(seed))


def test_the_slope_in_double_logarithm_is_the_exponent():
    retention = devices()
    times = np.geomspace(1e-2, 1e8, 11)
    g = np.array([retention.fallen(np.full(retention.nu.shape, 3e-4), 0.0, time) for time in times])
    slope = np.polyfit(np.log(times), np.log(g).reshape(11, -1), 1)[0]
    np.testing.assert_allclose(-slope, retention.nu.ravel(), rtol=1e-9)


def test_a_decade_takes_the_same_share_wherever_it_lies():
    retention = Retention(nu=np.array([[0.01, 0.1]]), t0=1e-3)
    for start in (1e-3, 1.0, 1e6):
        fallen = retention.fallen(np.full((1, 2), 5e-4), start, 10 * start)
        np.testing.assert_allclose(fallen, 5e-4 * np.array([[10**-0.01, 10**-0.1]]), rtol=1e-12)


@given(TIMES, TIMES, TIMES)
def test_two_waits_are_one(a, b, c):
    first, second, third = sorted((a, b, c))
    retention, g = devices((2, 3)), np.full((2, 3), 4e-4)
    in_two = retention.fallen(retention.fallen(g, first, second), second, third)
    np.testing.assert_allclose(in_two, retention.fallen(g, first, third), rtol=1e-12)


def test_nothing_falls_before_the_verifying_read():
    retention, g = devices(), np.full((8, 8), 4e-4)
    np.testing.assert_array_equal(retention.fallen(g, 0.0, retention.t0), np.broadcast_to(g, (4, 8, 8)))
    assert (retention.fallen(g, 0.0, 2 * retention.t0) < g).all()


def test_every_device_has_its_own_time():
    retention = Retention(nu=np.full((2, 2), 0.02), t0=1.0)
    since, until = np.array([[0.0, 1.0], [2.0, 5.0]]), np.array([[1.0, 10.0], [4.0, 50.0]])
    expected = [[1, 10**-0.02], [2**-0.02, 10**-0.02]]
    np.testing.assert_allclose(retention.fallen(np.ones((2, 2)), since, until), expected, rtol=1e-12)


def test_exponents_are_log_normal():
    nu = devices((200, 500), seed=2).nu
    assert np.median(nu) == pytest.approx(0.003, rel=0.01)
    assert np.log(nu).std() == pytest.approx(0.5, rel=0.01)


def test_what_is_assumed_is_said():
    assert set(devices().assumed) == {"retention", "nu", "t0"}


def test_nonsense_is_refused():
    retention = devices()
    for since, until in ((-1.0, 2.0), (2.0, 1.0), (0.0, np.nan)):
        with pytest.raises(ValueError, match="later one"):
            retention.fallen(np.full((8, 8), 1e-4), since, until)
    with pytest.raises(ValueError, match="t0 above 0"):
        RetentionStatistics(t0=0.0)
