"""Simulated radiographs of broken long bones, with the truth known to the pixel.

    from fracture.simulate import Settings, simulate

    film = simulate(Settings(bone="tibia", pattern="spiral", displacement=6, seed=3))
    film.pixels   # float32 (512, W) in [0, 1], bone bright
    film.label    # "Simple"
    film.mask     # True where the fracture is

Parallel rays are sampled through bones given as formulas (`fracture.bones`), of which one is
broken into rigid pieces (`fracture.breaks`), and the thicknesses they met become a film
(`fracture.xray`). The same settings give the same film on the same machine.

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
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fracture.bones import (
    LIMBS,
    Grid,
    Limb,
    Part,
    Points,
    Shape,
    SoftTissue,
    interior_points,
    limb_of,
    rotation,
    table_index,
)
from fracture.breaks import STAY, Break, Injury, Motion, Piece, break_bone, noise, spongy_block
from fracture.geometry import Box
from fracture.xray import Tone, blur, develop, marker_stamp, noise_image, shadow, speckle

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

BONES = LIMBS
PATTERNS = {
    "intact": "No fracture",
    "transverse": "Simple",
    "oblique": "Simple",
    "spiral": "Simple",
    "greenstick": "Simple",
    "torus": "Simple",
    "wedge": "Comminuted",
    "segmental": "Comminuted",
    "multifragmentary": "Comminuted",
}
PROJECTIONS = {"AP": 0.0, "oblique": 45.0, "lateral": 90.0}
COLLIMATIONS = ("none", "edges", "shutter")
MARKERS = ("none", "L", "R")

# usual outer diameter of the shaft in mm: fragments shift by about as much
_DIAMETER = {
    "humerus": 22.0, "radius": 15.0, "ulna": 13.0, "femur": 27.0, "tibia": 25.0, "fibula": 12.0,
    "metacarpal": 8.5,
}
_INCOMPLETE = ("greenstick", "torus")
_CHILD = 0.62  # size of the child whose bones bend before they break


class SettingsError(ValueError):
    """Settings that no bone and no X-ray tube can follow; the message is one plain sentence."""


@dataclass(frozen=True)
class Range:
    """The values a control may take, ends included, and the usual one."""

    low: float
    high: float
    usual: float

    def __contains__(self, value: float) -> bool:
        return self.low - 1e-6 <= value <= self.high + 1e-6

    def clip(self, value: float) -> float:
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Choices:
    """What may be chosen for one bone and pattern; ranges of which low == high are not offered.

    segments: where the bone may break, "shaft" or "distal" (empty for an intact bone).
    Lengths in mm, angles in degrees. `shortening` is the most that any displacement allows: see
    `longest_shortening` for a given one.
    """

    bone: str
    pattern: str
    segments: tuple[str, ...]
    fragments: Range
    gap: Range
    displacement: Range
    angulation: Range
    shortening: Range
    rotation: Range
    field: Range
    kvp: Range = Range(40, 110, 60)
    exposure: Range = Range(0.25, 4, 1)
    noise: Range = Range(0, 4, 1)
    size: Range = Range(128, 1024, 512)
    angle: Range = Range(-180, 180, 0)
    projections: tuple[str, ...] = tuple(PROJECTIONS)
    collimations: tuple[str, ...] = COLLIMATIONS
    markers: tuple[str, ...] = MARKERS


def patterns_of(bone: str) -> tuple[str, ...]:
    """The patterns on offer for a bone; the hand's bones have no greenstick or torus here."""
    _check_name("bone", bone, BONES)
    return tuple(p for p in PATTERNS if not (bone == "metacarpal" and p in _INCOMPLETE))


