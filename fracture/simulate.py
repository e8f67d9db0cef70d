"""Simulated radiographs of broken long bones, with the truth known to the pixel.

    from fracture.simulate import Settings, simulate

    film = simulate(Settings(bone="tibia", pattern="spiral", displacement=6, seed=3))
    film.pixels   # float32 (512, W) in [0, 1], bone bright
    film.label    # "Simple"
    film.mask     # True where the fracture is

What may be asked for is in `fracture.scenario`. Parallel rays (`fracture.rays`) are sampled
through bones given as formulas (`fracture.bones`), of which one is broken into rigid pieces
(`fracture.breaks`), and the thicknesses they met become a film (`fracture.xray`). The same
settings give the same film on the same machine.

From the command line:

    python -m fracture.simulate --out films --count 20 --seed 1
    python -m fracture.simulate --examples          # makes the folder examples/ anew
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fracture.bones import Limb, Part, interior_points, limb_of, rotation
from fracture.breaks import STAY, Break, Injury, Motion, Piece, break_bone
from fracture.geometry import Box
from fracture.rays import Texture, View, aim, cast, flesh
from fracture.scenario import (
    BONES,
    COLLIMATIONS,
    INCOMPLETE,
    MARKERS,
    PATTERNS,
    PROJECTIONS,
    Choices,
    Range,
    Settings,
    SettingsError,
    ao_code,
    choices,
    longest_shortening,
    nearest_settings,
    patterns_of,
    random_settings,
    ray_of,
)
from fracture.xray import Tone, develop, marker_stamp, noise_image, shadow, speckle

__all__ = [
    "BONES",
    "COLLIMATIONS",
    "MARKERS",
    "PATTERNS",
    "PROJECTIONS",
    "Choices",
    "Range",
    "Settings",
    "SettingsError",
    "SimulatedFilm",
    "ao_code",
    "choices",
    "longest_shortening",
    "nearest_settings",
    "patterns_of",
    "random_settings",
    "simulate",
]

Array = np.ndarray


@dataclass(frozen=True)
class SimulatedFilm:
    """A film and the truth about it.

    pixels:    float32 (H, W) in [0, 1], bone bright.
    label:     "Simple", "Comminuted" or "No fracture".
    pattern:   the pattern's name. ao_code: its AO/OTA 2018 (for a child's bone PCCF) code, "" if
               intact. fragments: pieces of the bone, 1 if it did not come apart.
    mask:      bool (H, W), True on the fracture: the broken surfaces, the space between them and
               the loose fragments, as projected.
    box:       the smallest box around the mask, in pixels; None for an intact bone.
    settings:  what it was made from, with every usual value filled in.
    """

    pixels: Array
    label: str
    pattern: str
    ao_code: str
    fragments: int
    mask: Array
    box: Box | None
    settings: Settings


# ---------------------------------------------------------------------------------------------
# The film


def _seeded(settings: Settings, purpose: int) -> np.random.Generator:
    """Each part of a film has its own random numbers: changing one control leaves the rest."""
    return np.random.default_rng([settings.seed, purpose])


def simulate(settings: Settings) -> SimulatedFilm:
    """Make the film and its truth."""
    place = _seeded(settings, 1)
    ray = ray_of(settings)
    limb = limb_of(settings.bone, ray)
    span = limb.distal if settings.segment == "distal" else limb.shaft
    level = float(place.uniform(*span))
    view = aim(limb, settings, level, place)
    body = _seeded(settings, 2)
    texture = Texture(
        float(body.uniform(0.85, 1.1)),
        float(body.uniform(0.8, 1.2)),
        float(body.uniform(0.4, 1.0)),
        tuple(body.uniform(0, 32, 3).tolist()),
        settings.pattern in INCOMPLETE,
    )
    broken = _break(limb, settings, level, view.scale, ray)
    own = limb.own
    far = _in_limb(broken.far, own)

    thickness = np.zeros(view.shape, np.float32)
    mask = np.zeros(view.shape, bool)
    for part in limb.parts:
        turn, offset = rotation(*part.turn), np.array(part.offset)
        pieces = broken.pieces if part is own else (_WHOLE,)
        for piece in pieces:
            matrix, shift = turn, offset
            if part is own:
                matrix = turn @ piece.motion.matrix
                shift = turn @ piece.motion.offset + offset
            elif part.follows == "far":
                matrix = far.matrix @ turn
                shift = far.matrix @ offset + far.offset
            if part.follows == "trunk":
                joint = np.array(limb.joint)
                to_film = view.trunk @ matrix
                onto = view.trunk @ (shift - joint) + view.matrix @ joint - view.origin
            else:
                to_film, onto = view.matrix @ matrix, view.matrix @ shift - view.origin
            cast(
                part.shape, piece, to_film, onto, view, texture,
                broken if part is own else None, thickness, mask,
            )
    centre = rotation(*own.turn) @ np.array(broken.centre) + np.array(own.offset)
    soft, fat = flesh(limb, view, broken, body, far, centre)
    soft = np.maximum(soft - thickness, 0)
    if settings.pattern == "intact":
        mask[:] = False
    mask = _close(mask, max(1, round((1.0 + 0.5 * settings.gap / view.scale) / view.pixel)))
    pixels = _photograph(thickness, soft, fat, view, settings)
    return SimulatedFilm(
        pixels, settings.label, settings.pattern, ao_code(settings), settings.fragments,
        mask, _box(mask), settings,
    )


_WHOLE = Piece(None, (0.0, 0.0), True, True, STAY)


def _break(limb: Limb, settings: Settings, level: float, scale: float, ray: int) -> Break:
    injury = Injury(
        settings.pattern, settings.fragments, settings.gap / scale,
        settings.displacement / scale, settings.direction, settings.angulation,
        settings.shortening / scale, settings.rotation,
    )
    return break_bone(interior_points(limb.bone, ray), level, injury, _seeded(settings, 3))


def _in_limb(motion: Motion, own: Part) -> Motion:
    """A motion in the bone's frame, expressed in the limb's."""
    turn, offset = rotation(*own.turn), np.array(own.offset)
    pivot = turn @ motion.pivot + offset
    return Motion(turn @ motion.matrix @ turn.T, pivot, turn @ motion.shift)


def _close(mask: Array, reach: int) -> Array:
    """Fill narrow gaps in a mask (grow by `reach` pixels, shrink by a little less)."""
    grown = _grow(mask, reach)
    return ~_grow(~grown, max(reach - 1, 0))


def _grow(mask: Array, reach: int) -> Array:
    if not reach or not mask.any():
        return mask
    for axis in (0, 1):
        total = np.cumsum(np.pad(mask.astype(np.int32), [(reach + 1, reach) if a == axis else
                                                         (0, 0) for a in (0, 1)]), axis=axis)
        n = mask.shape[axis]
        upper, lower = np.arange(n) + 2 * reach + 1, np.arange(n)
        mask = np.take(total, upper, axis) - np.take(total, lower, axis) > 0
    return mask


def _box(mask: Array) -> Box | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return Box(
        float(columns[0]), float(rows[0]),
        float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1),
    )


def _photograph(bone: Array, soft: Array, fat: Array, view: View, settings: Settings) -> Array:
    rng = _seeded(settings, 4)
    look = _seeded(settings, 5)
    pixel = view.pixel * view.scale
    film = bool(look.random() < 0.5)
    signal = shadow(
        bone, soft, fat, kvp=settings.kvp, pixel=pixel, blur_mm=float(look.uniform(0.12, 0.4)),
        gradient=tuple(look.uniform(-0.12, 0.12, 2).tolist()),
    )
    # a phototimer sets the beam to the patient; `exposure` is how far it missed
    density = -np.log(signal)
    tissue = float(np.median(density[(soft + fat > 12) & (bone < 1)]))
    dense = float(np.quantile(density[bone > 2], 0.85))
    tone = Tone(
        tissue, max(dense, tissue + 0.3), film, float(look.uniform(0.85, 1.15)),
        float(look.choice([0.0, 0.3, 0.6]) if film else look.uniform(0.4, 1.0)),
        float(look.uniform(0.0, 0.04) if film else look.uniform(0.02, 0.13)),
    )
    signal = _collimate(signal, view, settings, look)
    signal = _mark(signal, settings, look)
    quanta = 2600 * settings.exposure * math.exp(tissue) / max(settings.noise, 0.02) ** 2
    signal = speckle(signal * settings.exposure, quanta / settings.exposure, rng)
    pixels = develop(signal, tone, pixel)
    if not film:  # the streaks of a plate reader
        pixels = pixels + 0.003 * noise_image(view.shape, rng, (view.shape[0], 2))
    if settings.collimation == "shutter":
        pixels = pixels * _frame(view.shape, look, look.uniform(0.015, 0.06, 4), 1.0)
    return np.clip(pixels, 0, 1).astype(np.float32)


def _frame(shape: tuple[int, int], rng: np.random.Generator, shares: Array, soft: float) -> Array:
    """1 inside a slightly turned frame, 0 outside; shares: (left, right, top, bottom)."""
    height, width = shape
    slope = float(rng.normal(0, 0.008))
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None]
    left = columns - shares[0] * width + slope * (rows - height / 2)
    right = (1 - shares[1]) * width - columns - slope * (rows - height / 2)
    top = rows - shares[2] * height - slope * (columns - width / 2)
    bottom = (1 - shares[3]) * height - rows + slope * (columns - width / 2)
    inside = np.minimum(np.minimum(left, right), np.minimum(top, bottom))
    return np.clip(inside * (1 / soft) + 0.5, 0, 1)


def _collimate(signal: Array, view: View, settings: Settings, rng: np.random.Generator) -> Array:
    shares = rng.uniform(-0.03, 0.004, 4)
    for side in rng.permutation(4)[: int(rng.integers(1, 3))].tolist():
        shares[side] = float(rng.uniform(0.02, 0.06))
    if settings.collimation != "edges":
        return signal
    open_ = _frame(view.shape, rng, shares, 2.0 / (view.pixel * view.scale))
    return signal * (0.004 + 0.996 * open_)


def _mark(signal: Array, settings: Settings, rng: np.random.Generator) -> Array:
    height, width = signal.shape
    tall = max(9, round(height * float(rng.uniform(0.035, 0.06))))
    style = int(rng.integers(3))
    turn = float(rng.normal(0, 6))
    corner = rng.uniform(0.03, 0.14, 2)
    order = rng.permutation(4)
    if settings.marker == "none":
        return signal
    stamp = marker_stamp(settings.marker, tall, style)
    picture = Image.fromarray(stamp).rotate(turn, Image.Resampling.BILINEAR, expand=True)
    stamp = np.clip(np.asarray(picture), 0, 1)
    h, w = stamp.shape
    best = (-1.0, 0, 0)
    for k in order.tolist():  # the first corner that is clear of the patient, or the clearest
        top = round(corner[1] * height) if k < 2 else round((1 - corner[1]) * height) - h
        left = round(corner[0] * width) if k % 2 else round((1 - corner[0]) * width) - w
        top, left = min(max(top, 0), height - h), min(max(left, 0), width - w)
        best = max(best, (float(signal[top : top + h, left : left + w].mean()), top, left))
        if best[0] > 0.4:
            break
    _, top, left = best
    signal = signal.copy()
    signal[top : top + h, left : left + w] *= 1 - 0.985 * stamp
    return signal


# ---------------------------------------------------------------------------------------------
# Command line

EXAMPLE_FOLDER = Path(__file__).resolve().parents[1] / "examples"
EXAMPLES: dict[str, Settings] = {
    name: Settings(**what, size=576)
    for name, what in {
        "tibia-spiral": {"bone": "tibia", "pattern": "spiral", "segment": "shaft",
                         "displacement": 6, "seed": 1},
        "femur-wedge": {"bone": "femur", "pattern": "wedge", "gap": 5, "displacement": 9,
                        "field": 300, "marker": "L", "seed": 2},
        "wrist-transverse": {"bone": "radius", "pattern": "transverse", "segment": "distal",
                             "displacement": 4, "angulation": 12, "field": 170, "seed": 3},
        "humerus-multifragmentary": {"bone": "humerus", "pattern": "multifragmentary",
                                     "segment": "shaft", "fragments": 7, "gap": 5,
                                     "displacement": 8, "field": 320, "seed": 4},
        "forearm-greenstick": {"bone": "radius", "pattern": "greenstick", "marker": "L",
                               "angulation": 14, "seed": 5},
        "tibia-multifragmentary": {"bone": "tibia", "pattern": "multifragmentary",
                                   "segment": "shaft", "fragments": 8, "gap": 4,
                                   "collimation": "edges", "seed": 6},
        "femur-oblique": {"bone": "femur", "pattern": "oblique", "segment": "shaft",
                          "projection": "lateral", "displacement": 10, "direction": 90,
                          "seed": 7},
        "hand-oblique": {"bone": "metacarpal", "pattern": "oblique", "projection": 20.0,
                         "displacement": 2.5, "seed": 8},
        "tibia-segmental": {"bone": "tibia", "pattern": "segmental", "displacement": 8,
                            "collimation": "shutter", "seed": 9},
        "forearm-intact": {"bone": "radius", "pattern": "intact", "field": 280, "seed": 11},
    }.items()
}

_COLUMNS = (
    "file", "label", "pattern", "ao_code", "fragments", "bone", "projection",
    "box_left", "box_top", "box_width", "box_height", "width", "height", "seed",
)


def _row(name: str, film: SimulatedFilm) -> dict[str, Any]:
    height, width = film.pixels.shape
    box = film.box
    corners = ("left", "top", "width", "height")
    settings = film.settings
    projection = settings.projection
    return {
        "file": name,
        "label": film.label,
        "pattern": film.pattern,
        "ao_code": film.ao_code,
        "fragments": film.fragments,
        "bone": settings.bone,
        "projection": projection if isinstance(projection, str) else f"{projection:.0f}",
        **{f"box_{c}": "" if box is None else int(getattr(box, c)) for c in corners},
        "width": width,
        "height": height,
        "seed": settings.seed,
    }


def write_films(folder: Path, films: Iterable[tuple[str, Settings]]) -> list[dict[str, Any]]:
    """Simulate and save films as PNG with a labels.csv of their truth; returns its rows.

    films: (file name without ending, settings).
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, settings in films:
        film = simulate(settings)
        picture = Image.fromarray((film.pixels * 255 + 0.5).astype(np.uint8))
        picture.save(folder / f"{name}.png", optimize=True)
        rows.append(_row(f"{name}.png", film))
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows


def write_examples(folder: Path) -> None:
    """Make the example films, their labels.csv and a README.md that says what they are."""
    rows = write_films(folder, EXAMPLES.items())
    lines = [
        "# Example films",
        "",
        "**These films are simulated.** They show no patient: `python -m fracture.simulate",
        "--examples` makes them from formulas, and this file with them. What is true about each",
        "is therefore known; `labels.csv` says it in full, with the box around the fracture in",
        "pixels.",
        "",
        "| file | class | pattern | AO/OTA code | fragments | bone | view |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        code = row["ao_code"] or "none"
        lines.append(
            f"| [{row['file']}]({row['file']}) | {row['label']} | {row['pattern']} | {code} | "
            f"{row['fragments']} | {row['bone']} | {row['projection']} |"
        )
    lines += [
        "",
        "AO/OTA codes follow the 2018 compendium; greenstick and torus fractures, which are",
        "children's, carry the code of the AO paediatric classification.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Write simulated films and a labels.csv; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fracture.simulate",
        description="Simulated radiographs with known fractures.",
    )
    parser.add_argument("--out", type=Path, help="folder for the films and their labels.csv")
    parser.add_argument("--count", type=int, default=10, help="how many films (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same films")
    parser.add_argument("--size", type=int, default=512, help="height in pixels (default 512)")
    parser.add_argument(
        "--examples", action="store_true", help="make the project's example films anew"
    )
    options = parser.parse_args(arguments)
    if not options.examples and options.out is None:
        parser.error("say where to put the films: --out FOLDER")
    try:
        if options.examples:
            folder = options.out or EXAMPLE_FOLDER
            write_examples(folder)
            print(f"{len(EXAMPLES)} films in {folder}")
            return 0
        if options.count < 1:
            raise SettingsError("The count must be at least 1.")
        rng = np.random.default_rng(options.seed)
        drawn = (
            (f"film-{index:04d}", random_settings(rng, size=options.size))
            for index in range(options.count)
        )
        rows = write_films(options.out, drawn)
    except (SettingsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(rows)} films in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
