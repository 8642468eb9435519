"""How the instruments of a rack are wired: outputs on the rows of a switch matrix, pads of the die on its columns.

A closed relay is a wire. Lines that are wired together are a net; a net takes the voltage of what drives it, a net that
nothing drives floats, and the die's network is solved exactly for all of them together. A source measure unit holds its
voltage up to its current limit and is a source of that current beyond it; a pulse generator is a voltage behind its 50
Ohm and whatever resistor is in the line. Two outputs on one net, or an output on ground, are a fault, which is logged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol, Self, cast

import numpy as np
from pydantic import Field, model_validator

from sim_backends.array.devices.interface import FloatArray
from sim_backends.array.files.quantity import OHM, SECOND, Specification
from sim_backends.bench.bench import Bench

GROUND = "ground"
OUTPUTS = ("smu.a", "smu.b", "pulser.1", "pulser.2", GROUND)
MATRIX_ROWS = "ABCDEFGH"
COLUMNS_PER_CARD = 12

_NUDGE = 1e-3  # V; to see how the currents of nets depend on their voltages
_SETTLED = 1e-7  # of the largest current of a net; what a net may be out of balance
_FLOOR = 1e-13  # A; far below what any of the instruments can tell
_STEPS = 40
_REMEMBERED = 256
_WRITES = 0.4  # V; what is below it moves no device (5 standard deviations below the lower threshold): not followed
_LIVE = 0.05  # V; a relay that opens or closes under more than that is switched hot (assumed)

Relay = tuple[int, str, int]
"""Slot, matrix row, matrix column; written ``1A01``."""


SeriesResistance = Annotated[float, OHM.within(0.0, 1e6, example="1 kOhm")]
RelayTime = Annotated[float, SECOND.within(0.0, 10.0, example="15 ms")]


class RackSpec(Specification):
    """What is plugged in where.

    Attributes
    ----------
    rows
        Output on each row of the matrix. A row goes through all slots, by the backplane of the mainframe.
    die_rows, die_columns
        Matrix column of each row and column of the die, as slot and column: ``"103"`` is column 3 of slot 1. By
        default rows on slots 1 and up, columns on the slots after.
    series_resistance
        Resistor in the line of each output of the pulse generator, beside its own 50 Ohm.
    relay_time
        What opening or closing relays takes (assumed).
    """

    rows: Mapping[str, str] = Field(default={"A": "smu.a", "B": "smu.b", "C": "pulser.1", "D": "pulser.2", "H": GROUND})
    die_rows: tuple[str, ...] = ()
    die_columns: tuple[str, ...] = ()
    series_resistance: SeriesResistance = 0.0
    relay_time: RelayTime = 15e-3

    @model_validator(mode="after")
    def _everything_is_plugged_in_once(self) -> Self:
        for row, output in self.rows.items():
            if row not in MATRIX_ROWS or len(row) != 1:
                raise ValueError(f"rows: {row!r} is no row of the matrix; these are {', '.join(MATRIX_ROWS)}")
            if output not in OUTPUTS:
                raise ValueError(f"rows.{row}: {output!r} is none of {', '.join(OUTPUTS)}")
        if len(set(self.rows.values())) != len(self.rows):
            raise ValueError("rows: an output is plugged into two rows")
        pads = (*self.die_rows, *self.die_columns)
        if bad := [pad for pad in pads if not re.fullmatch(r"[1-6](0[1-9]|1[0-2])", pad)]:
            raise ValueError(f"die_rows, die_columns: {bad[0]!r} is no slot 1 to 6 and column 01 to 12, such as '103'")
        if len(set(pads)) != len(pads):
            raise ValueError("die_rows, die_columns: two pads on one column of the matrix")
        return self

    def for_die(self, rows: int, columns: int) -> RackSpec:
        """The same with a matrix column for every line of a die.

        Raises
        ------
        ValueError
            If the matrix has not so many, or others are given.
        """
        first = math.ceil(rows / COLUMNS_PER_CARD)
        die_rows = self.die_rows or _pads(1, rows)
        die_columns = self.die_columns or _pads(1 + first, columns)
        if (len(die_rows), len(die_columns)) != (rows, columns):
            raise ValueError(f"rack: pads for {len(die_rows)} rows and {len(die_columns)} columns; the die has {rows} "
                             f"and {columns}")  # fmt: skip
        if any(pad[0] not in "123456" or len(pad) > 3 for pad in (*die_rows, *die_columns)):
            raise ValueError(f"rack: {rows} rows and {columns} columns take more than the six slots of the matrix")
        return self.model_copy(update={"die_rows": die_rows, "die_columns": die_columns})

    @property
    def slots(self) -> int:
        """Slots that hold a card."""
        return max(int(pad[0]) for pad in (*self.die_rows, *self.die_columns))


def _pads(slot: int, lines: int) -> tuple[str, ...]:
    return tuple(f"{slot + at // COLUMNS_PER_CARD}{1 + at % COLUMNS_PER_CARD:02d}" for at in range(lines))


class Cells(Protocol):
    """What of the cells of a die the wiring looks at."""

    @property
    def conductance(self) -> FloatArray:
        """``[row, column]`` (S)."""


class Die(Protocol):
    """A die without gates that is driven by its terminals (`sim_backends.array.dies.passive_die`)."""

    @property
    def devices(self) -> Cells:
        """The cells in the state they are in."""

    def terminal_currents(self, rows: FloatArray, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current (A) from each source into its line at line voltages ``[..., line]`` (V), NaN where one floats."""

    def pulse_terminals(
        self, rows: FloatArray, columns: FloatArray, width: float, rng: np.random.Generator, count: int = 1
    ) -> FloatArray:
        """Hold voltages at the lines for a while; the largest magnitude that each cell saw, ``[row, column]`` (V)."""

    def cell_noise(self, kernel: int, of_board: float) -> FloatArray:
        """Noise of a reading of each cell, relative, ``[row, column]``."""

    def noise(self, kernel: int) -> np.random.Generator:
        """The noise of the next operation."""


