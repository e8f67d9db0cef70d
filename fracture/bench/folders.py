"""The command line on whole folders, and what everything weighs on the disk."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil

from fracture.bench.tools import ROOT, Amount, Json, as_jpeg, cores, simulated_film, slope, threads


def batch(amount: Amount) -> Json:
    """`python -m fracture --json DIR` against the model alone, folder by folder."""
    films = [as_jpeg(simulated_film(1250, 1000, seed)) for seed in range(4)]
    runs = []
    for count in amount.batches:
        with tempfile.TemporaryDirectory() as folder:
            _fill(Path(folder), films, count)
            seconds, memory = _read_folder(Path(folder), count)
        runs.append({"films": count, "seconds": seconds, "mb": max(mb for _, mb in memory)})
    per_film, at_zero = slope([r["films"] for r in runs], [r["seconds"] for r in runs])
    alone = _model_alone(films, max(amount.batches) // 2)
    return {
        "picture": "JPEG, 1,000 x 1,250 pixels",
        "runs": runs,
        "films_per_second": 1 / per_film,
        "seconds_before_the_first": at_zero,
        "model_alone_per_second": alone,
        "share_of_the_model_alone": 1 / per_film / alone,
    }


def many(amount: Amount) -> Json:
    """Memory of the command line while it reads one large folder, film for film."""
    films = [as_jpeg(simulated_film(1250, 1000, seed)) for seed in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), films, amount.many)
        seconds, memory = _read_folder(Path(folder), amount.many)
    return {"films": amount.many, "seconds": seconds, "memory": _thinned(memory)}


def _fill(folder: Path, films: Sequence[bytes], count: int) -> None:
    """Files of `films` in turns; equal ones share their place on the disk."""
    for number in range(count):
        file = folder / f"{number:05d}.jpg"
        if number < len(films):
            file.write_bytes(films[number])
        else:
            os.link(folder / f"{number % len(films):05d}.jpg", file)


def _read_folder(folder: Path, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Seconds that the command line takes for a folder, and its resident MB after so many films.

    Raises RuntimeError unless every film gets a verdict: one that is refused costs less.
    """
    command = [sys.executable, "-m", "fracture", "--json", str(folder)]
    start, said, memory = time.perf_counter(), [], []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    reader = threading.Thread(target=lambda: said.extend(process.stdout))
    reader.start()
    # looked at from outside: the kernel's own maximum would begin with this process's memory
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            memory.append((len(said), watched.memory_info().rss / 1e6))
        time.sleep(0.02)
    seconds = time.perf_counter() - start
    reader.join()
    statuses = Counter(json.loads(line)["status"] for line in said)
    if process.returncode or statuses["ok"] + statuses["uncertain"] != count:
        raise RuntimeError(f"python -m fracture ended with {process.returncode}, {statuses}")
    return seconds, memory


def _thinned(memory: Sequence[tuple[int, float]], points: int = 50) -> list[tuple[int, float]]:
    """The most that was held in each of so many parts of a run: (films done, MB)."""
    films, mb = np.array(memory).T
    edges = np.linspace(0, films[-1], points + 1)[1:]
    part = np.searchsorted(edges, films)
    return [(round(edges[i]), float(mb[part == i].max())) for i in range(points) if i in part]


def _model_alone(films: Sequence[bytes], count: int) -> float:
    """Decoded films a second, one thread of torch on each core, as the command line works."""
    import torch

    from fracture.classifier import Classifier
    from fracture.film import read_film
    from fracture.parallel import bounded_map

    workers = cores()
    classifier, decoded = Classifier.load(), [read_film(film) for film in films]
    given = [decoded[n % len(decoded)] for n in range(count)]
    with threads(1 if workers > 1 else torch.get_num_threads()):
        list(bounded_map(classifier.predict, decoded, workers))  # warm-up
        start = time.perf_counter()
        list(bounded_map(classifier.predict, given, workers))
        return count / (time.perf_counter() - start)


# Python's own image with Debian and the packages that Spaces adds, unpacked; an estimate.
BASE_IMAGE_MB = 1100


def sizes(_: Amount) -> Json:
    """Megabytes of the checkpoints, a clone, the installed environment and a Space's image."""
    found: Json = {
        "checkpoints_mb": {p.name: p.stat().st_size / 1e6
                           for p in sorted((ROOT / "models").glob("*.safetensors"))},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        command = ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            found["clone_mb"] = _tree_mb(clone)
            found["clone_history_mb"] = _tree_mb(clone / ".git")
    total, cuda = installed_mb(ROOT / "requirements.txt")
    found["environment_mb"] = total
    found["environment_without_cuda_mb"] = total - cuda
    found["space_image_estimate_mb"] = BASE_IMAGE_MB + total + found.get("clone_mb", 0.0)
    return found


def installed_mb(requirements: Path) -> tuple[float, float]:
    """Megabytes of what a requirements file brought in with all it needs, and CUDA's part of it."""
    from packaging.requirements import Requirement

    lines = (line.split("#")[0].strip() for line in requirements.read_text().splitlines())
    wanted = [Requirement(line) for line in lines if line and not line.startswith("-")]
    seen: set[str] = set()
    total = cuda = 0.0
    while wanted:
        name = wanted.pop().name.lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for text in package.requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                wanted.append(needed)
        for file in package.files or ():
            path = Path(file.locate())
            size = path.stat().st_size / 1e6 if path.is_file() else 0.0
            total += size
            if name.startswith(("nvidia", "cuda", "triton")) or "cuda" in path.name:
                cuda += size
    return total, cuda


def _tree_mb(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
