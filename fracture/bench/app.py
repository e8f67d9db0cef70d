"""The parts of the benchmark that start the app: start-up, memory, Chromium.

See `fracture.bench`; many clients at once are the load test's business (`tests/load.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from fracture.bench.tools import (
    ROOT,
    Amount,
    Json,
    Skipped,
    as_jpeg,
    simulated_film,
    summary,
)

if TYPE_CHECKING:
    from gradio_client import Client
    from playwright.sync_api import Page

PATIENCE = 120  # seconds
HEAVY = "torch, torchvision, gradio, pytorch_grad_cam"  # what a plain app of this kind imports
CUDA = re.compile(r"/(nvidia|triton)/|cuda")
TOP = 12  # packages named in the import summary


@dataclass
class App:
    """A running `python app.py`."""

    url: str
    process: subprocess.Popen
    began: float

    def since(self) -> float:
        """Seconds since it was started."""
        return time.perf_counter() - self.began

    def mb(self) -> float:
        """Resident memory."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def mb_of_cuda(self) -> float:
        """Resident memory of libraries that torch's CPU build does not have; 0 if not known."""
        with contextlib.suppress(psutil.Error, AttributeError):
            maps = psutil.Process(self.process.pid).memory_maps()
            return sum(part.rss for part in maps if CUDA.search(part.path)) / 1e6
        return 0.0

    def client(self) -> Client:
        """A connection as another program would make it."""
        from gradio_client import Client

        return Client(self.url, verbose=False)


def ask(client: Client, film: Path) -> dict:
    """One reading through the app's API. Raises RuntimeError if the film gets no verdict."""
    from gradio_client import handle_file

    answer, _ = client.predict(
        handle_file(film), "default", "gradcam", "verdict", False, api_name="/read"
    )
    if answer["status"] not in ("ok", "uncertain"):  # cheaper than a reading
        raise RuntimeError(f"the film was not read: {answer['reasons']}")
    return answer


@contextmanager
def running(folder: Path) -> Iterator[App]:
    """`python app.py` on a free port until its page is served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder)}
    with (folder / "app.log").open("w") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    app = App(f"http://127.0.0.1:{port}/", process, began)
    try:
        while not _served(app.url):
            if process.poll() is not None or app.since() > PATIENCE:
                raise RuntimeError("the app did not start:\n" + (folder / "app.log").read_text())
            time.sleep(0.05)
        yield app
    finally:
        process.terminate()
        process.wait(timeout=30)


def _served(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as page:
            return b"gradio" in page.read()
    except (urllib.error.URLError, OSError):
        return False


# --- start ----------------------------------------------------------------------------------------


def start(amount: Amount) -> Json:
    """From `python app.py` to the page and to the first verdict; what importing costs."""
    import gradio_client  # noqa: F401  (its import must not count as the app's)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.jpg"
        film.write_bytes(as_jpeg(simulated_film(640, 512)))
        for number in range(amount.starts):
            own = Path(folder) / str(number)
            own.mkdir()
            with running(own) as app:
                page, memory = app.since(), app.mb()
                ask(app.client(), film)
                rows.append({"page": page, "verdict": app.since(), "mb_at_page": memory,
                             "mb_after_verdict": app.mb()})  # fmt: skip
    middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return {
        "seconds_to_page": middle["page"],
        "seconds_to_first_verdict": middle["verdict"],
        "mb_at_page": middle["mb_at_page"],
        "mb_after_verdict": middle["mb_after_verdict"],
        "count": amount.starts,
        "everything_at_once": _imports_at_once() | _import_times(HEAVY),
        "mb_by_step": _memory_by_step(),
        "importing_the_app": _import_times("app"),
        "importing_the_model": _import_times("fracture.classifier, fracture.looktwice"),
    }


def starts(amount: Amount) -> Json:
    """What `start` measures, over as many starts as the comparisons have rounds."""
    return start(replace(amount, starts=amount.rounds))


def _imports_at_once() -> Json:
    """Memory of a process that only imports what such an app usually imports."""
    code = f"import os, psutil, {HEAVY}; print(psutil.Process().memory_info().rss)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {"mb": int(answer.stdout.split()[-1]) / 1e6}


# What a process holds as the app starts and reads, in the app's order.
STEPS = """
import json, os
os.environ["OMP_NUM_THREADS"] = "1"
import psutil
found = {"Python": psutil.Process().memory_info().rss}
def step(name):
    found[name] = psutil.Process().memory_info().rss - sum(found.values())
