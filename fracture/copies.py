"""Find copies of a film among many: mirrored, turned, cropped, brightened, saved again.

Cross-validation means nothing if a copy of a test film was trained on, and published sets are
full of copies. Two pictures count as copies here if one can be laid over the other so that the
fine structure agrees, not merely the outline: two wrists look alike, two films of the same wrist
on different days look more alike, but only copies agree in every trabecula and speck.

It works in three steps, on small thumbnails and with numpy only:

1. *Candidates* by Fourier-Mellin transform (Reddy and Chatterji 1996, IEEE Trans Image Process
   5:1266). The magnitude of a picture's Fourier transform does not change when the picture is
   shifted; on log-polar axes, turning it is a shift along one axis, enlarging it a shift along
   the other, and mirroring it a reversal. All pairs are compared over all turns, both hands and
   enlargements up to about 30 %, and each picture keeps its few best partners.
2. *Registration*: the shift by cross-correlation, then all six affine parameters by inverse
   compositional alignment (Baker and Matthews 2004, Int J Comput Vis 56:221).
3. *Verdict*: the correlation of the fine structure where the pictures overlap.

Brightness, contrast and negatives are taken care of by looking only at structure that is finer
than a few pixels, divided by its local strength.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

THRESHOLD = 0.74
"""Correlation of fine structure from which two pictures count as copies.

