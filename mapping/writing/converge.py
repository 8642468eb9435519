"""Converge to target: which pulse comes next in analog write-verify, for many cells at once, and a whole write by it.

Three algorithms, each a pure decision from readings to amplitudes:

* alternating ramps, that of F. Alibart et al., Nanotechnology 23, 075201 (2012), as the laboratory of arXiv:2305.18495
  uses it: read; a conductance inside the band is done; else a pulse of the polarity that is needed, whose amplitude
  rises by a step each time and falls back to its start when the other polarity is needed;
* its logarithmic variant (`Logarithmic`), where the amplitude rises only if the pulses do too little;
* incremental step pulses (`Incremental`), which come to the target from one side only.

Around each stand the same limits: caps, pulses, reversals, a ceiling of the resistance, and a trip on sudden jumps.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mapping.writing.checked_fields import check_numbers
from sim_backends.array.circuit.bias import HALF, BiasScheme, line_mask

if TYPE_CHECKING:  # the solver's compiler takes half a second to load, and a run at a bench needs none of it
    from sim_backends.array.circuit.passive_array import PassiveArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

SET, RESET = 0, 1


@dataclass(frozen=True)
class Logarithmic:
    """Amplitudes that rise by the logarithm of what is still to be done; defaults of the laboratory's own code.

    After `patience` pulses in a row of which each shifts the resistance by less than `weak` of the window, the
    amplitude rises by ``gain (R / R_max) log10(|R - R_target| / |shift|)`` volt, R_max being that of the window; a
    pulse that shifts it by more than `strong` of the window lets it fall back to the start. In between it stays.

    Attributes
    ----------
    gain
        Volt for each factor of ten.
    patience
        Weak pulses in a row before the amplitude rises.
    weak, strong
        Shares of the window of resistances.
    """

    gain: float = 0.20
    patience: int = 5
    weak: float = 0.005
    strong: float = 0.30

    def __post_init__(self) -> None:
        check_numbers(self)
        if not (self.gain > 0 and self.patience >= 1 and 0 < self.weak < self.strong):
            raise ValueError(f"{self}: gain must be positive, patience at least 1, weak above 0 and below strong")


@dataclass(frozen=True)
class Incremental:
    """Pulses of one polarity that rise step by step until the target is met; a cell beyond it is taken back first.

    Attributes
    ----------
    approach
        The polarity that comes to the target: ``"set"`` from below, ``"reset"`` from above.
    clearance
        How far a cell is taken back before it comes again, as a share of the target (assumed).
    """

    approach: Literal["set", "reset"] = "set"
    clearance: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.approach not in ("set", "reset") or not 0 < self.clearance < 1:
            raise ValueError(f"{self}: approach is 'set' or 'reset', clearance lies between 0 and 1")


@dataclass(frozen=True)
class ConvergeToTarget:
    """Settings of converge-to-target; band, ramps and pulses from the headers of the laboratory's 8 x 8 array files.

    Attributes
    ----------
    tolerance
        Half-width of the band, relative to the target.
    guard
        A write ends within this share of the band, so that noise and disturb do not take the cell out of it at once.
        1 is what the laboratory does; less is for arrays that are read again as a whole, see
        `mapping.writing.touch_up`.
    start, step
        First amplitude of either polarity and its increment (V).
    cap_set, cap_reset
        Highest positive and lowest negative amplitude (V).
    pulses_at_cap
        Pulses in a row at a cap after which a cell is given up.
    width
        Pulse width (s).
    v_read
        Read voltage (V).
    averages
        Reads averaged, each time a cell is looked at.
    reads_in_band
        Reads inside the band, counted over the whole write, that make a cell done. The laboratory wants 20 for single
        devices; 1 is for arrays, where each is read again when the array is finished.
    pulses_max, reversals_max
        Pulses and changes of polarity in one write after which a cell is given up (assumed; ramps between the caps
        take 50 pulses, the worst cell of the default device about 90).
    g_min, g_max
        Window that targets lie in (S): 10 and 2 kOhm, from the code of the authors of arXiv:2305.18495.
    r_ceiling
        A cell that a RESET has taken to this resistance (Ohm) is given up (assumed: five times that of the window).
    jump
        A cell that one pulse moves by more than this share of the window is given up: it broke down or lost contact.
        Assumed; pulses at the cap move the default device by up to half of it.
    variant
        Rule for the amplitudes; None: alternating ramps.

    Raises
    ------
    ValueError
        If the settings leave no pulse to fire, naming the one that does not fit.
    """

    tolerance: float = 0.01
    guard: float = 1.0
    start: float = 1.1
    step: float = 0.02
    cap_set: float = 2.1
    cap_reset: float = -2.4
    pulses_at_cap: int = 1
    width: float = 1.04e-6
    v_read: float = 0.2
    averages: int = 1
    reads_in_band: int = 1
    pulses_max: int = 400
    reversals_max: int = 60
    g_min: float = 100e-6
    g_max: float = 500e-6
    r_ceiling: float = 50e3
    jump: float = 0.9
    variant: Logarithmic | Incremental | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance {self.tolerance:g}: give a part of the target between 0 and 1")
        if not 0 < self.guard <= 1:
            raise ValueError(f"guard {self.guard:g}: give a share of the tolerance, above 0 and at most 1")
        if not (0 < self.start <= min(self.cap_set, -self.cap_reset) and self.step > 0):
            raise ValueError(
                f"ramps from {self.start:g} V in steps of {self.step:g} V to {self.cap_set:g} / {self.cap_reset:g} V: "
                "the start must be positive and not above the caps, the step positive"
            )
        if self.pulses_at_cap < 1 or not min(self.width, self.v_read) > 0:
            raise ValueError("give at least one pulse at a cap, and a positive width and read voltage")
        if min(self.averages, self.reads_in_band, self.pulses_max) < 1 or self.reversals_max < 0:
            raise ValueError("averages, reads_in_band and pulses_max must be at least 1, reversals_max not negative")
        if not (0 < self.g_min < self.g_max and self.jump > 0):
            raise ValueError(f"window {self.g_min:g} to {self.g_max:g} S, jump {self.jump:g}: both must be positive")
        if self.r_ceiling <= 1 / self.g_min:
            raise ValueError(
                f"r_ceiling {self.r_ceiling:g} Ohm is within the window, which reaches to {1 / self.g_min:g} Ohm: "
                "raise it, or raise g_min"
            )

    @property
    def resistance_window(self) -> float:
        """Width of the window in resistance (Ohm)."""
        return 1 / self.g_min - 1 / self.g_max

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for files."""
        plain = asdict(self)
        if self.variant is not None:
            plain["variant"] |= {"name": type(self.variant).__name__}
        return plain

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ConvergeToTarget:
        """Inverse of `to_dict`; what is not a setting is refused.

        Raises
        ------
        ValueError, TypeError
            If a setting is unknown or wrong.
        """
        given, variant = dict(data), data.get("variant")
        if variant is not None:
            kinds = {kind.__name__: kind for kind in (Logarithmic, Incremental)}
            name = variant.get("name")
            if name not in kinds:
                raise ValueError(f"variant {name!r} is none of {', '.join(kinds)}")
            given["variant"] = kinds[name](**{key: value for key, value in variant.items() if key != "name"})
        return cls(**given)


