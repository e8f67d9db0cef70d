"""Pictures that are no radiograph of a limb, drawn by our own code.

What people drop by mistake, in outline: photographs, faces, pets, charts, pages of text, screens,
blank pages, noise, and the medical pictures of `fracture.otherfilms`. Used to train and to test
the refusal of foreign pictures (`fracture.gate`) without anybody's photographs.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fracture.otherfilms import OTHER_FILMS

KINDS = ("photo", "face", "cat", "chart", "text", "screen", "shapes", "texture", "blank", "noise",
         *OTHER_FILMS)  # fmt: skip


def draw_foreign(kind: str, rng: np.random.Generator) -> np.ndarray:
    """One picture of a kind of `KINDS`, uint8 (H, W, 3), sides 200 to 700 pixels.

    Medical pictures, and a third of the others, come out grey, so that colour alone never gives a
    picture away. Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"no foreign picture is called {kind!r}; there are {', '.join(KINDS)}")
    height, width = (int(v) for v in rng.integers(200, 700, 2))
    if kind in OTHER_FILMS:
        grey = OTHER_FILMS[kind](rng, height, width)
        return np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=2)
    picture = _DRAW[kind](rng, height, width)
    if rng.random() < 0.33:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    return np.ascontiguousarray(picture)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3)
    return int(red), int(green), int(blue)


