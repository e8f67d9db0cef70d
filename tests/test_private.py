"""Nobody sees another's film, and nothing of a film stays or leaves.

The kernel counts what tries to leave the machine; every route of Gradio that has a path in it is
tried for files that are not the asker's; and the disk and the log are searched afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http.client
import io
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import gradio as gr
import numpy as np
import pydicom
import pytest
from conftest import REPOSITORY, draw_film
from gradio.routes import App
from load import Job, alone, ask, connect, events, joined, upload
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from running import PATIENCE, Running, run_app

from fracture.web import models, server, stress
from fracture.web.reading import Upload

pytest_plugins = ("running",)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


def send(app: Running, method: str, target: str, body: bytes | None = None, **headers) -> Reply:
    """One request exactly as written: no tidying of dots and slashes on the way.

    Of an endless answer, only what comes within three seconds or 200 kB.
    """
    connection = http.client.HTTPConnection(urlsplit(app.url).netloc, timeout=60)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, target, body, names)
    answer = connection.getresponse()
    received, until = b"", time.monotonic() + 3
    if answer.getheader("content-type", "").startswith("text/event-stream"):
        if connection.sock:
            connection.sock.settimeout(3)
        try:
            while len(received) < 200_000 and time.monotonic() < until:
                piece = answer.read1(4096)
                if not piece:
                    break
                received += piece
        except (TimeoutError, http.client.HTTPException):
            pass
    else:
        received = answer.read(200_000)
    connection.close()
    return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, received)


def post_file(app: Running, name: str, content: bytes, kind: str = "image/png") -> str:
    """Upload as somebody; returns the path that only they are told."""
    edge = secrets.token_hex(8)
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
    body = f"{head}Content-Type: {kind}\r\n\r\n".encode() + content + f"\r\n--{edge}--\r\n".encode()
    form = f"multipart/form-data; boundary={edge}"
    reply = send(app, "POST", "/gradio_api/upload", body, Content_Type=form)
    assert reply.status == 200, reply
    return json.loads(reply.body)[0]


def a_png(seed: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(draw_film(200, 160, seed=seed)).save(out, "png")
    return out.getvalue()


# --- files of others -------------------------------------------------------------------------


@dataclass(frozen=True)
class Secret:
    """Text that may never come back, and the file that holds it."""

    text: bytes
    path: Path


@pytest.fixture(scope="module")
def hidden(
    app: Running, random_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Secret]:
    """A file of the system, of the project, beside the uploads, a checkpoint, and its folder."""
    canary = secrets.token_hex(16).encode()
    beside = app.uploads.parent / "canary.txt"
    beside.write_bytes(canary)
    inside = random_checkpoints / "canary.json"
    inside.write_bytes(canary)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "canary.png"
    elsewhere.write_bytes(canary)
    return [
        Secret(b"root:", Path("/etc/passwd")),
        Secret(b"import gradio", REPOSITORY / "app.py"),
        Secret(b"gradio>=", REPOSITORY / "requirements.txt"),
        Secret(b'"architecture"', random_checkpoints / "transfer.safetensors"),
        Secret(b"GRADIO_TEMP_DIR", Path("/proc/self/environ")),
        Secret(canary, beside),
        Secret(canary, inside),
        Secret(canary, elsewhere),
    ]


def tricks(path: Path, uploads: Path) -> Iterator[str]:
    """Ways to write a path that something on the way to the file might take apart differently."""
    plain, up = str(path), "../" * 12
    relative = os.path.relpath(path, uploads)
    yield plain
    yield quote(plain, safe="")
    yield quote(quote(plain, safe=""), safe="")
    yield f"//{plain}"
    yield up + plain.lstrip("/")
    yield quote(up + plain.lstrip("/"), safe="")
    yield up.replace("/", "%5c") + plain.lstrip("/").replace("/", "%5c")
    yield up.replace("../", "....//") + plain.lstrip("/")
    yield up.replace("..", "%2e%2e") + plain.lstrip("/")
    yield f"{uploads}/{relative}"
    yield f"{uploads}/{quote(relative, safe='')}"
    yield f"file://{plain}"
    yield f"{plain}%00.png"
    yield f"/proc/self/root{plain}"


def every_route(routes: Iterable[Any]) -> Iterator[Any]:
    """The routes, and those of routers that were included (FastAPI keeps them apart or not)."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from every_route(route.original_router.routes)
        else:
            yield route


