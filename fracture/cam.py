"""Class activation maps: what in a picture speaks for a class, as a map over the network's input.

All methods weigh the last feature maps A (K, h, w) by the gradient of the class's logit. In a
network that ends in global average pooling and one linear layer that gradient is known without a
backward pass: the layer's own weight divided by the number of cells, in every cell (for Grad-CAM
this is the CAM of Zhou et al. 2016, CVPR). ``closed_form`` has each method's answer for such
networks; every other case goes through the ``grad-cam`` library: ``map_by_library``.

Maps are float32 in [0, 1]: negative evidence is cut off, then the lowest cell becomes 0 and the
highest 1, as the library does. A map without any positive evidence is 0 everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

METHODS = ("gradcam", "gradcam++", "hirescam", "eigencam", "layercam")

NO_FRACTURE = "No fracture"


def default_target(scores: Mapping[str, float]) -> str:
    """The class whose map is shown where nobody asks for one; ``scores``: logits or probabilities.

    That is the likeliest class, or the likelier fracture if that is "No fracture": nothing on a
    film speaks *for* no fracture, but where it looked most suspicious is worth a second look.
    """
    fractures = {name: score for name, score in scores.items() if name != NO_FRACTURE}
    likeliest = max(scores, key=scores.__getitem__)
    return max(fractures, key=fractures.__getitem__) if likeliest == NO_FRACTURE else likeliest


def unit_range(heat: np.ndarray) -> np.ndarray:
    """Shift and scale any map so that its lowest value is 0 and its highest 1; float32.

    A map that is the same everywhere becomes 0: nothing stands out.
    """
    heat = np.asarray(heat, dtype=np.float32)
    heat = heat - heat.min()
    # The library's guard against division by zero, kept so that both ways agree.
    heat /= np.float32(1e-7 + heat.max())
    return heat


def closed_form(features: Tensor, weights: Tensor, method: str = "gradcam") -> np.ndarray:
    """Any method's map for a global-average-pool + linear head, without a backward pass.

    ``features``: the last feature maps (K, h, w) of one picture; ``weights``: the linear layer's
    row (K,) of the class. Returns float32 (h, w) in [0, 1], equal to the library's before it
    enlarges it. Raises ``ValueError`` for an unknown method.
    """
    _check(method)
    features, weights = features.detach(), weights.detach()
    if method == "eigencam":
        heat = _principal(features.cpu().numpy())
    else:
        gradient = weights / features[0].numel()  # the same in every cell
        heat = torch.tensordot(_channel_weights(features, gradient, method), features, dims=1)
        heat = heat.cpu().numpy()
    return unit_range(np.maximum(heat, 0))


def _channel_weights(features: Tensor, gradient: Tensor, method: str) -> Tensor:
    """What each feature map of (K, h, w) counts, (K,), when its gradient (K,) is uniform.

    Grad-CAM (Selvaraju et al. 2017, ICCV) takes the mean gradient over the cells and HiResCAM
    (Draelos & Carin 2020, arXiv:2011.08891) the gradient of each cell: here the same. LayerCAM
    (Jiang et al. 2021, IEEE TIP 30:5875) leaves out the negative ones. Grad-CAM++ (Chattopadhyay
    et al. 2018, WACV, equation 19) weighs the positive ones in each cell and sums over the cells.
    """
    if method in ("gradcam", "hirescam"):
        return gradient
    positive = gradient.clamp(min=0)
    if method == "layercam":
        return positive
    square = gradient**2
    # The small number is the library's guard, and counts: gradients are about as small.
    share = square / (2 * square + features.sum(dim=(1, 2)) * square * gradient + 1e-6)
    return features[0].numel() * positive * share


def _principal(features: np.ndarray) -> np.ndarray:
    """Eigen-CAM (Muhammad & Yeasin 2020, IJCNN): the first principal component, (h, w).

    Cells are the samples and the K feature maps their coordinates.
    """
    cells = features.reshape(len(features), -1).T
    left, sizes, _ = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)
    heat = (left[:, 0] * sizes[0]).reshape(features.shape[1:])
    return _with_sign(heat[None], features[None])[0]


def _with_sign(heat: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Principal components (B, h, w), signed like the activity of the features (B, K, h, w).

    They have no sign of their own, and the decomposition gives either.
    """
    activity = features.mean(axis=1)
    activity = activity - activity.mean(axis=(1, 2), keepdims=True)
    agreement = (heat * activity).sum(axis=(1, 2), keepdims=True)
    return np.where(agreement < 0, -heat, heat)


def enlarged(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w) in [0, 1] at the input's (height, width), as the library enlarges it."""
    grown = F.interpolate(torch.from_numpy(heat)[None, None], size, mode="bilinear")
    return unit_range(grown[0, 0].numpy())


def map_by_library(
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
    _check(method)
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


def _check(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"no map is called {method!r}; there are {', '.join(METHODS)}")


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
        """The library's, with a sign that follows activity."""

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
            return _with_sign(heat, activations)

    return SignedEigenCAM