def choices(bone: str, pattern: str) -> Choices:
    """What a page may offer for this bone and pattern. Raises SettingsError for other names."""
    _check_name("bone", bone, BONES)
    _check_name("pattern", pattern, tuple(PATTERNS))
    if pattern not in patterns_of(bone):
        raise SettingsError(f"A {pattern} fracture of the {bone} is not on offer.")
    limb = limb_of(bone)
    d = _DIAMETER[bone]
    none = Range(0, 0, 0)
    least, usual, most = limb.field
    segments: tuple[str, ...] = ("shaft", "distal") if limb.distal else ("shaft",)
    field = Range(least, most, usual)
    if pattern == "intact":
        return Choices(bone, pattern, (), Range(1, 1, 1), none, none, none, none, none, field)
    if pattern in _INCOMPLETE:
        field = Range(round(least * 0.75), round(most * 0.7), round(usual * 0.7))
        segments = ("shaft",) if pattern == "greenstick" or not limb.distal else ("distal",)
        bend = Range(4, 25, 12) if pattern == "greenstick" else Range(0, 8, 3)
        return Choices(bone, pattern, segments, Range(1, 1, 1), none, none, bend, none, none, field)
    fragments = {
        "wedge": Range(3, 5, 3),
        "segmental": Range(3, 3, 3),
        "multifragmentary": Range(5, 14, 7),
    }.get(pattern, Range(2, 2, 2))
    if pattern in ("segmental", "spiral", "wedge"):
        segments = ("shaft",)
    split = PATTERNS[pattern] == "Comminuted"
    gap = Range(0, _half(0.5 * d), _half(0.1 * d if split else 0.06 * d))
    displacement = Range(0, _half((1.1 if limb.partner else 1.5) * d), _half(0.25 * d))
    angulation = Range(0, 25 if limb.partner else 45, 7)
    turn = Range(-30, 30, 0) if limb.partner else Range(-60, 60, 0)
    longest = _longest(bone, pattern, displacement.high)
    return Choices(
        bone, pattern, segments, fragments, gap, displacement, angulation,
        Range(0, longest, 0), turn, field,
    )


def _half(value: float) -> float:
    return round(2 * value) / 2


def _longest(bone: str, pattern: str, displacement: float) -> float:
    limb, d = limb_of(bone), _DIAMETER[bone]
    most = 0.5 * d if limb.partner else 1.6 * d  # an intact neighbour splints the limb
    if PATTERNS[pattern] == "Comminuted":
        longest = 0.6 * d + displacement
    elif pattern == "transverse":  # the ends must pass each other before they can override
        longest = 1.6 * d if displacement >= d else 0.15 * d
    else:  # the ends slide along the slope of the break
        longest = 0.15 * d + 1.3 * displacement
    return _half(min(most, longest))


def longest_shortening(bone: str, pattern: str, displacement: float) -> float:
    """The most shortening in mm that fragments displaced by so many mm allow."""
    if choices(bone, pattern).shortening.high == 0:
        return 0.0
    return _longest(bone, pattern, displacement)


def _check_name(what: str, value: Any, names: Iterable[str]) -> None:
    if value not in names:
        raise SettingsError(f"The {what} must be one of {', '.join(names)}; got {value!r}.")


