"""The TSP side of a simulated Keithley instrument: the part of Lua that drivers send line by line, and its error queue.

A line is a chunk: assignments (``smua.source.levelv = 0.2``), calls (``channel.open("allslots")``) and ``print(...)``,
one after another. Only ``print`` and the common commands answer. A line that cannot be read is not begun; one that
fails on the way ends there. Scripts (loops, functions, ``loadandrunscript``) are not understood and say so in the
error queue. Numbers are printed as the real ones print them: ``1.00000e-03``. Text in quotes and comments are never
carried out. No line ends the instrument: its length, the depth of its parentheses, what it prints and what variables
hold are bounded, and what a function did not foresee becomes an error in the queue and is logged.

The codes -285, -286 and -350 and the answer of an empty queue are those of the manual; all other codes are assumed.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from sim_backends.wire.status_registers import StatusRegisters

Value = float | str | bool | None
"""What an expression of TSP is worth; None is nil."""

Results = Value | tuple[Value, ...]

Function = Callable[..., Results]
"""Takes the arguments of a call. Raises `TspFault`."""

SYNTAX, RUNTIME, TOO_BIG, TOO_SMALL, OUT_OF_RANGE, CONFLICT = -285, -286, 1101, 1102, -222, -221
DELAY_MAX = 1000.0
"""Longest `delay` (s); the real ones wait for longer, and are of no use to anybody meanwhile."""
_OVERFLOW, _TOO_LONG, _DEADLOCKED = -350, -363, -430
_QUEUE = 20
_LINE_MAX = 4096
_OUTPUT_MAX = 1 << 20  # bytes printed by what came at once
_DEPTH_MAX = 100  # of parentheses and signs (Lua: 200 levels of its own parser)
_VARIABLES_MAX = 1000
_SEVERITY = {SYNTAX: 20.0, RUNTIME: 20.0}
_TOKEN = re.compile(
    r"""(?P<blank>\s+|--\[(?P<long>=*)\[.*?\](?P=long)\]|--(?!\[=*\[).*)
    |(?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\[(?P<level>=*)\[.*?\](?P=level)\])
    |(?P<name>[A-Za-z_]\w*(?:\[\s*\d+\s*\])?(?:\.[A-Za-z_]\w*(?:\[\s*\d+\s*\])?)*)
    |(?P<sign>[=(),;+*/-])""",
    re.VERBOSE | re.ASCII,
)
_ESCAPE = re.compile(r"\\(\d{1,3}|.)", re.ASCII)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_DECIMAL = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)
_WORDS: dict[str, Value] = {"true": True, "false": False, "nil": None}

_log = logging.getLogger(__name__)


class TspFault(Exception):
    """A statement cannot be carried out; code and message go to the error queue."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Attribute:
    """Something that is read and, if it has a `set`, assigned to."""

    get: Callable[[], Value]
    set: Callable[[Value], None] | None = None


class Tsp:
    """Turns bytes into calls and assignments, and what is printed into bytes.

    Parameters
    ----------
    identity
        Answer to ``*IDN?``.
    names
        Attributes and functions by their full names, such as ``smua.source.levelv``.
    reset
        Carries out ``*RST`` and ``reset()``.
    lock
        Is held while a line is carried out, and given free between two lines.
    """

    def __init__(
        self,
        identity: str,
        names: Mapping[str, Attribute | Function],
        reset: Callable[[], None],
        *,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._status = status = StatusRegisters()
        self._names: dict[str, Attribute | Function] = {
            "errorqueue.next": self._next_error,
            "errorqueue.clear": self._errors_clear,
            "errorqueue.count": Attribute(lambda: float(len(self._errors))),
            "format.asciiprecision": Attribute(lambda: float(self._precision), self._set_precision),
            "status.standard.event": Attribute(lambda: float(status.read_events())),
            "status.standard.enable": Attribute(lambda: float(status.event_mask), self._set_event_mask),
            "status.request_enable": Attribute(lambda: float(status.service_mask), self._set_service_mask),
            "status.condition": Attribute(lambda: float(status.byte(bool(self._errors)))),
            "reset": self._reset,
            "waitcomplete": lambda: None,
            "tonumber": _to_number,
            **names,
        }
        self._reset_instrument = reset
        self._common: dict[str, Callable[[], str | None]] = {
            "*IDN?": lambda: identity,
            "*OPC?": lambda: "1",
            "*TST?": lambda: "0",
            "*ESR?": lambda: str(status.read_events()),
            "*ESE?": lambda: str(status.event_mask),
            "*SRE?": lambda: str(status.service_mask),
            "*STB?": lambda: str(status.byte(bool(self._errors))),
            "*OPC": status.note_complete,
            "*WAI": lambda: None,
            "*CLS": self._clear,
            "*RST": self._reset,
        }
        self._lock = lock or nullcontext()
        self._errors: deque[tuple[int, str]] = deque()
        self._variables: dict[str, Value] = {}
        self._precision = 6
        self.forget()

    def forget(self) -> None:
        """Forget what was received of a line or a script that has not ended; errors stay."""
        self._received = b""
        self._overlong = self._in_script = False

    def receive(self, data: bytes) -> bytes:
        """Carry out all complete lines; one line of answer for each ``print`` and each question."""
        *lines, self._received = (self._received + data).split(b"\n")
        printed = bytearray()
        for line in lines:
            overlong, self._overlong = self._overlong or len(line) > _LINE_MAX, False
            with self._lock:
                for each in self._line(None if overlong else line.decode("ascii", "replace").strip()):
                    printed += each.encode("ascii", "replace") + b"\n"
            if len(printed) > _OUTPUT_MAX:
                printed.clear()
                self._queue(_DEADLOCKED, "Query DEADLOCKED")
        if len(self._received) > _LINE_MAX:
            self._received, self._overlong = b"", True
        return bytes(printed)

    # -- lines and statements ------------------------------------------------------------------------------------

    def _line(self, line: str | None) -> list[str]:
        """What a line prints; None stands for one that was too long."""
        printed: list[str] = []
        try:
            if line is None:
                raise TspFault(_TOO_LONG, "Input buffer overrun")
            if not self._is_of_script(line):
                self._carry_out(line, printed)
        except TspFault as fault:
            self._queue(fault.code, str(fault))
        except Exception:
            _log.exception("this line was not foreseen: %.200r", line)
            self._queue(RUNTIME, "TSP Runtime error at line 1: not foreseen by this stand-in")
        return printed

    def _is_of_script(self, line: str) -> bool:
        """Whether a line belongs to a script, which is not carried out."""
        if line in ("loadscript", "loadandrunscript") or line.startswith(("loadscript ", "loadandrunscript ")):
            self._in_script = True
        elif self._in_script and line == "endscript":
            self._in_script = False
            raise TspFault(SYNTAX, "TSP Syntax error: this stand-in runs no scripts")
        return self._in_script

    def _carry_out(self, line: str, printed: list[str]) -> None:
        if not line.startswith("*"):
            for statement in _Parser(line).statements():
                statement(self, printed)
            return
        command, _, mask = line.upper().partition(" ")
        if mask and command in ("*ESE", "*SRE"):
            (self._set_event_mask if command == "*ESE" else self._set_service_mask)(_to_number(mask))
        elif command in self._common and not mask:
            answer = self._common[command]()
            printed += [] if answer is None else [answer]
        else:
            raise TspFault(-113, "Undefined header")

    def assign(self, name: str, value: Value) -> None:
        """Carry out ``name = value``."""
        known = self._names.get(name)
        if isinstance(known, Attribute):
            if known.set is None:
                raise TspFault(RUNTIME, f"TSP Runtime error at line 1: cannot modify read-only attribute {name}")
            known.set(value)
        elif known is None and "." not in name and "[" not in name:
            if name not in self._variables and len(self._variables) >= _VARIABLES_MAX:
                raise TspFault(RUNTIME, "TSP Runtime error at line 1: not enough memory")
            self._variables[name] = value
        else:
            raise _unknown(name)

    def value(self, name: str) -> Value:
        """What a name is worth; nil for a variable that nobody has set."""
        known = self._names.get(name)
        if isinstance(known, Attribute):
            return known.get()
        if known is None and "." not in name and "[" not in name:
            return self._variables.get(name)
        raise _unknown(name)

    def call(self, name: str, arguments: list[Value], printed: list[str]) -> Results:
        """Carry out ``name(arguments)``."""
        if name == "print":
            printed.append("\t".join(self._text(each) for each in arguments))
            return ()
        known = self._names.get(name)
        if known is None or isinstance(known, Attribute):
            raise TspFault(RUNTIME, f"TSP Runtime error at line 1: attempt to call `{name}' (a nil value)")
        try:
            inspect.signature(known).bind(*arguments)
        except TypeError as error:
            raise TspFault(RUNTIME, f"TSP Runtime error at line 1: {name}: wrong number of parameters") from error
        return known(*arguments)

    def _text(self, value: Value) -> str:
        if value is None:
            return "nil"
        if isinstance(value, bool):
            return "true" if value else "false"
        return value if isinstance(value, str) else f"{value:.{self._precision - 1}e}"

    def _set_precision(self, value: Value) -> None:
        self._precision = int(number(value, 1, 16))

    def _set_event_mask(self, value: Value) -> None:
        self._status.event_mask = int(number(value, 0, 255))

    def _set_service_mask(self, value: Value) -> None:
        self._status.service_mask = int(number(value, 0, 255))

    def _reset(self) -> None:
        self._precision = 6
        self._reset_instrument()

    # -- errors --------------------------------------------------------------------------------------------------

    def _queue(self, code: int, message: str) -> None:
        self._status.note_error(code)
        if len(self._errors) < _QUEUE:
            self._errors.append((code, message))
        else:
            self._errors[-1] = (_OVERFLOW, "Queue overflow")

    def fault(self, code: int, message: str) -> None:
        """Put an error into the queue that no command has caused."""
        self._queue(code, message)

    def _next_error(self) -> Results:
        if not self._errors:
            return (0.0, "Queue Is Empty", 0.0, 1.0)
        code, message = self._errors.popleft()
        return (float(code), message, _SEVERITY.get(code, 10.0), 1.0)

    def _errors_clear(self) -> None:
        self._errors.clear()

    def _clear(self) -> None:
        self._errors.clear()
        self._status.clear()


Statement = Callable[[Tsp, list[str]], None]
Expression = Callable[[Tsp, list[str]], Results]


class _Parser:
    """Statements of one line, or a syntax error before any of them is carried out."""

    def __init__(self, line: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(line):
            found = _TOKEN.match(line, at)
            if found is None or found.lastgroup is None:
                raise _syntax(line[at:].strip()[:1])
            kind = next(each for each in ("blank", "number", "text", "name", "sign") if found[each] is not None)
            if kind != "blank":
                self._tokens.append((kind, found[kind]))
            at = found.end()
        self._at = 0
        self._depth = 0

    def statements(self) -> list[Statement]:
        """All of them, in order."""
        found: list[Statement] = []
        while self._peek()[0] != "end":
            if not self._accept(";"):
                found.append(self._statement())
        return found

    def _statement(self) -> Statement:
        kind, name = self._next()
        if kind != "name":
            raise _syntax(name)
        if self._accept("="):
            worth = self._expression()
            return lambda tsp, printed: tsp.assign(name, _first(worth(tsp, printed)))
        call = self._call(name)

        def run(tsp: Tsp, printed: list[str]) -> None:
            call(tsp, printed)

        return run

    def _call(self, name: str) -> Expression:
        if not self._accept("("):
            raise _syntax(self._peek()[1])
        arguments: list[Expression] = []
        while not self._accept(")"):
            if arguments and not self._accept(","):
                raise _syntax(self._peek()[1])
            arguments.append(self._expression())
        return lambda tsp, printed: tsp.call(name, _values(arguments, tsp, printed), printed)

    def _expression(self) -> Expression:
        return self._chain(("+", "-"), self._term)

    def _term(self) -> Expression:
        return self._chain(("*", "/"), self._factor)

    def _chain(self, signs: tuple[str, ...], part: Callable[[], Expression]) -> Expression:
        """Parts with one of these signs between each two, combined from left to right."""
        first, rest = part(), list[tuple[str, Expression]]()
        while self._peek()[1] in signs and self._peek()[0] == "sign":
            rest.append((self._next()[1], part()))
        return _combined(first, rest) if rest else first

    def _factor(self) -> Expression:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise TspFault(SYNTAX, "TSP Syntax error at line 1: chunk has too many syntax levels")
        try:
            return self._undivided()
        finally:
            self._depth -= 1

    def _undivided(self) -> Expression:
        """What stands between the signs of an expression."""
        if self._accept("-"):
            inner = self._factor()
            return lambda tsp, printed: -number(_first(inner(tsp, printed)))
        if self._accept("("):
            inner = self._expression()
            if not self._accept(")"):
                raise _syntax(self._peek()[1])
            return inner
        kind, text = self._next()
        if kind == "number":
            worth = _number_of(text)
            return lambda tsp, printed: worth
        if kind == "text":
            content = _text_of(text)
            return lambda tsp, printed: content
        if kind != "name":
            raise _syntax(text)
        if text in _WORDS:
            return lambda tsp, printed: _WORDS[text]
        if self._peek() == ("sign", "("):
            return self._call(text)
        return lambda tsp, printed: tsp.value(text)

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "<eof>")

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def _accept(self, sign: str) -> bool:
        found = self._peek() == ("sign", sign)
        self._at += found
        return found


def _combined(first: Expression, rest: list[tuple[str, Expression]]) -> Expression:
    def run(tsp: Tsp, printed: list[str]) -> Value:
        worth = number(_first(first(tsp, printed)))
        for sign, part in rest:
            other = number(_first(part(tsp, printed)))
            if sign == "/":
                worth = _quotient(worth, other)
            else:
                worth = worth + other if sign == "+" else worth - other if sign == "-" else worth * other
        return worth

    return run


def _quotient(a: float, b: float) -> float:
    """Of floating-point numbers as Lua has it: what is divided by zero is infinite or no number."""
    if b:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _number_of(token: str) -> float:
    if token[:2].lower() != "0x":
        return float(token)
    return float(int(token, 16)) if len(token) <= 200 else math.inf


def _text_of(token: str) -> str:
    if token[0] == "[":
        return token[token.index("[", 1) + 1 : -token.index("[", 1) - 1]
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1]) or _character(found[1]), token[1:-1])


