"""How a verdict holds: spoil the film, hide parts of it, or turn one knob of the simulator.

* `strained` makes the film that one would have got from a worse exposure, a crooked scan, a small
  JPEG file ...; it is read anew like any picture that is dropped, so it may also be refused.
* `occlude` hides one place after the other and tells how much the verdict hangs on it.
* `sweep` makes a simulated film again and again with one control changed, and `sweep_figure`
  plots the answers.

A `Reader` is what answers: `Classifier.predict` of a loaded model.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from fracture.film import Film, read_film
from fracture.simulate import Range, Settings, SettingsError, choices, simulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fracture.classifier import Prediction

Reader = Callable[[Film], "Prediction"]
Rect = tuple[float, float, float, float]

LONGEST = 1024  # pixels; a film under strain is shrunk to this, so that the answer follows live
STOP = 0.15  # share of the grey range per doubling of the dose, as on a film of medium contrast


# ------------------------------------------------------------------------------------ strain
@dataclass(frozen=True)
class Strain:
    """What is done to a film. The usual values change nothing.

    crop:     share of the width and height cut off at every edge, 0 to 0.4.
    rotation: degrees clockwise, -180 to 180; the corners turn black.
    hidden:   a box (left, top, width, height), fractions of the film as then seen, that is painted
              over with what lies around it; None for none.
    exposure: stops, -3 to 3: +1 is twice the dose, which makes an X-ray film darker.
    contrast: factor around middle grey, 0.2 to 3.
    blur:     standard deviation, thousandths of the film's longer side, 0 to 10.
    noise:    standard deviation, share of the grey range, 0 to 0.4.
    quality:  of a JPEG file, 1 to 100; 100 leaves the picture alone.

    Raises ValueError for values outside.
    """

    crop: float = 0.0
    rotation: float = 0.0
    hidden: Rect | None = None
    exposure: float = 0.0
    contrast: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    quality: float = 100

    def __post_init__(self) -> None:
        for name, allowed in STRAINS.items():
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and value in allowed):
                raise ValueError(
                    f"{name} lies between {allowed.low:g} and {allowed.high:g}, not {value!r}"
                )
        if self.hidden is not None and not (
            len(self.hidden) == 4 and all(map(math.isfinite, self.hidden))
        ):
            raise ValueError(f"a box is four numbers, not {self.hidden!r}")


STRAINS = {
    "rotation": Range(-180, 180, 0),
    "exposure": Range(-3, 3, 0),
    "contrast": Range(0.2, 3, 1),
    "blur": Range(0, 10, 0),
    "noise": Range(0, 0.4, 0),
    "crop": Range(0, 0.4, 0),
    "quality": Range(1, 100, 100),
}


def workable(film: Film) -> Film:
    """The film, shrunk to `LONGEST` pixels if it is larger."""
    height, width = film.pixels.shape
    scale = LONGEST / max(height, width)
    if scale >= 1:
        return film
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = Image.fromarray(film.pixels).resize(size, Image.Resampling.HAMMING, reducing_gap=3.0)
    display = Image.fromarray(film.display).resize(size, Image.Resampling.HAMMING, reducing_gap=3.0)
    return replace(film, pixels=np.clip(np.asarray(pixels), 0, 1), display=np.asarray(display))


def strained(film: Film, strain: Strain) -> Film:
    """The film as it would have come with all that done to it, one after the other, and read again.

    Bone is bright in the result, whatever the film was. Its noise is always the same, so that it
    does not dance while another control moves. Raises FilmError if nothing readable is left.
    """
    if strain == Strain():
        return film
    picture = Image.fromarray(_bytes(film.pixels))
    picture = _cropped(picture, strain.crop)
    if strain.rotation:
        picture = picture.rotate(-strain.rotation, Image.Resampling.BILINEAR)
    values = np.asarray(picture, dtype=np.float32) / 255
    if strain.hidden is not None:
        values = painted_over(values, strain.hidden)
    if strain.exposure or strain.contrast != 1:
        values = (values - STOP * strain.exposure - 0.5) * strain.contrast + 0.5
    if strain.blur:
        sigma = strain.blur * max(values.shape) / 1000
        picture = Image.fromarray(_bytes(values)).filter(ImageFilter.GaussianBlur(sigma))
        values = np.asarray(picture, dtype=np.float32) / 255
    if strain.noise:
        grains = np.random.default_rng(0).standard_normal(values.shape, dtype=np.float32)
        values = values + strain.noise * grains
    return replace(read_film(_as_jpeg(_bytes(values), strain.quality)), name=film.name)


def painted_over(pixels: np.ndarray, box: Rect) -> np.ndarray:
    """A copy of float32 (H, W) in which a box is filled from its rim; box: fractions.

    The fill runs smoothly from each edge to the opposite one (a Coons patch, Coons 1967), so that
    no black square with hard edges asks for attention of its own. A box beside the film changes
    nothing.
    """
    height, width = pixels.shape
    left, right = (min(max(round(x * width), 0), width) for x in (box[0], box[0] + box[2]))
    top, bottom = (min(max(round(y * height), 0), height) for y in (box[1], box[1] + box[3]))
    if right <= left or bottom <= top:
        return pixels
    x = (np.arange(left, right, dtype=np.float32) - left + 0.5) / (right - left)
    y = ((np.arange(top, bottom, dtype=np.float32) - top + 0.5) / (bottom - top))[:, None]
    rows, columns = slice(top, bottom), slice(left, right)
    # a few pixels deep, so that noise on the rim does not become stripes
    above, below = pixels[max(top - 4, 0) : top, columns], pixels[bottom : bottom + 4, columns]
    before, after = pixels[rows, max(left - 4, 0) : left], pixels[rows, right : right + 4]
    north, south = _rim(above, 0), _rim(below, 0)
    west, east = _rim(before, 1), _rim(after, 1)
    edges = [edge for edge in (north, south, west, east) if edge is not None]
    if not edges:
        return np.full_like(pixels, pixels.mean())
    north, south = _pair(north, south)
    west, east = _pair(west, east)
    across = None if west is None else west[:, None] * (1 - x) + east[:, None] * x
    down = None if north is None else north[None] * (1 - y) + south[None] * y
    if across is None or down is None:
        fill = down if across is None else across
    else:
        corners = (
            _corner(north, west, 0, 0) * (1 - x) * (1 - y)
            + _corner(north, east, -1, 0) * x * (1 - y)
            + _corner(south, west, 0, -1) * (1 - x) * y
            + _corner(south, east, -1, -1) * x * y
        )
        fill = across + down - corners
    result = pixels.copy()
    low, high = min(e.min() for e in edges), max(e.max() for e in edges)
    result[rows, columns] = np.clip(fill, low, high)
    return result


def _rim(strip: np.ndarray, axis: int) -> np.ndarray | None:
    return strip.mean(axis=axis) if strip.size else None


def _pair(
    one: np.ndarray | None, other: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Opposite edges; where the box touches the film's border, the one that there is for both."""
    return (other if one is None else one), (one if other is None else other)


