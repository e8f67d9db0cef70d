"""HTML for the parts Gradio has no component for: verdict card, film viewer, batch table.

Pure functions from a reading to markup. Every text that comes from a file passes `escape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fracture.web import pictures

NOTICE = "For teaching, not for diagnosis"

HEADINGS = {
    "Simple": "Simple fracture",
    "Comminuted": "Comminuted fracture",
    "No fracture": "No fracture",
}
MEANINGS = {
    "Simple": "One break, two main pieces.",
    "Comminuted": "Broken into three or more pieces at one place.",
    "No fracture": "No break found. The model can miss one.",
}
SLUGS = {"Simple": "simple", "Comminuted": "comminuted", "No fracture": "none"}
# A shaft in as many pieces as the class says, so that colour is never the only sign.
SHAPES = {
    "Simple": '<path d="M3 8h7M14 12h7"/>',
    "Comminuted": '<path d="M2 9h4M18 11h4M9.5 5l2 2.5M9.5 14.5l1.5-2M14.5 15l1-2.5M15 6.5l1-1"/>',
    "No fracture": '<path d="M3 10h18"/>',
}


@dataclass(frozen=True)
class Reading:
    """One model's answer about one film, ready for the page.

    Attributes:
        name: the file's safe name, "" if none.
        status: "ok", "uncertain", "refused" or "error".
        label: class name, or None where there is no verdict.
        probabilities: class name -> [0, 1]; empty where there are none.
        reasons: plain sentences.
        model: the model's title.
        film: data URI of the film, "" where it could not be read.
        size: (width, height) of the film in pixels.
        heat: data URI of the heatmap, "" where there is none.
        target: the class that the heatmap explains.
        doubt: nobody asked for that class and it is not the verdict, "No fracture": the heatmap
            shows the most suspicious place.
        place: where the map is warmest, in words.
        method: the title of the heatmap's method.
    """

    name: str
    status: str
    label: str | None
    probabilities: dict[str, float]
    reasons: tuple[str, ...]
    model: str
    film: str = ""
    size: tuple[int, int] = (1, 1)
    heat: str = ""
    target: str = ""
    doubt: bool = False
    place: str = ""
    method: str = ""


def percent(share: float) -> str:
    """Return a probability as whole per cents that never round to a certainty."""
    if 0.0 < share < 0.01:
        return "under 1 %"
    if 0.99 < share < 1.0:
        return "over 99 %"
    return f"{share * 100:.0f} %"


def status_words(reading: Reading) -> str:
    """Return the verdict as a heading."""
    if reading.status == "error":
        return "This file could not be read"
    if reading.label is None:
        return "No verdict"
    if reading.status == "uncertain":
        return f"Not sure: perhaps {HEADINGS[reading.label].lower()}"
    return HEADINGS[reading.label]


def icon(label: str | None, status: str) -> str:
    """Return the sign of a verdict: a shaft in pieces, a question mark or a crossed circle."""
    if status == "ok" and label:
        inner = SHAPES[label]
    elif status == "uncertain":
        inner = '<path d="M9 8a3 3 0 1 1 4 3c-1 .5-1 1-1 2"/><path d="M12 16.5v.1"/>'
    else:
        inner = '<circle cx="12" cy="10" r="7"/><path d="M7 15 17 5"/>'
    return f'<svg class="fx-icon" viewBox="0 0 24 20" aria-hidden="true">{inner}</svg>'


def _bars(reading: Reading) -> str:
    rows = []
    for name, share in sorted(reading.probabilities.items(), key=lambda item: -item[1]):
        chosen = " fx-chosen" if name == reading.label else ""
        rows.append(
            f'<li class="fx-bar fx-{SLUGS[name]}{chosen}"><span class="fx-bar-name">{name}</span>'
            f'<span class="fx-bar-share">{percent(share)}</span>'
            f'<span class="fx-track" aria-hidden="true">'
            f'<span style="width:{share * 100:.1f}%"></span></span></li>'
        )
    return f'<ul class="fx-bars" aria-label="Probability of each class">{"".join(rows)}</ul>'


def _sentences(reasons: Sequence[str]) -> str:
    if not reasons:
        return ""
    if len(reasons) == 1:
        return f'<p class="fx-reasons">{escape(reasons[0])}</p>'
    return '<ul class="fx-reasons">' + "".join(f"<li>{escape(r)}</li>" for r in reasons) + "</ul>"


def verdict_card(reading: Reading, other: Reading | None = None) -> str:
    """Return the card with the verdict, every class's probability and the reasons in words."""
    slug = SLUGS.get(reading.label or "", "blank")
    lead = MEANINGS[reading.label] if reading.label and reading.status == "ok" else ""
    if reading.status == "refused" and reading.label is None:
        lead = "The model gives none for this film, and says why:"
    elif reading.status == "refused":
        lead = "You asked for a verdict although the film was refused. Do not trust it."
    kicker = " · ".join(escape(part) for part in (reading.name, reading.model) if part)
    bars = _bars(reading) if reading.label else ""
    return (
        f'<section class="fx-card fx-verdict fx-{slug}" data-status="{reading.status}">'
        f'<p class="fx-kicker">{kicker}</p>'
        f'<h2 class="fx-head">{icon(reading.label, reading.status)}'
        f"<span>{status_words(reading)}</span></h2>"
        + (f'<p class="fx-lead">{lead}</p>' if lead else "")
        + bars
        + _sentences(reading.reasons)
        + (_second_opinion(reading, other) if other else "")
        + "</section>"
    )