def routes_with_paths() -> list[str]:
    """Every address of Gradio that has a part to fill in and can be fetched."""
    found = [
        route.path
        for route in every_route(App.create_app(gr.Blocks()).routes)
        if "{" in route.path and "GET" in (getattr(route, "methods", None) or ())
    ]
    return [*dict.fromkeys(found), "/{path}", "/examples/{path}", "/gradio_api/{path}"]


def test_gradio_has_the_routes_that_are_meant() -> None:
    """Should Gradio rename its routes, the next test must not pass for having tried nothing."""
    found = routes_with_paths()
    for known in ("/file={", "/file/{", "/static/{", "/assets/{", "/custom_component/{"):
        assert any(known in path for path in found), (known, found)


def test_no_route_gives_away_a_file(app: Running, hidden: list[Secret]) -> None:
    tried = 0
    for route in routes_with_paths():
        if "heartbeat" in route or "/call/" in route:
            continue  # names no file; answers for ever
        for secret in hidden if "file" in route else hidden[::3]:
            for trick in tricks(secret.path, app.uploads):
                filled = re.sub(r"\{[^}]*\}(?=.*\{)", "client", route)  # all but the last part
                target = re.sub(r"\{[^}]*\}", lambda _, text=trick: text, filled)
                reply = send(app, "GET", target)
                assert secret.text not in reply.body, (target, reply.status)
                if "file" in route:
                    assert reply.status in (400, 403, 404, 422), (target, reply.status)
                tried += 1
    assert tried > 500


def test_a_range_or_head_request_gives_no_more(app: Running, hidden: list[Secret]) -> None:
    for secret in hidden:
        target = f"/gradio_api/file={secret.path}"
        for method, headers in (("HEAD", {}), ("GET", {"Range": "bytes=0-99"})):
            reply = send(app, method, target, **headers)
            assert reply.status == 403 and secret.text not in reply.body


def test_ones_own_film_comes_back(app: Running) -> None:
    """What the tests above ask for in vain, the owner gets: they ask in the right place."""
    film = a_png(seed=1)
    path = post_file(app, "mine.png", film)
    reply = send(app, "GET", f"/gradio_api/file={path}")
    assert (reply.status, reply.body) == (200, film)
    # the folder's name is the film's SHA-256: nobody else can guess it, and nothing lists it
    assert re.fullmatch(r"[0-9a-f]{64}", Path(path).parent.name)


def test_anothers_film_cannot_be_found(app: Running) -> None:
    theirs, film = "somebody-elses.png", a_png(seed=2)
    path = Path(post_file(app, theirs, film))
    mine = Path(post_file(app, "mine.png", a_png(seed=3))).parent
    for guess in (
        app.uploads,
        f"{app.uploads}/",
        f"{app.uploads}/*/{theirs}",
        f"{app.uploads}/{theirs}",
        mine / theirs,
        f"{mine}/../{theirs}",
        f"{mine}/..",
        path.parent,
        f"{path.parent}/",
    ):
        reply = send(app, "GET", f"/gradio_api/file={guess}")
        assert reply.status == 403, guess
        # a refusal repeats what was asked, so only what was not asked would be news
        assert path.parent.name in str(guess) or path.parent.name.encode() not in reply.body, guess
    for address in ("/config", "/gradio_api/info", "/gradio_api/queue/status", "/", "/health"):
        reply = send(app, "GET", address)
        assert path.parent.name.encode() not in reply.body and theirs.encode() not in reply.body


