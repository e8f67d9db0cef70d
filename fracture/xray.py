"""From thickness to film: X-ray beam, scatter, focal spot, noise, film curve, marks on the film.

Attenuation coefficients: Hubbell and Seltzer, NIST Standard Reference Database 126, table 4
(ICRU-44 cortical bone, soft tissue and adipose tissue) and table 3 (aluminium),
https://physics.nist.gov/PhysRefData/XrayMassCoef/tab4.html. The spectrum is Kramers' law behind
2.7 mm of aluminium: plain, and good enough for the contrast between bone and flesh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Tone", "blur", "develop", "marker_stamp", "noise_image", "shadow", "speckle"]

Array = np.ndarray

_KEV = np.array([15, 20, 30, 40, 50, 60, 80, 100], float)
# mass attenuation in cm2/g at _KEV, and density in g/cm3
_BONE = np.array([9.032, 4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855]), 1.92
_SOFT = np.array([1.699, 0.8230, 0.3790, 0.2688, 0.2264, 0.2048, 0.1823, 0.1693]), 1.06
_FAT = np.array([1.083, 0.5677, 0.3063, 0.2396, 0.2123, 0.1974, 0.1800, 0.1688]), 0.95
_ALUMINIUM = np.array([7.955, 3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704]), 2.70
_BINS = 6


def _per_mm(material: tuple[Array, float], kev: Array) -> Array:
    coefficient, density = material
    return np.exp(np.interp(np.log(kev), np.log(_KEV), np.log(coefficient))) * density / 10


@lru_cache(maxsize=64)
def spectrum(kvp: float) -> tuple[Array, Array]:
    """Energies in keV and the share of the detector's signal each carries, both (6,)."""
    edges = np.linspace(max(16.0, 0.28 * kvp), kvp, _BINS + 1)
    kev = (edges[:-1] + edges[1:]) / 2
    photons = (kvp / kev - 1) * np.exp(-_per_mm(_ALUMINIUM, kev) * 2.7)
    absorbed = photons * kev * np.minimum(1, (45 / kev) ** 2)  # a phosphor stops fewer hard ones
    return kev, absorbed / absorbed.sum()


def transmit(bone: Array, soft: Array, fat: Array, kvp: float) -> Array:
    """Share of the signal that gets through thicknesses in mm (Beer-Lambert), float32."""
    kev, weights = spectrum(kvp)
    result = np.zeros_like(bone)
    for weight, b, s, f in zip(
        weights.tolist(), _per_mm(_BONE, kev).tolist(), _per_mm(_SOFT, kev).tolist(),
        _per_mm(_FAT, kev).tolist(), strict=True,
    ):
        result += weight * np.exp(-(b * bone + s * soft + f * fat))
    return result


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur, edges mirrored, float32. Wide ones are made on a smaller copy."""
    if sigma <= 0.05:
        return image
    height, width = image.shape
    if sigma > 6:
        factor = int(sigma // 3)
        small = resize(image, (max(2, height // factor), max(2, width // factor)))
        return resize(blur(small, sigma / factor), (height, width))
    half = max(1, math.ceil(3 * sigma))
    half = min(half, height - 1, width - 1)
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32).tolist()
    padded = np.pad(image, half, mode="reflect")
    rows = sum(k * padded[i : i + height] for i, k in enumerate(kernel))
    return sum(k * rows[:, i : i + width] for i, k in enumerate(kernel))


def resize(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize of a float32 picture to (height, width)."""
    picture = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR), np.float32)


def noise_image(
    shape: tuple[int, int], rng: np.random.Generator, grain: tuple[float, float]
) -> Array:
    """Smooth random picture, mean 0, standard deviation 1; grain: (down, across) in pixels."""
    down, across = (max(1.0, g) for g in grain)
    small = (max(4, round(shape[0] / down) + 2), max(4, round(shape[1] / across) + 2))
    coarse = rng.standard_normal(small, dtype=np.float32)
    picture = Image.fromarray(coarse)
    fine = np.asarray(picture.resize(shape[::-1], Image.Resampling.BICUBIC), np.float32)
    return (fine - fine.mean()) / (fine.std() + 1e-6)


