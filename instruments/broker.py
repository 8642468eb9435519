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
import secrets
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from instruments.broker_messages import WAIT, Channel, Operation, Status
from instruments.off_recipe import Device, KeepAlive, OffRecipe, Outcome, make_safe
from instruments.recording import DeviationError, Recording
from instruments.traffic import Kind, TrafficWriter
from instruments.transports import Transport, transport_of

OWNER_PATIENCE = 20.0
"""Seconds in which the owner must connect after the broker has come up."""


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
    """

    token: str
    lease: float
    lock: str | None = None
    patience: float = 40.0
    traffic: str | None = None
    recording: str | None = None


class HeldSession:
    """One instrument's connection, in the broker."""

    def __init__(self, number: int, name: str, transport: Transport, broker: Broker) -> None:
        self.number, self.name, self.transport = number, name, transport
        self.recipe: OffRecipe | None = None
        self.keep_alive: KeepAlive | None = None
        self.outstanding = 0  # answers that have not come for what was sent
        self.lock = threading.Lock()
        self.working = False  # an instrument that takes its time is not an owner that is silent
        self._broker, self._traffic = broker, broker.traffic
        self._fault: Exception | None = None  # of a send that is not answered itself

    def serve(self, channel: Channel) -> None:
        """Do what the owner asks until it is gone."""
        while True:
            keep_alive = self.keep_alive
            try:
                code, body = channel.receive(keep_alive.period if keep_alive else None)
            except TimeoutError:
                self._beat()
                continue
            except OSError:
                return
            self.working = True
            answer = self._answer(code, body)
            self._broker.renew()
            self.working = False
            try:
                if answer is not None:
                    channel.send(*answer)
            except OSError:
                return

    def _send(self, body: bytes) -> None:
        try:
            with self.lock:
                self._broker.check_held()
                self.log(Kind.SEND, body)
                self.outstanding += 1
                self.transport.send(body)
        except Exception as error:
            self._fault = self._fault or error

    def _answer(self, code: int, body: bytes) -> tuple[Status, bytes] | None:
        """Do what is asked; what to answer, if anything."""
        if code == Operation.SEND:
            self._send(body)
            return None
        try:
            with self.lock:
                return Status.OK, self._do(Operation(code), body)
        except Exception as error:
            status = _status_of(error)
            if status in (Status.TIMEOUT, Status.CONNECTION, Status.OTHER) and code != Operation.OPEN:
                self.log(Kind.FAULT, f"{type(error).__name__}\n{error}".encode())
            return status, (str(error) or type(error).__name__).encode()

    def _do(self, operation: Operation, body: bytes) -> bytes:
        self._broker.check_held()
        if operation is Operation.RECEIVE:
            return self._receive(body)
        if operation is Operation.QUERY:
            return self._query(body)
        if operation is Operation.OPEN:
            self._open()
        elif operation is Operation.CLOSE:
            self.transport.close()
            self.log(Kind.CLOSE)
        elif operation is Operation.REGISTER:
            self.recipe = OffRecipe.from_tree(json.loads(body))
        elif operation is Operation.KEEP_ALIVE:
            self.keep_alive = None if self._broker.replays else _keep_alive(json.loads(body))
        else:
            raise ValueError(f"{operation.name} is not for a session")
        return b""

    def _open(self) -> None:
        self._fault, self.outstanding = None, 0
        try:
            self.transport.open()
        except Exception as error:
            self.log(Kind.OPEN, (str(error) or type(error).__name__).encode())
            raise
        self.log(Kind.OPEN)

    def _receive(self, body: bytes) -> bytes:
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault
        timeout, length = WAIT.unpack_from(body)
        message = self.transport.receive(body[WAIT.size : WAIT.size + length], timeout)
        self._arrived(message)
        return message

    def _query(self, body: bytes) -> bytes:
        timeout, length = WAIT.unpack_from(body)
        terminator, data = body[WAIT.size : WAIT.size + length], body[WAIT.size + length :]
        self.log(Kind.SEND, data)
        self.outstanding += 1
        message = self.transport.query(data, terminator, timeout)
        self._arrived(message)
        return message

    def _arrived(self, message: bytes) -> None:
        self.outstanding = max(0, self.outstanding - 1)
        self.log(Kind.MESSAGE, message)

    def _beat(self) -> None:
        """Tell the instrument's watchdog that the owner lives, unless it hangs."""
        with self.lock:
            message = self.keep_alive
            if message is None or self._broker.released or self.outstanding:
                return
            try:
                self.transport.send(message.send)
                answer = self.transport.receive(message.terminator, 1.0)
                self.log(Kind.OWN, message.send + b" -> " + answer)
            except Exception as error:
                self.keep_alive, self._fault = None, ConnectionError(f"its watchdog could not be answered ({error})")
                self._broker.note("heartbeat lost", session=self.name, fault=str(error))

    def log(self, kind: Kind, payload: bytes = b"") -> None:
        """Add to the traffic of this session."""
        if self._traffic is not None:
            self._traffic.add(self.number, kind, payload)


