"""What the broker promises, judged by what physically happened at a simulated station or by what peers were told."""

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest
from in_process import serve_here
from scripted_peers import ScriptedSentio, delay, lose_reply

from instruments.board_protocol.frames import Opcode
from instruments.board_protocol.link import BoardLink
from instruments.broker import process as server
from instruments.broker.client import Broker, BrokerClient, BrokerError, ReleasedError
from instruments.broker.kept_recipes import kept_devices
from instruments.broker.messages import HEAD, LARGEST, Channel, Operation
from instruments.broker.process import STRANGERS
from instruments.drivers.sentio import Sentio
from instruments.roles.interfaces import InstrumentError
from instruments.roles.off_recipe import OffRecipe, OffStep, Stage, make_safe
from instruments.station import load_station, write_station
from instruments.wire.sessions import open_port, open_visa, through
from instruments.wire.traffic import Kind, read_traffic

pytestmark = pytest.mark.slow

OWNER = """
import sys, threading, time
from pathlib import Path
from instruments.broker.client import Broker
from instruments.station import load_station
file, fate = Path(sys.argv[1]), sys.argv[2]
broker = Broker(file, traffic=file.with_name(fate + ".traffic"))
station = load_station(file, broker)
station.array.reset()
station.prober.separate()
station.prober.first_die()
station.prober.contact()
mask = station.array.read(0, 0.1) > 0
station.array.pulse(0, mask, 0.3, 1e-6)
if fate == "waits":
    threading.Thread(target=lambda: station.array._link.port.receive(timeout=60), daemon=True).start()
    time.sleep(0.2)
print("ready", flush=True)
if fate == "says goodbye":
    broker.end()
elif fate != "returns":
    time.sleep(60)
"""


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
def peer_sentio():
    peer = OldProber()
    yield peer
    peer.stop()


class Simulated:
    """A station in a process of its own, and its physical log."""

    def __init__(self, process, home):
        self.process, self.log = process, home / "physical.jsonl"
        self.file = write_station(home / "station.yaml", process.prober, process.board)

    def entries(self, what):
        with self.log.open() as lines:
            return [entry for line in lines if (entry := json.loads(line))["what"] == what]

    def wait_for(self, what, since, seconds, **details):
        """The first entry since then that agrees."""
        until = time.time() + seconds
        while time.time() < until:
            for entry in self.entries(what):
                if entry["wall_s"] >= since and details.items() <= entry.items():
                    return entry
            time.sleep(0.02)
        raise AssertionError(f"no {what} {details} within {seconds} s")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    home = tmp_path_factory.mktemp("broker")
    with serve_here({"lot": "mtj", "seed": 11, "dies": 3, "log": home / "physical.jsonl"}) as process:
        yield Simulated(process, home)


@pytest.fixture
def start(tmp_path):
    """Starts brokers for a station file of the test; ends them, however the test went."""
    started = []

    def begin(name="station.yaml", **settings):
        started.append(Broker(tmp_path / name, **settings))
        return started[-1]

    yield begin
    for broker in started:
        if broker._process.poll() is None:
            broker.close()


@pytest.fixture
def parts(peer_board, peer_sentio):
    """A function that connects a board and a prober through a broker."""
    drivers = []

    def connect(broker, timeout=0.5):
        with through(broker):
            link = BoardLink(open_port(peer_board.address, timeout=timeout))
            drivers.append(Sentio("prober", peer_sentio.address, timeout=timeout))
        return link, drivers[-1]

    yield connect
    for driver in drivers:
        driver.close()


def outcomes(path):
    """What became of each instrument, from the traffic of a broker that has ended."""
    notes = [json.loads(each.payload) for each in read_traffic(path) if each.kind is Kind.NOTE]
    return [note["outcomes"] for note in notes if note["what"] == "made safe"]


def own(path):
    """What the broker itself sent and received."""
    return [each.payload for each in read_traffic(path) if each.kind is Kind.OWN]


