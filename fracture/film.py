"""Reads a film, whatever it comes in: a file, its bytes, a picture or an array.

`Film.pixels` is what the models see, made the same way from every source: one grey channel, bone
bright, stretched so that the darkest half per cent of the film becomes 0 and the brightest tenth of
a per cent 1 (a hot pixel or a lead marker must not squeeze the anatomy into a few grey levels);
light around the film is set to 0 and has no part in the stretch. `Film.display` is the picture as
the user knows it.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from PIL import Image

from fracture.exposure import Levels, light_border, problems_of, spread, stretched
from fracture.formats import FilmError, Limits, Raster, decode, from_array, from_picture
from fracture.geometry import Box, Geometry, cut, letterbox
from fracture.negatives import is_negative

__all__ = [
    "TO_SCREEN",
    "Box",
    "Film",
    "FilmError",
    "Geometry",
    "Limits",
    "cut",
    "letterbox",
    "read_film",
]

COLOURED = 16  # mean difference between the channels, of 255, from which on a film has a colour
DEFAULT_LIMITS = Limits()
# Where only an answer and a picture on a screen are wanted: no film that the models learnt from is
# longer than this, and their closest look, at 15 % of a film, still has more pixels than it uses.
TO_SCREEN = Limits(enough=1_600)


@dataclass(frozen=True)
class Film:
    """One film, upright, at its full resolution or as much of it as was asked for.

    pixels:   float32 (H, W) in [0, 1], bone bright: what the models see.
    display:  uint8 (H, W, 3): the picture as the user knows it, colours kept; not to be
              written to: of a grey one the three channels are the same memory (`view.plain`).
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

    name: shown instead of the file's own name. limits: what it may cost, and whether full size is
    needed (the default) or `TO_SCREEN` will do. A film that can be read but not be judged (too
    small, almost blank, ...) has `problems`. Raises FilmError, and nothing else, for what is no
    readable picture within the limits; its message is a sentence for a person.
    """
    if name is None:
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    try:
        return _film(_raster(source, limits), _short(name))
    except MemoryError:
        raise FilmError("The picture needs more memory than there is.") from None


def _raster(source: object, limits: Limits) -> Raster:
    if isinstance(source, np.ndarray):
        return from_array(source, limits)
    if isinstance(source, Image.Image):
        return from_picture(source, limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode(bytes(source), limits)
    if isinstance(source, (str, os.PathLike)):
        return decode(_contents(source, limits), limits)
    raise FilmError("A film is a file, its bytes, a picture or an array of pixels.")


def _contents(path: str | os.PathLike, limits: Limits) -> bytes:
    """The bytes of a file, at most one more than the limit."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a device or a pipe may never end
            raise FilmError("This is not a file.")
        with open(path, "rb") as file:
            return file.read(limits.max_bytes + 1)
    except FilmError:
        raise
    except FileNotFoundError:
        raise FilmError("There is no such file.") from None
    except (OSError, ValueError):
        raise FilmError("The file cannot be opened.") from None


def _film(raster: Raster, name: str) -> Film:
    values, notes = raster.values, list(raster.notes)
    del raster  # copies of a large picture add up: none is kept longer than it is used
    eight_bit, display = values.dtype == np.uint8, None
    if values.ndim == 3:
        display = values
        values, coloured = _grey(values)
        if coloured:
            notes.append("The picture is coloured; only its brightness was read.")
    elif eight_bit:
        display = _display(values)
    else:
        with np.errstate(over="ignore"):  # too large for float32: infinite, so no number here
            values = values.astype(np.float32, copy=not values.flags.writeable)
    levels = Levels(values)
    border = light_border(levels.small)
    negative = is_negative(levels.small, ~border)
    if negative:  # then it is the air around the limb, and will be black anyway
        border[:] = False
    low, high = levels.range(border, negative)
    problems = problems_of(
        levels.sample,
        levels.inside(border),
        low,
        high,
        values.shape,
        negative=negative,
        eight_bit=eight_bit,
    )
    pixels = stretched(values, low, high)
    if display is None:
        display = _display(pixels)
    if negative:
        np.subtract(1, pixels, out=pixels)
        notes.append("The film was a negative (bone dark); it was inverted.")
    if border.any():
        _blacken(pixels, border)
        notes.append("The light border around the film was left out.")
    return Film(pixels, display, name, tuple(notes), problems)


def _display(grey: np.ndarray) -> np.ndarray:
    """Grey (H, W), uint8 or float32 in [0, 1], as uint8 (H, W, 3) that take one channel's room."""
    if grey.dtype != np.uint8:
        grey = (grey * 255).round().astype(np.uint8)
    return np.broadcast_to(grey[..., None], (*grey.shape, 3))


def _grey(colours: np.ndarray) -> tuple[np.ndarray, bool]:
    """uint8 (H, W, 3) to grey (H, W), and whether the picture is coloured.

    A film photographed on a light box is blue or green: one channel is saturated or empty while
    another holds the picture. Channels count by how much of their range they use.
    """
    sample = colours[np.ix_(spread(colours.shape[0], 512), spread(colours.shape[1], 512))]
    differences = np.ptp(sample.astype(np.int16), axis=2)
    if not differences.any():
        return np.ascontiguousarray(colours[..., 1]), False
    ranges = np.ptp(np.percentile(sample.reshape(-1, 3), (1, 99), axis=0), axis=0)
    weights = ((ranges + 1e-3) / (ranges + 1e-3).sum()).astype(np.float32)
    grey = np.empty(colours.shape[:2], dtype=np.float32)
    step = max(1, 1_000_000 // colours.shape[1])
    for top in range(0, len(grey), step):  # in bands: a float copy of all channels is large
        grey[top : top + step] = colours[top : top + step] @ weights
    return grey, float(differences.mean()) > COLOURED


def _blacken(pixels: np.ndarray, border: np.ndarray) -> None:
    mask = Image.fromarray(border).resize((pixels.shape[1], pixels.shape[0]))
    pixels[np.asarray(mask)] = 0


def _short(name: str) -> str:
    """A file name that is safe to show: its last part, letters, digits and a few signs, short."""
    name = unicodedata.normalize("NFKC", PurePath(name.replace("\\", "/")).name)
    name = re.sub(r"[^\w .,()+-]+", "_", name)
    name = re.sub(r"_{2,}", "_", name).strip(" .+-_")
    if len(name) > 80:
        stem, suffix = os.path.splitext(name)
        name = f"{stem[:60]}…{stem[-8:]}{suffix}" if len(suffix) < 10 else f"{name[:70]}…"
    return name
