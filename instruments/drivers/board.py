"""The framed array board (docs/board_protocol.md) as a QCoDeS instrument."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Unpack

import numpy as np
from numpy.typing import NDArray
from qcodes.instrument import Instrument, InstrumentBaseKWArgs

from instruments.board_protocol.calibration import Calibration
from instruments.board_protocol.caps import BoardCaps, capabilities, parse_caps
from instruments.board_protocol.frames import LARGEST_PAYLOAD, Opcode, Status
from instruments.board_protocol.link import BoardError, BoardLink
from instruments.roles import limits
from instruments.roles.interfaces import (
    ArrayCapabilities,
    BusyError,
    Direction,
    Executed,
    IdleMode,
    InstrumentError,
    LimitError,
)
from instruments.roles.quantities import PulseLimit, Timeout, Whole
from instruments.wire.sessions import open_port

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

Baudrate = Annotated[int, Whole(300, 20_000_000)]

CONVERSION_TIME = 20e-6
"""Seconds allowed for one averaged conversion of one line when the time of a reply is estimated."""

_IDLE_MODES: dict[IdleMode, int] = {"float": 0, "soft_ground": 1, "hard_ground": 2}
_DIRECTIONS: dict[Direction, int] = {"forward": 0, "backward": 1}

_CAL_ID = 16
_LOAD = struct.Struct("<BHHB")
_READ = struct.Struct("<BBHh")
_PULSE = struct.Struct("<BhIH")
_PULSE_READ = struct.Struct("<BhIHBHh")
_MULTIPLY = struct.Struct("<BBBHBHHII")
_MULTIPLY_WIDE = struct.Struct("<BBBHBHHQQ")  # where a side has more than 32 lines
_COUNT = struct.Struct("<H")
_LIMITS = struct.Struct("<hh")
_COUNT_WIDTH = struct.Struct("<HB")


class FramedBoard(Instrument):
    """A crossbar board that speaks framed requests over a serial port or TCP; fills the role `ArrayTester`.

    Connecting asks who the board is and what it can do, and changes no output. Every request is checked against the
    limits before anything is sent. Requests that change no device are repeated after a damaged or lost reply; a pulse
    is sent once, and if its reply is lost the board is asked whether it was fired.

    Parameters
    ----------
    name
        Name of the instrument in the station.
    address
        ``socket://host:port``, ``COM4``, ``/dev/ttyUSB0``.
    baudrate
        Bits per second, for a serial port.
    timeout
        Seconds allowed for a reply, on top of the time that the request itself takes.
    dtr
        Whether DTR and RTS of a serial port are raised when it is opened; false for boards that restart then.
    pulse_limit
        Largest pulse (V, either sign) this station allows, where that is less than the board's own limits.

    Raises
    ------
    LinkError
        Nobody answers at the address.
    InstrumentError
        What answers is no board of this protocol.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        baudrate: Baudrate = 921600,
        timeout: Timeout = 5.0,
        dtr: bool = True,
        pulse_limit: PulseLimit | None = None,
        **kwargs: Unpack[InstrumentBaseKWArgs],
    ) -> None:
        super().__init__(name, **kwargs)
        self._link = BoardLink(open_port(address, baudrate=baudrate, timeout=timeout, dtr=dtr))
        self._timeout = timeout
        self._calibrations: dict[int, Calibration] = {}
        self._loaded: dict[int, tuple[int, int]] = {}  # bank -> vectors and lines this host has loaded
        try:
            caps = parse_caps(self._link.ask(Opcode.CAPS), address)
        except BaseException:
            self._link.port.close()
            raise
        self._link.says_power_on = caps.power_on
        self._capabilities = capabilities(caps, pulse_limit)
        self._lsb = self._capabilities.dac_lsb
        self._limits_asked: tuple[int, int] | None = None
        try:
            self._narrow_limits(caps, pulse_limit)
        except BaseException:
            self._link.port.close()
            raise
        self.metadata["capabilities"] = asdict(self._capabilities)
        self._add_parameters()

    # -- who it is ---------------------------------------------------------------------------------------------------

    def identify(self) -> str:
        """Vendor, model, serial number and firmware, separated by commas."""
        return self._link.ask(Opcode.IDN).decode("utf-8", "replace")

    def get_idn(self) -> dict[str, str | None]:
        """`identify` as QCoDeS keeps it."""
        fields: list[str | None] = [*self.identify().split(",", 3)]
        fields += [None] * (4 - len(fields))
        return dict(zip(("vendor", "model", "serial", "firmware"), fields, strict=True))

    def capabilities(self) -> ArrayCapabilities:
        """Geometry and limits, asked when connecting."""
        return self._capabilities

    def calibration_id(self, current_range: int) -> str:
        """Name of the calibration that turns this range's codes into currents."""
        return self._calibration(current_range).id

    def range_for(self, current: float) -> int:
        """The smallest range that digitises `current` (A, either sign)."""
        return limits.range_for(self._capabilities, current)

    # -- single cells ------------------------------------------------------------------------------------------------

    def read(
        self, kernel: int, voltage: float, *, mask: BoolArray | None = None, current_range: int = 0, averages: int = 1
    ) -> FloatArray:
        """Currents (A) of single cells, ``[rows, columns]``; NaN outside the mask; +-inf where the range saturates.

        Parameters
        ----------
        kernel
            Which tile.
        voltage
            Column minus row, V; the DAC's nearest step is applied.
        mask
            Cells to read, ``[rows, columns]``; all if None.
        current_range
            Index of the range.
        averages
            Conversions averaged per cell.
        """
        caps = self._capabilities
        chosen = limits.check_mask(caps, mask)
        head = _READ.pack(
            limits.check_kernel(caps, kernel),
            limits.check_range(caps, current_range),
            limits.check_averages(caps, averages),
            int(limits.read_codes(caps, voltage)),
        )
        if not chosen.any():
            return np.full(chosen.shape, np.nan)
        work = np.count_nonzero(chosen) * averages * CONVERSION_TIME
        reply = self._link.ask(Opcode.READ, head + _bits(chosen), timeout=self._timeout + work)
        return self._cell_currents(reply, chosen, current_range)

    def pulse(
        self,
        kernel: int,
        mask: BoolArray,
        amplitude: float,
        width: float,
        *,
        count: int = 1,
        scheme: str | None = None,
    ) -> None:
        """Fire `count` pulses of `amplitude` (V) and `width` (s) at each cell of the mask, once, never repeated.

        A board of passive cells selects columns that have the same rows in the mask together with these rows: a mask
        that fills a rectangle is fired at once. `scheme` (one of `ArrayCapabilities.schemes`) is what it holds all
        other lines at.

        Raises
        ------
        LimitError
            Beyond a limit of the board or the station; nothing was sent.
        PulseNotFiredError
            The board was busy, or the reply was lost and the board says that it fired nothing.
        UnknownOutcomeError
            The reply was lost and whether the pulses were fired cannot be found out.
        """
        caps = self._capabilities
        chosen = limits.check_mask(caps, mask)
        code, width_ns = limits.pulse_code(caps, amplitude), limits.pulse_width_ns(caps, width)
        head = _PULSE.pack(limits.check_kernel(caps, kernel), code, width_ns, limits.check_count(caps, count))
        held = self._scheme_byte(scheme)
        if chosen.any():
            self._fire(Opcode.PULSE, head + _bits(chosen) + held, self._pulse_time(chosen, width, count))

    def pulse_and_read(
        self,
        kernel: int,
        mask: BoolArray,
        amplitude: float,
        width: float,
        read_voltage: float,
        *,
        count: int = 1,
        current_range: int = 0,
        averages: int = 1,
        scheme: str | None = None,
    ) -> FloatArray:
        """`pulse`, then `read` of the same cells, in one exchange; raises what they raise.

        If the reply is lost and the board says that the pulses were fired, the cells are read again by themselves.
        """
        caps = self._capabilities
        chosen = limits.check_mask(caps, mask)
        code, width_ns = limits.pulse_code(caps, amplitude), limits.pulse_width_ns(caps, width)
        head = _PULSE_READ.pack(
            limits.check_kernel(caps, kernel),
            code,
            width_ns,
            limits.check_count(caps, count),
            limits.check_range(caps, current_range),
            limits.check_averages(caps, averages),
            int(limits.read_codes(caps, read_voltage)),
        )
        held = self._scheme_byte(scheme)
        if not chosen.any():
            return np.full(chosen.shape, np.nan)
        self._calibration(current_range)  # before the pulse: a missing calibration must not be found after it
        work = self._pulse_time(chosen, width, count) + np.count_nonzero(chosen) * averages * CONVERSION_TIME
        reply = self._fire(Opcode.PULSE_READ, head + _bits(chosen) + held, work)
        if reply is None:
            return self.read(kernel, read_voltage, mask=chosen, current_range=current_range, averages=averages)
        return self._cell_currents(reply, chosen, current_range)

    # -- vectors -----------------------------------------------------------------------------------------------------

    def load_vectors(self, bank: int, voltages: FloatArray) -> None:
        """Store input vectors in a bank of the board, replacing what it held.

        Parameters
        ----------
        bank
            Which bank.
        voltages
            ``[n, lines]``, V, one value per line that a multiplication will drive; within `v_read_max`.
        """
        caps = self._capabilities
        limits.check_bank(caps, bank)
        codes = limits.read_codes(caps, voltages)
        widest = max(caps.rows, caps.columns)
        if codes.ndim != 2 or not 1 <= codes.shape[1] <= widest:
            raise LimitError(f"vectors must be [n, lines], at most {widest} lines; these are {list(codes.shape)}")
        total, lines = codes.shape
        if not 1 <= total <= caps.vectors_max:
            raise LimitError(f"{total} vectors are outside 1..{caps.vectors_max} (vectors_max)")
        self._loaded.pop(bank, None)
        for start, count in _chunks(0, total, (LARGEST_PAYLOAD - _LOAD.size) // (2 * lines)):
            payload = codes[start : start + count].astype("<i2", copy=False).tobytes()
            self._link.ask(Opcode.LOAD_VECTORS, _LOAD.pack(bank, start, count, lines) + payload)
        self._loaded[bank] = (total, lines)

    def multiply(
        self,
        kernel: int,
        bank: int,
        *,
        direction: Direction = "backward",
        driven: BoolArray | None = None,
        sensed: BoolArray | None = None,
        start: int = 0,
        count: int | None = None,
        current_range: int = 0,
        averages: int = 1,
    ) -> FloatArray:
        """Currents (A) of the sensed lines for a loaded batch, ``[count, sensed lines]``.

        Forward drives columns and senses rows, backward drives rows and senses columns. +-inf where saturated.

        Parameters
        ----------
        kernel, bank
            Which tile, and where its input vectors are.
        direction
            ``forward`` or ``backward``.
        driven, sensed
            Lines that take part, bool, one per line of that side; all if None.
        start, count
            Which vectors of the bank; to the last one loaded if `count` is None.
        current_range, averages
            As for `read`.
        """
        caps = self._capabilities
        if direction not in _DIRECTIONS:
            raise LimitError(f"direction {direction!r} is neither 'forward' nor 'backward'")
        sides = (caps.columns, caps.rows) if direction == "forward" else (caps.rows, caps.columns)
        drives = limits.check_lines("driven", driven, sides[0])
        senses = limits.check_lines("sensed", sensed, sides[1])
        total = self._batch(bank, len(drives), start, count)
        calibration = self._calibration(current_range)
        head = (
            limits.check_kernel(caps, kernel),
            _DIRECTIONS[direction],
            current_range,
            limits.check_averages(caps, averages),
            bank,
        )
        layout = _MULTIPLY if max(sides) <= 32 else _MULTIPLY_WIDE
        codes = np.empty((total, len(senses)), dtype=np.uint16)
        done = 0
        for first, size in _chunks(start, total, (LARGEST_PAYLOAD - 1 - _COUNT_WIDTH.size) // (2 * len(senses))):
            payload = layout.pack(*head, first, size, _line_bits(drives), _line_bits(senses))
            work = self._timeout + size * averages * len(senses) * CONVERSION_TIME
            reply = self._link.ask(Opcode.MULTIPLY, payload, timeout=work)
            codes[done : done + size] = self._vector_codes(reply, size, len(senses))
            done += size
        return calibration.currents(codes, senses)

    # -- rest and safety ---------------------------------------------------------------------------------------------

    def last_action(self) -> tuple[int, int]:
        """Sequence number of the last pulse frame that was executed, and how many since power-on."""
        seq, _, actions = self._link.last_action()
        return seq, actions

    def executed(self) -> Executed:
        """As `last_action`, and the identity of the power-on that it is of; "" for boards that draw none."""
        last = self._link.last()
        return Executed(last.seq, last.actions, f"{last.power_on:016x}" if last.power_on else "")

    def idle(self, mode: IdleMode = "hard_ground") -> None:
        """Put all lines at rest: ``float``, ``soft_ground`` or ``hard_ground``."""
        if mode not in _IDLE_MODES:
            raise LimitError(f"idle mode {mode!r} is none of {list(_IDLE_MODES)}")
        self._link.ask(Opcode.IDLE, bytes([_IDLE_MODES[mode]]))

    def safe(self) -> None:
        """Ground everything now and latch it, from any thread and in any state; `reset` lets the board work again.

        Raises
        ------
        LinkError
            The board did not acknowledge: its supply must be switched off by hand.
        """
        self._link.stop(patience=1.0)

    def reset(self) -> None:
        """Clear the latch of `safe` and of the watchdog; stored vectors are forgotten."""
        self._loaded.clear()
        self._link.ask(Opcode.RESET)

    def arm_watchdog(self, timeout: float) -> bool:
        """Have the board ground its lines when no frame comes for `timeout` (s); 0 disarms.

        Every request is a heartbeat. Where a broker holds the connection, it sends one whenever nothing else is asked,
        as long as this program holds its lease; else call this again in time. No thread of this program does so: it
        would keep the lines alive for a protocol that hangs.

        Returns
        -------
        Whether a broker keeps the watchdog quiet.
        """
        milliseconds = round(1e3 * timeout)
        if not 0 <= milliseconds <= 0xFFFFFFFF or (timeout > 0 and milliseconds == 0):
            raise LimitError(f"watchdog timeout {timeout:g} s is outside 1 ms..{0xFFFFFFFF} ms (0 disarms)")
        return self._link.arm_watchdog(milliseconds)

    def check_limits(self) -> None:
        """See that the board still holds the pulse limits that it was given, if it takes any.

        Raises
        ------
        LimitError
            It reads back others: it was restarted, or ignores them.
        """
        if self._limits_asked is None:
            return
        held = _LIMITS.unpack(self._reply_of(_LIMITS.size, Opcode.LIMITS, b""))
        if held != self._limits_asked:
            asked, found = (f"{low * self._lsb:.4g} V to {high * self._lsb:.4g} V" for low, high in
                            (self._limits_asked, held))  # fmt: skip
            raise LimitError(
                f"{self.name} reads back pulse limits of {found}, asked were {asked}; refusing to pulse. It was "
                "restarted or ignores its limits: update its firmware, or take pulse_limit out of the station file"
            )

    def close(self) -> None:
        """Close the connection; outputs stay as they are (`safe` and `idle` are the ways to change them)."""
        link = self.__dict__.get("_link")
        if link is not None:
            link.port.close()
        super().close()

    # -- how it is done ----------------------------------------------------------------------------------------------

    def _narrow_limits(self, caps: BoardCaps, pulse_limit: float | None) -> None:
        """Give the board itself the station's narrower limit, where it takes one, and read it back."""
        if pulse_limit is None or not caps.limits:
            return
        low, high = (int(np.fix(v / self._lsb)) for v in (self._capabilities.v_min, self._capabilities.v_max))
        self._reply_of(_LIMITS.size, Opcode.LIMITS, _LIMITS.pack(low, high))
        self._limits_asked = (low, high)
        self.check_limits()

    def _reply_of(self, size: int, opcode: Opcode, payload: bytes) -> bytes:
        reply = self._link.ask(opcode, payload)
        if len(reply) != size:
            raise InstrumentError(f"{self.name}: {opcode.name} answered {len(reply)} bytes, not {size}; check firmware")
        return reply

    def _add_parameters(self) -> None:
        caps, statistics = self._capabilities, self._link.statistics
        for name, unit, label, value in (
            ("v_read_max", "V", "Largest voltage that reads and multiplies, either sign", caps.v_read_max),
            ("v_min", "V", "Lowest pulse voltage allowed", caps.v_min),
            ("v_max", "V", "Highest pulse voltage allowed", caps.v_max),
            ("dac_lsb", "V", "Step of the voltages", caps.dac_lsb),
        ):
            self.add_parameter(
                name, unit=unit, label=label, docstring=f"Get: {label.lower()} (V).", get_cmd=lambda value=value: value
            )
        self.add_parameter(
            "repeated_requests",
            unit="",
            label="Repeated requests",
            docstring="Get how many requests had to be repeated since connecting (count).",
            get_cmd=lambda: statistics.repeated_requests,
        )
        self.add_parameter(
            "recovered_pulses",
            unit="",
            label="Recovered pulses",
            docstring="Get how many pulse frames lost their reply but were confirmed as fired (count).",
            get_cmd=lambda: statistics.recovered_pulses,
        )

    def _fire(self, opcode: Opcode, payload: bytes, timeout: float) -> bytes | None:
        """See `BoardLink.fire`; a board that is busy has fired nothing."""
        try:
            return self._link.fire(opcode, payload, timeout=timeout)
        except BoardError as error:
            if error.status != Status.BUSY:
                raise
            raise BusyError(f"{error}; nothing was fired.") from error

    def _scheme_byte(self, scheme: str | None) -> bytes:
        """What a pulse says of its bias scheme on the wire: nothing where the cells have gates."""
        chosen = limits.check_scheme(self._capabilities, scheme)
        return b"" if chosen is None else bytes([self._capabilities.schemes.index(chosen)])

    def _calibration(self, current_range: int) -> Calibration:
        limits.check_range(self._capabilities, current_range)
        if current_range not in self._calibrations:
            reply = self._link.ask(Opcode.CAL_READ, bytes([current_range]))
            self._calibrations[current_range] = self._parse_calibration(reply)
        return self._calibrations[current_range]

    def _parse_calibration(self, reply: bytes) -> Calibration:
        caps, body = self._capabilities, _CAL_ID + _COUNT.size
        channels = _COUNT.unpack_from(reply, _CAL_ID)[0] if len(reply) >= body else 0
        if channels < max(caps.rows, caps.columns) or len(reply) != body + 8 * channels:
            raise InstrumentError(f"{self.name}: CAL_READ answered {len(reply)} bytes for {channels} channels")
        values = np.frombuffer(reply, "<f4", offset=body).astype(np.float64)
        if not np.all(np.isfinite(values)) or not np.all(values[:channels]):
            raise InstrumentError(f"{self.name}: the calibration has gains or offsets that are none; calibrate it anew")
        name = reply[:_CAL_ID].rstrip(b"\0").decode("ascii", "replace")
        return Calibration(name, values[:channels], values[channels:], 2**caps.adc_bits - 1)

    def _cell_currents(self, reply: bytes, mask: BoolArray, current_range: int) -> FloatArray:
        """``[rows, columns]`` from the codes of the cells of a mask; a cell is digitised by the channel of its row."""
        expected = np.count_nonzero(mask)
        if len(reply) != _COUNT.size + 4 * expected or _COUNT.unpack_from(reply)[0] != expected:
            raise InstrumentError(f"{self.name}: {len(reply)} bytes came for {expected} cells; check the firmware")
        codes = np.frombuffer(reply, "<f4", offset=_COUNT.size)
        currents = np.full(mask.shape, np.nan)
        currents[mask] = self._calibration(current_range).currents(codes, np.nonzero(mask)[0])
        return currents

    def _vector_codes(self, reply: bytes, count: int, lines: int) -> NDArray[np.uint16]:
        size = _COUNT_WIDTH.size + 2 * count * lines
        if len(reply) != size or _COUNT_WIDTH.unpack_from(reply) != (count, lines):
            raise InstrumentError(f"{self.name}: {len(reply)} bytes came for {count} vectors of {lines} lines")
        return np.frombuffer(reply, "<u2", offset=_COUNT_WIDTH.size).reshape(count, lines)

    def _batch(self, bank: int, lines: int, start: int, count: int | None) -> int:
        """How many vectors a multiplication takes from a bank."""
        limits.check_bank(self._capabilities, bank)
        total, loaded_lines = self._loaded.get(bank, (None, lines))
        if loaded_lines != lines:
            raise LimitError(f"bank {bank} holds vectors for {loaded_lines} lines, {lines} are driven")
        if count is None:
            if total is None:
                raise LimitError(f"nothing was loaded into bank {bank}; load_vectors first, or give count")
            count = total - start
        available = self._capabilities.vectors_max if total is None else total
        if start < 0 or count < 1 or start + count > available:
            raise LimitError(f"vectors {start}..{start + count - 1} are not in bank {bank}, which has {available}")
        return count

    def _pulse_time(self, mask: BoolArray, width: float, count: int) -> float:
        """Seconds to wait for a pulse's reply: half duty cycle at worst, one cell after another at worst."""
        return self._timeout + 2 * float(np.count_nonzero(mask)) * width * count


def _bits(mask: BoolArray) -> bytes:
    """Mask as the wire wants it: row-major bits, least significant first, whole bytes."""
    return np.packbits(mask.ravel(), bitorder="little").tobytes()


def _line_bits(lines: NDArray[np.intp]) -> int:
    """Word with bit k set for each line k."""
    return int(np.bitwise_or.reduce(1 << lines.astype(np.uint64)))


def _chunks(start: int, total: int, largest: int) -> Iterator[tuple[int, int]]:
    """Start and size of the pieces of a batch."""
    for first in range(start, start + total, largest):
        yield first, min(largest, start + total - first)
