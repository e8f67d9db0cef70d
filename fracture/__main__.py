"""Reads films from the command line: ``python -m fracture FILE... [--json] [--overlay DIR]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fracture.labels import PICTURE_SUFFIXES

if TYPE_CHECKING:
    from fracture.classifier import Classifier, Prediction

SUFFIXES = frozenset((*PICTURE_SUFFIXES, ".gif", ".dcm", ".dicom", ".heic", ".heif"))
MOST_WORKERS = 8  # each holds a film in memory, up to 50 megapixels


@dataclass(frozen=True)
class Job:
    """One file to read, and where its overlay goes (None: nowhere)."""

    file: str
    overlay: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 if a file failed, 2 if nothing could start."""
    options = _parser().parse_args(arguments)
    # A file's name may hold bytes that are not text; print those as escapes instead of failing.
    sys.stdout.reconfigure(errors="backslashreplace")
    files = [file for given in options.files for file in _expand(given, options.overlay)]
    jobs = _jobs(files, options.overlay)

    import torch
    from tqdm import tqdm

    from fracture.checkpoint import CheckpointError
    from fracture.classifier import Classifier
    from fracture.parallel import bounded_map

    workers = min(len(jobs), _cores(), MOST_WORKERS)
    if workers > 1:
        # One film a core: torch's own threads within a film would only fight over the same cores.
        torch.set_num_threads(1)
    try:
        if options.overlay is not None:
            options.overlay.mkdir(parents=True, exist_ok=True)
        classifier = Classifier.load(options.model)
    except (CheckpointError, OSError) as error:
        print(f"fracture: {error}", file=sys.stderr)
        return 2

    failed = False
    write = _json_line if options.json else _text_line
    bar = tqdm(total=len(jobs), unit="film", disable=len(jobs) < 2, mininterval=0.5)
    # On a terminal a line must not run into the bar.
    say = bar.write if sys.stdout.isatty() else print
    with bar:
        results = bounded_map(lambda job: (job, *read(classifier, job)), jobs, workers)
        for job, prediction, drawn in results:
            failed |= prediction.status == "error"
            say(write(job, prediction, drawn))
            bar.update()
    return int(failed)


def read(classifier: Classifier, job: Job) -> tuple[Prediction, bool]:
    """Read one film and draw its overlay; also says whether one was drawn. Never raises."""
    from PIL import Image

    from fracture.classifier import Prediction
    from fracture.film import TO_SCREEN, FilmError, read_film
    from fracture.view import overlay

    def failure(sentence: str) -> tuple[Prediction, bool]:
        return Prediction("error", None, {}, (sentence,)), False

    try:
        if os.path.isdir(job.file):
            return failure("There is no film in this folder.")
        film = read_film(job.file, limits=TO_SCREEN)
        if job.overlay is None:
            return classifier.predict(film), False
        prediction, heatmap = classifier.read(film)
        if heatmap is None:
            return prediction, False
        picture = Image.fromarray(overlay(film.display, heatmap))
        picture.save(job.overlay, quality=90, subsampling=0)
        return prediction, True
    except FilmError as error:
        return failure(str(error))
    except OSError as error:
        return failure(f"The overlay could not be written: {error.strerror or error}.")
    except Exception as error:  # one film must not end the others
        return failure(f"The model failed on this film ({type(error).__name__}: {error}).")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fracture",
        description="Says for each bone X-ray whether it shows a simple or a comminuted fracture. "
        "For teaching, not for diagnosis.",
        epilog="A line holds file, status, label, probabilities and reasons, separated by tabs. "
        "Status is ok, uncertain, refused (no verdict) or error. The exit status is 1 if any file "
        "failed.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a film, or a folder to search for films"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument(
        "--overlay",
        type=Path,
        metavar="DIR",
        help="write each film with its heatmap to DIR "
        "(very large ones at a half or a quarter of their size)",
    )
    parser.add_argument("--model", metavar="NAME", help="a checkpoint in models/ or a path to one")
    return parser


def _expand(given: str, overlays: Path | None) -> Iterator[str]:
    """A file as it is; a folder as the films below it (or itself, to be reported, if none)."""
    if not os.path.isdir(given):
        yield given
        return
    skipped = os.path.abspath(overlays) if overlays is not None else None
    found = False
    for folder, folders, names in os.walk(given):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.abspath(os.path.join(folder, name)) != skipped
        )
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.startswith(".") and _is_film(path):
                found = True
                yield path
    if not found:
        yield given


def _is_film(path: str) -> bool:
    """By its suffix; a DICOM file, which often has none, by its signature."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix:
        return suffix in SUFFIXES
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _jobs(files: Sequence[str], overlays: Path | None) -> list[Job]:
    """Give every film an overlay name that is its own and no film's."""
    if overlays is None:
        return [Job(file, None) for file in files]
    taken = {os.path.abspath(file) for file in files}
    jobs = []
    for file in files:
        stem = Path(file).stem[:80]
        number, target = 1, overlays / f"{stem}.overlay.jpg"
        while os.path.abspath(target) in taken:
            number += 1
            target = overlays / f"{stem}-{number}.overlay.jpg"
        taken.add(os.path.abspath(target))
        jobs.append(Job(file, target))
    return jobs


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _json_line(job: Job, prediction: Prediction, drawn: bool) -> str:
    line: dict[str, Any] = {
        "file": job.file,
        "status": prediction.status,
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        "reasons": prediction.reasons,
    }
    if drawn:
        line["overlay"] = str(job.overlay)
    return json.dumps(line)


def _text_line(job: Job, prediction: Prediction, drawn: bool) -> str:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in prediction.probabilities.items())
    # A name may hold tabs and line breaks, which would fake further columns and lines.
    name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in job.file)
    reasons = " ".join(prediction.reasons)
    return "\t".join((name, prediction.status, prediction.label or "-", shares or "-", reasons))


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # "| head" has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
