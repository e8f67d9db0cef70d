"""Get the public data sets, and find out which of their pictures show the same film.

    python -m fracture.data fetch            download the Mendeley set and FracAtlas into data/
    python -m fracture.data prepare DIR      group copies of a film, write DIR/labels.csv
    python -m fracture.data copies DIR       list copies that labels.csv has in two groups
    python -m fracture.data evaluate DIR     measure how well copies are found

``labels.csv`` is what :mod:`fracture.labels` reads and ``train.py`` trains on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fracture.copies import (
    THRESHOLD,
    Copy,
    Links,
    Progress,
    Signatures,
    find_copies,
    open_thumbnail,
    signature_of,
)
from fracture.copytest import GroupingResult, evaluate_grouping
from fracture.download import SOURCES, FetchError, fetch
from fracture.labels import (
    SAME_FILM,
    LabelsError,
    Record,
    film_name,
    film_number,
    find_pictures,
    folder_label,
    join_groups,
    read_labels,
    read_same_film,
)

__all__ = [
    "GroupingResult",
    "PrepareReport",
    "copies_across_groups",
    "evaluate_grouping",
    "main",
    "prepare",
]

COLUMNS = (
    "id",
    "file",
    "source",
    "group",
    "label",
    "agreement",
    "pattern",
    "region",
    "dataset_class",
    "width",
    "height",
    "boxes",
    "sha256",
)


@dataclass(frozen=True)
class PrepareReport:
    """What :func:`prepare` found in a folder of pictures.

    Attributes:
        pictures: readable pictures, all of them in ``labels.csv``.
        films: groups they fall into.
        by_label: pictures of each label.
        joined_by_name: pictures joined to another film's because of their name.
        joined_by_picture: pictures joined to another film's because they look the same.
        films_across_classes: films that occur under more than one class.
        pictures_across_classes: pictures of those films.
        films_across_folders: films that occur in more than one folder (class folders aside),
            such as ``train`` and ``test``.
        pictures_across_folders: pictures of those films.
        largest_film: pictures of the film that has most.
        unreadable: files that are no pictures or are truncated; they are left out.
        across_classes: the ids of ``films_across_classes``, film by film.
    """

    pictures: int
    films: int
    by_label: dict[str, int]
    joined_by_name: int
    joined_by_picture: int
    films_across_classes: int
    pictures_across_classes: int
    films_across_folders: int
    pictures_across_folders: int
    largest_film: int
    unreadable: tuple[str, ...]
    across_classes: tuple[tuple[str, ...], ...]

    def sentences(self) -> list[str]:
        """The report for a person."""
        labels = ", ".join(f"{count} {label}" for label, count in self.by_label.items())
        lines = [
            f"{self.pictures} pictures ({labels}) of {self.films} films; "
            f"the film with most has {self.largest_film}.",
            f"Copies: {self.joined_by_name} joined by file name, "
            f"{self.joined_by_picture} more because the pictures look the same.",
            f"Across classes: {self.films_across_classes} films "
            f"({self.pictures_across_classes} pictures).",
            f"Across folders: {self.films_across_folders} films "
            f"({self.pictures_across_folders} pictures).",
        ]
        if self.unreadable:
            lines.append(
                f"{len(self.unreadable)} unreadable or truncated files were left out, "
                f"the first {self.unreadable[0]}."
            )
        return lines


def prepare(
    root: Path,
    out: Path,
    *,
    threshold: float = THRESHOLD,
    progress: Progress = lambda items, _: items,
) -> PrepareReport:
    """Give every picture below a folder a label and a group, and write them down.

    The label is what the nearest folder's name states (:func:`fracture.labels.folder_label`),
    else ``unclear``. Pictures share a group if their names say that they are variants of one
    film of the same class, or if they look like copies of each other. Boxes are taken from COCO
    files found below the folder. A group is a film, not a patient: where a set says which films
    are of one patient, join those groups as well.

    Args:
        root: folder to search.
        out: the CSV to write; its files are named relative to the folder it lies in.
        threshold: as for :func:`fracture.copies.find_copies`.
        progress: wraps the loops, given a title.

    Raises:
        LabelsError: there is no picture.
    """
    kept: list[Path] = []
    sizes: list[tuple[int, int]] = []
    parts: list[Signatures] = []
    unreadable: list[str] = []
    for path in progress(find_pictures(root), "reading"):
        try:
            grey, size = open_thumbnail(path)
        except OSError:
            unreadable.append(_relative(path, root))
            continue
        kept.append(path)
        sizes.append(size)
        parts.append(signature_of(grey))
    if not kept:
        raise LabelsError(f"{root}: there is no readable picture.")

    classes = [_class_folder(path, root) for path in kept]
    labels = [folder_label(name) or "unclear" for name in classes]
    named = _same_names(kept, classes)
    copies = find_copies(
        Signatures.join(parts), threshold=threshold, joined=named, progress=progress
    )
    films = _films(len(kept), named, copies)
    across = [members for members in films if len({labels[index] for index in members}) > 1]
    places = [_place(path, root) for path in kept]
    spread = [members for members in films if len({places[index] for index in members}) > 1]
    torn = {index for members in across for index in members}
    group_of = {index: number for number, members in enumerate(films) for index in members}
    boxes = _coco_boxes(root)

    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for index, path in enumerate(kept):
            width, height = sizes[index]
            writer.writerow(
                {
                    "id": _relative(path, root),
                    "file": _relative(path, out.parent),
                    "source": _source(path, root),
                    "group": f"g{group_of[index]:05d}",
                    "label": labels[index],
                    "agreement": "classes differ" if index in torn else "dataset",
                    "pattern": "comminuted" if labels[index] == "Comminuted" else "",
                    "region": "",
                    "dataset_class": classes[index],
                    "width": width,
                    "height": height,
                    "boxes": json.dumps(boxes[path.name]) if path.name in boxes else "",
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
            )
    by_name = len(kept) - len(_films(len(kept), named, []))
    return PrepareReport(
        pictures=len(kept),
        films=len(films),
        by_label={label: Counter(labels)[label] for label in sorted(set(labels))},
        joined_by_name=by_name,
        joined_by_picture=len(kept) - len(films) - by_name,
        films_across_classes=len(across),
        pictures_across_classes=sum(map(len, across)),
        films_across_folders=len(spread),
        pictures_across_folders=sum(map(len, spread)),
        largest_film=max(map(len, films)),
        unreadable=tuple(unreadable),
        across_classes=tuple(
            tuple(_relative(kept[index], root) for index in members) for members in across
        ),
    )


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _class_folder(path: Path, root: Path) -> str:
    """Name of the nearest folder around a picture that states a label, "" if none does."""
    for folder in path.relative_to(root).parents:
        if folder_label(folder.name):
            return folder.name
    return root.resolve().name if folder_label(root.resolve().name) else ""


def _place(path: Path, root: Path) -> str:
    """The folders around a picture, those that state a label left out."""
    return "/".join(part for part in path.relative_to(root).parts[:-1] if not folder_label(part))


def _source(path: Path, root: Path) -> str:
    """Which data set a picture is from: as ``fetch`` names its folders, else the folder's name."""
    for folder in path.relative_to(root).parents:
        if folder.name in SOURCES:
            return folder.name
    return root.resolve().name