def _corner(flat: np.ndarray, upright: np.ndarray, i: int, j: int) -> float:
    return (float(flat[i]) + float(upright[j])) / 2


def _cropped(picture: Image.Image, share: float) -> Image.Image:
    dx, dy = int(picture.width * share), int(picture.height * share)
    return picture.crop((dx, dy, picture.width - dx, picture.height - dy))


def _as_jpeg(levels: np.ndarray, quality: float) -> np.ndarray:
    if quality >= 100:
        return levels
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "jpeg", quality=round(quality))
    return np.asarray(Image.open(file))


def _bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


# ------------------------------------------------------------------------------------ occlusion
@dataclass(frozen=True)
class Occlusion:
    """What hiding one place after the other did to the probability of a class.

    label: the class. base: its probability on the whole film.
    drops: float32 (rows, columns), how much lower it was with that cell hidden (negative: higher);
           NaN where time ran out. turned: bool (rows, columns), where the verdict became another.
    """

    label: str
    base: float
    drops: np.ndarray
    turned: np.ndarray

    @property
    def measured(self) -> int:
        return int(np.isfinite(self.drops).sum())

    def heat(self, shape: tuple[int, int]) -> np.ndarray:
        """The drops as a map float32 (H, W) in [0, 1] over the film; 0 where nothing was lost."""
        drops = np.clip(np.nan_to_num(self.drops, nan=0.0), 0, None).astype(np.float32)
        top = float(drops.max())
        cells = Image.fromarray(drops / top if top > 0 else drops)
        return np.clip(np.asarray(cells.resize(shape[::-1], Image.Resampling.BILINEAR)), 0, 1)


