"""Comparing a record with the truth of the dies it was made of; only simulated dies have a truth file.

The truth never reaches a protocol, driver or training: it is read here, afterwards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.record import Record
from analysis.record.step_names import MEASURE_ANALOG, MEASURE_STATES, PROGRAM, WRITE_ANALOG
from mapping.dies.analog_die import LIMITS
from mapping.dies.die_record import HARD_DEFECTS, CellClass, LineFault
from mapping.dies.geometry import ArrayGeometry
from sim_backends.array.files.npz import UNREADABLE, read_npz

BoolArray = NDArray[np.bool_]

#: Steps that measure dies, and that write states or conductances.
_MEASURE, _PROGRAM = (MEASURE_STATES, MEASURE_ANALOG), (PROGRAM, WRITE_ANALOG)
#: Arrays of a truth file that are compared (`sim_backends.bench.truth` says what they are), and what cells are in, by
#: kind.
_NEEDED = ("die", "site", "kind", "alive", "broken", "line_die", "line_mask", "meta")
_STATES = ("state", "g_read")
#: What numpy raises on a file that is damaged or no archive, or that claims to be larger than the memory.
_LARGEST = 1 << 29  # bytes of a truth file, unpacked


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
    asked, right : int
        Cells that the last schedule asked for, broken ones among them, and those truly in the state it asked for: P or
        AP, or a conductance within the schedule's tolerance, as a read without noise would show it.
    healthy, in_state : int
        The same of truly healthy cells: what can be held against the writing.
    """

    die: str
    defects_true: int
    defects_found: int
    defects_right: int
    class_right: int
    lines_true: int
    lines_found: int
    lines_right: int
    asked: int
    right: int
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
        measured, programmed = _newest(record, die)
        if measured is not None:
            scores.append(_score_die(die, names.index(die), truth, _Found.of(measured), programmed))
    if not scores:
        raise TruthError(
            f"{truth_file} holds the dies {', '.join(names[:5])} ..., none of which the record has measured"
        )
    return scores


def totals(scores: list[DieScore]) -> dict[str, float | None]:
    """Shares of cells in their state, of all asked for and of the healthy ones (None where nothing was written); recall
    and precision of defects and lines, over all dies (1 where there are none)."""

    def share(part: str, whole: str) -> float | None:
        return ratio(part, whole) if sum(getattr(s, whole) for s in scores) else None

    def ratio(part: str, whole: str) -> float:
        whole_sum = sum(getattr(s, whole) for s in scores)
        return sum(getattr(s, part) for s in scores) / whole_sum if whole_sum else 1.0

    return {
        "dies": len(scores),
        "right": share("right", "asked"),
        "in_state": share("in_state", "healthy"),
        "defect_recall": ratio("defects_right", "defects_true"),
        "defect_precision": ratio("defects_right", "defects_found"),
        "class_right": ratio("class_right", "defects_right"),
        "line_recall": ratio("lines_right", "lines_true"),
        "line_precision": ratio("lines_right", "lines_found"),
    }


@dataclass(frozen=True)
class _Found:
    """What a record says of the cells of a die, whatever they are made of."""

    cell_class: NDArray[np.uint8]
    geometry: ArrayGeometry
    line_faults: tuple[LineFault, ...]

    @classmethod
    def of(cls, data: xr.Dataset) -> _Found:
        lines = json.loads(data.attrs["line_faults"])
        geometry = ArrayGeometry.from_dict(json.loads(data.attrs["geometry"]))
        cells = np.asarray(data["cell_class"].values, np.uint8)
        return cls(cells, geometry, tuple(LineFault(*line) for line in lines))


def _newest(record: Record, die: str) -> tuple[xr.Dataset | None, xr.Dataset | None]:
    """How a die was measured last, and what was programmed after that (None: nothing), by whatever protocol."""
    protocols = {run["protocol"] for run in record.runs()}
    steps = sorted((step for name in protocols for step in record.history(name, die)), key=lambda step: step.id)
    measured = [step for step in steps if step.name in _MEASURE and step.verdict == "pass"]
    if not measured:
        return None, None
    programmed = [step for step in steps if step.name in _PROGRAM and step.id > measured[-1].id]
    return record.load(measured[-1]), record.load(programmed[-1]) if programmed else None


