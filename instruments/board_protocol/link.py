"""Requests and replies with a framed board: what may be repeated is repeated, what changes a device never is."""

from __future__ import annotations

import logging
import re
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from instruments.board_protocol.frames import END, Frame, FrameError, Opcode, Status, decode, encode
from instruments.broker.client import ReleasedError
from instruments.roles.interfaces import InstrumentError, LinkError, PulseNotFiredError, UnknownOutcomeError
from instruments.roles.off_recipe import KeepAlive, OffRecipe, OffStep, Stage
from instruments.wire.sessions import PortSession

ATTEMPTS = 4
"""How often a request that changes no device is sent at most."""

PAUSE = 0.05
"""Seconds before a request is repeated, doubled every time."""

STARTING = 4.0
"""Seconds in which a board answers that starts when its port is opened (assumed: boot loaders take 1 to 2 s)."""

_FIRST_PATIENCE = 0.25  # s; for the first question of a new connection, doubled for each that is not answered
_LAST_ACTION = struct.Struct("<BBI")
_LAST_ACTION_ID = struct.Struct("<BBIQ")
_WITH_ID = b"\x01"
_COUNT = struct.Struct("<I")
_BEAT, _OFF = 254, 255  # sequence numbers of the frames that others send in this host's place

_ADVICE: dict[int, str] = {
    Status.BAD_CRC: "the request was damaged on the way",
    Status.BAD_ARG: "an argument is wrong",
    Status.BUSY: "the board is busy",
    Status.OVER_RANGE: "the request is beyond the board's limits",
    Status.INTERLOCK: "the emergency stop is latched; find out why it was pressed, then call reset()",
    Status.WATCHDOG: "the heartbeat ran out and the board grounded its lines; see that the die is safe, then reset()",
    Status.NOT_CALIBRATED: "the board holds no calibration for this range; calibrate it or choose another",
    Status.UNKNOWN_OPCODE: "the firmware does not know this request; update it",
    Status.BAD_VERSION: "the firmware speaks another protocol version; update it",
}

_log = logging.getLogger(__name__)


