"""Fixtures around an app that runs in a process of its own; `pytest_plugins = ("running",)`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PATIENCE = 300  # seconds; a machine that trains a model meanwhile is slow


@dataclass(frozen=True)
class Running:
    """An app that answers.

    url: its address; log: file with all it printed; uploads: its temporary folder.
    """

    url: str
    log: Path
    uploads: Path
    process: subprocess.Popen


@contextmanager
def run_app(folder: Path, models: Path, default: str, keep: int | None = None) -> Iterator[Running]:
    """Start the app with the checkpoint `default` of the folder `models`; wait for the model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uploads, log = folder / "uploads", folder / "log.txt"
    command = [sys.executable, str(HERE / "serve.py"), str(port), str(models), default]
    command += [str(keep)] if keep else []
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(uploads), "PYTHONUNBUFFERED": "1"}
    environment.pop("GRADIO_SERVER_PORT", None)
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=folder
        )
    url = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + PATIENCE
        while _model_state(url) != "ready":
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail("the app did not come up:\n" + log.read_text()[-4000:])
            time.sleep(0.2)
        yield Running(url, log, uploads, process)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def _model_state(url: str) -> str:
    try:
        with urllib.request.urlopen(url + "health", timeout=10) as answer:
            return "ready" if b'"ready"' in answer.read() else "loading"
    except OSError:
        return "absent"


@pytest.fixture(scope="session")
def app(random_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The app with untrained models: what it says is arbitrary, but always the same."""
    with run_app(tmp_path_factory.mktemp("app"), random_checkpoints, "transfer") as running:
        yield running
