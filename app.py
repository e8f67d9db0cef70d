"""The web demo: `python app.py`, or a Gradio Space as it stands.

Teaching tool, not a medical device. This file holds what concerns the whole app (look, limits,
privacy, health); every tab is a module in `pages/`. The page is served before torch is imported:
the model loads in the background meanwhile.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

# Before Gradio and torch are imported, which read these once.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several readings at once share the cores better
if "GRADIO_TEMP_DIR" not in os.environ:  # uploads: a folder of our own, gone when the app ends
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="fracture-")
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pages import html, models, read
from pages.drop import MAX_MEGABYTES

HERE = Path(__file__).parent
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


HEADERS = {
    "content-security-policy": "default-src 'self' data: blob:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'",
    "permissions-policy": "camera=(self), clipboard-read=(self), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """ASGI layer: sane response headers, and no fetching of other servers' addresses.

    Gradio would fetch `/gradio_api/file=https://...` on behalf of whoever asks. Nothing here needs
    that, and nothing is to leave the machine.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if any(mark in scope["path"].lower() for mark in ("/file=http", "/proxy=")):
            refusal = PlainTextResponse("Addresses on the web are not fetched here.", 403)
            return await refusal(scope, receive, send)

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] += [
                    (name.encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.encode() not in given
                ]
            await send(message)

        return await self.app(scope, receive, send_with_headers)


async def health(request) -> JSONResponse:
    """Answer hosts: 200 while the app can serve; "model" tells how loading goes."""
    state = models.state()
    return JSONResponse({"status": "ok", "model": state}, 503 if state == "failed" else 200)


class LoadLater:
    """ASGI layer: starts loading the model once the first page was sent.

    Importing torch holds the interpreter for seconds. Begun any earlier it delays the page, and on
    a slow machine the request with which Gradio itself tries its server: the launch would fail.
    """

    def __init__(self, app):
        self.app = app
        self.begun = False

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)
        if scope["type"] == "http" and "startup-events" not in scope["path"] and not self.begun:
            self.begun = True
            threading.Thread(target=models.warm_up, name="warm-up", daemon=True).start()


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
            read.build(examples())
    blocks.queue(max_size=QUEUE_LENGTH)

    routes = [Route("/health", health)]
    if EXAMPLES.is_dir():
        routes.append(Mount("/examples", StaticFiles(directory=EXAMPLES)))
    # Whoever launches the app (this file, a Space, a test) gets the same settings.
    blocks.launch = functools.partial(
        blocks.launch,
        theme=theme,
        css_paths=HERE / "pages" / "style.css",
        max_file_size=f"{MAX_MEGABYTES}mb",
        footer_links=["api"],
        run_history=False,  # keeps films in the browser's storage otherwise
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        app_kwargs={
            "routes": routes,
            "middleware": [Middleware(LoadLater), Middleware(Guard)],
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
