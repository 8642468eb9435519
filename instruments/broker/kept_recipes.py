"""What makes the instruments of a station safe, in a file that outlives the broker that kept it.

The file tells what is sent where, and so is believed only where nobody else can write it: it belongs into a folder of
the user's own, never into one that is handed on.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from instruments.roles.off_recipe import Device, OffRecipe, Outcome, make_safe
from instruments.wire.transports import transport_of


def keep_recipes(path: str | Path, known: Sequence[tuple[dict[str, Any], OffRecipe]]) -> None:
    """Write what leads to each instrument and makes it safe; a disk that is full keeps nobody from measuring."""
    content = [leads_to | {"recipe": recipe.to_tree()} for leads_to, recipe in known]
    try:
        write_private(Path(path), json.dumps(content))
    except OSError as error:
        sys.stderr.write(f"what makes the station safe cannot be kept: {error}\n")


def forget_recipes(path: str | Path | None) -> None:
    """Remove the file, if there is one."""
    if path is not None:
        Path(path).unlink(missing_ok=True)


def kept_devices(path: Path) -> list[Device]:
    """The instruments of a file, over connections of this process, freshly to be opened; none if there is no file.

    Raises
    ------
    ValueError
        The file cannot be understood.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        newest = {
            (each["address"], json.dumps(each["recipe"])): Device(
                str(each["address"]),
                transport_of(each["kind"], each["address"], each["settings"]),
                OffRecipe.from_tree(each["recipe"]),
            )
            for each in content
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no file of recipes: {error!r}") from error
    return list(newest.values())


def make_kept_safe(path: Path, first: Callable[[], object] = lambda: None) -> list[Outcome]:
    """Make the instruments of a file safe over connections of this process; nobody else does so meanwhile.

    The file is gone afterwards, or, if not all of them are safe, there again for another attempt.

    Parameters
    ----------
    path
        The file.
    first
        What to do before the first connection is opened, once it is certain that this process is the one.

    Returns
    -------
    What became of each instrument; empty if there is no file, or somebody else is at it.

    Raises
    ------
    ValueError
        The file cannot be understood.
    """
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.rename(mine)  # one process gets it
    except FileNotFoundError:
        return []
    outcomes: list[Outcome] = []
    devices: list[Device] = []
    try:
        devices = kept_devices(mine)
        first()
        outcomes = make_safe(devices)
    finally:
        for device in devices:
            with contextlib.suppress(Exception):
                getattr(device.transport, "close", lambda: None)()
        if outcomes and not any(each.fault for each in outcomes):
            mine.unlink(missing_ok=True)
        else:
            mine.rename(path)
    return outcomes


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all, whatever was there before.

    Raises
    ------
    OSError
        It cannot be written.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
