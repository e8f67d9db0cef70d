"""Measures the shipped recipe on films that it was not trained on.

    python -m fracture.evaluate            # all runs there are -> models/evaluation.json, figures
    python -m fracture.evaluate lesson     # the 99.87 % and what is left of it
    python -m fracture.evaluate ablation   # what each part of the model is worth
    python -m fracture.evaluate card       # models/README.md and the figures in README.md

The first reads every `runs/looktwice-fold{k}` (from `python train.py --fold k`) over the films of
its fold. Whatever is fitted after training (the weights of the opinions, which also calibrate, and
every threshold) is fitted on the other folds' films, so that no film has a say in how it is judged
itself; but for SECOND and FLOOR of `fracture.looktwice`, chosen once on fold 0, and the ridge of
`fracture.gate`, chosen on the labels' pictures of other things. Needs scikit-learn and matplotlib
(requirements-dev.txt).
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fracture import metrics
from fracture.calibrate import (
    COMMINUTED,
    FEWEST,
    FOLDS,
    NONE,
    SIMPLE,
    Answers,
    Table,
    cross_fit,
    cross_refused,
    fit_plan,
    logit,
    probabilities,
    refused,
    surest,
    table_of,
    thresholds_of,
)
from fracture.labels import CLASSES, LabelsError, Record, default_data, read_films, sample

if TYPE_CHECKING:
    from fracture.looktwice import Plan

ROOT = Path(__file__).resolve().parents[1]
WEB_BOXES = Path(__file__).with_name("web_boxes.csv")

Json = dict[str, Any]


# ---------------------------------------------------------------------------------- the questions
def kind_of_fracture(table: Table, answers: Answers) -> Json:
    """Simple or comminuted, asked of the fractured films."""
    answers, table = answers.where(table.broken), table.where(table.broken)
    truth, p = table.label == COMMINUTED, answers.share
    away = np.abs(logit(p) - logit(answers.cut))  # how sure with the cut as the middle
    keep, keep_cut = surest(np.maximum(p, 1 - p)), surest(away)
    by = part_measures(table, truth, p)
    w = metrics.resample(table.group)
    return {
        "full": metrics.two_class(truth, p, table.group),
        "accuracy": metrics.interval(metrics.mean((p >= 0.5) == truth, w)),
        "surest_80": metrics.two_class(truth[keep], p[keep], table.group[keep]),
        "cut": metrics.two_class(truth, p, table.group, answers.cut),
        "cut_surest_80": metrics.two_class(
            truth[keep_cut], p[keep_cut], table.group[keep_cut], answers.cut[keep_cut]
        ),
        "by_part": by("part"),
        "by_source": by("source"),
        "by_region": by("region"),
        "by_agreement": by("agreement"),
        "by_pattern": against(table, truth, p, by_pattern=True),
        "confusion": confusion(
            np.where(truth, COMMINUTED, SIMPLE), np.where(p >= 0.5, COMMINUTED, SIMPLE),
            (COMMINUTED, SIMPLE),
        ),
        "curves": curves(truth, p),
    }  # fmt: skip


def fractured_or_not(table: Table, answers: Answers) -> Json:
    """Fractured or not: among the hospital's films (only they come in both kinds), and all."""
    answers, table = answers.where(table.clear), table.where(table.clear)
    truth, p = table.label != NONE, answers.fractured
    own = np.isin(table.source, np.unique(table.source[~truth]))
    keep = own.copy()
    keep[own] = surest(np.maximum(p, 1 - p)[own])
    of_hospital = table.where(own)
    return {
        "one_source": metrics.two_class(truth[own], p[own], table.group[own]),
        "one_source_surest_80": metrics.two_class(truth[keep], p[keep], table.group[keep]),
        "all": metrics.two_class(truth, p, table.group),
        "by_part": part_measures(of_hospital, truth[own], p[own])("part"),
        "by_pattern": against(of_hospital, truth[own], p[own], by_pattern=True),
        "by_region": against(of_hospital, truth[own], p[own], by_pattern=False),
        "curves": curves(truth[own], p[own]),
    }


