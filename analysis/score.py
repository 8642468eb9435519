"""Comparing a record with the truth of the dies it was made of; only simulated dies have a truth file.

The truth never reaches a protocol, driver or training: it is read here, afterwards.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.lot_results import MEASURE, PROGRAM
from analysis.record import Record
from mapping.die_record import HARD_DEFECTS, CellClass, DieRecord

BoolArray = NDArray[np.bool_]

#: Arrays of a truth file that are compared (`sim_backends.truth` says what they are).
_NEEDED = ("die", "site", "kind", "alive", "broken", "state", "line_die", "line_mask", "meta")
#: What numpy raises on a file that is damaged or no archive, or that claims to be larger than the memory.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, zipfile.BadZipFile)


class TruthError(ValueError):
    """The truth file is not one, or of other dies than the record."""


@dataclass(frozen=True)
class DieScore:
    """How a record compares with the truth of one die.

    Attributes
    ----------
    defects_true, defects_found, defects_right : int
        Hard defects (short, open, stuck) off dead lines: in truth, in the record, in both.
    class_right : int
        Those found that also have the right class.
    lines_true, lines_found, lines_right : int
        Dead lines.
    healthy, in_state : int
        Truly healthy cells that the last schedule wrote, and those truly in the state it asked for.
    """

    die: str
    defects_true: int
    defects_found: int
    defects_right: int
    class_right: int
    lines_true: int
    lines_found: int
    lines_right: int
    healthy: int
    in_state: int


def score(record: Record, truth_file: Path) -> list[DieScore]:
    """Score every measured die of a record.

    Raises
    ------
    TruthError
        If the file cannot be read as truth, or holds none of the measured dies.
    """
    truth = _load(truth_file)
    names = [f"c{column}r{row}" for column, row in truth["site"]]
    scores = []
    for die in names:
        measured, wanted = _newest(record, die)
        if measured is not None:
            scores.append(_score_die(die, names.index(die), truth, DieRecord.from_dataset(measured), wanted))
    if not scores:
        raise TruthError(
            f"{truth_file} holds the dies {', '.join(names[:5])} ..., none of which the record has measured"
        )
    return scores


def totals(scores: list[DieScore]) -> dict[str, float]:
    """Recall, precision and the share of healthy cells in their state, over all dies (1 where there is nothing)."""

    def ratio(part: str, whole: str) -> float:
        whole_sum = sum(getattr(s, whole) for s in scores)
        return sum(getattr(s, part) for s in scores) / whole_sum if whole_sum else 1.0

    return {
        "dies": len(scores),
        "in_state": ratio("in_state", "healthy"),
        "defect_recall": ratio("defects_right", "defects_true"),
        "defect_precision": ratio("defects_right", "defects_found"),
        "class_right": ratio("class_right", "defects_right"),
        "line_recall": ratio("lines_right", "lines_true"),
        "line_precision": ratio("lines_right", "lines_found"),
    }


def _newest(record: Record, die: str) -> tuple[xr.Dataset | None, NDArray[np.int8] | None]:
    """How a die was measured last, and what was programmed after that (None: nothing), by whatever protocol."""
    protocols = {run["protocol"] for run in record.runs()}
    steps = sorted((step for name in protocols for step in record.history(name, die)), key=lambda step: step.id)
    measured = [step for step in steps if step.function == MEASURE and step.verdict == "pass"]
    if not measured:
        return None, None
    programmed = [step for step in steps if step.function == PROGRAM and step.id > measured[-1].id]
    wanted = record.load(programmed[-1])["wanted"].values if programmed else None
    return record.load(measured[-1]), wanted


def _load(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            truth: dict[str, Any] = {name: file[name] for name in _NEEDED}
        truth["meta"] = json.loads(str(truth["meta"]))
        truth["site"] = [tuple(int(v) for v in site) for site in truth["site"]]
    except _UNREADABLE as error:
        raise TruthError(f"{path} is not a truth file (xbar sim STATION --truth FILE writes one): {error}") from error
    return truth


def _score_die(
    name: str, place: int, truth: dict[str, Any], record: DieRecord, wanted: NDArray[np.int8] | None
) -> DieScore:
    kinds = np.array(truth["meta"]["kinds"])[truth["kind"][place]]
    alive, broken = truth["alive"][place].astype(bool), truth["broken"][place].astype(bool)
    true_class = _classes(kinds, broken)
    hard = np.isin(true_class, HARD_DEFECTS) & alive
    on_line = record.cell_class == CellClass.DEAD_LINE
    found = np.isin(record.cell_class, HARD_DEFECTS) & ~on_line & alive
    lines, found_lines = _true_lines(place, truth), {f.cells(record.geometry).tobytes() for f in record.line_faults}
    healthy = alive & (true_class == CellClass.GOOD) & (wanted is not None and wanted >= 0)
    state_is_p = ~truth["state"][place].astype(bool)
    in_state = healthy & (state_is_p == (wanted == 1)) if wanted is not None else healthy
    return DieScore(
        die=name,
        defects_true=int(hard.sum()),
        defects_found=int(found.sum()),
        defects_right=int((hard & found).sum()),
        class_right=int((hard & found & (record.cell_class == true_class)).sum()),
        lines_true=len(lines),
        lines_found=len(found_lines),
        lines_right=len(lines & found_lines),
        healthy=int(healthy.sum()),
        in_state=int(in_state.sum()),
    )


def _classes(kinds: NDArray[np.str_], broken: BoolArray) -> NDArray[np.uint8]:
    """Truth in the words of the record; a cell broken by a pulse is a short."""
    words = {"short": CellClass.SHORT, "open": CellClass.OPEN, "stuck_p": CellClass.STUCK_P,
             "stuck_ap": CellClass.STUCK_AP, "weak_tmr": CellClass.WEAK}  # fmt: skip
    out = np.zeros(kinds.shape, np.uint8)
    for word, code in words.items():
        out[kinds == word] = code
    return np.where(broken, np.uint8(CellClass.SHORT), out)


def _true_lines(place: int, truth: dict[str, Any]) -> set[bytes]:
    """Dead lines of a die as sets of cells, so that a column and its gate count as the one line they look like."""
    of_die = np.asarray(truth["line_die"]) == truth["die"][place]
    return {np.asarray(mask, bool).tobytes() for mask in truth["line_mask"][of_die]}
