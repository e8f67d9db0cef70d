"""Which pictures there are, what they show, and which of them belong together.

Two layouts are read into the same list of :class:`Record`:

* a folder with a ``labels.csv`` (columns ``id, file, group, label`` and, where known, ``source,
  agreement, pattern, region, width, height, boxes``);
* the Mendeley set as its download unpacks: ``.../Simple Bone Fracture/*.jpg`` and
  ``.../Comminuted Bone Fracture/*.jpg`` at any depth, below folders named ``Orginal`` (so spelt)
  and ``Augmented``.

Everything that is wrong with the labels is found here, before any training starts, and reported
as a :class:`LabelsError` that names the row.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

CLASSES = ("Comminuted", "Simple", "No fracture")
"""The labels a model is trained on, in the order of the networks' outputs."""

OTHER_LABELS = ("unclear", "not_limb_radiograph")
"""Labels of pictures that no class fits; kept to test abstention and refusal."""

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

_LABELS = {label.lower().replace(" ", "_"): label for label in CLASSES + OTHER_LABELS}
_REQUIRED_COLUMNS = ("id", "file", "group", "label")
# Boxes are published with four decimals, so an edge may miss the border by a rounding.
_BOX_SLACK = 1e-3

SAME_FILM = Path(__file__).with_name("same_film.csv")
"""Pairs of pictures of the project's data that are of one film in spite of their groups."""

# Words that augmentation tools and file managers append to a picture's name.
_VARIANT = re.compile(
    r"""[\s_.-]*(?:
        (?:random|horizontal|vertical|h|v)?[\s_-]*(?:flip(?:ped)?|mirror(?:ed)?)
      | rot(?:at(?:e|ed|ion))? | (?:light|dark)?bright(?:ness|er|ened)? | dark(?:er|ened)?
      | contrast | gamma | noise | noisy | blur(?:red)? | crop(?:ped)? | zoom(?:ed)?
      | shift(?:ed)? | shear(?:ed)? | transl(?:ate|ated|ation) | scaled? | resized?
      | sharpen(?:ed)? | equali[sz]ed? | clahe | invert(?:ed)? | negative | elastic
      | aug(?:ment(?:ed|ation)?)? | cop(?:y|ie) | kopie
    )(?:[\s_-]*[+-]?\d+(?:\.\d+)?(?:deg)?)?$""",
    re.VERBOSE,
)

Box = tuple[float, float, float, float]


class LabelsError(ValueError):
    """The labels cannot be trained on; the message names the file and the row."""


@dataclass(frozen=True)
class Record:
    """One picture and what is known of it.

    Attributes:
        id: unique name of the picture.
        path: the picture's file, which exists.
        source: where it comes from (``"fracatlas"``, ``"mendeley"`` ...; ``""`` if unknown).
        group: pictures of one patient or film share a group and are never split.
        label: one of :data:`CLASSES` or :data:`OTHER_LABELS`.
        agreement: how sure the label is (``"both readers"``, ``"dataset"`` ...).
        pattern: finer description of the fracture, or why the picture is unclear.
        region: body part.
        boxes: fracture boxes ``(x, y, width, height)`` as fractions of the picture's width and
            height, from its top left corner.
        width: pixels.
        height: pixels.
        line: the row's line in ``labels.csv``; 0 for a picture found in a class folder.
    """

    id: str
    path: Path
    source: str
    group: str
    label: str
    agreement: str
    pattern: str
    region: str
    boxes: tuple[Box, ...]
    width: int
    height: int
    line: int = 0

    @property
    def row(self) -> str:
        """The record as an error message calls it: ``line 12 (id fa_0000019)``."""
        return f"line {self.line} (id {self.id})" if self.line else f"picture {self.id}"


