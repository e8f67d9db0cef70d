"""The page "How good is it?": the evaluation's figures in plain words.

Every number comes from `models/evaluation.json`; without it the page says so. Figures that were not
measured are left out, never guessed.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from fracture.web import plate

MODELS = Path(__file__).resolve().parents[2] / "models"
FIGURES_FOLDER = MODELS / "figures"
SCRIPT = (plate.HERE / "evidence.js").read_text("utf-8")
Json = dict[str, Any]

# name of the file that `fracture.evaluate` draws, caption in plain words
FIGURES = (
    ("roc", "Each point is one way of weighing the two errors against each other: how many "
     "fractures of the one kind are found, and at what price in false alarms. The further the "
     "curve bends to the upper left, the better; the diagonal is guessing."),
    ("reliability", "Of the films on which the model said 70 %, did it come true on 70 %? Points "
     "on the diagonal say yes. Below it the model boasts, above it is too modest."),
    ("risk_coverage", "If it answers only the films it is surest of (left), it errs less than if "
     "it must answer all (right). That is why it may say “not sure”."),
    ("confusion", "Each row is a truth, each column an answer. Only the diagonal is right; the "
     "rest shows what is taken for what."),
    ("explanation", "How often the warmest point of the map lies in the box that a radiologist "
     "drew. Beside it: what a point in the middle of every film would hit, what chance would hit, "
     "and what is left when the weights are made random."),
    ("regions", "The same question by part of the body. Long lines mean few films, so the value "
     "may be luck."),
)  # fmt: skip
UNSEEN = "unseen groups"  # the way of measuring that the lesson lets one guess
WEAKEST = 4  # parts named as weak


def page(evaluation: Path | None = None, figures: Path | None = None) -> str:
    """The page as HTML. evaluation, figures: instead of those in `models/`."""
    values = load(evaluation or MODELS / "evaluation.json")
    if values is None:
        return absent()
    there = figures or FIGURES_FOLDER
    parts = [
        _opening(values),
        _words(values),
        lesson(values.get("lesson")),
        _pictures(there),
        _weak(values),
        _fine_print(values),
    ]
    return f'<div class="fx-evidence">{"".join(parts)}</div>'


def load(path: Path) -> Json | None:
    """The evaluation; None if there is none or it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def absent() -> str:
    """What the page says as long as nothing has been measured."""
    return (
        '<section class="fx-card" data-state="absent"><h2 class="fx-head"><span>Not measured yet'
        '</span></h2><p class="fx-lead">There is no evaluation of this model here, so nobody '
        "knows how good it is. <code>python -m fracture.evaluate</code> measures it on films that "
        "it was not trained on and fills this page.</p></section>"
    )


def _of(values: Json, *path: str) -> Any:
    """A value deep in the evaluation; None where anything on the way is missing."""
    found: Any = values
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _figure(values: Json, *path: str) -> Json | None:
    found = _of(values, *path)
    return found if isinstance(found, dict) and {"value", "low", "high"} <= found.keys() else None


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _range(found: Json) -> str:
    return f"95 % interval {100 * found['low']:.0f} to {100 * found['high']:.0f}"


def _opening(values: Json) -> str:
    films, groups = _of(values, "data", "held_out_films"), _of(values, "data", "held_out_groups")
    on = ""
    if films and groups:
        on = (
            f" on {films:,} films of {groups:,} patients or series, each read by a model that had "
            "seen no other film of the same patient"
        )
    return (
        '<section class="fx-card" data-state="measured"><h2 class="fx-head"><span>How good is it?'
        f'</span></h2><p class="fx-lead">Measured{on}. All numbers on this page were written by '
        f"<code>python -m fracture.evaluate</code> ({escape(str(values.get('date', '')))}); none "
        "was typed by hand.</p></section>"
    )


