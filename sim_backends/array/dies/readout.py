"""From volts to codes and from currents to codes: DAC, transimpedance ranges, ADC, and their calibration.

All default values are assumed: they describe a plausible board, not a measured one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sim_backends.array.devices.interface import FloatArray
from sim_backends.array.files.quantity import AMPERE, NUMBER, Ampere, Integer, Share, Specification, Spread, Volt

CodeArray = NDArray[np.int64]


FullScale = Annotated[float, AMPERE.within(0.0, 1.0, above=True, example="100 uA")]
Codes = Annotated[float, NUMBER.within(0.0, 1e6, example="4")]


class ReadoutSpec(Specification):
    """What a board's converters are like; quantities in SI (V, A), spreads as standard deviations."""

    dac_lsb: Volt = Field(default=5.0 / 4096, gt=0)
    v_min: Volt = -1.65
    v_max: Volt = 1.65
    v_read_max: Volt = Field(default=0.3, gt=0)
    adc_bits: Integer = Field(default=12, ge=2, le=24)
    full_scales: tuple[FullScale, ...] = (100e-6, 250e-6, 500e-6, 1e-3, 2e-3)
    headroom: Share = 0.05
    """The ADC spans this much more than the full scale, so that no channel's error cuts into it."""
    gain_spread: Spread = 0.01
    offset_spread: Codes = 4.0
    """Codes."""
    gain_residual: Spread = 2e-4
    """What the calibration leaves of the gain error."""
    offset_residual: Codes = 0.05
    """What the calibration leaves of the offset error, in codes."""
    current_noise: Ampere = 50e-9
    """White noise of one sample of a channel, rms."""
    cell_noise: Spread = 0.003
    """White noise of a cell's current, relative, rms per sample."""
    uncalibrated_ranges: tuple[Integer, ...] = ()


@dataclass(frozen=True)
class Readout:
    """Converters of one board.

    Attributes
    ----------
    spec
        The kind of board.
    gain, offset
        True gain (A per code) and offset (codes) of every channel, ``[range, channel]``: a current I gives the code
        ``offset + I / gain``.
    reported_gain, reported_offset
        The same as the board's calibration says.
    """

    spec: ReadoutSpec
    gain: FloatArray
    offset: FloatArray
    reported_gain: FloatArray
    reported_offset: FloatArray

    @classmethod
    def draw(cls, spec: ReadoutSpec, channels: int, rng: np.random.Generator) -> Readout:
        """Draw the errors of a board with so many sense channels."""
        shape = (len(spec.full_scales), channels)
        lsb = 2 * np.array(spec.full_scales) * (1 + spec.headroom) / 2**spec.adc_bits
        gain = lsb[:, None] * (1 + spec.gain_spread * rng.standard_normal(shape))
        offset = 2.0 ** (spec.adc_bits - 1) + spec.offset_spread * rng.standard_normal(shape)
        return cls(
            spec=spec,
            gain=gain,
            offset=offset,
            reported_gain=gain * (1 + spec.gain_residual * rng.standard_normal(shape)),
            reported_offset=offset + spec.offset_residual * rng.standard_normal(shape),
        )

    def digitise(
        self,
        currents: FloatArray,
        cell_noise: FloatArray | float,
        current_range: int,
        channels: NDArray[np.int64],
        averages: int,
        rng: np.random.Generator,
    ) -> FloatArray:
        """Mean ADC codes of currents.

        Parameters
        ----------
        currents
            True currents (A), ``[..., channel]`` or anything that broadcasts against `channels`.
        cell_noise
            Standard deviation of the cells' noise per sample (A).
        current_range
            Index of the range.
        channels
            Channel that senses each current.
        averages
            Samples taken; each has its own noise and is rounded and clipped on its own.
        rng
            Source of the noise.

        Returns
        -------
        FloatArray
            Mean codes; exactly 0 or ``2**adc_bits - 1`` where all samples saturated.
        """
        gain = self.gain[current_range, channels]
        ideal = self.offset[current_range, channels] + currents / gain
        sigma = np.sqrt(self.spec.current_noise**2 + np.square(cell_noise)) / gain
        top = 2.0**self.spec.adc_bits - 1
        total = np.zeros(np.shape(ideal))
        for _ in range(averages):
            sample = rng.standard_normal(total.shape, dtype=np.float32) * sigma
            sample += ideal
            np.rint(sample, out=sample)
            np.clip(sample, 0.0, top, out=sample)
            total += sample
        return total / averages
