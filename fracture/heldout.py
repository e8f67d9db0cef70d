"""Runs a two-look model over films that it was not trained on and keeps what it saw.

One row a film, written to a JSON file as the films are read, so that a run that was cut off goes
on where it stopped; the locator's pooled features lie beside it in an `.npz`. Nothing is decided
here: how the opinions are weighed is fitted later, on other folds' rows (`fracture.evaluate`).

Rows belong to a checkpoint. A change of the code that looks at films does not show in it: then
delete `heldout.json`, `foreign.json`, `simulated.json` and the lesson's `looktwice.json`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from tqdm import tqdm

from fracture.calibrate import FOLDS
from fracture.checkpoint import fill, load_checkpoint
from fracture.classifier import Classifier
from fracture.film import Film, read_film
from fracture.fold import fold as folded
from fracture.gate import IN_COLOUR
from fracture.labels import CLASSES, Box, Record, group_folds
from fracture.looktwice import LookTwice, Plan, Sight

DEFAULT_METHOD = LookTwice.methods[0]
PLACE = "locator"  # the locator's map alone, before the reader's word
REFERENCE = "simplecnn"
SHAKEN = {  # sanity checks (Adebayo et al. 2018, NeurIPS): these parts get random weights
    "random locator": ("locator",),
    "random reader": ("reader",),
    "random weights": ("locator", "reader"),
}
CUTS = tuple(round(0.05 * i, 2) for i in range(1, 20))  # thresholds tried on a map in [0, 1]
SAVE_EVERY = 20  # films


@dataclass(frozen=True)
class MapScore:
    """How well a map points at boxes.

    hit:    1 if its highest pixel lies in a box (pointing game, Zhang et al. 2018, IJCV 126:1084);
            the share of its highest pixels that do, if several are equally high.
    energy: share of its sum that lies in the boxes (Wang et al. 2020, CVPR Workshops).
    iou:    overlap of the boxes with the map thresholded at each of `CUTS`.
    rank:   Spearman correlation with the map of the trained model; None where not asked.
    """

    hit: float
    energy: float
    iou: tuple[float, ...]
    rank: float | None = None


def load_looktwice(path: Path) -> LookTwice:
    """A checkpoint's model, with the plan that it was saved with. Raises CheckpointError."""
    weights, metadata = load_checkpoint(path)
    model = LookTwice(Plan.from_metadata(metadata.get("plan", {})))
    fill(model, weights, path)
    return model.eval().requires_grad_(False)


def of_fold(records: Sequence[Record], fold: int) -> list[Record]:
    """The films that `train.py --fold` holds out, unclear ones included."""
    records = [record for record in records if record.label != "not_limb_radiograph"]
    return [r for r, f in zip(records, group_folds(records), strict=True) if f == fold]


def of_other_sources(records: Sequence[Record], source: str) -> list[Record]:
    """The films that `train.py --train-source` holds out."""
    return [r for r in records if r.source != source and r.label != "not_limb_radiograph"]


def inside_boxes(boxes: Iterable[Box], shape: tuple[int, int]) -> np.ndarray:
    """True where a pixel's centre lies in a box; boxes are fractions of the picture; bool (H, W).

    A box between pixel centres marks the pixel under its own centre.
    """
    height, width = shape
    inside = np.zeros(shape, dtype=bool)
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    for left, top, w, h in boxes:
        inside |= ((y >= top) & (y <= top + h))[:, None] & ((x >= left) & (x <= left + w))
        inside[min(int((top + h / 2) * height), height - 1),
               min(int((left + w / 2) * width), width - 1)] = True  # fmt: skip
    return inside


