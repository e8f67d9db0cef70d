"""The lesson of the 99.87 %: what a figure is worth depends on the pictures it is measured on.

The reference trained its SimpleCNN on pictures and augmented copies of them, and measured it on
the pictures it had trained on. Here the same network is measured three ways on our films:

* on its training pictures, as the reference did;
* on pictures kept back at random, when copies of the same films were trained on (what a random
  split of a folder with augmented copies does);
* on films of groups that it never saw.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

import train  # the training script beside the package: run this from the repository
from fracture import augment, metrics
from fracture.calibrate import Table, probabilities
from fracture.film import Box, cut, read_film
from fracture.labels import CLASSES, Record, group_folds, read_films
from fracture.looktwice import Plan
from fracture.models import SimpleCNN

CLAIMED = 0.9987  # accuracy that the reference states for its SimpleCNN
SIDE = SimpleCNN.input.size[0]
TESTED_FOLD = 0
KEPT_BACK = 0.2  # share of the pictures in the random split
SHIPPED_FILMS = 200  # training films on which LookTwice is measured

Json = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """A film stretched to the network's input, uint8 (224, 224), or an altered copy of it."""

    pixels: Tensor
    label: int
    group: str


class Pictures(train.Views):
    """Pictures from memory, scaled, with their class."""

    def order(self) -> list[int]:
        return list(range(len(self.films)))

    def draw(self, picture: Picture, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return scaled(picture), torch.tensor(picture.label)


def scaled(picture: Picture) -> Tensor:
    return SimpleCNN.input.scale(picture.pixels.float() / 255)


def with_copies(record: Record, seed: int) -> list[Picture]:
    """The film, and a mirrored, a turned and a brighter or darker copy, as in the Mendeley set."""
    pixels = read_film(record.path).pixels
    height, width = pixels.shape
    whole = torch.from_numpy(cut(pixels, Box(0, 0, width, height), (SIDE, SIDE))[0]) * 255
    rng = np.random.default_rng(seed)
    middle = (SIDE / 2, SIDE / 2)
    turn = float(rng.choice([-1, 1]) * rng.uniform(5, 20))
    mirrored = augment.take([whole], augment.look(middle, 1.0, mirror=True), (SIDE, SIDE))[0] * 255
    turned = augment.take([whole], augment.look(middle, 1.0, turn), (SIDE, SIDE))[0] * 255
    exposed = whole * float(rng.choice([rng.uniform(0.7, 0.9), rng.uniform(1.1, 1.3)]))
    label = CLASSES.index(record.label)
    return [
        Picture(p.round().clamp(0, 255).to(torch.uint8), label, record.group)
        for p in (whole, mirrored, turned, exposed)
    ]


def trained(name: str, pictures: Sequence[Picture], folder: Path, epochs: int) -> SimpleCNN:
    """A SimpleCNN trained on the pictures as the reference trained it; goes on where it stopped."""
    recipe = train.Recipe(name, epochs, 32, 1e-3, train.picture_loss, plain=True)
    torch.manual_seed(0)
    return train.fit(
        SimpleCNN(), recipe, Pictures(pictures, 0), lambda _: {}, folder,
        resume=True, seed=0, accelerator=Accelerator(),
    ).cpu()  # fmt: skip


@torch.inference_mode()
def row(way: str, on: str, model: SimpleCNN, pictures: Sequence[Picture]) -> Json:
    """The lesson's row for a SimpleCNN on these pictures."""
    parts = [pictures[i : i + 64] for i in range(0, len(pictures), 64)]
    logits = torch.cat([model(torch.stack(list(map(scaled, part)))) for part in parts])
    comminuted = logits.double().softmax(dim=1)[:, CLASSES.index("Comminuted")].numpy()
    truth = np.array([picture.label == CLASSES.index("Comminuted") for picture in pictures])
    groups = np.array([picture.group for picture in pictures])
    return {"model": "SimpleCNN", "way": way, "on": on} | measures(truth, comminuted, groups)


def measures(truth: np.ndarray, comminuted: np.ndarray, groups: np.ndarray) -> Json:
    w = metrics.resample(groups)
    all_ = metrics.two_class(truth, comminuted, groups)
    right = (comminuted >= 0.5) == truth
    return {
        "pictures": len(truth),
        "accuracy": metrics.interval(metrics.mean(right, w)),
        "balanced_accuracy": all_["balanced_accuracy"],
        "auroc": all_["auroc"],
    }


def reference(both: Sequence[tuple[Record, int]], folder: Path, epochs: int) -> list[Json]:
    """The lesson's rows for the SimpleCNN. both: films of the two fracture classes, their folds."""
    films = [with_copies(r, i) for i, (r, _) in enumerate(tqdm(both, "copies", mininterval=5))]
    seen = [p for film, (_, f) in zip(films, both, strict=True) if f != TESTED_FOLD for p in film]
    unseen = [film[0] for film, (_, f) in zip(films, both, strict=True) if f == TESTED_FOLD]
    everything = [picture for film in films for picture in film]
    lot = np.random.default_rng(0).random(len(everything)) < KEPT_BACK
    kept_back = [picture for picture, out in zip(everything, lot, strict=True) if out]
    others = [picture for picture, out in zip(everything, lot, strict=True) if not out]

    honest = trained("unseen-groups", seen, folder, epochs)
    mixed = trained("random-split", others, folder, epochs)
    copies = "films and three altered copies of each"
    drawn = f"{KEPT_BACK:.0%} of {copies}, drawn at random"
    return [
        row("its training pictures", copies, honest, seen),
        row("random split of copies", drawn, mixed, kept_back),
        row("unseen groups", "films of groups that were kept apart", honest, unseen),
    ]


def teach(options: argparse.Namespace, evaluation: Json) -> Json:
    """The lesson; what the SimpleCNN's trainings gave is kept in the runs folder.

    evaluation: the evaluation so far, for LookTwice's plan and its figures on unseen
    groups; may be empty.
    """
    folder = options.runs / (f"lesson-{options.limit}" if options.limit else "lesson")
    folder.mkdir(parents=True, exist_ok=True)
    records = read_films(options.data, options.boxes)
    records = [r for r in records if r.label != "not_limb_radiograph"]
    folds = group_folds(records)
    both = [(r, f) for r, f in zip(records, folds, strict=True) if train.two_classes(r)]
    if options.limit:
        both = both[:: max(1, len(both) // options.limit)]
    kept = folder / "simplecnn.json"
    if not kept.exists():
        kept.write_text(json.dumps(reference(both, folder, options.epochs)))
        for state in folder.glob("*.state"):  # 0.4 GB each that nobody needs any more
            state.unlink()
    rows = json.loads(kept.read_text())
    rows += shipped(options, evaluation, [r for r, f in both if f != TESTED_FOLD], folder)
    return {"claimed": CLAIMED, "epochs": options.epochs, "rows": rows}


def shipped(
    options: argparse.Namespace, evaluation: Json, seen: list[Record], folder: Path
) -> list[Json]:
    """The shipped recipe on films that it was trained on, and on unseen groups.

    Where the fold's run is gone, the row of its training films stays as it was measured.
    """
    from fracture.heldout import read_held_out

    rows = []
    checkpoint = options.runs / f"looktwice-fold{TESTED_FOLD}" / "looktwice.safetensors"
    if checkpoint.exists() and "plan" in evaluation:
        some = seen[:: max(1, len(seen) // SHIPPED_FILMS)][:SHIPPED_FILMS]
        read = read_held_out(checkpoint, some, folder / "looktwice.json")
        table = Table(read, np.zeros(len(read), dtype=int))
        p = probabilities(table, Plan.from_metadata(evaluation["plan"]))
        truth, share = table.label == "Comminuted", p[:, 0] / (p[:, 0] + p[:, 1])
        rows.append(
            {"model": "LookTwice", "way": "its training pictures",
             "on": "some of the films that one fold's model was trained on"}
            | measures(truth, share, table.group)
        )  # fmt: skip
    else:
        rows += [
            row
            for row in evaluation.get("lesson", {}).get("rows", ())
            if row["model"] == "LookTwice" and row["way"] == "its training pictures"
        ]
    if "kind" in evaluation:
        full = evaluation["kind"]["full"]
        rows.append(
            {
                "model": "LookTwice",
                "way": "unseen groups",
                "on": "every film, by the model of the fold that its group was kept out of",
                "pictures": full["films"],
                "accuracy": evaluation["kind"]["accuracy"],
                "balanced_accuracy": full["balanced_accuracy"],
                "auroc": full["auroc"],
            }
        )
    return rows
