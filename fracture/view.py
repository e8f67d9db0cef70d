"""Lays a heatmap over a film so that both can be read.

The colour's opacity grows with the heat: where the map is 0 the film shows untouched, at the
hottest place the colour covers ``alpha`` of it. A uniform veil, as usually drawn, turns the whole
film blue and hides just the cortex and the fracture line that a student is asked to look for.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

LEVELS = 256
BAND = 32  # rows done at a time: what lies between the steps then stays in the cache


def overlay(
    image: np.ndarray, heatmap: np.ndarray, alpha: float = 0.4, colormap: str = "jet"
) -> np.ndarray:
    """Blend a heatmap into a picture.

    ``image``: uint8 (H, W, 3) or (H, W); ``heatmap``: (H, W) in [0, 1]; ``alpha``: opacity at heat
    1, in [0, 1], falling in proportion to the heat; ``colormap``: any name that matplotlib knows.
    Returns uint8 (H, W, 3): ``image * (1 - alpha * heat) + colour(heat) * alpha * heat``.
    Raises ``ValueError`` for arrays that do not fit together, an ``alpha`` outside [0, 1] or an
    unknown colormap.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"the image must be uint8 (H, W) or (H, W, 3), not {image.dtype} {image.shape}"
        )
    if heatmap.shape != image.shape[:2]:
        raise ValueError(f"a map of {heatmap.shape} does not fit an image of {image.shape[:2]}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
    opacity = [round(alpha * level) for level in range(LEVELS)]
    image = plain(image)
    blended = np.empty((*heatmap.shape, 3), dtype=np.uint8)
    for top in range(0, len(blended), BAND):
        rows = slice(top, top + BAND)
        levels, colours = _coloured(heatmap[rows], colormap)
        band = Image.fromarray(image[rows]).convert("RGB")
        band.paste(colours.convert("RGB"), mask=levels.point(opacity))
        blended[rows] = np.asarray(band)
    return blended


def plain(picture: np.ndarray) -> np.ndarray:
    """A grey picture that poses as uint8 (H, W, 3), as (H, W); any other as it is.

    What shrinks, draws or encodes it then has a third of the work.
    """
    return picture[..., 0] if picture.ndim == 3 and picture.strides[2] == 0 else picture


def heat_layer(heatmap: np.ndarray, colormap: str = "jet") -> np.ndarray:
    """The heatmap alone as uint8 (H, W, 4) with its opacity in the fourth channel.

    Laid over a film with a further opacity of ``alpha`` (the ``opacity`` of a style sheet, say) it
    shows what ``overlay`` gives, so that a slider need not ask for a new picture.
    """
    levels, colours = _coloured(heatmap, colormap)
    layer = colours.convert("RGB")
    layer.putalpha(levels)
    return np.asarray(layer)


def _coloured(heatmap: np.ndarray, colormap: str) -> tuple[Image.Image, Image.Image]:
    """The heat in 256 levels as a grey picture, and the same picture with a palette."""
    if heatmap.ndim != 2:
        raise ValueError(f"a heatmap must be (H, W), not {heatmap.shape}")
    heat = np.fmax(np.asarray(heatmap, dtype=np.float32), np.float32(0))  # not a number: no heat
    np.minimum(heat, np.float32(1), out=heat)
    heat *= np.float32(LEVELS - 1)
    heat += np.float32(0.5)
    levels = heat.astype(np.uint8)
    colours = Image.fromarray(levels).convert("P")
    colours.putpalette(_palette(colormap))
    return Image.fromarray(levels), colours


@lru_cache(maxsize=32)
def _palette(colormap: str) -> bytes:
    """256 RGB triples of a matplotlib colormap, which is imported only to look them up."""
    import matplotlib

    if colormap not in matplotlib.colormaps:
        raise ValueError(f"matplotlib has no colormap called {colormap!r}")
    colours = matplotlib.colormaps[colormap](np.linspace(0, 1, LEVELS), bytes=True)
    return colours[:, :3].tobytes()
