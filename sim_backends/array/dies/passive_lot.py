"""The description of a lot of passive TiO2 dies: one array of cells without selectors on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError, model_validator

from sim_backends.array.circuit.bias import SCHEMES
from sim_backends.array.devices.tio2 import TiO2Parameters
from sim_backends.array.dies.failures import FailureRates
from sim_backends.array.dies.lot import LINES_MAX, Lines, LotError, Wafer, describe
from sim_backends.array.dies.readout import ReadoutSpec
from sim_backends.array.dies.statistics import StuckCells
from sim_backends.array.dies.topology import Topology
from sim_backends.array.files.quantity import (
    NUMBER,
    SIEMENS,
    VOLT,
    Integer,
    Ohm,
    PerSecond,
    PerVolt,
    Share,
    Siemens,
    Specification,
    Spread,
    Volt,
    split_sources,
)
from sim_backends.array.solver.network import Lines as Segments

Threshold = Annotated[float, VOLT.within(0.0, 20.0, above=True, example="0.6 V")]
ReadNoise = Annotated[float, SIEMENS.within(0.0, 1e-3, example="1.7e-7 S")]
Exponent = Annotated[float, NUMBER.within(0.0, 20.0, above=True, example="1.88")]

READOUT: Mapping[str, Any] = {
    "v_min": -2.5,
    "v_max": 2.5,
    "full_scales": (100e-6, 250e-6, 500e-6, 1e-3, 2e-3, 5e-3, 20e-3),
    "cell_noise": 0.0,
}
"""How the converters of a board for such dies differ from the usual ones, where a station file does not say: pulses up
to the caps of the devices and all the range of a 12 bit DAC of these steps, currents up to 64 cells of 500 uS and
more, and no noise of cells, which is the devices' own. Assumed."""


class PassiveGeometry(Specification):
    """Size of the one array of a die."""

    rows: Integer = Field(gt=0, le=LINES_MAX)
    columns: Integer = Field(gt=0, le=LINES_MAX)


class TiO2Devices(Specification):
    """Devices that work, by the names of `TiO2Parameters`; spreads are standard deviations of the logarithm."""

    v_set: Threshold
    v_reset: Threshold
    rate_set: PerSecond
    """1/s."""
    rate_reset: PerSecond
    """1/s."""
    exponent: Exponent
    g_min: Siemens
    g_max: Siemens
    threshold_spread: Spread
    rate_spread: Spread
    cycle_spread: Spread
    beta: PerVolt
    """1/V."""
    noise_per_ohm: ReadNoise
    noise_floor: Spread
    initial: tuple[Siemens, Siemens]
    """A die begins with conductances uniform between these (S)."""
    short: Siemens = Field(gt=0)
    """A cell that a pulse broke has this conductance (S)."""

    @model_validator(mode="after")
    def _physical(self) -> TiO2Devices:
        self.parameters()
        low, high = self.initial
        if not self.g_min <= low <= high <= self.g_max:
            raise ValueError(
                f"initial: {low * 1e6:g} to {high * 1e6:g} uS does not ascend within g_min and g_max, "
                f"{self.g_min * 1e6:g} to {self.g_max * 1e6:g} uS"
            )
        return self

    def parameters(self) -> TiO2Parameters:
        """The same as the device model takes it."""
        return TiO2Parameters(**{each.name: getattr(self, each.name) for each in fields(TiO2Parameters)})


class Virgin(Specification):
    """Devices that were never formed; spreads are standard deviations of the logarithm. All values are assumed.

    Pristine devices of this kind are read as megaohms and more, and form between 3.5 V and 10 V (the ramp of
    arXiv:2305.18495); how both are distributed is not published.
    """

    leak: Siemens = Field(default=100e-9, gt=0)
    """Median conductance before forming."""
    leak_spread: Spread = 0.3
    v_form: Volt = Field(default=3.8, gt=0)
    """Median voltage of the SET pulse that forms a device."""
    v_form_spread: Spread = 0.02


class PassiveDefects(Specification):
    """How often cells and lines fail, and to what, by the names of `FailureRates` and `StuckCells`.

    Rates of cells and lines are shares of them, `rows_tied` and `alternating` are probabilities for a die.
    """

    stuck_lrs: Share
    stuck_hrs: Share
    lrs_mean: Siemens
    lrs_spread: Siemens = Field(ge=0)
    hrs_min: Siemens = Field(ge=0)
    hrs_max: Siemens = Field(ge=0)
    cell_open: Share
    cell_short: Share
    short: Siemens = Field(gt=0)
    row_open: Share
    column_open: Share
    row_lrs: Share
    row_hrs: Share
    row_short: Share
    rows_tied: Share
    alternating: Share
    lrs_ohm: tuple[Ohm, Ohm]
    hrs_ohm: tuple[Ohm, Ohm]
    short_ohm: tuple[Ohm, Ohm]
    within_row: Spread
    within_short: Spread

    @model_validator(mode="after")
    def _shares(self) -> PassiveDefects:
        self.rates()
        for name in ("lrs_ohm", "hrs_ohm", "short_ohm"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}: {low:g} to {high:g} Ohm does not ascend from above zero")
        if self.hrs_min > self.hrs_max:
            raise ValueError(f"hrs_min of {self.hrs_min:g} S is above hrs_max, {self.hrs_max:g} S")
        return self

    def rates(self) -> FailureRates:
        """The same as failures are drawn from."""
        values = self.model_dump(exclude={"stuck_lrs", "stuck_hrs", "lrs_mean", "lrs_spread", "hrs_min", "hrs_max"})
        stuck = StuckCells(
            self.stuck_lrs, self.stuck_hrs, self.lrs_mean, self.lrs_spread, self.hrs_min, self.hrs_max
        )  # fmt: skip
        return FailureRates(stuck=stuck, **values)


class PassiveLot(Specification):
    """Everything that dies of a lot have in common.

    `sources` says for each value, by dotted path, where it comes from; values without a source are assumed.
    """

    kind: ClassVar[str] = "tio2"
    cell: ClassVar[str] = "1R"
    schemes: ClassVar[tuple[str, ...]] = tuple(SCHEMES)

    name: str
    description: str = ""
    geometry: PassiveGeometry
    devices: TiO2Devices
    defects: PassiveDefects
    virgin: Virgin | None = None
    """Left out: all devices that work are formed."""
    lines: Lines
    wafer: Wafer
    v_read: Volt = Field(gt=0)
    sources: dict[str, str] = Field(default_factory=dict)

    @cached_property
    def topology(self) -> Topology:
        """One kernel of rows and columns."""
        rows, columns = self.geometry.rows, self.geometry.columns
        return Topology(1, rows, columns, rows, columns)

    @property
    def segments(self) -> Segments:
        """Lines without failures."""
        return Segments(self.lines.r_row, self.lines.r_column, self.lines.r_contact)

    def read_by(self, readout: ReadoutSpec) -> ReadoutSpec:
        """The converters of a board for these dies: as `READOUT` where `readout` was not told otherwise."""
        update = {name: value for name, value in READOUT.items() if name not in readout.model_fields_set}
        return readout.model_copy(update=update)


def passive_lot_from_tree(tree: Mapping[str, Any], origin: str) -> PassiveLot:
    """Build a lot from the content of a lot file; `origin` names it in errors.

    Raises
    ------
    LotError
        Naming every entry that is unknown, missing or wrong.
    """
    values, sources = split_sources(dict(tree))
    try:
        return PassiveLot.model_validate({**values, "sources": {**sources, **values.get("sources", {})}})
    except ValidationError as error:
        raise LotError(f"{origin}:\n{describe(error)}") from error