def _character(escaped: str) -> str:
    return chr(int(escaped) & 255) if escaped.isdigit() else escaped


def _values(arguments: list[Expression], tsp: Tsp, printed: list[str]) -> list[Value]:
    """Arguments of a call; a call in the last place passes on all it returns, as Lua has it."""
    results = [each(tsp, printed) for each in arguments]
    last = results[-1] if results else ()
    return [*(_first(each) for each in results[:-1]), *(last if isinstance(last, tuple) else (last,))]


def _first(results: Results) -> Value:
    if not isinstance(results, tuple):
        return results
    return results[0] if results else None


def _syntax(near: str) -> TspFault:
    return TspFault(SYNTAX, f"TSP Syntax error at line 1: unexpected symbol near `{near}'")


def _unknown(name: str) -> TspFault:
    return TspFault(RUNTIME, f"TSP Runtime error at line 1: attempt to index `{name}' (a nil value)")


def _to_number(text: Value) -> Value:
    if isinstance(text, float):
        return text
    return float(text) if isinstance(text, str) and _DECIMAL.fullmatch(text) else None


def number(value: Value, low: float = float("-inf"), high: float = float("inf")) -> float:
    """A number within limits.

    Raises
    ------
    TspFault
        It is none, or lies outside.
    """
    if isinstance(value, bool) or not isinstance(value, float):
        raise TspFault(RUNTIME, "TSP Runtime error at line 1: number expected")
    if value > high:
        raise TspFault(TOO_BIG, "Parameter too big")
    if not value >= low:
        raise TspFault(TOO_SMALL, "Parameter too small")
    return value


def whole(value: Value, low: float, high: float) -> float:
    """A whole number within limits, such as the number of a choice.

    Raises
    ------
    TspFault
        It is none, or lies outside.
    """
    worth = number(value, low, high)
    if worth != int(worth):
        raise TspFault(OUT_OF_RANGE, "Parameter data out of range")
    return worth


def constant(value: Value) -> Attribute:
    """A name that is always worth the same."""
    return Attribute(lambda: value)