def score_map(heat: np.ndarray, inside: np.ndarray, original: np.ndarray | None = None) -> MapScore:
    """Scores of a map float32 (H, W) in [0, 1] against boxes as bool (H, W)."""
    # Pixels above each threshold, in the boxes and in all: counted once for all thresholds.
    steps = (0.0, *CUTS, 2.0)
    both = np.histogram(heat[inside], steps)[0][::-1].cumsum()[::-1][1:]
    above = np.histogram(heat, steps)[0][::-1].cumsum()[::-1][1:]
    total = float(heat.sum())
    return MapScore(
        hit=float(inside[heat == heat.max()].mean()),
        # an empty map points nowhere: like one that is the same everywhere
        energy=float(heat[inside].sum()) / total if total > 0 else float(inside.mean()),
        iou=tuple((both / (inside.sum() + above - both)).tolist()),
        rank=None if original is None else rank_correlation(heat, original),
    )


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman correlation of two maps at about the locator's resolution; 0 for a flat map."""
    small = [np.asarray(Image.fromarray(m).resize((48, 56), Image.Resampling.BOX)).ravel()
             for m in (one, other)]  # fmt: skip
    if any(np.ptp(m) < 1e-6 for m in small):
        return 0.0
    return float(spearmanr(*small).statistic)


def randomised(model: LookTwice, parts: Sequence[str], seed: int = 0) -> LookTwice:
    """A copy of the model in which the named parts have fresh random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = LookTwice(model.plan).eval().requires_grad_(False)
    other = copy.copy(model)
    other._modules = dict(model._modules) | {part: getattr(fresh, part) for part in parts}
    return other


def peak_of(sight: Sight) -> tuple[float, float, float]:
    """Height of the locator's map at its highest place on the film, and x, y as fractions."""
    heat = sight.where.to_film(sight.place)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return float(heat.max()), (column + 0.5) / heat.shape[1], (row + 0.5) / heat.shape[0]


@dataclass(frozen=True)
class Instruments:
    """What films are looked at with: the model, and what its maps are compared with.

    shaken:    the model with random parts, by the names in `SHAKEN`.
    reference: a SimpleCNN trained on the same films, or None.
    """

    model: LookTwice
    shaken: Mapping[str, LookTwice]
    reference: Classifier | None


@dataclass(frozen=True)
class Specimen:
    """A film to be looked at.

    about:  what its row says of it: id, group, source, region, label, pattern, agreement.
    wanted: the maps that are scored: methods of the model, `PLACE`, `REFERENCE`, names in `SHAKEN`.
    open:   gives the film, and bool (H, W) where its fracture is (None if nobody knows).
    """

    about: dict[str, str]
    wanted: Sequence[str]
    open: Callable[[], tuple[Film, np.ndarray | None]]


def read_held_out(
    checkpoint: Path,
    records: Sequence[Record],
    store: Path,
    sample: int = 0,
    reference: Path | None = None,
) -> list[dict[str, Any]]:
    """Rows of the films, in their order; those already in `store` by this checkpoint are kept.

    checkpoint: a two-look model that was not trained on the films. reference: checkpoint of a
    SimpleCNN, likewise; may be missing.

    Films with boxes get their default map and the locator's scored; classed ones with
    radiologists' boxes also the reference's, and `sample` of them, always the same ones, the
    remaining methods, which are slow, and the sanity checks.
    """
    reference = reference if reference is not None and reference.exists() else None
    classed = [r for r in records if r.boxes and r.source == "fracatlas" and r.label in CLASSES]
    by_lot = sorted(classed, key=lambda r: hashlib.sha256(r.id.encode()).digest())[:sample]

    def specimen(record: Record) -> Specimen:
        wanted = [DEFAULT_METHOD, PLACE] if record.boxes else []
        if reference is not None and record in classed:
            wanted.append(REFERENCE)
        if record in by_lot:
            wanted += [*LookTwice.methods[1:], *SHAKEN]

        def open_() -> tuple[Film, np.ndarray | None]:
            film = read_film(record.path)
            return film, inside_boxes(record.boxes, film.pixels.shape) if record.boxes else None

        keys = ("id", "group", "source", "region", "label", "pattern", "agreement")
        return Specimen({key: getattr(record, key) for key in keys}, wanted, open_)

    return read_through(checkpoint, list(map(specimen, records)), store, reference)


