"""What a simulated film may be asked to show: the settings, what is possible, and AO/OTA names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fracture.bones import LIMBS, limb_of

__all__ = [
    "BONES",
    "COLLIMATIONS",
    "INCOMPLETE",
    "MARKERS",
    "PATTERNS",
    "PROJECTIONS",
    "Choices",
    "Range",
    "Settings",
    "SettingsError",
    "ao_code",
    "choices",
    "longest_shortening",
    "nearest_settings",
    "patterns_of",
    "random_settings",
    "ray_of",
]

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
INCOMPLETE = ("greenstick", "torus")


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
    """The patterns on offer for a bone.

    The hand's bones have no greenstick or torus here, and a torus needs the broad end of a bone.
    """
    _check_name("bone", bone, BONES)
    missing = INCOMPLETE if bone == "metacarpal" else () if limb_of(bone).distal else ("torus",)
    return tuple(p for p in PATTERNS if p not in missing)


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
    if pattern in INCOMPLETE:
        field = Range(round(least * 0.75), round(most * 0.7), round(usual * 0.7))
        segments = ("shaft",) if pattern == "greenstick" else ("distal",)
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


def ray_of(settings: Settings) -> int:
    """Which metacarpal, 2 to 5: the seed decides. Other bones have no use for it."""
    return 2 + settings.seed % 4 if settings.bone == "metacarpal" else 5


def ao_code(settings: Settings) -> str:
    """AO/OTA 2018 code of the fracture (a child's incomplete one: PCCF); "" for an intact bone.

    Meinberg et al., J Orthop Trauma 2018; 32 (Suppl 1): types of the shaft and of the lower ends
    outside the joint as in the AO Foundation's booklet to it (12A3, 2R3A2, 33A3, 43A3). A torus or
    greenstick fracture is M/2.1 at an end and D/2.1 in the shaft (AO Surgery Reference: 11-M/2.1,
    42t-D/2.1), with r, u, t or f after the segment where one of two bones is meant.
    """
    bone, pattern = settings.bone, settings.pattern
    if pattern == "intact":
        return ""
    distal = settings.segment == "distal"
    if pattern in INCOMPLETE:
        child = {"humerus": ("1", ""), "radius": ("2", "r"), "ulna": ("2", "u"),
                 "femur": ("3", ""), "tibia": ("4", "t"), "fibula": ("4", "f")}
        number, letter = child[bone]
        return f"{number}{'3' if distal else '2'}{letter}-{'M' if distal else 'D'}/2.1"
    if bone == "metacarpal":
        kind = {"Simple": "A", "Comminuted": "C"}[settings.label]
        return f"77.{ray_of(settings)}.2{'B' if pattern == 'wedge' else kind}"
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
