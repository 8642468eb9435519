"""A two-layer binary network and its digital part: what is done off chip with the partial sums of the arrays.

A multiply gives pair differences in weight units, ``[n, copies, groups, n_out]``, from a die, its emulation or ideal
arithmetic alike. The digital part clips each to what a healthy group of inputs can give (the *guard*), corrects scale
and offset if the network was calibrated on a die, adds the groups, averages the copies, and applies scale, offset and
activation of the unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapping.dies.geometry import ArrayGeometry
from mapping.placement.placement import LayerPlacement, Placement, place
from mapping.training.mnist import Images, pool
from mapping.training.multiply import Multiply, MultiplyError, checked_inputs

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Correction:
    """Scale and offset of every partial sum on one die, ``[copies, groups, n_out]``."""

    scale: FloatArray
    offset: FloatArray


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: binary weights on the arrays, the rest digital.

    Attributes
    ----------
    weights : int8 ``[n_out, n_in]``, -1 or +1
    gain, offset : float ``[n_out]``
        Of the unit: ``gain * sum + offset``, the sum in weight units.
    correction : Correction, optional
        From `calibrate`.
    """

    weights: NDArray[np.int8]
    gain: FloatArray
    offset: FloatArray
    correction: Correction | None = None


@dataclass(frozen=True, eq=False)
class BinaryNetwork:
    """A binary network of two layers for digits.

    Attributes
    ----------
    pixels : int ``[n_in]``
        Which of the 196 pixels of the 14 x 14 image are inputs (the rest is nearly always dark).
    centre : float ``[n_in]``
        Subtracted from the pixels, so that a broken cell adds a signal of mean zero and lines carry little current.
    layers : two Layer
    copies : (int, int)
        How often each layer is on the die.
    rows_per_multiply : (int or None, int or None)
        Rows driven at a time in each layer; None: a whole kernel.
    guard : bool
        Whether partial sums are clipped to what a healthy group of inputs can give.
    """

    pixels: NDArray[np.int64]
    centre: FloatArray
    layers: tuple[Layer, Layer]
    copies: tuple[int, int]
    rows_per_multiply: tuple[int | None, int | None]
    guard: bool

    @property
    def weights(self) -> list[NDArray[np.int8]]:
        """Weights of the layers."""
        return [layer.weights for layer in self.layers]

    def place(self, geometry: ArrayGeometry) -> Placement:
        """Where the network goes on a die; the same for every network of these shapes.

        Raises
        ------
        DoesNotFitError
            If it needs more cells than there are.
        """
        shapes = [(w.shape[1], w.shape[0]) for w in self.weights]
        return place(shapes, geometry, self.copies, rows_per_multiply=self.rows_per_multiply)

    def encode(self, images: Images) -> FloatArray:
        """Inputs ``[n, n_in]`` in -1..1 of images ``[n, 28, 28]``."""
        return np.clip(pool(images)[:, self.pixels] - self.centre, -1.0, 1.0).astype(float)

    def scores(self, images: Images, placement: Placement, multiply: Multiply) -> FloatArray:
        """Scores of the digits, ``[n, 10]``, with the multiplies of a die, its emulation or `ideal_multiply`."""
        x = self.encode(images)
        hidden = np.clip(self.unit(0, x, multiply(0, x), placement), -1.0, 1.0)
        return self.unit(1, hidden, multiply(1, hidden), placement)

    def classify(self, images: Images, placement: Placement, multiply: Multiply) -> NDArray[np.int64]:
        """Digit of every image."""
        return self.scores(images, placement, multiply).argmax(axis=1)

    def unit(self, layer: int, x: FloatArray, partials: FloatArray, placement: Placement) -> FloatArray:
        """Digital part of a layer before its activation, ``[n, n_out]``.

        Parameters
        ----------
        x : float ``[n, n_in]``
            What the layer was driven with.
        partials : float ``[n, copies, groups, n_out]``
            What came out, in weight units.
        """
        return self.combined(layer, self.guarded(x, partials, placement.layers[layer]))

    def combined(self, layer: int, partials: FloatArray) -> FloatArray:
        """What follows the guard: correction, sum over groups, mean over copies, gain and offset; ``[n, n_out]``."""
        part = self.layers[layer]
        if part.correction is not None:
            partials = partials * part.correction.scale + part.correction.offset
        return part.gain * partials.sum(axis=2).mean(axis=1) + part.offset

    def guarded(self, x: FloatArray, partials: FloatArray, placed: LayerPlacement) -> FloatArray:
        """Partial sums clipped to the sum of the magnitudes of the inputs driven, if the network has a guard."""
        if not self.guard:
            return partials
        bound = group_sums(np.abs(x), placed)[:, None, :, None]
        return np.clip(partials, -bound, bound)

    def with_guard(self, rows_per_multiply: tuple[int | None, int | None]) -> BinaryNetwork:
        """The same network read a few rows at a time and guarded."""
        return replace(self, rows_per_multiply=rows_per_multiply, guard=True)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as named arrays; `from_arrays` gives the same network back bit for bit."""
        rows = [0 if rows is None else rows for rows in self.rows_per_multiply]
        arrays: dict[str, NDArray[Any]] = {
            "pixels": self.pixels,
            "centre": self.centre,
            "copies": np.array(self.copies),
            "rows_per_multiply": np.array(rows),
            "guard": np.array(self.guard),
        }
        for number, layer in enumerate(self.layers, 1):
            arrays |= {f"w{number}": layer.weights, f"gain{number}": layer.gain, f"offset{number}": layer.offset}
            if layer.correction is not None:
                arrays |= {f"scale{number}": layer.correction.scale, f"shift{number}": layer.correction.offset}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> BinaryNetwork:
        """Inverse of `to_arrays`."""
        layers = []
        for number in (1, 2):
            corrected = f"scale{number}" in arrays
            correction = Correction(arrays[f"scale{number}"], arrays[f"shift{number}"]) if corrected else None
            layers.append(Layer(arrays[f"w{number}"], arrays[f"gain{number}"], arrays[f"offset{number}"], correction))
        first, second = (int(rows) or None for rows in arrays["rows_per_multiply"])
        copies = (int(arrays["copies"][0]), int(arrays["copies"][1]))
        guard = bool(arrays["guard"])
        return cls(arrays["pixels"], arrays["centre"], (layers[0], layers[1]), copies, (first, second), guard)


def group_sums(x: FloatArray, placed: LayerPlacement) -> FloatArray:
    """Sums of inputs ``[n, n_in]`` over each input group, ``[n, groups]``."""
    member = placed.input_group[:, None] == np.arange(placed.groups)
    return x @ member.astype(x.dtype)


def ideal_multiply(weights: Sequence[NDArray[np.int8]], placement: Placement) -> Multiply:
    """Multiplies in ideal arithmetic, in the form in which a die gives them.

    Raises
    ------
    MultiplyError
        If the weights ``[n_out, n_in]`` are not those of the layers that are placed.
    """
    shapes = [np.shape(w) for w in weights]
    wanted = [(placed.n_out, placed.n_in) for placed in placement.layers]
    if shapes != wanted:
        raise MultiplyError(f"weights have shapes {shapes}, placed are layers of {wanted}")

    def multiply(layer: int, x: FloatArray) -> FloatArray:
        x, placed = checked_inputs(placement, layer, x), placement.layers[layer]
        partials = np.empty((len(x), placed.copies, placed.groups, placed.n_out))
        for group in range(placed.groups):
            inputs = placed.inputs_of(group)
            partials[:, :, group] = (x[:, inputs] @ weights[layer][:, inputs].T.astype(float))[:, None]
        return partials

    return multiply


def calibrate(network: BinaryNetwork, images: Images, placement: Placement, multiply: Multiply) -> BinaryNetwork:
    """The network with scale and offset of its partial sums estimated on one die, from images without labels.

    Images and weights are known, so what a healthy die would give is known; each measured partial sum is regressed on
    it (least squares: the scale is the covariance of both over the variance of the measured one). A sum that a defect
    has filled with foreign signal is scaled down by as much as it is foreign. Weights and units stay as they are.

    Parameters
    ----------
    images : uint8 ``[n, 28, 28]``
        Unlabelled training images.
    multiply
        Multiplies of the die; the second layer is driven with what the calibrated first one gives.
    """
    first, second = (replace(layer, correction=None) for layer in network.layers)
    plain = replace(network, layers=(first, second))
    ideal = ideal_multiply(network.weights, placement)
    x = expected_x = plain.encode(images)
    layers = list(plain.layers)
    for number in (0, 1):
        placed = placement.layers[number]
        expected_sums = ideal(number, expected_x)
        measured = plain.guarded(x, multiply(number, x), placed)
        layers[number] = replace(layers[number], correction=_regression(measured, expected_sums))
        if number == 0:
            x = np.clip(replace(plain, layers=(layers[0], layers[1])).combined(0, measured), -1, 1)
            expected_x = np.clip(plain.unit(0, expected_x, expected_sums, placement), -1, 1)
    return replace(plain, layers=(layers[0], layers[1]))


def _regression(measured: FloatArray, expected: FloatArray) -> Correction:
    """Least squares of the expected partial sums on the measured ones; a sum that never moves gets scale 0."""
    m, e = measured.mean(axis=0), expected.mean(axis=0)
    covariance = np.mean((measured - m) * (expected - e), axis=0)
    variance = np.mean((measured - m) ** 2, axis=0)
    scale = covariance / (variance + 1e-6)
    return Correction(scale, e - scale * m)
