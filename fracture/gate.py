"""Does a picture look like a radiograph of a limb at all?

Two questions. Colour: a radiograph is grey, or one tint (a blue film, a photographed light box);
`colourfulness` measures what is left when one tint is taken away. Content: `fit_gate` trains a
logistic regression on the locator's pooled features of all levels (a drawing differs from a film in
its edges, a spine from a leg in its shapes), real limb films against the `not_limb_radiograph`
pictures of the training data and pictures drawn by `fracture.foreign`.
"""

from __future__ import annotations

import numpy as np
from torch import nn

COLOURFUL = 0.05
"""`colourfulness` above which a picture is called a colour picture."""

NOT_A_LIMB = "This does not look like an X-ray of a limb, so there is no verdict."
IN_COLOUR = "The picture is in colour; an X-ray is grey or of one tint, so there is no verdict."


def colourfulness(display: np.ndarray) -> float:
    """How far the colours of a picture, uint8 (H, W, 3), are from shades of one tint; >= 0.

    Colour differences are regressed on brightness (a tinted film gets more of its tint where it is
    brighter); the spread of what remains, as a fraction of full scale, is returned. Grey: 0.
    """
    step = max(1, min(display.shape[:2]) // 64)
    pixels = display[::step, ::step].reshape(-1, 3).astype(np.float32) / 255
    bright = pixels.mean(axis=1)
    design = np.stack([np.ones_like(bright), bright, bright**2], axis=1)
    chroma = pixels[:, (0, 2)] - bright[:, None]
    fitted, *_ = np.linalg.lstsq(design, chroma, rcond=None)
    return float(np.sqrt(((chroma - design @ fitted) ** 2).sum(axis=1).mean()))


def fit_gate(gate: nn.Linear, limbs: np.ndarray, foreign: np.ndarray, refused: float) -> None:
    """Fill `gate` (536 -> 1): above 0 means foreign.

    limbs, foreign: float32 (n, 536), the locator's pooled features. The cut is laid so that the
    share `refused` of these limb films lies above it; what films that it has not seen need is
    found on such films (`fracture.calibrate.fit_plan`).
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    mean, std = limbs.mean(axis=0), limbs.std(axis=0) + 1e-3
    x = (np.concatenate([limbs, foreign]) - mean) / std
    y = np.r_[np.zeros(len(limbs)), np.ones(len(foreign))]
    model = LogisticRegression(C=0.3, class_weight="balanced", max_iter=2000).fit(x, y)
    scores = model.decision_function(x)
    cut = float(np.quantile(scores[y == 0], 1 - refused))
    weight = model.coef_[0] / std
    with torch.no_grad():
        gate.weight.copy_(torch.from_numpy(weight[None]))
        gate.bias.fill_(float(model.intercept_[0] - weight @ mean) - cut)