def read_labels(path: str | os.PathLike[str]) -> list[Record]:
    """Read all pictures of a data set.

    Args:
        path: a ``labels.csv``, a folder that holds one, or a folder with the Mendeley layout.
            Files in a ``labels.csv`` are named relative to the folder it lies in.

    Returns:
        One record a picture, in the order of the file (of the sorted paths for class folders).

    Raises:
        LabelsError: nothing to read, a missing or unreadable picture, an unknown label, boxes
            that are not boxes, an id that occurs twice. The message names the row.
    """
    path = Path(path)
    if path.is_file():
        return _read_csv(path)
    if not path.is_dir():
        raise LabelsError(f"{path}: there is no such file or folder.")
    if (path / "labels.csv").is_file():
        return _read_csv(path / "labels.csv")
    return _read_class_folders(path)


def read_usable_labels(path: str | os.PathLike[str]) -> tuple[list[Record], list[str]]:
    """Read what can be used of a teacher's ``labels.csv``; training is stricter.

    Args:
        path: a ``labels.csv`` or the folder that holds one. Only the columns ``file`` and
            ``label`` must be there: without an id a picture is called by its file, without a
            group it is one of its own.

    Returns:
        The good records, and a sentence naming the row for each one that is broken.

    Raises:
        LabelsError: no readable CSV file with these columns.
    """
    path = Path(path)
    path = path / "labels.csv" if path.is_dir() else path
    records: list[Record] = []
    complaints: list[str] = []
    for found in _csv_records(path, ("file", "label")):
        if isinstance(found, LabelsError):
            complaints.append(str(found))
        else:
            records.append(found)
    return records, complaints


def read_films(path: str | os.PathLike[str], boxes: str | os.PathLike[str]) -> list[Record]:
    """Read a data set as training and evaluation see it.

    Boxes that were drawn later are added if the file ``boxes`` exists, and the groups of pictures
    that are known to be of one film (:data:`SAME_FILM`) are joined.

    Raises:
        LabelsError: see :func:`read_labels` and :func:`read_boxes`.
    """
    records = read_labels(path)
    if Path(boxes).exists():
        records = with_boxes(records, read_boxes(boxes))
    return join_groups(records, read_same_film())


def default_data() -> Path:
    """The folder named by ``FRACTURE_DATA``, else the first of the usual places that exists."""
    places = [os.environ.get("FRACTURE_DATA"), "data", "../shared/data"]
    return next((Path(p) for p in places if p and Path(p).exists()), Path("data"))


def read_boxes(path: str | os.PathLike[str]) -> dict[str, tuple[Box, ...]]:
    """Read fracture boxes that were drawn later, for pictures whose source has none.

    Args:
        path: CSV with the header ``id,boxes``; boxes is a JSON list of ``[x, y, width, height]``
            as fractions of the picture (``[]`` or nothing: no box).

    Raises:
        LabelsError: an unreadable file, a column missing, bad boxes, an id that occurs twice.
    """
    path = Path(path)
    found: dict[str, tuple[Box, ...]] = {}
    for line, row in _csv_rows(path, ("id", "boxes")):
        if isinstance(row, LabelsError):
            raise row
        where = f"{path}, line {line} (id {row['id']})"
        if row["id"] in found:
            raise LabelsError(f"{where}: this id occurs twice.")
        found[row["id"]] = _parse_boxes(row["boxes"], where)
    return found


def with_boxes(records: Iterable[Record], boxes: Mapping[str, tuple[Box, ...]]) -> list[Record]:
    """Add boxes from :func:`read_boxes` to the records that have none of their own.

    A record's own boxes (the radiologists') always stay. Boxes of pictures that are not among
    the records are ignored, so that one file of boxes serves every subset of a data set.
    """
    return [
        record if record.boxes else replace(record, boxes=tuple(boxes.get(record.id, ())))
        for record in records
    ]


def read_same_film(path: str | os.PathLike[str] = SAME_FILM) -> list[tuple[str, str]]:
    """Read pairs of pictures that show one film though the labels have them in two groups.

    The file that comes with the package holds what ``python -m fracture.data copies`` found in
    the project's own data and a look at each pair confirmed.

    Args:
        path: CSV with the header ``id,other``.

    Raises:
        LabelsError: an unreadable file or a column missing.
    """
    return [(row["id"], row["other"]) for _, row in _csv_rows(Path(path), ("id", "other"))]


