"""Compiled kernels for many 2-8-1 sigmoid networks at once: outputs of written networks, and noisy training.

Written by hand because the matrices are tiny: a step of Adam on 256 points is some 2,000 sigmoids, microseconds of
arithmetic, where calls of a tensor library would take a hundred times that. Everything is float32; a network is a row
of 33 parameters (`mapping.placement.differential_pairs`, the output bias last).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

HIDDEN, WEIGHTS, PARAMETERS = 8, 32, 33
OUTPUT, BIAS = 24, 32  # first output weight, output bias
HEALTHY, LRS, HRS = 0, 1, 2
#: Sums may be taken in any order and divisions by zero give infinities: without that, loops over points stay scalar.
COMPILED: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}


@njit(inline="always", **COMPILED)
def sigmoid(z: Any) -> Any:
    """``1 / (1 + exp(-z))``, to 1e-6; the exponential is a Taylor polynomial at z / 64, squared six times."""
    r = min(max(-z, np.float32(-40.0)), np.float32(40.0)) * np.float32(1 / 64)
    e = np.float32(1 / 120) * r + np.float32(1 / 24)
    e = e * r + np.float32(1 / 6)
    e = e * r + np.float32(0.5)
    e = e * r + np.float32(1)
    e = e * r + np.float32(1)
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    return np.float32(1) / (np.float32(1) + e)


@njit(**COMPILED)
def logits(w: Any, x0: Any, x1: Any, hidden: Any, z: Any) -> None:
    """Output before the last sigmoid, ``z[point]``, of one network ``w[33]``; keeps ``hidden[unit, point]``."""
    points = z.size
    for p in range(points):
        z[p] = w[BIAS]
    for h in range(HIDDEN):
        a, b, c, v, s = w[2 * h], w[2 * h + 1], w[16 + h], w[OUTPUT + h], hidden[h]
        for p in range(points):
            value = sigmoid(a * x0[p] + b * x1[p] + c)
            s[p] = value
            z[p] += v * value


@njit(**COMPILED)
def count_right(networks: Any, x0: Any, x1: Any, label: Any, of_point: Any, of_network: Any) -> None:
    """Classify all points with each network, and count the right ones.

    Parameters
    ----------
    networks
        ``[network, 33]``.
    label
        True for class 1, ``[point]``.
    of_point, of_network
        Are raised by one for each right answer, ``[point]`` and ``[network]``.
    """
    points = label.size
    hidden, z = np.empty((HIDDEN, points), np.float32), np.empty(points, np.float32)
    for n in range(len(networks)):
        logits(networks[n], x0, x1, hidden, z)
        total = np.int32(0)
        for p in range(points):
            right = np.int32((z[p] > 0) == label[p])
            of_point[p] += right
            total += right
        of_network[n] += total


@njit(**COMPILED)
def add_outputs(networks: Any, x0: Any, x1: Any, total: Any, squares: Any) -> None:
    """Add the output probability of each network, and its square, to ``[point]``."""
    points = total.size
    hidden, z = np.empty((HIDDEN, points), np.float32), np.empty(points, np.float32)
    for n in range(len(networks)):
        logits(networks[n], x0, x1, hidden, z)
        for p in range(points):
            y = sigmoid(z[p])
            total[p] += y
            squares[p] += y * y


@njit(**COMPILED)
def gradient(w: Any, x0: Any, x1: Any, y: Any, hidden: Any, z: Any, g: Any) -> None:
    """Gradient ``g[33]`` of the mean binary cross-entropy of one network over points; `hidden` and `z` are scratch."""
    points = y.size
    logits(w, x0, x1, hidden, z)
    each = np.float32(1.0) / np.float32(points)
    total = np.float32(0)
    for p in range(points):
        z[p] = (sigmoid(z[p]) - y[p]) * each
        total += z[p]
    g[BIAS] = total
    for h in range(HIDDEN):
        v, s = w[OUTPUT + h], hidden[h]
        gv, ga, gb, gc = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for p in range(points):
            t = z[p] * s[p]
            gv += t
            delta = v * t * (np.float32(1) - s[p])
            ga += delta * x0[p]
            gb += delta * x1[p]
            gc += delta
        g[2 * h], g[2 * h + 1], g[16 + h], g[OUTPUT + h] = ga, gb, gc, gv


@njit(**COMPILED)
def arrive(
    w: Any, scale: Any, low: Any, span: Any, tuning: Any, drift: Any, normal: Any, fixed: Any, drawn: Any, written: Any,
    hit: Any
) -> None:  # fmt: skip
    """What one transfer makes of a network's weights.

    Parameters
    ----------
    w, scale
        Weights ``[33]`` and the scale of each tensor ``[3]``.
    low, span
        Of the map (S).
    tuning
        Mean factor, spread of the offset, slope (1/S) and intercept of the spread; all zero but the first: off.
    drift, normal
        Change by drift (S) and a normal number for each device, ``[64]``.
    fixed
        Conductance of devices that are known to be stuck, ``[64]`` (S), NaN where none; partners make up for it.
    drawn
        The same for devices that are stuck without anybody knowing.
    written
        Gets the weights that arrive, ``[33]``.
    hit
        Gets whether a pair has a device that is stuck unknown, ``[32]``.
    """
    high = low + span
    for i in range(WEIGHTS):
        s = scale[0] if i < 16 else (scale[1] if i < 24 else scale[2])
        wanted = span * w[i] / s
        plus, minus = low + max(wanted, np.float32(0)), low + max(-wanted, np.float32(0))
        f_plus, f_minus = fixed[i], fixed[WEIGHTS + i]
        if not np.isnan(f_minus):
            plus = min(max(f_minus + wanted, low), high)
        if not np.isnan(f_plus):
            minus = min(max(f_plus - wanted, low), high)
        plus = _disturbed(plus, tuning, drift[i], normal[i])
        minus = _disturbed(minus, tuning, drift[WEIGHTS + i], normal[WEIGHTS + i])
        if not np.isnan(f_plus):
            plus = f_plus
        if not np.isnan(f_minus):
            minus = f_minus
        hit[i] = False
        if not np.isnan(drawn[i]):
            plus = drawn[i]
            hit[i] = True
        if not np.isnan(drawn[WEIGHTS + i]):
            minus = drawn[WEIGHTS + i]
            hit[i] = True
        written[i] = s * (plus - minus) / span
    written[BIAS] = w[BIAS]


@njit(inline="always", **COMPILED)
def _disturbed(g: Any, tuning: Any, drift: Any, normal: Any) -> Any:
    """A written conductance (S): tuning imprecision, then drift."""
    mean = tuning[0] * g
    spread = tuning[0] * (tuning[2] * mean + tuning[3])
    return mean + g * np.sqrt(tuning[1] * tuning[1] + spread * spread) * normal + drift


@njit(**COMPILED)
def largest(w: Any, scale: Any) -> None:
    """Largest size of a weight in each tensor of one network, ``scale[3]``."""
    for tensor, first, last in ((0, 0, 16), (1, 16, 24), (2, 24, 32)):
        top = np.float32(0)
        for i in range(first, last):
            top = max(top, abs(w[i]))
        scale[tensor] = top if top > 0 else np.float32(1)


@njit(**COMPILED)
def loss(w: Any, x0: Any, x1: Any, y: Any, hidden: Any, z: Any) -> Any:
    """Mean binary cross-entropy of one network over points."""
    logits(w, x0, x1, hidden, z)
    total = 0.0
    for p in range(y.size):
        total += max(z[p], np.float32(0)) - z[p] * y[p] + np.log1p(np.exp(-abs(z[p])))
    return total / y.size


@njit(**COMPILED)
def train(
    w: Any, moments: Any, best: Any, progress: Any, x: Any, y: Any, x_check: Any, y_check: Any, order: Any, batch: Any,
    parts: Any, rate: Any, decay: Any, patience: Any, low: Any, span: Any, tuning: Any, drifts: Any, sticks: Any,
    normal: Any, level: Any, table: Any, events: Any, drawn: Any, kind: Any, fixed: Any, fixed_scale: Any, reach: Any
) -> None:  # fmt: skip
    """Train one network for some epochs with Adam; noise is that of one virtual transfer per part of a batch.

    Gradients are those at the weights that arrive, applied to the clean ones. Weights of a pair that a transfer found
    stuck, without anybody knowing, are not changed by that step.

    Parameters
    ----------
    w, moments, best
        Parameters ``[33]``, Adam's moments ``[2, 33]``, and the parameters with the lowest loss at the check points.
    progress
        Steps done, lowest loss at the check points, epochs since then, whether training has stopped, ``[4]``.
    x, y, x_check, y_check
        Coordinates ``[2, point]`` and classes ``[point]``, to train and to check.
    order
        Points in the order of each epoch, ``[epoch, point]``.
    batch, parts
        Points of a step, and into how many parts with a transfer of its own each they are split.
    rate
        Of each epoch, ``[epoch]``.
    decay
        Weight decay (added to the gradient).
    patience
        Epochs without a lower loss at the check points after which training stops; 0: never, nobody looks at them.
    low, span, tuning
        As in `arrive`.
    drifts, sticks
        Whether devices drift; which kinds of unknown stuck devices there are (bits 1: LRS, 2: HRS).
    normal, level, drawn, kind
        Draws of each transfer, ``[transfer, 64]``: normal numbers, levels of the drift, conductances of devices that
        may be stuck, and their kind (`HEALTHY`, `LRS`, `HRS`).
    table, events
        Drift ``[k, level]`` (S) and later events of each device, ``[64]``.
    fixed, fixed_scale, reach
        Devices known to be stuck (S, ``[64]``, NaN where none); scale ``[3]`` that then holds, else 0 and the largest
        weight of each tensor is its scale; lowest and highest weight of each pair in units of it, ``[2, 32]``.
    """
    points = y.size
    hidden, z = np.empty((HIDDEN, max(batch, y_check.size)), np.float32), np.empty(max(batch, y_check.size), np.float32)
    x0, x1, yb = np.empty(batch, np.float32), np.empty(batch, np.float32), np.empty(batch, np.float32)
    g, total, scale = np.empty(PARAMETERS, np.float32), np.empty(PARAMETERS, np.float32), np.empty(3, np.float32)
    arrived, hit, hurt = np.empty(PARAMETERS, np.float32), np.empty(WEIGHTS, np.bool_), np.empty(WEIGHTS, np.bool_)
    drift, unknown = np.empty(2 * WEIGHTS, np.float32), np.empty(2 * WEIGHTS, np.float32)
    transfer = 0
    for epoch in range(len(order)):
        if progress[3] > 0:
            return
        for first in range(0, points, batch):
            count = min(batch, points - first)
            for p in range(count):
                point = order[epoch, first + p]
                x0[p], x1[p], yb[p] = x[0, point], x[1, point], y[point]
            for i in range(3):
                scale[i] = fixed_scale[i]
            if scale[0] == 0:
                largest(w, scale)
            total[:], hurt[:] = 0, False
            for part in range(parts):
                a, b = count * part // parts, count * (part + 1) // parts
                for d in range(2 * WEIGHTS):
                    drift[d] = table[events[d], level[transfer, d]] if drifts else np.float32(0)
                    unknown[d] = drawn[transfer, d] if kind[transfer, d] & sticks else np.float32(np.nan)
                arrive(w, scale, low, span, tuning, drift, normal[transfer], fixed, unknown, arrived, hit)
                gradient(arrived, x0[a:b], x1[a:b], yb[a:b], hidden, z[: b - a], g)
                share = np.float32(b - a) / np.float32(count)
                for i in range(PARAMETERS):
                    total[i] += share * g[i]
                for i in range(WEIGHTS):
                    hurt[i] |= hit[i]
                transfer += 1
            progress[0] += 1
            _adam(w, moments, total, hurt, np.float32(rate[epoch]), decay, progress[0])
            if fixed_scale[0] != 0:
                for i in range(WEIGHTS):
                    s = scale[0] if i < 16 else (scale[1] if i < 24 else scale[2])
                    w[i] = min(max(w[i], s * reach[0, i]), s * reach[1, i])
        if patience > 0:
            _look(w, best, progress, x_check, y_check, hidden, z, patience)


@njit(**COMPILED)
def _adam(w: Any, moments: Any, g: Any, held: Any, rate: Any, decay: Any, step: Any) -> None:
    """One step of Adam (D. Kingma, J. Ba, 2015) with decay as part of the gradient; `held` weights stay."""
    first, second = np.float32(1 - 0.9**step), np.float32(1 - 0.999**step)
    for i in range(PARAMETERS):
        slope = g[i] + decay * w[i]
        moments[0, i] += np.float32(0.1) * (slope - moments[0, i])
        moments[1, i] += np.float32(0.001) * (slope * slope - moments[1, i])
        if i == BIAS or not held[i]:
            w[i] -= rate * (moments[0, i] / first) / (np.sqrt(moments[1, i] / second) + np.float32(1e-8))


@njit(**COMPILED)
def _look(w: Any, best: Any, progress: Any, x: Any, y: Any, hidden: Any, z: Any, patience: Any) -> None:
    """Keep the parameters if they are the best so far at the check points; stop if they have not been for long."""
    points = y.size
    now = loss(w, x[0], x[1], y, hidden[:, :points], z[:points])
    progress[2] += 1
    if now < progress[1]:
        progress[1], progress[2], best[:] = now, 0, w
    if progress[2] >= patience:
        progress[3] = 1


@njit(**COMPILED)
def all_logits(networks: Any, x0: Any, x1: Any, z: Any) -> None:
    """Outputs before the last sigmoid of many networks ``[network, 33]``, ``z[network, point]``."""
    hidden = np.empty((HIDDEN, x0.size), np.float32)
    for n in range(len(networks)):
        logits(networks[n], x0, x1, hidden, z[n])
