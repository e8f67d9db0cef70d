"""A film with layers over it, as the classroom's pages show it: heat, true outline, marks.

All layers are drawn in fractions or pixels of the film and scaled by the browser. The markup uses
the classes of the first page's viewer, so that the same script fades the heat.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from fracture.web import html, pictures
from fracture.web.html import Reading

HERE = Path(__file__).parent
READ_SCRIPT = (HERE / "read.js").read_text(encoding="utf-8")
MARK_SCRIPT = (HERE / "mark.js").read_text(encoding="utf-8")


def outline(mask: np.ndarray) -> str:
    """The border of a bool (H, W) mask as the data of an SVG path, in pixels; "" if it is empty."""
    from contourpy import contour_generator  # comes with matplotlib; late, like that

    edges = contour_generator(z=np.pad(mask, 1).astype(np.float32)).lines(0.5)
    # the pad moved everything by one pixel, and pixel centres lie half a pixel in
    return "".join(
        "M" + "L".join(f"{x - 0.5:.1f} {y - 0.5:.1f}" for x, y in edge) + "Z" for edge in edges
    )


def truth_layer(path: str, size: tuple[int, int], boxes: Sequence[Sequence[float]] = ()) -> str:
    """The true fracture as an SVG layer: its outline, or boxes (left, top, width, height as
    fractions) where there is no outline. size: (width, height) of the film in pixels."""
    width, height = size
    if path:
        shapes = f'<path d="{path}"/>'
    else:
        shapes = "".join(
            f'<rect x="{x * width:.1f}" y="{y * height:.1f}" width="{w * width:.1f}" '
            f'height="{h * height:.1f}"/>'
            for x, y, w, h in boxes
        )
    if not shapes:
        return ""
    return (
        f'<svg class="fx-layer fx-truth" viewBox="0 0 {width} {height}" role="img" '
        'preserveAspectRatio="none" aria-label="Outline of the true fracture">'
        f'<g class="fx-casing">{shapes}</g><g class="fx-line">{shapes}</g></svg>'
    )


def mark_layer(place: Sequence[float], kind: str, words: str) -> str:
    """Somebody's mark as a layer: a ring for a point, a frame for a box (both fractions).

    kind: "yours" or "model", for the colour; words: for those who do not see it.
    """
    x, y, *size = (100 * value for value in place)
    box = f"width:{size[0]:.2f}%;height:{size[1]:.2f}%" if size else ""
    shape = "fx-frame" if size else "fx-ring"
    return (
        f'<span class="fx-mark-{kind} {shape}" style="left:{x:.2f}%;top:{y:.2f}%;{box}" '
        f'role="img" aria-label="{escape(words, quote=True)}"></span>'
    )


def stack(reading: Reading, layers: str = "", more: str = "") -> str:
    """The film of a reading under its heat and other layers; more: attributes of the stack."""
    width, height = reading.size
    name = escape(reading.name or "simulated film", quote=True)
    heat = ""
    if reading.heat:
        alt = f"Heatmap of {reading.model} for {reading.target}: warmest in {reading.place}."
        heat = f'<img class="fx-heat" src="{reading.heat}" alt="{escape(alt, quote=True)}">'
    return (
        f'<div class="fx-stack" style="--ratio:{width / height:.4f}"{more}>'
        f'<img class="fx-film" src="{reading.film}" alt="The film: {name}" draggable="false">'
        f"{heat}{layers}</div>"
    )


def view(
    reading: Reading, layers: str = "", *, label: str, tools: str = "", below: str = "",
    more: str = "", pinned: bool = False,
) -> str:  # fmt: skip
    """A film with its layers, the slider for the heat and the colour scale.

    label: what the part is called. tools: further controls beside the slider. below: HTML under
    the film. more: attributes of the film's frame. pinned: on a phone the film, with its verdict in
    one line, stays in sight while controls far below are moved. Returns "" if the film could not
    be read.
    """
    if not reading.film:
        return ""
    fade = legend = ""
    if reading.heat:
        opacity = round(pictures.OPACITY * 100)
        fade = (
            '<label class="fx-opacity"><span>Heatmap</span>'
            f'<input type="range" min="0" max="100" value="{opacity}" step="1" '
            'aria-label="Opacity of the heatmap in per cent">'
            f"<output>{opacity} %</output></label>"
        )
        legend = (
            f'<div class="fx-legend"><span>said little</span><img src="{pictures.legend_uri()}" '
            'alt="Colour scale from cold to warm"><span>said most</span></div>'
        )
    bar = f'<div class="fx-tools">{fade}{tools}</div>' if fade or tools else ""
    now = f'<figcaption class="fx-now" aria-hidden="true">{_now(reading)}</figcaption>'
    return (
        f'<section class="fx-view{" fx-pinned" if pinned else ""}" '
        f'aria-label="{escape(label, quote=True)}">'
        f'<div class="fx-panes" data-count="1"><figure class="fx-pane">'
        f"{stack(reading, layers, more)}{now if pinned else ''}</figure></div>"
        f"{bar}{legend}{below}"
        f'<p class="fx-notice fx-full-only">{html.NOTICE}</p></section>'
    )


def _now(reading: Reading) -> str:
    """The verdict in one line."""
    if reading.label is None:
        return html.status_words(reading)
    return f"{html.status_words(reading)} · {html.percent(reading.probabilities[reading.label])}"


def sentence(text: str, *, unseen: bool = False) -> str:
    """A line for a person; unseen: only for a screen reader. Nothing for an empty text."""
    kind = "fx-status fx-hidden" if unseen else "fx-status"
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""