# -- the owner is gone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["is killed", "waits", "returns"])
def test_a_station_whose_owner_is_gone_is_safe_at_once(simulated, fate):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, simulated.file, fate], stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline().strip() == b"ready"
        assert simulated.entries("outputs")[-1]["mode"] != "hard_ground"
        gone = time.time()
        if fate != "returns":
            owner.kill()
        grounded = simulated.wait_for("outputs", gone, 2.0, mode="hard_ground")
        apart = simulated.wait_for("separation", gone, 2.0, outputs="hard_ground")
        assert grounded["contact"] and grounded["wall_s"] < apart["wall_s"] < gone + 2.0
        owner.wait(5)
    finally:
        owner.kill()
        owner.stdout.close()


def test_after_goodbye_nothing_is_sent(simulated):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, simulated.file, "says goodbye"], stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout.readline().strip() == b"ready"
        said = time.time()
    with Broker(simulated.file):  # comes up when the other one has ended
        assert not [each for what in ("outputs", "separation") for each in simulated.entries(what)
                    if each["wall_s"] >= said]  # fmt: skip
    assert own(simulated.file.with_name("says goodbye.traffic")) == []


def test_late_answers_and_one_connection(start, parts, peer_board, peer_sentio, tmp_path):
    """Both instruments are busy with something when the owner goes: the recipes wait for them on the connections."""
    broker = start(traffic=tmp_path / "run.traffic")
    link, prober = parts(broker, timeout=10.0)
    peer_board.faults[Opcode.READ] = [delay(0.4)]
    peer_sentio.script["map:step_first_die"] = [lambda to: (time.sleep(0.6), to.sendall(b"0,0,0,0,0\n"))]
    peer_sentio.z = 16000.0
    for action in (lambda: link.ask(Opcode.READ, bytes(8)), lambda: prober._session.query("map:step_first_die")):
        threading.Thread(target=suppressed(action), daemon=True).start()
    time.sleep(0.2)
    began = time.monotonic()
    broker.close(failed=True)
    assert time.monotonic() - began < 2.0
    assert [each["fault"] for (made,) in [outcomes(tmp_path / "run.traffic")] for each in made] == ["", ""]
    assert peer_board.clients == peer_sentio.clients == 1
    assert peer_board.count(Opcode.ESTOP) == 1
    assert peer_sentio.z == 15700.0
    said = own(tmp_path / "run.traffic")
    assert said[said.index(b"0,0,0,0,0") + 1] == b"0,0,15700.0"  # the late answer was not taken for the other
    assert peer_sentio.count("move_chuck_separation") == 1


def suppressed(action):
    def run():
        with suppress(Exception):
            action()

    return run


def test_a_dead_connection_is_opened_again(start, parts, peer_board):
    broker = start()
    parts(broker)
    peer_board._connections[0].shutdown(socket.SHUT_RDWR)
    broker.close(failed=True)
    assert peer_board.clients == 2 and peer_board.count(Opcode.ESTOP) == 1


def test_the_end_of_the_broker_process_is_taken_for_that_of_the_owner(start, parts, peer_board):
    broker = start()
    parts(broker)
    os.kill(broker.pid, signal.SIGTERM)
    broker._process.wait(5)
    assert (peer_board.count(Opcode.ESTOP) == 1) == (os.name == "posix")


def test_opening_that_blocks_holds_nobody_up(start, parts, peer_board, peer_sentio):
    """An address that swallows connections: the recipe of another instrument runs all the same."""
    swallowing = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(swallowing.getsockname())
        fillers.append(filler)
    broker = start()
    parts(broker)
    stuck = broker.transport("port", f"socket://127.0.0.1:{swallowing.getsockname()[1]}",
                             {"baudrate": 1, "timeout": 5.0})  # fmt: skip
    stuck.register(OffRecipe(Stage.FIELD, (OffStep(b"off"),), b"\n", limit=0.5))
    threading.Thread(target=suppressed(stuck.open), daemon=True).start()
    time.sleep(0.2)
    began = time.monotonic()
    made = broker.make_safe("tried")
    assert time.monotonic() - began < 3.0
    assert [(each.name == stuck.name) == bool(each.fault) for each in made] == [True] * 3
    assert peer_board.count(Opcode.ESTOP) == 1
    for each in (swallowing, *fillers):
        each.close()