def three_classes(table: Table, answers: Answers) -> Json:
    """The app's own answer, its likeliest class, over all clear films."""
    answers, table = answers.where(table.clear), table.where(table.clear)
    right = answers.said == table.label
    keep = surest(answers.sureness)
    coverage, risk = metrics.risk_coverage(answers.sureness, ~right)
    thin = np.unique(np.linspace(0, len(risk) - 1, 200).astype(int))

    def measures(mask: np.ndarray) -> Json:
        w = metrics.resample(table.group[mask])
        hit = right[mask]
        truth = table.label[mask]
        return {
            "films": int(mask.sum()),
            "balanced_accuracy": metrics.interval(
                metrics.balanced_accuracy(truth, answers.said[mask], w)
            ),
            "accuracy": metrics.interval(metrics.mean(hit, w)),
            "ece": metrics.interval(
                metrics.calibration_error(hit, answers.sureness[mask], w), recentred=True
            ),
        }

    return {
        "full": measures(np.ones(len(right), dtype=bool)),
        "surest_80": measures(keep),
        "confusion": confusion(table.label, answers.said, CLASSES),
        "curves": {
            "risk_coverage": {
                "coverage": coverage[thin].round(4).tolist(),
                "risk": risk[thin].round(4).tolist(),
            },
            "reliability": reliability(right, answers.sureness),
        },
    }


def abstention(table: Table, answers: Answers) -> Json:
    """How often the app says "uncertain", with the threshold that other folds chose."""
    silent = answers.sureness < answers.uncertain
    clear = table.clear
    answered = clear & ~silent
    reasons = np.array([
        (row["pattern"] or row["agreement"]) if not ok else row["label"]
        for row, ok in zip(table.rows, clear, strict=True)
    ])  # fmt: skip

    def rate(mask: np.ndarray) -> Json:
        w = metrics.resample(table.group[mask])
        share = metrics.interval(metrics.mean(silent[mask], w))
        return {"films": int(mask.sum()), "abstains": share}

    found = {"clear": rate(clear)}
    if (~clear).any():
        w = metrics.resample(table.group)
        found["unclear"] = rate(~clear)
        found["auroc_unclear"] = metrics.interval(metrics.auroc(~clear, -answers.sureness, w))
    w = metrics.resample(table.group[answered])
    return found | {
        "balanced_accuracy_answered": metrics.interval(
            metrics.balanced_accuracy(table.label[answered], answers.said[answered], w)
        ),
        "by_class": {str(c): rate(clear & (reasons == c)) for c in np.unique(reasons[clear])},
        "by_reason": {str(r): rate(~clear & (reasons == r)) for r in np.unique(reasons[~clear])},
        "none_seen_called_no_fracture": float(
            np.round(np.mean(answers.said[~clear & (reasons == "none seen")] == NONE), 4)
        )
        if (~clear & (reasons == "none seen")).any()
        else None,
    }


def refusal(table: Table, foreign: list[Json], plan: Plan) -> Json:
    """How often a picture gets no verdict at all: real films, and pictures of other things.

    foreign: rows of the latter, which no threshold was fitted on.
    """

    def rate(groups: np.ndarray, given_none: np.ndarray) -> Json:
        share = metrics.interval(metrics.mean(given_none, metrics.resample(groups)))
        return {"pictures": len(groups), "refused": share}

    real, clear = cross_refused(table, plan), table.clear
    others = refused(foreign, plan)
    group = np.array([row["group"] for row in foreign])
    kind = np.array([row["source"] for row in foreign])
    found = np.isin(kind, ("labels", "scikit-image"))  # other people's pictures
    return {
        "real": rate(table.group, real),
        "real_clear": rate(table.group[clear], real[clear]),
        "real_unclear": rate(table.group[~clear], real[~clear]) if not clear.all() else None,
        "foreign": rate(group, others),
        "foreign_not_drawn": rate(group[found], others[found]) if found.any() else None,
        "by_kind": {str(k): rate(group[kind == k], others[kind == k]) for k in np.unique(kind)},
    }


