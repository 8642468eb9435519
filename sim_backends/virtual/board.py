"""A crossbar board made of physics, speaking docs/board_protocol.md. It is wired to whatever die the needles touch."""

from __future__ import annotations

import json
import secrets
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.circuit.product import Direction
from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.dies.fired import Fired
from sim_backends.array.dies.readout import Readout
from sim_backends.array.dies.streams import stream
from sim_backends.bench.bench import Bench
from sim_backends.bench.clock import Timing
from sim_backends.bench.physical_log import mask_digest
from sim_backends.virtual.board_requests import BoardSpec, Limits, Refusal, set_bits, split, unpack
from sim_backends.wire import frames
from sim_backends.wire.faults import FaultPlan
from sim_backends.wire.frames import Frame, Opcode, Status

_READOUT_ERRORS = 2**32 - 2  # key of the board's own stream of random numbers
_IDLE_MODES = ("float", "soft_ground", "hard_ground")
_READ = struct.Struct("<BBHh")
_PULSE = struct.Struct("<BhIH")
_PULSE_READ = struct.Struct("<BhIHBHh")
_LOAD = struct.Struct("<BHHB")
_LIMITS = struct.Struct("<hh")
_LAST_ACTION = struct.Struct("<BBI")
_POWER_ON = struct.Struct("<Q")


_ACTING = {Opcode.LOAD_VECTORS, Opcode.READ, Opcode.PULSE, Opcode.PULSE_READ, Opcode.MULTIPLY}
_REFUSED_WHEN_LATCHED = _ACTING | {Opcode.HEARTBEAT}  # a host that only sends heartbeats must learn of the latch


@dataclass
class _Bank:
    """Vectors of one bank: voltages ``[vectors_max, n]`` and which have been written."""

    volts: FloatArray
    written: BoolArray


