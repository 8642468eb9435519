"""Operating points of arrays by ngspice, as an independent answer to compare with.

Nodes are called ``r<row>_<column>`` and ``c<row>_<column>``; results are read from ngspice's binary file, so they are
the doubles it computed with.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

NGSPICE = shutil.which("ngspice")
WHY_MISSING = "ngspice is not installed: apt-get install ngspice"

# The tightest that ngspice 39 converges with. gmin would put 1e-12 S across every transistor.
OPTIONS = ".options reltol=1e-9 abstol=1e-18 vntol=1e-12 gmin=1e-20 itl1=500"


class SpiceError(RuntimeError):
    """ngspice found no operating point; what it said."""


class Cells(Protocol):
    """Cells of an array, as lines of a netlist."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def netlist(self) -> Iterator[str]: ...


@dataclass(frozen=True)
class Resistors:
    """Conductances ``[row, column]`` (S); zero is an open cell."""

    g: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        return self.g.shape

    def netlist(self) -> Iterator[str]:
        for (i, j), g in np.ndenumerate(self.g):
            if g > 0:
                yield f"Rcell{i}_{j} r{i}_{j} c{i}_{j} {1 / g:.17g}"


@dataclass(frozen=True)
class SinhSources:
    """Behavioural sources of ``g sinh(alpha v) / alpha``."""

    g: FloatArray
    alpha: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        return self.g.shape

    def netlist(self) -> Iterator[str]:
        alpha = np.broadcast_to(self.alpha, self.shape)
        for (i, j), g in np.ndenumerate(self.g):
            a = alpha[i, j]
            yield f"Bcell{i}_{j} r{i}_{j} c{i}_{j} I={g / a:.17g}*sinh({a:.17g}*(v(r{i}_{j})-v(c{i}_{j})))"


@dataclass(frozen=True)
class TransistorsInSeries:
    """A conductance from the row node to an inner node, a level-1 NMOS from there to the column node, body at ground.

    ``gate`` broadcasts to ``[row, column]`` (V); ``v_threshold`` (V), ``kp`` (A/V^2). No channel-length modulation, no
    body effect, and body diodes that carry nothing.
    """

    g: FloatArray
    gate: FloatArray
    v_threshold: float
    kp: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.g.shape

    def netlist(self) -> Iterator[str]:
        yield f".model sw nmos level=1 vto={self.v_threshold:.17g} kp={self.kp:.17g} lambda=0 gamma=0 is=1e-60"
        voltages, number = np.unique(np.broadcast_to(self.gate, self.shape), return_inverse=True)
        for k, voltage in enumerate(voltages):
            yield f"Vgate{k} g{k} 0 {voltage:.17g}"
        for (i, j), k in np.ndenumerate(number.reshape(self.shape)):
            yield f"Rcell{i}_{j} r{i}_{j} x{i}_{j} {1 / self.g[i, j]:.17g}"
            yield f"Mcell{i}_{j} x{i}_{j} g{k} c{i}_{j} 0 sw w=1u l=1u"


@dataclass(frozen=True)
class Terminals:
    """Sources of one side: volts ``[line]``, NaN where nothing is connected; Ohm of source and contact ``[line]``."""

    voltage: ArrayLike = np.nan
    resistance: ArrayLike = 0.0


@dataclass(frozen=True)
class Circuit:
    """An array with its lines; segments as scalars or ``[row, columns + 1]`` and ``[rows + 1, column]`` (Ohm)."""

    cells: Cells
    r_row: ArrayLike
    r_column: ArrayLike
    left: Terminals = field(default_factory=Terminals)
    right: Terminals = field(default_factory=Terminals)
    bottom: Terminals = field(default_factory=Terminals)
    top: Terminals = field(default_factory=Terminals)


@dataclass(frozen=True)
class OperatingPoint:
    """Node voltages ``[row, column]`` (V); currents into the rows and out of the columns (A), zero where floating."""

    v_row: FloatArray
    v_column: FloatArray
    i_left: FloatArray
    i_right: FloatArray
    i_bottom: FloatArray
    i_top: FloatArray


