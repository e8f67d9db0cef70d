"""From an uploaded film to a reading for the page, one at a time or many; nothing of Gradio here.

Whatever is wrong with a film or a model ends as a reading with a sentence, never as an exception.
"""

from __future__ import annotations

import csv
import logging
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fracture.web import models, pictures
from fracture.web.html import Reading

if TYPE_CHECKING:
    from fracture import Film

log = logging.getLogger("fracture.app")

VERDICT = "verdict"  # as a target: whatever class the model chose


@dataclass(frozen=True)
class Upload:
    """A film on the server's disk: its path, and the name it had on its owner's."""

    path: str
    name: str


@dataclass(frozen=True)
class Request:
    """What somebody wants to know about a film; the names are keys of `fracture.web.models`."""

    model: str = models.DEFAULT
    method: str = "gradcam"
    target: str = VERDICT
    insist: bool = False


@dataclass(frozen=True)
class Answer:
    """A reading for the page, with the film (None: unreadable) and its heatmap (None: none).

    heatmap: float32 (H, W) in [0, 1] at the film's size, as it was read.
    """

    reading: Reading
    film: Film | None = None
    heatmap: np.ndarray | None = None


def look(
    upload: Upload, request: Request, *, film: Film | None = None, thumbnail: bool = False
) -> Answer:
    """Read one film. `film` spares decoding it again; `thumbnail` is for a table, without a map."""
    from fracture import FilmError

    name = plain(upload.name)
    try:
        film = film or _decode(upload)
        return _read(film, request, thumbnail)
    except (FilmError, models.ModelMissing) as error:
        return Answer(failure(str(error), name, request.model), film)
    except Exception:
        log.exception("A reading failed")  # the trace holds code, never the picture or its name
        sentence = "Something went wrong while reading this film. The app is still running."
        return Answer(failure(sentence, name, request.model), film)


def _decode(upload: Upload) -> Film:
    from fracture.film import TO_SCREEN, FilmError, read_film

    if not Path(upload.path).is_file():
        raise FilmError("This film has already left the server. Drop it again.")
    return read_film(upload.path, name=plain(upload.name), limits=TO_SCREEN)


def _read(film: Film, request: Request, thumbnail: bool) -> Answer:
    from fracture.cam import default_target

    classifier = models.classifier(request.model)
    title = models.TITLES[request.model]
    wanted = None if request.target == VERDICT else request.target
    known = wanted is None or wanted in classifier.classes
    method = request.method if request.method in classifier.methods else classifier.methods[0]
    prediction, heatmap = classifier.read(
        film, wanted if known else None, method, insist=request.insist
    )
    reasons = prediction.reasons
    if not known:
        reasons += (f"{title} does not know the class “{wanted}”, so it has no heatmap for it.",)
    elif method != request.method:
        reasons += (f"{title} draws no {models.METHODS[request.method]} map; this is its own.",)
    if prediction.label is None or not known:
        heatmap = None
    target = wanted or (default_target(prediction.probabilities) if prediction.label else "")
    drawn = heatmap is not None and not thumbnail
    height, width = film.display.shape[:2]
    reading = Reading(
        name=film.name,
        status=prediction.status,
        label=prediction.label,
        probabilities=prediction.probabilities,
        reasons=reasons,
        model=title,
        film=pictures.film_uri(
            film.display, pictures.THUMB_SIDE if thumbnail else pictures.FILM_SIDE
        ),
        size=(width, height),
        heat=pictures.heat_uri(heatmap) if drawn else "",
        target=target,
        doubt=wanted is None and target != (prediction.label or ""),
        place=pictures.warmest_place(heatmap) if drawn else "",
        method=models.METHODS[method],
    )
    return Answer(reading, film, heatmap)


def failure(sentence: str, name: str = "", model: str = models.DEFAULT) -> Reading:
    """Return the reading of a film that could not be read."""
    return Reading(name, "error", None, {}, (sentence,), models.TITLES[model])


def plain(name: str) -> str:
    """Shorten a file's own name to what a page can show: no folders, no control characters."""
    name = "".join(c for c in re.split(r"[/\\]", name)[-1] if c.isprintable()).strip()
    return name if len(name) <= 60 else f"{name[:40]}…{name[-16:]}"


def read_many(uploads: Iterable[Upload], request: Request, archive: Path) -> list[Reading]:
    """Read films one after the other and write their overlays, as JPEG, into the zip `archive`.

    One film is in memory at a time, however many there are.
    """
    rows = []
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as overlays:
        for number, upload in enumerate(uploads, start=1):
            answer = look(upload, request, thumbnail=True)
            rows.append(answer.reading)
            if answer.heatmap is None:
                continue
            picture = pictures.under_heat(
                pictures.shrink(answer.film.display, pictures.FILM_SIDE),
                pictures.shrink(answer.heatmap, pictures.FILM_SIDE),
            )
            stem = Path(answer.reading.name).stem
            with overlays.open(f"{number:03d} {stem}.jpg", "w") as file:
                Image.fromarray(picture).save(file, "jpeg", quality=90)
    return rows


def write_table(rows: Sequence[Reading], path: Path) -> None:
    """Write readings as CSV: file, status, label, a column for each class, reasons, model."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "status", "label", *models.CLASSES, "reasons", "model"])
        for row in rows:
            shares = [_share(row.probabilities.get(name)) for name in models.CLASSES]
            remarks = inert(" ".join(row.reasons))
            writer.writerow(
                [inert(row.name), row.status, row.label or "", *shares, remarks, row.model]
            )


def _share(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.4f}"


def inert(text: str) -> str:
    """Keep a spreadsheet from taking a file's name for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def as_json(answer: Answer, request: Request) -> dict[str, Any]:
    """Return a reading as plain JSON values, in the words of the command line."""
    reading = answer.reading
    return {
        "file": reading.name,
        "status": reading.status,
        "label": reading.label,
        "probabilities": reading.probabilities,
        "reasons": list(reading.reasons),
        "model": request.model,
        "method": request.method,
        "target": reading.target or None,
    }
