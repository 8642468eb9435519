"""Every kind of fault as a client meets it on the wire. `faulty` fails a test whose fault never struck."""

import json
import re
import socket
import struct
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from board_wire import BUSY, OK, OVER_RANGE, BoardWire, frame
from hypothesis import given
from hypothesis import strategies as st
from running_station import running

from sim_backends.station import Station, StationConfig, StationError, load_station, station_config
from sim_backends.station_process import spawn_station
from sim_backends.wire import frames
from sim_backends.wire.faults import KINDS, Fault
from sim_backends.wire.faulty_wire import garbled

pytestmark = pytest.mark.slow

ALL = (1 << 25) - 1
PULSE = struct.pack("<BhIH", 0, 80, 1000, 1) + b"\xff" * 78 + b"\1"
#: A request that does something, one that only asks, what a fault calls the first, and what ends a reply.
DIALECTS = {
    "board": (frame(7, 0x12, PULSE), frame(8, 0x01), "PULSE", b"\0"),
    "prober": (b"move_chuck_contact\n", b"status:get_version\n", "move_chuck_contact", b"\n"),
}


def struck(log):
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if entry["what"] == "fault"]


@contextmanager
def faulty(tmp_path, *faults, **config):
    """A station with faults, each of which has to strike."""
    log = tmp_path / "log.jsonl"
    with running(log=log, faults=faults, **config) as parts:
        yield parts
    assert {entry["kind"] for entry in struck(log)} == {fault["kind"] for fault in faults}, "a fault never struck"


class Client:
    """One raw connection; nothing it tells depends on how quick the station is."""

    def __init__(self, station, where):
        self.act, self.question, _, self.end = DIALECTS[where]
        host, port = re.search(r"([\d.]+)::?(\d+)", station.addresses()[where]).groups()
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        try:
            self.send(self.question)
            self.answer = self.reply()
        except ConnectionError:
            self.close()
            raise

    def send(self, request):
        self.socket.sendall(request)

    def reply(self):
        """Bytes up to the end of a message."""
        received = b""
        while not received.endswith(self.end):
            byte = self.socket.recv(1)
            if not byte:
                raise ConnectionError("closed")
            received += byte
        return received

    def replies(self, request=b""):
        """All that comes back before the answer to a question sent after the request."""
        self.send(request + self.question)
        return list(iter(self.reply, self.answer))

    def close(self):
        self.socket.close()


@pytest.fixture(params=sorted(DIALECTS))
def where(request):
    return request.param


@pytest.fixture
def wired(tmp_path, where):
    """`with wired(kind=...) as (station, client, done)`; `done()` counts what the instrument has carried out."""

    @contextmanager
    def serve(**fault):
        log = tmp_path / "log.jsonl"
        fault = {"where": where, "matching": DIALECTS[where][2], **fault}
        with Station(StationConfig(seed=7, dies=3, log=log, faults=[fault])) as station:
            client = Client(station, where)
            done = {"board": lambda: station.log.counts["pulse"], "prober": lambda: station.prober.contacts}[where]
            yield station, client, done
            client.close()
        found = struck(log)
        assert found and {(entry["kind"], entry["where"]) for entry in found} == {(fault["kind"], where)}

    return serve


# -- on the wire ---------------------------------------------------------------------------------------------------


def test_a_lost_reply_is_to_a_request_that_was_carried_out(wired):
    with wired(kind="lost_reply", nth=2, **{"for": 2}) as (_, client, done):
        assert [len(client.replies(client.act)) for _ in range(4)] == [1, 0, 0, 1]
        assert done() == 4


def test_a_lost_request_is_not_carried_out(wired):
    with wired(kind="lost_request", at=[1, 3]) as (_, client, done):
        assert [len(client.replies(client.act)) for _ in range(4)] == [0, 1, 0, 1]
        assert done() == 2


def test_a_late_reply_lets_others_pass(wired):
    with wired(kind="late_reply", seconds=0.4) as (_, client, done):
        start = time.monotonic()
        assert client.replies(client.act) == [], "the question is answered meanwhile"
        assert done() == 1
        late = client.reply()
        assert time.monotonic() - start >= 0.4
        assert late != client.answer


