"""Exchanges that do no harm if they happen twice: asked again, once, over a new connection, when the answer is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable

from instruments.roles import LinkError
from instruments.wire import VisaSession

_log = logging.getLogger(__name__)


def ask(session: VisaSession, line: str, reintroduce: Callable[[], None], timeout: float | None = None) -> str:
    """The answer to a line that may be sent twice.

    Parameters
    ----------
    session
        Where it is sent.
    line
        A question, or settings with a question behind them that come to the same if they are made twice.
    reintroduce
        Sees that the same instrument answers at a new connection.
    timeout
        Seconds allowed for the answer; the session's own if None.

    Raises
    ------
    LinkError
        There was no answer, twice.
    """
    with session.lock:
        try:
            reopened(session, reintroduce)
            return undamaged(session, line, timeout)
        except LinkError as error:
            _log.warning("asking %r again: %s", line, error)
            reopened(session, reintroduce)
            return undamaged(session, line, timeout)


def undamaged(session: VisaSession, line: str, timeout: float | None = None) -> str:
    """The answer to a line, asked once.

    Raises
    ------
    LinkError
        There was none, or it is no ASCII: instruments answer nothing else.
    """
    answer = session.query(line, timeout)
    if not answer.isascii():
        session.condemn(f"damaged answer to {line!r}")
        raise LinkError(f"{session.address}: {answer!r} is damaged; it was the answer to {line!r}")
    return answer


def reopened(session: VisaSession, reintroduce: Callable[[], None]) -> None:
    """Open a session anew if an error has made it unusable."""
    if not session.usable:
        session.reopen()
        reintroduce()


def off(session: VisaSession, line: str, reintroduce: Callable[[], None], patience: float = 1.0) -> str:
    """The answer to a line that switches off, from any thread: who waits for an answer meanwhile is cut off.

    Raises
    ------
    LinkError
        There was no answer, neither over the connection there was nor over a new one.
    """
    if not session.lock.acquire(timeout=patience):
        session.interrupt(line)
        session.lock.acquire()
    try:
        return ask(session, line, reintroduce)
    finally:
        session.lock.release()
