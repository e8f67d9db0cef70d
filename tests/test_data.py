"""The data command: a folder of pictures becomes a labels.csv that can be trained on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance, ImageOps
from test_copies import make_film

from fracture import data
from fracture.labels import (
    check_trainable,
    film_name,
    group_folds,
    join_groups,
    read_labels,
    read_same_film,
)

MENDELEY = "Bone Fracture/Bone Fracture"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The Mendeley layout, with copies that names tell, copies that only pictures tell, and a
    film that is in both classes."""
    root = tmp_path / "mendeley"
    films = [make_film(seed) for seed in range(20, 25)]
    pictures = {
        "Orginal/Simple Bone Fracture/1_Simple Bone Fracture.jpg": films[0],
        "Orginal/Simple Bone Fracture/2_Simple Bone Fracture.jpg": films[1],
        "Orginal/Comminuted Bone Fracture/1_Comminuted Bone Fracture.jpg": films[2],
        "Orginal/Comminuted Bone Fracture/2_Comminuted Bone Fracture.jpg": films[3],
        # a variant by its name, and it looks like one
        "Augmented/Simple Bone Fracture/1_Simple Bone Fracture_rotate.jpg": films[0].rotate(12),
        # a variant by its name only: names are believed
        "Augmented/Simple Bone Fracture/2_Simple Bone Fracture_noise.jpg": films[4],
        # film 1 of the other class again, mirrored, under a number of its own
        "Augmented/Simple Bone Fracture/7_Simple Bone Fracture.jpg": ImageOps.mirror(films[2]),
        # film 2 again, brighter, with a name that says nothing
        "Augmented/Comminuted Bone Fracture/x.png": ImageEnhance.Brightness(films[3]).enhance(1.3),
    }
    for name, picture in pictures.items():
        path = root / MENDELEY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    whole = (root / MENDELEY / next(iter(pictures))).read_bytes()
    (root / MENDELEY / "Orginal/Simple Bone Fracture/9.jpg").write_bytes(whole[:2000])
    return root


def groups_by_name(csv_path: Path) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    with csv_path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            groups.setdefault(row["group"], set()).add(Path(row["file"]).stem)
    return groups


