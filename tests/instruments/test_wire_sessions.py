"""The promise of a session: after an error nothing is read from it until it was opened again."""

import _thread
import random
import threading
import time
from contextlib import suppress

import pytest
from scripted_peers import Peer

from instruments.broker.client import Broker
from instruments.roles.interfaces import InstrumentError, LinkError
from instruments.wire.sessions import PortSession, VisaSession, open_port, open_visa, through

pytestmark = pytest.mark.slow

REOPENINGS = {VisaSession: 40, PortSession: 5}
"""How often to open again in one test: pyserial takes 0.3 s to close a socket."""


class Parrot(Peer):
    """Says back what it hears; `wait N` first waits N seconds, `silence` gets no answer, `bye` ends."""

    def message(self, connection, data):
        words = data.decode(errors="replace").split()
        if words == ["bye"]:
            return True
        if words[:1] == ["wait"]:
            time.sleep(float(words[1]))
        if words != ["silence"]:
            connection.sendall(data + b"\n")
        return False


@pytest.fixture
def parrot():
    peer = Parrot()
    yield peer
    peer.stop()


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    home = tmp_path_factory.mktemp("broker")
    with Broker(home / "station.yaml", traffic=home / "run.traffic") as running:
        yield running


@pytest.fixture(params=["direct", "brokered"])
def held(request):
    """Sessions are promised the same whoever holds their connections."""
    if request.param == "direct":
        yield
    else:
        with through(request.getfixturevalue("broker")):
            yield


@pytest.fixture(params=["visa", "port"])
def talk(request, held, parrot):
    """A session and a function that asks over it, for either kind."""
    if request.param == "visa":
        session = open_visa(f"TCPIP::127.0.0.1::{parrot.port}::SOCKET", timeout=0.3)

        def ask(text):
            return session.query(text)
    else:
        session = open_port(f"socket://127.0.0.1:{parrot.port}", timeout=0.3)

        def ask(text):
            session.send(text.encode() + b"\n")
            return session.receive(b"\n").decode()

    yield session, ask
    session.close()


def test_question_and_answer(talk):
    session, ask = talk
    assert [ask(str(n)) for n in range(5)] == ["0", "1", "2", "3", "4"]
    assert session.usable


def test_a_late_reply_is_never_the_next_answer(talk):
    session, ask = talk
    with pytest.raises(LinkError):
        ask("wait 0.5")
    assert not session.usable
    time.sleep(0.4)  # the late reply has come by now
    with pytest.raises(LinkError, match="must be opened again"):
        ask("next")
    session.reopen()
    assert ask("next") == "next"


def test_a_lost_connection_is_noticed_at_once(talk):
    session, ask = talk
    session.timeout = 20
    started = time.monotonic()
    with pytest.raises(LinkError):
        ask("bye")
    assert time.monotonic() - started < 2


def test_what_was_not_asked_for_is_not_an_answer(held, parrot):
    session = open_visa(f"TCPIP::127.0.0.1::{parrot.port}::SOCKET", timeout=0.5)
    session.query("hello")
    session.write("unasked")
    time.sleep(0.1)
    with pytest.raises(LinkError, match="out of step"):
        session.query("hello")
    session.reopen()
    assert session.query("two\nlines") == "two"  # the second line stays in the back end's own buffer
    with pytest.raises(LinkError, match="out of step"):
        session.query("hello")
    session.close()


def test_a_lost_connection_is_said_and_can_be_opened_again(talk):
    session, ask = talk
    ask("hello")
    with pytest.raises(LinkError, match="given up"):
        ask("bye")
    session.reopen()
    assert ask("hello") == "hello"


