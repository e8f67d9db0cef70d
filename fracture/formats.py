"""Turns the bytes of a file into an array of pixels, or into a FilmError that says why not."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

__all__ = ["FilmError", "Limits", "Raster", "decode", "from_array", "from_picture"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


class FilmError(ValueError):
    """The film cannot be read. The message is one sentence for the person who dropped it."""


@dataclass(frozen=True)
class Limits:
    """What one film may cost: bytes of its file, pixels of its picture, frames."""

    max_bytes: int = 25_000_000
    max_pixels: int = 50_000_000
    max_frames: int = 1_000


@dataclass(frozen=True)
class Raster:
    """Decoded pixels: (H, W) of any number type, or uint8 (H, W, 3); upright."""

    values: np.ndarray
    notes: tuple[str, ...] = ()


def decode(data: bytes, limits: Limits) -> Raster:
    """The picture in the bytes of a file. Raises FilmError, and nothing else."""
    if len(data) > limits.max_bytes:
        raise FilmError(f"The file is larger than {limits.max_bytes / 1e6:.0f} MB.")
    try:
        return from_picture(Image.open(io.BytesIO(data), formats=FORMATS), limits)
    except FilmError:
        raise
    except Exception:
        raise FilmError("The file is not a picture that can be read.") from None


def from_picture(picture: Image.Image, limits: Limits) -> Raster:
    """The pixels of a PIL picture, upright."""
    if picture.width * picture.height > limits.max_pixels:
        raise FilmError(f"The picture is larger than {limits.max_pixels / 1e6:.0f} megapixels.")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return Raster(np.asarray(picture))
    if picture.mode in ("1", "L"):
        return Raster(np.asarray(picture.convert("L")))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture)
    return Raster(np.asarray(picture.convert("RGB")))


def from_array(values: np.ndarray, limits: Limits) -> Raster:
    """The pixels of an array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim == 3 and values.shape[2] in (3, 4):
        return from_picture(Image.fromarray(np.asarray(values, dtype=np.uint8)), limits)
    if values.ndim != 2 or not values.size:
        raise FilmError(f"An array of shape {values.shape} is not a picture.")
    if values.size > limits.max_pixels:
        raise FilmError(f"The picture is larger than {limits.max_pixels / 1e6:.0f} megapixels.")
    return Raster(values.astype(np.uint8) * 255 if values.dtype == bool else values)
