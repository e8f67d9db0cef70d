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
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np

__all__ = [
    "LIMBS",
    "Grid",
    "Limb",
    "Part",
    "Points",
    "Shape",
    "SoftTissue",
    "interior_points",
    "limb_of",
    "rotation",
    "table_index",
]

Array = np.ndarray
STEP = 0.5  # mm between the entries of every table along z
FAR = 20.0  # mm: how far outside counts as not near at all
_MELT = 3.0  # mm over which two primitives of one bone flow into each other


class Points:
    """Points in a bone's frame, mm: three arrays of one shape."""

    def __init__(self, x: Array, y: Array, z: Array) -> None:
        self.x, self.y, self.z = x, y, z

    def linear(self, weights: tuple[float, float, float], at: tuple[float, float, float]) -> Array:
        """weights . (point - at), in the points' shape."""
        start = -sum(w * a for w, a in zip(weights, at, strict=True))
        result = weights[0] * self.x + start
        result += weights[1] * self.y
        result += weights[2] * self.z
        return result

    def cut(self, low: Array, high: Array) -> tuple[tuple[slice, ...], Points] | None:
        """The points within a box, as slices and as points: here all of them."""
        return (slice(None),) * self.x.ndim, self


class Grid(Points):
    """Points on a regular grid of rays: film rows x film columns x steps away from the tube.

    down, right, away: film coordinates of the grid, mm, 1-D float32.
    matrix, offset:    bone point -> film coordinates (right, down, away).

    Being regular, it can leave out what a primitive does not reach, and its sums of coordinates
    cost two operations per point.
    """

    def __init__(
        self, down: Array, right: Array, away: Array, matrix: Array, offset: Array
    ) -> None:
        self.axes = (down, right, away)
        self.matrix, self.offset = matrix, offset

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(len(axis) for axis in self.axes)

    def linear(self, weights: tuple[float, float, float], at: tuple[float, float, float]) -> Array:
        right, down, away = (self.matrix @ np.array(weights)).tolist()
        d, r, w = self.axes
        start = -down * float(self.offset[1]) - right * float(self.offset[0])
        start -= away * float(self.offset[2])
        start -= sum(w_ * a for w_, a in zip(weights, at, strict=True))
        plane = (down * d + start)[:, None] + (right * r)[None, :]
        return plane[:, :, None] + (away * w)[None, None, :]

    @cached_property
    def x(self) -> Array:
        return self.linear((1.0, 0.0, 0.0), (0.0, 0.0, 0.0))

    @cached_property
    def y(self) -> Array:
        return self.linear((0.0, 1.0, 0.0), (0.0, 0.0, 0.0))

    @cached_property
    def z(self) -> Array:
        return self.linear((0.0, 0.0, 1.0), (0.0, 0.0, 0.0))

    def cut(self, low: Array, high: Array) -> tuple[tuple[slice, ...], Points] | None:
        middle, half = (low + high) / 2, (high - low) / 2
        centre = self.matrix @ middle + self.offset
        reach = np.abs(self.matrix) @ half
        slices = []
        for axis, k in zip(self.axes, (1, 0, 2), strict=True):
            first, last = np.searchsorted(axis, (centre[k] - reach[k], centre[k] + reach[k]))
            if first >= last:
                return None
            slices.append(slice(int(first), int(last)))
        down, right, away = (axis[s] for axis, s in zip(self.axes, slices, strict=True))
        return tuple(slices), Grid(down, right, away, self.matrix, self.offset)


class Primitive(Protocol):
    low: Array  # (3,) mm: corner of a box that holds the primitive
    high: Array  # (3,) mm

    def depth(self, points: Points) -> Array: ...


