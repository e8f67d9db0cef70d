"""Checkpoints: weights and what is known about them in one safetensors file.

The weights are tensors by name; the metadata is a JSON object under the key ``fracture`` of the
file's header. Nothing in the file is ever executed (no pickle). The metadata says:

``architecture``  name of the network, e.g. ``tf_efficientnet_lite0``
``classes``       class names in the order of the network's outputs
``input``         ``size`` [height, width], ``mean``, ``std``, ``resize`` (see ``models.InputSpec``)
``temperature``   the logits are divided by it before the softmax (1 when absent)
``thresholds``    ``uncertain``: below this probability of the likeliest class no verdict is given
``training``      data sets with licence and address, recipe
``metrics``       figures measured on films that were not trained on
``date``          day the file was made, ISO 8601
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

KEY = "fracture"
EXPECTED = "a safetensors file written by train.py"
# 65,504 is the largest number that half precision holds.
_HALF_MAX = 65_504.0


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what was expected."""


def save_checkpoint(
    path: str | os.PathLike[str],
    weights: nn.Module | Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    *,
    half: bool = False,
) -> None:
    """Write ``weights`` and ``metadata`` to ``path``; an older file is replaced in one step.

    ``half`` stores the matrices and convolution kernels as 16-bit floats, which halves the file.
    Vectors (biases, normalisation statistics) stay 32-bit: they are small, and a running variance
    can leave the 16-bit range. Raises ``CheckpointError`` for metadata that loading would refuse
    and for weights that are not finite.
    """
    from safetensors.torch import save_file

    path = Path(path)
    check_metadata(path, metadata)
    if isinstance(weights, nn.Module):
        weights = weights.state_dict()
    tensors = {name: _stored(path, name, tensor, half) for name, tensor in weights.items()}
    header = {KEY: json.dumps(dict(metadata), ensure_ascii=False)}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside the target and moved over it, so that being stopped leaves the old file whole.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        save_file(tensors, temporary, metadata=header)
        os.chmod(temporary, 0o644)  # mkstemp's files are for the owner only
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights (floats as float32, on the CPU) and metadata.

    Raises ``CheckpointError`` for a missing, truncated or foreign file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}; expected {EXPECTED}")
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise CheckpointError(
                f"{path} is only a Git LFS pointer, not the weights; run 'git lfs pull'"
            )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); it may be truncated or of another kind; "
            f"expected {EXPECTED}"
        ) from error
    metadata = _metadata(path, header)
    weights = {}
    for name, tensor in tensors.items():
        # a copy, always: what the file's own memory holds would keep all of the file in memory
        kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
        weights[name] = tensor.to(kind, copy=True)
        if not torch.isfinite(weights[name]).all():
            raise CheckpointError(f"{path}: the weights {name!r} are not finite numbers")
    return weights, metadata


def fill(network: nn.Module, weights: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Put a checkpoint's weights into ``network``, all of them or none.

    Raises ``CheckpointError`` naming ``path`` and the first tensors that do not fit.
    """
    own = network.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is not part of it" for name in weights if name not in own]
    wrong += [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        kind = getattr(network, "architecture", type(network).__name__)
        raise CheckpointError(
            f"{path} does not hold the weights of {kind}: {'; '.join(wrong[:3])}{more}"
        )
    # A network built on the "meta" device has no memory of its own: it takes the tensors over.
    network.load_state_dict(weights, assign=any(p.is_meta for p in network.parameters()))


def check_metadata(path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Raise ``CheckpointError`` unless the parts that loading relies on are there and sane."""

    def require(condition: bool, expected: str) -> None:
        if not condition:
            raise CheckpointError(f"{path}: its metadata must have {expected}")

    architecture = metadata.get("architecture")
    require(isinstance(architecture, str) and architecture != "", "an 'architecture' (a name)")
    classes = metadata.get("classes")
    require(
        isinstance(classes, list | tuple)
        and all(isinstance(name, str) and name for name in classes)
        and len(set(classes)) == len(classes) >= 2,
        "'classes': a list of two or more different names",
    )
    require(isinstance(metadata.get("input"), Mapping), "an 'input' (an object)")
    temperature = metadata.get("temperature", 1.0)
    require(_is_number(temperature) and temperature > 0, "a 'temperature' above 0")
    thresholds = metadata.get("thresholds", {})
    require(
        isinstance(thresholds, Mapping) and all(_is_number(v) for v in thresholds.values()),
        "'thresholds': an object of numbers",
    )


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and float("-inf") < value < float("inf")  # false for NaN too
    )


def _metadata(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    if KEY not in header:
        raise CheckpointError(
            f"{path} is a safetensors file of another program (no {KEY!r} in its header); "
            f"expected {EXPECTED}"
        )
    try:
        metadata = json.loads(header[KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata is not JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: its metadata is not a JSON object")
    check_metadata(path, metadata)
    return metadata


def _stored(path: Path, name: str, tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu()
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{path} was not written: the weights {name!r} are not finite")
    if half and tensor.is_floating_point() and tensor.ndim >= 2 and tensor.abs().max() < _HALF_MAX:
        tensor = tensor.half()
    # safetensors refuses two names for one piece of memory
    return tensor.clone(memory_format=torch.contiguous_format)
