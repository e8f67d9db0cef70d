"""A film as a picture: its grey levels, the light around it, and whether there is enough to see."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fracture.formats import FilmError

__all__ = ["SIDE", "Levels", "light_border", "problems_of", "spread", "stretched"]

SIDE = 128  # pixels; the small square copy of a film that is looked at
DARKEST, BRIGHTEST = 0.5, 99.9  # percentiles that become 0 and 1

LIGHT, FLAT = 0.75, 0.08  # a light border is at least so bright and nowhere changes more
SMALLEST = 0.01  # share of the picture

SMALL = 64  # pixels a side
DARK = 60  # of 255: the brightest tenth of a per cent of a film
FLAT_RANGE = 20  # of 255: between the darkest and the brightest pixels of a film
SATURATED = 250  # of 255


class Levels:
    """Grey levels of a film, taken from an even sample of its pixels.

    sample: values of about 512 x 512 pixels; small: float32 (SIDE, SIDE) in [0, 1], the whole film.
    """

    def __init__(self, values: np.ndarray) -> None:
        self._rows = spread(values.shape[0], 512)
        self._columns = spread(values.shape[1], 512)
        self.sample = values[np.ix_(self._rows, self._columns)]
        self._shape = values.shape
        low, high = self.range(np.zeros((SIDE, SIDE), dtype=bool))
        step = max(1, min(values.shape) // 1024)
        copy = values[::step, ::step]
        if copy.dtype != np.uint8:
            copy = np.nan_to_num(copy, nan=low, posinf=high, neginf=low)
        small = Image.fromarray(copy).resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
        self.small = stretched(np.array(small), low, high)

    def inside(self, border: np.ndarray) -> np.ndarray:
        """Which pixels of the sample belong to the film: finite, and not of its border."""
        rows = self._rows * SIDE // self._shape[0]
        columns = self._columns * SIDE // self._shape[1]
        return np.isfinite(self.sample) & ~border[np.ix_(rows, columns)]

    def range(self, border: np.ndarray, negative: bool = False) -> tuple[float, float]:
        """The levels that become 0 and 1; of a negative, which is still to be inverted, 1 and 0."""
        values = self.sample[self.inside(border)]
        if not values.size:
            values = self.sample[np.isfinite(self.sample)]
        if not values.size:
            raise FilmError("The picture holds no numbers that can be shown.")
        ends = (100 - BRIGHTEST, 100 - DARKEST) if negative else (DARKEST, BRIGHTEST)
        low, high = np.percentile(values, ends)
        return float(low), float(high)


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` indices, evenly spread over 0..count-1."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """float32 in [0, 1]; float32 values are overwritten. What is not a number becomes 0."""
    scale = np.float32(1 / max(high - low, 1e-30))
    if values.dtype == np.uint8:
        levels = (np.arange(256, dtype=np.float32) - np.float32(low)) * scale
        return np.take(np.clip(levels, 0, 1), values)
    with np.errstate(all="ignore"):
        np.subtract(values, np.float32(low), out=values)
        np.multiply(values, scale, out=values)
    np.nan_to_num(values, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    return np.clip(values, 0, 1, out=values)


def light_border(grey: np.ndarray) -> np.ndarray:
    """Where a light box, a white page or a blank margin surrounds the film; bool (SIDE, SIDE).

    grey: float32 (SIDE, SIDE) in [0, 1], a small copy of the picture. A border is flat, light, and
    fills a corner of the picture. Overexposed soft tissue may do all of that, so that a border must
    also end at once, either at the black of a film, or, if it goes around most of the picture, at
    a rectangle. If it goes around all of the picture, a rectangle is enough.
    """
    flat = (grey > LIGHT) & (_around(grey, np.maximum) - _around(grey, np.minimum) < FLAT)
    border = np.zeros_like(flat)
    corners = np.ix_([2, -3], [2, -3])  # the last pixels are often blurred
    if not flat[corners].any():  # as of most films
        return border
    pieces = _pieces(flat)
    outline = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    at_corners = pieces[corners]
    for number in np.unique(at_corners[at_corners > 0]):
        piece = pieces == number
        if piece.mean() < SMALLEST:
            continue
        beside = _around(piece, np.logical_or, 3) & ~_around(piece, np.logical_or, 2)
        if not beside.any():  # nothing but light
            border |= piece
            continue
        drop = np.median(grey[piece]) - grey[beside]
        around = (outline == number).mean()
        ends = around > 0.95 or (around > 0.6 and (drop > 0.25).mean() > 0.7)
        if (drop > 0.5).mean() > 0.7 or (ends and _rectangularity(~piece) > 0.93):
            border |= _around(piece, np.logical_or, 2)  # its blurred end, too
    return border


def _around(values: np.ndarray, join: np.ufunc, radius: int = 1) -> np.ndarray:
    """Joins every pixel with its neighbours in a square."""
    for _ in range(2):
        padded = np.pad(values, ((radius, radius), (0, 0)), mode="edge")
        joined = values
        for step in range(2 * radius + 1):
            joined = join(joined, padded[step : step + len(values)])
        values = joined.T
    return values


def _pieces(mask: np.ndarray) -> np.ndarray:
    """Connected pieces of a mask, each with a number of its own (with gaps); 0 outside."""
    numbers = np.where(mask, np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape), 0)
    while True:  # the highest number of a piece spreads over it
        spread = numbers.copy()
        np.maximum(spread[1:], spread[:-1], out=spread[1:])
        np.maximum(spread[:-1], spread[1:], out=spread[:-1])
        np.maximum(spread[:, 1:], spread[:, :-1], out=spread[:, 1:])
        np.maximum(spread[:, :-1], spread[:, 1:], out=spread[:, :-1])
        spread *= mask
        if np.array_equal(spread, numbers):
            return numbers
        numbers = spread


def _rectangularity(film: np.ndarray) -> float:
    """Share of the smallest rectangle around a film, tilted by up to 10 degrees, that it fills."""
    rows = np.flatnonzero(film.any(1))
    if not rows.size:
        return 0.0
    left = film[rows].argmax(1)
    right = film.shape[1] - film[rows, ::-1].argmax(1)
    x, y = np.concatenate([left, right, left, right]), np.concatenate([rows] * 2 + [rows + 1] * 2)
    angles = np.deg2rad(np.arange(-10, 11))[:, None]
    across = np.ptp(x * np.cos(angles) + y * np.sin(angles), axis=1)
    along = np.ptp(y * np.cos(angles) - x * np.sin(angles), axis=1)
    return float((right - left).sum() / (across * along).min())


def problems_of(
    sample: np.ndarray,
    inside: np.ndarray,
    low: float,
    high: float,
    shape: tuple[int, ...],
    *,
    negative: bool,
    eight_bit: bool,
) -> tuple[str, ...]:
    """Why no verdict should be given on a film, as sentences; () for a usable one.

    sample: pixels as stored; inside: which of them belong to the film; low, high: the levels of its
    darkest and brightest parts; shape: (H, W) of the film; eight_bit: 255 is white. How dark or
    light a film is can be said of those only: others have no fixed white.
    """
    if min(shape) < SMALL:
        return (
            f"The picture is too small: {shape[1]} x {shape[0]} pixels, "
            f"and at least {SMALL} on each side are needed.",
        )
    values = sample[inside]
    blank = ("The picture is almost blank.",)
    if not values.size or not high > low or _same(values, low, high) > 0.97:
        return blank
    if not eight_bit:
        return ()
    if high < DARK:
        return ("The picture is too dark.",)
    # Much of a negative is white: the air around the limb.
    if low > 255 - DARK or (not negative and (values >= SATURATED).mean() > 0.6):
        return ("The picture is overexposed: most of it is white.",)
    return blank if high - low < FLAT_RANGE else ()


def _same(values: np.ndarray, low: float, high: float) -> float:
    """Share of the values that differ from the most frequent one by less than 2 % of the range."""
    counts = np.histogram(values, 50, (low, high))[0]
    return float((counts[1:] + counts[:-1]).max() / values.size)