#: What the laboratory writes its 8 x 8 arrays with.
LABORATORY = ConvergeToTarget()
#: The same for arrays that are touched up until all of it is in tolerance when read together.
ARRAY = ConvergeToTarget(guard=0.6, averages=8, pulses_at_cap=5)


class Outcome(IntEnum):
    """What became of a cell that is written: `GOING` while it is, `REACHED`, or why it was given up."""

    GOING = 0
    REACHED = 1
    CAP = 2
    PULSES = 3
    REVERSALS = 4
    CEILING = 5
    JUMP = 6
    UNREADABLE = 7
    DOSE = 8
    DEFECT = 9
    DRIFTED = 10

    @property
    def words(self) -> str:
        """For people."""
        return _WORDS[self]


_GOING = int(Outcome.GOING)  # numpy compares with a number ten times faster than with an enumeration

_WORDS = {
    Outcome.GOING: "being written",
    Outcome.REACHED: "within its tolerance",
    Outcome.CAP: "at a cap",
    Outcome.PULSES: "out of pulses",
    Outcome.REVERSALS: "too many reversals",
    Outcome.CEILING: "above the ceiling of the resistance",
    Outcome.JUMP: "jumped",
    Outcome.UNREADABLE: "not readable",
    Outcome.DOSE: "at the dose limit",
    Outcome.DEFECT: "known as broken",
    Outcome.DRIFTED: "drifted after its last write",
}

