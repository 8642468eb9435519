"""Files of arrays (npz) from anywhere: what they claim to hold is looked at before any of it is unpacked."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, NotImplementedError,
              RuntimeError, zipfile.BadZipFile)  # fmt: skip
"""What is raised for a file that is damaged, encrypted, or no archive of arrays."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path, largest: int) -> dict[str, NDArray[Any]]:
    """All arrays of a file, by name; no pickled objects.

    Parameters
    ----------
    path
        The file.
    largest
        Bytes that all of them may take in memory.

    Raises
    ------
    ValueError
        It claims to hold more, an array claims to be larger than what is stored of it, or holds objects.
    OSError, KeyError, zipfile.BadZipFile, ...
        It cannot be read: any of `UNREADABLE`.
    """
    check_npz(path, largest)
    with np.load(path, allow_pickle=False) as file:
        return {name: np.asarray(file[name]) for name in file.files}


def check_npz(path: Path, largest: int) -> None:
    """Refuse a file as `read_npz` does; unpacks only the heads of its arrays."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        claimed = sum(member.file_size for member in members)
        if claimed > largest:
            raise ValueError(f"it holds {claimed} bytes, too many for what it is: {largest} at most")
        for member in members:
            with archive.open(member) as stored:
                version = npy.read_magic(stored)
                if version not in _HEADERS:
                    raise ValueError(f"{member.filename} is of version {version}")
                shape, _, kind = _HEADERS[version](stored)
                if kind.hasobject:
                    raise ValueError(f"{member.filename} holds objects, which are never loaded (allow_pickle)")
                if math.prod(shape) * kind.itemsize != member.file_size - stored.tell():
                    raise ValueError(f"{member.filename} claims the shape {shape}, which is not what is stored of it")
