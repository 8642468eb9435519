"""The two files of a twin: the lot file, value by value with its source, and the measured dies beside it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.twin.junctions import Circuit, JunctionMap
from analysis.twin.lot_file import NOT_TOLD, LotTree
from analysis.twin.read_noise import NoiseFit
from analysis.twin.recorded_dies import RecordedDie
from analysis.twin.switching import SwitchingFit, Trials, draw_critical
from mapping.dies.defects import DefectStatistics
from mapping.dies.die_record import CellClass

#: Format of the measured dies; `sim_backends/array/dies/measured.py` describes it.
FORMAT = "xbarlab measured dies 1"
LINE_KINDS = {"row": 0, "column": 1, "shared_row": 3}  # codes of the file; 2 is a gate, which reads like a column
DIRECTIONS = ("to_ap", "to_p")

_POINT = ("short", "open", "stuck_p", "stuck_ap", "weak_tmr")  # `mapping.dies.defects.POINT` in the words of a lot file


def cells_file(dies: Sequence[RecordedDie], trials: Sequence[Trials], fits: Sequence[SwitchingFit]) -> bytes:
    """The ``.npz`` of the measured dies; the same record gives the same bytes."""
    shape = (len(dies), *dies[0].record.geometry.shape)
    rng = np.random.default_rng(0)
    critical = [draw_critical(t, int(np.prod(shape)), fit.law, rng) for t, fit in zip(trials, fits, strict=True)]
    classes = np.stack([die.record.cell_class for die in dies])
    faults = [(index, fault) for index, die in enumerate(dies) for fault in die.record.line_faults]
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "v_read": np.array(dies[0].v_read, np.float64),
        "site": np.array([die.site for die in dies], np.int64),
        "g_p": np.stack([die.record.g_p for die in dies]).astype(np.float32),
        "g_ap": np.stack([die.record.g_ap for die in dies]).astype(np.float32),
        "kind": np.where(classes == CellClass.DEAD_LINE, 0, classes).astype(np.uint8),  # the other codes are the same
        "state": np.stack([die.state for die in dies]),
        **{
            f"v_critical_{way}": v.reshape(shape).astype(np.float32)
            for way, v in zip(DIRECTIONS, critical, strict=True)
        },
        "line_die": np.array([index for index, _ in faults], np.int64),
        "line_kind": np.array([LINE_KINDS[fault.kind] for _, fault in faults], np.int64),
        "line_block": np.array([fault.block for _, fault in faults], np.int64),
        "line_index": np.array([fault.index for _, fault in faults], np.int64),
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def describe_devices(
    tree: LotTree, dies: Sequence[RecordedDie], junctions: Sequence[JunctionMap], circuit: Circuit, strongest: float
) -> None:
    """What the healthy cells have in common, and how many are broken: for new dies like these."""
    good = [(j.r_p[d.good], j.tmr[d.good]) for d, j in zip(dies, junctions, strict=True)]
    r_p, tmr = (np.concatenate([pair[i] for pair in good]) for i in (0, 1))
    said = f"measured: {r_p.size} good cells of {len(dies)} dies"
    tree.put("devices.r_p", float(np.median(r_p)), said)
    tree.put("devices.r_p_spread", float(np.std(np.log(r_p))), said)
    tree.put("devices.tmr", float(np.median(tmr)), said)
    tree.put("devices.tmr_spread", float(np.std(np.log(np.maximum(tmr, 0.01)))), f"{said}; with the noise of a read")
    shorts = [j.r_p[d.record.cell_class == CellClass.SHORT] for d, j in zip(dies, junctions, strict=True)]
    if sum(s.size for s in shorts):
        tree.put("devices.r_short", float(np.median(np.concatenate(shorts))), "measured: median of the shorts")
    r_ap = float(np.median(r_p * (1 + tmr)))
    survived = strongest * r_ap / (r_ap + circuit.r_selector)
    least = survived / (1 - 4 * tree.number("devices.v_breakdown_spread"))
    if least > tree.number("devices.v_breakdown"):
        tree.put(
            "devices.v_breakdown", least, f"assumed: above the {survived:.3g} V that recorded pulses did not break"
        )
    _describe_defects(tree, dies)


def _describe_defects(tree: LotTree, dies: Sequence[RecordedDie]) -> None:
    statistics = DefectStatistics.fit([die.record for die in dies])
    said = f"measured: {len(dies)} dies"
    tree.put("defects.rate_median", float(np.exp(statistics.rate_mu)), said)
    tree.put("defects.rate_log_sigma", statistics.rate_sigma, said)
    tree.put("defects.rate_max", min(1.0, statistics.rate_max), f"{said}; twice the largest")
    for name, share in zip(_POINT, statistics.shares / statistics.shares.sum(), strict=True):
        tree.put(f"defects.shares.{name}", float(share), said)
    rows, columns, shared = (float(mean) for mean in statistics.lines)
    tree.put("defects.dead_rows", rows, said)
    tree.put("defects.dead_columns", columns, said)
    tree.put("defects.dead_gates", 0.0, "counted as columns: reads do not tell them apart")
    tree.put("defects.dead_rows_shared", shared, said)


def describe_switching(tree: LotTree, fits: Sequence[SwitchingFit]) -> None:
    """Critical voltages, their spread and delta, fitted or assumed."""
    for way, fit in zip(DIRECTIONS, fits, strict=True):
        tree.put(f"devices.switching.v_critical_{way}", fit.law.v_critical, _critical_source(fit))
    spreads = [fit for fit in fits if fit.spread_error is not None]
    if spreads:
        said = "; ".join(f"{fit.law.spread:.2%} +- {fit.spread_error:.2%} from {fit.pulses} pulses" for fit in spreads)
        spread = float(np.mean([fit.law.spread for fit in spreads]))
        tree.put("devices.switching.v_critical_spread", spread, f"fitted: {said}")
    if fits[0].delta_error is not None:
        pulses = sum(fit.pulses for fit in fits)
        said = f"fitted from {pulses} pulses: +- {fits[0].delta_error:.2g}"
        tree.put("devices.switching.delta", fits[0].law.delta, said)
    tree.put("devices.switching.delta_spread", 0.0, "none: what it does is in the spread of the critical voltages")


def _critical_source(fit: SwitchingFit) -> str:
    told = f"{fit.pulses} pulses, {fit.failed} of them failed"
    if fit.v_critical_error is not None:
        return f"fitted from {told}: +- {fit.v_critical_error:.2g} V; each cell has its own"
    if not fit.agrees:
        return f"assumed: nearest to the built-in lot's value that does not contradict the record ({told})"
    return NOT_TOLD if not fit.pulses else f"{NOT_TOLD} ({told})"


def describe_noise(tree: LotTree, noise: NoiseFit | None) -> None:
    """Noise of the reads; without it the station's own holds."""
    if noise is not None:
        said = f"fitted from {noise.pairs} pairs of reads"
        tree.put("read_noise.cell", noise.cell, said)
        tree.put("read_noise.current", noise.current, f"{said}; quantisation included")


def describe_lot(tree: LotTree, dies: Sequence[RecordedDie], folder: Path, output: Path, content: bytes) -> None:
    """Name, geometry, wafer: the dies lie where they lay. The name goes with the content, and saved states with it."""
    geometry = dies[0].record.geometry
    tree.set_plain("name", f"twin-{hashlib.sha256(content).hexdigest()[:12]}")
    names = ", ".join(die.name for die in dies[:6]) + (" ..." if len(dies) > 6 else "")
    tree.set_plain("description", f"twin of {len(dies)} dies recorded in {folder.name}: {names}")
    for name in ("blocks", "block_rows", "block_columns", "rows", "columns"):
        tree.put(f"geometry.{name}", getattr(geometry, name), "as the array tester reported")
    tree.put("wafer.dies", len(dies), "recorded")
    tree.put("wafer.listed", [list(die.site) for die in dies], "recorded")
    tree.put("v_read", dies[0].v_read, "recorded")
    tree.set_plain("measured", output.with_suffix(".npz").name)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