def test_a_late_reply_does_not_come_to_the_next_client(wired, where):
    with wired(kind="late_reply", seconds=0.2) as (station, client, _):
        assert client.replies(client.act) == []
        client.close()
        following = Client(station, where)
        time.sleep(0.4)
        assert following.replies() == []
        following.close()


def test_a_garbled_reply_differs_in_one_bit(wired, where):
    with wired(kind="garbled_reply", nth=2) as (_, client, done):
        (good,), (bad,) = client.replies(client.act), client.replies(client.act)
        flipped = int.from_bytes(good, "big") ^ int.from_bytes(bad, "big")
        assert len(good) == len(bad) and flipped.bit_count() == 1
        if where == "board":
            with pytest.raises(frames.DamagedFrameError):
                frames.decode(bad[:-1])
        else:
            with pytest.raises(UnicodeDecodeError):
                bad.decode()
        assert done() == 2


@given(st.integers(0, 255), st.binary(max_size=400))
def test_any_garbled_frame_is_noticed(seq, payload):
    for piece in garbled(frames.encode(frames.Frame(1, seq, 0x11, 1, payload))).split(b"\0"):
        if piece:
            with pytest.raises(frames.DamagedFrameError):
                frames.decode(piece)


def test_a_duplicated_reply_comes_twice_for_one_request(wired):
    with wired(kind="duplicated_reply") as (_, client, done):
        first, second = client.replies(client.act)
        assert first == second
        assert done() == 1


@pytest.mark.parametrize("before", [True, False])
def test_a_disconnect_after_or_before_the_request_is_carried_out(wired, where, before):
    with wired(kind="disconnect", before=before) as (station, client, done):
        with pytest.raises(ConnectionError):
            client.replies(client.act)
        assert done() == (0 if before else 1)
        again = Client(station, where)
        assert len(again.replies(again.act)) == 1
        again.close()


def test_connections_are_refused_for_a_while(wired, where):
    with wired(kind="refuse_connections", **{"for": 0.4}) as (station, client, done):
        start = time.monotonic()
        with pytest.raises(ConnectionError):
            client.replies(client.act)
        assert done() == 1
        refusals = 0
        while True:
            try:
                Client(station, where).close()
                break
            except ConnectionError:
                refusals += 1
        assert refusals > 0 and time.monotonic() - start >= 0.4


def test_a_busy_instrument_does_nothing_and_says_so(wired, where):
    with wired(kind="busy", **{"for": 2}) as (_, client, done):
        for _ in range(2):
            (reply,) = client.replies(client.act)
            if where == "board":
                refused = frames.decode(reply[:-1])
                assert (refused.seq, refused.opcode, refused.payload[0]) == (7, 0x12, BUSY)
            else:
                assert reply.startswith(b"12,0,")
        assert done() == 0
        assert client.replies(client.act) != [reply] and done() == 1


def test_every_request_of_one_segment_is_met_on_its_own(wired):
    with wired(kind="lost_reply", every=2) as (_, client, done):
        assert len(client.replies(5 * client.act)) == 3
        assert done() == 5


def test_a_request_in_pieces_is_one_request(wired):
    with wired(kind="lost_request", nth=2) as (_, client, done):
        for byte in client.act[:-1]:
            client.send(bytes([byte]))
        assert len(client.replies(client.act[-1:])) == 1
        assert client.replies(client.act) == []
        assert done() == 1


# -- which requests ------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 4), st.lists(st.integers(1, 20), min_size=1, max_size=3))
def test_numbers_of_the_requests_that_are_struck(number, row, chosen):
    def of(**entries):
        fault = Fault.model_validate({"kind": "lost_reply", "where": "board", "for": row, **entries})
        return {n for n in range(1, 30) if fault.strikes(n)}

    def rows(starts):
        return {n for first in starts for n in range(first, first + row) if n < 30}

    assert of() == rows([1])
    assert of(nth=number) == rows([number])
    assert of(every=number) == rows(range(number, 30, number))
    assert of(at=chosen) == rows(chosen)


