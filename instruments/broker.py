"""The broker: a small process that holds every connection of a station and outlives the program that measures.

``python -m instruments.broker`` takes one line of JSON on standard input, prints one line with its port, and then

* carries messages between the program (its *owner*) and the instruments, one thread and one lock per session, and
  writes all of them to the traffic file;
* answers the watchdogs of instruments while the owner is alive;
* makes the station safe, by the recipes that the drivers have left with it, when the owner is gone without having said
  so (crash, kill, power-off of its terminal), when its lease runs out (it has been silent for too long while the
  station was not at rest: it hangs), or when somebody asks; then nobody gets through to an instrument any more.

It listens on loopback only and talks only to who knows its token. It ignores Ctrl-C and closed terminals: those are for
the owner. Given a recording instead of instruments, it answers from that.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from instruments.broker_messages import (
    GIVEN_UP,
    LARGEST_HELLO,
    OPENING,
    OUT_OF_TURN,
    WAIT,
    Channel,
    Operation,
    Status,
)
from instruments.off_recipe import Device, KeepAlive, OffRecipe, Outcome, make_safe
from instruments.recording import DeviationError, Recording
from instruments.traffic import Kind, TrafficWriter
from instruments.transports import Transport, transport_of

OWNER_PATIENCE = 20.0
"""Seconds in which the owner must connect after the broker has come up."""

LET_GO = 0.5
"""Seconds that whoever waits for an answer has to let go of a connection before the station is made safe without it."""

BEAT_PATIENCE = 1.0
"""Seconds allowed for the answer to a heartbeat."""

TICK = 0.2
"""Seconds between two looks at the lease."""


@dataclass(frozen=True)
class Settings:
    """What a broker is started with.

    Attributes
    ----------
    token
        What every client must show first.
    lease
        Seconds of silence after which an owner is taken to hang, unless the station is at rest.
    lock
        File that stands for the station; locked while the broker lives, so that two programs cannot hold one station.
    patience
        Seconds to wait for that lock: an earlier broker may still make the station safe.
    traffic
        File to write; None: none is written.
    recording
        Traffic file to answer from, instead of instruments.
    path
        Where the owner finds Python packages; a vendor's may be there.
    """

    token: str
    lease: float
    lock: str | None = None
    patience: float = 40.0
    traffic: str | None = None
    recording: str | None = None
    path: tuple[str, ...] = ()


class HeldSession:
    """One instrument's connection, in the broker.

    The owner's requests come over one channel at a time. One that breaks in the middle of a request (Ctrl-C in the
    owner) is replaced by another; what was asked over the old one is given up.
    """

    def __init__(self, number: int, name: str, connect: Callable[[], Transport], broker: Broker) -> None:
        self.number, self.name = number, name
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
        threading.Thread(target=_quietly, args=(stuck.close,), daemon=True).start()
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
            answer = _refusal(error)
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


class Broker:
    """The owner's lease, and the sessions."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.released = ""  # why nobody gets through any more
        self.outcomes: list[Outcome] = []
        self._recording = Recording(Path(settings.recording)) if settings.recording else None
        self.replays = self._recording is not None  # nothing is there to be kept alive or made safe
        self.traffic = TrafficWriter(Path(settings.traffic)) if settings.traffic else None
        self._sessions: list[HeldSession] = []
        self._resting = True
        self._heard = time.monotonic()
        self._changed = threading.Condition()
        self._owner: str = "awaited"  # then: here, gone (without a word), ended
        self._parent, self._terminated = os.getppid(), False
        self._safe_lock, self._sessions_lock = threading.Lock(), threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        """Serve until the owner is gone and the station is as it must be."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            self._watch()
        finally:
            self._listener.close()
            with self._safe_lock:  # somebody may just be making the station safe
                for session in self._sessions:
                    session.transport.abandon("the broker ends")
                    _quietly(session.transport.close)
            if self.traffic is not None:
                self.traffic.note("end", owner=self._owner, released=self.released)
                self.traffic.close()

    def renew(self) -> None:
        """The owner has been heard."""
        self._heard = time.monotonic()
        self._resting = False

    def check_held(self) -> None:
        """Raise `ReleasedError` if the owner no longer holds the station."""
        if self.released:
            raise ReleasedError(self.released)

    def note(self, what: str, **details: Any) -> None:
        """Write to the traffic file what happened beside the wire."""
        if self.traffic is not None:
            self.traffic.note(what, **details)

    def release(self, reason: str) -> list[Outcome]:
        """Make the station safe, once; from then on nobody gets through. Returns what became of each instrument."""
        with self._safe_lock:
            if self.released:
                return self.outcomes
            self.released = reason
            with self._sessions_lock:
                sessions = [] if self.replays else list(self._sessions)
            self.note("making safe", reason=reason, sessions=[session.name for session in sessions])
            for session in sessions:
                session.transport.abandon(reason)  # whoever waits for an answer lets go
            deadline = time.monotonic() + LET_GO
            seized = [session for session in sessions if session.seize(deadline)]
            try:
                self.outcomes = make_safe(_devices(sessions))
            finally:
                for session in seized:
                    session.lock.release()
            faults = "; ".join(f"{each.name}: {each.fault}" for each in self.outcomes if each.fault)
            self.released += f". NOT ALL OF IT IS SAFE: {faults}" if faults else ""
            self.note("made safe", outcomes=[asdict(outcome) for outcome in self.outcomes])
            return self.outcomes

    def terminate(self) -> None:
        """The process itself is asked to end: take that as the end of the owner."""
        self._terminated = True

    # what the threads do

    def _watch(self) -> None:
        """Wait for the end of the owner; notice when it is silent for too long."""
        deadline = time.monotonic() + OWNER_PATIENCE
        while True:
            with self._changed:
                if self._owner in ("awaited", "here"):
                    self._changed.wait(TICK)
                owner = self._owner
            if owner == "ended" or (owner == "awaited" and time.monotonic() > deadline):
                return
            # a child that the owner has forked may hold its connections open: look for the owner itself, too
            if owner == "gone" or self._terminated or os.getppid() != self._parent:
                self.release("the program that measured is gone")
                return
            if owner == "here":
                self._check_lease()

    def _check_lease(self) -> None:
        silent = 0.0 if any(session.working for session in self._sessions) else time.monotonic() - self._heard
        if silent > self.settings.lease and not self._resting and not self.released:
            self.release(
                f"nothing was heard of the program that measures for {silent:.1f} s (its lease is "
                f"{self.settings.lease:g} s): it was taken to hang, and the station was made safe"
            )

    def _claim(self) -> bool:
        """There is one owner, once."""
        with self._changed:
            if self._owner != "awaited":
                return False
            self._owner, self._heard = "here", time.monotonic()
            return True

    def _say(self, owner: str) -> None:
        with self._changed:
            if self._owner != "ended":
                self._owner = owner
            self._changed.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(Channel(connection),), daemon=True).start()

    def _serve(self, channel: Channel) -> None:
        try:
            _, hello = channel.receive(5.0, LARGEST_HELLO)
            said = json.loads(hello)
            if not secrets.compare_digest(str(said["token"]).encode(), self.settings.token.encode()):
                return
            if said["role"] == "session":
                self._serve_session(channel, said)
            else:
                self._serve_control(channel, said["role"] == "owner")
        except (OSError, ValueError, LookupError, TypeError):  # whoever it was, it does not speak our language
            return
        finally:
            channel.close()

    def _serve_session(self, channel: Channel, said: dict[str, Any]) -> None:
        if "number" in said:
            self._sessions[int(said["number"]) - 1].serve_instead(channel)
            return
        try:
            self.check_held()
            session = self._new_session(said["kind"], said["address"], said["settings"])
        except Exception as error:
            channel.send(*_refusal(error))
            return
        channel.send(Status.OK, str(session.number).encode())
        session.serve(channel)

    def _new_session(self, kind: str, address: str, settings: dict[str, Any]) -> HeldSession:
        def connect() -> Transport:
            if self._recording is not None:
                return self._recording.transport(kind, address)
            return transport_of(kind, address, settings)

        with self._sessions_lock:
            session = HeldSession(len(self._sessions) + 1, address, connect, self)
            self._sessions.append(session)
        if self.traffic is not None:
            tree = {"kind": kind, "address": address, "settings": settings}
            self.traffic.add(session.number, Kind.SESSION, json.dumps(tree).encode())
        return session

    def _serve_control(self, channel: Channel, owner: bool) -> None:
        if owner and not self._claim():
            channel.send(Status.OTHER, b"this broker has, or had, an owner already")
            return
        try:
            channel.send(Status.OK)
            while self._control(channel, owner, *channel.receive()):
                pass
        except OSError:
            pass
        finally:
            if owner:
                self._say("gone")  # unless it has said goodbye

    def _control(self, channel: Channel, owner: bool, code: int, body: bytes) -> bool:
        """Do what is asked; False at the end of the conversation."""
        if owner:
            self._heard = time.monotonic()
        if code == Operation.RENEW:
            if owner:
                self.renew()
            return True
        try:
            answer: tuple[Status, bytes] = (Status.OK, self._do(Operation(code), owner, body))
        except Exception as error:
            answer = _refusal(error)
        channel.send(*answer)
        if code == Operation.END and owner:
            self._say("ended")
        return code != Operation.END

    def _do(self, operation: Operation, owner: bool, body: bytes) -> bytes:
        if operation is Operation.STATUS:
            return json.dumps(self._state()).encode()
        if operation is Operation.MAKE_SAFE:
            outcomes = self.release(body.decode() or "asked to")
            return json.dumps([asdict(outcome) for outcome in outcomes]).encode()
        if operation is Operation.END:
            if owner and self.traffic is not None:
                self.traffic.flush()
            return json.dumps(self._state()).encode()
        if not owner:
            raise PermissionError(f"{operation.name} is for the owner of the station")
        if operation is Operation.REST:
            self._resting = True
        elif operation is Operation.ABANDON:
            number, opening = GIVEN_UP.unpack_from(body)
            self._sessions[number - 1].abandon(opening, body[GIVEN_UP.size :].decode())
        elif operation is Operation.INTERRUPT:
            (number,) = OUT_OF_TURN.unpack_from(body)
            self._sessions[number - 1].interrupt(body[OUT_OF_TURN.size :])
        else:
            raise ValueError(f"{operation.name} is for a session")
        return b""

    def _state(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "owner": self._owner,
            "resting": self._resting,
            "released": self.released,
            "silent_s": round(time.monotonic() - self._heard, 3),
            "lease_s": self.settings.lease,
            "sessions": [session.name for session in self._sessions],
            "traffic_fault": self.traffic.fault if self.traffic else "",
        }


class ReleasedError(RuntimeError):
    """The station was made safe and is no longer held."""


def _status_of(error: Exception) -> Status:
    for kind, status in (
        (ReleasedError, Status.RELEASED),
        (DeviationError, Status.DEVIATION),
        (TimeoutError, Status.TIMEOUT),
        (OSError, Status.CONNECTION),
    ):
        if isinstance(error, kind):
            return status
    return Status.OTHER


def _refusal(error: Exception) -> tuple[Status, bytes]:
    return _status_of(error), (str(error) or type(error).__name__).encode()


def _devices(sessions: list[HeldSession]) -> list[Device]:
    """What is to be made safe; of sessions on one instrument with the same recipe only one, open if possible."""
    closed_first = sorted(sessions, key=lambda session: session.in_step)
    newest = {(session.name, session.recipe): session for session in closed_first}
    return [device for session in newest.values() if (device := session.device()) is not None]


def _quietly(action: Callable[[], object]) -> None:
    try:
        action()
    except Exception as error:
        sys.stderr.write(f"{error}\n")


def main() -> int:
    """Serve one owner; returns the exit status."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    settings = Settings(**json.loads(sys.stdin.readline()))
    sys.path += [each for each in settings.path if each not in sys.path]
    lock = FileLock(settings.lock) if settings.lock else None
    try:
        if lock is not None:
            lock.acquire(timeout=settings.patience)
        broker = Broker(settings)
    except Timeout:
        return _refuse(
            "another program holds this station (its broker still runs). Let it end, or end it with xbar abort on its "
            "folder"
        )
    except Exception as error:
        return _refuse(str(error))
    for name in ("SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: broker.terminate())
    sys.stdout.write(json.dumps({"port": broker.port, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    broker.run()
    return 0


def _refuse(reason: str) -> int:
    sys.stdout.write(json.dumps({"error": reason}) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