#: After these a cell may be tried again in a later pass; after the others it is left alone for good.
MAY_TRY_AGAIN = (Outcome.REACHED, Outcome.CAP, Outcome.PULSES, Outcome.REVERSALS)


class Ramps:
    """Amplitudes of many alternating ramps, one for each slot: a slot holds one cell at a time."""

    def __init__(self, settings: ConvergeToTarget, slots: int) -> None:
        self.settings = settings
        self.steps: IntArray = np.zeros((slots, 2), dtype=np.int64)  # SET, RESET

    def restart(self, slots: BoolArray) -> None:
        """Begin anew."""
        self.steps[slots] = 0

    def amplitude(self, too_low: BoolArray, wanted: BoolArray) -> FloatArray:
        """Voltage of the next pulse of each slot (V): zero where none is wanted, NaN where the cell is given up.

        Parameters
        ----------
        too_low
            Whether the conductance is below its target, ``[slot]``: SET then, else RESET.
        wanted
            Slots that are to be pulsed.
        """
        settings = self.settings
        slots, side = np.arange(len(self.steps)), np.where(too_low, SET, RESET)
        cap = np.array([settings.cap_set, -settings.cap_reset])[side]
        size = settings.start + settings.step * self.steps[slots, side]
        self.steps[slots[wanted], 1 - side[wanted]] = 0
        self.steps[slots[wanted], side[wanted]] += 1
        given_up = size > cap + settings.step * (settings.pulses_at_cap - 0.5)
        size = np.minimum(size, cap)
        return np.where(wanted, np.where(given_up, np.nan, np.where(too_low, size, -size)), 0.0)


class LogarithmicRamps:
    """Amplitudes by the rule of `Logarithmic`; stands where `Ramps` does, and is told what every pulse did."""

    def __init__(self, settings: ConvergeToTarget, rule: Logarithmic, slots: int) -> None:
        self.settings, self.rule = settings, rule
        self.size = np.full((slots, 2), settings.start)
        self.weak: IntArray = np.zeros(slots, dtype=np.int64)
        self.at_cap: IntArray = np.zeros(slots, dtype=np.int64)

    def restart(self, slots: BoolArray) -> None:
        """Begin anew."""
        self.size[slots] = self.settings.start
        self.weak[slots] = self.at_cap[slots] = 0

    def weigh(self, before: FloatArray, now: FloatArray, target: FloatArray, side: IntArray) -> None:
        """Learn from pulses: conductances ``[slot]`` (S) before (NaN: no pulse) and after, and their polarity."""
        rule, window = self.rule, self.settings.resistance_window
        tiny = np.finfo(np.float64).tiny
        r, left = 1 / np.maximum(now, 1e-12), np.abs(1 / np.maximum(now, 1e-12) - 1 / target)
        shift = np.abs(1 / before - r)
        slots = np.arange(len(side))
        self.weak = np.where(shift < rule.weak * window, self.weak + 1, 0)
        tired = self.weak >= rule.patience
        decades = np.log10(np.maximum(left, tiny) / np.maximum(shift, 1e-6 * window))
        rise = rule.gain * np.minimum(r * self.settings.g_min, 1.0) * np.clip(decades, 0, None)
        self.size[slots[tired], side[tired]] += rise[tired]
        self.weak[tired] = 0
        strong = shift > rule.strong * window
        self.size[slots[strong], side[strong]] = self.settings.start

    def amplitude(self, too_low: BoolArray, wanted: BoolArray) -> FloatArray:
        """As `Ramps.amplitude`."""
        settings = self.settings
        slots, side = np.arange(len(self.size)), np.where(too_low, SET, RESET)
        cap = np.array([settings.cap_set, -settings.cap_reset])[side]
        size = self.size[slots, side]
        self.size[slots[wanted], 1 - side[wanted]] = settings.start
        at_cap = size >= cap
        # patience at the cap too: a rise comes only after so many weak pulses
        given_up = at_cap & (self.at_cap >= settings.pulses_at_cap * self.rule.patience)
        self.at_cap = np.where(wanted, np.where(at_cap, self.at_cap + 1, 0), self.at_cap)
        size = np.minimum(size, cap)
        return np.where(wanted, np.where(given_up, np.nan, np.where(too_low, size, -size)), 0.0)


