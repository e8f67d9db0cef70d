"""The model card and the README's figures, written from the evaluation's JSON.

Every figure comes from the JSON; `TRIED` says in words what experiments showed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fracture.calibrate import COVERAGE, FOLDS
from fracture.labels import CLASSES

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
COMMAND = "python -m fracture.evaluate"

Json = dict[str, Any]

# What was asked for: words, where the value is, the target, and whether less is better.
TARGETS = (
    ("AUROC, simple or comminuted", ("kind", "full", "auroc"), 0.95, False),
    ("Balanced accuracy, simple or comminuted, likeliest answer",
     ("kind", "full", "balanced_accuracy"), 0.88, False),
    ("the same, both errors weighed alike", ("kind", "cut", "balanced_accuracy"), 0.88, False),
    ("Balanced accuracy on the surest 80 %, likeliest answer",
     ("kind", "surest_80", "balanced_accuracy"), 0.94, False),
    ("the same, both errors weighed alike",
     ("kind", "cut_surest_80", "balanced_accuracy"), 0.94, False),
    ("Calibration error, simple or comminuted", ("kind", "full", "ece"), 0.04, True),
    ("AUROC, fractured or not, films of one hospital set",
     ("fracture", "one_source", "auroc"), 0.95, False),
    ("AUROC, trained on FracAtlas, tested on web pictures",
     ("cross_source", "fracatlas", "kind", "auroc"), 0.88, False),
    ("AUROC, trained on web pictures, tested on FracAtlas",
     ("cross_source", "bonebreak", "kind", "auroc"), 0.88, False),
    ("Pictures of other things refused", ("refusal", "foreign", "refused"), 0.95, False),
    ("... of those that we did not draw ourselves", ("refusal", "foreign_not_drawn", "refused"),
     0.95, False),
    ("Real films refused", ("refusal", "real", "refused"), 0.03, True),
    ("Hit rate of the map that the user sees, on radiologists' boxes",
     ("explanation", "methods", "gradcam", "predicted", "hit"), 0.85, False),
)  # fmt: skip

NAMES = {"fracatlas": "FracAtlas", "bonebreak": "web pictures", "mendeley": "Mendeley"}


def write(evaluation: Path, root: Path) -> int:
    """Write `root`/models/README.md and the block in `root`/README.md; returns an exit status."""
    if not evaluation.exists():
        print(f"fracture.evaluate: {evaluation} is not there; '{COMMAND}' makes it",
              file=sys.stderr)  # fmt: skip
        return 2
    values = read(evaluation)
    target = root / "models" / "README.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(card(values))
    print(f"wrote {target}")
    readme = root / "README.md"
    if readme.exists() and BEGIN in readme.read_text():
        readme.write_text(with_block(readme.read_text(), summary(values)))
        print(f"wrote the figures in {readme}")
    return 0


def read(evaluation: Path) -> Json:
    """The evaluation, and what `python -m fracture.data evaluate --json` wrote beside it."""
    values = json.loads(evaluation.read_text())
    grouping = evaluation.with_name("grouping.json")
    if grouping.exists():
        values["grouping"] = json.loads(grouping.read_text())
    return values


def with_block(text: str, block: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """The text with what lies between the two marks replaced. Raises ValueError without them."""
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"the text has no part between {marks[0]} and {marks[1]}")
    return f"{before}{begin}\n{block.strip()}\n{end}{after}"


def summary(values: Json) -> str:
    """The README's part: targets and what was reached, in one table."""
    parts = [
        f"Measured on {_number(values['data']['held_out_films'])} films of "
        f"{_number(values['data']['held_out_groups'])} groups, each read by a model that was "
        f"trained without its group ({_folds(values)}). Intervals are 95 %, over groups.",
        targets_table(values),
    ]
    if lesson := values.get("lesson"):
        parts += [
            "The reference states 99.87 % for its SimpleCNN. "
            "The same network, measured in three ways on our films:",
            lesson_table(lesson),
        ]
    if took := values.get("training_minutes"):
        parts.append(
            f"Training took {took['simulated']:.0f} minutes on simulated films, which all folds "
            f"share, and {took['fold']:.0f} minutes a fold, on a machine with two CPU cores that "
            "had other work as well."
        )
    parts += [
        f"Written by `{COMMAND}` and `{COMMAND} card`. More, with failures by region and pattern: "
        "[models/README.md](models/README.md)."
    ]
    return "\n\n".join(parts)