class Broker:
    """The owner's lease, and the sessions."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.traffic = TrafficWriter(Path(settings.traffic)) if settings.traffic else None
        self.released = ""  # why nobody gets through any more
        self.outcomes: list[Outcome] = []
        self._recording = Recording(Path(settings.recording)) if settings.recording else None
        self._sessions: list[HeldSession] = []
        self._resting = True
        self._heard = time.monotonic()
        self._changed = threading.Condition()
        self._owner: str = "awaited"  # then: here, gone (without a word), ended
        self._safe_lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        """Serve until the owner is gone and the station is as it must be."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            self._watch()
        finally:
            self._listener.close()
            for session in self._sessions:
                session.transport.abandon("the broker ends")
                _quietly(session.transport.close)
            if self.traffic is not None:
                self.traffic.note("end", owner=self._owner, released=self.released)
                self.traffic.close()

    @property
    def replays(self) -> bool:
        """Whether a recording answers: it holds no heartbeats, which come when they come."""
        return self._recording is not None

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
            sessions = [session for session in self._sessions if session.recipe is not None]
            self.note("making safe", reason=reason, sessions=[session.name for session in sessions])
            for session in sessions:
                session.transport.abandon(reason)  # whoever waits for an answer lets go
            locked = [session for session in sessions if session.lock.acquire(timeout=1.0)]
            try:
                self.outcomes = make_safe([_device(session) for session in sessions])
            finally:
                for session in locked:
                    session.lock.release()
            self.note("made safe", outcomes=[asdict(outcome) for outcome in self.outcomes])
            return self.outcomes

    def terminate(self) -> None:
        """The process itself is asked to end: take that as the end of the owner."""
        self._say("gone")

    # what the threads do

    def _watch(self) -> None:
        """Wait for the end of the owner; notice when it is silent for too long."""
        deadline = time.monotonic() + OWNER_PATIENCE
        while True:
            with self._changed:
                self._changed.wait(0.2)
                owner = self._owner
            if owner == "ended" or (owner == "awaited" and time.monotonic() > deadline):
                return
            if owner == "gone":
                self.release("the program that measured is gone")
                return
            silent = 0.0 if any(s.working for s in self._sessions) else time.monotonic() - self._heard
            if owner == "here" and not self._resting and not self.released and silent > self.settings.lease:
                self.release(
                    f"nothing was heard of the program that measures for {silent:.1f} s (its lease is "
                    f"{self.settings.lease:g} s): it was taken to hang, and the station was made safe"
                )

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
            _, hello = channel.receive(5.0)
            said = json.loads(hello)
            if not secrets.compare_digest(str(said.get("token")), self.settings.token):
                return
            role = said["role"]
            if role == "session":
                self._serve_session(channel, said)
            else:
                self._serve_control(channel, role == "owner")
        except (OSError, ValueError, KeyError):
            return
        finally:
            channel.close()

    def _serve_session(self, channel: Channel, said: dict[str, Any]) -> None:
        kind, address, settings = said["kind"], said["address"], said["settings"]
        try:
            self.check_held()
            transport = self._transport(kind, address, settings)
        except Exception as error:
            channel.send(_status_of(error), str(error).encode())
            return
        session = HeldSession(len(self._sessions) + 1, address, transport, self)
        self._sessions.append(session)
        if self.traffic is not None:
            tree = {"kind": kind, "address": address, "settings": settings}
            self.traffic.add(session.number, Kind.SESSION, json.dumps(tree).encode())
        channel.send(Status.OK, str(session.number).encode())
        session.serve(channel)

    def _transport(self, kind: str, address: str, settings: dict[str, Any]) -> Transport:
        if self._recording is not None:
            return self._recording.transport(kind, address)
        return transport_of(kind, address, settings)

    def _serve_control(self, channel: Channel, owner: bool) -> None:
        channel.send(Status.OK)
        if owner:
            self._heard = time.monotonic()
            self._say("here")
        try:
            while True:
                code, body = channel.receive()
                if owner:
                    self.renew()
                if not self._control(channel, Operation(code), body):
                    return
        except OSError:
            pass
        finally:
            if owner:
                self._say("gone")  # unless it has said goodbye

    def _control(self, channel: Channel, operation: Operation, body: bytes) -> bool:
        """Do what is asked; False at the end of the conversation."""
        answer = b""
        if operation is Operation.RENEW:
            return True
        if operation is Operation.REST:
            self._resting = True
        elif operation is Operation.MAKE_SAFE:
            outcomes = self.release(body.decode() or "asked to")
            answer = json.dumps([asdict(outcome) for outcome in outcomes]).encode()
        elif operation in (Operation.INTERRUPT, Operation.ABANDON):
            session = self._sessions[int.from_bytes(body[:2], "little") - 1]
            if operation is Operation.ABANDON:
                session.transport.abandon(body[2:].decode())
            elif not self.released:
                session.log(Kind.OUT_OF_TURN, body[2:])
                _quietly(lambda: session.transport.interrupt(body[2:]))
        elif operation is Operation.STATUS:
            answer = json.dumps(self._state()).encode()
        elif operation is Operation.END:
            self._say("ended")
        channel.send(Status.OK, answer)
        return operation is not Operation.END

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


def _device(session: HeldSession) -> Device:
    assert session.recipe is not None
    return Device(session.name, session.transport, session.recipe, session.outstanding)


def _keep_alive(tree: dict[str, Any] | None) -> KeepAlive | None:
    if tree is None:
        return None
    sent, reply, terminator = (bytes.fromhex(tree[name]) for name in ("send", "reply", "terminator"))
    return KeepAlive(sent, reply, terminator, float(tree["period"]))


def _quietly(action: Any) -> None:
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
