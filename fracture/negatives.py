"""Tells a negative film (bone dark) from an ordinary one (bone bright).

On a radiograph the air beside the limb is black and smooth, bone is bright and full of texture,
and the limb lies in the middle. Each of these is put into a number that changes its sign when the
film is turned around; a logistic regression on the real films weighs them. `python -m
fracture.negatives FOLDER` fits the weights anew and prints how often they are wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from fracture.exposure import Levels, light_border

__all__ = ["features", "is_negative"]

SIDE = 96  # pixels; textures are measured at this size
FEATURES = {  # and their weights, as the command below prints them
    "middle brighter than left and right": 5.796,
    "middle brighter than top and bottom": 2.407,
    "more black than white": 2.431,
    "more dark than light": 1.587,
    "rim black": 3.14,
    "darker than half": 3.666,
    "bright parts textured, finely": 2.178,
    "bright parts textured, coarsely": 0.885,
    "bright parts of the middle textured, finely": 0.831,
}
WEIGHTS = np.array(list(FEATURES.values()))
THRESHOLD = -0.5  # below 0: to leave a negative as it is does less harm than to spoil a film

_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE]
_DEPTH = np.minimum.reduce([_ROWS, _COLUMNS, SIDE - 1 - _ROWS, SIDE - 1 - _COLUMNS])


def is_negative(grey: np.ndarray, seen: np.ndarray) -> bool:
    """Whether bone is dark. grey: float32 (n, n), a small copy; seen: bool (n, n), its film."""
    return float(features(grey, seen) @ WEIGHTS) < THRESHOLD


def features(grey: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """float64 (len(FEATURES),); of the film turned around (1 - grey) they are the same, negated."""
    grey, seen = _framed(grey, seen)
    middle = seen & (_DEPTH >= SIDE // 4)
    rim = seen & (_DEPTH < SIDE // 16)
    values = grey[seen]
    edge = grey[rim] if rim.sum() > SIDE else values
    strip, third = SIDE // 16, slice(SIDE // 3, SIDE - SIDE // 3)
    fine, coarse = _texture(grey, 1), _texture(grey, 2)
    return np.array(
        [
            grey[:, third].mean() - (grey[:, :strip].mean() + grey[:, -strip:].mean()) / 2,
            grey[third].mean() - (grey[:strip].mean() + grey[-strip:].mean()) / 2,
            (values < 0.1).mean() - (values > 0.9).mean(),
            (values < 0.25).mean() - (values > 0.75).mean(),
            (edge < 0.15).mean() - (edge > 0.85).mean(),
            0.5 - values.mean(),
            _correlation(*fine, seen),
            _correlation(*coarse, seen),
            _correlation(*fine, middle),
        ]
    )


def _framed(grey: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The film alone, SIDE x SIDE, stretched to [0, 1]; what is not film holds its mean."""
    if not seen.any():
        seen = np.ones_like(seen)
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    grey = _resized(grey[window])
    seen = _resized(seen[window].astype(np.float32)) > 0
    low, high = np.percentile(grey[seen], (0.5, 99.5))
    grey = np.clip((grey - low) / max(high - low, 1e-6), 0, 1)
    return np.where(seen, grey, grey[seen].mean()), seen


def _resized(values: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize((SIDE, SIDE), Image.Resampling.BOX))


def _blurred(values: np.ndarray, radius: int) -> np.ndarray:
    """Mean over squares of 2 * radius + 1 pixels."""
    side = 2 * radius + 1
    for _ in range(2):
        padded = np.pad(values, ((radius + 1, radius), (0, 0)), mode="edge")
        sums = np.cumsum(padded, axis=0, dtype=np.float64)
        values = ((sums[side:] - sums[:-side]) / side).T
    return values


def _texture(grey: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean grey around every pixel, and the logarithm of how much it varies there."""
    around = _blurred(grey, radius)
    variance = _blurred((grey - around) ** 2, 2 * radius)
    return around, np.log(np.sqrt(np.maximum(variance, 0)) + 0.004)


def _correlation(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    if np.count_nonzero(where) < 2:
        return 0.0
    a, b = a[where] - a[where].mean(), b[where] - b[where].mean()
    return float((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean() + 1e-12))


# --- fitting and measuring -------------------------------------------------------------------

SEEN_NEGATIVE = {"bb_00712", "bb_06709"}  # the films of our data that are negatives, by eye
PENALTY = 3.0  # on the squares of the weights


def fitted(numbers: np.ndarray) -> np.ndarray:
    """Weights that make ordinary films positive: penalised logistic regression by Newton's method.

    numbers: (films, features). The features are odd and there is no intercept, so that the same
    films turned around need not be shown.
    """
    scale = np.sqrt((numbers**2).mean(axis=0))
    scaled, weights = numbers / scale, np.zeros(numbers.shape[1])
    for _ in range(30):
        wrong = 1 / (1 + np.exp(scaled @ weights))
        gradient = PENALTY * weights - scaled.T @ wrong
        curvature = (scaled * (wrong * (1 - wrong))[:, None]).T @ scaled
        weights -= np.linalg.solve(curvature + PENALTY * np.eye(len(weights)), gradient)
    return weights / scale


def _look(values: np.ndarray) -> np.ndarray:
    small = Levels(values).small
    return features(small, ~light_border(small))


def main() -> None:
    """Fit the weights to real films and measure them on films that they were not fitted to."""
    from tqdm import tqdm

    from fracture.labels import group_folds, read_labels

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder with labels.csv")
    records = [
        record
        for record in read_labels(parser.parse_args().folder)
        if record.label != "not_limb_radiograph"
    ]
    rows = []
    for record in tqdm(records, unit="film"):
        values = np.asarray(Image.open(record.path).convert("L"))
        rows.append((_look(values), _look(255 - values)))
    ordinary, negative = (np.array(numbers) for numbers in zip(*rows, strict=True))
    known = np.array([record.id not in SEEN_NEGATIVE for record in records])
    fold = np.array(group_folds(records))
    scores = np.zeros((2, len(records)))
    for number in range(fold.max() + 1):
        weights = fitted(ordinary[known & (fold != number)])
        for row, numbers in zip(scores, (ordinary, negative), strict=True):
            row[fold == number] = numbers[fold == number] @ weights
    weights = fitted(ordinary[known])
    source = np.array([record.source for record in records])
    for title, (as_is, inverted) in (
        ("unseen folds", scores),
        ("new weights, all films", (ordinary @ weights, negative @ weights)),
        ("shipped weights, all films", (ordinary @ WEIGHTS, negative @ WEIGHTS)),
    ):
        print(title)
        for name in ("", *sorted(set(source))):
            some = known & ((source == name) | (not name))
            print(
                f"  {name or 'all'}: {(as_is[some] < THRESHOLD).mean():.2%} of {some.sum()} films "
                f"wrongly inverted; of the same films inverted, "
                f"{(inverted[some] < THRESHOLD).mean():.2%} found"
            )
        found = np.flatnonzero(as_is < THRESHOLD)
        print("  taken for negatives:", *(records[index].id for index in found))
    for name, weight in zip(FEATURES, weights, strict=True):
        print(f'    "{name}": {weight:.3f},')


if __name__ == "__main__":
    main()
