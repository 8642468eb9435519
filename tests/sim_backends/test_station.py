import json
import os
import re
import struct
import subprocess
import sys
import time
from functools import partial
from threading import Thread

import numpy as np
import pytest
from board_wire import BoardWire
from running_station import ProberWire

from instruments.drivers.clock import FileClock
from sim_backends.array.dies.mtj_die import Die
from sim_backends.bench.bench import StateError
from sim_backends.bench.clock import StationClock
from sim_backends.bench.physical_log import PhysicalLog
from sim_backends.bench.state_lock import StateInUseError, StateLock
from sim_backends.lifetime import wait_for_end
from sim_backends.station import Station, StationConfig, StationError, load_station, station_config
from sim_backends.station_process import spawn_station

pytestmark = pytest.mark.slow


def entries(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def program_first_die(board, prober):
    prober.ask("map:step_first_die")
    prober.ask("move_chuck_contact")
    board.pulse(0, 1.25, 1e-6, count=3)
    board.pulse(1, -1.25, 1e-6, count=3)


def test_dies_are_found_as_they_were_left(serve, tmp_path):
    state = tmp_path / "state"
    with serve(state=state) as (station, board, prober):
        program_first_die(board, prober)
        die = station.bench.die(station.bench.sites.index((2, 3)))
        die.devices.broken[5, 1, 2] = True
        left, operations = die.devices.antiparallel.copy(), die.operations
    with serve(state=state) as (station, board, prober):
        die = station.bench.die(station.bench.sites.index((2, 3)))
        np.testing.assert_array_equal(die.devices.antiparallel, left)
        assert np.argwhere(die.devices.broken).tolist() == [[5, 1, 2]]
        assert die.operations == operations
        untouched = station.bench.die(0)
        fresh = Die.from_lot(untouched.lot, 7, 0)
        np.testing.assert_array_equal(untouched.devices.antiparallel, fresh.devices.antiparallel)
    assert sorted(path.name for path in state.glob("*.npz")) == ["die_2.npz"]
    with pytest.raises(StateError, match="another state folder"), serve(state=state, seed=8) as (station, _, prober):
        station.bench.die(2)


def test_state_is_saved_at_separation(serve, tmp_path):
    with serve(state=tmp_path, log=tmp_path / "log.jsonl") as (station, board, prober):
        program_first_die(board, prober)
        assert not (tmp_path / "die_2.npz").exists()
        prober.ask("move_chuck_separation")
        saved = np.load(tmp_path / "die_2.npz", allow_pickle=False)
        assert int(saved["operations"]) == station.bench.die(2).operations == 2
        assert json.loads((tmp_path / "log.jsonl.summary.json").read_text())["pulses"] == 2


def test_a_resumed_die_goes_on_as_an_uninterrupted_one(serve, tmp_path):
    def readings(state, *, interrupted):
        with serve(state=state) as (_, board, prober):
            program_first_die(board, prober)
            results = [board.read_codes(0, 0.1)]
            if not interrupted:
                return [*results, board.read_codes(0, 0.1)]
        with serve(state=state) as (_, board, prober):
            prober.ask("map:step_first_die")
            prober.ask("move_chuck_contact")
            return [*results, board.read_codes(0, 0.1)]

    whole = readings(tmp_path / "a", interrupted=False)
    np.testing.assert_array_equal(whole, readings(tmp_path / "b", interrupted=True))


def test_physical_log(serve, tmp_path):
    log = tmp_path / "log.jsonl"
    with serve(log=log) as (_, board, prober):
        board.ok(0x20, b"\0")
        program_first_die(board, prober)
        prober.ask("map:step_next_die")
        board.pulse(3, 0.5, 100e-9, count=7)
    found = entries(log)
    whats = [entry["what"] for entry in found]
    assert [what for what in whats if what in ("contact", "separation", "pulse")] == [
        "contact",
        "pulse",
        "pulse",
        "separation",
        "pulse",
    ]
    first, second, in_air = (entry for entry in found if entry["what"] == "pulse")
    assert (first["die"], first["site"], first["contact"], first["kernel"]) == (2, [2, 3], True, 0)
    assert (first["v"], first["width_s"], first["count"], first["cells"]) == (
        pytest.approx(1.25, abs=1e-3),
        1e-6,
        3,
        625,
    )
    assert first["mask"] == second["mask"]
    assert (in_air["die"], in_air["contact"], in_air["count"]) == (0, False, 7)
    assert not any(entry.get("contact_while_moving") for entry in found)
    assert [entry["mode"] for entry in found if entry["what"] == "outputs"] == ["float", "driven"], "changes only"
    assert [first["seq"], in_air["seq"]] == [3, 5], "CAPS and IDLE came before"
    assert [first["actions"], second["actions"], in_air["actions"]] == [1, 2, 3]
    times = [entry["station_s"] for entry in found]
    assert times == sorted(times)
    clients = {(entry["instrument"], entry["connected"]) for entry in found if entry["what"] == "client"}
    assert clients == {(name, connected) for name in ("prober", "board") for connected in (True, False)}
    assert found[-1]["what"] == "end"
    summary = json.loads((tmp_path / "log.jsonl.summary.json").read_text())
    assert summary["station_time_s"] == found[-1]["station_time_s"] >= 2
    assert (summary["pulses"], summary["counts"]["contact"]) == (3, 1)


def test_station_time_goes_on_in_the_next_run(serve, tmp_path):
    log = tmp_path / "log.jsonl"
    with serve(log=log) as (station, _, prober):
        prober.ask("map:step_first_die")
        end = station.clock.now
    with serve(log=log) as (station, _, _):
        assert station.clock.now >= end > 0


def test_two_stations_in_a_folder_have_clocks_of_their_own(tmp_path):
    config = StationConfig(seed=1, dies=1, log=tmp_path / "a.jsonl")
    with Station(config) as one, Station(config.model_copy(update={"log": tmp_path / "a.log"})) as other:
        one.clock.advance(5.0)
        one.log.flush()
        other.log.flush()
    assert {json.loads(each.read_text())["station_time_s"] for each in tmp_path.glob("*.summary.json")} == {5.0, 0.0}
    with Station(config) as one:
        assert one.clock.now == 5.0
    (tmp_path / "summary.json").write_text('{"station_time_s": 7, "counts": {"pulse": 3}}')
    with Station(config.model_copy(update={"log": tmp_path / "new.jsonl"})) as new:
        assert new.clock.now == 0.0, "that of another station"


def test_a_log_is_written_by_one_station(tmp_path, monkeypatch):
    monkeypatch.setattr("sim_backends.station.StateLock", partial(StateLock, patience=0.2))
    config = StationConfig(seed=1, dies=1, log=tmp_path / "a.jsonl")
    with Station(config), pytest.raises(StationError, match=r"a\.jsonl is in use by another station"):
        Station(config)
    Station(config).close()


@pytest.mark.parametrize("content", ["null", "[]", "{", '{"station_time_s": null}',
                                     '{"station_time_s": NaN, "counts": 3}',
                                     '{"station_time_s": 1e999, "counts": {"pulse": "x"}}', "[" * 100_000])  # fmt: skip
def test_a_damaged_clock_begins_anew(tmp_path, content):
    (tmp_path / "a.jsonl.summary.json").write_text(content)
    with Station(StationConfig(seed=1, dies=1, log=tmp_path / "a.jsonl")) as station:
        assert station.clock.now == 0.0
    clock = FileClock("clock", str(tmp_path / "b.json"))
    (tmp_path / "b.json").write_text(content)
    try:
        assert clock.elapsed() is None
    finally:
        clock.close()


def test_log_entries_are_cheap(tmp_path):
    log = PhysicalLog(tmp_path / "log", StationClock())
    start = time.process_time()
    for _ in range(3000):
        log.add("pulse", die=3, site=[1, 2], contact=True, kernel=5, mask="0123456789abcdef", cells=625, v=1.2)
    assert (time.process_time() - start) / 3000 < 50e-6


def test_station_time_counts_what_hardware_would_take(serve):
    with serve() as (station, board, prober):
        prober.ask("map:step_first_die")
        prober.ask("move_chuck_contact")
        start = station.clock.now
        board.pulse(0, 0.1, 1e-3, count=100)
        assert station.clock.now - start == pytest.approx(25 * 100 * 1e-3, rel=0.01), "25 columns, one after another"


def test_truth_file(serve, tmp_path):
    path = tmp_path / "truth.npz"
    with serve(truth=path, dies=(0, 2, 9)) as (station, board, prober):
        program_first_die(board, prober)
        prober.ask("move_chuck_separation")
        assert path.exists()
        states = {index: station.bench.die(index).devices.antiparallel.copy() for index in (0, 2, 9)}
        lines = {index: station.bench.die(index).dead_lines for index in (0, 2, 9)}
    with np.load(path, allow_pickle=False) as truth:
        meta = json.loads(str(truth["meta"]))
        assert (meta["seed"], meta["kinds"][1]) == (7, "short")
        assert truth["die"].tolist() == [0, 2, 9]
        assert truth["site"][1].tolist() == [2, 3]
        for number, index in enumerate((0, 2, 9)):
            np.testing.assert_array_equal(truth["state"][number], states[index])
            assert np.count_nonzero(truth["line_die"] == index) == len(lines[index])
        die = Die.from_lot(station.bench.lot, 7, 2)
        np.testing.assert_allclose(truth["r_ap"][1], die.devices.r_p * (1 + die.devices.tmr), rtol=1e-6)
        np.testing.assert_allclose(truth["g_ap"][1], die.conductance(0.1, antiparallel=True), rtol=1e-6)
        assert truth["kind"].dtype == np.uint8
        assert truth["line_mask"].shape[1:] == (32, 25, 25)
        assert not (truth["line_mask"].any(axis=0) & truth["alive"].all(axis=0)).any()


def test_station_files(tmp_path):
    path = tmp_path / "station.yaml"
    path.write_text(
        "seed: 3\ndies: 2\nlog: out/log.jsonl\nprober: {contact_height: 12000, touch_height: 12000}\n", encoding="utf-8"
    )
    config = load_station(path)
    assert (config.seed, config.log) == (3, tmp_path / "out/log.jsonl")
    with Station(config) as station:
        assert station.prober.contact() == 12000
    path.write_text("sede: 3\nprober: {speed: 3}\n", encoding="utf-8")
    with pytest.raises(StationError, match=r"prober\.speed: unknown key\n  sede: unknown key"):
        load_station(path)
    with pytest.raises(StationError, match="the lot has 36"):
        Station(StationConfig(dies=37))
    with pytest.raises(StationError, match="mapping"):
        station_config([1], "test", tmp_path)


def test_spawning_a_bad_station_says_why():
    with pytest.raises(StationError, match="no lot 'nothing'"):
        spawn_station({"lot": "nothing"})


PARENT = """
import sys, time
from sim_backends.station_process import spawn_station
station = spawn_station({{'dies': 1, 'log': {log!r}, 'state': {state!r}}})
print(station.board, station.prober, flush=True)
time.sleep(600)
"""


@pytest.fixture
def orphan(tmp_path):
    """A process that has started a station, and the addresses of board and prober."""
    log, state = tmp_path / "log.jsonl", tmp_path / "state"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(log=str(log), state=str(state))],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    yield parent, parent.stdout.readline().decode().split()
    parent.kill()
    parent.wait()
    parent.stdout.close()