def test_opcodes_match_whole_and_commands_by_their_beginning(tmp_path):
    faults = (
        {"kind": "busy", "where": "board", "matching": "PULSE"},
        {"kind": "busy", "where": "prober", "matching": ["map:step", "move_chuck_c"], "at": [1, 2]},
    )
    with faulty(tmp_path, *faults) as (_, board, prober):
        both = struct.pack("<BhIHBHh", 0, 80, 1000, 1, 0, 1, 80) + board.mask(None)
        assert board.ask(0x13, both)[0] == OK
        assert board.ask(0x12, PULSE)[0] == BUSY
        assert prober.ask("map:die:get_current_index")[0] == 0
        assert prober.ask("Map:Step_First_Die")[0] == 12
        assert prober.ask("move_chuck_contact")[0] == 12
    numbers = [(entry["request"], entry["number"]) for entry in struck(tmp_path / "log.jsonl")]
    assert numbers == [("PULSE", 1), ("Map:Step_First_Die", 1), ("move_chuck_contact", 2)]


# -- in the board --------------------------------------------------------------------------------------------------


def on_first_die(prober):
    prober.ask("map:step_first_die")
    assert prober.ask("move_chuck_contact")[0] == 0


def test_a_stuck_channel_reads_one_code(tmp_path):
    with faulty(tmp_path, {"kind": "stuck_channel", "index": 3, "code": 700}) as (_, board, prober):
        on_first_die(prober)
        codes = board.read_codes(0, 0.1).reshape(25, 25)
        assert (codes == 700).all(axis=1).tolist() == [row == 3 for row in range(25)]
        board.load(0, np.full((2, 25), 0.1))
        for direction in (0, 1):
            stuck = (board.multiply_codes(0, direction, 2, ALL, ALL) == 700).all(axis=0)
            assert np.flatnonzero(stuck).tolist() == [3]


def test_a_stuck_channel_recovers(tmp_path):
    with faulty(tmp_path, {"kind": "stuck_channel", "index": 3, "matching": "READ", "for": 0.2}) as (_, board, _):
        assert (board.read_codes(0, 0.1).reshape(25, 25)[3] == 2048).all()
        time.sleep(0.25)
        assert not (board.read_codes(0, 0.1).reshape(25, 25)[3] == 2048).all()


def test_a_stuck_relay_drives_its_column_never(tmp_path):
    with faulty(tmp_path, {"kind": "stuck_relay", "index": 7}) as (station, board, prober):
        on_first_die(prober)
        die = station.bench.die(2)
        before, others = die.devices.antiparallel[0].copy(), np.arange(25) != 7
        for volts in (1.25, -1.25):
            board.pulse(0, volts, 1e-6, count=3)
        np.testing.assert_array_equal(die.devices.antiparallel[0][:, 7], before[:, 7])
        assert (die.devices.antiparallel[0] != before)[:, others].any()
        currents = board.read(0, 0.1, averages=16)
        assert abs(currents[:, 7]).max() < 5e-7 < np.median(currents[:, others])
        board.load(0, np.eye(25) * 0.1)
        rows = board.multiply_codes(0, 0, 25, ALL, ALL, averages=16)
        assert abs(rows[7] - rows[7].mean()).max() < 30, "vector 7 drives nothing"
        sensed = board.multiply_codes(0, 1, 25, ALL, ALL, averages=16)
        assert np.ptp(sensed[:, 7]) < 3 < np.median(np.ptp(sensed, axis=0))


def test_ignored_limits_are_answered_as_those_of_the_board(tmp_path):
    with faulty(tmp_path, {"kind": "limits_ignored"}) as (_, board, _):
        own = struct.unpack("<hh", board.ok(0x25))
        wanted = struct.pack("<hh", -100, 100)
        assert struct.unpack("<hh", board.ok(0x25, wanted)) == own
        assert board.ask(0x12, board.pulse_payload(0, 1.2, 1e-6))[0] == OK
        assert board.ok(0x25, wanted) == wanted
        assert board.ask(0x12, board.pulse_payload(0, 1.2, 1e-6))[0] == OVER_RANGE


