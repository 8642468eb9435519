"""From a weights file to a write schedule, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mapping.dies.die_record import DieRecord
from mapping.dies.geometry import ArrayGeometry, check_cells
from mapping.placement.placement import place
from mapping.placement.weights import Coding, layers_from, load_weights
from mapping.writing.schedule import PulseSettings, StationTimes, VerifyRule, WriteSchedule, build_schedule, file_digest


def map_weights(
    weights_path: Path | str,
    geometry: ArrayGeometry,
    coding: Coding = "binary",
    copies: Sequence[int] | None = None,
    die: DieRecord | None = None,
    binarise: bool = False,
    *,
    order: Sequence[str] = (),
    rows_per_multiply: int | None = None,
    pulse: PulseSettings | None = None,
    verify: VerifyRule | None = None,
    times: StationTimes | None = None,
) -> WriteSchedule:
    """Schedule that writes the weights of a file into a die.

    Parameters
    ----------
    weights_path : path
        ``.safetensors``, ``.pt``, ``.pth`` or ``.npz``, see `mapping.placement.weights`.
    geometry : ArrayGeometry
    coding, binarise, order
        See `mapping.placement.weights.layers_from`.
    copies : sequence of int, optional
        How often each layer is written; once by default.
    die : DieRecord, optional
        A measured die: its defects are avoided where there is room, and never pulsed.
    rows_per_multiply : int, optional
        At most so many rows are driven at a time, see `mapping.placement.placement.LayerPlacement.in_groups_of`.
    pulse, verify, times
        See `mapping.writing.schedule.WriteSchedule`.

    Raises
    ------
    FileNotFoundError, mapping.placement.weights.WeightsError, mapping.placement.placement.DoesNotFitError,
    CellKindError
        What is wrong with the file or the network, before anything is done.
    """
    check_cells(geometry, analog=False)
    layers = layers_from(load_weights(weights_path), coding, binarise=binarise, order=order)
    shapes = [(layer.weights.shape[1], layer.weights.shape[0]) for layer in layers]
    placement = place(shapes, geometry, copies, avoid=die, rows_per_multiply=[rows_per_multiply] * len(shapes))
    provenance = {
        "source": Path(weights_path).name,
        "sha256": file_digest(weights_path),
        "coding": coding,
        "binarised": binarise,
        "layers": [{"name": layer.name, "scale": layer.scale} for layer in layers],
        "die": die.die if die is not None else None,
    }
    weights = [layer.weights for layer in layers]
    return build_schedule(weights, placement, pulse, verify=verify, times=times, provenance=provenance, die=die)
