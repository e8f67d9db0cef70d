"""From a film to an answer: ``Classifier`` loads a checkpoint, predicts and explains.

A classifier does not care how its network works. It needs an object with ``classes``, ``methods``
and ``analyse(film)`` (see ``Network``); the result of that gives the logits and, on request, a map
for a class in the film's own pixels. Temperature, thresholds and words are the classifier's part.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fracture import cam
from fracture.checkpoint import CheckpointError, fill, load_checkpoint
from fracture.film import Box, Film, FilmError, Geometry, cut, letterbox, read_film
from fracture.models import LITE0, InputSpec, SimpleCNN, TransferClassifier, build_model
from fracture.parallel import bounded_map

log = logging.getLogger("fracture")

MODELS = Path(__file__).resolve().parents[1] / "models"
DEFAULT_MODEL = "looktwice"
FilmSource = Film | str | os.PathLike | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class Prediction:
    """The answer for one film.

    ``status``: ``"ok"``; ``"uncertain"`` (``label`` is only the likeliest class, ``reasons`` say
    why to doubt it); ``"refused"`` (nothing that the model can judge); ``"error"`` (the film cannot
    be read). ``label``: a class name; None for ``refused``, unless a verdict was insisted on, and
    for ``error``. ``probabilities``: class name to [0, 1], sum 1; empty when there is no label.
    ``reasons``: plain sentences, first those that speak against a plain answer,
    then notes on what was done to the film.
    """

    status: str
    label: str | None
    probabilities: dict[str, float]
    reasons: tuple[str, ...]


class Analysis(Protocol):
    """What a network found on one film."""

    logits: np.ndarray  # float32 (classes,)
    problems: tuple[str, ...]  # sentences: why no verdict should be given; usually empty

    def class_map(self, target: int, method: str) -> np.ndarray:
        """The map of class ``target``: float32 in [0, 1] at the film's (H, W)."""
        ...


class Network(Protocol):
    """What a classifier needs; must be safe to use from several threads at once."""

    classes: tuple[str, ...]
    methods: tuple[str, ...]

    def analyse(self, film: Film) -> Analysis: ...