def card(values: Json) -> str:
    """The whole model card, Markdown."""
    sections = [
        ABOUT,
        USE,
        data_section(values),
        *([grouping_section(values["grouping"])] if values.get("grouping") else []),
        measured_section(values),
        calibration_section(values),
        weak_section(values),
        explanation_section(values),
    ]
    if values.get("ablation"):
        sections.append(ablation_section(values["ablation"]))
    if values.get("lesson"):
        sections.append(
            "## The lesson of the 99.87 %\n\n"
            "The reference states this accuracy for its SimpleCNN. It was measured on the pictures "
            "that the network had been trained on. The same network on our films:\n\n"
            + lesson_table(values["lesson"])
            + "\n\nA network that always answers *Simple* reaches "
            + f"{_majority(values)} accuracy here, and 0.50 balanced accuracy.\n\n"
            + "![Accuracy by way of measuring](figures/lesson.png)"
        )
    sections += [TRIED, LIMITS]
    return "\n\n".join(section.strip() for section in sections) + "\n"


ABOUT = f"""
# Model card: LookTwice

*Written by `{COMMAND} card` from `evaluation.json`. Do not edit by hand.*

A bone X-ray goes in; out come the probabilities of {", ".join(CLASSES[:2])} and {CLASSES[2]}, and a
map of the film. Two EfficientNet-Lite0 networks (Tan & Le 2019, ICML; started from ImageNet
weights) share the work: the *locator* sees the whole film and marks the suspicious place, the
*reader* sees that place at the film's own resolution and says what is there. The map is the
locator's, dimmed where the reader saw nothing of the class. `looktwice.safetensors` holds the
weights as 16-bit numbers, and how they were trained. The figures below are those of models of the
same recipe, each on groups of films that it was not trained on; weights that were trained on all
groups cannot be measured on any of them.
"""

USE = """
## What it is for, and what it is not for

It is for teaching: to show students and teachers what simple and comminuted fractures look like to
a network, how sure it may be, and where it goes wrong.

It is **not a medical device**. It must not be used to diagnose, to triage, to decide on a
treatment, or to second-guess a radiologist, for people or for animals; not for films of the skull,
chest or spine, not for CT or MRI; not to grade students without a teacher; not as a source of
labels for another data set.
"""

TRIED = """
## What was tried, and what the missed targets would take

Tried and left out, since it did not help on films that were held out: reading three places instead
of at most two; more or fewer patch sizes (one large size alone tells the kind as well, and points
worse); the mirror image of the reader's patches; the reader's map without the locator's; shorter
training; larger batches; refusing by ImageNet features of the whole film (better on photographs,
worse on drawings and sections of bones than the locator's own features of all levels). How high a
second place must be to be read, and how much a place counts that the reader does not confirm, were
chosen on the films of fold 0; features and ridge of the refusal on the other people's pictures of
the labels. Those figures may be flattered a little.

What is missing is mostly data. Where the map misses a fracture, seldom one of its next highest
places lies in a box either: the locator has not seen that sort of fracture often enough, and a
hairline of a hospital film covers one or two cells of its map. More boxed films from hospitals and
a larger input would help, at the cost of time. Comminuted films are few, and the two readers
behind the labels do not always agree on them: more films with a reading by three radiologists would
raise both the model and the ceiling that it is measured against. Between two sources, films differ
by exposure, crop and the share of the classes: a third and a fourth source would help.
"""

LIMITS = """
## Known limits

- The labels are good, not perfect: two careful readers, not radiologists. A model cannot be
  measured more finely than its labels; where readers differ, an "error" may be the label's.
- FracAtlas has no patient numbers; groups are runs of neighbouring film numbers and near-identical
  pictures. A patient who came twice may still be on both sides of a split.
- Unfractured films come from one source only, so on web pictures "no fracture" is hardly tested.
- Class shares differ by source; part of what is learnt may be the source. Training on one source
  and testing on the other, above, shows how much is left without that help.
- Many wrists and hands are children's; growth plates look like fracture lines. Implants, several
  views in one picture and fractures of more than one bone are rare in the training films.
- A map that lies on the fracture does not prove that the answer rests on the right reason.
"""