def test_anothers_film_is_not_read_for_me(app: Running) -> None:
    """Paths that lead out of what one has been told, through the endpoint and the page's event."""
    theirs = Path(post_file(app, "somebody-elses.png", a_png(seed=4)))
    mine = Path(post_file(app, "mine.png", a_png(seed=5))).parent

    async def try_all() -> None:
        async with connect(app.url) as client:
            for path in (mine / theirs.name, app.uploads, f"{app.uploads}/..", "/etc/passwd", ""):
                file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
                body = {"data": [file, "default", "gradcam", "verdict", True]}
                event = await joined(client, "gradio_api/call/read", body)
                async with client.stream("GET", f"gradio_api/call/read/{event}") as answer:
                    async for name, data in events(answer):
                        if name == "complete":
                            assert data[0]["label"] is None and data[1] is None, (path, data)
                            break
                        if name == "error":
                            break

    asyncio.run(try_all())


def test_anothers_answer_is_not_handed_out(app: Running, tmp_path: Path) -> None:
    """Answers are fetched by an event's number, 128 random bits; a guess or a used one is void."""
    film = tmp_path / "film.png"
    film.write_bytes(a_png(seed=6))

    async def ask_once() -> tuple[str, str]:
        async with connect(app.url) as client:
            file = await upload(client, film)
            body = {"data": [file, "default", "gradcam", "verdict", True]}
            event = await joined(client, "gradio_api/call/read", body)
            return event, (await client.get(f"gradio_api/call/read/{event}")).text

    event, answer = asyncio.run(ask_once())
    assert re.fullmatch(r"[0-9a-f]{32}", event) and "probabilities" in answer
    again = send(app, "GET", f"/gradio_api/call/read/{event}")
    assert b"probabilities" not in again.body
    guessed = send(app, "GET", f"/gradio_api/call/read/{secrets.token_hex(16)}")
    assert b"probabilities" not in guessed.body
    guessed = send(app, "GET", f"/gradio_api/queue/data?session_hash={secrets.token_hex(6)}")
    assert b"output" not in guessed.body


MARKUP = b"<html><script>alert(document.domain)</script></html>"


@pytest.mark.parametrize("name", ["page.html", "picture.svg", "code.js", "page.xhtml", "none"])
def test_an_upload_never_runs_in_the_apps_name(app: Running, name: str) -> None:
    """Somebody may upload markup and pass its address on: a browser saves it, nothing more."""
    path = post_file(app, name, MARKUP, "text/html")
    reply = send(app, "GET", f"/gradio_api/file={path}")
    assert reply.status == 200 and reply.body == MARKUP
    assert reply.headers["content-disposition"].startswith("attachment")
    assert reply.headers["content-type"].split(";")[0] in (
        "application/octet-stream",
        "application/json",
    )
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name", ["../../up.png", "..\\..\\up.png", "/etc/cron.d/up", "x" * 4000 + ".png", "a\tb.png"]
)
def test_an_upload_lands_only_in_the_uploads(app: Running, name: str) -> None:
    path = Path(post_file(app, name, a_png(seed=7)))
    assert path.resolve().is_relative_to(app.uploads.resolve()) and path.is_file()
    assert not (app.uploads.parent / "up.png").exists() and not Path("/etc/cron.d/up").exists()


@pytest.mark.parametrize(
    "door",
    [
        *(f"{route}https://192.0.2.1/a.png" for route in ("file=", "file/", "proxy=", "File=")),
        "deep_link?session_hash=a",
        "custom_component/a/client/component/index.js",
        "stream/a/b/1/playlist-file",
        "process_recording",
        "component_server",
    ],
)
def test_doors_that_nobody_needs_are_closed(app: Running, door: str) -> None:
    """Gradio would fetch addresses, write a session's state to the disk, turn over videos."""
    for method in ("GET", "HEAD", "POST"):
        assert send(app, method, f"/gradio_api/{door}").status == 403
    assert "LEFT THE MACHINE" not in app.log.read_text()


