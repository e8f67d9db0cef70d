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
    Limb,
    Part,
    Shape,
    SoftTissue,
    interior_points,
    limb_of,
    rotation,
    table_index,
)
from fracture.breaks import STAY, Break, Injury, Motion, Piece, break_bone, noise
from fracture.geometry import Box
from fracture.xray import blur, develop, expose, marker_stamp, noise_image

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

    pixel: mm per pixel, in the limb's own (unscaled) mm. scale: real mm per limb mm.
    """

    matrix: Array
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
    aspect = limb.aspect * float(rng.uniform(0.85, 1.2))
    height = settings.size
    width = max(64, round(height * aspect))
    pixel = settings.field / height / scale
    side = {"L": 1.0, "R": -1.0, "none": float(rng.choice([-1, 1]))}[settings.marker]
    tilt = float(np.clip(rng.normal(0, 3.5), -9, 9))
    a = math.radians(settings.angle)
    across = np.array([side * math.cos(a), side * math.sin(a), 0.0])
    away = np.array([-math.sin(a), math.cos(a), 0.0])
    flat = np.stack([across, (0.0, 0.0, 1.0), away])
    c, s = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    matrix = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ flat
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
    return _View(matrix, origin, (height, width), pixel, scale, side, a, math.radians(tilt))


def _flesh_middle(flesh: SoftTissue, z: float) -> tuple[float, float]:
    rows = np.array(flesh.rows)
    return float(np.interp(z, rows[:, 0], rows[:, 1])), float(np.interp(z, rows[:, 0], rows[:, 2]))


# ---------------------------------------------------------------------------------------------
# Rays through bone


@dataclass(frozen=True)
class _Texture:
    """How dense this patient's bone is: factors on cortex and spongy bone."""

    cortex: float
    cancellous: float
    shift: tuple[float, float, float]


def _cast(
    shape: Shape, piece: Piece, matrix: Array, offset: Array, view: _View, texture: _Texture,
    broken: Break | None, thickness: Array, mask: Array,
) -> None:
    """Add the bone mm that each ray meets in one piece, and mark where it shows the fracture.

    matrix, offset: bone point -> film coordinates in mm.
    """
    height, width = view.shape
    pixel = view.pixel
    step = 1.5 * pixel
    slab = max(24 * pixel, 4.0)
    inverse = matrix.T
    swell = 1 + (broken.buckle.amount if broken and broken.buckle else 0)
    low_z, high_z = shape.low[2], shape.high[2]
    if not piece.above:
        low_z = max(low_z, piece.band[0])
    if not piece.below:
        high_z = min(high_z, piece.band[1])
    for index in range(max(0, math.ceil((high_z - low_z) / slab))):
        top, bottom = low_z + index * slab, min(low_z + (index + 1) * slab, high_z)
        extent = shape.extent(top, bottom)
        if extent is None:
            continue
        low, high = extent
        if swell > 1:
            middle, reach = (low + high)[:2] / 2, (high - low)[:2] / 2 * (2 * swell - 1)
            low[:2], high[:2] = middle - reach, middle + reach
        corners = np.array(
            [[(low, high)[i][0], (low, high)[j][1], (low, high)[k][2]]
             for i in (0, 1) for j in (0, 1) for k in (0, 1)]
        )
        corners = corners @ matrix.T + offset
        first, last = corners.min(axis=0), corners.max(axis=0)
        c0, c1 = max(0, int(first[0] / pixel) - 1), min(width, int(last[0] / pixel) + 2)
        r0, r1 = max(0, int(first[1] / pixel) - 1), min(height, int(last[1] / pixel) + 2)
        if c0 >= c1 or r0 >= r1:
            continue
        count = max(1, math.ceil((last[2] - first[2]) / step))
        right = ((np.arange(c0, c1, dtype=np.float32) + 0.5) * pixel - offset[0])[None, :, None]
        down = ((np.arange(r0, r1, dtype=np.float32) + 0.5) * pixel - offset[1])[:, None, None]
        away = (first[2] + (np.arange(count, dtype=np.float32) + 0.5) * step - offset[2])
        away = away[None, None, :]
        x, y, z = (
            _combine(row, (right, down, away)) for row in inverse.astype(np.float32).tolist()
        )
        found = _density(shape, piece, x, y, z, top, bottom, step, texture, broken)
        if found is None:
            continue
        rays, density, near = found
        rays //= count
        size = (r1 - r0) * (c1 - c0)
        met = np.bincount(rays, density, minlength=size).reshape(r1 - r0, c1 - c0)
        thickness[r0:r1, c0:c1] += met.astype(np.float32) * (step * view.scale)
        if near is not None:
            marked = np.bincount(rays, near, minlength=size).reshape(r1 - r0, c1 - c0)
            mask[r0:r1, c0:c1] |= marked > 0