def data_section(values: Json) -> str:
    """What it was trained and measured on, with licences."""
    data = values["data"]
    labels = [*CLASSES, "unclear"]
    table = _table(
        ["source", *labels],
        [
            [NAMES.get(source, source), *(str(counts.get(label, 0)) for label in labels)]
            for source, counts in data["by_source"].items()
        ],
    )
    licences = "\n".join(
        f"- {source['name']}: {source.get('licence', 'licence not stated')}. "
        f"{source.get('url', '')}".rstrip()
        for source in values["sources"]
    )
    boxes = data["with_boxes"]
    return f"""
## Data

{table}

{licences}

These licences ask for attribution, which is hereby given. No picture of the sets is part of this
project;
the weights are derived from them.

**How the labels came about.** Every fractured film was read twice, independently, against a
written rubric after AO/OTA: one line and two main fragments, or an incomplete line, is simple;
three or more fragments at one site is comminuted. Cases that differed were read a third time. The
readers were not radiologists. *Unclear* films (readers differ, another kind of fracture, nothing
seen, an implant) are used to test whether the model abstains. "No fracture" is FracAtlas's own
label.

**How the boxes came about.** The boxes of {_number(boxes.get("fracatlas", 0))} FracAtlas films are
radiologists'. Those of {_number(boxes.get("bonebreak", 0))} web pictures (`fracture/web_boxes.csv`)
were drawn by an AI reader on contact sheets, not by a radiologist; they serve training, and hit
rates are stated on the radiologists' boxes unless said otherwise.
"""


def grouping_section(found: Json) -> str:
    """How well copies of one film are found, by which films get their groups."""
    kinds = _table(
        ["copy", "made", "found"],
        [[name, str(made), str(hits)] for name, (made, hits) in found["by_kind"].items()],
    )
    return f"""
## Are copies of a film found?

`python -m fracture.data prepare` gives pictures of one film one group, by their names and by
likeness. Tested on {_number(found["copies"])} copies that we made of films here, among
{_number(found["films"])} films: {_percent(found["recall"])} are found, and
{_number(found["wrong_films"])} films are joined with one of another group, {len(found["wrong"])}
pairs in all.

{kinds}

Some pictures of our own data turned out to be of one film though their groups differ
(`fracture/same_film.csv`, each pair looked at); training and evaluation keep them together.
"""


def measured_section(values: Json) -> str:
    """Targets beside what was reached, and the figures."""
    three = values["three_classes"]
    kind, broken = values["kind"], values["fracture"]
    others = "other groups" if len(values["folds"]) == 1 else "the other folds"
    keys = ("auroc", "balanced_accuracy", "sensitivity", "specificity", "f1", "brier", "ece")
    rows = [
        [name, *(_span(block.get(key)) for key in keys)]
        for name, block in (
            ("simple or comminuted (yes: comminuted)", kind["full"]),
            ("... surest 80 %", kind["surest_80"]),
            ("... both errors weighed alike", kind["cut"]),
            ("... the same, surest 80 %", kind["cut_surest_80"]),
            ("fractured or not, FracAtlas", broken["one_source"]),
            ("... surest 80 %", broken["one_source_surest_80"]),
            ("fractured or not, all films", broken["all"]),
        )
    ]
    cross = [
        [NAMES.get(source, source), ", ".join(NAMES.get(s, s) for s in part["tested_on"]),
         str(part["kind"]["films"]), _span(part["kind"].get("auroc")),
         _span(part["kind"].get("balanced_accuracy")), _span(part["fracture"].get("auroc"))]
        for source, part in values["cross_source"].items()
    ]  # fmt: skip
    commands = [f"`{c}`" for part in values["cross_source"].values() if (c := part.get("command"))]
    text = f"""
## How good it is

Group-wise cross-validation ({_folds(values)}): every film is read by a model that was trained
without its group. The weights of the two opinions, which also calibrate, and all thresholds are
fitted on {others}. Values are followed by 95 % intervals from
{_number(values["resamples"])} bootstrap resamples of groups. Targets were set before training.

{targets_table(values)}

{_table(["question", "AUROC", "balanced accuracy", "sensitivity", "specificity", "F1", "Brier",
         "calibration error"], rows)}

The likeliest of the three classes is right in {_span(three["full"]["accuracy"])} of the films;
balanced accuracy {_span(three["full"]["balanced_accuracy"])}, on the surest 80 %
{_span(three["surest_80"]["balanced_accuracy"])}.

![ROC](figures/roc.png) ![Confusion](figures/confusion.png)
"""
    if cross:
        text += f"""
Another hospital's films, by models that were trained on one source alone:

{_table(["trained on", "tested on", "fractured films", "AUROC kind", "balanced accuracy kind",
         "AUROC fractured or not"], cross)}
"""
        if commands:
            text += f"\nThey were trained by {' and '.join(commands)}.\n"
    return text


