"""Trained weights from a file, checked and turned into -1, 0, +1.

Read are ``.safetensors``, ``.pt`` and ``.pth`` (tensors only: files with pickled objects are refused, as they can run
code) and ``.npz``. What is not a weight matrix (batch normalisation and the like) stays with the user's digital part.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from sim_backends.array.files.npz import UNREADABLE, read_npz

Coding = Literal["binary", "ternary"]
State = dict[str, NDArray[Any]]

LARGEST = 1 << 29
"""Bytes that the arrays of a packed file may take."""

SUFFIXES = (".safetensors", ".pt", ".pth", ".npz")

#: Keys under which training scripts keep the weights beside epoch, optimiser and such.
NESTED = ("state_dict", "model_state_dict", "model")

#: Magnitudes of binary or ternary weights may differ by this share (half-precision files round them).
MAGNITUDE_TOLERANCE = 1e-2

#: Ternary weights: what is below this share of the mean magnitude becomes 0 (the usual choice of ternary networks).
TERNARY_THRESHOLD = 0.7


class WeightsError(ValueError):
    """A weights file, or what is in it, cannot be mapped."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One fully connected layer.

    Attributes
    ----------
    name : str
        Name of the weight tensor.
    weights : int8 ``[n_out, n_in]``
        -1, 0, +1.
    scale : float
        The trained weights are ``scale * weights``.
    bias : float ``[n_out]`` or None
        For the digital part.
    """

    name: str
    weights: NDArray[np.int8]
    scale: float
    bias: NDArray[np.float64] | None


def load_weights(path: Path | str) -> State:
    """Named arrays of a weights file.

    ``.pt``, ``.pth`` and ``.npz`` keep the order of the file, which is that of the model's definition. ``.safetensors``
    files do not keep it; they come in natural order of the names (``fc2`` before ``fc10``).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    WeightsError
        If the suffix is unknown, or the file is damaged, empty, or holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}; give one of {', '.join(SUFFIXES)}")
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path.name}: weights are read from {', '.join(SUFFIXES)}")
    read = {".safetensors": _read_safetensors, ".npz": _read_npz}.get(path.suffix, _read_torch)
    state = read(path)
    if not state:
        raise WeightsError(f"{path.name} holds no tensors; save a state dict, with a matrix for each layer")
    return state


def layers_from(
    state: Mapping[str, NDArray[Any]], coding: Coding = "binary", *, binarise: bool = False, order: Sequence[str] = ()
) -> list[Layer]:
    """Layers of a fully connected network, in the order of `state`.

    Every matrix is a layer, ``[n_out, n_in]``; ``NAME.bias`` beside ``NAME.weight`` is its bias. The rest is given by
    `extra_tensors`.

    Parameters
    ----------
    state : mapping of arrays
        From `load_weights`.
    coding : {"binary", "ternary"}
        Which weights the cells can hold: ±1, or ±1 and 0.
    binarise : bool
        Turn real weights into such. Binary: the sign (that of 0 is +), scaled by the mean magnitude. Ternary: 0 below
        0.7 of the mean magnitude, else the sign, scaled by the mean magnitude of what is not 0.
    order : sequence of str, optional
        Names of the matrices from input to output, where that of `state` is not it.

    Raises
    ------
    WeightsError
        Naming the tensor, if values are not finite or not those of the coding, or layers do not follow each other.
    """
    if coding not in ("binary", "ternary"):
        raise WeightsError(f"coding {coding!r}: 'binary' or 'ternary'")
    for name, values in state.items():
        if not np.all(np.isfinite(values)):
            raise WeightsError(f"tensor {name} has values that are NaN or infinite; train again without")
    names = list(order) or _matrices(state)
    if missing := [name for name in names if name not in state]:
        raise WeightsError(f"no tensor {missing[0]}; the file has {', '.join(state)}")
    if not names:
        raise WeightsError(
            f"no matrices among {_describe(state, state)}; only fully connected layers are mapped, save those"
        )
    layers = [_layer(state, name, coding, binarise) for name in names]
    for before, after in pairwise(layers):
        if after.weights.shape[1] != before.weights.shape[0]:
            raise WeightsError(
                f"{after.name} does not take what {before.name} gives: {_describe(state, names)}. Matrices are "
                "[outputs, inputs]; if only the order is wrong, name the layers in order"
            )
    return layers


def extra_tensors(state: Mapping[str, NDArray[Any]]) -> State:
    """What is neither a weight matrix nor its bias (batch normalisation, ...), for the user's digital part."""
    mapped = set(_matrices(state))
    mapped |= {bias for name in mapped if (bias := _bias_name(name)) is not None}
    return {name: values for name, values in state.items() if name not in mapped}


