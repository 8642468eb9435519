"""`xbar` that notes every boundary of what it does, and kills itself at one of them, as a power cut would.

``python dying_xbar.py BOUNDARIES N arguments of xbar...``: appends number, name and time of every boundary to a file;
dies at the N-th (0: at none). A boundary lies on either side of a commit and of a pulse frame, and where the frame has
been sent and its answer has not come. The product knows nothing of this.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.record.record import Record
from instruments.board_protocol.frames import Opcode
from instruments.board_protocol.link import BoardLink
from instruments.broker.client import Link
from instruments.broker.messages import Operation
from protocols.bench.bench import Bench
from protocols.cli import main
from protocols.sequencer.open_station import StationOpener

#: What is wrapped, and how its boundaries are called.
BOUNDED: tuple[tuple[type, str, str], ...] = (
    (Record, "begin_run", "run begun"),
    (Record, "append_step", "step"),
    (Record, "intend", "intent"),
    (Record, "fired", "fired"),
    (Record, "settle", "settled"),
    (Record, "keep_readings", "readings"),
    (Record, "set_verdict", "verdict"),
    (Record, "end_run", "run ended"),
    (Bench, "enter", "enter"),
    (Bench, "leave", "leave"),
    (StationOpener, "__call__", "station"),
)


class Boundaries:
    """Notes the boundaries that are passed; does not come back from the last one."""

    def __init__(self, file: Path, last: int) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._last, self._passed = last, 0
        self._pulsing = False

    def passed(self, name: str) -> None:
        """One boundary."""
        self._passed += 1
        os.write(self._file, f"{self._passed}\t{name}\t{time.time():.6f}\n".encode())
        if self._passed == self._last:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # SIGTERM ends at once on Windows
            time.sleep(60)

    def around(self, owner: type, method: str, name: str) -> None:
        """A boundary before a method and one after it."""
        original = getattr(owner, method)

        @functools.wraps(original)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self.passed(f"{name}, before")
            result = original(*args, **kwargs)
            self.passed(f"{name}, after")
            return result

        setattr(owner, method, bounded)

    def around_opening(self) -> None:
        """The first boundaries: before and after a record is opened, or made."""
        opened = Record.open

        def bounded(*args: Any, **kwargs: Any) -> Record:
            self.passed("record, before")
            record = opened(*args, **kwargs)
            self.passed("record, after")
            return record

        Record.open = bounded  # type: ignore[method-assign]

    def around_pulse_frames(self) -> None:
        """Boundaries before a pulse frame is sent, after that, and after its answer."""
        exchange, send = BoardLink._exchange, Link.send

        def bounded_exchange(link: BoardLink, opcode: Opcode, *args: Any) -> bytes:
            if opcode not in (Opcode.PULSE, Opcode.PULSE_READ):
                return exchange(link, opcode, *args)
            self.passed("frame, before")
            self._pulsing = True
            reply = exchange(link, opcode, *args)
            self.passed("frame, answered")
            return reply

        def bounded_send(link: Link, code: int, body: bytes = b"") -> None:
            send(link, code, body)
            if self._pulsing and code == Operation.QUERY:
                self._pulsing = False
                self.passed("frame, sent")

        BoardLink._exchange, Link.send = bounded_exchange, bounded_send  # type: ignore[method-assign]


def die_at(file: Path, last: int, program: Callable[[], None] = main) -> None:
    """Run the command of this process up to a boundary."""
    boundaries = Boundaries(file, last)
    for owner, method, name in BOUNDED:
        boundaries.around(owner, method, name)
    boundaries.around_opening()
    boundaries.around_pulse_frames()
    program()


def command() -> None:
    """What the command line of this file says."""
    noted, last, *rest = sys.argv[1:]
    sys.argv = ["xbar", *rest]
    die_at(Path(noted), int(last))


if __name__ == "__main__":
    command()
