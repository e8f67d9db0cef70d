"""What a film looks like as a picture: the light around it, and whether there is enough to see."""

from __future__ import annotations

import numpy as np

__all__ = ["SIDE", "light_border", "problems_of"]

SIDE = 128  # pixels; the small square copy of a film that is looked at

LIGHT, FLAT = 0.75, 0.08  # a light border is at least so bright and nowhere changes more
SMALLEST = 0.01  # share of the picture

SMALL = 64  # pixels a side
DARK = 60  # of 255: the brightest tenth of a per cent of a film
FLAT_RANGE = 20  # of 255: between the darkest and the brightest pixels of a film
SATURATED = 250  # of 255


def light_border(grey: np.ndarray) -> np.ndarray:
    """Where a light box, a white page or a blank margin surrounds the film; bool (SIDE, SIDE).

    grey: float32 (SIDE, SIDE) in [0, 1], a small copy of the picture. A border is flat, light, and
    fills a corner of the picture. Overexposed soft tissue may do all of that, so that a border must
    also end at once, either at the black of a film, or, if it goes around most of the picture, at
    a rectangle.
    """
    flat = (grey > LIGHT) & (_around(grey, np.maximum) - _around(grey, np.minimum) < FLAT)
    border = np.zeros_like(flat)
    pieces = _pieces(flat)
    outline = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    corners = pieces[np.ix_([2, -3], [2, -3])]  # the last pixels are often blurred
    for number in np.unique(corners[corners > 0]):
        piece = pieces == number
        if piece.mean() < SMALLEST:
            continue
        beside = _around(piece, np.logical_or, 3) & ~_around(piece, np.logical_or, 2)
        if not beside.any():  # nothing but light
            border |= piece
            continue
        drop = np.median(grey[piece]) - grey[beside]
        goes_around = (outline == number).mean() > 0.6
        if (drop > 0.5).mean() > 0.7 or (
            goes_around and (drop > 0.25).mean() > 0.7 and _rectangularity(~piece) > 0.93
        ):
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
    if negative:
        values, low, high = 255 - values, 255 - high, 255 - low
    if high < DARK:
        return ("The picture is too dark.",)
    if low > 255 - DARK or (values >= SATURATED).mean() > 0.6:
        return ("The picture is overexposed: most of it is white.",)
    return blank if high - low < FLAT_RANGE else ()


def _same(values: np.ndarray, low: float, high: float) -> float:
    """Share of the values that differ from the most frequent one by less than 2 % of the range."""
    counts = np.histogram(values, 50, (low, high))[0]
    return float((counts[1:] + counts[:-1]).max() / values.size)
