"""However a run ends, its station goes off: benchmarks/safe_exit.py for xbarlab, judged by physical logs.

An exception, Ctrl-C (once, twice) and SIGTERM are left to test_resume.py, which looks at the record as well.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import safe_exit
from in_process import serve_here
from safe_exit import FAULTS, XBARLAB

#: Exit status of the run; None: it hangs on until it is killed.
STATUS = {"none": 0, "hangup": 129, "kill": -9, "stop": 1, "busy": None, "storage": 1, "silent": 1, "start": 1,
          "broker": 1, "both": -9}  # fmt: skip
POSSIBLE = [name for name in STATUS if FAULTS[name].possible]


@pytest.fixture(scope="module")
def cases():
    """Every case, some at once: most of their time is waiting and starting. Who dies is never the station."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        yield {name: pool.submit(safe_exit.measure, XBARLAB, name, serve_here) for name in POSSIBLE}


@pytest.mark.parametrize("name", POSSIBLE)
def test_the_station_goes_off(cases, name):
    result = cases[name].result()
    assert result.left == ""
    assert (result.seconds is None) is (name == "silent")
    assert result.seconds is None or result.seconds <= FAULTS[name].allowed
    assert (result.meter is None) is (name in ("silent", "start"))  # it never was on there
    assert result.exit == STATUS[name]
    assert result.refused is (None if FAULTS[name].station else True)


@pytest.mark.parametrize(
    "entries, left",
    [
        ([("contact", "hard_ground"), ("outputs", "driven")], "lines driven, needles down"),
        ([("contact", "hard_ground"), ("outputs", "driven"), ("outputs", "hard_ground")], "needles down"),
        ([("contact", "driven"), ("outputs", "driven"), ("separation", "driven"), ("outputs", "hard_ground")],
         "needles were lifted off live lines"),
        ([("contact", "hard_ground"), ("outputs", "driven"), ("outputs", "hard_ground"), ("separation", "hard_ground")],
         ""),
    ],
)  # fmt: skip
def test_what_is_left_on_is_seen(tmp_path, entries, left):
    log = tmp_path / "physical.jsonl"
    lines = [{"what": what, "outputs": mode, "mode": mode, "wall_s": at} for at, (what, mode) in enumerate(entries)]
    log.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert safe_exit.seen(log).left == left