def calibration_section(values: Json) -> str:
    """Do the probabilities hold, and does it abstain where it should?"""
    silent = values["abstention"]
    rows = [
        [name, str(part["films"]), _span(part["abstains"])]
        for name, part in (
            ("all clear films", silent["clear"]),
            *((f"... {name}", part) for name, part in silent["by_class"].items()),
            *((("all unclear films", silent["unclear"]),) if "unclear" in silent else ()),
            *((f"... {name}", part) for name, part in silent["by_reason"].items()),
        )
    ]
    refused = ""
    if found := values.get("refusal"):
        names = {"labels": "CT, MRI, skull, chest, drawings", "scikit-image": "scikit-image's"}
        ordered = sorted(found["by_kind"].items(), key=lambda kind: (kind[0] not in names, kind[0]))
        parts = {
            "real films": found["real"],
            "pictures of other things": found["foreign"],
            "... all that we did not draw": found["foreign_not_drawn"],
            **{f"... {names.get(k, f'drawn: {k}')}": v for k, v in ordered},
        }
        table = _table(
            ["pictures", "number", "refused"],
            [[name, str(p["pictures"]), _span(p["refused"])] for name, p in parts.items() if p],
        )
        refused = (
            "\nWhat does not look like an X-ray of a limb gets no verdict. Training saw other "
            f"pictures of the drawn kinds, and none of scikit-image's:\n\n{table}\n"
        )
    return f"""
## When it says "uncertain", and when it says nothing

The app does not commit itself when the likeliest class stays below
{values["thresholds"]["uncertain"]:.2f}; the threshold is chosen so that {_percent(COVERAGE)} of the
clear films are answered. On the answered clear films balanced accuracy is
{_span(silent["balanced_accuracy_answered"])}.

{_table(["films", "number", "abstains"], rows)}

![Reliability](figures/reliability.png) ![Risk and coverage](figures/risk_coverage.png)
{refused}"""


def weak_section(values: Json) -> str:
    """Where it fails: parts of the films, the weakest first."""

    def rows(parts: Json) -> list[list[str]]:
        ordered = sorted(
            parts.items(),
            key=lambda item: (not item[1].get("auroc"), (item[1].get("auroc") or {}).get("value")),
        )
        return [
            [NAMES.get(name, name), str(part["films"]), str(part.get("positives", "")),
             _span(part.get("auroc"), "too few"), _span(part["accuracy"])]
            for name, part in ordered
        ]  # fmt: skip

    kind = values["kind"]
    head = ["AUROC", "right, likeliest answer"]
    tables = "\n\n".join(
        _table([title, "films", "comminuted", *head], rows(kind[key]))
        for title, key in (("source", "by_source"), ("region", "by_region"),
                           ("readers", "by_agreement"))
    )  # fmt: skip
    patterns = _table(
        ["question", "pattern", "films", *head],
        [
            [question, *(row[:2] + row[3:])]
            for question, parts in (("simple or comminuted", kind["by_pattern"]),
                                    ("fractured or not", values["fracture"]["by_pattern"]))
            for row in rows(parts)
        ],
    )  # fmt: skip
    return f"""
## Where it fails

Simple or comminuted, by part of the films, the weakest first:

{tables}

By pattern; a pattern's AUROC is against all films of the other answer:

{patterns}

![By region](figures/regions.png)
"""