def wait_for_last_entry(log, what):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if log.read_text(encoding="utf-8") and entries(log)[-1]["what"] == what:
            return
        time.sleep(0.05)
    pytest.fail(f"the last entry is {entries(log)[-1]}")


def test_a_station_ends_with_the_process_that_started_it(orphan, tmp_path):
    """The parent is killed, not asked: its end of the pipe closes. Nobody else is connected."""
    parent, _ = orphan
    parent.kill()
    wait_for_last_entry(tmp_path / "log.jsonl", "end")


def test_who_is_still_connected_can_leave_the_die_when_the_program_is_killed(orphan, tmp_path):
    parent, (board_address, prober_address) = orphan
    log = tmp_path / "log.jsonl"
    board, prober = BoardWire(board_address), ProberWire(prober_address)
    program_first_die(board, prober)
    parent.kill()
    parent.wait()
    time.sleep(0.5)
    board.ok(0x20, b"\2")
    board.close()
    time.sleep(0.2)
    assert prober.ask("move_chuck_separation")[0] == 0, "one client is enough"
    prober.close()
    wait_for_last_entry(log, "end")
    (separation,) = [entry for entry in entries(log) if entry["what"] == "separation"]
    assert separation["outputs"] == "hard_ground"
    assert len(list((tmp_path / "state").glob("die_*.npz"))) == 1


