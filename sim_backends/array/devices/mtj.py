"""The magnetic tunnel junction (MTJ) in series with a selector.

The junction is parallel (P, low resistance) or antiparallel (AP). Its magnetoresistance falls with the voltage ``V_j``
across it, the selector is a resistor::

    R(V_j) = r_p                                        in P
    R(V_j) = r_p (1 + tmr / (1 + (V_j / v_half)^2))     in AP
    V_j + r_selector V_j / R(V_j) = cell voltage

Spin-transfer torque switches it by thermal activation (`switching_probability`). A junction that sees more than its
breakdown voltage, in the state it starts a pulse in or in the one it ends in, is a resistor of `r_short` from then on.

**Polarity.** Cell voltages are row minus column, as everywhere in this library. A *negative* one drives a cell from P
to AP, a positive one from AP to P: the junction's positive electrode is at the column, so that a column pulsed
positively against its rows writes AP. Only `Mtj.drives_to_ap` knows that.

Sources: the bias dependence and the thermally activated law are those usual for STT-MRAM; all numbers are assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field

import numpy as np
from numba import njit

from sim_backends.array.devices.interface import BoolArray, DeviceLimitError, FloatArray, refuse_where
from sim_backends.array.devices.percell import in_blocks

STEP_SMALL = 1e-9  # of the cell voltage: what Newton's method leaves after such a step is its square
WIDTH_LEAST = 20e-9
"""Shortest pulse (s) that the law of switching is used for. A shorter one is decided by the angle that the magnet
happens to begin with and by its precession, which the law does not know."""
STEPS_FREE, STEPS_MAX = 20, 100  # later steps halve the bracket, which ends in any case

ASSUMED_LAWS: Mapping[str, str] = {
    "bias dependence": "the magnetoresistance is halved at v_half, of either sign",
    "selector": "a resistor, the same in all cells",
    "switching": "thermally activated, from 20 ns on; the same cell fails as likely at each pulse",
    "breakdown": "at a fixed voltage of each junction, whatever the width",
    "read noise": "white, relative to the current",
}
"""What is assumed whatever the parameters are."""


@dataclass(frozen=True)
class MtjParameters:
    """What a kind of cell is like. Defaults are those of the built-in lot, and all assumed.

    Attributes
    ----------
    r_p
        Resistance in P (Ohm); RA 10 Ohm um^2 at 50 nm diameter gives 5.1 kOhm.
    tmr
        Magnetoresistance at low bias; the generic STT-MRAM range is 0.8 to 2.
    r_p_spread, tmr_spread
        Standard deviation of their logarithms between devices.
    v_half
        Junction voltage that halves the magnetoresistance (V); the generic range is 0.4 to 0.7 V.
    r_selector
        Resistance of the selector (Ohm).
    r_short
        Resistance of a junction that has broken down (Ohm).
    v_breakdown, v_breakdown_spread
        Junction voltage that breaks it (V), and its relative standard deviation.
    v_critical_to_ap, v_critical_to_p, v_critical_spread
        Junction voltages at which it switches within the attempt time (V), and their relative standard deviation.
    delta, delta_spread
        Thermal stability factor, and its relative standard deviation.
    tau0
        Attempt time (s).
    exponent
        How the barrier falls with the voltage: ``(1 - V / v_critical)^exponent``. 1 is the common form; 2 that of a
        perpendicular macrospin (docs/models/mtj.md says how far each is from one).
    error_floor
        Share of pulses that fail however strong they are.
    read_noise
        Standard deviation of one read, relative to the current.
    """

    r_p: float = 5e3
    tmr: float = 1.2
    r_p_spread: float = 0.05
    tmr_spread: float = 0.05
    v_half: float = 0.5
    r_selector: float = 2e3
    r_short: float = 100.0
    v_breakdown: float = 1.15
    v_breakdown_spread: float = 0.04
    v_critical_to_ap: float = 0.75
    v_critical_to_p: float = 0.65
    v_critical_spread: float = 0.05
    delta: float = 45.0
    delta_spread: float = 0.05
    tau0: float = 1e-9
    exponent: float = 1.0
    error_floor: float = 1e-5
    read_noise: float = 0.003


GENERIC = MtjParameters()


@dataclass(eq=False)
class Mtj:
    """Cells of junction and selector in the state they are in; per-cell arrays ``[..., row, column]``.

    Attributes
    ----------
    r_p, tmr
        Resistance in P (Ohm) and magnetoresistance at low bias of each junction; a defect is in them.
    v_critical_to_ap, v_critical_to_p, delta
        Critical voltages (V) and thermal stability factor.
    v_breakdown
        Breakdown voltage (V); infinite where there is no barrier to break.
    antiparallel
        True in AP.
    fixed
        Junctions that never switch, and stay in the state they are in.
    broken
        Junctions that a pulse has broken.
    parameters
        What they have in common.
    assumed
        What is not measured.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    DeviceLimitError
        Naming the first cell with a value that no cell can have.
    """

    r_p: FloatArray
    tmr: FloatArray
    v_critical_to_ap: FloatArray
    v_critical_to_p: FloatArray
    delta: FloatArray
    v_breakdown: FloatArray
    antiparallel: BoolArray
    fixed: BoolArray = field(default_factory=lambda: np.zeros((), dtype=bool))
    broken: BoolArray = field(default_factory=lambda: np.zeros((), dtype=bool))
    parameters: MtjParameters = GENERIC
    assumed: Mapping[str, str] = field(
        default_factory=lambda: {"parameters": "generic STT-MRAM values, of no measured chip", **ASSUMED_LAWS}
    )

    def __post_init__(self) -> None:
        self.r_p = np.array(self.r_p, dtype=np.float64)
        if self.r_p.ndim < 2:
            raise ValueError(f"r_p must be [..., row, column], got shape {self.r_p.shape}")
        for name in _PER_CELL[1:]:
            kind = bool if name in _FLAGS else np.float64
            try:
                value: FloatArray | BoolArray = np.array(np.broadcast_to(getattr(self, name), self.shape), dtype=kind)
            except ValueError:
                raise ValueError(f"{name} does not fit junctions of shape {self.shape}") from None
            setattr(self, name, value)
        for name in ("r_p", "v_critical_to_ap", "v_critical_to_p", "delta", "v_breakdown"):
            _refuse(name, getattr(self, name), ~(getattr(self, name) > 0), "positive")
        _refuse("r_p", self.r_p, np.isinf(self.r_p), "finite")
        _refuse("tmr", self.tmr, ~((self.tmr >= 0) & (self.tmr < np.inf)), "finite and not negative")

    @classmethod
    def draw(
        cls,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        parameters: MtjParameters = GENERIC,
        antiparallel: BoolArray | bool = False,
    ) -> Mtj:
        """Draw healthy cells ``[..., row, column]`` of a kind, all in one state or in those given."""

        def spread(relative: float, *axes: int) -> FloatArray:
            return relative * rng.standard_normal((*axes, *shape))

        r_p = parameters.r_p * np.exp(spread(parameters.r_p_spread))
        tmr = parameters.tmr * np.exp(spread(parameters.tmr_spread))
        to_ap, to_p = 1 + spread(parameters.v_critical_spread, 2)
        return cls(
            r_p=r_p,
            tmr=tmr,
            v_critical_to_ap=parameters.v_critical_to_ap * to_ap,
            v_critical_to_p=parameters.v_critical_to_p * to_p,
            delta=parameters.delta * (1 + spread(parameters.delta_spread)),
            v_breakdown=parameters.v_breakdown * (1 + spread(parameters.v_breakdown_spread)),
            antiparallel=np.asarray(antiparallel),
            parameters=parameters,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.r_p.shape

    def part(self, index: int) -> Mtj:
        """The cells of one index of the first axis; what a pulse does to them, it does to these cells too."""
        cells = copy(self)
        for name in _PER_CELL:
            setattr(cells, name, getattr(self, name)[index])
        return cells

    def in_state(self, antiparallel: BoolArray | bool) -> Mtj:
        """The same cells in another state, broken ones as they are."""
        cells = copy(self)
        cells.antiparallel = np.array(np.broadcast_to(antiparallel, self.shape))
        cells.broken = self.broken.copy()
        return cells

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current (A) and its derivative (S) at cell voltages ``[..., row, column]`` (V)."""
        shape, (v,), (r_low, tmr) = in_blocks((v,), self._junctions())
        i, slope = np.empty((2, *shape))
        block, kind = (-1, v.shape[1]), self.parameters
        _series_current(v, r_low, tmr, kind.v_half, kind.r_selector, i.reshape(block), slope.reshape(block))
        return i, slope

    def junction_voltage(self, v: FloatArray) -> FloatArray:
        """What of cell voltages ``[..., row, column]`` (V) is across the junction (V)."""
        return v - self.parameters.r_selector * self.current(v)[0]

    @staticmethod
    def drives_to_ap(v: FloatArray) -> BoolArray:
        """Whether cell voltages (V; row minus column) drive the junction from P to AP, rather than from AP to P."""
        return np.asarray(v) < 0

    def check(self, v: FloatArray, width: float) -> None:
        """Refuse a pulse of cell voltages ``[..., row, column]`` (V) and a width (s) that would break a junction.

        Judged in the state a junction is in, and in the one that the pulse may switch it to.

        Raises
        ------
        DeviceLimitError
            Naming the first such cell; for a width that is not positive, or below `WIDTH_LEAST`.
        """
        if not 0 < width < np.inf:
            raise DeviceLimitError(f"a pulse needs a positive width, got {width:g} s")
        _refuse_short(width)
        v = np.broadcast_to(v, self.shape)
        refuse_where(~np.isfinite(v), lambda cell: f"{v[cell]} V is not a voltage")
        switched = self.in_state(np.where(self.fixed, self.antiparallel, self.drives_to_ap(v)))
        seen = np.maximum(np.abs(self.junction_voltage(v)), np.abs(switched.junction_voltage(v)))
        refuse_where(
            ~self.broken & (seen > self.v_breakdown),
            lambda cell: (
                f"{v[cell]:.4g} V puts {seen[cell]:.4g} V across a junction that breaks at "
                f"{self.v_breakdown[cell]:.4g} V"
            ),
        )

    def pulse(self, v: FloatArray, width: float, rng: np.random.Generator, count: int = 1) -> None:
        """Let a rectangular pulse act: cell voltages ``[..., row, column]`` (V), zero where none; a width (s).

        With a `count` it is repeated. `rng` gives one number per cell, whatever the voltages.

        Raises
        ------
        DeviceLimitError
            For a width below `WIDTH_LEAST`; nothing has switched then.
        """
        _refuse_short(width)
        v, kind = np.broadcast_to(v, self.shape), self.parameters
        to_ap = self.drives_to_ap(v)
        at_start = np.abs(self.junction_voltage(v))
        critical = np.where(to_ap, self.v_critical_to_ap, self.v_critical_to_p)
        once = switching_probability(at_start, width, critical, self.delta, kind.tau0, kind.error_floor, kind.exponent)
        able = ~(self.fixed | self.broken) & (self.antiparallel != to_ap)
        self.antiparallel ^= able & (rng.random(self.shape) < repeated(once, count))
        self.broken |= np.maximum(at_start, np.abs(self.junction_voltage(v))) > self.v_breakdown

    def flipping_probability(self, seconds: float) -> FloatArray:
        """Probability that a cell that nothing is done to loses its state within a time, ``[..., row, column]``.

        Retention: the barrier of `switching_probability` at zero volts, of each cell's own delta.
        """
        return switched_within(seconds, self.delta, self.parameters.tau0)

    def read_noise(self) -> FloatArray:
        """Standard deviation of one read, relative to the current, ``[..., row, column]``."""
        return np.full(self.shape, self.parameters.read_noise)

    def _junctions(self) -> tuple[FloatArray, FloatArray]:
        """Resistance at high bias (Ohm) and magnetoresistance at low bias of the present states."""
        r_low = np.where(self.broken, self.parameters.r_short, self.r_p)
        return r_low, np.where(self.antiparallel & ~self.broken, self.tmr, 0.0)


