"""The web demo: `python app.py`, or a Gradio Space as it stands.

Teaching tool, not a medical device. This file is Gradio: the look, the limits and the wiring of
each tab. What a tab shows and does lives in the package, mostly in `fracture.web`. The page is
served before torch is imported: the model loads in the background meanwhile.
"""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before Gradio and torch are imported, which read these once.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several readings at once share the cores better
if "GRADIO_TEMP_DIR" not in os.environ:  # uploads: a folder of our own, gone when the app ends
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="fracture-")
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)

import gradio as gr
import numpy as np
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fracture.web import drop as drop_zone
from fracture.web import html, models, pictures, server
from fracture.web.reading import (
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

HERE = Path(__file__).parent
WEB = HERE / "fracture" / "web"
EXAMPLES = HERE / "examples"
KEEP_SECONDS = 600  # how long an upload or a result may stay on the disk
QUEUE_LENGTH = 64  # readings that may wait; beyond that the page says that the queue is full

TEAL = gr.themes.Color(
    name="teal",
    c50="#eafaf8", c100="#cdf1ed", c200="#9be2dc", c300="#63cdc6", c400="#34b0ab",
    c500="#14918f", c600="#0b7678", c700="#0c5f62", c800="#0f4b4f", c900="#113f43",
    c950="#04262a",
)  # fmt: skip
SLATE = gr.themes.Color(
    name="slate",
    c50="#f6f8f9", c100="#edf1f3", c200="#dce3e7", c300="#bcc8cf", c400="#8c9ca6",
    c500="#62737e", c600="#495963", c700="#36444d", c800="#1c272e", c900="#121b21",
    c950="#0b1216",
)  # fmt: skip

theme = gr.themes.Base(
    primary_hue=TEAL,
    secondary_hue=TEAL,
    neutral_hue=SLATE,
    radius_size=gr.themes.sizes.radius_md,
    font=[  # served by the app itself
        gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)),
        "ui-sans-serif",
        "system-ui",
        "sans-serif",
    ],
    font_mono=["ui-monospace", "Consolas", "monospace"],
).set(
    body_background_fill="*neutral_100",
    body_background_fill_dark="*neutral_950",
    background_fill_primary="#ffffff",
    background_fill_primary_dark="*neutral_900",
    block_background_fill="transparent",
    block_background_fill_dark="transparent",
    block_border_width="0px",
    block_shadow="none",
    block_padding="0px",
    block_title_text_size="*text_sm",
    block_title_text_weight="700",
    block_title_text_color="*neutral_600",
    block_title_text_color_dark="*neutral_300",
    input_background_fill="#ffffff",
    input_background_fill_dark="*neutral_800",
    checkbox_label_background_fill="#ffffff",
    checkbox_label_background_fill_dark="*neutral_800",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_text_color="#ffffff",
    button_secondary_background_fill="#ffffff",
    button_secondary_background_fill_dark="*neutral_800",
    button_secondary_border_color="*neutral_300",
    button_secondary_border_color_dark="*neutral_600",
    button_border_width="1px",
)


# ---------------------------------------------------------------------- Read an X-ray
# One reading keeps one core busy, so as many run at a time as there are cores; the rest queue.
READERS = os.cpu_count() or 2
QUEUED = {"concurrency_id": "read", "concurrency_limit": READERS}
PRIVATE = {"api_visibility": "private", **QUEUED}

# The verdict is announced when it changes; the list of films tells which row's film to show.
ANNOUNCED = '<div role="status" aria-live="polite">${value}</div>'
BATCH = """
watch("value", () => setTimeout(() => { // once the film above has taken its place
  const table = element.querySelector(".fx-batch");
  if (table) table.scrollIntoView({ behavior: "smooth", block: "start" });
}, 150));
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-open]");
  if (!button) return;
  trigger("select", { index: Number(button.dataset.open) });
  document.querySelector("#read").scrollIntoView({ behavior: "smooth", block: "start" });
});
"""


