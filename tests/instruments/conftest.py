"""Peers and drivers, connected and closed again."""

import pytest
from scripted_peers import ScriptedBoard, ScriptedSentio

from instruments.drivers.board import FramedBoard
from instruments.drivers.sentio import Sentio


@pytest.fixture
def peer_board():
    peer = ScriptedBoard()
    yield peer
    peer.stop()


@pytest.fixture
def board(peer_board):
    driver = FramedBoard("array", peer_board.address, timeout=0.3)
    yield driver
    driver.close()


@pytest.fixture
def peer_sentio():
    peer = ScriptedSentio()
    yield peer
    peer.stop()


@pytest.fixture
def sentio(peer_sentio):
    driver = Sentio("prober", peer_sentio.address, timeout=0.4, move_timeout=0.6)
    yield driver
    driver.close()
