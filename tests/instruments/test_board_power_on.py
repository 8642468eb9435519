"""What a board's count of pulses proves after a lost reply, when the board may have been restarted meanwhile."""

from __future__ import annotations

import struct
import time
from contextlib import suppress

import numpy as np
import pytest
from scripted_peers import ScriptedBoard, delay, disconnect, lose_reply

from instruments.board_protocol import link as board_link
from instruments.board_protocol.frames import Opcode
from instruments.drivers.board import FramedBoard
from instruments.roles.interfaces import BusyError, Executed, LinkError, PulseNotFiredError, UnknownOutcomeError

pytestmark = pytest.mark.slow

ONE = np.zeros((3, 4), dtype=bool)
ONE[1, 2] = True


class RestartingBoard(ScriptedBoard):
    """Counts in memory that a restart clears; `number` is what it says of its power-on, None before protocol 1.2.

    `on_open`: it restarts whenever somebody connects, and hears nothing for `boot` (s) then.
    """

    def __init__(self, number: int | None) -> None:
        self.number, self.on_open, self.boot, self.up = number, False, 0.0, 0.0
        super().__init__({} if number is None else {"power_on": True})

    def _attend(self, connection):
        if self.on_open:
            self.restart()
            self.up = time.monotonic() + self.boot
        super()._attend(connection)

    def restart(self) -> None:
        self.actions, self.last = 0, (0, 0)
        if self.number is not None:
            self.number += 1

    def message(self, connection, data):
        return False if time.monotonic() < self.up else super().message(connection, data)

    def do_last_action(self, request):
        told = super().do_last_action(request)
        return told + struct.pack("<Q", self.number) if request.payload == b"\x01" else told


def restart(board, connection, request, reply) -> bool:
    """The board restarts after the request; its port stays open."""
    board.restart()
    return False


def ignored(board, connection, request, reply) -> bool:
    """Neither was the pulse fired nor is there an answer."""
    board.actions, board.last = board.before
    return False


@pytest.fixture(params=[None, 0xABC], ids=["1.1", "1.2"])
def peer(request):
    board = RestartingBoard(request.param)
    yield board
    board.stop()


@pytest.fixture
def board(peer):
    board = FramedBoard("power_on", peer.address, timeout=0.3)
    yield board
    board.close()


def fire(board) -> None:
    board.pulse(0, ONE, 0.5, 1e-7)


def test_the_number_of_the_power_on_is_told_by_boards_that_have_one(board, peer):
    fire(board)
    (_, seq), known = (peer.frames[-1].opcode, peer.last[0]), peer.number is not None
    assert board.executed() == Executed(seq, 1, f"{0xABC:016x}" if known else "")
    peer.restart()
    assert board.executed() == Executed(0, 0, f"{0xABD:016x}" if known else "")


@pytest.mark.parametrize("fired", [0, 1, 3])
def test_a_restart_is_never_taken_for_a_pulse_that_was_not_fired(board, peer, fired):
    for _ in range(fired):
        fire(board)
    peer.faults[Opcode.PULSE] = [restart]
    with pytest.raises(UnknownOutcomeError, match="restarted"):
        fire(board)
    assert peer.count(Opcode.PULSE) == fired + 1


def test_a_pulse_fired_after_an_unnoticed_restart_is_not_taken_for_the_one_before(board, peer):
    fire(board)
    peer.restart()  # the count will be 1 again
    peer.faults[Opcode.PULSE] = [lose_reply]
    with pytest.raises(UnknownOutcomeError):
        fire(board)
    assert peer.count(Opcode.PULSE) == 2


def test_an_unchanged_count_proves_that_nothing_was_fired_unless_a_restart_could_explain_it(board, peer):
    peer.before, peer.faults[Opcode.PULSE] = (0, (0, 0)), [ignored]
    with pytest.raises(UnknownOutcomeError if peer.number is None else PulseNotFiredError):
        fire(board)
    fire(board)
    peer.before, peer.faults[Opcode.PULSE] = (peer.actions, peer.last), [ignored]
    with pytest.raises(PulseNotFiredError):
        fire(board)


def test_a_board_that_restarts_when_its_port_is_opened_fires_once(board, peer):
    peer.on_open = True
    peer.faults[Opcode.PULSE] = [disconnect]
    with pytest.raises(UnknownOutcomeError):
        fire(board)
    assert peer.count(Opcode.PULSE) == 1


@pytest.mark.parametrize("fault", [lose_reply, delay(0.4)])
def test_a_lost_reply_does_not_open_the_port_again(board, peer, fault):
    peer.on_open = True
    peer.faults[Opcode.PULSE], peer.faults[Opcode.READ] = [fault], [fault]
    fire(board)
    board.read(0, 0.1)
    assert peer.clients == 1 and peer.actions == 1 and board.recovered_pulses() == 1


def test_the_number_of_a_frame_is_never_that_of_the_last_one_fired(board, peer):
    fire(board)
    for _ in range(253):  # numbers go around after 254
        board.identify()
    fire(board)
    first, second = (frame.seq for frame in peer.frames if frame.opcode == Opcode.PULSE)
    assert first != second


def test_busy_is_a_refusal_by_its_own_word(board, peer):
    peer.refuse[Opcode.PULSE] = [board_link.Status.BUSY]
    with pytest.raises(BusyError, match="nothing was fired"):
        fire(board)


def test_a_board_that_starts_when_its_port_is_opened_is_waited_for(peer, caplog):
    peer.on_open, peer.boot = True, 0.6
    board = FramedBoard("booting", peer.address, timeout=0.2)
    board.close()
    assert peer.clients == 1 and "may be starting" in caplog.text


def test_one_that_stays_silent_is_given_up(peer, monkeypatch):
    monkeypatch.setattr(board_link, "STARTING", 0.5)
    peer.on_open, peer.boot = True, 60.0
    began = time.monotonic()
    with pytest.raises(LinkError, match=r"asked for 0\.5 s"):
        FramedBoard("mute", peer.address, timeout=0.2)
    assert time.monotonic() - began < 5 and peer.clients == 1
    with suppress(KeyError):
        FramedBoard.close_all()
