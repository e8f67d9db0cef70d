"""What several test modules share: the real films, where present, and films drawn here."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with ``labels.csv`` and real radiographs; they are never part of the repository."""
    folder = Path(os.environ.get("FRACTURE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "labels.csv").is_file():
        pytest.skip(f"no real radiographs at {folder} (set FRACTURE_DATA to their folder)")
    return folder


def draw_film(
    height: int = 320, width: int = 240, *, gap: bool = True, seed: int = 0
) -> np.ndarray:
    """A bright bone on dark soft tissue, uint8 (height, width); ``gap`` breaks it across."""
    noise = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    middle = width / 2 + 0.06 * width * np.sin(rows / height * 3)
    across = np.abs(columns - middle) / width
    film = 0.08 + 0.22 * (across < 0.32)  # air, soft tissue
    film = np.where(across < 0.13, 0.55, film)  # marrow
    film = np.where((across > 0.09) & (across < 0.13), 0.9, film)  # cortex
    if gap:
        line = rows - height * 0.55 - (columns - middle) * 0.4
        film = np.where((np.abs(line) < height * 0.012) & (across < 0.13), 0.28, film)
    film = film + noise.normal(0, 0.02, film.shape)
    return np.clip(film * 255, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def random_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``simplecnn`` (two classes) and ``transfer`` (three), untrained."""
    import torch

    from fracture.checkpoint import save_checkpoint
    from fracture.models import build_model

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, architecture, classes in (
        ("simplecnn", "simplecnn", ["Comminuted", "Simple"]),
        ("transfer", "tf_efficientnet_lite0", ["Comminuted", "Simple", "No fracture"]),
    ):
        model = build_model(architecture, classes)
        if architecture != "simplecnn":
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 1.0
            with torch.no_grad():  # feature maps that vary over the film, as after training
                model.train()(torch.randn(8, 3, 96, 96))
        metadata = {
            "architecture": architecture,
            "classes": classes,
            "input": model.input.to_metadata(),
            "temperature": 1.5,
            "thresholds": {"uncertain": 0.0},
        }
        save_checkpoint(folder / f"{name}.safetensors", model, metadata, half=True)
    return folder


@pytest.fixture
def film_pixels() -> np.ndarray:
    """A drawn film as an array, uint8 (320, 240)."""
    return draw_film()


@pytest.fixture
def film_file(tmp_path: Path, film_pixels: np.ndarray) -> Path:
    """The drawn film as a PNG file."""
    path = tmp_path / "film.png"
    Image.fromarray(film_pixels).save(path)
    return path


@pytest.fixture
def film_folder(tmp_path: Path) -> Path:
    """Six drawn films of different sizes, half of them broken bones, in nested folders."""
    folder = tmp_path / "films"
    for index in range(6):
        path = folder / ("left" if index % 2 else "right") / f"film {index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (260 + 30 * index, 300 - 20 * index)
        Image.fromarray(draw_film(*size, gap=index < 3, seed=index)).save(path)
    return folder
