"""One side of `solver.py`, in a process and an interpreter of its own: solves what it is asked, says what it took.

    python solver_sides.py xbarlab | badcrossbar | crosssim

Asked in lines of JSON on the standard input, it answers in lines of JSON on the standard output; the first says what it
is. A question names a problem (``.npz``: conductances ``g [M, N]`` in S, vectors ``v [K, M]`` in V, `r` in ohm per
segment, `alpha` in 1/V, zero for linear devices), a way of calling, and how long to go on. Rows are driven at the left
and columns grounded at the bottom, each through one segment. The answer is the median time of a call, from conductances
to the currents of all columns; they are written to a file if the question names one. Arrays travel as ``.npz``.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Call = Callable[[], Any]  # gives the currents [K, N] in A


class Problem(NamedTuple):
    """What is to be solved."""

    g: Any
    v: Any
    r: float
    alpha: float


class Xbarlab:
    """Ours, at its own tolerance of 1e-9."""

    packages = ("xbarlab", "numpy", "scipy", "numba")

    def __init__(self) -> None:
        from sim_backends.array.solver.network import Lines, solve

        self._lines, self._solve = Lines, solve

    def call(self, problem: Problem, way: dict[str, Any]) -> Call:
        """A solution from the conductances, one vector or all of them at once."""
        lines = self._lines(r_row=problem.r, r_column=problem.r)
        cells = self._devices(problem)
        left = problem.v[0] if len(problem.v) == 1 else problem.v
        return lambda: np.atleast_2d(self._solve(cells, left=left, bottom=0.0, lines=lines).i_bottom)

    @staticmethod
    def _devices(problem: Problem) -> Any:
        if not problem.alpha:
            return problem.g
        from sim_backends.array.devices.conduction import Sinh

        return Sinh(problem.g, problem.alpha)


class Badcrossbar:
    """A direct solution by scipy; only the currents of the columns are asked for."""

    packages = ("badcrossbar", "numpy", "scipy")

    def __init__(self) -> None:
        import logging
        import warnings

        import badcrossbar

        self._compute = badcrossbar.compute
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")

    def call(self, problem: Problem, way: dict[str, Any]) -> Call:
        """All vectors at once."""
        if problem.alpha:
            raise NotImplementedError("badcrossbar has linear devices only")
        volts = np.ascontiguousarray(problem.v.T)
        wires = {"r_i_word_line": problem.r, "r_i_bit_line": problem.r}
        only = {"node_voltages": False, "all_currents": False}
        return lambda: self._compute(volts, 1.0 / problem.g, **wires, **only).currents.output


class SinhNormalised:
    """The device model that CrossSim asks for: currents of normalised conductances and voltages."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha  # per unit of normalised voltage

    def nonlinear_current(self, g: Any, v: Any) -> Any:
        """Of cells ``g [N, M]`` at ``v [N, M, ...]``."""
        return g[(..., *(None,) * (v.ndim - g.ndim))] * np.sinh(self.alpha * v) / self.alpha


class CrossSim:
    """Its relaxation of a non-interleaved array that is fed through its rows.

    The way says the tolerance of its cell voltages, whether its parameters are made in every call or before (`bare`),
    and whether many vectors go in one by one.
    """

    packages = ("CrossSim", "numpy", "scipy")

    def __init__(self) -> None:
        from simulator import CrossSimParameters
        from simulator.backend import ComputeBackend

        ComputeBackend(use_gpu=False)  # before anything else of it
        from simulator.circuits.array import NoninterleavedInputSourceArray

        self._parameters, self._array = CrossSimParameters, NoninterleavedInputSourceArray

    def call(self, problem: Problem, way: dict[str, Any]) -> Call:
        """As the way says."""
        if way["bare"]:
            solver, normalised, scale = self._made(problem, way)
            return lambda: self._currents(solver, normalised, scale, problem, way)
        return lambda: self._currents(*self._made(problem, way), problem, way)

    def _made(self, problem: Problem, way: dict[str, Any]) -> tuple[Any, Any, float]:
        """Its array, and its conductances ``[column, row]`` in units of the largest."""
        largest = problem.g.max()
        made = self._parameters()
        made.xbar.device.Rmin, made.xbar.device.Rmax = 1.0 / largest, 1.0 / problem.g.min()
        made.xbar.array.parasitics.enable = True
        made.xbar.array.parasitics.Rp_row = made.xbar.array.parasitics.Rp_col = problem.r
        made.simulation.Verr_th_mvm = way["tolerance"]
        made.simulation.Niters_max_parasitics = way["iterations"]
        made.simulation.hide_convergence_msg = True
        device = None
        if problem.alpha:
            made.xbar.device.nonlinear_IV.enable = True
            device = SinhNormalised(problem.alpha * np.abs(problem.v).max())
        return self._array(made, device=device), (problem.g / largest).T.copy(), largest

    @staticmethod
    def _currents(solver: Any, normalised: Any, scale: float, problem: Problem, way: dict[str, Any]) -> Any:
        highest = np.abs(problem.v).max()
        volts = problem.v / highest
        if way.get("one_by_one") or len(volts) == 1:
            found = np.array([solver.iterative_solve(normalised, vector) for vector in volts])
        else:
            found = solver.iterative_solve(normalised, np.ascontiguousarray(volts.T)).T
        return found * (scale * highest)


SIDES: dict[str, Callable[[], Any]] = {"xbarlab": Xbarlab, "badcrossbar": Badcrossbar, "crosssim": CrossSim}


def read_problem(file: str) -> Problem:
    """From its file."""
    with np.load(file, allow_pickle=False) as found:
        return Problem(found["g"], found["v"], float(found["r"]), float(found["alpha"]))


def timed(call: Call, seconds: float, save: str | None) -> dict[str, Any]:
    """Call until the time is over, once at least; the median of the calls in s."""
    times: list[float] = []
    while not times or sum(times) < seconds:
        began = time.perf_counter()
        currents = call()
        times.append(time.perf_counter() - began)
    if save:
        np.savez(save, currents=currents)
    return {"seconds": statistics.median(times), "first": times[0], "calls": len(times)}


def peak_memory() -> float | None:
    """Most memory that the process has ever held (bytes); None where it is not measured.

    Linux says it of the program itself; `resource.getrusage` would count the process that started it as well.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text(encoding="ascii").splitlines()
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of Python and of the packages; a source tree has none."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "source tree"
    return found


def main() -> None:
    """Answer until the questions end."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what packages print is no answer

    def answer(**what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    began = time.perf_counter()
    side = SIDES[sys.argv[1]]()
    answer(versions=versions(side.packages), importing=time.perf_counter() - began)
    asked: dict[str, Any] = {}
    for line in sys.stdin:
        question = json.loads(line)
        try:
            subject = {"problem": question["problem"], "way": question["way"]}
            if subject != asked:
                call, asked = side.call(read_problem(question["problem"]), question["way"]), subject
            found = timed(call, question["seconds"], question.get("save"))
            answer(**found, memory=peak_memory())
        except Exception as error:  # whatever the package raises
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
