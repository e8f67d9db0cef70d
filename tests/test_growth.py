"""What docs/growth.md promises: two replicas behind nginx, and a folder read by Dask."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from conftest import REPOSITORY
from gradio_client import Client, handle_file
from load import Job, alone, ask, connect, difference, jobs, joined, together, upload
from running import PATIENCE, Running, run_app

from fracture.classifier import Classifier

DOCS = REPOSITORY / "docs"


# --- replicas behind nginx ---------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """Two replicas and the address of the proxy before them."""

    url: str
    replicas: tuple[Running, Running]

    def served_by(self) -> list[int]:
        """How many different films each replica has received."""
        return [len({p.parent for p in r.uploads.rglob("film *.png")}) for r in self.replicas]


@pytest.fixture(scope="module")
def site(random_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not nginx:
        pytest.skip("nginx is not installed (apt install nginx-light)")
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second", "proxy")]
    with ExitStack() as stack, ThreadPoolExecutor(2) as starting:

        def start(folder: Path) -> Running:
            return stack.enter_context(run_app(folder, random_checkpoints, "transfer"))

        replicas = tuple(starting.map(start, folders[:2]))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        text = (DOCS / "nginx.conf").read_text()
        for ours, theirs in (
            ("127.0.0.1:7861", replicas[0].url.split("/")[2]),
            ("127.0.0.1:7862", replicas[1].url.split("/")[2]),
            ("listen 8080", f"listen 127.0.0.1:{port}"),
        ):
            assert text.count(ours) == 1
            text = text.replace(ours, theirs)
        (folders[2] / "nginx.conf").write_text(text)
        directives = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
        proxy = subprocess.Popen(
            [nginx, "-p", folders[2], "-c", "nginx.conf", "-e", "stderr", "-g", directives]
        )
        try:
            url = f"http://127.0.0.1:{port}/"
            deadline = time.monotonic() + 30
            while True:
                try:
                    if httpx.get(url + "health", trust_env=False).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                assert proxy.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            yield Site(url, replicas)
        finally:
            proxy.send_signal(signal.SIGTERM)
            proxy.wait(30)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    return jobs(tmp_path_factory.mktemp("films"), 6, sides=(256,))


def test_the_cookie_keeps_a_page_with_its_replica(site: Site, questions: list[Job]) -> None:
    """Many visitors from one address: each is answered right, and the replicas share them."""
    right = asyncio.run(alone(site.replicas[0].url, questions))
    before = site.served_by()

    async def visit(number: int) -> None:
        async with connect(site.url) as client:
            page = await client.get("")
            assert re.fullmatch(
                r"replica=[0-9a-f]{32}; Path=/; HttpOnly; SameSite=Lax", page.headers["set-cookie"]
            )
            said = await ask(client, questions[number % 6])
            assert difference(said, right[number % 6]) == ""
            assert "set-cookie" not in (await client.get("")).headers  # it has one

    async def one_after_the_other() -> None:
        for number in range(24):
            await visit(number)

    asyncio.run(one_after_the_other())
    # 24 visitors on one of two replicas by chance: once in eight million runs
    assert site.served_by()[1] > before[1]
    assert sum(site.served_by()) > sum(before)


def test_without_cookies_the_address_decides(site: Site, questions: list[Job]) -> None:
    """A program that keeps no cookies, and Gradio's own client."""
    right = asyncio.run(alone(site.replicas[0].url, questions))
    watch = asyncio.run(together(site.url, questions, right, 6, 12))
    assert (watch.wrong, watch.failed, len(watch.seconds)) == ([], [], 12)
    client = Client(site.url, verbose=False)
    answer, picture = client.predict(file=handle_file(str(questions[0].film)), api_name="/read")
    assert answer["file"] == questions[0].film.name and Path(picture).is_file()


def test_the_page_speaks_of_the_proxys_address_only(site: Site) -> None:
    config = httpx.get(site.url + "config", trust_env=False).json()
    assert config["root"].rstrip("/") == site.url.rstrip("/")
    for replica in site.replicas:
        assert replica.url.split("/")[2] not in json.dumps(config)


