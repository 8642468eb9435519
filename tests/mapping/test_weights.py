from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mapping.placement.weights import WeightsError, extra_tensors, layers_from, load_weights

RNG = np.random.default_rng(0)


def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(12, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU(), torch.nn.Linear(5, 3, bias=False)
    )


def signs(*shape: int, scale: float = 0.3) -> np.ndarray:
    return (scale * RNG.choice([-1, 1], shape)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".npz"])
def test_the_same_weights_from_every_format(tmp_path: Path, suffix):
    state = model().state_dict()
    path = tmp_path / f"net{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: values.numpy() for name, values in state.items()})
    elif suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    loaded = load_weights(path)
    assert set(loaded) == set(state)
    layers = layers_from(loaded, binarise=True)
    assert [(layer.name, layer.weights.shape) for layer in layers] == [("0.weight", (5, 12)), ("3.weight", (3, 5))]
    for layer in layers:
        real = state[layer.name].numpy()
        np.testing.assert_array_equal(layer.weights, np.where(real < 0, -1, 1))
        assert layer.weights.dtype == np.int8 and layer.scale == pytest.approx(np.abs(real).mean())
    np.testing.assert_allclose(layers[0].bias, state["0.bias"].numpy())
    assert layers[1].bias is None
    assert set(extra_tensors(loaded)) == {name for name in state if name.startswith("1.")}


def test_checkpoints_with_the_weights_in_a_table_of_their_own(tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 3, "model_state_dict": model().state_dict()}, path)
    assert "3.weight" in load_weights(path)


def test_half_precision(tmp_path: Path):
    path = tmp_path / "net.safetensors"
    values = torch.tensor([[0.3, -0.3], [0.3, 0.3]], dtype=torch.bfloat16)
    save_file({"a.weight": values}, path)
    layer = layers_from(load_weights(path))[0]
    np.testing.assert_array_equal(layer.weights, [[1, -1], [1, 1]])
    assert layer.scale == pytest.approx(0.3, rel=1e-2)


def test_safetensors_come_in_natural_order(tmp_path: Path):
    path = tmp_path / "net.safetensors"
    sizes = [4, 6, 5, 3]
    numbers = [2, 9, 10]
    tensors = {f"fc{n}.weight": torch.ones(b, a) for n, a, b in zip(numbers, sizes[:-1], sizes[1:], strict=True)}
    save_file(tensors, path)
    assert [layer.name for layer in layers_from(load_weights(path))] == ["fc2.weight", "fc9.weight", "fc10.weight"]


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 10))
@settings(max_examples=30, deadline=None)
def test_quantised_weights_are_taken_as_they_are(seed, scale):
    rng = np.random.default_rng(seed)
    w = rng.integers(-1, 2, (4, 6))
    w[0, 0] = 1
    layer = layers_from({"a.weight": (scale * w).astype(np.float32)}, "ternary")[0]
    np.testing.assert_array_equal(layer.weights, w)
    assert layer.scale == pytest.approx(scale, rel=1e-6)


def test_ternary_threshold():
    values = np.array([[0.1, -0.2, 1.0, -2.0]])
    layer = layers_from({"w": values}, "ternary", binarise=True)[0]
    np.testing.assert_array_equal(layer.weights, [[0, 0, 1, -1]])
    assert layer.scale == pytest.approx(1.5)


def test_integers_and_given_order():
    state = {"b": np.ones((2, 3), np.int64), "a": -np.ones((3, 4), np.int8)}
    layers = layers_from(state, order=["a", "b"])
    assert [layer.weights.shape for layer in layers] == [(3, 4), (2, 3)]
    with pytest.raises(WeightsError, match=r"a does not take what b gives: b \[2, 3\], a \[3, 4\]"):
        layers_from(state)
    with pytest.raises(WeightsError, match="no tensor c; the file has b, a"):
        layers_from(state, order=["c"])


@pytest.mark.parametrize(
    ("state", "coding", "message"),
    [
        ({"a.weight": np.array([[1.0, np.nan]])}, "binary", "tensor a.weight has values that are NaN"),
        ({"a.weight": signs(2, 2), "n.running_var": np.array([np.inf])}, "binary", "tensor n.running_var"),
        ({"a.weight": np.array([[0.1, -0.7, 0.4]])}, "binary", r"a.weight has 3 different values.*--binarise"),
        ({"a.weight": np.array([[1, -1, 0]])}, "binary", "zeros.*use ternary"),
        ({"a.weight": np.zeros((2, 2))}, "binary", "zeros"),
        ({"a.weight": signs(2, 2), "a.bias": np.zeros(3)}, "binary", r"a.bias has shape \[3\] for 2 outputs"),
        ({"conv.weight": np.ones((8, 1, 3, 3))}, "binary", "only fully connected"),
        ({"a.weight": np.ones((0, 4))}, "binary", r"shape \[0, 4\]"),
        ({"a.weight": signs(2, 2)}, "octal", "'binary' or 'ternary'"),
    ],
)
def test_what_cannot_be_mapped_is_refused(state, coding, message):
    with pytest.raises(WeightsError, match=message):
        layers_from(state, coding)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no weights file"):
        load_weights(tmp_path / "none.pt")
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"net\.onnx: weights are read from \.safetensors"):
        load_weights(tmp_path / "net.onnx")
    for suffix in (".pt", ".npz", ".safetensors"):
        for content in (b"", b"garbage that is no archive"):
            path = tmp_path / f"broken{suffix}"
            path.write_bytes(content)
            with pytest.raises(WeightsError, match="broken"):
                load_weights(path)


def test_pickled_objects_are_refused(tmp_path: Path):
    torch.save(model(), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"pickled objects.*state_dict"):
        load_weights(tmp_path / "model.pt")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    with pytest.raises(WeightsError, match="plain arrays"):
        load_weights(tmp_path / "objects.npz")
    np.savez(tmp_path / "text.npz", a=np.array(["x"]))
    with pytest.raises(WeightsError, match="not real numbers"):
        load_weights(tmp_path / "text.npz")


def test_empty_files_are_refused(tmp_path: Path):
    torch.save({}, tmp_path / "a.pt")
    torch.save(torch.ones(2, 2), tmp_path / "b.pt")
    for name, message in (("a.pt", "holds no tensors"), ("b.pt", "instead of a state dict")):
        with pytest.raises(WeightsError, match=message):
            load_weights(tmp_path / name)
