"""What stands around the app on the server: headers, refusals, health, and when the model loads.

ASGI layers and a route for Starlette, under which Gradio runs.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from starlette.responses import JSONResponse, PlainTextResponse

from fracture.web import models

HEADERS = {
    "content-security-policy": "default-src 'self' data: blob:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'",
    "permissions-policy": "camera=(self), clipboard-read=(self), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


# What Gradio would do for whoever asks and nothing here needs: fetch other servers' addresses,
# write a session's state to the disk, work on videos, call into components.
CLOSED = (
    "/file=http",
    "/file/http",
    "/proxy=",
    "/deep_link",
    "/process_recording",
    "/component_server",
    "/custom_component/",
    "/stream/",
)


class Guard:
    """ASGI layer: sane response headers, and none of Gradio's doors that nobody here needs.

    What somebody sent or was answered is never kept by a browser or a proxy on the way.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, app, headers = scope["path"].lower(), self.app, HEADERS
        if any(mark in path for mark in CLOSED):
            app = PlainTextResponse("This door is closed here.", 403)
        elif "/file=" in path or "/file/" in path:
            headers = {**HEADERS, "cache-control": "no-store"}

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] += [
                    (name.encode(), value.encode())
                    for name, value in headers.items()
                    if name.encode() not in given
                ]
            await send(message)

        return await app(scope, receive, send_with_headers)


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
        # Only the page itself counts: a host asks for /health long before Gradio tries its server.
        if scope["type"] == "http" and scope["path"] == "/" and not self.begun:
            self.begun = True
            threading.Thread(target=models.warm_up, name="warm-up", daemon=True).start()


def sweep(folder: Path, age: float) -> None:
    """Delete what lies below `folder`: files older than `age` seconds, and folders left empty.

    Gradio could delete, too, but its task ends for good when an upload arrives while it looks.
    """
    oldest = time.time() - age
    for place, _, names in os.walk(folder, topdown=False):
        paths = [(os.path.join(place, name), os.remove) for name in names]
        if place != str(folder):
            paths.append((place, os.rmdir))
        for path, remove in paths:
            with contextlib.suppress(OSError):  # gone, or a folder that is not empty
                if os.lstat(path).st_mtime < oldest:
                    remove(path)