def occlude(
    film: Film, reader: Reader, *, cells: int = 7, seconds: float = 12.0
) -> Iterator[Occlusion]:
    """What would change the model's mind? (Occlusion, Zeiler & Fergus 2014.)

    Hides one patch after the other on a grid with `cells` along the film's longer side; a patch is
    half as large again as a cell, so that no fracture lies safe on a seam. Yields the state after
    each patch, scattered over the film first and closing up later, and ends when all are measured
    or the time is over. Yields nothing if the reader gives the whole film no verdict.
    """
    end = time.monotonic() + seconds
    whole = reader(film)
    if whole.label is None:
        return
    base = whole.probabilities[whole.label]
    height, width = film.pixels.shape
    side = max(height, width) / cells
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    drops = np.full((rows, columns), np.nan, np.float32)
    turned = np.zeros((rows, columns), bool)
    for row, column in _scattered(rows, columns):
        if time.monotonic() > end:
            return
        patch = (
            (column - 0.25) / columns, (row - 0.25) / rows, 1.5 / columns, 1.5 / rows,
        )  # fmt: skip
        hidden = reader(replace(film, pixels=painted_over(film.pixels, patch), problems=()))
        if hidden.label is None:  # hidden so well that the rest looks like no limb any more
            drops[row, column], turned[row, column] = base, True
        else:
            drops[row, column] = base - hidden.probabilities[whole.label]
            turned[row, column] = hidden.label != whole.label
        yield Occlusion(whole.label, base, drops.copy(), turned.copy())


def _scattered(rows: int, columns: int) -> list[tuple[int, int]]:
    """All cells of a grid, far apart at first: by the reversed bits of their coordinates."""

    def late(value: int) -> int:
        return int(f"{value:06b}"[::-1], 2)

    cells = [(row, column) for row in range(rows) for column in range(columns)]
    return sorted(cells, key=lambda cell: (late(cell[0] ^ cell[1]), late(cell[0])))


# ------------------------------------------------------------------------------------ sweep
@dataclass(frozen=True)
class Control:
    """A control of the simulator that can be swept: its title, unit and settings' field."""

    title: str
    unit: str
    field: str


CONTROLS = {
    "angle": Control("Projection", "degrees from AP", "projection"),
    "displacement": Control("Displacement", "mm", "displacement"),
    "gap": Control("Gap between the fragments", "mm", "gap"),
    "angulation": Control("Angulation", "degrees", "angulation"),
    "shortening": Control("Shortening", "mm", "shortening"),
    "rotation": Control("Rotation of the far fragment", "degrees", "rotation"),
    "fragments": Control("Fragments", "number", "fragments"),
    "exposure": Control("Exposure", "times the right one", "exposure"),
    "noise": Control("Noise", "times the usual one", "noise"),
    "kvp": Control("Tube voltage", "kV", "kvp"),
}


@dataclass(frozen=True)
class Step:
    """One film of a sweep: the control's value, what the model said, the film, how much of it (a
    share) the true fracture covers."""

    value: float
    prediction: Prediction
    film: Film
    visible: float


def controls_of(settings: Settings) -> tuple[str, ...]:
    """The controls that can be swept from these settings: those with any choice."""
    return tuple(name for name in CONTROLS if len(sweep_values(settings, name, 5)) > 1)


def sweep_values(settings: Settings, control: str, steps: int) -> list[float]:
    """At most `steps` values over a control's range that the other settings allow, rising.

    Exposures are in equal ratios. Values that the rest forbids (ends that override cannot stand
    apart) are left out. Raises ValueError for a control that there is not.
    """
    if control not in CONTROLS:
        raise ValueError(f"no control is called {control!r}; there are {', '.join(CONTROLS)}")
    allowed = getattr(choices(settings.bone, settings.pattern), control)
    low, high = allowed.low, allowed.high
    if control == "angle":  # beyond a quarter turn the views repeat, mirrored
        low, high = -90, 90
    spread = np.geomspace if control == "exposure" else np.linspace
    values = spread(low, high, steps)
    if control == "fragments":
        values = values.round()
    distinct = sorted({round(float(value), 3) for value in values})
    return [value for value in distinct if _with(settings, control, value) is not None]


