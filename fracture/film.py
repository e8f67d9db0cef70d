"""Reads a film, whatever it comes in: a file, its bytes, a picture or an array.

`pixels` is what the models see: one grey channel, bone bright, stretched so that the darkest half
per cent of the film is 0 and the brightest tenth of a per cent is 1 (a single hot pixel or a lead
marker must not squeeze the anatomy into a few grey levels). `display` is the picture as the user
knows it.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .formats import FilmError, Limits, Raster, decode, from_array, from_picture
from .geometry import Box, Geometry, cut, letterbox

__all__ = ["Box", "Film", "FilmError", "Geometry", "Limits", "cut", "letterbox", "read_film"]

DARKEST, BRIGHTEST = 0.5, 99.9  # percentiles that become 0 and 1
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Film:
    """One film, upright and at its full resolution.

    pixels:   float32 (H, W) in [0, 1], bone bright: what the models see.
    display:  uint8 (H, W, 3): the picture as the user knows it, colours kept.
    name:     short file name without markup, "" if there is none.
    notes:    plain sentences about what was done to the film.
    problems: plain sentences: why no verdict should be given. Empty for a usable film.
    """

    pixels: np.ndarray
    display: np.ndarray
    name: str
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def read_film(
    source: str | os.PathLike | bytes | Image.Image | np.ndarray,
    *,
    name: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Film:
    """Read a film from a path, the bytes of a file, a PIL picture or an array.

    name: shown instead of the file's own name. Raises FilmError, and nothing else, for anything
    that is not a readable picture within the limits; its message is a sentence for a person.
    """
    if name is None:
        name = os.path.basename(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else ""
    raster = _raster(source, limits)
    values, colour = raster.values, raster.values.ndim == 3
    grey = _grey(values) if colour else values
    pixels = _stretch(grey)
    if values.dtype == np.uint8:
        display = values if colour else np.repeat(values[..., None], 3, axis=2)
    else:
        display = np.repeat((pixels * 255 + 0.5).astype(np.uint8)[..., None], 3, axis=2)
    return Film(pixels, display, name, (), ())


def _raster(source: object, limits: Limits) -> Raster:
    if isinstance(source, np.ndarray):
        return from_array(source, limits)
    if isinstance(source, Image.Image):
        return from_picture(source, limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode(bytes(source), limits)
    if isinstance(source, (str, os.PathLike)):
        return decode(_read_bytes(source, limits), limits)
    raise FilmError("A film is a file, its bytes, a picture or an array of pixels.")


def _read_bytes(path: str | os.PathLike, limits: Limits) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FilmError("This is not a file.")
        with open(path, "rb") as file:
            return file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, FilmError):
            raise
        raise FilmError("The file cannot be opened.") from None


def _grey(colours: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) to uint8 (H, W)."""
    return np.asarray(Image.fromarray(colours).convert("L"))


def _stretch(grey: np.ndarray) -> np.ndarray:
    """Any (H, W) numbers to float32 in [0, 1] by percentiles; not-a-number becomes 0."""
    sample = grey[:: max(1, grey.shape[0] // 512), :: max(1, grey.shape[1] // 512)]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise FilmError("The picture holds no numbers that can be shown.")
    low, high = np.percentile(sample, (DARKEST, BRIGHTEST))
    pixels = grey.astype(np.float32)
    pixels -= np.float32(low)
    pixels *= np.float32(1 / max(high - low, 1e-6))
    np.nan_to_num(pixels, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    return np.clip(pixels, 0, 1, out=pixels)