class Ball:
    """An ellipsoid, turned by `turn` degrees about the y axis (in the plane of an AP film)."""

    def __init__(
        self,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        turn: float = 0.0,
    ) -> None:
        self.centre = centre
        matrix = rotation(y=turn)
        self.inverse = tuple(1 / r for r in radii)
        self.rows = [tuple(row) for row in (matrix.T / np.array(radii)[:, None]).tolist()]
        reach = np.sqrt(((matrix * np.array(radii)) ** 2).sum(axis=1))
        self.low = np.array(centre) - reach
        self.high = np.array(centre) + reach

    def depth(self, points: Points) -> Array:
        near = 1e-6  # keeps the middle from dividing by nothing
        reach, slope = near, near
        for row, inverse in zip(self.rows, self.inverse, strict=True):
            share = points.linear(row, self.centre)
            share *= share
            reach = reach + share
            slope = slope + share * (inverse * inverse)
        reach = np.sqrt(reach)
        return (1 - reach) * reach / np.sqrt(slope)


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
        self.along = tuple(((b - a) / ((b - a) ** 2).sum()).tolist())
        self.r0, self.r1 = r0, r1
        self.low = np.minimum(a - r0, b - r1)
        self.high = np.maximum(a + r0, b + r1)

    def depth(self, points: Points) -> Array:
        t = np.clip(points.linear(self.along, self.start), 0, 1)
        total = 0.0
        for k, part in enumerate(self.axis):
            unit = tuple(float(k == i) for i in range(3))
            off = points.linear(unit, self.start)
            off -= t * part
            off *= off
            total = total + off
        return self.r0 + t * (self.r1 - self.r0) - np.sqrt(total)


class Sweep:
    """A shaft: an ellipse that changes along z.

    rows: (z, x, y, a, b) with the centre and the semi-axes across and front to back, in mm.
    smooth: mm over which the straight lines between rows are rounded.
    crest:  how far the section leaves the ellipse for a triangle with its edge in front (0 to 0.2).
    round_: mm over which the edges of its two ends are rounded.
    """

    def __init__(
        self,
        rows: list[tuple[float, ...]],
        smooth: float = 5.0,
        crest: float = 0.0,
        round_: float = 3.0,
    ) -> None:
        table = _smooth_table(rows, smooth)
        self.top, self.bottom = rows[0][0], rows[-1][0]
        self.cx, self.cy, a, b = table
        self.inverse_a, self.inverse_b = 1 / a, 1 / b
        self.crest = crest
        self.round = round_
        grow = 1 + crest
        self.low = np.array(
            [(self.cx - a * grow).min(), (self.cy - b * grow).min(), self.top], float
        )
        self.high = np.array(
            [(self.cx + a * grow).max(), (self.cy + b * grow).max(), self.bottom], float
        )

    def section(self, top: float, bottom: float) -> tuple[Array, Array]:
        """Corners of a box around the part between two heights."""
        i, j = table_index(np.array([top, bottom]), self.top, len(self.cx))
        cut = slice(i, j + 1)
        a = (1 + self.crest) / self.inverse_a[cut]
        b = (1 + self.crest) / self.inverse_b[cut]
        cx, cy = self.cx[cut], self.cy[cut]
        low = np.array([(cx - a).min(), (cy - b).min(), max(top, self.top)], float)
        high = np.array([(cx + a).max(), (cy + b).max(), min(bottom, self.bottom)], float)
        return low, high

    def depth(self, points: Points) -> Array:
        z = points.z
        i = table_index(z, self.top, len(self.cx))
        px, py = points.x - self.cx[i], points.y - self.cy[i]
        inverse_a, inverse_b = self.inverse_a[i], self.inverse_b[i]
        if self.crest:
            # cos 3(angle from the front), from the sine and cosine of the angle itself
            r2 = px * px + py * py + 1e-3
            triangle = py * (py * py - 3 * px * px) / (r2 * np.sqrt(r2))
            grow = 1 - self.crest * triangle
            px *= grow
            py *= grow
        px *= inverse_a
        py *= inverse_b
        reach = np.sqrt(px * px + py * py) + 1e-6
        px *= inverse_a
        py *= inverse_b
        depth = (1 - reach) * reach / (np.sqrt(px * px + py * py) + 1e-6)
        return meet(depth, np.minimum(z - self.top, self.bottom - z), self.round)


