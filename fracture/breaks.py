"""How a bone breaks: the pieces, the rough surfaces between them, and where each piece went.

The patterns follow the AO/OTA Fracture and Dislocation Classification Compendium, 2018 revision
(Meinberg et al., J Orthop Trauma 32 Suppl 1): simple (two fragments that meet again), wedge (a
third fragment, the main ones still touch), and multifragmentary (they do not); children's
incomplete fractures follow the AO Pediatric Comprehensive Classification (PCCF).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fracture.bones import rotation

__all__ = ["STAY", "Break", "Injury", "Motion", "Piece", "break_bone", "noise", "spongy_block"]

Array = np.ndarray
Field = Callable[[Array, Array, Array], Array]

_CELLS = 64  # cells along each side of a noise block; a power of two, so that it repeats
_CELL = 0.5  # mm per cell


@dataclass(frozen=True)
class Motion:
    """A rigid motion: q = matrix @ (p - pivot) + pivot + shift (mm)."""

    matrix: Array
    pivot: Array
    shift: Array

    @property
    def offset(self) -> Array:
        """The same motion as q = matrix @ p + offset."""
        return self.pivot + self.shift - self.matrix @ self.pivot


STAY = Motion(np.eye(3), np.zeros(3), np.zeros(3))


@dataclass(frozen=True)
class Piece:
    """A part of the bone that moves as one.

    margin: how deep a point of the unbroken bone lies inside this piece, mm; None: all of it.
    band:   heights between which the margin can be small; above it (smaller z) all of the bone
            belongs to the piece if `above`, below it if `below`, else none.
    motion: where the piece went.
    loose:  a fragment between the two main ones.
    """

    margin: Field | None
    band: tuple[float, float]
    above: bool
    below: bool
    motion: Motion
    loose: bool = False


@dataclass(frozen=True)
class Buckle:
    """The outward bulge of a torus fracture around height z, as a share of the radius."""

    centre: tuple[float, float]
    z: float
    width: float
    amount: float
    direction: tuple[float, float]

    def undo(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Where the material at (x, y, z) was before it bulged."""
        px, py = x - self.centre[0], y - self.centre[1]
        away = (z - self.z) * (1 / self.width)
        side = px * self.direction[0] + py * self.direction[1]
        side = side / np.sqrt(px * px + py * py + 1)
        shrink = 1 / (1 + self.amount * (0.55 + 0.45 * side) * np.exp(-away * away))
        return self.centre[0] + px * shrink, self.centre[1] + py * shrink


@dataclass(frozen=True)
class Break:
    """A broken (or intact) bone: its pieces, the middle of the injury and the bone's radius there.

    far:    the motion of everything beyond the fracture.
    seams:  True if the surfaces between the pieces are to be seen (not in a torus fracture).
    """

    pieces: tuple[Piece, ...]
    centre: tuple[float, float, float]
    radius: float
    far: Motion
    buckle: Buckle | None = None
    seams: bool = True


@dataclass(frozen=True)
class Injury:
    """What `break_bone` needs to know; lengths in mm of the unscaled bone, angles in degrees."""

    pattern: str
    fragments: int
    gap: float
    displacement: float
    direction: float
    angulation: float
    shortening: float
    rotation: float


@lru_cache(maxsize=4)
def noise_block(low: float = 0.06, high: float = 0.9, fall: float = 2.1) -> Array:
    """Smooth random field, float32 (64**3,), mean 0, standard deviation 1, repeating every 32 mm.

    low, high: frequencies in it, per mm. fall: how much weaker the high ones are (a power).
    As it stands: lengths from 1 to 16 mm, the long ones stronger, like a surface of broken bone.
    """
    rng = np.random.default_rng(20180101)
    spectrum = np.fft.rfftn(rng.standard_normal((_CELLS,) * 3))
    f = np.fft.fftfreq(_CELLS, _CELL)
    fz = np.fft.rfftfreq(_CELLS, _CELL)
    r = np.sqrt(f[:, None, None] ** 2 + f[None, :, None] ** 2 + fz**2)
    spectrum *= np.where((r > low) & (r < high), np.maximum(r, low) ** -fall, 0)
    field = np.fft.irfftn(spectrum, s=(_CELLS,) * 3, axes=(0, 1, 2))
    return (field / field.std()).astype(np.float32).ravel()


@lru_cache(maxsize=1)
def spongy_block() -> Array:
    """Spongy bone, float32 (64**3,), mean 1: thin plates, about 2 mm apart, with marrow between."""
    plates = np.exp(-((noise_block(0.25, 0.7, 0.5) / 0.5) ** 2))
    return (plates / plates.mean()).astype(np.float32)