def operating_point(circuit: Circuit) -> OperatingPoint:
    """Run ngspice on a circuit."""
    if NGSPICE is None:
        raise SpiceError(WHY_MISSING)
    with tempfile.TemporaryDirectory() as folder:
        netlist, result = Path(folder, "array.cir"), Path(folder, "array.raw")
        control = [".control", "set filetype=binary", "op", f"write {result}", ".endc", ".end"]
        netlist.write_text("\n".join(["crossbar", *_netlist(circuit), OPTIONS, *control]) + "\n")
        run = subprocess.run([NGSPICE, "-b", netlist], capture_output=True, text=True, timeout=120)
        if not result.exists():
            raise SpiceError((run.stdout + run.stderr)[-800:])
        values = _read(result.read_bytes())
    rows, columns = circuit.cells.shape

    def nodes(letter: str) -> FloatArray:
        return np.array([[values[f"v({letter}{i}_{j})"] for j in range(columns)] for i in range(rows)])

    def currents(side: str, lines: int) -> FloatArray:
        return np.array([values.get(f"i(v{side}{k})", 0.0) for k in range(lines)])

    return OperatingPoint(
        v_row=nodes("r"),
        v_column=nodes("c"),
        i_left=-currents("left", rows),
        i_right=-currents("right", rows),
        i_bottom=currents("bottom", columns),
        i_top=currents("top", columns),
    )


def _netlist(circuit: Circuit) -> Iterator[str]:
    rows, columns = circuit.cells.shape
    r_row = np.broadcast_to(circuit.r_row, (rows, columns + 1))
    r_column = np.broadcast_to(circuit.r_column, (rows + 1, columns))
    for i in range(rows):
        chain = [f"eleft{i}", *(f"r{i}_{j}" for j in range(columns)), f"eright{i}"]
        ends = (("left", circuit.left), ("right", circuit.right))
        yield from _line(f"row{i}", chain, r_row[i], ends, i, rows)
    for j in range(columns):
        chain = [f"etop{j}", *(f"c{i}_{j}" for i in range(rows)), f"ebottom{j}"]
        ends = (("top", circuit.top), ("bottom", circuit.bottom))
        yield from _line(f"column{j}", chain, r_column[:, j], ends, j, columns)
    yield from circuit.cells.netlist()


def _line(
    name: str,
    chain: list[str],
    segments: FloatArray,
    ends: tuple[tuple[str, Terminals], tuple[str, Terminals]],
    number: int,
    lines: int,
) -> Iterator[str]:
    driven = []
    for (side, terminals), end in zip(ends, (chain[0], chain[-1]), strict=True):
        voltage = np.broadcast_to(terminals.voltage, lines)[number]
        driven.append(not np.isnan(voltage))
        if driven[-1]:
            yield f"V{side}{number} s{side}{number} 0 {voltage:.17g}"
            yield from _resistor(
                f"{side}{number}", f"s{side}{number}", end, np.broadcast_to(terminals.resistance, lines)[number]
            )
    for k, (a, b, r) in enumerate(zip(chain[:-1], chain[1:], segments, strict=True)):
        dangling = (k == 0 and not driven[0]) or (k == len(segments) - 1 and not driven[1])
        if not dangling:
            yield from _resistor(f"{name}_{k}", a, b, r)


def _resistor(name: str, a: str, b: str, r: float) -> Iterator[str]:
    """A resistor; ngspice takes 0 Ohm for 1 mOhm, so a perfect conductor is a source of 0 V."""
    if r == 0:
        yield f"Vshort{name} {a} {b} 0"
    elif np.isfinite(r):
        yield f"Rline{name} {a} {b} {r:.17g}"


def _read(raw: bytes) -> dict[str, float]:
    """Values of an operating point, by the name of the vector, from ngspice's binary format."""
    header, _, data = raw.partition(b"Binary:\n")
    _, _, listed = header.decode().partition("Variables:\n")
    names = [line.split()[1] for line in listed.splitlines() if line.strip()]
    return dict(zip(names, np.frombuffer(data, dtype="<f8", count=len(names)).tolist(), strict=True))
