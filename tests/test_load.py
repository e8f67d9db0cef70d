"""Several people at once: everybody gets their own answer, and a full queue says so.

The figures under real load come from `python tests/load.py`; these tests are a small slice of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_film
from load import (
    DOORS,
    Job,
    QueueFull,
    Said,
    Watch,
    alone,
    connect,
    difference,
    events,
    jobs,
    joined,
    main,
    pair,
    report,
    together,
    upload,
)
from PIL import Image
from running import Running

from fracture.classifier import Classifier
from fracture.web.models import CLASSES, METHODS

pytest_plugins = ("running",)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Eight simulated films with eight different pairs of class and method."""
    made = jobs(tmp_path_factory.mktemp("films"), 8, sides=(256, 320))
    assert len({(job.method, job.target) for job in made}) == 8
    return made


@pytest.mark.parametrize("door", DOORS)
def test_eight_clients_at_once_get_what_they_get_alone(
    app: Running, questions: list[Job], door: str
) -> None:
    expected = asyncio.run(alone(app.url, questions, door))
    assert len({said.picture for said in expected}) == 8
    watch = asyncio.run(together(app.url, questions, expected, 8, 24, app.process.pid, door))
    assert (watch.wrong, watch.failed, watch.full) == ([], [], 0)
    assert len(watch.seconds) == 24 and watch.memory[0][2] > 50
    if door == "page":
        assert watch.place >= 2  # the page is told its place in the queue


def test_threads_that_share_a_classifier_do_not_meet(random_checkpoints: Path) -> None:
    """Thirty-two readings at once: label, probabilities and the map itself as when read alone."""
    classifier = Classifier.load(random_checkpoints / "transfer.safetensors")
    films = [draw_film(120 + 3 * n, 100, gap=n % 2 == 0, seed=n) for n in range(32)]
    methods = list(METHODS)

    def read(number: int):
        return classifier.read(films[number], CLASSES[number % 3], methods[number % 5], insist=True)

    one_by_one = [read(number) for number in range(32)]
    with ThreadPoolExecutor(32) as crowd:
        at_once = list(crowd.map(read, range(32)))
    for (prediction, heat), (expected, heat_alone) in zip(at_once, one_by_one, strict=True):
        assert prediction.label == expected.label
        assert prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        assert np.abs(heat - heat_alone).max() <= 1e-4


def test_a_full_queue_says_so_and_loses_nobody(app: Running, tmp_path: Path) -> None:
    """More requests than the queue holds: those too many are told at once, the others answered."""
    film = tmp_path / "large.png"
    Image.fromarray(draw_film(2000, 1600)).save(film)

    async def crowd() -> tuple[list[str], list[str]]:
        async with connect(app.url) as client:
            body = {"data": [await upload(client, film), "default", "gradcam", "verdict", True]}
            taken, refused = [], []
            for _ in range(100):
                try:
                    taken.append(await joined(client, "gradio_api/call/read", body))
                except QueueFull as full:
                    refused.append(str(full))
            # whoever goes away leaves the queue; only the first few stay to be answered
            for event in taken[4:]:
                await client.post("gradio_api/cancel", json=cancelling(event))
            said = []
            for event in taken[:4]:
                async with client.stream("GET", f"gradio_api/call/read/{event}") as answer:
                    async for name, data in events(answer):
                        if name in ("complete", "error"):
                            said.append(data[0]["status"] if name == "complete" else "error")
            return said, refused

    said, refused = asyncio.run(crowd())
    assert refused and all("Queue is full" in sentence for sentence in refused)
    assert len(said) == 4 and "error" not in said


def cancelling(event: str) -> dict[str, object]:
    """The request by which a page that goes away gives up its place."""
    return {"session_hash": event, "fn_index": 0, "event_id": event}


# --- the load generator itself -----------------------------------------------------------------


def test_a_wrong_answer_is_noticed() -> None:
    reading = {"file": "a.png", "label": "Simple", "probabilities": {"Simple": 0.7}}
    right = Said(reading, b"picture")
    assert difference(right, right) == ""
    near = {**reading, "probabilities": {"Simple": 0.700001}}
    assert difference(replace(right, reading=near), right) == ""
    for other in ({"label": "Comminuted"}, {"file": "b.png"}, {"probabilities": {"Simple": 0.71}}):
        assert difference(replace(right, reading={**reading, **other}), right)
    assert "picture" in difference(replace(right, picture=b"Picture"), right)


def test_the_report_counts() -> None:
    watch = Watch(seconds=[0.1] * 95 + [1.0] * 5, full=3, place=7)
    watch.memory = [(0.0, 0, 100.0), (1.0, 20, 200.0), (2.0, 100, 210.0)]
    found = json.loads(json.dumps(report(4, watch, 10.0)))
    assert (found["answered"], found["queue_full"], found["requests_per_second"]) == (100, 3, 10.0)
    assert (found["p50_s"], found["p99_s"]) == (0.1, 1.0)
    assert found["memory_mb"]["growth_after_warm_up"] == pytest.approx(0.05)
    # a film that is being read at the last look is no growth
    watch.memory = [(float(n), n, 200.0 + 90 * (n == 100)) for n in range(101)]
    memory = report(4, watch, 10.0)["memory_mb"]
    assert (memory["growth_after_warm_up"], memory["most"]) == (0, 290)
    assert report(1, Watch(failed=["x"]), 1.0)["failed"] == ["x"]


def test_the_table_is_written_into_the_page(tmp_path: Path) -> None:
    watch = Watch(seconds=[0.25] * 20, wrong=["one"])
    watch.memory = [(0.0, 0, 100.0), (1.0, 4, 200.0), (2.0, 20, 210.0)]
    run = {
        "machine": {
            "processor": "An abacus",
            "cores": 2,
            "memory_gb": 8.2,
            "python": "3.11.0",
            "versions": {"torch": "2.9", "gradio": "6.0", "timm": "1"},
        },
        "settings": {"door": "page", "threads": 1, "readers": 2},
        "memory_mb_at_start": 90.4,
        "runs": [report(16, watch, 10.0) | {"cpu_s_per_answer": 0.125}],
    }
    runs, page = tmp_path / "load.json", tmp_path / "page.md"
    runs.write_text(json.dumps([run, run]))
    page.write_text("Before\n<!-- figures -->\nold\n<!-- /figures -->\nAfter\n")
    assert main(["--table", str(runs), str(page)]) == 0
    text = page.read_text()
    assert text.startswith("Before\n") and text.endswith("After\n") and "old" not in text
    assert text.count("An abacus, 2 cores, 8 GB; Python 3.11.0, torch 2.9, gradio 6.0.") == 1
    line = "| page | 1 | 2 | 16 | 20 | 2.0 | 0.25 | 0.25 | 0.25 | 0.125 | 1 | 90, 200, 210 MB |"
    assert text.count(f"{line} +5.0% |") == 2
    main(["--table", str(runs), str(page)])
    assert page.read_text() == text


def test_settings_of_a_sweep_are_pairs() -> None:
    assert pair("2x3") == (2, 3)
    for wrong in ("2", "0x1", "2x", "axb"):
        with pytest.raises(argparse.ArgumentTypeError, match="such as 1x2"):
            pair(wrong)
