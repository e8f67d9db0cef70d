"""EfficientNet-Lite0 written out is timm's, name by name and number by number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fracture.lite0 import Lite0

timm = pytest.importorskip("timm")

MADE = {
    False: {"num_classes": 0, "global_pool": ""},
    True: {"features_only": True, "out_indices": (2, 3, 4)},
}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "pyramid"])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Lite0]:
    """timm's network, with statistics of real activations, and ours with its weights."""
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0", **MADE[request.param])
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.momentum = 1.0
    with torch.no_grad():
        theirs.train()(torch.randn(4, 3, 96, 64))
    ours = Lite0(pyramid=request.param)
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


def maps(network: nn.Module, pictures: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        found = network(pictures)
    return found if isinstance(found, list) else [found]


def test_tensors_have_the_same_names_in_the_same_order(pair: tuple[nn.Module, Lite0]) -> None:
    theirs, ours = ({name: v.shape for name, v in net.state_dict().items()} for net in pair)
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize("size", [(96, 64), (97, 75), (33, 128), (224, 224)])
def test_maps_are_timms(pair: tuple[nn.Module, Lite0], size: tuple[int, int]) -> None:
    pictures = torch.randn(2, 3, *size)
    for theirs, ours in zip(*(maps(network, pictures) for network in pair), strict=True):
        assert ours.shape == theirs.shape
        assert theirs.std() > 0.1
        assert (ours - theirs).abs().max() < 1e-5


def test_it_learns_as_timms_does(pair: tuple[nn.Module, Lite0]) -> None:
    """The same step of the same loss moves weights and statistics alike."""
    pictures, states = torch.randn(2, 3, 64, 64), []
    for network in pair:
        before = {name: v.clone() for name, v in network.state_dict().items()}
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        found = network.train()(pictures)
        (found[-1] if isinstance(found, list) else found).square().mean().backward()
        optimizer.step()
        states.append({name: v.clone() for name, v in network.state_dict().items()})
        network.load_state_dict(before)
        network.eval()
    assert not torch.equal(states[0]["conv_stem.weight"], before["conv_stem.weight"])
    for name, theirs in states[0].items():
        assert torch.allclose(states[1][name], theirs, atol=1e-5), name


def test_pyramid_says_its_channels() -> None:
    found = maps(Lite0(pyramid=True).eval(), torch.randn(1, 3, 64, 96))
    assert tuple(m.shape[1] for m in found) == Lite0.channels == (40, 112, 320)
    assert [m.shape[2:] for m in found] == [(8, 12), (4, 6), (2, 3)]


def test_first_weights_have_the_spread_of_timms() -> None:
    torch.manual_seed(0)
    theirs, ours = timm.create_model("tf_efficientnet_lite0", **MADE[False]), Lite0()
    for name, weight in theirs.named_parameters():
        mine = ours.get_parameter(name)
        if weight.ndim == 4:
            assert mine.std().item() == pytest.approx(weight.std().item(), rel=0.25), name
        else:
            assert torch.equal(mine, weight), name
