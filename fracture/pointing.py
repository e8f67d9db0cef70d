"""Whether the maps point at the fractures: scores of held-out films' maps, summed up.

The scores of single films are in their rows (see `fracture.heldout.MapScore`). What a map is worth
shows beside the baselines, a point in the middle and one at random, and beside maps of networks
whose weights were made random (Adebayo et al. 2018): those must not point any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fracture import metrics
from fracture.calibrate import COMMINUTED, FEWEST, Answers, Table, probabilities
from fracture.cam import default_target
from fracture.heldout import CUTS, DEFAULT_METHOD, PLACE, REFERENCE, SHAKEN
from fracture.labels import CLASSES
from fracture.looktwice import LookTwice, Plan

Json = dict[str, Any]


def explanation(table: Table, answers: Answers) -> Json:
    """How the maps point at boxes; see `fracture.heldout.MapScore`."""
    has_map = np.array([bool(row["maps"]) for row in table.rows])
    boxed = has_map & (table.source == "fracatlas")
    if not (boxed & table.broken).any():
        return {}

    def scores(mask: np.ndarray, method: str, classes: np.ndarray) -> tuple[Table, list[Json]]:
        """Films of the mask that have this map of the class named for them, and its scores."""
        has = np.array([c in r["maps"].get(method, {})
                        for r, c in zip(table.rows, classes, strict=True)])  # fmt: skip
        mask = mask & has
        found = [r["maps"][method][c]
                 for r, c, m in zip(table.rows, classes, mask, strict=True) if m]  # fmt: skip
        return table.where(mask), found

    def measure(mask: np.ndarray, method: str, classes: np.ndarray) -> Json | None:
        own, found = scores(mask, method, classes)
        return map_measures(own, found) if found else None

    true, shown = table.label, shown_classes(answers.p)
    wanted = boxed & table.broken
    drawn = wanted & np.array([bool(set(r["maps"]) & set(SHAKEN)) for r in table.rows])
    result: Json = {"films": int(wanted.sum()), "methods": {}, "baselines": {}, "sanity": {}}
    for method in LookTwice.methods:
        found = {
            "true": measure(wanted, method, true),
            "predicted": measure(wanted, method, shown),
        }
        if found["true"]:
            result["methods"][method] = found
    if drawn.any():
        result["default_on_sample"] = measure(drawn, DEFAULT_METHOD, true)
    own = table.where(wanted)
    w = metrics.resample(own.group)
    result["baselines"]["centre point"] = {
        "films": len(own.rows), "hit": metrics.interval(metrics.mean(own.column("centre_hit"), w))
    }  # fmt: skip
    share = metrics.interval(metrics.mean(own.column("box_share"), w))
    result["baselines"]["random point"] = {"films": len(own.rows), "hit": share, "energy": share}
    for name, key in (("SimpleCNN, Grad-CAM", REFERENCE), ("locator's map alone", PLACE)):
        if found := measure(wanted, key, true):
            result["baselines"][name] = found
    for name in SHAKEN:
        own, found = scores(wanted, name, true)
        if found:
            w = metrics.resample(own.group)
            result["sanity"][name] = {
                "films": len(found),
                "hit": metrics.interval(metrics.mean(np.array([s["hit"] for s in found]), w)),
                "rank": round(float(np.mean([s["rank"] for s in found])), 4),
            }
    unclear = boxed & ~table.clear
    result["unclear_films"] = measure(unclear, DEFAULT_METHOD, shown)
    result["web_boxes"] = measure(has_map & ~boxed & table.broken, DEFAULT_METHOD, true)
    own, found = scores(wanted, DEFAULT_METHOD, shown)
    result["by_region"] = map_parts(own, found, own.column("region"))
    result["by_class"] = map_parts(own, found, own.label)
    return result


def shown_classes(p: np.ndarray) -> np.ndarray:
    """Names (n,) of the classes whose maps the app shows unasked; p: float (n, 3), as `CLASSES`."""
    return np.array([default_target(dict(zip(CLASSES, row, strict=True))) for row in p.tolist()])


def best_cut(found: Sequence[Json]) -> int:
    """Index into `CUTS` of the threshold with the best mean IoU."""
    return int(np.mean([score["iou"] for score in found], axis=0).argmax())


def map_measures(table: Table, found: Sequence[Json]) -> Json:
    """Hit rate, energy and IoU of one kind of map, the threshold chosen on the other parts."""
    w = metrics.resample(table.group)
    iou = np.zeros(len(found))
    for part in np.unique(table.part):
        own = np.flatnonzero(table.part == part)
        others = [s for s, p in zip(found, table.part, strict=True) if p != part] or found
        cut = best_cut(others)
        iou[own] = [found[i]["iou"][cut] for i in own]
    return {
        "films": len(found),
        "hit": metrics.interval(metrics.mean(np.array([s["hit"] for s in found]), w)),
        "energy": metrics.interval(metrics.mean(np.array([s["energy"] for s in found]), w)),
        "iou": metrics.interval(metrics.mean(iou, w)),
        "cut": CUTS[best_cut(found)],
    }


def map_parts(table: Table, found: Sequence[Json], names: np.ndarray) -> Json:
    """Hit rate by region or class, where there are enough films."""
    hits = np.array([score["hit"] for score in found])
    return {
        str(name): {
            "films": int((names == name).sum()),
            "hit": metrics.interval(
                metrics.mean(hits[names == name], metrics.resample(table.group[names == name]))
            ),
        }
        for name in np.unique(names)
        if (names == name).sum() >= FEWEST
    }


def simulated(rows: list[Json], plan: Plan, cut: int) -> Json:
    """Maps and answers on simulated films. cut: index into `CUTS` of the real films' threshold."""
    table = Table(rows, np.zeros(len(rows), dtype=int))
    p = probabilities(table, plan)
    found = [
        row["maps"][DEFAULT_METHOD][target]
        for row, target in zip(rows, shown_classes(p), strict=True)
    ]
    w = metrics.resample(table.group)
    return {
        "films": len(rows),
        "hit": metrics.interval(metrics.mean(np.array([s["hit"] for s in found]), w)),
        "energy": metrics.interval(metrics.mean(np.array([s["energy"] for s in found]), w)),
        "iou": metrics.interval(metrics.mean(np.array([s["iou"][cut] for s in found]), w)),
        "called_fractured": metrics.interval(metrics.mean(p[:, 2] < 0.5, w)),
        "auroc_kind": metrics.interval(
            metrics.auroc(table.label == COMMINUTED, p[:, 0] / (p[:, 0] + p[:, 1]), w)
        ),
    }
