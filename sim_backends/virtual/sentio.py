"""A virtual MPI SENTIO prober: the remote command language in front of `prober.Prober`.

A request is a command word, a blank and arguments separated by commas; a line ends with LF. A reply is
``N,id,text``: the low ten bits of N are an error code, the bits above flags (1 last die, 2 last subsite); id is the
number of an asynchronous command, 0 otherwise. Commands that begin with ``*`` answer in plain text or not at all.
Every command is answered: what the prober did not foresee is its internal error (1), and is logged.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

from sim_backends.virtual.prober import NOT_ALLOWED, Prober, ProberFault
from sim_backends.virtual.sentio_arguments import Answer, Arguments, Handler, integer_at
from sim_backends.virtual.sentio_chuck import ChuckCommands
from sim_backends.virtual.sentio_map import LAST_DIE, MapCommands

INTERNAL, NO_HANDLER, UNKNOWN, FORMAT = 1, 3, 4, 5
PENDING, ABORTED, UNKNOWN_ID = 30, 31, 32
_GROUPS = ("map", "status", "chuck", "setup", "vision", "probe", "siph", "aux", "loader", "scope", "qalibria")
_LINE_MAX = 4096
_JOBS_MAX = 1000  # that are remembered; of those that are done the oldest are forgotten

_log = logging.getLogger(__name__)


@dataclass
class _Job:
    """An asynchronous command: waiting to be carried out, then with its result."""

    run: Callable[[], Answer]
    asked: bool = False
    reply: tuple[int, str] | None = None


class Sentio:
    """The prober's side of the wire; a `faulty_wire.Dialect`."""

    end = b"\n"

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._handlers: dict[str, Handler] = {
            **ChuckCommands(prober).table(),
            **MapCommands(prober).table(),
            "query_command_status": self._query,
            "wait_complete": self._wait,
            "wait_all": self._wait_all,
            "abort_command": self._abort,
        }
        self._jobs: dict[int, _Job] = {}
        self._next_job = 1
        self.connected()

    # -- the wire ------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Forget what the last client sent half of."""
        self._received, self._overlong = b"", False

    def receive(self, data: bytes) -> bytes:
        """Answer all complete lines."""
        *lines, self._received = (self._received + data).split(b"\n")
        replies = bytearray()
        for line in lines:
            overlong, self._overlong = self._overlong or len(line) > _LINE_MAX, False
            text = line.decode("utf-8", errors="replace").strip()
            reply = f"{FORMAT},0,Command too long" if overlong else self._line(text)
            if reply is not None:
                replies += reply.encode() + b"\n"
        if len(self._received) > _LINE_MAX:
            self._received, self._overlong = b"", True
        return bytes(replies)

    def request_name(self, request: bytes) -> str:
        """The command line."""
        return request.decode("utf-8", errors="replace").strip()

    def busy_reply(self, request: bytes) -> bytes:
        """Refuse a command for now; those that begin with ``*`` never are."""
        if request.lstrip().startswith(b"*"):
            return self.receive(request)
        return f"{NOT_ALLOWED},0,Command not allowed now\n".encode()

    def deadline(self) -> float | None:
        """Nothing happens by itself."""
        return None

    def expired(self) -> None:
        """Never called."""

    def _line(self, line: str) -> str | None:
        if not line:
            return None
        if line.startswith("*"):
            return self._plain(line)
        code, job, text = self._command(line)
        self._prober.may_lose_contact()
        return f"{code},{job},{text}"

    def _plain(self, line: str) -> str | None:
        word, _, rest = line.partition(" ")
        if word.upper() == "*IDN?":
            return f"MPI Corporation,Sentio - virtual prober,0,{self._prober.spec.version}"
        if word.upper() == "*RCS?":
            return "1"
        if word.upper() == "*GET?":
            return f"undefined variable {rest.strip()}"
        return None  # *RCS n, *LOCAL: no reply

    def _command(self, line: str) -> tuple[int, int, str]:
        word, _, rest = line.partition(" ")
        arguments = [part.strip() for part in rest.split(",")] if rest.strip() else []
        name = word.lower()
        start = re.match(r"^((?:\w+:)*)start_(\w+)$", name)
        if start is not None:
            return self._begin(start.group(1) + start.group(2), arguments)
        code, text = self._carry_out(name, arguments)
        return code, 0, text

    def _carry_out(self, name: str, arguments: Arguments) -> tuple[int, str]:
        handler = self._handlers.get(name)
        if handler is None:
            group, colon, _ = name.partition(":")
            known = not colon or group in _GROUPS
            return (UNKNOWN if known else NO_HANDLER), f"Unknown command: {name}"
        return _outcome(lambda: handler(arguments))

    # -- asynchronous commands -----------------------------------------------------------------------------------

    def _begin(self, name: str, arguments: Arguments) -> tuple[int, int, str]:
        handler = None if name in _OF_JOBS else self._handlers.get(name) or _ONLY_STARTED.get(name)
        if handler is None:
            return UNKNOWN, 0, f"Unknown command: start_{name}"
        if len(self._jobs) >= _JOBS_MAX and not self._forget_a_job():
            return NOT_ALLOWED, 0, "Too many commands are pending"
        job = self._next_job
        self._next_job += 1
        self._jobs[job] = _Job(run=lambda: handler(arguments))
        return 0, job, "OK"

    def _forget_a_job(self) -> bool:
        """Forget the oldest command that is done; whether there is one."""
        done = next((number for number, job in self._jobs.items() if job.reply is not None), None)
        self._jobs.pop(done or 0, None)
        return done is not None

    def _query(self, arguments: Arguments) -> Answer:
        """Pending at the first question, done at the second: time passes by being asked for."""
        job = self._job(arguments)
        if not job.asked:
            job.asked = True
            raise ProberFault(PENDING, "Command pending")
        return self._finish(job)

    def _wait(self, arguments: Arguments) -> Answer:
        return self._finish(self._job(arguments))

    def _wait_all(self, arguments: Arguments) -> Answer:
        for job in self._jobs.values():
            self._finish(job)
        return "OK"

    def _abort(self, arguments: Arguments) -> Answer:
        job = self._job(arguments)
        if job.reply is None:
            job.reply = (ABORTED, "Command aborted")
        return "OK"

    def _job(self, arguments: Arguments) -> _Job:
        number = integer_at(arguments, 0)
        if number not in self._jobs:
            raise ProberFault(UNKNOWN_ID, f"Unknown command id {number}")
        return self._jobs[number]

    def _finish(self, job: _Job) -> Answer:
        if job.reply is None:
            job.reply = _outcome(job.run)
        code, text = job.reply
        if code & (LAST_DIE - 1):
            raise ProberFault(code, text)
        return code, text


_OF_JOBS = {
    "query_command_status",
    "wait_complete",
    "wait_all",
    "abort_command",
}  # act at once: no job waits for itself
_ONLY_STARTED: dict[str, Handler] = {"initialization": lambda a: "OK"}


def _outcome(run: Callable[[], Answer]) -> tuple[int, str]:
    """Reply code (error or flags) and text of carrying something out."""
    try:
        answer = run()
    except ProberFault as fault:
        return fault.code, str(fault)
    except Exception:
        _log.exception("this command was not foreseen")
        return INTERNAL, "Internal error"
    return answer if isinstance(answer, tuple) else (0, answer)
