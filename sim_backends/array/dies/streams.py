"""Random numbers by key."""

from __future__ import annotations

import numpy as np


def stream(*key: int) -> np.random.Generator:
    """Random numbers that depend on a key of non-negative integers and on nothing else."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))