def read_simulated(
    checkpoint: Path, store: Path, count: int = 200, seed: int = 20_000
) -> list[dict[str, Any]]:
    """Rows of simulated fractured films, half of them comminuted, whose truth is exact."""
    from fracture.simulate import random_settings, simulate

    def specimen(number: int) -> Specimen:
        settings = random_settings(
            np.random.default_rng(number), label=("Simple", "Comminuted")[number % 2]
        )

        def open_() -> tuple[Film, np.ndarray]:
            film = simulate(settings)
            inside = np.zeros(film.pixels.shape, dtype=bool)
            box = film.box
            inside[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] = True
            display = np.repeat((film.pixels[..., None] * 255).astype(np.uint8), 3, axis=2)
            return Film(film.pixels, display, "", (), ()), inside

        name = f"sim_{number}"
        about = {"id": name, "group": name, "source": "simulated", "region": settings.bone}
        about |= {"label": settings.label, "pattern": settings.pattern, "agreement": ""}
        return Specimen(about, (DEFAULT_METHOD, PLACE), open_)

    return read_through(checkpoint, [specimen(seed + i) for i in range(count)], store)


def read_foreign(
    checkpoint: Path, records: Sequence[Record], fold: int, store: Path, drawn: int = 2
) -> list[dict[str, Any]]:
    """Rows of pictures that are no limb radiographs and that `train.py --fold` did not train on.

    Of the records those of the fold's share of `not_limb_radiograph`; `drawn` pictures of each
    kind that `fracture.foreign` draws, not those that training drew; and every fifth picture that
    comes with scikit-image.
    """
    import skimage

    from fracture.foreign import KINDS, draw_foreign

    def specimen(kind: str, name: str, source: Path | np.ndarray | None = None) -> Specimen:
        def open_() -> tuple[Film, None]:
            if source is not None:
                return read_film(source), None
            return read_film(draw_foreign(kind, np.random.default_rng([1, *name.encode()]))), None

        about = {"id": name, "group": name, "source": kind, "region": "", "label": "foreign"}
        return Specimen(about | {"pattern": "", "agreement": ""}, (), open_)

    others = [record for record in records if record.label == "not_limb_radiograph"]
    own = []
    if len({record.group for record in others}) >= FOLDS:
        own = [r for r, f in zip(others, group_folds(others), strict=True) if f == fold]
    suffixes = (".png", ".jpg", ".gif")
    shipped = sorted(
        file for file in (Path(skimage.__file__).parent / "data").iterdir()
        if file.suffix in suffixes
    )  # fmt: skip
    specimens = [specimen("labels", record.id, record.path) for record in own]
    specimens += [specimen(k, f"{k} {fold} {i}") for k in KINDS for i in range(drawn)]
    specimens += [specimen("scikit-image", f.name, f) for f in shipped[fold::FOLDS]]
    return read_through(checkpoint, specimens, store)


def read_through(
    checkpoint: Path,
    specimens: Sequence[Specimen],
    store: Path,
    reference: Path | None = None,
) -> list[dict[str, Any]]:
    """Rows of the specimens, in their order; `store` keeps them as they are made."""
    stamp = {"checkpoint": fingerprint(checkpoint)}
    if reference:
        stamp["reference"] = fingerprint(reference)
    rows, pooled = load_rows(store, stamp)
    todo = [
        s for s in specimens
        if s.about["id"] not in rows or not set(s.wanted) <= set(rows[s.about["id"]]["maps"])
    ]  # fmt: skip
    if todo:
        model = load_looktwice(checkpoint)
        asked = {name for s in todo for name in s.wanted}
        instruments = Instruments(
            model,
            {name: randomised(model, parts) for name, parts in SHAKEN.items() if name in asked},
            Classifier.load(reference) if reference else None,
        )
        folded(model)  # as the app reads; the parts that are random stay as they are
        for n, specimen in enumerate(tqdm(todo, store.parent.name, mininterval=5), 1):
            seen, features = look_at(instruments, specimen)
            rows[specimen.about["id"]] = specimen.about | seen
            pooled[specimen.about["id"]] = features
            if n % SAVE_EVERY == 0 or n == len(todo):
                save_rows(store, stamp, rows, pooled)
    return [rows[s.about["id"]] for s in specimens]


