"""The benchmark's arithmetic and words, and a guard on speed that compares ratios, not seconds."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fracture.bench import report, tools
from fracture.bench.tools import (
    Laps,
    as_jpeg,
    race,
    ratios,
    rounded,
    simulated_film,
    slope,
    threads,
)
from fracture.classifier import MODELS, Classifier

REPOSITORY = Path(__file__).resolve().parents[1]
COMMITTED = REPOSITORY / "models" / "benchmark.json"


def test_a_race_goes_in_turns_and_leaves_the_warm_up_out() -> None:
    now, order = [0.0], []

    def runner(name: str, first: float, later: float):
        def run() -> None:
            order.append(name)
            now[0] += first if order.count(name) <= tools.WARM_UP else later

        return run

    found = race({"a": runner("a", 100, 1), "b": runner("b", 100, 4)}, 5, lambda: now[0])
    assert order == ["a", "b"] * (5 + tools.WARM_UP)
    assert found["a"] == {"ms": 1000, "low": 1000, "high": 1000, "count": 5}
    assert ratios(found, "a") == {"a": 1, "b": 4}


def test_a_race_reports_the_steps() -> None:
    def run() -> Laps:
        laps = Laps()
        time.sleep(0.004)
        laps.lap("wait")
        laps.lap("nothing")
        return laps

    steps = race({"a": run}, 3)["a"]["steps"]
    assert steps["wait"] >= 4 > steps["nothing"] >= 0


def test_slope_and_rounding() -> None:
    assert slope([1, 2, 4], [5, 7, 11]) == pytest.approx((2, 3))
    assert rounded({"a": [0.123456, (1, True)], "b": "x"}) == {"a": [0.1235, [1, True]], "b": "x"}


def test_import_times_are_added_up_by_package() -> None:
    app = pytest.importorskip("fracture.bench.app", reason="psutil is not installed")
    text = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:       100 |        100 |   torch.nn\n"
        "import time:     20000 |      20100 | torch\n"
        "a line of the program's own\n"
        "import time:       500 |        500 |     PIL.Image\n"
    )
    assert app.import_seconds(text) == pytest.approx({"torch": 0.0201, "PIL": 0.0005})


def test_the_simulated_film_is_a_film() -> None:
    pixels = simulated_film(250, 200)
    assert pixels.shape == (250, 200) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, simulated_film(250, 200))
    assert not np.array_equal(pixels, simulated_film(250, 200, seed=1))
    assert pixels.std() > 20
    assert as_jpeg(pixels).startswith(b"\xff\xd8\xff")


def values() -> dict:
    """What a run may give, with most parts left out."""
    step = dict.fromkeys(report.STEPS, 50.0)
    measured = {report.OURS: {"ms": 250.0, "steps": step}, "other": {"ms": 500.0, "steps": step}}
    return {
        "seconds": 540,
        "machine": {"cores": 2, "processor": "Some CPU", "versions": {"torch": "2.9"}},
        "settings": {"rounds": 30},
        "parts": {
            "reading": {"2": {"measured": measured}},
            "backends": {
                "2": {
                    "plain": {"ms": 150.0, "times_faster": 1.0, "difference": 0.0},
                    report.SHIPPED: {"ms": 100.0, "times_faster": 1.5, "difference": 2e-5},
                    "OpenVINO": {"skipped": "ImportError: none"},
                }
            },
            "start": {
                "seconds_to_page": 9.0,
                "seconds_to_first_verdict": 11.5,
                "mb_by_step": {"Python": 10.0, "torch": 480.4},
            },
            "app": {"skipped": "no Chromium on this machine"},
            "batch": {"failed": "no reason"},
        },
    }


def test_targets_are_met_missed_or_not_measured() -> None:
    rows = {what: (shown, aim) for what, shown, aim in report.targets(values()["parts"])}
    whole = rows["Whole reading of a 2,000 x 2,500 JPEG, two threads"]
    assert whole == ("250 ms", "under 300 ms: met")
    assert rows["`python app.py` to the page"] == ("9.0 s", "under 8 s: **missed**")
    assert rows["From there to the first verdict"] == ("2.5 s", "under 3 s: met")
    assert rows["Click on an example to picture, Chromium"][0] == "not measured"


def test_the_block_says_what_was_measured(tmp_path: Path) -> None:
    text = report.block(values())
    assert (
        "| Tool | Whole reading, 2 threads |\n| --- | --- |\n| Fracture | 250 ms (1.00) |" in text
    )
    assert "| other | 500 ms (2.00) |" in text
    # 250 ms with the shipped way; the plain one takes 50 ms more
    assert "| folded (shipped) | 2 | 100 ms | 1.50 | 1.20 | 2e-05 |" in text
    assert "ImportError: none" in text
    assert "step by step: Python 10, torch 480; 490 in all." in text
    report.plot(values(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_readme_keeps_what_is_around_the_block() -> None:
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.with_block(text, "new") == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    with pytest.raises(ValueError, match="no part between"):
        report.with_block("nothing", "new")


def test_without_figures_the_command_says_how_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert report.write(tmp_path / "none.json", tmp_path) == 2
    assert report.COMMAND in capsys.readouterr().err


def test_readme_shows_the_committed_figures() -> None:
    if not COMMITTED.exists():
        pytest.skip("no benchmark has been committed yet")
    figures = json.loads(COMMITTED.read_text())
    assert not figures["quick"]
    readme = (REPOSITORY / "README.md").read_text()
    assert report.with_block(readme, report.block(figures)) == readme


def test_training_is_measured_with_the_recipe_as_it_is() -> None:
    pytest.importorskip("torchcam", reason="torchcam is not installed")
    from fracture.bench.models import training

    found = training(replace(tools.QUICK, rounds=1))
    for network in ("locator", "reader"):
        assert 0 < found[network]["loader_share"] < 1
        assert 0 < found[network]["pictures_per_second"] < found[network]["model_alone_per_second"]


# --- the guard: processor time on one thread, ratios far from what was measured ------------------


def test_closed_form_is_far_quicker_than_the_library() -> None:
    pytest.importorskip("torchcam", reason="torchcam is not installed")
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    from fracture.bench.models import _closed_form
    from fracture.fold import fold
    from fracture.models import build_model

    lite = build_model("tf_efficientnet_lite0").eval()
    folded, picture = fold(copy.deepcopy(lite)), torch.rand(1, 3, 224, 224)
    library = GradCAM(model=lite, target_layers=[lite.backbone])
    runners = {
        "ours": lambda: _closed_form(folded, picture),
        "library": lambda: library(picture, [ClassifierOutputTarget(0)]),
    }
    with threads(1):
        found = race(runners, 5, time.process_time)
    assert found["library"]["low"] > 2 * found["ours"]["low"]


def test_folding_pays_and_a_large_film_costs_little_more_than_the_model() -> None:
    if not (MODELS / "looktwice.safetensors").exists():
        pytest.skip("no trained model here")
    pytest.importorskip("torchcam", reason="torchcam is not installed")
    from fracture.bench.models import Both, _plain, _reading
    from fracture.fold import fold

    plain, folded = Both(_plain()), Both(fold(_plain()))
    inputs = torch.rand(2, 3, 448, 384), torch.rand(4, 3, 224, 224)
    classifier, film = Classifier.load(), as_jpeg(simulated_film(2500, 2000))
    runners = {
        "plain": lambda: plain(*inputs),
        "folded": lambda: folded(*inputs),
        "reading": lambda: _reading(classifier, film),
    }
    with threads(1), torch.inference_mode():
        found = race(runners, 5, time.process_time)
    assert found["folded"]["low"] < found["plain"]["low"]
    assert found["reading"]["low"] < 6 * found["folded"]["low"]
