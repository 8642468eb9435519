"""Telegraph noise against the closed forms of the two-state Markov process."""

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import kstest

from sim_backends.array.devices.telegraph import Telegraph, TelegraphStatistics

TAU_UP, TAU_DOWN = 3.0, 1.0
OCCUPATION, TAU = 0.75, 0.75


def alike(count, up, step=0.01):
    """Many devices with the same trap."""
    full = np.full(count, 1.0)
    return Telegraph(step * full, TAU_UP * full, TAU_DOWN * full, np.full(count, up))


def generator_step(time):
    """Transition probabilities ``[from, to]`` (down, up) by the matrix exponential of the rates."""
    return expm(time * np.array([[-1 / TAU_DOWN, 1 / TAU_DOWN], [1 / TAU_UP, -1 / TAU_UP]]))


@pytest.mark.parametrize("time", [1e-3, 0.2, 1.0, 30.0])
@pytest.mark.parametrize("start", [False, True])
def test_transition_probabilities(time, start):
    count = 200_000
    devices = alike(count, start)
    devices.advance(time, np.random.default_rng(1))
    wanted = generator_step(time)[int(start), 1]
    assert devices.up.mean() == pytest.approx(wanted, abs=4 * np.sqrt(wanted * (1 - wanted) / count) + 1e-6)


def test_many_small_steps_are_one_large_step():
    rng, count = np.random.default_rng(2), 100_000
    in_one, in_many = alike(count, False), alike(count, False)
    in_one.advance(0.8, rng)
    for _ in range(16):
        in_many.advance(0.05, rng)
    assert in_one.up.mean() == pytest.approx(generator_step(0.8)[0, 1], abs=0.006)
    assert in_many.up.mean() == pytest.approx(generator_step(0.8)[0, 1], abs=0.006)


def test_autocorrelation_decays_with_the_correlation_time():
    rng, count = np.random.default_rng(3), 200_000
    devices = alike(count, False)
    devices.up[...] = rng.random(count) < OCCUPATION
    np.testing.assert_allclose(devices.tau, TAU)
    start, step = devices.factor, 0.25
    for number in range(1, 9):
        devices.advance(step, rng)
        correlation = np.corrcoef(start, devices.factor)[0, 1]
        assert correlation == pytest.approx(np.exp(-number * step / TAU), abs=0.01)
    assert devices.up.mean() == pytest.approx(OCCUPATION, abs=0.005)


def test_dwell_times_are_exponential():
    rng, step = np.random.default_rng(4), 0.01
    devices = alike(4000, True)
    dwelt = np.zeros(4000)
    alive = devices.up.copy()
    for _ in range(300):
        devices.advance(step, rng)
        alive &= devices.up
        dwelt[alive] += step
    finished = dwelt[~alive] + step * rng.random(np.count_nonzero(~alive))
    limit = 300 * step
    # of dwell times below the end of the watch; a trap that closes and opens within a step goes unseen, 0.5 % here
    assert kstest(finished, lambda t: -np.expm1(-t / TAU_UP) / -np.expm1(-limit / TAU_UP)).pvalue > 0.01
    assert alive.mean() == pytest.approx(np.exp(-limit / TAU_UP), abs=0.03)


def test_the_two_levels():
    devices = alike(3, True, step=0.004)
    devices.up[1] = False
    assert devices.factor[0] - devices.factor[1] == pytest.approx(0.004, rel=1e-9)
    mean = OCCUPATION * devices.factor[0] + (1 - OCCUPATION) * devices.factor[1]
    assert mean == pytest.approx(1, rel=1e-12)


def test_no_time_changes_nothing_and_long_times_forget():
    rng = np.random.default_rng(5)
    devices = Telegraph.draw(TelegraphStatistics(), (50, 40, 40), rng)
    before = devices.up.copy()
    devices.advance(0.0, rng)
    np.testing.assert_array_equal(devices.up, before)
    devices.up[...] = True
    devices.advance(1e6, rng)
    assert devices.up.mean() == pytest.approx(devices.occupation.mean(), abs=0.005)


def test_every_device_has_its_own_time():
    rng = np.random.default_rng(6)
    devices = alike((1000, 2), True)
    devices.advance(np.array([0.0, 100.0]), rng)
    assert devices.up[:, 0].all()
    assert devices.up[:, 1].mean() == pytest.approx(OCCUPATION, abs=0.06)


def test_drawn_devices_are_in_equilibrium_and_log_uniform():
    statistics = TelegraphStatistics()
    devices = Telegraph.draw(statistics, (100, 30, 30), np.random.default_rng(7))
    assert devices.up.mean() == pytest.approx(devices.occupation.mean(), abs=0.005)
    for values, low, high in (
        (devices.step, statistics.step_min, statistics.step_max),
        (devices.tau_up, statistics.dwell_min, statistics.dwell_max),
        (devices.tau_down, statistics.dwell_min, statistics.dwell_max),
    ):
        assert kstest(np.log(values.ravel()), "uniform", (np.log(low), np.log(high / low))).pvalue > 0.01
    assert len(devices.assumed) == 3


def test_nonsense_is_refused():
    devices = alike(3, True)
    for time in (-1.0, np.nan):
        with pytest.raises(ValueError, match="runs forward"):
            devices.advance(time, np.random.default_rng(8))
    with pytest.raises(ValueError):
        devices.advance(np.ones((2, 3)), np.random.default_rng(8))  # would make six devices of three
    with pytest.raises(ValueError, match="step_min"):
        TelegraphStatistics(step_min=0.0)
