"""What a protocol may ask of hardware. Protocols are written against these roles; drivers fill them.

All quantities are SI (volt, ampere, siemens, second); arrays are ``[row, column]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # the broker is up sooner without numpy, of which it needs nothing
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    BoolArray = NDArray[np.bool_]


class InstrumentError(RuntimeError):
    """An instrument refused, failed or did not answer; the message says what to do next."""


class LimitError(InstrumentError, ValueError):
    """A request is beyond the limits of the instrument; nothing was sent."""


class CompliancePolicyError(InstrumentError):
    """A limit was set and reads back otherwise: nothing was switched on."""


class RouteError(LimitError):
    """Relays that must not be closed together; none was moved."""


class LinkError(InstrumentError):
    """The connection is unusable: lost, timed out or out of step. The session must be opened again."""


class UnknownOutcomeError(LinkError):
    """A pulse was sent and its reply lost: whether it was fired must be asked, never assumed."""


class PulseNotFiredError(LinkError):
    """A pulse was sent, and the tester says that it fired nothing: it was busy, or request and reply were lost."""


class BusyError(PulseNotFiredError):
    """The tester answered a pulse with a refusal for now: nothing was fired, nor will it be."""


class InterlockError(InstrumentError):
    """A door is open, the chuck is too hot, a limit is not in force: nothing may be touched or driven."""


class ProberError(InstrumentError):
    """The prober answered with an error; `code` is the maker's number, 0 if it reported success but did otherwise."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, order=True)
class DieSite:
    """A die of the wafer map, by the prober's column and row index."""

    column: int
    row: int

    def __str__(self) -> str:
        return f"c{self.column}r{self.row}"


class ZState(Enum):
    """Where the needles are."""

    CONTACT = "contact"
    SEPARATED = "separated"
    UNKNOWN = "unknown"


@runtime_checkable
class Prober(Protocol):
    """A probe station that steps dies under the needles."""

    def identify(self) -> str:
        """Maker, model and version as the prober reports them."""

    def die_sites(self) -> list[DieSite]:
        """The dies of the route, in route order."""

    def first_die(self) -> DieSite:
        """Go to the first die of the route."""

    def next_die(self) -> DieSite | None:
        """Go to the next die of the route; None past the last one."""

    def goto_die(self, site: DieSite) -> DieSite:
        """Go to a die; returns where the prober says it is."""

    def where(self) -> DieSite | None:
        """The die under the needles by the prober's own index, or None off the route."""

    def overtravel_max(self) -> float:
        """How far beyond contact the chuck may be raised at most (m); 0: not at all."""

    def contact(self, overtravel: float = 0.0) -> None:
        """Raise the chuck to contact and `overtravel` (m) beyond."""

    def separate(self) -> None:
        """Lower the chuck to separation."""

    def z_state(self) -> ZState:
        """Whether the needles touch, as read back from the prober."""

    def set_bin(self, site: DieSite, bin_number: int) -> None:
        """Give a die a bin."""

    def chuck_temperature(self) -> float:
        """Chuck temperature in degrees Celsius."""

    def check_interlocks(self) -> None:
        """See that doors are closed and the chuck's temperature is within its bounds; `InterlockError` if not."""

    def stop(self) -> None:
        """Stop all movement now."""


@dataclass(frozen=True)
class CurrentRange:
    """One transimpedance range: `full_scale` is the largest current it digitises, in ampere, both signs."""

    index: int
    full_scale: float


@dataclass(frozen=True)
class ArrayCapabilities:
    """What an array tester can do, as it says itself.

    `kernel_block`, `kernel_row`, `kernel_column`: for each kernel, its block and the row and column of that block
    at which its first cell sits (so which lines kernels share is data). `cell` is "2T1R" or the like for cells with
    gates, "1R" for passive ones. `schemes`: names of the bias schemes that pulses can have ("V/2", "V/3", ...), which
    say what the other lines of a passive array are held at; none where gates protect the other cells.
    """

    rows: int
    columns: int
    kernels: int
    blocks: int
    block_rows: int
    block_columns: int
    kernel_block: tuple[int, ...]
    kernel_row: tuple[int, ...]
    kernel_column: tuple[int, ...]
    v_min: float
    v_max: float
    v_read_max: float
    dac_lsb: float
    adc_bits: int
    ranges: tuple[CurrentRange, ...]
    width_min: float
    width_max: float
    width_step: float
    count_max: int
    averages_max: int
    banks: int
    vectors_max: int
    cell: str
    schemes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweptCell:
    """Current-voltage curve of one cell, up to a voltage and back.

    `voltage` ``[n]``: the steps (V). `current` ``[2, n]`` (A): on the way up and on the way down; NaN where it was not
    measured, because the sweep had turned back or an output was at its limit. `turned`: it turned back at the
    compliance.
    `leak_change`: what the sweep changed of the current of the other cells of the row, relative: they see a third of
    the voltage, and what they carry is subtracted.
    """

    voltage: FloatArray
    current: FloatArray
    turned: bool
    leak_change: float


