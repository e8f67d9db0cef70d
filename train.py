"""Train a Fracture model: `python train.py` rebuilds the shipped checkpoint, top to bottom.

    python train.py                                     # the shipped two-look model, all films
    python train.py --fold 0                            # hold out one fifth of the groups
    python train.py --preset reference                  # the reference's SimpleCNN, its way
    python train.py --preset resnet18 --data data/      # transfer learning on a Mendeley folder
    accelerate launch train.py ...                      # the same on GPUs, in several processes

The shipped model first learns on simulated films (`fracture.simulate`), whose truth is exact, then
on real ones. What it learnt on simulated films does not depend on the fold: it is kept in the runs
folder and used by all of them.

A run can be cut off at any time: `--resume` goes on after the last whole epoch.
"""

from __future__ import annotations

import argparse
import copy
import csv
import datetime as dt
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from fracture import augment, simulate
from fracture.checkpoint import load_checkpoint, save_checkpoint
from fracture.film import read_film
from fracture.fold import fold
from fracture.foreign import KINDS, draw_foreign
from fracture.gate import fit_gate
from fracture.geometry import Box, cut, letterbox
from fracture.labels import (
    CLASSES,
    Record,
    check_split,
    check_trainable,
    default_data,
    group_folds,
    read_films,
    read_labels,
    sample,
)
from fracture.looktwice import (
    LOCATOR_SIZE,
    READER_SIZE,
    STRIDE,
    LookTwice,
    patch_boxes,
    plan_from,
)
from fracture.models import LITE0_INPUT, InputSpec, build_model, load_imagenet_lite0

# ----------------------------------------------------------------------------- what is known
# P(a film is read as it was | its true class), in the order of CLASSES: two readers who agree are
# seldom wrong, a majority of three more often, and a film they could not settle only says
# "fractured". Training maximises the likelihood of what was read (forward correction, Patrini et
# al. 2017), so that doubtful labels pull less.
READ_AS = {
    ("Comminuted", True): (0.97, 0.05, 0.01),
    ("Comminuted", False): (0.80, 0.20, 0.01),
    ("Simple", True): (0.05, 0.97, 0.03),
    ("Simple", False): (0.20, 0.80, 0.03),
    ("No fracture", True): (0.01, 0.03, 0.98),
    ("unclear", False): (0.50, 0.50, 0.05),
}


def likelihood(record: Record) -> tuple[float, float, float]:
    sure = record.agreement in ("both readers", "dataset", "")
    return READ_AS[record.label, sure and record.label != "unclear"]


def usable(record: Record) -> bool:
    """Films with a class, and unsettled ones whose fracture a radiologist boxed."""
    return record.label in CLASSES or (record.label == "unclear" and bool(record.boxes))


@dataclass
class TrainFilm:
    """A decoded film in memory: 8-bit pyramid, boxes in pixels (n, 4: left, top, right, bottom)."""

    record: Record
    levels: list[Tensor]
    boxes: Tensor
    suspects: list[tuple[float, float]] = field(default_factory=list)
    """Where the trained locator looks although there is no fracture (x, y): hard negatives."""


def simulated_records(folder: Path, count: int) -> list[Record]:
    """Simulated films in `folder`, made first if they are not there; about 0.4 s a film."""
    if not (folder / "labels.csv").exists():
        simulate.main(["--out", str(folder), "--count", str(count), "--seed", "7"])
    with (folder / "labels.csv").open(newline="") as file:
        return [simulated_record(folder, row) for row in csv.DictReader(file)]


def simulated_record(folder: Path, row: dict[str, str]) -> Record:
    """A row of `fracture.simulate`'s labels.csv, whose boxes are in pixels."""
    width, height = int(row["width"]), int(row["height"])
    boxes = ()
    if row["box_left"]:
        sides = ((row["box_left"], width), (row["box_top"], height),
                 (row["box_width"], width), (row["box_height"], height))  # fmt: skip
        boxes = (tuple(int(value) / side for value, side in sides),)
    name = f"simulated {row['file']}"
    return Record(name, folder / row["file"], SIMULATED, name, row["label"], "", row["pattern"],
                  row["bone"], boxes, width, height)  # fmt: skip


def load_film(record: Record, longest: int = 1024) -> TrainFilm:
    pixels = torch.from_numpy(read_film(record.path).pixels)
    levels = augment.pyramid((pixels * 255).round().to(torch.uint8))
    while max(levels[0].shape) > longest and len(levels) > 1:
        levels = levels[1:]
    height, width = levels[0].shape
    boxes = torch.tensor(record.boxes, dtype=torch.float32).reshape(-1, 4)
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    return TrainFilm(record, levels, boxes * torch.tensor([width, height, width, height]))


# ----------------------------------------------------------------------------- what a network sees
# The locator trains on parts of films, at the size at which it later sees whole ones: less work a
# film, and a shift each time. It begins with small parts, which cost less than half.
LOCATOR_CROP, CLOSE_CROP = (384, 320), (256, 224)
SIMULATED = "simulated"  # the source of films that `fracture.simulate` made
SIMULATED_SHARE = 0.1  # of them that an epoch of real films is mixed with


