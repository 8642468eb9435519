"""`xbar abort` and `xbar resume` when nobody answers: the run is gone, and its broker hangs or is gone, too."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from analysis.record.record import Record, RecordError
from instruments.board_protocol.frames import Opcode
from instruments.board_protocol.link import BoardLink
from instruments.broker.client import Broker, BrokerError
from instruments.drivers.sentio import Sentio
from instruments.wire.sessions import open_port, through
from protocols.commands.abort import NotSafeError, abort
from protocols.sequencer.left_broker import KnownBroker, broker_file, known_broker, recipes_file
from protocols.sequencer.open_station import _left_by_an_earlier_run

sys.path.insert(0, str(Path(__file__).parent.parent / "instruments"))

from scripted_peers import ScriptedBoard, ScriptedSentio


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


class OldProber(ScriptedSentio):
    """Knows the commands of its time, heights relative to separation among them."""

    def __init__(self):
        super().__init__()
        self.version = "24.0.1"

    def answer(self, command, arguments):
        if (command, arguments) == ("get_chuck_z", ["Separation"]):
            return f"0,0,{self.z - 15700.0}"
        return super().answer(command, arguments)


@pytest.fixture
def peers():
    peers = ScriptedBoard(), OldProber()
    yield peers
    for each in peers:
        each.stop()


@pytest.fixture
def left(tmp_path, peers):
    """A folder whose run is gone; its broker holds a board and a prober with the needles down."""
    board, sentio = peers
    folder = tmp_path / "lot"
    with Record.open(folder) as record:
        record.begin_run("look", {})
    broker = Broker(tmp_path / "station.yaml", token="secret", recipes=recipes_file("secret"))
    with through(broker):
        BoardLink(open_port(board.address, timeout=0.5))
        driver = Sentio("prober", sentio.address, timeout=0.5)
    sentio.z = 16000.0
    known = KnownBroker(broker.port, "secret", broker.pid, psutil.Process(broker.pid).create_time(), 1)
    known.keep(folder)
    yield folder, broker
    broker._process.kill()
    broker._process.wait()
    driver.close()


def is_safe(peers):
    board, sentio = peers
    return board.count(Opcode.ESTOP) == 1 and sentio.z == 15700.0


def test_a_broker_that_answers_does_it(left, peers):
    assert "over the broker" in abort(left[0])
    assert is_safe(peers)


@pytest.mark.skipif(os.name != "posix", reason="no signal stops a process on Windows")
def test_a_broker_that_was_stopped_is_ended_and_the_station_made_safe(left, peers):
    folder, broker = left
    os.kill(broker.pid, signal.SIGSTOP)
    while not known_broker(folder).stopped():
        time.sleep(0.01)
    with pytest.raises(BrokerError, match=rf"process {broker.pid}, .*stopped.*xbar abort.*xbar resume"):
        _left_by_an_earlier_run(folder)  # what a resumed run sees first: it does not wait
    said = abort(folder)
    assert f"process {broker.pid}" in said and "itself" in said
    assert is_safe(peers)
    with pytest.raises(RecordError, match="nothing to abort"):
        abort(folder)
    assert _left_by_an_earlier_run(folder) == known_broker(folder)


def test_a_broker_that_was_killed_too(left, peers):
    folder, broker = left
    broker._process.kill()
    broker._process.wait()
    assert "its broker is gone" in abort(folder)
    assert is_safe(peers)


@pytest.mark.slow
def test_what_cannot_be_reached_is_named_and_tried_again(left, peers):
    folder, broker = left
    board, sentio = peers
    broker._process.kill()
    broker._process.wait()
    recipes = recipes_file("secret")
    recipes.write_text(recipes.read_text().replace(board.address, "socket://127.0.0.1:9"))
    with pytest.raises(NotSafeError, match=r"NOT ALL OF THE STATION IS SAFE: socket://127\.0\.0\.1:9"):
        abort(folder)
    assert sentio.z == 15700.0
    assert known_broker(folder).left_on()  # for another attempt


@pytest.mark.slow
def test_without_recipes_it_is_said_that_nothing_was_done(left):
    folder, broker = left
    os.kill(broker.pid, signal.SIGSTOP if os.name == "posix" else signal.SIGTERM)
    recipes_file("secret").unlink()
    with pytest.raises((NotSafeError, RecordError), match=r"by hand|nothing to abort"):
        abort(folder)


@pytest.mark.parametrize(
    "text", ["", "{}", "[" * 9999, '{"port": 1, "token": 2, "pid": -1, "started": 1e400, "run": 1}']
)
def test_a_broker_file_that_was_edited_means_nothing(tmp_path, text):
    Record.open(tmp_path).close()
    broker_file(tmp_path).write_text(text)
    with pytest.raises(RecordError, match="nothing to abort"):
        abort(tmp_path)


def test_another_process_with_the_number_of_the_broker_is_left_alone(tmp_path):
    known = KnownBroker(1, "secret", os.getpid(), 1.0, 1)
    assert known.process() is None


@pytest.mark.skipif(os.name != "posix", reason="rights of a file are others on Windows")
def test_a_file_that_was_left_lends_its_rights_to_nobody(tmp_path):
    broker_file(tmp_path).write_text("old")
    broker_file(tmp_path).chmod(0o666)
    KnownBroker(1, "secret", 1, 1.0, 1).keep(tmp_path)
    assert broker_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["broker.json"]