def test_results_are_not_kept_on_the_way(app: Running) -> None:
    path = post_file(app, "film.png", a_png(seed=10))
    assert send(app, "GET", f"/gradio_api/file={path}").headers["cache-control"] == "no-store"


# --- headers ---------------------------------------------------------------------------------


def test_every_kind_of_answer_has_the_headers(app: Running) -> None:
    path = post_file(app, "film.png", a_png(seed=8))
    asked = [
        ("GET", "/"),
        ("GET", "/health"),
        ("GET", "/config"),
        ("GET", "/theme.css"),
        ("GET", "/no/such/page"),
        ("GET", f"/gradio_api/file={path}"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file=https://example.com/"),
        ("GET", "/gradio_api/info"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/call/read"),
        ("GET", f"/gradio_api/call/read/{secrets.token_hex(16)}"),
    ]
    for method, target in asked:
        headers = send(app, method, target, Origin="https://elsewhere.example").headers
        assert headers["x-content-type-options"] == "nosniff", target
        assert headers["referrer-policy"] == "no-referrer", target
        assert "object-src 'none'" in headers["content-security-policy"], target
        assert "set-cookie" not in headers, target
        assert not re.search(r"\d", headers.get("server", "")), target  # no version to look up
        # no other site's page may read what this app answers on somebody's own computer
        allowed = headers.get("access-control-allow-origin")
        assert allowed not in ("*", "https://elsewhere.example"), target


def test_errors_tell_nothing_of_the_inside(app: Running) -> None:
    for method, target, body in (
        ("POST", "/gradio_api/call/read", b"{"),
        ("POST", "/gradio_api/call/nothing", b'{"data": []}'),
        ("POST", "/gradio_api/queue/join", b'{"data": [], "fn_index": 99, "session_hash": "a"}'),
        ("POST", "/gradio_api/upload", b"nonsense"),
        ("GET", "/gradio_api/queue/data", None),
    ):
        reply = send(app, method, target, body, Content_Type="application/json")
        assert 400 <= reply.status < 600
        for inside in (b"Traceback", b"site-packages", str(REPOSITORY).encode()):
            assert inside not in reply.body, (target, reply.body[:500])
    assert send(app, "GET", "/health").status == 200


# --- nothing stays ---------------------------------------------------------------------------

PATIENT = ("Quennevale", "Ysolde", "MRN-77419", "19770313", "Foxglove")


def a_dicom(path: Path) -> Path:
    """A DICOM film with a patient in it."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Quennevale^Ysolde", PATIENT[2], PATIENT[3]
    ds.InstitutionName, ds.Modality = "Foxglove", "DX"
    pixels = draw_film(300, 240, seed=9).astype(np.uint16) * 16
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *pixels.shape, 1
    ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelData = pixels.tobytes()
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


def test_nothing_about_a_film_is_kept_or_logged(random_checkpoints: Path, tmp_path: Path) -> None:
    """A DICOM file with a patient, a broken one, a batch: then the disk and the log are searched.

    The page's own events are used, whose table and overlays are written to the disk too.
    """
    films = [a_dicom(tmp_path / "Quennevale.dcm"), tmp_path / "Ysolde broken.dcm"]
    films[1].write_bytes(films[0].read_bytes()[:700])
    with run_app(tmp_path, random_checkpoints, "transfer", keep=8) as running:

        async def visit() -> tuple[dict, list]:
            async with connect(running.url) as client:
                said = await ask(client, Job(films[0], "gradcam", "verdict"))
                for secret in PATIENT[1:]:  # the first is the name that the file itself has
                    assert secret.encode() not in said.picture
                config = (await client.get("config")).json()
                drop = next(
                    d for d in config["dependencies"] if [t[1] for t in d["targets"]] == ["upload"]
                )
                sent = [await upload(client, film) for film in films]
                body = {
                    "data": [sent, "verdict", models.DEFAULT, "gradcam", False],
                    "fn_index": drop["id"],
                    "session_hash": "batch",
                }
                await joined(client, "gradio_api/queue/join", body)
                address = "gradio_api/queue/data?session_hash=batch"
                async with client.stream("GET", address) as answer:
                    async for _, message in events(answer):
                        if message["msg"] == "process_completed":
                            assert message["success"], message
                            return said.reading, message["output"]["data"]
                raise AssertionError("no answer")

        reading, page = asyncio.run(visit())
        for answer in (json.dumps(reading), json.dumps(page)):
            for secret in PATIENT[2:]:
                assert secret not in answer
        kept = [path for path in running.uploads.rglob("*") if path.is_file()]
        assert any(path.suffix == ".zip" for path in kept), kept  # it was there ...
        deadline = time.monotonic() + 60
        while kept := [path for path in running.uploads.rglob("*") if path.is_file()]:
            assert time.monotonic() < deadline, kept  # ... and leaves
            time.sleep(0.5)
    log = running.log.read_text()
    for secret in (*PATIENT, "broken", ".dcm"):
        assert secret not in log, log
    assert "LEFT THE MACHINE" not in log


def test_no_visitor_is_remembered(tmp_path: Path) -> None:
    """Gradio would keep each session's last answer in memory, every block's settings, each file's
    name and each request's time; and answers that nobody fetched, by the thousand."""
    path = tmp_path / "Quennevale.png"
    path.write_bytes(b"no film")
    code = f"""
import app, httpx, time
from gradio_client import Client, handle_file
_, url, _ = app.demo.launch(prevent_thread_lock=True, quiet=True)
client = Client(url, verbose=False)
said, _ = client.predict(file=handle_file({str(path)!r}), api_name="/read")
print(said["file"], said["status"])
sessions = app.demo.state_holder.session_data.values()
print(len(sessions) > 0, [part for session in sessions for part in session.components])
print(any(app.demo.temp_file_sets))
app.KEEP_SECONDS, until = 0, time.monotonic() + 60
while any(app.demo.temp_file_sets) and time.monotonic() < until:
    time.sleep(0.2)
print(app.demo.temp_file_sets[0])
for number in range(300):
    body = {{"data": [None, "default", "gradcam", "verdict", False]}}
    httpx.post(url + "gradio_api/call/read", json=body, trust_env=False)
queue = app.demo._queue
print(len(queue.pending_messages_per_session), len(queue.event_analytics))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "uploads")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    lines = ["Quennevale.png error", "True []", "True", "set()", "256 100"]
    assert done.stdout.splitlines() == lines, done.stderr[-2000:]


def test_the_sweep_takes_what_is_old_and_nothing_else(tmp_path: Path) -> None:
    for name in ("old/film.png", "new/film.png", "both/old.png", "both/new.png", "empty"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name == "empty" else path.write_bytes(b"film")
    hour_ago = time.time() - 3600
    for name in ("old/film.png", "both/old.png", "empty"):
        os.utime(tmp_path / name, (hour_ago, hour_ago))
    server.sweep(tmp_path, 600)
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["both/new.png", "new/film.png"] and not (tmp_path / "empty").exists()
    server.sweep(tmp_path, -1)
    server.sweep(tmp_path, -1)  # a folder counts as changed when its last file went
    assert list(tmp_path.iterdir()) == []


def test_a_film_under_strain_leaves_the_memory_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    Image.fromarray(draw_film()).save(path)
    kept = weakref.ref(stress.bench_of(Upload(str(path), path.name)))
    stress.forget_gone()
    assert kept() is not None and stress.bench_of(Upload(str(path), path.name)) is kept()
    path.unlink()
    stress.forget_gone()
    assert kept() is None


def test_the_sweep_goes_on_while_uploads_arrive(tmp_path: Path) -> None:
    """Gradio's own deletion stops for good when a film comes while it looks through its list."""
    stop = threading.Event()

    def arrive() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            (tmp_path / f"{number % 500}").mkdir(exist_ok=True)
            with contextlib.suppress(OSError):
                (tmp_path / f"{number % 500}" / "film.png").write_bytes(b"film")

    arriving = threading.Thread(target=arrive)
    arriving.start()
    try:
        for _ in range(20):
            server.sweep(tmp_path, -1)
    finally:
        stop.set()
        arriving.join()


# --- nothing leaves --------------------------------------------------------------------------


def unroutable() -> int:
    """How often a program in this network namespace tried to reach another machine."""
    first, second = Path("/proc/net/snmp").read_text().splitlines()[:2]
    counted = dict(zip(first.split(), second.split(), strict=True))
    lines = Path("/proc/net/snmp6").read_text().splitlines()
    counted |= dict(line.split() for line in lines)
    return int(counted["OutNoRoutes"]) + int(counted.get("Ip6OutNoRoutes", 0))


def live_alone(folder: Path) -> None:
    """Inside a namespace without any network: run the app as anybody would, read, and count."""
    with socket.socket() as wire:  # switch the loopback on: IFF_UP | IFF_RUNNING
        fcntl.ioctl(wire, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
    with socket.socket() as wire:
        wire.settimeout(5)
        assert wire.connect_ex(("192.0.2.1", 80)) != 0  # RFC 5737: nobody's address
    before = unroutable()
    assert before > 0, "this kernel does not count"
    film = folder / "film.png"
    film.write_bytes(a_png())
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "GRADIO_SERVER_PORT": "7860", "TMPDIR": str(temporary)}
    environment.pop("GRADIO_TEMP_DIR", None)
    with (folder / "log.txt").open("w") as log:
        app = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "app.py")], env=environment, stdout=log, stderr=log
        )
    url = "http://127.0.0.1:7860/"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", 7860, timeout=30)
                connection.request("GET", "/health")
                if json.load(connection.getresponse())["model"] == "ready":
                    break
            except (OSError, http.client.HTTPException):
                pass
            assert app.poll() is None and time.monotonic() < deadline
            time.sleep(0.3)
        for door in ("api", "page"):
            [said] = asyncio.run(alone(url, [Job(film, "gradcam++", "Simple")], door))
            assert said.picture
        left = [path for path in temporary.rglob("*") if path.is_file()]
        assert left, "the app does not write where it should"
    finally:
        app.terminate()
        app.wait(60)
    print("attempts", unroutable() - before)
    print("left", [str(path) for path in temporary.rglob("*") if path.is_file()])