@dataclass(frozen=True)
class Settings:
    """One film. Fields left at None take the usual value for the bone and pattern.

    bone, pattern: see BONES, PATTERNS. segment: "shaft" or "distal".
    fragments:     pieces of the bone, the two main ones included; 1 if it did not come apart.
    gap:           mm between the fragments. displacement: mm sideways. shortening: mm of override.
    direction:     towards where the far fragment moved and leans, degrees around the limb:
                   0 the outer side, 90 the front.
    angulation:    degrees between the main fragments. rotation: degrees about the shaft.
    projection:    "AP", "oblique", "lateral" or an angle in degrees about the limb (0 is AP).
    kvp:           tube voltage, kV. exposure: 1 is right, 2 twice as much. noise: 1 is usual.
    field:         height of the film, mm at the bone. size: height of the film, pixels.
    collimation:   "none", "edges" (unexposed strips), "shutter" (black frame).
    marker:        "none", "L", "R"; a left limb is the mirror picture of a right one.
    seed:          bone shape details, break surfaces, framing and noise.

    Raises SettingsError where a value is impossible, alone or with the others.
    """

    bone: str = "tibia"
    pattern: str = "transverse"
    segment: str | None = None
    fragments: int | None = None
    gap: float | None = None
    displacement: float | None = None
    direction: float = 0.0
    angulation: float | None = None
    shortening: float | None = None
    rotation: float | None = None
    projection: str | float = "AP"
    kvp: float | None = None
    exposure: float = 1.0
    noise: float = 1.0
    field: float | None = None
    collimation: str = "none"
    marker: str = "R"
    size: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        offer = choices(self.bone, self.pattern)
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in _NUMBERS and value is not None:
                value = _number(f.name, value)
            object.__setattr__(self, f.name, value)
        usual = {
            name: getattr(offer, name).usual
            for name in ("gap", "displacement", "angulation", "shortening", "rotation", "field")
        }
        if self.shortening:  # ends that override are not apart
            usual["gap"] = 0.0
        usual |= {
            "segment": offer.segments[0] if offer.segments else None,
            "fragments": int(offer.fragments.usual),
            "kvp": limb_of(self.bone).beam,
        }
        for name, value in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._check(offer)

    def _check(self, offer: Choices) -> None:
        _check_name("collimation", self.collimation, COLLIMATIONS)
        _check_name("marker", self.marker, MARKERS)
        for name, unit, plain in _RANGED:
            value, allowed = getattr(self, name), getattr(offer, name)
            if value in allowed:
                continue
            broken = "an intact" if self.pattern == "intact" else f"a {self.pattern} fracture of a"
            if self.pattern == "oblique":
                broken = "an oblique fracture of a"
            if allowed.low == allowed.high:
                raise SettingsError(
                    f"The {plain} of {broken} {self.bone} is always {allowed.low:g}{unit}; "
                    f"got {value:g}."
                )
            raise SettingsError(
                f"The {plain} of {broken} {self.bone} must be between {allowed.low:g} and "
                f"{allowed.high:g}{unit}; got {value:g}."
            )
        if self.fragments != int(self.fragments):
            raise SettingsError(f"The number of fragments must be whole; got {self.fragments:g}.")
        object.__setattr__(self, "fragments", int(self.fragments))
        if self.size != int(self.size):
            raise SettingsError(f"The size must be a whole number of pixels; got {self.size:g}.")
        object.__setattr__(self, "size", int(self.size))
        if self.seed != int(self.seed) or self.seed < 0:
            raise SettingsError(f"The seed must be a whole number from 0; got {self.seed:g}.")
        object.__setattr__(self, "seed", int(self.seed))
        if self.segment is not None and self.segment not in offer.segments:
            where = " or ".join(offer.segments) or "nowhere"
            raise SettingsError(
                f"This {self.bone} ({self.pattern}) can break at: {where}; got {self.segment!r}."
            )
        if isinstance(self.projection, str):
            _check_name("projection", self.projection, PROJECTIONS)
        elif _number("projection", self.projection) not in offer.angle:
            raise SettingsError(
                f"The projection must be within 180 degrees of AP; got {self.projection:g}."
            )
        longest = longest_shortening(self.bone, self.pattern, self.displacement)
        if self.shortening > longest + 1e-6:
            raise SettingsError(
                f"Fragments displaced by {self.displacement:g} mm cannot override by "
                f"{self.shortening:g} mm: at most {longest:g} mm."
            )
        if self.shortening > 0 and self.gap > 0 and PATTERNS[self.pattern] == "Simple":
            raise SettingsError(
                "The two ends cannot override and stand apart at once: "
                "set the gap or the shortening to 0."
            )

    @property
    def angle(self) -> float:
        """The projection in degrees about the limb, 0 for AP."""
        if isinstance(self.projection, str):
            return PROJECTIONS[self.projection]
        return float(self.projection)

    @property
    def label(self) -> str:
        return PATTERNS[self.pattern]


_NUMBERS = (
    "fragments", "gap", "displacement", "direction", "angulation", "shortening", "rotation",
    "kvp", "exposure", "noise", "field", "size", "seed",
)
_RANGED = (
    ("fragments", "", "number of fragments"),
    ("gap", " mm", "gap"),
    ("displacement", " mm", "displacement"),
    ("angulation", " degrees", "angulation"),
    ("shortening", " mm", "shortening"),
    ("rotation", " degrees", "rotation"),
    ("kvp", " kV", "tube voltage"),
    ("exposure", " times the right one", "exposure"),
    ("noise", " times the usual one", "noise"),
    ("field", " mm", "height of the film"),
    ("size", " pixels", "size"),
)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise SettingsError(f"The {name} must be a number; got {value!r}.") from None
    if not math.isfinite(number):
        raise SettingsError(f"The {name} must be a finite number; got {value!r}.")
    return number