Chosen with ``python -m fracture.data evaluate``, so that hardly any two of the films there are
joined wrongly; see :func:`fracture.data.evaluate_grouping`.
"""

_SIZE = 96  # thumbnail for spectra, pixels
_COARSE = 48  # thumbnail for the first registration
_FINE = 128  # thumbnail for the second one and the verdict
_RADII = 28  # log-polar spectrum: from 4 to 40 cycles a picture ...
_ANGLES = 64  # ... over half a turn (the other half of a spectrum is the same)
_FREQUENCIES = 12  # of the spectrum along the angle; finer ones are noise
_SCALES = 3  # steps of enlargement to try, each of _STEP
_CANDIDATES = 5  # partners each picture keeps, per view
_LEAST_SPECTRUM = 0.7  # similarity of spectra below which registration is not tried
_LEAST_COARSE = 0.55  # correlation after the first registration, likewise
_LEAST_OVERLAP = 0.3  # share of what a picture shows that its partner must show too ...
_LEAST_SHOWN = 0.05  # ... and share of its area
_ROUNDS = 6  # of registration
_BATCH = 64

_RADIUS = np.geomspace(4, 40, _RADII)
_STEP = float(np.log(_RADIUS[1] / _RADIUS[0]))

Progress = Callable[[Iterable, str], Iterable]


@dataclass(frozen=True)
class Signatures:
    """What is kept of N pictures to compare them.

    Attributes:
        spectra: float16 (N, 2, radii, angles): log-polar spectra of two views, the centre square
            in its true proportions and the whole picture squeezed into a square.
        coarse: float16 (N, 48, 48), structure of the squeezed picture.
        fine: float16 (N, 128, 128), its finer structure.
        shown: bool (N, 128, 128), False where the picture is one even colour or right beside it:
            the corners that turning leaves behind, a blank border, burnt-out bone.
        sides: float32 (N, 2), width and height over the shorter of the two.
    """

    spectra: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    shown: np.ndarray
    sides: np.ndarray

    def __len__(self) -> int:
        return len(self.sides)

    @staticmethod
    def join(parts: Sequence[Signatures]) -> Signatures:
        """Put signatures one after the other; none at all give an empty one."""
        empty = Signatures(
            np.zeros((0, 2, _RADII, _ANGLES), np.float16),
            np.zeros((0, _COARSE, _COARSE), np.float16),
            np.zeros((0, _FINE, _FINE), np.float16),
            np.zeros((0, _FINE, _FINE), bool),
            np.zeros((0, 2), np.float32),
        )
        names = [field.name for field in fields(Signatures)]
        return Signatures(
            *(np.concatenate([getattr(part, name) for part in (empty, *parts)]) for name in names)
        )


@dataclass(frozen=True)
class Copy:
    """Pictures ``first < second`` (by index) agree with correlation ``score`` in [0, 1]."""

    first: int
    second: int
    score: float


def open_thumbnail(path: Path) -> tuple[Image.Image, tuple[int, int]]:
    """Open a picture as 8-bit grey, reduced while decoding where the format allows it.

    Returns:
        The reduced picture, and the width and height of the file's own.

    Raises:
        OSError: not a picture, or a truncated one.
    """
    try:
        with Image.open(path) as picture:
            size = picture.size
            picture.draft("L", (4 * _SIZE, 4 * _SIZE))
            if picture.mode[:1] in "IF":
                values = np.asarray(picture, dtype=np.float32)
                low, high = float(values.min()), float(values.max())
                scaled = (values - low) * (255 / max(high - low, 1e-6))
                return Image.fromarray(scaled.astype(np.uint8)), size
            return picture.convert("L"), size
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f"{path} is not a readable picture: {error}") from error


def signature_of(grey: Image.Image) -> Signatures:
    """Reduce one picture, in mode ``L`` and of any size, to what is compared."""
    width, height = grey.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    square = _shrink(grey, _SIZE, (left, top, left + side, top + side))
    whole = _shrink(grey, _SIZE, (0, 0, width, height))
    small = _shrink(grey, _COARSE, (0, 0, width, height))
    large = _shrink(grey, _FINE, (0, 0, width, height))
    spectra = np.stack([_spectrum(_structure(view, 1.0, 6.0, 8.0)) for view in (square, whole)])
    return Signatures(
        spectra=spectra[None].astype(np.float16),
        coarse=_structure(small, 0.8, 4.0, 4.8)[None].astype(np.float16),
        fine=_structure(large, 0.4, 1.6, 4.0)[None].astype(np.float16),
        shown=_shown(large)[None],
        sides=np.array([[width / side, height / side]], np.float32),
    )


def find_copies(
    signatures: Signatures,
    *,
    threshold: float = THRESHOLD,
    joined: Sequence[tuple[int, int]] = (),
    progress: Progress = lambda items, _: items,
) -> list[Copy]:
    """Find enough pairs of copies to tell which pictures show one film.

    Not every pair is reported: once two pictures are connected through others, their own pair is
    not looked at any more.

    Args:
        signatures: of all pictures.
        threshold: least correlation of fine structure, in [0, 1].
        joined: pairs that are known to belong together, hence need not be compared.
        progress: wraps the loops, given a title.
    """
    first, second, view, score = _candidates(signatures, progress)
    links = Links(len(signatures))
    for one, other in joined:
        links.join(one, other)
    copies: list[Copy] = []
    # The likeliest first, so that most of the rest is connected already when its turn comes.
    order = np.argsort(-score, kind="stable")
    for start in progress(range(0, len(order), _BATCH), "comparing"):
        batch = np.array(
            [
                pair
                for pair in order[start : start + _BATCH]
                if not links.connected(int(first[pair]), int(second[pair]))
            ],
            dtype=int,
        )
        if not len(batch):
            continue
        agreement = _agreement(signatures, first[batch], second[batch], view[batch])
        for pair, found in zip(batch, agreement, strict=True):
            one, other = sorted((int(first[pair]), int(second[pair])))
            if found >= threshold and not links.connected(one, other):
                copies.append(Copy(one, other, float(found)))
                links.join(one, other)
    return copies


class Links:
    """Which of N things are connected, directly or through others (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, index: int) -> int:
        """The smallest index that is connected with this one."""
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def join(self, first: int, second: int) -> None:
        first, second = sorted((self.root(first), self.root(second)))
        self._parent[second] = first

    def connected(self, first: int, second: int) -> bool:
        return self.root(first) == self.root(second)


def _shrink(picture: Image.Image, size: int, box: tuple[float, ...]) -> np.ndarray:
    shrunk = picture.resize((size, size), Image.Resampling.BOX, box=box)
    return np.asarray(shrunk, dtype=np.float32)


def _structure(values: np.ndarray, finest: float, coarsest: float, around: float) -> np.ndarray:
    """Band of detail between two blurs (sigmas in pixels), divided by its strength nearby."""
    size = values.shape[0]
    squared = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.rfftfreq(size) ** 2

    def blur(sigma: float) -> np.ndarray:
        return np.exp(-2 * np.pi**2 * sigma**2 * squared)

    band = np.fft.irfft2(np.fft.rfft2(values) * (blur(finest) - blur(coarsest)), s=values.shape)
    strength = np.fft.irfft2(np.fft.rfft2(band**2) * blur(around), s=values.shape)
    # Grain of the empty background (an amplitude of about two grey values) must stay small.
    return band / np.sqrt(np.maximum(strength, 0) + 4.0)


def _shown(values: np.ndarray) -> np.ndarray:
    """Where a picture shows something: not in even areas nor within four pixels of them."""
    near = sliding_window_view(np.pad(values, 1, mode="edge"), (3, 3))
    even = near.max(axis=(2, 3)) - near.min(axis=(2, 3)) <= 1
    return ~sliding_window_view(np.pad(even, 4), (9, 9)).any(axis=(2, 3))


