"""The CAPS document of a framed board: checked field by field before a driver believes it."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from instruments.roles.interfaces import ArrayCapabilities, CurrentRange, InstrumentError, LimitError

_CODE_MAX = 2**15 - 1
_STEP_MIN = 1e-12  # s
_WIDTH_MAX = (2**32 - 1) * 1e-9  # s; widths are whole nanoseconds of 32 bits


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)  # later firmware may say more


class _Topology(_Strict):
    blocks: int = Field(ge=1)
    block_rows: int = Field(ge=1)
    block_columns: int = Field(ge=1)
    kernel_block: tuple[int, ...]
    kernel_row: tuple[int, ...]
    kernel_column: tuple[int, ...]


class _Range(_Strict):
    index: int = Field(ge=0, le=255)
    full_scale: float = Field(gt=0)


class BoardCaps(_Strict):
    """CAPS as docs/board_protocol.md defines it (volt, ampere, second)."""

    protocol: int = Field(ge=1, le=1)
    rows: int = Field(ge=1, le=64)  # words of lines have at most 64 bits
    columns: int = Field(ge=1, le=64)
    kernels: int = Field(ge=1, le=256)
    topology: _Topology
    dac_lsb: float = Field(gt=0)
    v_min: float = Field(le=0)
    v_max: float = Field(ge=0)
    v_read_max: float = Field(ge=0)
    adc_bits: int = Field(ge=1, le=16)
    ranges: tuple[_Range, ...] = Field(min_length=1)
    width_min: float = Field(gt=0)
    width_max: float = Field(gt=0)
    width_step: float = Field(gt=0)
    count_max: int = Field(ge=1, le=65535)
    averages_max: int = Field(ge=1, le=65535)
    banks: int = Field(ge=1, le=256)
    vectors_max: int = Field(ge=1, le=65535)
    cell: str
    heartbeat: bool = False
    limits: bool = False
    power_on: bool = False
    schemes: tuple[str, ...] = Field(default=(), max_length=256)

    @model_validator(mode="after")
    def _kernels_lie_in_blocks(self) -> BoardCaps:
        where = self.topology
        for name, first, size, limit in (
            ("kernel_block", where.kernel_block, 1, where.blocks),
            ("kernel_row", where.kernel_row, self.rows, where.block_rows),
            ("kernel_column", where.kernel_column, self.columns, where.block_columns),
        ):
            if len(first) != self.kernels:
                raise ValueError(f"{name} has {len(first)} entries for {self.kernels} kernels")
            if any(not 0 <= each <= limit - size for each in first):
                raise ValueError(f"{name} puts a kernel outside its block")
        if max(-self.v_min, self.v_max, self.v_read_max) / self.dac_lsb > _CODE_MAX:
            raise ValueError(f"voltages take codes beyond {_CODE_MAX} of dac_lsb, which the frames cannot carry")
        if not self.width_min <= self.width_max <= _WIDTH_MAX or self.width_step < _STEP_MIN:
            raise ValueError(f"width_min, width_max and width_step are not widths of steps up to {_WIDTH_MAX:g} s")
        if len({each.index for each in self.ranges}) != len(self.ranges):
            raise ValueError("two ranges have the same index")
        if len(set(self.schemes)) != len(self.schemes):
            raise ValueError("two bias schemes have the same name")
        return self


def parse_caps(document: bytes | str, board: str) -> BoardCaps:
    """CAPS from its JSON text.

    Raises
    ------
    InstrumentError
        A field is missing or impossible; the message names each. `board` says whose document it is.
    """
    try:
        return BoardCaps.model_validate_json(document)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'CAPS'}: {each['msg']}" for each in error.errors())
        raise InstrumentError(
            f"{board} describes itself wrongly (CAPS): {faults}. Compare its firmware with docs/board_protocol.md."
        ) from error


def capabilities(caps: BoardCaps, pulse_limit: float | None = None) -> ArrayCapabilities:
    """The role's view of CAPS; `pulse_limit` (V, either sign) narrows `v_min` and `v_max` further.

    Raises
    ------
    LimitError
        If that is no limit: with NaN the board's own would stay, as if nothing had been asked for.
    """
    if pulse_limit is not None and not 0 < abs(pulse_limit) < math.inf:
        raise LimitError(f"pulse_limit {pulse_limit} V is no limit; give a voltage above 0, such as 0.9")
    limit = math.inf if pulse_limit is None else abs(pulse_limit)
    return ArrayCapabilities(
        rows=caps.rows,
        columns=caps.columns,
        kernels=caps.kernels,
        blocks=caps.topology.blocks,
        block_rows=caps.topology.block_rows,
        block_columns=caps.topology.block_columns,
        kernel_block=caps.topology.kernel_block,
        kernel_row=caps.topology.kernel_row,
        kernel_column=caps.topology.kernel_column,
        v_min=max(caps.v_min, -limit),
        v_max=min(caps.v_max, limit),
        v_read_max=caps.v_read_max,
        dac_lsb=caps.dac_lsb,
        adc_bits=caps.adc_bits,
        ranges=tuple(CurrentRange(each.index, each.full_scale) for each in caps.ranges),
        width_min=caps.width_min,
        width_max=caps.width_max,
        width_step=caps.width_step,
        count_max=caps.count_max,
        averages_max=caps.averages_max,
        banks=caps.banks,
        vectors_max=caps.vectors_max,
        cell=caps.cell,
        schemes=caps.schemes,
    )
