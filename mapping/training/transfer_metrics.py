"""How well a network survives being written into arrays: classified points over many transfers.

The published figure is f95, the share of test points that at least 95 % of the transfers classify right. Alone it is
weak: a nearly straight boundary, which gets one point in eight wrong in every transfer, has a high one. So it is never
given without mean accuracy, accuracy without any noise, and the worst point (`Metrics`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapping.placement.differential_pairs import PARAMETERS, WEIGHTS, PairMap, events_by_tensor, scales
from mapping.training.moon_kernels import add_outputs, count_right
from mapping.training.moons import Points
from sim_backends.array.dies.statistics import TransferStatistics, transfer

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

LEVEL = 0.95
"""Share of the transfers that a point of f95 survives: the paper's."""
_CHUNK = 2048  # transfers at once: their conductances stay in the cache


@dataclass(frozen=True)
class Metrics:
    """The four numbers that are only told together.

    Attributes
    ----------
    f95
        Share of test points that at least 95 % of the transfers classify right.
    mean
        Accuracy over all points and transfers.
    noise_free
        Accuracy of the network as it was trained, before any transfer.
    worst
        Share of the transfers that classify the worst point right.
    """

    f95: float
    mean: float
    noise_free: float
    worst: float

    def to_dict(self) -> dict[str, float]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What many transfers gave.

    Attributes
    ----------
    right
        Share of the transfers that classify each test point right, ``[point]``.
    accuracy
        Share of the test points that each transfer classifies right, ``[transfer]``.
    noise_free
        Accuracy without any transfer; the mean, if the networks differ.
    """

    right: FloatArray
    accuracy: FloatArray
    noise_free: float

    @property
    def metrics(self) -> Metrics:
        """The four numbers."""
        return Metrics(survivors(self.right), float(self.right.mean()), self.noise_free, float(self.right.min()))


def survivors(right: FloatArray, level: float = LEVEL) -> float:
    """Share of points that so many of the transfers classify right, of their shares ``[point]``."""
    return float(np.mean(right >= level - 1e-9))


def cumulative(right: FloatArray, levels: FloatArray) -> FloatArray:
    """`survivors` at many levels, ``[level]``: the paper's cumulative curve."""
    return (right[None, :] >= levels[:, None] - 1e-9).mean(axis=1)


def classify(networks: NDArray[Any], points: Points) -> tuple[FloatArray, FloatArray]:
    """Share of networks ``[network, 33]`` right at each point, and share of points each network has right."""
    of_point = np.zeros(len(points), np.int64)
    of_network = np.zeros(len(networks), np.int64)
    x = np.ascontiguousarray(points.x.T, np.float32)
    rows = np.ascontiguousarray(networks, np.float32)
    count_right(rows, x[0], x[1], points.label > 0, of_point, of_network)
    return of_point / max(len(networks), 1), of_network / len(points)


def evaluate(
    network: NDArray[Any],
    kind: PairMap,
    points: Points,
    statistics: TransferStatistics,
    *,
    transfers: int,
    seed: int,
    events: IntArray | None = None,
    threads: int | None = None,
) -> Outcome:
    """Transfer one network many times, and classify all points each time.

    Parameters
    ----------
    network
        ``[33]``.
    kind
        How weights become conductances.
    points
        To test with.
    statistics
        What a transfer does; its window is replaced by that of the map.
    transfers, seed
        How many, and the seed of all of them; the result does not depend on `threads`.
    events
        Later programming events of each device, ``[2, 32]``; by default those of the authors' code.
    """
    law = _in_window(statistics, kind)
    chunks = _chunks(transfers, seed)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        parts = list(pool.map(lambda c: classify(transferred(network, kind, law, c[0], c[1], events), points), chunks))
    right = sum((part[0] * count for part, (count, _) in zip(parts, chunks, strict=True)), np.zeros(len(points)))
    accuracy = np.concatenate([part[1] for part in parts])
    return Outcome(right / transfers, accuracy, float(classify(network[None], points)[1][0]))


def transferred(
    network: NDArray[Any],
    kind: PairMap,
    statistics: TransferStatistics,
    transfers: int,
    rng: np.random.Generator,
    events: IntArray | None = None,
) -> Float32Array:
    """The network as it arrives, ``[transfer, 33]``."""
    weights = network[:WEIGHTS].astype(np.float32)
    scale = scales(weights)
    law, later = _in_window(statistics, kind), events_by_tensor() if events is None else events
    found = transfer(kind.targets(weights, scale), law, rng, draws=transfers, events=later).conductance
    return with_bias(kind.weights(found, scale), network[PARAMETERS - 1])


def with_bias(weights: NDArray[Any], bias: Any) -> Float32Array:
    """Networks ``[..., 33]`` of weights ``[..., 32]`` and output biases ``[...]``."""
    out = np.empty((*weights.shape[:-1], PARAMETERS), np.float32)
    out[..., :WEIGHTS], out[..., WEIGHTS] = weights, bias
    return out


def outputs(networks: NDArray[Any], x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation over networks ``[network, 33]`` of the output probability at ``x[point, 2]``."""
    total, squares = np.zeros(len(x)), np.zeros(len(x))
    across = np.ascontiguousarray(x.T, np.float32)
    add_outputs(np.ascontiguousarray(networks, np.float32), across[0], across[1], total, squares)
    mean = total / len(networks)
    return mean, np.sqrt(np.maximum(squares / len(networks) - mean**2, 0))


def _in_window(statistics: TransferStatistics, kind: PairMap) -> TransferStatistics:
    return TransferStatistics(statistics.tuning, statistics.drift, statistics.stuck, kind.window)


def _chunks(transfers: int, seed: int) -> list[tuple[int, np.random.Generator]]:
    """Sizes of chunks, each with a source of draws of its own."""
    return list(_each_chunk(transfers, seed))


def _each_chunk(transfers: int, seed: int) -> Iterator[tuple[int, np.random.Generator]]:
    for number, first in enumerate(range(0, transfers, _CHUNK)):
        yield min(_CHUNK, transfers - first), np.random.Generator(np.random.SFC64([seed, 3, number]))
