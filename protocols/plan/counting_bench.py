"""A prober and an array tester that only count: what a protocol would ask of a station, and what that would cost.

No hardware, no physics: every die is the typical die, every answer the typical answer. Requests are checked against
the tester's limits by the functions that the drivers use (`instruments.roles.limits`), so what passes here is not
refused for a limit at the station. Every duration and every property of a cell is assumed, as said beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from instruments.board_protocol.frames import LARGEST_PAYLOAD
from instruments.roles import limits
from instruments.roles.interfaces import (
    ArrayCapabilities,
    DieSite,
    Direction,
    IdleMode,
    LimitError,
    ProberError,
    ZState,
)
from mapping.writing import durations
from protocols.plan.counting_dies import Cells, typical_die

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

#: Degrees Celsius that the chuck reports; assumed.
TEMPERATURE = 25.0

#: Bytes of a frame beside its payload: header, CRC, closing zero and the first COBS byte (docs/board_protocol.md).
_FRAME = 6 + 2 + 1 + 1
_CAPS_REPLY, _IDN_REPLY = 1200, 40  # bytes, roughly: JSON and text
_PROBER_LINES = 33  # bytes of a command and its answer, as measured with SENTIO commands


@dataclass(frozen=True)
class Durations:
    """What the parts of a station take (s). All assumed; a stop watch at yours gives better ones.

    Attributes
    ----------
    die_step, approach, retreat
        Chuck: to a neighbouring die, up to contact, down to separation (automatic probers: about half a second each).
    settling
        From a change of a line's voltage to the first sample or pulse.
    conversion
        One conversion of all channels.
    pulse_gap
        After each pulse.
    request
        What the board needs to take a request apart and to answer it.
    """

    die_step: float = durations.DIE_STEP
    approach: float = durations.APPROACH
    retreat: float = durations.RETREAT
    settling: float = durations.SETTLING
    conversion: float = durations.CONVERSION
    pulse_gap: float = durations.PULSE_GAP
    request: float = durations.REQUEST


@dataclass
class Costs:
    """What was asked of the station so far.

    Attributes
    ----------
    moves, contacts
        Of the chuck.
    pulses, pulse_requests
        Pulses to single cells, and the requests that fire them.
    cells_read, vectors
        Cells read one by one; input vectors that a kernel was driven with.
    board_requests, board_bytes, prober_requests, prober_bytes
        On the wire, both ways.
    station_time
        Seconds by `Durations`; the wire is not in it.
    energy
        Joule, of all pulses together; at most (see `Cells`).
    """

    moves: int = 0
    contacts: int = 0
    pulses: int = 0
    pulse_requests: int = 0
    cells_read: int = 0
    vectors: int = 0
    board_requests: int = 0
    board_bytes: int = 0
    prober_requests: int = 0
    prober_bytes: int = 0
    station_time: float = 0.0
    energy: float = 0.0

    def copy(self) -> Costs:
        """As they are now."""
        return replace(self)

    def since(self, before: Costs) -> Costs:
        """What was added since a copy was taken."""
        return Costs(**{name: getattr(self, name) - getattr(before, name) for name in _COUNTED})

    def add(self, more: Costs) -> None:
        """Count the same once more."""
        for name in _COUNTED:
            setattr(self, name, getattr(self, name) + getattr(more, name))


#: What `Costs` count; asked for once, for sums are made some times for every pulse.
_COUNTED = tuple(each.name for each in fields(Costs))


class CostingProber:
    """Counts moves and contacts; fills the role `Prober`."""

    def __init__(self, sites: Sequence[DieSite], costs: Costs, durations: Durations, identity: str) -> None:
        self._sites, self._costs, self._durations, self._identity = list(sites), costs, durations, identity
        self._at: DieSite | None = None
        self._z = ZState.SEPARATED
        self._ask()

    def identify(self) -> str:
        """Maker, model and version of what it stands for."""
        return self._identity

    def die_sites(self) -> list[DieSite]:
        """The dies of the route."""
        self._ask(1 + len(self._sites))
        return list(self._sites)

    def first_die(self) -> DieSite:
        """Go to the first die of the route."""
        return self.goto_die(self._sites[0])

    def next_die(self) -> DieSite | None:
        """Go to the next die of the route; None past the last one."""
        number = self._sites.index(self._at) + 1 if self._at in self._sites else 0
        return self.goto_die(self._sites[number]) if number < len(self._sites) else None

    def goto_die(self, site: DieSite) -> DieSite:
        """Go to a die; refused in contact and beside the route, as a prober would."""
        if self._z is not ZState.SEPARATED:
            raise ProberError(f"a prober steps only from separation, not from {self._z.value}; separate first", 0)
        if site not in self._sites:
            raise ProberError(f"there is no die {site} on the route; run.dies() gives those that there are", 0)
        self._ask(4)
        self._costs.moves += 1
        self._costs.station_time += self._durations.die_step
        self._at = site
        return site

    def where(self) -> DieSite | None:
        """The die under the needles."""
        self._ask()
        return self._at

    def overtravel_max(self) -> float:
        """No overtravel: a typical die conducts at once."""
        return 0.0

    def contact(self, overtravel: float = 0.0) -> None:
        """Raise the chuck to contact."""
        self._ask(3)
        self._costs.contacts += 1
        self._costs.station_time += self._durations.approach
        self._z = ZState.CONTACT

    def separate(self) -> None:
        """Lower the chuck to separation."""
        self._ask(3)
        self._costs.station_time += self._durations.retreat
        self._z = ZState.SEPARATED

    def z_state(self) -> ZState:
        """Whether the needles touch."""
        self._ask(2)
        return self._z

    def touched(self) -> DieSite | None:
        """The die that the needles touch, if they do; not on the wire."""
        return self._at if self._z is ZState.CONTACT else None

    def set_bin(self, site: DieSite, bin_number: int) -> None:
        """Give a die a bin."""
        self._ask()

    def chuck_temperature(self) -> float:
        """The typical temperature in degrees Celsius."""
        self._ask()
        return TEMPERATURE

    def check_interlocks(self) -> None:
        """Doors are closed."""
        self._ask(2)

    def stop(self) -> None:
        """Nothing moves."""
        self._ask()

    def _ask(self, exchanges: int = 1) -> None:
        """Count commands, what is read back among them; `instruments.drivers.sentio` says how many an action takes."""
        self._costs.prober_requests += exchanges
        self._costs.prober_bytes += exchanges * _PROBER_LINES


@dataclass
class Extremes:
    """Largest voltages that were asked for (V): pulses of either sign, and reads."""

    pulse_low: float = 0.0
    pulse_high: float = 0.0
    read: float = 0.0


class CostingTester:
    """Counts requests and answers as a typical die would; fills the role `ArrayTester`.

    A request beyond `capabilities` raises `LimitError` as the driver of a framed board does.
    """

    #: Of a pulse that arrives at a passive cell.
    share = 1.0

    def __init__(
        self, prober: CostingProber, capabilities: ArrayCapabilities, costs: Costs, durations: Durations, identity: str
    ) -> None:
        self._prober, self._caps, self._costs, self._durations = prober, capabilities, costs, durations
        self._identity = identity
        self._typical = typical_die(capabilities, self.share)
        self._banks: dict[int, FloatArray] = {}
        self._calibrated: set[int] = set()
        self._fired = 0
        self._cells: dict[DieSite, Cells] = {}
        self.extremes = Extremes()
        self.one_time = Costs()
        """What is asked once, whichever step asks first: identity, capabilities, calibrations, the last action."""
        self._once(0, _CAPS_REPLY)
        self._once(0, _IDN_REPLY)

    # -- who it is ---------------------------------------------------------------------------------------------------

    def identify(self) -> str:
        """Vendor, model, serial number and firmware of what it stands for."""
        self._exchange(0, _IDN_REPLY)
        return self._identity

    def capabilities(self) -> ArrayCapabilities:
        """Geometry and limits that requests are checked against."""
        return self._caps

    def calibration_id(self, current_range: int) -> str:
        """Name that stands for the calibration of a range."""
        self._calibrate(current_range)
        return f"planned-R{current_range}"

    def range_for(self, current: float) -> int:
        """The smallest range that digitises `current` (A)."""
        return limits.range_for(self._caps, current)

    def cells(self, site: DieSite) -> Cells:
        """What became of the cells of a die."""
        if site not in self._cells:
            self._cells[site] = self._typical.fresh()
        return self._cells[site]

    # -- single cells ------------------------------------------------------------------------------------------------

    def read(
        self, kernel: int, voltage: float, *, mask: BoolArray | None = None, current_range: int = 0, averages: int = 1
    ) -> FloatArray:
        """As `ArrayTester.read`; no contact, no current."""
        chosen = self._check_read(kernel, voltage, mask, current_range, averages)
        if not chosen.any():
            return np.full(chosen.shape, np.nan)
        self._exchange(6 + _mask_bytes(chosen), 3 + 4 * int(np.count_nonzero(chosen)))
        self._take_reading(chosen, averages)
        return self._measured(kernel, voltage, chosen, current_range)

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
        """As `ArrayTester.pulse`."""
        chosen = self._check_pulse(kernel, mask, amplitude, width, count, scheme)
        if chosen.any():
            self._exchange(9 + _mask_bytes(chosen) + (scheme is not None), 1)
            self._fire(kernel, chosen, amplitude, width, count, scheme)

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
        """As `ArrayTester.pulse_and_read`."""
        chosen = self._check_pulse(kernel, mask, amplitude, width, count, scheme)
        self._check_read(kernel, read_voltage, mask, current_range, averages)
        if not chosen.any():
            return np.full(chosen.shape, np.nan)
        self._exchange(14 + _mask_bytes(chosen) + (scheme is not None), 3 + 4 * int(np.count_nonzero(chosen)))
        self._fire(kernel, chosen, amplitude, width, count, scheme)
        self._take_reading(chosen, averages)
        return self._measured(kernel, read_voltage, chosen, current_range)

    # -- vectors -----------------------------------------------------------------------------------------------------

    def load_vectors(self, bank: int, voltages: FloatArray) -> None:
        """As `ArrayTester.load_vectors`."""
        caps = self._caps
        limits.check_bank(caps, bank)
        volts = limits.applied_read_voltage(caps, voltages)
        widest = max(caps.rows, caps.columns)
        if volts.ndim != 2 or not 1 <= volts.shape[1] <= widest:
            raise LimitError(f"vectors must be [n, lines], at most {widest} lines; these are {list(volts.shape)}")
        total, lines = volts.shape
        if not 1 <= total <= caps.vectors_max:
            raise LimitError(f"{total} vectors are outside 1..{caps.vectors_max} (vectors_max)")
        self._note_read(float(np.max(np.abs(volts))))
        for count in _pieces(total, (LARGEST_PAYLOAD - 6) // (2 * lines)):
            self._exchange(6 + 2 * count * lines, 1)
        self._banks[bank] = volts

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
        """As `ArrayTester.multiply`: the ideal product with the typical conductances."""
        caps, forward = self._caps, direction == "forward"
        if direction not in ("forward", "backward"):
            raise LimitError(f"direction {direction!r} is neither 'forward' nor 'backward'")
        limits.check_kernel(caps, kernel)
        limits.check_averages(caps, averages)
        sides = (caps.columns, caps.rows) if forward else (caps.rows, caps.columns)
        drives, senses = limits.check_lines("driven", driven, sides[0]), limits.check_lines("sensed", sensed, sides[1])
        vectors = self._vectors(bank, len(drives), start, count)
        self._calibrate(current_range)
        self._take_products(vectors, len(senses), averages)
        self._costs.vectors += len(vectors)
        g = self._conductance(kernel)
        return self._digitised(vectors @ (g.T if forward else g)[np.ix_(drives, senses)], current_range)

    # -- rest and safety ---------------------------------------------------------------------------------------------

    def last_action(self) -> tuple[int, int]:
        """Sequence number of the last pulse request, and how many there were."""
        self._exchange(0, 7)
        return self._fired % 255 + 1, self._fired

    def check_limits(self) -> None:
        """The limits are in force; not asked over the wire by every board, so not counted."""

    def arm_watchdog(self, timeout: float) -> bool:
        """Accept it; somebody keeps it quiet."""
        self._exchange(4, 1)
        return True

    def idle(self, mode: IdleMode = "hard_ground") -> None:
        """Put all lines at rest."""
        if mode not in ("float", "soft_ground", "hard_ground"):
            raise LimitError(f"idle mode {mode!r} is none of ['float', 'soft_ground', 'hard_ground']")
        self._exchange(1, 1)

    def safe(self) -> None:
        """Ground everything."""
        self._exchange(0, 1)

    def reset(self) -> None:
        """Forget the stored vectors."""
        self._banks.clear()
        self._exchange(0, 1)

    # -- how it is done ----------------------------------------------------------------------------------------------

    def _check_read(
        self, kernel: int, voltage: float, mask: BoolArray | None, current_range: int, averages: int
    ) -> BoolArray:
        caps = self._caps
        chosen = limits.check_mask(caps, mask)
        limits.check_kernel(caps, kernel)
        limits.check_averages(caps, averages)
        self._note_read(abs(float(limits.applied_read_voltage(caps, voltage))))
        self._calibrate(current_range)
        return chosen

    def _check_pulse(
        self, kernel: int, mask: BoolArray, amplitude: float, width: float, count: int, scheme: str | None
    ) -> BoolArray:
        caps = self._caps
        chosen = limits.check_mask(caps, mask)
        limits.pulse_code(caps, amplitude)
        limits.pulse_width_ns(caps, width)
        limits.check_kernel(caps, kernel)
        limits.check_count(caps, count)
        limits.check_scheme(caps, scheme)
        return chosen

    def _take_reading(self, chosen: BoolArray, averages: int) -> None:
        """Count the time that cells take: those of one column are read together."""
        self._costs.station_time += int(chosen.any(axis=0).sum()) * self._sampling(averages)

    def _take_shots(self, chosen: BoolArray, volts: float, width: float, count: int, scheme: str | None) -> None:
        """Count the time that a pulse takes."""
        duration = self._durations.settling + count * (width + self._durations.pulse_gap)
        self._costs.station_time += self._times(chosen) * duration

    def _take_products(self, vectors: FloatArray, sensed: int, averages: int) -> None:
        """Count the requests and the time of products with vectors ``[n, line]``: all sensed lines at once."""
        for size in _pieces(len(vectors), (LARGEST_PAYLOAD - 4) // (2 * sensed)):
            self._exchange(18 if max(self._caps.rows, self._caps.columns) <= 32 else 26, 4 + 2 * size * sensed)
        self._costs.station_time += len(vectors) * self._sampling(averages)

    def _measured(self, kernel: int, voltage: float, chosen: BoolArray, current_range: int) -> FloatArray:
        self._costs.cells_read += int(np.count_nonzero(chosen))
        currents = self._conductance(kernel) * limits.applied_read_voltage(self._caps, voltage)
        return np.where(chosen, self._digitised(currents, current_range), np.nan)

    def _fire(
        self, kernel: int, chosen: BoolArray, amplitude: float, width: float, count: int, scheme: str | None
    ) -> None:
        volts = limits.pulse_code(self._caps, amplitude) * self._caps.dac_lsb
        self.extremes.pulse_low = min(self.extremes.pulse_low, volts)
        self.extremes.pulse_high = max(self.extremes.pulse_high, volts)
        if not self._fired:
            self._once(0, 7)  # the driver asks for the last action before its first pulse
        self._fired += 1
        self._take_shots(chosen, volts, width, count, scheme)
        self._costs.pulses += count * int(np.count_nonzero(chosen))
        self._costs.pulse_requests += 1
        site = self._prober.touched()
        if site is not None:
            cells, how = self.cells(site), (volts, width * count, count, scheme)
            self._costs.energy += self._typical.pulse(cells, kernel, chosen, *how)

    def _times(self, chosen: BoolArray) -> int:
        """How often lines are selected for a mask: column by column, or each set of rows of a passive array once."""
        columns = np.flatnonzero(chosen.any(axis=0))
        return len({chosen[:, at].tobytes() for at in columns}) if self._caps.schemes else len(columns)

    def _conductance(self, kernel: int) -> FloatArray:
        """Conductances ``[row, column]`` of a kernel under the needles (S)."""
        site = self._prober.touched()
        if site is None:
            return np.zeros((self._caps.rows, self._caps.columns))
        return self._typical.conductance(self.cells(site), kernel)

    def _digitised(self, currents: FloatArray, current_range: int) -> FloatArray:
        full = next(each.full_scale for each in self._caps.ranges if each.index == current_range)
        return np.where(np.abs(currents) > full, np.copysign(np.inf, currents), currents)

    def _vectors(self, bank: int, lines: int, start: int, count: int | None) -> FloatArray:
        """The vectors of a bank that a product takes."""
        limits.check_bank(self._caps, bank)
        if bank not in self._banks:
            raise LimitError(f"nothing was loaded into bank {bank}; load_vectors first")
        loaded = self._banks[bank]
        if loaded.shape[1] != lines:
            raise LimitError(f"bank {bank} holds vectors for {loaded.shape[1]} lines, {lines} are driven")
        count = len(loaded) - start if count is None else count
        if start < 0 or count < 1 or start + count > len(loaded):
            raise LimitError(f"vectors {start}..{start + count - 1} are not in bank {bank}, which has {len(loaded)}")
        return loaded[start : start + count]

    def _note_read(self, volts: float) -> None:
        self.extremes.read = max(self.extremes.read, volts)

    def _sampling(self, averages: int) -> float:
        return self._durations.settling + averages * self._durations.conversion

    def _calibrate(self, current_range: int) -> None:
        if limits.check_range(self._caps, current_range) not in self._calibrated:
            self._calibrated.add(current_range)
            self._once(1, 19 + 8 * max(self._caps.rows, self._caps.columns))

    def _exchange(self, request: int, reply: int) -> None:
        """Count a request and its reply, by the bytes of their payloads (the status included)."""
        self._costs.add(self._one_exchange(request, reply))

    def _once(self, request: int, reply: int) -> None:
        self.one_time.add(self._one_exchange(request, reply))

    def _one_exchange(self, request: int, reply: int) -> Costs:
        size = sum(_FRAME + payload + payload // 254 for payload in (request, reply))  # COBS adds a byte in 254 at most
        return Costs(board_requests=1, board_bytes=size, station_time=self._durations.request)


def _mask_bytes(mask: BoolArray) -> int:
    return (mask.size + 7) // 8


def _pieces(total: int, largest: int) -> list[int]:
    """Sizes of the pieces that a batch goes over the wire in."""
    return [min(largest, total - first) for first in range(0, total, largest)]
