"""What stands around the app on the server: headers, refusals, health, and when the model loads.

ASGI layers and a route for Starlette, under which Gradio runs.
"""

from __future__ import annotations

import threading

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
        if any(mark in scope["path"].lower() for mark in ("/file=http", "/file/http", "/proxy=")):
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
        # Only the page itself counts: a host asks for /health long before Gradio tries its server.
        if scope["type"] == "http" and scope["path"] == "/" and not self.begun:
            self.begun = True
            threading.Thread(target=models.warm_up, name="warm-up", daemon=True).start()
