"""Newton's method for arrays of nonlinear two-terminal devices on resistive lines."""

from __future__ import annotations

import numpy as np

from sim_backends.array import newton_kernels as kernels
from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.line_kernels import PADDING
from sim_backends.array.line_method import ends_of, in_threads, refuse_undetermined, solution_of
from sim_backends.array.network_errors import ConvergenceError
from sim_backends.array.network_problem import Problem, Solution

STEPS_MAX = 80
HALVINGS_MAX = 40
SUFFICIENT = 1e-4  # part of the promised decrease that a step must bring
COARSEST, FINEST = 1e-3, 1e-8  # how exactly the linearised network of a step is solved


def solve(problem: Problem, cells: bool) -> Solution:
    """Solve for nonlinear devices.

    Steps solve the linearised network only as far as they need to be exact, and are halved until Kirchhoff's law is
    violated less than before.

    Raises
    ------
    ConvergenceError
        If the tolerance is not reached.
    """
    return _Newton(problem).run(cells)


class _Newton:
    """State of all problems, ``[problem, 2, row, column + padding]``, and where it stands against Kirchhoff's law."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.count, self.size = problem.count, (problem.count, problem.rows, problem.columns)
        self.wires = np.array([1.0 / problem.lines.r_row, 1.0 / problem.lines.r_column])
        self.ends, self.floats = ends_of(problem)
        shape = (self.count, 2, problem.rows, problem.columns + PADDING)
        self.state, self.moved, self.step, self.left_over = np.zeros((4, *shape))
        self.currents = np.zeros((self.count, 4, self.ends.shape[-1]))
        self.norm, self.rounding, self.largest, self.change = np.zeros((4, self.count))
        if problem.near is not None:
            self.start_near(problem.near)

    def start_near(self, solution: Solution) -> None:
        """Begin with another solution, scaled as the voltages of the terminals are."""
        if solution.state is None or solution.state[0].shape != self.state.shape:
            return
        state, ends = solution.state
        new, old = self.ends[:, :, 1], ends[:, :, 1]
        square = np.einsum("psl,psl->p", old, old)
        scale = np.einsum("psl,psl->p", new, old) / np.where(square > 0, square, 1.0)
        np.multiply(state, scale[:, None, None, None], out=self.state)

    def run(self, cells: bool) -> Solution:
        tolerance = self.problem.tolerance
        length = np.zeros(self.count)
        v, i, slope = self.go(length)
        if self.floats:
            refuse_undetermined(self.problem, (slope > 0).reshape(*self.problem.lead, *self.size[1:]))
        active = self.norm > tolerance * self.largest
        before = np.full(self.count, np.inf)  # largest change of a terminal current by the step before
        for _ in range(STEPS_MAX):
            if not active.any():
                return self.solution(v if cells else None, i if cells else None)
            self.correct(slope, active, before)
            v, i, slope, length = self.advance(active)
            expected = self.change * np.where(before < np.inf, np.minimum(self.change / before, 1.0), 1.0)
            close = (length == 1.0) & (expected <= 0.1 * tolerance * self.largest)
            active = active & ~(close | (self.norm <= tolerance * self.largest))
            before = np.where(length == 1.0, self.change, np.inf)
        worst = int(np.flatnonzero(active)[0])
        raise ConvergenceError(
            f"network {worst}: Newton's method left {self.norm[worst]:.3g} A unbalanced after {STEPS_MAX} steps"
        )

    def go(self, length: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Move a part of the step from the state; voltage, current and slope of all cells there."""
        v = np.empty(self.size)
        kernels.move(self.ends, self.state, self.step, length, self.moved, v)
        i, slope = self.problem.devices.current(v.reshape(*self.problem.lead, *self.size[1:]))
        i, slope = np.ascontiguousarray(i).reshape(self.size), np.ascontiguousarray(slope).reshape(self.size)
        kernels.residuals(
            self.wires, self.ends, i, self.moved, self.left_over, self.norm, self.rounding, self.currents, self.largest
        )
        return v, i, slope

    def correct(self, slope: FloatArray, active: BoolArray, before: FloatArray) -> None:
        """Find the next step, as exactly as the one before was small."""
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.where(before < np.inf, before / self.largest, 1.0)
        reduction = np.clip(1e-2 * relative, FINEST, COARSEST)

        def some(part: slice) -> None:
            failed = kernels.corrections(
                slope[part],
                active[part],
                self.wires,
                self.ends[part],
                self.left_over[part],
                reduction[part],
                self.step[part],
                self.change[part],
            )
            if failed >= 0:
                raise ConvergenceError(f"network {part.start + failed}: the linearised network did not settle")

        in_threads(some, self.count, self.problem.rows * self.problem.columns)

    def advance(self, active: BoolArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Take the step, shortened where needed; returns voltage, current and slope of the cells and the length."""
        length = np.ones(self.count)
        norm = self.norm.copy()
        for _ in range(HALVINGS_MAX):
            v, i, slope = self.go(length)
            enough = np.maximum((1 - SUFFICIENT * length) * norm, self.rounding)
            bad = active & ~(self.norm <= enough)
            if not bad.any():
                break
            length = np.where(bad, length / 2, length)
        self.state, self.moved = self.moved, self.state
        return v, i, slope, length

    def solution(self, v: FloatArray | None, i: FloatArray | None) -> Solution:
        """What was found, with what the next one may start from."""
        found = solution_of(self.problem, self.currents, v, i)
        found.state = (self.state, self.ends)
        return found
