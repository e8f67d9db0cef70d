"""Checkpoints: what is written is read back; everything else is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from fracture.checkpoint import CheckpointError, fill, load_checkpoint, save_checkpoint


class Small(nn.Module):
    """A convolution, a normalisation with an integer counter, and a linear layer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 2)


def metadata(**changes: Any) -> dict[str, Any]:
    plain = {
        "architecture": "small",
        "classes": ["Comminuted", "Simple"],
        "input": {"size": [224, 224], "mean": 0.5, "std": 0.5, "resize": "letterbox"},
        "thresholds": {"uncertain": 0.6},
        "temperature": 1.2,
        "training": {"data": [{"name": "drawn", "licence": "CC BY 4.0", "url": "https://x.org/é"}]},
    }
    return plain | changes


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    torch.manual_seed(1)
    save_checkpoint(path, Small(), metadata())
    return path


def test_weights_and_metadata_come_back(tmp_path: Path) -> None:
    model, path = Small(), tmp_path / "new folder" / "small.safetensors"
    save_checkpoint(path, model, metadata())
    weights, read = load_checkpoint(path)
    assert read == metadata()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    other = Small()
    fill(other, weights, path)
    assert torch.equal(other.head.weight, model.head.weight)
    assert os.listdir(path.parent) == [path.name]  # no temporary file stays


def test_half_precision_halves_matrices_only(tmp_path: Path) -> None:
    model = Small(width=512)
    model.norm.running_var.fill_(1e6)  # beyond the range of 16-bit floats
    save_checkpoint(tmp_path / "full.safetensors", model, metadata())
    save_checkpoint(tmp_path / "half.safetensors", model, metadata(), half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "full")]
    assert 0.5 < sizes[0] / sizes[1] < 0.7
    weights, _ = load_checkpoint(tmp_path / "half.safetensors")
    assert all(w.dtype in (torch.float32, torch.int64) for w in weights.values())
    assert torch.equal(weights["norm.running_var"], model.norm.running_var)
    assert torch.allclose(weights["convolution.weight"], model.convolution.weight, atol=1e-3)


def test_tied_and_strided_weights_can_be_saved(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    save_checkpoint(tmp_path / "t", {"a": tensor, "b": tensor, "c": tensor.T}, metadata())
    weights, _ = load_checkpoint(tmp_path / "t")
    assert torch.equal(weights["b"], tensor) and torch.equal(weights["c"], tensor.T)


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full_disk(source: object, target: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(saved, Small(), metadata())
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)


def pickled(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (os.mkdir, (str(path.parent / "executed"),))

    path.write_bytes(pickle.dumps(Bomb()))


def torch_saved(path: Path) -> None:
    torch.save(Small().state_dict(), path)


def not_json(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path, metadata={"fracture": "{"})


def not_an_object(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path, metadata={"fracture": "[1]"})


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def nan_weights(path: Path) -> None:
    header = {"fracture": json.dumps(metadata())}
    save_file({"weight": torch.tensor([1.0, float("nan")])}, path, metadata=header)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (foreign, "another program"),
        (pickled, "expected a safetensors file"),
        (torch_saved, "expected a safetensors file"),
        (not_json, "not JSON"),
        (not_an_object, "not a JSON object"),
        (huge_header, "expected a safetensors file"),
        (lfs_pointer, "git lfs pull"),
        (nan_weights, "'weight' are not finite"),
        (lambda path: path.write_bytes(b""), "expected a safetensors file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "does not exist"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, write: Any, words: str) -> None:
    path = tmp_path / "wrong.safetensors"
    write(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "executed").exists()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_cut_file_is_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = folder / "cut.safetensors"
    save_checkpoint(path, Small(), metadata())
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError, match="cut.safetensors"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": None}, "'architecture'"),
        ({"architecture": ""}, "'architecture'"),
        ({"classes": ["Simple"]}, "'classes'"),
        ({"classes": ["Simple", "Simple"]}, "'classes'"),
        ({"classes": "Simple"}, "'classes'"),
        ({"classes": [1, 2]}, "'classes'"),
        ({"input": 224}, "'input'"),
        ({"temperature": 0}, "'temperature'"),
        ({"temperature": float("nan")}, "'temperature'"),
        ({"temperature": True}, "'temperature'"),
        ({"thresholds": {"uncertain": "high"}}, "'thresholds'"),
    ],
)
def test_metadata_is_checked_on_both_ways(tmp_path: Path, changes: dict, words: str) -> None:
    path = tmp_path / "small.safetensors"
    with pytest.raises(CheckpointError, match=words):
        save_checkpoint(path, Small(), metadata(**changes))
    assert not path.exists()
    header = {"fracture": json.dumps(metadata(**changes))}
    save_file({"weight": torch.zeros(2)}, path, metadata=header)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = Small()
    with torch.no_grad():
        model.head.bias[0] = float("inf")
    with pytest.raises(CheckpointError, match=r"'head\.bias' are not finite"):
        save_checkpoint(tmp_path / "small.safetensors", model, metadata())


def test_weights_of_another_network_are_named(saved: Path) -> None:
    weights, _ = load_checkpoint(saved)
    other = Small(width=8)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="does not hold the weights of Small") as caught:
        fill(other, weights, saved)
    assert "convolution.weight is (4, 3, 3, 3), not (8, 3, 3, 3)" in str(caught.value)
    assert "more" in str(caught.value) and str(saved) in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())
    with pytest.raises(CheckpointError, match="convolution.bias is not part of it"):
        fill(nn.Linear(4, 2), weights, saved)