def _load(path: Path) -> dict[str, Any]:
    try:
        file = read_npz(path, _LARGEST)
        truth: dict[str, Any] = {name: file[name] for name in _NEEDED}
        truth |= {name: file[name] for name in _STATES if name in file}
        truth["meta"] = json.loads(str(truth["meta"]))
        truth["site"] = [tuple(int(v) for v in site) for site in truth["site"]]
    except UNREADABLE as error:
        raise TruthError(f"{path} is not a truth file (xbar sim STATION --truth FILE writes one): {error}") from error
    return truth


def _score_die(name: str, place: int, truth: dict[str, Any], record: _Found, programmed: xr.Dataset | None) -> DieScore:
    kinds = np.array(truth["meta"]["kinds"])[truth["kind"][place]]
    alive, broken = truth["alive"][place].astype(bool), truth["broken"][place].astype(bool)
    true_class = _classes(kinds, broken)
    if "g_read" in truth:  # there is no other way to tell a stuck cell from a short or an open than what it reads
        stuck, g = np.isin(true_class, (CellClass.STUCK_LRS, CellClass.STUCK_HRS)), truth["g_read"][place]
        true_class[stuck & (g > LIMITS.short_above)] = CellClass.SHORT
        true_class[stuck & (g < LIMITS.open_below)] = CellClass.OPEN
    hard = np.isin(true_class, HARD_DEFECTS) & alive
    on_line = record.cell_class == CellClass.DEAD_LINE
    found = np.isin(record.cell_class, HARD_DEFECTS) & ~on_line & alive
    lines, found_lines = _true_lines(place, truth), {f.cells(record.geometry).tobytes() for f in record.line_faults}
    asked, right = _asked_and_right(place, truth, programmed)
    healthy = alive & (true_class == CellClass.GOOD) & asked
    return DieScore(
        die=name,
        defects_true=int(hard.sum()),
        defects_found=int(found.sum()),
        defects_right=int((hard & found).sum()),
        class_right=int((hard & found & (record.cell_class == true_class)).sum()),
        lines_true=len(lines),
        lines_found=len(found_lines),
        lines_right=len(lines & found_lines),
        asked=int(asked.sum()),
        right=int((alive & asked & right).sum()),
        healthy=int(healthy.sum()),
        in_state=int((healthy & right).sum()),
    )


def _asked_and_right(place: int, truth: dict[str, Any], programmed: xr.Dataset | None) -> tuple[BoolArray, BoolArray]:
    """Cells that a schedule wrote, and those that truly are as it asked, healthy or not."""
    if programmed is None:
        nothing = np.zeros(truth["kind"][place].shape, bool)
        return nothing, nothing
    if "target" in programmed:
        target, tolerance = programmed["target"].values, json.loads(programmed.attrs["settings"])["tolerance"]
        return np.isfinite(target), np.abs(truth["g_read"][place] - target) <= tolerance * target
    wanted = programmed["wanted"].values
    return wanted >= 0, ~truth["state"][place].astype(bool) == (wanted == 1)


def _classes(kinds: NDArray[np.str_], broken: BoolArray) -> NDArray[np.uint8]:
    """Truth in the words of the record; a cell broken by a pulse is a short."""
    words = {"short": CellClass.SHORT, "open": CellClass.OPEN, "stuck_p": CellClass.STUCK_P,
             "stuck_ap": CellClass.STUCK_AP, "weak_tmr": CellClass.WEAK,
             "stuck_lrs": CellClass.STUCK_LRS, "row_lrs": CellClass.STUCK_LRS, "row_short": CellClass.STUCK_LRS,
             "stuck_hrs": CellClass.STUCK_HRS, "row_hrs": CellClass.STUCK_HRS, "as_found": CellClass.STUCK_LRS,
             }  # fmt: skip
    out = np.zeros(kinds.shape, np.uint8)
    for word, code in words.items():
        out[kinds == word] = code
    return np.where(broken, np.uint8(CellClass.SHORT), out)


def _true_lines(place: int, truth: dict[str, Any]) -> set[bytes]:
    """Dead lines of a die as sets of cells, so that a column and its gate count as the one line they look like."""
    of_die = np.asarray(truth["line_die"]) == truth["die"][place]
    return {np.asarray(mask, bool).tobytes() for mask in truth["line_mask"][of_die]}
