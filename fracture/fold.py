"""Folds a trained EfficientNet-Lite0 into fewer and cheaper steps that give the same answer.

Two things cost a processor about as much as the convolutions themselves and can be had for nothing
once the weights are fixed:

* a batch normalisation is a scale and a shift, which go into the convolution before it
  (Jacob et al. 2018, CVPR, section 3.2);
* the network pads as TensorFlow did, by one row and column more behind than in front, which takes
  a copy of the feature maps. A kernel with an empty first row and column, padded evenly, reads the
  same pixels.

`python -m fracture.bench` compares the folded network with the plain one.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fracture.lite0 import SameConv


class EvenlyPadded(nn.Conv2d):
    """What a TensorFlow-padded convolution of stride 2 computes, without a padded copy."""

    def __init__(self, plain: SameConv) -> None:
        reach = plain.kernel_size[0] // 2
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size[0] + 1,
            stride=2,
            padding=reach,
            groups=plain.groups,
            device="meta",
        )
        self.weight = nn.Parameter(F.pad(plain.weight.detach(), (1, 0, 1, 0)))
        self.bias = plain.bias
        self.reach = reach

    def forward(self, pictures: Tensor) -> Tensor:
        # sides of odd length are padded evenly by TensorFlow, too: one more in front
        padding = [self.reach + side % 2 for side in pictures.shape[-2:]]
        return F.conv2d(pictures, self.weight, self.bias, 2, padding, 1, self.groups)


def fold(network: nn.Module) -> nn.Module:
    """Fold the EfficientNet-Lite0 backbones inside a network, in place; returns the network.

    The network must be in evaluation mode and is good for nothing but inference afterwards. In it
    a normalisation that comes right after a convolution, by order of definition, must belong to it.
    """
    for module in list(network.modules()):
        for (name, child), (after, norm) in pairwise(list(module.named_children())):
            if isinstance(child, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(child, norm))
                setattr(module, after, getattr(norm, "act", nn.Identity()))
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, SameConv):
                setattr(module, name, EvenlyPadded(child))
    return network.requires_grad_(False).to(memory_format=torch.channels_last)