def _combine(weights: list[float], axes: tuple[Array, Array, Array]) -> Array:
    """Weighted sum that leaves out axes without weight, so that planes stay planes."""
    terms = [w * a for w, a in zip(weights, axes, strict=True) if abs(w) > 1e-7]
    return sum(terms[1:], terms[0]).astype(np.float32)


def _density(
    shape: Shape, piece: Piece, x: Array, y: Array, z: Array, top: float, bottom: float,
    step: float, texture: _Texture, broken: Break | None,
) -> tuple[Array, Array, Array | None] | None:
    """What lies at points within a slab: None, or for the points that hold bone, each (n,):

    their index among all points, their density (1 is cortical bone), and whether they show the
    fracture.
    """
    buckle = broken.buckle if broken else None
    near_buckle = buckle and abs((top + bottom) / 2 - buckle.z) < 3 * buckle.width + bottom - top
    if near_buckle:
        x, y = buckle.undo(x, y, z)
    depth = shape.depth(x, y, z, top, bottom)
    if depth is None:
        return None
    held = depth > -0.5 * step
    held &= (z >= top) & (z < bottom)
    index = np.flatnonzero(held)
    if not len(index):
        return None
    depth = depth.ravel()[index]
    x, y, z = (np.broadcast_to(axis, held.shape)[held] for axis in (x, y, z))
    sharp = 1 / step
    level = table_index(z, float(shape.low[2]), len(shape.cortex))
    cortex = shape.cortex[level] * texture.cortex
    spongy = shape.cancellous[level] * texture.cancellous
    wave = noise(x, y, 0.4 * z, texture.shift)
    shell = np.clip(depth * sharp + 0.5, 0, 1)
    core = np.clip((depth - cortex * (1 + 0.12 * wave)) * (0.8 * sharp) + 0.5, 0, 1)
    if float(spongy.max()) > 0.02:
        fine = noise(1.7 * x, 1.7 * y, 0.8 * z, texture.shift[::-1])
        spongy *= np.maximum(1 + 0.9 * fine + 0.35 * wave, 0.1)
    density = shell - core * (1 - spongy)
    near = None
    if piece.margin is not None and bottom > piece.band[0] and top < piece.band[1]:
        margin = piece.margin(x, y, z)
        density *= np.clip(margin * sharp + 0.5, 0, 1)
        if broken and broken.seams:
            near = (density > 0.05) & ((margin < 1.5) | piece.loose)
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
    ca, sa = view.side * math.cos(view.angle), view.side * math.sin(view.angle)
    # the limb bends with the bone, over a few centimetres
    beyond = z - float(level[2])
    soft = 14.0
    bend = np.where(beyond > 60, beyond, soft * np.log1p(np.exp(np.minimum(beyond, 60) / soft)))
    lean = limb_far.matrix[:, 2]
    lean_u = ca * float(lean[0]) + sa * float(lean[1])
    moved = limb_far.matrix @ level + limb_far.offset - level
    moved_u = ca * float(moved[0]) + sa * float(moved[1])
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
        w, d = w * (plump * swell), d * (plump * swell)
        half = np.sqrt((w * ca) ** 2 + (d * sa) ** 2)
        deep = 2 * w * d / half
        there = (z >= rows[0, 0]) & (z <= rows[-1, 0])
        offset = u - (ca * cx + sa * cy)
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


