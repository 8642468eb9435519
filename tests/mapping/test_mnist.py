"""MNIST files: real ones are read whatever their packing, wrong ones are refused with a message that names them."""

import gzip
import struct

import numpy as np
import pytest

from mapping.training.mnist import MnistError, load_mnist, pool


@pytest.fixture(scope="module")
def digits():
    return load_mnist()


def idx(array, magic):
    return struct.pack(">I", magic) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """Four sound IDX files of random images, two of them gzipped."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 30), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx(images, 0x803))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels, 0x801)))
    return tmp_path


def test_the_embedded_digits_are_real_stratified_and_disjoint(digits):
    assert np.bincount(digits.train_labels).tolist() == [400] * 10
    assert np.bincount(digits.test_labels).tolist() == [100] * 10
    train, test = ({image.tobytes() for image in images} for images in (digits.train_images, digits.test_images))
    assert not train & test and len(train) == 4000
    means = [digits.train_images[digits.train_labels == digit].mean() for digit in range(10)]
    assert np.argmin(means) == 1  # a one has the least ink


def test_a_choice_of_test_images_is_balanced_and_always_the_same(digits):
    some, again = digits.first_test(205), digits.first_test(205)
    assert set(np.bincount(some.test_labels).tolist()) == {20, 21}
    assert (some.test_images == again.test_images).all()
    assert len(digits.first_test(1000).test_labels) == 1000
    with pytest.raises(MnistError, match="1 to 1000"):
        digits.first_test(1001)
    with pytest.raises(MnistError, match="0 test images"):
        digits.first_test(0)


def test_pooling_averages_two_by_two():
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 2:4, 26:28] = [[255, 255], [0, 0]]
    pooled = pool(image).reshape(14, 14)
    assert pooled[1, 13] == pytest.approx(0.5)
    assert pooled.sum() == pytest.approx(0.5)


def test_idx_files_are_read_packed_or_not(folder):
    found = load_mnist(folder)
    assert found.train_images.shape == (30, 28, 28) and found.test_labels.tolist() == [*range(10)] * 2
    assert "30 + 20" in found.source


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def swap(path):
    labels = path.with_name("train-labels-idx1-ubyte.gz")
    path.write_bytes(gzip.decompress(labels.read_bytes()))


def shrink(path):
    path.write_bytes(idx(np.zeros((30, 20, 20), np.uint8), 0x803))


def fewer(path):
    path.write_bytes(idx(np.zeros((29, 28, 28), np.uint8), 0x803))


def garbage(path):
    path.write_bytes(b"\x1f\x8b" + b"not gzip at all")


@pytest.mark.parametrize(
    ("damage", "says"),
    [(truncate, "cut or damaged"), (swap, "mixed up"), (shrink, "20 x 20"), (fewer, "do not match"),
     (garbage, "cannot be read"), (lambda path: path.unlink(), "has no train-images")],
)  # fmt: skip
def test_a_damaged_file_is_named(folder, damage, says):
    damage(folder / "train-images-idx3-ubyte")
    with pytest.raises(MnistError, match=says) as caught:
        load_mnist(folder)
    assert "train-images" in str(caught.value)


def test_labels_beyond_nine_are_refused(folder):
    labels = np.full(30, 11, np.uint8)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels, 0x801)))
    with pytest.raises(MnistError, match="labels up to 11"):
        load_mnist(folder)