def explanation_section(values: Json) -> str:
    """How the maps do against boxes."""
    title = "## Does the map point at the fracture?"
    found = values["explanation"]
    if not found:
        return f"{title}\n\nNo film with a radiologist's box was read."
    keys = ("hit", "iou", "energy")
    rows = [
        [f"{name}, map {words}", str(part[which]["films"]),
         *(_span(part[which][key]) for key in keys)]
        for name, part in found["methods"].items()
        for which, words in (("true", "of the true class"), ("predicted", "that the app shows"))
        if part[which]
    ]  # fmt: skip
    if sample := found.get("default_on_sample"):
        rows.append(["gradcam on the films of the other methods", str(sample["films"]),
                     *(_span(sample[key]) for key in keys)])  # fmt: skip
    others = {
        "gradcam, unclear films": found["unclear_films"],
        "gradcam, web pictures, the AI reader's boxes": found["web_boxes"],
        "gradcam, simulated films, true boxes": values.get("simulated"),
    }
    rows += [[name, str(part["films"]), *(_span(part[key]) for key in keys)]
             for name, part in others.items() if part]  # fmt: skip
    rows += [[name, str(part["films"]), *(_span(part.get(key), "") for key in keys)]
             for name, part in found["baselines"].items()]  # fmt: skip
    text = f"""
{title}

Against radiologists' boxes on held-out FracAtlas films. Hit: the map's highest point lies in a box.
IoU: overlap of the boxes and the map above a threshold from other folds. Energy: share of the map
that lies in the boxes. Unless asked for another, the app shows the map of the likeliest class; on a
film that it calls unbroken, that of the likelier fracture: the place that looked most suspicious.

{_table(["map", "films", "hit", "IoU", "energy"], rows)}
"""
    if found["sanity"]:
        rows = [[name, str(part["films"]), _span(part["hit"]), f"{part['rank']:.2f}"]
                for name, part in found["sanity"].items()]  # fmt: skip
        text += f"""
A map that does not depend on what was learnt explains nothing (Adebayo et al. 2018, NeurIPS). With
random weights in parts of the model (rank: correlation with the trained model's map):

{_table(["random", "films", "hit", "rank"], rows)}
"""
        if found["sanity"].get("random reader", {}).get("rank", 0) > 0.5:
            text += (
                "\nWith a random reader the map stays much the same: it shows where the locator "
                "looked, and says little about what the reader made of it.\n"
            )
    return text + "\n![Hit rates](figures/explanation.png)\n"


def ablation_section(found: Json) -> str:
    """What each part of the model is worth."""
    rows = [
        [row["change"], _span(row["kind"]), _span(row["fracture"], ""), _span(row["hit"], ""),
         f"{row['milliseconds']:.0f}", f"{row['training_minutes']:.0f}"]
        for row in found["rows"]
    ]  # fmt: skip
    table = _table(
        ["what reads the film", "AUROC simple or comminuted", "AUROC fractured or not, FracAtlas",
         "hit rate, FracAtlas", "ms a film", "minutes of training"], rows,
    )  # fmt: skip
    return f"""
## What each part is worth

Fold {found["fold"]} held out: {found["films"]} clear films, {found["boxed"]} of them with
radiologists' boxes. The map is that of the true class. Time is the median of the model and the map
and is there to compare the rows; training is what the fold's own epochs took, beside other work,
and leaves out the part on simulated films, which all folds share.

{table}

Written by `{COMMAND} ablation`.
"""


def targets_table(values: Json) -> str:
    """What was asked for beside what was reached."""
    rows = []
    for name, path, target, less in TARGETS:
        found: Any = values
        for key in path:
            found = (found or {}).get(key)
        if found is None:
            rows.append([name, _target(target, less), "not measured", ""])
            continue
        gap = (target - found["value"]) * (1 if less else -1)
        met = "yes" if gap >= 0 else f"no, by {-gap:.3f}"
        rows.append([name, _target(target, less), _span(found), met])
    return _table(["", "target", "reached (95 %)", "met"], rows)


def lesson_table(lesson: Json) -> str:
    """One row a way of measuring."""
    return _table(
        ["network", "measured on", "pictures", "accuracy", "balanced accuracy", "AUROC"],
        [
            [row["model"], row["way"], str(row["pictures"]), _span(row["accuracy"]),
             _span(row["balanced_accuracy"]), _span(row["auroc"])]
            for row in lesson["rows"]
        ],
    )  # fmt: skip


def _majority(values: Json) -> str:
    full = values["kind"]["full"]
    return _percent(1 - full["positives"] / full["films"])


def _folds(values: Json) -> str:
    done = values["folds"]
    if len(done) == FOLDS:
        return f"{FOLDS} folds"
    return f"so far only {len(done)} of {FOLDS} folds"


def _target(target: float, less: bool) -> str:
    return f"{'≤' if less else '≥'} {target:.2f}"


def _span(figure: Json | None, missing: str = "not defined") -> str:
    if figure is None:
        return missing
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _number(count: int) -> str:
    return f"{count:,}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