def join_groups(records: Sequence[Record], pairs: Iterable[tuple[str, str]]) -> list[Record]:
    """Give pictures that a pair connects, directly or through others, one group.

    Whole groups are joined, each under the name that sorts first. Pairs with a picture that is
    not among the records are ignored, so that one file of pairs serves every subset.
    """
    group_of = {record.id: record.group for record in records}
    leader = {group: group for group in group_of.values()}

    def find(group: str) -> str:
        while leader[group] != group:
            group = leader[group]
        return group

    for one, other in pairs:
        if one in group_of and other in group_of:
            first, second = sorted((find(group_of[one]), find(group_of[other])))
            leader[second] = first
    return [replace(record, group=find(record.group)) for record in records]


def parse_label(text: str) -> str:
    """The label that ``text`` means, whatever its case and spaces.

    Raises:
        LabelsError: no known label; the message lists the known ones.
    """
    label = _LABELS.get(text.strip().lower().replace(" ", "_"))
    if label is None:
        known = ", ".join(CLASSES + OTHER_LABELS)
        raise LabelsError(f"unknown label {text!r}; known are {known}.")
    return label


def folder_label(name: str) -> str | None:
    """The label that a folder's name states, None if it states none.

    ``Simple Bone Fracture``, ``Comminuted Bone Fracture`` (Mendeley), ``Fractured`` and
    ``Non_fractured`` (FracAtlas; its fractures are of no stated kind, so they are "unclear").
    """
    words = re.sub(r"[\W_]+", " ", name.lower()).strip()
    if re.match(r"(non?|not|un) ?fractured?\b|normal\b|healthy\b", words):
        return "No fracture"
    if re.match(r"comminuted\b", words):
        return "Comminuted"
    if re.match(r"simple\b", words):
        return "Simple"
    if re.match(r"fractured\b", words):
        return "unclear"
    return None


def film_number(name: str) -> str | None:
    """The original film's number in a Mendeley file name, None if it has none.

    >>> film_number("12_Simple Bone Fracture_rotate.jpg")
    '12'
    """
    found = re.match(r"0*(\d+)\s*[_ -]\s*(?:simple|comminuted)(?![a-z])", name.lower())
    return found.group(1) if found else None


def film_name(name: str) -> str:
    """A picture's file name without what tells the variants of one film apart.

    Endings are taken off only as long as a number is left of the name: ``12_rotated`` is a
    variant of film 12, but ``simple_aug_12`` need not be one of a film called "simple".

    >>> film_name("film 12_rotate-flipped 2.jpg")
    'film 12'
    >>> film_name("wrist_png.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg")
    'wrist'
    """
    stem = re.sub(r"\.\w+$", "", name.lower())
    stem = re.sub(r"_(jpe?g|png)\.rf\.[0-9a-f]{32}$", "", stem)
    while True:
        shorter = _VARIANT.sub("", stem).rstrip(" _-.")
        if shorter == stem or not re.search(r"\d", shorter):
            return stem
        stem = shorter


def check_trainable(records: Sequence[Record]) -> None:
    """Check that the records can teach a network to tell fractures apart.

    Raises:
        LabelsError: no picture of one of the two fracture classes; the message names the first
            row of the class that there is.
    """
    present = [record for record in records if record.label in CLASSES]
    if not present:
        raise LabelsError(f"None of the {len(records)} pictures has a label to train on.")
    for wanted in ("Simple", "Comminuted"):
        if not any(record.label == wanted for record in present):
            labels = sorted({record.label for record in present})
            raise LabelsError(
                f"No picture is labelled {wanted}: all {len(present)} are "
                f"{' or '.join(labels)}, from {present[0].row} on. Training needs both."
            )


