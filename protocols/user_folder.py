"""The folder of the user's own in which what must not come from elsewhere is kept between runs."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def state_folder(name: str) -> Path | None:
    """A folder of that name which only this user can write to, made if need be; None where there can be none."""
    try:
        folder = platformdirs.user_state_path("xbarlab", appauthor=False) / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or nowhere to write
        return None
    return folder
