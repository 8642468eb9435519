"""An array tester made of a source measure unit, a pulse generator and a switch matrix, as a QCoDeS instrument."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Annotated, TypeVar, Unpack, cast

import numpy as np
from numpy.typing import NDArray
from qcodes.instrument import Instrument, InstrumentBaseKWArgs

from instruments.drivers.rack_sweep import DRIVE, SENSE, CellSweep, bias_of, check_steps
from instruments.roles import limits
from instruments.roles.interfaces import (
    ArrayCapabilities,
    CurrentRange,
    Direction,
    IdleMode,
    InstrumentError,
    InterlockError,
    LimitError,
    Pulser,
    RouteError,
    SourceMeter,
    SweptCell,
    SwitchMatrix,
    UnknownOutcomeError,
)
from instruments.roles.off_recipe import DISCHARGE
from instruments.roles.quantities import SECOND, VOLT, Compliance

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

RackPulseLimit = Annotated[float, VOLT.within(0.0, 10.0, above=True, example="2.1 V")]
ReadLimit = Annotated[float, VOLT.within(0.0, 6.0, above=True, example="300 mV")]
Settling = Annotated[float, SECOND.within(0.0, 60.0, example="1 ms")]

SCHEMES = ("V/2", "floating")
"""Bias schemes that two outputs and ground can do."""

RANGES = (100e-9, 1e-6, 10e-6, 100e-6, 1e-3, 10e-3)
"""Current ranges (A) of the unit that are offered, smallest first."""

CURRENT_LIMIT, READ_LIMIT = 5e-3, 0.3
"""Compliance (A) and largest voltage (V) of readings, where the station file says nothing (assumed)."""

VOLT_STEP = 1e-3
"""What voltages are rounded to (V): the generator sets four digits."""

BANKS, VECTORS_MAX = 4, 1024
"""Input vectors are kept here, not in an instrument; so many at most (assumed)."""

_WIDTHS = (50e-9, 10e-3, 1e-9)  # s; smallest, largest, step: sharp against the edges of the generator
_COUNT_MAX, _AVERAGES_MAX = 1000, 100
_MARK = re.compile(r"xbar (\d+)/(\d+)")
DELAY_MAX = 10.0
"""Longest time at a voltage of a sweep (s; assumed)."""
_GIVES_UP = 15.0  # s; in which another thread comes to its next action, whatever it waits for
_REFUSED = {
    "V/3": "it takes V, V/3, 2V/3 and 0 at once, three outputs beside ground; the generator has two",
    "grounded": "all other cells of the selected column would see the whole pulse",
}
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Rack(Instrument):
    """Source measure unit, pulse generator and matrix, wired to a die without gates; fills the role `ArrayTester`.

    It also takes curves of single cells (`CellSweeper`). The die is one kernel. Every cell is reached by routing: for a
    reading, its column goes to channel a, its row to channel b, all other lines to ground; for a pulse, its column goes
    to the first output of the generator, its row to ground, all other lines to the second output at half of the pulse
    (scheme ``V/2``) or to nothing (``floating``).
    Relays only move while all outputs are at 0 V. Outputs stay on at 0 V from the first request to `idle`.

    With two channels one line is driven at a time: a product is measured line by line and added up here. A pulse
    raises a column against a row by its amplitude *at the generator*: what the lines take of it, with the 50 Ohm of
    each output, is missing at the cell.

    Connecting changes nothing.

    Parameters
    ----------
    name
        Name of the instrument in the station.
    smu, pulser, matrix
        Names of the instruments it is made of; they stand above it in the station file.
    rows, columns
        Matrix column that each row and column of the die is wired to: slot and column, ``"103"``.
    pulse_limit
        Largest pulse (V, either sign), and largest voltage of a sweep.
    current_limit
        Of both channels of the unit when they read (A).
    read_limit
        Largest voltage that reads (V, either sign): well below what moves a device. The default is assumed.
    sweep_limit
        Largest compliance of a sweep (A). The default is the guard of the laboratory's RESET sweeps (arXiv:2305.18495).
    settling
        Seconds between closing relays and switching on. The default is assumed.
    smu_rows, pulser_rows, ground_row
        Rows of the matrix that the channels of the unit, the outputs of the generator and ground are plugged into.

    Raises
    ------
    InstrumentError
        An instrument that it is made of is not there, or of another kind.
    LimitError
        A limit that this rack cannot keep.
    RouteError
        Two lines on one column of the matrix, or rows of the matrix that lack an output.
    """

    def __init__(
        self,
        name: str,
        *,
        smu: str,
        pulser: str,
        matrix: str,
        rows: list[str],
        columns: list[str],
        pulse_limit: RackPulseLimit,
        current_limit: Compliance = CURRENT_LIMIT,
        read_limit: ReadLimit = READ_LIMIT,
        sweep_limit: Compliance = 10e-3,
        settling: Settling = 0.0,
        smu_rows: tuple[str, str] = ("A", "B"),
        pulser_rows: tuple[str, str] = ("C", "D"),
        ground_row: str = "H",
        **kwargs: Unpack[InstrumentBaseKWArgs],
    ) -> None:
        super().__init__(name, **kwargs)
        self._smu = _part(name, "smu", smu, SourceMeter)  # type: ignore[type-abstract]
        self._pulser = _part(name, "pulser", pulser, Pulser)  # type: ignore[type-abstract]
        self._matrix = _part(name, "matrix", matrix, SwitchMatrix)  # type: ignore[type-abstract]
        self._lines = {"row": list(rows), "column": list(columns)}
        check_wiring(name, [*rows, *columns], [*smu_rows, *pulser_rows, ground_row])
        self._drive_row, self._sense_row = smu_rows
        self._pulse_row, self._half_row = pulser_rows
        self._ground_row = ground_row
        self._current_limit = current_limit
        self._sweep_limit = sweep_limit
        self._settling = settling
        self._capabilities = rack_capabilities(name, len(rows), len(columns), pulse_limit, read_limit, current_limit)
        self._lock = threading.RLock()
        self._banks: dict[int, FloatArray] = {}
        self._reading: bool = False  # the unit is on
        self._route: frozenset[str] | None = None
        self._frame: int | None = None  # number of the last pulse, if it is known without asking
        self._stopped = False
        self._matrix.check_route(self._grounded())
        self._matrix.rest_at(self._grounded())
        self.metadata["capabilities"] = asdict(self._capabilities)
        self._add_parameters()

    def _add_parameters(self) -> None:
        caps = self._capabilities
        for name, unit, label, value in (
            ("v_read_max", "V", "Largest voltage that reads and multiplies, either sign", caps.v_read_max),
            ("v_max", "V", "Largest pulse, either sign", caps.v_max),
            ("current_limit", "A", "Compliance of the readings", self._current_limit),
            ("pulse_current_max", "A", "Largest current of a pulse into a short", self.current_bound(caps.v_max)),
        ):
            self.add_parameter(
                name, unit=unit, label=label, docstring=f"Get: {label} ({unit}).", get_cmd=lambda value=value: value
            )

    # -- who it is -----------------------------------------------------------------------------------------------

    def identify(self) -> str:
        """Who its instruments say they are."""
        parts = (self._smu.identify(), self._pulser.identify(), self._matrix.identify())
        return f"xbarlab,rack,{' + '.join(map(_short, parts))},1"

    def get_idn(self) -> dict[str, str | None]:
        """`identify` as QCoDeS keeps it."""
        return dict(zip(("vendor", "model", "serial", "firmware"), self.identify().split(",", 3), strict=False))

    def capabilities(self) -> ArrayCapabilities:
        """Geometry and limits."""
        return self._capabilities

    def calibration_id(self, current_range: int) -> str:
        """Name of the calibration that turns this range's codes into currents: that of the unit."""
        limits.check_range(self._capabilities, current_range)
        return f"{_short(self._smu.identify())} R{current_range}"

    def range_for(self, current: float) -> int:
        """The smallest range that digitises `current` (A, either sign)."""
        return limits.range_for(self._capabilities, current)

    def current_bound(self, amplitude: float) -> float:
        """Largest current (A) that a pulse of `amplitude` (V) can drive: the generator has no compliance."""
        return self._pulser.current_bound(amplitude)

    # -- reading -------------------------------------------------------------------------------------------------

    def read(
        self, kernel: int, voltage: float, *, mask: BoolArray | None = None, current_range: int = 0, averages: int = 1
    ) -> FloatArray:
        """Currents (A) of single cells, ``[rows, columns]``; NaN outside the mask; +-inf where the range saturates.

        Parameters
        ----------
        kernel
            0: the die.
        voltage
            Column minus row, V.
        mask
            Cells to read, ``[rows, columns]``; all if None.
        current_range
            Index of the range.
        averages
            Readings averaged per cell.
        """
        caps = self._capabilities
        limits.check_kernel(caps, kernel)
        chosen = limits.check_mask(caps, mask)
        volts = float(limits.read_codes(caps, voltage)) * caps.dac_lsb
        how = (self._full_scale(current_range), limits.check_averages(caps, averages))
        currents = np.full(chosen.shape, np.nan)
        with self._lock, self._working():
            for row, column in _cells(chosen):
                self._route_reading(("column", column), ("row", row))
                currents[row, column] = self._sensed(volts, *how)
        return currents

    def load_vectors(self, bank: int, voltages: FloatArray) -> None:
        """Keep input vectors ``[n, lines]`` (V), replacing what the bank held; within `v_read_max`."""
        caps = self._capabilities
        limits.check_bank(caps, bank)
        codes = limits.read_codes(caps, voltages)
        if codes.ndim != 2 or not 1 <= codes.shape[1] <= max(caps.rows, caps.columns):
            raise LimitError(f"vectors must be [n, lines], at most {max(caps.rows, caps.columns)} lines; "
                             f"these are {list(codes.shape)}")  # fmt: skip
        if not 1 <= len(codes) <= caps.vectors_max:
            raise LimitError(f"{len(codes)} vectors are outside 1..{caps.vectors_max} (vectors_max)")
        self._banks[bank] = codes.astype(np.float64) * caps.dac_lsb

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

        Forward drives columns and senses rows, backward drives rows and senses columns. +-inf where saturated. One line
        is driven and one sensed at a time, all others grounded; what the driven lines give is added up here. So a
        product takes as many measurements as it has cells, and the range holds for the current of one cell.
        """
        caps = self._capabilities
        limits.check_kernel(caps, kernel)
        if direction not in ("forward", "backward"):
            raise LimitError(f"direction {direction!r} is neither 'forward' nor 'backward'")
        sides = ("column", "row") if direction == "forward" else ("row", "column")
        drives = limits.check_lines("driven", driven, len(self._lines[sides[0]]))
        senses = limits.check_lines("sensed", sensed, len(self._lines[sides[1]]))
        vectors = self._batch(bank, len(drives), start, count)
        how = (self._full_scale(current_range), limits.check_averages(caps, averages))
        sums = np.zeros((len(vectors), len(senses)))
        with self._lock, self._working():
            for at, drive in enumerate(drives):
                used = np.flatnonzero(vectors[:, at])
                for to, sense in enumerate(senses if used.size else ()):
                    self._route_reading((sides[0], int(drive)), (sides[1], int(sense)))
                    for k in used:
                        sums[k, to] += self._sensed(float(vectors[k, at]), *how)
        return sums

    def _sensed(self, volts: float, full_scale: float, averages: int) -> float:
        """Current (A) from the driven line into the sensed one."""
        self._require_not_stopped()
        return -self._smu.read_current(SENSE, DRIVE, volts, full_scale=full_scale, averages=averages)

    def _full_scale(self, current_range: int) -> float:
        return RANGES[limits.check_range(self._capabilities, current_range)]

    def _batch(self, bank: int, lines: int, start: int, count: int | None) -> FloatArray:
        """The vectors ``[n, lines]`` that a multiplication takes from a bank."""
        limits.check_bank(self._capabilities, bank)
        if bank not in self._banks:
            raise LimitError(f"nothing was loaded into bank {bank}; load_vectors first")
        held = self._banks[bank]
        if held.shape[1] != lines:
            raise LimitError(f"bank {bank} holds vectors for {held.shape[1]} lines, {lines} are driven")
        end = len(held) if count is None else start + count
        if start < 0 or end <= start or end > len(held):
            raise LimitError(f"vectors {start}..{end - 1} are not in bank {bank}, which has {len(held)}")
        return held[start:end]

    # -- pulses --------------------------------------------------------------------------------------------------

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

        Columns that have the same rows in the mask are pulsed together with these rows, one such group after another.

        Raises
        ------
        LimitError
            Beyond a limit of the rack, or a scheme that it cannot do; nothing was sent.
        PulseNotFiredError
            The reply to the first trigger was lost, and the generator says that it fired nothing.
        UnknownOutcomeError
            The reply to a trigger was lost, and how many cells were pulsed cannot be found out or is not all of them.
        """
        caps = self._capabilities
        limits.check_kernel(caps, kernel)
        chosen = limits.check_mask(caps, mask)
        volts = limits.pulse_code(caps, amplitude) * caps.dac_lsb
        seconds = limits.pulse_width_ns(caps, width) * 1e-9
        limits.check_count(caps, count)
        levels = self._levels(volts, scheme)
        if not chosen.any() or volts == 0:
            return
        with self._lock, self._working():
            frame = (self.last_action()[1] if self._frame is None else self._frame) + 1
            for shot, (rows, columns) in enumerate(_groups(chosen), start=1):
                try:
                    self._route_pulse(rows, columns, len(levels) > 1)
                    self._pulser.arm(levels, seconds, count=count)
                    self._require_not_stopped()
                    self._pulser.fire(f"xbar {frame}/{shot}")
                except InstrumentError as error:
                    if shot == 1 or isinstance(error, UnknownOutcomeError):
                        raise
                    raise UnknownOutcomeError(
                        f"{self.name}: {shot - 1} groups of the cells of this pulse were pulsed; rows "
                        f"{rows.tolist()} of columns {columns.tolist()} and later ones were not: {error} "
                        "Count all as pulsed"
                    ) from error
            self._frame = frame

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
        """`pulse`, then `read` of the same cells; raises what they raise. What can be refused is refused before."""
        caps = self._capabilities
        limits.check_range(caps, current_range)
        limits.check_averages(caps, averages)
        limits.read_codes(caps, read_voltage)
        self.pulse(kernel, mask, amplitude, width, count=count, scheme=scheme)
        return self.read(kernel, read_voltage, mask=mask, current_range=current_range, averages=averages)

    def _levels(self, volts: float, scheme: str | None) -> dict[int, float]:
        """What the outputs of the generator pulse to (V)."""
        if scheme in _REFUSED:
            raise LimitError(f"{self.name}: bias scheme {scheme} cannot be done here: {_REFUSED[scheme]}. Use V/2")
        limits.check_scheme(self._capabilities, scheme)
        return {1: volts, 2: volts / 2} if scheme == "V/2" else {1: volts}

    def last_action(self) -> tuple[int, int]:
        """Number of the last pulse (the cells of one mask are one), twice: the generator keeps it, until power-off."""
        match = _MARK.fullmatch(self._pulser.last_mark())
        number = int(match[1]) if match else 0
        return number, number

    # -- curves --------------------------------------------------------------------------------------------------

    def check_sweep(self, voltage: FloatArray, compliance: float, dwell: float) -> None:
        """Refuse a sweep that is beyond the limits of the rack; `LimitError` says what to change."""
        caps = self._capabilities
        check_steps(voltage)
        peak = float(voltage[-1])
        if not caps.v_min <= peak <= caps.v_max:
            raise LimitError(f"{self.name}: a sweep to {peak:g} V; pulse_limit is {caps.v_max:g} V: lower the voltage")
        if not 0 < compliance <= self._sweep_limit:
            raise LimitError(
                f"{self.name}: a compliance of {compliance:g} A; it must be positive and at most sweep_limit, "
                f"{self._sweep_limit:g} A"
            )
        if not 0 <= dwell <= DELAY_MAX:
            raise LimitError(f"{self.name}: {dwell:g} s at each voltage; it waits {DELAY_MAX:g} s at most")

    def sweep(
        self, kernel: int, row: int, column: int, voltage: FloatArray, *, compliance: float, dwell: float
    ) -> SweptCell:
        """Step one cell through voltages ``[n]`` (V), `dwell` (s) at each, and back (`instruments.drivers.rack_sweep`).

        The unit's own limit is the compliance and what the other cells of the row carry at most, so a cell that
        switches abruptly at a low voltage may carry up to as much more until the step is measured.

        Parameters
        ----------
        kernel
            0: the die.
        row, column
            The cell.
        voltage
            Of one sign, rising in size.
        compliance
            Current through the cell at which the sweep turns back (A).

        Raises
        ------
        LimitError
            Beyond a limit of the rack, or the other cells draw too much; no cell saw more than a reading.
        """
        caps = self._capabilities
        limits.check_kernel(caps, kernel)
        self.check_sweep(voltage, compliance, dwell)
        if not (0 <= row < caps.rows and 0 <= column < caps.columns):
            raise LimitError(f"{self.name}: there is no cell [{row}, {column}] in {caps.rows} x {caps.columns}")
        volts = min(0.2, caps.v_read_max)
        g = self.read(0, volts, current_range=len(RANGES) - 1) / volts
        bias = bias_of(g, row, column, self._pulser.source_resistance())
        bias.check(float(voltage[-1]), caps.v_max)
        with self._lock, self._working():
            self._sources_off()
            try:
                parts = self._smu, self._pulser, self._route_sweep, self._require_not_stopped
                return CellSweep(*parts, bias, voltage, compliance, dwell).run()
            finally:
                self._sources_off()  # so that nothing keeps a limit of the sweep

    def _route_sweep(self, row: int, column: int, biased: bool) -> None:
        """For the sweep of a cell, or for what the other cells of its row carry alone; outputs are at 0 V or off."""
        rows = [("row", at) for at in range(self._capabilities.rows) if at != row]
        columns = [("column", at) for at in range(self._capabilities.columns) if at != column]
        special = {("row", row): self._sense_row}
        special |= dict.fromkeys(rows, self._pulse_row if biased else self._ground_row)
        special |= dict.fromkeys(columns, self._half_row if biased else self._drive_row)
        special[("column", column)] = self._drive_row if biased else self._ground_row
        self._switch(self._relays(special, None))

    # -- rest and safety -----------------------------------------------------------------------------------------

    def check_limits(self) -> None:
        """Read back the compliance of the unit, where it is on.

        Raises
        ------
        LimitError
            It holds another.
        """
        with self._lock:
            for channel in (DRIVE, SENSE) if self._reading else ():
                found = self._smu.compliance(channel)
                if not math.isclose(found, self._current_limit, rel_tol=1e-3):
                    raise LimitError(
                        f"{self.name}: channel {channel} reads back a limit of {found:g} A, asked was "
                        f"{self._current_limit:g} A; somebody else has changed it"
                    )

    def arm_watchdog(self, timeout: float) -> bool:
        """None of the instruments has a watchdog: a broker's lease takes its place. True: there is nothing to feed."""
        return True

    def idle(self, mode: IdleMode = "hard_ground") -> None:
        """Switch everything off, then ground all lines (``hard_ground``) or open all relays (``float``)."""
        if mode not in ("hard_ground", "float"):
            raise LimitError(f"idle mode {mode!r}: a rack has hard_ground and float, no amplifiers for others")
        with self._lock:
            self._sources_off()
            time.sleep(DISCHARGE)
            self._route = None
            wanted = self._grounded() if mode == "hard_ground" else frozenset[str]()
            self._matrix.route(wanted)
            self._route = wanted

    def safe(self) -> None:
        """Switch off and ground everything now, from any thread; it stays so, refusing to work, until `reset`.

        Raises
        ------
        InstrumentError
            Something did not do it; everything was tried. The message says what to switch off by hand.
        """
        self._stopped = True  # whoever works in another thread gives up before its next action
        faults = self._make_safe()
        if self._lock.acquire(blocking=False):
            self._lock.release()
        elif self._lock.acquire(timeout=_GIVES_UP):
            try:
                faults = self._make_safe()  # its last action may have come in between
            finally:
                self._lock.release()
        else:
            faults.append("another thread does not give up")
        if faults:
            raise InstrumentError("; ".join(faults))

    def _make_safe(self) -> list[str]:
        self._reading, self._route = False, None
        faults = [_attempt(self._pulser.safe), _attempt(self._smu.safe)]
        time.sleep(DISCHARGE)
        faults.append(_attempt(self._matrix.safe))
        return [fault for fault in faults if fault]

    def reset(self) -> None:
        """Let the rack work again that `safe` stopped; stored vectors are forgotten."""
        with self._lock:
            self._banks.clear()
            self._stopped, self._reading, self._route, self._frame = False, False, None, None

    def close(self) -> None:
        """Nothing: its instruments are closed by themselves, and stay as they are."""
        super().close()

    # -- routes --------------------------------------------------------------------------------------------------

    def _route_reading(self, drive: tuple[str, int], sense: tuple[str, int]) -> None:
        """One line on each channel of the unit, all others on ground, the unit on at 0 V."""
        self._switch(self._relays({drive: self._drive_row, sense: self._sense_row}, self._ground_row))
        if not self._reading:
            for channel in (DRIVE, SENSE):
                self._smu.switch_on(channel, self._current_limit)
            self._reading = True

    def _route_pulse(self, rows: NDArray[np.intp], columns: NDArray[np.intp], hold_others: bool) -> None:
        """Cells between the generator and ground, all other lines on its second output or open, the unit off."""
        special = dict.fromkeys((("column", int(at)) for at in columns), self._pulse_row)
        special |= dict.fromkeys((("row", int(at)) for at in rows), self._ground_row)
        self._switch(self._relays(special, self._half_row if hold_others else None))

    def _relays(self, special: dict[tuple[str, int], str], others: str | None) -> frozenset[str]:
        """Relays that put some lines on rows of their own, and all others on one row or on none."""
        found = set()
        for side, pads in self._lines.items():
            for at, pad in enumerate(pads):
                row = special.get((side, at), others)
                if row is not None:
                    found.add(f"{pad[0]}{row}{pad[1:]}")
        return frozenset(found)

    def _grounded(self) -> frozenset[str]:
        return self._relays({}, self._ground_row)

    def _switch(self, relays: frozenset[str]) -> None:
        """Have exactly these relays closed; all outputs are at 0 V between readings and pulses."""
        if relays == self._route:
            return
        self._require_not_stopped()
        self._route = None
        self._matrix.route(relays)
        self._route = relays
        time.sleep(self._settling)

    def _sources_off(self) -> None:
        self._reading = False
        self._pulser.switch_off()
        self._smu.switch_off()

    def _working(self) -> _Working:
        self._require_not_stopped()
        return _Working(self)

    def _require_not_stopped(self) -> None:
        if self._stopped:
            raise InterlockError(f"{self.name} was made safe; reset it before anything is driven again")

    def _rest_after(self, error: BaseException | None) -> None:
        """After a request that failed nothing is trusted, and all is off; else outputs stay on, at 0 V."""
        if error is None:
            return
        self._route, self._frame = None, None
        fault = _attempt(self._sources_off)
        if fault:
            error.add_note(f"then, switching off: {fault}")