def nearest_settings(**wishes: Any) -> Settings:
    """The possible settings nearest to the wishes, for sliders that outlive a change of pattern.

    Numbers are moved into their ranges and a segment that is not on offer is dropped. Names
    (bone, pattern, projection, collimation, marker) must be right: SettingsError otherwise.
    """
    bone, pattern = wishes.get("bone", "tibia"), wishes.get("pattern", "transverse")
    offer = choices(bone, pattern)
    result = dict(wishes)
    for name, _, _ in _RANGED:
        if result.get(name) is not None:
            result[name] = getattr(offer, name).clip(_number(name, result[name]))
    if result.get("segment") not in offer.segments:
        result.pop("segment", None)
    if result.get("fragments") is not None:
        result["fragments"] = round(result["fragments"])
    moved = result.get("displacement")
    moved = offer.displacement.usual if moved is None else moved
    if result.get("shortening"):
        longest = longest_shortening(bone, pattern, moved)
        result["shortening"] = min(result["shortening"], longest)
        if result["shortening"] > 0 and PATTERNS[pattern] == "Simple":
            result["gap"] = 0.0
    return Settings(**result)


def random_settings(
    rng: np.random.Generator,
    *,
    bone: str | None = None,
    pattern: str | None = None,
    label: str | None = None,
    size: int = 512,
) -> Settings:
    """Settings drawn at random: any bone, and the three classes equally often, unless given.

    label: "Simple", "Comminuted" or "No fracture". Raises SettingsError where the wishes do not
    go together.
    """
    bone = str(rng.choice(BONES)) if bone is None else bone
    on_offer = patterns_of(bone)
    if pattern is None:
        label = str(rng.choice(sorted(set(PATTERNS.values())))) if label is None else label
        _check_name("label", label, sorted(set(PATTERNS.values())))
        pattern = str(rng.choice([p for p in on_offer if PATTERNS[p] == label]))
    elif label is not None and PATTERNS.get(pattern) != label:
        raise SettingsError(f"The pattern {pattern!r} is not of the class {label!r}.")
    offer = choices(bone, pattern)

    def draw(allowed: Range, share: float) -> float:
        """Mostly small values, seldom more than `share` of the range."""
        return allowed.low + (allowed.high - allowed.low) * share * float(rng.beta(1.2, 2.2))

    displacement = draw(offer.displacement, 0.8)
    shortening = 0.0
    if offer.shortening.high and rng.random() < 0.3:
        shortening = rng.uniform(0, longest_shortening(bone, pattern, displacement))
    gap = 0.0 if shortening and PATTERNS[pattern] == "Simple" else draw(offer.gap, 0.7)
    fragments = int(rng.integers(offer.fragments.low, offer.fragments.high + 1))
    beam = limb_of(bone).beam
    return Settings(
        bone=bone,
        pattern=pattern,
        segment=str(rng.choice(offer.segments)) if offer.segments else None,
        fragments=fragments,
        gap=gap,
        displacement=displacement,
        direction=float(rng.uniform(-180, 180)),
        angulation=draw(offer.angulation, 0.7),
        shortening=shortening,
        rotation=offer.rotation.clip(float(rng.normal(0, 8))) if offer.rotation.high else 0.0,
        projection=float(rng.choice([0, 90, 45, -45], p=[0.45, 0.3, 0.15, 0.1]) + rng.normal(0, 5)),
        kvp=offer.kvp.clip(float(rng.normal(beam, 5))),
        exposure=float(np.exp(rng.normal(0, 0.22))),
        noise=float(rng.uniform(0.5, 1.8)),
        field=float(rng.uniform(offer.field.low, offer.field.high)),
        collimation=str(rng.choice(COLLIMATIONS, p=[0.5, 0.3, 0.2])),
        marker=str(rng.choice(MARKERS, p=[0.4, 0.3, 0.3])),
        size=size,
        seed=int(rng.integers(0, 2**31)),
    )


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
# The view: where the film lies


@dataclass(frozen=True)
class _View:
    """Film coordinates (right, down, away) = matrix @ limb point - origin, in bone mm.

    trunk: the matrix of the body, which is always seen from the front.
    pixel: mm per pixel, in the limb's own (unscaled) mm. scale: real mm per limb mm.
    """

    matrix: Array
    trunk: Array
    origin: Array
    shape: tuple[int, int]
    pixel: float
    scale: float
    side: float
    angle: float
    tilt: float


