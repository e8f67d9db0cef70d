"""Pictures for the page: the film and its heatmap as two layers, encoded in memory only.

They travel inside the page as data URIs, so no reading leaves a file behind on the server, and the
browser can fade the heatmap by itself.
"""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fracture.view import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILM_SIDE = 1280
HEAT_SIDE = 320  # a map is smooth: the browser draws it larger, and phones wait for less
THUMB_SIDE = 112
COLORMAP = "plasma"
OPACITY = 0.7  # of the heatmap at its hottest, until somebody moves the slider


def shrink(pixels: np.ndarray, longest: int) -> np.ndarray:
    """Return `pixels` ((H, W), or (H, W, 3) if uint8) with no side over `longest` pixels."""
    height, width = pixels.shape[:2]
    if max(height, width) <= longest:
        return pixels
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(pixels)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _data_uri(picture: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def film_uri(display: np.ndarray, longest: int = FILM_SIDE) -> str:
    """Return `display` (uint8 (H, W, 3)) as a JPEG data URI, shrunk to `longest` pixels.

    A grey film becomes a grey JPEG.
    """
    return _data_uri(Image.fromarray(shrink(plain(display), longest)), "jpeg", quality=88)


@cache
def _palette() -> bytes:
    """256 RGBA entries, cold to hot, as `fracture.view` colours a map: clear where it is cold."""
    from fracture.view import heat_layer  # late, as it brings matplotlib along

    return heat_layer(np.linspace(0.0, 1.0, 256, dtype=np.float32)[None], COLORMAP).tobytes()


def heat_uri(heatmap: np.ndarray) -> str:
    """Return `heatmap` (float32 (H, W) in [0, 1]) as a see-through PNG data URI.

    The PNG is indexed (one byte a pixel), so a smooth map stays small and quick to encode.
    """
    levels = (shrink(heatmap, HEAT_SIDE).clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    picture = Image.frombytes("P", levels.shape[::-1], levels.tobytes())
    picture.putpalette(_palette(), "RGBA")
    return _data_uri(picture, "png", compress_level=3)


@cache
def legend_uri() -> str:
    """Return the colour scale, cold to hot, as a see-through PNG data URI one pixel high."""
    return heat_uri(np.linspace(0.0, 1.0, 256, dtype=np.float32)[None])


def under_heat(display: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Return the film (uint8 (H, W, 3)) under its heatmap as the page first shows it."""
    from fracture import overlay

    return overlay(display, heatmap, OPACITY, COLORMAP)


def warmest_place(heatmap: np.ndarray) -> str:
    """Name the third of the film, across and down, where `heatmap` ((H, W) in [0, 1]) peaks."""
    row, column = np.unravel_index(int(np.argmax(heatmap)), heatmap.shape)
    down = ("upper", "middle", "lower")[min(2, 3 * int(row) // heatmap.shape[0])]
    across = ("left", "centre", "right")[min(2, 3 * int(column) // heatmap.shape[1])]
    return {"middle centre": "the centre"}.get(f"{down} {across}", f"the {down} {across}")


def figure_uri(figure: Figure) -> str:
    """Return a matplotlib figure as a PNG data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
