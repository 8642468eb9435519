"""Exchanges that do no harm if they happen twice: asked again, once, when the answer is lost or cannot be read.

An answer is read where it is asked for. What its reader cannot make sense of is a damaged answer, like one that never
came: the connection is thrown away, the same question is asked over a new one, and if that fails too, the caller gets
a `LinkError`, never what the reader stumbled over.
"""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from qcodes.instrument import InstrumentBase
from qcodes.parameters import ParameterBase

from instruments.roles.interfaces import InstrumentError, LinkError
from instruments.wire.sessions import VisaSession

T = TypeVar("T")
Read = Callable[[str], T]
"""Makes something of an answer; raises one of `UNREADABLE`, as `float` and tuple assignments do, if it cannot."""

UNREADABLE = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, struct.error)

ERRORS_MAX = 100
"""Errors that a queue may hold; one that does not end by then is no queue of errors."""

_DECIMAL = re.compile(r"\s*[-+]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][-+]?\d{1,4})?\s*", re.ASCII)

_log = logging.getLogger(__name__)


def ask(
    session: VisaSession, line: str, reintroduce: Callable[[], None], read: Read[T], timeout: float | None = None
) -> T:
    """What `read` makes of the answer to a line that may be sent twice.

    Parameters
    ----------
    session
        Where it is sent.
    line
        A question, or settings with a question behind them that come to the same if they are made twice.
    reintroduce
        Sees that the same instrument answers at a new connection.
    read
        Makes something of the answer.
    timeout
        Seconds allowed for the answer; the session's own if None.

    Raises
    ------
    LinkError
        There was no answer that can be read, twice.
    """
    with session.lock:
        try:
            reopened(session, reintroduce)
            return once(session, line, read, timeout)
        except LinkError as error:
            _log.warning("asking %r again: %s", line, error)
            reopened(session, reintroduce)
            return once(session, line, read, timeout)


def once(session: VisaSession, line: str, read: Read[T], timeout: float | None = None) -> T:
    """What `read` makes of the answer to a line, asked once.

    Raises
    ------
    LinkError
        There was none, it is no ASCII (instruments answer nothing else), or `read` cannot make sense of it.
    """
    answer = session.query(line, timeout)
    try:
        if not answer.isascii():
            raise ValueError("it is damaged")
        return read(answer)
    except InstrumentError:
        raise
    except UNREADABLE as error:
        session.condemn(f"unreadable answer to {line!r}")
        raise LinkError(f"{session.address}: {answer!r} is no answer to {line!r} ({error})") from error


def reopened(session: VisaSession, reintroduce: Callable[[], None]) -> None:
    """Open a session anew if an error has made it unusable."""
    if not session.usable:
        session.reopen()
        reintroduce()


def off(session: VisaSession, line: str, reintroduce: Callable[[], None], read: Read[T], patience: float = 1.0) -> T:
    """`ask` with a line that switches off, from any thread: who waits for an answer meanwhile is cut off.

    Raises
    ------
    LinkError
        There was no answer, neither over the connection there was nor over a new one.
    """
    if not session.lock.acquire(timeout=patience):
        session.interrupt(line)
        session.lock.acquire()
    try:
        return ask(session, line, reintroduce, read)
    finally:
        session.lock.release()


# -- readers -----------------------------------------------------------------------------------------------------------


def decimal(text: str) -> float:
    """A finite number in decimal digits, and nothing else that `float` takes.

    Raises
    ------
    ValueError
        It is none.
    """
    if not _DECIMAL.fullmatch(text) or not math.isfinite(value := float(text)):
        raise ValueError(f"{text!r} is no number")
    return value


def whole(text: str, least: int = -(2**31), most: int = 2**31 - 1) -> int:
    """A whole number within limits, however it is written.

    Raises
    ------
    ValueError
        It is none.
    """
    value = decimal(text)
    if value != int(value) or not least <= value <= most:
        raise ValueError(f"{text!r} is no whole number between {least} and {most}")
    return int(value)


def matching(pattern: str, answer: str) -> re.Match[str]:
    """An answer of the form that a regular expression says.

    Raises
    ------
    ValueError
        It has another form.
    """
    found = re.fullmatch(pattern, answer, re.ASCII)
    if found is None:
        raise ValueError(f"expected {pattern}")
    return found


def scpi_error(answer: str) -> tuple[int, str]:
    """Number and text of an answer to ``SYST:ERR?``; 0 when the queue is empty."""
    found = matching(r"\s*([-+]?\d{1,6})\s*,\s*(.*)", answer)
    return int(found[1]), answer


def drained(next_error: Callable[[], tuple[int, str]], name: str) -> list[str]:
    """The texts of all errors in a queue, oldest first.

    Raises
    ------
    InstrumentError
        It does not end.
    """
    errors: list[str] = []
    for _ in range(ERRORS_MAX):
        code, text = next_error()
        if code == 0:
            return errors
        errors.append(text)
    raise InstrumentError(
        f"{name} reports more than {ERRORS_MAX} errors, the last one {errors[-1]!r}: see on its front panel what is "
        "wrong, and restart it"
    )


def identified(session: VisaSession, maker: str, models: str, known: str) -> str:
    """The answer to ``*IDN?`` of an instrument that a driver knows.

    Parameters
    ----------
    session
        Where it is asked.
    maker, models
        Regular expressions for the first two fields; a word ``MODEL`` in front of the second is left out.
    known
        What instruments these are, for the message.

    Raises
    ------
    InstrumentError
        It is another one.
    """
    identity = session.query("*IDN?")
    fields = [each.strip().upper() for each in identity.split(",")]
    model = fields[1].removeprefix("MODEL").strip() if len(fields) > 1 else ""
    if not identity.isascii() or not re.match(maker, fields[0]) or not re.fullmatch(models, model):
        raise InstrumentError(
            f"{session.address} answers {identity!r}, not the identity of {known}. Check the address in the station "
            "file, or choose a driver for that instrument"
        )
    return identity


# -- drivers of QCoDeS -------------------------------------------------------------------------------------------------


@contextmanager
def of_qcodes(session: VisaSession) -> Iterator[None]:
    """Turn what a driver of QCoDeS stumbles over in an answer into a `LinkError`."""
    try:
        yield
    except InstrumentError:
        raise
    except UNREADABLE as error:
        session.condemn("unreadable answer")
        raise LinkError(f"{session.address}: an answer cannot be read: {error}") from error


def guard_parameters(instrument: InstrumentBase, session: VisaSession, reintroduce: Callable[[], None]) -> None:
    """Have all parameters of a QCoDeS driver that runs on a session ask again what they cannot read, once."""
    for parameter in instrument.parameters.values():
        if isinstance(parameter, ParameterBase) and hasattr(parameter, "get"):
            parameter.get = _asking_again(parameter.get, session, reintroduce)
    for module in instrument.submodules.values():
        if isinstance(module, InstrumentBase):
            guard_parameters(module, session, reintroduce)


def _asking_again(
    get: Callable[[], object], session: VisaSession, reintroduce: Callable[[], None]
) -> Callable[[], object]:
    def got() -> object:
        with session.lock:
            try:
                with of_qcodes(session):
                    reopened(session, reintroduce)
                    return get()
            except LinkError as error:
                _log.warning("asking again: %s", error)
                with of_qcodes(session):
                    reopened(session, reintroduce)
                    return get()

    return got
