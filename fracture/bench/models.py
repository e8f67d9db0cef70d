"""The parts of the benchmark that run inside one process: readings, networks, back-ends, training.

See `fracture.bench`. Peers are used as their own documentation shows.
"""

from __future__ import annotations

import copy
import io
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchCam
from torchcam.utils import overlay_mask
from torchvision.transforms.functional import to_pil_image

from fracture import cam
from fracture.bench.tools import (
    ROOT,
    Amount,
    Json,
    Laps,
    as_jpeg,
    race,
    ratios,
    simulated_film,
    threads,
)
from fracture.checkpoint import fill, load_checkpoint
from fracture.classifier import MODELS, Classifier
from fracture.film import TO_SCREEN, read_film
from fracture.fold import fold
from fracture.geometry import letterbox
from fracture.labels import CLASSES, Record
from fracture.looktwice import LookTwice
from fracture.models import SimpleCNN, build_model
from fracture.view import overlay

OURS, REFERENCE = "Fracture", "grad-cam, ResNet-18"
MEGAPIXELS = (0.2, 1.0, 5.0, 12.0, 25.0, 49.0)


def readings(amount: Amount) -> Json:
    """A whole reading, file to file: decode, predict, heatmap, overlay, encode."""
    data = as_jpeg(simulated_film(2500, 2000))
    classifier = Classifier.load()
    runners: dict[str, Callable[[], Laps]] = {OURS: lambda: _reading(classifier, data)}
    for name, network, layer in _peers():
        runners[f"grad-cam, {name}"] = _by_library(network, layer, data)
    runners["TorchCAM, ResNet-18"] = _by_torchcam(data)
    found: Json = {}
    for count in (1, 2):
        with threads(count):
            measured = race(runners, amount.rounds)
        found[str(count)] = {"measured": measured, "times": ratios(measured, OURS)}
    return found


def _reading(classifier: Classifier, data: bytes) -> Laps:
    laps = Laps()
    film = read_film(data, limits=TO_SCREEN)  # as the app and the command line read
    laps.lap("decode")
    # what `read` does, in two steps
    prediction, analysis = classifier._judge(film, insist=True)
    laps.lap("predict")
    heat = classifier._map(analysis, prediction.label, "gradcam")
    laps.lap("heatmap")
    picture = overlay(film.display, heat)
    laps.lap("overlay")
    Image.fromarray(picture).save(io.BytesIO(), "jpeg", quality=90)
    laps.lap("encode")
    return laps


def _peers() -> list[tuple[str, nn.Module, nn.Module]]:
    """Name, network with random weights, layer: what Grad-CAM tutorials use, and the reference."""
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(num_classes=2).eval()
    densenet = torchvision.models.densenet121(num_classes=2).eval()
    simple = SimpleCNN().eval()
    return [
        ("ResNet-18", resnet, resnet.layer4[-1]),
        ("DenseNet-121", densenet, densenet.features[-1]),
        ("SimpleCNN", simple, simple.conv3),
    ]


def _prepared(data: bytes, laps: Laps) -> tuple[Image.Image, Tensor]:
    """The film, decoded, and the usual input of 224 x 224 pixels."""
    film = Image.open(io.BytesIO(data)).convert("RGB")
    laps.lap("decode")
    small = np.asarray(film.resize((224, 224)), dtype=np.float32) / 255
    return film, torch.from_numpy(small).permute(2, 0, 1)[None].sub(0.5).div(0.5)


def _by_library(network: nn.Module, layer: nn.Module, data: bytes) -> Callable[[], Laps]:
    extractor = GradCAM(model=network, target_layers=[layer])

    def run() -> Laps:
        laps = Laps()
        film, picture = _prepared(data, laps)
        (heat,) = extractor(input_tensor=picture, targets=[ClassifierOutputTarget(0)])
        laps.lap("predict")
        heat = np.asarray(Image.fromarray(heat).resize(film.size, Image.Resampling.BILINEAR))
        laps.lap("heatmap")
        drawn = show_cam_on_image(np.asarray(film, np.float32) / 255, heat, use_rgb=True)
        laps.lap("overlay")
        Image.fromarray(drawn).save(io.BytesIO(), "jpeg", quality=90)
        laps.lap("encode")
        return laps

    return run


def _by_torchcam(data: bytes) -> Callable[[], Laps]:
    network = torchvision.models.resnet18(num_classes=2).eval()
    extractor = TorchCam(network, target_layer="layer4")

    def run() -> Laps:
        laps = Laps()
        film, picture = _prepared(data, laps)
        (heat,) = extractor(0, network(picture))
        laps.lap("predict")
        mask = to_pil_image(heat.detach().squeeze(0), mode="F")
        laps.lap("heatmap")
        drawn = overlay_mask(film, mask, alpha=0.5)  # enlarges the map itself
        laps.lap("overlay")
        drawn.save(io.BytesIO(), "jpeg", quality=90)
        laps.lap("encode")
        return laps

    return run


