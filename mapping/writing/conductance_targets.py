"""Conductances that the cells of a die are to have, and whether they can have them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapping.dies.analog_die import AnalogDie
from mapping.dies.die_record import CellClass
from mapping.dies.geometry import ArrayGeometry
from mapping.writing.converge import ConvergeToTarget

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


#: Relative noise of one reading, where nothing was measured yet: the laboratory's law at 10 kOhm (0.1 % at 2 kOhm).
READ_NOISE = 0.002


class TargetError(ValueError):
    """A target, a setting and a die do not go together; the message names the cell, and what to change."""


def check_tolerance(tolerance: float, averages: int) -> None:
    """Refuse a tolerance that no reading can hold, before a die is known: its own noise is looked at by `check`.

    Raises
    ------
    TargetError
        With the smallest tolerance.
    """
    least = READ_NOISE / np.sqrt(averages)
    if not least <= tolerance < 0.5:  # written so that NaN is refused
        raise TargetError(
            f"tolerance {tolerance:g}: below {least:.2g} it is less than the noise of a read with {averages} averages, "
            "and half of a target is no tolerance; give something between, such as 0.01"
        )


@dataclass(frozen=True, eq=False)
class ConductanceTargets:
    """What the cells of a die are to hold.

    Attributes
    ----------
    geometry : ArrayGeometry
    g : float64 ``[kernel, row, column]``
        Conductance as it is to be read (S); NaN where it does not matter.
    tolerance : float64 ``[kernel, row, column]``
        Half-width of each band, relative to the target.
    sensitivity : float64 ``[kernel, row, column]``
        What an error costs, in any unit; the most sensitive cells are written last.

    Raises
    ------
    TargetError
        If a target is not positive or a tolerance no share, naming the cell.
    """

    geometry: ArrayGeometry
    g: FloatArray
    tolerance: FloatArray
    sensitivity: FloatArray

    def __post_init__(self) -> None:
        for name in ("g", "tolerance", "sensitivity"):
            if getattr(self, name).shape != self.geometry.shape:
                raise TargetError(f"{name} has shape {getattr(self, name).shape}, the geometry {self.geometry.shape}")
        self._refuse(self.wanted & ~((self.g > 0) & (self.g < np.inf)), "target {g:g} S: give a positive conductance")
        sound = (self.tolerance > 0) & (self.tolerance < 1)
        self._refuse(self.wanted & ~sound, "tolerance {tolerance:g}: give a share of the target between 0 and 1")
        self._refuse(~np.isfinite(self.sensitivity), "sensitivity is no number: give 0 where it is not known")

    @classmethod
    def of(
        cls, geometry: ArrayGeometry, g: ArrayLike, tolerance: ArrayLike = 0.01, sensitivity: ArrayLike = 0.0
    ) -> ConductanceTargets:
        """Targets of a die with one kernel or more; all but the geometry broadcast, ``[row, column]`` is enough.

        The tolerance is that of the laboratory's 8 x 8 array files by default.
        """
        given = (np.asarray(values, dtype=float) for values in (g, tolerance, sensitivity))
        return cls(geometry, *(np.array(np.broadcast_to(values, geometry.shape)) for values in given))

    @property
    def wanted(self) -> BoolArray:
        """Cells that have a target."""
        return ~np.isnan(self.g)

    def without(self, cells: BoolArray) -> ConductanceTargets:
        """The same with no target for some cells ``[kernel, row, column]``: those on dead lines, say."""
        return replace(self, g=np.where(cells, np.nan, self.g))

    def check(self, settings: ConvergeToTarget, die: AnalogDie | None = None) -> None:
        """Refuse what cannot be written, before any pulse.

        Parameters
        ----------
        settings
            How it is to be written.
        die
            What is known of the die. Cells that it holds for stuck are no error: they are reported as given up.

        Raises
        ------
        TargetError
            If a target is outside of the window, a tolerance below the read noise, a cap below the threshold of most
            cells, or a wanted cell on a dead line.
        """
        low, high = settings.g_min * (1 - 1e-9), settings.g_max * (1 + 1e-9)
        outside = self.wanted & ~((self.g >= low) & (self.g <= high))
        self._refuse(
            outside,
            f"target {{g:.4g}} S is outside of the window {settings.g_min:g} to {settings.g_max:g} S "
            "(g_min, g_max): clip or rescale the weights, or widen the window",
        )
        if die is not None:
            self._check_die(settings, die)

    def _check_die(self, settings: ConvergeToTarget, die: AnalogDie) -> None:
        if die.geometry != self.geometry:
            raise TargetError(f"the record of die {die.die} has another geometry than the targets: map them anew")
        dead = self.wanted & (die.cell_class == CellClass.DEAD_LINE)
        lines = ", ".join(f"{fault.kind} {fault.index}" for fault in die.line_faults)
        self._refuse(dead, f"it is on a dead line of die {die.die} ({lines}): place the weights elsewhere, "
                           "or take the cell out of the targets")  # fmt: skip
        noise = die.read_noise / np.sqrt(settings.averages)
        self._refuse(
            self.wanted & die.writable & ~(self.tolerance >= noise),
            f"tolerance {{tolerance:.2g}} is below the noise of a read, {{noise:.2g}} with {settings.averages} averages"
            ": raise tolerance, or averages",
            noise=noise,
        )
        for name, cap, threshold in (
            ("cap_set", settings.cap_set, die.v_set),
            ("cap_reset", -settings.cap_reset, -die.v_reset),
        ):
            below = self.wanted & die.writable & (cap < threshold)
            if below.sum() > 0.5 * (self.wanted & die.writable).sum():
                self._refuse(
                    below,
                    f"{name} of {cap:g} V is below its threshold, {{threshold:.3g}} V, as it is for most cells "
                    f"of die {die.die}: raise {name}",
                    threshold=threshold,
                )

    def _refuse(self, wrong: BoolArray, what: str, **values: FloatArray) -> None:
        """Raise for the first wrong cell; `what` may name fields and `values` of that cell."""
        if not wrong.any():
            return
        kernel, row, column = cell = tuple(int(i) for i in np.argwhere(wrong)[0])
        shown = {"g": self.g, "tolerance": self.tolerance, **values}
        said = what.format(**{name: float(array[cell]) for name, array in shown.items()})
        more = int(np.count_nonzero(wrong)) - 1
        others = f" ({more} more cells likewise)" if more else ""
        raise TargetError(f"cell [{row}, {column}] of kernel {kernel}: {said}{others}")
