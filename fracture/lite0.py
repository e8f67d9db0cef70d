"""EfficientNet-Lite0 (Tan & Le 2019, ICML) in torch alone.

Its tensors have the names, shapes, order and first values of timm's ``tf_efficientnet_lite0``, so
that weights go either way; timm itself takes 200 MB of memory and seconds to import, which only
training another network is worth. torchvision's building blocks would name the tensors otherwise.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# Kernel, stride, expansion, channels and repeats of each stage. Lite scales neither the first nor
# the last layer's width, has no squeeze-and-excitation, and ReLU6 for every activation.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, HEAD = 32, 1280
PYRAMID = (2, 4, 6)  # the last stages before the next halving: strides 8, 16 and 32


class SameConv(nn.Conv2d):
    """A convolution of stride 2 that pads as TensorFlow did: one more behind than in front."""

    def __init__(self, channels: int, out: int, kernel: int, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride=2, groups=groups, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        tall, wide = (
            max((-(-side // 2) - 1) * 2 + kernel - side, 0)
            for side, kernel in zip(pictures.shape[-2:], self.kernel_size, strict=True)
        )
        return super().forward(
            F.pad(pictures, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2))
        )


class Norm(nn.BatchNorm2d):
    """Batch normalisation and, unless it is linear, ReLU6."""

    def __init__(self, channels: int, linear: bool = False) -> None:
        super().__init__(channels, eps=1e-3)
        self.act = nn.Identity() if linear else nn.ReLU6(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.act(super().forward(features))


def pointwise(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 1, bias=False)


def depthwise(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    if stride == 2:
        return SameConv(channels, channels, kernel, groups=channels)
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)


class Separable(nn.Module):
    """Depthwise, then pointwise convolution: the first stage's block."""

    def __init__(self, channels: int, kernel: int, out: int) -> None:
        super().__init__()
        self.conv_dw, self.bn1 = depthwise(channels, kernel, 1), Norm(channels)
        self.conv_pw, self.bn2 = pointwise(channels, out), Norm(out, linear=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.bn2(self.conv_pw(self.bn1(self.conv_dw(features))))


class Inverted(nn.Module):
    """Inverted residual block (Sandler et al. 2018, CVPR)."""

    def __init__(self, channels: int, kernel: int, stride: int, expand: int, out: int) -> None:
        super().__init__()
        wide = channels * expand
        self.conv_pw, self.bn1 = pointwise(channels, wide), Norm(wide)
        self.conv_dw, self.bn2 = depthwise(wide, kernel, stride), Norm(wide)
        self.conv_pwl, self.bn3 = pointwise(wide, out), Norm(out, linear=True)
        self.skips = stride == 1 and channels == out

    def forward(self, features: Tensor) -> Tensor:
        x = self.bn1(self.conv_pw(features))
        x = self.bn3(self.conv_pwl(self.bn2(self.conv_dw(x))))
        return x + features if self.skips else x


class Lite0(nn.Module):
    """Scaled pictures (B, 3, h, w) to feature maps.

    Returns the last maps (B, 1280, h/32, w/32), all above 0; with ``pyramid`` a list of the maps
    at strides 8, 16 and 32 instead, of ``channels`` (40, 112, 320), and there is no last layer.
    Sides that are no multiple of 32 are rounded up.
    """

    num_features = HEAD
    channels = tuple(STAGES[stage][3] for stage in PYRAMID)

    def __init__(self, pyramid: bool = False) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.conv_stem, self.bn1 = SameConv(3, STEM, 3), Norm(STEM)
        stages, channels = [], STEM
        for kernel, stride, expand, out, repeats in STAGES:
            blocks = []
            for number in range(repeats):
                blocks.append(
                    Separable(channels, kernel, out)
                    if expand == 1
                    else Inverted(channels, kernel, 1 if number else stride, expand, out)
                )
                channels = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        if not pyramid:
            self.conv_head, self.bn2 = pointwise(channels, HEAD), Norm(HEAD)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                start(module)

    def forward(self, pictures: Tensor) -> Tensor | list[Tensor]:
        x, maps = self.bn1(self.conv_stem(pictures)), []
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in PYRAMID:
                maps.append(x)
        return maps if self.pyramid else self.bn2(self.conv_head(x))


def start(convolution: nn.Conv2d) -> None:
    """Random weights that keep the scale of what goes back through them (He et al. 2015, ICCV)."""
    if convolution.weight.is_meta:  # to be replaced, and drawing them there would import sympy
        return
    height, width = convolution.kernel_size
    fan_out = height * width * convolution.out_channels // convolution.groups
    nn.init.normal_(convolution.weight, std=(2 / fan_out) ** 0.5)
