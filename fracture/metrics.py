"""Measures with their uncertainty, for many bootstrap resamples at once.

Every measure takes weights (B, n), one row a resample and one column a film, and returns (B,).
`resample` makes them: row 0 counts every film once, so its result is the measure itself, and the
other rows count the films of groups drawn with replacement. Films of one patient thus enter or
leave together. `interval` turns the (B,) values into value, low and high.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
BINS = 10  # of the calibration error; each holds a tenth of the films

Figure = dict[str, float]


def resample(groups: Sequence[str], times: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Weights float32 (times + 1, n) of n films: ones, then `times` draws of whole groups."""
    names, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    count = len(names)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=times)
    return np.concatenate([np.ones((1, len(member))), draws[:, member]]).astype(np.float32)


def interval(values: np.ndarray, *, recentred: bool = False) -> Figure | None:
    """Value and 95 % interval of a measure (B,) in [0, 1]; None where it is not defined.

    The interval holds the middle 95 % of the resamples. `recentred` moves them so that their mean
    lies on the value: for a calibration error, which resampling by itself makes larger.
    """
    value, spread = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not np.isfinite(value):
        return None
    low, high = np.percentile(spread, [2.5, 97.5]) if len(spread) else (value, value)
    move = spread.mean() - value if recentred and len(spread) else 0.0
    low, high = min(low - move, value), max(high - move, value)
    low, high = (round(float(np.clip(end, 0, 1)), 4) for end in (low, high))
    return {"value": round(value, 4), "low": low, "high": high}


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of values (n,); nan for a resample without weight."""
    return _ratio(weights @ np.asarray(values, dtype=np.float32), weights.sum(axis=1))


def auroc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """P(a positive scores above a negative), ties half. truth: bool (n,), score: (n,)."""
    order, starts = _ties(score)
    positive = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1, dtype=np.float64)
    negative = np.add.reduceat(weights[:, order] * ~truth[order], starts, axis=1, dtype=np.float64)
    below = negative.cumsum(axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return _ratio((positive * below).sum(axis=1), pairs)


def sensitivity(truth: np.ndarray, said: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the positives that are called positive. truth, said: bool (n,)."""
    return mean(said[truth], weights[:, truth])


def specificity(truth: np.ndarray, said: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the negatives that are called negative."""
    return sensitivity(~truth, ~said, weights)


def f1(truth: np.ndarray, said: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Harmonic mean of sensitivity and positive predictive value."""
    both = weights[:, truth & said].sum(axis=1)
    return _ratio(2 * both, weights[:, truth].sum(axis=1) + weights[:, said].sum(axis=1))


def balanced_accuracy(truth: np.ndarray, said: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean share of right answers over the classes that occur. truth, said: class names (n,)."""
    found = [mean(said[truth == c] == c, weights[:, truth == c]) for c in np.unique(truth)]
    return np.nanmean(found, axis=0)


def calibration_error(
    truth: np.ndarray, probability: np.ndarray, weights: np.ndarray, bins: int = BINS
) -> np.ndarray:
    """Expected calibration error over bins of equally many films (adaptive bins).

    truth: bool (n,); probability: (n,), what was said for it. Equal probabilities share a bin.
    """
    order, starts = _ties(probability)
    sorted_weights = weights[:, order]
    mass = np.add.reduceat(sorted_weights, starts, axis=1, dtype=np.float64)
    gap = probability[order] - truth[order]
    gap = np.add.reduceat(sorted_weights * gap, starts, axis=1, dtype=np.float64)
    total = mass.sum(axis=1, keepdims=True)
    middle = (mass.cumsum(axis=1) - mass / 2) / np.maximum(total, 1e-12)
    place = np.minimum((middle * bins).astype(int), bins - 1)
    error = sum(np.abs((gap * (place == b)).sum(axis=1)) for b in range(bins))
    return _ratio(error, total[:, 0])


def two_class(
    truth: np.ndarray,
    probability: np.ndarray,
    groups: np.ndarray,
    threshold: float | np.ndarray = 0.5,
    times: int = RESAMPLES,
) -> dict[str, int | Figure | None]:
    """All measures of a yes/no question, with intervals over groups.

    truth: bool (n,); probability: (n,) of yes; groups: (n,) names; threshold: yes from there on.
    """
    truth, said = np.asarray(truth, dtype=bool), probability >= threshold
    sizes = {"films": len(truth), "positives": int(truth.sum()), "groups": len(set(groups))}
    if not len(truth):
        return sizes
    w = resample(groups, times)
    seen, kept = sensitivity(truth, said, w), specificity(truth, said, w)
    return sizes | {
        "auroc": interval(auroc(truth, probability, w)),
        "balanced_accuracy": interval((seen + kept) / 2),
        "sensitivity": interval(seen),
        "specificity": interval(kept),
        "f1": interval(f1(truth, said, w)) if truth.any() else None,
        "brier": interval(mean((probability - truth) ** 2, w)),
        "ece": interval(calibration_error(truth, probability, w), recentred=True),
    }


def risk_coverage(sureness: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of wrong answers among the surest, for every number of them: coverage, risk (n,)."""
    order = np.argsort(-sureness, kind="stable")
    count = np.arange(1, len(order) + 1)
    return count / len(order), wrong[order].cumsum() / count


def _ties(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order from low to high, and where each run of equal scores begins in it."""
    order = np.argsort(score, kind="stable")
    steps = np.diff(score[order], prepend=np.nan) != 0
    return order, np.flatnonzero(steps)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
