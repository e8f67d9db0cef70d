"""The page "Make a fracture": a simulated film, what the model says of it, and the truth.

Nothing impossible is offered: `offers` gives each control the range that the other choices allow,
and `wanted` moves wishes that outlived a change of bone or pattern into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from fracture import stress
from fracture.film import read_film
from fracture.quiz import described, to_bytes
from fracture.simulate import (
    BONES,
    Range,
    Settings,
    SettingsError,
    choices,
    longest_shortening,
    nearest_settings,
    patterns_of,
    simulate,
)
from fracture.web import html, models, pictures, plate
from fracture.web.reading import Request, Upload, look

SCRIPT = plate.READ_SCRIPT + (plate.HERE / "make.js").read_text(encoding="utf-8")
# The plot appears far below the button that asked for it.
PLOT_SCRIPT = """
watch("value", () => setTimeout(() => {
  const plot = element.querySelector(".fx-sweep");
  if (plot) plot.scrollIntoView({ block: "start" });
}, 100));
"""
FIRST = Settings(bone="tibia", pattern="wedge", displacement=6, seed=4)
STEPS = 9  # films of a sweep


@dataclass(frozen=True)
class Knob:
    """A slider of the page: its name in `Settings`, label with unit, step, and whether it is one
    of the few that are always in sight."""

    name: str
    label: str
    step: float
    main: bool = False


KNOBS = (
    Knob("fragments", "Fragments", 1, True),
    Knob("displacement", "Displacement (mm)", 0.5, True),
    Knob("projection", "Projection (degrees from AP; 90 is lateral)", 5, True),
    Knob("exposure", "Exposure (times the right one)", 0.05, True),
    Knob("noise", "Noise (times the usual one)", 0.1, True),
    Knob("angulation", "Angulation (degrees)", 1),
    Knob("gap", "Gap (mm)", 0.5),
    Knob("shortening", "Shortening (mm)", 0.5),
    Knob("rotation", "Rotation of the far fragment (degrees)", 1),
    Knob("direction", "Displaced towards (degrees; 0 is outwards, 90 forwards)", 5),
    Knob("kvp", "Tube voltage (kV)", 1),
)


def bones() -> list[tuple[str, str]]:
    """Titles and names of the bones."""
    return [(bone.capitalize(), bone) for bone in BONES]


def patterns(bone: str) -> list[tuple[str, str]]:
    """Titles and names of the patterns that there are for a bone."""
    titles = {"intact": "No fracture", "torus": "Torus (buckle)", "wedge": "Wedge (butterfly)"}
    return [(titles.get(name, name.capitalize()), name) for name in patterns_of(bone)]


def segments(settings: Settings) -> tuple[str, ...]:
    """Where such a fracture may be: "shaft", "distal", both, or nowhere."""
    return choices(settings.bone, settings.pattern).segments


def offers(settings: Settings) -> dict[str, Range | None]:
    """What each knob may offer beside these settings; None: it has no choice."""
    allowed = choices(settings.bone, settings.pattern)
    ranges = {
        knob.name: getattr(allowed, knob.name, None) for knob in KNOBS if knob.name != "projection"
    }
    longest = longest_shortening(settings.bone, settings.pattern, settings.displacement)
    if settings.gap > 0 and settings.label == "Simple":
        longest = 0.0  # ends that stand apart cannot override
    ranges["shortening"] = Range(0, longest, 0)
    if settings.shortening > 0 and settings.label == "Simple":
        ranges["gap"] = None
    ranges["projection"] = Range(-90, 90, 0)
    ranges["direction"] = Range(-180, 180, 0) if allowed.displacement.high else Range(0, 0, 0)
    return {name: r if r and r.high > r.low else None for name, r in ranges.items()}


def wanted(values: Mapping[str, Any], *, usual: bool = False) -> Settings:
    """The possible settings nearest to what the page's controls say.

    usual: leave fragments, lengths and angles to the simulator, as after a change of the pattern.
    Values that no slider gives (they come from a browser) become the usual ones.
    """
    bone = values.get("bone") if values.get("bone") in BONES else FIRST.bone
    pattern = values.get("pattern")
    if pattern not in patterns_of(bone):
        pattern = next(p for p in patterns_of(bone) if p == "transverse")
    names = ["segment", "exposure", "noise", "projection", "seed", "collimation", "marker"]
    if not usual:
        names += ["fragments", "displacement", "angulation", "gap", "shortening", "rotation"]
        names += ["direction", "kvp"]
    wishes = {name: values[name] for name in names if values.get(name) is not None}
    try:
        return nearest_settings(bone=bone, pattern=pattern, **wishes)
    except (SettingsError, TypeError, ValueError, OverflowError):
        return Settings(bone=bone, pattern=pattern)


def made(settings: Settings, model: str = models.DEFAULT) -> tuple[str, str]:
    """The film and the verdict card, as HTML."""
    film_made = simulate(settings)
    film = read_film(to_bytes(film_made.pixels), name="Simulated film")
    answer = look(Upload("", film.name), Request(model), film=film)
    height, width = film_made.mask.shape
    layer = plate.truth_layer(plate.outline(film_made.mask), (width, height))
    words = [_truth(settings, film_made.ao_code)]
    if answer.heatmap is not None and film_made.mask.any():
        words.append(_overlap(stress.overlap(answer.heatmap, film_made.mask)))
    elif answer.heatmap is not None:
        words.append("The bone is intact, so no place on the map can be right.")
    tools = ""
    if layer:
        tools = (
            '<label class="fx-check"><input type="checkbox" data-do="truth">'
            "<span>Show the true fracture</span></label>"
        )
    tools += '<button type="button" class="fx-tool" data-do="full">Full screen</button>'
    below = (
        '<details class="fx-answer-key" data-do="key"><summary>The truth, and how well the map '
        f"meets it</summary>{''.join(f'<p>{escape(w)}</p>' for w in words)}</details>"
    )
    view = plate.view(
        answer.reading, layer, label="Simulated film", tools=tools, below=below, pinned=True
    )
    return view, html.verdict_card(answer.reading)


def _truth(settings: Settings, code: str) -> str:
    says = f"In truth: {html.HEADINGS[settings.label].lower()} ({described(settings)})"
    return says + (f", AO/OTA {code}." if code else ".")


def _overlap(found: stress.Overlap) -> str:
    hit = "lies on" if found.hit else "misses"
    return (
        f"The map's warmest point {hit} the fracture. {100 * found.energy:.0f} % of its heat is on "
        f"it, which covers {100 * found.area:.1f} % of the film; above {100 * found.cut:.0f} % of "
        f"the greatest heat the two overlap by {100 * found.iou:.0f} % (intersection over union)."
    )


def sweepable(settings: Settings) -> list[tuple[str, str]]:
    """Titles and names of the controls that can be swept from here."""
    return [(stress.CONTROLS[name].title, name) for name in stress.controls_of(settings)]


def swept(settings: Settings, control: str) -> Iterator[tuple[int, int, str]]:
    """Sweep a control: yields (films done, films in all, HTML), the last with the whole plot.

    The HTML is empty until all films are read.
    """
    names = dict.fromkeys(stress.controls_of(settings))
    control = control if control in names else next(iter(names))
    reader = models.classifier().predict
    count = len(stress.sweep_values(settings, control, STEPS))
    taken = []
    for step in stress.sweep(settings, control, reader, steps=STEPS):
        taken.append(step)
        if len(taken) < count:
            yield len(taken), count, ""
    yield count, count, _plot(settings, control, taken)


def _plot(settings: Settings, control: str, taken: Sequence[stress.Step]) -> str:
    about = stress.CONTROLS[control]
    now = settings.angle if control == "angle" else float(getattr(settings, control))
    figure = stress.sweep_figure(settings, control, taken, now)
    says = _spoken(settings, control, taken)
    classes = [name for name in models.CLASSES if name in (taken[0].prediction.probabilities or ())]
    head = "".join(f'<th scope="col">{name}</th>' for name in classes)
    rows = "".join(
        f'<tr><th scope="row">{step.value:g}</th>'
        + "".join(
            f"<td>{html.percent(step.prediction.probabilities[name])}</td>"
            if name in step.prediction.probabilities
            else "<td>no verdict</td>"
            for name in classes
        )
        + "</tr>"
        for step in taken
    )
    return (
        '<section class="fx-card fx-sweep" aria-label="Sweep">'
        f'<h2 class="fx-head"><span>{about.title}, from end to end</span></h2>'
        f'<p class="fx-lead" role="status">{escape(says)}</p>'
        '<div class="fx-scroll" tabindex="0" role="region" aria-label="Plot">'
        f'<img class="fx-plot" src="{pictures.figure_uri(figure)}" '
        f'alt="Plot of the probabilities. {escape(says, quote=True)}"></div>'
        f"<details><summary>The figures behind the plot</summary>"
        f'<div class="fx-scroll" tabindex="0" role="region" aria-label="Figures of the sweep">'
        f'<table class="fx-table"><thead><tr><th scope="col">{about.title} ({about.unit})</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div></details></section>"
    )


def _spoken(settings: Settings, control: str, taken: Sequence[stress.Step]) -> str:
    """What the plot shows, in words."""
    unit = stress.CONTROLS[control].unit
    answered = [step for step in taken if step.prediction.label]
    if not answered:
        return "The model gave no verdict on any of these films."
    right = sum(step.prediction.label == settings.label for step in answered)
    shares = [(s.prediction.probabilities.get(settings.label, 0.0), s.value) for s in answered]
    (low, at_low), (high, at_high) = min(shares), max(shares)
    return (
        f"The same bone with the same break, {len(taken)} times: the model is right on {right}. "
        f"The probability of the truth ({settings.label.lower()}) runs from {html.percent(low)} "
        f"at {at_low:g} to {html.percent(high)} at {at_high:g} ({unit})."
    )
