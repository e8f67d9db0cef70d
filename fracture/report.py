"""Take it away: one A4 page with a reading, as PDF or PNG, that names no patient.

The page carries the film, the heatmap over it, the probabilities, the model and its date and the
notice that it is for teaching. It carries no file name and nothing out of a DICOM header; what is
written on the film itself stays there.
"""

from __future__ import annotations

import datetime as dt
import io
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fracture.classifier import Prediction
from fracture.view import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTICE = "For teaching, not for diagnosis. Fracture is not a medical device."
INSISTED = "The film was refused, and a verdict was asked for all the same. Do not trust it."
A4 = (8.27, 11.69)  # inches
LONGEST = 1400  # pixels of a film on the page: sharp in print, small as a file
COLORS = {"Simple": "#1263b3", "Comminuted": "#b3400a", "No fracture": "#1b7a4b"}
INK, SOFT = "#14222b", "#50616c"


@dataclass(frozen=True)
class Page:
    """What the page shows.

    display: uint8 (H, W, 3), the film. heatmap: float32 (H, W) in [0, 1], or None.
    target: the class that the heatmap explains; "": it shows the most suspicious place of a film
    on which no fracture was found. method: the heatmap's name, such as "Grad-CAM".
    model: the model's name. version: its date and, where known, what tells its weights apart.
    alpha, colormap: as for `fracture.overlay`.
    """

    display: np.ndarray
    heatmap: np.ndarray | None
    prediction: Prediction
    target: str
    method: str
    model: str
    version: str
    alpha: float = 0.7
    colormap: str = "plasma"


def version_of(metadata: Mapping[str, Any], checkpoint: Path | None = None) -> str:
    """A model's version in words: the date in its metadata and the start of its file's SHA-256."""
    import hashlib

    parts = []
    if date := metadata.get("date"):
        parts.append(f"of {date}")
    if checkpoint is not None and checkpoint.is_file():
        parts.append(f"SHA-256 {hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]}")
    return ", ".join(parts) or "version unknown"


def as_pdf(page: Page, today: dt.date | None = None) -> bytes:
    """The page as a PDF file of one A4 page. today: the date printed on it."""
    file = io.BytesIO()
    # the date is on the page; the file's own stamps are left out, so the same page is the same file
    stamps = {"Title": "A reading by Fracture", "Subject": NOTICE, "CreationDate": None}
    _drawn(page, today).savefig(file, format="pdf", metadata=stamps)
    return file.getvalue()


def as_png(page: Page, today: dt.date | None = None, dpi: int = 150) -> bytes:
    """The page as a PNG picture, A4 at `dpi` dots an inch."""
    file = io.BytesIO()
    stamps = {"Title": "A reading by Fracture", "Description": NOTICE, "Software": None}
    _drawn(page, today).savefig(file, format="png", dpi=dpi, metadata=stamps)
    return file.getvalue()


def _drawn(page: Page, today: dt.date | None) -> Figure:
    from matplotlib.figure import Figure

    today = today or dt.date.today()
    figure = Figure(figsize=A4, facecolor="white")
    write = figure.text
    write(0.07, 0.955, "Fracture: a reading", fontsize=20, weight="bold", color=INK, va="top")
    write(0.93, 0.951, f"{today:%Y-%m-%d}", fontsize=11, color=SOFT, va="top", ha="right")
    wash = {"facecolor": "#fdf1d4", "edgecolor": "none", "boxstyle": "round,pad=0.5"}
    write(0.075, 0.916, NOTICE, fontsize=11.5, weight="bold", color="#7a5200", va="top", bbox=wash)

    _pictures(figure, page)
    prediction = page.prediction
    write(0.07, 0.375, _verdict(prediction), fontsize=18, weight="bold", va="top",
          color=COLORS.get(prediction.label or "", INK))  # fmt: skip
    if prediction.probabilities:
        _bars(figure.add_axes((0.24, 0.235, 0.58, 0.095)), prediction)
    reasons = prediction.reasons
    if prediction.status == "refused" and prediction.label is not None:
        reasons = (INSISTED, *reasons)
    lines = [line for reason in reasons for line in textwrap.wrap(reason, 98)]
    if len(lines) > 5:
        lines = [*lines[:5], "…"]
    write(0.07, 0.205, "\n".join(lines), fontsize=10, color=INK, va="top", linespacing=1.35)
    write(0.07, 0.085, "\n".join(textwrap.wrap(_small_print(page), 108)), fontsize=9, color=SOFT,
          va="top", linespacing=1.35)  # fmt: skip
    return figure


def _pictures(figure: Figure, page: Page) -> None:
    film = _shrunk(page.display)
    shown = [(film, "The film")]
    if page.heatmap is not None:
        heat = _shrunk(page.heatmap)
        what = f"What spoke for “{page.target}”" if page.target else "What looked most suspicious"
        title = f"{what} ({page.method})"
        shown.append((overlay(film, heat, page.alpha, page.colormap), title))
    width = 0.86 / len(shown)
    for n, (picture, title) in enumerate(shown):
        axis = figure.add_axes((0.07 + n * width + 0.005, 0.415, width - 0.01, 0.455))
        axis.imshow(picture, interpolation="lanczos")
        axis.set_title(title, fontsize=10.5, color=INK, pad=6)
        axis.set_axis_off()
        axis.set_anchor("N")


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = LONGEST / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _verdict(prediction: Prediction) -> str:
    if prediction.label is None:
        return "No verdict"
    words = (
        prediction.label if prediction.label == "No fracture" else f"{prediction.label} fracture"
    )
    if prediction.status == "uncertain":
        return f"Not sure: perhaps {words.lower()}"
    if prediction.status == "refused":
        return f"Refused; insisted on: {words.lower()}"
    return words


def _bars(axis: Axes, prediction: Prediction) -> None:
    rows = sorted(prediction.probabilities.items(), key=lambda item: item[1])
    for n, (name, share) in enumerate(rows):
        axis.barh(n, 1, color="#e4eaed", height=0.6)
        axis.barh(n, share, color=COLORS.get(name, SOFT), height=0.6)
        axis.text(1.02, n, _percent(share), va="center", fontsize=12, weight="bold", color=INK)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=12, color=INK)
    axis.set_xticks([])
    axis.set_xlim(0, 1)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _percent(share: float) -> str:
    """Whole per cents that never round to a certainty."""
    if 0 < share < 0.01:
        return "under 1 %"
    if 0.99 < share < 1:
        return "over 99 %"
    return f"{share:.0%}".replace("%", " %")


def _small_print(page: Page) -> str:
    text = f"Model: {page.model}, {page.version}. "
    if page.heatmap is not None:
        shown = f"which parts of the film spoke most for “{page.target}”"
        if not page.target:
            shown = "the place that looked most suspicious, though not suspicious enough"
        text += (
            f"Warm colours show {shown}; they show where the model looked, not where the bone is "
            "broken. "
        )
    return text + (
        "A probability is the model's own estimate and can be wrong. This page names no patient "
        "and no file; writing on the film itself was left as it is."
    )
