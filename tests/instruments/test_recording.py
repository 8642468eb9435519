"""A recorded conversation again, bit for bit, with no instrument anywhere; and what is said when it differs."""

import time

import numpy as np
import pytest
from scripted_peers import Peer, ScriptedBoard, ScriptedSentio, damage_reply, disconnect, lose_reply

from instruments.board_protocol.frames import Opcode
from instruments.broker.client import Broker, ReplayError
from instruments.drivers.board import FramedBoard
from instruments.drivers.sentio import Sentio
from instruments.roles.interfaces import InstrumentError, LinkError
from instruments.wire.sessions import open_port, open_visa, through
from instruments.wire.traffic import Entry, Kind, TrafficWriter, read_traffic

pytestmark = pytest.mark.slow


class Echo(Peer):
    """Says back what it hears and how much it has heard; `silence` gets no answer, `bye` ends."""

    def __init__(self):
        self.heard = 0
        super().__init__()

    def message(self, connection, data):
        self.heard += 1
        if data == b"bye":
            return True
        if data != b"silence":
            connection.sendall(data + b" %d\n" % self.heard)
        return False


def converse(port, questions=("one", "silence", "two", "bye", "three")):
    """Ask over both kinds of sessions; what came of each question."""
    text = open_visa(f"TCPIP::127.0.0.1::{port}::SOCKET", timeout=0.15)
    said = []
    for question in questions:
        try:
            said.append(text.query(question))
        except LinkError as error:
            said.append(str(error))
            text.reopen()
    text.close()
    raw = open_port(f"socket://127.0.0.1:{port}", timeout=0.15)
    raw.send(b"a\nb\n")
    said += [raw.receive(b"\n"), raw.receive(b"\n")]
    raw.close()
    return said


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("recording")


@pytest.fixture(scope="module")
def recorded(home):
    """A recorded conversation; nobody listens any more."""
    echo = Echo()
    with Broker(home / "station.yaml", traffic=home / "run.traffic") as live, through(live):
        said = converse(echo.port)
    echo.stop()
    return said, echo.port


@pytest.fixture
def replay(home):
    def begin(recording="run.traffic"):
        return Broker(home / "station.yaml", recording=home / recording)

    return begin


def test_the_same_again_with_nobody_there(recorded, replay):
    said, port = recorded
    assert said[0] == "one 1" and "in time" in said[1] and "closed" in said[3] and said[-1] == b"b 7"
    began = time.monotonic()
    with replay() as broker, through(broker):
        assert converse(port) == said
    assert time.monotonic() - began < 3


def test_another_question_shows_both_sides_and_nothing_follows(recorded, replay):
    _, port = recorded
    with replay() as broker, through(broker):
        session = open_visa(f"TCPIP::127.0.0.1::{port}::SOCKET", timeout=0.15)
        with pytest.raises(ReplayError, match="byte 2 differs") as error:
            session.query("onE")
        assert "recorded" in str(error.value) and "one." in str(error.value) and "onE." in str(error.value)
        for again in (lambda: session.query("one"), session.reopen):
            with pytest.raises(ReplayError, match="byte 2 differs"):
                again()


def test_a_recording_that_was_changed(recorded, replay, home):
    _, port = recorded
    changed = TrafficWriter(home / "changed.traffic")
    for each in read_traffic(home / "run.traffic"):
        payload = each.payload.replace(b"two", b"tvo") if each.kind is Kind.SEND else each.payload
        changed.add(each.session, each.kind, payload)
    changed.close()
    with replay("changed.traffic") as broker, through(broker), pytest.raises(ReplayError, match="byte 1 differs"):
        converse(port)


def test_a_session_too_many(recorded, replay):
    _, port = recorded
    with replay() as broker, through(broker):
        converse(port)
        with pytest.raises(ReplayError, match="did not open"):
            open_port(f"socket://127.0.0.1:{port}")


def test_a_recording_that_ends(recorded, replay):
    _, port = recorded
    with replay() as broker, through(broker):
        session = open_port(f"socket://127.0.0.1:{port}")
        session.send(b"a\nb\n")
        session.receive(b"\n"), session.receive(b"\n")
        with pytest.raises(ReplayError, match="ends here"):
            session.query(b"c\n", b"\n")


def test_something_else_is_done(recorded, replay):
    _, port = recorded
    with replay() as broker, through(broker):
        session = open_port(f"socket://127.0.0.1:{port}")
        with pytest.raises(ReplayError, match="an answer is awaited, but recorded is: send 61 0a"):
            session.receive(b"\n")


def measure(board_at, prober_at):
    """A measurement on a bad day; what came of it."""
    board = FramedBoard("array", board_at, timeout=0.3)
    prober = Sentio("prober", prober_at, timeout=0.4, move_timeout=0.6)
    board.arm_watchdog(0.2)
    said = [prober.first_die(), board.read(0, 0.1).tolist()]
    board.pulse(0, np.ones((3, 4), bool), 0.5, 1e-6)
    said.append(board.read(0, 0.1).tolist())
    try:
        said.append(prober.next_die())
    except InstrumentError as error:
        said.append(str(error))
    said.append(prober.where())
    board.idle("hard_ground")
    for driver in (board, prober):
        driver.close()
    return said


def test_drivers_measure_the_same_again(home, replay):
    board, prober = ScriptedBoard(), ScriptedSentio()
    board.faults = {Opcode.READ: [damage_reply, disconnect], Opcode.PULSE: [lose_reply]}
    prober.script["map:step_next_die"] = [lambda connection: None]
    with Broker(home / "drivers.yaml", traffic=home / "drivers.traffic") as live, through(live):
        said = measure(board.address, prober.address)
    board.stop(), prober.stop()
    assert board.actions == 1 and "in time" in said[3]
    assert board.count(Opcode.HEARTBEAT) > 1  # the broker's own are not part of the conversation
    with replay("drivers.traffic") as broker, through(broker):
        assert measure(board.address, prober.address) == said


def test_every_message_is_in_the_traffic_with_its_time(recorded, home):
    entries = list(read_traffic(home / "run.traffic"))
    assert all(isinstance(each, Entry) for each in entries)
    kinds = [each.kind for each in entries if each.session == 1]
    assert kinds[:6] == [Kind.SESSION, Kind.OPEN, Kind.SEND, Kind.MESSAGE, Kind.SEND, Kind.FAULT]
    assert [each.time for each in entries] == sorted(each.time for each in entries)