class _Working:
    """From the first relay of a request to its end."""

    def __init__(self, rack: Rack) -> None:
        self._rack = rack

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._rack._rest_after(error)


def _short(identity: str) -> str:
    """Model and serial number of an identity."""
    return " ".join(part.strip() for part in identity.split(",")[1:3])


def _part(rack: str, what: str, name: str, role: type[T]) -> T:
    """An instrument of the station by its name."""
    try:
        found = Instrument.find_instrument(name)
    except KeyError as error:
        raise InstrumentError(
            f"{rack}: {what}: no instrument {name!r} is open; list it above {rack} in the station file"
        ) from error
    if not isinstance(found, role):
        raise InstrumentError(f"{rack}: {what}: {name} is a {type(found).__name__}, needed is a {role.__name__}")
    return cast(T, found)


def check_wiring(rack: str, pads: list[str], rows: list[str]) -> None:
    """Refuse two lines on one column of the matrix, and two outputs on one row; `RouteError` names it."""
    for what, names in (("two lines on column", pads), ("row", rows)):
        twice = sorted({each for each in names if names.count(each) > 1})
        if twice:
            raise RouteError(f"{rack}: {what} {twice[0]}{' is taken twice' if what == 'row' else ''} of the matrix")


def rack_capabilities(
    rack: str, rows: int, columns: int, pulse_limit: float, read_limit: float, current_limit: float
) -> ArrayCapabilities:
    """What a rack can do that is wired to so many lines; `LimitError` for limits (V, V, A) that it cannot keep."""
    for name, value, largest, unit in (
        ("pulse_limit", pulse_limit, 10.0, "V"),
        ("read_limit", read_limit, 6.0, "V"),
        ("current_limit", current_limit, 1.0, "A"),
    ):
        if not 0 < value <= largest:
            raise LimitError(f"{rack}: {name} {value:g} {unit} is outside of 0 to {largest:g} {unit}")
    if not (rows and columns):
        raise LimitError(f"{rack}: rows and columns must each name at least one column of the matrix")
    smallest, largest_width, step = _WIDTHS
    return ArrayCapabilities(
        rows=rows,
        columns=columns,
        kernels=1,
        blocks=1,
        block_rows=rows,
        block_columns=columns,
        kernel_block=(0,),
        kernel_row=(0,),
        kernel_column=(0,),
        v_min=-pulse_limit,
        v_max=pulse_limit,
        v_read_max=read_limit,
        dac_lsb=VOLT_STEP,
        adc_bits=16,  # five and a half digits
        ranges=tuple(CurrentRange(at, full_scale) for at, full_scale in enumerate(RANGES)),
        width_min=smallest,
        width_max=largest_width,
        width_step=step,
        count_max=_COUNT_MAX,
        averages_max=_AVERAGES_MAX,
        banks=BANKS,
        vectors_max=VECTORS_MAX,
        cell="1R",
        schemes=SCHEMES,
    )


def _cells(mask: BoolArray) -> Iterator[tuple[int, int]]:
    """Cells of a mask, column by column."""
    for column, row in np.argwhere(mask.T):
        yield int(row), int(column)


def _groups(mask: BoolArray) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows and columns of rectangles that make up a mask: columns that have the same rows, by their first one."""
    alike: dict[bytes, list[int]] = {}
    for column in np.flatnonzero(mask.any(axis=0)):
        alike.setdefault(mask[:, column].tobytes(), []).append(int(column))
    for columns in alike.values():
        yield np.flatnonzero(mask[:, columns[0]]), np.array(columns, dtype=np.intp)


def _attempt(action: Callable[[], object]) -> str:
    """Do something; what went wrong, or nothing."""
    try:
        action()
    except Exception as error:
        _log.error("making the rack safe: %s; going on", error)
        _log.debug("how that came about", exc_info=True)
        return str(error)
    return ""