def part_measures(table: Table, truth: np.ndarray, p: np.ndarray) -> Callable[[str], Json]:
    """A function that measures each value of a column by itself."""

    def by(name: str) -> Json:
        values = table.part if name == "part" else table.column(name)
        found = {}
        for value in np.unique(values):
            own = values == value
            measured = metrics.two_class(truth[own], p[own], table.group[own])
            w = metrics.resample(table.group[own])
            measured["accuracy"] = metrics.interval(metrics.mean((p >= 0.5)[own] == truth[own], w))
            if min(truth[own].sum(), (~truth[own]).sum()) < FEWEST:
                keys = ("films", "positives", "groups", "accuracy")
                measured = {key: measured[key] for key in keys}
            found[str(value) or "not stated"] = measured
        return found

    return by


def against(table: Table, truth: np.ndarray, p: np.ndarray, *, by_pattern: bool) -> Json:
    """Each pattern (or region) of fracture, told from all films on the other side.

    A pattern occurs on one side of the question only, so its AUROC is against the whole other
    side; accuracy is its own share of right answers.
    """
    names = table.column("pattern" if by_pattern else "region")
    found = {}
    for name in np.unique(names[names != ""]):
        for side in (True, False):
            own = (names == name) & (truth == side)
            if own.sum() < FEWEST:
                continue
            both = own | (truth != side)
            w = metrics.resample(table.group[both])
            own_w = metrics.resample(table.group[own])
            right = (p >= 0.5)[own] == side
            found[str(name)] = {
                "films": int(own.sum()),
                "auroc": metrics.interval(metrics.auroc(truth[both], p[both], w)),
                "accuracy": metrics.interval(metrics.mean(right, own_w)),
            }
    return found