# -- the lease ---------------------------------------------------------------------------------------------------------


def test_a_silent_owner_loses_the_station(start, parts, peer_board, peer_sentio):
    broker = start(lease=0.5)
    link, prober = parts(broker)
    link.last_action()
    silent = time.monotonic()
    while not peer_board.count(Opcode.ESTOP):
        assert time.monotonic() - silent < 1.5
        time.sleep(0.02)
    assert time.monotonic() - silent >= 0.5
    time.sleep(0.2)
    for request in (link.last_action, prober.where, prober.separate, lambda: link.stop(0.1), link.port.reopen):
        for _ in range(2):
            with pytest.raises(ReleasedError, match=r"nothing was heard .* for .* s \(its lease is 0.5 s\)"):
                request()
    with through(broker), pytest.raises(ReleasedError, match="nothing was heard"):
        open_port(peer_board.address)
    assert "nothing was heard" in broker.released()
    assert peer_board.count(Opcode.ESTOP) == 1


def test_an_owner_at_rest_or_who_renews_or_waits_keeps_it(start, parts, peer_board):
    broker = start(lease=0.4)
    link, _ = parts(broker, timeout=5.0)
    link.last_action()
    broker.rest()
    time.sleep(1.0)
    assert link.last_action() and not broker.released()
    for _ in range(10):
        broker.renew()
        time.sleep(0.1)
    assert link.last_action() and not broker.released()
    peer_board.faults[Opcode.IDN] = [delay(1.2)]
    assert link.ask(Opcode.IDN)
    assert not broker.released()
    assert peer_board.count(Opcode.ESTOP) == 0


def test_what_cannot_be_made_safe_is_said_to_the_owner(start, parts, peer_board):
    broker = start()
    link, _ = parts(broker)
    link.port.register(OffRecipe(Stage.SOURCE, (OffStep(b"off\0", b"safe"),), b"\0", limit=0.6))
    peer_board.stop()
    faults = [each.fault for each in broker.make_safe("tried") if each.fault]
    assert len(faults) == 1 and "cannot be opened again" in faults[0]
    with pytest.raises(ReleasedError, match="NOT ALL OF IT IS SAFE"):
        link.last_action()


# -- the broker is gone ------------------------------------------------------------------------------------------------


def test_a_killed_broker_is_noticed_at_once_and_replaced(start, parts, peer_board, peer_sentio):
    broker = start()
    link, prober = parts(broker, timeout=5.0)
    prober.first_die()
    prober.contact()
    broker._process.kill()
    broker._process.wait()
    for request in (link.last_action, prober.where, link.last_action, broker.rest, broker.status):
        began = time.monotonic()
        with pytest.raises(BrokerError, match="is gone"):
            request()
        assert time.monotonic() - began < 0.5
    made = broker.make_safe("the broker is gone")
    assert [each.fault for each in made] == ["", ""]
    assert peer_board.count(Opcode.ESTOP) == 1 and peer_sentio.z == 15700.0
    assert broker.released() == ""


@pytest.fixture
def impatient(monkeypatch):
    """A broker must say sooner that it lives than at a bench."""
    monkeypatch.setattr("instruments.broker.client._ALIVE", 1.0)


def halt(broker):
    """Stop the broker as a hang would; it has stopped when this returns."""
    os.kill(broker.pid, signal.SIGSTOP)
    while psutil.Process(broker.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.002)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signal that halts a process")