def _second_opinion(reading: Reading, other: Reading) -> str:
    if reading.label and other.label:
        same = "agrees" if reading.label == other.label else "disagrees"
        says = f"{status_words(other)}, {percent(other.probabilities[other.label])}"
        text = f"{other.model} {same}: {says}."
    else:
        text = f"{other.model}: {status_words(other)}."
    return f'<p class="fx-second">{escape(text)}</p>'


def waiting_card() -> str:
    """Return the card shown before any film was dropped."""
    classes = "".join(
        f'<li class="fx-{SLUGS[name]}">{icon(name, "ok")}<span><b>{name}</b><br>{meaning}</span>'
        for name, meaning in MEANINGS.items()
    )
    return (
        '<section class="fx-card fx-verdict fx-blank" data-status="empty">'
        '<p class="fx-kicker">Verdict</p>'
        '<h2 class="fx-head"><span>Waiting for a film</span></h2>'
        '<p class="fx-lead">The model reads an X-ray of a limb, gives each answer a probability '
        "and shows which part of the film made it say so.</p>"
        f'<ul class="fx-classes">{classes}</ul></section>'
    )


def _pane(reading: Reading, titled: bool) -> str:
    width, height = reading.size
    name = escape(reading.name, quote=True)
    heat = ""
    if reading.heat:
        what = "what looked most suspicious" if reading.doubt else reading.target
        alt = f"Heatmap of {reading.model} for {what}: warmest in {reading.place}."
        heat = f'<img class="fx-heat" src="{reading.heat}" alt="{escape(alt, quote=True)}">'
    title = ""
    if titled:
        says = status_words(reading)
        if reading.label:
            says += f", {percent(reading.probabilities[reading.label])}"
        title = f"<figcaption><b>{reading.model}</b><br>{escape(says)}</figcaption>"
        if not reading.heat:
            title += _sentences(reading.reasons)
    return (
        f'<figure class="fx-pane"><div class="fx-stack" style="--ratio:{width / height:.4f}">'
        f'<img class="fx-film" src="{reading.film}" alt="The film {name}">{heat}</div>'
        f"{title}</figure>"
    )


