"""The `xbar` command begins here, in a package that no folder of a laboratory is called like.

The packages of this program have general names. A folder `analysis/` or a file `mapping.py` of somebody else's that
comes first on Python's path takes the place of one of them, and that is said here, before anything of it is imported.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from xbarlab.surroundings import find_home, find_working_folder

#: The packages of this program beside this one.
ROOMS = ("instruments", "sim_backends", "mapping", "analysis", "protocols")
HOME = Path(__file__).resolve().parent.parent


def hidden_rooms() -> dict[str, str]:
    """Packages of this program that Python finds elsewhere or not at all, and what it finds in their place ("")."""
    found = {}
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        where = "" if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), "")
        if not where or HOME / room not in Path(where).resolve().parents:
            found[room] = where
    return found


def check_rooms() -> None:
    """End the program, naming the cause, if another package stands in the place of one of ours.

    Raises
    ------
    SystemExit
        With status 1.
    """
    said = []
    for room, where in hidden_rooms().items():
        if not where:
            said.append(f"xbar: its package {room!r} is not in {HOME}: install xbarlab again")
            continue
        module = Path(where)
        thing = module.parent if module.name == "__init__.py" else module
        said.append(
            f"xbar: {thing} stands in the place of xbarlab's own package {room!r}: rename it, take {thing.parent} off "
            "PYTHONPATH, or start from another folder (with a PYTHONPATH that does not begin or end with a colon)"
        )
    if said:
        sys.stderr.write("\n".join(said) + "\n")
        raise SystemExit(1)


def prepare() -> None:
    """See that the program finds its own packages, a working folder and a home, before any of it is loaded.

    Raises
    ------
    SystemExit
        With status 1 and the cause, if it cannot.
    """
    find_working_folder()
    check_rooms()
    said = find_home()
    if said:
        sys.stderr.write(f"xbar: {said}\n")


def main() -> None:
    """Entry point of `xbar`."""
    try:
        prepare()
        from protocols.cli import main as begin

        begin()
    except KeyboardInterrupt:  # while the program was still being loaded
        raise SystemExit(130) from None