# -- in the prober -------------------------------------------------------------------------------------------------


def test_lifts_but_does_not_step(tmp_path):
    with faulty(tmp_path, {"kind": "no_step", "nth": 2}) as (station, _, prober):
        on_first_die(prober)
        where = prober.ask("map:die:get_current_index")[2]
        assert prober.ask("map:step_next_die") == (0, 0, "3,3,0"), "it says that it did"
        assert prober.ask("map:die:get_current_index")[2] == where
        assert not station.bench.contact
        assert prober.ask("map:step_next_die")[2] == "3,3,0"
        assert prober.ask("map:die:get_current_index")[2] == "1,3,3"


@pytest.mark.parametrize(("dies", "end"), [(3, "2,3,2"), (1, "-1,3,4")])
def test_a_double_step_ends_one_die_further(tmp_path, dies, end):
    fault = {"kind": "double_step", "matching": "map:step_die"}
    with faulty(tmp_path, fault, dies=dies) as (_, _, prober):
        prober.ask("map:step_first_die")
        asked = "3,3" if dies == 3 else prober.ask("map:path:get_die 0")[2]
        assert prober.ask(f"map:step_die {asked},0")[2] == f"{asked},0"
        assert prober.ask("map:die:get_current_index")[2] == end


def test_the_wrong_die_is_reported(tmp_path):
    fault = {"kind": "wrong_die", "matching": "map:die:get_current_index"}
    with faulty(tmp_path, fault) as (station, _, prober):
        assert prober.ask("map:step_first_die")[2] == "2,3,0"
        assert prober.ask("map:die:get_current_index")[2] == "1,3,3"
        assert prober.ask("map:die:get_current_index")[2] == "0,2,3"
        assert station.prober.site == (2, 3)


def test_a_chuck_that_does_not_come_down_says_it_did(tmp_path):
    with faulty(tmp_path, {"kind": "no_separation", "for": 2}) as (station, _, prober):
        on_first_die(prober)
        assert prober.ask("move_chuck_separation") == (0, 0, "15750.0")
        assert prober.ask("get_chuck_z Zero")[2] == "16000.0"
        assert station.bench.contact
        assert prober.ask("map:step_next_die")[0] == 38, "it does not drag the needles over the wafer"
        assert prober.ask("move_chuck_separation")[0] == 0
        assert not station.bench.contact


@pytest.mark.parametrize("where", ["prober", "board"])
def test_contact_is_lost_though_the_needles_are_down(tmp_path, where):
    matching = {"prober": "get_chuck_z", "board": "READ"}[where]
    fault = {"kind": "loses_contact", "where": where, "matching": matching, "nth": 2}
    log = tmp_path / "log.jsonl"
    with faulty(tmp_path, fault) as (station, board, prober):
        for _ in range(3):  # in the air nothing can be lost
            prober.ask("get_chuck_z Zero")
            board.read(0, 0.1)
        on_first_die(prober)
        typical = []
        for _ in range(3):
            assert prober.ask("get_chuck_z Zero")[2] == "16000.0"
            typical.append(np.median(board.read(0, 0.1)))
        assert typical[0] > 5e-6 > 1e-6 > max(typical[1:])
        operations = station.bench.die(2).operations
        board.pulse(0, 1.25, 1e-6)
        assert station.bench.die(2).operations == operations
        prober.ask("move_chuck_separation")
        prober.ask("move_chuck_contact")
        assert np.median(board.read(0, 0.1)) > 5e-6
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["contact"] for entry in entries if entry["what"] == "pulse"] == [False], "it reached no die"
    assert len([entry for entry in entries if entry["what"] == "separation"]) == 1


def test_a_chuck_that_gets_too_hot(tmp_path):
    fault = {"kind": "over_temperature", "celsius": 140, "matching": "status:get_chuck_temp", "nth": 2}
    with faulty(tmp_path, fault) as (_, _, prober):
        assert [prober.ask("status:get_chuck_temp")[2] for _ in range(3)] == ["25.00", "140.00", "140.00"]
        assert prober.ask("status:get_chuck_temp_setpoint")[2] == "25.00"
        assert prober.ask("status:get_chuck_thermo_state")[2] == "cooling"