def networks(amount: Amount) -> Json:
    """The model part alone, picture in, map out at the picture's size."""
    data = torch.rand(1, 3, 224, 224)
    lite = build_model("tf_efficientnet_lite0").eval().requires_grad_(True)
    folded, same = fold(copy.deepcopy(lite)), copy.deepcopy(lite)  # before anybody hooks into it
    film = simulated_film(448, 384).astype(np.float32) / 255
    shipped = Classifier.load()._network
    runners: dict[str, Callable[[], object]] = {
        OURS: lambda: shipped.look(film).class_map(0, "gradcam"),
        "closed form, EfficientNet-Lite0": lambda: _closed_form(folded, data),
        "closed form, EfficientNet-Lite0 not folded": lambda: _closed_form(lite, data),
    }
    peers = [*_peers(), ("EfficientNet-Lite0", lite, lite.backbone)]
    for name, network, layer in peers:
        extractor = GradCAM(model=network, target_layers=[layer])
        runners[f"grad-cam, {name}"] = lambda extractor=extractor: extractor(
            input_tensor=data, targets=[ClassifierOutputTarget(0)]
        )
    resnet = torchvision.models.resnet18(num_classes=2).eval()
    for name, network, layer in (
        ("ResNet-18", resnet, resnet.layer4),
        ("EfficientNet-Lite0", same, "backbone"),
    ):
        extractor = TorchCam(network, target_layer=layer)
        runners[f"TorchCAM, {name}"] = lambda extractor=extractor, network=network: F.interpolate(
            extractor(0, network(data))[0].detach()[None], (224, 224), mode="bilinear"
        )
    found: Json = {"patches": len(shipped.look(film).spots)}
    for count in (1, 2):
        with threads(count):
            measured = race(runners, amount.rounds)
        found[str(count)] = {"measured": measured, "times": ratios(measured, OURS)}
    return found


@torch.inference_mode()
def _closed_form(network: nn.Module, picture: Tensor) -> np.ndarray:
    features = network.features(picture)
    network.classify(features)
    heat = cam.closed_form(features[0], network.head.weight[0])
    return letterbox(np.zeros((224, 224), np.float32), (224, 224))[1].to_film(heat)


# --- other ways to run the shipped weights --------------------------------------------------------


class Both(nn.Module):
    """The two networks of the shipped model as one: whole film and patches in, tensors out."""

    def __init__(self, model: LookTwice) -> None:
        super().__init__()
        self.locator, self.reader = model.locator, model.reader

    def forward(self, film: Tensor, patches: Tensor) -> tuple[Tensor, ...]:
        features = self.reader.features(patches)
        return *self.locator.look(film), features, self.reader.classify(features)


def backends(amount: Amount) -> Json:
    """Both networks on a whole film, its mirror image and its patches, run in different ways."""
    found: Json = {}
    for count in (1, 2):
        with threads(count), torch.inference_mode():
            found[str(count)] = _backends(count, amount.rounds)
    return found