def read_page(examples: Sequence[Path]) -> None:
    """Build the page "Read an X-ray"; `examples` are served under `examples/`."""
    with gr.Row(elem_id="read", equal_height=False):
        with gr.Column(scale=7, min_width=320):
            drop = film_drop()
            view = gr.HTML(
                js_on_load=(WEB / "read.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id="view",
            )
            gr.HTML(
                drop_zone.example_strip(examples),
                js_on_load=drop_zone.TRY_EXAMPLE,
                apply_default_css=False,
                visible=bool(examples),
                elem_id="examples",
            )
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
        films = drop_zone.received(sent, uploads)
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
        films = drop_zone.received(sent, uploads)
        if not films:
            return [gr.skip()] * 3
        return _show(films[_within(row, films)], Request(model, method, target, insist), compare)

    def opened(event: gr.EventData, sent, target, model, method, compare):
        films = drop_zone.received(sent, uploads)
        if not films:
            return [gr.skip()] * 4
        index = _within(getattr(event, "index", 0), films)
        return [*_show(films[index], Request(model, method, target), compare), index]

    listen = {"show_progress_on": verdict, **PRIVATE}
    reading = drop.upload(
        dropped,
        [drop, *choices],
        [*shown, row, batch, take_away, table, archive],
        **listen,
    )
    reading.then(None, js=drop_zone.DONE)
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


def film_drop() -> gr.HTML:
    """Build the drop zone. Its value is what the browser sent; see `drop_zone.received`."""
    drop = gr.HTML(
        html_template=drop_zone.MARKUP,
        js_on_load=drop_zone.SCRIPT,
        apply_default_css=False,
        elem_id="drop",
    )
    keep_local(drop)
    return drop


def keep_local(component: gr.components.Component) -> None:
    """Make a component that takes files refuse addresses on the web, which Gradio would fetch."""
    move = component.async_move_resource_to_block_cache

    async def move_local(address: str | None) -> str | None:
        if str(address).lower().startswith(("http:", "https:")):
            raise gr.Error("Send the film itself: addresses on the web are not fetched.")
        return await move(address)

    component.async_move_resource_to_block_cache = move_local


# ---------------------------------------------------------------------- the whole app
HEADER = f"""
<header class="fx-header">
  <div class="fx-brand">
    <svg viewBox="0 0 32 32" aria-hidden="true"><rect x="1" y="1" width="30" height="30" rx="7"/>
      <path d="M7 11.5h8l-2 4.5 3 2-2 3H7zM25 11.5h-7.5l-2 4.5 3 2-2 3H25z"/></svg>
    <div><h1>Fracture</h1><p>Simple or comminuted? See what the model saw.</p></div>
  </div>
  <p class="fx-notice" role="note">{html.NOTICE}</p>
  <button type="button" class="fx-theme" aria-label="Switch between light and dark">
    <svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="7"/>
      <path d="M10 3a7 7 0 0 1 0 14z"/></svg></button>
</header>
"""
SWITCH_THEME = """
element.querySelector(".fx-theme").addEventListener("click", () => {
  document.body.classList.toggle("dark");
});
"""


def examples() -> list[Path]:
    """Return the example films; none is fine."""
    return sorted(p for p in EXAMPLES.glob("*") if p.suffix in {".png", ".jpg", ".webp"})


def build() -> gr.Blocks:
    """Build the app; `launch()` on the result applies this file's look, limits and routes."""
    with gr.Blocks(
        title="Fracture: simple or comminuted?",
        analytics_enabled=False,
        delete_cache=(60, KEEP_SECONDS),
        fill_width=True,
    ) as blocks:
        gr.HTML(HEADER, js_on_load=SWITCH_THEME, apply_default_css=False, elem_id="header")
        with gr.Tabs(elem_id="pages"), gr.Tab("Read an X-ray", id="read"):
            read_page(examples())
    blocks.queue(max_size=QUEUE_LENGTH)

    routes = [Route("/health", server.health)]
    if EXAMPLES.is_dir():
        routes.append(Mount("/examples", StaticFiles(directory=EXAMPLES)))
    # Whoever launches the app (this file, a Space, a test) gets the same settings.
    blocks.launch = functools.partial(
        blocks.launch,
        theme=theme,
        css_paths=WEB / "style.css",
        max_file_size=f"{drop_zone.MAX_MEGABYTES}mb",
        footer_links=["api"],
        run_history=False,  # keeps films in the browser's storage otherwise
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        app_kwargs={
            "routes": routes,
            "middleware": [Middleware(server.LoadLater), Middleware(server.Guard)],
            "docs_url": None,
            "redoc_url": None,
        },
    )
    return blocks


demo = build()

if __name__ == "__main__":
    # A host stops the app this way; leave through the front door, so that uploads are deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    demo.launch()
