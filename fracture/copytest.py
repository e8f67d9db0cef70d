"""How well copies are found: make copies of real films, and see which find their film again."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from fracture.copies import (
    THRESHOLD,
    Links,
    Progress,
    Signatures,
    find_copies,
    open_thumbnail,
    signature_of,
)
from fracture.labels import Record

Kind = Callable[[Image.Image, np.random.Generator], Image.Image]


@dataclass(frozen=True)
class GroupingResult:
    """What :func:`evaluate_grouping` found.

    Attributes:
        films: films among which copies were looked for.
        copies: copies that were made of some of them.
        found: copies that were joined to their film.
        by_kind: for each kind of copy, how many were made and how many found.
        same_group: pairs of different films that were joined and share a group in the labels.
        wrong: pairs of films, by id, that were joined, directly or through others, though the
            labels have them in different groups.
        wrong_films: films in at least one such pair.
        threshold: the correlation from which pictures counted as copies.
        seed: of the choice of films and kinds.
    """

    films: int
    copies: int
    found: int
    by_kind: dict[str, tuple[int, int]]
    same_group: int
    wrong: tuple[tuple[str, str], ...]
    wrong_films: int
    threshold: float
    seed: int

    @property
    def recall(self) -> float:
        """Share of the copies that were found; not a number if none were made."""
        return self.found / self.copies if self.copies else float("nan")


def evaluate_grouping(
    records: Sequence[Record],
    *,
    films: int = 300,
    copies: int = 2,
    seed: int = 0,
    threshold: float = THRESHOLD,
    progress: Progress = lambda items, _: items,
) -> GroupingResult:
    """Make copies of some films, look for copies among all, and count.

    File names are not looked at, so the figures are those of picture similarity alone.

    Args:
        records: distinct films; those that share a group may look alike rightly.
        films: how many of them are copied.
        copies: copies of each, of kinds drawn from :data:`KINDS`.
        seed: of all draws.
        threshold: as for :func:`fracture.copies.find_copies`.
        progress: wraps the loops, given a title.
    """
    random = np.random.default_rng(seed)
    copied = set(random.permutation(len(records))[:films].tolist())
    names = list(KINDS)
    parts: list[Signatures] = []
    film_of: list[int] = []
    kind_of: list[str] = []
    for index, record in enumerate(progress(records, "copying")):
        picture, _ = open_thumbnail(record.path)
        parts.append(signature_of(picture))
        film_of.append(index)
        kind_of.append("")
        if index not in copied:
            continue
        for name in random.choice(names, size=copies, replace=copies > len(names)):
            parts.append(signature_of(KINDS[name](picture, random)))
            film_of.append(index)
            kind_of.append(str(name))

    links = Links(len(parts))
    for copy in find_copies(Signatures.join(parts), threshold=threshold, progress=progress):
        links.join(copy.first, copy.second)
    roots = [links.root(index) for index in range(len(parts))]
    root_of_film = {
        film: root for film, kind, root in zip(film_of, kind_of, roots, strict=True) if not kind
    }
    by_kind = {name: [0, 0] for name in names}
    for film, kind, root in zip(film_of, kind_of, roots, strict=True):
        if kind:
            by_kind[kind][0] += 1
            by_kind[kind][1] += root == root_of_film[film]

    together: dict[int, set[int]] = {}
    for film, root in zip(film_of, roots, strict=True):
        together.setdefault(root, set()).add(film)
    pairs = {
        (one, other)
        for members in together.values()
        for one in members
        for other in members
        if one < other
    }
    wrong = sorted(
        (one, other) for one, other in pairs if records[one].group != records[other].group
    )
    return GroupingResult(
        films=len(records),
        copies=sum(made for made, _ in by_kind.values()),
        found=sum(found for _, found in by_kind.values()),
        by_kind={name: (made, found) for name, (made, found) in by_kind.items() if made},
        same_group=len(pairs) - len(wrong),
        wrong=tuple((records[one].id, records[other].id) for one, other in wrong),
        wrong_films=len({film for pair in wrong for film in pair}),
        threshold=threshold,
        seed=seed,
    )


def _turned(degrees: float, grow: bool = False) -> Kind:
    def turn(picture: Image.Image, random: np.random.Generator) -> Image.Image:
        angle = degrees * random.choice([-1, 1])
        return picture.rotate(angle, Image.Resampling.BILINEAR, expand=grow)

    return turn


def _cropped(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    width, height = picture.size
    left, top, right, bottom = random.uniform(0.02, 0.1, 4)
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return picture.crop(tuple(round(edge) for edge in box))


def _shifted(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    width, height = picture.size
    right, down = random.uniform(-0.1, 0.1, 2)
    matrix = (1, 0, right * width, 0, 1, down * height)
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix)


def _resaved(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    half = picture.resize([max(1, round(side / 2)) for side in picture.size])
    half.save(buffer, "JPEG", quality=int(random.integers(30, 60)))
    return Image.open(buffer).convert("L")


def _noisy(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    values = np.asarray(picture) + random.normal(0, 10, (picture.height, picture.width))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _gamma(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    power = random.choice([0.6, 1.6])
    return picture.point([round(255 * (value / 255) ** power) for value in range(256)])


def _mixed(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    turned = _turned(float(random.uniform(5, 15)))(ImageOps.mirror(picture), random)
    return _resaved(ImageEnhance.Brightness(turned).enhance(1.25), random)


KINDS: dict[str, Kind] = {
    "mirrored": lambda picture, _: ImageOps.mirror(picture),
    "upside down": lambda picture, _: ImageOps.flip(picture),
    "turned 90": lambda picture, _: picture.transpose(Image.Transpose.ROTATE_90),
    "turned 180": lambda picture, _: picture.transpose(Image.Transpose.ROTATE_180),
    "turned 10": _turned(10),
    "turned 25": _turned(25),
    "turned 15, canvas grown": _turned(15, grow=True),
    "brighter": lambda picture, _: ImageEnhance.Brightness(picture).enhance(1.4),
    "darker": lambda picture, _: ImageEnhance.Brightness(picture).enhance(0.6),
    "more contrast": lambda picture, _: ImageEnhance.Contrast(picture).enhance(1.5),
    "gamma": _gamma,
    "negative": lambda picture, _: ImageOps.invert(picture),
    "half size, saved again": _resaved,
    "noise": _noisy,
    "blurred": lambda picture, _: picture.filter(ImageFilter.GaussianBlur(1.5)),
    "cropped": _cropped,
    "shifted": _shifted,
    "squeezed to 224 x 224": lambda picture, _: picture.resize((224, 224)),
    "mirrored, turned, brighter, saved again": _mixed,
}
"""The kinds of copies that are made, as published augmentations make them."""
