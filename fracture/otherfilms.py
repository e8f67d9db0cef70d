"""Medical pictures that are no radiograph of a limb, drawn by our own code, in outline.

Chest, spine, skull and teeth as thicknesses of simple bodies, sections (CT, MR) as densities, and
diagrams of broken bones as lines, alone or as panels of one kind. What people take for "an X-ray"
and drop: `fracture.foreign` lends them to the training and the test of the refusal. Pictures are
float32 (height, width) in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Array = np.ndarray
Rng = np.random.Generator


class Plane:
    """Coordinates of a picture's pixels: x to the right, y down, 1 = half of its shorter side."""

    def __init__(self, height: int, width: int) -> None:
        half = min(height, width) / 2
        self.y, self.x = np.mgrid[0:height, 0:width].astype(np.float32)
        self.y, self.x = (self.y - height / 2) / half, (self.x - width / 2) / half
        self.tall, self.wide = height / min(height, width), width / min(height, width)

    def around(self, x: float, y: float, turn: float = 0.0) -> tuple[Array, Array]:
        """Coordinates about a point, turned by an angle in radians."""
        c, s = math.cos(turn), math.sin(turn)
        return (self.x - x) * c + (self.y - y) * s, (self.y - y) * c - (self.x - x) * s

    def body(self, x: float, y: float, a: float, b: float, turn: float = 0.0) -> Array:
        """Thickness of an ellipsoid with half axes a, b; 1 in its middle."""
        u, v = self.around(x, y, turn)
        return np.sqrt(np.clip(1 - (u / a) ** 2 - (v / b) ** 2, 0, None))

    def block(
        self, x: float, y: float, a: float, b: float, turn: float = 0.0, rim: float = 0.02
    ) -> Array:
        """A rounded block with half sides a, b, denser at its rim, as a vertebra or a tooth."""
        u, v = self.around(x, y, turn)
        inner = np.maximum(np.abs(u) - a, np.abs(v) - b)  # < 0 inside
        inside = 1 / (1 + np.exp(np.clip(inner / (0.3 * rim), -40, 40)))
        return inside * (0.55 + 0.45 * np.exp(-((inner / rim) ** 2)))

    def band(self, off: Array, width: float) -> Array:
        """A soft band where `off`, a distance from its middle line, is small."""
        return np.exp(-((off / width) ** 2))


def grain(rng: Rng, like: Array, cells: int) -> Array:
    """A smooth random field, mean 0, about 1 high, with about `cells` bumps a side."""
    small = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(small.resize(like.shape[::-1], Image.Resampling.BICUBIC))


def exposed(rng: Rng, density: Array) -> Array:
    """A film of these thicknesses: saturating, uneven, grainy; dense is bright."""
    film = 1 - np.exp(-float(rng.uniform(0.8, 1.6)) * np.clip(density, 0, None))
    film = film / max(float(film.max()), 1e-6)
    film = film ** float(rng.uniform(0.7, 1.6)) + 0.03 * grain(rng, film, 6)
    blurred = Image.fromarray((np.clip(film, 0, 1) * 255).astype(np.uint8))
    blurred = blurred.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5))))
    noisy = np.asarray(blurred) / 255 + rng.normal(0, rng.uniform(0.005, 0.03), film.shape)
    return np.clip(noisy, 0, 1).astype(np.float32)