class BoardError(InstrumentError):
    """The board refused and did nothing; `status` is the protocol's number."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _SilentError(LinkError):
    """A board did not answer a new connection for so long that asking again is no use."""


@dataclass(frozen=True)
class LastAction:
    """The last pulse frame executed, how many since power-on, and which power-on that was (0: it does not say)."""

    seq: int
    opcode: int
    actions: int
    power_on: int = 0

    def denies(self, seq: int, opcode: int, before: LastAction) -> bool:
        """Whether it proves that the frame `seq` was not executed since `before`: a restart could feign a zero."""
        same = (self.actions, self.power_on) == (before.actions, before.power_on)
        return same and (self.seq, self.opcode) != (seq, opcode) and (self.actions > 0 or self.power_on > 0)


@dataclass
class LinkStatistics:
    """What went wrong on the wire and was put right."""

    repeated_requests: int = 0
    recovered_pulses: int = 0


class BoardLink:
    """One board at the end of a port.

    *Repeatable* requests (`ask`) survive damaged and lost replies: the board is identified again, and the request
    repeated, at most `ATTEMPTS` times. That goes over the open connection as long as there is one, since replies are
    told apart by their numbers and many boards restart when their port is opened. *Pulses* (`fire`) are sent once. If
    their reply is lost the board is asked what it did last.

    `says_power_on`: the board says by an identity which power-on its count of pulse frames is of (protocol 1.2).
    """

    def __init__(self, port: PortSession) -> None:
        self.port = port
        self.statistics = LinkStatistics()
        self._seq = 0
        self._identity: bytes | None = None
        self._stopping = threading.Event()  # a thread in `stop` waits for the lock: whoever holds it gives up
        self.says_power_on = False
        self._last: LastAction | None = None  # as far as this host knows without asking
        stop = OffStep(encode(Frame(_OFF, Opcode.ESTOP)), _acknowledged(_OFF, Opcode.ESTOP))
        port.register(OffRecipe(Stage.SOURCE, (stop,), END, numbered=True))

    def ask(self, opcode: Opcode, payload: bytes = b"", *, timeout: float | None = None) -> bytes:
        """Reply payload (after the status) of a request that may be repeated.

        Raises
        ------
        BoardError
            The board refused.
        LinkError
            No valid reply in `ATTEMPTS` attempts.
        """
        with self.port.lock:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    self._ensure_open()
                    return self._exchange(opcode, payload, timeout)
                except (BoardError, LinkError) as error:
                    refused = isinstance(error, BoardError) and error.status != Status.BUSY
                    if refused or isinstance(error, _SilentError) or attempt == ATTEMPTS or self._stopping.is_set():
                        raise
                    _log.warning("%s: %s is repeated (attempt %d): %s", self.port.address, opcode.name, attempt, error)
                self.statistics.repeated_requests += 1
                time.sleep(PAUSE * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def fire(self, opcode: Opcode, payload: bytes, *, timeout: float | None = None) -> bytes | None:
        """Reply payload of a request that pulses devices, sent exactly once.

        Returns
        -------
        None if the reply was lost but the board says that it fired the pulses.

        Raises
        ------
        BoardError
            The board refused; nothing was fired.
        PulseNotFiredError
            The reply was lost and the board says that nothing was fired; the caller decides what next.
        UnknownOutcomeError
            The reply was lost and the board cannot say.
        """
        with self.port.lock:
            before = self._last if self.port.usable else None
            if before is None:
                before = self.last()
            self._last = None  # until the outcome is known, however this is left
            if _next_seq(self._seq) == before.seq:
                self._seq = before.seq  # so that its number tells this frame from the last one
            try:
                reply = self._exchange(opcode, payload, timeout)
            except BoardError:
                self._last = before
                raise
            except LinkError as error:
                self._resolve(opcode, self._seq, before, error)
                return None
            self._last = LastAction(self._seq, int(opcode), _next_count(before.actions), before.power_on)
            return reply

    def last(self) -> LastAction:
        """What the board executed last, in one answer."""
        form, asked = (_LAST_ACTION_ID, _WITH_ID) if self.says_power_on else (_LAST_ACTION, b"")
        reply = self.ask(Opcode.LAST_ACTION, asked)
        if len(reply) != form.size:
            raise InstrumentError(
                f"{self.port.address}: LAST_ACTION answered {len(reply)} bytes, not {form.size}; check the firmware"
            )
        return LastAction(*form.unpack(reply))

    def last_action(self) -> tuple[int, int, int]:
        """Sequence number and opcode of the last pulse frame executed, and how many since power-on."""
        last = self.last()
        return last.seq, last.opcode, last.actions

    def arm_watchdog(self, milliseconds: int) -> bool:
        """Have the board ground its lines when no frame comes for so long (0: never).

        Returns whether somebody sends frames as long as this program holds its lease (`instruments.broker.process`).
        """
        payload = _COUNT.pack(milliseconds)
        beat = KeepAlive(
            encode(Frame(_BEAT, Opcode.HEARTBEAT, payload)),
            _acknowledged(_BEAT, Opcode.HEARTBEAT),
            END,
            max(0.02, milliseconds / 4e3),
        )
        try:
            self.ask(Opcode.HEARTBEAT, payload)
        except BoardError as error:
            # one that has bitten, or was stopped, has nothing to disarm: its lines are grounded until it is reset
            if milliseconds or error.status not in (Status.WATCHDOG, Status.INTERLOCK):
                raise
        return self.port.keep_alive(beat if milliseconds else None)

    def stop(self, patience: float) -> None:
        """ESTOP, from any thread and any state, as often as it takes to be acknowledged.

        Parameters
        ----------
        patience
            Seconds to wait for another thread's exchange before the stop is sent out of turn.

        Raises
        ------
        LinkError
            The board did not acknowledge.
        """
        if not self.port.lock.acquire(timeout=patience):
            self._stopping.set()
            with suppress(InstrumentError):
                self.port.interrupt(encode(Frame(self._next_seq(), Opcode.ESTOP)))
            self.port.close()  # the waiting thread fails at once and lets go of the lock
            if not self.port.lock.acquire(timeout=self.port.timeout + patience):
                raise LinkError(_not_stopped(self.port.address, "another thread holds the connection"))
        try:
            self._stopping.clear()
            self.ask(Opcode.ESTOP)
        except ReleasedError:  # the broker has done it
            raise
        except InstrumentError as error:
            raise LinkError(_not_stopped(self.port.address, str(error))) from error
        finally:
            self.port.lock.release()

    def _ensure_open(self) -> None:
        """Have a connection in step after an error, and see that the same board is at its end."""
        if self.port.usable and self._identity is not None:
            return
        if self._stopping.is_set():
            raise LinkError(f"{self.port.address} is being stopped.")
        if not self.port.usable:
            if self._identity is not None and self.port.resume():
                try:
                    return self._check_identity(self._exchange(Opcode.IDN, b"", None))
                except LinkError as error:
                    _log.warning("%s: opened again, since it could not be resumed: %s", self.port.address, error)
            self.port.reopen()
        self._check_identity(self._introduction())

    def _introduction(self) -> bytes:
        """Who answers a new connection; a board that only starts now is waited for."""
        patience, deadline = min(self.port.timeout, _FIRST_PATIENCE), time.monotonic() + STARTING
        while True:
            try:
                return self._exchange(Opcode.IDN, b"", patience)
            except LinkError as error:
                left = deadline - time.monotonic()
                if self._stopping.is_set() or not self.port.resume():
                    raise
                if left <= 0:
                    raise _SilentError(f"{error} It was asked for {STARTING:g} s.") from error
                _log.warning(
                    "%s does not answer yet: it may be starting; waiting for up to %.1f s", self.port.address, left
                )
                patience = min(2 * patience, max(left, _FIRST_PATIENCE))

    def _check_identity(self, identity: bytes) -> None:
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            was, found = self._identity.decode("utf-8", "replace"), identity.decode("utf-8", "replace")
            self.port.condemn("another board answered", lost=True)
            raise InstrumentError(f"{self.port.address}: the board was {was}; now {found} answers. Check the cables.")

    def _resolve(self, opcode: Opcode, seq: int, before: LastAction, lost: LinkError) -> None:
        """Return if the board says that it fired; raise what is known otherwise."""
        what = f"{self.port.address}: the reply to {opcode.name} was lost ({lost})"
        try:
            now = self.last()
        except InstrumentError as error:
            raise UnknownOutcomeError(
                f"{what}, and the board could not be asked whether it fired ({error}). "
                "Count the pulses as fired and read the cells before pulsing them again."
            ) from error
        if now.denies(seq, int(opcode), before):
            self._last = now
            raise PulseNotFiredError(f"{what}; the board says that nothing was fired. Read, then decide.") from lost
        if now != LastAction(seq, int(opcode), _next_count(before.actions), before.power_on):
            raise UnknownOutcomeError(
                f"{what}, and the board's last action ({now.actions} pulse frames, last seq {now.seq}) does not tell "
                f"whether it fired (expected {_next_count(before.actions)}, seq {seq}; before {before.actions}): it "
                "was or may have been restarted, or another program uses it. Count the pulses as fired and read the "
                "cells before pulsing them again."
            ) from lost
        self._last = now
        self.statistics.recovered_pulses += 1
        _log.warning("%s; the board says that it was fired, once. Going on.", what)

    def _exchange(self, opcode: Opcode, payload: bytes, timeout: float | None) -> bytes:
        """One request, one reply. Any doubt about the reply ends the session."""
        seq = self._next_seq()
        deadline = time.monotonic() + (self.port.timeout if timeout is None else timeout)
        frame = self._decoded(self.port.query(encode(Frame(seq, opcode, payload)), END, deadline - time.monotonic()))
        while True:
            if frame.is_reply and frame.seq == seq and frame.opcode == opcode and frame.payload:
                return self._accept(frame, opcode)
            if frame.seq == 0:
                self._give_up("the board received a damaged request")
            _log.warning("%s: dropped a stale frame (seq %d, expected %d)", self.port.address, frame.seq, seq)
            frame = self._decoded(self.port.receive(END, max(0.0, deadline - time.monotonic())))

    def _decoded(self, encoded: bytes) -> Frame:
        try:
            return decode(encoded)
        except FrameError as error:
            self._give_up(f"damaged reply ({error})")

    def _accept(self, frame: Frame, opcode: Opcode) -> bytes:
        status = frame.payload[0]
        if status == Status.OK:
            return frame.payload[1:]
        if status == Status.BAD_CRC:
            self._give_up("the board received a damaged request")
        text = frame.payload[1:].decode("utf-8", "replace")
        advice = _ADVICE.get(status, f"unknown status {status}")
        raise BoardError(f"{self.port.address}: {opcode.name} refused: {advice} ({text})", status)

    def _give_up(self, reason: str) -> NoReturn:
        self.port.condemn(reason)
        raise LinkError(f"{self.port.address}: {reason}.")

    def _next_seq(self) -> int:
        self._seq = _next_seq(self._seq)
        return self._seq


def _acknowledged(seq: int, opcode: Opcode) -> bytes:
    """Regular expression of the board's consent to a frame, as it comes over the wire (its end taken off)."""
    return re.escape(encode(Frame(seq, opcode, bytes([Status.OK]), is_reply=True)).removesuffix(END))


def _next_seq(seq: int) -> int:
    return seq % (_BEAT - 1) + 1


def _next_count(actions: int) -> int:
    return (actions + 1) & 0xFFFFFFFF


def _not_stopped(address: str, reason: str) -> str:
    return f"{address}: EMERGENCY STOP WAS NOT ACKNOWLEDGED ({reason}). Switch the board's supply off by hand."