def noise(
    x: Array, y: Array, z: Array, shift: tuple[float, float, float], block: Array | None = None
) -> Array:
    """A block (by default the noise block) at points in mm, moved by `shift` mm."""
    scale, mask = 1 / _CELL, _CELLS - 1
    index = ((x + shift[0]) * scale + 1e4).astype(np.int32) & mask
    index = (index << 6) | (((y + shift[1]) * scale + 1e4).astype(np.int32) & mask)
    index = (index << 6) | (((z + shift[2]) * scale + 1e4).astype(np.int32) & mask)
    return (noise_block() if block is None else block)[index]


def _plane(
    centre: tuple[float, float, float], slope: float, azimuth: float, rough: float, shift: tuple
) -> Field:
    """Signed distance beyond a rough plane that rises by `slope` towards `azimuth` (degrees)."""
    cx, cy, cz = centre
    ux = slope * math.cos(math.radians(azimuth))
    uy = slope * math.sin(math.radians(azimuth))
    cosine = 1 / math.sqrt(1 + slope * slope)

    def field(x: Array, y: Array, z: Array) -> Array:
        flat = (z - cz) - ux * (x - cx) - uy * (y - cy)
        return flat * cosine + rough * noise(x, y, z, shift)

    return field


def _helix(
    centre: tuple[float, float, float], pitch: float, azimuth: float, turn: float,
    radius: float, rough: float, shift: tuple,
) -> Field:
    """Signed distance beyond a screw surface of one turn, closed by a split along the shaft."""
    cx, cy, cz = centre
    c, s = math.cos(math.radians(azimuth)), math.sin(math.radians(azimuth))
    climb = turn * pitch / (2 * math.pi)
    cosine = 1 / math.sqrt(1 + (climb / radius) ** 2)

    def field(x: Array, y: Array, z: Array) -> Array:
        px, py = x - cx, y - cy
        u, v = c * px + s * py, c * py - s * px
        v = v + 0.5 * rough * noise(x, y, z, shift[::-1])
        flat = ((z - cz) - climb * np.arctan2(v, u)) * cosine + rough * noise(x, y, z, shift)
        # the split lies on the half plane u < 0, v = 0, over the height of the turn
        split = np.where((u < 0) & (np.abs(z - cz) < pitch / 2), np.abs(v), 1e3)
        return np.sign(flat) * np.minimum(np.abs(flat), split)

    return field


def _invert(field: Field) -> Field:
    return lambda x, y, z: -field(x, y, z)


def _both(*fields: Field) -> Field:
    """Inside all of the fields."""

    def field(x: Array, y: Array, z: Array) -> Array:
        result = fields[0](x, y, z)
        for other in fields[1:]:
            result = np.minimum(result, other(x, y, z))
        return result

    return field


def _cell(sites: Array, own: int, stretch: float, rough: float, shift: tuple) -> Field:
    """Depth inside the Voronoi cell of one site; z counts `stretch` times as much as x and y."""
    here = sites[own]

    def field(x: Array, y: Array, z: Array) -> Array:
        wave = rough * noise(x, y, z, shift)
        x, y = x + wave, y + rough * noise(x, y, z, shift[::-1])
        result = None
        for j, there in enumerate(sites):
            if j == own:
                continue
            gap = (there - here) * (1, 1, stretch)
            length = float(np.linalg.norm(gap))
            nx, ny, nz = (gap / length * (1, 1, stretch)).tolist()
            mx, my, mz = ((there + here) / 2).tolist()
            side = (mx - x) * nx + (my - y) * ny + (mz - z) * nz
            result = side if result is None else np.minimum(result, side)
        return np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), 1e3, np.float32) if (
            result is None
        ) else result

    return field


def _spread_sites(points: Array, count: int, stretch: float, rng: np.random.Generator) -> Array:
    """Sites whose Voronoi cells share the points out evenly but not equally (k-means)."""
    points = points.astype(np.float64)
    scaled = points * (1, 1, stretch)
    sites = scaled[rng.choice(len(scaled), count, replace=False)]
    for _ in range(4):
        owner = ((scaled[:, None] - sites[None]) ** 2).sum(-1).argmin(1)
        sites = np.stack(
            [scaled[owner == k].mean(0) if (owner == k).any() else sites[k] for k in range(count)]
        )
    return sites / (1, 1, stretch)


def _tilt(direction: Array, degrees: float) -> Array:
    """Rotation that leans the z axis towards a horizontal unit vector."""
    axis = np.cross((0, 0, 1.0), direction)
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    a = math.radians(degrees)
    return np.eye(3) + math.sin(a) * k + (1 - math.cos(a)) * k @ k


