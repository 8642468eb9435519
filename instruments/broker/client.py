"""A program's side of the broker: it starts one, opens sessions through it, and keeps its lease."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from instruments.broker.kept_recipes import forget_recipes
from instruments.broker.messages import AWAKE, GIVEN_UP, OPENING, OUT_OF_TURN, WAIT, Channel, Operation, Status
from instruments.roles.interfaces import InstrumentError
from instruments.roles.off_recipe import Device, KeepAlive, OffRecipe, Outcome, make_safe
from instruments.wire.address_lock import InUseError
from instruments.wire.transports import transport_of
from instruments.wire.waiting import Abandonable

RENEWAL = 0.5
"""Seconds between two renewals of the lease at least."""

PATIENCE = 40.0
"""Seconds to wait for a station that another broker holds: it may just be making it safe."""

_READY = 30.0  # s; to come up
_ANSWER = 10.0  # s; for an answer, beyond what the instrument is given
_ALIVE = 3.0  # s; in which a broker that lives says so
_OPENED = 120.0  # s; for a connection: a vendor's library may take its time
_SAFE = 600.0  # s; for everything to be made safe: a strong magnet takes minutes
_LET_GO = 1.0  # s; for another thread to give up its wait

_log = logging.getLogger(__name__)


class BrokerError(InstrumentError):
    """The broker did not come up, or is gone; the message says what to do."""


class ReleasedError(InstrumentError):
    """The broker has made the station safe, and this program no longer holds it."""


class ReplayError(InstrumentError):
    """What was asked in a replay is not what was recorded; the message shows both sides."""


class BrokerClient:
    """A conversation with a broker beside its sessions; may be used from several threads.

    Parameters
    ----------
    port, token
        Where it listens (loopback), and what it wants to see first.
    role
        ``owner`` for the program that measures: when its connection ends without `end`, the station is made safe.
        ``visitor`` for anybody else, who may ask for `status` and `make_safe`.
    """

    def __init__(self, port: int, token: str, role: str = "owner") -> None:
        self._port, self._token = port, token
        self._control = self._connect({"role": role})
        # a thread of its own asks: an exchange that Ctrl-C has broken off would leave the next one out of step
        self._asking = ThreadPoolExecutor(1, "broker")
        self._renewed, self._renewal = 0.0, RENEWAL
        self._transports: list[BrokeredTransport] = []

    def transport(self, kind: str, address: str, settings: dict[str, Any]) -> BrokeredTransport:
        """A transport that the broker holds (`instruments.wire.transports.Transport`)."""
        leads_to: dict[str, Any] = {"kind": kind, "address": address, "settings": settings}
        transport = BrokeredTransport(self, self._connect({"role": "session", **leads_to}), leads_to)
        self._transports.append(transport)
        return transport

    def rejoin(self, number: int) -> Link:
        """Another channel to a session; what was asked over the old one is given up."""
        return self._connect({"role": "session", "number": number})

    def renew(self) -> None:
        """Say that the program makes progress, at most every `RENEWAL` seconds."""
        now = time.monotonic()
        if now - self._renewed > self._renewal:
            self._renewed = now
            self._in_turn(self._control.send, Operation.RENEW)

    def rest(self) -> None:
        """Say that the station is at rest (outputs off, needles up): silence is harmless until the next request."""
        self.ask(Operation.REST)

    def make_safe(self, reason: str) -> list[Outcome]:
        """Have every instrument made safe now, whoever is waiting for what; the station is released then.

        Raises
        ------
        BrokerError
            The broker is gone or does not answer: nothing was made safe.
        """
        self.ask(Operation.STATUS, timeout=_ALIVE)
        outcomes = json.loads(self._ask_patiently(Operation.MAKE_SAFE, reason.encode()))
        return [Outcome(**outcome) for outcome in outcomes]

    def status(self) -> dict[str, Any]:
        """What the broker says of itself."""
        return dict(json.loads(self.ask(Operation.STATUS)))

    def released(self) -> str:
        """Why the station was made safe and is no longer held; empty while it is held, or if the broker is gone."""
        try:
            return str(self.status()["released"])
        except BrokerError:
            return ""

    def end(self) -> None:
        """Say goodbye: nothing is to be made safe."""
        with contextlib.suppress(BrokerError):
            fault = json.loads(self._ask_patiently(Operation.END))["traffic_fault"]
            if fault:
                _log.warning("%s", fault)
        self._hang_up()

    def ask(self, operation: Operation, body: bytes = b"", timeout: float | None = None) -> bytes:
        """Ask beside the sessions.

        Raises
        ------
        BrokerError
            The broker is gone, or refuses.
        """
        return bytes(self._in_turn(self._exchange, operation, body, _ANSWER if timeout is None else timeout))

    def _ask_patiently(self, operation: Operation, body: bytes = b"") -> bytes:
        """As `ask`, for what may take minutes; meanwhile it is seen that the broker lives.

        Raises
        ------
        BrokerError
            The broker is gone, refuses, or has stopped to answer on any connection.
        """
        asked = self._submit(self._exchange, operation, body, _SAFE)
        while not wait([asked], _ALIVE).done:
            link = Link(self._port, {"role": "visitor", "token": self._token}, _ALIVE)
            with contextlib.closing(link):
                link.send(Operation.STATUS)
                link.next(_ALIVE)
        return bytes(asked.result())

    def _exchange(self, operation: Operation, body: bytes, timeout: float) -> bytes:
        self._control.send(operation, body)
        try:
            status, answer = self._control.next(timeout)
        except BrokerError:
            self._control.close()  # an answer that comes later would be taken for that to the next question
            raise
        if status in (Status.TIMEOUT, Status.CONNECTION, Status.OTHER):
            raise BrokerError(f"the broker: {answer.decode('utf-8', 'replace')}")
        return _opened(status, answer)

    def _in_turn(self, action: Callable[..., Any], *arguments: Any) -> Any:
        return self._submit(action, *arguments).result()

    def _submit(self, action: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            return self._asking.submit(action, *arguments)
        except RuntimeError as error:  # this conversation has ended
            raise _gone(error) from error

    def _hang_up(self) -> None:
        self._asking.shutdown(wait=False)
        self._control.close()
        for transport in self._transports:
            transport.hang_up()

    def _connect(self, hello: dict[str, Any]) -> Link:
        return Link(self._port, {**hello, "token": self._token})


class Broker(BrokerClient):
    """A broker process of this program's own; a context manager.

    Leaving it in order says goodbye. Leaving it by an error, or not at all because the process died, makes the station
    safe.

    Parameters
    ----------
    station
        Station file: its name is told to whoever wants one of its instruments meanwhile.
    lease
        Seconds of silence after which this program is taken to hang.
    patience
        Seconds to wait for an instrument that another process uses: its broker may just be making it safe.
    traffic
        File for the traffic; None keeps none.
    recording
        Traffic file to answer from instead of instruments.
    recipes
        File in which what makes the instruments safe is kept while they are held, for when the broker is gone, too
        (`instruments.broker.kept_recipes`).
    token
        What its clients must show; drawn if None.

    Raises
    ------
    BrokerError
        It did not come up.
    """

    def __init__(
        self,
        station: Path,
        *,
        lease: float = 30.0,
        patience: float = PATIENCE,
        traffic: Path | None = None,
        recording: Path | None = None,
        recipes: Path | None = None,
        token: str | None = None,
    ) -> None:
        self.token = secrets.token_hex(16) if token is None else token
        self._recipes = recipes
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        settings = {
            "token": self.token,
            "lease": lease,
            "station": str(station.resolve()),
            "patience": patience,
            "recipes": None if recording or recipes is None else str(recipes),
            "traffic": None if traffic is None else str(traffic),
            "recording": None if recording is None else str(recording),
            "path": [str(Path(each).resolve()) for each in sys.path if each],  # "" is the working folder
        }
        self._process = start_interpreter(self._errors)
        try:
            said = self._started(settings, _READY)
            self.port, self.pid = int(said["port"]), int(said["pid"])
            super().__init__(self.port, self.token)
            self._renewal = min(RENEWAL, lease / 4)
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._errors.close()
            raise

    def make_safe(self, reason: str) -> list[Outcome]:
        """As `BrokerClient.make_safe`; for a broker that is gone or hangs this program does it itself."""
        try:
            return super().make_safe(reason)
        except BrokerError:
            self._process.kill()  # one that hangs still holds the connections
            self._process.wait()
            known = {(each.name, each.off): each for each in self._transports}
            outcomes = make_safe([device for each in known.values() if (device := each.direct()) is not None])
            if not any(each.fault for each in outcomes):
                forget_recipes(self._recipes)
            return outcomes

    def close(self, *, failed: bool = False) -> None:
        """Say goodbye; after a failure break the connection instead, so that the station is made safe."""
        if failed:
            self._hang_up()
        else:
            self.end()
        try:
            self._process.wait(_SAFE)
        except subprocess.TimeoutExpired:  # never killed: it may still be making something safe
            _log.error("the broker (process %d) does not end; see that needles are up and outputs off", self.pid)
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    def _started(self, settings: dict[str, Any], timeout: float) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.close()
        lines: list[bytes] = []
        output = process.stdout
        reader = threading.Thread(target=lambda: lines.append(output.readline()), daemon=True)
        reader.start()
        reader.join(timeout)  # a thread, for Windows cannot wait on pipes
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


class BrokeredTransport(Abandonable):
    """An instrument's connection that the broker holds; fills `instruments.wire.sessions.HeldTransport`.

    A request that is interrupted (Ctrl-C) loses its channel to the broker, with whatever may still arrive on it. The
    next request makes a new one, and the broker gives up the old request before it serves that.
    """

    def __init__(self, broker: BrokerClient, link: Link, leads_to: dict[str, Any]) -> None:
        super().__init__()
        self._broker, self._leads_to = broker, leads_to
        self._link: Link | None = link
        self._number = link.number
        self._opening = 0
        self._busy = threading.Lock()
        self.off: OffRecipe | None = None

    @property
    def name(self) -> str:
        """Where it leads."""
        return str(self._leads_to["address"])

    def open(self) -> None:
        """See `Transport.open`."""
        self._opening += 1
        self._abandoned = None
        self._ask(Operation.OPEN, OPENING.pack(self._opening), _OPENED)

    def close(self) -> None:
        """Close the connection; another thread that waits on it must have been told to give up (`abandon`)."""
        if self._busy.acquire(timeout=_LET_GO):
            self._busy.release()
            self._ask(Operation.CLOSE)

    def send(self, data: bytes) -> None:
        """Send bytes; what goes wrong is said by the next `receive`."""
        with self._busy:
            self._check_wanted()
            with self._linked() as link:
                link.send(Operation.SEND, data)

    def receive(self, terminator: bytes, timeout: float) -> bytes:
        """See `Transport.receive`."""
        return self._ask(Operation.RECEIVE, WAIT.pack(timeout, len(terminator)) + terminator, timeout)

    def query(self, data: bytes, terminator: bytes, timeout: float) -> bytes:
        """See `Transport.query`."""
        return self._ask(Operation.QUERY, WAIT.pack(timeout, len(terminator)) + terminator + data, timeout)

    def interrupt(self, data: bytes) -> None:
        """See `Transport.interrupt`."""
        self._broker.ask(Operation.INTERRUPT, OUT_OF_TURN.pack(self._number) + data)

    def abandon(self, reason: str | None) -> None:
        """See `Transport.abandon`; a broker that is gone holds nobody up."""
        opening = self._opening
        super().abandon(reason)
        if reason is not None and self._busy.locked():
            with contextlib.suppress(InstrumentError):
                self._broker.ask(Operation.ABANDON, GIVEN_UP.pack(self._number, opening) + reason.encode())

    def register(self, off: OffRecipe) -> None:
        """See `instruments.wire.sessions.HeldTransport.register`."""
        self.off = off
        self._ask(Operation.REGISTER, json.dumps(off.to_tree()).encode())

    def keep_alive(self, message: KeepAlive | None) -> None:
        """See `instruments.wire.sessions.HeldTransport.keep_alive`."""
        self._ask(Operation.KEEP_ALIVE, json.dumps(None if message is None else message.to_tree()).encode())

    def hang_up(self) -> None:
        """Break the channel to the broker, whose connections end with it."""
        if self._link is not None:
            self._link.close()

    def direct(self) -> Device | None:
        """The same instrument over a connection of this process, freshly to be opened; None without a recipe."""
        if self.off is None:
            return None
        return Device(self.name, transport_of(**self._leads_to), self.off)

    def _ask(self, operation: Operation, body: bytes = b"", timeout: float = 0.0) -> bytes:
        with self._busy:
            if operation in (Operation.QUERY, Operation.RECEIVE):
                self._check_wanted()
            with self._linked() as link:
                link.send(operation, body)
                answered = link.next(timeout + _ANSWER)
        return _opened(*answered)

    @contextlib.contextmanager
    def _linked(self) -> Iterator[Link]:
        """The channel; one that is not handed back in order is not used again."""
        link, self._link = self._link, None
        if link is None:
            link = self._broker.rejoin(self._number)
        try:
            yield link
        except BaseException:
            link.close()
            raise
        self._link = link


class Link:
    """A channel to the broker; that the broker is gone is said in words that help."""

    def __init__(self, port: int, hello: dict[str, Any], patience: float = _ANSWER) -> None:
        try:
            self._channel = Channel(socket.create_connection(("127.0.0.1", port), timeout=5.0), AWAKE)
        except OSError as error:
            raise _gone(error) from error
        try:
            self.send(0, json.dumps(hello).encode())
            status, answer = self.next(patience)
            if status == Status.OTHER:
                raise BrokerError(f"the broker refuses: {answer.decode('utf-8', 'replace')}")
            self.number = int(_opened(status, answer) or 0)
        except BaseException:
            self.close()
            raise

    def send(self, code: int, body: bytes = b"") -> None:
        """Send one message."""
        try:
            self._channel.send(code, body)
        except OSError as error:
            raise _gone(error) from error

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
    if status == Status.IN_USE:
        raise InUseError(text)
    raise ConnectionError(text)


def _gone(error: Exception) -> BrokerError:
    return BrokerError(
        f"the broker that holds the instruments is gone ({error}). Boards with a watchdog have grounded their lines; "
        "see that the needles are up, then go on with xbar resume."
    )


def start_interpreter(errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """An interpreter that takes its settings on standard input and is a broker.

    It has a session of its own: signals and closed terminals of the program that measures do not end it.
    """
    home = str(Path(__file__).resolve().parents[2])
    theirs = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(each).is_absolute()]
    path = os.pathsep.join([home, *theirs])  # what is relative is meant for the folder the program was started in
    detached = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "DETACHED_PROCESS", 0)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "instruments.broker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        # small matrices: more threads only fight over the processor with the program that measures
        env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        start_new_session=os.name == "posix",
        creationflags=detached,
    )