def test_replicas_know_nothing_of_each_other(site: Site, questions: list[Job]) -> None:
    """Why a visitor must stay with one: the film and the place in the queue are only there."""

    async def wander() -> str:
        async with connect(site.replicas[0].url) as one, connect(site.replicas[1].url) as other:
            film = await upload(one, questions[0].film)
            body = {"data": [film, "default", "gradcam", "verdict", True]}
            event = await joined(other, "gradio_api/call/read", body)
            with pytest.raises(httpx.RemoteProtocolError):  # breaks off: no such event there
                await one.get(f"gradio_api/call/read/{event}")
            return (await other.get(f"gradio_api/call/read/{event}")).text

    answer = asyncio.run(wander())
    assert "event: error" in answer and "probabilities" not in answer


def test_a_proxy_in_between_streams_and_limits(site: Site) -> None:
    reply = httpx.get(site.url + "health", trust_env=False)
    assert "nginx/" not in reply.headers.get("server", "")
    assert reply.headers["x-content-type-options"] == "nosniff"
    large = {"files": ("film.png", bytes(27 * 2**20), "image/png")}
    assert httpx.post(site.url + "gradio_api/upload", files=large).status_code == 413


def test_one_replica_gone_the_other_goes_on(site: Site, questions: list[Job]) -> None:
    """Last in this file: it ends a replica."""
    site.replicas[0].process.terminate()
    site.replicas[0].process.wait(60)
    right = asyncio.run(alone(site.replicas[1].url, questions[:3]))

    async def come() -> None:
        for number in range(12):
            async with connect(site.url) as client:
                assert (await client.get("")).status_code == 200
                said = await ask(client, questions[number % 3])
                assert difference(said, right[number % 3]) == ""

    asyncio.run(come())


# --- a folder read by Dask ---------------------------------------------------------------------


def batch(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DOCS / "batch_dask.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


def test_a_folder_is_read_and_a_stopped_run_goes_on(
    film_folder: Path, random_checkpoints: Path, tmp_path: Path
) -> None:
    pytest.importorskip(
        "distributed", reason='Dask is not installed: pip install "dask[distributed]"'
    )
    (film_folder / "broken.png").write_bytes(b"no picture")
    (film_folder / "notes.txt").write_text("no film")
    model = random_checkpoints / "simplecnn.safetensors"
    out = tmp_path / "out"
    arguments = (film_folder, out, "--part", "3", "--workers", "1", "--model", model)
    first = batch(*arguments)
    assert first.returncode == 0, first.stderr
    assert "7 films, 3 parts, 3 to do" in first.stdout
    parts = sorted(out.glob("part-*.jsonl"))
    lines = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    films = sorted(map(str, film_folder.rglob("*.png")), key=lambda f: (f.count("/"), f))
    assert sorted(line["file"] for line in lines) == sorted(films)
    classifier = Classifier.load(model)
    for line in lines:
        alone_read = classifier.predict(line["file"])
        assert (line["status"], line["label"]) == (alone_read.status, alone_read.label)
        assert line["probabilities"] == pytest.approx(alone_read.probabilities, abs=1e-5)
    assert [line["status"] for line in lines].count("error") == 1

    # Stopped before the second part was written, with a draft of it left behind.
    before = {part: part.stat().st_mtime_ns for part in parts}
    text = parts[1].read_text()
    parts[1].rename(parts[1].with_name(".part-00001.jsonl.99"))
    (film_folder / "late.png").write_bytes(b"came later: not in the list")
    again = batch(*arguments)
    assert again.returncode == 0 and "7 films, 3 parts, 1 to do" in again.stdout, again.stderr
    assert parts[1].read_text() == text
    assert sorted(out.glob("part-*.jsonl")) == parts
    for part in (parts[0], parts[2]):
        assert part.stat().st_mtime_ns == before[part]
