"""Weighs the opinions of the two looks, on other films than those that are then judged.

`fit_plan` fits the two logistic regressions of a `fracture.looktwice.Plan`, which also calibrate
(Platt 1999). `cross_fit` does so for every part of the held-out films from the other parts, and
picks the thresholds there too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fracture.labels import CLASSES

if TYPE_CHECKING:
    from fracture.looktwice import Plan

COMMINUTED, SIMPLE, NONE = CLASSES
FOLDS = 5
REFUSED = 0.025  # the share of real films that may be taken for pictures of something else
COVERAGE = 0.8  # the share of clear films that the model should answer
FEWEST = 5  # films below which a part of the films is not measured by itself

Json = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of held-out films (see `fracture.heldout`) and the part that each belongs to.

    part: int (n,), the fold, or a fifth of the only fold; what is fitted for a part is fitted on
    the others.
    """

    rows: list[Json]
    part: np.ndarray

    def column(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows])

    def where(self, mask: np.ndarray) -> Table:
        return Table([row for row, m in zip(self.rows, mask, strict=True) if m], self.part[mask])

    @cached_property
    def label(self) -> np.ndarray:
        return self.column("label")

    @cached_property
    def source(self) -> np.ndarray:
        return self.column("source")

    @cached_property
    def group(self) -> np.ndarray:
        return self.column("group")

    @property
    def clear(self) -> np.ndarray:
        """bool (n,): films with a class."""
        return np.isin(self.label, CLASSES)

    @property
    def broken(self) -> np.ndarray:
        """bool (n,): films of one of the two fracture classes."""
        return np.isin(self.label, (COMMINUTED, SIMPLE))


def table_of(rows_by_fold: dict[int, list[Json]]) -> Table:
    """All folds' rows; a single fold is split into parts by its groups."""
    rows = [row for fold in sorted(rows_by_fold) for row in rows_by_fold[fold]]
    part = np.concatenate([np.full(len(rows_by_fold[k]), k) for k in sorted(rows_by_fold)])
    if len(rows_by_fold) == 1:
        from sklearn.model_selection import GroupKFold

        groups = [row["group"] for row in rows]
        count = min(FOLDS, len(set(groups)))
        for k, (_, own) in enumerate(GroupKFold(count).split(rows, groups=groups)):
            part[own] = k
    return Table(rows, part)


def fit_plan(table: Table, base: Plan) -> Plan:
    """The `Plan` whose two logistic regressions are fitted on the table's clear films.

    It refuses the `REFUSED` most foreign of the table's films.

    base: the plan whose places and sides are kept, and whose weights are where the table has one
    class only. A light ridge (C = 10) keeps weights finite if a few films are all separated.
    """
    from sklearn.linear_model import LogisticRegression

    def fit(evidence: np.ndarray, truth: np.ndarray, fallback: tuple) -> tuple:
        if truth.all() or not truth.any():
            return fallback
        found = LogisticRegression(C=10.0, max_iter=1000).fit(evidence[:, :-1], truth)
        return tuple(round(float(w), 4) for w in (*found.coef_[0], found.intercept_[0]))

    clear, broken = table.where(table.clear), table.where(table.broken)
    return replace(
        base,
        fractured=fit(clear.column("fractured"), clear.label != NONE, base.fractured),
        comminuted=fit(broken.column("comminuted"), broken.label == COMMINUTED, base.comminuted),
        foreign=round(float(np.quantile(table.column("foreign"), 1 - REFUSED)), 4),
    )


def probabilities(table: Table, plan: Plan) -> np.ndarray:
    """float64 (n, 3) in the order of `CLASSES`, as the model with this plan gives them."""
    fractured = sigmoid(table.column("fractured") @ np.array(plan.fractured))
    comminuted = sigmoid(table.column("comminuted") @ np.array(plan.comminuted))
    return np.stack([fractured * comminuted, fractured * (1 - comminuted), 1 - fractured], axis=1)


def refused(rows: list[Json], plan: Plan) -> np.ndarray:
    """bool (n,): films and other pictures that get no verdict by this plan."""
    return np.array([row["unfit"] or row["foreign"] > plan.foreign for row in rows], dtype=bool)


@dataclass(frozen=True)
class Answers:
    """What the model says of films that neither training nor calibration saw.

    p:         float64 (n, 3), probabilities in the order of `CLASSES`.
    uncertain: (n,), the likeliest class must reach this, or the app abstains.
    cut:       (n,), "comminuted" from this share of the fracture's probability on, where both
               errors are to weigh the same however rare comminuted fractures are.
    """

    p: np.ndarray
    uncertain: np.ndarray
    cut: np.ndarray

    def where(self, mask: np.ndarray) -> Answers:
        return Answers(self.p[mask], self.uncertain[mask], self.cut[mask])

    @property
    def said(self) -> np.ndarray:
        """Names of the likeliest classes (n,)."""
        return np.array(CLASSES)[self.p.argmax(axis=1)]

    @property
    def sureness(self) -> np.ndarray:
        return self.p.max(axis=1)

    @property
    def fractured(self) -> np.ndarray:
        return 1 - self.p[:, 2]

    @property
    def share(self) -> np.ndarray:
        """P(comminuted), given that it is fractured."""
        return self.p[:, 0] / np.maximum(self.fractured, 1e-12)


def thresholds_of(table: Table, plan: Plan) -> tuple[float, float]:
    """`Answers.uncertain` and `Answers.cut` as the table's clear films suggest them."""
    from sklearn.metrics import roc_curve

    answers = Answers(probabilities(table, plan), np.zeros(0), np.zeros(0))
    uncertain = float(np.quantile(answers.sureness[table.clear], 1 - COVERAGE))
    truth = table.label[table.broken] == COMMINUTED
    if truth.all() or not truth.any():
        return uncertain, 0.5
    false, true, cuts = roc_curve(truth, answers.share[table.broken])
    return uncertain, float(np.clip(cuts[(true - false).argmax()], 0, 1))


def cross_fit(table: Table, base: Plan) -> Answers:
    """Answers for every film by a plan and thresholds from the other parts' films."""
    n = len(table.rows)
    p, uncertain, cut = np.zeros((n, 3)), np.zeros(n), np.zeros(n)
    for part in np.unique(table.part):
        own = table.part == part
        others = table.where(~own)
        plan = fit_plan(others, base)
        p[own] = probabilities(table.where(own), plan)
        uncertain[own], cut[own] = thresholds_of(others, plan)
    return Answers(p, uncertain, cut)


def cross_refused(table: Table, base: Plan) -> np.ndarray:
    """bool (n,): films that get no verdict by a plan from the other parts' films."""
    found = np.zeros(len(table.rows), dtype=bool)
    for part in np.unique(table.part):
        own = table.part == part
        found[own] = refused(table.where(own).rows, fit_plan(table.where(~own), base))
    return found


def surest(sureness: np.ndarray, share: float = COVERAGE) -> np.ndarray:
    """bool (n,): the `share` of the films with the highest sureness."""
    keep = np.zeros(len(sureness), dtype=bool)
    keep[np.argsort(-sureness, kind="stable")[: int(np.ceil(share * len(sureness)))]] = True
    return keep


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.log(p / (1 - p))