def _with(settings: Settings, control: str, value: float) -> Settings | None:
    """The settings with one control changed; None if the others forbid it."""
    try:
        return Settings(**vars(settings) | {CONTROLS[control].field: value})
    except SettingsError:
        return None


def sweep(settings: Settings, control: str, reader: Reader, *, steps: int = 9) -> Iterator[Step]:
    """Make the film anew for values over the whole range of one control and have each read.

    All else stays: the same bone, the same break. Raises ValueError as `sweep_values`.
    """
    for value in sweep_values(settings, control, steps):
        made = simulate(Settings(**vars(settings) | {CONTROLS[control].field: value}))
        film = read_film(_bytes(made.pixels))
        yield Step(value, reader(film), film, float(made.mask.mean()))


STYLES = {
    "Simple": ("#1263b3", "o", "-"),
    "Comminuted": ("#b3400a", "s", "-"),
    "No fracture": ("#1b7a4b", "^", "--"),
}


def sweep_figure(
    settings: Settings, control: str, taken: Sequence[Step], now: float | None = None
) -> Figure:
    """The probability of each class along a sweep, with the films above.

    now: the control's value on the film that was swept from; marked by a line. Raises ValueError
    without any step.
    """
    from matplotlib.figure import Figure

    if not taken:
        raise ValueError("there is nothing to plot")
    about = CONTROLS[control]
    values = [step.value for step in taken]
    figure = Figure(figsize=(9, 5.6), dpi=110, layout="constrained", facecolor="white")
    shown = taken if len(taken) <= 9 else taken[:: math.ceil(len(taken) / 9)]
    grid = figure.add_gridspec(2, len(shown), height_ratios=(1, 2.2))
    for column, step in enumerate(shown):
        axis = figure.add_subplot(grid[0, column])
        axis.imshow(workable(step.film).pixels, cmap="gray", vmin=0, vmax=1, aspect="equal")
        axis.set_axis_off()
        axis.set_title(f"{step.value:.3g}", fontsize=10)
    axis = figure.add_subplot(grid[1, :])
    classes = [name for name in STYLES if any(name in s.prediction.probabilities for s in taken)]
    for name in classes:
        color, marker, line = STYLES[name]
        # a refused film has no probability: the line has a gap there
        heights = [step.prediction.probabilities.get(name, np.nan) for step in taken]
        axis.plot(values, heights, color=color, marker=marker, linestyle=line, lw=2, label=name)
    for step in taken:
        if not step.prediction.probabilities:
            axis.annotate("no verdict", (step.value, 0.5), rotation=90, ha="center", fontsize=9)
    if control == "exposure":
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if now is not None:
        axis.axvline(now, color="#50616c", ls=":", lw=1.5, label="your film")
    axis.set_xlabel(f"{about.title} ({about.unit})", fontsize=12)
    axis.set_ylabel("Probability (0 to 1)", fontsize=12)
    axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    # above the plot: to its right it would be out of sight on a phone, where the plot is scrolled
    axis.legend(fontsize=11, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    truth = "no" if settings.label == "No fracture" else f"a {settings.label.lower()}"
    title = f"{settings.bone.capitalize()}, {settings.pattern}: in truth {truth} fracture"
    figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    return figure


# ------------------------------------------------------------------------------------ overlap
@dataclass(frozen=True)
class Overlap:
    """How a heatmap agrees with the true fracture.

    hit: the map's highest point lies on it. iou: overlap with the map above `cut`.
    energy: share of the map's sum that lies on it. area: share of the film that it covers, which
    a map without any idea would reach as energy.
    """

    hit: bool
    iou: float
    energy: float
    area: float
    cut: float


def overlap(heatmap: np.ndarray, mask: np.ndarray, cut: float = 0.5) -> Overlap:
    """Score a map, float32 (H, W) in [0, 1], against a fracture, bool (H, W), as the evaluation
    does; cut: one of `fracture.heldout.CUTS`. Raises ValueError if the mask is empty."""
    from fracture.heldout import CUTS, score_map

    if not mask.any():
        raise ValueError("an intact bone has no fracture to point at")
    scores = score_map(heatmap, mask)
    nearest = int(np.abs(np.array(CUTS) - cut).argmin())
    return Overlap(
        scores.hit > 0.5, scores.iou[nearest], scores.energy, float(mask.mean()), CUTS[nearest]
    )
