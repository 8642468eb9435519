"""The SCPI side of a simulated instrument: headers, chained commands, the error queue and the IEEE 488.2 commands.

Headers are written as the manuals do, ``[SOURce:]CURRent[:LEVel]?``: capitals are the short form, brackets enclose
what may be left out, upper and lower case are the same on the wire. Commands are chained with ``;``; one that begins
without a colon continues at the node where the last one stood. Lines end with LF or CR LF, answers with LF. What
follows a fault in its line is not carried out. Block data and text in quotes are data
(`sim_backends.wire.scpi_message`). No line ends the instrument: what a handler did not foresee becomes a device error
in the queue and is logged.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from sim_backends.wire.scpi_message import Messages, commands
from sim_backends.wire.status_registers import StatusRegisters

Handler = Callable[[list[str]], str | None]
"""Takes the parameters of a command, returns the answer if it is a question. Raises `ScpiFault`."""

COMMAND_ERROR, NOT_ALLOWED, MISSING, UNDEFINED, NOT_NUMERIC = -100, -108, -109, -113, -120
BAD_WORD, BAD_TEXT, CONFLICT, OUT_OF_RANGE, TOO_MUCH = -141, -151, -221, -222, -223
DEVICE = -300
_OVERFLOW, _TOO_LONG, _DEADLOCKED = -350, -363, -430

_TEXTS = {
    COMMAND_ERROR: "Command error",
    NOT_ALLOWED: "Parameter not allowed",
    MISSING: "Missing parameter",
    UNDEFINED: "Undefined header",
    NOT_NUMERIC: "Numeric data error",
    BAD_WORD: "Invalid character data",
    BAD_TEXT: "Invalid string data",
    CONFLICT: "Settings conflict",
    OUT_OF_RANGE: "Data out of range",
    TOO_MUCH: "Too much data",
    DEVICE: "Device-specific error",
    _OVERFLOW: "Queue overflow",
    _TOO_LONG: "Input buffer overrun",
    _DEADLOCKED: "Query DEADLOCKED",
}
_QUEUE = 15
_OUTPUT_MAX = 1 << 20  # bytes of answers to what came at once
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(E[-+]?\d+)?", re.ASCII)

_log = logging.getLogger(__name__)


class ScpiFault(Exception):
    """A command cannot be carried out; `code` goes to the error queue."""

    def __init__(self, code: int) -> None:
        super().__init__(_TEXTS[code])
        self.code = code


class Scpi:
    """Turns bytes into calls of handlers, and their answers into bytes.

    Parameters
    ----------
    identity
        Answer to ``*IDN?``.
    handlers
        What is done for each header; those of questions end in ``?``.
    reset
        Carries out ``*RST``.
    plus
        How the instrument writes the sign of an error code that is not negative.
    lock
        Is held while a line is carried out, and given free between two lines.
    busy
        Whether something goes on that no waiting ends: ``*OPC?`` and ``*WAI`` are a fault then.
    """

    def __init__(
        self,
        identity: str,
        handlers: Mapping[str, Handler],
        reset: Callable[[], None],
        *,
        plus: str = "",
        lock: AbstractContextManager[object] | None = None,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._status = StatusRegisters()
        own: dict[str, Handler] = {
            "*IDN?": without(lambda: identity),
            "*RST": without(reset),
            "*CLS": without(self._clear),
            "*ESR?": without(lambda: str(self._status.read_events())),
            "*ESE": with_one(lambda text: self._set_mask("event_mask", text)),
            "*ESE?": without(lambda: str(self._status.event_mask)),
            "*SRE": with_one(lambda text: self._set_mask("service_mask", text)),
            "*SRE?": without(lambda: str(self._status.service_mask)),
            "*STB?": without(lambda: str(self._status.byte(bool(self._errors)))),
            "*OPC": without(self._complete),
            "*OPC?": without(self._tell_complete),
            "*WAI": without(self._wait),
            "*TST?": without(lambda: "0"),
            "SYSTem:ERRor[:NEXT]?": without(self._next_error),
        }
        self._handlers = [(re.compile(header_pattern(each)), run) for each, run in (own | dict(handlers)).items()]
        self._plus = plus
        self._lock = lock or nullcontext()
        self._busy = busy
        self._errors: deque[int] = deque()
        self._messages = Messages()

    def forget(self) -> None:
        """Forget what was received of a line that has not ended; errors stay."""
        self._messages.forget()

    def receive(self, data: bytes) -> bytes:
        """Carry out all complete lines; one line of answers for each line that asked something."""
        answers = bytearray()
        for message in self._messages.feed(data):
            with self._lock:
                answer = self._line(message)
            answers += answer.encode("ascii", "replace") + b"\n" if answer else b""
            if len(answers) > _OUTPUT_MAX:
                answers.clear()
                self._queue(_DEADLOCKED)
        return bytes(answers)

    def _line(self, message: str | None) -> str:
        """Answers to a line, chained as its questions were."""
        answers: list[str] = []
        try:
            if message is None:
                raise ScpiFault(_TOO_LONG)
            node = ""
            units, unfinished = commands(message)
            for unit in units:
                header = unit.header.upper()
                if not header.startswith("*"):
                    header = header[1:] if header.startswith(":") else node + header
                    node = header[: header.rfind(":") + 1]
                answer = self._handler(header)(unit.parameters)
                if answer is not None:
                    answers.append(answer)
            if unfinished:
                raise ScpiFault(BAD_TEXT)
        except ScpiFault as fault:
            self._queue(fault.code)
        except Exception:
            _log.exception("this line was not foreseen: %.200r", message)
            self._queue(DEVICE)
        return ";".join(answers)

    def _handler(self, header: str) -> Handler:
        for pattern, handler in self._handlers:
            if pattern.fullmatch(header):
                return handler
        raise ScpiFault(UNDEFINED)

    def fault(self, code: int) -> None:
        """Put an error into the queue that no command has caused."""
        self._queue(code)

    # -- errors and events ---------------------------------------------------------------------------------------

    def _queue(self, code: int) -> None:
        self._status.note_error(code)
        if len(self._errors) < _QUEUE:
            self._errors.append(code)
        else:
            self._errors[-1] = _OVERFLOW

    def _next_error(self) -> str:
        code = self._errors.popleft() if self._errors else 0
        return f'{"" if code else self._plus}{code},"{_TEXTS.get(code, "No error")}"'

    def _clear(self) -> None:
        self._errors.clear()
        self._status.clear()

    def _set_mask(self, which: str, text: str) -> None:
        setattr(self._status, which, int(number(text, 0, 255)))

    def _wait(self) -> None:
        if self._busy():
            raise ScpiFault(CONFLICT)

    def _tell_complete(self) -> str:
        self._wait()
        return "1"

    def _complete(self) -> None:
        self._wait()
        self._status.note_complete()


def header_pattern(header: str) -> str:
    """Regular expression for the upper-case headers that a manual's way of writing one allows."""
    pattern = ""
    for part in re.findall(r"[A-Z*]+|[a-z]+|.", header):
        if part in "[]":
            pattern += "(?:" if part == "[" else ")?"
        else:
            pattern += f"(?:{part.upper()})?" if part.islower() else re.escape(part)
    return pattern


