"""Maps: the closed form is the library's, and callers never meet inside the library."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from fracture import cam
from fracture.models import SimpleCNN, TransferClassifier, build_model


class Tiny(nn.Module):
    """A convolution, global average pooling and a linear layer: fast enough for 1,000 maps."""

    cam_layer = "features"

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.features(pictures).mean(dim=(2, 3)))


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(3)
    return Tiny().eval()


@pytest.fixture(scope="module")
def transfer() -> TransferClassifier:
    """Random weights whose feature maps vary over the picture, as a trained network's do."""
    torch.manual_seed(4)
    network = build_model("tf_efficientnet_lite0", ("Comminuted", "Simple", "No fracture"))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(8, 3, 96, 96))
        network.head.weight.normal_()
    return network.eval()


def by_library(network: nn.Module, layer: str, picture: Tensor, target: int) -> np.ndarray:
    """Grad-CAM exactly as the library's own README uses it."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model=network, target_layers=[network.get_submodule(layer)]) as library:
        return library(input_tensor=picture, targets=[ClassifierOutputTarget(target)])[0]


@pytest.mark.parametrize("target", [0, 1, 2])
def test_closed_form_equals_the_library(transfer: TransferClassifier, target: int) -> None:
    torch.manual_seed(10 + target)
    picture = torch.randn(1, 3, 224, 160)
    with torch.inference_mode():
        features = transfer.features(picture)[0]
        ours = cam.closed_form(features, transfer.head.weight[target])
    assert ours.shape == (7, 5) and ours.dtype == np.float32
    library = by_library(transfer, transfer.cam_layer, picture, target)
    assert library.max() > 0.9  # the comparison is not between two empty maps
    assert np.abs(cam.enlarged(ours, (224, 160)) - library).max() < 1e-4


@pytest.mark.parametrize("method", cam.METHODS)
def test_every_closed_form_equals_the_library(tiny: Tiny, method: str) -> None:
    """On networks with weights of all sizes, with and without negative feature maps."""
    seen = []
    for seed in range(12):
        torch.manual_seed(seed)
        for module in (tiny.features[0], tiny.head):
            module.reset_parameters()
        tiny.head.weight.data *= 10 ** (seed % 4 - 1)
        tiny.features[2] = nn.Identity() if seed % 3 == 0 else nn.ReLU()
        picture = torch.randn(1, 3, 44, 60)
        features = tiny.features(picture)[0]
        for target in range(3):
            ours = cam.closed_form(features, tiny.head.weight[target], method)
            assert ours.shape == (11, 15) and ours.dtype == np.float32
            library = cam.map_by_library(tiny, "features", picture, target, method)
            assert np.abs(cam.enlarged(ours, (44, 60)) - library).max() < 1e-4, (seed, target)
            seen.append(ours.any())
    assert np.mean(seen) > 0.8  # hardly any of the compared maps are empty


@pytest.mark.parametrize("method", cam.METHODS[1:])
def test_every_closed_form_equals_the_library_on_a_real_network(
    transfer: TransferClassifier, method: str
) -> None:
    torch.manual_seed(20)
    picture = torch.randn(1, 3, 160, 96)
    with torch.inference_mode():
        features = transfer.features(picture)[0]
        ours = cam.closed_form(features, transfer.head.weight[1], method)
    library = cam.map_by_library(transfer, transfer.cam_layer, picture, 1, method)
    assert library.max() > 0.9
    assert np.abs(cam.enlarged(ours, (160, 96)) - library).max() < 1e-4


@pytest.mark.parametrize("name", ["simplecnn", "resnet18"])
def test_private_copy_gives_the_library_map(name: str) -> None:
    torch.manual_seed(5)
    network, picture = build_model(name).eval(), torch.randn(1, 3, 224, 224)
    ours = cam.map_by_library(network, network.cam_layer, picture, 1, "gradcam")
    assert ours.shape == (224, 224)
    assert np.abs(ours - by_library(network, network.cam_layer, picture, 1)).max() < 1e-5


@pytest.mark.parametrize("method", cam.METHODS)
def test_every_method_maps_every_class(tiny: Tiny, method: str) -> None:
    maps = [
        cam.map_by_library(tiny, "features", torch.randn(1, 3, 40, 56), k, method) for k in range(3)
    ]
    for heat in maps:
        assert heat.shape == (40, 56) and heat.dtype == np.float32
        assert heat.min() >= 0 and heat.max() <= 1


def test_the_network_is_left_as_it_was(tiny: Tiny) -> None:
    tiny.train()
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    for method in cam.METHODS:
        cam.map_by_library(tiny, "features", torch.randn(1, 3, 40, 40), 0, method)
    assert tiny.training and all(p.requires_grad for p in tiny.parameters())
    assert all(p.grad is None for p in tiny.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in tiny.modules())
    assert all(torch.equal(before[name], v) for name, v in tiny.state_dict().items())


def test_private_copy_shares_the_weights() -> None:
    network = SimpleCNN()
    shell = cam._shell(network)
    pairs = zip(network.state_dict().values(), shell.state_dict().values(), strict=True)
    assert all(ours.data_ptr() == theirs.data_ptr() for ours, theirs in pairs)
    assert shell.conv3 is not network.conv3


def test_works_inside_inference_mode(tiny: Tiny) -> None:
    with torch.inference_mode():
        picture = torch.randn(1, 3, 40, 40)
        inside = cam.map_by_library(tiny, "features", picture, 0, "hirescam")
    assert np.array_equal(inside, cam.map_by_library(tiny, "features", picture, 0, "hirescam"))


def test_callers_at_once_get_their_own_maps(tiny: Tiny) -> None:
    torch.manual_seed(6)
    pictures = torch.randn(12, 1, 3, 64, 64)
    jobs = [(n, k, m) for n in range(12) for k in range(3) for m in ("gradcam", "layercam")]

    def work(job: tuple[int, int, str]) -> np.ndarray:
        number, target, method = job
        return cam.map_by_library(tiny, "features", pictures[number], target, method)

    alone = [work(job) for job in jobs]
    assert len({heat.tobytes() for heat in alone}) > len(jobs) / 2  # mixing up would be seen
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, jobs * 4))
    for number, heat in enumerate(together):
        assert np.array_equal(heat, alone[number % len(jobs)])


def test_a_thousand_maps_leave_nothing_behind(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    shells: list[weakref.ref] = []
    make = cam._shell

    def watched(network: nn.Module) -> nn.Module:
        shell = make(network)
        shells.append(weakref.ref(shell))
        return shell

    def tensors() -> int:
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    monkeypatch.setattr(cam, "_shell", watched)
    picture = torch.randn(1, 3, 40, 40)
    cam.map_by_library(tiny, "features", picture, 0, "gradcam")
    gc.collect()
    before = tensors()
    gc.disable()  # nothing may even wait for the collector: graphs are large
    try:
        for _ in range(1000):
            cam.map_by_library(tiny, "features", picture, 0, "gradcam")
        assert all(shell() is None for shell in shells) and len(shells) == 1001
        assert tensors() <= before
    finally:
        gc.enable()


def test_an_error_inside_the_library_comes_out(tiny: Tiny) -> None:
    with pytest.raises(IndexError):  # the library's own context manager would swallow this one
        cam.map_by_library(tiny, "features", torch.randn(1, 3, 40, 40), 7, "gradcam")
    with pytest.raises(ValueError, match="'scorecam'; there are gradcam"):
        cam.map_by_library(tiny, "features", torch.randn(1, 3, 40, 40), 0, "scorecam")
    with pytest.raises(ValueError, match="'scorecam'; there are gradcam"):
        cam.closed_form(torch.ones(3, 4, 4), torch.ones(3), "scorecam")


def test_eigencam_shows_the_active_side() -> None:
    """The bright square must be hot whichever sign the decomposition happens to give."""
    network = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Flatten(), nn.Linear(4 * 64, 2))
    nn.init.constant_(network[0].weight, 1.0)
    picture = torch.zeros(1, 1, 8, 8)
    picture[..., 2:4, 2:4] = 1
    for sign in (1, -1):
        nn.init.constant_(network[0].weight, 1.0)
        with torch.no_grad():
            network[0].weight[1:] *= 0.3 * sign
        heat = cam.map_by_library(network, "0", picture, 0, "eigencam")
        assert heat[2:4, 2:4].min() > 0.9 and heat[6:, 6:].max() < 0.1


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_unit_range_stays_in_range_and_order(heat: np.ndarray) -> None:
    scaled = cam.unit_range(heat)
    assert scaled.dtype == np.float32 and scaled.shape == heat.shape
    assert scaled.min() == 0 and scaled.max() <= 1
    assert (np.diff(scaled.ravel()[np.argsort(heat, axis=None)]) >= 0).all()


@pytest.mark.parametrize("method", cam.METHODS)
def test_no_positive_evidence_is_an_empty_map(method: str) -> None:
    heat = cam.closed_form(torch.ones(3, 4, 5), torch.tensor([-1.0, -2.0, 0.0]), method)
    assert heat.shape == (4, 5) and not heat.any()


def test_closed_form_does_not_import_the_library() -> None:
    code = (
        "import sys, torch; from fracture import cam;"
        "[cam.closed_form(torch.rand(3, 4, 4), torch.rand(3), m) for m in cam.METHODS];"
        "sys.exit('pytorch_grad_cam' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