def _read_safetensors(path: Path) -> State:
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise WeightsError(
            f"{path.name} is not a sound safetensors file: {error}; save the state dict again"
        ) from error
    return {name: _array(tensors[name]) for name in sorted(tensors, key=_natural)}


def _read_torch(path: Path) -> State:
    try:
        _check_zip(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path.name} holds pickled objects, which could run code, or is no file of torch: save "
            "model.state_dict() or use safetensors"
        ) from error
    except (*UNREADABLE, IndexError, AssertionError) as error:
        raise WeightsError(f"{path.name} is not a sound file of torch: {error}; save the state dict again") from error
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path.name} holds a {type(content).__name__} instead of a state dict; save model.state_dict()"
        )
    return {str(name): _array(value) for name, value in content.items() if isinstance(value, torch.Tensor)}


def _check_zip(path: Path) -> None:
    """Refuse a file of torch that would unpack to more than weights take; torch itself packs nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
        if claimed > max(LARGEST, path.stat().st_size):
            raise ValueError(f"it claims to hold {claimed} bytes; {LARGEST} are read at most")


def _read_npz(path: Path) -> State:
    try:
        arrays = read_npz(path, LARGEST)
    except UNREADABLE as error:
        raise WeightsError(
            f"{path.name} is not a sound npz file of plain arrays: {error}; write it again with numpy.savez"
        ) from error
    wrong = [name for name, values in arrays.items() if values.dtype.kind not in "fiub"]
    if wrong:
        raise WeightsError(
            f"tensor {wrong[0]} of {path.name} is {arrays[wrong[0]].dtype}, not real numbers; save the weights only"
        )
    return arrays


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    """As numpy; half precision, which numpy has only in part, as float32."""
    if tensor.is_complex() or tensor.is_quantized or tensor.is_sparse:
        raise WeightsError(f"tensors of {tensor.dtype}, {tensor.layout} are not mapped; save real dense ones")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise WeightsError(f"a tensor of shape {list(tensor.shape)} is larger than what is stored of it; save it whole")
    values = tensor.detach()
    return (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which numbers count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _matrices(state: Mapping[str, NDArray[Any]]) -> list[str]:
    return [name for name, values in state.items() if values.ndim == 2]


def _bias_name(name: str) -> str | None:
    return f"{name.removesuffix('weight')}bias" if name.endswith("weight") else None


def _describe(state: Mapping[str, NDArray[Any]], names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {list(state[name].shape)}" for name in names)


def _layer(state: Mapping[str, NDArray[Any]], name: str, coding: Coding, binarise: bool) -> Layer:
    values = state[name].astype(np.float64)
    if values.ndim != 2 or not values.size:
        raise WeightsError(f"tensor {name} has shape {list(values.shape)}; a fully connected layer has a matrix")
    weights, scale = _quantised(values, coding) if binarise else _exact(name, values, coding)
    bias_name = _bias_name(name)
    bias = None if bias_name is None or bias_name not in state else state[bias_name].astype(np.float64)
    if bias is not None and bias.shape != (len(weights),):
        raise WeightsError(f"tensor {bias_name} has shape {list(bias.shape)} for {len(weights)} outputs of {name}")
    return Layer(name, weights, scale, bias)


def _quantised(values: NDArray[np.float64], coding: Coding) -> tuple[NDArray[np.int8], float]:
    magnitude = np.abs(values)
    if coding == "binary":
        return np.where(values < 0, -1, 1).astype(np.int8), float(magnitude.mean())
    kept = magnitude > TERNARY_THRESHOLD * magnitude.mean()
    return np.where(kept, np.sign(values), 0).astype(np.int8), float(magnitude[kept].mean()) if kept.any() else 1.0


def _exact(name: str, values: NDArray[np.float64], coding: Coding) -> tuple[NDArray[np.int8], float]:
    """Values that are on {-s, 0, +s} already."""
    magnitude = np.abs(values)
    scale = float(magnitude.max())
    zero = magnitude <= MAGNITUDE_TOLERANCE * scale
    if not np.all(zero | (np.abs(magnitude - scale) <= MAGNITUDE_TOLERANCE * scale)):
        levels = np.unique(values).size
        raise WeightsError(
            f"tensor {name} has {levels} different values, not -s and +s or -s, 0 and +s: train with quantised "
            "weights, or quantise them now with binarise (--binarise)"
        )
    if coding == "binary" and zero.any():
        raise WeightsError(f"tensor {name} has zeros, which binary coding cannot hold: use ternary (or binarise)")
    weights = np.where(zero, 0, np.sign(values)).astype(np.int8)
    return weights, float(magnitude[~zero].mean()) if not zero.all() else 1.0
