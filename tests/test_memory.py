"""Memory that is free is given back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fracture.web import memory

REPOSITORY = Path(__file__).resolve().parents[1]
HELD = """
import psutil
from fracture.web import memory
def mb():
    return psutil.Process().memory_info().rss / 1e6
if {few}:
    memory.few_heaps()
pieces = [bytes(60_000) for _ in range(2000)]
last = bytes(60_000)  # lies behind them, so that the C library keeps what is before it
full = mb()
del pieces
free = mb()
memory.give_back()
print(full - free, free - mb())
"""


@pytest.mark.skipif(memory._glibc() is None, reason="only glibc keeps what is freed")
@pytest.mark.parametrize("few", [True, False])
def test_freed_pieces_leave_the_process(few: bool) -> None:
    pytest.importorskip("psutil")
    done = subprocess.run(
        [sys.executable, "-c", HELD.format(few=few)],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    by_itself, given_back = map(float, done.stdout.split())
    assert by_itself < 20 < 80 < given_back


FORGOTTEN = """
import psutil
import torch
from fracture.web import memory
def mb():
    return psutil.Process().memory_info().rss / 1e6
weight, films = torch.rand(4, 3, 5, 5), torch.rand(1, 3, 64, 64)
before = torch.nn.functional.conv2d(films, weight)
full = mb()
memory.forget_code()
left = mb()
again = torch.nn.functional.conv2d(films, weight)
print(full - left, int(torch.equal(before, again)))
"""


@pytest.mark.skipif(memory._glibc() is None, reason="made for Linux with glibc")
def test_forgotten_code_still_runs() -> None:
    pytest.importorskip("psutil")
    done = subprocess.run(
        [sys.executable, "-c", FORGOTTEN],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    freed, same = done.stdout.split()
    assert float(freed) > 20 and same == "1"


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    memory.few_heaps()
    memory.give_back()
    memory.forget_code()


def test_memory_is_given_back_when_the_answers_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    monkeypatch.setattr(memory, "give_back", lambda: done.append("given back"))

    async def app(scope, receive, send):
        done.append(scope["path"])
        if "broken" in scope["path"]:
            raise OSError

    layer = memory.GiveBack(app)
    api = "/gradio_api"
    asked = [f"{api}/queue/data", f"{api}/call/read/0a1b", f"{api}/call/v2/read/0a1b"]
    silent = ["/", f"{api}/queue/join", f"{api}/call/read"]
    for path in silent + asked:
        asyncio.run(layer({"type": "http", "path": path}, None, None))
    with pytest.raises(OSError):
        asyncio.run(layer({"type": "http", "path": "/broken/queue/data"}, None, None))
    answered = [word for path in [*asked, "/broken/queue/data"] for word in (path, "given back")]
    assert done == silent + answered


SETTLED = """
import gc, sys
seen = []
class Watch:
    def find_spec(name, path=None, target=None):
        if name == "gradio":
            seen.append(not gc.isenabled())
sys.meta_path.insert(0, Watch)
import app
from fracture.web import models
seen += [gc.isenabled(), gc.get_freeze_count() > 100_000]
def load(name=models.DEFAULT):
    seen.append(not gc.isenabled())
    {act}
models.classifier = load
models.warm_up()
print(*seen, gc.isenabled())
"""


@pytest.mark.parametrize("act", ["raise RuntimeError('no model')", "raise models.ModelMissing('')"])
def test_the_collector_rests_only_while_modules_are_imported(act: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SETTLED.format(act=act)],
        cwd=REPOSITORY,
        env={**os.environ, "GRADIO_TEMP_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True"] * 5
