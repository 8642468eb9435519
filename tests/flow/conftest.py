"""What tests of the whole way share."""

import gzip
import struct

import numpy as np
import pytest


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory):
    """A folder with a small MNIST: 400 digits to train with, 100 to test, in the four IDX files."""
    from mapping.training.mnist import load_mnist

    digits, folder = load_mnist().first_test(100), tmp_path_factory.mktemp("mnist")
    chosen = np.arange(0, len(digits.train_labels), 10)
    _write(folder, "train", digits.train_images[chosen], digits.train_labels[chosen])
    _write(folder, "t10k", digits.test_images, digits.test_labels)
    return folder


def _write(folder, name, images, labels):
    header = struct.pack(">4I", 0x803, *images.shape)
    (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    header = struct.pack(">2I", 0x801, len(labels))
    (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.astype(np.uint8).tobytes()))
