"""The shipped model: look at the whole film, then read the suspicious places close up.

A radiologists' fracture box covers 0.7 % of a FracAtlas film on average, so one shrunken picture
holds neither the fragments nor a map fine enough to point at them. Two small networks share the
work, as a reader does (compare GMIC, Shen et al. 2021, Medical Image Analysis 68:101908):

* `Locator` sees the whole film (448 x 384) and gives a fracture map with one cell per 8 pixels,
  trained on boxes, and an opinion on the whole film.
* the reader, a `TransferClassifier`, sees 224 x 224 patches cut around the map's highest places
  from the film's own pixels and says what is there: comminuted, simple or no fracture.

`LookTwice` holds both and weighs their opinions. Both backbones are EfficientNet-Lite0 (Tan & Le
2019), started from ImageNet weights.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fracture import cam
from fracture.film import Film
from fracture.gate import COLOURFUL, IN_COLOUR, NOT_A_LIMB, colourfulness
from fracture.geometry import Box, Geometry, cut, letterbox
from fracture.labels import CLASSES
from fracture.lite0 import Lite0
from fracture.models import LITE0, LITE0_INPUT, InputSpec, TransferClassifier

LOCATOR_SIZE = (448, 384)  # height, width of a portrait film; a landscape film gets it transposed
READER_SIZE = (224, 224)
FLOOR = 0.6  # what a place counts for that was found but where the reader saw nothing of the class
SECOND = 0.8  # a further place is read if it is at least so high, as a share of the highest
FADE = 0.2  # of half a patch: over this rim its map fades out
STRIDE = 8  # one cell of the locator's map covers 8 x 8 input pixels


class Locator(nn.Module):
    """Whole film -> fracture map at stride 8 and an opinion on the film.

    Input: float32 (B, 3, 448, 384) or (B, 3, 384, 448), scaled as `input` says.
    Output: map logits (B, 1, h/8, w/8) and film logits (B, 3) in the order of `CLASSES`.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.backbone = Lite0(pyramid=True)
        channels = self.backbone.channels
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(inplace=True),
        )
        self.place = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.place.bias, -4.0)  # most cells of most films are not fractured
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(channels[-1] + width, len(CLASSES))

    def forward(self, films: Tensor) -> tuple[Tensor, Tensor]:
        place, film, _ = self.look(films)
        return place, film

    def look(self, films: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, and pooled features (B, 536).

        Each level's mean, finest first, then what the map looks at; the opinion on the film rests
        on the last 384 of them, the refusal (`LookTwice.gate`) on all.
        """
        features = self.backbone(films)
        fine = self.lateral[-1](features[-1])
        for lateral, feature in zip(self.lateral[-2::-1], features[-2::-1], strict=True):
            fine = lateral(feature) + F.interpolate(fine, size=feature.shape[-2:], mode="nearest")
        fine = self.smooth(fine)
        place = self.place(fine)
        # the opinion rests on what lies where the map looks, and on the film as a whole
        attention = place.flatten(2).softmax(dim=-1)
        seen = (fine.flatten(2) * attention).sum(dim=-1)
        pooled = torch.cat([*(level.mean(dim=(2, 3)) for level in features), seen], dim=1)
        deepest = pooled[:, -self.head.in_features :]
        return place, self.head(self.dropout(deepest)), pooled


@dataclass(frozen=True)
class Plan:
    """Which patches are read and how the opinions are weighed.

    `places` of the map are read (fewer if it has fewer peaks of nearly the same height), each in
    square patches whose sides are `sides` times the extent of the lit spot there: a fracture fills
    a web picture's middle and a hundredth of a hospital film. `fractured` weighs (locator, reader,
    map's peak, 1) to the log-odds of a fracture, `comminuted` weighs (locator, reader, 1) to the
    log-odds of comminuted among the fractured: two logistic regressions fitted on held-out folds,
    which also calibrate.
    `mirrored`: the first look is the mean of one at the film and one at its mirror image.
    `foreign`: what is more foreign than this (`LookTwice.foreignness`) gets no verdict.
    """

    places: int = 2
    sides: tuple[float, ...] = (1.1, 1.8)
    fractured: tuple[float, float, float, float] = (0.5, 0.5, 0.0, 0.0)
    comminuted: tuple[float, float, float] = (0.5, 0.5, 0.0)
    mirrored: bool = True
    foreign: float = 0.0

    @classmethod
    def from_metadata(cls, values: Mapping[str, Any]) -> Plan:
        """The `plan` part of a checkpoint's metadata or of the evaluation's JSON."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_metadata(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def plan_from(path: str | os.PathLike[str]) -> Plan:
    """The plan that `fracture.evaluate` fitted on held-out folds; the untuned one without it."""
    path = Path(path)
    if not path.exists():
        return Plan()
    return Plan.from_metadata(json.loads(path.read_text())["plan"])


@dataclass(frozen=True)
class Sight:
    """What the two networks saw on one film, and the maps that follow from it.

    place:    float32 (h, w) in [0, 1], the locator's fracture map over its input.
    where:    how the film lies in the locator's input.
    opinion:  float32 (3,), the locator's logits for the film.
    pooled:   float32 (536,), the locator's pooled features of the film, not of its mirror image.
    spots:    where on the film each of the reader's patches lies.
    features: float32 (n, 1280, 7, 7), the reader's last feature maps.
    readings: float32 (n, 3), the reader's logits.
    peaks:    float32 (n,), the height of the map where each patch was cut.
    """

    model: LookTwice
    place: np.ndarray
    where: Geometry
    opinion: np.ndarray
    pooled: np.ndarray
    spots: tuple[Geometry, ...]
    features: Tensor
    readings: np.ndarray
    peaks: np.ndarray
    problems: tuple[str, ...] = ()

    def evidence(self) -> tuple[np.ndarray, np.ndarray]:
        """What `Plan.fractured` (4,) and `Plan.comminuted` (3,) weigh."""
        reading = self.weights @ self.readings
        peak = log_odds(self.peaks.max())
        fractured = [
            np.logaddexp(logits[0], logits[1]) - logits[2] for logits in (self.opinion, reading)
        ]
        kind = [logits[0] - logits[1] for logits in (self.opinion, reading)]
        return (
            np.array([*fractured, peak, 1.0]),
            np.array([*kind, 1.0]),
        )

    @property
    def weights(self) -> np.ndarray:
        """How much each patch counts, float64 (n,), sum 1: both looks say how suspicious it is."""
        broken = np.logaddexp(self.readings[:, 0], self.readings[:, 1]) - self.readings[:, 2]
        suspicion = log_odds(self.peaks) + 0.5 * broken
        share = np.exp(suspicion - suspicion.max())
        return share / share.sum()

    @property
    def logits(self) -> np.ndarray:
        """Log-probabilities, float64 (3,) in the order of `CLASSES`."""
        for_fracture, for_kind = self.evidence()
        plan = self.model.plan
        fractured = float(for_fracture @ np.array(plan.fractured))
        comminuted = float(for_kind @ np.array(plan.comminuted))
        yes, no = -np.logaddexp(0, -fractured), -np.logaddexp(0, fractured)
        return np.array([yes - np.logaddexp(0, -comminuted), yes - np.logaddexp(0, comminuted), no])

    def class_map(self, target: int, method: str) -> np.ndarray:
        """What speaks for a class, float32 (H, W) in [0, 1] over the whole film.

        The reader's maps of its patches are laid where the patches lie, weighed as in the answer.
        For a fracture they then weigh the locator's map, which chose those places and is the
        finer one: a place that was found and not confirmed keeps `FLOOR` of its height.
        """
        read = np.zeros(self.place.shape, dtype=np.float32)
        weights = self.model.reader.head.weight[target]
        for n, spot in enumerate(self.spots):
            if method == "gradcam":  # as strong as the evidence: patches can be compared
                heat = torch.tensordot(weights, self.features[n], dims=1).clamp(min=0).numpy()
            else:  # as the library gives them: the warmest cell of every patch is 1
                heat = cam.closed_form(self.features[n], weights, method)
                heat = cam.enlarged(heat, READER_SIZE)
            read += self.weights[n] * self._on_place(heat, spot)
        read /= max(float(read.max()), 1e-7)
        if CLASSES[target] != "No fracture":
            read = self.place * (FLOOR + (1 - FLOOR) * read)
        return cam.unit_range(self.where.to_film(read))

    def _on_place(self, heat: np.ndarray, spot: Geometry) -> np.ndarray:
        """A patch's map at the cells of the locator's map, 0 where the patch does not reach."""
        rows, columns = self.place.shape
        h, w = self.where.input_size
        patch = self.where.to_input(spot.box)
        y = ((np.arange(rows) + 0.5) * h / rows - patch.top) / patch.height
        x = ((np.arange(columns) + 0.5) * w / columns - patch.left) / patch.width
        grid = np.stack(np.meshgrid(2 * x - 1, 2 * y - 1), axis=-1).astype(np.float32)
        laid = F.grid_sample(
            torch.as_tensor(heat)[None, None],
            torch.from_numpy(grid)[None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )[0, 0].numpy()
        # it fades out towards the patch's rim, whose straight edges mean nothing
        return laid * ((1 - np.abs(grid)) / FADE).clip(0, 1).prod(axis=-1)


class LookTwice(nn.Module):
    """Locator and reader together.

    Trained on FracAtlas (Abedeen et al. 2023) and on web pictures of the Bone Break
    Classification set, see models/README.md; reads films of any size, float32 (H, W) in [0, 1],
    bone bright.
    """

    architecture = "looktwice"
    classes = CLASSES
    methods = cam.METHODS
    input: InputSpec = LITE0_INPUT

    def __init__(self, plan: Plan | None = None) -> None:
        super().__init__()
        self.plan = plan or Plan()
        self.locator = Locator()
        self.reader = TransferClassifier(LITE0, CLASSES)
        pooled = sum(self.locator.backbone.channels) + self.locator.smooth[1].out_channels
        self.gate = nn.Linear(pooled, 1)  # above 0 or so: no limb
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -1.0)  # until `fracture.gate.fit_gate`, let all pass

    def with_plan(self, plan: Plan) -> LookTwice:
        """The same networks, looking by another plan."""
        other = copy.copy(self)
        other.plan = plan
        return other

    def analyse(self, film: Film) -> Sight:
        """See `fracture.classifier.Network`."""
        sight = self.look(film.pixels)
        if colourfulness(film.display) > COLOURFUL:
            return replace(sight, problems=(IN_COLOUR,))
        if self.foreignness(sight.pooled) > self.plan.foreign:
            return replace(sight, problems=(NOT_A_LIMB,))
        return sight

    def foreignness(self, pooled: np.ndarray) -> float:
        """How foreign a film with these pooled features (536,) is; log-odds but for a constant."""
        return float(pooled @ self.gate.weight[0].numpy() + self.gate.bias[0].numpy())

    @torch.inference_mode()
    def look(self, pixels: np.ndarray) -> Sight:
        """Both looks at one film, float32 (H, W) in [0, 1]."""
        place, where, opinion, pooled = self.find(pixels)
        cuts = [
            cut(pixels, box, READER_SIZE)
            for box in patch_boxes(place, where, self.plan.places, self.plan.sides)
        ]
        patches = self.input.scale(torch.from_numpy(np.stack([patch for patch, _ in cuts])))
        features = self.reader.features(patches)
        readings = self.reader.classify(features)
        return Sight(
            self,
            place,
            where,
            opinion,
            pooled,
            tuple(spot for _, spot in cuts),
            features,
            readings.numpy(),
            np.array([_height(place, where, spot.box) for _, spot in cuts]),
        )

    @torch.inference_mode()
    def find(self, pixels: np.ndarray) -> tuple[np.ndarray, Geometry, np.ndarray, np.ndarray]:
        """The first look: `place`, `where`, `opinion` and `pooled` of a `Sight`."""
        lies = pixels.shape[1] > pixels.shape[0]
        whole, where = letterbox(pixels, LOCATOR_SIZE[::-1] if lies else LOCATOR_SIZE)
        if lies:  # the locator knows such films lying on their side only
            whole = np.ascontiguousarray(np.rot90(whole))
        films = self.input.scale(torch.from_numpy(whole)[None])
        if self.plan.mirrored:
            films = torch.cat([films, films.flip(-1)])
        places, opinions, pooled = self.locator.look(films)
        places = places[:, 0].sigmoid()
        if self.plan.mirrored:
            places = torch.stack([places[0], places[1].flip(-1)])
        place = places.mean(0).numpy()
        if lies:
            place = np.ascontiguousarray(np.rot90(place, -1))
        return place, where, opinions.mean(0).numpy(), pooled[0].numpy()


def patch_boxes(
    place: np.ndarray,
    where: Geometry,
    places: int,
    sides: tuple[float, ...],
    least: float = SECOND,
) -> list[Box]:
    """Square boxes on the film around the map's highest peaks, one of each side at each peak.

    `sides` multiply the extent of the spot around the peak (all cells joined to it that are at
    least half as high); a box is never smaller than 15 % nor larger than 110 % of the film's longer
    side. A later peak must lie outside the earlier spots, stand off their peaks by 6 % of the
    film and be at least `least` times as high as the highest.
    """
    height, width = where.film_size
    shown = where.to_input(Box(0, 0, width, height))
    rows, columns = place.shape
    cell = where.input_size[0] / rows
    y, x = (np.arange(rows) + 0.5) * cell, (np.arange(columns) + 0.5) * cell
    inside = ((y >= shown.top) & (y <= shown.bottom))[:, None] & (
        (x >= shown.left) & (x <= shown.right)
    )
    left = np.where(inside, place, 0.0)  # never read the padding
    highest, longest = left.max(), max(height, width)
    boxes: list[Box] = []
    for _ in range(places):
        row, column = map(int, np.unravel_index(int(left.argmax()), left.shape))
        if boxes and left[row, column] < least * highest:
            break
        spot = lit_spot(place, row, column)
        tall, wide = (np.ptp(axis) + 1 for axis in np.nonzero(spot))
        extent = max(tall, wide) * cell * where.box.height / where.input_size[0]
        middle = where.from_input(Box(float(x[column]), float(y[row]), 0.0, 0.0))
        for side in np.clip(np.array(sides) * extent, 0.15 * longest, 1.1 * longest).tolist():
            boxes.append(Box(middle.left - side / 2, middle.top - side / 2, side, side))
        apart = 0.06 * max(shown.width, shown.height)
        left[spot | ((y[:, None] - y[row]) ** 2 + (x - x[column]) ** 2 < apart**2)] = 0.0
    return boxes


def lit_spot(place: np.ndarray, row: int, column: int) -> np.ndarray:
    """The cells joined to (row, column) that are at least half as high as it; bool (h, w)."""
    bright = place >= place[row, column] / 2
    spot = np.zeros_like(bright)
    spot[row, column] = True
    while True:  # grow by one cell on all sides until nothing is added; a spot is a few cells wide
        padded = np.pad(spot, 1)
        grown = bright & (
            padded[1:-1, 1:-1]
            | padded[:-2, 1:-1]
            | padded[2:, 1:-1]
            | padded[1:-1, :-2]
            | padded[1:-1, 2:]
        )
        if (grown == spot).all():
            return spot
        spot = grown


def log_odds(p: float | np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return np.log(p / (1 - p))


def _height(place: np.ndarray, where: Geometry, box: Box) -> float:
    """The map's value in the middle of a box of the film."""
    middle = where.to_input(Box(box.left + box.width / 2, box.top + box.height / 2, 0.0, 0.0))
    cell = where.input_size[0] / place.shape[0]
    return float(place[int(middle.top / cell), int(middle.left / cell)])
