"""The first page: drop a film, read the verdict, see what the model looked at."""

from __future__ import annotations

import csv
import functools
import logging
import os
import re
import secrets
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from pages import html, models, pictures
from pages.drop import HERE, Film, example_strip, film_drop, keep_local, received

log = logging.getLogger("fracture.app")

# One reading keeps one core busy, so as many run at a time as there are cores; the rest queue.
READERS = os.cpu_count() or 2
QUEUED = {"concurrency_id": "read", "concurrency_limit": READERS}
PRIVATE = {"api_visibility": "private", **QUEUED}
VERDICT = "verdict"


def _failure(name: str, model: str, sentence: str) -> html.Reading:
    return html.Reading(name, "error", None, {}, (sentence,), models.TITLES[model])


def _plain(name: str) -> str:
    """Shorten a file's own name to what a page can show: no folders, no control characters."""
    name = "".join(c for c in re.split(r"[/\\\\]", name)[-1] if c.isprintable()).strip()
    return name if len(name) <= 60 else f"{name[:40]}…{name[-16:]}"


def _open(path: str, name: str) -> Any:
    from fracture import FilmError, read_film

    if not Path(path).is_file():
        raise FilmError("This film has already left the server. Drop it again.")
    return read_film(path, name=name)


def look(
    film: Film,
    *,
    model: str = models.DEFAULT,
    method: str = "gradcam",
    target: str = VERDICT,
    insist: bool = False,
    thumbnail: bool = False,
) -> tuple[html.Reading, Any, np.ndarray | None]:
    """Read one film with one model.

    Returns the reading for the page, the `fracture.Film` (None where unreadable) and the heatmap
    (float32 (H, W) in [0, 1], or None). Never raises on account of the film.
    """
    from fracture import FilmError

    path, name = film[0], _plain(film[1])
    shown = None
    try:
        shown = _open(path, name)
        classifier = models.classifier(model)
        wanted = None if target == VERDICT else target
        known = wanted is None or wanted in classifier.classes
        drawn = method if method in classifier.methods else classifier.methods[0]
        prediction, heatmap = classifier.read(
            shown, wanted if known else None, drawn, insist=insist
        )
    except (FilmError, models.ModelMissing) as error:
        return _failure(name, model, str(error)), shown, None
    except Exception:
        log.exception("A reading failed")  # the trace holds code, never the picture or its name
        sentence = "Something went wrong while reading this film. The app is still running."
        return _failure(name, model, sentence), shown, None

    reasons = prediction.reasons
    if not known:
        reasons += (f"{models.TITLES[model]} does not know the class “{wanted}”: no heatmap.",)
    if drawn != method:
        reasons += (f"This model draws no {models.METHODS[method]} map; see its own instead.",)
    if prediction.label is None or not known:
        heatmap = None
    height, width = shown.display.shape[:2]
    side = pictures.THUMB_SIDE if thumbnail else pictures.FILM_SIDE
    mapped = heatmap is not None and not thumbnail
    reading = html.Reading(
        name=shown.name,
        status=prediction.status,
        label=prediction.label,
        probabilities=prediction.probabilities,
        reasons=reasons,
        model=models.TITLES[model],
        film=pictures.film_uri(shown.display, side),
        size=(width, height),
        heat=pictures.heat_uri(heatmap) if mapped else "",
        target=wanted or prediction.label or "",
        place=pictures.warmest_place(heatmap) if mapped else "",
        method=models.METHODS[drawn],
    )
    return reading, shown, heatmap


def _show(
    film: Film, target: str, model: str, method: str, compare: bool, insist: bool = False
) -> tuple[str, str, dict]:
    """Return the viewer, the verdict card and the update of the "anyway" button."""
    reading, _, _ = look(film, model=model, method=method, target=target, insist=insist)
    other = None
    if compare and reading.status != "error":
        second = models.SIMPLE_CNN if model == models.DEFAULT else models.DEFAULT
        other, _, _ = look(film, model=second, method=method, target=target, insist=insist)
    readings = [reading] + ([other] if other and other.film else [])
    refused = reading.status == "refused" and reading.label is None
    return html.viewer(readings), html.verdict_card(reading, other), gr.update(visible=refused)


