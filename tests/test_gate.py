from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_film
from PIL import Image
from torch import nn

from fracture.film import read_film
from fracture.foreign import KINDS, draw_foreign
from fracture.gate import COLOURFUL, IN_COLOUR, NOT_A_LIMB, colourfulness, fit_gate
from fracture.looktwice import LookTwice
from fracture.otherfilms import OTHER_FILMS


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_pictures_are_drawn_to_order(kind: str) -> None:
    picture = draw_foreign(kind, np.random.default_rng(5))
    again = draw_foreign(kind, np.random.default_rng(5))
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert min(picture.shape[:2]) >= 200 and max(picture.shape[:2]) < 700
    assert np.array_equal(picture, again)
    assert not np.array_equal(picture, draw_foreign(kind, np.random.default_rng(6)))


@pytest.mark.parametrize("kind", OTHER_FILMS)
@pytest.mark.parametrize("shape", [(120, 420), (300, 300), (500, 90)])
def test_other_films_fill_any_shape(kind: str, shape: tuple[int, int]) -> None:
    picture = OTHER_FILMS[kind](np.random.default_rng(1), *shape)
    assert picture.shape == shape and picture.dtype == np.float32
    assert picture.min() >= 0 and picture.max() <= 1 and picture.std() > 0.02


def test_unknown_foreign_picture() -> None:
    with pytest.raises(ValueError, match="spaceship.*photo"):
        draw_foreign("spaceship", np.random.default_rng(0))


def test_a_tinted_film_is_not_a_colour_picture() -> None:
    grey = np.repeat(draw_film()[..., None], 3, axis=2)
    assert colourfulness(grey) == pytest.approx(0, abs=1e-6)
    for tint in ((0.6, 0.8, 1.0), (0.7, 1.0, 0.8), (1.0, 0.9, 0.7)):
        tinted = (grey * np.array(tint)).astype(np.uint8)
        assert colourfulness(tinted) < COLOURFUL / 2


def test_photographs_are_colour_pictures() -> None:
    data = pytest.importorskip("skimage.data")
    for photograph in (data.astronaut(), data.chelsea(), data.coffee()):
        assert colourfulness(photograph) > COLOURFUL


def test_fit_gate_parts_two_clouds_and_keeps_the_promised_share() -> None:
    rng = np.random.default_rng(0)
    limbs = rng.normal(0, 1, (400, 536)).astype(np.float32)
    foreign = rng.normal(0.6, 1, (80, 536)).astype(np.float32)
    gate = nn.Linear(536, 1)
    fit_gate(gate, limbs, foreign, refused=0.01)
    with torch.no_grad():
        above = [
            float((gate(torch.from_numpy(x))[:, 0] > 0).float().mean()) for x in (limbs, foreign)
        ]
    assert above[0] == pytest.approx(0.01, abs=0.005)
    assert above[1] > 0.95


def test_reasons_of_the_model() -> None:
    torch.manual_seed(0)
    model = LookTwice().eval().requires_grad_(False)
    film = read_film(draw_film())
    assert model.analyse(film).problems == ()
    model.gate.bias.fill_(1.0)
    assert model.analyse(film).problems == (NOT_A_LIMB,)
    photograph = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    assert model.analyse(read_film(photograph)).problems == (IN_COLOUR,)


def test_the_shipped_model_refuses_what_is_foreign_and_reads_films(shared_data: Path) -> None:
    """On pictures that no training saw, drawn with other seeds, and a sample of the real ones."""
    from fracture.classifier import MODELS, Classifier

    path = MODELS / "looktwice.safetensors"
    if not path.is_file():
        pytest.skip("no trained model is committed yet")
    classifier = Classifier.load(path)
    rng = np.random.default_rng(99)
    drawn = [classifier.predict(draw_foreign(kind, rng)).status for kind in KINDS for _ in range(2)]
    assert drawn.count("refused") >= 0.9 * len(drawn)
    with (shared_data / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    limbs = [r for r in rows if r["label"] in ("simple", "comminuted", "no_fracture")][::60]
    statuses = [classifier.predict(shared_data / r["file"]).status for r in limbs]
    assert statuses.count("refused") <= 0.1 * len(statuses)
    assert statuses.count("error") == 0


def test_the_cat_of_a_test_library_is_refused(tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data")
    from fracture.classifier import MODELS, Classifier

    if not (MODELS / "looktwice.safetensors").is_file():
        pytest.skip("no trained model is committed yet")
    path = tmp_path / "cat.jpg"
    Image.fromarray(data.chelsea()).save(path)
    prediction = Classifier.load().predict(path)
    assert prediction.status == "refused"
    assert prediction.label is None
    assert prediction.reasons
