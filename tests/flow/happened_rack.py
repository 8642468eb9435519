"""What physically happened at a simulated rack, from its log: pulses of a generator, limits of a unit, relays."""

from __future__ import annotations

from typing import Any

import numpy as np
from happened import of_kind

from analysis.record.record import Intent, Record

Entries = list[dict[str, Any]]


def shots_of(mask: np.ndarray) -> list[np.ndarray]:
    """Parts of a mask that a rack fires one after the other: columns with the same rows, by the first of them."""
    alike: dict[bytes, list[int]] = {}
    for column in np.flatnonzero(mask.any(axis=0)):
        alike.setdefault(mask[:, column].tobytes(), []).append(int(column))
    parts = []
    for columns in alike.values():
        part = np.zeros_like(mask)
        part[:, columns] = mask[:, columns]
        parts.append(part)
    return parts


def assert_shots_were_intended(entries: Entries, record: Record, die: str, dead_rows: tuple[int, ...]) -> int:
    """Every shot that the only die of a run got is one that the record holds, in its order, none of them twice.

    The shots between one batch and the next belong to the first. Returns how many there were. Cells of
    `dead_rows` see nothing of a pulse.
    """
    intents = record.intents(die)
    shots = of_kind(entries, "pulse")
    assert all(shot["contact"] for shot in shots)
    began = sorted({intent.time for intent in intents})
    next_batch = dict(zip(began, [*began[1:], np.inf], strict=True))
    at = 0
    for intent in intents:
        until, got = next_batch[intent.time], []
        while at < len(shots) and shots[at]["wall_s"] < until and len(got) < len(shots_of(intent.pulse.mask)):
            got.append(shots[at])
            at += 1
        _assert_fits(intent, got, dead_rows)
    assert at == len(shots), f"{len(shots) - at} shots were fired that nobody intended"
    return at


def _assert_fits(intent: Intent, got: Entries, dead_rows: tuple[int, ...]) -> None:
    pulse, parts = intent.pulse, shots_of(intent.pulse.mask)
    where = f"batch {intent.batch}, pulse {intent.position}"
    assert intent.fired is not False or not got, f"{where}: the record takes it for not fired"
    assert intent.fired is not True or len(got) == len(parts), f"{where}: {len(got)} of {len(parts)} shots were fired"
    for shot, part in zip(got, parts, strict=False):
        if set(np.flatnonzero(part.any(axis=1))) <= set(dead_rows):
            assert abs(shot["v"]) <= 0.5 * abs(pulse.amplitude) + 1e-3, f"{where}: more than half on other cells"
        else:
            assert part[tuple(shot["cell"])], f"{where}: cell {shot['cell']}, which was not selected, got most of it"
        assert abs(shot["volts"]["pulser.1"] - pulse.amplitude) < 2e-3, where
        assert abs(shot["volts"]["pulser.2"] - pulse.amplitude / 2) < 2e-3, where
        assert (shot["count"], pulse.count) == (1, 1) and abs(shot["width_s"] - pulse.width) < 1e-9, where


def assert_no_mark_came_twice(entries: Entries) -> None:
    """The generator shows the mark of the pulse before: the n-th of a power-on follows the mark of the one before it.

    A mark is ``xbar <pulse>/<shot>``; a display without one says that the generator has just been switched on.
    """
    last = (0, 0)
    for shot in of_kind(entries, "pulse"):
        shown = tuple(int(part) for part in shot["text"].removeprefix("xbar ").split("/")) if shot["text"] else None
        assert shown is None or shown > last, f"{shot['text']} after {last}"
        last = shown or (0, 0)


def assert_limits_were_kept(entries: Entries, cap: float, current_limit: float) -> None:
    """No output beyond the cap, no channel on beyond its limit, no source against another, no relay under voltage."""
    for shot in of_kind(entries, "pulse"):
        assert max(map(abs, shot["volts"].values())) <= cap + 1e-9
        assert abs(shot["v"]) <= cap + 1e-9
    driven = [entry for entry in of_kind(entries, "smu") if entry["output"]]
    assert driven and all(entry["limit"] <= current_limit * (1 + 1e-6) for entry in driven)
    assert not of_kind(entries, "damage", "hot_switch", "dwell")


def dose_of(record: Record, die: str, fired: bool | None) -> np.ndarray:
    """Pulses of every cell ``[row, column]`` by the intents that were fired (None: of which that is unknown)."""
    parts = [intent.pulse.mask.astype(int) for intent in record.intents(die) if intent.fired is fired]
    return np.sum(parts, axis=0) if parts else np.zeros((1, 1), int)