@dataclass(frozen=True)
class Output:
    """What an output does at a moment.

    Attributes
    ----------
    voltage
        Without a load (V); of a source of current its largest, either sign.
    resistance
        In series with it (Ohm).
    limit
        Largest current, either sign (A).
    current
        Of a source of current (A); None: a source of voltage.
    on
        Whether it is switched on. One that is off may still hold its line.
    """

    voltage: float = 0.0
    resistance: float = 0.0
    limit: float = math.inf
    current: float | None = None
    on: bool = True


@dataclass
class Net:
    """Lines and outputs that relays tie together."""

    outputs: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Operation:
    """Everything at one moment.

    Attributes
    ----------
    current, voltage
        Out of each output into the rack (A), and at it (V).
    limited
        Outputs that do not reach what they are set to.
    rows, columns
        Voltage at the pad of each line of the die (V); NaN where it floats.
    """

    current: Mapping[str, float]
    voltage: Mapping[str, float]
    limited: frozenset[str]
    rows: FloatArray
    columns: FloatArray

    @property
    def across(self) -> FloatArray:
        """Column minus row pad, ``[row, column]`` (V); 0 where one of them floats."""
        return np.nan_to_num(self.columns[None, :] - self.rows[:, None])


class RackWiring:
    """The cables between instruments, matrix and needles.

    Parameters
    ----------
    bench
        What the needles touch.
    spec
        What is plugged in where, for the die of the bench (`RackSpec.for_die`).
    """

    def __init__(self, bench: Bench, spec: RackSpec) -> None:
        self.bench = bench
        self.spec = spec
        self.closed: frozenset[Relay] = frozenset()
        self._outputs: dict[str, Output] = {GROUND: Output(on=False)}
        self._overload: dict[str, Callable[[], None]] = {}
        self._tied: frozenset[tuple[str, ...]] = frozenset()
        self.drops: dict[object, FloatArray] = {}  # of the nets that were not held when they were last looked at (V)
        self._wired: tuple[tuple[frozenset[Relay], tuple[str, ...]], list[Net]] | None = None
        self._standing: tuple[Die | None, frozenset[Relay], dict[str, Output], Operation] | None = None
        self._row_of = {output: row for row, output in spec.rows.items()}
        self._pads = {("row", at): (int(pad[0]), int(pad[1:])) for at, pad in enumerate(spec.die_rows)} | {
            ("column", at): (int(pad[0]), int(pad[1:])) for at, pad in enumerate(spec.die_columns)
        }

    def attach(self, name: str, overload: Callable[[], None] = lambda: None) -> None:
        """Plug in an output; `overload` is called when it is driven against."""
        self._overload[name] = overload

    # -- what changes --------------------------------------------------------------------------------------------

    def put_out(self, name: str, output: Output | None, why: str) -> None:
        """Change what an output does; None: it is disconnected inside of its instrument."""
        with self.bench.lock:
            if output is None:
                self._outputs.pop(name, None)
            else:
                self._outputs[name] = output
            self._changed(why)

    def switch(self, closed: Iterable[Relay], why: str) -> None:
        """Have these relays closed and all others open."""
        with self.bench.lock:
            now = frozenset(closed)
            moved = now ^ self.closed
            if not moved:
                return
            if live := self._live(moved):
                self.bench.note("hot_switch", relays=sorted(map(relay_name, live)))
            self.closed = now
            self.bench.clock.advance(self.spec.relay_time)
            self._changed(why)

    def _live(self, moved: Iterable[Relay]) -> list[Relay]:
        """Relays on the row of an output that is on at more than a few millivolts."""
        loud = {
            self._row_of[name]
            for name, each in self._outputs.items()
            if name in self._row_of and each.on and (abs(each.voltage) > _LIVE or each.current)
        }
        return [relay for relay in moved if relay[1] in loud]

    def _changed(self, why: str) -> None:
        """Look for outputs that work against each other, and tell the bench how the lines are held."""
        tied = frozenset(tuple(sorted(net.outputs)) for net in self._nets() if self._fights(net))
        for outputs in sorted(tied - self._tied):
            volts = {name: self._outputs[name].voltage for name in outputs}
            self.bench.note("damage", kind="tied", outputs=list(outputs), volts=volts)
            self.bench.log.flush()
        new = {name for outputs in tied - self._tied for name in outputs}
        self._tied = tied
        self.bench.set_outputs(self._mode(), why)
        for name in sorted(new):
            self._overload.get(name, lambda: None)()

    def _fights(self, net: Net) -> bool:
        on = [name for name in net.outputs if self._outputs[name].on]
        return bool(on) and len(on) + (GROUND in net.outputs) > 1

    def _mode(self) -> str:
        if any(output.on for output in self._outputs.values()):
            return "driven"
        grounded = [net for net in self._nets() if GROUND in net.outputs]
        held = sum(len(net.rows) + len(net.columns) for net in grounded)
        return "hard_ground" if held == len(self._pads) else "float"

    # -- who is wired to whom ------------------------------------------------------------------------------------

    def _nets(self) -> list[Net]:
        """All nets with an output or a line of the die; nobody changes them."""
        key = self.closed, tuple(self._outputs)
        if self._wired is None or self._wired[0] != key:
            self._wired = key, self._nets_of(*key)
        return self._wired[1]

    def _nets_of(self, closed: frozenset[Relay], outputs: tuple[str, ...]) -> list[Net]:
        """What relays tie together, with the outputs that are there."""
        parent: dict[object, object] = {}

        def root(node: object) -> object:
            while (above := parent.setdefault(node, node)) != node:
                node = above
            return node

        for slot, row, column in closed:
            parent[root(row)] = root((slot, column))
        nets: dict[object, Net] = {}
        for name in outputs:
            if name in self._row_of:
                nets.setdefault(root(self._row_of[name]), Net()).outputs.append(name)
        for (side, at), pad in self._pads.items():
            net = nets.setdefault(root(pad), Net())
            (net.rows if side == "row" else net.columns).append(at)
        return list(nets.values())

    # -- what flows ----------------------------------------------------------------------------------------------

    def operate(self, changed: Mapping[str, Output] | None = None) -> Operation:
        """Voltages and currents as everything stands, or with some outputs `changed`."""
        with self.bench.lock:
            outputs, die = self._outputs | dict(changed or {}), self._die()
            if self._standing is not None:
                of_die, closed, before, operation = self._standing
                if of_die is die and closed == self.closed and before == outputs:
                    return operation
            operation = _Circuit(self, die, self._nets(), outputs).operate()
            self._standing = die, self.closed, outputs, operation
            return operation

    def _act(self, die: Die, now: Operation, seconds: float) -> FloatArray:
        """Hold the die as it is now for a while; what each cell saw. Its currents are others after that."""
        self._standing = None
        return die.pulse_terminals(now.rows, now.columns, seconds, die.noise(0))

    def _die(self) -> Die | None:
        return cast("Die | None", self.bench.touched())

    def measure(self, name: str) -> tuple[float, float, bool]:
        """Current out of an output (A) with the noise of the die's cells, voltage at it (V), whether it is limited."""
        with self.bench.lock:
            now = self.operate()
            current = now.current.get(name, 0.0)
            die = self._die()
            if die is not None and current:
                current += self._deviation(die, name, now) * float(die.noise(0).standard_normal())
            return current, now.voltage.get(name, 0.0), name in now.limited

    def _deviation(self, die: Die, name: str, now: Operation) -> float:
        """Standard deviation (A) of the current of an output: that of the cells on the lines that it holds.

        Resistance of the lines is left out of it: it changes the noise by a few percent.
        """
        for net in self._nets():
            if name in net.outputs:
                of_cell = die.cell_noise(0, 0.0) * die.devices.conductance * now.across
                held = np.zeros(of_cell.shape, dtype=bool)
                held[net.rows, :] ^= True
                held[:, net.columns] ^= True  # a cell between two lines of the net carries nothing out of it
                return float(np.sqrt(np.sum(of_cell[held] ** 2)))
        return 0.0

    # -- what it does to the die ---------------------------------------------------------------------------------

    def dwell(self, seconds: float) -> None:
        """Let a time pass with everything as it stands: a voltage beyond a threshold acts all the while."""
        with self.bench.lock:
            self.bench.clock.advance(seconds)
            die = self._die()
            if die is None or not any(each.on and (each.voltage or each.current) for each in self._outputs.values()):
                return
            now = self.operate()
            if np.abs(now.across).max() > _WRITES:
                seen = self._act(die, now, seconds)
                self._note_stress("dwell", now, seen, seconds, 1, {})

    def pulse(
        self,
        volts: Mapping[str, float],
        seconds: float,
        count: int,
        details: Mapping[str, object],
        *,
        together: int = 1,
    ) -> None:
        """Put outputs to other voltages for a while, `count` times in a row.

        Parameters
        ----------
        volts
            Voltage without load of each output that moves (V).
        seconds, count
            Length of one pulse (s), and how many.
        details
            For the log.
        together
            Pulses that follow one another and act as one that is as long as all of them: for bursts that are too long
            to be followed one by one. The dose of a cell is in proportion to the time (`array.devices`); its voltage
            and its spread from cycle to cycle are taken to stay the same for all of these.
        """
        with self.bench.lock:
            outputs = {name: replace(self._outputs[name], voltage=v) for name, v in volts.items()}
            die = self._die()
            now = self.operate(outputs)
            seen = np.zeros(now.across.shape)
            if die is not None:
                for shot in range(count):
                    now = self.operate(outputs) if shot else now
                    seen = np.maximum(seen, self._act(die, now, seconds * together))
            self._note_stress("pulse", now, seen, seconds, count * together, details)

    def _note_stress(
        self, what: str, now: Operation, seen: FloatArray, seconds: float, count: int, details: Mapping[str, object]
    ) -> None:
        row, column = (int(at) for at in np.unravel_index(seen.argmax(), seen.shape))
        sign = 1.0 if now.across[row, column] >= 0 else -1.0
        v = sign * float(seen[row, column])
        self.bench.note(what, cell=[row, column], v=v, width_s=seconds, count=count, **details)