def shadow(
    bone: Array, soft: Array, fat: Array, *, kvp: float, pixel: float, blur_mm: float,
    gradient: tuple[float, float],
) -> Array:
    """Signal without noise, 1 where nothing was in the way, float32 (H, W).

    bone, soft, fat: thickness in mm. pixel: mm per pixel. blur_mm: focal spot and screen, as a
    standard deviation. gradient: fall of the beam from edge to edge (down, across), as a share.
    """
    height, width = bone.shape
    primary = transmit(bone, soft, fat, kvp)
    down = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * gradient[0]
    across = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None] * gradient[1]
    primary *= 1 + down + across
    thick = soft + fat + 1.5 * bone
    # flesh scatters about as much as it absorbs; a grid or an air gap takes most of it away
    ratio = 0.5 * (1 - np.exp(-thick / 110))
    scatter = blur(primary * ratio, 14 / pixel) + 0.002
    return blur(primary, blur_mm / pixel) + scatter


def speckle(signal: Array, quanta: float, rng: np.random.Generator) -> Array:
    """The signal with noise; quanta: X-ray quanta behind a pixel whose signal is 1."""
    grain = rng.standard_normal(signal.shape, dtype=np.float32)
    # quantum noise, smeared by the screen (so less of it is left), then the reader's own noise
    grain = 0.45 * grain + 1.3 * blur(grain, 0.9)
    result = signal + grain * np.sqrt(signal * (1 / quanta))
    result += rng.standard_normal(signal.shape, dtype=np.float32) * (0.004 * signal)
    return np.maximum(result, 1e-4)


@dataclass(frozen=True)
class Tone:
    """How signal becomes brightness.

    flesh, dense: -log(signal) of soft tissue and of dense bone on this film.
    film:     True for a plain film (an S-shaped curve set to the bone), False for a digital
              system (nearly straight, thick regions brought closer together).
    contrast: 1 is usual. crisp: how much edges and fine detail are lifted, 0 to 1.
    base:     brightness where nothing was in the way.
    """

    flesh: float
    dense: float
    film: bool
    contrast: float
    crisp: float
    base: float


def develop(signal: Array, tone: Tone, pixel: float) -> Array:
    """Film brightness in [0, 1], bone bright, float32 (H, W); pixel: mm."""
    density = -np.log(signal)
    if tone.crisp:
        fine = density - blur(density, 1.0 / pixel)
        density = density + tone.crisp * (fine + 0.35 * (density - blur(density, 7 / pixel)))
    if tone.film:
        slope = min(max(2.5 / max(tone.dense - tone.flesh, 0.1), 1.2), 3.4) * tone.contrast
        middle = tone.dense - 1.4 / slope
        bright = 1 / (1 + np.exp(slope * (middle - density)))
    else:
        share = density * (1 / tone.dense)
        flesh = tone.flesh / tone.dense
        share = share - 0.3 * (blur(share, 30 / pixel) - flesh)
        # a power that puts flesh at a third and dense bone at four fifths, with a soft shoulder
        power = min(max(math.log(0.33 / 0.8) / math.log(flesh), 1.0), 3.2) * tone.contrast
        bright = 0.8 * np.maximum(share, 0) ** power
        bright = np.where(bright > 0.7, 0.7 + 0.28 * np.tanh((bright - 0.7) / 0.28), bright)
    return tone.base + (1 - tone.base) * bright


@lru_cache(maxsize=16)
def marker_stamp(letter: str, height: int, style: int) -> Array:
    """A lead letter as coverage in [0, 1], float32: bare, in a ring, or cut out of a plate."""
    font = ImageFont.load_default(size=height)
    side = int(height * 1.7)
    picture = Image.new("L", (side * 2, side * 2), 0)
    draw = ImageDraw.Draw(picture)
    box = draw.textbbox((0, 0), letter, font=font)
    at = (side - (box[0] + box[2]) / 2, side - (box[1] + box[3]) / 2)
    if style == 1:
        r = height * 0.72
        draw.ellipse((side - r, side - r, side + r, side + r), outline=255,
                     width=max(1, height // 12))
    if style == 2:
        w, h = height * 0.5, height * 0.62
        draw.rounded_rectangle((side - w, side - h, side + w, side + h), height * 0.14, fill=255)
    draw.text(at, letter, font=font, fill=0 if style == 2 else 255,
              stroke_width=height // 30, stroke_fill=0 if style == 2 else 255)
    cut = picture.getbbox()
    return np.asarray(picture.crop(cut), np.float32) / 255