def _same_names(paths: Sequence[Path], classes: Sequence[str]) -> list[tuple[int, int]]:
    """Each picture with the first one of its class that has the same film's name."""
    first: dict[tuple[str, str], int] = {}
    return [
        (first.setdefault((name, film_number(path.name) or film_name(path.name)), index), index)
        for index, (path, name) in enumerate(zip(paths, classes, strict=True))
    ]


def _films(count: int, named: Iterable[tuple[int, int]], copies: Iterable[Copy]) -> list[list[int]]:
    """Indices of the pictures of each film, in the order of their first pictures."""
    links = Links(count)
    for one, other in named:
        links.join(one, other)
    for copy in copies:
        links.join(copy.first, copy.second)
    films: dict[int, list[int]] = {}
    for index in range(count):
        films.setdefault(links.root(index), []).append(index)
    return list(films.values())


def _coco_boxes(root: Path) -> dict[str, list[list[float]]]:
    """Boxes by picture name, as fractions, from every COCO file below a folder."""
    found: dict[str, list[list[float]]] = {}
    for path in sorted(root.rglob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            pictures = {picture["id"]: picture for picture in content["images"]}
            for annotation in content["annotations"]:
                picture = pictures[annotation["image_id"]]
                box = _fraction(annotation["bbox"], picture["width"], picture["height"])
                if box:
                    found.setdefault(Path(picture["file_name"]).name, []).append(box)
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            # Any other JSON file; a set may hold plenty of them.
            continue
    return found


def _fraction(box: Sequence[float], width: float, height: float) -> list[float] | None:
    """A box in pixels as fractions of the picture, trimmed to it; None if nothing is left."""
    left, right = (min(max(edge / width, 0.0), 1.0) for edge in (box[0], box[0] + box[2]))
    top, bottom = (min(max(edge / height, 0.0), 1.0) for edge in (box[1], box[1] + box[3]))
    if right <= left or bottom <= top:
        return None
    return [round(value, 4) for value in (left, top, right - left, bottom - top)]


def _bar(items: Iterable, title: str) -> Iterable:
    from tqdm import tqdm

    return tqdm(items, desc=title, leave=False)


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _run_fetch(args: argparse.Namespace) -> None:
    apis = {"mendeley": args.mendeley_api, "fracatlas": args.figshare_api}
    failures = []
    for name in SOURCES if args.set == "all" else [args.set]:
        try:
            folder = fetch(name, args.out, api=apis[name], any_licence=args.any_licence)
            print(f"Next: python -m fracture.data prepare {folder}")
        except FetchError as error:
            # One repository may be out of reach while the other is not.
            failures.append(str(error))
    if failures:
        raise FetchError("\n".join(failures))


def _run_prepare(args: argparse.Namespace) -> None:
    out = args.out or args.folder / "labels.csv"
    if out.exists() and not args.replace:
        raise LabelsError(f"{out} is there already; add --replace to write it anew.")
    report = prepare(args.folder, out, progress=_bar)
    for sentence in report.sentences():
        print(sentence)
    print(f"Written: {out}")
    _write_json(args.json, asdict(report))


def copies_across_groups(
    records: Sequence[Record],
    *,
    threshold: float = THRESHOLD,
    progress: Progress = lambda items, _: items,
) -> list[tuple[Record, Record, float]]:
    """Pairs of pictures that look like copies of one film but have different groups.

    Each is a leak: one half may be trained on and the other tested on.

    Returns:
        The pairs and their correlation, the surest first.
    """
    parts = [
        signature_of(open_thumbnail(record.path)[0]) for record in progress(records, "reading")
    ]
    found = find_copies(Signatures.join(parts), threshold=threshold, progress=progress)
    pairs = [(records[copy.first], records[copy.second], copy.score) for copy in found]
    torn = [pair for pair in pairs if pair[0].group != pair[1].group]
    return sorted(torn, key=lambda pair: -pair[2])


def _run_copies(args: argparse.Namespace) -> None:
    pairs = copies_across_groups(read_labels(args.folder), progress=_bar)
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "other"])
            writer.writerows([one.id, other.id] for one, other, _ in pairs)
    for one, other, score in pairs:
        print(f"{score:.2f}  {one.row}, {one.label}  =  {other.row}, {other.label}")
    print(f"{len(pairs)} pairs of pictures look like one film but are in two groups.")


