"""Arrays that kernels work in, kept from call to call: fresh memory costs more than a small network takes to solve."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np

from sim_backends.array.devices.interface import FloatArray
from sim_backends.array.solver.line_kernels import LANES, PADDING

Scratch = tuple[FloatArray, FloatArray, FloatArray, FloatArray]
WORTH_A_THREAD = 30_000  # cells times problems; below it a second thread costs more than it saves
_kept = threading.local()


def line_scratch(rows: int, columns: int) -> Scratch:
    """What the line kernels work in: inverse pivots of rows and of columns, vectors, and a block of rows.

    The calling thread's own, valid until it asks again. Only those of the last shape are kept.
    """
    if getattr(_kept, "line_shape", None) != (rows, columns):
        lanes = min(LANES, (rows + 7) // 8 * 8)
        _kept.line_shape = (rows, columns)
        _kept.line = (
            np.empty(((rows + lanes - 1) // lanes, columns, lanes)),
            np.empty((rows, columns + PADDING)),
            np.empty((5, rows, columns + PADDING)),
            np.zeros((columns, lanes + PADDING)),
        )
    kept: Scratch = _kept.line
    return kept


def newton_scratch(count: int, rows: int, columns: int) -> tuple[FloatArray, FloatArray]:
    """Step (zero) and residual of Newton's method, ``[problem, 2, row, column + padding]``; as `line_scratch`."""
    shape = (count, 2, rows, columns + PADDING)
    if getattr(_kept, "newton_shape", None) != shape:
        _kept.newton_shape = shape
        _kept.newton = tuple(np.zeros((2, *shape)))
    step, left_over = _kept.newton
    step.fill(0.0)
    return step, left_over


def one_newton_scratch(rows: int, columns: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Step, trial state and residual of one problem, ``[1, 2, row, column + padding]``; as `line_scratch`."""
    shape = (1, 2, rows, columns + PADDING)
    if getattr(_kept, "one_shape", None) != shape:
        _kept.one_shape = shape
        _kept.one = tuple(np.zeros((3, *shape)))
    step, moved, left_over = _kept.one
    return step, moved, left_over


def in_threads(work: Callable[[slice], None], count: int, size: int) -> None:
    """Do `work` on slices of `count` problems of so many cells, in as many threads as pay."""
    threads = 1 if count == 1 else min(_cores(), count, count * size // WORTH_A_THREAD)
    if threads < 2:
        work(slice(0, count))
        return
    edges = np.linspace(0, count, threads + 1).astype(int)
    parts = [slice(int(a), int(b)) for a, b in pairwise(edges)]
    for done in [_pool().submit(work, part) for part in parts]:
        done.result()


@cache
def _cores() -> int:
    return os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="array")