def without(run: Callable[[], str | None]) -> Handler:
    """A handler that takes no parameter."""

    def handle(parameters: list[str]) -> str | None:
        if parameters:
            raise ScpiFault(NOT_ALLOWED)
        return run()

    return handle


def with_one(run: Callable[[str], str | None]) -> Handler:
    """A handler that takes one parameter."""

    def handle(parameters: list[str]) -> str | None:
        if len(parameters) != 1:
            raise ScpiFault(NOT_ALLOWED if parameters else MISSING)
        return run(parameters[0])

    return handle


def number(text: str, low: float, high: float) -> float:
    """A number within limits; ``MIN`` and ``MAX`` stand for these.

    Raises
    ------
    ScpiFault
        It is none, or lies outside.
    """
    named = {"MIN": low, "MINIMUM": low, "MAX": high, "MAXIMUM": high}
    if text.upper() in named:
        return named[text.upper()]
    if not _NUMBER.fullmatch(text.upper()):
        raise ScpiFault(NOT_NUMERIC)
    value = float(text)
    if not low <= value <= high:
        raise ScpiFault(OUT_OF_RANGE)
    return value


def one_of(text: str, words: Mapping[str, int]) -> int:
    """The value of one of some words, given as headers are written.

    Raises
    ------
    ScpiFault
        It is none of them.
    """
    for word, value in words.items():
        if re.fullmatch(header_pattern(word), text.upper()):
            return value
    raise ScpiFault(BAD_WORD)