def meaning(readings: Sequence[Reading]) -> str:
    """Return the one sentence on what the picture says and what it cannot say."""
    explained = {(reading.target, reading.doubt) for reading in readings if reading.heat}
    if not explained:
        return "The film as it was dropped. Without a verdict there is nothing to explain."
    suspicious = "the place that looked most suspicious, though not suspicious enough"
    doubts = {doubt for _, doubt in explained}
    if doubts == {True}:
        shown = suspicious
    elif len(explained) == 1:
        [(target, _)] = explained
        shown = f"which parts of the film spoke most for <b>{escape(target)}</b>"
    else:
        shown = "which parts of the film spoke most for each model’s own verdict"
        if True in doubts:
            shown += f" or, where that is no fracture, {suspicious}"
    return (
        f"Warm colours show {shown}; they show where the "
        "model looked, not where the bone is broken, and they cannot tell whether it is right."
    )


def viewer(readings: Sequence[Reading]) -> str:
    """Return the film under its heatmap, or several side by side, and the opacity slider.

    The slider is plain markup; `read.js` turns its position into the layer's opacity.
    """
    if not readings or not readings[0].film:
        return ""
    shown = readings[0]
    tools = ""
    if any(reading.heat for reading in readings):
        opacity = round(pictures.OPACITY * 100)
        tools = (
            '<div class="fx-tools"><label class="fx-opacity"><span>Heatmap</span>'
            f'<input type="range" min="0" max="100" value="{opacity}" step="1" '
            'aria-label="Opacity of the heatmap in per cent">'
            f"<output>{opacity} %</output></label>"
            '<button type="button" class="fx-tool" data-do="full">Full screen</button></div>'
            f'<div class="fx-legend"><span>said little</span><img src="{pictures.legend_uri()}" '
            'alt="Colour scale from cold to warm"><span>said most</span>'
            f'<span class="fx-method">{escape(shown.method)}</span></div>'
        )
    panes = "".join(_pane(reading, len(readings) > 1) for reading in readings if reading.film)
    return (
        f'<section class="fx-view" aria-label="Film and heatmap">'
        f'<div class="fx-panes" data-count="{len(readings)}">{panes}</div>{tools}'
        f'<p class="fx-meaning">{meaning(readings)}</p>'
        # the page's own notice is out of sight while the viewer fills the screen
        f'<p class="fx-notice fx-full-only">{NOTICE}</p></section>'
    )


def batch_table(rows: Sequence[Reading]) -> str:
    """Return a table of many readings: thumbnail, name, verdict, probability, reasons."""
    body = []
    for index, row in enumerate(rows):
        thumb = f'<img src="{row.film}" alt="" loading="lazy">' if row.film else ""
        share = percent(row.probabilities[row.label]) if row.label else ""
        slug = SLUGS.get(row.label or "", "blank")
        name = escape(row.name) or f"film {index + 1}"
        body.append(
            f'<tr class="fx-{slug}" data-status="{row.status}"><td class="fx-thumb">{thumb}</td>'
            f'<th scope="row">{name}</th>'
            f'<td><span class="fx-tag">{escape(status_words(row))}</span></td>'
            f'<td class="fx-number">{share}</td><td>{escape(" ".join(row.reasons))}</td>'
            f'<td><button type="button" class="fx-tool" data-open="{index}" '
            f'aria-label="Show {name} above">Show</button></td></tr>'
        )
    counts = ", ".join(f"{count} {word}" for word, count in _tally(rows).items() if count)
    return (
        f'<section class="fx-card fx-batch"><h2 class="fx-head"><span>{len(rows)} films</span></h2>'
        f'<p class="fx-lead">{counts}.</p><div class="fx-scroll" tabindex="0" role="region" '
        'aria-label="Table of readings"><table><thead><tr><th scope="col">Film</th>'
        '<th scope="col">File</th><th scope="col">Verdict</th><th scope="col">Probability</th>'
        '<th scope="col">Remarks</th><th scope="col"><span class="fx-hidden">Open</span></th></tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _tally(rows: Sequence[Reading]) -> dict[str, int]:
    words = {"ok": "read", "uncertain": "not sure", "refused": "refused", "error": "unreadable"}
    return {word: sum(row.status == status for row in rows) for status, word in words.items()}