def spine_bones(plane: Plane, rng: Rng, x0: float, bend: float, size: float) -> Array:
    """A column of vertebrae from top to bottom, with processes."""
    bones = np.zeros_like(plane.x)
    y, side = -1.1 * plane.tall, float(rng.choice([-1, 1]))
    phase, lateral = rng.uniform(0, 3), rng.random() < 0.5
    while y < 1.1 * plane.tall:
        x = x0 + bend * math.sin(1.6 * y / plane.tall + phase)
        turn = bend * math.cos(1.6 * y / plane.tall + phase) * 0.9
        tall = 0.34 * size * float(rng.uniform(0.85, 1.1))
        bones += plane.block(x, y, 0.5 * size, tall, turn, 0.12 * size)
        if lateral:
            bones += 0.6 * plane.block(
                x + side * 1.1 * size, y + 0.2 * size, 0.5 * size, 0.12 * size, turn + side * 0.5
            )
        else:
            for s in (-1, 1):
                bones += 0.5 * plane.body(x + s * 0.75 * size, y, 0.4 * size, 0.14 * size)
                bones += 0.4 * plane.band(
                    np.hypot(*plane.around(x + s * 0.3 * size, y)) - 0.12 * size, 0.04 * size
                )
            bones += 0.5 * plane.body(x, y + 0.3 * size, 0.09 * size, 0.25 * size)
        y += tall * 2 * float(rng.uniform(1.1, 1.3))
    return bones


def rib_bones(plane: Plane, rng: Rng, x0: float, reach: float) -> Array:
    """Pairs of arcs that leave the column downwards and turn back."""
    bones = np.zeros_like(plane.x)
    step = float(rng.uniform(0.13, 0.22))
    for y in np.arange(-1.0, 0.7, step):
        for side in (-1, 1):
            u = side * (plane.x - x0)
            shown = (u > 0.05) & (u < reach)
            curve = y + 0.35 * u + 0.35 * u**2
            bones += shown * plane.band(plane.y - curve, 0.035)
            front = y + 0.55 - 0.3 * u + 0.3 * u**2
            bones += 0.4 * shown * plane.band(plane.y - front, 0.04)
    return bones


def chest(rng: Rng, height: int, width: int) -> Array:
    plane = Plane(height, width)
    reach, x0 = float(rng.uniform(0.65, 0.95)), float(rng.uniform(-0.3, 0.3))
    flesh = 1.4 * plane.body(x0, 0.1, 1.35 * reach + 0.2, 1.7 * plane.tall)
    air = sum(
        plane.body(x0 + s * 0.5 * reach, -0.05, 0.42 * reach, 0.75 * plane.tall, s * 0.12)
        for s in (-1, 1)
    )
    heart = plane.body(x0 + 0.15, 0.25, 0.33, 0.42, 0.5)
    belly = 0.8 / (1 + np.exp(np.clip(-(plane.y - 0.75) / 0.06, -40, 40)))
    bones = spine_bones(plane, rng, x0, float(rng.uniform(0, 0.05)), float(rng.uniform(0.1, 0.16)))
    bones = 0.35 * bones + 0.25 * rib_bones(plane, rng, x0, reach)
    return exposed(rng, flesh * (1 - 0.75 * np.clip(air, 0, 1)) + 0.7 * heart + belly + bones)


def spine(rng: Rng, height: int, width: int) -> Array:
    plane = Plane(height, width)
    size = float(rng.uniform(0.18, 0.42))
    x0, bend = float(rng.uniform(-0.3, 0.3)), float(rng.uniform(0, 0.25))
    slope = float(rng.uniform(-0.5, 0.5))
    flesh = 0.9 * plane.body(0.2 * slope, 0.3, 1.3, 2.2 * plane.tall) + slope * plane.x * 0.4
    bones = spine_bones(plane, rng, x0, bend, size)
    if rng.random() < 0.5:  # the pelvis, or its wing
        for side in (-1, 1):
            bones += plane.body(x0 + side * 0.6, 0.9 * plane.tall, 0.45, 0.4, side * 0.5)
    if rng.random() < 0.4:
        bones += 0.3 * rib_bones(plane, rng, x0, 0.9)
    for _ in range(int(rng.integers(0, 12))):  # gas
        at = rng.uniform(-0.8, 0.8, 2)
        flesh = flesh - 0.25 * plane.body(*at, *rng.uniform(0.04, 0.16, 2))
    return exposed(rng, flesh + 0.55 * bones + 0.05 * grain(rng, flesh, 30))


