"""One instrument's connection as the broker holds it: requests of the owner, heartbeats, and its off-recipe."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from instruments.broker.messages import OPENING, WAIT, Channel, Operation, Status
from instruments.roles.off_recipe import Device, KeepAlive, OffRecipe
from instruments.wire.address_lock import InUseError
from instruments.wire.recording import DeviationError
from instruments.wire.traffic import Kind, TrafficWriter
from instruments.wire.transports import Transport

BEAT_PATIENCE = 1.0
"""Seconds allowed for the answer to a heartbeat."""


class Holder(Protocol):
    """The broker, as its sessions see it."""

    traffic: TrafficWriter | None
    released: str
    replays: bool

    def renew(self) -> None:
        """The owner has been heard."""

    def check_held(self) -> None:
        """Raise `ReleasedError` if the owner no longer holds the station."""

    def note(self, what: str, **details: object) -> None:
        """Write to the traffic file what happened beside the wire."""

    def recipe_changed(self) -> None:
        """What makes a session's instrument safe is another."""


class HeldSession:
    """One instrument's connection, in the broker.

    The owner's requests come over one channel at a time. One that breaks in the middle of a request (Ctrl-C in the
    owner) is replaced by another; what was asked over the old one is given up.
    """

    def __init__(self, number: int, leads_to: dict[str, Any], connect: Callable[[], Transport], broker: Holder) -> None:
        self.number, self.name, self.leads_to = number, str(leads_to["address"]), leads_to
        self.transport = connect()
        self.recipe: OffRecipe | None = None
        self.lock = threading.Lock()  # whoever has it uses the transport
        self.working = False  # an instrument that takes its time is not an owner that is silent
        self._connect, self._broker, self._traffic = connect, broker, broker.traffic
        self._channel: Channel | None = None
        self._keep_alive: KeepAlive | None = None
        self._unanswered = 0  # answers that were awaited and have not come
        self.in_step = False  # open, and nothing has gone wrong since
        self._refused = False  # the last heartbeat was
        self._fault: Exception | None = None  # of something that is not answered itself
        self._opening, self._turn = 0, threading.Lock()

    def serve(self, channel: Channel) -> None:
        """Do what the owner asks over a channel until that ends."""
        self._channel = channel
        while True:
            keep_alive = self._keep_alive
            try:
                code, body = channel.receive(keep_alive.period if keep_alive else None)
            except TimeoutError:
                self._beat()
                continue
            except OSError:
                return
            self.working = True
            try:
                answer = self._answer(channel, code, body)
            finally:
                self._broker.renew()
                self.working = False
            try:
                if answer is not None:
                    channel.send(*answer)
            except OSError:
                return

    def serve_instead(self, channel: Channel) -> None:
        """Take requests from a new channel, when the one that was interrupted has been given up."""
        self._channel = None
        self.transport.abandon("the exchange was interrupted")
        with self.lock:
            pass
        channel.send(Status.OK, str(self.number).encode())
        self.serve(channel)

    def abandon(self, opening: int, reason: str) -> None:
        """Have the wait for an answer given up, unless the connection was opened again since that was asked."""
        with self._turn:
            if opening == self._opening:
                self.transport.abandon(reason)

    def interrupt(self, data: bytes) -> None:
        """Send out of turn."""
        self._broker.check_held()
        self.log(Kind.OUT_OF_TURN, data)
        self.transport.interrupt(data)

    def seize(self, deadline: float) -> bool:
        """Take the transport from whoever waits on it; one that does not let go by `deadline` is left to its fate.

        Returns whether the lock is held now.
        """
        if self.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            self.transport.abandon(None)
            return True
        stuck, self.transport, self._unanswered = self.transport, self._connect(), 0
        threading.Thread(target=quietly, args=(stuck.close,), daemon=True).start()
        return False

    def device(self) -> Device | None:
        """What makes it safe, if it has left a recipe."""
        if self.recipe is None:
            return None
        return Device(self.name, _OwnExchanges(self), self.recipe, self._unanswered)

    def _answer(self, channel: Channel, code: int, body: bytes) -> tuple[Status, bytes] | None:
        """Do what is asked; what to answer, if anything."""
        try:
            with self.lock:
                if channel is not self._channel:
                    raise ConnectionError("interrupted before it was begun")
                self._broker.check_held()
                answer = Status.OK, self._do(Operation(code), body)
        except Exception as error:
            answer = refusal(error)
            if code == Operation.SEND:
                self.in_step, self._fault = False, self._fault or error
        return None if code == Operation.SEND else answer

    def _do(self, operation: Operation, body: bytes) -> bytes:
        if operation is Operation.QUERY:
            return self._query(body)
        if operation is Operation.RECEIVE:
            return self._receive(body)
        if operation is Operation.SEND:
            self.log(Kind.SEND, body)
            self.transport.send(body)
        elif operation is Operation.OPEN:
            self._open(*OPENING.unpack(body))
        elif operation is Operation.CLOSE:
            self.in_step = False
            self.transport.close()
            self.log(Kind.CLOSE)
        elif operation is Operation.REGISTER:
            self.recipe = None if self._broker.replays else OffRecipe.from_tree(json.loads(body))
            self._broker.recipe_changed()
        elif operation is Operation.KEEP_ALIVE:
            self._keep_alive = None if self._broker.replays else KeepAlive.from_tree(json.loads(body))
        else:
            raise ValueError(f"{operation.name} is not for a session")
        return b""

    def _open(self, opening: int) -> None:
        with self._turn:
            self._opening = opening
        self._fault, self._unanswered, self.in_step, self._refused = None, 0, False, False
        try:
            self.transport.open()
        except Exception as error:
            self.log(Kind.OPEN, (str(error) or type(error).__name__).encode())
            raise
        self.in_step = True
        self.log(Kind.OPEN)

    def _receive(self, body: bytes) -> bytes:
        timeout, length = WAIT.unpack_from(body)
        terminator = body[WAIT.size : WAIT.size + length]
        return self._awaited(lambda: self.transport.receive(terminator, timeout))

    def _query(self, body: bytes) -> bytes:
        timeout, length = WAIT.unpack_from(body)
        terminator, data = body[WAIT.size : WAIT.size + length], body[WAIT.size + length :]
        self.log(Kind.SEND, data)
        return self._awaited(lambda: self.transport.query(data, terminator, timeout))

    def _awaited(self, message_of: Callable[[], bytes]) -> bytes:
        """A message, or the fault that there is in its place."""
        self._unanswered += 1
        try:
            if self._fault is not None:
                raise self._fault
            message = message_of()
        except Exception as error:
            self.in_step, self._fault = False, None
            self.log(Kind.FAULT, f"{type(error).__name__}\n{error}".encode())
            raise
        self._unanswered = max(0, self._unanswered - 1)
        if self.recipe is not None and self.recipe.numbered:
            self.in_step = True  # its messages say what they answer: a connection that answers again is in order
        self.log(Kind.MESSAGE, message)
        return message

    def _beat(self) -> None:
        """Tell the instrument's watchdog that the owner lives, while all is in order."""
        with self.lock:
            message = self._keep_alive
            if message is None or self._broker.released or not self.in_step:
                return
            try:
                self.log(Kind.OWN, message.send)
                self.transport.send(message.send)
                answer = self.transport.receive(message.terminator, BEAT_PATIENCE)
                self.log(Kind.OWN, answer)
            except Exception as error:
                self.in_step, self._fault = False, ConnectionError(f"its watchdog could not be answered ({error})")
                self._broker.note("heartbeat lost", session=self.name, fault=str(error))
                return
            refused = re.fullmatch(message.reply, answer, re.DOTALL) is None
            if refused and not self._refused:
                self._broker.note("heartbeat refused", session=self.name)
            self._refused = refused  # the driver learns why when it asks for something next

    def log(self, kind: Kind, payload: bytes = b"") -> None:
        """Add to the traffic of this session."""
        if self._traffic is not None:
            self._traffic.add(self.number, kind, payload)