_FLAGS = ("antiparallel", "fixed", "broken")
_PER_CELL = ("r_p", "tmr", "v_critical_to_ap", "v_critical_to_p", "delta", "v_breakdown", *_FLAGS)


def _refuse(name: str, value: FloatArray, wrong: BoolArray, wanted: str) -> None:
    refuse_where(wrong, lambda cell: f"{name} is {value[cell]:g}; it has to be {wanted}")


def _refuse_short(width: float) -> None:
    if not width >= WIDTH_LEAST * (1 - 1e-9):
        raise DeviceLimitError(
            f"a pulse of {width * 1e9:g} ns: the junction's law of switching holds from {WIDTH_LEAST * 1e9:g} ns on; "
            "give a longer one"
        )


def barrier(v_junction: FloatArray, v_critical: FloatArray, delta: FloatArray, exponent: float = 1.0) -> FloatArray:
    """Barrier between the states, in units of kT: ``delta (1 - V / v_critical)^exponent``.

    With an exponent of 1 it is continued below zero above the critical voltage, where it makes no difference to pulses
    of 20 ns; with another one there is none left.
    """
    left = 1 - v_junction / v_critical
    return delta * (left if exponent == 1 else np.maximum(left, 0.0) ** exponent)


def switched_within(seconds: float, barrier: FloatArray, tau0: float) -> FloatArray:
    """Probability of passing a barrier (kT) within a time (s): ``1 - exp(-seconds / (tau0 exp(barrier)))``."""
    # 1e-300 < exp < 1e300: beyond it the probability is 0 or 1 to the last digit anyway
    return -np.expm1(-(seconds / tau0) * np.exp(np.clip(-barrier, -690.0, 690.0)))


