"""The page "Learn": the atlas, one entry a pattern, and the addresses of its pictures.

The pictures are made when a browser first asks for them (they load as they scroll into view) and
then kept, so that building the page costs nothing.
"""

from __future__ import annotations

import io
from html import escape

import numpy as np
from PIL import Image
from starlette.requests import Request as WebRequest
from starlette.responses import PlainTextResponse, Response

from fracture.atlas import HOW_TO_READ_A_CODE, SOURCES, Entry, entries
from fracture.film import read_film
from fracture.geometry import Box
from fracture.once import once
from fracture.quiz import to_bytes
from fracture.simulate import simulate
from fracture.web import html, models, pictures, plate

SCRIPT = (plate.HERE / "learn.js").read_text("utf-8")
RATIO = 0.8  # width of a picture by its height
DAY = 86400


def page() -> str:
    """The whole atlas as HTML."""
    cards = "".join(_card(entry) for entry in entries())
    sources = "".join(f"<li><b>{name}</b> {_linked(text)}</li>" for name, text in SOURCES.items())
    return (
        '<div class="fx-learn"><section class="fx-card"><h2 class="fx-head"><span>An atlas of '
        'patterns</span></h2><p class="fx-lead">Simple means one break and two main pieces. '
        "Comminuted means three pieces or more at one place. All films here are simulated, so "
        "where the bone is broken is known.</p>"
        '<label class="fx-check"><input type="checkbox" data-do="maps"><span>Show the model\'s '
        "heatmap on every film</span></label>"
        '<label class="fx-check"><input type="checkbox" data-do="outlines"><span>Outline the true '
        "fracture</span></label>"
        f"<details><summary>How to read an AO/OTA code</summary><p>{HOW_TO_READ_A_CODE}</p>"
        f'</details></section><div class="fx-atlas">{cards}</div>'
        '<section class="fx-card"><h2 class="fx-head"><span>Sources</span></h2>'
        f'<ul class="fx-sources">{sources}</ul><p class="fx-small">The words are our own; the '
        "definitions follow these works.</p></section></div>"
    )


def _linked(text: str) -> str:
    words, _, doi = text.partition("doi:")
    return (
        f'{escape(words)}<a href="https://doi.org/{doi}" rel="noreferrer" target="_blank">'
        f"doi:{doi}</a>"
    )


def _card(entry: Entry) -> str:
    label = entry.label
    points = "".join(f"<li>{escape(point)}</li>" for point in entry.look_for)
    sources = f" ({', '.join(entry.sources)})" if entry.sources else ""
    alt = f"Simulated film: {entry.title.lower()}, {entry.settings.bone}"
    layers = "".join(
        f'<img class="fx-atlas-{kind}" src="atlas/{entry.pattern}-{kind}.webp" loading="lazy" '
        f'alt="{escape(words, quote=True)}">'
        for kind, words in (
            ("film", alt),
            ("map", "The model's heatmap on this film"),
            ("outline", "Outline of the true fracture"),
        )
        if not (kind == "outline" and entry.pattern == "intact")
    )
    return (
        f'<article class="fx-card fx-entry fx-{html.SLUGS[label]}" id="atlas-{entry.pattern}">'
        f'<div class="fx-entry-film" style="--ratio:{RATIO}">{layers}</div><div>'
        f'<h3>{entry.title} <span class="fx-tag">{label}</span></h3>'
        f"<p>{escape(entry.definition)}</p><h4>Look for</h4><ul>{points}</ul>"
        f"<h4>Beware</h4><p>{escape(entry.trap)}</p>"
        f'<p class="fx-small">Code: {escape(entry.type)}{sources}</p></div></article>'
    )


def picture(request: WebRequest) -> Response:
    """Answer `/atlas/{name}.webp`: film, the model's map or the true outline of a pattern."""
    pattern, _, kind = request.path_params["name"].rpartition("-")
    known = {entry.pattern: entry for entry in entries()}
    if pattern not in known or kind not in ("film", "map", "outline"):
        return PlainTextResponse("There is no such picture.", 404)
    try:
        data = _layers(pattern)[kind] if kind != "map" else _map(pattern)
    except models.ModelMissing as error:
        return PlainTextResponse(str(error), 503)
    return Response(data, media_type="image/webp", headers={"cache-control": f"max-age={DAY}"})


@once(len(entries()))
def _exhibit(pattern: str):
    entry = next(entry for entry in entries() if entry.pattern == pattern)
    return simulate(entry.settings)


@once(len(entries()))
def _layers(pattern: str) -> dict[str, bytes]:
    """The film and the outline of its fracture, cut to the place."""
    made = _exhibit(pattern)
    window = _window(made.mask.shape, made.box)
    film = Image.fromarray(to_bytes(made.pixels)).convert("RGB")
    clear = np.zeros((*made.mask.shape, 4), np.uint8)
    edge = made.mask & ~_shrunk(made.mask, by=2)
    clear[edge] = (255, 255, 255, 255)
    return {"film": _webp(film, window), "outline": _webp(Image.fromarray(clear), window)}


@once(len(entries()))
def _map(pattern: str) -> bytes:
    from fracture.view import heat_layer

    made = _exhibit(pattern)
    film = read_film(to_bytes(made.pixels))
    _, heat = models.classifier().read(film, insist=True)
    layer = Image.fromarray(heat_layer(heat, pictures.COLORMAP))
    return _webp(layer, _window(made.mask.shape, made.box))


def _window(shape: tuple[int, int], box: Box | None) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the part of a film (H, W) to show: around the fracture."""
    height, width = shape
    tall = min(height, max(0.55 * height, 1.5 * box.height if box else 0))
    wide = min(width, tall * RATIO)
    tall = wide / RATIO
    x = box.left + box.width / 2 if box else width / 2
    y = box.top + box.height / 2 if box else height * 0.6
    left = min(max(x - wide / 2, 0), width - wide)
    top = min(max(y - tall / 2, 0), height - tall)
    return round(left), round(top), round(left + wide), round(top + tall)


def _shrunk(mask: np.ndarray, by: int) -> np.ndarray:
    """A bool mask without its outermost pixels, `by` of them deep."""
    for _ in range(by):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _webp(layer: Image.Image, window: tuple[int, int, int, int]) -> bytes:
    buffer = io.BytesIO()
    layer.crop(window).save(buffer, "webp", quality=88, alpha_quality=90, method=4)
    return buffer.getvalue()