Direction = Literal["forward", "backward"]
IdleMode = Literal["float", "soft_ground", "hard_ground"]


class ArrayReader(Protocol):
    """Anything that reads cells of the array under the needles: the part of an `ArrayTester` that changes nothing."""

    def capabilities(self) -> ArrayCapabilities:
        """Geometry and limits, asked once and kept."""

    def range_for(self, current: float) -> int:
        """The smallest range that digitises `current` (A)."""

    def read(
        self, kernel: int, voltage: float, *, mask: BoolArray | None = None, current_range: int = 0, averages: int = 1
    ) -> FloatArray:
        """Currents (A) of single cells, ``[rows, columns]``; NaN outside the mask; +-inf where the range saturates."""


@runtime_checkable
class ArrayTester(ArrayReader, Protocol):
    """Anything that reads, pulses and multiplies with the array under the needles.

    Cell voltage is column minus row: a positive pulse raises the column. Kernels are the addressable tiles. A passive
    array (`ArrayCapabilities.schemes`) is pulsed under a bias scheme, and every cell of it sees a part of each pulse.
    """

    def identify(self) -> str:
        """Vendor, model, serial number and firmware."""

    def calibration_id(self, current_range: int) -> str:
        """Name of the calibration that turns this range's codes into currents."""

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

        `scheme` is one of `ArrayCapabilities.schemes`; None where there are none, needed where there are.
        """

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
        """`pulse`, then `read` of the same cells, in one exchange."""

    def load_vectors(self, bank: int, voltages: FloatArray) -> None:
        """Store input vectors ``[n, lines]`` (V) in a bank of the tester's memory."""

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
        """

    def last_action(self) -> tuple[int, int]:
        """Sequence number of the last pulse frame that was executed, and how many since power-on."""

    def check_limits(self) -> None:
        """Read back the limits that the tester was given; `LimitError` if it holds others."""

    def arm_watchdog(self, timeout: float) -> bool:
        """Have the tester ground its lines when nothing is heard for `timeout` (s), 0 for never.

        Returns whether something keeps it quiet as long as this program is alive; else it has to be called again.
        """

    def idle(self, mode: IdleMode = "hard_ground") -> None:
        """Put all lines at rest."""

    def safe(self) -> None:
        """Ground everything, whatever state the tester is in. It stays so, refusing pulses, until `reset`."""

    def reset(self) -> None:
        """Let a tester work again that `safe` or its watchdog stopped; stored vectors are forgotten."""


@dataclass(frozen=True)
class Executed:
    """What a tester has executed since it was switched on, told in one answer.

    `seq`: number of the last pulse frame. `count`: how many. `power_on`: a name of this power-on that no other has,
    drawn by the tester; "" where it has none. Without it a restart may explain a count.
    """

    seq: int
    count: int
    power_on: str = ""


@runtime_checkable
class PowerOnCounter(Protocol):
    """An array tester that says of which power-on its count of pulses is."""

    def executed(self) -> Executed:
        """As `ArrayTester.last_action`, and the power-on it is of, in one exchange."""


@runtime_checkable
class CellSweeper(Protocol):
    """An array tester that takes current-voltage curves of single cells of a passive array, with a compliance."""

    def check_sweep(self, voltage: FloatArray, compliance: float, dwell: float) -> None:
        """Refuse a sweep that is beyond the limits of the tester; `LimitError` says what to change."""

    def sweep(
        self, kernel: int, row: int, column: int, voltage: FloatArray, *, compliance: float, dwell: float
    ) -> SweptCell:
        """Step one cell through voltages ``[n]`` (V; one sign, rising in size), `dwell` (s) at each, and back.

        It turns back early where the current reaches `compliance` (A). All other cells see a third of the voltage.
        Never repeated: a sweep writes.
        """


@runtime_checkable
class Clock(Protocol):
    """Tells how long a station has been at work, where that is not the time of the wall clock."""

    def elapsed(self) -> float | None:
        """Get the station time (s); None as long as the station has not written any."""


@runtime_checkable
class FieldSource(Protocol):
    """A magnet with its supply. Its current is ramped, always: one that is cut off comes back as a voltage."""

    def identify(self) -> str:
        """Maker, model, serial number and firmware of the supply."""

    def set_field(self, tesla: float, rate: float | None = None) -> None:
        """Ramp to `tesla` (T) at `rate` (T/s), the safe rate if None; returns at the end of the ramp, see `settled`."""

    def field(self) -> float:
        """The field (T), from the current that is read back and the constant of the coil."""

    def settled(self) -> bool:
        """Whether the field is where it was asked to be."""

    def ramp_down(self) -> None:
        """Ramp to zero at the safe rate, wait until no current flows, then switch the output off; from any state."""

    def safe(self) -> None:
        """Bring the field down, whatever another thread asks of it."""


@runtime_checkable
class SourceMeter(Protocol):
    """A source measure unit: channels that hold a voltage, within a current that they do not pass, and measure."""

    def identify(self) -> str:
        """Maker, model, serial number and firmware."""

    def source_channels(self) -> tuple[str, ...]:
        """Names of the channels, such as ``a`` and ``b``."""

    def switch_on(self, channel: str, current_limit: float) -> None:
        """Set 0 V and the limit (A), read both back, then switch on; `CompliancePolicyError` if they differ."""

    def compliance(self, channel: str) -> float:
        """The current limit (A) as it reads back."""

    def read_current(
        self, sense: str, drive: str, voltage: float, *, full_scale: float | None = None, averages: int = 1
    ) -> float:
        """Put channel `drive` to a voltage (V), measure the current out of channel `sense` (A), go back to 0 V.

        +-inf where the range `full_scale` (A) is passed, or one of the two channels is at its limit.
        """

    def hold_voltage(self, drive: str, voltage: float, sense: str, *, delay: float = 0.0) -> tuple[float, bool]:
        """Put channel `drive` to a voltage (V) and leave it there; after `delay` (s), the current out of `sense` (A).

        And whether one of the two channels is at its limit.
        """

    def switch_off(self) -> None:
        """Put all channels to 0 V, then switch them off, and read back that they are."""

    def safe(self) -> None:
        """Switch off, whatever another thread asks of it."""


@runtime_checkable
class Pulser(Protocol):
    """A pulse generator: channels at 0 V that fire together, once, when told to. It has no compliance."""

    def identify(self) -> str:
        """Maker, model, serial number and firmware."""

    def current_bound(self, voltage: float) -> float:
        """Largest current (A) that a pulse of `voltage` (V) can drive: into a short, through what is in the line."""

    def arm(self, levels: Mapping[int, float], width: float, *, count: int = 1) -> None:
        """Ready channels for pulses of these levels (V without a load, by channel), read back; outputs on at 0 V.

        Channels without a level are switched off.
        """

    def fire(self, mark: str) -> None:
        """Fire once, never repeated, and leave `mark` in the instrument with the same command.

        Raises `PulseNotFiredError` if its reply is lost and the instrument does not show the mark,
        `UnknownOutcomeError` if that cannot be found out.
        """

    def hold(self, levels: Mapping[int, float]) -> None:
        """Hold channels at voltages (V without a load, by channel) until told otherwise, read back; from off, by 0 V.

        Channels without a level are switched off.
        """

    def source_resistance(self) -> float:
        """Resistance (Ohm) of an output and what is in its line: what a load takes of a level."""

    def last_mark(self) -> str:
        """The mark of the last pulse that was fired; empty since power-on."""

    def switch_off(self) -> None:
        """Switch all channels off, and read back that they are."""

    def safe(self) -> None:
        """Switch off, whatever another thread asks of it."""


@runtime_checkable
class SwitchMatrix(Protocol):
    """Relays between what is on the rows of a matrix and what is on its columns, by the maker's names (``1A01``)."""

    def identify(self) -> str:
        """Maker, model, serial number and firmware."""

    def check_route(self, relays: Iterable[str]) -> None:
        """Refuse relays that would tie two outputs together, or an output to ground; `RouteError` names them."""

    def route(self, relays: Iterable[str]) -> None:
        """Have exactly these closed, and read it back. Others open first; `RouteError` before any has moved."""

    def closed(self) -> frozenset[str]:
        """Relays that are closed, as read back."""

    def rest_at(self, relays: Iterable[str]) -> None:
        """Relays (to ground) that are closed, all others open, when the matrix is made safe; none by default."""

    def safe(self) -> None:
        """Go to rest, whatever another thread asks of it."""