def test_a_broker_that_hangs_once_it_was_told_is_replaced(
    start, parts, peer_board, peer_sentio, monkeypatch, impatient
):
    """It says that it lives, and hangs before the station is safe."""
    broker = start()
    _, prober = parts(broker, timeout=5.0)
    prober.first_die()
    prober.contact()
    ask = broker.ask

    def ask_and_halt(*arguments, **how):
        answer = ask(*arguments, **how)
        halt(broker)
        return answer

    monkeypatch.setattr(broker, "ask", ask_and_halt)
    began = time.monotonic()
    assert [each.fault for each in broker.make_safe("the broker hangs")] == ["", ""]
    assert time.monotonic() - began < 8
    assert peer_board.latched and peer_sentio.z == 15700.0


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signal that halts a process")
def test_a_broker_that_hangs_is_replaced(start, parts, peer_board, peer_sentio, impatient):
    broker = start()
    _, prober = parts(broker, timeout=5.0)
    prober.first_die()
    prober.contact()
    halt(broker)
    began = time.monotonic()
    assert [each.fault for each in broker.make_safe("the broker hangs")] == ["", ""]
    assert time.monotonic() - began < 6
    assert peer_board.latched and peer_sentio.z == 15700.0


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signal that halts a process")
def test_a_visitor_of_a_broker_that_hangs_is_not_told_that_all_is_safe(start, parts, impatient):
    broker = start()
    parts(broker)
    visitor = BrokerClient(broker.port, broker.token, role="visitor")
    halt(broker)
    try:
        with pytest.raises(BrokerError, match="is gone"):
            visitor.make_safe("a visitor asks")
    finally:
        os.kill(broker.pid, signal.SIGCONT)
        visitor.end()


def test_a_watchdog_sleeps_while_the_broker_lives_and_bites_when_it_is_killed(simulated):
    broker = Broker(simulated.file)
    station = load_station(simulated.file, broker)
    station.array.reset()
    assert station.array.arm_watchdog(0.3) is True
    began = time.time()
    time.sleep(2.0)
    station.array.read(0, 0.1)  # it would be refused
    broker._process.kill()
    broker._process.wait()
    bitten = simulated.wait_for("outputs", began, 2.0, why="watchdog")
    assert bitten["wall_s"] > began + 2.0
    station.forget()
    broker.close()


def test_a_station_that_was_released_gets_no_heartbeats(start, parts, peer_board):
    broker = start()
    link, _ = parts(broker)
    assert link.arm_watchdog(200)
    time.sleep(0.3)
    assert peer_board.count(Opcode.HEARTBEAT) > 2
    link.port.reopen()
    before = peer_board.count(Opcode.HEARTBEAT)
    time.sleep(0.3)
    assert peer_board.count(Opcode.HEARTBEAT) > before  # they go on over a new connection
    broker.make_safe("tried")
    before = peer_board.count(Opcode.HEARTBEAT)
    time.sleep(0.3)
    assert peer_board.count(Opcode.HEARTBEAT) == before


def test_a_lost_heartbeat_ends_the_session_and_reopening_mends_it(start, parts, peer_board):
    broker = start()
    link, _ = parts(broker)
    peer_board.faults[Opcode.HEARTBEAT] = [lambda board, to, request, reply: to.sendall(reply) or False, lose_reply]
    link.arm_watchdog(200)
    time.sleep(1.4)
    assert link.last_action()
    assert link.statistics.repeated_requests == 1
    before = peer_board.count(Opcode.HEARTBEAT)
    time.sleep(0.3)
    assert peer_board.count(Opcode.HEARTBEAT) > before


# -- one station, one owner --------------------------------------------------------------------------------------------


def test_a_second_program_waits_for_an_instrument_and_is_refused(start, peer_board):
    first, second = start(), start("copy.yaml", patience=0.3)
    with through(first):
        open_port(peer_board.address)
    again = peer_board.address.replace("127.0.0.1", "localhost")
    with through(second), pytest.raises(InstrumentError, match=rf"process {first.pid} of user .*station\.yaml"):
        open_port(again)
    assert peer_board.clients == 1
    threading.Timer(0.3, first.close).start()
    with through(start("third.yaml", patience=20.0)):
        open_port(again)


def test_idle_strangers_keep_nobody_out(start, parts):
    """Fewer than the broker may open, more than it waits for: those who show the token are served all the while."""
    broker = start()
    strangers = [socket.create_connection(("127.0.0.1", broker.port), timeout=2) for _ in range(3 * STRANGERS)]
    try:
        assert BrokerClient(broker.port, broker.token, "visitor").status()["owner"] == "here"
        assert parts(broker)[0].last_action()
        dropped = sum(each.recv(1) == b"" for each in strangers[: 2 * STRANGERS - 4])
        assert dropped == 2 * STRANGERS - 4
    finally:
        for each in strangers:
            each.close()


