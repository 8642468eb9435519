"""A rack that only counts (`instruments.drivers.rack`): cell by cell, with relays in between.

Every duration is assumed, as said beside it; how many exchanges a request takes is as the drivers have it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from instruments.drivers.rack_sweep import LEAK_POINTS, check_steps
from instruments.roles import limits
from instruments.roles.interfaces import SweptCell
from protocols.plan.counting_bench import CostingTester, Costs

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

#: Another route (s): relays open, then others close, 15 ms each (assumed: reed relays settle in some milliseconds).
RELAYS = 2 * 15e-3
#: A reading (s): each average is 0.1 power line cycles at 50 Hz; settling comes once; assumed.
APERTURE, SETTLING = 2e-3, 0.2e-3
#: A trigger over the bus (s); assumed.
TRIGGER = 1e-3
#: Bytes of a line and its answer, both ways; measured on a run of tio2-moons at a simulated rack.
LINE = 176
#: Exchanges in which a generator is set up for pulses of another sign or width, and in which channels are switched on.
SET_UP, SWITCHED_ON = 6, 4
#: Share of a pulse that arrives at its cell in an 8 x 8 array behind 50 Ohm (docs/rack.md).
ARRIVES = 0.9


class CostingRack(CostingTester):
    """Counts what a rack would do; fills the roles `ArrayTester` and `CellSweeper`."""

    share = ARRIVES
    _route: bytes = b""
    _armed: tuple[float, float, int] | None = None
    _on = False

    def _take_reading(self, chosen: BoolArray, averages: int) -> None:
        """Cell by cell, each over relays of its own."""
        cells = np.argwhere(chosen.T)
        for column, row in cells:
            self._switch(b"read", int(row), int(column))
        self._ask(len(cells) + self._switch_on())
        self._costs.station_time += len(cells) * _reading(averages)

    def _take_shots(self, chosen: BoolArray, volts: float, width: float, count: int, scheme: str | None) -> None:
        """One set of rows after the other; levels alone change in one exchange."""
        groups = {chosen[:, at].tobytes() for at in np.flatnonzero(chosen.any(axis=0))}
        for rows in groups:
            self._switch(b"pulse" + rows + chosen.any(axis=0).tobytes())
            wanted = (float(np.sign(volts)), width, count)
            self._ask(2 if self._armed == wanted else 2 + SET_UP)
            self._armed = wanted
        self._costs.station_time += len(groups) * (TRIGGER + 2 * count * width)

    def _take_products(self, vectors: FloatArray, sensed: int, averages: int) -> None:
        """Line by line: a measurement for each cell and vector, where the line is driven at all."""
        used = [int(np.count_nonzero(vectors[:, at])) for at in range(vectors.shape[1])]
        for at, each in enumerate(used):
            for to in range(sensed if each else 0):
                self._switch(b"product", at, to)
        self._ask(sum(used) * sensed + self._switch_on())
        self._costs.station_time += sum(used) * sensed * _reading(averages)

    # -- curves --------------------------------------------------------------------------------------------------

    def check_sweep(self, voltage: FloatArray, compliance: float, dwell: float) -> None:
        """Refuse a sweep beyond what the rack puts out; its own limit of the compliance is not known here."""
        check_steps(voltage)
        limits.pulse_code(self._caps, float(voltage[-1]))

    def sweep(
        self, kernel: int, row: int, column: int, voltage: FloatArray, *, compliance: float, dwell: float
    ) -> SweptCell:
        """As `CellSweeper.sweep`: the typical cell goes where a long pulse of the highest voltage takes it."""
        self.check_sweep(voltage, compliance, dwell)
        everything = np.ones((self._caps.rows, self._caps.columns), bool)
        self._take_reading(everything, 1)
        chosen = np.zeros_like(everything)
        chosen[row, column] = True
        before = self._conductance(kernel)[row, column]
        peak, steps = float(voltage[-1]), 2 * voltage.size
        self.extremes.pulse_low = min(self.extremes.pulse_low, peak)
        self.extremes.pulse_high = max(self.extremes.pulse_high, peak)
        for route in (b"alone", b"swept", b"alone again"):
            self._switch(route, row, column)
        self._ask(2 * steps + 2 * LEAK_POINTS + 3 * SWITCHED_ON + SET_UP)
        self._costs.station_time += steps * (dwell + _reading(1)) + 2 * LEAK_POINTS * _reading(1)
        self._costs.pulses += 1
        self._costs.pulse_requests += 1
        self._route, self._armed, self._on = b"", None, False
        site = self._prober.touched()
        if site is not None:
            # a sweep is one long pulse to its cell alone: others see what moves none of them
            cells, how = self.cells(site), (peak, steps * dwell, 1, None)
            self._costs.energy += self._typical.pulse(cells, kernel, chosen, *how)
        after = self._conductance(kernel)[row, column]
        return SweptCell(voltage.copy(), np.stack([before * voltage, after * voltage]), False, 0.0)

    # -- rest and safety -----------------------------------------------------------------------------------------

    def check_limits(self) -> None:
        """Both channels are asked for their compliance, where they are on."""
        self._ask(2 * self._on)

    def arm_watchdog(self, timeout: float) -> bool:
        """There is none."""
        return True

    def idle(self, mode: str = "hard_ground") -> None:
        """Everything off, then relays."""
        self._on, self._armed = False, None
        self._ask(2)
        self._switch(mode.encode())

    def last_action(self) -> tuple[int, int]:
        """The mark of the generator."""
        self._ask(1)
        return self._fired, self._fired

    # -- how it is done ------------------------------------------------------------------------------------------

    def _switch(self, *route: bytes | int) -> None:
        """Relays move if the route is another one."""
        wanted = b"/".join(each if isinstance(each, bytes) else str(each).encode() for each in route)
        if wanted != self._route:
            self._route = wanted
            self._ask(1)
            self._costs.station_time += RELAYS

    def _switch_on(self) -> int:
        """Exchanges in which the unit goes on, if it is off."""
        was, self._on = self._on, True
        return 0 if was else SWITCHED_ON

    def _ask(self, exchanges: int) -> None:
        self._costs.board_requests += exchanges
        self._costs.board_bytes += exchanges * LINE

    def _one_exchange(self, request: int, reply: int) -> Costs:
        """A request of a board does not go over this wire: what it takes is counted by the line."""
        return Costs()


def _reading(averages: int) -> float:
    """Seconds of one."""
    return averages * APERTURE + SETTLING
