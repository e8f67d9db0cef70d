"""Where a model input lies on its film, and the way back for the maps that the model makes.

Coordinates are continuous film pixels: x to the right, y down, (0, 0) is the outer corner of the
first pixel, so the centre of pixel (row, column) lies at (column + 0.5, row + 0.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

__all__ = ["Box", "Geometry", "cut", "letterbox"]


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels (floats allowed); it may reach outside the picture."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height


@dataclass(frozen=True)
class Geometry:
    """How a film was placed in a model input.

    film_size:  (H, W) of the film.
    input_size: (h, w) of the model input.
    box:        the region of the film, in film pixels, that the whole input shows. Where it
                reaches outside the film the input holds zeros.
    """

    film_size: tuple[int, int]
    input_size: tuple[int, int]
    box: Box

    def to_input(self, box: Box) -> Box:
        """A box in film pixels, expressed in input pixels."""
        x, y = self._pixels_per_input()
        return Box(
            (box.left - self.box.left) / x,
            (box.top - self.box.top) / y,
            box.width / x,
            box.height / y,
        )

    def from_input(self, box: Box) -> Box:
        """A box in input pixels, expressed in film pixels: the inverse of `to_input`."""
        x, y = self._pixels_per_input()
        return Box(
            self.box.left + box.left * x,
            self.box.top + box.top * y,
            box.width * x,
            box.height * y,
        )

    def to_film(self, map: np.ndarray) -> np.ndarray:
        """Lay a map of the model input over the film.

        map: (mh, mw), any resolution; its cells cover the whole input evenly. Returns float32
        (H, W): bilinear between cell centres, constant beyond the outermost ones, 0 at film
        pixels that the input does not show. Values never leave the range of `map` and 0.
        Raises ValueError if `map` is not two-dimensional or is empty.
        """
        cells = np.asarray(map, dtype=np.float32)
        if cells.ndim != 2 or not cells.size:
            raise ValueError(f"a map has two dimensions and is not empty; got shape {cells.shape}")
        rows = _shares(self.box.top, self.box.height, self.film_size[0], cells.shape[0])
        columns = _shares(self.box.left, self.box.width, self.film_size[1], cells.shape[1])
        # by torch: numpy's threads spin for tens of milliseconds after a product of this size, on
        # the cores that torch's threads wait for
        import torch  # here: whoever only decodes films need not load it

        r, c, cells_ = (torch.from_numpy(np.ascontiguousarray(m)) for m in (rows, columns, cells))
        return (r @ (cells_ @ c.T)).numpy()

    def _pixels_per_input(self) -> tuple[float, float]:
        """Film pixels per input pixel, along x and y."""
        return self.box.width / self.input_size[1], self.box.height / self.input_size[0]


def letterbox(pixels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Geometry]:
    """Fit a whole film into a model input, aspect ratio kept, centred, zeros beside it.

    pixels: float32 (H, W) in [0, 1]; size: (h, w). Returns the float32 (h, w) input in [0, 1] and
    its geometry. Shrinking averages over the area that a pixel covers (no aliasing).
    """
    height, width = _checked(pixels)
    scale = min(size[0] / height, size[1] / width)
    # Whole pixels, so that no film pixel is blended with the padding; the two axes' scales
    # differ by at most half an input pixel over the film, and the geometry knows it.
    fit_h = min(size[0], max(1, round(height * scale)))
    fit_w = min(size[1], max(1, round(width * scale)))
    top, left = (size[0] - fit_h) // 2, (size[1] - fit_w) // 2
    canvas = np.zeros(size, dtype=np.float32)
    canvas[top : top + fit_h, left : left + fit_w] = _resized(
        pixels, (fit_h, fit_w), (0, 0, width, height)
    )
    x, y = width / fit_w, height / fit_h
    box = Box(-left * x, -top * y, size[1] * x, size[0] * y)
    return canvas, Geometry((height, width), (size[0], size[1]), box)


def cut(film_pixels: np.ndarray, box: Box, size: tuple[int, int]) -> tuple[np.ndarray, Geometry]:
    """Cut a region out of a film and scale it to a model input; zeros where there is no film.

    film_pixels: float32 (H, W) in [0, 1]; box: the region, in film pixels; size: (h, w). The box is
    scaled to the size on each axis, so a box of the same aspect ratio keeps it. Returns the float32
    (h, w) patch in [0, 1] and its geometry. Raises ValueError for a box without area.
    """
    height, width = _checked(film_pixels)
    sides = (box.left, box.top, box.width, box.height)
    if not all(map(math.isfinite, sides)) or box.width <= 0 or box.height <= 0:
        raise ValueError(f"a box needs finite sides and an area; got {box}")
    geometry = Geometry((height, width), (size[0], size[1]), box)
    # Neighbours beyond the box take part in the resampling of its rim, as anywhere else.
    margin_x = 2 + math.ceil(2 * max(1.0, box.width / size[1]))
    margin_y = 2 + math.ceil(2 * max(1.0, box.height / size[0]))
    left, right = math.floor(box.left) - margin_x, math.ceil(box.right) + margin_x
    top, bottom = math.floor(box.top) - margin_y, math.ceil(box.bottom) + margin_y
    inside = film_pixels[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if not inside.size:
        return np.zeros(size, dtype=np.float32), geometry
    pad_y = (max(0, -top), max(0, bottom - height))
    pad_x = (max(0, -left), max(0, right - width))
    if any(pad_y + pad_x):
        inside = np.pad(inside, (pad_y, pad_x))
    region = (box.left - left, box.top - top, box.right - left, box.bottom - top)
    return _resized(inside, (size[0], size[1]), region), geometry


def _checked(pixels: np.ndarray) -> tuple[int, int]:
    if pixels.ndim != 2 or not pixels.size:
        raise ValueError(f"a film has two dimensions and is not empty; got shape {pixels.shape}")
    return pixels.shape[0], pixels.shape[1]


def _shares(start: float, length: float, pixels: int, cells: int) -> np.ndarray:
    """How much of each cell a pixel gets along one axis: float32 (pixels, cells), rows sum to 1.

    A pixel whose centre lies outside [start, start + length) gets nothing: its row is 0.
    """
    at = (np.arange(pixels) + 0.5 - start) * (cells / length)
    reach = max(1.0, cells / length)  # cells smaller than pixels are averaged
    shares = 1 - np.abs(at[:, None] - (np.arange(cells) + 0.5)) / reach
    shares = np.where((at >= 0) & (at < cells), shares.T, 0).T.clip(min=0)
    return (shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _resized(
    pixels: np.ndarray, size: tuple[int, int], region: tuple[float, float, float, float]
) -> np.ndarray:
    """Resample the (left, top, right, bottom) region of float32 pixels to (h, w), in [0, 1]."""
    shrinks = region[2] - region[0] > size[1] or region[3] - region[1] > size[0]
    # Hamming: as wide as bilinear (area-averaging when shrinking) but sharper, and cracks are thin.
    kind = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
    picture = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    small = picture.resize((size[1], size[0]), kind, box=region, reducing_gap=3.0)
    return np.clip(np.asarray(small), 0.0, 1.0)
