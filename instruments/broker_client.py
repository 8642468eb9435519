"""A program's side of the broker: it starts one, opens sessions through it, and keeps its lease."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from instruments.broker_messages import WAIT, Channel, Operation, Status
from instruments.off_recipe import Device, KeepAlive, OffRecipe, Outcome, make_safe
from instruments.roles import InstrumentError
from instruments.transports import transport_of

RENEWAL = 0.5
"""Seconds between two renewals of the lease at least."""

_READY = 60.0
_ANSWER = 30.0


class BrokerError(InstrumentError):
    """The broker did not come up, or is gone; the message says what to do."""


class ReleasedError(InstrumentError):
    """The broker has made the station safe, and this program no longer holds it."""


class ReplayError(InstrumentError):
    """What was asked in a replay is not what was recorded; the message shows both sides."""


class BrokerClient:
    """A conversation with a broker beside its sessions.

    Parameters
    ----------
    port, token
        Where it listens (loopback), and what it wants to see first.
    role
        ``owner`` for the program that measures: when its connection ends without `end`, the station is made safe.
        ``visitor`` for anybody else.
    """

    def __init__(self, port: int, token: str, role: str = "owner") -> None:
        self._port, self._token = port, token
        self._control = self._connect({"role": role})
        self._lock = threading.Lock()
        self._renewed = 0.0
        self._transports: list[BrokeredTransport] = []

    def transport(self, kind: str, address: str, settings: dict[str, Any]) -> BrokeredTransport:
        """A transport that the broker holds (`instruments.transports.Transport`)."""
        leads_to: dict[str, Any] = {"kind": kind, "address": address, "settings": settings}
        transport = BrokeredTransport(self, self._connect({"role": "session", **leads_to}), leads_to)
        self._transports.append(transport)
        return transport

    def renew(self) -> None:
        """Say that the program makes progress, at most every `RENEWAL` seconds."""
        now = time.monotonic()
        if now - self._renewed > RENEWAL:
            self._renewed = now
            with self._lock:
                self._control.send(Operation.RENEW)

    def rest(self) -> None:
        """Say that the station is at rest (outputs off, needles up): silence is harmless until the next request."""
        self.ask(Operation.REST)

    def make_safe(self, reason: str) -> list[Outcome]:
        """Have every instrument made safe now, whoever is waiting for what; the station is released then.

        If the broker is gone, its connections are free, and this program does it itself.
        """
        try:
            outcomes = json.loads(self.ask(Operation.MAKE_SAFE, reason.encode()))
            return [Outcome(**outcome) for outcome in outcomes]
        except BrokerError:
            return make_safe([device for each in self._transports if (device := each.direct()) is not None])

    def status(self) -> dict[str, Any]:
        """What the broker says of itself."""
        return dict(json.loads(self.ask(Operation.STATUS)))

    def end(self) -> None:
        """Say goodbye: nothing is to be made safe."""
        with contextlib.suppress(InstrumentError):
            self.ask(Operation.END)
        self._control.close()

    def ask(self, operation: Operation, body: bytes = b"") -> bytes:
        """Ask beside the sessions.

        Raises
        ------
        BrokerError
            The broker is gone.
        """
        with self._lock:
            self._control.send(operation, body)
            return self._control.answer(_ANSWER)

    def _connect(self, hello: dict[str, Any]) -> Link:
        return Link(self._port, {**hello, "token": self._token})


class Broker(BrokerClient):
    """A broker process of this program's own; a context manager.

    Leaving it in order says goodbye. Leaving it by an error, or not at all because the process died, makes the station
    safe.

    Parameters
    ----------
    station
        Station file: while this broker lives nobody else gets one for it.
    lease
        Seconds of silence after which this program is taken to hang.
    traffic
        File for the traffic; None keeps none.
    recording
        Traffic file to answer from instead of instruments.

    Raises
    ------
    BrokerError
        It did not come up, or another program holds the station.
    """

    def __init__(
        self, station: Path, *, lease: float = 30.0, traffic: Path | None = None, recording: Path | None = None
    ) -> None:
        self.token = secrets.token_hex(16)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        settings = {
            "token": self.token,
            "lease": lease,
            "lock": None if recording else str(station_lock(station)),
            "traffic": None if traffic is None else str(traffic),
            "recording": None if recording is None else str(recording),
        }
        self._process = _spawn(self._errors)
        try:
            said = self._started(settings)
            self.port, self.pid = int(said["port"]), int(said["pid"])
            super().__init__(self.port, self.token)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def close(self, *, failed: bool = False) -> None:
        """Say goodbye; after a failure break the connection instead, so that the station is made safe."""
        if failed:
            self._control.close()
        else:
            self.end()
        try:
            self._process.wait(_ANSWER)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    def _started(self, settings: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.close()
        lines: list[bytes] = []
        output = process.stdout
        reader = threading.Thread(target=lambda: lines.append(output.readline()), daemon=True)
        reader.start()
        reader.join(_READY)  # a thread, for Windows cannot wait on pipes
        if not lines or not lines[0]:
            process.kill()
            process.wait()
            self._errors.seek(0)
            raise BrokerError(f"the broker did not start: {self._errors.read().decode(errors='replace').strip()}")
        said = dict(json.loads(lines[0]))
        process.stdout.close()
        if "error" in said:
            process.wait()
            raise BrokerError(str(said["error"]))
        return said


class BrokeredTransport:
    """An instrument's connection that the broker holds; fills `instruments.wire.HeldTransport`."""

    def __init__(self, broker: BrokerClient, link: Link, leads_to: dict[str, Any]) -> None:
        self._broker, self._link, self._leads_to = broker, link, leads_to
        self._number = link.number
        self._off: OffRecipe | None = None
        self._busy = threading.Lock()
        self._owed = 0  # answers that have not come

    def open(self) -> None:
        """See `Transport.open`."""
        self._ask(Operation.OPEN)

    def close(self) -> None:
        """Close the connection; if another thread waits for an answer on it, have that given up instead."""
        if self._busy.acquire(blocking=False):
            self._busy.release()
            self._ask(Operation.CLOSE)

    def send(self, data: bytes) -> None:
        """Send bytes; what goes wrong is said by the next `receive`."""
        self._link.send(Operation.SEND, data)

    def receive(self, terminator: bytes, timeout: float) -> bytes:
        """See `Transport.receive`."""
        return self._ask(Operation.RECEIVE, WAIT.pack(timeout, len(terminator)) + terminator, timeout)

    def query(self, data: bytes, terminator: bytes, timeout: float) -> bytes:
        """See `Transport.query`."""
        return self._ask(Operation.QUERY, WAIT.pack(timeout, len(terminator)) + terminator + data, timeout)

    def interrupt(self, data: bytes) -> None:
        """See `Transport.interrupt`."""
        self._broker.ask(Operation.INTERRUPT, self._number.to_bytes(2, "little") + data)

    def abandon(self, reason: str) -> None:
        """See `Transport.abandon`; a broker that is gone holds nobody up."""
        if self._busy.locked():
            with contextlib.suppress(InstrumentError):
                self._broker.ask(Operation.ABANDON, self._number.to_bytes(2, "little") + reason.encode())

    def register(self, off: OffRecipe) -> None:
        """See `instruments.wire.HeldTransport.register`."""
        self._off = off
        self._ask(Operation.REGISTER, json.dumps(off.to_tree()).encode())

    def direct(self) -> Device | None:
        """The same instrument over a connection of this process, freshly to be opened; None without a recipe."""
        if self._off is None:
            return None
        return Device(self._leads_to["address"], transport_of(**self._leads_to), self._off)

    def keep_alive(self, message: KeepAlive | None) -> None:
        """See `instruments.wire.HeldTransport.keep_alive`."""
        tree = (
            None if message is None else {k: v.hex() if isinstance(v, bytes) else v for k, v in asdict(message).items()}
        )
        self._ask(Operation.KEEP_ALIVE, json.dumps(tree).encode())

    def _ask(self, operation: Operation, body: bytes = b"", timeout: float = 0.0) -> bytes:
        with self._busy:
            self._settle()
            self._owed += 1
            self._link.send(operation, body)
            answered = self._link.next(timeout + _ANSWER)
            self._owed -= 1
        return _opened(*answered)

    def _settle(self) -> None:
        """Drop the answers to what was interrupted (Ctrl-C) before they came."""
        while self._owed:
            self._broker.ask(Operation.ABANDON, self._number.to_bytes(2, "little") + b"interrupted")
            self._link.next(_ANSWER)
            self._owed -= 1