def _aim(limb: Limb, settings: Settings, level: float, rng: np.random.Generator) -> _View:
    child = settings.pattern in _INCOMPLETE
    scale = (_CHILD if child else 1.0) * float(rng.uniform(0.93, 1.07))
    aspect = limb.aspect * float(rng.uniform(0.85, 1.4))
    height = settings.size
    width = max(64, round(height * aspect))
    pixel = settings.field / height / scale
    side = {"L": 1.0, "R": -1.0, "none": float(rng.choice([-1, 1]))}[settings.marker]
    tilt = float(np.clip(rng.normal(0, 3.5), -9, 9))
    a = math.radians(settings.angle)
    across = np.array([side * math.cos(a), side * math.sin(a), 0.0])
    away = np.array([-math.sin(a), math.cos(a), 0.0])
    flat = np.stack([across, (0.0, 0.0, 1.0), away])
    front = np.array([[side, 0, 0], [0, 0, 1.0], [0, 1.0, 0]])
    c, s = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    lean = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    matrix = lean @ flat
    # the injury lies near the middle of the film, seldom in it
    look = np.array([0.0, 0.0, level])
    own = limb.own
    look = rotation(*own.turn) @ look + np.array(own.offset)
    if limb.bone != "metacarpal":
        look[:2] = _flesh_middle(limb.flesh[0], float(look[2]))
    else:
        look[0] *= 0.35
    film = np.array([width, height]) * pixel
    shift = rng.uniform(-0.5, 0.5, 2) * (0.16, 0.3) * film
    origin = matrix @ look
    origin[:2] += shift - film / 2
    return _View(
        matrix, lean @ front, origin, (height, width), pixel, scale, side, a, math.radians(tilt)
    )


def _flesh_middle(flesh: SoftTissue, z: float) -> tuple[float, float]:
    rows = np.array(flesh.rows)
    return float(np.interp(z, rows[:, 0], rows[:, 1])), float(np.interp(z, rows[:, 0], rows[:, 2]))


# ---------------------------------------------------------------------------------------------
# Rays through bone


@dataclass(frozen=True)
class _Texture:
    """This patient's bone: factors on cortex and spongy bone, how coarse the latter looks (0 to 1).

    shift: where in the noise blocks it lies. child: True if it has growth plates.
    """

    cortex: float
    cancellous: float
    grain: float
    shift: tuple[float, float, float]
    child: bool


