"""Draws the figures of the evaluation from its JSON, and a contact sheet of films.

White background and dark letters, so that they can be read on light and dark pages alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageOps

Json = dict[str, Any]

BLUE, ORANGE, GREY = "#1f5fa8", "#c8540a", "#6b6b6b"
STYLE = {
    "font.size": 14,
    "axes.titlesize": 15,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "legend.frameon": False,
    "legend.fontsize": 12,
}


def draw(evaluation: Json, folder: Path) -> list[Path]:
    """Every figure that the evaluation holds values for, as PNG files in `folder`."""
    makers: dict[str, Callable[[Json], Figure | None]] = {
        "roc": roc,
        "reliability": reliability,
        "risk_coverage": risk_coverage,
        "confusion": confusion,
        "regions": regions,
        "explanation": explanation,
        "lesson": lesson,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with plt.rc_context(STYLE):
        for name, make in makers.items():
            figure = make(evaluation)
            if figure is None:
                continue
            figure.tight_layout()
            # without the date and version, the same values give the same file
            figure.savefig(folder / f"{name}.png", dpi=100, metadata={"Software": None})
            plt.close(figure)
            written.append(folder / f"{name}.png")
    return written


def roc(evaluation: Json) -> Figure | None:
    """Both yes/no questions, with the area under each curve."""
    lines = _questions(evaluation, "roc")
    if not lines:
        return None
    figure, axis = plt.subplots(figsize=(7, 6.4))
    axis.plot([0, 1], [0, 1], ":", color=GREY)
    for name, color, curve, block in lines:
        axis.plot(curve["false"], curve["true"], color=color, lw=2.5,
                  label=f"{name}\nAUROC {span(block['auroc'])}")  # fmt: skip
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01))
    axis.legend(loc="lower right")
    return figure


def reliability(evaluation: Json) -> Figure | None:
    """What was said against what came true, in bins of equally many films."""
    lines = _questions(evaluation, "reliability")
    if not lines:
        return None
    figure, axis = plt.subplots(figsize=(7, 6.4))
    axis.plot([0, 1], [0, 1], ":", color=GREY)
    for name, color, curve, block in lines:
        axis.plot(curve["said"], curve["came"], "o-", color=color, lw=2,
                  label=f"{name}\ncalibration error {span(block['ece'])}")  # fmt: skip
    axis.set(xlabel="probability that the model states", ylabel="share of films that have it",
             xlim=(0, 1), ylim=(0, 1.01))  # fmt: skip
    axis.legend(loc="upper left")
    return figure


def risk_coverage(evaluation: Json) -> Figure | None:
    """Errors among the answered films, from the surest on."""
    lines = _questions(evaluation, "risk_coverage")
    three = evaluation.get("three_classes", {}).get("curves", {}).get("risk_coverage")
    if not lines or not three:
        return None
    figure, axis = plt.subplots(figsize=(7, 5.6))
    for name, color, curve, _ in [*lines, ("all three classes", GREY, three, None)]:
        axis.plot(curve["coverage"], curve["risk"], color=color, lw=2.5, label=name)
    axis.axvline(0.8, color="black", lw=1, ls=":")
    axis.set(xlabel="share of films answered, surest first", ylabel="share of wrong answers",
             xlim=(0, 1), ylim=(0, None))  # fmt: skip
    axis.legend(loc="upper left")
    return figure


def confusion(evaluation: Json) -> Figure | None:
    """The app's answers, a row for each true class."""
    table = evaluation.get("three_classes", {}).get("confusion")
    if not table:
        return None
    counts = np.array(table["counts"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axis = plt.subplots(figsize=(7, 6))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axis.text(column, row, f"{count}\n{shares[row, column]:.0%}", ha="center", va="center",
                  color="white" if shares[row, column] > 0.55 else "black")  # fmt: skip
    ticks = range(len(counts))
    axis.set_xticks(ticks, table["classes"])
    axis.set_yticks(ticks, table["classes"])
    axis.set(xlabel="answer", ylabel="truth")
    axis.spines[:].set_visible(False)
    return figure


def regions(evaluation: Json) -> Figure | None:
    """AUROC simple against comminuted by region, where there are enough films of both."""
    parts = evaluation.get("kind", {}).get("by_region", {})
    rows = [(name, part) for name, part in parts.items() if part.get("auroc")]
    if not rows:
        return None
    rows.sort(key=lambda row: row[1]["auroc"]["value"])
    figure, axis = plt.subplots(figsize=(8, 1.6 + 0.5 * len(rows)))
    names = [f"{name} ({part['films']}, {part['positives']} comm.)" for name, part in rows]
    _bars(axis, names, [part["auroc"] for _, part in rows], [BLUE] * len(rows))
    axis.axvline(0.5, color=GREY, ls=":")
    axis.set(xlabel="AUROC, simple against comminuted", xlim=(0, 1.1))
    return figure


def explanation(evaluation: Json) -> Figure | None:
    """How often each map's highest point lies in a radiologist's box."""
    found = evaluation.get("explanation", {})
    rows = [(f"{name} ({part['true']['films']})", part["true"]["hit"], BLUE)
            for name, part in found.get("methods", {}).items()]  # fmt: skip
    for parts, color in ((found.get("baselines"), GREY), (found.get("sanity"), ORANGE)):
        rows += [(f"{name} ({part['films']})", part["hit"], color)
                 for name, part in (parts or {}).items()]  # fmt: skip
    if not rows:
        return None
    figure, axis = plt.subplots(figsize=(9, 2 + 0.5 * len(rows)))
    names, values, colors = zip(*rows[::-1], strict=True)
    _bars(axis, names, values, colors)
    axis.set(xlabel="highest point of the map in a radiologist's box", xlim=(0, 1.1))
    for label, color in (("the model's maps", BLUE), ("baselines", GREY),
                         ("random weights", ORANGE)):  # fmt: skip
        axis.barh([0], [0], color=color, label=label)
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.1), ncol=3)
    return figure