class Views(Dataset):
    """Random views of films; the draw depends on seed, epoch and index alone."""

    def __init__(
        self, films: Sequence[TrainFilm], seed: int, simulated: float = SIMULATED_SHARE
    ) -> None:
        self.films, self.seed, self.epoch, self.simulated = films, seed, 0, simulated

    def __len__(self) -> int:
        return len(self.order())

    def order(self) -> list[int]:
        """Indices of one epoch: comminuted films twice (they are few), unfractured ones in part.

        Of simulated films, where all classes are equally many, the share `simulated`.
        """
        rng = np.random.default_rng([self.seed, self.epoch])
        order = []
        for i, film in enumerate(self.films):
            if film.record.source == SIMULATED:
                order += [i] if rng.random() < self.simulated else []
            elif film.record.label == "No fracture":
                order += [i] if rng.random() < 0.65 else []
            else:
                order += [i, i] if film.record.label == "Comminuted" else [i]
        return order

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch, i)) % 2**63)
        return self.draw(self.films[self.order_now[i]], generator)

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.order_now = self.order()


def whole_film(film: TrainFilm) -> augment.Look:
    """The film fitted into LOCATOR_SIZE; a landscape film lies on its side."""
    height, width = film.levels[0].shape
    fit = max(max(height, width) / LOCATOR_SIZE[0], min(height, width) / LOCATOR_SIZE[1])
    return augment.look((width / 2, height / 2), fit, 90.0 if width > height else 0.0)


def part_of_film(
    film: TrainFilm, crop: tuple[int, int], generator: torch.Generator
) -> augment.Look:
    """A jittered view of `crop` (height, width) pixels at about the size of whole films."""
    height, width = film.levels[0].shape
    whole = whole_film(film)
    shrink = whole.shrink * augment.log_uniform(0.75, 1.3, generator)
    turn = 90.0 if width > height else 0.0
    turn += 180.0 * augment.chance(0.5 if turn else 0.15, generator)
    view = crop[::-1] if width > height else crop
    if len(film.boxes):  # around a fracture, which may lie anywhere in the view
        box = film.boxes[int(torch.randint(len(film.boxes), (), generator=generator))]
        at, free = (box[:2] + box[2:]) / 2, 0.4
    else:
        at, free = torch.tensor([width / 2, height / 2]), 0.0
    centre = []
    for middle, side, seen in zip(at.tolist(), (width, height), view[::-1], strict=True):
        reach = max((side - 0.9 * seen * shrink) / 2, 0.05 * side)  # do not look past the edge much
        low, high = side / 2 - reach, side / 2 + reach
        if free:
            low, high = (
                max(low, middle - free * seen * shrink),
                min(high, middle + free * seen * shrink),
            )
        centre.append(augment.uniform(low, max(low, high), generator))
    turn += augment.uniform(-20, 20, generator)
    return augment.look(tuple(centre), shrink, turn, augment.chance(0.5, generator))


class LocatorViews(Views):
    """Parts of films with the fracture map to find: view, map, map known, likelihood of the label.

    The first `close` epochs see small parts.
    """

    def __init__(
        self,
        films: Sequence[TrainFilm],
        seed: int,
        close: int,
        simulated: float = SIMULATED_SHARE,
    ) -> None:
        super().__init__(films, seed, simulated)
        self.close = close

    def draw(self, film: TrainFilm, generator: torch.Generator) -> tuple[Tensor, ...]:
        crop = CLOSE_CROP if self.epoch <= self.close else LOCATOR_CROP
        look = part_of_film(film, crop, generator)
        target = self.target(film, look, crop)
        view = augment.film_noise(augment.take(film.levels, look, crop), generator)
        view = LITE0_INPUT.scale(view[0])
        known = len(film.boxes) > 0 or film.record.label == "No fracture"
        return view, target, torch.tensor(float(known)), torch.tensor(likelihood(film.record))

    @staticmethod
    def target(film: TrainFilm, look: augment.Look, crop: tuple[int, int] = LOCATOR_CROP) -> Tensor:
        points = augment.film_points(look, crop, STRIDE)
        # a box smaller than a cell must still light the cell that holds its middle
        least = look.shrink * STRIDE * 0.75
        middle = (film.boxes[:, :2] + film.boxes[:, 2:]) / 2
        half = ((film.boxes[:, 2:] - film.boxes[:, :2]) / 2).clamp(min=least)
        return augment.inside(points, torch.cat([middle - half, middle + half], dim=1))[None]