def _words(values: Json) -> str:
    """One card a measure: the number, what it means, its interval."""
    cards = []

    def add(title: str, found: Json | None, words: str) -> None:
        if found:
            cards.append(
                f'<li class="fx-card"><p class="fx-big">{_percent(found["value"])}</p>'
                f'<h3>{title}</h3><p>{words}</p><p class="fx-small">{_range(found)}</p></li>'
            )

    add(
        "Right order (AUROC)",
        _figure(values, "kind", "full", "auroc"),
        "Take one simple and one comminuted film at random. So often the comminuted one gets the "
        "higher probability of comminuted. A coin reaches 50 %.",
    )
    add(
        "Right answer, both classes alike",
        _figure(values, "kind", "cut", "balanced_accuracy"),
        "Balanced accuracy: the share of simple films called simple and of comminuted ones called "
        "comminuted, averaged. Always saying “simple” reaches 50 %, however rare the others are.",
    )
    add(
        "Fractured or not (AUROC)",
        _figure(values, "fracture", "one_source", "auroc"),
        "The same game with one broken and one unbroken film of the same hospital.",
    )
    add(
        "Percentages off by (calibration)",
        _figure(values, "kind", "full", "ece"),
        "Calibration error: by how much what it says misses what comes true, on average. A model "
        "that says 80 % and is right on 70 of 100 films is 10 % off. Here less is better.",
    )
    add(
        "The map hits",
        _figure(values, "explanation", "methods", "gradcam", "predicted", "hit"),
        "So often the warmest point of the map lies in the box that a radiologist drew around the "
        "fracture (the pointing game).",
    )
    add(
        "Foreign pictures refused",
        _figure(values, "refusal", "foreign", "refused"),
        "Pictures that show no limb and get no verdict, as they should.",
    )
    add(
        "On simulated films: the map hits",
        _figure(values, "simulated", "hit"),
        "The films of the other pages are computed; the model learnt from others of their kind, "
        "and from real ones. So often its warmest point lies on their true fracture.",
    )
    add(
        "On simulated films: right order",
        _figure(values, "simulated", "auroc_kind"),
        "AUROC of simple against comminuted on them. A model knows the kind of film it was raised "
        "on.",
    )
    return f'<ul class="fx-measures">{"".join(cards)}</ul>' if cards else ""


def lesson(found: Json | None) -> str:
    """The lesson of the 99.87 % as a figure to play with; "" if it was not taught yet."""
    rows = (found or {}).get("rows") or []
    if not found or not rows:
        return ""
    measures = [
        (key, title)
        for key, title in (
            ("accuracy", "Accuracy"),
            ("balanced_accuracy", "Balanced accuracy"),
            ("auroc", "AUROC"),
        )
        if any(row.get(key) for row in rows)
    ]
    bars = []
    guessed = next((row for row in rows if row.get("way") == UNSEEN), None)
    for row in rows:
        values = {key: row[key] for key, _ in measures if row.get(key)}
        data = "".join(
            f' data-{key.replace("_", "-")}="{v["value"]:.4f}"' for key, v in values.items()
        )
        said = "; ".join(
            f"{title.lower()} {_percent(values[key]['value'])}"
            for key, title in measures
            if key in values
        )
        bars.append(
            f'<li class="fx-way-row" hidden{data}{" data-guess" if row is guessed else ""}>'
            '<span class="fx-way-name"><b>'
            f"{escape(str(row['model']))}, measured on {escape(str(row['way']))}</b><br>"
            f"<small>{escape(str(row.get('on', '')))}</small></span>"
            '<span class="fx-track" aria-hidden="true"><span></span></span>'
            f'<span class="fx-way-value" aria-hidden="true"></span>'
            f'<span class="fx-hidden">{said}</span></li>'
        )
    choices = "".join(
        f'<label><input type="radio" name="lesson" value="{key.replace("_", "-")}"'
        f"{' checked' if n == 0 else ''}> {title}</label>"
        for n, (key, title) in enumerate(measures)
    )
    claimed = found.get("claimed")
    intro = ""
    if isinstance(claimed, (int, float)):
        intro = (
            f"The network called SimpleCNN is said to reach {100 * claimed:.2f} % accuracy. Here "
            "is the same network, and only the films on which it is measured change."
        )
    return (
        '<section class="fx-card fx-lesson" aria-label="The lesson of the 99.87 %" '
        f'data-claimed="{claimed if claimed is not None else ""}">'
        f'<h2 class="fx-head"><span>What is a number worth?</span></h2>'
        f'<p class="fx-lead">{intro}</p>'
        '<label class="fx-guess"><span>Guess: how often is it right on films of patients it has '
        'never seen?</span><input type="range" min="0" max="100" value="90" '
        'aria-label="Your guess in per cent"><output>90 %</output></label>'
        f'<fieldset class="fx-measure"><legend>Measure</legend>{choices}</fieldset>'
        f'<ol class="fx-ways-list">{"".join(bars)}</ol>'
        '<div class="fx-ways"><button type="button" class="fx-go" data-do="step">'
        'Measure it the first way</button></div><p class="fx-status" role="status"></p></section>'
    )


