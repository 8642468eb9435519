"""What physically happened at a simulated station, from its log."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from analysis.record import Record
from sim_backends.physical_log import mask_digest

#: What reaches a die or moves it; `start`, `end` and the outputs of an idle board do not.
ACTIONS = ("move", "contact", "pulse", "read", "multiply")


def happened(log: Path) -> list[dict[str, Any]]:
    """Every entry of a physical log, from the start of the station on."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    first = next((i for i, entry in enumerate(entries) if entry["what"] == "start"), len(entries))
    return entries[first:]


def of_kind(entries: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    """The entries of some kinds."""
    return [entry for entry in entries if entry["what"] in kinds]


def fired(entries: list[dict[str, Any]], site: tuple[int, int]) -> Counter[tuple[int, str]]:
    """Pulses that a die really got, by kernel and mask."""
    count: Counter[tuple[int, str]] = Counter()
    for entry in of_kind(entries, "pulse"):
        if entry["contact"] and tuple(entry["site"]) == site:
            count[entry["kernel"], entry["mask"]] += entry["count"]
    return count


def fired_per_cell(entries: list[dict[str, Any]], record: Record, die: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Pulses that every cell of a die really got; a mask that the record does not know is a pulse behind its back."""
    masks = {mask_digest(pulse.mask): pulse.mask for pulse in record.pulses(die)}
    column, row = die.removeprefix("c").split("r")
    total = np.zeros(shape, int)
    for (kernel, mask), count in fired(entries, (int(column), int(row))).items():
        assert mask in masks, f"kernel {kernel} of {die} was pulsed with a mask that the record does not hold"
        total[kernel] += count * masks[mask]
    return total


def assert_left_safely(entries: list[dict[str, Any]]) -> None:
    """The last thing a die saw is: lines to hard ground, then needles off; and no move was ever made in contact."""
    moves = of_kind(entries, "move")
    assert not any(move["contact_while_moving"] for move in moves)
    last = of_kind(entries, "separation")[-1]
    after = entries[entries.index(last) + 1 :]
    assert last["outputs"] == "hard_ground" and not of_kind(after, *ACTIONS)
    assert all(entry["outputs"] == "hard_ground" for entry in of_kind(entries, "separation"))