def _batch(
    films: Sequence[Film], model: str, method: str, folder: Path, progress: gr.Progress
) -> tuple[str, str, str]:
    """Read many films; return the table and the paths of the CSV and of the zip of overlays."""
    folder.mkdir(parents=True)
    table, archive = folder / "readings.csv", folder / "overlays.zip"
    rows = []
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as overlays:
        for index, film in enumerate(progress.tqdm(films, desc="Reading films", unit="films")):
            reading, shown, heatmap = look(film, model=model, method=method, thumbnail=True)
            rows.append(reading)
            if heatmap is None:
                continue
            picture = pictures.under_heat(
                pictures.shrink(shown.display, pictures.FILM_SIDE),
                pictures.shrink(heatmap, pictures.FILM_SIDE),
            )
            with overlays.open(f"{index + 1:03d} {Path(reading.name).stem}.jpg", "w") as target:
                Image.fromarray(picture).save(target, "jpeg", quality=90)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "status", "label", *models.CLASSES, "reasons", "model"])
        for row in rows:
            shares = [
                f"{row.probabilities[name]:.4f}" if name in row.probabilities else ""
                for name in models.CLASSES
            ]
            reasons = " ".join(row.reasons)
            writer.writerow(
                [_inert(row.name), row.status, row.label or "", *shares, _inert(reasons), row.model]
            )
    return html.batch_table(rows), str(table), str(archive)


def _inert(text: str) -> str:
    """Keep a spreadsheet from taking a file's name for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def read_file(
    file: str | None, model: str, method: str, target: str, insist: bool
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Read one film: verdict with every class's probability, and the film under its heatmap."""
    if not file:
        reading, shown, heatmap = _failure("", model, "No file was sent."), None, None
    else:
        film = (file, Path(file).name)
        reading, shown, heatmap = look(
            film, model=model, method=method, target=target, insist=insist, thumbnail=True
        )
    answer = {
        "file": reading.name,
        "status": reading.status,
        "label": reading.label,
        "probabilities": reading.probabilities,
        "reasons": list(reading.reasons),
        "model": model,
        "method": method,
        "target": reading.target or None,
    }
    return answer, None if heatmap is None else pictures.under_heat(shown.display, heatmap)


def _endpoint() -> None:
    """Register `/read` for gradio_client and other programs; it has no face on the page."""
    with gr.Group(visible=False):
        inputs = [
            gr.File(label="The film: a picture or DICOM file", type="filepath"),
            gr.Dropdown(list(models.TITLES), value=models.DEFAULT, label="Model"),
            gr.Dropdown(list(models.METHODS), value="gradcam", label="Heatmap method"),
            gr.Dropdown(
                [VERDICT, *models.CLASSES], value=VERDICT, label="Class that the heatmap explains"
            ),
            gr.Checkbox(False, label="Give a verdict even on a film that would be refused"),
        ]
        keep_local(inputs[0])
        outputs = [
            gr.JSON(label="Reading: status, label, probabilities, reasons"),
            gr.Image(label="The film under its heatmap", format="jpeg"),
        ]
        gr.Button().click(
            read_file,
            inputs,
            outputs,
            api_name="read",
            api_description="Read a bone X-ray: Simple, Comminuted or No fracture, with the "
            "probability of each, reasons in words, and the film under its heatmap. "
            "For teaching, not for diagnosis.",
            **QUEUED,
        )


# The browser half of the table: go to it when it arrives; a row's button shows that row's film.
BATCH = """
watch("value", () => {
  if (props.value) element.scrollIntoView({ behavior: "smooth", block: "start" });
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-open]");
  if (!button) return;
  trigger("select", { index: Number(button.dataset.open) });
  document.querySelector("#read").scrollIntoView({ behavior: "smooth", block: "start" });
});
"""


