"""How fast are transfers of a network, and noisy training? Against what one writes first, and against aihwkit.

    python benchmarks/transfers.py --repeats 5
    python benchmarks/transfers.py --aihwkit ~/aihwkit_env/bin/python     # an interpreter that has aihwkit

* 1,000 transfers of a trained 2-8-1 network, 1,000 points each: ours; a plain loop (numpy, one transfer after the
  other, the same statistics); aihwkit's torch tile (`TorchInferenceRPUConfig`, a network of the same shape, its weights
  programmed anew by its noise model for every draw). aihwkit 1.2 is built from source: a quarter of an hour, and the
  headers of OpenBLAS; so an environment with it is yours to make.
* 1,000,000 transfers, 200 points: ours.
* One epoch of training with noise on 875 points, batches of 256: ours, and plain torch with normal noise on the weights
  (the shortest thing that is called noisy training). Ours draws tuning, drift and stuck cells for every device instead.

One thread everywhere. Sides take turns, the median of the turns counts; only ratios mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from mapping.placement.differential_pairs import PHYSICAL, events_by_tensor, scales
from mapping.training.moon_training import ALL_SOURCES, Batch, fresh_weights, train
from mapping.training.moons import half_moons
from mapping.training.transfer_metrics import evaluate
from sim_backends.array.dies.statistics import TransferStatistics, transfer

LAW = TransferStatistics()
MOONS = half_moons()
POINTS = half_moons(1, sizes=(1, 1, 1000)).test
EPOCHS = 250  # of a turn; the time of one epoch is told
AIHWKIT = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn
from aihwkit.inference import ReRamWan2022NoiseModel
from aihwkit.inference.utils import drift_analog_weights
from aihwkit.nn.conversion import convert_to_analog
from aihwkit.simulator.configs import TorchInferenceRPUConfig
torch.set_num_threads(1)
net = nn.Sequential(nn.Linear(2, 8), nn.Sigmoid(), nn.Linear(8, 1))
config = TorchInferenceRPUConfig()
config.forward.is_perfect = True
config.noise_model = ReRamWan2022NoiseModel()
model, x = convert_to_analog(net, config).eval(), torch.rand(1000, 2)
with torch.no_grad():
    times = []
    for _ in range(int(sys.argv[1])):
        began = time.perf_counter()
        for _ in range(100):
            drift_analog_weights(model, 1.0)
            (model(x) > 0).float().mean()
        times.append(10 * (time.perf_counter() - began))
import aihwkit
print(json.dumps({"seconds": sorted(times)[len(times) // 2], "version": aihwkit.__version__}))
"""


def plain_loop(network: np.ndarray, transfers: int) -> float:
    """Mean accuracy, one transfer after the other."""
    rng, x, label = np.random.default_rng(0), POINTS.x, POINTS.label
    weights = network[:32].astype(float)
    scale, right = scales(weights), 0
    targets, events = PHYSICAL.targets(weights, scale), events_by_tensor()
    for _ in range(transfers):
        w = PHYSICAL.weights(transfer(targets, LAW, rng, events=events).conductance, scale)
        hidden = 1 / (1 + np.exp(-(x @ w[:16].reshape(8, 2).T + w[16:24])))
        right += int((((hidden @ w[24:] + network[32]) > 0) == label).sum())
    return right / transfers / len(label)


def torch_epochs(epochs: int, noisy: bool = True) -> None:
    """Plain torch, normal noise of 5 % of the largest weight on all weights, drawn for every batch."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 1))
    first, second = net[0], net[2]
    adam = torch.optim.Adam(net.parameters(), lr=0.1)
    x = torch.from_numpy(MOONS.train.x.astype(np.float32))
    y = torch.from_numpy(MOONS.train.label.astype(np.float32))

    def arrived(w: torch.Tensor) -> torch.Tensor:
        return w + torch.randn_like(w) * (0.05 * w.detach().abs().max()) if noisy else w

    for _ in range(epochs):
        order = torch.randperm(len(y))
        for at in range(0, len(y), 256):
            chosen = order[at : at + 256]
            hidden = torch.sigmoid(torch.nn.functional.linear(x[chosen], arrived(first.weight), arrived(first.bias)))
            out = torch.nn.functional.linear(hidden, arrived(second.weight), second.bias)[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(out, y[chosen])
            adam.zero_grad()
            loss.backward()
            adam.step()


def our_epochs(epochs: int, networks: int = 1) -> None:
    """As many networks side by side, all sources of noise."""
    count = range(networks)
    start = np.stack([fresh_weights(seed) for seed in count])
    recipes = [replace(ALL_SOURCES, epochs=epochs)] * networks
    train(Batch(start, list(count), recipes, [PHYSICAL] * networks), MOONS, LAW, threads=1)


def median_times(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each side; the sides take turns, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in times.items()}


def aihwkit(python: Path, repeats: int) -> dict[str, Any]:
    """Seconds of its torch tile in its own environment, and its version; or why it cannot be run."""
    try:
        done = subprocess.run([str(python), "-c", AIHWKIT, str(repeats)], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return {"error": (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Compare and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--aihwkit", type=Path, help="interpreter of an environment that has aihwkit")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = train(Batch(fresh_weights(0)[None], [0], [replace(ALL_SOURCES, epochs=2000)], [PHYSICAL]), MOONS)[0]

    def ours(points: object = POINTS, transfers: int = 1000) -> float:
        found = evaluate(network, PHYSICAL, points, LAW, transfers=transfers, seed=0, threads=1)  # type: ignore[arg-type]
        return found.metrics.mean

    print(f"mean accuracy: ours {ours():.4f}, plain loop {plain_loop(network, 1000):.4f}")
    found = median_times({"ours": ours, "loop": lambda: plain_loop(network, 1000)}, options.repeats)
    print(f"1,000 transfers x 1,000 points: ours {1e3 * found['ours']:.1f} ms, plain loop {1e3 * found['loop']:.0f} ms "
          f"({found['loop'] / found['ours']:.1f} times)")  # fmt: skip
    if options.aihwkit is not None:
        theirs = aihwkit(options.aihwkit, options.repeats)
        if "error" in theirs:
            print(f"  aihwkit: not measured, {theirs['error']}")
        else:
            print(f"  aihwkit {theirs['version']}, torch tile: {1e3 * theirs['seconds']:.0f} ms "
                  f"({theirs['seconds'] / found['ours']:.0f} times)")  # fmt: skip
    million = median_times({"ours": lambda: ours(MOONS.test, 1_000_000)}, 1)
    print(f"1,000,000 transfers x 200 points: {million['ours']:.1f} s")
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: our_epochs(EPOCHS),
        "ours, 20 networks": lambda: our_epochs(EPOCHS, 20),
        "torch with noise": lambda: torch_epochs(EPOCHS),
        "torch without": lambda: torch_epochs(EPOCHS, noisy=False),
    }
    epoch = {name: seconds / EPOCHS for name, seconds in median_times(sides, min(options.repeats, 3)).items()}
    each = ", ".join(f"{name} {1e6 * seconds:.0f} us" for name, seconds in epoch.items())
    print(f"one epoch: {each}; ours / torch with noise: {epoch['ours'] / epoch['torch with noise']:.3f}")


if __name__ == "__main__":
    main()
