"""Class activation maps: what in a picture speaks for a class, as a map over the network's input.

Grad-CAM (Selvaraju et al. 2017, ICCV) weighs the last feature maps by the mean gradient of the
class's logit. For a network that ends in global average pooling and one linear layer that
gradient is the layer's own weight divided by the number of cells, so the map needs no backward
pass (the CAM of Zhou et al. 2016, CVPR): ``closed_form``. Every other case goes through the
``grad-cam`` library: ``library_map``.

Maps are float32 in [0, 1]: negative evidence is cut off, then the lowest cell becomes 0 and the
highest 1, as the library does. A map without any positive evidence is 0 everywhere.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

METHODS = ("gradcam", "gradcam++", "hirescam", "eigencam", "layercam")


def unit_range(heat: np.ndarray) -> np.ndarray:
    """Shift and scale any map so that its lowest value is 0 and its highest 1; float32.

    A map that is the same everywhere becomes 0: nothing stands out.
    """
    heat = np.asarray(heat, dtype=np.float32)
    heat = heat - heat.min()
    # The library's guard against division by zero, kept so that both ways agree.
    heat /= np.float32(1e-7 + heat.max())
    return heat


def closed_form(features: Tensor, weights: Tensor) -> np.ndarray:
    """Grad-CAM of a global-average-pool + linear head, without a backward pass.

    ``features``: the last feature maps (K, h, w) of one picture; ``weights``: the linear layer's
    row (K,) of the class. Returns float32 (h, w) in [0, 1].
    """
    cells = features.shape[1] * features.shape[2]
    heat = torch.tensordot(weights.detach(), features.detach(), dims=1) / cells
    return unit_range(heat.clamp(min=0).cpu().numpy())


def library_map(
    network: nn.Module, layer: str, picture: Tensor, target: int, method: str
) -> np.ndarray:
    """A map by the ``grad-cam`` library; safe to call from many threads on one network.

    ``network`` gives logits (B, classes), ``layer`` is the name of the submodule to look at,
    ``picture`` (1, C, h, w) the network's input, ``target`` the class's index. Returns float32
    (h, w) in [0, 1]. ``eigencam`` shows what stands out to the network and is the same for every
    class. Raises ``ValueError`` for an unknown method.

    The library hangs hooks and gradients on the network it is given. It therefore gets a private
    copy for every call, which shares the weights' memory and holds no gradients of them: two
    callers cannot meet, nothing stays on ``network``, and the backward pass runs no further than
    ``layer``.
    """
    if method not in METHODS:
        raise ValueError(f"no map is called {method!r}; there are {', '.join(METHODS)}")
    # A prediction's inference_mode may surround this call; its tensors cannot carry gradients.
    with torch.inference_mode(False), torch.enable_grad():
        private = _shell(network)
        looked_at = private.get_submodule(layer)
        handle = looked_at.register_forward_hook(_ask_for_gradient)
        cam = _extractor(method)(private, [looked_at])
        try:
            targets = [lambda logits: logits[target]]
            (heat,) = cam(picture.detach().clone(), targets)
        finally:
            cam.activations_and_grads.release()
            handle.remove()
    return heat


def _shell(network: nn.Module) -> nn.Module:
    """A copy of the modules over the same weights, in evaluation mode, asking for no gradients."""
    shared: dict[int, object] = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False)
        for weight in network.parameters()
    }
    shared |= {id(buffer): buffer for buffer in network.buffers()}
    return copy.deepcopy(network, shared).eval()


def _ask_for_gradient(module: nn.Module, args: object, output: Tensor) -> Tensor:
    """Makes the layer's output the leaf that gradients flow back to: no weight asks for any."""
    return output.detach().requires_grad_()


def _extractor(method: str) -> type:
    """The library's class for a method; imported here because it takes seconds."""
    import pytorch_grad_cam as library

    if method != "eigencam":
        return {
            "gradcam": library.GradCAM,
            "gradcam++": library.GradCAMPlusPlus,
            "hirescam": library.HiResCAM,
            "layercam": library.LayerCAM,
        }[method]

    class SignedEigenCAM(library.EigenCAM):
        """A principal component has no sign of its own: choose the one that follows activity."""

        def get_cam_image(
            self,
            input_tensor: Tensor,
            target_layer: nn.Module,
            targets: list,
            activations: np.ndarray,
            grads: np.ndarray,
            eigen_smooth: bool,
        ) -> np.ndarray:
            heat = super().get_cam_image(
                input_tensor, target_layer, targets, activations, grads, eigen_smooth
            )
            activity = activations.mean(axis=1)
            activity = activity - activity.mean(axis=(1, 2), keepdims=True)
            agreement = (heat * activity).sum(axis=(1, 2), keepdims=True)
            return np.where(agreement < 0, -heat, heat)

    return SignedEigenCAM