def break_bone(points: Array, height: float, injury: Injury, rng: np.random.Generator) -> Break:
    """Break a bone at `height`.

    points: inside the bone, float32 (n, 3), mm, in the bone's frame (z down the shaft).
    Returns pieces that are never empty: every one holds some of the points.
    """
    level = points[np.abs(points[:, 2] - height) < 3]
    middle = level.mean(axis=0)
    centre = (float(middle[0]), float(middle[1]), float(height))
    radius = float(np.sqrt(((level - middle)[:, :2] ** 2).sum(1).mean()) * math.sqrt(2))
    direction = np.array(
        [math.cos(math.radians(injury.direction)), math.sin(math.radians(injury.direction)), 0]
    )
    shift = tuple(rng.uniform(0, 32, 3).tolist())
    rough = 0.07 * radius
    azimuth = injury.direction + rng.uniform(-50, 50)

    if injury.pattern == "intact":
        whole = Piece(None, (0, 0), True, True, STAY)
        return Break((whole,), centre, radius, STAY)
    if injury.pattern in ("greenstick", "torus"):
        return _hinge(points, injury, centre, radius, direction, rough, shift, rng)

    pivot = np.array(centre)
    turn = _tilt(direction, injury.angulation) @ rotation(z=injury.rotation)
    travel = injury.displacement * direction
    travel = travel + np.array([0, 0, injury.gap - injury.shortening])
    far = Motion(turn, pivot, travel)

    def partway(site: Array, share: float, outward: Array, spin: float) -> Motion:
        lean = _tilt(direction, injury.angulation * share)
        spun = rotation(*rng.normal(0, spin, 3)) if spin else np.eye(3)
        moved = lean @ (site - pivot) + pivot - site + share * travel
        return Motion(lean @ spun, site, moved + outward)

    fields: list[tuple[Field, Motion, bool]]
    if injury.pattern in ("transverse", "oblique", "spiral"):
        if injury.pattern == "spiral":
            pitch = radius * rng.uniform(5.5, 8.5)
            surface = _helix(
                centre, pitch, azimuth, rng.choice([-1, 1]), radius, rough * 0.6, shift
            )
        else:
            slope = math.tan(
                math.radians(
                    rng.uniform(2, 14) if injury.pattern == "transverse" else rng.uniform(38, 58)
                )
            )
            jag = rough * (1.15 if injury.pattern == "transverse" else 0.8)
            surface = _plane(centre, slope, azimuth, jag, shift)
        fields = [(_invert(surface), STAY, False), (surface, far, False)]
    elif injury.pattern == "segmental":
        half = radius * rng.uniform(2.0, 3.4)
        tops = [(centre[0], centre[1], height + side * half) for side in (-1, 1)]
        slopes = rng.uniform(0.25, 0.9, 2) * rng.choice([-1, 1], 2)
        first = _plane(tops[0], float(slopes[0]), azimuth, 1.2 * rough, shift)
        second = _plane(tops[1], float(slopes[1]), azimuth + 40, 1.2 * rough, shift[::-1])
        # the middle piece leans the other way, as muscles pull it
        share = 0.5
        lean = _tilt(direction, injury.angulation * rng.uniform(-0.3, 0.5))
        side = direction * injury.displacement * rng.uniform(0.55, 0.95)
        middle_motion = Motion(lean, pivot, side + share * travel * (0, 0, 1))
        fields = [
            (_invert(first), STAY, False),
            (_both(first, _invert(second)), middle_motion, True),
            (second, far, False),
        ]
    elif injury.pattern == "wedge":
        slope = math.tan(math.radians(rng.uniform(52, 62)))
        side = np.array([math.cos(math.radians(azimuth)), math.sin(math.radians(azimuth)), 0])
        apex = pivot - side * 0.2 * radius
        upper = _plane(tuple(apex.tolist()), -slope, azimuth, rough * 0.7, shift)
        lower = _plane(tuple(apex.tolist()), slope * rng.uniform(0.8, 1), azimuth, rough * 0.7,
                       shift[::-1])
        wedge = _both(upper, _invert(lower))
        split = _plane(centre, rng.uniform(-0.3, 0.3), azimuth + 90, rough, shift)
        outside = _invert(wedge)
        fields = [
            (_both(outside, _invert(split)), STAY, False),
            (_both(outside, split), far, False),
        ]
        fields += _shatter(
            points, wedge, injury, pivot, radius, rough, shift, rng, partway, outward=side
        )
    else:  # multifragmentary
        # near a joint the fracture must not reach its surface
        room = 0.5 * (float(points[:, 2].max()) - height)
        half = min(radius * rng.uniform(1.5, 2.3), room)
        steep = min(0.8, 0.45 * half / radius)
        tops = [(centre[0], centre[1], height + side * half) for side in (-1, 1)]
        first = _plane(tops[0], rng.uniform(-steep, steep), azimuth, rough, shift)
        second = _plane(tops[1], rng.uniform(-steep, steep), azimuth + rng.uniform(60, 120),
                        rough, shift[::-1])
        fields = [(_invert(first), STAY, False), (second, far, False)]
        fields += _shatter(
            points, _both(first, _invert(second)), injury, pivot, radius, rough, shift, rng, partway
        )
    pieces = tuple(_piece(points, *entry) for entry in fields)
    return Break(pieces, centre, radius, far)