def _run_evaluate(args: argparse.Namespace) -> None:
    records = read_labels(args.folder)
    if args.same_film.is_file():
        records = join_groups(records, read_same_film(args.same_film))
    result = evaluate_grouping(
        records, films=args.films, copies=args.copies, seed=args.seed, progress=_bar
    )
    print(f"{result.found} of {result.copies} copies found ({result.recall:.1%}).")
    for name, (made, found) in result.by_kind.items():
        print(f"  {name}: {found} of {made}")
    print(
        f"Among {result.films} films, {result.wrong_films} were joined with a film of another "
        f"group ({len(result.wrong)} pairs); {result.same_group} pairs of one group were joined."
    )
    _write_json(args.json, asdict(result) | {"recall": result.recall})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fracture.data", description=(__doc__ or "").split("\n\n")[0]
    )
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("fetch", help="download public data sets")
    command.add_argument("set", nargs="?", default="all", choices=[*SOURCES, "all"])
    command.add_argument("--out", type=Path, default=Path("data"), help="default: data/")
    command.add_argument("--any-licence", action="store_true", help="whatever the record states")
    command.add_argument("--mendeley-api", metavar="URL", help="another server of the same API")
    command.add_argument("--figshare-api", metavar="URL", help="another server of the same API")
    command.set_defaults(run=_run_fetch)

    command = commands.add_parser("prepare", help="group the copies of a film, write labels.csv")
    command.add_argument("folder", type=Path)
    command.add_argument(
        "--out", type=Path, metavar="CSV", help="default: labels.csv in the folder"
    )
    command.add_argument("--replace", action="store_true", help="overwrite the CSV")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON too")
    command.set_defaults(run=_run_prepare)

    command = commands.add_parser("copies", help="list copies that labels.csv has in two groups")
    command.add_argument("folder", type=Path, help="labelled films (read_labels)")
    command.add_argument("--out", type=Path, metavar="CSV", help="write the pairs of ids")
    command.set_defaults(run=_run_copies)

    command = commands.add_parser("evaluate", help="measure how well copies are found")
    command.add_argument("folder", type=Path, help="labelled films (read_labels)")
    command.add_argument("--films", type=int, default=300, help="how many to make copies of")
    command.add_argument("--copies", type=int, default=2, help="copies of each")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--same-film", type=Path, default=SAME_FILM, metavar="CSV", help="pairs known to be copies"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON too")
    command.set_defaults(run=_run_evaluate)

    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except (FetchError, LabelsError, OSError) as error:
        print(f"fracture.data: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fracture.data: stopped; run the same command to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
