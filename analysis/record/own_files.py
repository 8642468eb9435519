"""Files that users name for us to write: one that this program did not write itself, or that was edited, is kept.

Text that we write carries a seal, a digest of the rest of it; other files are known by what is in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

_HEADER = "# written by xbarlab, seal {seal}: replaced when it is written again, unless it was edited\n"
_SEALED = re.compile(r"# written by xbarlab, seal ([0-9a-f]{16}): .*\n")
#: What stands in JSON of ours; the seal covers the rest.
_MARK = "written_by"


class NotOursError(ValueError):
    """A file is not replaced, or cannot be written; nothing was done. The message says what to change."""


def check_output(path: Path, option: str, ours: Callable[[Path], bool]) -> None:
    """Find out, before anything moves and without touching it, whether a file may and can be written.

    Parameters
    ----------
    option
        Of the command line, by which another file is chosen.
    ours
        Whether a file is one that this program wrote. An empty file, and what is no file (a pipe, ``/dev/stdout``), is
        anybody's.

    Raises
    ------
    NotOursError
        If it may not or cannot.
    """
    try:
        if path.is_dir():
            raise NotOursError(f"cannot write {path}: it is a folder; choose another {option}")
        if path.is_file() and path.stat().st_size and not ours(path):
            raise NotOursError(
                f"{path} is not replaced: this program did not write it, or it was edited since. "
                f"Choose another {option}, or move it away"
            )
        _check_writable(path)
    except (OSError, ValueError) as error:
        if isinstance(error, NotOursError):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise NotOursError(f"cannot write {path}: {why}; choose another {option}") from error


def _check_writable(path: Path) -> None:
    """Raise OSError if a file cannot be written; nothing is created that stays, nothing is changed."""
    if path.exists():
        with path.open("r+b" if path.is_file() else "wb"):
            return
    if os.name == "nt" and path.is_reserved():
        raise ValueError("Windows keeps this name for a device")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(20, f"{folder} is no folder")
    with tempfile.TemporaryFile(dir=folder):
        return


def write_whole(path: Path, text: str) -> None:
    """Write a text so that the file is whole or as it was; what is no file (a pipe, a device) is written into."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8") as there:
            there.write(text)
        return
    place = path.resolve()  # of a link: where it leads
    new = place.with_name(f".xbar-{os.getpid()}.part")
    try:
        with new.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if place.exists():
            shutil.copymode(place, new)
        new.replace(place)
    finally:
        new.unlink(missing_ok=True)


# text with a seal


def sealed(text: str) -> str:
    """A YAML text with a first line by which `is_sealed` knows it again."""
    return _HEADER.format(seal=_seal(text)) + text


def is_sealed(path: Path) -> bool:
    """Whether a file holds what `sealed` gave, every letter of it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    head = _SEALED.match(text)
    return head is not None and _seal(text[head.end() :]) == head[1]


def of_simulated_station(text: str) -> bool:
    """Whether a text began as a station file of ours, whatever was made of it since."""
    return _SEALED.match(text) is not None


def _seal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_station(path: Path) -> bool:
    """Whether a station file is one of a simulated station, as this program writes it now or wrote it before it sealed.

    Those name loopback addresses only, and stand as the writer of YAML sets them, without a word of anybody else's.
    """
    if is_sealed(path):
        return True
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        addresses = [each["address"] for each in content["instruments"].values() if "address" in each]
        local = [address for address in addresses if "127.0.0.1:" in address.replace("::", ":")]
        others = [address for address in addresses if address not in local]
        plain = yaml.safe_dump(content, sort_keys=False) == text
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return plain and bool(local) and all(other.endswith("summary.json") for other in others)


# JSON


def dump_json(content: dict[str, Any]) -> str:
    """JSON of ours, as a file holds it; what JSON has no number for is null."""
    body = json.loads(json.dumps(content), parse_constant=lambda _: None)
    mark = f"xbarlab, seal {_seal(json.dumps(body, sort_keys=True))}"
    return json.dumps(body | {_MARK: mark}, indent=2) + "\n"


def is_json(path: Path) -> bool:
    """Whether a file is JSON of ours: sealed, or results as they were written before that."""
    content = _first_json(path, whole=True)
    if not isinstance(content, dict):
        return False
    mark = content.pop(_MARK, None)
    if mark is not None:
        return str(mark).endswith(f"seal {_seal(json.dumps(content, sort_keys=True))}")
    return {"provenance", "assumed", "seed", "time"} <= content.keys() or {"per_die", "dies"} <= content.keys()


def is_physical_log(path: Path) -> bool:
    """Whether a file is a log of what happened at a simulated station."""
    return _has(_first_json(path, whole=False), ("what", "station_s", "wall_s"))


def is_clock(path: Path) -> bool:
    """Whether a file is where a simulated station keeps its time."""
    return _has(_first_json(path, whole=True), ("station_time_s", "counts"))


def _has(content: Any, keys: Iterable[str]) -> bool:
    return isinstance(content, dict) and set(keys) <= content.keys()


def _first_json(path: Path, *, whole: bool) -> Any:
    """Content of a file of JSON, or of its first line."""
    try:
        with path.open(encoding="utf-8") as file:
            return json.loads(file.read() if whole else file.readline(1_000_000))
    except (OSError, ValueError, RecursionError):
        return None


# binary files, by what they say they are


def is_truth(path: Path) -> bool:
    """Whether a file is the truth of simulated dies."""
    return {"die.npy", "site.npy", "meta.npy", "line_mask.npy"} <= _members(path)


def is_measured_dies(path: Path) -> bool:
    """Whether a file holds the dies of a twin."""
    return {"format.npy", "v_read.npy", "g_p.npy", "kind.npy"} <= _members(path)


def is_schedule(path: Path) -> bool:
    """Whether a file is a schedule."""
    from mapping.writing.schedule_file import format_of

    return format_of(path) != ""


def _members(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as file:
            return set(file.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return set()
