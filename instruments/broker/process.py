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

from instruments.broker.guardian import start_guardian
from instruments.broker.held_session import HeldSession, ReleasedError, quietly, refusal
from instruments.broker.kept_recipes import forget_recipes, keep_recipes
from instruments.broker.messages import (
    GIVEN_UP,
    LARGEST_HELLO,
    OUT_OF_TURN,
    Channel,
    Operation,
    Status,
)
from instruments.roles.off_recipe import Device, Outcome, make_safe
from instruments.wire.address_lock import say_purpose
from instruments.wire.recording import Recording
from instruments.wire.traffic import Kind, TrafficWriter
from instruments.wire.transports import Transport, transport_of

OWNER_PATIENCE = 20.0
"""Seconds in which the owner must connect after the broker has come up."""

LET_GO = 0.5
"""Seconds that whoever waits for an answer has to let go of a connection before the station is made safe without it."""

TICK = 0.2
"""Seconds between two looks at the lease."""

HELLO = 5.0
"""Seconds in which somebody who connects must show the token."""

STRANGERS = 32
"""Connections at most whose token has not been seen; one more, and the oldest of them is dropped."""


@dataclass(frozen=True)
class Settings:
    """What a broker is started with.

    Attributes
    ----------
    token
        What every client must show first.
    lease
        Seconds of silence after which an owner is taken to hang, unless the station is at rest.
    station
        Station file, for whoever wants its instruments meanwhile and is told who has them.
    patience
        Seconds to wait for an instrument that another process uses: an earlier broker may still make it safe.
    recipes
        File in which to keep what makes the instruments safe, for when this process is gone too; None: nowhere. It is
        removed when they are safe.
    traffic
        File to write; None: none is written.
    recording
        Traffic file to answer from, instead of instruments.
    path
        Where the owner finds Python packages; a vendor's may be there.
    """

    token: str
    lease: float
    station: str = ""
    patience: float = 40.0
    recipes: str | None = None
    traffic: str | None = None
    recording: str | None = None
    path: tuple[str, ...] = ()


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
        self._guardian: object = None  # its end of a pipe tells it that this process has ended
        self._strangers: dict[Channel, float] = {}  # when they came
        self._strangers_lock = threading.Lock()
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
                    quietly(session.transport.close)
            if self._owner == "ended" or (self.released and not any(each.fault for each in self.outcomes)):
                forget_recipes(self.settings.recipes)
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

    def recipe_changed(self) -> None:
        """Keep what makes the instruments safe where it outlives this process."""
        if self.settings.recipes is not None and not self.replays:
            with self._sessions_lock:
                known = [(each.leads_to, each.recipe) for each in self._sessions if each.recipe is not None]
                keep_recipes(self.settings.recipes, known)
                if self._guardian is None:
                    self._guardian = start_guardian(self.settings.recipes, self._parent)

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
            self._drop_strangers(STRANGERS)

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
                if self._listener.fileno() < 0:  # closed: the broker ends
                    return
                self._drop_strangers(0)  # out of file descriptors, most likely
                time.sleep(TICK)
                continue
            self._drop_strangers(STRANGERS - 1)
            quietly(lambda connection=connection: self._begin(connection))  # type: ignore[misc]

    def _begin(self, connection: socket.socket) -> None:
        channel = Channel(connection)
        with self._strangers_lock:
            self._strangers[channel] = time.monotonic()
        try:
            threading.Thread(target=self._serve, args=(channel,), daemon=True).start()
        except RuntimeError:  # no thread to be had
            self._known(channel)
            channel.close()
            raise

    def _drop_strangers(self, left: int) -> None:
        """Break the connections of those who have not shown the token in time, and of the oldest of too many."""
        with self._strangers_lock:
            known = list(self._strangers.items())
            late = [channel for channel, came in known if time.monotonic() - came > HELLO]
            many = [channel for channel, _ in known[: max(0, len(known) - left)]]
            for channel in {*late, *many}:
                del self._strangers[channel]
                channel.close()

    def _known(self, channel: Channel) -> None:
        with self._strangers_lock:
            self._strangers.pop(channel, None)

    def _serve(self, channel: Channel) -> None:
        try:
            _, hello = channel.receive(HELLO, LARGEST_HELLO)
            said = json.loads(hello)
            if not secrets.compare_digest(str(said["token"]).encode(), self.settings.token.encode()):
                return
            self._known(channel)
            if said["role"] == "session":
                self._serve_session(channel, said)
            else:
                self._serve_control(channel, said["role"] == "owner")
        except (OSError, ValueError, LookupError, TypeError, RecursionError):  # it does not speak our language
            return
        finally:
            self._known(channel)
            channel.close()

    def _serve_session(self, channel: Channel, said: dict[str, Any]) -> None:
        if "number" in said:
            self._sessions[int(said["number"]) - 1].serve_instead(channel)
            return
        try:
            self.check_held()
            session = self._new_session(said["kind"], said["address"], said["settings"])
        except Exception as error:
            channel.send(*refusal(error))
            return
        channel.send(Status.OK, str(session.number).encode())
        session.serve(channel)

    def _new_session(self, kind: str, address: str, settings: dict[str, Any]) -> HeldSession:
        def connect() -> Transport:
            if self._recording is not None:
                return self._recording.transport(kind, address)
            return transport_of(kind, address, settings, self.settings.patience)

        leads_to = {"kind": kind, "address": address, "settings": settings}
        with self._sessions_lock:
            session = HeldSession(len(self._sessions) + 1, leads_to, connect, self)
            self._sessions.append(session)
        if self.traffic is not None:
            self.traffic.add(session.number, Kind.SESSION, json.dumps(leads_to).encode())
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
            answer = refusal(error)
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


def _devices(sessions: list[HeldSession]) -> list[Device]:
    """What is to be made safe; of sessions on one instrument with the same recipe only one, open if possible."""
    closed_first = sorted(sessions, key=lambda session: session.in_step)
    newest = {(session.name, session.recipe): session for session in closed_first}
    return [device for session in newest.values() if (device := session.device()) is not None]


def main() -> int:
    """Serve one owner; returns the exit status."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    settings = Settings(**json.loads(sys.stdin.readline()))
    say_purpose(f"broker of {settings.station}")
    sys.path += [each for each in settings.path if each not in sys.path]
    try:
        broker = Broker(settings)
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
