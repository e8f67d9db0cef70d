"""What the parts of the benchmark share: timing in turns, statistics, films."""

from __future__ import annotations

import io
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 3

Json = dict[str, Any]


@dataclass(frozen=True)
class Amount:
    """How much is measured: rounds of the comparisons, and counts of films."""

    rounds: int = 30
    clicks: int = 30
    starts: int = 5
    readings: int = 100
    batches: tuple[int, ...] = (1, 60, 240)
    many: int = 10_000


QUICK = Amount(2, 2, 1, 4, (1, 4), 12)


class Skipped(RuntimeError):
    """A part that cannot be measured here; the message says why."""


def race(
    runners: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Json]:
    """Time callables in turns: `rounds` calls of each after `WARM_UP` unmeasured ones.

    A runner that returns `Laps` has its steps reported, too. With the clock `time.process_time` a
    busy machine matters little, but only what runs on one thread can be compared.
    Returns for each name what `summary` says, and "steps": the median milliseconds of each.
    """
    totals: dict[str, list[float]] = {name: [] for name in runners}
    steps: dict[str, dict[str, list[float]]] = {name: {} for name in runners}
    for turn in range(WARM_UP + rounds):
        for name, run in runners.items():
            start = clock()
            laps = run()
            took = clock() - start
            if turn < WARM_UP:
                continue
            totals[name].append(took)
            for step, seconds in laps.items() if isinstance(laps, Laps) else ():
                steps[name].setdefault(step, []).append(seconds)
    found = {name: summary(times) for name, times in totals.items()}
    for name, laps in steps.items():
        if laps:
            found[name]["steps"] = {
                step: 1000 * statistics.median(times) for step, times in laps.items()
            }
    return found


class Laps(dict[str, float]):
    """Seconds of each step of a job: `lap("decode")` ends the step that began with the last one."""

    def __init__(self) -> None:
        super().__init__()
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self[step] = self.get(step, 0.0) + now - self._last
        self._last = now


def summary(seconds: Sequence[float]) -> Json:
    """Median and quartiles in milliseconds, and how many values they stand for."""
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    return {"ms": 1000 * middle, "low": 1000 * low, "high": 1000 * high, "count": len(seconds)}


def ratios(measured: Mapping[str, Json], of: str) -> dict[str, float]:
    """How many times as long each takes as the one called `of`."""
    return {name: values["ms"] / measured[of]["ms"] for name, values in measured.items()}


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Least squares line through points: (per unit of x, at x = 0)."""
    per_unit, at_zero = np.polyfit(x, y, 1)
    return float(per_unit), float(at_zero)


def rounded(value: Any) -> Any:
    """Floats in nested JSON values to four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch with so many threads, and what it had before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def simulated_film(height: int, width: int, seed: int = 0) -> np.ndarray:
    """One of the simulated films of `examples/`, enlarged, with grain; uint8 (height, width).

    A film that the model reads: one that it refuses would have no map and cost less.
    """
    examples = sorted((ROOT / "examples").glob("*.png"))
    with Image.open(examples[seed % len(examples)]) as picture:
        film = np.asarray(picture.convert("L").resize((width, height), Image.Resampling.BICUBIC))
    grain = np.random.default_rng(seed).normal(0, 5, film.shape)
    return (film + grain).clip(0, 255).astype(np.uint8)


def as_jpeg(pixels: np.ndarray) -> bytes:
    """The bytes of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()