class ReaderViews(Views):
    """Patches around boxes, and fracture-free patches: view, likelihood of the label."""

    def draw(self, film: TrainFilm, generator: torch.Generator) -> tuple[Tensor, ...]:
        longest = max(film.levels[0].shape)
        told = likelihood(film.record)
        # every fracture of these films is boxed
        complete = film.record.source in ("fracatlas", SIMULATED)
        if len(film.boxes) and not (complete and augment.chance(0.2, generator)):
            sides = film.boxes[:, 2:] - film.boxes[:, :2]
            pick = int(torch.multinomial(sides.prod(dim=1), 1, generator=generator))
            side = float(sides[pick].max()) * augment.log_uniform(1.3, 5.0, generator)
            side = min(max(side, 0.12 * longest), 1.1 * longest)
            room = max(side - float(sides[pick].max()), 0.1 * side) / 2
            centre = (film.boxes[pick, :2] + film.boxes[pick, 2:]) / 2
            centre = [float(c) + augment.uniform(-0.6, 0.6, generator) * room for c in centre]
        else:
            side = longest * augment.log_uniform(0.12, 0.6, generator)
            centre = self.fracture_free_place(film, side, generator)
            for _ in range(20):
                near = torch.tensor([[centre[0] - side / 2, centre[1] - side / 2]]).repeat(
                    len(film.boxes), 1
                )
                apart = (film.boxes[:, :2] > near + side) | (film.boxes[:, 2:] < near)
                if apart.any(dim=1).all():
                    told = READ_AS["No fracture", True]
                    break
                side *= 0.9
                centre = self.fracture_free_place(film, side, generator)
        look = augment.look(
            tuple(centre),
            side / READER_SIZE[0],
            augment.uniform(-25, 25, generator) + 90 * int(augment.uniform(0, 4, generator)),
            augment.chance(0.5, generator),
        )
        view = augment.film_noise(augment.take(film.levels, look, READER_SIZE), generator)
        return LITE0_INPUT.scale(view[0]), torch.tensor(told)

    def fracture_free_place(
        self, film: TrainFilm, side: float, generator: torch.Generator
    ) -> list[float]:
        """Mostly where the locator would send the reader in vain, else anywhere on the limb."""
        if not film.suspects or augment.chance(0.35, generator):
            return self.bright_place(film, generator)
        at = film.suspects[int(torch.randint(len(film.suspects), (), generator=generator))]
        return [c + augment.uniform(-0.2, 0.2, generator) * side for c in at]

    @staticmethod
    def bright_place(film: TrainFilm, generator: torch.Generator) -> list[float]:
        """A random point among the film's brighter half: bone and flesh, not the background."""
        small = film.levels[-1].float()
        weight = (small > small.mean()).float().flatten() + 1e-3
        at = int(torch.multinomial(weight, 1, generator=generator))
        scale = film.levels[0].shape[1] / small.shape[1]
        return [(at % small.shape[1] + 0.5) * scale, (at // small.shape[1] + 0.5) * scale]


class PictureViews(Views):
    """Whole films for a network that looks once: scaled input, class index.

    With `augmented`, letterboxed and jittered; otherwise exactly what the classifier will see.
    """

    def __init__(
        self, films: Sequence[TrainFilm], seed: int, spec: InputSpec, augmented: bool
    ) -> None:
        super().__init__(films, seed)
        self.spec, self.augmented = spec, augmented

    def order(self) -> list[int]:
        return list(range(len(self.films)))

    def draw(self, film: TrainFilm, generator: torch.Generator) -> tuple[Tensor, ...]:
        target = torch.tensor(CLASSES.index(film.record.label))
        if not self.augmented:
            return picture(film, self.spec), target
        height, width = film.levels[0].shape
        fit = max(height / self.spec.size[0], width / self.spec.size[1])
        turn = augment.uniform(-20, 20, generator) + 90 * int(augment.uniform(0, 4, generator))
        look = augment.look(
            (width / 2, height / 2),
            fit * augment.log_uniform(0.8, 1.1, generator),
            turn,
            augment.chance(0.5, generator),
        )
        view = augment.film_noise(augment.take(film.levels, look, self.spec.size), generator)
        return self.spec.scale(view[0]), target


def picture(film: TrainFilm, spec: InputSpec) -> Tensor:
    """The network's input for a whole film, float32 (3, h, w), as the classifier makes it."""
    pixels = film.levels[0].float().div(255).numpy()
    if spec.resize == "stretch":
        height, width = pixels.shape
        seen = cut(pixels, Box(0, 0, width, height), spec.size)[0]
    else:
        seen = letterbox(pixels, spec.size)[0]
    return spec.scale(torch.from_numpy(seen))


# ----------------------------------------------------------------------------- what it learns from
def told_loss(logits: Tensor, told: Tensor) -> Tensor:
    """-log P(the film is read as it was), mean over the batch."""
    return -(logits.log_softmax(dim=1) + told.log()).logsumexp(dim=1).mean()


def map_loss(place: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017) over cells plus soft Dice on films with boxes."""
    p = place.sigmoid()
    weight = target * (1 - p) ** 2 + 0.25 * (1 - target) * p**2
    cells = nn.functional.binary_cross_entropy_with_logits(place, target, reduction="none")
    focal = (weight * cells).sum(dim=(1, 2, 3)) * known
    marked = target.sum(dim=(1, 2, 3))
    dice = 1 - (2 * (p * target).sum(dim=(1, 2, 3)) + 1) / ((p + target).sum(dim=(1, 2, 3)) + 1)
    boxed = known * (marked > 0)
    return focal.sum() / marked.sum().clamp(min=10) + (dice * boxed).sum() / len(place)


def locator_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    view, target, known, told = batch
    place, film = model(view)
    return map_loss(place, target, known) + told_loss(film, told), film.argmax(1) == told.argmax(1)


def picture_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    view, target = batch
    logits = model(view)
    return nn.functional.cross_entropy(logits, target), logits.argmax(1) == target


def reader_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    view, told = batch
    logits = model(view)
    return told_loss(logits, told), logits.argmax(1) == told.argmax(1)


# ----------------------------------------------------------------------------- the loop
@dataclass(frozen=True)
class Recipe:
    """How one network is trained."""

    name: str
    epochs: int
    batch: int
    rate: float
    loss: Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, Tensor]]
    plain: bool = False  # Adam at one rate, no averaging: as the reference trained
    validate_every: int = 1  # epochs; the last one is always validated


def schedule(step: int, steps: int) -> float:
    """Learning-rate factor: a short warm-up, then half a cosine down to 1 %."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.495 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int) -> None:
    """Exponential moving average of weights; a young average follows faster."""
    decay = min(0.995, step / (10 + step))
    for mean, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


def fit(
    model: nn.Module,
    recipe: Recipe,
    views: Views,
    validate: Callable[[nn.Module], dict[str, float]],
    out: Path,
    *,
    resume: bool,
    seed: int,
    accelerator: Accelerator,
) -> nn.Module:
    """Train `model`; return its averaged weights, on the CPU like all that looks at films here.

    The run's state is `out`/<name>.state.
    """
    average = copy.deepcopy(model).eval().requires_grad_(False)
    trainable = [p for p in model.parameters() if p.requires_grad]
    decay = 0.0 if recipe.plain else 0.02  # AdamW without decay is Adam
    optimizer = torch.optim.AdamW(trainable, lr=recipe.rate, weight_decay=decay)
    views.start_epoch(0)
    steps = math.ceil(len(views.order_now) / recipe.batch) * recipe.epochs
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: 1.0 if recipe.plain else schedule(s, steps)
    )
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    state_file, curve_file = out / f"{recipe.name}.state", out / f"{recipe.name}.csv"
    first, rows, step = 1, [], 0
    if resume and state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        accelerator.unwrap_model(model).load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first, rows, step = state["epoch"] + 1, state["rows"], state["step"]
    average = average.to(accelerator.device)
    for epoch in range(first, recipe.epochs + 1):
        views.start_epoch(epoch)
        loader = accelerator.prepare(
            DataLoader(
                views,
                batch_size=recipe.batch,
                shuffle=True,
                generator=torch.Generator().manual_seed(seed + epoch),
            )
        )
        model.train()
        began, loss_sum, right, seen = time.time(), 0.0, 0, 0
        bar = tqdm(
            loader, desc=f"{recipe.name} {epoch}/{recipe.epochs}", leave=False, mininterval=5
        )
        for batch in bar:
            loss, correct = recipe.loss(model, batch)
            accelerator.backward(loss)
            nn.utils.clip_grad_norm_(trainable, 5.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            follow(average, accelerator.unwrap_model(model), 0 if recipe.plain else step)
            loss_sum += float(loss.detach()) * len(correct)
            right, seen = right + int(correct.sum()), seen + len(correct)
            bar.set_postfix(loss=f"{loss_sum / seen:.3f}")
        row = {"epoch": epoch, "loss": loss_sum / seen, "accuracy": right / seen}
        row["seconds"] = time.time() - began
        if epoch % recipe.validate_every == 0 or epoch == recipe.epochs:
            row |= validate(copy.deepcopy(average).cpu())
        rows.append(row)
        if accelerator.is_main_process:
            extra = "".join(f", {k}: {v:.4f}" for k, v in list(row.items())[4:])
            print(
                f"Epoch [{epoch}/{recipe.epochs}], Loss: {row['loss']:.4f}, "
                f"Accuracy: {100 * row['accuracy']:.2f}%{extra}",
                flush=True,
            )
            save_state(
                state_file,
                {
                    "model": accelerator.unwrap_model(model).state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "epoch": epoch,
                    "rows": rows,
                    "step": step,
                },
            )
            with curve_file.open("w", newline="") as file:
                writer = csv.DictWriter(file, max((list(r) for r in rows), key=len))
                writer.writeheader()
                writer.writerows(rows)
    return average.cpu()


def save_state(path: Path, state: dict) -> None:
    """Write beside, then rename: a run cut off while writing leaves the last whole state."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


# ----------------------------------------------------------------------------- validation figures
def auroc(positive: Tensor, negative: Tensor) -> float:
    """P(score of a positive > score of a negative), ties half; nan without both."""
    if not len(positive) or not len(negative):
        return math.nan
    gap = positive[:, None] - negative[None]
    return float(((gap > 0).float() + 0.5 * (gap == 0).float()).mean())


def class_aurocs(films: Sequence[TrainFilm], logits: Tensor) -> dict[str, float]:
    """Comminuted against simple, and fractured against not, as far as the films have both."""
    labels = [film.record.label for film in films]
    of = {c: torch.tensor([label == c for label in labels], dtype=torch.bool) for c in CLASSES}
    kind = logits[:, 0] - logits[:, 1]
    found = {"AUROC comminuted": auroc(kind[of["Comminuted"]], kind[of["Simple"]])}
    if of["No fracture"].any():
        broken = logits[:, :2].logsumexp(dim=1) - logits[:, 2]
        hospital = torch.tensor([film.record.source == "fracatlas" for film in films])
        fractured = (of["Comminuted"] | of["Simple"]) & hospital
        found["AUROC fracture"] = auroc(broken[fractured], broken[of["No fracture"]])
    return found


@torch.inference_mode()
def validate_locator(model: nn.Module, films: Sequence[TrainFilm]) -> dict[str, float]:
    if not films:
        return {}
    logits, hits = [], []
    for film in films:
        look = whole_film(film)
        place, opinion = model(LITE0_INPUT.scale(augment.take(film.levels, look, LOCATOR_SIZE)))
        logits.append(opinion[0])
        if len(film.boxes):
            points = augment.film_points(look, LOCATOR_SIZE, STRIDE).reshape(-1, 2)
            peak = points[int(place.argmax())]
            hits.append((film.record.source, float(augment.inside(peak, film.boxes))))
    figures = class_aurocs(films, torch.stack(logits))
    for source in sorted({s for s, _ in hits}):
        figures[f"hit rate {source}"] = float(np.mean([hit for s, hit in hits if s == source]))
    return figures


@torch.inference_mode()
def validate_reader(model: nn.Module, films: Sequence[TrainFilm]) -> dict[str, float]:
    """Patches at the films' true boxes: how well it reads if the place is right."""
    boxed = [f for f in films if len(f.boxes) and f.record.label in CLASSES]
    if not boxed:
        return {}
    logits = []
    for film in boxed:
        sides = film.boxes[:, 2:] - film.boxes[:, :2]
        pick = int(sides.prod(dim=1).argmax())
        side = max(2.5 * float(sides[pick].max()), 0.2 * max(film.levels[0].shape))
        centre = tuple(((film.boxes[pick, :2] + film.boxes[pick, 2:]) / 2).tolist())
        look = augment.look(centre, side / READER_SIZE[0])
        logits.append(model(LITE0_INPUT.scale(augment.take(film.levels, look, READER_SIZE)))[0])
    stacked = torch.stack(logits)
    figures = class_aurocs(boxed, stacked)
    for source in sorted({f.record.source for f in boxed}):
        mine = [i for i, f in enumerate(boxed) if f.record.source == source]
        part = class_aurocs([boxed[i] for i in mine], stacked[mine])
        figures[f"AUROC comminuted {source}"] = part["AUROC comminuted"]
    return figures


@torch.inference_mode()
def validate_picture(
    model: nn.Module, films: Sequence[TrainFilm], spec: InputSpec
) -> dict[str, float]:
    if not films:
        return {}
    logits = torch.cat([model(picture(film, spec)[None]) for film in films])
    targets = torch.tensor([CLASSES.index(film.record.label) for film in films])
    return {
        "val loss": float(nn.functional.cross_entropy(logits, targets)),
        "val accuracy": float((logits.argmax(1) == targets).float().mean()),
    } | class_aurocs(films, torch.cat([logits, torch.zeros(len(logits), 1)], dim=1))


# ----------------------------------------------------------------------------- the presets
class Stem(nn.Module):
    """The first layers of a backbone, the dearest: edges and textures are the same on film, so they
    stay ImageNet's."""

    def __init__(self, backbone: nn.Module, stages: int = 2) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = backbone.conv_stem, backbone.bn1
        self.blocks = nn.Sequential(*list(backbone.blocks)[:stages])

    def put_into(self, backbone: nn.Module) -> None:
        backbone.conv_stem, backbone.bn1 = self.conv_stem, self.bn1
        for i, stage in enumerate(self.blocks):
            backbone.blocks[i] = stage


def with_folded_stem(network: nn.Module, train_: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Train a network whose frozen stem is folded meanwhile, which saves a tenth of the work."""
    plain = Stem(network.backbone)
    fold(copy.deepcopy(plain).eval()).put_into(network.backbone)
    trained = train_(network)
    plain.put_into(trained.backbone)
    return trained


def train_looktwice(
    args: argparse.Namespace, train: list, held_out: list, fit_: Callable
) -> nn.Module:
    """The shipped model: the locator, then the reader, who also learns from its mistakes."""
    model = LookTwice(plan_from(args.plan))
    load_imagenet_lite0(model.locator.backbone)
    load_imagenet_lite0(model.reader.backbone)
    for network in (model.locator, model.reader):
        Stem(network.backbone).requires_grad_(False)
        network.to(memory_format=torch.channels_last)
    simulated = []
    if args.simulated:
        records = simulated_records(args.runs / f"simulated-{args.simulated}", args.simulated)
        simulated = [load_film(r) for r in tqdm(records, "read simulated", mininterval=5)]
        learn_simulated(model, args, simulated, fit_)

    # On all groups there are a quarter more films: fewer epochs make about as many steps. A run on
    # one source makes fewer: its films are fewer.
    locator_epochs, reader_epochs = (11, 12) if held_out else (9, 10)
    recipe = Recipe(
        "locator",
        args.epochs or locator_epochs,
        args.batch or 8,
        1e-3,
        locator_loss,
        validate_every=4,
    )
    views = LocatorViews([*train, *simulated], args.seed, close=recipe.epochs // 3)
    model.locator = with_folded_stem(
        model.locator, lambda m: fit_(m, recipe, views, lambda a: validate_locator(a, held_out))
    )

    readable = [f for f in train if len(f.boxes) or f.record.label == "No fracture"]
    quick = folded(model).with_plan(replace(model.plan, mirrored=False))
    for film in tqdm(readable, "suspicious places", leave=False, mininterval=5):
        film.suspects = suspects(quick, film)
    reading = Recipe(
        "reader",
        args.epochs or reader_epochs,
        args.batch or 16,
        1e-3,
        reader_loss,
        validate_every=6,
    )
    patches = ReaderViews([*readable, *simulated], args.seed)
    model.reader = with_folded_stem(
        model.reader, lambda m: fit_(m, reading, patches, lambda a: validate_reader(a, held_out))
    )

    train_gate(model, [*train, *simulated[::6]], args)
    return model


def learn_simulated(
    model: LookTwice, args: argparse.Namespace, films: Sequence[TrainFilm], fit_: Callable
) -> None:
    """Both networks on simulated films alone; once for all folds, since no real film is in it."""
    folder = args.runs / f"looktwice-simulated-{args.simulated}"
    folder.mkdir(parents=True, exist_ok=True)
    epochs = args.epochs or 6
    recipe = Recipe("locator", epochs, args.batch or 8, 1e-3, locator_loss)
    views = LocatorViews(films, args.seed, close=epochs, simulated=1.0)
    model.locator = fit_(model.locator, recipe, views, lambda _: {}, folder, resume=True)
    recipe = Recipe("reader", epochs, args.batch or 16, 1e-3, reader_loss)
    views = ReaderViews(films, args.seed, simulated=1.0)
    model.reader = fit_(model.reader, recipe, views, lambda _: {}, folder, resume=True)
    for network in (model.locator, model.reader):  # `fit` returns weights that are not to train
        network.requires_grad_(True)
        Stem(network.backbone).requires_grad_(False)


def folded(model: LookTwice) -> LookTwice:
    """A copy that is good for looking only, and quicker at it."""
    return fold(copy.deepcopy(model).eval())


def suspects(model: LookTwice, film: TrainFilm) -> list[tuple[float, float]]:
    """Places (x, y) in film pixels where the locator's map peaks outside every box."""
    place, where, _, _ = model.find(film.levels[0].float().div(255).numpy())
    found = []
    for box in patch_boxes(place, where, places=4, sides=(0.0,), least=1 / 3):
        centre = (box.left + box.width / 2, box.top + box.height / 2)
        if not augment.inside(torch.tensor(centre), film.boxes).any():
            found.append(centre)
    return found


def train_gate(model: LookTwice, train: Sequence[TrainFilm], args: argparse.Namespace) -> None:
    """Which pictures to refuse: the labels' foreign ones, turned and cropped, and drawn ones."""
    model.eval().requires_grad_(False)
    _, foreign = split_foreign(args)
    films = [load_film(record) for record in foreign]
    rng = np.random.default_rng(args.seed)
    pictures = [film.levels[0].numpy() for film in films]
    pictures += [
        np.ascontiguousarray(np.rot90(part(film.levels[0].numpy(), rng), turns))
        for film in films
        for turns in (0, 1, 2, 3, 0, 2)
    ]
    pictures += [draw_foreign(kind, rng) for kind in KINDS for _ in range(12)]
    limbs = [film.levels[0].numpy() for film in train]
    quick = folded(model).with_plan(replace(model.plan, mirrored=False))
    fit_gate(model.gate, pooled(quick, limbs), pooled(quick, pictures), refused=0.01)


def part(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random two thirds to nine tenths of each side."""
    tall, wide = (int(side * rng.uniform(0.65, 0.9)) for side in picture.shape[:2])
    top, left = (
        int(rng.integers(a - b + 1)) for a, b in zip(picture.shape, (tall, wide), strict=False)
    )
    return picture[top : top + tall, left : left + wide]


@torch.inference_mode()
def pooled(model: LookTwice, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The locator's pooled features of pictures, float32 (n, 536)."""
    found = []
    for picture_ in tqdm(pictures, "pooled features", leave=False, mininterval=5):
        found.append(model.find(read_film(picture_).pixels)[3])
    return np.stack(found)


def train_single(
    args: argparse.Namespace, train: list, held_out: list, fit_: Callable
) -> nn.Module:
    """SimpleCNN as the reference trained it, or a transfer classifier by name."""
    reference = args.preset == "reference"
    model = build_model("simplecnn" if reference else args.preset, pretrained=not reference)
    recipe = Recipe(
        model.architecture,
        args.epochs or 10,
        args.batch or (32 if reference else 16),
        1e-3 if reference else 3e-4,
        picture_loss,
        plain=reference,
    )
    views = PictureViews(train, args.seed, model.input, augmented=not reference)
    return fit_(model, recipe, views, lambda m: validate_picture(m, held_out, model.input))


# ----------------------------------------------------------------------------- main
SOURCES = {
    "fracatlas": {
        "name": "FracAtlas (Abedeen et al. 2023, Scientific Data 10:521)",
        "licence": "CC BY 4.0",
        "url": "https://doi.org/10.6084/m9.figshare.22363012",
    },
    "bonebreak": {
        "name": "Bone Break Classification (curso-rphcb, Roboflow Universe)",
        "licence": "CC BY 4.0 according to its page; origin of single pictures not certain",
        "url": "https://universe.roboflow.com/curso-rphcb/bone-break-classification",
    },
    "mendeley": {
        "name": "Bone Fracture X-ray Dataset: Simple vs. Comminuted Fractures, version 3",
        "licence": "CC BY 4.0",
        "url": "https://doi.org/10.17632/vg95gvhj3y.3",
    },
    SIMULATED: {"name": "Simulated films (fracture.simulate)", "licence": "MIT", "url": ""},
}
WEB_BOXES = Path(__file__).parent / "fracture" / "web_boxes.csv"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=default_data(),
        help="a folder with labels.csv or class folders",
    )
    parser.add_argument("--boxes", type=Path, default=WEB_BOXES, help="more boxes: id,boxes")
    parser.add_argument(
        "--preset",
        default="looktwice",
        choices=["looktwice", "reference", "tf_efficientnet_lite0", "resnet18", "densenet121"],
    )
    parser.add_argument("--fold", type=int, help="hold this fifth of the groups out (0 to 4)")
    parser.add_argument("--train-source", help="train on this source alone, hold the others out")
    parser.add_argument(
        "--simulated", type=int, default=1200, metavar="N", help="simulated films to learn on, too"
    )
    parser.add_argument("--epochs", type=int, help="default: the preset's")
    parser.add_argument("--batch", type=int, help="default: the preset's")
    parser.add_argument("--limit", type=int, help="use this many films only, to try things out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="torch threads; default: all cores")
    parser.add_argument("--out", type=Path, default=Path("models"), help="where the model goes")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where a run's state goes")
    parser.add_argument("--plan", type=Path, default=Path("models/evaluation.json"))
    parser.add_argument(
        "--ship",
        action="store_true",
        help="train nothing: copy the finished run into --out, calibrated by the evaluation",
    )
    parser.add_argument("--resume", action="store_true", help="go on after the last whole epoch")
    return parser.parse_args()


def split(args: argparse.Namespace) -> tuple[list[Record], list[Record]]:
    """Films to train on and films held out; no group on both sides, errors before any work."""
    records = read_films(args.data, args.boxes)
    records = [r for r in records if r.label != "not_limb_radiograph"]
    if args.train_source:
        held = [record.source != args.train_source for record in records]
    elif args.fold is None:
        held = [False] * len(records)
    else:
        held = [fold == args.fold for fold in group_folds(records)]
    wanted = usable if args.preset == "looktwice" else two_classes
    train = [r for r, out in zip(records, held, strict=True) if not out and wanted(r)]
    held_out = [r for r, out in zip(records, held, strict=True) if out and wanted(r)]
    train, held_out = sample(train, args.limit), sample(held_out, args.limit)
    check_trainable(train)
    check_split(train, held_out)
    return train, held_out


def split_foreign(args: argparse.Namespace) -> tuple[list[Record], list[Record]]:
    """The labels' pictures that are no limb radiographs: held out, to train on."""
    records = [r for r in read_labels(args.data) if r.label == "not_limb_radiograph"]
    if args.fold is None:
        return [], sample(records, args.limit)
    held = [fold == args.fold for fold in group_folds(records)]
    return (
        [r for r, out in zip(records, held, strict=True) if out],
        sample([r for r, out in zip(records, held, strict=True) if not out], args.limit),
    )


def two_classes(record: Record) -> bool:
    return record.label in ("Comminuted", "Simple")


def main() -> None:
    args = arguments()
    if args.ship:
        return ship(args)
    accelerator = Accelerator()
    set_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        train_records, held_records = split(args)
    except ValueError as error:
        raise SystemExit(f"train.py: {error}") from error
    run = args.runs / run_name(args)
    run.mkdir(parents=True, exist_ok=True)
    accelerator.print(
        f"{args.preset}: {len(train_records)} films to train on, {len(held_records)} held out"
    )
    quiet = not accelerator.is_local_main_process
    train = [load_film(r) for r in tqdm(train_records, "read films", disable=quiet)]
    held_out = [load_film(r) for r in tqdm(held_records, "read held-out", disable=quiet)]

    def fit_(
        model: nn.Module,
        recipe: Recipe,
        views: Views,
        validate: Callable,
        folder: Path = run,
        resume: bool = args.resume,
    ) -> nn.Module:
        return fit(
            model, recipe, views, validate, folder,
            resume=resume, seed=args.seed, accelerator=accelerator,
        )  # fmt: skip

    builder = train_looktwice if args.preset == "looktwice" else train_single
    try:
        model = builder(args, train, held_out, fit_)
    except KeyboardInterrupt:
        raise SystemExit(
            f"stopped; the last whole epoch is in {run}, go on with --resume"
        ) from None
    if not accelerator.is_main_process:
        return
    name = model.architecture
    path = run / f"{name}.safetensors"
    sources = sorted({r.source for r in train_records})
    if name == "looktwice" and args.simulated:
        sources.append(SIMULATED)
    metadata = {
        "architecture": name,
        "classes": list(model.classes),
        "input": model.input.to_metadata(),
        "training": {
            "data": [SOURCES.get(s, {"name": s or str(args.data.name)}) for s in sources],
            "films": len(train_records),
            "groups": len({r.group for r in train_records}),
            "held_out_films": len(held_records),
            "command": command(args),
        },
        "metrics": last_rows(run),
        "date": dt.date.today().isoformat(),
    }
    if name == "looktwice":
        metadata |= {"plan": model.plan.to_metadata(), **calibration(args.plan)}
    save_checkpoint(path, model.cpu(), metadata, half=True)
    plot_curves(run)
    if args.fold is None and not args.train_source:  # a model to use
        args.out.mkdir(parents=True, exist_ok=True)
        path = Path(shutil.copy(path, args.out))
    accelerator.print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def command(args: argparse.Namespace) -> str:
    """What repeats this training: the choices that matter, without this machine's folders."""
    told = ("preset", "fold", "train_source", "simulated", "epochs", "batch", "limit", "seed")
    values = {name: getattr(args, name) for name in told}
    if args.preset != "looktwice":
        del values["simulated"]  # the other presets do not learn on simulated films
    words = [f"--{k.replace('_', '-')} {v}" for k, v in values.items() if v is not None]
    return " ".join(["python train.py", *words])


def calibration(evaluation: Path) -> dict[str, dict]:
    """The plan and the thresholds that `fracture.evaluate` fitted on held-out films, if it ran."""
    if not evaluation.exists():
        return {}
    values = json.loads(evaluation.read_text())
    return {"plan": values["plan"], "thresholds": values["thresholds"]}


def ship(args: argparse.Namespace) -> None:
    """Put a finished run's weights into `--out` with what the evaluation fitted."""
    source = args.runs / run_name(args) / "looktwice.safetensors"
    weights, metadata = load_checkpoint(source)
    metadata["training"]["command"] = command(args)
    path = args.out / source.name
    save_checkpoint(path, weights, metadata | calibration(args.plan), half=True)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB) from {source}")


def run_name(args: argparse.Namespace) -> str:
    if args.train_source:
        return f"{args.preset}-{args.train_source}-only"
    return f"{args.preset}-{'all' if args.fold is None else f'fold{args.fold}'}"


def last_rows(run: Path) -> dict[str, dict[str, float]]:
    """The last line of every curve of a run, as numbers."""
    found = {}
    for curve in sorted(run.glob("*.csv")):
        with curve.open(newline="") as file:
            row = list(csv.DictReader(file))[-1]
        found[curve.stem] = {k: round(float(v), 4) for k, v in row.items()}
    return found


def plot_curves(run: Path) -> None:
    """curves.png: everything that the CSVs say, over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = sorted(run.glob("*.csv"))
    figure, axes = plt.subplots(1, len(curves), figsize=(6 * len(curves), 4), squeeze=False)
    for axis, curve in zip(axes[0], curves, strict=True):
        with curve.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for key in rows[0]:
            if key not in ("epoch", "seconds"):
                known = [r for r in rows if r[key]]  # not every epoch is validated
                at, values = zip(*((int(r["epoch"]), float(r[key])) for r in known), strict=True)
                axis.plot(at, values, marker=".", label=key)
        axis.set(title=curve.stem, xlabel="epoch", ylabel="loss, or a share of 1")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(run / "curves.png", dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
