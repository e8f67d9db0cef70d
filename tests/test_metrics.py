"""The measures against scikit-learn's, and intervals against repeated experiments."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from fracture import metrics


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, probability (with ties) and groups of 300 films."""
    rng = np.random.default_rng(3)
    truth = rng.random(300) < 0.3
    probability = np.clip(0.3 + 0.3 * truth + rng.normal(0, 0.25, 300), 0, 1).round(2)
    return truth, probability, rng.integers(0, 120, 300).astype(str)


def test_equal_to_scikit_learn_under_every_resample(answers: tuple) -> None:
    truth, probability, groups = answers
    said = probability >= 0.5
    weights = metrics.resample(groups, 20)
    mine = {
        "auroc": metrics.auroc(truth, probability, weights),
        "sensitivity": metrics.sensitivity(truth, said, weights),
        "specificity": metrics.specificity(truth, said, weights),
        "f1": metrics.f1(truth, said, weights),
        "balanced": metrics.balanced_accuracy(truth, said, weights),
        "brier": metrics.mean((probability - truth) ** 2, weights),
    }
    for b, w in enumerate(weights):
        theirs = {
            "auroc": reference.roc_auc_score(truth, probability, sample_weight=w),
            "sensitivity": reference.recall_score(truth, said, sample_weight=w),
            "specificity": reference.recall_score(~truth, ~said, sample_weight=w),
            "f1": reference.f1_score(truth, said, sample_weight=w),
            "balanced": reference.balanced_accuracy_score(truth, said, sample_weight=w),
            "brier": reference.brier_score_loss(truth, probability, sample_weight=w),
        }
        for name, value in theirs.items():
            assert mine[name][b] == pytest.approx(value, abs=1e-5), name


def test_balanced_accuracy_of_three_classes() -> None:
    truth = np.array(["a", "a", "b", "c", "c", "c"])
    said = np.array(["a", "b", "b", "c", "a", "c"])
    value = metrics.balanced_accuracy(truth, said, np.ones((1, 6)))
    assert value[0] == pytest.approx(reference.balanced_accuracy_score(truth, said))


def test_groups_are_drawn_whole() -> None:
    groups = ["x", "y", "x", "z", "y", "x"]
    weights = metrics.resample(groups, 50)
    assert weights.shape == (51, 6)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()
    assert not (weights[1:] == 1).all()


def test_calibration_error_of_known_cases() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(20_000)
    one = np.ones((1, 20_000), dtype=np.float32)
    told = rng.random(20_000) < probability
    assert metrics.calibration_error(told, probability, one)[0] < 0.02
    shifted = np.clip(probability + 0.1, 0, 1)
    assert metrics.calibration_error(told, shifted, one)[0] == pytest.approx(0.1, abs=0.015)
    # one probability for all: one bin, whatever the order of the films
    same = np.full(20_000, 0.5)
    error = metrics.calibration_error(np.sort(told), same, one)[0]
    assert error == pytest.approx(abs(told.mean() - 0.5), abs=1e-6)


def test_calibration_error_by_hand() -> None:
    truth = np.array([False, True, True, True])
    probability = np.array([0.1, 0.3, 0.8, 0.6])
    error = metrics.calibration_error(truth, probability, np.ones((1, 4)), bins=2)
    # bins {0.1, 0.3} and {0.6, 0.8}: |0.2 - 0.5| and |0.7 - 1|
    assert error[0] == pytest.approx(0.3)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        right = rng.random(80) < 0.7
        weights = metrics.resample(np.arange(80), 300, seed=trial)
        found = metrics.interval(metrics.mean(right, weights))
        assert found["low"] <= found["value"] <= found["high"]
        covered += found["low"] <= 0.7 <= found["high"]
    assert 0.88 <= covered / 200 <= 1


def test_copies_of_a_film_in_its_group_change_nothing(answers: tuple) -> None:
    truth, probability, _ = answers
    once = metrics.two_class(truth[:40], probability[:40], np.arange(40), times=300)
    copied = [np.tile(part, 10) for part in (truth[:40], probability[:40], np.arange(40))]
    tenfold = metrics.two_class(*copied, times=300)
    for name in ("auroc", "sensitivity", "specificity", "f1", "brier", "ece"):
        assert tenfold[name] == pytest.approx(once[name], abs=1e-4), name
    # ... where as many independent films would tell much more
    more = metrics.two_class(copied[0], copied[1], np.arange(400), times=300)
    assert more["auroc"]["high"] - more["auroc"]["low"] < 0.5 * (
        once["auroc"]["high"] - once["auroc"]["low"]
    )


def test_calibration_error_interval_holds_its_value(answers: tuple) -> None:
    truth, probability, groups = answers
    found = metrics.two_class(truth, probability, groups, times=300)["ece"]
    assert found["low"] < found["value"] < found["high"]


def test_what_one_class_alone_cannot_tell_is_none() -> None:
    probability = np.array([0.2, 0.6, 0.7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.two_class(np.ones(3, bool), probability, np.arange(3), times=20)
        assert found["auroc"] is None and found["specificity"] is None
        assert found["sensitivity"]["value"] == pytest.approx(2 / 3, abs=1e-4)
        nothing = metrics.two_class(np.ones(0, bool), np.zeros(0), np.zeros(0))
    assert nothing == {"films": 0, "positives": 0, "groups": 0}


def test_threshold_by_film() -> None:
    truth = np.array([True, True, False, False])
    probability = np.array([0.3, 0.6, 0.3, 0.6])
    found = metrics.two_class(
        truth, probability, np.arange(4), threshold=np.array([0.2, 0.5, 0.4, 0.7]), times=20
    )
    assert found["balanced_accuracy"]["value"] == 1


def test_risk_coverage() -> None:
    coverage, risk = metrics.risk_coverage(
        np.array([0.9, 0.5, 0.8, 0.7]), np.array([False, True, False, True])
    )
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk == pytest.approx([0, 0, 1 / 3, 1 / 2])