def confusion(truth: np.ndarray, said: np.ndarray, classes: Sequence[str]) -> Json:
    """Counts, a row for each true class, a column for each answer."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(truth, said, labels=list(classes))
    return {"classes": list(classes), "counts": counts.tolist()}


def curves(truth: np.ndarray, p: np.ndarray) -> Json:
    """ROC, reliability and risk-coverage of a yes/no question, thinned for drawing."""
    from sklearn.metrics import roc_curve

    if truth.all() or not truth.any():
        return {}
    false, true, _ = roc_curve(truth, p)
    coverage, risk = metrics.risk_coverage(np.maximum(p, 1 - p), (p >= 0.5) != truth)
    thin = np.unique(np.linspace(0, len(risk) - 1, 200).astype(int))
    return {
        "roc": {"false": false.round(4).tolist(), "true": true.round(4).tolist()},
        "reliability": reliability(truth, p),
        "risk_coverage": {
            "coverage": coverage[thin].round(4).tolist(),
            "risk": risk[thin].round(4).tolist(),
        },
    }


def reliability(truth: np.ndarray, p: np.ndarray) -> Json:
    """Bins of equally many films: mean probability said, share that came true."""
    from sklearn.calibration import calibration_curve

    came, said = calibration_curve(truth, p, n_bins=metrics.BINS, strategy="quantile")
    return {"said": said.round(4).tolist(), "came": came.round(4).tolist()}


# ---------------------------------------------------------------------------------- other films
def cross_source(options: argparse.Namespace, records: list[Record], table: Table) -> Json:
    """Trained on one source, tested on the other; calibrated on held-out films of the first."""
    from fracture.checkpoint import load_checkpoint
    from fracture.heldout import of_other_sources, read_held_out

    result = {}
    for source in sorted({record.source for record in records}):
        run = options.runs / f"looktwice-{source}-only"
        checkpoint = run / "looktwice.safetensors"
        if not checkpoint.exists():
            continue
        others = sample(of_other_sources(records, source), options.limit)
        films = [replace(record, boxes=()) for record in others]  # no map is asked for
        rows = read_held_out(checkpoint, films, run / "heldout.json")
        other = Table(rows, np.zeros(len(rows), dtype=int))
        plan = fit_plan(table.where(table.source == source), base_plan(checkpoint))
        answers = Answers(probabilities(other, plan), np.zeros(len(rows)), np.full(len(rows), 0.5))
        broken, clear = other.broken, other.clear
        result[source] = {
            "trained_on": source,
            "command": load_checkpoint(checkpoint)[1].get("training", {}).get("command", ""),
            "tested_on": sorted(set(other.source.tolist())),
            "kind": metrics.two_class(
                other.label[broken] == COMMINUTED, answers.share[broken], other.group[broken]
            ),
            "fracture": metrics.two_class(
                other.label[clear] != NONE, answers.fractured[clear], other.group[clear]
            ),
        }
    return result


def describe_data(records: Sequence[Record], table: Table) -> Json:
    """How many films of what the figures rest on."""
    counts = Counter((record.source, record.label) for record in records)
    return {
        "films": len(records),
        "groups": len({record.group for record in records}),
        "by_source": {
            source: {label: n for (s, label), n in sorted(counts.items()) if s == source}
            for source in sorted({record.source for record in records})
        },
        "with_boxes": dict(Counter(record.source for record in records if record.boxes)),
        "held_out_films": len(table.rows),
        "held_out_groups": len(set(table.group)),
    }


# ---------------------------------------------------------------------------------- the command
def base_plan(checkpoint: Path) -> Plan:
    """The plan that a checkpoint was saved with."""
    from fracture.checkpoint import load_checkpoint
    from fracture.looktwice import Plan

    return Plan.from_metadata(load_checkpoint(checkpoint)[1].get("plan", {}))


def measure(options: argparse.Namespace) -> Json:
    """Everything but the lesson, from the runs and the films."""
    from fracture.ablation import training_minutes
    from fracture.checkpoint import load_checkpoint
    from fracture.heldout import (
        CUTS,
        DEFAULT_METHOD,
        fingerprint,
        of_fold,
        read_foreign,
        read_held_out,
        read_simulated,
    )
    from fracture.pointing import explanation, simulated

    records = read_films(options.data, options.boxes)
    runs = {k: options.runs / f"looktwice-fold{k}" for k in range(FOLDS)}
    checkpoints = {k: run / "looktwice.safetensors" for k, run in runs.items()}
    checkpoints = {k: path for k, path in checkpoints.items() if path.exists()}
    if not checkpoints:
        raise SystemExit(
            f"fracture.evaluate: no run in {options.runs}; 'python train.py --fold 0' makes one"
        )
    rows = {
        k: read_held_out(
            path,
            sample(of_fold(records, k), options.limit),
            runs[k] / "heldout.json",
            options.explain_films,
            options.runs / f"reference-fold{k}" / "simplecnn.safetensors",
        )
        for k, path in checkpoints.items()
    }
    foreign = [
        row
        for k, path in checkpoints.items()
        for row in read_foreign(path, records, k, runs[k] / "foreign.json")
    ]
    table = table_of(rows)
    first = min(checkpoints)
    plan = fit_plan(table, base_plan(checkpoints[first]))
    answers = cross_fit(table, plan)
    uncertain, cut = thresholds_of(table, plan)
    explained = explanation(table, answers)
    result = {
        "date": dt.date.today().isoformat(),
        "folds": sorted(checkpoints),
        "checkpoints": {str(k): fingerprint(path) for k, path in checkpoints.items()},
        "resamples": metrics.RESAMPLES,
        "data": describe_data(records, table),
        "sources": load_checkpoint(checkpoints[first])[1].get("training", {}).get("data", []),
        "training_minutes": {
            "simulated": sum(map(training_minutes, options.runs.glob("looktwice-simulated-*"))),
            "fold": round(float(np.mean([training_minutes(runs[k]) for k in checkpoints])), 1),
        },
        "plan": plan.to_metadata(),
        "thresholds": {"uncertain": round(uncertain, 4), "comminuted": round(cut, 4)},
        "kind": kind_of_fracture(table, answers),
        "fracture": fractured_or_not(table, answers),
        "three_classes": three_classes(table, answers),
        "abstention": abstention(table, answers),
        "refusal": refusal(table, foreign, plan),
        "explanation": explained,
        "cross_source": cross_source(options, records, table),
    }
    if explained:
        map_cut = explained["methods"][DEFAULT_METHOD]["predicted"]["cut"]
        result["thresholds"]["map"] = map_cut
        if options.simulated:
            films = read_simulated(
                checkpoints[first], runs[first] / "simulated.json", options.simulated
            )
            result["simulated"] = simulated(films, plan, CUTS.index(map_cut))
    write_worst(table, answers, records, options.runs / "worst.jpg")
    return result


def write_worst(
    table: Table, answers: Answers, records: Sequence[Record], path: Path, count: int = 24
) -> None:
    """Contact sheet of the clear films whose true class got the least probability."""
    from fracture.figures import contact_sheet

    film = {record.id: record for record in records}
    column = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in table.label])
    told = np.where(column >= 0, answers.p[np.arange(len(column)), column], np.inf)
    worst = [i for i in np.argsort(told)[:count] if np.isfinite(told[i])]
    contact_sheet(
        [
            (
                film[table.rows[i]["id"]].path,
                f"{table.rows[i]['id']}: {table.label[i]}, {told[i]:.0%}; said {answers.said[i]}",
            )
            for i in worst
        ],
        path,
    )


def with_lesson(options: argparse.Namespace, values: Json) -> Json:
    """The evaluation with the lesson, trained for if it has not been yet."""
    from fracture.lesson import teach

    return values | {"lesson": teach(options, values)}


def write_json(path: Path, values: Json) -> None:
    """Write beside, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    part.replace(path)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fracture.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", nargs="?", default="films", choices=["films", "lesson", "ablation", "card"]
    )
    parser.add_argument("--data", type=Path, default=default_data(), help="folder with labels.csv")
    parser.add_argument("--boxes", type=Path, default=WEB_BOXES, help="more boxes: id,boxes")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where train.py put them")
    parser.add_argument("--out", type=Path, default=Path("models/evaluation.json"))
    parser.add_argument("--figures", type=Path, default=Path("models/figures"))
    parser.add_argument(
        "--explain-films", type=int, default=24, metavar="N",
        help="films a fold for the slow maps and the sanity checks (the default map: all films)",
    )  # fmt: skip
    parser.add_argument("--simulated", type=int, default=200, metavar="N", help="simulated films")
    parser.add_argument("--epochs", type=int, default=10, help="of the lesson's trainings")
    parser.add_argument("--limit", type=int, help="films a fold, to try things out")
    parser.add_argument("--threads", type=int, help="torch threads; default: all cores")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    from fracture import card, figures

    if options.what == "card":
        return card.write(options.out, ROOT)

    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    try:
        if options.what == "ablation":
            from fracture.ablation import with_ablation

            values = with_ablation(options, read_films(options.data, options.boxes), known)
        elif options.what == "lesson":
            values = with_lesson(options, known)
            if not known:  # train.py reads the plan from that file: it must be whole or missing
                print("the lesson is in the runs folder; measure the films, then come again")
                return 0
        else:
            values = measure(options)
            values |= {key: known[key] for key in ("lesson", "ablation") if key in known}
            if (options.runs / "lesson" / "simplecnn.json").exists():
                values = with_lesson(options, values)  # LookTwice's rows anew
    except (LabelsError, ValueError) as error:
        print(f"fracture.evaluate: {error}", file=sys.stderr)
        return 2
    write_json(options.out, values)
    for path in figures.draw(values, options.figures):
        print(f"wrote {path}")
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
