"""How long a station serves: as long as the program that started it, and those that still hold its wires."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

LINGER = 30.0  # s


def wait_for_end(
    *, forever: bool, in_use: Callable[[], bool] = lambda: False, linger: float = LINGER, poll: float = 0.05
) -> None:
    """Return on an interrupt, on SIGTERM or SIGHUP, or after standard input has closed.

    An interrupt counts although the process was started with it ignored, as a background job of a script is; a hangup
    that was ignored stays so (`nohup`).

    Who started the station may have been killed while another process of its still holds the connections, in order to
    make the station safe. So it is served on while clients are connected, though not for ever.

    Parameters
    ----------
    forever
        Do not look at standard input.
    in_use
        Whether clients are connected.
    linger
        Longest time (s) that they are served on.
    poll
        Time (s) between two looks at what may have happened.
    """
    told, closed = threading.Event(), threading.Event()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):  # the last two exist on one of the two systems each
        number = getattr(signal, name, None)
        if number is not None and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            signal.signal(number, lambda *_: told.set())
    if not forever:
        threading.Thread(target=_watch_input, args=(closed,), name="lifeline", daemon=True).start()
    try:
        # short waits: a wait without end cannot be interrupted on Windows
        while not closed.is_set() and not told.wait(poll):
            pass
        end = time.monotonic() + linger
        while in_use() and time.monotonic() < end and not told.wait(poll):
            pass
    except KeyboardInterrupt:
        return


def _watch_input(closed: threading.Event) -> None:
    try:
        # the descriptor itself: a blocked read of sys.stdin would hold a lock that the interpreter wants at its end
        while os.read(sys.stdin.fileno(), 4096):
            pass
    finally:
        closed.set()