def flipped_share(seconds: float, parameters: MtjParameters, v_junction: float = 0.0, to_ap: bool = True) -> float:
    """Share of the cells of a kind that lose their state within a time (s), by the barrier and its spread.

    At zero volts this is retention; at a read voltage across the junction (V) of the sign that switches, the
    disturbance by reads of so many seconds altogether. Average over the normal spreads of delta and of the critical
    voltage.
    """
    z, weights = np.polynomial.hermite_e.hermegauss(101)
    kind = parameters
    delta = np.maximum(kind.delta * (1 + kind.delta_spread * z), 0.0)[:, None]
    critical = kind.v_critical_to_ap if to_ap else kind.v_critical_to_p
    critical_of = np.maximum(critical * (1 + kind.v_critical_spread * z), 1e-3)[None, :]
    share = switched_within(seconds, barrier(np.asarray(v_junction), critical_of, delta, kind.exponent), kind.tau0)
    return float(weights @ share @ weights / weights.sum() ** 2)


def switching_probability(
    v_junction: FloatArray,
    width: float,
    v_critical: FloatArray,
    delta: FloatArray,
    tau0: float,
    error_floor: float,
    exponent: float = 1.0,
) -> FloatArray:
    """Probability that one pulse switches a junction by spin-transfer torque.

    Thermally activated: ``P = 1 - exp(-width / tau)``, ``tau = tau0 * exp(delta * (1 - V / v_critical)^exponent)``, for
    pulses from `WIDTH_LEAST` on. `error_floor` is the share of pulses that fail however strong they are.

    Parameters
    ----------
    v_junction
        Junction voltage in the switching direction (V); where it is not positive nothing switches.
    width
        Pulse width (s).
    v_critical, delta
        Critical voltage (V) and thermal stability factor of each junction.
    tau0
        Attempt time (s).
    exponent
        Of the barrier (`barrier`).
    """
    probability = switched_within(width, barrier(v_junction, v_critical, delta, exponent), tau0)
    return np.where(v_junction > 0, (1 - error_floor) * probability, 0.0)