def test_accepting_goes_on_when_descriptors_have_run_out(monkeypatch):
    broker = server.Broker(server.Settings("secret", 30.0))
    real, fails = broker._listener, [OSError(errno.EMFILE, "too many open files")] * 3

    class Failing:
        def accept(self):
            if fails:
                raise fails.pop()
            return real.accept()

        def __getattr__(self, name):
            return getattr(real, name)

    broker._listener = Failing()
    monkeypatch.setattr(server, "TICK", 0.01)
    accepting = threading.Thread(target=broker._accept, daemon=True)
    accepting.start()
    assert BrokerClient(broker.port, "secret", "visitor").status()["owner"] == "awaited"
    real.shutdown(socket.SHUT_RDWR)
    real.close()
    accepting.join(5)
    assert not accepting.is_alive() and not fails


def test_who_drips_is_dropped():
    """A byte now and then holds no connection longer than the time for a token."""
    broker = server.Broker(server.Settings("secret", 30.0))
    there = socket.create_connection(broker._listener.getsockname())
    here, _ = broker._listener.accept()
    with here, there:
        broker._strangers[Channel(here)] = time.monotonic() - server.HELLO - 0.1
        broker._drop_strangers(STRANGERS)
        assert there.recv(1) == b"" and not broker._strangers
    broker._listener.close()


def test_what_makes_it_safe_outlives_a_broker_that_is_killed(start, parts, peer_board, peer_sentio, tmp_path):
    recipes = tmp_path / "recipes.json"
    broker = start(recipes=recipes)
    parts(broker)
    peer_sentio.z = 16000.0
    assert os.name != "posix" or stat.S_IMODE(recipes.stat().st_mode) == 0o600
    broker._process.kill()
    broker._process.wait()
    outcomes = make_safe(kept_devices(recipes))
    assert [each.fault for each in outcomes] == ["", ""]
    assert peer_board.count(Opcode.ESTOP) == 1 and peer_sentio.z == 15700.0


@pytest.mark.parametrize("failed", [True, False])
def test_what_makes_it_safe_is_not_kept_of_a_station_that_is(start, parts, peer_board, peer_sentio, tmp_path, failed):
    broker = start(recipes=tmp_path / "recipes.json")
    parts(broker)
    broker.close(failed=failed)
    assert not (tmp_path / "recipes.json").exists()
    assert kept_devices(tmp_path / "recipes.json") == []


@pytest.mark.parametrize("text", ["", "{}", '[{"kind": "port"}]', "[1]", "[" * 10_000])
def test_recipes_that_were_damaged_are_named(tmp_path, text):
    (tmp_path / "recipes.json").write_text(text)
    with pytest.raises(ValueError, match=r"recipes\.json|Expecting"):
        if not kept_devices(tmp_path / "recipes.json"):
            raise ValueError("recipes.json holds none")


def test_visitors_ask_and_stop_but_own_nothing(start, parts, peer_board):
    broker = start()
    link, _ = parts(broker)
    for _ in range(2):
        visitor = BrokerClient(broker.port, broker.token, "visitor")
        assert visitor.status()["owner"] == "here" and len(visitor.status()["sessions"]) == 2
        with pytest.raises(BrokerError, match="for the owner"):
            visitor.rest()
        visitor.renew()
        visitor.end()
    assert link.last_action()
    with pytest.raises(BrokerError, match="owner already"):
        BrokerClient(broker.port, broker.token)
    visitor = BrokerClient(broker.port, broker.token, "visitor")
    assert [each.fault for each in visitor.make_safe("somebody pressed stop")] == ["", ""]
    visitor.end()
    with pytest.raises(ReleasedError, match="somebody pressed stop"):
        link.last_action()


