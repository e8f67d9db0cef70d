"""What each part of the model is worth, on films of one fold that none of the networks has seen.

Every row changes one thing of the row before or names what it is compared with. Networks that
were trained otherwise are looked for in the runs folder:

    python train.py --fold 0 --preset reference
    python train.py --fold 0 --preset tf_efficientnet_lite0
    python train.py --fold 0 --simulated 0 --runs runs/without-simulated

Rows of networks that are not there are left out. The opinions of locator and reader count the same
here; how much better they are weighed by what other folds say is in the evaluation itself.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fracture import metrics
from fracture.calibrate import COMMINUTED, NONE
from fracture.classifier import Classifier
from fracture.film import Film, read_film
from fracture.fold import fold
from fracture.heldout import DEFAULT_METHOD, inside_boxes, load_looktwice, of_fold, score_map
from fracture.labels import CLASSES, Record
from fracture.looktwice import LookTwice, Plan, Sight

Json = dict[str, Any]
LOCATOR, READER, BOTH = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)
ONE_PATCH = Plan(places=1, sides=(1.1,))


@dataclass(frozen=True)
class Opinion:
    """What a way of reading makes of one film.

    kind:     log-odds of comminuted among the fractures.
    fracture: log-odds of a fracture; None from a network that knows fractures only.
    heat:     float32 (H, W), its map of the film's true class.
    seconds:  of the model and the map, without reading the file.
    """

    kind: float
    fracture: float | None
    heat: np.ndarray
    seconds: float


Reading = Callable[[Film, str], Opinion]


def ways(runs: Path, k: int) -> list[tuple[str, Path, Reading]]:
    """(what it changes, the run that its networks come from, how it reads) for what is in `runs`.

    k: the fold that the networks have not seen.
    """
    found: list[tuple[str, Path, Reading]] = []
    for change, name, file in (
        ("SimpleCNN, the whole film at 224 px", f"reference-fold{k}", "simplecnn"),
        ("EfficientNet-Lite0, the whole film at 224 px", f"tf_efficientnet_lite0-fold{k}",
         "tf_efficientnet_lite0"),
    ):  # fmt: skip
        checkpoint = runs / name / f"{file}.safetensors"
        if checkpoint.exists():
            found.append((change, checkpoint.parent, single_look(Classifier.load(checkpoint))))
    for change, run, steps in (
        ("without simulated films: all of the last row",
         runs / "without-simulated" / f"looktwice-fold{k}", STEPS[-1:]),
        ("", runs / f"looktwice-fold{k}", STEPS),
    ):  # fmt: skip
        checkpoint = run / "looktwice.safetensors"
        if checkpoint.exists():
            model = fold(load_looktwice(checkpoint))
            found += [
                (change or step, run, two_looks(model, plan, weights))
                for step, plan, weights in steps
            ]
    return found


# What is read, and how much locator and reader count.
STEPS = (
    ("locator alone, its own map", replace(ONE_PATCH, mirrored=False), LOCATOR),
    ("... and the film's mirror image", ONE_PATCH, LOCATOR),
    ("reader alone, one patch at the map's highest place", ONE_PATCH, READER),
    ("... in two sizes", replace(ONE_PATCH, sides=Plan.sides), READER),
    ("... and at a second place, if nearly as high", Plan(), READER),
    ("locator and reader", Plan(), BOTH),
)


def single_look(classifier: Classifier) -> Reading:
    """A network that sees the whole film once."""

    def read(film: Film, label: str) -> Opinion:
        began = time.perf_counter()
        analysis = classifier._network.analyse(film)
        target = classifier.classes.index(label) if label in classifier.classes else 0
        heat = analysis.class_map(target, DEFAULT_METHOD)
        seconds = time.perf_counter() - began
        return Opinion(float(analysis.logits[0] - analysis.logits[1]), None, heat, seconds)

    return read


def two_looks(model: LookTwice, plan: Plan, weights: tuple[float, float]) -> Reading:
    """The two-look model with another plan, and with its opinions weighed (locator, reader)."""

    def read(film: Film, label: str) -> Opinion:
        began = time.perf_counter()
        sight = model.with_plan(plan).look(film.pixels)
        heat = map_of(sight, label, weights)
        seconds = time.perf_counter() - began
        fractured, comminuted = sight.evidence()
        return Opinion(
            float(comminuted[:2] @ weights), float(fractured[:2] @ weights), heat, seconds
        )

    return read


def map_of(sight: Sight, label: str, weights: tuple[float, float]) -> np.ndarray:
    """The locator's own map where it alone counts, else the map that the app shows."""
    if weights == LOCATOR:
        return sight.where.to_film(sight.place)
    return sight.class_map(CLASSES.index(label), DEFAULT_METHOD)


def ablation(records: Sequence[Record], runs: Path, k: int, limit: int | None = None) -> Json:
    """The table: AUROC, hit rate on radiologists' boxes and cost of every way of reading.

    records: all films; those of fold k that have a class are read.
    """
    films = [r for r in of_fold(records, k) if r.label in CLASSES]
    films = films[:: max(1, len(films) // limit)] if limit else films
    label = np.array([r.label for r in films])
    group = np.array([r.group for r in films])
    hospital = np.array([r.source == "fracatlas" for r in films])
    broken = label != NONE
    boxed = np.array([bool(r.boxes) for r in films]) & hospital & broken
    rows = []
    for change, run, read in ways(runs, k):
        opinions, hits = [], []
        for record in tqdm(films, change, mininterval=5):
            film = read_film(record.path)
            opinion = read(film, record.label)
            if record.boxes and record.source == "fracatlas":
                inside = inside_boxes(record.boxes, film.pixels.shape)
                hits.append(score_map(opinion.heat, inside).hit)
            opinions.append(replace(opinion, heat=np.empty(0)))
        kind = np.array([o.kind for o in opinions])
        row: Json = {
            "change": change,
            "kind": area(label == COMMINUTED, kind, group, broken),
            "fracture": None,
            "hit": metrics.interval(metrics.mean(np.array(hits), metrics.resample(group[boxed])))
            if hits
            else None,
            "milliseconds": round(1000 * float(np.median([o.seconds for o in opinions])), 1),
            "training_minutes": training_minutes(run),
        }
        if opinions[0].fracture is not None:
            fracture = np.array([o.fracture for o in opinions])
            row["fracture"] = area(broken, fracture, group, hospital)
        rows.append(row)
    return {"fold": k, "films": len(films), "boxed": int(boxed.sum()), "rows": rows}


def area(truth: np.ndarray, score: np.ndarray, group: np.ndarray, asked: np.ndarray) -> Json | None:
    """AUROC with its interval, of the films that are asked about."""
    weights = metrics.resample(group[asked])
    return metrics.interval(metrics.auroc(truth[asked], score[asked], weights))


def training_minutes(run: Path) -> float:
    """What a run's epochs took, that on simulated films, which all folds share, not counted."""
    total = 0.0
    for curve in run.glob("*.csv"):
        with curve.open(newline="") as file:
            total += sum(float(row["seconds"]) for row in csv.DictReader(file))
    return round(total / 60, 1)


def with_ablation(options: argparse.Namespace, records: Sequence[Record], values: Json) -> Json:
    """The evaluation with the table of the lowest fold that has a run."""
    folds = [k for k in values.get("folds", []) if (options.runs / f"looktwice-fold{k}").exists()]
    if not folds:
        raise SystemExit("fracture.evaluate: the ablation comes after the films")
    return values | {"ablation": ablation(records, options.runs, min(folds), options.limit)}