def repeated(probability: FloatArray, count: int) -> FloatArray:
    """Probability of at least one success in `count` independent tries."""
    return -np.expm1(count * np.log1p(-np.minimum(probability, 1 - 1e-16)))


@njit(cache=True, nogil=True, error_model="numpy")
def _series_current(
    v: FloatArray,
    r_low: FloatArray,
    tmr: FloatArray,
    v_half: float,
    r_selector: float,
    i: FloatArray,
    slope: FloatArray,
) -> None:
    """Current through junction and selector, and its derivative; arrays ``[block, cell]`` (see `percell.in_blocks`).

    Newton's method on the junction voltage, which lies between zero and that of the low bias resistance, in a bracket.
    """
    for block in range(i.shape[0]):
        v_b, r_b, tmr_b = v[block % v.shape[0]], r_low[block % r_low.shape[0]], tmr[block % tmr.shape[0]]
        for cell in range(v_b.shape[0]):
            size, r, t = abs(v_b[cell]), r_b[cell], tmr_b[cell]
            x = size / (1.0 + r_selector / (r * (1.0 + t)))
            low, high = 0.0, x
            for step in range(STEPS_MAX):
                u2 = (x / v_half) ** 2
                q = 1.0 + u2
                s = q + t
                g = (q * s + 2.0 * u2 * t) / (r * s * s)  # dI/dV of the junction
                too_much = x + r_selector * (x * q / (r * s)) - size
                if too_much > 0.0:
                    high = x
                else:
                    low = x
                moved = x - too_much / (1.0 + r_selector * g)
                if step > STEPS_FREE or not low <= moved <= high:
                    moved = 0.5 * (low + high)
                close = abs(moved - x) <= STEP_SMALL * size
                x = moved
                if close:
                    break
            u2 = (x / v_half) ** 2
            q = 1.0 + u2
            s = q + t
            g = (q * s + 2.0 * u2 * t) / (r * s * s)
            i[block, cell] = np.copysign(x * q / (r * s), v_b[cell])
            slope[block, cell] = g / (1.0 + r_selector * g)