def test_without_the_token_nothing_is_answered_and_garbage_harms_nobody(start, parts):
    broker = start()
    link, _ = parts(broker)
    hello = json.dumps({"role": "visitor", "token": "no"}).encode()
    mine = json.dumps({"role": "visitor", "token": broker.token}).encode()
    for said in (
        HEAD.pack(len(hello), 0) + hello,
        HEAD.pack(2, 0) + b"{}",
        HEAD.pack(4, 0) + b"[1]\n",
        HEAD.pack(LARGEST, 0) + b"x" * 70_000,
        b"\xff" * 1000,
        HEAD.pack(len(mine), 0) + mine + HEAD.pack(0, 99) + HEAD.pack(LARGEST + 1, 16),
    ):
        with socket.create_connection(("127.0.0.1", broker.port), timeout=7) as stranger:
            stranger.sendall(said)
            with suppress(ConnectionError):
                answered = stranger.recv(100)
                assert (answered != b"") == (mine in said)
    assert link.last_action()
    assert broker.status()["owner"] == "here"


def test_what_a_session_does_not_know_is_refused(start, parts):
    broker = start()
    link, _ = parts(broker)
    transport = link.port._transport
    for code, body in ((Operation.REST, b""), (Operation.REGISTER, b"nonsense"), (Operation.QUERY, b"")):
        with pytest.raises(ConnectionError):
            transport._ask(code, body)
    assert link.last_action()


def test_an_owner_that_never_comes_is_not_waited_for():
    code = "import instruments.broker.process as b; b.OWNER_PATIENCE = 0.3; b.main()"
    settings = {"token": "t", "lease": 1.0}
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(settings) + "\n", text=True,
                          capture_output=True, timeout=10, check=True)  # fmt: skip
    assert json.loads(done.stdout)["port"] > 0


def test_a_forked_child_does_not_stand_in_for_its_owner(tmp_path, peer_board):
    """A child holds copies of the owner's sockets: they stay open when the owner dies."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    code = """
import os, signal, sys, time
from pathlib import Path
from instruments.board_protocol.link import BoardLink
from instruments.broker.client import Broker
from instruments.wire.sessions import open_port, through
broker = Broker(Path(sys.argv[1]))
with through(broker):
    link = BoardLink(open_port(sys.argv[2]))
link.last_action()
if os.fork() == 0:
    os.close(1), os.close(2), time.sleep(3), os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "s.yaml", peer_board.address], timeout=10, check=False)
    until = time.monotonic() + 2
    while not peer_board.count(Opcode.ESTOP):
        assert time.monotonic() < until
        time.sleep(0.02)


# -- threads and interruptions -----------------------------------------------------------------------------------------


def test_an_abandonment_of_an_earlier_opening_is_ignored(start, parts):
    broker = start()
    link, _ = parts(broker)
    transport = link.port._transport
    link.last_action()
    link.port.reopen()
    transport._opening -= 1
    transport._busy.acquire()
    transport.abandon("too late")
    transport._busy.release()
    transport._opening, transport._abandoned = transport._opening + 1, None
    assert link.last_action() and link.statistics.repeated_requests == 0


def test_stop_gets_through_to_a_board_that_somebody_waits_for(start, parts, peer_board):
    broker = start()
    link, _ = parts(broker, timeout=5.0)
    link.last_action()
    peer_board.faults[Opcode.READ] = [lose_reply]
    waiting = threading.Thread(target=suppressed(lambda: link.ask(Opcode.READ, bytes(8))))
    waiting.start()
    time.sleep(0.2)
    began = time.monotonic()
    link.stop(0.2)
    assert time.monotonic() - began < 1.5
    waiting.join(5)
    assert not waiting.is_alive() and peer_board.count(Opcode.ESTOP) >= 2


def test_a_channel_can_be_closed_under_one_who_waits():
    here, there = socket.create_server(("127.0.0.1", 0)), socket.socket()
    there.connect(here.getsockname())
    accepted, _ = here.accept()
    for patience in (None, 5.0):
        channel = Channel(socket.create_connection(here.getsockname()))
        threading.Timer(0.1, channel.close).start()
        began = time.monotonic()
        with pytest.raises(OSError):
            channel.receive(patience)
        assert time.monotonic() - began < 1
    for each in (here, there, accepted):
        each.close()


def test_open_visa_through_a_broker_ends_with_it(start, peer_sentio):
    with start() as broker, through(broker):
        session = open_visa(peer_sentio.address)
        assert session.query("status:get_version").startswith("0,0")
        session.close()
    with pytest.raises(BrokerError):
        session.reopen()