class _OwnExchanges:
    """A session's transport as the broker itself uses it, with the traffic of that; fills `off_recipe.Reached`."""

    def __init__(self, session: HeldSession) -> None:
        self._transport, self._log = session.transport, session.log

    def open(self) -> None:
        """Connect anew."""
        self._transport.open()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._log(Kind.OWN, data)
        self._transport.send(data)

    def receive(self, terminator: bytes, timeout: float) -> bytes:
        """The next message."""
        message = self._transport.receive(terminator, timeout)
        self._log(Kind.OWN, message)
        return message


class ReleasedError(RuntimeError):
    """The station was made safe and is no longer held."""


def _status_of(error: Exception) -> Status:
    for kind, status in (
        (ReleasedError, Status.RELEASED),
        (InUseError, Status.IN_USE),
        (DeviationError, Status.DEVIATION),
        (TimeoutError, Status.TIMEOUT),
        (OSError, Status.CONNECTION),
    ):
        if isinstance(error, kind):
            return status
    return Status.OTHER


def refusal(error: Exception) -> tuple[Status, bytes]:
    """An error as the broker answers it."""
    return _status_of(error), (str(error) or type(error).__name__).encode()


def quietly(action: Callable[[], object]) -> None:
    """Do something; what goes wrong is only written down."""
    try:
        action()
    except Exception as error:
        sys.stderr.write(f"{error}\n")
