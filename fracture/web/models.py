"""The classifiers behind the pages: loaded once, late, and out of the way of the first page.

Importing torch and reading a checkpoint takes seconds, so nothing here imports `fracture`'s heavy
half until `warm_up` runs in the background or the first film arrives. What is kept is the same for
everybody who uses the app (models are read-only once loaded); nothing about a person is kept.
"""

from __future__ import annotations

import gc
import logging
import threading
from typing import TYPE_CHECKING

import numpy as np

from fracture.web import memory

if TYPE_CHECKING:
    from fracture import Classifier

log = logging.getLogger("fracture.app")

DEFAULT = "default"
SIMPLE_CNN = "simplecnn"
TITLES = {DEFAULT: "Fracture model", SIMPLE_CNN: "SimpleCNN"}
METHODS = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "eigencam": "Eigen-CAM",
    "layercam": "LayerCAM",
}
CLASSES = ("Simple", "Comminuted", "No fracture")

_loaded: dict[str, Classifier] = {}
_failed: set[str] = set()
_lock = threading.Lock()


class ModelMissing(RuntimeError):
    """The checkpoint cannot be used; the message is one sentence for the person at the page."""


def classifier(name: str = DEFAULT) -> Classifier:
    """Return the classifier called `name` (a key of `TITLES`), loading it on first use.

    Raises:
        ModelMissing: its checkpoint is absent or broken, or torch is.
    """
    with _lock:
        if name not in _loaded:
            try:
                from fracture import Classifier

                _loaded[name] = Classifier.load(None if name == DEFAULT else name)
            except (ImportError, OSError, ValueError) as error:
                _failed.add(name)
                log.error("%s could not be loaded: %s", TITLES[name], error)
                raise ModelMissing(f"{TITLES[name]} could not be loaded here.") from error
            _failed.discard(name)
        return _loaded[name]


def state() -> str:
    """Return "ready", "loading" or "failed": how the default model is doing."""
    if DEFAULT in _loaded:
        return "ready"
    return "failed" if DEFAULT in _failed else "loading"


def warm_up() -> None:
    """Load the default model and read one made-up film, so that the first person does not wait."""
    try:
        gc.disable()  # importing makes many objects and throws few away
        try:
            loaded = classifier()
        finally:
            gc.enable()
        memory.forget_code()
        ramp = np.linspace(0.0, 255.0, 320, dtype=np.float32)
        loaded.read(np.add.outer(ramp, ramp / 2).clip(0, 255).astype(np.uint8), insist=True)
    except ModelMissing:
        pass  # said in the log; the page says it in words to whoever asks for a reading
    except Exception:
        log.exception("The warm-up reading failed")
    memory.give_back()  # what loading needed for a moment
