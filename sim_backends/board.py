"""A crossbar board made of physics, speaking docs/board_protocol.md. It is wired to whatever die the needles touch."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from sim_backends import frames
from sim_backends.array.die import stream
from sim_backends.array.lines import Direction
from sim_backends.array.mtj import BoolArray, FloatArray
from sim_backends.array.quantity import Second, Specification
from sim_backends.array.readout import Readout, ReadoutSpec
from sim_backends.bench import Bench
from sim_backends.clock import Timing
from sim_backends.frames import Frame
from sim_backends.physical_log import mask_digest

_READOUT_ERRORS = 2**32 - 2  # key of the board's own stream of random numbers
_IDLE_MODES = ("float", "soft_ground", "hard_ground")
_READ = struct.Struct("<BBHh")
_PULSE = struct.Struct("<BhIH")
_PULSE_READ = struct.Struct("<BhIHBHh")
_MULTIPLY = struct.Struct("<BBBHBHHII")
_LOAD = struct.Struct("<BHHB")


class Status(IntEnum):
    """First byte of a reply."""

    OK = 0
    BAD_CRC = 1
    BAD_ARG = 2
    BUSY = 3
    OVER_RANGE = 4
    INTERLOCK = 5
    WATCHDOG = 6
    NOT_CALIBRATED = 7
    UNKNOWN_OPCODE = 8
    BAD_VERSION = 9


class Opcode(IntEnum):
    """What a frame asks for."""

    IDN = 0x01
    CAPS = 0x02
    CAL_READ = 0x03
    LOAD_VECTORS = 0x10
    READ = 0x11
    PULSE = 0x12
    PULSE_READ = 0x13
    MULTIPLY = 0x14
    IDLE = 0x20
    ESTOP = 0x21
    HEARTBEAT = 0x22
    RESET = 0x23
    LAST_ACTION = 0x24


_ACTING = {Opcode.LOAD_VECTORS, Opcode.READ, Opcode.PULSE, Opcode.PULSE_READ, Opcode.MULTIPLY}
_REFUSED_WHEN_LATCHED = _ACTING | {Opcode.HEARTBEAT}  # a host that only sends heartbeats must learn of the latch


class BoardSpec(Specification):
    """A board: its identity, limits and converters. All values are assumed."""

    identity: str = "xbarlab,virtual array board,VB0001,1.0"
    width_min: Second = 20e-9
    width_max: Second = 1e-3
    width_step: Second = 10e-9
    count_max: int = 1000
    averages_max: int = 256
    banks: int = 16
    vectors_max: int = 4096
    self_test: Second = 0.0
    """After power-on the board answers busy for so long (wall time)."""
    readout: ReadoutSpec = ReadoutSpec()


class Refusal(Exception):
    """A request is answered with a status other than ok."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class _Bank:
    """Vectors of one bank: voltages ``[vectors_max, n]`` and which have been written."""

    volts: FloatArray
    written: BoolArray