def test_no_packet_leaves_the_machine_and_no_file_stays_behind(tmp_path: Path) -> None:
    """In a network namespace of its own the kernel counts every attempt to reach a machine."""
    unshare = shutil.which("unshare")
    if not unshare:
        pytest.skip("no unshare command: network namespaces are a Linux thing")
    command = [unshare, "--net"] if os.geteuid() == 0 else [unshare, "--map-root-user", "--net"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us make a network namespace")
    done = subprocess.run(
        [*command, sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{Path(__file__).parent}"},
        check=False,
    )
    log = tmp_path / "log.txt"
    told = log.read_text()[-2000:] if log.exists() else ""
    assert done.stdout.splitlines()[-2:] == ["attempts 0", "left []"], done.stderr[-2000:] + told


# --- nothing secret is committed ---------------------------------------------------------------


def test_no_secret_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    key = re.compile(
        rb"-----BEGIN [A-Z ]*PRIVATE KEY|\bhf_[A-Za-z0-9]{30,}|\bAKIA[A-Z0-9]{16}\b"
        rb"|\bgh[pousr]_[A-Za-z0-9]{36}|(?i:password|secret|token)\s*[:=]\s*[\"'][^\"'\s]{12,}[\"']"
    )
    assert key.search(b"password = '" + b"x" * 14 + b"'")
    for name in filter(None, listed.stdout.split("\0")):
        path = REPOSITORY / name
        if path.is_file():
            assert not key.search(path.read_bytes()), name


if __name__ == "__main__":
    live_alone(Path(sys.argv[1]))