def test_an_open_door_keeps_the_chuck_down(tmp_path):
    fault = {"kind": "door_open", "matching": "get_door_status", "nth": 2, "for": "1 s"}
    with faulty(tmp_path, fault) as (station, _, prober):
        prober.ask("set_door_lock prober,1")
        prober.ask("map:step_first_die")
        assert [prober.ask("get_door_status prober")[2] for _ in range(2)] == ["1,1", "0,0"]
        assert prober.ask("get_door_status loader")[2] == "1,0"
        for line in ("move_chuck_contact", "move_chuck_hover", "move_chuck_z Contact,0"):
            assert prober.ask(line)[0] == 60
        assert not station.bench.contact
        assert prober.ask("map:step_next_die")[0] == 0
        assert prober.ask("move_chuck_separation")[0] == 0
        time.sleep(1.05)
        assert prober.ask("move_chuck_contact")[0] == 0


def test_a_chuck_at_contact_comes_down_with_an_open_door(tmp_path):
    with faulty(tmp_path, {"kind": "door_open", "matching": "get_door_status"}) as (station, _, prober):
        on_first_die(prober)
        assert prober.ask("get_door_status prober")[2] == "0,0"
        assert prober.ask("move_chuck_separation")[0] == 0
        assert not station.bench.contact


# -- the entry of a station file -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "gremlins"}, r"faults\.0: .*unknown kind 'gremlins'; known: lost_reply, .*door_open"),
        ({"where": "board"}, "unknown kind None"),
        (
            {"kind": "busy", "where": "board", "often": 3},
            "busy does not take often; it takes kind, where, nth, .*, for",
        ),
        ({"kind": "busy", "where": "board", "celsius": 3}, "busy does not take celsius"),
        ({"kind": "late_reply", "where": "board"}, "late_reply needs seconds"),
        ({"kind": "busy"}, "busy needs where: prober or board"),
        ({"kind": "no_step", "where": "board"}, "no_step needs where: prober, not 'board'"),
        ({"kind": "no_step", "nth": 2, "every": 3}, "one of nth, every, at"),
        ({"kind": "no_step", "nth": 0}, r"faults\.0\.nth: .*greater than or equal to 1"),
        ({"kind": "busy", "where": "board", "matching": "PULS"}, "matching PULS: the opcodes are IDN, .*LIMITS"),
        ({"kind": "busy", "where": "board", "for": 1.5}, "whole number"),
        ("busy", "a mapping with a kind"),
    ],
)
def test_a_wrong_fault_says_what_is_allowed(tmp_path, fault, message):
    with pytest.raises(StationError, match=message):
        station_config({"faults": [fault]}, "test", tmp_path)


@pytest.mark.parametrize("kind", ["stuck_channel", "stuck_relay"])
def test_a_line_that_the_board_does_not_have_is_refused(kind):
    with pytest.raises(StationError, match=f"{kind} with index 25; the board has 25"):
        Station(StationConfig(faults=[{"kind": kind, "index": 25}]))


def test_faults_of_a_station_file_reach_a_station_of_its_own(tmp_path):
    path = tmp_path / "station.yaml"
    path.write_text(
        "dies: 1\nlog: log.jsonl\nfaults:\n"
        "  - {kind: busy, where: board, matching: IDN, nth: 2, for: 2}\n"
        "  - {kind: lost_reply, where: prober, matching: map}\n",
        encoding="utf-8",
    )
    with spawn_station(load_station(path)) as station:
        board = BoardWire(station.board)
        assert [board.ask(0x01)[0] for _ in range(5)] == [OK, BUSY, BUSY, OK, OK]
        board.close()
    assert Counter(entry["kind"] for entry in struck(tmp_path / "log.jsonl")) == {"busy": 2}


def test_every_kind_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip(" `") for line in text.splitlines() if line.startswith("| `")]
    assert set(KINDS) <= set(rows)
