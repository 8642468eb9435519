"""Newton's method for arrays of nonlinear devices on resistive lines."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.solver import newton_kernels as kernels
from sim_backends.array.solver.determined import LEAST_VOLTS, ever_conducting, refuse_undetermined, still_conducting
from sim_backends.array.solver.errors import ADVICE, ConvergenceError, NetworkError
from sim_backends.array.solver.line_kernels import PADDING
from sim_backends.array.solver.line_method import ends_of
from sim_backends.array.solver.problem import Problem, Solution
from sim_backends.array.solver.scratch import in_threads, line_scratch, newton_scratch, one_newton_scratch

STEPS_MAX = 80
HALVINGS_MAX = 40
SUFFICIENT = 1e-4  # part of the promised decrease that a step must bring
Slopes = tuple[FloatArray, ...]  # one, or by the row and the column node of cells with a third terminal
COARSEST, FINEST = 1e-3, 1e-9  # how exactly the linearised network of a step is solved


def solve(problem: Problem, cells: bool) -> Solution:
    """Solve for nonlinear devices.

    Steps solve the linearised network only as far as they need to be exact, and are halved until Kirchhoff's law is
    violated less than before.

    Raises
    ------
    ConvergenceError
        If the tolerance is not reached.
    """
    newton = _Newton(problem)
    law = getattr(problem.devices, "sinh_law", None)
    if law is not None and not newton.floats:
        return newton.run_compiled(law, cells)
    return newton.run(cells)


class _Newton:
    """State of all problems, ``[problem, 2, row, column + padding]``, and where it stands against Kirchhoff's law."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.count, self.size = problem.count, (problem.count, problem.rows, problem.columns)
        self.shape = (*problem.lead, problem.rows, problem.columns)
        self.wires = np.array([1.0 / problem.lines.r_row, 1.0 / problem.lines.r_column])
        self.ends, self.floats = ends_of(problem)
        self.gated = getattr(problem.devices, "gated", False)
        self.state = np.zeros((self.count, 2, problem.rows, problem.columns + PADDING))
        self.currents = np.zeros((self.count, 4, self.ends.shape[-1]))
        if problem.near is not None:
            self.start_near(problem.near)
            problem.near = None  # else every solution would keep all that came before it

    def start_near(self, solution: Solution) -> None:
        """Begin with another solution, scaled as the voltages of the terminals are."""
        if solution.state is not None and solution.state[0].shape == self.state.shape:
            kernels.scale_state(*solution.state, self.ends, self.state)

    def run(self, cells: bool) -> Solution:
        tolerance = self.problem.tolerance
        self.moved = np.zeros_like(self.state)
        self.step, self.left_over = newton_scratch(*self.size)
        self.norm, self.rounding, self.largest = np.zeros((3, self.count))
        length = np.zeros(self.count)
        v, i, slopes = self.go(length)
        if self.floats:
            self.refuse_flat(slopes)
        done = np.zeros(self.count, dtype=bool)
        balance = (self.norm, self.rounding, self.largest, tolerance)
        kernels.settle(*balance, done)
        active = ~done
        if cells and not active.all():
            active |= ~self.held()
        moved_before = np.full(self.count, np.inf)  # cell voltages, by the last step
        steps = 0
        while active.any():
            if steps == STEPS_MAX:
                raise self.unsettled(active)
            steps += 1
            self.correct(slopes, active)
            v, i, slopes, length = self.advance(active)
            self.centre()
            kernels.settle(*balance, done)
            if cells and (self.floats or done.any()) and not (held := self.held()).all():
                moved, whole = self.largest_move(), length == 1.0
                done &= whole & (_still_to_come(moved, moved_before) <= 0.1 * tolerance * self.voltage_scales[0]) | held
                moved_before = np.where(whole, moved, np.inf)
            active &= ~done
        self.refuse_undetermined(i, *slopes)
        self.problem.refuse_beyond(v)
        return self.solution(v if cells else None, i if cells else None)

    def refuse_undetermined(self, *found: FloatArray) -> None:
        """Refuse lines without a source that no cell holds in the solution, by its current and slopes."""
        if self.floats:
            _, *at_rest = self.law(*np.zeros((2, *self.size)))
            conduct = still_conducting(self.law, self.nodes(), self.problem.floating(), found, at_rest)
            refuse_undetermined(self.problem, *(cells.reshape(self.shape) for cells in conduct))

    def nodes(self) -> tuple[FloatArray, FloatArray]:
        """Voltages of the row node and of the column node at every cell."""
        v_row, v_column = np.empty((2, *self.size))
        kernels.node_voltages(self.ends, self.state, v_row, v_column)
        return v_row, v_column

    def refuse_flat(self, slopes: Slopes) -> None:
        """Refuse open cells before the first step; where laws are flat only there, leave it to another method."""
        try:
            refuse_undetermined(self.problem, *((slopes[k] > 0).reshape(self.shape) for k in (0, -1)))
        except NetworkError:
            volts = np.maximum(self.problem.highest(), LEAST_VOLTS)[:, None, None]
            able, _ = ever_conducting(self.law, np.broadcast_to(volts, self.size))
            refuse_undetermined(self.problem, *2 * (able.reshape(self.shape),))
            raise ConvergenceError(f"nothing holds a line where Newton's method begins; {ADVICE}") from None

    def centre(self, on_themselves: bool = True) -> None:
        """Count the nodes of lines without a source from the line's own middle, or from zero again.

        Far from zero the small drops along good wires would lose their digits.
        """
        if self.floats:
            kernels.centre(self.ends, self.state, on_themselves)

    def unsettled(self, wrong: BoolArray) -> ConvergenceError:
        """The error for problems of which too much of Kirchhoff's law is left."""
        first = int(np.flatnonzero(wrong)[0])
        return ConvergenceError(
            f"network {first}: Newton's method leaves {self.norm[first]:.3g} A unbalanced, of a largest terminal "
            f"current of {self.largest[first]:.3g} A; {ADVICE}"
        )

    def run_compiled(self, law: tuple[FloatArray, FloatArray], cells: bool) -> Solution:
        """As `run`, for devices that say that their current is ``g sinh(alpha v) / alpha``, ``[..., row, column]``."""
        shape, (g, alpha) = (*self.problem.lead, *self.size[1:]), law
        if g.ndim > 2:
            g, alpha = (_for_kernels(x, shape).reshape(self.size) for x in (g, alpha))
        else:
            g, alpha = (_for_kernels(x, x.shape)[None] for x in (g, alpha))
        v, i = np.empty(self.size), np.empty(self.size)
        limits = np.array([COARSEST, FINEST, SUFFICIENT, STEPS_MAX, HALVINGS_MAX], dtype=np.float64)

        def some(part: slice) -> None:
            own = slice(None) if len(g) == 1 else part
            step, moved, left_over = one_newton_scratch(*self.size[1:])
            failed = kernels.solve_sinh(
                g[own],
                alpha[own],
                self.wires,
                self.ends[part],
                self.state[part],
                self.problem.tolerance,
                limits,
                cells,
                v[part],
                i[part],
                self.currents[part],
                step,
                moved,
                left_over,
                *line_scratch(*self.size[1:]),
            )
            if failed >= 0:
                raise ConvergenceError(f"network {part.start + failed}: Newton's method did not settle; {ADVICE}")

        in_threads(some, self.count, self.size[1] * self.size[2])
        return self.solution(v if cells else None, i if cells else None)

    def held(self) -> BoolArray:
        """Whether cell voltages are exact too, as far as the resistance of lines that all have a source tells."""
        span, resistance = self.voltage_scales
        return self.norm <= self.problem.tolerance * span / resistance

    @cached_property
    def voltage_scales(self) -> tuple[FloatArray, FloatArray]:
        """Span of the sources' voltages (V) and largest resistance of a line with its source (Ohm), ``[problem]``."""
        span, resistance = np.empty((2, self.count))
        kernels.voltage_scales(self.ends, self.wires, *self.size[1:], span, resistance)
        return span, resistance

    def largest_move(self) -> FloatArray:
        """Largest change of a cell voltage by the last step of each problem (V)."""
        columns = self.size[2]
        return np.abs(self.step[:, 0, :, :columns] - self.step[:, 1, :, :columns]).max(axis=(1, 2))

    def go(self, length: FloatArray) -> tuple[FloatArray, FloatArray, Slopes]:
        """Move a part of the step from the state; voltage, current and slopes of all cells there."""
        v = np.empty(self.size)
        cells = self.size[1] * self.size[2]
        place = (self.ends, self.state, self.step, length, self.moved, v)
        in_threads(lambda part: kernels.move(*(x[part] for x in place)), self.count, cells)
        i, *slopes = self.conducted(v)
        found = (self.left_over, self.norm, self.rounding, self.currents, self.largest)
        given = (self.ends, i, self.moved)
        in_threads(
            lambda part: kernels.residuals(self.wires, *(x[part] for x in given), *(x[part] for x in found)),
            self.count,
            cells,
        )
        return v, i, tuple(slopes)

    def conducted(self, v: FloatArray) -> tuple[FloatArray, ...]:
        """Current and slope of the cells, or the slopes by both nodes of cells with a third terminal."""
        if not self.gated:
            return self.law(v)
        v_row, v_column = np.empty((2, *self.size))
        kernels.node_voltages(self.ends, self.moved, v_row, v_column)
        return self.law(v_row, v_column)

    def law(self, v_row: FloatArray, v_column: FloatArray | None = None) -> tuple[FloatArray, ...]:
        """What the devices say at voltages of nodes, or of cells; ``[problem, row, column]``."""
        if self.gated and v_column is not None:
            results = self.problem.devices.current(v_row.reshape(self.shape), v_column.reshape(self.shape))
        else:
            v = v_row if v_column is None else v_row - v_column
            results = self.problem.devices.current(v.reshape(self.shape))
        return tuple(self.per_problem(x) for x in results)

    def per_problem(self, x: FloatArray) -> FloatArray:
        """``[problem, row, column]``."""
        return _for_kernels(x, self.shape).reshape(self.size)

    def correct(self, slopes: Slopes, active: BoolArray) -> None:
        """Find the next step, as exactly as it is worth."""
        reduction = np.empty(self.count)
        kernels.plan_step(self.norm, self.largest, self.problem.tolerance, COARSEST, FINEST, reduction)
        find = kernels.gated_corrections if self.gated else kernels.corrections

        def some(part: slice) -> None:
            failed = find(
                *(slope[part] for slope in slopes),
                active[part],
                self.wires,
                self.ends[part],
                self.left_over[part],
                reduction[part],
                self.step[part],
                *line_scratch(*self.size[1:]),
            )
            if failed >= 0:
                raise ConvergenceError(
                    f"network {part.start + failed}: the linearised network did not settle; {ADVICE}"
                )

        in_threads(some, self.count, self.problem.rows * self.problem.columns)

    def advance(self, active: BoolArray) -> tuple[FloatArray, FloatArray, Slopes, FloatArray]:
        """Take the step, shortened where needed; returns voltage, current and slopes of the cells and the length."""
        length = np.ones(self.count)
        before = self.norm.copy()
        for _ in range(HALVINGS_MAX):
            v, i, slopes = self.go(length)
            if not kernels.shorten(
                active, before, self.norm, self.rounding, self.largest, self.problem.tolerance, SUFFICIENT, length
            ):
                break
        self.state, self.moved = self.moved, self.state
        enough = np.maximum(self.problem.tolerance * self.largest, self.rounding)
        stuck = active & ~(self.norm < before) & ~(self.norm <= enough)
        if stuck.any():  # no step makes it better: what is left is rounding, or no solution is near
            raise self.unsettled(stuck)
        return v, i, slopes, length

    def solution(self, v: FloatArray | None, i: FloatArray | None) -> Solution:
        """What was found, with what the next one may start from."""
        found = Solution(self.problem, self.currents, v, None if i is None else np.array(i))
        self.centre(False)
        found.state = (self.state, self.ends)
        return found


def _for_kernels(x: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """In a shape, contiguous and writable: for read-only arrays numba would compile the kernels anew, for seconds."""
    return np.require(x if x.shape == shape else np.broadcast_to(x, shape), requirements=("C", "W", "E"))


def _still_to_come(change: FloatArray, before: FloatArray) -> FloatArray:
    """What the next step would change, after this one and the one `before` (infinite: not known)."""
    shrink = np.divide(change, before, out=np.ones_like(change), where=(before > 0) & (before < np.inf))
    return change * np.minimum(shrink, 1.0)
