"""The first page: drop a film, read the verdict, see what the model looked at."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from pages import html, models, pictures
from pages.drop import HERE, example_strip, film_drop, keep_local, received
from pages.reading import (
    VERDICT,
    Answer,
    Request,
    Upload,
    as_json,
    failure,
    look,
    read_many,
    write_table,
)

# One reading keeps one core busy, so as many run at a time as there are cores; the rest queue.
READERS = os.cpu_count() or 2
QUEUED = {"concurrency_id": "read", "concurrency_limit": READERS}
PRIVATE = {"api_visibility": "private", **QUEUED}

# The verdict is announced when it changes; the list of films tells which row's film to show.
ANNOUNCED = '<div role="status" aria-live="polite">${value}</div>'
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


def build(examples: Sequence[Path]) -> None:
    """Build the page inside the current Blocks; `examples` are served under `examples/`."""
    with gr.Row(elem_id="read", equal_height=False):
        with gr.Column(scale=7, min_width=320):
            drop = film_drop()
            view = gr.HTML(
                js_on_load=(HERE / "read.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id="view",
            )
            example_strip(examples)
        with gr.Column(scale=5, min_width=320):
            verdict = gr.HTML(
                html.waiting_card(),
                html_template=ANNOUNCED,
                apply_default_css=False,
                elem_id="verdict",
            )
            insist = gr.Button("Show the verdict anyway", visible=False, elem_id="insist")
            with gr.Column(elem_id="controls"):
                choices = _controls()
    batch = gr.HTML(apply_default_css=False, elem_id="batch", js_on_load=BATCH)
    with gr.Row(visible=False, elem_id="take-away") as take_away:
        table = gr.DownloadButton("Take the table (CSV)", size="md")
        archive = gr.DownloadButton("Take the overlays (zip)", size="md")
    row = gr.Number(0, visible="hidden", precision=0)  # which film is shown; kept in the browser
    shown = [view, verdict, insist]
    uploads = drop.GRADIO_CACHE

    def dropped(sent, target, model, method, compare, progress=gr.Progress()):  # noqa: B008
        films = received(sent, uploads)
        request = Request(model, method, target)
        if not films:
            return [gr.skip()] * 8
        many = ["", gr.update(visible=False), None, None]
        if len(films) > 1:
            folder = Path(uploads) / secrets.token_hex(16)
            folder.mkdir(parents=True)
            paths = folder / "readings.csv", folder / "overlays.zip"
            counted = progress.tqdm(films, desc="Reading the films", unit="films")
            rows = read_many(counted, Request(model, method), paths[1])
            write_table(rows, paths[0])
            many = [html.batch_table(rows), gr.update(visible=True), *map(str, paths)]
        return [*_show(films[0], request, compare), 0, *many]

    def changed(sent, row, target, model, method, compare, insist=False):
        films = received(sent, uploads)
        if not films:
            return [gr.skip()] * 3
        return _show(films[_within(row, films)], Request(model, method, target, insist), compare)

    def opened(event: gr.EventData, sent, target, model, method, compare):
        films = received(sent, uploads)
        if not films:
            return [gr.skip()] * 4
        index = _within(getattr(event, "index", 0), films)
        return [*_show(films[index], Request(model, method, target), compare), index]

    listen = {"show_progress_on": verdict, **PRIVATE}
    drop.upload(
        dropped,
        [drop, *choices],
        [*shown, row, batch, take_away, table, archive],
        **listen,
    )
    gr.on(
        [choice.input for choice in choices],
        changed,
        [drop, row, *choices],
        shown,
        trigger_mode="always_last",
        **listen,
    )
    anyway = functools.partial(changed, insist=True)
    insist.click(anyway, [drop, row, *choices], shown, **listen)
    batch.select(opened, [drop, *choices], [*shown, row], **listen)
    _endpoint()


def _controls() -> list[gr.components.Component]:
    """Build what one may ask for: target, model, method, and whether to compare the models."""
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
    return [target, model, method, compare]


def _show(upload: Upload, request: Request, compare: bool) -> tuple[str, str, dict]:
    """Return the viewer, the verdict card and the update of the "anyway" button."""
    first = look(upload, request)
    readings = [first.reading]
    if compare and first.film is not None:
        others = [name for name in models.TITLES if name != request.model]
        second = Request(others[0], request.method, request.target, request.insist)
        readings.append(look(upload, second, film=first.film).reading)
    refused = first.reading.status == "refused" and first.reading.label is None
    return html.viewer(readings), html.verdict_card(*readings), gr.update(visible=refused)


def _within(index: Any, films: Sequence[Upload]) -> int:
    """Return `index`, which came from a browser, as a position in `films`."""
    try:
        return min(max(int(index), 0), len(films) - 1)
    except (TypeError, ValueError, OverflowError):
        return 0


def read_file(
    file: str | None, model: str, method: str, target: str, insist: bool
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Read one film: verdict with every class's probability, and the film under its heatmap."""
    request = Request(model, method, target, insist)
    answer = Answer(failure("No file was sent.", model=model))
    if file:
        answer = look(Upload(file, Path(file).name), request, thumbnail=True)
    picture = None
    if answer.heatmap is not None:
        picture = pictures.under_heat(answer.film.display, answer.heatmap)
    return as_json(answer, request), picture


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
        outputs = [
            gr.JSON(label="Reading: file, status, label, probabilities, reasons"),
            gr.Image(label="The film under its heatmap", format="jpeg"),
        ]
        keep_local(inputs[0])
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
