"""Instruments of a vendor's package: the same results whether this process holds them, a broker, or a recording."""

import threading
import time

import numpy as np
import pytest

from instruments.broker.client import Broker
from instruments.roles.interfaces import InstrumentError, LinkError
from instruments.wire.sessions import open_library, through

METER = "vendor_package:Meter"


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    home = tmp_path_factory.mktemp("library")
    with Broker(home / "station.yaml") as running:
        yield running


@pytest.fixture(params=["direct", "brokered"])
def held(request):
    if request.param == "direct":
        yield
    else:
        with through(request.getfixturevalue("broker")):
            yield


@pytest.fixture
def meter(held):
    session = open_library(METER, timeout=5.0, gain=0.5)
    yield session
    session.close()


def test_arrays_go_in_and_come_out_as_they_are(meter):
    values = np.arange(12, dtype="<f4").reshape(3, 4)[:, ::2]
    answer = meter.call("add", values, twice=True)
    assert answer["scaled"].dtype == np.float32 and np.array_equal(answer["scaled"], 0.5 * values)
    assert answer["raw"] == values.tobytes() and answer["shape"] == [3, 2]
    assert meter.call("add", [0.1, np.float64(0.2), np.inf])["total"] == np.inf


def test_the_object_keeps_its_state_until_it_is_opened_again(meter):
    assert [meter.call("add", [1])["total"] for _ in range(3)] == [1, 2, 3]
    meter.reopen()
    assert meter.call("add", [1])["total"] == 1
    assert meter.call("nothing") is None


def test_what_a_method_raises_is_said_and_harms_nothing(meter):
    with pytest.raises(InstrumentError, match="fail: ValueError: out of range"):
        meter.call("fail", "out of range")
    with pytest.raises(InstrumentError, match="no_such_method"):
        meter.call("no_such_method")
    for method in ("unsendable", "not_a_method_of_numbers"):
        with pytest.raises(InstrumentError, match="cannot be carried"):
            meter.call(method)
    with pytest.raises(TypeError, match="keys"):
        meter.call("add", {1: 2})
    with pytest.raises(TypeError, match="set cannot be carried"):
        meter.call("add", {1, 2})
    assert meter.call("nothing") is None


def test_a_late_result_is_never_another_calls(meter):
    for number in range(3):
        with pytest.raises(LinkError, match="in time"):
            meter.call("late", 0.2, f"late {number}", timeout=0.05)
        with pytest.raises(LinkError, match="opened again"):
            meter.call("nothing")
        meter.reopen()
        assert meter.call("late", 0.0, number) == number


def test_somebody_who_waits_can_be_cut_off(meter):
    outcome = []

    def wait():
        try:
            outcome.append(meter.call("late", 3.0, "never"))
        except LinkError as error:
            outcome.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    began = time.monotonic()
    meter.close()
    waiting.join()
    assert time.monotonic() - began < 1.5 and isinstance(outcome[0], LinkError)


def test_a_missing_package_is_named(held):
    with pytest.raises(LinkError, match="package no_such_vendor is not installed") as error:
        open_library("no_such_vendor.meters:Meter")
    assert "xbar sim" not in str(error.value)
    with pytest.raises(LinkError, match="has no attribute 'Metre'"):
        open_library("vendor_package:Metre")
    with pytest.raises(LinkError, match="no meter on the bus"):
        open_library(METER, missing=True)


def converse():
    meter = open_library(METER, timeout=5.0, gain=2.0)
    said = [meter.call("add", np.arange(5.0))["scaled"].tolist(), meter.call("add", [1])["total"]]
    for method, arguments, timeout in (("fail", ["dark"], None), ("late", [0.2, 1], 0.05)):
        try:
            meter.call(method, *arguments, timeout=timeout)
        except InstrumentError as error:
            said.append(f"{type(error).__name__}: {error}")
    meter.reopen()
    said.append(meter.call("nothing"))
    meter.close()
    return said


def test_a_recording_answers_in_its_place(tmp_path):
    with Broker(tmp_path / "station.yaml", traffic=tmp_path / "run.traffic") as live, through(live):
        then = converse()
    with Broker(tmp_path / "station.yaml", recording=tmp_path / "run.traffic") as replay, through(replay):
        assert converse() == then