def station_lock(station: Path) -> Path:
    """File that stands for a station, the same for every program of this machine."""
    name = sha256(str(station.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"xbarlab-station-{name}.lock"


class Link:
    """A channel to the broker; that the broker is gone is said in words that help."""

    def __init__(self, port: int, hello: dict[str, Any]) -> None:
        try:
            self._channel = Channel(socket.create_connection(("127.0.0.1", port), timeout=5.0))
        except OSError as error:
            raise _gone(error) from error
        self.send(0, json.dumps(hello).encode())
        self.number = int(self.answer(_ANSWER) or 0)

    def send(self, code: int, body: bytes = b"") -> None:
        """Send one message; one that was interrupted half way ends the connection."""
        try:
            self._channel.send(code, body)
        except OSError as error:
            raise _gone(error) from error
        except BaseException:
            self._channel.close()
            raise

    def answer(self, timeout: float) -> bytes:
        """The body of the next answer; what went wrong in the broker is raised here."""
        return _opened(*self.next(timeout))

    def next(self, timeout: float) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        try:
            return self._channel.receive(timeout)
        except OSError as error:
            raise _gone(error) from error

    def close(self) -> None:
        """Break the connection."""
        self._channel.close()


def _opened(status: int, body: bytes) -> bytes:
    """The body of an answer, if it is a good one."""
    if status == Status.OK:
        return body
    text = body.decode("utf-8", "replace")
    if status == Status.TIMEOUT:
        raise TimeoutError(text)
    if status == Status.RELEASED:
        raise ReleasedError(f"{text}. Find out why, then go on with xbar resume.")
    if status == Status.DEVIATION:
        raise ReplayError(text)
    raise ConnectionError(text)


def _gone(error: Exception) -> BrokerError:
    return BrokerError(
        f"the broker that holds the instruments is gone ({error}). Boards with a watchdog have grounded their lines; "
        "see that the needles are up, then go on with xbar resume."
    )


def _spawn(errors: Any) -> subprocess.Popen[bytes]:
    """The process, in a session of its own: signals and closed terminals of the program that measures do not end it."""
    home = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    detached = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "DETACHED_PROCESS", 0)
    return subprocess.Popen(
        [sys.executable, "-m", "instruments.broker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=os.name == "posix",
        creationflags=detached,
    )
