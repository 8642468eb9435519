"""Twins: simulated dies that read and switch as the dies of a recorded lot did, as a lot file and its measured dies.

Everything comes from the record and goes into files (`analysis.twin.files`). What is fitted from what is in
docs/twin.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.record.own_files import check_output, is_measured_dies, is_sealed, sealed
from analysis.record.record import Record
from analysis.twin import files as twin_files
from analysis.twin.files import DIRECTIONS
from analysis.twin.junctions import Circuit, JunctionMap, cell_resistance, junction_map, read_among_p, v_half_of
from analysis.twin.lot_file import NOT_TOLD, LotTree
from analysis.twin.pulse_trials import trials_of_die
from analysis.twin.read_noise import NoiseFit, fit_read_noise
from analysis.twin.recorded_dies import RecordedDie, TwinError, kept_reads, measured_dies
from analysis.twin.switching import Law, SwitchingFit, Trials, fit_switching

__all__ = ["TwinDie", "TwinError", "TwinReport", "write_twin"]


@dataclass(frozen=True)
class TwinDie:
    """A die of the twin: its name in the record, cells of each class, dead lines, and pulses that tell of switching."""

    name: str
    cells: dict[str, int]
    pulses: int


@dataclass(frozen=True)
class TwinReport:
    """What a twin was made of.

    Attributes
    ----------
    lot, measured : Path
        The files written.
    dies : tuple of TwinDie
    switching : dict of SwitchingFit
        By direction, ``to_ap`` and ``to_p``.
    r_selector, v_half : float
        Ohm, V.
    v_half_fitted : bool
    noise : NoiseFit or None
        None if no cell was read often enough; the station's own noise holds then.
    sources : dict
        Where each fitted value comes from, as the lot file says.
    """

    lot: Path
    measured: Path
    dies: tuple[TwinDie, ...]
    switching: dict[str, SwitchingFit]
    r_selector: float
    v_half: float
    v_half_fitted: bool
    noise: NoiseFit | None
    sources: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.lot}: {len(self.dies)} dies as recorded (cells in {self.measured.name})"]
        for die in self.dies:
            cells = ", ".join(f"{count} {name}" for name, count in die.cells.items() if count)
            lines.append(f"  {die.name}: {cells}; {die.pulses} pulses tell of switching")
        return "\n".join(lines + [f"  {path}: {source}" for path, source in self.sources.items()])


def write_twin(folder: Path, output: Path) -> TwinReport:
    """Fit simulated dies to the record of a run and write them as a lot file, with an ``.npz`` of the same name.

    Raises
    ------
    TwinError
        If the record holds no measured die, dies of a geometry that no lot file describes, or `output` is no ``.yaml``
        or cannot be written.
    NotOursError
        If one of the two files is there and is not a twin's, or was edited.
    RecordError
        If there is no record in `folder`.
    """
    if output.suffix not in (".yaml", ".yml"):
        raise TwinError(f"{output}: choose an --output that ends with .yaml; the cells go beside it as .npz")
    check_output(output, "--output", is_sealed)
    check_output(output.with_suffix(".npz"), "--output", is_measured_dies)
    with Record.open(folder, create=False, write=False) as record:
        dies = measured_dies(record)
        tree = LotTree()
        dies = [_among_p(die, tree) for die in dies]
        circuit = _circuit(tree, dies)
        junctions = [junction_map(d.record.g_p, d.record.g_ap, d.v_read, circuit) for d in dies]
        trials, of_die = _trials(record, dies, junctions, circuit)
        noise = fit_read_noise([kept_reads(record, d.name, d.record.geometry.shape) for d in dies])
        strongest = _strongest(record, dies)
    fits = fit_switching(trials, _assumed_laws(tree))
    content = twin_files.cells_file(dies, trials, fits)
    twin_files.describe_devices(tree, dies, junctions, circuit, strongest)
    twin_files.describe_switching(tree, fits)
    twin_files.describe_noise(tree, noise)
    twin_files.describe_lot(tree, dies, folder, output, content)
    measured = output.with_suffix(".npz")
    try:
        twin_files.write_whole(measured, content)
        twin_files.write_whole(output, sealed(tree.text()).encode("utf-8"))
    except OSError as error:
        raise TwinError(f"cannot write {output}: {error}; choose another --output") from error
    return TwinReport(
        lot=output,
        measured=measured,
        dies=tuple(TwinDie(d.name, d.record.counts(), n) for d, n in zip(dies, of_die, strict=True)),
        switching=dict(zip(DIRECTIONS, fits, strict=True)),
        r_selector=circuit.r_selector,
        v_half=circuit.v_half,
        v_half_fitted=tree.source("devices.v_half") != NOT_TOLD,
        noise=noise,
        sources={path: tree.source(path) for path in _TOLD},
    )


#: Values whose source is worth a line to the person who made the twin.
_TOLD = (
    "devices.r_selector",
    "devices.v_half",
    "devices.v_breakdown",
    "devices.switching.v_critical_to_ap",
    "devices.switching.v_critical_to_p",
    "devices.switching.v_critical_spread",
    "devices.switching.delta",
    "read_noise.cell",
    "read_noise.current",
)


def _among_p(die: RecordedDie, tree: LotTree) -> RecordedDie:
    """The die with every cell as read with all cells in P, and with all in AP, which is what a file of dies holds."""
    circuit, measured = _assumed_circuit(tree), die.record
    g_p = read_among_p(measured.g_p, measured.g_ap, die.apart, die.v_read, circuit)
    return replace(die, record=replace(measured, g_p=g_p))


def _assumed_circuit(tree: LotTree) -> Circuit:
    lines = (tree.number(f"lines.{name}") for name in ("r_row", "r_column", "r_contact"))
    return Circuit(tree.number("devices.r_selector"), tree.number("devices.v_half"), *lines)


def _circuit(tree: LotTree, dies: Sequence[RecordedDie]) -> Circuit:
    """What surrounds the junctions: lines and selector as assumed, unless cells read better than the selector lets."""
    circuit = _assumed_circuit(tree)
    least = min(float(cell_resistance(d.record.g_p, d.v_read, circuit).min()) for d in dies)
    if least < circuit.r_selector:
        circuit = replace(circuit, r_selector=0.97 * max(least, 1.0))
        said = f"at most what the best conducting cell leaves, {least:.4g} Ohm"
        tree.put("devices.r_selector", circuit.r_selector, said)
    curvature = [float(d.record.conditions["curvature_ap"]) for d in dies if "curvature_ap" in d.record.conditions]
    no_bias = replace(circuit, v_half=1e3)
    typical = [junction_map(d.record.g_p, d.record.g_ap, d.v_read, no_bias) for d in dies]
    r_p, tmr = (_median(dies, typical, what) for what in (lambda j: j.r_p, lambda j: j.tmr))
    found = v_half_of(float(np.median(curvature)), r_p, tmr, dies[0].v_read, circuit.r_selector) if curvature else None
    if found is None:
        return circuit
    tree.put("devices.v_half", found, f"fitted from the curvature of AP cells, median of {len(curvature)} dies")
    return replace(circuit, v_half=found)


def _median(
    dies: Sequence[RecordedDie], junctions: Sequence[JunctionMap], value: Callable[[JunctionMap], NDArray[np.float64]]
) -> float:
    return float(np.median(np.concatenate([value(j)[d.good] for d, j in zip(dies, junctions, strict=True)])))


def _trials(
    record: Record, dies: Sequence[RecordedDie], junctions: Sequence[JunctionMap], circuit: Circuit
) -> tuple[list[Trials], list[int]]:
    """Trials to AP and to P of all dies (cells numbered die after die), and how many each die has."""
    parts = [
        trials_of_die(record, die, junction, circuit, index * die.record.geometry.cells)
        for index, (die, junction) in enumerate(zip(dies, junctions, strict=True))
    ]
    of_die = [sum(trials.cell.size for trials in pair) for pair in parts]
    return [Trials.joined([pair[way] for pair in parts]) for way in (0, 1)], of_die


def _strongest(record: Record, dies: Sequence[RecordedDie]) -> float:
    """Largest amplitude (V) that, or more than that, at least one cell of a hundred got; 0 without pulses."""
    pulses = [(abs(p.amplitude), np.count_nonzero(p.mask)) for d in dies for p in record.pulses(d.name)]
    hit = 0
    for amplitude, cells in sorted(pulses, reverse=True):
        hit += int(cells)
        if hit >= 0.01 * sum(die.record.geometry.cells for die in dies):
            return amplitude
    return 0.0


def _assumed_laws(tree: LotTree) -> list[Law]:
    common = ("delta", "tau0", "error_floor", "exponent")
    switching = {name: tree.number(f"devices.switching.{name}") for name in common}
    spread = tree.number("devices.switching.v_critical_spread")
    return [Law(tree.number(f"devices.switching.v_critical_{way}"), spread, **switching) for way in DIRECTIONS]
