"""The page "Stress test": spoil the current film, hide a place, and watch the verdict.

The film is the one on the first page; without one it is a simulated film.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fracture import stress
from fracture.film import TO_SCREEN, Film, FilmError, read_film
from fracture.once import once
from fracture.quiz import to_bytes
from fracture.simulate import Range, Settings, simulate
from fracture.stress import Strain
from fracture.web import html, models, pictures, plate
from fracture.web.html import Reading
from fracture.web.reading import Request, Upload, failure, look, plain

if TYPE_CHECKING:
    from fracture.classifier import Prediction

SCRIPT = plate.READ_SCRIPT + plate.MARK_SCRIPT + (plate.HERE / "stress.js").read_text("utf-8")
FIRST = Settings(bone="tibia", pattern="multifragmentary", seed=6)
SECONDS = 20.0  # that an occlusion map may take
LOST = 0.02  # a smaller drop is not worth a word


@dataclass(frozen=True)
class Slider:
    """A slider of the page: its name in `Strain`, label with unit, step."""

    name: str
    label: str
    step: float

    @property
    def range(self) -> Range:
        return stress.STRAINS[self.name]


SLIDERS = (
    Slider("rotation", "Rotation (degrees clockwise)", 1),
    Slider("exposure", "Exposure (stops; more makes an X-ray film darker)", 0.1),
    Slider("contrast", "Contrast (times)", 0.05),
    Slider("blur", "Blur (thousandths of the film's longer side)", 0.25),
    Slider("noise", "Noise (share of the grey range)", 0.01),
    Slider("crop", "Crop (share of the film cut off at each edge)", 0.01),
    Slider("quality", "JPEG quality (100 is no JPEG)", 1),
)


@dataclass(frozen=True, eq=False)
class Bench:
    """The film under test, no larger than it need be, and the verdict on it as it came."""

    film: Film

    @cached_property
    def before(self) -> Prediction:
        return models.classifier().predict(self.film)


def bench_of(upload: Upload | None) -> Bench:
    """The film that somebody dropped, or a simulated one. FilmError if it cannot be read."""
    if upload is None:
        return _simulated()
    try:
        stamp = Path(upload.path).stat().st_mtime_ns
    except OSError:
        raise FilmError("This film has already left the server. Drop it again.") from None
    return _uploaded(upload.path, stamp, plain(upload.name))


@once(1)
def _simulated() -> Bench:
    return Bench(read_film(to_bytes(simulate(FIRST).pixels), name="Simulated film"))


# While somebody drags a slider the film need not be decoded for every step.
@once(12)
def _uploaded(path: str, stamp: int, name: str) -> Bench:
    return Bench(stress.workable(read_film(path, name=name, limits=TO_SCREEN)))


def forget_gone() -> None:
    """Forget the films whose file has left the disk: nothing of them stays in memory longer."""
    _uploaded.forget(lambda path, *_: not os.path.exists(path))


def strain_of(values: Mapping[str, Any], hidden: Any) -> Strain:
    """What the sliders and the drawn box say; nonsense from a browser becomes no strain."""
    wishes: dict[str, Any] = {}
    for name, allowed in stress.STRAINS.items():
        try:
            wishes[name] = allowed.clip(float(values[name]))
        except (KeyError, TypeError, ValueError):
            continue
    try:
        box = tuple(float(side) for side in hidden)
        return Strain(**wishes, hidden=box if len(box) == 4 else None)
    except (TypeError, ValueError):
        return Strain(**{k: v for k, v in wishes.items() if v == v})


def shown(upload: Upload | None, strain: Strain) -> tuple[str, str]:
    """The film under strain with its heatmap, and the verdict card, as HTML."""
    try:
        bench = bench_of(upload)
        spoilt = stress.strained(bench.film, strain)
    except FilmError as error:
        return "", html.verdict_card(failure(str(error)))
    reading = look(Upload("", spoilt.name), Request(), film=spoilt).reading
    return _view(reading, strain), _card(reading, bench, strain)


def _view(
    reading: Reading, strain: Strain, below: str = "", label: str = "Film under strain"
) -> str:
    tools = (
        '<button type="button" class="fx-tool" data-do="box" aria-pressed="false">'
        "Erase with a finger</button>"
    )
    if strain.hidden is not None:
        tools += '<button type="button" class="fx-tool" data-do="clear">Bring it back</button>'
    tools += '<button type="button" class="fx-tool" data-do="full">Full screen</button>'
    return plate.view(
        reading,
        '<span class="fx-cross" aria-hidden="true"></span>',
        label=label,
        tools=tools,
        below=below
        or '<p class="fx-small">Drag a box over the film to erase a place: it is painted over with '
        'what lies around it. <span class="fx-with-keys">With the keyboard: arrow keys move the '
        "cross on the film, Shift with arrow keys draws the box, Escape brings the place back."
        "</span></p>",
        more=' data-do="mark" tabindex="0" role="application" aria-label="The film. Drag a box to '
        'erase a place; Escape brings it back."',
        pinned=True,
    )


def _card(reading: Reading, bench: Bench, strain: Strain) -> str:
    card = html.verdict_card(reading)
    if strain == Strain() or reading.status == "error":
        return card
    label, shares = bench.before.label, bench.before.probabilities
    if label is None:
        return card
    says = f"Left alone, the film reads: {html.HEADINGS[label].lower()}, "
    says += f"{html.percent(shares[label])}."
    if reading.label is None:
        says += " Spoilt like this it gets no verdict."
    elif reading.label != label:
        says += " The verdict has changed."
    else:
        now = reading.probabilities[label]
        says += f" The verdict holds, now with {html.percent(now)}."
    return card.removesuffix("</section>") + f'<p class="fx-second">{escape(says)}</p></section>'


def mind_changing(upload: Upload | None, strain: Strain) -> Iterator[tuple[str, str]]:
    """What would change its mind: yields (film under the map so far, words), every few places."""
    try:
        film = stress.strained(bench_of(upload).film, strain)
    except FilmError as error:
        yield "", plate.sentence(str(error))
        return
    base = look(Upload("", film.name), Request(), film=film).reading
    state = None
    places = stress.occlude(film, models.classifier().predict, seconds=SECONDS)
    for count, state in enumerate(places, start=1):
        if count == 1 or count % 5 == 0:
            yield _occluded(base, film, strain, state, done=False)
    if state is None:
        yield "", plate.sentence("There is no verdict on this film, so none can change.")
        return
    yield _occluded(base, film, strain, state, done=True)


def _occluded(
    base: Reading, film: Film, strain: Strain, state: stress.Occlusion, *, done: bool
) -> tuple[str, str]:
    heat = state.heat(film.pixels.shape)
    reading = replace(
        base, heat=pictures.heat_uri(heat), target=state.label, place=pictures.warmest_place(heat)
    )
    words = _mind_words(state, done)
    below = f'<p class="fx-meaning fx-minding" aria-hidden="true">{escape(words)}</p>'
    # the words stand below the film; those who do not see it hear them from the status line, which
    # a phone shows as well: there the film's own words are far above the button
    view = _view(reading, strain, below, "What would change its mind")
    return view, plate.sentence(words, unseen=True)


def _mind_words(state: stress.Occlusion, done: bool) -> str:
    total = state.drops.size
    if not done:
        return f"Hiding one place after the other: {state.measured} of {total}."
    asked = f"{state.measured} places were hidden, one at a time"
    if state.measured < total:
        asked += f" (of {total}; the time was over)"
    drops = np.nan_to_num(state.drops, nan=0.0)
    worst = float(drops.max())
    if worst < LOST:
        return f"{asked}. None of them mattered: the verdict hangs on no single place."
    row, column = np.unravel_index(int(drops.argmax()), drops.shape)
    where = pictures.warmest_place(_single(drops.shape, int(row), int(column)))
    turned = int(state.turned.sum())
    changes = {0: "No single place changes the verdict.", 1: "At one place the verdict changes."}
    return (
        f"{asked}. Warm places cost most when hidden: in {where} the probability of "
        f"{state.label.lower()} falls from {html.percent(state.base)} by {100 * worst:.0f} points. "
        + changes.get(turned, f"At {turned} places the verdict changes.")
    )


def _single(shape: tuple[int, ...], row: int, column: int) -> np.ndarray:
    cells = np.zeros(shape, np.float32)
    cells[row, column] = 1
    return cells
