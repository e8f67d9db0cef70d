"""From bones in space to thicknesses on a film: the view, the rays, and the flesh around."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fracture.bones import Grid, Limb, Points, Shape, SoftTissue, rotation, table_index
from fracture.breaks import Break, Motion, Piece, noise, spongy_block
from fracture.scenario import INCOMPLETE, Settings
from fracture.xray import blur, noise_image

__all__ = ["Texture", "View", "aim", "cast", "flesh"]

Array = np.ndarray
CHILD = 0.62  # size of the child whose bones bend before they break


@dataclass(frozen=True)
class View:
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


def aim(limb: Limb, settings: Settings, level: float, rng: np.random.Generator) -> View:
    child = settings.pattern in INCOMPLETE
    scale = (CHILD if child else 1.0) * float(rng.uniform(0.93, 1.07))
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
    return View(
        matrix, lean @ front, origin, (height, width), pixel, scale, side, a, math.radians(tilt)
    )


def _flesh_middle(flesh: SoftTissue, z: float) -> tuple[float, float]:
    rows = np.array(flesh.rows)
    return float(np.interp(z, rows[:, 0], rows[:, 1])), float(np.interp(z, rows[:, 0], rows[:, 2]))


# ---------------------------------------------------------------------------------------------
# Rays through bone


@dataclass(frozen=True)
class Texture:
    """This patient's bone: factors on cortex and spongy bone, how coarse the latter looks (0 to 1).

    shift: where in the noise blocks it lies. child: True if it has growth plates.
    """

    cortex: float
    cancellous: float
    grain: float
    shift: tuple[float, float, float]
    child: bool


def cast(
    shape: Shape, piece: Piece, matrix: Array, offset: Array, view: View, texture: Texture,
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
    texture: Texture, broken: Break | None,
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


def flesh(limb: Limb, view: View, fracture: Break, texture_rng: np.random.Generator,
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
