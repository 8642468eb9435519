"""Pictures as grey values and conductances, and files that are none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mapping.writing import pictures
from mapping.writing.pictures import PictureError, conductances, read_picture, sphere


@given(rows=st.integers(4, 70), columns=st.integers(4, 70))
def test_the_ball_fills_any_array_with_greys_from_dark_to_light(rows, columns):
    grey = sphere((rows, columns))
    assert grey.shape == (rows, columns)
    assert 0 <= grey.min() < 0.35 and 0.55 < grey.max() <= 1


def test_the_ball_uses_the_whole_range_where_there_is_room():
    count, _ = np.histogram(sphere((64, 64)), np.linspace(0, 1, 11))
    assert (count > 0.005 * 64 * 64).all(), count


def test_a_file_is_scaled_to_the_array_row_by_row(tmp_path):
    halves = np.zeros((30, 90), np.uint8)
    halves[:, 45:] = 255
    Image.fromarray(halves).save(tmp_path / "halves.png")
    grey = read_picture(tmp_path / "halves.png", (4, 10))
    assert grey.shape == (4, 10)
    assert grey[:, :4] == pytest.approx(0, abs=0.05) and grey[:, 6:] == pytest.approx(1, abs=0.05)


def test_colours_become_greys(tmp_path):
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[:4] = (255, 255, 255)
    Image.fromarray(rgb).save(tmp_path / "colour.png")
    assert read_picture(tmp_path / "colour.png", (8, 8))[[0, -1], 0] == pytest.approx([1, 0], abs=0.05)


def test_sixteen_bits_are_scaled_and_what_is_transparent_is_white(tmp_path):
    ramp = np.repeat(np.linspace(0, 65535, 8).astype(np.uint16)[None], 8, axis=0)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png", (8, 8))[0] == pytest.approx(np.linspace(0, 1, 8), abs=0.01)
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4, :, 3] = 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png", (8, 8))[[0, -1], 0] == pytest.approx([0, 1], abs=0.05)
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "float.tiff")
    with pytest.raises(PictureError, match="pixels are floats"):
        read_picture(tmp_path / "float.tiff", (8, 8))


def test_black_is_the_lowest_conductance():
    assert conductances(np.array([0.0, 0.5, 1.0]), 100e-6, 500e-6) == pytest.approx([100e-6, 300e-6, 500e-6])


def test_what_is_no_picture_is_refused(tmp_path, monkeypatch):
    with pytest.raises(PictureError, match=r"cannot read .*nowhere\.png"):
        read_picture(tmp_path / "nowhere.png", (8, 8))
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(PictureError, match="is not a picture; give a PNG"):
        read_picture(tmp_path / "text.png", (8, 8))
    Image.new("L", (20, 20), 100).save(tmp_path / "flat.png")
    with pytest.raises(PictureError, match="one grey all over"):
        read_picture(tmp_path / "flat.png", (8, 8))
    whole = (tmp_path / "cut.png").open("wb")
    with whole:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(whole, "png")
    cut = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(PictureError, match="cannot read"):
        read_picture(tmp_path / "cut.png", (8, 8))
    monkeypatch.setattr(pictures, "PIXELS_MAX", 300)
    with pytest.raises(PictureError, match=r"20 x 20 pixels; 300 are read at most"):
        read_picture(tmp_path / "flat.png", (8, 8))