import gradio
step("gradio")
import app
step("the rest of the app")
import torch
step("torch")
from fracture.web import memory, models
models.classifier()
memory.give_back()
step("the model")
memory.forget_code()
step("code that only starting runs")
models.warm_up()
step("a first reading")
print(json.dumps(found))
"""


def _memory_by_step() -> dict[str, float]:
    """Resident megabytes that each step of starting adds, in one process without a server."""
    answer = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {name: size / 1e6 for name, size in json.loads(answer.stdout.splitlines()[-1]).items()}


def _import_times(modules: str) -> Json:
    """`-X importtime` of modules: seconds in all, and the packages that took most by themselves."""
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {modules}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    own = import_seconds(answer.stderr)
    most = sorted(own.items(), key=lambda item: -item[1])[:TOP]
    return {"modules": modules, "seconds": sum(own.values()), "by_package": dict(most)}


_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)


def import_seconds(text: str) -> dict[str, float]:
    """Seconds that each top-level package's own modules took, from what `-X importtime` prints."""
    found: dict[str, float] = {}
    for microseconds, module in _IMPORT.findall(text):
        package = module.split(".")[0]
        found[package] = found.get(package, 0.0) + int(microseconds) / 1e6
    return found


# --- the running app ------------------------------------------------------------------------------


def through_the_app(amount: Amount) -> Json:
    """Memory after many readings, and how long a person at the page waits."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large, small = folder / "large.jpg", folder / "small.jpg"
        large.write_bytes(as_jpeg(simulated_film(2500, 2000)))
        small.write_bytes(as_jpeg(simulated_film(640, 512)))
        (folder / "uploads").mkdir()
        with running(folder / "uploads") as app:
            client = app.client()
            ask(client, small)
            found: Json = {"mb_before": app.mb()}
            try:
                found["browser"] = _browser(app, folder, amount.clicks)
            except Skipped as reason:
                found["browser"] = {"skipped": str(reason)}
            for number in range(amount.readings):
                ask(client, large if number % 4 == 0 else small)
            time.sleep(1)  # the app gives memory back once the answer has been sent
            found["readings"] = amount.readings
            found["mb_after_readings"] = app.mb()
            found["mb_of_cuda"] = app.mb_of_cuda()
    return found


# Both promises end when the film just asked for, and its heatmap if it has one, can be painted.
SHOWN = """() => { window.shownAfter = async (begin) => {
  const old = document.querySelector(".fx-film")?.src;
  const start = await begin();
  while (performance.now() - start < 60000) {
    await new Promise(requestAnimationFrame);
    const pictures = [...document.querySelectorAll(".fx-film, .fx-heat")];
    if (pictures[0] && pictures[0].src !== old) {
      await Promise.all(pictures.map((picture) => picture.decode()));
      return performance.now() - start;
    }
  }
  throw new Error("no picture came");
}; }"""
CLICK = """(number) => shownAfter(async () => {
  const start = performance.now();
  document.querySelectorAll("[data-example]")[number].click();
  return start;
})"""
ARM = """() => {
  window.shown = shownAfter(() => new Promise((resolve) => document.addEventListener(
    "change", () => resolve(performance.now()), { once: true, capture: true })));
}"""
SLIDE = """async (value) => {
  const slider = document.querySelector(".fx-opacity input");
  const start = performance.now();
  slider.value = value;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  getComputedStyle(document.querySelector(".fx-heat")).opacity;
  const styled = performance.now() - start;
  await new Promise(requestAnimationFrame);
  return [styled, performance.now() - start];
}"""
CHOOSE = ".fx-drop input[type=file]"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


def _browser(app: App, folder: Path, clicks: int) -> Json:
    """Click to picture and the opacity slider, in Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise Skipped("no Chromium on this machine")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise Skipped("playwright is not installed") from None
    films = []
    for seed in range(2):  # in turns: a picture must have changed to count as shown
        films.append(folder / f"film{seed}.jpg")
        films[-1].write_bytes(as_jpeg(simulated_film(2500, 2000, seed)))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(app.url)
        page.wait_for_selector(".fx-drop")
        page.evaluate(SHOWN)
        found: Json = {"version": browser.version}
        count = page.locator("[data-example]").count()
        if count > 1:
            page.evaluate(CLICK, 0)
            times = [page.evaluate(CLICK, 1 + n % (count - 1)) for n in range(clicks)]
            found["example"] = summary([ms / 1000 for ms in times])
        times = [_choose(page, films[n % 2]) for n in range(1 + clicks)][1:]
        found["large_film"] = summary([ms / 1000 for ms in times])
        found["slider"] = _slide(page, clicks)
        browser.close()
    return found


def _choose(page: Page, film: Path) -> float:
    page.evaluate(ARM)
    page.set_input_files(CHOOSE, str(film))
    return page.evaluate("() => window.shown")


def _slide(page: Page, times: int) -> Json:
    """Milliseconds from the slider's event to the new style and to the next frame, and requests."""
    if not page.locator(".fx-heat").count():
        return {"skipped": "the film got no heatmap"}
    page.wait_for_timeout(1000)  # what the last film still asks for is over
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    moved = [page.evaluate(SLIDE, 10 + n % 80) for n in range(times)]
    styled, painted = zip(*moved, strict=True)
    return {
        "styled": summary([ms / 1000 for ms in styled]),
        "next_frame": summary([ms / 1000 for ms in painted]),
        "requests": len(asked),
    }
