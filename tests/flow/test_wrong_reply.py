"""Nobody gets somebody else's answer: benchmarks/wrong_reply.py for xbarlab, in short."""

import pytest
import wrong_reply
from wrong_reply import OURS, RIGHT, WRONG


def test_a_late_reply_is_taken_for_an_answer_by_a_bare_resource():
    """The instrument does what it is meant to do to a session."""
    assert wrong_reply.late_replies(wrong_reply.pyvisa_session, 1, then="next") == {WRONG: 1}


@pytest.mark.parametrize("who", OURS)
def test_a_late_reply_ends_a_session_until_it_is_opened_again(who):
    assert wrong_reply.late_replies(OURS[who], 1, then="next") == {"LinkError": 1}
    assert wrong_reply.late_replies(OURS[who], 1, then="in step again") == {RIGHT: 1}


@pytest.mark.parametrize("who", OURS)
def test_two_threads_get_their_own_answers(who):
    assert wrong_reply.two_threads(OURS[who], 200) == {RIGHT: 400}


@pytest.mark.parametrize("broker", [False, True])
def test_drivers_give_right_values_though_replies_come_late(broker):
    found = wrong_reply.measure_drivers(broker, 2)
    assert {what: set(tally) for what, tally in found.items()} == {what: {RIGHT} for what in found}
    assert {what: tally.total() for what, tally in found.items()} == {
        "FramedBoard, reads": 16, "Sentio, questions": 8, "FramedBoard, pulses": 8,
    }  # fmt: skip
