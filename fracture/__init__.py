"""Fracture: tells simple from comminuted fractures on a bone X-ray and shows where it looked.

A teaching tool, not a medical device. Importing the package is light: torch and the picture
readers are imported when a name below is first used.

    from fracture import Classifier, overlay, read_film

    classifier = Classifier.load()
    film = read_film("wrist.png")
    prediction, heatmap = classifier.read(film)
    picture = overlay(film.display, heatmap)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fracture.checkpoint import CheckpointError
    from fracture.classifier import Classifier, Prediction
    from fracture.film import Film, FilmError, read_film
    from fracture.view import overlay

__version__ = "0.1.0"

_HOME = {
    "CheckpointError": "checkpoint",
    "Classifier": "classifier",
    "Film": "film",
    "FilmError": "film",
    "Prediction": "classifier",
    "overlay": "view",
    "read_film": "film",
}

__all__ = [
    "CheckpointError",
    "Classifier",
    "Film",
    "FilmError",
    "Prediction",
    "__version__",
    "overlay",
    "read_film",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fracture' has no attribute {name!r}")
    value = getattr(import_module(f"fracture.{_HOME[name]}"), name)
    globals()[name] = value  # the next look-up finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
