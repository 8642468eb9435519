"""Lot files as this room writes them: every value with where it comes from. Their format is that of `xbar sim`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from operator import attrgetter
from typing import Any

import yaml

from sim_backends.array.dies.lot import load_lot

BUILT_IN = "mtj"
NOT_TOLD = f"assumed: built-in lot {BUILT_IN}, the record does not tell"


class LotTree:
    """Content of a lot file: at first all of the built-in lot, as assumed; then what was measured takes its place."""

    def __init__(self) -> None:
        text = (files("sim_backends") / "lots" / f"{BUILT_IN}.yaml").read_text(encoding="utf-8")
        self._tree: dict[str, Any] = yaml.safe_load(text)
        self._built_in = load_lot(BUILT_IN)
        for leaf in list(_leaves(self._tree)):
            leaf["source"] = NOT_TOLD

    def number(self, path: str) -> float:
        """A value in SI units, by its dotted path."""
        value = self._leaf(path)["value"]
        return float(
            attrgetter(path)(self._built_in) if isinstance(value, str) else value
        )  # text: of the built-in file

    def put(self, path: str, value: Any, source: str) -> None:
        """Replace a value (in SI units), or add one."""
        self._leaf(path).update({"value": value, "source": source})

    def source(self, path: str) -> str:
        """Where a value comes from; that the record does not tell, for one that the file does not have."""
        here: Any = self._tree
        for part in path.split("."):
            here = here.get(part, {})
        return str(here.get("source", NOT_TOLD))

    def set_plain(self, key: str, value: Any) -> None:
        """Set an entry of the file that needs no source."""
        self._tree[key] = value

    def text(self) -> str:
        """The file."""
        return yaml.safe_dump(self._tree, sort_keys=False, allow_unicode=True, width=110)

    def _leaf(self, path: str) -> dict[str, Any]:
        here = self._tree
        for part in path.split("."):
            here = here.setdefault(part, {})
        return here


def _leaves(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for value in tree.values():
        if isinstance(value, dict) and "value" in value:
            yield value
        elif isinstance(value, dict):
            yield from _leaves(value)