def check_split(train: Sequence[Record], test: Sequence[Record]) -> None:
    """Check that no group, hence no patient and no film, is on both sides of a split.

    Raises:
        LabelsError: names the group and one row on each side.
    """
    trained = {record.group: record for record in train}
    for record in test:
        if record.group in trained:
            raise LabelsError(
                f"Group {record.group} is on both sides of the split: "
                f"{trained[record.group].row} is for training, {record.row} for testing."
            )


def sample(records: Sequence[Record], limit: int | None) -> list[Record]:
    """At most ``limit`` records (None: all), evenly through the list: no part of it is missing."""
    if not limit or limit >= len(records):
        return list(records)
    return [records[i * len(records) // limit] for i in range(limit)]


def group_folds(records: Sequence[Record], n_folds: int = 5, seed: int = 0) -> list[int]:
    """Share records out over folds so that each group stays whole and each fold looks alike.

    The largest groups are placed first, each into the fold where it disturbs the balance of the
    (label, source) strata least; ties go to the fold with the fewest pictures.

    Returns:
        The fold of each record, in ``range(n_folds)``, in the order of the records. It depends
        on the records and the seed only, not on their order; no fold is empty.

    Raises:
        ValueError: fewer groups than folds, or fewer than two folds.
    """
    groups = sorted({record.group for record in records})
    if n_folds < 2 or n_folds > len(groups):
        raise ValueError(
            f"{n_folds} folds need at least 2 folds and a group for each; "
            f"there are {len(groups)} groups."
        )
    strata = sorted({(record.label, record.source) for record in records})
    group_index = {group: index for index, group in enumerate(groups)}
    stratum_index = {stratum: index for index, stratum in enumerate(strata)}
    counts = np.zeros((len(groups), len(strata)))
    for record in records:
        counts[group_index[record.group], stratum_index[record.label, record.source]] += 1

    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    expected = counts.sum(axis=0) / n_folds
    load = np.zeros((n_folds, len(strata)))
    fold_of = np.zeros(len(groups), dtype=int)
    for group in order:
        # Growth of the sum of squared loads, each stratum weighed by its size: a fold that is
        # already rich in what the group holds pays most.
        growth = ((2 * load + counts[group]) * counts[group] / expected).sum(axis=1)
        best = np.lexsort((load.sum(axis=1), growth.round(9)))[0]
        load[best] += counts[group]
        fold_of[group] = best
    return [int(fold_of[group_index[record.group]]) for record in records]


def _csv_rows(
    path: Path, required: Sequence[str]
) -> Iterator[tuple[int, dict[str, str] | LabelsError]]:
    """The rows of a CSV file with their line numbers, cells stripped, none of them None.

    A row that is broken comes as the error that says so; a broken file raises it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in required if name not in (reader.fieldnames or ())]
            if missing:
                raise LabelsError(f"{path}, line 1: no column named {', '.join(missing)}.")
            for row in reader:
                cells = {name: (cell or "").strip() for name, cell in row.items() if name}
                where = f"{path}, line {reader.line_num}"
                if "id" in required and not cells["id"]:
                    yield reader.line_num, LabelsError(f"{where}: the id is empty.")
                elif None in row:
                    what = f" (id {cells['id']})" if "id" in cells else ""
                    yield (
                        reader.line_num,
                        LabelsError(f"{where}{what}: more cells than the header has columns."),
                    )
                else:
                    yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{path}: not a readable CSV file ({error}).") from error


def _read_csv(path: Path) -> list[Record]:
    records = []
    for found in _csv_records(path, _REQUIRED_COLUMNS):
        if isinstance(found, LabelsError):
            raise found
        records.append(found)
    if not records:
        raise LabelsError(f"{path}: the header is followed by no row.")
    return records


def _csv_records(path: Path, required: Sequence[str]) -> Iterator[Record | LabelsError]:
    first_line: dict[str, int] = {}
    for line, row in _csv_rows(path, required):
        if isinstance(row, LabelsError):
            yield row
            continue
        row["id"] = row.get("id") or row["file"]
        row["group"] = row["group"] if "group" in required else row.get("group") or row["id"]
        where = f"{path}, line {line} (id {row['id']})"
        if row["id"] in first_line:
            yield LabelsError(f"{where}: this id is already on line {first_line[row['id']]}.")
            continue
        try:
            record = _record(row, path.parent, line, where)
        except LabelsError as error:
            yield error
            continue
        first_line[row["id"]] = line
        yield record


def _record(row: Mapping[str, str], folder: Path, line: int, where: str) -> Record:
    picture = folder / row["file"]
    if not row["file"] or not picture.is_file():
        raise LabelsError(f"{where}: the picture {row['file'] or '(no name)'} is missing.")
    if not row["group"]:
        raise LabelsError(f"{where}: the group is empty.")
    try:
        label = parse_label(row["label"])
    except LabelsError as error:
        raise LabelsError(f"{where}: {error}") from None
    width, height = _stated_size(row, where) or _picture_size(picture, where)
    return Record(
        id=row["id"],
        path=picture,
        source=row.get("source", ""),
        group=row["group"],
        label=label,
        agreement=row.get("agreement", ""),
        pattern=row.get("pattern", ""),
        region=row.get("region", ""),
        boxes=_parse_boxes(row.get("boxes", ""), where),
        width=width,
        height=height,
        line=line,
    )


def _read_class_folders(root: Path) -> list[Record]:
    records = []
    for path in find_pictures(root):
        label = folder_label(path.parent.name)
        if label not in ("Simple", "Comminuted"):
            continue
        name = path.relative_to(root).as_posix()
        film = film_number(path.name) or film_name(path.name)
        width, height = _picture_size(path, f"picture {name}")
        records.append(
            Record(
                id=name,
                path=path,
                source="mendeley",
                group=f"{label.lower()}-{film}",
                label=label,
                agreement="dataset",
                pattern="",
                region="",
                boxes=(),
                width=width,
                height=height,
            )
        )
    if not records:
        raise LabelsError(
            f"{root}: neither a labels.csv nor pictures in folders named "
            "'Simple Bone Fracture' and 'Comminuted Bone Fracture'."
        )
    return records


def find_pictures(root: Path) -> list[Path]:
    """All picture files below a folder, sorted; hidden ones (``._12.jpg`` of a Mac) left out."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES
        and not path.name.startswith(".")
        and "__MACOSX" not in path.parts
        and path.is_file()
    )


def _stated_size(row: Mapping[str, str], where: str) -> tuple[int, int] | None:
    width, height = row.get("width", ""), row.get("height", "")
    if not width and not height:
        return None
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise LabelsError(f"{where}: width and height are {width!r} and {height!r}, not pixels.")
    return int(width), int(height)


def _picture_size(path: Path, where: str) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LabelsError(f"{where}: {path.name} is not a readable picture.") from error


def _parse_boxes(text: str, where: str) -> tuple[Box, ...]:
    """Boxes from their JSON, trimmed to the picture."""
    if not text:
        return ()
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise LabelsError(f"{where}: the boxes are not JSON: {text[:60]!r}.") from None
    if not isinstance(values, list):
        raise LabelsError(f"{where}: the boxes are not a list: {text[:60]!r}.")
    return tuple(_parse_box(value, where) for value in values)


def _parse_box(value: object, where: str) -> Box:
    if not (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(edge, (int, float)) and not isinstance(edge, bool) for edge in value)
        and all(math.isfinite(edge) for edge in value)
    ):
        raise LabelsError(f"{where}: a box is four numbers [x, y, width, height], not {value!r}.")
    x, y, width, height = value
    inside = (
        min(x, y) >= -_BOX_SLACK and x + width <= 1 + _BOX_SLACK and y + height <= 1 + _BOX_SLACK
    )
    if not (inside and width > 0 and height > 0):
        raise LabelsError(
            f"{where}: the box {value!r} is empty or reaches outside the picture "
            "(boxes are fractions of its width and height)."
        )
    left, top = max(x, 0.0), max(y, 0.0)
    return left, top, min(width + min(x, 0.0), 1 - left), min(height + min(y, 0.0), 1 - top)
