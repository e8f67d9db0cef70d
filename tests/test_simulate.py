"""The simulator: the truth it tells, the settings it refuses, and that it repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from fracture.simulate import (
    BONES,
    PATTERNS,
    Settings,
    choices,
    patterns_of,
    simulate,
)

SMALL = 128
PAIRS = [(bone, pattern) for bone in BONES for pattern in patterns_of(bone)]


@pytest.mark.parametrize(("bone", "pattern"), PAIRS)
def test_every_bone_and_pattern_gives_a_film_with_its_truth(bone: str, pattern: str) -> None:
    film = simulate(Settings(bone=bone, pattern=pattern, size=SMALL, seed=3))
    height, width = film.pixels.shape
    assert height == SMALL and width >= SMALL // 3
    assert film.pixels.dtype == np.float32
    assert np.isfinite(film.pixels).all()
    assert film.pixels.min() >= 0 and film.pixels.max() <= 1
    assert film.pixels.std() > 0.05
    assert film.mask.shape == film.pixels.shape and film.mask.dtype == bool
    assert film.label == PATTERNS[pattern]
    if pattern == "intact":
        assert film.box is None and not film.mask.any() and film.ao_code == ""
        return
    assert film.ao_code
    box = film.box
    rows, columns = np.nonzero(film.mask)
    assert (columns.min(), rows.min()) == (box.left, box.top)
    assert (columns.max() + 1, rows.max() + 1) == (box.right, box.bottom)
    assert 0.0005 < film.mask.mean() < 0.35


@pytest.mark.parametrize(("pattern", "class_"), PATTERNS.items())
def test_class_follows_the_number_of_fragments(pattern: str, class_: str) -> None:
    pieces = choices("tibia", pattern).fragments
    if class_ == "Comminuted":
        assert pieces.low >= 3
    else:
        assert pieces.high <= 2


def test_same_settings_same_film() -> None:
    settings = Settings(bone="radius", pattern="wedge", size=SMALL, seed=9)
    first, second = simulate(settings), simulate(Settings(**vars(settings)))
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.mask, second.mask)
    other = simulate(Settings(bone="radius", pattern="wedge", size=SMALL, seed=10))
    assert first.pixels.shape != other.pixels.shape or not np.array_equal(
        first.pixels, other.pixels
    )