class Board:
    """The board's side of the protocol; a `faulty_wire.Dialect`.

    Parameters
    ----------
    bench
        What the needles touch.
    spec, timing
        The kind of board, and how long it takes.
    faults
        What shall go wrong; nothing if left out.
    """

    end = b"\0"

    def __init__(self, bench: Bench, spec: BoardSpec, timing: Timing, faults: FaultPlan | None = None) -> None:
        spec = spec.model_copy(update={"readout": bench.lot.read_by(spec.readout)})
        self._bench, self._spec, self._timing = bench, spec, timing
        self._faults = faults or FaultPlan("board", (), bench.log)
        self._topology = bench.lot.topology
        self._limits = Limits(spec, self._topology, bench.lot.cell, bench.lot.schemes)
        lines = max(self._topology.rows, self._topology.columns)
        self._readout = Readout.draw(spec.readout, lines, stream(bench.seed, _READOUT_ERRORS))
        self._handlers: dict[int, Callable[[bytes], bytes]] = {
            Opcode.IDN: self._idn,
            Opcode.CAPS: self._caps,
            Opcode.CAL_READ: self._cal_read,
            Opcode.LOAD_VECTORS: self._load_vectors,
            Opcode.READ: self._read,
            Opcode.PULSE: self._pulse,
            Opcode.PULSE_READ: self._pulse_read,
            Opcode.MULTIPLY: self._multiply,
            Opcode.IDLE: self._idle,
            Opcode.ESTOP: self._estop,
            Opcode.HEARTBEAT: self._heartbeat,
            Opcode.RESET: self._reset,
            Opcode.LAST_ACTION: self._last_action,
            Opcode.LIMITS: self._set_limits,
        }
        self._received = bytearray()
        self._overlong = False
        self._request = Frame(frames.VERSION, 0, 0, 0, b"")
        self._switch_on()

    def _switch_on(self) -> None:
        """The state of power-on; its number is drawn like that of a real board, from nothing that repeats."""
        self._banks: dict[int, _Bank] = {}
        self._pulse_codes = self._limits.pulse_codes  # in force
        self._latch: Status | None = None
        self._watchdog: float | None = None  # s
        self._last_frame = time.monotonic()
        self._powered = time.monotonic()
        self._action = (0, 0, 0)  # seq, opcode, actions since power-on
        self._power_on = secrets.randbelow(2**64 - 1) + 1

    # -- the wire ------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Forget what the last client sent half of; vectors, latch and watchdog stay, unless opening restarts it."""
        self._received.clear()
        self._overlong = False
        if self._spec.restarts_on_open:
            self.restart()

    def restart(self) -> None:
        """Lose the supply for a moment: lines go to ground, and all that was not burnt in is forgotten."""
        self._received.clear()
        self._overlong = False
        self._bench.ground("power-on")
        self._switch_on()
        self._bench.note("restart")

    def receive(self, data: bytes) -> bytes:
        """Answer all complete frames in the stream."""
        if time.monotonic() - self._powered < self._spec.boot:
            return b""  # nobody listens yet
        self._received += data
        replies = []
        while (end := self._received.find(0)) >= 0:
            encoded = bytes(self._received[:end])
            del self._received[: end + 1]
            if self._overlong:
                self._overlong = False
                replies.append(self._reply(0, 0, Status.BAD_CRC, b"frame too long"))
            elif encoded:
                replies.append(self._answer(encoded))
        if len(self._received) > frames.ENCODED_MAX:
            self._received.clear()
            self._overlong = True
        return b"".join(replies)

    def request_name(self, request: bytes) -> str:
        """Name of the opcode of a frame."""
        try:
            opcode = frames.decode(request.rstrip(self.end)).opcode
        except frames.DamagedFrameError:
            return "damaged frame"
        return Opcode(opcode).name if opcode in self._handlers else f"0x{opcode:02x}"

    def busy_reply(self, request: bytes) -> bytes:
        """Refuse a frame for now."""
        self._last_frame = time.monotonic()
        try:
            frame = frames.decode(request.rstrip(self.end))
        except frames.DamagedFrameError as error:
            return self._reply(0, 0, Status.BAD_CRC, str(error).encode())
        return self._reply(frame.seq, frame.opcode, Status.BUSY, b"not now")

    def deadline(self) -> float | None:
        """When the watchdog bites."""
        return None if self._watchdog is None else self._last_frame + self._watchdog

    def expired(self) -> None:
        """The host has been silent for too long: ground the lines and latch."""
        self._watchdog = None
        if self._latch is None:
            self._latch = Status.WATCHDOG
        self._bench.ground("watchdog")

    def _answer(self, encoded: bytes) -> bytes:
        deadline = self.deadline()
        if deadline is not None and time.monotonic() >= deadline:
            self.expired()
        self._last_frame = time.monotonic()
        try:
            request = frames.decode(encoded)
        except frames.DamagedFrameError as error:
            return self._reply(0, 0, Status.BAD_CRC, str(error).encode())
        self._request = request
        restarts = self._faults.striking("restart")
        if any(fault.before for fault in restarts):
            return self._restarted()
        reply = self._carried_out(request)
        return self._restarted() if restarts else reply

    def _restarted(self) -> bytes:
        self.restart()
        return b""

    def _carried_out(self, request: Frame) -> bytes:
        try:
            self._check(request)
            if self._bench.contact and self._faults.fires("loses_contact"):
                self._bench.lose_contact()
            payload = self._handlers[request.opcode](request.payload)
        except Refusal as refusal:
            return self._reply(request.seq, request.opcode, refusal.status, str(refusal).encode())
        self._bench.clock.advance(self._timing.frame)
        return self._reply(request.seq, request.opcode, Status.OK, payload)

    def _reply(self, seq: int, opcode: int, status: Status, payload: bytes) -> bytes:
        return frames.encode(Frame(frames.VERSION, seq, opcode, frames.REPLY, bytes([status]) + payload))

    def _check(self, request: Frame) -> None:
        if request.version != frames.VERSION:
            raise Refusal(Status.BAD_VERSION, f"this board speaks version {frames.VERSION}, not {request.version}")
        if not request.length_ok:
            raise Refusal(Status.BAD_ARG, "the payload has not the length that the header says")
        if request.flags & frames.REPLY or request.seq == 0:
            raise Refusal(Status.BAD_ARG, "not a request of a host: reply flag set or seq 0")
        if request.opcode not in self._handlers:
            raise Refusal(Status.UNKNOWN_OPCODE, f"unknown opcode 0x{request.opcode:02x}")
        if self._latch is not None and request.opcode in _REFUSED_WHEN_LATCHED:
            cause = "emergency stop" if self._latch == Status.INTERLOCK else "the heartbeat ran out: lines grounded"
            raise Refusal(self._latch, f"{cause}; RESET first")
        if request.opcode in _ACTING and time.monotonic() - self._powered < self._spec.self_test:
            raise Refusal(Status.BUSY, "power-on self-test is running")

    # -- identity and state --------------------------------------------------------------------------------------

    def _idn(self, payload: bytes) -> bytes:
        unpack(None, payload)
        return self._spec.identity.encode()

    def _caps(self, payload: bytes) -> bytes:
        unpack(None, payload)
        return json.dumps(self._limits.capabilities()).encode()

    def _cal_read(self, payload: bytes) -> bytes:
        (current_range,) = unpack(struct.Struct("<B"), payload)
        self._limits.check_range(current_range)
        if current_range in self._spec.readout.uncalibrated_ranges:
            raise Refusal(Status.NOT_CALIBRATED, f"range {current_range} has no calibration")
        serial = self._spec.identity.split(",")[2]
        name = f"{serial}-{self._bench.seed % 10**4:04d}-R{current_range}".encode("ascii")[:16].ljust(16, b"\0")
        gain = self._readout.reported_gain[current_range].astype("<f4")
        offset = self._readout.reported_offset[current_range].astype("<f4")
        return name + struct.pack("<H", gain.size) + gain.tobytes() + offset.tobytes()

    def _idle(self, payload: bytes) -> bytes:
        (mode,) = unpack(struct.Struct("<B"), payload)
        if mode >= len(_IDLE_MODES):
            raise Refusal(Status.BAD_ARG, f"idle mode {mode}; known: 0 float, 1 soft ground, 2 hard ground")
        if self._latch is not None and _IDLE_MODES[mode] != "hard_ground":
            raise Refusal(self._latch, "lines stay grounded until RESET")
        self._bench.set_outputs(_IDLE_MODES[mode], "IDLE")
        return b""

    def _estop(self, payload: bytes) -> bytes:
        self._latch = Status.INTERLOCK  # before anything that could go wrong
        self._bench.ground("ESTOP")
        return b""

    def _heartbeat(self, payload: bytes) -> bytes:
        (timeout,) = unpack(struct.Struct("<I"), payload)
        self._watchdog = timeout / 1000 if timeout else None
        return b""

    def _reset(self, payload: bytes) -> bytes:
        unpack(None, payload)
        self._latch = None
        self._banks.clear()
        return b""

    def _last_action(self, payload: bytes) -> bytes:
        if payload == b"\x01":
            return _LAST_ACTION.pack(*self._action) + _POWER_ON.pack(self._power_on)
        unpack(None, payload)
        return _LAST_ACTION.pack(*self._action)

    def _set_limits(self, payload: bytes) -> bytes:
        """Narrow the voltages of pulses; without arguments only tell them."""
        if payload:
            low, high = unpack(_LIMITS, payload)
            self._limits.check_narrower(low, high)
            ignored = self._faults.fires("limits_ignored")
            self._pulse_codes = self._limits.pulse_codes if ignored else (low, high)
        return _LIMITS.pack(*self._pulse_codes)

    # -- reading -------------------------------------------------------------------------------------------------

    def _read(self, payload: bytes) -> bytes:
        (kernel, current_range, averages, code), rest = split(_READ, payload)
        mask = self._limits.mask(rest)
        self._limits.check_read(kernel, current_range, averages, code)
        return self._measure(kernel, current_range, averages, code, mask)

    def _measure(self, kernel: int, current_range: int, averages: int, code: int, mask: BoolArray) -> bytes:
        voltage = code * self._spec.readout.dac_lsb
        columns: BoolArray = np.any(self._reached(mask), axis=0)
        bench = self._bench
        with bench.lock:
            bench.drive(Opcode(self._request.opcode).name)
            die = bench.touched()
            rng = bench.air_noise(kernel) if die is None else die.noise(kernel)
            relative = np.zeros(mask.shape)
            currents = np.zeros(mask.shape)
            if die is not None:
                relative = die.cell_noise(kernel, self._spec.readout.cell_noise)
                currents = die.read(kernel, voltage, columns)
            self._log("read", kernel, mask, v=voltage)
        rows, width = mask.shape
        channels = np.repeat(np.arange(rows), width)[mask.ravel()]  # reading senses rows
        selected = currents[mask]
        noise = relative[mask] * np.abs(selected)
        codes = self._convert(selected, noise, current_range, channels, averages, rng)
        sampling = self._timing.line_settling + averages * self._timing.sample
        bench.clock.advance(int(columns.sum()) * sampling)
        return struct.pack("<H", codes.size) + codes.astype("<f4").tobytes()

    def _convert(
        self,
        currents: FloatArray,
        noise: FloatArray,
        current_range: int,
        channels: NDArray[np.int64],
        averages: int,
        rng: np.random.Generator,
    ) -> FloatArray:
        """Codes ``[..., channel]`` of currents (A); a stuck channel has the same code whatever flows."""
        codes = self._readout.digitise(currents, noise, current_range, channels, averages, rng)
        for stuck in self._faults.lasting("stuck_channel"):
            middle = 2 ** (self._spec.readout.adc_bits - 1)
            codes[..., channels == stuck.index] = middle if stuck.code is None else stuck.code
        return codes

    def _reached(self, mask: BoolArray) -> BoolArray:
        """Cells of a mask ``[row, column]`` whose column is really driven."""
        reached = mask.copy()
        reached[:, self._stuck_columns()] = False
        return reached

    def _stuck_columns(self) -> list[int]:
        return [fault.index for fault in self._faults.lasting("stuck_relay") if fault.index is not None]

    # -- pulsing -------------------------------------------------------------------------------------------------

    def _pulse(self, payload: bytes) -> bytes:
        (kernel, code, width, count), rest = split(_PULSE, payload)
        mask, scheme = self._limits.mask_and_scheme(rest)
        self._check_pulse(kernel, code, width, count)
        self._fire(kernel, code, width, count, mask, scheme)
        return b""

    def _pulse_read(self, payload: bytes) -> bytes:
        (kernel, code, width, count, current_range, averages, read_code), rest = split(_PULSE_READ, payload)
        mask, scheme = self._limits.mask_and_scheme(rest)
        self._check_pulse(kernel, code, width, count)
        self._limits.check_read(kernel, current_range, averages, read_code)
        self._fire(kernel, code, width, count, mask, scheme)
        return self._measure(kernel, current_range, averages, read_code, mask)

    def _check_pulse(self, kernel: int, code: int, width: int, count: int) -> None:
        self._limits.check_pulse(kernel, code, width, count)
        low, high = self._pulse_codes
        if not low <= code <= high:
            raise Refusal(Status.OVER_RANGE, f"pulse of code {code} is beyond the limits in force, {low} to {high}")

    def _fire(self, kernel: int, code: int, width: int, count: int, mask: BoolArray, scheme: str) -> None:
        voltage, seconds = code * self._spec.readout.dac_lsb, width / 1e9
        bench, reached = self._bench, self._reached(mask)
        with bench.lock:
            bench.drive(Opcode(self._request.opcode).name)
            die = bench.touched()
            fired = Fired(scheme, v_other=0.0, times=int(mask.any(axis=0).sum()))
            if die is not None:
                fired = die.pulse(kernel, reached, voltage, seconds, count, die.noise(kernel), scheme)
            self._action = (self._request.seq, self._request.opcode, self._action[2] + 1)
            seq, _, actions = self._action
            details = {"v": voltage, "width_s": seconds, "count": count, "seq": seq, "actions": actions}
            how = {"scheme": fired.scheme, "v_other": fired.v_other}
            self._log("pulse", kernel, mask, reached=int(reached.sum()), **details, **how)
        gap = self._timing.line_settling + count * (seconds + self._timing.pulse_gap)
        bench.clock.advance(fired.times * gap)

    # -- multiplying ---------------------------------------------------------------------------------------------

    def _load_vectors(self, payload: bytes) -> bytes:
        (bank, start, count, n), rest = split(_LOAD, payload)
        if bank >= self._spec.banks:
            raise Refusal(Status.BAD_ARG, f"bank {bank}; there are {self._spec.banks}")
        if count == 0 or not 1 <= n <= max(self._topology.rows, self._topology.columns):
            raise Refusal(Status.BAD_ARG, f"{count} vectors of {n} elements")
        if len(rest) != 2 * count * n:
            raise Refusal(Status.BAD_ARG, f"{len(rest)} bytes are not {count} vectors of {n} elements")
        if start + count > self._spec.vectors_max:
            raise Refusal(Status.OVER_RANGE, f"vectors up to {start + count} are beyond {self._spec.vectors_max}")
        volts = np.frombuffer(rest, dtype="<i2").reshape(count, n) * self._spec.readout.dac_lsb
        if start == 0:
            self._banks[bank] = self._empty_bank(n) if not self._holds(bank, n) else self._banks[bank]
        if not self._holds(bank, n):
            raise Refusal(Status.BAD_ARG, f"bank {bank} does not hold vectors of {n} elements; begin with start 0")
        self._banks[bank].volts[start : start + count] = volts
        self._banks[bank].written[start : start + count] = True
        return b""

    def _holds(self, bank: int, n: int) -> bool:
        return bank in self._banks and self._banks[bank].volts.shape[1] == n

    def _empty_bank(self, n: int) -> _Bank:
        vectors = self._spec.vectors_max
        return _Bank(np.zeros((vectors, n)), np.zeros(vectors, dtype=bool))

    def _multiply(self, payload: bytes) -> bytes:
        kernel, way, current_range, averages, bank, start, count, driven, sensed = unpack(
            self._limits.multiply_layout, payload
        )
        self._limits.check_kernel(kernel)
        self._limits.check_range(current_range)
        self._limits.check_averages(averages)
        if way > 1:
            raise Refusal(Status.BAD_ARG, f"direction {way}; known: 0 forward, 1 backward")
        direction: Direction = "backward" if way else "forward"
        rows, columns = self._topology.rows, self._topology.columns
        driven_lines = set_bits(driven, rows if way else columns, "driven")
        sensed_lines = set_bits(sensed, columns if way else rows, "sensed")
        vectors = self._vectors(bank, start, count, driven_lines.size)
        if 3 + 2 * count * sensed_lines.size + 1 > frames.PAYLOAD_MAX:
            raise Refusal(Status.OVER_RANGE, f"{count} vectors do not fit into one reply; ask for fewer")
        self._limits.check_read_voltage(float(np.max(np.abs(vectors))))
        full = np.zeros((count, rows if way else columns))
        full[:, driven_lines] = vectors
        codes = self._product(kernel, direction, current_range, averages, full, driven_lines, sensed_lines)
        self._bench.clock.advance(count * (self._timing.line_settling + averages * self._timing.sample))
        return struct.pack("<HB", count, sensed_lines.size) + np.rint(codes).astype("<u2").tobytes()

    def _vectors(self, bank: int, start: int, count: int, lines: int) -> FloatArray:
        if bank not in self._banks or count == 0 or start + count > self._spec.vectors_max:
            raise Refusal(Status.BAD_ARG, f"bank {bank} has no vectors {start} to {start + count - 1}")
        loaded = self._banks[bank]
        if not loaded.written[start : start + count].all():
            raise Refusal(Status.BAD_ARG, f"vectors {start} to {start + count - 1} of bank {bank} are not all loaded")
        if loaded.volts.shape[1] != lines:
            raise Refusal(Status.BAD_ARG, f"{lines} driven lines, but vectors of {loaded.volts.shape[1]} elements")
        return loaded.volts[start : start + count]

    def _product(
        self,
        kernel: int,
        direction: Direction,
        current_range: int,
        averages: int,
        vectors: FloatArray,
        driven: NDArray[np.int64],
        sensed: NDArray[np.int64],
    ) -> FloatArray:
        amplitude = float(np.max(np.abs(vectors)))
        gates = np.zeros(self._topology.columns, dtype=bool)
        gates[sensed if direction == "backward" else driven] = True
        unreached = self._stuck_columns()
        if direction == "forward":
            vectors[:, unreached] = 0.0
        bench = self._bench
        currents, cell_noise = np.zeros((len(vectors), sensed.size)), np.zeros(())
        with bench.lock:
            bench.drive("MULTIPLY")
            die = bench.touched()
            rng = bench.air_noise(kernel) if die is None else die.noise(kernel)
            if die is not None and amplitude > 0:
                model = die.product(kernel, direction, gates, amplitude)
                currents = model.currents(vectors)[:, sensed]
                cell_noise = model.cell_noise(vectors, self._spec.readout.cell_noise)[:, sensed]
            if direction == "backward":
                currents[:, np.isin(sensed, unreached)] = 0.0
            self._log("multiply", kernel, gates, v=amplitude, direction=direction, vectors=len(vectors))
        return self._convert(currents, cell_noise, current_range, sensed, averages, rng)

    def _log(self, what: str, kernel: int, mask: BoolArray, **details: object) -> None:
        self._bench.note(what, kernel=kernel, cells=int(mask.sum()), mask=mask_digest(mask), **details)