def skull(rng: Rng, height: int, width: int) -> Array:
    plane = Plane(height, width)
    x, y, a, b = 0.0, -0.2, float(rng.uniform(0.6, 0.85)), float(rng.uniform(0.65, 0.85))
    shell = plane.body(x, y, a, b) - 0.93 * plane.body(x, y, 0.94 * a, 0.94 * b)
    front = rng.random() < 0.5
    shift = 0.0 if front else float(rng.choice([-1, 1])) * 0.4
    face = 0.6 * plane.body(shift, 0.45, 0.5, 0.5)
    bones = 3.0 * shell + face + 0.3 * plane.body(x, y, a, b)
    for side in (-1, 1) if front else (0.6,):
        bones -= 0.4 * plane.body(shift + side * 0.27, 0.1, 0.18, 0.16)
        bones += 0.3 * plane.band(np.hypot(*plane.around(shift + side * 0.27, 0.1)) - 0.17, 0.03)
        bones += 0.5 * plane.block(shift + side * 0.4, 0.7, 0.08, 0.35, -0.3 * side)
    for n in range(10):
        for row in (0.66, 0.82):
            bones += 0.6 * plane.block(shift + (n - 4.5) * 0.075, row, 0.03, 0.06)
    neck = 0.5 * spine_bones(plane, rng, -0.4 * shift, 0.05, 0.16) * (plane.y > 0.6)
    return exposed(rng, bones + neck + 0.1 * grain(rng, bones, 14) * (bones > 0.1))


def teeth(rng: Rng, height: int, width: int) -> Array:
    plane = Plane(height, width)
    size = float(rng.choice([rng.uniform(0.08, 0.14), rng.uniform(0.25, 0.4)]))
    jaw = (
        0.7 + 0.3 * np.abs(plane.y) + 0.12 * grain(rng, plane.x, 60) + 0.1 * grain(rng, plane.x, 5)
    )
    arch = float(rng.uniform(-0.25, 0.25))
    for x in np.arange(-1.1 * plane.wide, 1.1 * plane.wide, 2.15 * size):
        for side in (-1, 1):
            y = arch * (x / plane.wide) ** 2 + side * 1.3 * size + float(rng.normal(0, 0.01))
            jaw += 1.1 * plane.block(x, y, 0.92 * size, 0.9 * size, rng.normal(0, 0.08), 0.3 * size)
            for root in (-0.45, 0.45) if size > 0.2 else (0,):
                at = x + root * size, y + side * 1.9 * size
                jaw += 0.6 * plane.body(*at, 0.4 * size, 1.7 * size)
                jaw -= 0.3 * plane.body(*at, 0.1 * size, 1.5 * size)
    jaw *= 0.3 + 0.7 * (np.abs(plane.y - arch * (plane.x / plane.wide) ** 2) > 0.15 * size)
    return exposed(rng, jaw)


def section(rng: Rng, height: int, width: int) -> Array:
    """A slice of CT (bright rings of bone in grey flesh) or MR (bright marrow), on black."""
    plane = Plane(height, width)
    wavy = 1 + 0.08 * grain(rng, plane.x, 5)
    long_ = rng.random() < 0.5
    a, b = (rng.uniform(0.25, 0.5), 2.0) if long_ else rng.uniform(0.6, 0.95, 2)
    turn, soft = float(rng.normal(0, 0.15)), float(rng.uniform(0.15, 0.4))
    u, v = plane.around(0, 0, turn)
    body = (np.hypot(u / a, v / b) * wavy < 1).astype(np.float32)
    picture = body * (soft + 0.06 * grain(rng, body, 12))
    marrow, cortex = (0.35, 0.95) if rng.random() < 0.6 else (0.9, 0.05)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.5, 0.5, 2) * (a, 0.5)
        r = float(rng.uniform(0.12, 0.35)) * a
        if long_:
            thick = r * (1 + 0.8 * np.exp(-(((v - y - 0.9) / 0.3) ** 2)))
            off = np.abs(u - x) / thick
        else:
            off = np.hypot(u - x, (v - y) / rng.uniform(0.7, 1.3)) / r
        picture = np.where((off < 1) & (body > 0), cortex, picture)
        inner = float(rng.uniform(0.5, 0.8))
        picture = np.where((off < inner) & (body > 0), marrow, picture)
    noise = rng.normal(0, rng.uniform(0.01, 0.04), picture.shape)
    image = Image.fromarray((np.clip(picture + noise, 0, 1) * 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.2))))
    return np.asarray(image, dtype=np.float32) / 255


