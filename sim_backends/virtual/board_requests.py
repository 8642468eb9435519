"""What may be asked of a board: opcodes, its limits, its statuses, and the checks of every argument."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sim_backends.array.devices.interface import BoolArray
from sim_backends.array.dies.fired import GATED
from sim_backends.array.dies.readout import ReadoutSpec
from sim_backends.array.dies.topology import Topology
from sim_backends.array.files.quantity import Integer, Second, Specification
from sim_backends.wire import frames
from sim_backends.wire.frames import Status


class BoardSpec(Specification):
    """A board: its identity, limits and converters. All values are assumed."""

    identity: str = "xbarlab,virtual array board,VB0001,1.0"
    width_min: Second = Field(default=20e-9, gt=0)
    width_max: Second = Field(default=1e-3, gt=0)
    width_step: Second = Field(default=10e-9, gt=0)
    count_max: Integer = Field(default=1000, ge=1, le=0xFFFF)
    averages_max: Integer = Field(default=256, ge=1, le=0xFFFF)
    banks: Integer = Field(default=16, ge=1, le=256)
    vectors_max: Integer = Field(default=4096, ge=1, le=0xFFFF)
    self_test: Second = 0.0
    """After power-on the board answers busy for so long (wall time)."""
    boot: Second = Field(default=0.0, ge=0.0)
    """After power-on the board hears nothing for so long (wall time)."""
    restarts_on_open: bool = False
    """Every client that comes restarts it, as the DTR line of a USB port does with many boards."""
    readout: ReadoutSpec = ReadoutSpec()


class Refusal(Exception):
    """A request is answered with a status other than ok."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Checks requests against what a board with these dies can do; raises `Refusal`."""

    spec: BoardSpec
    topology: Topology
    cell: str
    schemes: tuple[str, ...]
    """Bias schemes of pulses, by their number on the wire; none for cells with gates."""

    def capabilities(self) -> dict[str, object]:
        """Content of CAPS."""
        spec, readout, topology = self.spec, self.spec.readout, self.topology
        return {
            "protocol": frames.VERSION,
            "rows": topology.rows,
            "columns": topology.columns,
            "kernels": topology.kernels,
            "topology": {
                "blocks": topology.blocks,
                "block_rows": topology.block_rows,
                "block_columns": topology.block_columns,
                "kernel_block": topology.kernel_block.tolist(),
                "kernel_row": topology.kernel_row.tolist(),
                "kernel_column": topology.kernel_column.tolist(),
            },
            "dac_lsb": readout.dac_lsb,
            "v_min": readout.v_min,
            "v_max": readout.v_max,
            "v_read_max": readout.v_read_max,
            "adc_bits": readout.adc_bits,
            "ranges": [{"index": i, "full_scale": full} for i, full in enumerate(readout.full_scales)],
            "width_min": spec.width_min,
            "width_max": spec.width_max,
            "width_step": spec.width_step,
            "count_max": spec.count_max,
            "averages_max": spec.averages_max,
            "banks": spec.banks,
            "vectors_max": spec.vectors_max,
            "cell": self.cell,
            "heartbeat": True,
            "limits": True,
            "power_on": True,
            **({"schemes": list(self.schemes)} if self.schemes else {}),
        }

    @property
    def multiply_layout(self) -> struct.Struct:
        """Arguments of MULTIPLY: words of lines have 32 bits, or 64 where there are more lines than 32."""
        return struct.Struct("<BBBHBHHII" if max(self.topology.rows, self.topology.columns) <= 32 else "<BBBHBHHQQ")

    def mask_and_scheme(self, payload: bytes) -> tuple[BoolArray, str]:
        """Cells ``[row, column]`` and bias scheme at the end of the payload of a pulse."""
        if not self.schemes:
            return self.mask(payload), GATED
        cells = self.topology.rows * self.topology.columns
        if len(payload) != (cells + 7) // 8 + 1:
            raise Refusal(
                Status.BAD_ARG, f"{len(payload)} bytes are no mask of {cells} cells and the number of a bias scheme"
            )
        number = payload[-1]
        if number >= len(self.schemes):
            known = ", ".join(f"{i} {name}" for i, name in enumerate(self.schemes))
            raise Refusal(Status.BAD_ARG, f"bias scheme {number}; known: {known}")
        return self.mask(payload[:-1]), self.schemes[number]

    def mask(self, payload: bytes) -> BoolArray:
        """Cells ``[row, column]`` of the mask at the end of a payload."""
        rows, columns = self.topology.rows, self.topology.columns
        cells = rows * columns
        if len(payload) != (cells + 7) // 8:
            raise Refusal(Status.BAD_ARG, f"mask of {len(payload)} bytes for {cells} cells")
        bits = np.unpackbits(np.frombuffer(payload, dtype=np.uint8), bitorder="little")
        if bits[cells:].any():
            raise Refusal(Status.BAD_ARG, "bits beyond the last cell are set in the mask")
        return bits[:cells].astype(bool).reshape(rows, columns)

    @property
    def pulse_codes(self) -> tuple[int, int]:
        """Smallest and largest DAC code of a pulse."""
        readout = self.spec.readout
        # the small share absorbs the rounding of a limit that is a whole number of steps
        return math.ceil(readout.v_min / readout.dac_lsb - 1e-9), math.floor(readout.v_max / readout.dac_lsb + 1e-9)

    def check_narrower(self, low: int, high: int) -> None:
        """Refuse limits of a station that are upside down or wider than the board's own."""
        widest = self.pulse_codes
        if low > high:
            raise Refusal(Status.BAD_ARG, f"limits {low} to {high} are upside down")
        if low < widest[0] or high > widest[1]:
            raise Refusal(
                Status.OVER_RANGE, f"limits {low} to {high} are beyond the board's {widest[0]} to {widest[1]}"
            )

    def check_kernel(self, kernel: int) -> None:
        """Refuse a kernel that does not exist."""
        if kernel >= self.topology.kernels:
            raise Refusal(Status.BAD_ARG, f"kernel {kernel}; there are {self.topology.kernels}")

    def check_range(self, current_range: int) -> None:
        """Refuse a range that does not exist."""
        if current_range >= len(self.spec.readout.full_scales):
            raise Refusal(Status.BAD_ARG, f"range {current_range}; there are {len(self.spec.readout.full_scales)}")

    def check_averages(self, averages: int) -> None:
        """Refuse averages beyond the limits."""
        if averages == 0:
            raise Refusal(Status.BAD_ARG, "averages is 0")
        if averages > self.spec.averages_max:
            raise Refusal(Status.OVER_RANGE, f"{averages} averages are beyond {self.spec.averages_max}")

    def check_read_voltage(self, voltage: float) -> None:
        """Refuse a voltage at which cells are not read."""
        limit = self.spec.readout.v_read_max
        if voltage > limit:
            raise Refusal(Status.OVER_RANGE, f"{voltage:.4g} V is beyond the read limit of {limit} V")

    def check_read(self, kernel: int, current_range: int, averages: int, code: int) -> None:
        """Refuse a read with wrong or too large arguments."""
        self.check_kernel(kernel)
        self.check_range(current_range)
        self.check_averages(averages)
        self.check_read_voltage(abs(code) * self.spec.readout.dac_lsb)

    def check_pulse(self, kernel: int, code: int, width: int, count: int) -> None:
        """Refuse a pulse beyond the limits."""
        self.check_kernel(kernel)
        spec, readout = self.spec, self.spec.readout
        voltage, seconds = code * readout.dac_lsb, width / 1e9
        if not readout.v_min <= voltage <= readout.v_max:
            raise Refusal(Status.OVER_RANGE, f"pulse of {voltage:.4g} V is beyond {readout.v_min} to {readout.v_max} V")
        if not spec.width_min * (1 - 1e-9) <= seconds <= spec.width_max * (1 + 1e-9):
            raise Refusal(Status.OVER_RANGE, f"width {width} ns is beyond {spec.width_min} to {spec.width_max} s")
        if width % round(spec.width_step * 1e9):
            raise Refusal(Status.BAD_ARG, f"width {width} ns is no multiple of {spec.width_step} s")
        if count == 0:
            raise Refusal(Status.BAD_ARG, "count is 0")
        if count > spec.count_max:
            raise Refusal(Status.OVER_RANGE, f"count {count} is beyond {spec.count_max}")


def unpack(layout: struct.Struct | None, payload: bytes) -> tuple[int, ...]:
    """Arguments of a payload of fixed length (None: empty)."""
    size = 0 if layout is None else layout.size
    if len(payload) != size:
        raise Refusal(Status.BAD_ARG, f"payload of {len(payload)} bytes, expected {size}")
    return () if layout is None else layout.unpack(payload)


def split(layout: struct.Struct, payload: bytes) -> tuple[tuple[int, ...], bytes]:
    """Arguments at the beginning of a payload, and the rest."""
    if len(payload) < layout.size:
        raise Refusal(Status.BAD_ARG, f"payload of {len(payload)} bytes is too short")
    return layout.unpack_from(payload), payload[layout.size :]


def set_bits(bits: int, lines: int, what: str) -> NDArray[np.int64]:
    """Indices of the set bits of a mask of lines."""
    if bits == 0 or bits >> lines:
        raise Refusal(Status.BAD_ARG, f"{what} lines 0x{bits:x}: none, or beyond line {lines - 1}")
    return np.flatnonzero([bits >> line & 1 for line in range(lines)])
