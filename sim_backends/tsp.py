"""The TSP side of a simulated Keithley instrument: the part of Lua that drivers send line by line, and its error queue.

A line is a chunk: assignments (``smua.source.levelv = 0.2``), calls (``channel.open("allslots")``) and ``print(...)``,
one after another. Only ``print`` and the common commands answer. A line that cannot be read is not begun; one that
fails on the way ends there. Scripts (loops, functions, ``loadandrunscript``) are not understood and say so in the
error queue. Numbers are printed as the real ones print them: ``1.00000e-03``.

The codes -285, -286 and -350 and the answer of an empty queue are those of the manual; all other codes are assumed.
"""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Value = float | str | bool | None
"""What an expression of TSP is worth; None is nil."""

Results = Value | tuple[Value, ...]

Function = Callable[..., Results]
"""Takes the arguments of a call. Raises `TspFault`."""

SYNTAX, RUNTIME, TOO_BIG, TOO_SMALL, OUT_OF_RANGE, CONFLICT = -285, -286, 1101, 1102, -222, -221
_OVERFLOW, _TOO_LONG = -350, -363
_QUEUE = 20
_LINE_MAX = 4096
_SEVERITY = {SYNTAX: 20.0, RUNTIME: 20.0}
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>0x[0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<name>[A-Za-z_]\w*(?:\[\s*\d+\s*\])?(?:\.[A-Za-z_]\w*(?:\[\s*\d+\s*\])?)*)
    |(?P<sign>[=(),;+*/-]))""",
    re.VERBOSE,
)
_WORDS: dict[str, Value] = {"true": True, "false": False, "nil": None}


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
    """

    def __init__(self, identity: str, names: Mapping[str, Attribute | Function], reset: Callable[[], None]) -> None:
        self._names: dict[str, Attribute | Function] = {
            "errorqueue.next": self._next_error,
            "errorqueue.clear": self._errors_clear,
            "errorqueue.count": Attribute(lambda: float(len(self._errors))),
            "format.asciiprecision": Attribute(lambda: float(self._precision), self._set_precision),
            "reset": reset,
            "delay": lambda seconds: None,
            "waitcomplete": lambda: None,
            "tonumber": _to_number,
            **names,
        }
        self._common: dict[str, Callable[[], str | None]] = {
            "*IDN?": lambda: identity,
            "*OPC?": lambda: "1",
            "*TST?": lambda: "0",
            "*ESR?": lambda: "0",
            "*OPC": lambda: None,
            "*WAI": lambda: None,
            "*CLS": self._errors_clear,
            "*RST": lambda: reset(),
        }
        self._errors: deque[tuple[int, str]] = deque()
        self._variables: dict[str, Value] = {}
        self._precision = 6
        self._in_script = False
        self._received = b""

    def forget(self) -> None:
        """Forget what was received of a line that has not ended; errors stay."""
        self._received = b""

    def receive(self, data: bytes) -> bytes:
        """Carry out all complete lines; one line of answer for each ``print`` and each question."""
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > _LINE_MAX:
            self._received = b""
            self._queue(_TOO_LONG, "Input buffer overrun")
        printed = [each for line in lines for each in self._line(line.decode("ascii", "replace").strip())]
        return b"".join(each.encode() + b"\n" for each in printed)

    # -- lines and statements ------------------------------------------------------------------------------------

    def _line(self, line: str) -> list[str]:
        """What a line prints."""
        if line in ("loadscript", "loadandrunscript") or line.startswith(("loadscript ", "loadandrunscript ")):
            self._in_script = True
        if self._in_script:
            self._in_script = line != "endscript"
            if not self._in_script:
                self._queue(SYNTAX, "TSP Syntax error: this stand-in runs no scripts")
            return []
        if line.startswith("*"):
            return self._common_command(line)
        printed: list[str] = []
        try:
            statements = _Parser(line).statements()
        except TspFault as fault:
            self._queue(fault.code, str(fault))
            return printed
        try:
            for statement in statements:
                statement(self, printed)
        except TspFault as fault:
            self._queue(fault.code, str(fault))
        return printed

    def _common_command(self, line: str) -> list[str]:
        command = self._common.get(line.upper())
        if command is None:
            self._queue(-113, "Undefined header")
            return []
        answer = command()
        return [] if answer is None else [answer]

    def assign(self, name: str, value: Value) -> None:
        """Carry out ``name = value``."""
        known = self._names.get(name)
        if isinstance(known, Attribute):
            if known.set is None:
                raise TspFault(RUNTIME, f"TSP Runtime error at line 1: cannot modify read-only attribute {name}")
            known.set(value)
        elif known is None and "." not in name and "[" not in name:
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

    # -- errors --------------------------------------------------------------------------------------------------

    def _queue(self, code: int, message: str) -> None:
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
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        self._at = 0

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
        left = self._term()
        while self._peek()[1] in ("+", "-") and self._peek()[0] == "sign":
            left = _combined(self._next()[1], left, self._term())
        return left

    def _term(self) -> Expression:
        left = self._factor()
        while self._peek()[1] in ("*", "/") and self._peek()[0] == "sign":
            left = _combined(self._next()[1], left, self._factor())
        return left

    def _factor(self) -> Expression:
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
            worth: Value = float(int(text, 16)) if text[:2].lower() == "0x" else float(text)
            return lambda tsp, printed: worth
        if kind == "text":
            return lambda tsp, printed: text[1:-1]
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


def _combined(sign: str, left: Expression, right: Expression) -> Expression:
    def run(tsp: Tsp, printed: list[str]) -> Value:
        a, b = number(_first(left(tsp, printed))), number(_first(right(tsp, printed)))
        if sign == "/":
            return a / b if b else float("nan")
        return a + b if sign == "+" else a - b if sign == "-" else a * b

    return run


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
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


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


def constant(value: Value) -> Attribute:
    """A name that is always worth the same."""
    return Attribute(lambda: value)