def _cast(
    shape: Shape, piece: Piece, matrix: Array, offset: Array, view: _View, texture: _Texture,
    broken: Break | None, thickness: Array, mask: Array,
) -> None:
    """Add the bone mm that each ray meets in one piece, and mark where it shows the fracture.

    matrix, offset: bone point -> film coordinates in mm.
    """
    height, width = view.shape
    pixel = view.pixel
    # along the rays less is needed than across, and for the neighbours less than for the bone;
    # below a fraction of a millimetre nothing is gained
    step = max((1.5 if broken else 2.1) * pixel, 0.3)
    low, high = shape.low.copy(), shape.high.copy()
    if not piece.above:
        low[2] = max(low[2], piece.band[0])
    if not piece.below:
        high[2] = min(high[2], piece.band[1])
    centre, reach = matrix @ ((low + high) / 2) + offset, np.abs(matrix) @ ((high - low) / 2 + 1)
    first, last = centre - reach, centre + reach
    c0, c1 = max(0, math.floor(first[0] / pixel)), min(width, math.ceil(last[0] / pixel))
    r0, r1 = max(0, math.floor(first[1] / pixel)), min(height, math.ceil(last[1] / pixel))
    if c0 >= c1 or r0 >= r1:
        return

    def grid(rows: tuple[int, int], columns: tuple[int, int], steps: tuple[int, int], every: int
             ) -> Grid:
        half = every / 2
        return Grid(
            (np.arange(*rows, every, dtype=np.float32) + half) * pixel,
            (np.arange(*columns, every, dtype=np.float32) + half) * pixel,
            (np.arange(*steps, every, dtype=np.float32) + half) * step + float(first[2]),
            matrix, offset,
        )

    # a coarse look first: most of the box around a bone is empty
    every = min(max(round(2.0 / pixel), 2), 8)
    steps = math.ceil((last[2] - first[2]) / step)
    coarse = grid((r0, r1), (c0, c1), (0, steps), every)
    slack = 0.65 * every * math.hypot(pixel, pixel, step) + 0.5
    if broken and broken.buckle:
        slack += broken.buckle.amount * 2 * broken.radius
    found = shape.depth(coarse, coarse.shape, low[2], high[2]) > -slack
    found &= (coarse.z > low[2] - slack) & (coarse.z < high[2] + slack)
    if piece.margin is not None:
        where = np.flatnonzero(found)
        at = (axis.ravel()[where] for axis in (coarse.x, coarse.y, coarse.z))
        found.ravel()[where] = piece.margin(*at) > -slack
    for band in np.flatnonzero(found.any(axis=(1, 2))).tolist():
        columns = np.flatnonzero(found[band].any(axis=1)).tolist()
        depths = np.flatnonzero(found[band].any(axis=0)).tolist()
        rows = r0 + band * every, min(r0 + (band + 1) * every, r1)
        cols = c0 + columns[0] * every, min(c0 + (columns[-1] + 1) * every, c1)
        away = depths[0] * every, min((depths[-1] + 1) * every, steps)
        heights = coarse.z[band][found[band]]
        fine = grid(rows, cols, away, 1)
        met = _density(
            shape, piece, fine, float(heights.min()) - slack, float(heights.max()) + slack,
            step, texture, broken,
        )
        if met is None:
            continue
        rays, density, near = met
        rays //= away[1] - away[0]
        size = rows[1] - rows[0], cols[1] - cols[0]
        block = slice(*rows), slice(*cols)
        total = np.bincount(rays, density, minlength=size[0] * size[1]).reshape(size)
        thickness[block] += total.astype(np.float32) * (step * view.scale)
        if near is not None:
            mask[block] |= np.bincount(rays, near, minlength=size[0] * size[1]).reshape(size) > 0


def _density(
    shape: Shape, piece: Piece, grid: Grid, top: float, bottom: float, step: float,
    texture: _Texture, broken: Break | None,
) -> tuple[Array, Array, Array | None] | None:
    """What lies at points of which top <= z <= bottom: None, or for those that hold bone, (n,):

    their index among all points, their density (1 is cortical bone), and whether they show the
    fracture.
    """
    buckle = broken.buckle if broken else None
    near_buckle = buckle and top - 3 * buckle.width < buckle.z < bottom + 3 * buckle.width
    points = Points(*buckle.undo(grid.x, grid.y, grid.z), grid.z) if near_buckle else grid
    depth = shape.depth(points, grid.shape, top, bottom)
    index = np.flatnonzero(depth > -0.5 * step)
    if not len(index):
        return None
    depth = depth.ravel()[index]
    x, y, z = (axis.ravel()[index] for axis in (points.x, points.y, points.z))
    sharp = 1 / step
    level = table_index(z, float(shape.low[2]), len(shape.cortex))
    cortex = shape.cortex[level] * texture.cortex
    spongy = shape.cancellous[level] * texture.cancellous
    wave = noise(x, y, 0.4 * z, texture.shift)
    depth += 0.12 * wave
    shell = np.clip(depth * sharp + 0.5, 0, 1)
    core = np.clip((depth - cortex * (1 + 0.12 * wave)) * (0.8 * sharp) + 0.5, 0, 1)
    if float(spongy.max()) > 0.02:
        plates = noise(x, y, 0.5 * z, texture.shift[::-1], spongy_block())
        spongy *= 1 + texture.grain * (plates - 1)
        spongy *= np.maximum(1 + 0.3 * wave, 0.3)
    density = shell - core * (1 - spongy)
    if texture.child:
        for plate in shape.plates:
            if top - 4 < plate < bottom + 4:
                away = (z - plate - 0.8 * wave) * 0.8
                density *= 1 - 0.92 * np.exp(-away * away)
    near = None
    if piece.margin is not None:
        if bottom > piece.band[0] and top < piece.band[1]:
            margin = piece.margin(x, y, z)
            density *= np.clip(margin * sharp + 0.5, 0, 1)
            if broken and broken.seams:
                near = (density > 0.05) & ((margin < 1.5) | piece.loose)
        elif not (piece.above if bottom <= piece.band[0] else piece.below):
            return None
    if near_buckle and broken and not broken.seams:
        near = (density > 0.05) & (np.abs(z - buckle.z) < 1.6 * buckle.width)
    return index, density, near


