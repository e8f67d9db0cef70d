"""Bones and limbs as formulas: where bone is, how thick its cortex, what surrounds it.

Every shape is the union of a few primitives that know their depth: how far a point lies inside
(positive) or outside (negative) of the surface, in mm. Limbs are adult right limbs in the
anatomical position, seen from the front: x points to the outer (lateral) side, y to the front,
z down the limb. A film of the left side is the mirror picture.

Lengths and widths are rounded textbook averages of adults; the outlines were set by eye.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Protocol

import numpy as np

__all__ = [
    "LIMBS",
    "Limb",
    "Part",
    "Shape",
    "SoftTissue",
    "interior_points",
    "limb_of",
    "rotation",
    "table_index",
]

Array = np.ndarray
STEP = 0.5  # mm between the entries of every table along z
_MELT = 3.0  # mm over which two primitives of one bone flow into each other


class Primitive(Protocol):
    low: Array  # (3,) mm: corner of a box that holds the primitive
    high: Array  # (3,) mm

    def depth(self, x: Array, y: Array, z: Array) -> Array: ...


def _ellipse_depth(px: Array, py: Array, inverse_a: Array, inverse_b: Array) -> Array:
    """Depth inside an ellipse of semi-axes 1/inverse_a, 1/inverse_b: exact to first order."""
    px = px * inverse_a
    py = py * inverse_b
    reach = np.sqrt(px * px + py * py) + 1e-6
    px *= inverse_a
    py *= inverse_b
    slope = np.sqrt(px * px + py * py) + 1e-6
    return (1 - reach) * reach / slope


class Ball:
    """An ellipsoid, turned by `turn` degrees about the y axis (in the plane of an AP film)."""

    def __init__(
        self,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        turn: float = 0.0,
        tip: float = 0.0,
    ) -> None:
        self.centre = centre
        self.inverse = tuple(1 / r for r in radii)
        self.matrix = rotation(y=turn) @ rotation(x=tip)
        reach = np.sqrt(((self.matrix * np.array(radii)) ** 2).sum(axis=1))
        self.low = np.array(centre) - reach
        self.high = np.array(centre) + reach
        self.turned = bool(turn or tip)

    def depth(self, x: Array, y: Array, z: Array) -> Array:
        x, y, z = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        if self.turned:
            m = self.matrix.tolist()
            x, y, z = (m[0][i] * x + m[1][i] * y + m[2][i] * z for i in range(3))
        x, y, z = x * self.inverse[0], y * self.inverse[1], z * self.inverse[2]
        reach = np.sqrt(x * x + y * y + z * z) + 1e-6
        x, y, z = x * self.inverse[0], y * self.inverse[1], z * self.inverse[2]
        return (1 - reach) * reach / (np.sqrt(x * x + y * y + z * z) + 1e-6)


class Rod:
    """A round rod between two points, of radius `r0` at the start and `r1` at the end."""

    def __init__(
        self,
        start: tuple[float, float, float],
        end: tuple[float, float, float],
        r0: float,
        r1: float,
    ) -> None:
        a, b = np.array(start, float), np.array(end, float)
        self.start = start
        self.axis = tuple((b - a).tolist())
        self.length2 = float(((b - a) ** 2).sum())
        self.r0, self.r1 = r0, r1
        self.low = np.minimum(a - r0, b - r1)
        self.high = np.maximum(a + r0, b + r1)

    def depth(self, x: Array, y: Array, z: Array) -> Array:
        x, y, z = x - self.start[0], y - self.start[1], z - self.start[2]
        ax, ay, az = self.axis
        t = np.clip((x * ax + y * ay + z * az) * (1 / self.length2), 0, 1)
        x, y, z = x - t * ax, y - t * ay, z - t * az
        return self.r0 + t * (self.r1 - self.r0) - np.sqrt(x * x + y * y + z * z)


class Sweep:
    """A shaft: an ellipse that changes along z.

    rows: (z, x, y, a, b) with the centre and the semi-axes across and front to back, in mm.
    smooth: mm over which the straight lines between rows are rounded.
    crest: how far the section leaves the ellipse for a triangle with its edge in front (0 to 0.2).
    """

    def __init__(
        self, rows: list[tuple[float, ...]], smooth: float = 5.0, crest: float = 0.0
    ) -> None:
        table = _smooth_table(rows, smooth)
        self.top, self.bottom = rows[0][0], rows[-1][0]
        self.cx, self.cy, a, b = table
        self.inverse_a, self.inverse_b = 1 / a, 1 / b
        self.crest = crest
        grow = 1 + crest
        self.low = np.array(
            [(self.cx - a * grow).min(), (self.cy - b * grow).min(), self.top], float
        )
        self.high = np.array(
            [(self.cx + a * grow).max(), (self.cy + b * grow).max(), self.bottom], float
        )

    def depth(self, x: Array, y: Array, z: Array) -> Array:
        i = table_index(z, self.top, len(self.cx))
        px, py = x - self.cx[i], y - self.cy[i]
        inverse_a, inverse_b = self.inverse_a[i], self.inverse_b[i]
        if self.crest:
            # cos 3(angle from the front), from the sine and cosine of the angle itself
            r2 = px * px + py * py + 1e-3
            triangle = py * (py * py - 3 * px * px) / (r2 * np.sqrt(r2))
            grow = 1 - self.crest * triangle
            px, py = px * grow, py * grow
        depth = _ellipse_depth(px, py, inverse_a, inverse_b)
        return np.minimum(depth, np.minimum(z - self.top, self.bottom - z))


class Hollow:
    """Takes a primitive away from the union instead of adding it (a fossa, a notch)."""

    def __init__(self, primitive: Primitive) -> None:
        self.primitive = primitive
        self.low, self.high = primitive.low, primitive.high

    def depth(self, x: Array, y: Array, z: Array) -> Array:
        return -self.primitive.depth(x, y, z)


def _smooth_table(rows: list[tuple[float, ...]], smooth: float) -> Array:
    """Columns of `rows` after the first, every STEP mm from the first to the last z; float32."""
    points = np.array(rows, float)
    z = np.arange(points[0, 0], points[-1, 0] + STEP, STEP)
    table = np.stack([np.interp(z, points[:, 0], column) for column in points[:, 1:].T])
    half = math.ceil(2 * smooth / STEP)
    if half:
        kernel = np.exp(-0.5 * (np.arange(-half, half + 1) * STEP / smooth) ** 2)
        kernel /= kernel.sum()
        padded = np.pad(table, ((0, 0), (half, half)), mode="edge")
        table = np.stack([np.convolve(row, kernel, mode="valid") for row in padded])
    return table.astype(np.float32)


def table_index(z: Array, top: float, count: int) -> Array:
    """Index of the entry for height z in a table that starts at `top`; ends are held."""
    return np.clip((z - top) * (1 / STEP) + 0.5, 0, count - 1).astype(np.int32)


def rotation(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Array:
    """Rotation matrix, float64 (3, 3): about x, then y, then z, in degrees."""
    matrix = np.eye(3)
    for axis, degrees in enumerate((x, y, z)):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        matrix = turn @ matrix
    return matrix


class Shape:
    """One bone.

    primitives: what it is made of; hollows are taken away last.
    cortex:     rows (z, thickness of the cortex in mm).
    cancellous: rows (z, density of the spongy bone inside, as a fraction of cortical bone).
    """

    def __init__(
        self,
        name: str,
        primitives: list[Primitive],
        cortex: list[tuple[float, float]],
        cancellous: list[tuple[float, float]],
        melt: float = _MELT,
    ) -> None:
        self.name = name
        self.solids = [p for p in primitives if not isinstance(p, Hollow)]
        self.hollows = [p for p in primitives if isinstance(p, Hollow)]
        self.melt = melt
        self.low = np.min([p.low for p in self.solids], axis=0) - 1
        self.high = np.max([p.high for p in self.solids], axis=0) + 1
        z = np.arange(self.low[2], self.high[2] + STEP, STEP)
        self.cortex = np.interp(z, *np.array(cortex, float).T).astype(np.float32)
        self.cancellous = np.interp(z, *np.array(cancellous, float).T).astype(np.float32)

    def depth(self, x: Array, y: Array, z: Array, top: float, bottom: float) -> Array | None:
        """Depth inside the bone in mm at points of which top <= z <= bottom; None where empty."""
        depth: Array | None = None
        for solid in self.solids:
            if solid.low[2] - self.melt > bottom or solid.high[2] + self.melt < top:
                continue
            other = solid.depth(x, y, z)
            if depth is None:
                depth = other
            else:
                near = np.maximum(1 - np.abs(depth - other) * (1 / self.melt), 0)
                depth = np.maximum(depth, other) + near * near * (self.melt / 4)
        if depth is None:
            return None
        for hollow in self.hollows:
            if hollow.low[2] <= bottom and hollow.high[2] >= top:
                depth = np.minimum(depth, hollow.depth(x, y, z))
        return depth

    def extent(self, top: float, bottom: float) -> tuple[Array, Array] | None:
        """Corners of a box that holds the bone between two heights; None where there is none."""
        near = [
            p for p in self.solids if p.low[2] - 1 <= bottom and p.high[2] + 1 >= top
        ]
        boxes = []
        for p in near:
            low, high = p.low - 1, p.high + 1
            if isinstance(p, Sweep):  # far narrower here than its whole box
                i, j = table_index(np.array([top, bottom]), p.top, len(p.cx))
                cut = slice(i, j + 1)
                a = (1 + p.crest) / p.inverse_a[cut]
                b = (1 + p.crest) / p.inverse_b[cut]
                low = np.array([(p.cx[cut] - a).min() - 1, (p.cy[cut] - b).min() - 1, low[2]])
                high = np.array([(p.cx[cut] + a).max() + 1, (p.cy[cut] + b).max() + 1, high[2]])
            boxes.append((low, high))
        if not boxes:
            return None
        low = np.min([b[0] for b in boxes], axis=0)
        high = np.max([b[1] for b in boxes], axis=0)
        low[2], high[2] = max(low[2], top), min(high[2], bottom)
        return low, high


@dataclass(frozen=True)
class Part:
    """A bone placed in its limb.

    offset, turn: limb point = turn @ bone point + offset (mm, (3,) and (3, 3)).
    follows:      "near" stays with the limb above a fracture, "far" goes with the limb below it,
                  "own" is the bone that may be broken.
    """

    shape: Shape
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    follows: str = "near"


@dataclass(frozen=True)
class SoftTissue:
    """A tube of flesh: rows (z, x, y, half width, half depth), all in mm.

    skin: thickness of the fatty layer under the skin, as a fraction of the half width.
    """

    rows: tuple[tuple[float, float, float, float, float], ...]
    skin: float = 0.12


@dataclass(frozen=True)
class Limb:
    """What a film of one bone shows.

    own:     the bone in question. `parts` holds it and its neighbours, `flesh` the tubes.
    length:  of the bone, mm.
    shaft:   (from, to) heights between which the shaft may break, mm.
    distal:  (from, to) heights of the lower metaphysis, mm; None where not offered.
    field:   (least, usual, most) height of the film in mm.
    aspect:  width of the film by its height.
    partner: True where a second long bone splints this one.
    beam:    usual tube voltage in kV.
    """

    bone: str
    parts: tuple[Part, ...]
    flesh: tuple[SoftTissue, ...]
    length: float
    shaft: tuple[float, float]
    distal: tuple[float, float] | None
    field: tuple[float, float, float]
    aspect: float
    partner: bool
    beam: float

    @property
    def own(self) -> Part:
        return next(part for part in self.parts if part.follows == "own")


# ---------------------------------------------------------------------------------------------
# Upper limb


def _humerus() -> Shape:
    return Shape(
        "humerus",
        [
            Ball((-12, -3, 23), (23, 22, 23)),
            Ball((11, 2, 28), (13, 15, 19), turn=-12),
            Sweep(
                [
                    (22, -2, 0, 21, 19),
                    (48, -1, 0, 17, 16),
                    (70, 1, 0, 13.5, 13.5),
                    (105, 2, 0, 12, 12),
                    (140, 1.5, 0, 11.5, 11.5),
                    (200, 0, 0, 10.5, 10.5),
                    (245, -1, 1, 11.5, 9.5),
                    (268, -2, 1, 16, 8.5),
                    (288, -2, 2, 24, 8),
                    (300, -2, 3, 28, 8),
                    (306, -2, 4, 26, 8),
                ],
                smooth=6,
            ),
            Ball((13, 8, 308), (10.5, 11, 11)),
            Ball((1, 5, 307), (7, 9.5, 9.5)),
            Ball((-11, 5, 311), (9, 13, 13), turn=-8),
            Ball((-28, -1, 297), (10, 7, 11), turn=28),
            Ball((24, 1, 296), (6.5, 6, 11), turn=-20),
            Hollow(Ball((-3, -8, 293), (11, 8, 9))),
            Hollow(Ball((-3, 12, 293), (9, 6, 8))),
        ],
        cortex=[(0, 0.9), (45, 1.1), (75, 2.6), (130, 3.9), (210, 4.0), (255, 2.8), (285, 1.3),
                (325, 0.9)],
        cancellous=[(0, 0.24), (40, 0.17), (75, 0.06), (110, 0.0), (235, 0.0), (265, 0.09),
                    (295, 0.24), (325, 0.28)],
    )


def _scapula() -> Shape:
    return Shape(
        "scapula",
        [
            Ball((-43, -6, 26), (7, 12, 19), turn=6),
            Rod((-50, -8, 30), (-95, -22, 150), 8, 4),
            Ball((-88, -24, 70), (42, 3, 88), turn=8),
            Rod((-105, -34, 30), (-28, -26, -10), 4.5, 7),
            Ball((-8, -16, -17), (24, 13, 5.5), turn=8),
            Rod((-50, 4, 8), (-34, 22, 12), 7, 6),
        ],
        cortex=[(-60, 0.9), (160, 0.9)],
        cancellous=[(-60, 0.12), (160, 0.1)],
    )


def _clavicle() -> Shape:
    return Shape(
        "clavicle",
        [Rod((-180, 10, -8), (-110, 12, -30), 7, 6), Rod((-110, 12, -30), (-16, -8, -19), 6, 7)],
        cortex=[(-60, 1.6), (40, 1.6)],
        cancellous=[(-60, 0.14), (40, 0.14)],
    )


def _radius() -> Shape:
    return Shape(
        "radius",
        [
            Sweep(
                [
                    (0, 13, 3, 10.5, 10.5),
                    (9, 13, 3, 11, 11),
                    (15, 13, 3, 8, 8),
                    (28, 13, 2, 7.2, 7.2),
                    (50, 12.5, 1, 7.6, 7.2),
                    (80, 14.5, 1, 7.8, 6.8),
                    (120, 16.5, 1, 7.8, 6.4),
                    (165, 15, 1, 8, 6.4),
                    (190, 13, 1, 8.8, 7),
                    (210, 10.5, 1, 11.5, 8.5),
                    (226, 8.5, 1, 15, 10.5),
                    (236, 8, 1, 16.5, 11.5),
                    (241, 8, 1, 16, 11),
                ],
                smooth=3.5,
            ),
            Ball((7, 4, 31), (5.5, 6, 10)),
            Rod((17, 1, 228), (20.5, 1, 245), 6.5, 3.2),
            Hollow(Ball((5, 1, 247), (14, 12, 8.5), turn=-10)),
        ],
        cortex=[(0, 0.9), (20, 1.6), (60, 2.6), (140, 2.9), (185, 2.2), (215, 0.9), (245, 0.7)],
        cancellous=[(0, 0.3), (25, 0.15), (50, 0.02), (170, 0.0), (195, 0.06), (218, 0.2),
                    (245, 0.3)],
        melt=4,
    )


def _ulna() -> Shape:
    return Shape(
        "ulna",
        [
            Ball((-8, -14, -6), (11, 9, 19)),
            Ball((-8, 7, 19), (9, 9, 7)),
            Sweep(
                [
                    (-4, -8, -13, 10, 9),
                    (14, -8, -8, 10, 13),
                    (32, -8, -4, 9.5, 12),
                    (55, -8, -3, 8, 9.5),
                    (90, -9, -3, 7.2, 7.6),
                    (150, -12, -3, 6.2, 6.6),
                    (195, -14.5, -3, 5.4, 5.6),
                    (218, -16, -3, 5.4, 5.4),
                    (232, -17, -3, 6.4, 6.4),
                    (238, -17, -3, 6.6, 6.6),
                ],
                smooth=4,
            ),
            Ball((-17, -3, 236), (8.4, 8.4, 6.5)),
            Rod((-22, -6, 236), (-23.5, -7, 247), 3.2, 1.9),
            Hollow(Ball((-8, 5, 2), (14, 13, 12.5))),
        ],
        cortex=[(-25, 1.2), (30, 2.0), (70, 2.7), (150, 2.6), (205, 1.7), (230, 0.9), (250, 0.8)],
        cancellous=[(-25, 0.28), (30, 0.2), (60, 0.03), (180, 0.0), (205, 0.05), (228, 0.2),
                    (250, 0.26)],
        melt=4,
    )


def _carpus() -> list[Shape]:
    """The eight wrist bones; the wrist joint is at z = 243 as in the forearm."""
    balls = {
        "scaphoid": Ball((15, 1, 254), (6.5, 7, 12), turn=32),
        "lunate": Ball((1.5, 1, 250), (8, 9, 7.5), turn=-8),
        "triquetrum": Ball((-12.5, -2, 256), (7, 7, 8), turn=32),
        "pisiform": Ball((-13, 10, 260), (5.5, 5, 6)),
        "trapezium": Ball((22.5, 4, 268), (7.5, 7, 8), turn=30),
        "trapezoid": Ball((13, -2, 270), (6, 7, 6.5)),
        "capitate": Ball((2, 0, 268), (7.5, 8, 12), turn=-4),
        "hamate": Ball((-10.5, 0, 269), (8.5, 8, 10), turn=-20),
    }
    return [
        Shape(name, [ball], cortex=[(240, 0.8)], cancellous=[(240, 0.3)])
        for name, ball in balls.items()
    ]


def _small_bone(name: str, length: float, base: float, shaft: float, head: float) -> Shape:
    """A metacarpal or phalanx along z from 0: half widths of base, shaft and head in mm."""
    flat = 0.88
    return Shape(
        name,
        [
            Sweep(
                [
                    (0.5, 0, 0.5, base * 0.9, base * 0.85),
                    (0.1 * length, 0, 0.3, base, base * 0.95),
                    (0.24 * length, 0, -0.2, base * 0.72, base * 0.72),
                    (0.42 * length, 0, -0.8, shaft, shaft * flat),
                    (0.62 * length, 0, -0.8, shaft * 1.02, shaft * flat),
                    (0.8 * length, 0, 0, shaft * 1.3, shaft * 1.1),
                    (0.9 * length, 0, 0.4, head * 0.98, head * 0.92),
                    (0.965 * length, 0, 0.6, head * 0.8, head * 0.85),
                ],
                smooth=0.035 * length,
            ),
            Ball((0, 0.6, 0.9 * length), (head * 0.95, head, 0.1 * length)),
        ],
        cortex=[(0, 0.5), (0.2 * length, 0.9), (0.4 * length, shaft * 0.44),
                (0.65 * length, shaft * 0.42), (0.85 * length, 0.7), (length, 0.5)],
        cancellous=[(0, 0.32), (0.25 * length, 0.16), (0.4 * length, 0.02),
                    (0.65 * length, 0.02), (0.8 * length, 0.14), (length, 0.3)],
        melt=2,
    )


# ray: (x, y, z of the base, lean in degrees, length of metacarpal and of the two phalanges shown)
_RAYS = {
    1: ((24.0, 6.0, -11.0), 40.0, 45.0, 31.0, 24.0),
    2: ((13.0, 0.0, -1.0), 6.0, 67.0, 40.0, 24.0),
    3: ((1.0, -1.0, -1.5), 0.5, 65.0, 44.0, 28.0),
    4: ((-9.5, -1.0, 1.0), -5.0, 58.0, 41.0, 27.0),
    5: ((-19.0, 0.0, 4.0), -11.5, 54.0, 33.0, 20.0),
}


def _hand(broken: int | None) -> list[Part]:
    """The five rays in the frame of a hand whose metacarpal bases lie near z = 0."""
    parts = []
    for ray, (base, lean, *lengths) in _RAYS.items():
        at = np.array(base)
        names = (f"metacarpal {ray}", f"proximal phalanx {ray}", f"middle phalanx {ray}")
        sizes = ((7.2, 4.2, 7.2), (7.0, 4.4, 5.2), (5.6, 3.6, 4.6))
        for name, length, (wide, narrow, head) in zip(names, lengths, sizes, strict=True):
            thick = 1.12 if ray == 1 else 0.92 if ray == 5 else 1.0
            shape = _small_bone(name, length, wide * thick, narrow * thick, head * thick)
            own = ray == broken and name.startswith("metacarpal")
            beyond = ray == broken and not own
            parts.append(
                Part(
                    shape,
                    tuple(at.tolist()),
                    (0.0, lean, 0.0),
                    "own" if own else "far" if beyond else "near",
                )
            )
            at = at + rotation(y=lean) @ np.array([0, 0, length + 1.8])
            lean *= 0.8
    return parts


# ---------------------------------------------------------------------------------------------
# Lower limb


def _pelvis() -> Shape:
    return Shape(
        "pelvis",
        [
            Ball((-52, 2, 8), (31, 27, 27)),
            Ball((-85, -8, -62), (52, 9, 62), turn=-24),
            Rod((-62, 14, 26), (-118, 30, 36), 9, 8),
            Rod((-118, 30, 36), (-120, 28, 66), 9, 8),
            Rod((-60, -16, 30), (-72, -22, 78), 14, 13),
            Rod((-72, -22, 84), (-116, 14, 66), 8, 7),
            Hollow(Ball((-44, 5, 26), (27.5, 27.5, 27.5))),
        ],
        cortex=[(-130, 1.3), (110, 1.3)],
        cancellous=[(-130, 0.13), (110, 0.15)],
        melt=8,
    )


def _femur() -> Shape:
    return Shape(
        "femur",
        [
            Ball((-44, 5, 25), (24, 24, 24)),
            Rod((-40, 5, 29), (-6, 0, 58), 15.5, 18),
            Ball((10, -4, 54), (14, 16, 24), turn=12),
            Ball((-18, -12, 94), (9, 8, 13), turn=-20),
            Sweep(
                [
                    (48, 0, 0, 22, 18),
                    (80, -2, 0, 20, 17),
                    (105, -3, 1, 17, 15.5),
                    (140, -2, 4, 14.5, 14),
                    (200, 0, 7, 13.5, 13.8),
                    (270, 0, 7, 13.8, 13.8),
                    (330, 0, 4, 16, 14.5),
                    (370, 0, 1, 22, 16.5),
                    (398, 0, 0, 32, 19),
                    (412, 0, 0, 38, 21),
                    (424, 0, 2, 38, 20),
                ],
                smooth=8,
            ),
            Ball((-22, -10, 418), (18, 30, 24), turn=4),
            Ball((22, -8, 417), (18, 30, 23), turn=-4),
            Ball((0, 14, 414), (22, 12, 18)),
            Ball((-37, -3, 402), (6, 10, 15), turn=14),
            Ball((37, -4, 408), (5, 10, 12)),
            Hollow(Ball((0, -20, 440), (9, 24, 20))),
        ],
        cortex=[(0, 1.0), (60, 1.6), (95, 3.6), (140, 5.8), (220, 6.6), (300, 5.6), (350, 3.0),
                (385, 1.4), (445, 1.1)],
        cancellous=[(0, 0.26), (50, 0.2), (95, 0.08), (140, 0.01), (310, 0.0), (345, 0.06),
                    (390, 0.18), (445, 0.25)],
        melt=7,
    )


def _patella() -> Shape:
    return Shape(
        "patella",
        [Ball((3, 36, 392), (22, 10, 22))],
        cortex=[(360, 1.1)],
        cancellous=[(360, 0.24)],
    )


def _tibia() -> Shape:
    return Shape(
        "tibia",
        [
            Sweep(
                [
                    (0, 0, -2, 36, 23),
                    (9, 0, -2, 37.5, 24),
                    (20, 0, -2, 34, 23),
                    (38, 0, 0, 25, 20),
                    (60, 0, 2, 19, 18),
                    (90, 0, 2, 15.5, 16.5),
                    (140, 0, 2, 13.2, 14.5),
                    (220, 0, 1, 11.8, 12.8),
                    (280, 0, 0, 12, 11.5),
                    (320, -1, 0, 15.5, 13.5),
                    (345, -2, 0, 20.5, 17),
                    (357, -2, 0, 22, 18.5),
                    (363, -2, 0, 21.5, 18),
                ],
                smooth=6,
                crest=0.10,
            ),
            Ball((4, 19, 44), (9, 7, 20)),
            Ball((-5, -2, 0), (4, 6, 7)),
            Ball((5, -2, 0), (4, 6, 6)),
            Rod((-19, 0, 350), (-22, 1, 371), 8.5, 5),
            Hollow(Ball((4, 0, 378), (17, 40, 16))),
        ],
        cortex=[(-8, 1.2), (20, 1.2), (50, 2.2), (100, 4.4), (190, 5.2), (280, 4.2), (320, 2.0),
                (345, 1.1), (375, 1.0)],
        cancellous=[(-8, 0.3), (25, 0.2), (60, 0.08), (100, 0.01), (270, 0.0), (310, 0.07),
                    (340, 0.2), (375, 0.28)],
        melt=5,
    )


def _fibula() -> Shape:
    return Shape(
        "fibula",
        [
            Ball((35, -16, 24), (10, 10, 13)),
            Sweep(
                [
                    (22, 35, -16, 8, 8),
                    (45, 35, -15, 5.6, 6),
                    (90, 33.5, -12, 5.6, 6.4),
                    (180, 30, -10, 5.8, 6.8),
                    (270, 27, -8, 6, 7),
                    (320, 25.5, -6, 6.6, 8),
                    (350, 26, -5, 8.2, 9.5),
                    (372, 26.5, -5, 7.6, 9),
                ],
                smooth=6,
            ),
            Ball((25.5, -5, 368), (7.6, 9.5, 17), turn=-4),
        ],
        cortex=[(10, 0.9), (50, 1.8), (120, 2.4), (260, 2.4), (330, 1.6), (390, 0.9)],
        cancellous=[(10, 0.25), (50, 0.1), (90, 0.02), (300, 0.02), (345, 0.14), (390, 0.24)],
    )


def _foot() -> list[Shape]:
    cortex, cancellous = [(360, 1.1)], [(360, 0.3)]
    return [
        Shape(
            "talus",
            [
                Ball((2.5, 2, 385), (17.5, 25, 20)),
                Rod((0, 18, 390), (-6, 46, 396), 12, 13),
                Ball((2, -8, 396), (15, 20, 12)),
            ],
            cortex,
            cancellous,
        ),
        Shape(
            "calcaneus",
            [
                Rod((8, 12, 412), (6, -48, 420), 13, 18),
                Rod((8, 10, 412), (12, 42, 412), 13, 12),
            ],
            cortex,
            cancellous,
        ),
        Shape("navicular", [Ball((-8, 62, 402), (17, 8, 13))], cortex, cancellous),
        Shape("cuboid", [Ball((16, 60, 416), (13, 17, 12))], cortex, cancellous),
        Shape("cuneiforms", [Ball((-6, 82, 410), (20, 12, 11))], cortex, cancellous),
        *(
            Shape(
                f"metatarsal {i + 1}",
                [
                    Rod((-18 + 9 * i, 92, 412 + i), (-24 + 13 * i, 152, 424), 7.5, 4.5),
                    Ball((-25 + 13 * i, 158, 425), (6, 8, 6)),
                ],
                cortex,
                cancellous,
            )
            for i in range(5)
        ),
    ]


# ---------------------------------------------------------------------------------------------
# Limbs


def _parts(shapes: list[Shape], z: float = 0.0, x: float = 0.0, follows: str = "near") -> list:
    return [Part(shape, (x, 0.0, z), follows=follows) for shape in shapes]


def _shift(parts: list[Part], z: float, follows: str) -> list[Part]:
    return [
        Part(p.shape, (p.offset[0], p.offset[1], p.offset[2] + z), p.turn, follows) for p in parts
    ]


_ARM_FLESH = SoftTissue(
    (
        (-70, -110, 0, 60, 50),
        (-30, -62, 0, 86, 58),
        (20, -18, 0, 66, 60),
        (70, -2, 2, 52, 55),
        (130, 0, 4, 46, 50),
        (210, -1, 5, 42, 46),
        (275, -2, 4, 42, 40),
        (310, -2, 2, 43, 38),
        (350, -2, 2, 44, 38),
        (420, 0, 2, 40, 34),
    ),
    skin=0.16,
)
_CHEST = SoftTissue(
    ((-130, -120, 0, 40, 40), (-60, -165, 0, 90, 80), (20, -195, 0, 120, 100),
     (420, -200, 0, 125, 105)),
    skin=0.1,
)
_FOREARM_FLESH = SoftTissue(
    (
        (-160, -2, 2, 42, 46),
        (-40, -1, 2, 43, 42),
        (0, 2, 2, 46, 42),
        (40, 3, 3, 45, 40),
        (100, 2, 3, 38, 33),
        (170, 0, 2, 30, 24),
        (215, -3, 1, 28, 19),
        (240, -2, 1, 30, 19),
        (262, 0, 1, 34, 18),
        (290, 0, 1, 41, 17),
        (325, -2, 1, 43, 14),
        (352, -3, 1, 41, 12),
        (362, -3, 1, 36, 9),
    ),
    skin=0.1,
)
_LEG_FLESH = SoftTissue(
    (
        (-200, 0, 4, 72, 76),
        (-80, 0, 4, 60, 64),
        (-20, 0, 6, 56, 62),
        (30, 2, -2, 53, 58),
        (85, 4, -8, 57, 62),
        (130, 4, -10, 56, 60),
        (210, 4, -6, 46, 50),
        (290, 3, -3, 35, 38),
        (335, 2, -2, 33, 37),
        (365, 2, 4, 37, 48),
        (395, 2, 24, 40, 80),
        (428, 2, 48, 44, 112),
        (440, 2, 50, 42, 110),
    ),
    skin=0.13,
)
_THIGH_FLESH = SoftTissue(
    (
        (-180, -70, 0, 110, 90),
        (-60, -60, 0, 112, 100),
        (20, -42, -4, 108, 105),
        (90, -26, -2, 96, 98),
        (160, -16, 0, 86, 90),
        (280, -6, 2, 72, 76),
        (370, 0, 2, 62, 68),
        (425, 0, 4, 57, 62),
        (470, 2, -1, 53, 58),
        (530, 4, -8, 57, 62),
        (640, 4, -8, 50, 54),
    ),
    skin=0.14,
)


def _finger_flesh(z: float = 0.0) -> list[SoftTissue]:
    tubes = []
    for ray, (base, lean, *lengths) in _RAYS.items():
        along = rotation(y=lean) @ np.array([0, 0, 1.0])
        wide = 12.0 if ray == 1 else 9.4
        rows = []
        for share, grow in ((-0.1, 0.8), (0.15, 1.15), (1.0, 1.1), (1.3, 1.02), (1.9, 0.95),
                            (2.3, 0.9)):
            at = np.array(base) + along * share * lengths[0]
            rows.append((float(at[2] + z), float(at[0]), 0.0, wide * grow, wide * grow))
        tubes.append(SoftTissue(tuple(rows), skin=0.2))
    return tubes


_PALM_FLESH = SoftTissue(
    (
        (-140, -1, 2, 32, 24),
        (-80, -3, 1, 28, 19),
        (-45, -3, 1, 29, 19),
        (-20, 0, 1, 34, 18),
        (0, 1, 1, 39, 16),
        (30, -2, 1, 41, 14),
        (58, -4, 1, 39, 12),
        (74, -4, 1, 34, 9),
        (82, -4, 1, 28, 5),
    ),
    skin=0.1,
)


@cache
def limb_of(bone: str, ray: int = 5) -> Limb:
    """The limb in which `bone` lies; `ray` (2 to 5) chooses the metacarpal."""
    if bone == "humerus":
        return Limb(
            bone,
            (
                Part(_humerus(), follows="own"),
                *_parts([_scapula(), _clavicle()]),
                *_parts([_radius(), _ulna()], z=316, follows="far"),
            ),
            (_ARM_FLESH, _CHEST),
            length=322, shaft=(95, 250), distal=(262, 284),
            field=(180, 290, 400), aspect=0.62, partner=False, beam=62,
        )
    if bone in ("radius", "ulna"):
        bones = {"radius": _radius(), "ulna": _ulna()}
        return Limb(
            bone,
            (
                *(Part(s, follows="own" if n == bone else "near") for n, s in bones.items()),
                *_parts([_humerus()], z=-316),
                *_parts(_carpus(), follows="far" if bone == "radius" else "near"),
                *_shift(_hand(None), 283, "far" if bone == "radius" else "near"),
            ),
            (_FOREARM_FLESH, *_finger_flesh(283)),
            length=243, shaft=(60, 190), distal=(212, 226) if bone == "radius" else (214, 224),
            field=(130, 210, 330), aspect=0.62, partner=True, beam=54,
        )
    if bone == "femur":
        return Limb(
            bone,
            (
                Part(_femur(), follows="own"),
                *_parts([_pelvis()]),
                *_parts([_patella()], follows="far"),
                *_parts([_tibia(), _fibula()], z=447, follows="far"),
            ),
            (_THIGH_FLESH,),
            length=442, shaft=(130, 335), distal=(362, 392),
            field=(240, 370, 520), aspect=0.6, partner=False, beam=72,
        )
    if bone in ("tibia", "fibula"):
        bones = {"tibia": _tibia(), "fibula": _fibula()}
        return Limb(
            bone,
            (
                *(Part(s, follows="own" if n == bone else "near") for n, s in bones.items()),
                *_parts([_femur(), _patella()], z=-447),
                *_parts(_foot(), follows="far" if bone == "tibia" else "near"),
            ),
            (_LEG_FLESH,),
            length=371, shaft=(90, 290), distal=(322, 340) if bone == "tibia" else None,
            field=(190, 320, 460), aspect=0.55, partner=True, beam=60,
        )
    if bone == "metacarpal":
        return Limb(
            bone,
            (*_hand(ray), *_parts(_carpus(), z=-283), *_parts([_radius(), _ulna()], z=-283)),
            (_PALM_FLESH, *_finger_flesh()),
            length=_RAYS[ray][2], shaft=(0.34 * _RAYS[ray][2], 0.68 * _RAYS[ray][2]),
            distal=None,
            field=(75, 125, 180), aspect=0.75, partner=False, beam=50,
        )
    raise ValueError(f"no limb for {bone!r}")


LIMBS = ("humerus", "radius", "ulna", "femur", "tibia", "fibula", "metacarpal")


@lru_cache(maxsize=32)
def interior_points(bone: str, ray: int = 5) -> Array:
    """Points inside the bone on a coarse grid, float32 (n, 3), in the bone's own frame (mm).

    They say where a fragment lies before it is drawn, and that it is not empty.
    """
    shape = limb_of(bone, ray).own.shape
    step = 1.0 if bone == "metacarpal" else 2.0
    low, high = shape.low, shape.high
    axes = [np.arange(a, b, step, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    depth = shape.depth(x, y, z, float(low[2]), float(high[2]))
    inside = depth > 0
    return np.stack([x[inside], y[inside], z[inside]], axis=1)
