"""A clock that holds no time is no reason to end a run: the time is unknown, and that is said once."""

import json
import logging

import pytest

from instruments.drivers.clock import FileClock


@pytest.fixture
def clock(tmp_path):
    opened = FileClock("clock", str(tmp_path / "summary.json"))
    yield opened, tmp_path / "summary.json"
    opened.close()


@pytest.mark.parametrize("content", [
    b"", b"null", b"{}", b"[]", b"7", b'"x"', b"{", b'{"station_time_s": null}', b'{"station_time_s": "12"}',
    b"\xff\xfe",
    b'{"station_time_s": true}', b'{"station_time_s": NaN}', b'{"station_time_s": Infinity}', b'{"station_time_s": -1}',
    b'{"station_time_s": [1]}', b"[" * 100_000, b'{"station_time_s": 1' + b"0" * 5000 + b"}",
])  # fmt: skip
def test_a_file_without_a_time(clock, caplog, content):
    opened, file = clock
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert [opened.elapsed() for _ in range(3)] == [None] * 3
    (said,) = caplog.messages
    assert str(file) in said and "unknown" in said


def test_a_time_and_a_file_that_is_not_there_yet(clock, caplog):
    opened, file = clock
    assert opened.elapsed() is None and not caplog.messages
    file.write_text(json.dumps({"station_time_s": 12.5}), encoding="utf-8")
    assert opened.elapsed() == 12.5
    file.unlink()
    file.mkdir()
    assert opened.elapsed() is None and len(caplog.messages) == 1