class CellWrites:
    """Writes of many cells at once, each in a slot of its own: readings in, pulses out.

    Parameters
    ----------
    settings
        The algorithm and its limits.
    targets
        Conductance that each is to have (S), ``[slot]``.
    tolerance
        Half-width of each band, relative; by default that of the settings.

    Attributes
    ----------
    outcome
        `Outcome` of each slot, int8.
    pulses, reversals, hits
        Pulses, changes of polarity and reads in the band of each slot since its cell began.
    peak
        Largest amplitude since then (V, no sign).
    """

    def __init__(self, settings: ConvergeToTarget, targets: FloatArray, tolerance: FloatArray | None = None) -> None:
        slots = len(targets)
        self.settings = settings
        self.targets = np.array(targets, dtype=np.float64)
        self.tolerance = np.array(np.broadcast_to(settings.tolerance if tolerance is None else tolerance, slots))
        self.outcome = np.zeros(slots, dtype=np.int8)
        self.pulses, self.reversals, self.hits = np.zeros((3, slots), dtype=np.int64)
        self.peak: FloatArray = np.zeros(slots)
        self._side = np.full(slots, -1)
        self._before = np.full(slots, np.nan)
        self._back = np.zeros(slots, dtype=bool)  # being taken back, see Incremental
        variant = settings.variant
        self._ramps = (
            LogarithmicRamps(settings, variant, slots) if isinstance(variant, Logarithmic) else Ramps(settings, slots)
        )

    @property
    def going(self) -> BoolArray:
        """Slots whose cell is still to be written."""
        return np.asarray(self.outcome == _GOING)

    def restart(self, slots: BoolArray, targets: FloatArray, tolerance: FloatArray) -> None:
        """Put new cells into some slots; targets (S) and tolerances are those of all slots, ``[slot]``."""
        self.targets[slots], self.tolerance[slots] = targets[slots], tolerance[slots]
        self.outcome[slots] = Outcome.GOING
        self.pulses[slots] = self.reversals[slots] = self.hits[slots] = 0
        self.peak[slots] = 0.0
        self._side[slots], self._before[slots], self._back[slots] = -1, np.nan, False
        self._ramps.restart(slots)

    def give_up(self, slots: BoolArray, why: Outcome) -> None:
        """End the writes of some slots from outside (their dose is used up)."""
        self.outcome[slots & self.going] = why

    def next(self, read: FloatArray) -> FloatArray:
        """Amplitude of the next pulse of each slot (V); zero where none is to be fired now.

        Parameters
        ----------
        read
            Conductance of each cell as just read (S), ``[slot]``; of slots that are not `going` it does not matter.
            NaN, or infinite where the range saturates: the cell is given up.
        """
        going, settings = self.going, self.settings
        finite = np.isfinite(read)
        g = np.where(finite, read, self.targets)
        in_band = going & finite & (np.abs(g - self.targets) <= settings.guard * self.tolerance * self.targets)
        self.hits += in_band
        too_low = self._too_low(g)
        side = np.where(too_low, SET, RESET)
        turned = going & ~in_band & (self._side >= 0) & (side != self._side)
        self.reversals += turned
        stop = self._stops(going & ~in_band, g, finite)
        if isinstance(self._ramps, LogarithmicRamps):
            self._ramps.weigh(self._before, g, self.targets, np.maximum(self._side, 0))
        self._ramps.restart(in_band)
        fire = going & ~in_band & (stop == _GOING)
        amplitude = self._ramps.amplitude(too_low, fire)
        at_cap = np.isnan(amplitude)
        stop[at_cap] = Outcome.CAP
        stop[in_band & (self.hits >= settings.reads_in_band)] = Outcome.REACHED
        self.outcome[going] = stop[going]
        amplitude[at_cap] = 0.0
        fired = amplitude != 0
        self.pulses += fired
        self.peak = np.maximum(self.peak, np.abs(amplitude))
        self._side[fired] = side[fired]
        self._before = np.where(fired, g, np.nan)
        return amplitude

    def _too_low(self, g: FloatArray) -> BoolArray:
        """Slots whose next pulse is SET."""
        low: BoolArray = g < self.targets
        variant = self.settings.variant
        if not isinstance(variant, Incremental):
            return low
        sign = 1 if variant.approach == "set" else -1
        beyond = sign * (g - self.targets)
        self._back |= beyond > self.settings.guard * self.tolerance * self.targets
        self._back &= beyond > -variant.clearance * self.targets
        return self._back ^ (variant.approach == "set")

    def _stops(self, cells: BoolArray, g: FloatArray, finite: BoolArray) -> NDArray[np.int8]:
        """Why cells that are out of their band are given up before a pulse; `GOING` where they are not."""
        settings = self.settings
        high = (self._side == RESET) & (g * settings.r_ceiling <= 1)
        window = settings.g_max - settings.g_min
        why = (
            (~finite, Outcome.UNREADABLE),
            (np.abs(g - self._before) > settings.jump * window, Outcome.JUMP),  # never where _before is NaN
            (high, Outcome.CEILING),
            (self.pulses >= settings.pulses_max, Outcome.PULSES),
            (self.reversals > settings.reversals_max, Outcome.REVERSALS),
        )
        found = np.zeros(len(cells), dtype=np.int8)
        for test, outcome in reversed(why):  # the first that holds is the reason
            found[test] = outcome
        found[~cells] = Outcome.GOING
        return found