class _Circuit:
    """One state of the rack, to be solved: which net is held at a voltage, which carries a current, which floats."""

    def __init__(self, wiring: RackWiring, die: Die | None, nets: list[Net], outputs: Mapping[str, Output]) -> None:
        self._wiring, self._die, self._outputs = wiring, die, outputs
        self._nets = [net for net in nets if net.rows or net.columns]
        self._apart = [net for net in nets if not (net.rows or net.columns)]
        self._driver = [_driver(net, outputs) for net in self._nets]
        self._held: dict[int, float] = {}  # net -> V
        self._given: dict[int, float] = {}  # net -> A into the die
        self._soft: dict[int, Output] = {}  # net -> voltage behind a resistance
        for at, net in enumerate(self._nets):
            self._begin(at, net)

    def _begin(self, at: int, net: Net) -> None:
        name = self._driver[at]
        if name is None:
            if len(net.rows) + len(net.columns) > 1:
                self._given[at] = 0.0
            return
        output = self._outputs[name]
        if output.current is not None:
            self._given[at] = output.current
        elif output.resistance:
            self._soft[at] = output
        else:
            self._held[at] = output.voltage

    def operate(self) -> Operation:
        """Solve, and let what is beyond its limit be limited, until nothing changes."""
        limited: set[int] = set()
        if not self._held and not self._soft:  # no net says where zero is
            for at in [at for at, amperes in self._given.items() if amperes]:
                self._hold_at_compliance(at, limited)
        for _ in range(_STEPS):
            v, into = self._solved()
            if not self._limit(v, into, limited):
                break
        return self._told(v, into, limited)

    def _limit(self, v: FloatArray, into: FloatArray, limited: set[int]) -> bool:
        """Turn sources over that are beyond a limit, or no longer; whether there were any."""
        turned = self._limit_worst(into, limited)
        for at, name in enumerate(self._driver):
            if name is None:
                continue
            output = self._outputs[name]
            if output.current is None:
                if not turned and at in limited and (output.voltage - v[at]) * self._given[at] < 0:
                    self._held[at] = output.voltage
                    del self._given[at]
                    limited.discard(at)
                    turned = True
            elif at in self._given and abs(v[at]) > output.voltage * (1 + 1e-9):
                self._hold_at_compliance(at, limited)
                turned = True
        return turned

    def _limit_worst(self, into: FloatArray, limited: set[int]) -> bool:
        """Limit the current of the source that is furthest beyond its limit; whether one was.

        One at a time: of two units in series the one with the lower limit gives it, the other one holds its voltage.
        """
        outputs = {at: self._outputs[self._driver[at] or GROUND] for at in self._held}
        beyond = {at: abs(into[at]) / output.limit for at, output in outputs.items() if output.current is None}
        worst = max(beyond, key=lambda at: beyond[at], default=-1)
        if worst < 0 or not beyond[worst] > 1 + 10 * _SETTLED:
            return False
        self._given[worst] = math.copysign(outputs[worst].limit, into[worst])
        del self._held[worst]
        if not self._held and not self._soft and limited:  # some net must say where zero is
            again = max(limited, key=lambda at: self._outputs[self._driver[at] or GROUND].limit)
            self._held[again] = self._outputs[self._driver[again] or GROUND].voltage
            self._given.pop(again)
            limited.discard(again)
        limited.add(worst)
        return True

    def _hold_at_compliance(self, at: int, limited: set[int]) -> None:
        output = self._outputs[self._driver[at] or GROUND]
        self._held[at] = math.copysign(output.voltage, self._given.pop(at))
        limited.add(at)

    def _solved(self) -> tuple[FloatArray, FloatArray]:
        """Voltage of each net, NaN where it floats, and current of each into the die."""
        v = np.full(len(self._nets), np.nan)
        for at, volts in self._held.items():
            v[at] = volts
        if self._die is None or not (self._held or self._soft):
            for at, output in self._soft.items():
                v[at] = output.voltage
            return v, np.zeros(v.size)
        unknown = sorted((*self._given, *self._soft))
        return self._balanced(self._die, v, unknown) if unknown else (v, self._currents(self._die, v[None])[0])

    def _balanced(self, die: Die, v: FloatArray, unknown: list[int]) -> tuple[FloatArray, FloatArray]:
        """Newton's method for the nets that are not held: what flows out of each source is what flows into the die.

        It begins with the drops of the last time that these nets were looked at. The slopes of the die are taken in one
        go with its currents: of a small die, several networks take no longer than one.
        """
        drops, key = self._wiring.drops, (tuple(map(_net_key, self._nets)), tuple(unknown))
        idle = np.array([self._soft[at].voltage if at in self._soft else 0.0 for at in unknown])
        v[unknown] = idle - drops.get(key, 0.0)
        for _ in range(_STEPS):
            looks = np.repeat(v[None], 1 + len(unknown), axis=0)
            looks[1 + np.arange(len(unknown)), unknown] += _NUDGE
            into = self._currents(die, looks)
            missing = np.stack([self._missing(*each, unknown) for each in zip(looks, into, strict=True)])
            largest = float(np.abs(missing[0]).max())
            if largest <= _FLOOR + _SETTLED * float(np.abs(into[0]).max()):
                drops[key] = idle - v[unknown]
                if len(drops) > _REMEMBERED:
                    del drops[next(iter(drops))]
                return v, into[0]
            v[unknown] -= np.linalg.solve((missing[1:] - missing[0]).T / _NUDGE, missing[0])
        raise RuntimeError(f"the nets of the rack are {largest:.3g} A out of balance after {_STEPS} steps")

    def _missing(self, v: FloatArray, into: FloatArray, unknown: list[int]) -> FloatArray:
        """What flows into the die at each net beyond what its source gives (A)."""
        given = [
            (self._soft[at].voltage - v[at]) / self._soft[at].resistance if at in self._soft else self._given[at]
            for at in unknown
        ]
        return into[unknown] - np.array(given)

    def _currents(self, die: Die, v: FloatArray) -> FloatArray:
        """Current of each net into the die, ``[n, net]`` (A), at net voltages ``[n, net]`` (V)."""
        i_row, i_column = die.terminal_currents(*self._lines(v))
        into = [i_row[:, n.rows].sum(axis=1) + i_column[:, n.columns].sum(axis=1) for n in self._nets]
        return np.stack(into, axis=1)

    def _lines(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Voltage of each row and column of the die, ``[..., line]``, at net voltages ``[..., net]``."""
        spec = self._wiring.spec
        rows, columns = (np.full((*v.shape[:-1], len(pads)), np.nan) for pads in (spec.die_rows, spec.die_columns))
        for at, net in enumerate(self._nets):
            rows[..., net.rows] = v[..., at, None]
            columns[..., net.columns] = v[..., at, None]
        return rows, columns

    def _told(self, v: FloatArray, into: FloatArray, limited: set[int]) -> Operation:
        """What it means for each output."""
        current = dict.fromkeys(self._outputs, 0.0)
        voltage = {name: 0.0 if each.current is not None else each.voltage for name, each in self._outputs.items()}
        names = {self._driver[at] or GROUND for at in limited}
        for at, net in enumerate(self._nets):
            others = [name for name in net.outputs if name != self._driver[at]]
            if (driver := self._driver[at]) is None:
                continue
            against = {name: _against(self._outputs[name], float(v[at])) for name in others}
            current |= against
            current[driver] = float(into[at]) - sum(against.values())
            voltage |= dict.fromkeys(net.outputs, float(v[at]))
            names |= {name for name in net.outputs if len(net.outputs) > 1 and self._outputs[name].on}
        for net in self._apart:
            self._tell_apart(net, current, voltage, names)
        return Operation(current, voltage, frozenset(names), *self._lines(v))

    def _tell_apart(self, net: Net, current: dict[str, float], voltage: dict[str, float], names: set[str]) -> None:
        """A net without a line of the die: nothing flows but between its own outputs."""
        driver = _driver(net, self._outputs)
        if driver is None:
            return
        output = self._outputs[driver]
        v = output.voltage if output.current is None else math.copysign(output.voltage, output.current)
        if output.current:
            names.add(driver)
        for name in net.outputs:
            voltage[name] = v
            if name != driver:
                current[name] = _against(self._outputs[name], v)
                current[driver] -= current[name]
                names |= {each for each in net.outputs if self._outputs[each].on}


def _driver(net: Net, outputs: Mapping[str, Output]) -> str | None:
    """The output that a net follows: ground before all, then what is on and stiff, then what is on, then the rest."""

    def rank(name: str) -> tuple[bool, bool, bool, bool]:
        each = outputs[name]
        return (name != GROUND, not each.on, each.current is not None, each.resistance > 0)

    return min(net.outputs, key=rank, default=None)


def _against(output: Output, v: float) -> float:
    """Current (A) out of an output onto a net that another one holds at `v`."""
    if output.current is not None:
        return output.current
    if output.resistance:
        return (output.voltage - v) / output.resistance
    return 0.0 if output.voltage == v else math.copysign(output.limit, output.voltage - v)


def _net_key(net: Net) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(net.rows), tuple(net.columns)


def relay_name(relay: Relay) -> str:
    """A relay as the matrix writes it."""
    slot, row, column = relay
    return f"{slot}{row}{column:02d}"
