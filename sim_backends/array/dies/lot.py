"""The description of a lot of dies: geometry, devices, defects, lines and the wafer it sits on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from sim_backends.array.dies.measured import MeasuredDies, MeasuredFileError, read_measured
from sim_backends.array.dies.readout import ReadoutSpec
from sim_backends.array.dies.topology import Topology
from sim_backends.array.files.plain_yaml import PlainYamlError, read_yaml
from sim_backends.array.files.quantity import (
    METRE,
    NUMBER,
    SECOND,
    Ampere,
    Integer,
    Ohm,
    Ratio,
    Share,
    Specification,
    Spread,
    Volt,
    split_sources,
)

AttemptTime = Annotated[float, SECOND.within(0.0, 1e-3, above=True, example="1 ns")]
Exponent = Annotated[float, NUMBER.within(0.5, 3.0, example="1")]
Pitch = Annotated[float, METRE.within(0.0, 0.5, above=True, example="5 mm")]
Mean = Annotated[float, NUMBER.within(0.0, 1000.0, example="0.1")]
Stability = Annotated[float, NUMBER.within(0.0, 1000.0, above=True, example="45")]

BUILT_IN = Path(__file__).parents[2] / "lots"
KINDS = ("good", "short", "open", "stuck_p", "stuck_ap", "weak_tmr")
"""Defect kinds of a cell; the code of a kind in every array is its position here."""


LINES_MAX = 64
"""Rows and columns of a kernel: the board's requests name lines by the bits of a word of at most 64."""


class LotError(ValueError):
    """A lot file that cannot be used; the message says which entry."""


class Geometry(Specification):
    """Blocks of a die and the kernels they are tiled with."""

    blocks: Integer = Field(gt=0)
    block_rows: Integer = Field(gt=0)
    block_columns: Integer = Field(gt=0)
    rows: Integer = Field(gt=0, le=LINES_MAX)
    columns: Integer = Field(gt=0, le=LINES_MAX)

    @model_validator(mode="after")
    def _tiles_fit(self) -> Geometry:
        if self.block_rows % self.rows or self.block_columns % self.columns:
            raise ValueError(
                f"kernels of {self.rows} x {self.columns} do not tile "
                f"blocks of {self.block_rows} x {self.block_columns}"
            )
        return self

    def topology(self) -> Topology:
        """The same as an object that knows kernels and lines."""
        return Topology(self.blocks, self.block_rows, self.block_columns, self.rows, self.columns)


class Switching(Specification):
    """Spin-transfer torque switching; spreads are relative standard deviations between devices."""

    v_critical_to_ap: Volt = Field(gt=0)
    v_critical_to_p: Volt = Field(gt=0)
    v_critical_spread: Spread = Field(ge=0)
    delta: Stability
    delta_spread: Spread = Field(ge=0)
    tau0: AttemptTime
    exponent: Exponent = 1.0
    error_floor: Share = Field(lt=1)


class Devices(Specification):
    """Healthy and broken devices; spreads are standard deviations of the logarithm."""

    r_p: Ohm = Field(gt=0)
    r_p_spread: Spread
    tmr: Ratio = Field(gt=0)
    tmr_spread: Spread
    v_half: Volt = Field(gt=0)
    r_selector: Ohm = Field(gt=0)
    r_short: Ohm = Field(gt=0)
    r_open: Ohm = Field(gt=0)
    v_breakdown: Volt = Field(gt=0)
    v_breakdown_spread: Spread
    fresh_ap_share: Share
    switching: Switching


