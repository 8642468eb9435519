"""What physically happened at a simulated station, from its log."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from analysis.record.record import Intent, Record
from sim_backends.array.dies.readout import ReadoutSpec
from sim_backends.bench.physical_log import mask_digest

#: What reaches a die or moves it; `start`, `end` and the outputs of an idle board do not.
ACTIONS = ("move", "contact", "pulse", "read", "multiply")
#: Step of the simulated board's voltages (V).
DAC_LSB = ReadoutSpec().dac_lsb


def happened(log: Path) -> list[dict[str, Any]]:
    """Every entry of a physical log, from the start of the station on; without a line that is just being written."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
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


def safe_after(entries: list[dict[str, Any]], moment: float) -> float | None:
    """Seconds from a moment (s since 1970) until the lines were grounded and the needles up; None: they never were.

    What the log says first counts; 0 if it was so already.
    """
    grounded, up = True, True
    since: float | None = 0.0
    for entry in of_kind(entries, "outputs", "contact", "separation"):
        if entry["wall_s"] > moment and grounded and up:
            break
        if entry["what"] == "outputs":
            grounded = entry["mode"] == "hard_ground"
        else:
            up = entry["what"] == "separation"
        since = max(0.0, entry["wall_s"] - moment) if grounded and up else None
    return since


def assert_frames_were_intended(
    entries: list[dict[str, Any]], record: Record, names: dict[tuple[int, int], str]
) -> int:
    """Every pulse frame that a die got is one that the record holds, in its order, and none of them came twice.

    The frames between one intent and the next belong to the first: they must be its pulses from the first on, all of
    them where the record says that all were fired, so many as it says where it knows. Returns how many there were.
    `names`: dies by their sites.
    """
    batches: dict[int, list[Intent]] = {}
    for intent in (intent for die in names.values() for intent in record.intents(die)):
        batches.setdefault(intent.batch, []).append(intent)
    order = sorted(batches)
    began = [batches[number][0].time for number in order]
    die_of = {intent.batch: die for die in names.values() for intent in record.intents(die)}
    frames: dict[int, list[dict[str, Any]]] = {number: [] for number in order}
    for entry in of_kind(entries, "pulse"):
        place = bisect_right(began, entry["wall_s"]) - 1
        assert place >= 0, "a pulse was fired before any was in the record"
        frames[order[place]].append(entry)
    assert began == sorted(began)
    for number, got in frames.items():
        intended = batches[number]
        assert len(got) <= len(intended), f"batch {number} holds {len(intended)} pulses, the die got {len(got)}"
        for entry, intent in zip(got, intended, strict=False):
            pulse = intent.pulse
            assert intent.fired is not False, f"batch {number}: a pulse that the record takes for not fired was fired"
            assert entry["contact"] and names[tuple(entry["site"])] == die_of[number]
            assert (entry["kernel"], entry["count"]) == (pulse.kernel, pulse.count)
            assert entry["mask"] == mask_digest(pulse.mask)
            assert abs(entry["v"] - pulse.amplitude) < DAC_LSB and abs(entry["width_s"] - pulse.width) < 1e-9
        for intent in intended[len(got) :]:
            assert intent.fired is not True, f"batch {number}: pulse {intent.position} was confirmed and never fired"
    return sum(map(len, frames.values()))


def assert_read_before_pulsed(
    entries: list[dict[str, Any]], site: tuple[int, int], kernels: set[int], moment: float
) -> None:
    """Before a die gets its first pulse after a moment, needles come down on it anew and its kernels are read."""
    later = [entry for entry in entries if entry["wall_s"] > moment and tuple(entry.get("site") or ()) == site]
    first = next((i for i, entry in enumerate(later) if entry["what"] == "pulse"), None)
    if first is None:
        return
    contact = next((i for i, entry in enumerate(later[:first]) if entry["what"] == "contact"), None)
    assert contact is not None, "pulsed without a new contact"
    read = {entry["kernel"] for entry in of_kind(later[contact:first], "read") if entry["contact"]}
    assert kernels <= read, f"kernels {sorted(kernels - read)} were pulsed again without a look at them"


def operations(entries: list[dict[str, Any]], site: tuple[int, int]) -> list[tuple[Any, ...]]:
    """What was done to a die, in order, without times: equal operations on equal dies have equal results."""
    done = [entry for entry in of_kind(entries, "read", "pulse", "multiply") if tuple(entry["site"] or ()) == site]
    return [(entry["what"], entry["kernel"], entry["mask"], entry["v"], entry["contact"]) for entry in done]
