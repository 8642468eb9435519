"""From a weights file to an analog write schedule, in one call: differential pairs of conductances."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapping.dies.analog_die import AnalogDie
from mapping.dies.geometry import ArrayGeometry, check_cells
from mapping.placement import differential_pairs as moons
from mapping.placement.differential_pairs import PHYSICAL, PairMap
from mapping.placement.placement import Placement, place
from mapping.placement.weights import WeightsError, load_weights
from mapping.writing.analog_schedule import AnalogSchedule, Parallel, build_analog_schedule
from mapping.writing.conductance_targets import ConductanceTargets, TargetError
from mapping.writing.converge import ARRAY, ConvergeToTarget
from mapping.writing.schedule import file_digest
from mapping.writing.touch_up import Passes

FloatArray = NDArray[np.float64]

#: Shapes of the tensors of a 2-8-1 network, by rank: both matrices and the biases of the hidden units.
_MOONS = ((moons.HIDDEN, moons.INPUTS), (1, moons.HIDDEN))


def map_analog(
    weights_path: Path | str,
    geometry: ArrayGeometry,
    *,
    pairs: PairMap = PHYSICAL,
    settings: ConvergeToTarget = ARRAY,
    scheme: str = "V/2",
    parallel: Parallel = "cell",
    passes: Passes | None = None,
    copies: Sequence[int] | None = None,
    order: Sequence[str] = (),
    die: AnalogDie | None = None,
) -> AnalogSchedule:
    """Schedule that writes the weights of a file into an analog die.

    A 2-8-1 network on one 8 x 8 array fills it with its 32 weights, hidden biases among them, as
    `mapping.placement.differential_pairs` says. Of any other network every matrix is placed
    (`mapping.placement.placement.place`), and biases stay digital. Each tensor is scaled by its own largest weight.

    Parameters
    ----------
    weights_path : path
        ``.safetensors``, ``.pt``, ``.pth`` or ``.npz``, see `mapping.placement.weights`.
    geometry : ArrayGeometry
    pairs
        How a weight becomes two conductances.
    settings, scheme, parallel, passes
        See `mapping.writing.analog_schedule.AnalogSchedule`.
    copies : sequence of int, optional
        How often each layer is written; once by default.
    order : sequence of str, optional
        Names of the matrices from input to output, where that of the file is not it.
    die : AnalogDie, optional
        A measured die: its broken cells are not pulsed.

    Raises
    ------
    FileNotFoundError, WeightsError, DoesNotFitError, TargetError, CellKindError
        What is wrong with file, network or die, before anything is done.
    """
    check_cells(geometry, analog=True)
    if pairs.low <= 0:
        raise TargetError(
            f"the {pairs.name} map has conductances down to {pairs.low:g} S, which no device has: it repeats published "
            "figures in simulations; choose physical for a die"
        )
    matrices, biases = _tensors(weights_path, order)
    provenance: dict[str, Any] = {
        "source": Path(weights_path).name,
        "sha256": file_digest(weights_path),
        "coding": "analog",
        "pairs": pairs.name,
        "die": die.die if die is not None else None,
    }
    if _is_moons(matrices, biases, geometry):
        if copies is not None:
            raise WeightsError(
                f"{Path(weights_path).name} is a network of 2-8-1 with biases, which fills one array of 8 x 8; leave "
                "--copies out"
            )
        g, placement = _moons_cells(matrices, biases, pairs), None
        provenance |= {"layout": "2-8-1 in one array"}
    else:
        g, placement, scales = _placed_cells(matrices, geometry, pairs, copies)
        layers = [{"name": name, "scale": size} for name, size in zip(matrices, scales, strict=True)]
        provenance |= {"layout": "placed", "layers": layers}
    targets = ConductanceTargets.of(geometry, g, settings.tolerance)
    return build_analog_schedule(
        targets,
        settings,
        scheme=scheme,
        parallel=parallel,
        passes=passes,
        placement=placement,
        provenance=provenance,
        die=die,
    )


def _tensors(path: Path | str, order: Sequence[str]) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Matrices ``[n_out, n_in]`` of a file by name, from input to output, and the bias of each that has one."""
    state = load_weights(path)
    named = {name: values.astype(np.float64) for name, values in state.items() if values.ndim == 2}
    unknown = [name for name in order if name not in named]
    if unknown or not named:
        there = ", ".join(named) or "none"
        raise WeightsError(f"{Path(path).name} has no matrix {unknown[0] if unknown else ''}; it has {there}")
    matrices = {name: named[name] for name in (order or named)}
    for name, values in matrices.items():
        if not np.isfinite(values).all() or not np.abs(values).max() > 0:
            raise WeightsError(f"tensor {name} of {Path(path).name} is zero or holds values that are no numbers")
    found = {name: state.get(f"{name.removesuffix('weight')}bias") for name in matrices}
    return matrices, {name: values.astype(np.float64) for name, values in found.items() if values is not None}


def _is_moons(matrices: dict[str, FloatArray], biases: dict[str, FloatArray], geometry: ArrayGeometry) -> bool:
    shapes = tuple(values.shape for values in matrices.values())
    return shapes == _MOONS and next(iter(matrices)) in biases and geometry.shape == (1, *moons.SHAPE)


def _moons_cells(matrices: dict[str, FloatArray], biases: dict[str, FloatArray], pairs: PairMap) -> FloatArray:
    """Conductance of every cell of the array, ``[row, column]``."""
    first, second = matrices.values()
    weights = np.concatenate([first.ravel(), biases[next(iter(matrices))].ravel(), second.ravel()])
    return np.asarray(moons.to_cells(pairs.targets(weights, moons.scales(weights))), dtype=np.float64)


def _placed_cells(
    matrices: dict[str, FloatArray], geometry: ArrayGeometry, pairs: PairMap, copies: Sequence[int] | None
) -> tuple[FloatArray, Placement, list[float]]:
    """Conductance of every cell ``[kernel, row, column]``, NaN where none is wanted; placement and scales."""
    shapes = [(values.shape[1], values.shape[0]) for values in matrices.values()]
    placement, g = place(shapes, geometry, copies), np.full(geometry.cells, np.nan)
    scales = [float(np.abs(values).max()) for values in matrices.values()]
    for layer, values, scale in zip(placement.layers, matrices.values(), scales, strict=True):
        g[layer.cells] = pairs.conductances(values.T / scale, axis=-1)
    return g.reshape(geometry.shape), placement, scales
