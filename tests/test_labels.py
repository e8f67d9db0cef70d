"""Labels: both layouts, every way a labels file can be wrong, and folds that keep groups whole."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fracture.labels import (
    CLASSES,
    LabelsError,
    Record,
    check_split,
    check_trainable,
    film_number,
    folder_label,
    group_folds,
    join_groups,
    read_boxes,
    read_labels,
    read_same_film,
    read_usable_labels,
    sample,
    with_boxes,
)

REPO = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FRACTURE_DATA", REPO.parent / "shared" / "data"))


def write_csv(folder: Path, rows: list[dict[str, str]], name: str = "labels.csv") -> Path:
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def good_rows(folder: Path) -> list[dict[str, str]]:
    (folder / "images").mkdir()
    rows = []
    for index, label in enumerate(["simple", "comminuted", "no_fracture", "unclear"]):
        Image.new("L", (20 + index, 30)).save(folder / "images" / f"{index}.png")
        rows.append(
            {
                "id": f"a{index}",
                "file": f"images/{index}.png",
                "group": f"g{index}",
                "label": label,
                "source": "here",
                "boxes": "[[0.5, 0.25, 0.5001, 0.5]]" if index == 0 else "",
            }
        )
    return rows


def make_record(index: int, *, group: str = "g", label: str = "Simple", source: str = "") -> Record:
    return Record(
        id=f"r{index}",
        path=Path(f"{index}.png"),
        source=source,
        group=group,
        label=label,
        agreement="",
        pattern="",
        region="",
        boxes=(),
        width=1,
        height=1,
        line=index + 2,
    )


def test_csv_by_folder_and_by_file(tmp_path: Path) -> None:
    path = write_csv(tmp_path, good_rows(tmp_path))
    records = read_labels(tmp_path)
    assert records == read_labels(path)
    assert [record.label for record in records] == [
        "Simple",
        "Comminuted",
        "No fracture",
        "unclear",
    ]
    first = records[0]
    assert (first.id, first.group, first.source, first.line) == ("a0", "g0", "here", 2)
    assert (first.width, first.height) == (20, 30)
    # One ten-thousandth over the edge is a rounding: it is trimmed to the picture.
    assert first.boxes == ((0.5, 0.25, 0.5, 0.5),)
    assert first.path.is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file": "images/none.png"}, "images/none.png is missing"),
        ({"file": ""}, "missing"),
        ({"label": "Segmental"}, "unknown label 'Segmental'"),
        ({"id": "a0"}, "already on line 2"),
        ({"group": ""}, "group is empty"),
        ({"boxes": "[[0.1, 0.1, 0.2"}, "not JSON"),
        ({"boxes": '{"x": 1}'}, "not a list"),
        ({"boxes": "[[0.1, 0.1, 0.2]]"}, "four numbers"),
        ({"boxes": '[[0.1, 0.1, 0.2, "1"]]'}, "four numbers"),
        ({"boxes": "[[0.1, 0.1, NaN, 0.1]]"}, "four numbers"),
        ({"boxes": "[[0.9, 0.1, 0.2, 0.1]]"}, "outside the picture"),
        ({"boxes": "[[20, 30, 15, 15]]"}, "outside the picture"),
        ({"boxes": "[[0.5, 0.5, 0, 0.1]]"}, "empty"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, str], words: str) -> None:
    rows = good_rows(tmp_path)
    rows[2].update(change)
    write_csv(tmp_path, rows)
    with pytest.raises(LabelsError) as error:
        read_labels(tmp_path)
    assert words in str(error.value)
    assert f"line 4 (id {rows[2]['id']})" in str(error.value)


def test_size_that_is_no_size_is_named(tmp_path: Path) -> None:
    rows = [{**row, "width": "20", "height": "30"} for row in good_rows(tmp_path)]
    rows[1]["width"] = "-5"
    write_csv(tmp_path, rows)
    with pytest.raises(LabelsError, match=r"line 3 \(id a1\).*'-5'"):
        read_labels(tmp_path)


def test_unreadable_inputs(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="no such file"):
        read_labels(tmp_path / "nowhere")
    with pytest.raises(LabelsError, match="neither a labels.csv"):
        read_labels(tmp_path)
    (tmp_path / "labels.csv").write_text("id,file,label\n")
    with pytest.raises(LabelsError, match="no column named group"):
        read_labels(tmp_path)
    (tmp_path / "labels.csv").write_text("id,file,group,label\n")
    with pytest.raises(LabelsError, match="no row"):
        read_labels(tmp_path)
    (tmp_path / "labels.csv").write_text("id,file,group,label\na,b,c,simple,surplus\n")
    with pytest.raises(LabelsError, match=r"line 2 \(id a\): more cells"):
        read_labels(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"id,file,group,label\n\xff\xfe,x,y,z\n")
    with pytest.raises(LabelsError, match="not a readable CSV"):
        read_labels(tmp_path)


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    rows = good_rows(tmp_path)
    (tmp_path / rows[1]["file"]).write_bytes(b"not a picture")
    write_csv(tmp_path, rows)
    with pytest.raises(LabelsError, match=r"line 3 \(id a1\).*not a readable picture"):
        read_labels(tmp_path)


@pytest.fixture
def mendeley(tmp_path: Path) -> Path:
    """The Mendeley download as it unpacks, in small."""
    root = tmp_path / "Bone Fracture" / "Bone Fracture"
    for folder, name in [
        ("Orginal/Simple Bone Fracture", "12_Simple Bone Fracture.jpg"),
        ("Orginal/Simple Bone Fracture", "2_Simple Bone Fracture.jpg"),
        ("Orginal/Comminuted Bone Fracture", "12_Comminuted Bone Fracture.jpg"),
        ("Augmented/Simple Bone Fracture", "12_Simple Bone Fracture_rotate.jpg"),
        ("Augmented/Simple Bone Fracture", "12_Simple Bone Fracture_horizontal_flip.jpg"),
        ("Augmented/Comminuted Bone Fracture", "12_Comminuted Bone Fracture_vertical_flip.jpg"),
        ("Augmented/Comminuted Bone Fracture", "._12_Comminuted Bone Fracture_rotate.jpg"),
        ("Augmented/Simple Bone Fracture", "picture without number.jpg"),
    ]:
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 30)).save(root / folder / name)
    return tmp_path


def test_mendeley_layout(mendeley: Path) -> None:
    records = read_labels(mendeley)
    assert len(records) == 7
    groups: dict[str, set[str]] = {}
    for record in records:
        groups.setdefault(record.group, set()).add(record.path.name)
        assert record.source == "mendeley"
        assert (record.width, record.height) == (40, 30)
    assert groups["simple-12"] == {
        "12_Simple Bone Fracture.jpg",
        "12_Simple Bone Fracture_rotate.jpg",
        "12_Simple Bone Fracture_horizontal_flip.jpg",
    }
    assert groups["comminuted-12"] == {
        "12_Comminuted Bone Fracture.jpg",
        "12_Comminuted Bone Fracture_vertical_flip.jpg",
    }
    assert set(groups) == {
        "simple-12",
        "simple-2",
        "comminuted-12",
        "simple-picture without number",
    }
    check_trainable(records)


def test_names() -> None:
    assert film_number("12_Simple Bone Fracture_rotate.jpg") == "12"
    assert film_number("007 - comminuted bone fracture.png") == "7"
    assert film_number("IMG0000019.jpg") is None
    assert film_number("2024_05_01.jpg") is None
    assert folder_label("Comminuted Bone Fracture") == "Comminuted"
    assert folder_label("simple_bone_fracture") == "Simple"
    assert folder_label("Non_fractured") == "No fracture"
    assert folder_label("Fractured") == "unclear"
    assert folder_label("Bone Fracture") is None


def test_boxes_drawn_later(tmp_path: Path) -> None:
    records = read_labels(write_csv(tmp_path, good_rows(tmp_path)))
    extra = write_csv(
        tmp_path,
        [
            {"id": "a0", "boxes": "[[0, 0, 0.1, 0.1]]"},
            {"id": "a1", "boxes": "[[0, 0, 0.5, 0.5], [0.5, 0.5, 0.25, 0.25]]"},
            {"id": "elsewhere", "boxes": "[]"},
        ],
        "boxes.csv",
    )
    boxes = read_boxes(extra)
    assert boxes["elsewhere"] == ()
    merged = with_boxes(records, boxes)
    assert merged[0].boxes == records[0].boxes
    assert merged[1].boxes == ((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 0.25, 0.25))
    assert merged[2:] == records[2:]
    extra.write_text('id,boxes\na1,"[[1, 2]]"\n')
    with pytest.raises(LabelsError, match=r"line 2 \(id a1\): a box is four numbers"):
        read_boxes(extra)


@pytest.mark.parametrize("only", ["Simple", "Comminuted"])
def test_one_class_only(only: str) -> None:
    records = [make_record(index, label=only) for index in range(3)]
    with pytest.raises(LabelsError, match=rf"all 3 are {only}, from line 2 \(id r0\)"):
        check_trainable(records)
    with_normal = [*records, make_record(3, label="No fracture")]
    with pytest.raises(LabelsError, match="all 4 are .* or .*, from line 2"):
        check_trainable(with_normal)


def test_nothing_to_train_on() -> None:
    with pytest.raises(LabelsError, match="None of the 1 pictures"):
        check_trainable([make_record(0, label="unclear")])


def test_group_on_both_sides() -> None:
    train = [make_record(0, group="x"), make_record(1, group="y")]
    test = [make_record(2, group="z"), make_record(3, group="y")]
    with pytest.raises(LabelsError, match=r"Group y .*line 3 \(id r1\).*line 5 \(id r3\)"):
        check_split(train, test)
    check_split(train, test[:1])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(CLASSES), st.sampled_from("ab")),
        min_size=40,
        max_size=120,
    ),
    st.integers(2, 5),
    st.randoms(),
)
def test_folds_keep_groups_whole(rows, n_folds, random) -> None:
    records = [
        make_record(index, group=str(group), label=label, source=source)
        for index, (group, label, source) in enumerate(rows)
    ]
    if len({record.group for record in records}) < n_folds:
        with pytest.raises(ValueError, match="folds"):
            group_folds(records, n_folds)
        return
    folds = group_folds(records, n_folds)
    assert set(folds) == set(range(n_folds))
    for fold in range(n_folds):
        check_split(
            [record for record, at in zip(records, folds, strict=True) if at != fold],
            [record for record, at in zip(records, folds, strict=True) if at == fold],
        )
    shuffled = list(zip(records, folds, strict=True))
    random.shuffle(shuffled)
    assert group_folds([record for record, _ in shuffled], n_folds) == [at for _, at in shuffled]


def test_folds_differ_by_seed() -> None:
    records = [make_record(index, group=str(index)) for index in range(40)]
    assert group_folds(records, seed=0) == group_folds(records, seed=0)
    assert group_folds(records, seed=0) != group_folds(records, seed=1)


def test_shared_data() -> None:
    if not (SHARED / "labels.csv").is_file():
        pytest.skip("the real radiographs are not on this machine")
    records = read_labels(SHARED)
    check_trainable(records)
    assert {record.label for record in records} == {*CLASSES, "unclear", "not_limb_radiograph"}
    assert any(record.boxes for record in records)
    used = [record for record in records if record.label in CLASSES]
    folds = group_folds(used)
    for label in CLASSES:
        for source in {record.source for record in used if record.label == label}:
            shares = Counter(
                fold
                for record, fold in zip(used, folds, strict=True)
                if (record.label, record.source) == (label, source)
            )
            # One FracAtlas group alone holds 84 films, so the balance cannot be exact.
            assert max(shares.values()) - min(shares.values()) <= max(2, 0.05 * shares.total())


def test_labels_need_no_torch() -> None:
    code = "import sys, fracture.labels; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO
    )
    assert done.stdout.split() == ["False", "False"]


def test_what_can_be_used_of_a_teachers_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (20, 30)).save(tmp_path / name)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG nothing more")
    (tmp_path / "labels.csv").write_text(
        "file,label,boxes\n"
        "a.png,simple,\n"
        "gone.png,simple,\n"
        "b.png,splintered,\n"
        "torn.png,comminuted,\n"
        "a.png,simple,\n"
        "b.png,comminuted,[]\n"
        'b.png,comminuted,"[[0, 0, 2, 2]]"\n'
        "a.png,simple,,too,much\n"
    )
    records, complaints = read_usable_labels(tmp_path)
    assert [(r.id, r.group, r.label) for r in records] == [
        ("a.png", "a.png", "Simple"),
        ("b.png", "b.png", "Comminuted"),
    ]
    lines = [int(c.split("line ")[1].split()[0].rstrip(":,(")) for c in complaints]
    assert lines == [3, 4, 5, 6, 8, 9]
    for words, complaint in zip(
        ("missing", "unknown label", "not a readable", "already on line 2",
         "already on line 7", "more cells"),
        complaints, strict=True,
    ):  # fmt: skip
        assert words in complaint
    with pytest.raises(LabelsError, match="no column named label"):
        read_usable_labels(write_csv(tmp_path, [{"file": "a.png"}], "other.csv"))
    with pytest.raises(LabelsError, match="not a readable CSV file"):
        read_usable_labels(tmp_path / "nowhere.csv")


def test_a_sample_goes_through_the_whole_list() -> None:
    records = [make_record(index) for index in range(150)]
    taken = [int(record.id[1:]) for record in sample(records, 100)]
    steps = {later - earlier for earlier, later in pairwise(taken)}
    assert len(taken) == 100 and taken[0] == 0 and taken[-1] == 148 and steps == {1, 2}
    assert sample(records, None) == sample(records, 999) == records


def test_join_groups(tmp_path: Path) -> None:
    records = [make_record(index, group="abcde"[index // 2]) for index in range(10)]
    path = tmp_path / "pairs.csv"
    path.write_text("id,other\nr9,r2\nr3,r5\nr0,elsewhere\n")
    joined = join_groups(records, read_same_film(path))
    assert [record.group for record in joined] == list("aabbbbddbb")
    assert join_groups(records, []) == records
    path.write_text("id,second\n")
    with pytest.raises(LabelsError, match="no column named other"):
        read_same_film(path)