def simulate(settings: Settings) -> SimulatedFilm:
    """Make the film and its truth."""
    place = _seeded(settings, 1)
    ray = int(place.integers(2, 6)) if settings.bone == "metacarpal" else 5
    limb = limb_of(settings.bone, ray)
    span = limb.distal if settings.segment == "distal" else limb.shaft
    level = float(place.uniform(*span))
    view = _aim(limb, settings, level, place)
    body = _seeded(settings, 2)
    texture = _Texture(
        float(body.uniform(0.85, 1.1)),
        float(body.uniform(0.8, 1.2)),
        tuple(body.uniform(0, 32, 3).tolist()),
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
            _cast(
                part.shape, piece, view.matrix @ matrix, view.matrix @ shift - view.origin, view,
                texture, broken if part is own else None, thickness, mask,
            )
    centre = rotation(*own.turn) @ np.array(broken.centre) + np.array(own.offset)
    soft, fat = _flesh(limb, view, broken, body, far, centre)
    soft = np.maximum(soft - thickness, 0)
    if settings.pattern == "intact":
        mask[:] = False
    mask = _close(mask, max(1, round((1.0 + 0.5 * settings.gap / view.scale) / view.pixel)))
    pixels = _photograph(thickness, soft, fat, view, settings)
    return SimulatedFilm(
        pixels, settings.label, settings.pattern, _ao_code(settings, ray), settings.fragments,
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
    real_pixel = view.pixel * view.scale
    gamma = float(look.uniform(1.5, 2.0))
    crisp = float(look.choice([0.0, 0.5, 0.9]))
    quanta = 9000 * settings.exposure * (real_pixel / 0.6) ** 0.5 / max(settings.noise, 0.02) ** 2
    signal = expose(
        bone, soft, fat, kvp=settings.kvp, pixel=real_pixel, quanta=quanta,
        blur_mm=float(look.uniform(0.12, 0.3)), gradient=tuple(look.uniform(-0.12, 0.12, 2)),
        rng=rng,
    )
    # a phototimer sets the film to the patient; `exposure` is how far it missed
    flesh = np.log(signal[(soft + fat > 8) & (bone < 1)])
    dense = np.log(signal[bone > 2])
    middle = 0.5 * float(np.median(flesh)) + 0.5 * float(np.quantile(dense, 0.35))
    signal = _collimate(signal, view, settings, look)
    signal = _mark(signal, settings, look)
    pixels = develop(
        signal * settings.exposure, middle=math.exp(middle), gamma=gamma, crisp=crisp,
        pixel=real_pixel,
    )
    fog = float(look.uniform(0.0, 0.06))
    pixels = fog + (1 - fog) * pixels
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
    shares = rng.uniform(-0.02, 0.05, 4)
    if settings.collimation != "edges":
        return signal
    shares[int(rng.integers(4))] = 0.04
    open_ = _frame(view.shape, rng, np.maximum(shares, -0.5), 2.0 / (view.pixel * view.scale))
    return signal * (0.004 + 0.996 * open_)


def _mark(signal: Array, settings: Settings, rng: np.random.Generator) -> Array:
    height, width = signal.shape
    tall = max(9, round(height * float(rng.uniform(0.035, 0.06))))
    style = int(rng.integers(3))
    turn = float(rng.normal(0, 6))
    corner = rng.uniform(0.03, 0.14, 2)
    jitter = rng.permutation(4)
    if settings.marker == "none":
        return signal
    stamp = marker_stamp(settings.marker, tall, style)
    picture = Image.fromarray(stamp).rotate(turn, Image.Resampling.BILINEAR, expand=True)
    stamp = np.clip(np.asarray(picture), 0, 1)
    h, w = stamp.shape
    best = None
    for k in jitter.tolist():  # the corner with the least patient in it
        top = round(corner[1] * height) if k < 2 else round((1 - corner[1]) * height) - h
        left = round(corner[0] * width) if k % 2 else round((1 - corner[0]) * width) - w
        top, left = min(max(top, 0), height - h), min(max(left, 0), width - w)
        level = float(signal[top : top + h, left : left + w].mean())
        if best is None or level > best[0] + 0.02:
            best = (level, top, left)
    _, top, left = best
    signal = signal.copy()
    signal[top : top + h, left : left + w] *= 1 - 0.985 * stamp
    return signal


# ---------------------------------------------------------------------------------------------
# Names


def _ao_code(settings: Settings, ray: int) -> str:
    """AO/OTA 2018 code; PCCF for the children's incomplete fractures."""
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
        return f"77.{ray}.2{'B' if pattern == 'wedge' else kind}"
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

EXAMPLES: dict[str, Settings] = {
    "tibia-spiral": Settings(bone="tibia", pattern="spiral", displacement=5, seed=1),
    "femur-wedge": Settings(bone="femur", pattern="wedge", displacement=8, seed=2),
    "radius-transverse": Settings(bone="radius", pattern="transverse", segment="distal", seed=3),
    "humerus-multifragmentary": Settings(bone="humerus", pattern="multifragmentary", seed=4),
    "radius-greenstick": Settings(bone="radius", pattern="greenstick", seed=5),
    "tibia-multifragmentary": Settings(bone="tibia", pattern="multifragmentary", seed=6),
    "femur-oblique": Settings(bone="femur", pattern="oblique", projection="lateral", seed=7),
    "metacarpal-oblique": Settings(bone="metacarpal", pattern="oblique", seed=8),
    "tibia-segmental": Settings(bone="tibia", pattern="segmental", seed=9),
    "ulna-transverse": Settings(bone="ulna", pattern="transverse", seed=10),
    "radius-intact": Settings(bone="radius", pattern="intact", field=190, seed=11),
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
            folder = options.out or Path(__file__).resolve().parents[1] / "examples"
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