def test_prepare(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_path = tmp_path / "report.json"
    assert data.main(["prepare", str(folder), "--json", str(report_path)]) == 0
    assert {frozenset(names) for names in groups_by_name(folder / "labels.csv").values()} == {
        frozenset({"1_Simple Bone Fracture", "1_Simple Bone Fracture_rotate"}),
        frozenset({"2_Simple Bone Fracture", "2_Simple Bone Fracture_noise"}),
        frozenset({"1_Comminuted Bone Fracture", "7_Simple Bone Fracture"}),
        frozenset({"2_Comminuted Bone Fracture", "x"}),
    }
    report = json.loads(report_path.read_text())
    assert report["pictures"] == 8
    assert report["films"] == 4
    assert report["by_label"] == {"Comminuted": 3, "Simple": 5}
    assert report["joined_by_name"] == 2
    assert report["joined_by_picture"] == 2
    assert report["films_across_classes"] == 1
    assert report["pictures_across_classes"] == 2
    assert report["films_across_folders"] == 4
    assert report["largest_film"] == 2
    assert report["unreadable"] == [f"{MENDELEY}/Orginal/Simple Bone Fracture/9.jpg"]
    (torn,) = report["across_classes"]
    assert {Path(name).stem for name in torn} == {
        "1_Comminuted Bone Fracture",
        "7_Simple Bone Fracture",
    }
    said = capsys.readouterr().out
    assert "8 pictures (3 Comminuted, 5 Simple) of 4 films" in said
    assert "2 joined by file name, 2 more because the pictures look the same" in said
    assert "1 unreadable or truncated files were left out" in said

    records = read_labels(folder)
    check_trainable(records)
    assert {record.source for record in records} == {"mendeley"}
    assert {record.agreement for record in records if Path(record.id).name in torn} <= {
        "classes differ"
    }
    assert sum(record.agreement == "classes differ" for record in records) == 2
    assert all((record.width, record.height) == (240, 300) for record in records)
    folds = group_folds(records, 2)
    assert set(folds) == {0, 1}


def test_prepare_does_not_overwrite(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "labels.csv").write_text("mine")
    assert data.main(["prepare", str(folder)]) == 1
    assert "--replace" in capsys.readouterr().err
    assert (folder / "labels.csv").read_text() == "mine"
    assert data.main(["prepare", str(folder), "--replace"]) == 0
    assert len(read_labels(folder)) == 8


def test_prepare_fracatlas(tmp_path: Path) -> None:
    """FracAtlas: fractures of no stated kind, one picture in both classes, boxes in COCO form."""
    root = tmp_path / "fracatlas"
    for seed, name in [
        (0, "images/Fractured/IMG0000001.jpg"),
        (1, "images/Fractured/IMG0000002.jpg"),
        (2, "images/Non_fractured/IMG0000003.jpg"),
        (0, "images/Non_fractured/IMG0000001.jpg"),
    ]:
        path = root / "FracAtlas" / "FracAtlas" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_film(seed + 40, (200, 100)).save(path)
    coco = {
        "images": [{"id": 5, "file_name": "IMG0000002.jpg", "width": 400, "height": 200}],
        "annotations": [
            {"image_id": 5, "bbox": [40, 20, 100, 50]},
            {"image_id": 5, "bbox": [350, 150, 100, 100]},
            {"image_id": 5, "bbox": [500, 500, 10, 10]},
        ],
    }
    (root / "coco.json").write_text(json.dumps(coco))
    (root / "source.json").write_text(json.dumps({"images": 3}))
    (root / "list.json").write_text("[1, 2")
    report = data.prepare(root, tmp_path / "elsewhere" / "labels.csv")
    assert report.films == 3
    assert report.films_across_classes == 1
    records = {record.path.stem: record for record in read_labels(tmp_path / "elsewhere")}
    assert records["IMG0000002"].label == "unclear"
    assert records["IMG0000002"].boxes == ((0.1, 0.1, 0.25, 0.25), (0.875, 0.75, 0.125, 0.25))
    assert records["IMG0000003"].label == "No fracture"
    assert records["IMG0000003"].source == "fracatlas"
    assert records["IMG0000001"].agreement == "classes differ"


def test_prepare_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").write_bytes(b"none")
    assert data.main(["prepare", str(tmp_path)]) == 1
    assert "there is no readable picture" in capsys.readouterr().err
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.parametrize(
    ("name", "film"),
    [
        ("12_Simple Bone Fracture_rotate.jpg", "12_simple bone fracture"),
        ("12_Simple Bone Fracture_horizontal_flip.jpg", "12_simple bone fracture"),
        ("10-rotated1-rotated2.jpg", "10"),
        ("film 3 - Copy.png", "film 3"),
        ("wrist7_brightness_1.2.jpg", "wrist7"),
        ("IMG0000019.jpg", "img0000019"),
        # Without a number of its own, a name does not tell which film it is.
        ("simple_aug_12.jpg", "simple_aug_12"),
        ("Fracture (12).jpg", "fracture (12)"),
        ("rotated.jpg", "rotated"),
        ("hand_jpg.rf.0123456789abcdef0123456789abcdef.jpg", "hand"),
    ],
)
def test_film_name(name: str, film: str) -> None:
    assert film_name(name) == film


def test_evaluate_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data.main(["prepare", str(folder)])
    capsys.readouterr()
    figures = tmp_path / "figures.json"
    arguments = ["evaluate", str(folder), "--films", "2", "--copies", "2", "--json", str(figures)]
    assert data.main(arguments) == 0
    content = json.loads(figures.read_text())
    assert content["copies"] == 4
    assert content["recall"] == content["found"] / 4
    assert content["wrong"] == []
    assert f"{content['found']} of 4 copies found" in capsys.readouterr().out


def test_fetch_without_network(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    arguments = ["fetch", "mendeley", "--out", str(tmp_path)]
    assert data.main([*arguments, "--mendeley-api", "http://127.0.0.1:9/api"]) == 1
    said = capsys.readouterr().err
    assert "no connection to 127.0.0.1:9" in said
    assert "https://data.mendeley.com/datasets/vg95gvhj3y/3" in said
    both = ["--mendeley-api", "http://127.0.0.1:9/api", "--figshare-api", "http://127.0.0.1:9/v2"]
    assert data.main(["fetch", "--out", str(tmp_path), *both]) == 1
    said = capsys.readouterr().err
    assert "mendeley: no connection" in said
    assert "fracatlas: no connection" in said


def test_small_pictures_can_be_prepared(tmp_path: Path) -> None:
    for name in ("simple", "comminuted"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (1, 1), name.count("m") * 9).save(tmp_path / name / "1.png")
    report = data.prepare(tmp_path, tmp_path / "labels.csv")
    assert (report.pictures, report.films) == (2, 2)


def test_copies_across_groups(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.main(["prepare", str(folder)])
    rows = list(csv.DictReader((folder / "labels.csv").open(newline="", encoding="utf-8")))
    for number, row in enumerate(rows):
        row["group"] = f"own{number}"
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    out = tmp_path / "pairs.csv"
    assert data.main(["copies", str(folder), "--out", str(out)]) == 0
    pairs = read_same_film(out)
    assert {frozenset(Path(name).stem for name in pair) for pair in pairs} == {
        frozenset({"1_Simple Bone Fracture", "1_Simple Bone Fracture_rotate"}),
        frozenset({"1_Comminuted Bone Fracture", "7_Simple Bone Fracture"}),
        frozenset({"2_Comminuted Bone Fracture", "x"}),
    }
    assert "3 pairs of pictures look like one film" in capsys.readouterr().out
    joined = join_groups(read_labels(folder), pairs)
    assert len({record.group for record in joined}) == 5
