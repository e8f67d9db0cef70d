"""Training views of a film: one affine look (place, size, rotation, mirror) and film-like noise.

Everything is drawn from a `torch.Generator`, so that a seed repeats a training run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Look:
    """Where a view is taken: view pixel offset from its middle -> film pixel, as an affine map.

    `centre` is (x, y) in film pixels; `matrix` is 2 x 2, film pixels per view pixel.
    """

    centre: tuple[float, float]
    matrix: Tensor

    @property
    def shrink(self) -> float:
        """Film pixels per view pixel."""
        return float(torch.linalg.det(self.matrix).abs().sqrt())


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    return math.exp(uniform(math.log(low), math.log(high), generator))


def chance(p: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < p


def look(
    centre: tuple[float, float], shrink: float, degrees: float = 0.0, mirror: bool = False
) -> Look:
    """A view at `shrink` film pixels a view pixel, turned by `degrees`, mirrored left to right."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor([[c, -s], [s, c]]) * shrink
    if mirror:
        matrix = matrix @ torch.diag(torch.tensor([-1.0, 1.0]))
    return Look(centre, matrix)


def film_points(view: Look, size: tuple[int, int], stride: int = 1) -> Tensor:
    """Film coordinates (x, y) under the centres of a view's cells: (h / stride, w / stride, 2)."""
    h, w = size
    y = torch.arange(h // stride, dtype=torch.float32).add(0.5).mul(stride) - h / 2
    x = torch.arange(w // stride, dtype=torch.float32).add(0.5).mul(stride) - w / 2
    offsets = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return offsets @ view.matrix.T + torch.tensor(view.centre)


def pyramid(pixels: Tensor) -> list[Tensor]:
    """The film (H, W) and its halvings to about 200 pixels, so that shrinking never aliases."""
    levels = [pixels]
    while min(levels[-1].shape) >= 400:
        levels.append(F.avg_pool2d(levels[-1][None].float(), 2)[0].to(pixels.dtype))
    return levels


def take(levels: list[Tensor], view: Look, size: tuple[int, int]) -> Tensor:
    """The view as float32 (1, h, w) in [0, 1]; black outside the film. `levels` hold 0..255."""
    level = max(0, min(len(levels) - 1, round(math.log2(max(view.shrink, 1e-6)))))
    height, width = levels[0].shape
    points = film_points(view, size)
    grid = points / torch.tensor([width / 2, height / 2]) - 1
    picture = levels[level][None, None].float()
    return F.grid_sample(picture, grid[None], mode="bilinear", align_corners=False)[0] / 255


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """1 where a point (..., 2) lies in any of `boxes` (n, 4: left, top, right, bottom), else 0."""
    x, y = points[..., 0, None], points[..., 1, None]
    hit = (x >= boxes[:, 0]) & (x <= boxes[:, 2]) & (y >= boxes[:, 1]) & (y <= boxes[:, 3])
    return hit.any(dim=-1).float()


def film_noise(view: Tensor, generator: torch.Generator) -> Tensor:
    """Exposure, contrast, blur, grain and a covered patch, as films differ; (1, h, w) in [0, 1]."""
    h, w = view.shape[-2:]
    view = view.clamp(0, 1) ** log_uniform(0.65, 1.55, generator)
    gain, shift = uniform(0.75, 1.25, generator), uniform(-0.08, 0.08, generator)
    view = (view - 0.5) * gain + 0.5 + shift
    if chance(0.25, generator):
        sigma = uniform(0.4, 1.2, generator)
        taps = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
        taps = taps / taps.sum()
        view = F.conv2d(view[None], taps.view(1, 1, 1, -1), padding=(0, 3))
        view = F.conv2d(view, taps.view(1, 1, -1, 1), padding=(3, 0))[0]
    if chance(0.4, generator):
        view = view + torch.randn(view.shape, generator=generator) * uniform(0.005, 0.04, generator)
    if chance(0.25, generator):
        bh, bw = int(h * uniform(0.05, 0.25, generator)), int(w * uniform(0.05, 0.25, generator))
        top, left = int(uniform(0, h - bh, generator)), int(uniform(0, w - bw, generator))
        view[:, top : top + bh, left : left + bw] = uniform(0, 1, generator)
    return view.clamp(0, 1)