class Board:
    """The board's side of the protocol; a `tcp.Service`.

    Parameters
    ----------
    bench
        What the needles touch.
    spec, timing
        The kind of board, and how long it takes.
    """

    def __init__(self, bench: Bench, spec: BoardSpec, timing: Timing) -> None:
        self._bench, self._spec, self._timing = bench, spec, timing
        self._topology = bench.lot.topology
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
        }
        self._received = bytearray()
        self._overlong = False
        self._banks: dict[int, _Bank] = {}
        self._latch: Status | None = None
        self._watchdog: float | None = None  # s
        self._last_frame = time.monotonic()
        self._powered = time.monotonic()
        self._action = (0, 0, 0)  # seq, opcode, actions since power-on
        self._request = Frame(frames.VERSION, 0, 0, 0, b"")

    # -- the wire ------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Forget what the last client sent half of; vectors, latch and watchdog stay."""
        self._received.clear()
        self._overlong = False

    def receive(self, data: bytes) -> bytes:
        """Answer all complete frames in the stream."""
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

    def deadline(self) -> float | None:
        """When the watchdog bites."""
        return None if self._watchdog is None else self._last_frame + self._watchdog

    def expired(self) -> None:
        """The host has been silent for too long: ground the lines and latch."""
        self._watchdog = None
        if self._latch is None:
            self._latch = Status.WATCHDOG
        self._bench.set_outputs("hard_ground", "watchdog")

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
        try:
            self._check(request)
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
        _unpack(None, payload)
        return self._spec.identity.encode()

    def _caps(self, payload: bytes) -> bytes:
        _unpack(None, payload)
        return json.dumps(self._capabilities()).encode()

    def _capabilities(self) -> dict[str, object]:
        spec, readout, topology = self._spec, self._spec.readout, self._topology
        return {
            "protocol": frames.VERSION,
            "rows": topology.rows,
            "columns": topology.columns,
            "kernels": topology.kernels,
            "topology": {
                "blocks": topology.blocks,
                "block_rows": topology.block_rows,
                "block_columns": topology.block_columns,
                "kernel_block": topology.kernel_block.tolist(),
                "kernel_row": topology.kernel_row.tolist(),
                "kernel_column": topology.kernel_column.tolist(),
            },
            "dac_lsb": readout.dac_lsb,
            "v_min": readout.v_min,
            "v_max": readout.v_max,
            "v_read_max": readout.v_read_max,
            "adc_bits": readout.adc_bits,
            "ranges": [{"index": i, "full_scale": full} for i, full in enumerate(readout.full_scales)],
            "width_min": spec.width_min,
            "width_max": spec.width_max,
            "width_step": spec.width_step,
            "count_max": spec.count_max,
            "averages_max": spec.averages_max,
            "banks": spec.banks,
            "vectors_max": spec.vectors_max,
            "cell": "2T1R",
            "heartbeat": True,
        }

    def _cal_read(self, payload: bytes) -> bytes:
        (current_range,) = _unpack(struct.Struct("<B"), payload)
        self._check_range(current_range)
        if current_range in self._spec.readout.uncalibrated_ranges:
            raise Refusal(Status.NOT_CALIBRATED, f"range {current_range} has no calibration")
        serial = self._spec.identity.split(",")[2]
        name = f"{serial}-{self._bench.seed % 10**4:04d}-R{current_range}".encode("ascii")[:16].ljust(16, b"\0")
        gain = self._readout.reported_gain[current_range].astype("<f4")
        offset = self._readout.reported_offset[current_range].astype("<f4")
        return name + struct.pack("<H", gain.size) + gain.tobytes() + offset.tobytes()

    def _idle(self, payload: bytes) -> bytes:
        (mode,) = _unpack(struct.Struct("<B"), payload)
        if mode >= len(_IDLE_MODES):
            raise Refusal(Status.BAD_ARG, f"idle mode {mode}; known: 0 float, 1 soft ground, 2 hard ground")
        if self._latch is not None and _IDLE_MODES[mode] != "hard_ground":
            raise Refusal(self._latch, "lines stay grounded until RESET")
        self._bench.set_outputs(_IDLE_MODES[mode], "IDLE")
        return b""

    def _estop(self, payload: bytes) -> bytes:
        self._latch = Status.INTERLOCK  # before anything that could go wrong
        self._bench.set_outputs("hard_ground", "ESTOP")
        return b""

    def _heartbeat(self, payload: bytes) -> bytes:
        (timeout,) = _unpack(struct.Struct("<I"), payload)
        self._watchdog = timeout / 1000 if timeout else None
        return b""

    def _reset(self, payload: bytes) -> bytes:
        _unpack(None, payload)
        self._latch = None
        self._banks.clear()
        return b""

    def _last_action(self, payload: bytes) -> bytes:
        _unpack(None, payload)
        return struct.pack("<BBI", *self._action)

    # -- reading -------------------------------------------------------------------------------------------------

    def _read(self, payload: bytes) -> bytes:
        (kernel, current_range, averages, code), rest = _split(_READ, payload)
        mask = self._mask(rest)
        self._check_read(kernel, current_range, averages, code)
        return self._measure(kernel, current_range, averages, code, mask)

    def _check_read(self, kernel: int, current_range: int, averages: int, code: int) -> None:
        self._check_kernel(kernel)
        self._check_range(current_range)
        self._check_averages(averages)
        self._check_read_voltage(abs(code) * self._spec.readout.dac_lsb)

    def _measure(self, kernel: int, current_range: int, averages: int, code: int, mask: BoolArray) -> bytes:
        voltage = code * self._spec.readout.dac_lsb
        columns: BoolArray = np.any(mask, axis=0)
        bench = self._bench
        with bench.lock:
            die = bench.touched()
            rng = bench.air_noise(kernel) if die is None else die.noise(kernel)
            currents = np.zeros(mask.shape) if die is None else die.read(kernel, voltage, columns)
            self._log("read", kernel, mask, v=voltage)
        rows, width = mask.shape
        channels = np.repeat(np.arange(rows), width)[mask.ravel()]  # reading senses rows
        selected = currents[mask]
        relative = self._spec.readout.cell_noise
        codes = self._readout.digitise(selected, relative * np.abs(selected), current_range, channels, averages, rng)
        sampling = self._timing.line_settling + averages * self._timing.sample
        bench.clock.advance(int(columns.sum()) * sampling)
        return struct.pack("<H", codes.size) + codes.astype("<f4").tobytes()

    # -- pulsing -------------------------------------------------------------------------------------------------

    def _pulse(self, payload: bytes) -> bytes:
        (kernel, code, width, count), rest = _split(_PULSE, payload)
        mask = self._mask(rest)
        self._check_pulse(kernel, code, width, count)
        self._fire(kernel, code, width, count, mask)
        return b""

    def _pulse_read(self, payload: bytes) -> bytes:
        (kernel, code, width, count, current_range, averages, read_code), rest = _split(_PULSE_READ, payload)
        mask = self._mask(rest)
        self._check_pulse(kernel, code, width, count)
        self._check_read(kernel, current_range, averages, read_code)
        self._fire(kernel, code, width, count, mask)
        return self._measure(kernel, current_range, averages, read_code, mask)

    def _check_pulse(self, kernel: int, code: int, width: int, count: int) -> None:
        self._check_kernel(kernel)
        spec, readout = self._spec, self._spec.readout
        voltage, seconds = code * readout.dac_lsb, width * 1e-9
        if not readout.v_min <= voltage <= readout.v_max:
            raise Refusal(Status.OVER_RANGE, f"pulse of {voltage:.4g} V is beyond {readout.v_min} to {readout.v_max} V")
        if not spec.width_min * (1 - 1e-9) <= seconds <= spec.width_max * (1 + 1e-9):
            raise Refusal(Status.OVER_RANGE, f"width {width} ns is beyond {spec.width_min} to {spec.width_max} s")
        if width % round(spec.width_step * 1e9):
            raise Refusal(Status.BAD_ARG, f"width {width} ns is no multiple of {spec.width_step} s")
        if count == 0:
            raise Refusal(Status.BAD_ARG, "count is 0")
        if count > spec.count_max:
            raise Refusal(Status.OVER_RANGE, f"count {count} is beyond {spec.count_max}")

    def _fire(self, kernel: int, code: int, width: int, count: int, mask: BoolArray) -> None:
        voltage, seconds = code * self._spec.readout.dac_lsb, width * 1e-9
        bench = self._bench
        with bench.lock:
            die = bench.touched()
            if die is not None:
                die.pulse(kernel, mask, voltage, seconds, count, die.noise(kernel))
            self._log("pulse", kernel, mask, v=voltage, width_s=seconds, count=count)
            self._action = (self._request.seq, self._request.opcode, self._action[2] + 1)
        gap = self._timing.line_settling + count * (seconds + self._timing.pulse_gap)
        bench.clock.advance(int(mask.any(axis=0).sum()) * gap)

    # -- multiplying ---------------------------------------------------------------------------------------------

    def _load_vectors(self, payload: bytes) -> bytes:
        (bank, start, count, n), rest = _split(_LOAD, payload)
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
        kernel, way, current_range, averages, bank, start, count, driven, sensed = _unpack(_MULTIPLY, payload)
        self._check_kernel(kernel)
        self._check_range(current_range)
        self._check_averages(averages)
        if way > 1:
            raise Refusal(Status.BAD_ARG, f"direction {way}; known: 0 forward, 1 backward")
        direction: Direction = "backward" if way else "forward"
        rows, columns = self._topology.rows, self._topology.columns
        driven_lines = _set_bits(driven, rows if way else columns, "driven")
        sensed_lines = _set_bits(sensed, columns if way else rows, "sensed")
        vectors = self._vectors(bank, start, count, driven_lines.size)
        if 3 + 2 * count * sensed_lines.size + 1 > frames.PAYLOAD_MAX:
            raise Refusal(Status.OVER_RANGE, f"{count} vectors do not fit into one reply; ask for fewer")
        self._check_read_voltage(float(np.max(np.abs(vectors))))
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
        bench = self._bench
        currents, cell_noise = np.zeros((len(vectors), sensed.size)), np.zeros(())
        with bench.lock:
            die = bench.touched()
            rng = bench.air_noise(kernel) if die is None else die.noise(kernel)
            if die is not None and amplitude > 0:
                model = die.product(kernel, direction, gates, amplitude)
                currents = model.currents(vectors)[:, sensed]
                cell_noise = model.cell_noise(vectors, self._spec.readout.cell_noise)[:, sensed]
            self._log("multiply", kernel, gates, v=amplitude, direction=direction, vectors=len(vectors))
        return self._readout.digitise(currents, cell_noise, current_range, sensed, averages, rng)

    # -- arguments -----------------------------------------------------------------------------------------------

    def _mask(self, payload: bytes) -> BoolArray:
        rows, columns = self._topology.rows, self._topology.columns
        cells = rows * columns
        if len(payload) != (cells + 7) // 8:
            raise Refusal(Status.BAD_ARG, f"mask of {len(payload)} bytes for {cells} cells")
        bits = np.unpackbits(np.frombuffer(payload, dtype=np.uint8), bitorder="little")
        if bits[cells:].any():
            raise Refusal(Status.BAD_ARG, "bits beyond the last cell are set in the mask")
        return bits[:cells].astype(bool).reshape(rows, columns)

    def _check_kernel(self, kernel: int) -> None:
        if kernel >= self._topology.kernels:
            raise Refusal(Status.BAD_ARG, f"kernel {kernel}; there are {self._topology.kernels}")

    def _check_range(self, current_range: int) -> None:
        if current_range >= len(self._spec.readout.full_scales):
            raise Refusal(Status.BAD_ARG, f"range {current_range}; there are {len(self._spec.readout.full_scales)}")

    def _check_averages(self, averages: int) -> None:
        if averages == 0:
            raise Refusal(Status.BAD_ARG, "averages is 0")
        if averages > self._spec.averages_max:
            raise Refusal(Status.OVER_RANGE, f"{averages} averages are beyond {self._spec.averages_max}")

    def _check_read_voltage(self, voltage: float) -> None:
        limit = self._spec.readout.v_read_max
        if voltage > limit:
            raise Refusal(Status.OVER_RANGE, f"{voltage:.4g} V is beyond the read limit of {limit} V")

    def _log(self, what: str, kernel: int, mask: BoolArray, **details: object) -> None:
        self._bench.note(what, kernel=kernel, cells=int(mask.sum()), mask=mask_digest(mask), **details)


def _unpack(layout: struct.Struct | None, payload: bytes) -> tuple[int, ...]:
    """Arguments of a payload of fixed length (None: empty)."""
    size = 0 if layout is None else layout.size
    if len(payload) != size:
        raise Refusal(Status.BAD_ARG, f"payload of {len(payload)} bytes, expected {size}")
    return () if layout is None else layout.unpack(payload)


def _split(layout: struct.Struct, payload: bytes) -> tuple[tuple[int, ...], bytes]:
    """Arguments at the beginning of a payload, and the rest."""
    if len(payload) < layout.size:
        raise Refusal(Status.BAD_ARG, f"payload of {len(payload)} bytes is too short")
    return layout.unpack_from(payload), payload[layout.size :]


def _set_bits(bits: int, lines: int, what: str) -> NDArray[np.int64]:
    """Indices of the set bits of a mask of lines."""
    if bits == 0 or bits >> lines:
        raise Refusal(Status.BAD_ARG, f"{what} lines 0x{bits:x}: none, or beyond line {lines - 1}")
    return np.flatnonzero([bits >> line & 1 for line in range(lines)])