def _backends(count: int, rounds: int) -> Json:
    torch.manual_seed(0)
    film = read_film(as_jpeg(simulated_film(2500, 2000)))  # as many patches as in `readings`
    patches = len(Classifier.load()._network.look(film.pixels).spots)
    inputs = torch.rand(2, 3, 448, 384), torch.rand(patches, 3, 224, 224)
    plain = Both(_plain())
    expected = plain(*inputs)
    makers: dict[str, Callable[[], Callable[[Tensor, Tensor], object]]] = {
        "plain": lambda: plain,
        "channels_last": lambda: Both(_plain()).to(memory_format=torch.channels_last),
        "folded (shipped)": lambda: Both(fold(_plain())),
        "torch.compile": lambda: _compiled(),
        "ONNX Runtime": lambda: _onnx(count, inputs),
        "OpenVINO": lambda: _openvino(count, inputs),
    }
    runners: dict[str, Callable[[], object]] = {}
    rows: dict[str, Json] = {}
    if count == 1:  # it compiles for a number of threads
        del makers["torch.compile"]
        rows["torch.compile"] = {"skipped": "tried on two threads only: compiling takes a minute"}
    for name, make in makers.items():
        start = time.perf_counter()
        try:
            run = make()
            answer = run(*inputs)
        except Exception as error:  # other people's libraries raise what they like
            rows[name] = {"skipped": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
            continue
        rows[name] = {
            "to_load_s": time.perf_counter() - start,
            "difference": max(
                float(np.abs(np.asarray(ours) - theirs.numpy()).max())
                for ours, theirs in zip(answer, expected, strict=True)
            ),
        }
        runners[name] = lambda run=run: run(*inputs)
    for name, measured in race(runners, rounds).items():
        rows[name] |= measured
    for row in rows.values():
        if "ms" in row:
            row["times_faster"] = rows["plain"]["ms"] / row["ms"]
    return rows


def _plain() -> LookTwice:
    """The shipped weights in the network as it was trained."""
    file = MODELS / "looktwice.safetensors"
    weights, _ = load_checkpoint(file)
    model = LookTwice()
    fill(model, weights, file)
    return model.eval().requires_grad_(False)


def _compiled() -> Callable[..., object]:
    torch._dynamo.reset()
    return torch.compile(Both(_plain()), dynamic=False, options={"freezing": True})


def _onnx(count: int, inputs: tuple[Tensor, ...]) -> Callable[..., object]:
    import onnxruntime

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Both(_plain()), inputs, buffer, dynamo=False, input_names=["film", "patches"]
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count
    session = onnxruntime.InferenceSession(
        buffer.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    return lambda film, patches: session.run(
        None, {"film": film.numpy(), "patches": patches.numpy()}
    )


def _openvino(count: int, inputs: tuple[Tensor, ...]) -> Callable[..., object]:
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(
            Both(_plain()), example_input=inputs, input=[list(tensor.shape) for tensor in inputs]
        )
    hints = {
        "INFERENCE_NUM_THREADS": count,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(converted, "CPU", hints)
    return lambda *tensors: list(compiled([tensor.numpy() for tensor in tensors]).values())


# --- growth and training --------------------------------------------------------------------------


def growth(amount: Amount) -> Json:
    """Whole readings of ever larger films, in turns, two threads."""
    classifier, films = Classifier.load(), {}
    for megapixels in MEGAPIXELS:
        height = round((megapixels * 1e6 * 1.25) ** 0.5)
        films[str(megapixels)] = as_jpeg(simulated_film(height, round(height / 1.25)))
    runners = {name: lambda data=data: _reading(classifier, data) for name, data in films.items()}
    with threads(2):
        measured = race(runners, amount.rounds)
    sizes = [read_film(data, limits=TO_SCREEN).pixels.shape for data in films.values()]
    rows = [
        {"megapixels": megapixels, "read_as": size, **row}
        for megapixels, size, row in zip(MEGAPIXELS, sizes, measured.values(), strict=True)
    ]
    # two slopes: pixels that are only decoded, and those that everything after it works on
    known = [[1.0, row["megapixels"], np.prod(row["read_as"]) / 1e6] for row in rows]
    at_zero, decoded, kept = np.linalg.lstsq(known, [row["ms"] for row in rows], rcond=None)[0]
    return {
        "readings": rows,
        "ms_at_zero": float(at_zero),
        "ms_per_megapixel_of_the_file": float(decoded),
        "ms_per_megapixel_kept": float(kept),
        "shrunk_from_side": 2 * TO_SCREEN.enough,
    }


def training(amount: Amount) -> Json:
    """What drawing a batch costs beside the step that learns from it, for both networks."""
    sys.path.insert(0, str(ROOT))
    import train

    with tempfile.TemporaryDirectory() as folder:
        films = [train.load_film(_record(Path(folder), number)) for number in range(12)]
    model = LookTwice()
    found: Json = {"films": len(films)}
    with threads(2):
        wide = train.LocatorViews(films, 0, close=-1)  # the dearer views, of the later epochs
        for name, network, views, size, loss in (
            ("locator", model.locator, wide, 8, train.locator_loss),
            ("reader", model.reader, train.ReaderViews(films, 0), 16, train.reader_loss),
        ):
            fold(train.Stem(network.backbone).eval()).put_into(network.backbone)
            network.train().to(memory_format=torch.channels_last)
            found[name] = _steps(network, views, size, loss, amount.rounds)
    return found


def _record(folder: Path, number: int) -> Record:
    """A film of about the size of the training films, every third one called unfractured."""
    path = folder / f"{number}.jpg"
    path.write_bytes(as_jpeg(simulated_film(640, 512, number)))
    label = CLASSES[number % 3]
    boxes = () if label == "No fracture" else ((0.35, 0.45, 0.3, 0.15),)
    return Record(path.stem, path, "bench", path.stem, label, "dataset", "", "", boxes, 512, 640)


def _steps(network: nn.Module, views, size: int, loss: Callable, rounds: int) -> Json:
    """Median seconds of drawing a batch and of learning from it."""
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    views.start_epoch(0)
    generator = torch.Generator().manual_seed(0)
    draws, steps = [], []
    for turn in range(1 + rounds):
        laps = Laps()
        drawn = [views.draw(views.films[(turn + n) % len(views.films)], generator)
                 for n in range(size)]  # fmt: skip
        batch = tuple(torch.stack(parts) for parts in zip(*drawn, strict=True))
        laps.lap("draw")
        loss(network, batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        laps.lap("step")
        if turn:
            draws.append(laps["draw"])
            steps.append(laps["step"])
    draw, step = statistics.median(draws), statistics.median(steps)
    return {
        "pictures_per_second": size / (draw + step),
        "model_alone_per_second": size / step,
        "loader_share": draw / (draw + step),
        "count": len(steps),
    }
