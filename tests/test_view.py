"""Overlays: the film stays where there is no heat, colours and opacity are as documented."""

from __future__ import annotations

import base64
import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fracture.film import read_film
from fracture.view import heat_layer, overlay, plain
from fracture.web.pictures import film_uri

ramp = np.linspace(0, 1, 40 * 30, dtype=np.float32).reshape(40, 30)


def by_formula(image: np.ndarray, heat: np.ndarray, alpha: float, colormap: str) -> np.ndarray:
    heat = np.round(heat * 255) / 255  # shown in 256 steps
    colours = matplotlib.colormaps[colormap](heat)[..., :3] * 255
    weight = alpha * heat[..., None]
    return image * (1 - weight) + colours * weight


@pytest.mark.parametrize("colormap", ["jet", "inferno", "viridis"])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_overlay_follows_its_formula(colormap: str, alpha: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    ours = overlay(image, ramp, alpha, colormap)
    assert ours.shape == image.shape and ours.dtype == np.uint8
    assert np.abs(ours - by_formula(image, ramp, alpha, colormap)).max() <= 1.5


def test_film_is_untouched_without_heat(film_pixels: np.ndarray) -> None:
    nothing = np.zeros(film_pixels.shape, np.float32)
    shown = overlay(film_pixels, nothing, alpha=1.0)
    assert np.array_equal(shown, np.repeat(film_pixels[..., None], 3, axis=2))


def test_structure_shows_through_the_hottest_place(film_pixels: np.ndarray) -> None:
    everywhere = np.ones(film_pixels.shape, np.float32)
    shown = overlay(film_pixels, everywhere)
    contrast = shown.astype(float).std(axis=(0, 1)) / film_pixels.std()
    assert np.allclose(contrast, 0.6, atol=0.02)


def test_the_picture_given_is_not_changed(film_pixels: np.ndarray) -> None:
    image = np.repeat(film_pixels[..., None], 3, axis=2)
    before = image.copy()
    shown = overlay(image, np.ones(film_pixels.shape, np.float32))
    assert np.array_equal(image, before) and not np.array_equal(shown, before)


def test_layer_under_a_style_sheets_opacity_is_the_overlay() -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    layer = heat_layer(ramp, "inferno").astype(float)
    assert layer.shape == (40, 30, 4)
    weight = 0.4 * layer[..., 3:] / 255
    composed = image * (1 - weight) + layer[..., :3] * weight
    assert np.abs(composed - overlay(image, ramp, 0.4, "inferno")).max() <= 2


@settings(max_examples=50, deadline=None)
@given(st.floats(width=32, allow_nan=True, allow_infinity=True))
def test_any_number_is_a_heat(value: float) -> None:
    image = np.full((2, 2), 100, np.uint8)
    shown = overlay(image, np.full((2, 2), value, np.float32))
    if np.isnan(value) or value <= 0:
        assert (shown == 100).all()
    elif value >= 1:
        assert np.array_equal(shown, overlay(image, np.ones((2, 2), np.float32)))


@pytest.mark.parametrize(
    ("image", "heat", "options", "words"),
    [
        (np.zeros((4, 4), np.float32), np.zeros((4, 4)), {}, "must be uint8"),
        (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4)), {}, "must be uint8"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 5)), {}, "does not fit"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4)), {"alpha": 1.5}, "alpha"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4)), {"colormap": "mud"}, "'mud'"),
    ],
)
def test_what_does_not_fit_is_refused(
    image: np.ndarray, heat: np.ndarray, options: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        overlay(image, heat, **options)


def test_matplotlib_is_imported_late_and_without_pyplot() -> None:
    code = (
        "import sys, numpy as np; from fracture import overlay;"
        "early = 'matplotlib' in sys.modules;"
        "overlay(np.zeros((4, 4), np.uint8), np.ones((4, 4)));"
        "sys.exit(early or 'matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_grey_film_is_one_channel_for_the_page_and_the_overlay() -> None:
    rows, columns = np.mgrid[:150, :200]
    grey = ((rows + columns) % 256).astype(np.uint8)
    display = read_film(grey).display
    assert display.shape == (150, 200, 3) and np.array_equal(display, grey[..., None].repeat(3, 2))
    assert plain(display).shape == grey.shape and np.shares_memory(plain(display), display)
    heat = (rows / 150).astype(np.float32)
    assert np.array_equal(overlay(display, heat), overlay(display.copy(), heat))
    for colours, mode in ((display, "L"), (display.copy(), "RGB")):
        uri = film_uri(colours, 100)
        shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        assert shown.mode == mode and shown.size == (100, 75)
    assert plain(display.copy()).ndim == 3 and plain(grey) is grey
