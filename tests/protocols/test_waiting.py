"""A step that waits: it keeps the lease, shows how far it is, can be aborted, and costs a plan no time of the wall."""

from __future__ import annotations

import time

import numpy as np
import pytest

from analysis.record.record import Record
from instruments.roles.interfaces import LimitError
from protocols.bench import bench as benches
from protocols.bench.bench import Bench
from protocols.sequencer.stopping import RunAborted


class Lease:
    def __init__(self):
        self.renewed = 0

    def renew(self):
        self.renewed += 1

    def rest(self): ...


@pytest.fixture
def bench_of(tmp_path, monkeypatch):
    monkeypatch.setattr(benches, "LOOK_EVERY", 0.01)
    with Record.open(tmp_path) as record:
        run = record.begin_run("test", {})
        yield lambda **how: Bench(None, None, record, run, **how)  # a wait asks nothing of the station


def test_a_wait_is_as_long_as_it_says_renews_the_lease_and_is_shown(bench_of):
    lease, shown = Lease(), []
    bench = bench_of(lease=lease, report=lambda text, share: shown.append((text, share)))
    began = time.monotonic()
    bench.wait(0.05)
    assert time.monotonic() - began >= 0.05 and lease.renewed >= 3
    assert shown[0][0] == "waiting for 0.05 s" and [share for _, share in shown] == sorted(share for _, share in shown)
    assert shown[-1][1] == 1.0 and bench.waited == pytest.approx(0.05)


def test_an_abort_ends_it(bench_of):
    def report(text, share):
        raise RunAborted("aborted by xbar abort")

    with pytest.raises(RunAborted):
        bench_of(report=report).wait(1000)


@pytest.mark.parametrize("seconds", [-1, -1e-9, np.nan, np.inf, 1e9, "10 s", None, True, [1]])
def test_what_is_no_time_to_wait_is_refused(bench_of, seconds):
    bench = bench_of(let_pass=lambda seconds: pytest.fail("waited"))
    with pytest.raises(LimitError, match="wait"):
        bench.wait(seconds)


def test_a_plan_counts_it_and_goes_on(bench_of):
    passed = []
    bench_of(let_pass=passed.append).wait(np.float32(3600))
    assert passed == [3600.0]


def test_what_the_clock_of_the_station_has_counted_is_not_counted_twice(bench_of):
    now = [100.0]
    for counted in (0.0, 4.0, 20.0):
        bench = bench_of(let_pass=lambda seconds, by=counted: now.__setitem__(0, now[0] + by), clock=lambda: now[0])
        bench.wait(10)
        assert bench.waited == max(0.0, 10 - counted)