class SingleLook:
    """A network that sees the whole film once, shrunk to its input."""

    methods = cam.METHODS

    def __init__(
        self, model: SimpleCNN | TransferClassifier, spec: InputSpec | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.spec = spec or model.input
        self.classes = model.classes

    def analyse(self, film: Film) -> SingleLookAnalysis:
        pixels, geometry = place(film.pixels, self.spec)
        with torch.inference_mode():
            picture = self.spec.scale(torch.from_numpy(pixels)[None])
            if isinstance(self.model, TransferClassifier):
                features = self.model.features(picture)
                logits = self.model.classify(features)
            else:
                features = None
                logits = self.model(picture)
        return SingleLookAnalysis(self.model, picture, features, geometry, logits[0].numpy())


@dataclass(frozen=True)
class SingleLookAnalysis:
    """Keeps the input and the last feature maps, so that a map costs no second forward pass."""

    model: SimpleCNN | TransferClassifier
    picture: Tensor
    features: Tensor | None
    geometry: Geometry
    logits: np.ndarray
    problems: tuple[str, ...] = ()

    def class_map(self, target: int, method: str) -> np.ndarray:
        if self.features is not None:
            heat = cam.closed_form(self.features[0], self.model.head.weight[target], method)
        else:
            layer = self.model.cam_layer
            heat = cam.map_by_library(self.model, layer, self.picture, target, method)
        # Scaled again on the film: the hottest place may have lain on the padding.
        return cam.unit_range(self.geometry.to_film(heat))


class Classifier:
    """A loaded model. Stateless after loading: any number of threads may share one."""

    def __init__(
        self, network: Network, metadata: Mapping[str, Any] | None = None, name: str = ""
    ) -> None:
        self.name = name
        self.metadata = dict(metadata or {})
        self._network = network
        self._temperature = float(self.metadata.get("temperature", 1.0))
        self._uncertain = float(self.metadata.get("thresholds", {}).get("uncertain", 0.0))

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Classifier:
        """Load a checkpoint: a path, the bare name of one in ``models/``, or None for the default.

        Raises ``CheckpointError`` naming the file and what was expected.
        """
        file = _find(path)
        weights, metadata = load_checkpoint(file)
        return cls(_network(file, weights, metadata), metadata, file.stem)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the network's outputs."""
        return self._network.classes

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the maps that ``explain`` can draw."""
        return self._network.methods

    def predict(self, image: FilmSource, *, insist: bool = False) -> Prediction:
        """Read one film: anything ``read_film`` takes, or a ``Film``.

        Whatever is wrong with the film is in the prediction, never an exception. ``insist`` asks
        for a verdict even on a film that would be refused.
        """
        try:
            film = _film(image)
        except FilmError as error:
            return _failure(str(error))
        prediction, _ = self._judge(film, insist)
        return prediction

    def predict_batch(self, images: Iterable[FilmSource]) -> list[Prediction]:
        """Read many films; films are decoded while the network works on earlier ones.

        Never raises on account of one film: even a failure inside the network becomes a
        prediction with status ``error``.
        """
        predictions = []
        for film in bounded_map(_film_or_error, images, workers=min(4, os.cpu_count() or 1)):
            if isinstance(film, Prediction):
                predictions.append(film)
                continue
            try:
                predictions.append(self.predict(film))
            except Exception:
                log.exception("The model failed on a film")
                predictions.append(_failure("The model failed on this film."))
        return predictions

    def explain(
        self, image: FilmSource, target: str | None = None, method: str = "gradcam"
    ) -> np.ndarray:
        """What on the film speaks for the class ``target``.

        None asks for the likeliest class, and where that is "No fracture", for the likelier of the
        two fractures: the most suspicious place, though not suspicious enough.

        Returns float32 (H, W) in [0, 1] at the film's own height and width, whatever the network
        looked at inside. Raises ``FilmError`` for an unreadable film and ``ValueError`` for an
        unknown class or method.
        """
        self._check(target, method)
        return self._map(self._network.analyse(_film(image)), target, method)

    def read(
        self,
        image: FilmSource,
        target: str | None = None,
        method: str = "gradcam",
        *,
        insist: bool = False,
    ) -> tuple[Prediction, np.ndarray | None]:
        """``predict`` and ``explain`` in one pass; the map is None when there is no label.

        ``cam.default_target(prediction.probabilities)`` names the class that the map is for when
        ``target`` is None.
        """
        self._check(target, method)
        try:
            film = _film(image)
        except FilmError as error:
            return _failure(str(error)), None
        prediction, analysis = self._judge(film, insist)
        if analysis is None or prediction.label is None:
            return prediction, None
        return prediction, self._map(analysis, target, method)

    def _judge(self, film: Film, insist: bool) -> tuple[Prediction, Analysis | None]:
        if film.problems and not insist:
            return Prediction("refused", None, {}, film.problems + film.notes), None
        analysis = self._network.analyse(film)
        problems = film.problems + analysis.problems
        if problems and not insist:
            return Prediction("refused", None, {}, problems + film.notes), analysis
        shares = softmax(analysis.logits, self._temperature)
        probabilities = dict(zip(self.classes, map(float, shares), strict=True))
        label = self.classes[int(shares.argmax())]
        doubts = ()
        if probabilities[label] < self._uncertain:
            doubts = (
                f"The likeliest answer, {label}, reaches only {100 * probabilities[label]:.1f} %; "
                f"below {100 * self._uncertain:.1f} % the model does not commit itself.",
            )
        status = "refused" if problems else "uncertain" if doubts else "ok"
        reasons = problems + doubts + film.notes
        return Prediction(status, label, probabilities, reasons), analysis

    def _map(self, analysis: Analysis, target: str | None, method: str) -> np.ndarray:
        if target is None:
            target = cam.default_target(dict(zip(self.classes, analysis.logits, strict=True)))
        return analysis.class_map(self.classes.index(target), method)

    def _check(self, target: str | None, method: str) -> None:
        """Complain about a wrong request before any work is done for it."""
        if target is not None and target not in self.classes:
            raise ValueError(f"no class is called {target!r}; there are {', '.join(self.classes)}")
        if method not in self.methods:
            raise ValueError(f"no map is called {method!r}; there are {', '.join(self.methods)}")


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities (classes,) of logits (classes,), float64; a higher temperature is less sure."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    shares = np.exp(scaled - scaled.max())
    return shares / shares.sum()


def place(pixels: np.ndarray, spec: InputSpec) -> tuple[np.ndarray, Geometry]:
    """Put a film (H, W) into a network's input (h, w) the way ``spec`` says."""
    if spec.resize == "letterbox":
        return letterbox(pixels, spec.size)
    height, width = pixels.shape
    return cut(pixels, Box(0, 0, width, height), spec.size)


def available() -> tuple[str, ...]:
    """Names of the checkpoints in ``models/``."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.safetensors")))


def _find(path: str | os.PathLike[str] | None) -> Path:
    if path is None:
        path = DEFAULT_MODEL
    file = Path(path)
    if not file.is_file() and file.name == str(path) and not file.suffix:
        file = MODELS / f"{file.name}.safetensors"
        if not file.is_file():
            others = ", ".join(available()) or "none yet: 'python train.py' makes them"
            raise CheckpointError(f"{file} does not exist; checkpoints in {MODELS.name}/: {others}")
    return file


def _network(file: Path, weights: dict[str, Tensor], metadata: dict[str, Any]) -> Network:
    """Build the network that a checkpoint is for and fill in its weights."""
    if metadata["architecture"] == "looktwice":
        from fracture.fold import fold
        from fracture.looktwice import LookTwice, Plan

        try:
            plan = Plan.from_metadata(metadata.get("plan", {}))
        except (TypeError, AttributeError) as error:
            raise CheckpointError(f"{file}: its metadata must have a 'plan': {error}") from error
        with torch.device("meta"):  # no time for random weights that are replaced at once
            model = LookTwice(plan)
        fill(model, weights, file)
        return fold(model.eval())
    try:
        spec = InputSpec.from_metadata(metadata["input"])
        with torch.device("meta"):
            model = build_model(metadata["architecture"], metadata["classes"])
    except ValueError as error:
        raise CheckpointError(f"{file} cannot be used: {error}") from error
    fill(model, weights, file)
    if model.architecture == LITE0:
        from fracture.fold import fold

        model = fold(model.eval())
    return SingleLook(model, spec)


def _film(image: FilmSource) -> Film:
    return image if isinstance(image, Film) else read_film(image)


def _film_or_error(image: FilmSource) -> Film | Prediction:
    try:
        return _film(image)
    except FilmError as error:
        return _failure(str(error))
    except Exception:
        log.exception("A film could not be read")
        return _failure("The film could not be read.")


def _failure(sentence: str) -> Prediction:
    return Prediction("error", None, {}, (sentence,))