@dataclass(frozen=True)
class Written:
    """What a write took; per cell ``[array, row, column]``.

    Attributes
    ----------
    pulses
        Pulses fired at each cell.
    outcome
        `Outcome` of each cell; `GOING` for cells that were not in the order.
    peak
        Largest amplitude at each cell (V, no sign).
    """

    pulses: IntArray
    outcome: NDArray[np.int8]
    peak: FloatArray

    @property
    def gave_up(self) -> BoolArray:
        """Cells that were given up."""
        return np.asarray(self.outcome > Outcome.REACHED)


def write(
    array: PassiveArray,
    targets: FloatArray,
    order: IntArray,
    rng: np.random.Generator,
    settings: ConvergeToTarget = LABORATORY,
    scheme: BiasScheme = HALF,
    *,
    tolerance: FloatArray | None = None,
) -> Written:
    """Write simulated arrays cell by cell, each array at its own pace; every cell sees every pulse.

    Parameters
    ----------
    array
        Arrays ``[array, row, column]``, or one ``[row, column]``.
    targets
        Conductances as they are to be read (S), in the shape of the array.
    order
        Cells in the order in which they are written, ``[array, event]``, counted row by row; -1 for nothing.
    rng
        Source of read noise and of the devices' spread.
    settings, scheme
        The algorithm, and the bias scheme of its pulses; reads have all other lines at ground.
    tolerance
        Half-width of each band, relative, in the shape of the array; by default that of the settings.

    Raises
    ------
    DeviceLimitError
        If a pulse would pass a limit anywhere; it is not fired.
    """
    lead, (rows, columns) = array.shape[:-2], array.shape[-2:]
    goal = targets.reshape(-1, rows * columns)
    band = np.full(goal.shape, settings.tolerance) if tolerance is None else tolerance.reshape(goal.shape)
    every, lengths = np.arange(len(goal)), np.count_nonzero(order >= 0, axis=1)
    order = np.take_along_axis(order, np.argsort(order < 0, axis=1, kind="stable"), axis=1)
    pulses, outcome = np.zeros(goal.shape, dtype=np.int64), np.zeros(goal.shape, dtype=np.int8)
    peak = np.zeros(goal.shape)
    event, last = np.zeros(len(goal), dtype=np.int64), max(0, order.shape[1] - 1)
    cell = np.maximum(order[:, 0], 0) if order.shape[1] else np.zeros(len(goal), dtype=np.int64)
    writes = CellWrites(settings, goal[every, cell], band[every, cell])
    writes.give_up(lengths == 0, Outcome.REACHED)
    while np.any(writes.going):
        row, column = cell // columns, cell % columns
        on_row, on_column = line_mask(row.reshape(lead), rows), line_mask(column.reshape(lead), columns)
        read = array.read(on_row, settings.v_read, rng).reshape(-1, columns)[every, column]
        going = writes.going
        amplitude = writes.next(read)
        if np.any(amplitude):
            array.pulse(on_row, on_column, amplitude.reshape(lead), settings.width, rng, scheme)
        done = going & ~writes.going
        if not done.any():
            continue
        pulses[every[done], cell[done]] += writes.pulses[done]
        outcome[every[done], cell[done]] = writes.outcome[done]
        peak[every[done], cell[done]] = writes.peak[done]
        event += done
        more = done & (event < lengths)
        cell = np.where(more, np.maximum(order[every, np.minimum(event, last)], 0), cell)
        writes.restart(more, goal[every, cell], band[every, cell])
    return Written(pulses.reshape(array.shape), outcome.reshape(array.shape), peak.reshape(array.shape))
