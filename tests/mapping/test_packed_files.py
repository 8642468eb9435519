"""Files from elsewhere that claim, or would unpack to, more than any memory: refused before that, by name."""

import gzip
import io
import struct
import zipfile

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from mapping.placement.weights import WeightsError, load_weights
from mapping.training.mnist import MnistError, load_mnist
from mapping.training.moons import FILES, MoonsError, read_moons
from mapping.writing.pictures import PictureError, read_picture
from mapping.writing.schedule_file import read_array
from sim_backends.array.files.npz import read_npz

PLENTY = 300_000_000  # bytes that none of these may take


@pytest.fixture(autouse=True)
def little_memory():
    resource = pytest.importorskip("resource", reason="Windows does not tell the peak of memory this way")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < PLENTY


def packed_zeros(size):
    """A gzip stream of so many zeros, made piece by piece."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1, mtime=0) as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return stream.getvalue()


def npz_with(path, content, shape="(1,)", compress=zipfile.ZIP_DEFLATED):
    """An npz file with one array that claims a shape."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (struct.pack(">IIII", 0x803, 4_000_000, 28, 28), "claims"),
        (struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 28), "claims"),
        (struct.pack(">IIII", 0x803, 10, 28, 28), "more bytes"),
        (struct.pack(">II", 0x803, 10), "cut or damaged|claims"),
    ],
)
def test_an_idx_file_unpacks_to_no_more_than_its_header_says(tmp_path, head, says):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head) + packed_zeros(256 << 20))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">II", 0x801, 10) + bytes(10)))
    with pytest.raises(MnistError, match=says):
        load_mnist(tmp_path)


@pytest.mark.parametrize("shape", ["(1,)", "(400000000,)", "(100000, 100000)", "(0,)"])
def test_npz_arrays_are_what_is_stored_of_them(tmp_path, shape):
    path = tmp_path / "w.npz"
    npz_with(path, bytes(1 << 20), shape)
    with pytest.raises(ValueError, match="claims the shape"):
        read_npz(path, 1 << 30)
    with pytest.raises(WeightsError, match=r"w\.npz"):
        load_weights(path)
    with pytest.raises(ValueError, match="too many for what it is"):
        read_npz(path, 1000)


def test_packed_weights_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("mapping.placement.weights.LARGEST", 1 << 20)
    np.savez_compressed(tmp_path / "w.npz", w=np.zeros((1000, 1000)))
    with pytest.raises(WeightsError, match="too many"):
        load_weights(tmp_path / "w.npz")
    torch.save({"w": torch.zeros(1000, 1000)}, tmp_path / "plain.pt")
    assert load_weights(tmp_path / "plain.pt")["w"].shape == (1000, 1000), "stored as large as it is"
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    with pytest.raises(WeightsError, match="claims to hold"):
        load_weights(tmp_path / "packed.pt")


def test_a_tensor_is_as_large_as_what_is_stored_of_it(tmp_path):
    torch.save({"w": torch.zeros(1).expand(1_000_000, 1_000_000)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="larger than what is stored"):
        load_weights(tmp_path / "w.pt")
    tied = torch.eye(3)
    torch.save({"a": tied, "b": tied, "c": tied.T, "d": tied[1:]}, tmp_path / "tied.pt")
    assert load_weights(tmp_path / "tied.pt")["d"].shape == (2, 3)


@pytest.mark.parametrize(
    "made",
    [
        {"shape": (90_000_000,), "dtype": "<f8"},  # nothing of it is stored
        {"shape": (90_000_000,), "dtype": "<f8", "chunks": (1 << 20,), "compression": "gzip"},
        {"shape": (10,), "maxshape": (None,), "dtype": "<f8", "chunks": (1 << 26,), "compression": "gzip"},
    ],
)
def test_datasets_of_schedules_are_stored_whole(tmp_path, made):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("states", **made)
        with pytest.raises(ValueError, match="are stored of it"):
            read_array(file, "states", "<f8", None, (0, 1))
        file.create_dataset("small", data=np.zeros(1000), chunks=(100,), compression="gzip")
        assert read_array(file, "small", "<f8", (1000,), (0, 1)).size == 1000


def test_pictures_are_read_by_pillow_alone(tmp_path):
    Image.new("L", (20, 20)).save(tmp_path / "p.eps")
    (tmp_path / "p.png").write_bytes((tmp_path / "p.eps").read_bytes())
    for name in ("p.eps", "p.png"):
        with pytest.raises(PictureError, match="is not a picture"):
            read_picture(tmp_path / name, (8, 8))


def test_points_are_not_unpacked(tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"x0,x1,label\n0.1,0.2,0\n"))
    with pytest.raises(MoonsError, match="cannot read"):
        read_moons(tmp_path)
    for name in FILES:
        (tmp_path / name).write_bytes(b"x0,x1,label\n0.1,0.2,0\n")
    assert len(read_moons(tmp_path).train) == 1
    monkeypatch.setattr("mapping.training.moons._LARGEST", 10)
    with pytest.raises(MoonsError, match="larger than"):
        read_moons(tmp_path)