def _shatter(
    points: Array, zone: Field, injury: Injury, pivot: Array, radius: float, rough: float,
    shift: tuple, rng: np.random.Generator, partway: Callable, outward: Array | None = None,
) -> list[tuple[Field, Motion, bool]]:
    """The loose fragments: the zone, shared out into Voronoi cells that fly apart by the gap."""
    count = injury.fragments - 2
    near = points[np.abs(points[:, 2] - pivot[2]) < 8 * radius]
    inside = near[zone(near[:, 0], near[:, 1], near[:, 2]) > 0]
    stretch = 0.45
    sites = _spread_sites(inside, count, stretch, rng)
    low, high = inside[:, 2].min(), inside[:, 2].max()
    loose = []
    for k in range(count):
        radial = (sites[k] - pivot) * (1, 1, 0)
        if outward is not None:
            radial = outward * radius + 0.4 * radial
        radial = radial + rng.normal(0, 0.35 * radius, 3) * (1, 1, 0.6)
        radial /= np.linalg.norm(radial) + 0.2 * radius
        share = float((sites[k, 2] - low) / (high - low + 1e-6))
        share = 0.5 * share + 0.25
        away = radial * injury.gap * rng.uniform(0.6, 1.5)
        spin = min(2.0 + 2.2 * injury.gap, 14.0)
        cell = _cell(sites, k, stretch, 1.6 * rough, shift) if count > 1 else None
        field = zone if cell is None else _both(zone, cell)
        loose.append((field, partway(sites[k], share, away, spin), True))
    return loose


def _piece(points: Array, field: Field, motion: Motion, loose: bool) -> Piece:
    margin = field(points[:, 0], points[:, 1], points[:, 2])
    inside = points[margin > -0.5, 2]
    if not len(inside):  # cannot happen for the settings on offer; better loud than invisible
        raise RuntimeError("a fragment came out empty")
    edge = points[np.abs(margin) < 4, 2]
    band = (float(edge.min()) - 3, float(edge.max()) + 3)
    low, high = float(points[:, 2].min()), float(points[:, 2].max())
    above = not loose and float(inside.min()) <= low + 1
    below = not loose and float(inside.max()) >= high - 1
    return Piece(field, band, above, below, motion, loose)


def _hinge(
    points: Array, injury: Injury, centre: tuple[float, float, float], radius: float,
    direction: Array, rough: float, shift: tuple, rng: np.random.Generator,
) -> Break:
    """An incomplete fracture: the two halves turn about the cortex that held.

    Where it held, each half reaches over the seam by just what the turn opens, so that the bone
    stays whole there; a greenstick fracture gapes on the other side, a torus fracture nowhere.
    """
    angle = math.radians(injury.angulation)
    pivot = np.array(centre) + 0.95 * radius * direction
    turn = Motion(_tilt(direction, injury.angulation), pivot, np.zeros(3))
    surface = _plane(
        centre, math.tan(math.radians(rng.uniform(-14, 14))), injury.direction + 90,
        0.8 * rough, shift,
    )
    px, py = float(pivot[0]), float(pivot[1])
    dx, dy = float(direction[0]), float(direction[1])
    seal = 0.4 if injury.pattern == "torus" else 0.0  # compressed bone is denser
    torn = 1e6 if injury.pattern == "torus" else radius * rng.uniform(0.8, 1.15)

    def half(sign: int) -> Field:
        def field(x: Array, y: Array, z: Array) -> Array:
            arm = np.maximum((px - x) * dx + (py - y) * dy, 0)  # distance from the hinge
            held = np.clip((torn - arm) * (1 / (0.3 * radius)), 0, 1)
            return sign * surface(x, y, z) + held * (arm * (0.5 * math.tan(angle)) + seal)

        return field

    pieces = tuple(
        _piece(points, half(sign), motion, False) for sign, motion in ((-1, STAY), (1, turn))
    )
    buckle = None
    if injury.pattern == "torus":
        buckle = Buckle(
            centre[:2], centre[2], radius * rng.uniform(0.3, 0.45), rng.uniform(0.10, 0.17),
            (dx, dy),
        )
    return Break(pieces, centre, radius, turn, buckle, seams=injury.pattern != "torus")