def test_an_interruption_ends_the_session(talk, monkeypatch):
    session, ask = talk
    for name in ("query", "receive"):
        monkeypatch.setattr(session._transport, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ask("hello")
    monkeypatch.undo()
    with pytest.raises(LinkError, match="must be opened again"):
        ask("hello")
    session.reopen()
    assert ask("hello") == "hello"


def test_interrupting_from_another_thread_ends_the_session(talk, parrot):
    session, ask = talk
    outcome = []

    def wait():
        try:
            outcome.append(ask("silence"))
        except LinkError as error:
            outcome.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    session.interrupt("stop" if hasattr(session, "write") else b"stop\n")
    waiting.join()
    assert not session.usable


def test_nobody_listens_at_a_port(held):
    with pytest.raises(LinkError) as error:
        open_port("socket://127.0.0.1:9", timeout=0.3)
    assert "127.0.0.1:9" in str(error.value)
    assert "xbar sim" in str(error.value) and "station file" in str(error.value)


def test_nobody_listens_at_a_visa_address(held):
    with pytest.raises(LinkError) as error:
        open_visa("TCPIP::127.0.0.1::9::SOCKET", timeout=0.3)
    assert "127.0.0.1::9" in str(error.value)
    assert "xbar sim" in str(error.value) and "station file" in str(error.value)


@pytest.mark.parametrize("opener, address", [(open_visa, "NONSENSE"), (open_port, "socket://nowhere")])
def test_a_malformed_address_is_named(held, opener, address):
    with pytest.raises(LinkError, match=address):
        opener(address, timeout=0.3)


def test_closing_twice_is_harmless(talk):
    session, _ = talk
    session.close()
    session.close()
    assert not session.usable


def test_a_port_that_never_ends_its_message_is_out_of_step(parrot, monkeypatch):
    monkeypatch.setattr("instruments.wire.transports.LARGEST_MESSAGE", 1000)
    session = open_port(f"socket://127.0.0.1:{parrot.port}", timeout=2)
    session.send(b"x" * 5000 + b"\n")
    with pytest.raises(LinkError, match="without an end"):
        session.receive(b"\0")
    session.close()


def test_ctrl_c_at_any_moment_never_leaves_an_answer_to_the_next_question(talk):
    session, ask = talk
    session.timeout, draw, number = 5.0, random.Random(3), 0
    for _ in range(REOPENINGS[type(session)]):
        with suppress(KeyboardInterrupt):
            threading.Timer(draw.uniform(0.002, 0.02), _thread.interrupt_main).start()
            while True:
                number += 1
                assert ask(f"wait 0.003 {number}" if number % 5 == 0 else str(number)).split()[-1] == str(number)
        if not session.usable:
            session.reopen()
        assert ask("next") == "next"


def test_after_ctrl_c_during_a_long_wait_the_next_request_is_served_at_once(talk):
    session, ask = talk
    session.timeout = 5.0
    threading.Timer(0.1, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        ask("silence")
    began = time.monotonic()
    session.reopen()
    assert ask("next") == "next" and time.monotonic() - began < 1.0


def test_two_threads_share_a_session(talk):
    session, ask = talk
    wrong = []

    def question(name):
        for number in range(1000):
            with session.lock:
                if ask(f"{name}{number}") != f"{name}{number}":
                    wrong.append(number)

    threads = [threading.Thread(target=question, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_late_answers_among_many(talk):
    session, ask = talk
    draw, late, every = random.Random(5), 0, 1000 // REOPENINGS[type(session)]
    for number in range(1000):
        slow = number % every == 0
        session.timeout = 0.004 if slow else 5.0
        text = f"wait {draw.uniform(0.002, 0.012):.4f} {number}" if slow else str(number)
        try:
            assert ask(text) == text
        except LinkError:
            late += 1
            session.reopen()
    assert late > 0


@pytest.mark.parametrize("backend", ["./evil.so", "/usr/lib/libvisa.so@ivi", "@sim", "@evil", ""])
def test_a_back_end_is_named_and_no_file_is_loaded(held, backend):
    with pytest.raises(InstrumentError, match="none of @py, @ivi"):
        open_visa("TCPIP::127.0.0.1::9::SOCKET", timeout=0.3, backend=backend)