def _pictures(folder: Path) -> str:
    figures = "".join(
        f'<figure class="fx-card"><img src="figures/{name}.png" loading="lazy" '
        f'alt="{escape(caption, quote=True)}"><figcaption>{caption}</figcaption></figure>'
        for name, caption in FIGURES
        if (folder / f"{name}.png").is_file()
    )
    return f'<div class="fx-figures">{figures}</div>' if figures else ""


def _weak(values: Json) -> str:
    """Where it fails, the weakest parts first."""
    found = []
    for title, parts in (
        ("Pattern", _of(values, "kind", "by_pattern")),
        ("Region", _of(values, "kind", "by_region")),
        ("Pattern, fractured or not", _of(values, "fracture", "by_pattern")),
    ):
        for name, part in (parts or {}).items():
            if right := _figure(part, "accuracy"):
                found.append((right["value"], title, name, part.get("films", ""), right))
    if not found:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{title}</td>'
        f'<td class="fx-number">{films}</td><td class="fx-number">{_percent(value)}</td>'
        f'<td class="fx-number">{100 * right["low"]:.0f} to {100 * right["high"]:.0f} %</td></tr>'
        for value, title, name, films, right in sorted(found, key=lambda f: f[:3])[: 2 * WEAKEST]
    )
    return (
        '<section class="fx-card"><h2 class="fx-head"><span>Where it fails</span></h2>'
        '<p class="fx-lead">The parts on which it is right least often. Few films make a shaky '
        "number: look at the interval.</p>"
        '<div class="fx-scroll" tabindex="0" role="region" aria-label="Where it fails">'
        '<table class="fx-table"><thead><tr><th scope="col">Part</th><th scope="col">Kind</th>'
        '<th scope="col">Films</th><th scope="col">Right</th>'
        '<th scope="col">95 % interval</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div></section>"
    )


def _fine_print(values: Json) -> str:
    silent = _figure(values, "abstention", "clear", "abstains")
    unclear = _figure(values, "abstention", "unclear", "abstains")
    words = ""
    if silent and unclear:
        words = (
            f"It says “not sure” on {_percent(silent['value'])} of the clear films and on "
            f"{_percent(unclear['value'])} of those on which human readers disagreed or saw "
            "nothing. "
        )
    return (
        f'<section class="fx-card"><h2 class="fx-head"><span>What this does not show</span></h2>'
        f'<p class="fx-lead">{words}The labels come from careful readers who were no radiologists; '
        "the films from one hospital set and from the web. Another hospital, another machine or "
        "another age may give other numbers. The model card below tells more.</p></section>"
    )


def model_card(path: Path | None = None) -> str:
    """The model card as Markdown with its pictures' addresses as the app serves them, or ""."""
    try:
        text = (path or MODELS / "README.md").read_text(encoding="utf-8")
    except OSError:
        return ""
    return text.replace("](figures/", "](/figures/")