def _canvas(height: int, width: int, colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def _clouds(rng: np.random.Generator, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth random fields of several grain sizes, [0, 1]."""
    total = np.zeros((height, width, channels), dtype=np.float32)
    for cells in (3, 6, 12, 25, 50):
        coarse = rng.random((cells, cells, channels)).astype(np.float32)
        layers = [
            np.asarray(Image.fromarray(coarse[..., c]).resize((width, height), Image.BICUBIC))
            for c in range(channels)
        ]
        total += np.stack(layers, axis=-1) / math.sqrt(cells)
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def _photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Sky, ground and blobs with shading: the statistics of a snapshot."""
    ground = _clouds(rng, height, width)
    sky = np.linspace(1, 0, height, dtype=np.float32)[:, None, None] * np.array(
        [0.5, 0.7, 1.0], dtype=np.float32
    )
    horizon = int(height * rng.uniform(0.2, 0.7))
    picture = ground.copy()
    picture[:horizon] = 0.25 * ground[:horizon] + 0.75 * sky[:horizon]
    image = Image.fromarray((picture * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 15))):
        x, y = rng.integers(0, width), rng.integers(horizon // 2, height)
        r = int(rng.integers(10, max(11, width // 5)))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape([int(x - r), int(y - r), int(x + r), int(y + r)], fill=_colour(rng))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 2)))))


def _head(rng: np.random.Generator, height: int, width: int, ears: bool) -> np.ndarray:
    image = Image.fromarray((_clouds(rng, height, width) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    size = min(height, width)
    x, y = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.45, 0.6)
    r = size * rng.uniform(0.2, 0.38)
    skin, dark = _colour(rng), tuple(int(v) for v in rng.integers(0, 60, 3))

    def oval(cx: float, cy: float, rx: float, ry: float, fill: tuple[int, ...]) -> None:
        draw.ellipse([cx - rx, cy - ry, cx + rx, cy + ry], fill=fill)

    if ears:
        for side in (-1, 1):
            tip = (x + side * 0.85 * r, y - 1.5 * r)
            draw.polygon(
                [(x + side * 0.15 * r, y - 0.8 * r), tip, (x + side * 0.98 * r, y - 0.2 * r)], skin
            )
    oval(x, y, r, r * (0.9 if ears else 1.3), skin)
    for side in (-1, 1):
        oval(x + side * 0.4 * r, y - 0.2 * r, 0.2 * r, 0.13 * r, (245, 245, 240))
        oval(x + side * 0.4 * r, y - 0.2 * r, 0.08 * r, 0.12 * r, dark)
    if ears:
        draw.polygon(
            [(x - 0.1 * r, y + 0.2 * r), (x + 0.1 * r, y + 0.2 * r), (x, y + 0.35 * r)], dark
        )
        for side in (-1, 1):
            for slope in (-0.15, 0.0, 0.15):
                draw.line(
                    [
                        (x + side * 0.2 * r, y + 0.3 * r),
                        (x + side * 1.3 * r, y + (0.3 + slope) * r),
                    ],
                    fill=dark,
                    width=2,
                )
    else:
        draw.arc([x - 0.5 * r, y + 0.2 * r, x + 0.5 * r, y + 0.8 * r], 20, 160, fill=dark, width=4)
        oval(x, y - 1.1 * r, 1.05 * r, 0.5 * r, dark)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2.5)))))


def _face(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return _head(rng, height, width, ears=False)


def _cat(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return _head(rng, height, width, ears=True)


def _chart(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    paper = (255, 255, 255) if rng.random() < 0.7 else (20, 24, 30)
    ink = tuple(255 - v for v in paper)
    image = _canvas(height, width, paper)
    draw = ImageDraw.Draw(image)
    left, bottom = int(width * 0.12), int(height * 0.88)
    draw.line([(left, int(height * 0.08)), (left, bottom), (int(width * 0.95), bottom)], ink, 2)
    bars = int(rng.integers(3, 12))
    step = (width * 0.8) / bars
    points = []
    for i in range(bars):
        x, top = left + 5 + i * step, bottom - rng.uniform(0.1, 0.75) * height
        points.append((x + step / 2, top))
        if rng.random() < 0.6:
            draw.rectangle([x, top, x + step * 0.7, bottom], fill=_colour(rng))
        draw.text((x, bottom + 4), str(int(rng.integers(0, 99))), fill=ink)
    draw.line(points, fill=_colour(rng), width=3)
    return np.asarray(image)


def _lines_of_text(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], ink: tuple
) -> None:
    letters = np.array(list("aabcdeeefghiiklmnnooprrssttuvw     "))
    for y in range(box[1], box[3], 14):
        count = int((box[2] - box[0]) / 6 * rng.uniform(0.5, 1))
        draw.text((box[0], y), "".join(rng.choice(letters, max(1, count))), fill=ink)


def _text(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    image = _canvas(height, width, tuple(int(v) for v in rng.integers(220, 256, 3)))
    draw = ImageDraw.Draw(image)
    _lines_of_text(rng, draw, (20, 20, width - 20, height - 20), (20, 20, 20))
    return np.asarray(image.rotate(float(rng.uniform(-4, 4)), fillcolor=(128, 128, 128)))


def _screen(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    image = _canvas(height, width, _colour(rng))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, width, 24], fill=_colour(rng))
    for _ in range(int(rng.integers(2, 6))):
        x, y = int(rng.integers(0, width // 2)), int(rng.integers(30, max(31, height // 2)))
        right, low = x + int(rng.integers(80, width)), y + int(rng.integers(60, height))
        draw.rectangle([x, y, right, low], fill=_colour(rng), outline=_colour(rng))
        _lines_of_text(rng, draw, (x + 6, y + 6, right - 6, low - 12), _colour(rng))
    return np.asarray(image)


def _shapes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    image = _canvas(height, width, _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 25))):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(10, width), rng.integers(10, height)
        box = [int(x), int(y), int(x + w), int(y + h)]
        [draw.ellipse, draw.rectangle, draw.line][int(rng.integers(3))](box, fill=_colour(rng))
    return np.asarray(image)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period = rng.uniform(0, math.pi), rng.uniform(6, 60)
    wave = np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period)
    if rng.random() < 0.5:
        wave = wave * np.sin(2 * math.pi * (y * math.cos(angle) - x * math.sin(angle)) / period)
    tint = rng.uniform(0.3, 1, 3)
    mixed = (0.5 + 0.4 * np.sign(wave) * np.abs(wave) ** 0.3)[..., None] * tint
    return (255 * np.clip(mixed + 0.2 * (_clouds(rng, height, width) - 0.5), 0, 1)).astype(np.uint8)


def _blank(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    ramp = np.linspace(0, rng.uniform(-60, 60), width if rng.random() < 0.5 else height)
    field = ramp[None, :] if len(ramp) == width else ramp[:, None]
    plain = np.broadcast_to(field, (height, width))[..., None] + np.array(_colour(rng))
    return np.clip(plain + rng.normal(0, 1.5, (height, width, 1)), 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    grain = int(rng.integers(1, 12))
    small = rng.integers(0, 256, (height // grain + 1, width // grain + 1, 3), dtype=np.uint8)
    return np.repeat(np.repeat(small, grain, 0), grain, 1)[:height, :width]


_DRAW = {
    "photo": _photo,
    "face": _face,
    "cat": _cat,
    "chart": _chart,
    "text": _text,
    "screen": _screen,
    "shapes": _shapes,
    "texture": _texture,
    "blank": _blank,
    "noise": _noise,
}
