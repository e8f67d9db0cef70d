"""The command line on whole folders, and what everything weighs on the disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import psutil
from PIL import Image

from fracture.bench.tools import ROOT, Amount, Json, as_jpeg, cores, simulated_film, slope, threads


def batch(amount: Amount) -> Json:
    """`python -m fracture --json DIR` against the model alone, and its memory as folders grow."""
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        films = [as_jpeg(simulated_film(1250, 1000, seed)) for seed in range(4)]
        for count in amount.batches:
            part = Path(folder) / str(count)
            part.mkdir()
            for number in range(count):
                (part / f"{number}.jpg").write_bytes(films[number % len(films)])
            runs.append({"films": count, **_read_folder(part)})
        tiny = Path(folder) / "tiny"
        tiny.mkdir()
        Image.fromarray(simulated_film(48, 40)).save(tiny / "0.png")
        for number in range(1, amount.refused):
            os.link(tiny / "0.png", tiny / f"{number}.png")
        many = {"films": amount.refused, **_read_folder(tiny)}
    per_film, at_zero = slope([r["films"] for r in runs], [r["seconds"] for r in runs])
    alone = _model_alone(films, amount)
    return {
        "picture": "JPEG, 1,000 x 1,250 pixels",
        "runs": runs,
        "films_per_second": 1 / per_film,
        "seconds_before_the_first": at_zero,
        "model_alone_per_second": alone,
        "share_of_the_model_alone": 1 / per_film / alone,
        "mb_per_further_film": slope([r["films"] for r in runs], [r["mb"] for r in runs])[0],
        "too_small_to_be_judged": many,
    }


def _read_folder(folder: Path) -> Json:
    """Seconds and the highest resident memory seen of the command line on a folder."""
    command = [sys.executable, "-m", "fracture", "--json", str(folder)]
    start, highest = time.perf_counter(), 0
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    # looked at from outside: the kernel's own maximum would begin with this process's memory
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            highest = max(highest, watched.memory_info().rss)
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"python -m fracture ended with {process.returncode}")
    return {"seconds": time.perf_counter() - start, "mb": highest / 1e6}


def _model_alone(films: Sequence[bytes], amount: Amount) -> float:
    """Decoded films a second, one thread of torch on each core, as the command line works."""
    import torch

    from fracture.classifier import Classifier
    from fracture.film import read_film
    from fracture.parallel import bounded_map

    workers = cores()
    classifier, decoded = Classifier.load(), [read_film(film) for film in films]
    many = [decoded[n % len(decoded)] for n in range(max(amount.batches))]
    with threads(1 if workers > 1 else torch.get_num_threads()):
        list(bounded_map(classifier.predict, decoded, workers))  # warm-up
        start = time.perf_counter()
        list(bounded_map(classifier.predict, many, workers))
        return len(many) / (time.perf_counter() - start)


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