class Defects(Specification):
    """How many cells and lines are broken, and how."""

    rate_median: Share
    rate_log_sigma: Spread
    rate_max: Share = Field(gt=0)
    shares: dict[str, Share]
    weak_tmr_factor: tuple[Share, Share]
    dead_rows: Mean
    dead_columns: Mean
    dead_gates: Mean
    dead_rows_shared: Mean

    @field_validator("shares")
    @classmethod
    def _known_kinds(cls, shares: dict[str, float]) -> dict[str, float]:
        unknown = set(shares) - set(KINDS[1:])
        if unknown:
            raise ValueError(f"unknown defect kind {sorted(unknown)}; known: {list(KINDS[1:])}")
        if abs(sum(shares.values()) - 1) > 1e-9:
            raise ValueError(f"shares of defect kinds add up to {sum(shares.values()):g}, not to 1")
        return shares

    @model_validator(mode="after")
    def _dies_can_be_drawn(self) -> Defects:
        if self.rate_median > self.rate_max:
            raise ValueError(
                f"rate_median of {self.rate_median:g} is above rate_max, {self.rate_max:g}: hardly a die could be drawn"
            )
        low, high = self.weak_tmr_factor
        if low > high:
            raise ValueError(f"weak_tmr_factor: {low:g} to {high:g} does not ascend")
        return self


class Lines(Specification):
    """Resistance of the lines of a kernel."""

    r_row: Ohm = Field(ge=0)
    r_column: Ohm = Field(ge=0)
    r_contact: Ohm = Field(ge=0)


class ReadNoise(Specification):
    """White noise of one sample of a read, rms: `cell` relative to the current of a cell, `current` of a channel."""

    cell: Spread
    current: Ampere


class Wafer(Specification):
    """The wafer: how many dies, their pitch, and their sites where they are not simply the innermost ones."""

    dies: Integer = Field(gt=0, le=100_000)
    diameter: Pitch
    pitch_x: Pitch
    pitch_y: Pitch
    listed: tuple[tuple[Integer, Integer], ...] | None = None

    @model_validator(mode="after")
    def _listed_once(self) -> Wafer:
        if self.listed is not None and not len(self.listed) == len(set(self.listed)) == self.dies:
            raise ValueError(f"listed has {len(set(self.listed))} different sites for {self.dies} dies")
        return self

    def sites(self) -> list[tuple[int, int]]:
        """Grid sites ``(column, row)`` of the dies by die index: the listed ones, else nearest to the centre first.

        One grid site lies on the centre; equal distances are ordered by row, then column. Indices count from the
        lower left corner of the map, so the smallest column and row are 0.
        """
        if self.listed is not None:
            return list(self.listed)
        half = int(np.ceil(np.sqrt(self.dies))) + 1
        grid = [(column, row) for row in range(-half, half + 1) for column in range(-half, half + 1)]
        grid.sort(key=lambda site: ((site[0] * self.pitch_x) ** 2 + (site[1] * self.pitch_y) ** 2, site[1], site[0]))
        chosen = grid[: self.dies]
        left = min(column for column, _ in chosen)
        low = min(row for _, row in chosen)
        return [(column - left, row - low) for column, row in chosen]


class Lot(Specification):
    """Everything that dies of a lot have in common.

    `sources` says for each value, by dotted path, where it comes from; values without a source are assumed.

    A lot that was measured has `measured`, the file of its dies (`sim_backends.array.dies.measured`): dies are then
    built from it; `devices` and `defects` say what they have in common, and are drawn from if `measured` is taken out.
    With `read_noise` a board shows this noise instead of its own.
    """

    kind: ClassVar[str] = "mtj"
    cell: ClassVar[str] = "2T1R"
    schemes: ClassVar[tuple[str, ...]] = ()

    name: str
    description: str = ""
    geometry: Geometry
    devices: Devices
    defects: Defects
    lines: Lines
    wafer: Wafer
    v_read: Volt = Field(gt=0)
    measured: Path | None = None
    read_noise: ReadNoise | None = None
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def topology(self) -> Topology:
        """Kernels and lines of a die."""
        return self.geometry.topology()

    @cached_property
    def measured_dies(self) -> MeasuredDies | None:
        """The measured dies; None for a lot that is drawn.

        Raises
        ------
        LotError
            If the file is not there, or not of this lot.
        """
        if self.measured is None:
            return None
        try:
            return read_measured(self.measured, self.topology, self.wafer.sites())
        except MeasuredFileError as error:
            raise LotError(f"lot {self.name}: measured: {error}") from error

    def read_by(self, readout: ReadoutSpec) -> ReadoutSpec:
        """The converters of a board as they read these dies: with the lot's noise, if it was measured."""
        if self.read_noise is None:
            return readout
        noise = {"cell_noise": self.read_noise.cell, "current_noise": self.read_noise.current}
        return readout.model_copy(update=noise)


