from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fracture import cam
from fracture.checkpoint import save_checkpoint
from fracture.classifier import Classifier
from fracture.film import Box, letterbox
from fracture.geometry import cut
from fracture.labels import CLASSES
from fracture.looktwice import FLOOR, LOCATOR_SIZE, READER_SIZE, LookTwice, Plan, patch_boxes


@pytest.fixture(scope="module")
def model() -> LookTwice:
    torch.manual_seed(0)
    return LookTwice().eval().requires_grad_(False)


def film(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((height, width), dtype=np.float32)


@pytest.mark.parametrize("shape", [(454, 373), (373, 454), (640, 640), (90, 400), (1600, 300)])
def test_two_looks_at_films_of_any_shape(model: LookTwice, shape: tuple[int, int]) -> None:
    sight = model.look(film(*shape))
    tall = shape[0] >= shape[1]
    assert sight.place.shape == ((56, 48) if tall else (48, 56))
    assert len(sight.spots) == len(sight.readings) == len(sight.weights)
    assert len(sight.spots) in [n * len(model.plan.sides) for n in range(1, model.plan.places + 1)]
    assert sight.weights.sum() == pytest.approx(1)
    assert np.exp(sight.logits).sum() == pytest.approx(1, abs=1e-6)
    for target in range(len(CLASSES)):
        heat = sight.class_map(target, "gradcam")
        assert heat.shape == shape
        assert heat.dtype == np.float32
        assert heat.min() >= 0 and heat.max() <= 1


@pytest.mark.parametrize("shape", [(454, 373), (300, 500)])
def test_patches_lie_around_the_peak_in_film_pixels(shape: tuple[int, int]) -> None:
    tall = shape[0] >= shape[1]
    _, where = letterbox(film(*shape), LOCATOR_SIZE if tall else LOCATOR_SIZE[::-1])
    place = np.zeros((56, 48) if tall else (48, 56), dtype=np.float32)
    place[20, 27:34] = 0.8  # a spot 7 cells wide around its peak
    place[20, 30] = 0.9
    place[30, 12] = 0.8  # a spot of one cell: its patches have the smallest side
    boxes = patch_boxes(place, where, places=2, sides=(2.0, 3.0))
    longest = max(shape)
    cell = longest / max(place.shape)  # in film pixels
    sides = (14 * cell, 21 * cell, 0.15 * longest, 0.15 * longest)
    cells = ((20, 30), (20, 30), (30, 12), (30, 12))
    for box, side, (row, column) in zip(boxes, sides, cells, strict=True):
        assert box.width == box.height == pytest.approx(side, rel=0.01)
        middle = where.to_input(Box(box.left + box.width / 2, box.top + box.height / 2, 0, 0))
        assert middle.left == pytest.approx((column + 0.5) * 8, abs=0.01)
        assert middle.top == pytest.approx((row + 0.5) * 8, abs=0.01)


def test_a_weak_second_peak_and_the_padding_are_not_read() -> None:
    _, where = letterbox(film(400, 100), LOCATOR_SIZE)
    place = np.zeros((56, 48), dtype=np.float32)
    place[10, 24] = 0.9
    place[40, 24] = 0.6
    place[5, 1] = 1.0  # beside the film
    boxes = patch_boxes(place, where, places=3, sides=(0.25,))
    assert len(boxes) == 1
    assert 0 < boxes[0].left + boxes[0].width / 2 < 100


@pytest.mark.parametrize("shape", [(448, 384), (384, 448)])
def test_a_mirrored_film_is_found_mirrored(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    pixels = film(*shape)
    across = (slice(None), slice(None, None, -1)) if shape[0] > shape[1] else slice(None, None, -1)
    for mirrored in (True, False):
        model = LookTwice(Plan(mirrored=mirrored)).eval()
        torch.nn.init.normal_(model.locator.place.weight)  # a map with highs and lows
        place, _, opinion, pooled = model.find(pixels)
        other, _, opinion_too, _ = model.find(np.ascontiguousarray(pixels[across]))
        assert np.allclose(place, other[across], atol=1e-5) == mirrored
        assert np.allclose(opinion, opinion_too, atol=1e-5) == mirrored
        # the refusal is fitted on looks at the film alone
        assert pooled.shape == (536,)
        alone = model.with_plan(replace(model.plan, mirrored=False)).find(pixels)[3]
        assert np.allclose(pooled, alone, atol=1e-5)
    assert np.ptp(place) > 1e-3


def test_a_place_that_is_not_confirmed_keeps_a_part(model: LookTwice) -> None:
    sight = model.look(film(448, 384))
    object.__setattr__(sight, "features", torch.zeros_like(sight.features))  # nothing read
    heat = sight.class_map(0, "gradcam")
    place = sight.where.to_film(sight.place)
    assert np.allclose(heat, cam.unit_range(place * FLOOR), atol=1e-5)
    faded = sight._on_place(np.ones((7, 7), np.float32), sight.spots[0])
    assert faded.max() <= 1 and np.unique(faded.round(3)).size > 3  # no step at the rim


def test_the_map_stays_where_the_place_is(model: LookTwice) -> None:
    sight = model.look(film(448, 384))
    place = np.zeros_like(sight.place)
    row, column = np.unravel_index(sight.place.argmax(), sight.place.shape)
    place[row, column] = 1.0
    object.__setattr__(sight, "place", place)
    heat = sight.class_map(0, "gradcam")
    peak = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(peak[0] - (row + 0.5) * 8) <= 8 and abs(peak[1] - (column + 0.5) * 8) <= 8
    assert heat[heat > 0].size < 0.02 * heat.size


def test_plan_weighs_the_opinions(model: LookTwice) -> None:
    sight = model.look(film(454, 373))
    yes = LookTwice(Plan(fractured=(0, 0, 0, 5.0), comminuted=(0, 0, 3.0)))
    object.__setattr__(sight, "model", yes)
    shares = np.exp(sight.logits)
    assert shares[2] == pytest.approx(1 / (1 + np.exp(5)), abs=1e-6)
    assert shares[0] / (shares[0] + shares[1]) == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-6)


def test_checkpoint_round_trip_keeps_the_answer(model: LookTwice, tmp_path) -> None:
    plan = Plan(places=2, sides=(0.2, 0.4), fractured=(0.3, 0.2, 0.1, -0.4))
    metadata = {
        "architecture": "looktwice",
        "classes": list(CLASSES),
        "input": model.input.to_metadata(),
        "plan": plan.to_metadata(),
    }
    path = tmp_path / "looktwice.safetensors"
    save_checkpoint(path, model, metadata, half=True)
    assert path.stat().st_size < 40e6
    classifier = Classifier.load(path)
    pixels = (film(300, 260) * 255).astype(np.uint8)
    prediction, heat = classifier.read(pixels)
    assert set(prediction.probabilities) == set(CLASSES)
    assert heat.shape == (300, 260)
    assert classifier._network.plan == plan
    again = Classifier.load(path).predict(pixels)
    assert again == prediction


@pytest.mark.parametrize("method", ["gradcam++", "hirescam", "eigencam", "layercam"])
def test_the_other_methods_lay_the_librarys_maps(
    model: LookTwice, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = film(200, 160)
    sight = model.look(pixels)
    heat = sight.class_map(0, method)
    assert heat.shape == (200, 160)
    assert heat.min() == 0 and heat.max() == pytest.approx(1, abs=1e-4)
    boxes = patch_boxes(sight.place, sight.where, model.plan.places, model.plan.sides)
    patches = iter([cut(pixels, box, READER_SIZE)[0] for box in boxes])

    def by_library(*_: object) -> np.ndarray:
        picture = model.input.scale(torch.from_numpy(next(patches))[None])
        return cam.map_by_library(model.reader, model.reader.cam_layer, picture, 0, method)

    monkeypatch.setattr(cam, "closed_form", by_library)
    monkeypatch.setattr(cam, "enlarged", lambda heat, size: heat)
    assert np.abs(sight.class_map(0, method) - heat).max() < 1e-4