def look_at(instruments: Instruments, specimen: Specimen) -> tuple[dict[str, Any], np.ndarray]:
    """Evidence, peak and map scores of one film as plain JSON values; and its pooled features."""
    film, inside = specimen.open()
    sight = instruments.model.analyse(film)
    fractured, comminuted = sight.evidence()
    row: dict[str, Any] = {
        "fractured": fractured.round(5).tolist(),
        "comminuted": comminuted.round(5).tolist(),
        "peak": [round(v, 5) for v in peak_of(sight)],
        "unfit": bool(film.problems) or IN_COLOUR in sight.problems,
        "foreign": round(instruments.model.foreignness(sight.pooled), 4),
        "maps": {},
    }
    if inside is not None:
        # an unclear film has no true class: the maps that show one class only show this one
        label = specimen.about["label"] if specimen.about["label"] in CLASSES else "Simple"
        row["box_share"] = round(float(inside.mean()), 6)
        row["centre_hit"] = bool(inside[inside.shape[0] // 2, inside.shape[1] // 2])
        row["maps"] = {
            name: {
                target: _plain(score)
                for target, score in map_scores(
                    instruments, name, film, sight, inside, label
                ).items()
            }
            for name in specimen.wanted
        }
    return row, sight.pooled


def map_scores(
    instruments: Instruments,
    name: str,
    film: Film,
    sight: Sight,
    inside: np.ndarray,
    label: str,
) -> dict[str, MapScore]:
    """Scores by class of one kind of map; those that do not depend on a class, or cost much, for
    the class `label` alone."""
    if name == PLACE:
        return {label: score_map(sight.where.to_film(sight.place), inside)}
    if name == REFERENCE:
        return {label: score_map(instruments.reference.explain(film, label), inside)}
    if name in SHAKEN:
        target = CLASSES.index(label)
        original = sight.class_map(target, DEFAULT_METHOD)
        shaken = instruments.shaken[name].analyse(film).class_map(target, DEFAULT_METHOD)
        return {label: score_map(shaken, inside, original)}
    return {
        target: score_map(sight.class_map(n, name), inside) for n, target in enumerate(CLASSES)
    }


def load_rows(
    store: Path, stamp: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Rows and pooled features by id; none if the store was made with other weights."""
    if not store.exists():
        return {}, {}
    kept = json.loads(store.read_text())
    # A reference that came later changes nothing about the rows that do not need it.
    if any(kept["stamp"].get(key, value) != value for key, value in stamp.items()):
        return {}, {}
    with np.load(store.with_suffix(".npz")) as file:
        pooled = dict(zip(file["ids"].tolist(), file["pooled"], strict=True))
    return {row["id"]: row for row in kept["rows"] if row["id"] in pooled}, pooled


def save_rows(
    store: Path,
    stamp: Mapping[str, str],
    rows: Mapping[str, dict[str, Any]],
    pooled: Mapping[str, np.ndarray],
) -> None:
    """Write beside, then rename; the features first, since a row without them is read anew."""
    store.parent.mkdir(parents=True, exist_ok=True)
    features = store.with_suffix(".part.npz")
    np.savez(features, ids=np.array(list(pooled)), pooled=np.stack(list(pooled.values())))
    os.replace(features, store.with_suffix(".npz"))
    part = store.with_suffix(".part")
    part.write_text(
        json.dumps({"stamp": dict(stamp)})[:-1]
        + ', "rows": [\n'
        + ",\n".join(json.dumps(row) for row in rows.values())
        + "\n]}\n"
    )
    part.replace(store)


def fingerprint(path: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _plain(score: MapScore) -> dict[str, Any]:
    return {
        k: [round(x, 4) for x in v] if isinstance(v, tuple) else round(v, 4)
        for k, v in asdict(score).items()
        if v is not None
    }
