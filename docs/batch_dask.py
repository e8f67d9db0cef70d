"""Read a folder of 100,000 films with Dask, on this machine's cores or on a cluster.

    pip install "dask[distributed]"
    python docs/batch_dask.py FILMS OUT

OUT/films.txt lists the films, sorted, as found by the first run; OUT/part-00000.jsonl and so on
hold one JSON object a film: file, status, label, probabilities, reasons, as `python -m fracture
--json` prints. A part is written whole or not at all. Stop whenever you like: the same command
goes on with the parts that are missing. `--scheduler tcp://...` uses a cluster whose workers see
the same folders and have this repository and its requirements installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from distributed import Client, LocalCluster, as_completed

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Dask hands it on to its workers

PART = 200  # films; what a stop can cost, and about a minute's work


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there in full or not at all, whenever the machine stops."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def find_films(folder: Path) -> Iterator[str]:
    """Paths of the films below a folder, sorted within each folder."""
    from fracture.__main__ import SUFFIXES

    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES:
                yield os.path.join(place, name)


def listed(folder: Path, out: Path) -> list[str]:
    """The films to read: those that the first run found, so that parts stay what they are."""
    manifest = out / "films.txt"
    if not manifest.exists():
        write_whole(manifest, "".join(f"{json.dumps(f)}\n" for f in find_films(folder.resolve())))
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def read_part(films: Sequence[str], target: Path, model: str | None) -> dict[str, int]:
    """Read some films in a worker and write their part; returns how many had which status."""
    import torch

    from fracture import Classifier

    torch.set_num_threads(1)  # there is a worker for each core
    classifier = Classifier.load(model)
    # Whatever is wrong with a film, or with the model on it, is in its prediction.
    predictions = classifier.predict_batch(films)
    lines = [
        json.dumps(
            {
                "file": film,
                "status": prediction.status,
                "label": prediction.label,
                "probabilities": prediction.probabilities,
                "reasons": prediction.reasons,
            }
        )
        for film, prediction in zip(films, predictions, strict=True)
    ]
    write_whole(target, "\n".join(lines) + "\n")
    return dict(Counter(prediction.status for prediction in predictions))


def run(client: Client, films: Sequence[str], out: Path, part: int, model: str | None) -> int:
    """Read the parts that are missing; returns how many could not be made."""
    parts = {
        out / f"part-{number:05d}.jsonl": films[start : start + part]
        for number, start in enumerate(range(0, len(films), part))
    }
    missing = {path: some for path, some in parts.items() if not path.exists()}
    print(f"{len(films)} films, {len(parts)} parts, {len(missing)} to do", flush=True)
    futures = [client.submit(read_part, some, path, model) for path, some in missing.items()]
    seen: Counter[str] = Counter()
    failed, began = 0, time.perf_counter()
    for done, future in enumerate(as_completed(futures), start=1):
        if future.status == "finished":
            seen.update(future.result())
        else:  # a worker that died on it three times over; the other parts go on
            failed += 1
            print(f"a part failed: {future.exception()!r}", file=sys.stderr)
        future.release()
        pace = seen.total() / (time.perf_counter() - began)
        print(f"{done}/{len(futures)} parts, {pace:.1f} films/s, {dict(seen)}", flush=True)
    return failed


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 1 if a part is missing at the end."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("films", type=Path, help="a folder, searched through")
    parser.add_argument("out", type=Path, help="a folder for the list and the parts")
    parser.add_argument("--part", type=int, default=PART, help="films in a part")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, here")
    parser.add_argument("--scheduler", help="address of a Dask cluster, instead of processes here")
    parser.add_argument("--model", help="a checkpoint in models/ or a path to one")
    options = parser.parse_args(given)
    options.out.mkdir(parents=True, exist_ok=True)
    films = listed(options.films, options.out)
    work = (films, options.out.resolve(), options.part, options.model)
    if options.scheduler:
        with Client(options.scheduler) as client:
            return int(run(client, *work) > 0)
    local = {"n_workers": options.workers, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(host="127.0.0.1", **local) as cluster, Client(cluster) as client:
        return int(run(client, *work) > 0)


if __name__ == "__main__":
    sys.exit(main())