# ---------------------------------------------------------------------------------------------
# Flesh


def _flesh(limb: Limb, view: _View, fracture: Break, texture_rng: np.random.Generator,
           limb_far: Motion, level: Array) -> tuple[Array, Array]:
    """Thickness of soft tissue and of fat in real mm, both float32 (H, W), bone not taken out."""
    height, width = view.shape
    right = ((np.arange(width, dtype=np.float32) + 0.5) * view.pixel + view.origin[0])[None]
    down = ((np.arange(height, dtype=np.float32) + 0.5) * view.pixel + view.origin[1])[:, None]
    c, s = math.cos(view.tilt), math.sin(view.tilt)
    u, z = c * right + s * down, c * down - s * right  # undo the tilt
    limb_ca, limb_sa = view.side * math.cos(view.angle), view.side * math.sin(view.angle)
    joint = limb.joint
    trunk_u = limb_ca * joint[0] + limb_sa * joint[1] - view.side * joint[0]
    # the limb bends with the bone, over a few centimetres
    beyond = z - float(level[2])
    soft = 14.0
    bend = np.where(beyond > 60, beyond, soft * np.log1p(np.exp(np.minimum(beyond, 60) / soft)))
    lean = limb_far.matrix[:, 2]
    lean_u = limb_ca * float(lean[0]) + limb_sa * float(lean[1])
    moved = limb_far.matrix @ level + limb_far.offset - level
    moved_u = limb_ca * float(moved[0]) + limb_sa * float(moved[1])
    still = u
    u = u - lean_u * bend - moved_u / (1 + np.exp(-np.clip(beyond / soft, -30, 30)))
    swelling = float(texture_rng.uniform(0.02, 0.09)) if len(fracture.pieces) > 1 else 0.0
    swell = 1 + swelling * np.exp(-((beyond / 45) ** 2))
    plump = float(texture_rng.uniform(0.88, 1.12))
    outer = np.zeros(view.shape, np.float32)
    inner = np.zeros(view.shape, np.float32)
    for tube in limb.flesh:
        rows = np.array(tube.rows, np.float32)
        grid = np.arange(rows[0, 0], rows[-1, 0], 1.0, dtype=np.float32)
        table = np.stack([np.interp(grid, rows[:, 0], col) for col in rows[:, 1:].T])
        kernel = np.hanning(25)
        kernel /= kernel.sum()
        table = np.stack(
            [np.convolve(np.pad(row, 12, mode="edge"), kernel, "valid") for row in table]
        ).astype(np.float32)
        i = np.clip(z - rows[0, 0], 0, len(grid) - 1).astype(np.int32)
        cx, cy, w, d = (column[i] for column in table)
        if tube.trunk:
            ca, sa, across, middle = view.side, 0.0, still, trunk_u
        else:
            ca, sa, across, middle = limb_ca, limb_sa, u, 0.0
            w, d = w * (plump * swell), d * (plump * swell)
        if tube.tip:
            end = np.clip((rows[-1, 0] - z) / (1.2 * rows[-1, 3]), 1e-3, 1)
            w = w * np.sqrt(end * (2 - end))
            d = d * np.sqrt(end * (2 - end))
        half = np.sqrt((w * ca) ** 2 + (d * sa) ** 2)
        deep = 2 * w * d / half
        there = z <= rows[-1, 0] if tube.tip else np.ones_like(z, bool)
        offset = across - middle - (ca * cx + sa * cy)
        for target, share in ((outer, 1.0), (inner, 1 - tube.skin * plump)):
            chord = deep * share * np.sqrt(np.maximum(1 - (offset / (half * share)) ** 2, 0))
            np.maximum(target, chord * there, out=target)
    streak = noise_image(view.shape, texture_rng, (55 / view.pixel, 6 / view.pixel))
    cloud = noise_image(view.shape, texture_rng, (16 / view.pixel, 10 / view.pixel))
    outer, inner = blur(outer, 0.8 / view.pixel), blur(inner, 1.2 / view.pixel)
    muscle = inner * (0.93 + 0.035 * streak + 0.02 * cloud)
    return muscle * view.scale, np.maximum(outer - muscle, 0) * view.scale