def diagram(rng: Rng, height: int, width: int) -> Array:
    """Bones as a textbook draws them: outlines or flat fills, labels, arrows."""
    paper = int(rng.choice([255, 255, 200, 0]))
    ink = 255 - paper if rng.random() < 0.6 else int(rng.integers(60, 200))
    fill = int(rng.choice([paper, 255, int(rng.integers(120, 240))]))
    image = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(image)
    count = int(rng.integers(1, 5))
    for n in range(count):
        middle, tall = (n + 0.5) * width / count, height * float(rng.uniform(0.55, 0.85))
        r = min(width / count, tall) * float(rng.uniform(0.06, 0.12))
        top, line = (height - tall) / 2, max(1, int(min(height, width) / 150))
        if rng.random() < 0.5:  # the limb around the bone
            box = [middle - 2.6 * r, top - r, middle + 2.6 * r, top + tall + r]
            draw.rounded_rectangle(box, int(2.4 * r), outline=ink, width=line,
                                   fill=int(rng.integers(100, 250)))  # fmt: skip
        bones = (-1.0, 1.0) if rng.random() < 0.4 else (0.0,)
        for off in bones:
            x, wide = middle + off * 1.2 * r, r * (0.7 if off else 1)
            steps = np.linspace(0, 1, 24)
            half = wide * (0.55 + 0.8 * np.abs(2 * steps - 1) ** 4)
            outline = [(x - h, top + tall * t) for h, t in zip(half, steps, strict=True)]
            outline += [(x + h, top + tall * t)
                        for h, t in zip(half[::-1], steps[::-1], strict=True)]  # fmt: skip
            draw.polygon(outline, fill=fill, outline=ink, width=line)
            y = top + tall * float(rng.uniform(0.3, 0.7))
            crack = [(x + wide * s, y + wide * rng.uniform(-0.8, 0.8)) for s in (-0.7, 0, 0.7)]
            draw.line(crack, fill=ink if ink != fill else 128, width=2 * line)
        if rng.random() < 0.5:
            draw.text((middle - 2 * r, height * 0.94), "Fracture", fill=ink)
        if rng.random() < 0.4:
            y = height * float(rng.uniform(0.3, 0.7))
            draw.line([middle - 5 * r, y, middle - 2 * r, y], fill=ink, width=2 * line)
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1))))
    return np.asarray(image, dtype=np.float32) / 255


def panels(rng: Rng, height: int, width: int) -> Array:
    """Two or three pictures of one of the other kinds side by side, lettered, as in an article."""
    kinds = list(_OTHERS.values())
    picture = np.full((height, width), float(rng.choice([0.0, 1.0])), dtype=np.float32)
    count = int(rng.integers(2, 4))
    one = kinds[int(rng.integers(len(kinds)))]
    edges = np.linspace(0, width, count + 1).astype(int)
    for left, right in pairwise(edges):
        picture[2 : height - 2, left + 2 : right - 2] = one(rng, height - 4, right - left - 4)
    image = Image.fromarray((picture * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for letter, left in zip("ABC", edges, strict=False):
        draw.text((int(left) + 8, 8), letter, fill=255, stroke_width=1, stroke_fill=0)
    return np.asarray(image, dtype=np.float32) / 255


_OTHERS: dict[str, Callable[[Rng, int, int], Array]] = {
    "chest": chest,
    "spine": spine,
    "skull": skull,
    "teeth": teeth,
    "section": section,
    "diagram": diagram,
}
OTHER_FILMS: dict[str, Callable[[Rng, int, int], Array]] = _OTHERS | {"panels": panels}
