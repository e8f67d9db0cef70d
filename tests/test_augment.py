from __future__ import annotations

import pytest
import torch

from fracture import augment


def spot_film(height: int = 300, width: int = 200, y: int = 120, x: int = 60) -> torch.Tensor:
    film = torch.zeros(height, width, dtype=torch.uint8)
    film[y - 3 : y + 4, x - 3 : x + 4] = 255
    return film


@pytest.mark.parametrize("degrees", [0.0, 33.0, 90.0])
@pytest.mark.parametrize("mirror", [False, True])
def test_picture_and_boxes_go_through_the_same_map(degrees: float, mirror: bool) -> None:
    film = spot_film()
    look = augment.look((90.0, 130.0), 1.3, degrees, mirror)
    size = (224, 160)
    seen = augment.take(augment.pyramid(film), look, size)[0]
    points = augment.film_points(look, size)
    marked = augment.inside(points, torch.tensor([[57.0, 117.0, 64.0, 124.0]]))
    assert marked.sum() > 10
    # what is bright in the view is what the box marks, up to the interpolated rim
    overlap = float((seen * marked).sum() / seen.sum())
    assert overlap > 0.75
    assert float(seen[marked == 0].mean()) < 0.01


def test_shrinking_a_large_film_uses_a_level_that_does_not_alias() -> None:
    stripes = torch.zeros(1600, 1600, dtype=torch.uint8)
    stripes[::2] = 255
    seen = augment.take(augment.pyramid(stripes), augment.look((800.0, 800.0), 8.0), (200, 200))
    assert float(seen.std()) < 0.02
    assert float(seen.mean()) == pytest.approx(0.5, abs=0.02)


def test_noise_stays_in_range_and_follows_its_generator() -> None:
    view = torch.rand(1, 64, 48, generator=torch.Generator().manual_seed(1))
    for seed in range(30):
        once = augment.film_noise(view.clone(), torch.Generator().manual_seed(seed))
        again = augment.film_noise(view.clone(), torch.Generator().manual_seed(seed))
        assert torch.equal(once, again)
        assert once.shape == view.shape
        assert float(once.min()) >= 0 and float(once.max()) <= 1
        assert not torch.equal(once, view)