# ---------------------------------------------------------------------------------------------
# The film


def _seeded(settings: Settings, purpose: int) -> np.random.Generator:
    """Each part of a film has its own random numbers: changing one control leaves the rest."""
    return np.random.default_rng([settings.seed, purpose])


def _ray(settings: Settings) -> int:
    """Which metacarpal, 2 to 5: the seed decides. Other bones have no use for it."""
    return 2 + settings.seed % 4 if settings.bone == "metacarpal" else 5


def simulate(settings: Settings) -> SimulatedFilm:
    """Make the film and its truth."""
    place = _seeded(settings, 1)
    ray = _ray(settings)
    limb = limb_of(settings.bone, ray)
    span = limb.distal if settings.segment == "distal" else limb.shaft
    level = float(place.uniform(*span))
    view = _aim(limb, settings, level, place)
    body = _seeded(settings, 2)
    texture = _Texture(
        float(body.uniform(0.85, 1.1)),
        float(body.uniform(0.8, 1.2)),
        float(body.uniform(0.4, 1.0)),
        tuple(body.uniform(0, 32, 3).tolist()),
        settings.pattern in _INCOMPLETE,
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
            _cast(
                part.shape, piece, to_film, onto, view, texture,
                broken if part is own else None, thickness, mask,
            )
    centre = rotation(*own.turn) @ np.array(broken.centre) + np.array(own.offset)
    soft, fat = _flesh(limb, view, broken, body, far, centre)
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


def _photograph(bone: Array, soft: Array, fat: Array, view: _View, settings: Settings) -> Array:
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
    flesh = float(np.median(density[(soft + fat > 12) & (bone < 1)]))
    dense = float(np.quantile(density[bone > 2], 0.85))
    tone = Tone(
        flesh, max(dense, flesh + 0.3), film, float(look.uniform(0.85, 1.15)),
        float(look.choice([0.0, 0.3, 0.6]) if film else look.uniform(0.4, 1.0)),
        float(look.uniform(0.0, 0.04) if film else look.uniform(0.02, 0.13)),
    )
    signal = _collimate(signal, view, settings, look)
    signal = _mark(signal, settings, look)
    quanta = 2600 * settings.exposure * math.exp(flesh) / max(settings.noise, 0.02) ** 2
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


def _collimate(signal: Array, view: _View, settings: Settings, rng: np.random.Generator) -> Array:
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
# Names


def ao_code(settings: Settings) -> str:
    """AO/OTA 2018 code of the fracture (a child's incomplete one: PCCF); "" for an intact bone."""
    bone, pattern = settings.bone, settings.pattern
    if pattern == "intact":
        return ""
    distal = settings.segment == "distal"
    if pattern in _INCOMPLETE:
        child = {"humerus": ("1", ""), "radius": ("2", "r"), "ulna": ("2", "u"),
                 "femur": ("3", ""), "tibia": ("4", "t"), "fibula": ("4", "f")}
        number, letter = child[bone]
        return f"{number}{'3' if distal else '2'}{letter}-{'M' if distal else 'D'}/2.1"
    if bone == "metacarpal":
        kind = {"Simple": "A", "Comminuted": "C"}[settings.label]
        return f"77.{_ray(settings)}.2{'B' if pattern == 'wedge' else kind}"
    name = {"humerus": "1", "radius": "2R", "ulna": "2U", "femur": "3", "tibia": "4",
            "fibula": "4F"}[bone]
    if distal:
        types = {"tibia": ("A1", "A3"), "ulna": ("A2", "A3")}.get(bone, ("A2", "A3"))
        return f"{name}3{types[settings.label == 'Comminuted']}"
    if bone == "fibula":
        return f"{name}2{'A' if settings.label == 'Simple' else 'B'}"
    detail = {"spiral": "A1", "oblique": "A2", "transverse": "A3", "segmental": "C2",
              "multifragmentary": "C3"}
    if pattern == "wedge":
        return f"{name}2{'B2' if settings.fragments == 3 else 'B3'}"
    return f"{name}2{detail[pattern]}"


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