class Facet:
    """One of several bones that fill a common space side by side, as in the wrist.

    sites: (x, y, z, weight) per bone, the heavier the larger; own: the index of this one.
    gap:   mm of cartilage between neighbours.
    """

    def __init__(
        self, space: Primitive, sites: list[tuple[float, float, float, float]], own: int, gap: float
    ) -> None:
        self.space = space
        here, weight = np.array(sites[own][:3]), sites[own][3]
        self.planes = []
        for j, (*there, other) in enumerate(sites):
            if j == own:
                continue
            normal = np.array(there) - here
            length = float(np.linalg.norm(normal))
            at = here + normal * (weight / (weight + other) - 0.5 * gap / length)
            self.planes.append((tuple(at.tolist()), tuple((-normal / length).tolist())))
        axes = [np.arange(a, b + 1.0) for a, b in zip(space.low, space.high, strict=True)]
        x, y, z = np.meshgrid(*axes, indexing="ij")
        inside = self.depth(Points(x, y, z)) > -1
        self.low = np.array([axis[inside].min() for axis in (x, y, z)]) - 1
        self.high = np.array([axis[inside].max() for axis in (x, y, z)]) + 1

    def depth(self, points: Points) -> Array:
        depth = self.space.depth(points)
        for at, inward in self.planes:
            depth = meet(depth, points.linear(inward, at), 3.5)
        return depth


class Hollow:
    """Takes a primitive away from the union instead of adding it (a fossa, a notch)."""

    def __init__(self, primitive: Primitive) -> None:
        self.primitive = primitive
        self.low, self.high = primitive.low, primitive.high

    def depth(self, points: Points) -> Array:
        return -self.primitive.depth(points)


