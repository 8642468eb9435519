"""Program the network of own_network.py onto dies and classify its test images there.

    xbar run classify_own_network.py:classify --set schedule=own_network.h5 --set weights=own_network.safetensors

The arrays multiply; batch normalisation and activation are this script's own.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from rich.table import Table

from mapping.dies.die_record import DieRecord
from mapping.placement.placement import Placement
from mapping.placement.weights import extra_tensors, layers_from, load_weights
from mapping.training.network import group_sums, ideal_multiply
from mapping.writing.schedule import WriteSchedule
from protocols.sequencer.run import Run, protocol
from protocols.shipped.program import check_geometry
from protocols.steps.characterise import check_contact, measure_states
from protocols.steps.inference import ArrayMultiplier
from protocols.steps.write_verify import program


@dataclass(frozen=True, eq=False)
class Digital:
    """What is done off chip with the partial sums: one gain and one offset per unit, from the batch normalisation."""

    gains: list[np.ndarray]
    offsets: list[np.ndarray]

    @classmethod
    def from_file(cls, path: Path) -> "Digital":
        state = extra_tensors(load_weights(path))
        gains, offsets = [], []
        for bn in ("bn1", "bn2"):
            gain = state[f"{bn}.weight"] / np.sqrt(state[f"{bn}.running_var"] + 1e-5)
            gains.append(gain)
            offsets.append(state[f"{bn}.bias"] - gain * state[f"{bn}.running_mean"])
        return cls(gains, offsets)

    def classify(self, x: np.ndarray, placement: Placement, multiply) -> np.ndarray:
        hidden = np.clip(self.unit(0, x, placement, multiply), -1, 1)
        return self.unit(1, hidden, placement, multiply).argmax(axis=1)

    def unit(self, layer: int, x: np.ndarray, placement: Placement, multiply) -> np.ndarray:
        """Sums over input groups, mean over copies, batch normalisation; ``[n, n_out]``."""
        partials = multiply(layer, x)  # [n, copies, groups, n_out], in units of one weight
        bound = group_sums(np.abs(x), placement.layers[layer])[:, None, :, None]
        partials = np.clip(partials, -bound, bound)  # what lies beyond cannot come from healthy cells
        return self.gains[layer] * partials.sum(axis=2).mean(axis=1) + self.offsets[layer]


def classify_images(bench, die, *, schedule, die_record, digital, inputs, labels) -> xr.Dataset:
    """Run the test images through the arrays of the die under the needles."""
    multiply = ArrayMultiplier(bench, schedule.placement, die_record)
    found = digital.classify(inputs, schedule.placement, multiply)
    return xr.Dataset({"correct": ("image", found == labels)})


@protocol
def classify(
    run: Run, *, schedule: Path, weights: Path, test: Path = Path("own_network_test.npz"), images: int = 500
) -> Table:
    plan, digital = WriteSchedule.load(schedule), Digital.from_file(weights)
    check_geometry(run, plan)
    with np.load(test) as file:
        inputs, labels = file["inputs"][:images].astype(float), file["labels"][:images]
    signs = [layer.weights for layer in layers_from(load_weights(weights))]
    software = digital.classify(inputs, plan.placement, ideal_multiply(signs, plan.placement)) == labels
    table = Table("die", "cells right", "software error", "measured error", title=f"{len(labels)} test images")
    for die in run.dies():
        if run.step(check_contact, die).attrs["verdict"] != "pass":
            continue
        measured = run.step(measure_states, die)
        if measured.attrs["verdict"] != "pass":
            continue
        record = DieRecord.from_dataset(measured)
        written = run.step(program, die, schedule=plan, die_record=record).attrs
        result = run.step(
            classify_images, die, schedule=plan, die_record=record, digital=digital, inputs=inputs, labels=labels
        )
        right, correct = f"{written['verified']} of {written['cells']}", float(result["correct"].mean())
        table.add_row(die.name, right, f"{1 - software.mean():.1%}", f"{1 - correct:.1%}")
    return table
