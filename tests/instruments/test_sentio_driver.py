"""`Sentio` against a scripted prober: the route, the heights, and what goes wrong on the wire and on the stage."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruments.drivers.sentio import Sentio
from instruments.drivers.sentio_reply import parse
from instruments.roles.interfaces import DieSite, LinkError, ProberError, ZState

C0, C1, C2 = (DieSite(column, 0) for column in range(3))


def late(seconds, text):
    """A reply that comes late."""

    def answer(connection):
        time.sleep(seconds)
        connection.sendall(text.encode() + b"\n")

    return answer


@given(error=st.integers(0, 1023), flags=st.integers(0, 3), text=st.text("abc,.0123 ", max_size=20))
def test_a_reply_is_taken_apart(error, flags, text):
    reply = parse(f"{error + 1024 * flags},0,{text}")
    assert (reply.error, reply.flags, reply.text, reply.last_die) == (error, flags, text.strip(), flags % 2 == 1)


@pytest.mark.parametrize("line", ["", "0", "0,0", "a,b,c", "-5,0,x"])
def test_what_is_no_reply(line):
    with pytest.raises(ValueError):
        parse(line)


class TestRoute:
    def test_connecting_moves_nothing(self, sentio, peer_sentio):
        assert peer_sentio.lines == ["*RCS 1", "status:get_version"]
        assert sentio.identify() == "MPI,SENTIO,,25.2.3"

    def test_the_whole_route(self, sentio):
        assert sentio.die_sites() == [C0, C1, C2]
        assert sentio.where() is None
        assert (sentio.first_die(), sentio.last_die) == (C0, False)
        assert (sentio.next_die(), sentio.last_die) == (C1, False)
        assert (sentio.next_die(), sentio.last_die) == (C2, True)
        assert sentio.next_die() is None
        assert sentio.where() == C2

    def test_to_a_die(self, sentio, peer_sentio):
        assert sentio.goto_die(C1) == C1
        assert "map:step_die 1,0,0" in peer_sentio.lines

    @pytest.mark.parametrize("move", [Sentio.first_die, Sentio.next_die, lambda s: s.goto_die(C1)])
    def test_no_step_in_contact(self, sentio, peer_sentio, move):
        sentio.first_die()
        sentio.contact()
        asked = len(peer_sentio.lines)
        with pytest.raises(ProberError, match="Separate first"):
            move(sentio)
        assert not any("step" in line for line in peer_sentio.lines[asked:])

    def test_to_a_die_beside_the_route(self, sentio, peer_sentio):
        peer_sentio.script["map:step_die"] = ["0,0,5,5,0"]
        peer_sentio.script["map:die:get_current_index"] = ["0,0,-1,5,5", "0,0,-1,5,5"]
        assert sentio.goto_die(DieSite(5, 5)) == DieSite(5, 5)
        assert sentio.where() is None

    @pytest.mark.parametrize("move", [lambda s: s.next_die(), lambda s: s.goto_die(C2)])
    def test_lifted_but_not_stepped(self, sentio, peer_sentio, move):
        sentio.first_die()
        peer_sentio.stuck = True
        with pytest.raises(ProberError, match=r"die index says c0r0.*wafer map") as error:
            move(sentio)
        assert error.value.code == 0

    def test_a_reply_that_names_the_old_die_is_no_step(self, sentio, peer_sentio):
        sentio.first_die()
        peer_sentio.script["map:step_next_die"] = ["0,0,0,0,0"]
        with pytest.raises(ProberError, match="without stepping"):
            sentio.next_die()

    def test_bins_and_temperature(self, sentio, peer_sentio):
        sentio.set_bin(C1, 7)
        assert peer_sentio.lines[-1] == "map:bins:set_bin 7,1,0"
        assert sentio.chuck_temperature() == 25.4
        assert sentio.temperature() == 25.4


class TestHeights:
    def test_contact_and_separate_are_read_back(self, sentio):
        sentio.contact()
        assert sentio.z_state() is ZState.CONTACT
        sentio.separate()
        assert sentio.z_state() is ZState.SEPARATED

    @pytest.mark.parametrize(
        "z, state",
        [
            (16050.0, ZState.CONTACT),
            (16000.0, ZState.CONTACT),
            (15999.5, ZState.CONTACT),
            (15900.0, ZState.UNKNOWN),
            (15700.5, ZState.SEPARATED),
            (0.0, ZState.SEPARATED),
        ],
    )
    def test_state_of_a_height(self, sentio, peer_sentio, z, state):
        peer_sentio.z = z
        assert sentio.z_state() is state
        assert sentio.chuck_z() == pytest.approx(z * 1e-6)

    def test_no_taught_contact_is_unknown_and_said(self, sentio, peer_sentio):
        peer_sentio.script["get_chuck_site_heights"] = ["23,0,Contact height not set"]
        assert sentio.z_state() is ZState.UNKNOWN
        peer_sentio.script["get_chuck_site_heights"] = ["0,0,-1.0,300.0,50.0,100.0"]
        assert sentio.z_state() is ZState.UNKNOWN
        peer_sentio.script["move_chuck_contact"] = ["23,0,Contact height not set"]
        with pytest.raises(ProberError, match="teach it") as error:
            sentio.contact()
        assert error.value.code == 23

    def test_a_chuck_that_did_not_rise(self, sentio, peer_sentio):
        peer_sentio.script["move_chuck_contact"] = ["0,0,16000.0"]
        with pytest.raises(ProberError, match="height says separated"):
            sentio.contact()

    def test_newer_names_where_the_older_are_gone(self, sentio, peer_sentio):
        peer_sentio.script["move_chuck_contact"] = ["4,0,Unknown command"]
        peer_sentio.script["chuck:move_z"] = ["0,0,0,Contact"]
        peer_sentio.script["get_chuck_z"] = ["4,0,Unknown command"]
        peer_sentio.script["chuck:get_z"] = ["0,0,16000.0,Zero"]
        sentio.contact()
        assert "chuck:move_z Contact,0" in peer_sentio.lines


class TestFaults:
    @pytest.mark.parametrize(
        "code, advice", [(60, "door"), (38, "separate first"), (120, "overtravel"), (999, "manual")]
    )
    def test_errors_say_what_to_do(self, sentio, peer_sentio, code, advice):
        peer_sentio.script["move_chuck_contact"] = [f"{code},0,no"]
        with pytest.raises(ProberError, match=advice) as error:
            sentio.contact()
        assert error.value.code == code

    def test_a_late_answer_is_never_the_next(self, sentio, peer_sentio):
        peer_sentio.script["status:get_chuck_temp"] = [late(0.6, "0,0,99.0")]
        assert sentio.chuck_temperature() == 25.4  # asked again over a new connection
        assert peer_sentio.clients == 2
        assert sentio.where() is None

    def test_a_movement_without_reply_is_not_repeated(self, sentio, peer_sentio):
        peer_sentio.script["map:step_first_die"] = [late(0.9, "0,0,0,0,0")]
        with pytest.raises(LinkError):
            sentio.first_die()
        assert peer_sentio.count("map:step_first_die") == 1
        assert sentio.die_sites() == [C0, C1, C2]

    def test_disconnected_and_connected_again(self, sentio, peer_sentio):
        peer_sentio.script["map:die:get_current_index"] = [lambda connection: connection.shutdown(2)]
        assert sentio.where() is None
        assert peer_sentio.count("*RCS") == 2

    @pytest.mark.parametrize("garbage", ["what", "0,0", "0,0,x,y,z"])
    def test_a_garbled_answer_is_asked_again_a_few_times(self, sentio, peer_sentio, garbage, monkeypatch):
        monkeypatch.setattr("instruments.drivers.sentio.PAUSES", (0.01, 0.01))
        peer_sentio.script["map:die:get_current_index"] = [garbage] * 5
        with pytest.raises(LinkError, match=r"does not answer.*3 times.*no other program"):
            sentio.where()
        assert sentio.where() is None

    def test_what_is_not_allowed_now_is_commanded_again(self, sentio, peer_sentio, monkeypatch):
        monkeypatch.setattr("instruments.drivers.sentio.BUSY_PAUSES", (0.01, 0.01))
        peer_sentio.script["map:step_next_die"] = ["12,0,not now", "12,0,not now"]
        sentio.first_die()
        assert sentio.next_die() == C1
        peer_sentio.script["move_chuck_contact"] = ["12,0,not now"] * 3
        with pytest.raises(ProberError, match="busy"):
            sentio.contact()

    def test_a_movement_without_reply_that_was_made_is_not_commanded_again(self, sentio, peer_sentio):
        def moves(connection):
            peer_sentio.go(1)
            connection.shutdown(2)

        peer_sentio.script["map:step_die"] = [moves]
        assert sentio.goto_die(C1) == C1
        assert peer_sentio.count("map:step_die") == 1

    def test_a_movement_that_was_not_heard_is_commanded_once_more(self, sentio, peer_sentio):
        peer_sentio.script["move_chuck_contact"] = [lambda connection: connection.shutdown(2)]
        sentio.contact()
        assert peer_sentio.count("move_chuck_contact") == 2
        peer_sentio.script["map:step_die"] = [lambda connection: connection.shutdown(2)] * 2
        sentio.separate()
        with pytest.raises(LinkError, match=r"is not where that leads.*See on the prober"):
            sentio.goto_die(C1)
        assert peer_sentio.count("map:step_die") == 2

    def test_overtravel_that_an_earlier_program_left_on_is_switched_off(self, sentio, peer_sentio):
        peer_sentio.script["enable_chuck_overtravel"] = ["0,0,OK"]
        sentio.contact()
        sentio.contact()
        assert [line for line in peer_sentio.lines if "overtravel" in line] == ["enable_chuck_overtravel False"]

    def test_stop_while_another_thread_waits(self, peer_sentio):
        sentio = Sentio("stopped", peer_sentio.address, timeout=0.4, move_timeout=3)
        peer_sentio.script["move_chuck_contact"] = [None]
        failures = []

        def rise():
            try:
                sentio.contact()
            except LinkError as error:
                failures.append(error)

        moving = threading.Thread(target=rise, daemon=True)
        moving.start()
        time.sleep(0.1)
        started = time.monotonic()
        sentio.stop()
        time.sleep(0.2)
        assert peer_sentio.count("stop_chuck_xyz") == 1 and time.monotonic() - started < 1
        moving.join(5)
        assert len(failures) == 1  # the answer to the stop was not taken for that of the movement
        assert sentio.z_state() is ZState.SEPARATED
        sentio.close()

    def test_what_answers_is_no_prober(self, peer_sentio):
        peer_sentio.script["status:get_version"] = ["0,0,KEITHLEY"]
        with pytest.raises(ProberError, match="not the version of a SENTIO"):
            Sentio("other", peer_sentio.address, timeout=0.4)

    def test_nobody_there(self):
        with pytest.raises(LinkError, match="xbar sim"):
            Sentio("nobody", "TCPIP::127.0.0.1::9::SOCKET", timeout=0.4)
