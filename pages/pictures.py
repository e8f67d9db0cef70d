"""Pictures for the page: the film and its heatmap as two layers, encoded in memory only.

They travel inside the page as data URIs, so no reading leaves a file behind on the server, and the
browser can fade the heatmap by itself.
"""

from __future__ import annotations

import base64
import io
from functools import cache

import numpy as np
from PIL import Image

FILM_SIDE = 1280
HEAT_SIDE = 512
THUMB_SIDE = 112
COLORMAP = "inferno"


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
    """Return `display` (uint8 (H, W, 3)) as a JPEG data URI, shrunk to `longest` pixels."""
    return _data_uri(Image.fromarray(shrink(display, longest)), "jpeg", quality=88)


@cache
def _heat_palette() -> bytes:
    """256 RGBA entries: the colormap's colours, clear where the map is cold.

    A layer that tints cold places too would hide the very film that is to be looked at; so the
    opacity rises with the heat and is full from three quarters on.
    """
    from matplotlib import (
        colormaps,
    )  # late: costs a quarter second that the first page need not pay

    heat = np.linspace(0.0, 1.0, 256)
    rgba = colormaps[COLORMAP](0.25 + 0.72 * heat)
    rgba[:, 3] = np.clip(heat / 0.75, 0.0, 1.0) ** 1.3
    return (rgba * 255.0).round().astype(np.uint8).tobytes()


def heat_uri(heatmap: np.ndarray) -> str:
    """Return `heatmap` (float32 (H, W) in [0, 1]) as a see-through PNG data URI.

    The PNG is indexed (one byte a pixel), so a smooth map stays small and quick to encode.
    """
    levels = (shrink(heatmap, HEAT_SIDE).clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    picture = Image.fromarray(levels).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(_heat_palette(), "RGBA")
    return _data_uri(picture, "png", compress_level=3)


@cache
def legend_uri() -> str:
    """Return the colour scale, cold to hot, as a see-through PNG data URI one pixel high."""
    return heat_uri(np.linspace(0.0, 1.0, 256, dtype=np.float32)[None, :])


def warmest_place(heatmap: np.ndarray) -> str:
    """Name the third of the film, across and down, where `heatmap` ((H, W) in [0, 1]) peaks."""
    row, column = np.unravel_index(int(np.argmax(heatmap)), heatmap.shape)
    down = ("upper", "middle", "lower")[min(2, 3 * int(row) // heatmap.shape[0])]
    across = ("left", "centre", "right")[min(2, 3 * int(column) // heatmap.shape[1])]
    return {"middle centre": "the centre"}.get(f"{down} {across}", f"the {down} {across}")
