"""Copies: found whatever was done to them, and films that merely look alike kept apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fracture.copies import (
    THRESHOLD,
    Copy,
    Links,
    Signatures,
    find_copies,
    open_thumbnail,
    signature_of,
)
from fracture.copytest import KINDS, evaluate_grouping
from fracture.labels import Record, read_labels

REPO = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FRACTURE_DATA", REPO.parent / "shared" / "data"))


def smooth_noise(random: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    squared = np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.rfftfreq(shape[1]) ** 2
    blur = np.exp(-2 * np.pi**2 * sigma**2 * squared)
    noise = np.fft.irfft2(np.fft.rfft2(random.normal(size=shape)) * blur, s=shape)
    return noise / noise.std()


def make_film(seed: int, size: tuple[int, int] = (240, 300)) -> Image.Image:
    """A bright shaft on a dark ground: one outline for all seeds, a grain of its own for each."""
    width, height = size
    random = np.random.default_rng(seed)
    across = np.linspace(-1, 1, width) - 0.3 * np.linspace(-1, 1, height)[:, None] ** 2
    shaft = np.exp(-((across / 0.35) ** 4))
    grain = smooth_noise(random, (height, width), 3) + smooth_noise(random, (height, width), 8)
    values = 30 + shaft * (120 + 18 * grain)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


FILMS = [make_film(seed) for seed in range(5)]


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_copy_is_found(kind: str) -> None:
    random = np.random.default_rng(7)
    pictures = [*FILMS, *(KINDS[kind](film, random) for film in FILMS)]
    copies = find_copies(Signatures.join([signature_of(picture) for picture in pictures]))
    assert {(copy.first, copy.second) for copy in copies} == {(i, i + 5) for i in range(5)}
    assert all(THRESHOLD <= copy.score <= 1.0001 for copy in copies)


def test_films_of_one_outline_are_kept_apart() -> None:
    assert find_copies(Signatures.join([signature_of(film) for film in FILMS])) == []


def test_copies_do_not_depend_on_the_order() -> None:
    pictures = [*FILMS, *(film.rotate(8) for film in FILMS)]
    backwards = find_copies(Signatures.join([signature_of(film) for film in pictures[::-1]]))
    assert {(9 - copy.second, 9 - copy.first) for copy in backwards} == {
        (i, i + 5) for i in range(5)
    }


def test_known_pairs_are_not_compared_again() -> None:
    signatures = Signatures.join([signature_of(FILMS[0])] * 3)
    assert len(find_copies(signatures)) == 2
    (copy,) = find_copies(signatures, joined=[(0, 2)])
    assert isinstance(copy, Copy)
    assert {copy.first, copy.second} != {0, 2}
    assert find_copies(signatures, joined=[(0, 2), (1, 2)]) == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_pictures(count: int) -> None:
    signatures = Signatures.join([signature_of(film) for film in FILMS[:count]])
    assert len(signatures) == count
    assert find_copies(signatures) == []


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("L", (1, 1)),
        Image.new("L", (500, 3), 255),
        Image.new("L", (3, 500), 128),
        Image.new("L", (200, 200)),
    ],
)
def test_pictures_without_structure(picture: Image.Image) -> None:
    """Two blank pictures are not known to be copies; nothing divides by nought."""
    with np.errstate(divide="raise", invalid="raise"):
        signatures = Signatures.join([signature_of(picture)] * 2 + [signature_of(FILMS[0])])
        assert find_copies(signatures) == []


def test_links() -> None:
    links = Links(6)
    links.join(4, 2)
    links.join(2, 5)
    assert links.connected(4, 5)
    assert not links.connected(0, 4)
    assert [links.root(index) for index in range(6)] == [0, 1, 2, 3, 2, 2]


def test_open_thumbnail(tmp_path: Path) -> None:
    film = FILMS[0].resize((1200, 1500))
    film.save(tmp_path / "a.jpg", quality=95)
    grey, size = open_thumbnail(tmp_path / "a.jpg")
    assert size == (1200, 1500)
    assert grey.mode == "L"
    deep = np.asarray(FILMS[0], dtype=np.uint16) * 100
    Image.fromarray(deep).save(tmp_path / "a.png")
    grey, size = open_thumbnail(tmp_path / "a.png")
    values = np.asarray(FILMS[0], dtype=float)
    expected = (values - values.min()) * 255 / np.ptp(values)
    assert np.abs(np.asarray(grey, dtype=float) - expected).max() <= 1
    data = (tmp_path / "a.jpg").read_bytes()
    for name, broken in [("cut.jpg", data[: len(data) // 2]), ("none.jpg", b"no picture")]:
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(OSError):
            open_thumbnail(tmp_path / name)


def test_evaluate_grouping_counts(tmp_path: Path) -> None:
    """Film 3 is film 0 turned: joined rightly if they share a group, wrongly if not."""
    records = []
    for index, film in enumerate([*FILMS[:3], FILMS[0].rotate(180)]):
        film.save(tmp_path / f"{index}.png")
        group = "same" if index in (0, 3) else str(index)
        records.append(
            Record(
                id=str(index),
                path=tmp_path / f"{index}.png",
                source="",
                group=group,
                label="Simple",
                agreement="",
                pattern="",
                region="",
                boxes=(),
                width=film.width,
                height=film.height,
            )
        )
    result = evaluate_grouping(records, films=2, copies=3)
    assert (result.films, result.copies, result.found, result.recall) == (4, 6, 6, 1.0)
    assert sum(made for made, _ in result.by_kind.values()) == 6
    assert (result.same_group, result.wrong, result.wrong_films) == (1, (), 0)
    assert result == evaluate_grouping(records, films=2, copies=3)

    records[3] = Record(**{**vars(records[3]), "group": "another"})
    result = evaluate_grouping(records, films=0)
    assert (result.copies, result.same_group, result.wrong_films) == (0, 0, 2)
    assert result.wrong == (("0", "3"),)
    assert np.isnan(result.recall)


def test_real_films() -> None:
    if not (SHARED / "labels.csv").is_file():
        pytest.skip("the real radiographs are not on this machine")
    records = read_labels(SHARED)[::60]
    result = evaluate_grouping(records, films=12, copies=2)
    assert result.found >= 22
    assert result.wrong == ()


def test_no_torch() -> None:
    code = "import sys, fracture.data; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO
    )
    assert done.stdout.split() == ["False"]
