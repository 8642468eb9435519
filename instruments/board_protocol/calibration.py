"""From ADC codes to currents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The calibration of one range: ``I = gain[channel] * (code - offset[channel])``.

    Attributes
    ----------
    id
        Name under which the record keeps it.
    gain
        A per code, one per channel.
    offset
        Codes, one per channel.
    top_code
        Largest code of the ADC; it and 0 mean that the channel saturated.
    """

    id: str
    gain: FloatArray
    offset: FloatArray
    top_code: int

    def currents(self, codes: NDArray[np.floating | np.integer], channels: NDArray[np.intp]) -> FloatArray:
        """Currents (A) of codes whose last axis runs over `channels`; +-inf where the channel saturated.

        Parameters
        ----------
        codes
            ``[..., len(channels)]``; whole codes, or means of several.
        channels
            Which channel digitised each element of the last axis.
        """
        gain = self.gain[channels]
        currents: FloatArray = codes * gain
        currents -= gain * self.offset[channels]
        infinite = np.copysign(np.inf, gain)
        for saturated, value in ((codes >= self.top_code, infinite), (codes <= 0, -infinite)):
            if saturated.any():
                np.copyto(currents, value, where=saturated)
        return currents
