"""The SCPI side of a simulated instrument: headers, chained commands, the error queue and the IEEE 488.2 commands.

Headers are written as the manuals do, ``[SOURce:]CURRent[:LEVel]?``: capitals are the short form, brackets enclose
what may be left out, upper and lower case are the same on the wire. Commands are chained with ``;``; one that begins
without a colon continues at the node where the last one stood. Lines end with LF or CR LF, answers with LF. What
follows a fault in its line is not carried out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping

Handler = Callable[[list[str]], str | None]
"""Takes the parameters of a command, returns the answer if it is a question. Raises `ScpiFault`."""

COMMAND_ERROR, NOT_ALLOWED, MISSING, UNDEFINED, NOT_NUMERIC = -100, -108, -109, -113, -120
BAD_WORD, CONFLICT, OUT_OF_RANGE = -141, -221, -222
DEVICE = -300
_OVERFLOW, _TOO_LONG = -350, -363

_TEXTS = {
    COMMAND_ERROR: "Command error",
    NOT_ALLOWED: "Parameter not allowed",
    MISSING: "Missing parameter",
    UNDEFINED: "Undefined header",
    NOT_NUMERIC: "Numeric data error",
    BAD_WORD: "Invalid character data",
    CONFLICT: "Settings conflict",
    OUT_OF_RANGE: "Data out of range",
    DEVICE: "Device-specific error",
    _OVERFLOW: "Queue overflow",
    _TOO_LONG: "Input buffer overrun",
}
_POWER_ON = 128
_EVENT_BITS = {1: 32, 2: 16, 3: 8, 4: 4}  # of the event status register, by the hundreds of the error
_QUEUE = 15
_LINE_MAX = 4096


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
    """

    def __init__(
        self, identity: str, handlers: Mapping[str, Handler], reset: Callable[[], None], *, plus: str = ""
    ) -> None:
        own: dict[str, Handler] = {
            "*IDN?": without(lambda: identity),
            "*RST": without(reset),
            "*CLS": without(self._clear),
            "*ESR?": without(self._read_events),
            "*OPC": without(self._complete),
            "*OPC?": without(lambda: "1"),
            "*WAI": without(lambda: None),
            "*TST?": without(lambda: "0"),
            "SYSTem:ERRor[:NEXT]?": without(self._next_error),
        }
        self._handlers = [(re.compile(header_pattern(each)), run) for each, run in (own | dict(handlers)).items()]
        self._plus = plus
        self._errors: deque[int] = deque()
        self._events = _POWER_ON
        self._received = b""

    def forget(self) -> None:
        """Forget what was received of a line that has not ended; errors stay."""
        self._received = b""

    def receive(self, data: bytes) -> bytes:
        """Carry out all complete lines; one line of answers for each line that asked something."""
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > _LINE_MAX:
            self._received = b""
            self._queue(_TOO_LONG)
        answered = [self._line(line.decode("ascii", "replace").strip()) for line in lines]
        return b"".join(line.encode() + b"\n" for line in answered if line)

    def _line(self, line: str) -> str:
        """Answers to a line, chained as its questions were."""
        answers: list[str] = []
        node = ""
        try:
            for unit in filter(None, (each.strip() for each in line.split(";"))):
                header, _, rest = unit.partition(" ")
                header = header.upper()
                if not header.startswith("*"):
                    header = header[1:] if header.startswith(":") else node + header
                    node = header[: header.rfind(":") + 1]
                answer = self._handler(header)([each.strip() for each in rest.split(",")] if rest.strip() else [])
                if answer is not None:
                    answers.append(answer)
        except ScpiFault as fault:
            self._queue(fault.code)
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
        self._events |= _EVENT_BITS[-code // 100]
        if len(self._errors) < _QUEUE:
            self._errors.append(code)
        else:
            self._errors[-1] = _OVERFLOW

    def _next_error(self) -> str:
        code = self._errors.popleft() if self._errors else 0
        return f'{"" if code else self._plus}{code},"{_TEXTS.get(code, "No error")}"'

    def _clear(self) -> None:
        self._errors.clear()
        self._events = 0

    def _read_events(self) -> str:
        events, self._events = self._events, 0
        return str(events)

    def _complete(self) -> None:
        self._events |= 1


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
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(E[-+]?\d+)?", text.upper()):
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