def lesson(evaluation: Json) -> Figure | None:
    """The same networks, measured in different ways."""
    rows = evaluation.get("lesson", {}).get("rows")
    if not rows:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(13, 1.8 + 0.7 * len(rows)), sharey=True)
    colors = [ORANGE if row["model"] == "SimpleCNN" else BLUE for row in rows[::-1]]
    names = [f"{row['model']}: {row['way']}" for row in rows[::-1]]
    for axis, key in zip(axes, ("accuracy", "balanced_accuracy"), strict=True):
        _bars(axis, names, [row[key] for row in rows[::-1]], colors)
        axis.set(xlabel=key.replace("_", " "), xlim=(0, 1.12))
    axes[0].axvline(evaluation["lesson"]["claimed"], color="black", ls=":", lw=1)
    return figure


def span(figure: Json | None) -> str:
    """`0.91 (0.89 to 0.93)`."""
    if figure is None:
        return "not defined"
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def contact_sheet(
    films: Sequence[tuple[Path, str]], path: Path, columns: int = 6, side: int = 300
) -> None:
    """A JPEG of films, each in a square with a line of text below it."""
    rows = max(1, -(-len(films) // columns))
    sheet = Image.new("L", (columns * side, rows * (side + 20)), 255)
    pen = ImageDraw.Draw(sheet)
    for i, (file, text) in enumerate(films):
        left, top = i % columns * side, i // columns * (side + 20)
        with Image.open(file) as picture:
            sheet.paste(ImageOps.pad(picture.convert("L"), (side - 4, side - 4)), (left, top))
        pen.text((left, top + side - 2), text[:52], fill=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=85)


def _questions(evaluation: Json, curve: str) -> list[tuple[str, str, Json, Json]]:
    """Name, colour, curve and measures of the two yes/no questions, as far as measured."""
    asked = (
        ("simple or comminuted", BLUE, "kind", "full"),
        ("fractured or not", ORANGE, "fracture", "one_source"),
    )
    return [
        (name, color, evaluation[key]["curves"][curve], evaluation[key][block])
        for name, color, key, block in asked
        if curve in evaluation.get(key, {}).get("curves", {})
    ]


def _bars(
    axis: Axes, names: Sequence[str], values: Sequence[Json | None], colors: Sequence[str]
) -> None:
    """Horizontal bars with their intervals and values; nothing where a value is missing."""
    for row, (value, color) in enumerate(zip(values, colors, strict=True)):
        if value is None:
            axis.text(0.01, row, "not measured", va="center", color=GREY, fontsize=12)
            continue
        axis.barh(row, value["value"], color=color, height=0.65)
        axis.plot([value["low"], value["high"]], [row, row], color="black", lw=2)
        right = max(value["value"], value["high"]) + 0.02
        axis.text(right, row, f"{value['value']:.2f}", va="center", fontsize=12)
    axis.set_yticks(range(len(names)), names)
    axis.set_xticks(np.linspace(0, 1, 6))