def test_clients_that_stay_are_not_served_for_ever(monkeypatch):
    read, write = os.pipe()
    os.close(write)
    with os.fdopen(read) as closed:
        monkeypatch.setattr(sys, "stdin", closed)
        start = time.monotonic()
        wait_for_end(forever=False, in_use=lambda: True, linger=0.3)
        assert 0.3 <= time.monotonic() - start < 5
        wait_for_end(forever=False, in_use=lambda: False, linger=600)


def test_one_station_at_a_time_uses_a_state_folder(tmp_path):
    first, second = StateLock(tmp_path, patience=0.2), StateLock(tmp_path, patience=0.2)
    first.acquire()
    with pytest.raises(StateInUseError, match=rf"{re.escape(str(tmp_path))} .*process {os.getpid()}.*choose another"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_spawned_station_waits_for_the_one_that_has_its_dies_then_serves_and_ends(tmp_path):
    log, state = tmp_path / "log.jsonl", tmp_path / "state"
    spawned = []
    config = {"seed": 5, "dies": 1, "log": str(log), "state": str(state)}
    with Station(StationConfig(seed=5, dies=1, state=state)):
        waiting = Thread(target=lambda: spawned.append(spawn_station(config)))
        waiting.start()
        time.sleep(1.5)
        assert waiting.is_alive()
    waiting.join(20)
    assert not waiting.is_alive()
    with spawned[0] as station:
        assert (station.addresses["seed"], station.addresses["lot"]) == (5, "mtj")
        assert station.prober.startswith("TCPIP::127.0.0.1::")
        board = BoardWire(station.board)
        assert board.caps["kernels"] == 32
        board.close()
        assert station.addresses["pid"] == station.pid
    assert entries(log)[-1]["what"] == "end"


def test_a_station_that_cannot_serve_gives_the_state_free(serve, tmp_path):
    with pytest.raises(StationError, match="the lot has 36"):
        Station(StationConfig(dies=37, state=tmp_path))
    with serve(state=tmp_path):
        pass


def test_outputs_and_contacts_are_in_the_log_at_once(serve, tmp_path):
    log = tmp_path / "log.jsonl"
    with serve(log=log) as (_, board, prober):
        for act, what in (
            (lambda: prober.ask("map:step_first_die"), "move"),
            (lambda: prober.ask("move_chuck_contact"), "contact"),
            (lambda: board.ok(0x20, b"\0"), "outputs"),
            (lambda: prober.ask("move_chuck_separation"), "separation"),
            (lambda: board.ok(0x21), "outputs"),
        ):
            act()
            assert entries(log)[-1]["what"] == what


def test_outputs_are_driven_from_the_first_accepted_request_to_rest(serve, tmp_path):
    log = tmp_path / "log.jsonl"
    with serve(log=log) as (station, board, _):
        refused = board.pulse_payload(0, 1.0, 25e-9)
        assert board.ask(0x12, refused)[0] == 2
        board.load(0, np.full((1, 25), 0.1))
        assert station.bench.outputs == "hard_ground", "nothing was driven yet"
        acts = {
            "READ": lambda: board.read_codes(0, 0.1),
            "PULSE": lambda: board.pulse(0, 0.1, 1e-6),
            "PULSE_READ": lambda: board.ok(0x13, struct.pack("<BhIHBHh", 0, 80, 1000, 1, 0, 1, 80) + board.mask(None)),
            "MULTIPLY": lambda: board.ok(0x14, board.multiply_payload(0, 1, 1, (1 << 25) - 1, (1 << 25) - 1)),
        }
        for act in acts.values():
            act()
            act()
            assert station.bench.outputs == "driven"
            board.ok(0x20, b"\2")
            board.ok(0x20, b"\2")
    found = [(entry["mode"], entry["why"]) for entry in entries(log) if entry["what"] == "outputs"]
    assert found == [entry for name in acts for entry in (("driven", name), ("hard_ground", "IDLE"))]


def test_an_emergency_stop_is_in_the_log_at_once(serve, tmp_path):
    log = tmp_path / "log.jsonl"
    with serve(log=log) as (_, board, _):
        board.ok(0x21)
        assert [entry["why"] for entry in entries(log) if entry["what"] == "outputs"] == ["ESTOP"]


def test_a_taken_port_is_an_error(serve):
    with serve() as (station, _, _):
        port = int(station.addresses()["board"].rpartition(":")[2])
        with pytest.raises(OSError, match=r"address|Address|socket"):
            Station(StationConfig(board_port=port))
