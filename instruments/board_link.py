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

from instruments.broker_client import ReleasedError
from instruments.frames import END, Frame, FrameError, Opcode, Status, decode, encode
from instruments.off_recipe import KeepAlive, OffRecipe, OffStep, Stage
from instruments.roles import InstrumentError, LinkError, PulseNotFiredError, UnknownOutcomeError
from instruments.wire import PortSession

ATTEMPTS = 4
"""How often a request that changes no device is sent at most."""

PAUSE = 0.05
"""Seconds before a request is repeated, doubled every time."""

_LAST_ACTION = struct.Struct("<BBI")
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


@dataclass
class LinkStatistics:
    """What went wrong on the wire and was put right."""

    repeated_requests: int = 0
    recovered_pulses: int = 0


class BoardLink:
    """One board at the end of a port.

    *Repeatable* requests (`ask`) survive damaged and lost replies: the port is opened again, the board identified
    again, and the request repeated, at most `ATTEMPTS` times. *Pulses* (`fire`) are sent once. If their reply is lost
    the board is asked over a new connection what it did last.
    """

    def __init__(self, port: PortSession) -> None:
        self.port = port
        self.statistics = LinkStatistics()
        self._seq = 0
        self._identity: bytes | None = None
        self._stopping = threading.Event()  # a thread in `stop` waits for the lock: whoever holds it gives up
        self._actions: int | None = None  # pulse frames executed since power-on, as far as this host knows
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
                    if refused or attempt == ATTEMPTS or self._stopping.is_set():
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
            before = self._actions if self.port.usable else None
            if before is None:
                before = self.last_action()[2]
            self._actions = None  # until the outcome is known, however this is left
            try:
                reply = self._exchange(opcode, payload, timeout)
            except BoardError:
                self._actions = before
                raise
            except LinkError as error:
                self._resolve(opcode, self._seq, before, error)
                return None
            self._actions = _next_count(before)
            return reply

    def last_action(self) -> tuple[int, int, int]:
        """Sequence number and opcode of the last pulse frame executed, and how many since power-on."""
        reply = self.ask(Opcode.LAST_ACTION)
        if len(reply) != _LAST_ACTION.size:
            raise InstrumentError(f"{self.port.address}: LAST_ACTION answered {len(reply)} bytes, not 6")
        seq, opcode, actions = _LAST_ACTION.unpack(reply)
        return seq, opcode, actions

    @property
    def actions(self) -> int | None:
        """Pulse frames that the board has executed since power-on; None where this host does not know."""
        return self._actions if self.port.usable else None

    def arm_watchdog(self, milliseconds: int) -> bool:
        """Have the board ground its lines when no frame comes for so long (0: never).

        Returns whether somebody sends frames as long as this program holds its lease (`instruments.broker`).
        """
        payload = _COUNT.pack(milliseconds)
        beat = KeepAlive(
            encode(Frame(_BEAT, Opcode.HEARTBEAT, payload)),
            _acknowledged(_BEAT, Opcode.HEARTBEAT),
            END,
            max(0.02, milliseconds / 4e3),
        )
        self.ask(Opcode.HEARTBEAT, payload)
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
        """Open the port again after an error, and see that the same board is at its end."""
        if self.port.usable and self._identity is not None:
            return
        if self._stopping.is_set():
            raise LinkError(f"{self.port.address} is being stopped.")
        if not self.port.usable:
            self.port.reopen()
        identity = self._exchange(Opcode.IDN, b"", None)
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            was, found = self._identity.decode("utf-8", "replace"), identity.decode("utf-8", "replace")
            self.port.condemn("another board answered")
            raise InstrumentError(f"{self.port.address}: the board was {was}; now {found} answers. Check the cables.")

    def _resolve(self, opcode: Opcode, seq: int, before: int, lost: LinkError) -> None:
        """Return if the board says that it fired; raise what is known otherwise."""
        what = f"{self.port.address}: the reply to {opcode.name} was lost ({lost})"
        try:
            last_seq, last_opcode, actions = self.last_action()
        except InstrumentError as error:
            raise UnknownOutcomeError(
                f"{what}, and the board could not be asked whether it fired ({error}). "
                "Count the pulses as fired and read the cells before pulsing them again."
            ) from error
        if actions == before:
            self._actions = actions
            raise PulseNotFiredError(f"{what}; the board says that nothing was fired. Read, then decide.") from lost
        if (last_seq, last_opcode, actions) != (seq, int(opcode), _next_count(before)):
            raise UnknownOutcomeError(
                f"{what}, and the board's last action ({actions} pulse frames, last seq {last_seq}) is neither that "
                f"one (expected {_next_count(before)}, seq {seq}) nor the one before: it was restarted or another "
                "program uses it. Count the pulses as fired and read the cells before pulsing them again."
            ) from lost
        self._actions = actions
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
        self._seq = self._seq % (_BEAT - 1) + 1
        return self._seq


def _acknowledged(seq: int, opcode: Opcode) -> bytes:
    """Regular expression of the board's consent to a frame, as it comes over the wire (its end taken off)."""
    return re.escape(encode(Frame(seq, opcode, bytes([Status.OK]), is_reply=True)).removesuffix(END))


def _next_count(actions: int) -> int:
    return (actions + 1) & 0xFFFFFFFF


def _not_stopped(address: str, reason: str) -> str:
    return f"{address}: EMERGENCY STOP WAS NOT ACKNOWLEDGED ({reason}). Switch the board's supply off by hand."
