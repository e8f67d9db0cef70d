"""The folded network is the plain one, only faster."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fracture.fold import EvenlyPadded, fold
from fracture.lite0 import SameConv
from fracture.looktwice import LookTwice
from fracture.models import build_model


def lively(network: nn.Module, *shape: int) -> nn.Module:
    """Random weights with statistics of real activations, so that no map is the same everywhere."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        network.train()(torch.randn(shape))
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (9, 12), (12, 9), (11, 13), (7, 6)])
def test_even_padding_reads_the_same_pixels(kernel: int, size: tuple[int, int]) -> None:
    torch.manual_seed(kernel)
    plain = SameConv(4, 4, kernel, groups=4)
    pictures = torch.randn(2, 4, *size)
    even = EvenlyPadded(plain)(pictures)
    assert even.shape == plain(pictures).shape
    assert torch.allclose(even, plain(pictures), atol=1e-5)


@pytest.mark.parametrize("size", [(96, 64), (97, 75)])
def test_folded_classifier_gives_the_same_features_and_logits(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    # in double precision, in which rounding cannot be mistaken for a difference
    plain = lively(build_model("tf_efficientnet_lite0"), 4, 3, *size).double()
    folded = fold(copy.deepcopy(plain))
    pictures = torch.randn(2, 3, *size, dtype=torch.float64)
    ours, theirs = folded.features(pictures), plain.features(pictures)
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() < 1e-9
    assert (folded(pictures) - plain(pictures)).abs().max() < 1e-9
    kinds = {type(module) for module in folded.modules()}
    assert not any(issubclass(kind, (nn.BatchNorm2d, SameConv)) for kind in kinds)


def test_folded_two_look_model_gives_the_same_sight() -> None:
    torch.manual_seed(2)
    plain = LookTwice().eval()
    lively(plain.locator, 2, 3, 448, 384)
    lively(plain.reader, 2, 3, 224, 224)
    folded = fold(copy.deepcopy(plain))
    pixels = np.random.default_rng(0).random((300, 260), dtype=np.float32)
    ours, theirs = folded.look(pixels), plain.look(pixels)
    assert [spot.box for spot in ours.spots] == [spot.box for spot in theirs.spots]
    assert np.abs(ours.place - theirs.place).max() < 1e-4
    assert np.abs(ours.logits - theirs.logits).max() < 1e-3
    for target in range(3):
        difference = ours.class_map(target, "gradcam") - theirs.class_map(target, "gradcam")
        assert np.abs(difference).max() < 1e-3