def lot_from_tree(tree: Mapping[str, Any], origin: str) -> Lot:
    """Build a lot from the content of a lot file; `origin` names it in errors.

    Raises
    ------
    LotError
        Naming every entry that is unknown, missing or wrong.
    """
    values, sources = split_sources(dict(tree))
    try:
        return Lot.model_validate({**values, "sources": {**sources, **values.get("sources", {})}})
    except ValidationError as error:
        raise LotError(f"{origin}:\n{describe(error)}") from error


def load_lot(name: str | Path) -> Lot:
    """Read the file of a lot of MTJ dies, or one of the built-in lots by name (such as ``"mtj"``).

    Raises
    ------
    LotError
        If there is no such file, it is of another kind of dies, an entry is unknown, missing or wrong, or the measured
        dies cannot be used.
    """
    kind, tree, path = read_lot_file(name)
    if kind != Lot.kind:
        raise LotError(f"{path}: kind: dies of kind {kind!r}, needed are {Lot.kind!r}, as in the built-in lot mtj")
    return mtj_lot(tree, path)


def mtj_lot(tree: dict[str, Any], path: Path) -> Lot:
    """A lot of MTJ dies from the content of its file."""
    return _with_measured_dies(lot_from_tree(tree, str(path)), path)


def read_lot_file(name: str | Path) -> tuple[str, dict[str, Any], Path]:
    """Kind of the dies of a lot file (or built-in lot), the rest of its content, and the file.

    Raises
    ------
    LotError
        If there is no such file, or it is no mapping.
    """
    path = BUILT_IN / f"{name}.yaml" if str(name) in built_in_lots() else Path(name)
    if not path.is_file():
        raise LotError(f"no lot {str(name)!r}: give a lot file or one of {', '.join(built_in_lots())}")
    try:
        tree = read_yaml(path)
    except PlainYamlError as error:
        raise LotError(str(error)) from error
    if not isinstance(tree, dict):
        raise LotError(f"{path}: a lot file is a mapping of entries; start from {BUILT_IN / 'mtj.yaml'}")
    return str(tree.pop("kind", Lot.kind)), tree, path


def _with_measured_dies(lot: Lot, path: Path) -> Lot:
    """The lot with the file of its dies found beside the lot file, and read."""
    if lot.measured is None:
        return lot
    if lot.measured.name != str(lot.measured):
        raise LotError(f"{path}: measured: {str(lot.measured)!r} is no plain file name; put it beside the lot file")
    lot = lot.model_copy(update={"measured": path.parent / lot.measured})
    _ = lot.measured_dies  # a file that cannot be used is an error now, not when the needles come down
    return lot


def is_lot_file(path: Path) -> bool:
    """Whether a file describes a lot, by its entries; it may still be a wrong one."""
    try:
        tree = read_yaml(path)
    except PlainYamlError:
        return False
    return isinstance(tree, dict) and {"geometry", "devices"} <= set(tree)


def built_in_lots() -> list[str]:
    """Names of the lots that come with the package."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def describe(error: ValidationError) -> str:
    """One line per problem of a configuration, by dotted path, and where to read what there is."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "file"
        what = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
        lines.append(f"  {where}: {what}")
    return "\n".join([*lines, "  what may stand there: docs/simulation.md"])
