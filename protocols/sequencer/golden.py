"""The golden die: one die that is only ever read, and by which one sees that needles and tester still measure the same.

Its reads stand in the record under a protocol name of their own, so that they are in nobody's way. It is no die of the
run: a die that is written between two looks tells nothing about the needles.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis.record import step_names
from protocols.bench.bench import Bench, Die
from protocols.bench.conductances import read_conductances
from protocols.bench.mtj_identity import kernels_of
from protocols.sequencer.stopping import RunError
from protocols.source.marks import step

#: Name under which the looks at golden dies stand in the record.
GOLDEN = "golden"
#: Largest drift of a kernel's median conductance since the first look (assumed: several times the read noise of a
#: median of some hundred cells, well below what one worn needle of a line adds).
DRIFT_LIMIT = 0.05


class GoldenDieError(RunError):
    """The golden die does not read as it did: it is the needles or the tester that changed."""


class GoldenRhythm:
    """Tells when the golden die is due: before the first die that is worked on, and before every so many-th after."""

    def __init__(self, every: int) -> None:
        self._every, self._worked, self._last = max(1, every), 0, ""

    def due(self, die: Die) -> bool:
        """Whether the golden die is to be looked at before this die, asked before each of its steps."""
        if die.name == self._last:
            return False
        self._last = die.name
        self._worked += 1
        return (self._worked - 1) % self._every == 0


@step(step_names.CHECK_GOLDEN)
def check_golden(
    bench: Bench, die: Die, *, known: xr.Dataset | None, v_read: float = 0.1, limit: float = DRIFT_LIMIT
) -> xr.Dataset:
    """Read the kernels that carry a fingerprint and compare their medians with those of the first look.

    Parameters
    ----------
    known : xarray.Dataset or None
        What the first look in this lot gave; None: this is the first.

    Returns
    -------
    xarray.Dataset
        `g_median` (S) of each kernel; `drift`, the largest relative change of one; verdict ``fail`` above `limit`.
    """
    kernels = kernels_of(bench.array.capabilities().kernels)
    g = read_conductances(bench.array, v_read, averages=8, kernels=[int(kernel) for kernel in kernels])[kernels]
    median = np.array([np.median(each[np.isfinite(each)]) for each in g])
    drift = 0.0 if known is None else float(np.abs(median / known["g_median"].values - 1).max())
    attrs = {"verdict": "pass" if drift <= limit else "fail", "drift": drift, "limit": limit, "v_read": v_read}
    return xr.Dataset(
        {"g_median": ("fingerprint_kernel", median, {"units": "S"})}, {"fingerprint_kernel": kernels}, attrs
    )


def drifted(die: Die, found: xr.Dataset) -> GoldenDieError:
    """The error that stops a run whose golden die has drifted."""
    return GoldenDieError(
        f"golden die {die.name}: conductance is {found.attrs['drift']:.1%} off its first look in this lot, "
        f"{found.attrs['limit']:.0%} is allowed. Needles or tester have changed (or the die was written since): clean "
        "or replace the needles, check the tester's calibration, then xbar resume"
    )