def _spectrum(structure: np.ndarray) -> np.ndarray:
    window = np.hanning(_SIZE)
    magnitude = np.abs(np.fft.fftshift(np.fft.fft2(structure * np.outer(window, window))))
    angle = np.pi * np.arange(_ANGLES) / _ANGLES
    row = _SIZE / 2 + _RADIUS[:, None] * np.sin(angle)
    column = _SIZE / 2 + _RADIUS[:, None] * np.cos(angle)
    top, left = row.astype(int), column.astype(int)
    down, right = row - top, column - left
    polar = (
        magnitude[top, left] * (1 - down) * (1 - right)
        + magnitude[top, left + 1] * (1 - down) * right
        + magnitude[top + 1, left] * down * (1 - right)
        + magnitude[top + 1, left + 1] * down * right
    )
    return np.log1p(polar / (np.median(polar) + 1e-6))


def _candidates(
    signatures: Signatures, progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The best partners of each picture by their spectra.

    Returns:
        Arrays over candidate pairs: first picture, second picture, view, similarity in [-1, 1].
    """
    count = len(signatures)
    found: dict[tuple[int, int, int], float] = {}
    views = [_angular(signatures.spectra[:, view]) for view in (0, 1)]
    for start in progress(range(0, count, _BATCH), "searching"):
        rows = np.arange(start, min(start + _BATCH, count))
        for view, waves in enumerate(views):
            similarity = _similarity(waves[rows], waves)
            similarity[np.arange(len(rows)), rows] = -1
            best = np.argsort(-similarity, axis=1)[:, :_CANDIDATES]
            for row, partners in zip(rows, best, strict=True):
                for partner in partners:
                    value = float(similarity[row - start, partner])
                    if value >= _LEAST_SPECTRUM:
                        pair = (min(row, partner), max(row, partner), view)
                        found[pair] = max(value, found.get(pair, -1.0))
    pairs = np.array(sorted(found), dtype=int).reshape(-1, 3)
    scores = np.array([found[tuple(pair)] for pair in pairs.tolist()])
    return pairs[:, 0], pairs[:, 1], pairs[:, 2], scores


def _angular(spectra: np.ndarray) -> np.ndarray:
    """Fourier coefficients along the angle, complex64 (N, radii, frequencies).

    The constant one is left out: it holds how much structure there is at each scale, which
    blurring and enlarging change.
    """
    waves = np.fft.rfft(spectra.astype(np.float32), axis=2)[:, :, 1 : _FREQUENCIES + 1]
    return waves.astype(np.complex64)


def _overlaps() -> list[tuple[slice, slice]]:
    """Rows of two spectra that lie over each other for each enlargement tried."""
    return [
        (slice(max(step, 0), _RADII + min(step, 0)), slice(max(-step, 0), _RADII + min(-step, 0)))
        for step in range(-_SCALES, _SCALES + 1)
    ]


def _similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Best correlation of each of n with each of m spectra, over turns, hands, enlargements."""
    best = np.full((len(first), len(second)), -1.0, np.float32)
    power = [2 * (np.abs(waves) ** 2).sum(axis=2) for waves in (first, second)]
    angles = 32  # enough to find the pair; the turn is measured finer afterwards
    shifted = np.zeros((len(first), len(second), angles // 2 + 1), np.complex64)
    for here, there in _overlaps():
        norm = np.sqrt(power[0][:, here].sum(1)[:, None] * power[1][:, there].sum(1) + 1e-6)
        one = first[:, here].transpose(2, 0, 1)
        other = second[:, there].transpose(2, 1, 0)
        for hand in (other.conj(), other):
            shifted[:, :, 1 : _FREQUENCIES + 1] = np.matmul(one, hand).transpose(1, 2, 0)
            peak = np.fft.irfft(shifted, n=angles, axis=2).max(axis=2) * (angles / norm)
            np.maximum(best, peak, out=best)
    return best


def _pose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Turn, hand and enlargement of each of n pairs of spectra.

    Returns:
        (n, 2, 2) matrices that take a direction in the first picture to the second.
    """
    count, angles = len(first), 256
    best = np.full(count, -np.inf)
    pose = np.zeros((count, 2, 2), np.float32)
    power = [2 * (np.abs(waves) ** 2).sum(axis=2) for waves in (first, second)]
    for step, (here, there) in zip(range(-_SCALES, _SCALES + 1), _overlaps(), strict=True):
        norm = np.sqrt(power[0][:, here].sum(1) * power[1][:, there].sum(1) + 1e-6)
        for mirrored in (False, True):
            other = second[:, there] if mirrored else second[:, there].conj()
            shifted = np.zeros((count, angles // 2 + 1), np.complex64)
            shifted[:, 1 : _FREQUENCIES + 1] = (first[:, here] * other).sum(axis=1)
            curve = np.fft.irfft(shifted, n=angles, axis=1)
            turn = np.pi * curve.argmax(axis=1) / angles
            peak = curve.max(axis=1) / norm
            # A picture enlarged in space is reduced in frequency.
            size, sign = np.exp(_STEP * step), -1.0 if mirrored else 1.0
            cosine, sine = size * np.cos(turn), size * np.sin(turn)
            matrix = np.stack(
                [np.stack([cosine, sine], 1), np.stack([-sign * sine, sign * cosine], 1)], 1
            )
            better = peak > best
            best[better] = peak[better]
            pose[better] = matrix[better]
    return pose


def _agreement(
    signatures: Signatures, first: np.ndarray, second: np.ndarray, view: np.ndarray
) -> np.ndarray:
    """Correlation of the fine structure of n pairs, each laid over the other as well as can be."""
    count = len(first)
    pose = np.zeros((count, 2, 2), np.float32)
    for each in (0, 1):
        chosen = view == each
        waves = [_angular(signatures.spectra[index[chosen], each]) for index in (first, second)]
        pose[chosen] = _pose(*waves)
    # From the view's own square to coordinates in which every picture reaches from -1 to 1.
    true_shape = (view == 0)[:, None]
    here = np.where(true_shape, signatures.sides[first], 1.0)
    there = np.where(true_shape, signatures.sides[second], 1.0)
    matrix = (pose * here[:, None, :] / there[:, :, None]).astype(np.float32)

    one, other = signatures.coarse[first], signatures.coarse[second]
    one, other = one.astype(np.float32), other.astype(np.float32)
    affine, sign = _shift(one, other, matrix)
    axis = ((np.arange(_COARSE) + 0.5) * (_FINE / _COARSE)).astype(int)
    shown = signatures.shown[:, axis[:, None], axis]
    score, affine = _register(one, other, shown[first], shown[second], affine, sign)
    result = np.zeros(count)
    good = score >= _LEAST_COARSE
    if good.any():
        first, second = first[good], second[good]
        result[good], _ = _register(
            signatures.fine[first].astype(np.float32),
            signatures.fine[second].astype(np.float32),
            signatures.shown[first],
            signatures.shown[second],
            affine[good],
            sign[good],
        )
    return result


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels of a picture that reaches from -1 to 1, flattened."""
    axis = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
    return np.tile(axis, size), np.repeat(axis, size)


def _sample(pictures: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look up n pictures (n, s, s) at the places that ``affine`` (n, 2, 3) takes the pixels to.

    Returns:
        The values and whether each place lies inside the picture, both float32 (n, s * s).
    """
    count, size, _ = pictures.shape
    x, y = _grid(size)
    column = affine[:, 0, 0:1] * x + affine[:, 0, 1:2] * y + affine[:, 0, 2:3]
    row = affine[:, 1, 0:1] * x + affine[:, 1, 1:2] * y + affine[:, 1, 2:3]
    inside = ((np.abs(column) <= 1) & (np.abs(row) <= 1)).astype(np.float32)
    column = np.clip((column + 1) * (size / 2) - 0.5, 0, size - 1.001)
    row = np.clip((row + 1) * (size / 2) - 0.5, 0, size - 1.001)
    left, top = column.astype(np.int32), row.astype(np.int32)
    column -= left
    row -= top
    place = top * size + left + (np.arange(count, dtype=np.int32) * size**2)[:, None]
    flat = pictures.ravel()
    upper = flat[place]
    upper += (flat[place + 1] - upper) * column
    place += size
    lower = flat[place]
    lower += (flat[place + 1] - lower) * column
    upper += (lower - upper) * row
    return upper, inside


def _shift(
    first: np.ndarray, second: np.ndarray, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the shift that goes with a turn, and which of the two opposite turns it is.

    Returns:
        affine (n, 2, 3) from the first picture to the second, and the sign of the agreement
        (-1: one is a negative of the other).
    """
    count, size, _ = first.shape
    window = np.sqrt(np.outer(np.hanning(size + 2), np.hanning(size + 2)))[1:-1, 1:-1]
    window = window.astype(np.float32)
    spectrum = np.fft.rfft2(first * window)
    norm = np.linalg.norm(first * window, axis=(1, 2))
    reach = size // 4
    best = np.full(count, -1.0)
    affine = np.zeros((count, 2, 3), np.float32)
    sign = np.ones(count, np.float32)
    for turn in (1, -1):
        turned = np.concatenate([turn * matrix, np.zeros((count, 2, 1), np.float32)], axis=2)
        values, inside = _sample(second, turned)
        values = (values * inside).reshape(count, size, size) * window
        product = spectrum * np.fft.rfft2(values).conj()
        peak = np.fft.irfft2(product, s=(size, size))
        peak[:, reach:-reach] = 0
        peak[:, :, reach:-reach] = 0
        peak = peak.reshape(count, -1)
        place = np.abs(peak).argmax(axis=1)
        height = peak[np.arange(count), place]
        value = np.abs(height) / (norm * np.linalg.norm(values, axis=(1, 2)) + 1e-6)
        down, right = np.divmod(place, size)
        moved = np.stack([right, down], axis=1)
        moved = np.where(moved > size // 2, moved - size, moved) * (2 / size)
        turned[:, :, 2] = -(turned[:, :, :2] @ moved[:, :, None].astype(np.float32))[:, :, 0]
        better = value > best
        best[better] = value[better]
        affine[better] = turned[better]
        sign[better] = np.where(height[better] < 0, -1, 1)
    return affine, sign


def _register(
    first: np.ndarray,
    second: np.ndarray,
    first_shown: np.ndarray,
    second_shown: np.ndarray,
    affine: np.ndarray,
    sign: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Improve ``affine`` round by round, and keep the best.

    Returns:
        The correlation over the overlap (n,), -1 where there is too little of it, and the affine
        map (n, 2, 3) it was reached with.
    """
    count, size, _ = first.shape
    x, y = _grid(size)
    slope_y, slope_x = np.gradient(first, axis=(1, 2))
    scale = (sign * (size / 2))[:, None]
    slope_x, slope_y = slope_x.reshape(count, -1) * scale, slope_y.reshape(count, -1) * scale
    wanted = first.reshape(count, -1) * sign[:, None]
    steepest = np.stack(
        [slope_x * x, slope_x * y, slope_x, slope_y * x, slope_y * y, slope_y], axis=1
    )
    shown = first_shown.reshape(count, -1)
    least = np.maximum(_LEAST_OVERLAP * shown.sum(axis=1), _LEAST_SHOWN * size**2)
    second_shown = second_shown.astype(np.float32)
    bottom = np.broadcast_to(np.array([0, 0, 1], np.float32), (count, 1, 3))
    current = np.concatenate([affine, bottom], axis=1)
    best, kept = np.full(count, -1.0, np.float32), affine.copy()
    for round_ in range(_ROUNDS + 1):
        values, inside = _sample(second, current[:, :2])
        there, _ = _sample(second_shown, current[:, :2])
        inside *= shown & (there > 0.9)
        area = inside.sum(axis=1, keepdims=True) + 1e-6
        target, norm = _standardise(wanted, inside, area)
        values, _ = _standardise(values, inside, area)
        score = (target * values).sum(axis=1)
        better = (score > best) & (area[:, 0] >= least)
        best[better] = score[better]
        kept[better] = current[better, :2]
        if round_ == _ROUNDS:
            break
        # Slopes of the correlation: changes of mean and of strength do not count.
        slopes = steepest * (inside / norm)[:, None]
        slopes -= slopes.sum(axis=2, keepdims=True) / area[:, None] * inside[:, None]
        slopes -= (slopes @ target[:, :, None]) * target[:, None]
        normal = slopes @ slopes.transpose(0, 2, 1)
        damping = 3e-3 * np.trace(normal, axis1=1, axis2=2) + 1e-9
        normal += damping[:, None, None] * np.eye(6, dtype=np.float32)
        change = np.linalg.solve(normal, slopes @ (values - target)[:, :, None])[:, :, 0]
        step = np.tile(np.eye(3, dtype=np.float32), (count, 1, 1))
        step[:, :2] += np.clip(change, -0.15, 0.15).reshape(count, 2, 3)
        current = current @ np.linalg.inv(step)
    return best, kept


def _standardise(
    values: np.ndarray, inside: np.ndarray, area: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean 0 and norm 1 over the overlap; returns the norm that was divided by, too."""
    centred = (values - (values * inside).sum(axis=1, keepdims=True) / area) * inside
    norm = np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6
    return centred / norm, norm
