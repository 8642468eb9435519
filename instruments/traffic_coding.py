"""Large messages of 16-bit samples, rearranged so that they compress: most of a run's traffic is converter codes.

Neighbouring lines of a product have nearly the same code. So a message is taken out of its COBS framing (where that
gives the same bytes back), every word is replaced by its difference to the word before, small differences of either
sign by small numbers, and all low bytes are put before all high bytes. Whatever the bytes mean, `unfold` gives them
back; if they mean something else, they only compress less.
"""

from __future__ import annotations

import numpy as np
from cobs import cobs


def fold(message: bytes) -> bytes | None:
    """A message rearranged, or None if it is not COBS-framed."""
    try:
        decoded = cobs.decode(message)
    except cobs.DecodeError:
        return None
    if cobs.encode(decoded) != message:
        return None
    words = np.frombuffer(decoded, "<u2", count=len(decoded) // 2)
    steps = np.diff(words, prepend=words.dtype.type(0)).view(np.int16)
    folded = ((steps << 1) ^ (steps >> 15)).astype("<u2")
    return folded.view(np.uint8).reshape(-1, 2).T.tobytes() + decoded[2 * len(words) :]


def unfold(folded: bytes) -> bytes:
    """Inverse of `fold`."""
    words = len(folded) // 2
    planes = np.frombuffer(folded, np.uint8, count=2 * words).reshape(2, words)
    zigzag = np.ascontiguousarray(planes.T).view("<u2").ravel()
    steps = (zigzag >> 1) ^ (0 - (zigzag & 1)).astype(np.uint16)
    decoded = np.cumsum(steps, dtype=np.uint16).astype("<u2").tobytes() + folded[2 * words :]
    return cobs.encode(decoded)
