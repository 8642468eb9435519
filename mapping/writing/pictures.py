"""Grey-scale pictures as conductances: the usual way to see how well a whole array can be tuned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

FloatArray = NDArray[np.float64]

#: Pixels of a file beyond which it is not read.
PIXELS_MAX = 50_000_000
_FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP")  # Pillow has EPS rendered by another program


class PictureError(ValueError):
    """A file is no picture that can be written; the message says what to give instead."""


def sphere(shape: tuple[int, int]) -> FloatArray:
    """A shaded ball on a table, drawn by a formula; grey values from 0 to 1, ``[row, column]``.

    It has smooth gradients, an edge and all grey values, so that tuning errors are seen wherever they are.
    """
    rows, columns = shape
    y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    wall = 0.30 + 0.25 * x - 0.15 * y
    table = 0.62 + 0.6 * (y - 0.72) - 0.15 * np.abs(x - 0.35)
    shadow = np.exp(-(((x - 0.64) / 0.26) ** 2) - (((y - 0.86) / 0.07) ** 2))
    grey = np.where(y < 0.72, wall, table * (1 - 0.85 * shadow))
    u, v = (x - 0.5) / 0.36, (y - 0.5) / 0.36
    inside = u**2 + v**2 < 1
    height = np.sqrt(np.clip(1 - u**2 - v**2, 0, None))
    light = np.array([-0.5, -0.6, 0.62])
    lit = np.clip((u * light[0] + v * light[1] + height * light[2]) / np.linalg.norm(light), 0, 1)
    ball = 0.04 + 0.75 * lit + 0.35 * lit**30 + 0.12 * (1 - height) * np.clip(v, 0, 1)
    return np.asarray(np.clip(np.where(inside, ball, grey), 0, 1), dtype=np.float64)


def read_picture(path: Path, shape: tuple[int, int]) -> FloatArray:
    """A picture of a file, as grey values from 0 (black) to 1 (white), scaled to ``[row, column]``.

    Parameters
    ----------
    path
        Any picture that Pillow reads (``.png``, ``.jpg``, ``.pgm``...).
    shape
        Rows and columns of the array. The picture fills it: its sides are scaled each by itself.

    Raises
    ------
    PictureError
        If there is no such file, it is no picture, it is too large or all of one grey.
    """
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if picture.width * picture.height > PIXELS_MAX:
                raise PictureError(
                    f"{path} has {picture.width} x {picture.height} pixels; {PIXELS_MAX:,} are read at most"
                )
            grey = _grey(picture).resize((shape[1], shape[0]), Image.Resampling.LANCZOS)
            values = np.asarray(grey, dtype=np.float64) / 255
    except UnidentifiedImageError as error:
        raise PictureError(f"{path} is not a picture; give a PNG, JPEG, PGM or the like") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"cannot read {path}: {error}; give a PNG, JPEG, PGM or the like") from error
    if np.ptp(values) == 0:
        raise PictureError(f"{path} is one grey all over: there would be nothing to see; give another picture")
    return values


def _grey(picture: Image.Image) -> Image.Image:
    """Greys of 8 bits: 16 bits are scaled, not cut off; what is transparent is on white."""
    if picture.mode.startswith("I"):
        return Image.fromarray((np.clip(np.asarray(picture) / 65535, 0, 1) * 255).astype(np.uint8))
    if picture.mode == "F":
        raise PictureError("its pixels are floats, whose black and white nobody knows; give 8 or 16 bits")
    if picture.has_transparency_data:
        shown = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("L")
    return picture.convert("L")


def conductances(grey: FloatArray, g_min: float, g_max: float) -> FloatArray:
    """Conductances (S) of grey values: black is `g_min`, white is `g_max`, linear between."""
    return np.asarray(g_min + (g_max - g_min) * grey, dtype=np.float64)