def build(examples: Sequence[Path]) -> gr.HTML:
    """Build the page inside the current Blocks; return its drop zone."""
    with gr.Row(elem_id="read", equal_height=False):
        with gr.Column(scale=7, min_width=320):
            drop = film_drop()
            view = gr.HTML(
                "",
                js_on_load=(HERE / "read.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id="view",
            )
            example_strip(examples)
        with gr.Column(scale=5, min_width=320):
            verdict = gr.HTML(html.waiting_card(), apply_default_css=False, elem_id="verdict")
            insist = gr.Button("Show the verdict anyway", visible=False, elem_id="insist")
            with gr.Column(elem_id="controls"):
                target = gr.Radio(
                    [("The verdict", VERDICT), *models.CLASSES],
                    value=VERDICT,
                    label="Show what spoke for",
                    elem_classes="fx-segments",
                )
                model = gr.Radio(
                    [(title, name) for name, title in models.TITLES.items()],
                    value=models.DEFAULT,
                    label="Model",
                    elem_classes="fx-segments",
                )
                compare = gr.Checkbox(False, label="Compare the two models side by side")
                method = gr.Dropdown(
                    [(title, name) for name, title in models.METHODS.items()],
                    value="gradcam",
                    label="Heatmap method",
                    filterable=False,
                )
    batch = gr.HTML("", apply_default_css=False, elem_id="batch", js_on_load=BATCH)
    with gr.Row(visible=False, elem_id="take-away") as take_away:
        table = gr.DownloadButton("Take the table (CSV)", size="md")
        archive = gr.DownloadButton("Take the overlays (zip)", size="md")
    row = gr.Number(0, visible="hidden", precision=0)  # which film is shown; kept in the browser
    choices = [target, model, method, compare]
    shown = [view, verdict, insist]

    uploads = drop.GRADIO_CACHE

    def dropped(sent, target, model, method, compare, progress=gr.Progress()):  # noqa: B008
        films = received(sent, uploads)
        if not films:
            return [gr.skip()] * 8
        if len(films) == 1:
            many = ["", gr.update(visible=False), None, None]
        else:
            folder = Path(uploads) / secrets.token_hex(16)
            page, csv_path, zip_path = _batch(films, model, method, folder, progress)
            many = [page, gr.update(visible=True), csv_path, zip_path]
        return [*_show(films[0], target, model, method, compare), 0, *many]

    def changed(sent, row, target, model, method, compare, insist=False):
        films = received(sent, uploads)
        if not films:
            return [gr.skip()] * 3
        return _show(films[_within(row, films)], target, model, method, compare, insist)

    def opened(event: gr.EventData, sent, target, model, method, compare):
        films = received(sent, uploads)
        if not films:
            return [gr.skip()] * 4
        index = _within(event._data.get("index", 0), films)
        return [*_show(films[index], target, model, method, compare), index]

    drop.upload(
        dropped,
        [drop, *choices],
        [*shown, row, batch, take_away, table, archive],
        show_progress_on=view,
        **PRIVATE,
    )
    gr.on(
        [choice.input for choice in choices],
        changed,
        [drop, row, *choices],
        shown,
        show_progress_on=view,
        trigger_mode="always_last",
        **PRIVATE,
    )
    insist.click(
        functools.partial(changed, insist=True),
        [drop, row, *choices],
        shown,
        show_progress_on=view,
        **PRIVATE,
    )
    batch.select(opened, [drop, *choices], [*shown, row], show_progress_on=view, **PRIVATE)
    _endpoint()
    return drop


def _within(index: Any, films: Sequence[Film]) -> int:
    """Return `index`, which came from a browser, as a position in `films`."""
    try:
        return min(max(int(index), 0), len(films) - 1)
    except (TypeError, ValueError):
        return 0