def meet(first: Array, second: Array, edge: float) -> Array:
    """Depth inside both, the edge where they meet rounded over so many mm."""
    near = np.maximum(1 - np.abs(first - second) * (1 / edge), 0)
    return np.minimum(first, second) - near * near * (edge / 4)


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
    melt:       mm over which its primitives flow into each other.
    plates:     heights of the growth plates, which only a child's bone has.
    """

    def __init__(
        self,
        name: str,
        primitives: list[Primitive],
        cortex: list[tuple[float, float]],
        cancellous: list[tuple[float, float]],
        melt: float = _MELT,
        plates: tuple[float, ...] = (),
    ) -> None:
        self.name = name
        self.plates = plates
        self.solids = [p for p in primitives if not isinstance(p, Hollow)]
        self.hollows = [p for p in primitives if isinstance(p, Hollow)]
        self.melt = melt
        self.low = np.min([p.low for p in self.solids], axis=0) - 1
        self.high = np.max([p.high for p in self.solids], axis=0) + 1
        z = np.arange(self.low[2], self.high[2] + STEP, STEP)
        self.cortex = np.interp(z, *np.array(cortex, float).T).astype(np.float32)
        self.cancellous = np.interp(z, *np.array(cancellous, float).T).astype(np.float32)

    def sections(self, top: float, bottom: float) -> list[tuple[Primitive, Array, Array]]:
        """The solids between two heights, each with the corners of a box around it there."""
        found = []
        for solid in self.solids:
            if solid.low[2] - self.melt > bottom or solid.high[2] + self.melt < top:
                continue
            low, high = solid.low, solid.high
            if isinstance(solid, Sweep):  # far narrower here than its whole box
                low, high = solid.section(top, bottom)
            found.append((solid, low - 1, high + 1))
        return found

    def depth(self, points: Points, shape: tuple[int, ...], top: float, bottom: float) -> Array:
        """Depth inside the bone in mm at points of which top <= z <= bottom.

        float32 of the given shape; far outside it is -FAR.
        """
        depth = np.full(shape, -FAR, np.float32)
        for solid, low, high in self.sections(top, bottom):
            found = points.cut(low - self.melt, high + self.melt)
            if found is None:
                continue
            slices, near = found
            here, other = depth[slices], solid.depth(near)
            blend = np.abs(here - other)
            blend *= -1 / self.melt
            blend += 1
            np.maximum(blend, 0, out=blend)
            blend *= blend
            blend *= self.melt / 4
            np.maximum(here, other, out=here)
            here += blend
        for hollow in self.hollows:
            if hollow.low[2] <= bottom and hollow.high[2] >= top:
                found = points.cut(hollow.low - 2, hollow.high + 2)
                if found is not None:
                    slices, near = found
                    depth[slices] = meet(depth[slices], hollow.depth(near), 2.0)
        return depth


@dataclass(frozen=True)
class Part:
    """A bone placed in its limb.

    offset, turn: limb point = turn @ bone point + offset (mm, (3,) and (3, 3)).
    follows:      "near" stays with the limb above a fracture, "far" goes with the limb below it,
                  "own" is the bone that may be broken, "trunk" the body, which stays in AP view.
    """

    shape: Shape
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    follows: str = "near"


@dataclass(frozen=True)
class SoftTissue:
    """A tube of flesh: rows (z, x, y, half width, half depth), all in mm.

    skin:  thickness of the fatty layer under the skin, as a fraction of the half width.
    trunk: True for the body, which does not turn with the limb. tip: True for a rounded end.
    """

    rows: tuple[tuple[float, float, float, float, float], ...]
    skin: float = 0.12
    trunk: bool = False
    tip: bool = False


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
    joint:   where the limb turns against the trunk, mm.
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
    joint: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def own(self) -> Part:
        return next(part for part in self.parts if part.follows == "own")


# ---------------------------------------------------------------------------------------------
# Upper limb


def _humerus() -> Shape:
    return Shape(
        "humerus",
        [
            Ball((-13, -3, 23), (23, 22, 23)),
            Ball((11, 2, 27), (12, 15, 18), turn=-14),
            Sweep(
                [
                    (24, -3, 0, 20, 18),
                    (46, -2, 0, 17.5, 16),
                    (66, 0, 0, 14, 13.5),
                    (100, 2, 0, 12, 12),
                    (135, 2, 0, 11.6, 11.6),
                    (200, 0, 0, 10.4, 10.4),
                    (240, -1, 1, 11.2, 9.6),
                    (262, -2, 1, 15.5, 8.6),
                    (282, -2.5, 2, 22.5, 8),
                    (298, -2.5, 3, 27, 7.5),
                    (308, -1, 4, 23, 7),
                ],
                smooth=5,
            ),
            Ball((13, 8, 309), (10, 11, 10.5)),
            Ball((1.5, 6, 307.5), (7, 9, 9)),
            Ball((-10, 6, 311), (8.5, 12.5, 13), turn=-10),
            Rod((-15, 1, 274), (-30, -2, 296), 7, 5.5),
            Rod((9, 1, 278), (24, 1, 297), 7, 4.6),
            Hollow(Ball((-2.5, -8, 292), (11, 7.6, 9))),
            Hollow(Ball((-2.5, 12, 292), (9, 6.6, 8))),
        ],
        cortex=[(0, 0.8), (45, 1.0), (75, 2.2), (130, 3.2), (210, 3.4), (255, 2.3), (285, 1.2),
                (325, 0.8)],
        cancellous=[(0, 0.24), (40, 0.16), (75, 0.06), (110, 0.0), (235, 0.0), (265, 0.09),
                    (295, 0.22), (325, 0.28)],
        melt=6,
        plates=(40.0,),
    )


def _scapula() -> Shape:
    return Shape(
        "scapula",
        [
            Ball((-44, -6, 26), (6.5, 12, 19), turn=8),
            Rod((-50, -8, 32), (-100, -22, 150), 7, 4),
            Ball((-92, -24, 70), (44, 2.6, 92), turn=8),
            Rod((-112, -34, 34), (-30, -26, -8), 3.5, 6),
            Ball((-10, -16, -16), (24, 13, 5), turn=10),
            Rod((-54, 2, 6), (-34, 22, 12), 6.5, 6),
        ],
        cortex=[(-60, 0.8), (160, 0.8)],
        cancellous=[(-60, 0.12), (160, 0.1)],
        melt=8,
    )


def _clavicle() -> Shape:
    return Shape(
        "clavicle",
        [
            Rod((-180, 12, -6), (-120, 14, -26), 6.5, 5.6),
            Rod((-120, 14, -26), (-60, 2, -34), 5.6, 6),
            Rod((-60, 2, -34), (-18, -8, -20), 6, 7),
        ],
        cortex=[(-60, 1.4), (40, 1.4)],
        cancellous=[(-60, 0.14), (40, 0.14)],
        melt=8,
    )


def _ribs() -> list[Shape]:
    """The outer ends of nine ribs: down and forward around the chest."""
    ribs = []
    for k in range(9):
        z = 30.0 * k - 22
        wide = min(18.0 * k, 44.0)
        arc = []
        for degrees in range(-80, 41, 20):
            a = math.radians(degrees)
            drop = 58 * math.sin(a) + 30
            arc.append((-196 + (66 + wide) * math.cos(a), (55 + wide) * math.sin(a), z + drop))
        ribs.append(
            Shape(
                f"rib {k + 1}",
                [Rod(a, b, 4.6, 4.6) for a, b in pairwise(arc)],
                cortex=[(0, 0.6)],
                cancellous=[(0, 0.08)],
                melt=0.5,
            )
        )
    return ribs


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
                    (242, 8, 1, 15, 10.5),
                ],
                smooth=3.5,
                round_=5,
            ),
            Ball((7, 4, 31), (5.5, 6, 10)),
            Rod((14.5, 1, 224), (20.5, 1, 247), 8.5, 3.2),
            Hollow(Ball((4, 1, 250.5), (17, 14, 12.5), turn=-14)),
            Hollow(Ball((-12.5, -1, 234), (6, 8, 8))),
            Hollow(Ball((13, 3, -11.5), (13, 13, 13))),
        ],
        cortex=[(0, 0.8), (20, 1.4), (60, 2.0), (140, 2.4), (185, 1.8), (215, 0.8), (245, 0.7)],
        cancellous=[(0, 0.3), (25, 0.15), (50, 0.02), (170, 0.0), (195, 0.06), (218, 0.2),
                    (245, 0.3)],
        melt=4,
        plates=(228.0,),
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
        cortex=[(-25, 1.1), (30, 1.6), (70, 2.1), (150, 2.1), (205, 1.4), (230, 0.8), (250, 0.8)],
        cancellous=[(-25, 0.28), (30, 0.2), (60, 0.03), (180, 0.0), (205, 0.05), (228, 0.2),
                    (250, 0.26)],
        melt=4,
        plates=(230.0,),
    )


def _carpus() -> list[Shape]:
    """The eight wrist bones; the wrist joint is at z = 243 as in the forearm."""
    space = Sweep(
        [
            (241.5, 3, 1, 5, 6),
            (244, 1, 1, 13, 8),
            (250, 0, 1, 18.5, 9),
            (258, 0, 1, 20.5, 9),
            (268, 2, 1, 24.5, 9),
            (277, 2, 1, 26, 9),
            (283, 2, 1, 24, 8),
        ],
        smooth=2.2,
    )
    sites = {
        "scaphoid": (14.0, 4.0, 255.5, 9.0),
        "lunate": (0.0, -1.0, 249.5, 8.0),
        "triquetrum": (-14.0, -3.0, 256.0, 8.0),
        "trapezium": (23.0, 6.0, 270.5, 8.0),
        "trapezoid": (12.5, -2.5, 273.5, 6.5),
        "capitate": (0.5, 0.0, 266.5, 11.0),
        "hamate": (-13.0, 3.0, 270.0, 9.0),
    }
    facets = [Facet(space, list(sites.values()), own, 1.5) for own in range(len(sites))]
    facets.append(Ball((-13.5, 9.5, 259), (5, 5, 6)))
    return [
        Shape(name, [facet], cortex=[(240, 0.8)], cancellous=[(240, 0.26)])
        for name, facet in zip((*sites, "pisiform"), facets, strict=True)
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
                round_=0.6 * shaft,
            ),
            Ball((0, 0.6, 0.9 * length), (head * 0.97, head, 0.105 * length)),
        ],
        cortex=[(0, 0.5), (0.2 * length, 0.9), (0.4 * length, shaft * 0.44),
                (0.65 * length, shaft * 0.42), (0.85 * length, 0.7), (length, 0.5)],
        cancellous=[(0, 0.32), (0.25 * length, 0.16), (0.4 * length, 0.02),
                    (0.65 * length, 0.02), (0.8 * length, 0.14), (length, 0.3)],
        melt=2,
    )


# ray: (x, y, z of the base, lean in degrees, lengths of the metacarpal and the phalanges)
_RAYS = {
    1: ((25.5, 5.0, -6.0), 38.0, 45.0, 31.0, 22.0),
    2: ((13.5, 0.0, 1.0), 7.0, 67.0, 40.0, 24.0, 17.0),
    3: ((1.5, -1.0, 0.5), 1.0, 64.0, 44.0, 28.0, 18.0),
    4: ((-9.0, -1.0, 2.5), -5.0, 57.0, 41.0, 27.0, 18.0),
    5: ((-18.5, 0.0, 1.5), -12.0, 53.0, 33.0, 20.0, 16.0),
}


def _hand(broken: int | None) -> list[Part]:
    """The five rays in the frame of a hand whose metacarpal bases lie near z = 0."""
    parts = []
    for ray, (base, lean, *lengths) in _RAYS.items():
        at = np.array(base)
        names = ("metacarpal", "first phalanx", "second phalanx", "third phalanx")
        sizes = ((7.2, 4.2, 7.2), (7.0, 4.4, 5.2), (5.8, 3.6, 4.6), (5.0, 2.6, 3.6))
        for name, length, (wide, narrow, head) in zip(names, lengths, sizes, strict=False):
            thick = 1.12 if ray == 1 else 0.92 if ray == 5 else 1.0
            shape = _small_bone(f"{name} {ray}", length, wide * thick, narrow * thick, head * thick)
            own = ray == broken and name == "metacarpal"
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
            Ball((-54, 2, 6), (32, 28, 28)),
            Ball((-82, -8, -66), (56, 8, 66), turn=-26),
            Rod((-60, -6, -10), (-118, -30, -52), 13, 16),
            Rod((-62, 14, 26), (-112, 30, 34), 9, 8),
            Rod((-112, 30, 34), (-122, 28, 58), 9, 9),
            Rod((-62, -16, 28), (-72, -22, 74), 14, 13),
            Rod((-72, -20, 84), (-120, 20, 62), 8, 7),
            Hollow(Ball((-44, 5, 25), (27.5, 27.5, 27.5))),
        ],
        cortex=[(-140, 1.5), (110, 1.5)],
        cancellous=[(-140, 0.12), (110, 0.15)],
        melt=9,
    )


def _femur() -> Shape:
    return Shape(
        "femur",
        [
            Ball((-44, 5, 25), (24, 24, 24)),
            Rod((-40, 5, 29), (-6, 0, 58), 15, 18),
            Ball((9, -4, 55), (13, 16, 24), turn=14),
            Ball((-15, -12, 92), (8.5, 8, 15), turn=-22),
            Sweep(
                [
                    (50, 0, 0, 20, 18),
                    (80, -2, 0, 19.5, 17),
                    (105, -3, 1, 17, 15.5),
                    (140, -2, 4, 14.8, 14),
                    (200, 0, 7, 13.6, 13.8),
                    (270, 0, 7, 13.8, 13.8),
                    (330, 0, 4, 16.5, 14.5),
                    (368, 0, 1, 22, 16.5),
                    (394, 0, 0, 32, 19),
                    (408, 0, 0, 37.5, 21),
                    (422, 0, 2, 38, 20),
                ],
                smooth=8,
                round_=8,
            ),
            Rod((2, 0, 120), (1, -2.5, 200), 5, 6),
            Rod((1, -2.5, 200), (0, -1, 330), 6, 5),
            Ball((-21.5, -10, 418), (17.5, 30, 24), turn=4),
            Ball((21.5, -8, 417), (17.5, 30, 23), turn=-4),
            Ball((0, 14, 414), (22, 12, 17)),
            Ball((-36, -3, 402), (6, 10, 15), turn=16),
            Ball((37, -4, 406), (5, 10, 12), turn=-10),
            Hollow(Ball((0, -20, 441), (8.5, 24, 20))),
        ],
        cortex=[(0, 1.0), (60, 1.5), (95, 3.2), (140, 4.8), (220, 5.4), (300, 4.6), (350, 2.5),
                (385, 1.2), (445, 1.0)],
        cancellous=[(0, 0.25), (50, 0.19), (95, 0.08), (140, 0.01), (310, 0.0), (345, 0.05),
                    (390, 0.15), (445, 0.22)],
        melt=7,
        plates=(403.0,),
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
                    (-1, 0, -2, 35, 23),
                    (9, 0, -2, 37.5, 24),
                    (18, 0, -2, 35, 23),
                    (36, 0, 0, 25.5, 20),
                    (58, 0, 2, 19, 18),
                    (90, 0, 2, 15.5, 16.5),
                    (140, 0, 2, 13.2, 14.5),
                    (220, 0, 1, 11.8, 12.8),
                    (280, 0, 0, 12, 11.5),
                    (318, -1, 0, 15, 13.5),
                    (344, -2, 0, 20.5, 17),
                    (357, -2, 0, 22.5, 18.5),
                    (364, -2, 0, 22, 18),
                ],
                smooth=5,
                crest=0.10,
                round_=6,
            ),
            Ball((4, 19, 44), (9, 7, 20)),
            Ball((-5.5, -2, 0), (4, 6, 6)),
            Ball((5.5, -2, 0), (4, 6, 5)),
            Rod((-17, 0, 346), (-22.5, 1, 373), 9, 4.6),
            Hollow(Ball((-20, -2, -31), (26, 30, 33))),
            Hollow(Ball((20, -2, -31), (26, 30, 32.5))),
            Hollow(Ball((1, 0, 385), (22, 40, 25))),
        ],
        cortex=[(-8, 1.1), (20, 1.1), (50, 2.0), (100, 3.6), (190, 4.2), (280, 3.4), (320, 1.7),
                (345, 1.0), (375, 0.9)],
        cancellous=[(-8, 0.26), (25, 0.17), (60, 0.07), (100, 0.01), (270, 0.0), (310, 0.06),
                    (340, 0.17), (375, 0.26)],
        melt=5,
        plates=(14.0, 350.0),
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
        cortex=[(10, 0.9), (50, 1.5), (120, 2.0), (260, 2.0), (330, 1.4), (390, 0.8)],
        cancellous=[(10, 0.25), (50, 0.1), (90, 0.02), (300, 0.02), (345, 0.14), (390, 0.24)],
        plates=(355.0,),
    )


def _foot() -> list[Shape]:
    cortex, cancellous = [(360, 1.1)], [(360, 0.3)]
    return [
        Shape(
            "talus",
            [
                Sweep(
                    [
                        (366.5, 2.5, 2, 13, 13),
                        (370, 2.5, 2, 17.5, 19),
                        (380, 2.5, 0, 19, 23),
                        (391, 3, -3, 18, 24),
                        (398, 3, -4, 14, 19),
                    ],
                    smooth=2,
                    round_=6,
                ),
                Rod((0, 18, 386), (-6, 44, 396), 11, 13),
            ],
            cortex,
            cancellous,
        ),
        Shape(
            "calcaneus",
            [
                Rod((8, 12, 413), (6, -42, 416), 12, 14),
                Ball((6, -46, 420), (14, 15, 18)),
                Rod((8, 10, 413), (12, 42, 413), 12, 12),
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
        (420, 0, 2, 38, 33),
        (520, -1, 2, 29, 22),
    ),
    skin=0.16,
)
# lungs let most of the beam through: the chest counts as thinner than it is
_CHEST = SoftTissue(
    (
        (-220, -130, 0, 55, 40),
        (-100, -130, 0, 60, 40),
        (-40, -175, 0, 100, 40),
        (20, -195, 0, 120, 42),
        (140, -200, 0, 126, 46),
        (230, -200, 0, 124, 80),
        (600, -200, 0, 122, 90),
    ),
    skin=0.1,
    trunk=True,
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
        (352, -3, 1, 40, 12),
        (366, -3, 1, 32, 8),
    ),
    skin=0.1,
    tip=True,
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
        (365, 2, 2, 37, 50),
        (392, 2, 20, 40, 90),
        (425, 2, 44, 44, 122),
        (442, 2, 48, 44, 124),
    ),
    tip=True,
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
        (800, 3, -3, 36, 40),
    ),
    skin=0.14,
)


def _finger_flesh(z: float = 0.0) -> list[SoftTissue]:
    tubes = []
    for ray, (base, lean, *lengths) in _RAYS.items():
        along = rotation(y=lean) @ np.array([0, 0, 1.0])
        wide = 12.0 if ray == 1 else 9.4
        rows = []
        whole = sum(lengths) + 10
        steps = (-0.05, 0.1, 0.4, 0.55, 0.75, 0.92, 1.0)
        for share, grow in zip(steps, (0.8, 1.15, 1.1, 1.0, 0.95, 0.85, 0.6), strict=True):
            at = np.array(base) + along * share * whole
            rows.append((float(at[2] + z), float(at[0]), 0.0, wide * grow, wide * grow))
        tubes.append(SoftTissue(tuple(rows), skin=0.2, tip=True))
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
        (70, -4, 1, 37, 10),
        (84, -4, 1, 30, 7),
    ),
    skin=0.1,
    tip=True,
)


@cache
def limb_of(bone: str, ray: int = 5) -> Limb:
    """The limb in which `bone` lies; `ray` (2 to 5) chooses the metacarpal."""
    if bone == "humerus":
        return Limb(
            bone,
            (
                Part(_humerus(), follows="own"),
                *_parts([_scapula(), _clavicle(), *_ribs()], follows="trunk"),
                *_parts([_radius(), _ulna()], z=316, follows="far"),
            ),
            (_ARM_FLESH, _CHEST),
            joint=(-13.0, -3.0, 23.0),
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
                *_parts([_pelvis()], follows="trunk"),
                *_parts([_patella()], follows="far"),
                *_parts([_tibia(), _fibula()], z=447, follows="far"),
            ),
            (_THIGH_FLESH,),
            joint=(-44.0, 5.0, 25.0),
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
    inside = shape.depth(Points(x, y, z), x.shape, float(low[2]), float(high[2])) > 0
    return np.stack([x[inside], y[inside], z[inside]], axis=1)
