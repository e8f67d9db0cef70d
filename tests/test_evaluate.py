"""The evaluation: on drawn films with random networks from end to end, and its parts by hand."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, draw_film
from PIL import Image

from fracture import (
    ablation,
    calibrate,
    card,
    evaluate,
    figures,
    foreign,
    heldout,
    metrics,
    pointing,
)
from fracture.checkpoint import save_checkpoint
from fracture.classifier import softmax
from fracture.film import read_film
from fracture.labels import CLASSES, group_folds, read_films, read_labels
from fracture.looktwice import LookTwice, Plan

COMMINUTED, SIMPLE, NONE = CLASSES
FOREIGN = ("photo", "cat", "text", "chest")  # all kinds take a quarter of a minute to draw and read


# ------------------------------------------------------------------------------ made-up rows
def made_up_rows(count: int, seed: int = 0, strength: float = 2.0) -> list[dict]:
    """Rows as `fracture.heldout` keeps them, whose evidence tells the truth more or less."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        label = rng.choice([COMMINUTED, SIMPLE, SIMPLE, NONE, NONE, "unclear"])
        web = label != NONE and rng.random() < 0.4
        broken = 0.0 if label == "unclear" else (-1.0 if label == NONE else 1.0)
        kind = {COMMINUTED: 1.0, SIMPLE: -1.0}.get(label, 0.0)
        hit = rng.random() < 0.8
        score = {"hit": float(hit), "energy": 0.5 * hit, "iou": [0.3 * hit] * len(heldout.CUTS)}
        maps = {}
        if label in (COMMINUTED, SIMPLE):
            maps = {"gradcam": dict.fromkeys(CLASSES, score), "locator": {label: score}}
            if i % 3 == 0:
                maps["hirescam"] = dict.fromkeys(CLASSES, score)
                flat = {"hit": 0.02, "energy": 0.01, "iou": score["iou"], "rank": 0.1}
                maps |= {name: {label: flat} for name in heldout.SHAKEN}
        row = {
            "id": f"f{seed}_{i}",
            "group": f"g{seed}_{i // 2}",
            "source": "bonebreak" if web else "fracatlas",
            "region": str(rng.choice(["wrist", "leg"])),
            "label": str(label),
            "pattern": {SIMPLE: "complete", "unclear": "none seen"}.get(label, ""),
            "agreement": "dataset" if label == NONE else "both readers",
            "fractured": [*(strength * broken + rng.normal(0, 1, 3)), 1.0],
            "comminuted": [*(strength * kind + rng.normal(0, 1, 2)), 1.0],
            "peak": [0.5, 0.5, 0.5],
            "unfit": i % 50 == 7,
            "foreign": -1 - i / count,
            "maps": maps,
        }
        if maps:
            row |= {"box_share": 0.01, "centre_hit": bool(rng.random() < 0.1)}
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def table() -> calibrate.Table:
    return calibrate.table_of({k: made_up_rows(120, seed=k) for k in range(3)})


@pytest.fixture(scope="module")
def evaluation(table: calibrate.Table) -> dict:
    """An evaluation JSON of made-up rows, as `measure` puts it together."""
    plan = calibrate.fit_plan(table, Plan())
    answers = calibrate.cross_fit(table, plan)
    uncertain, cut = calibrate.thresholds_of(table, plan)
    values = {
        "date": "2024-01-01",
        "folds": [0, 1, 2],
        "resamples": 2000,
        "data": {
            "films": 360,
            "groups": 180,
            "by_source": {"fracatlas": {SIMPLE: 100}, "bonebreak": {COMMINUTED: 20}},
            "with_boxes": {"fracatlas": 100, "bonebreak": 10},
            "held_out_films": 360,
            "held_out_groups": 180,
        },
        "sources": [{"name": "FracAtlas", "licence": "CC BY 4.0", "url": "https://doi.org/x"}],
        "plan": plan.to_metadata(),
        "thresholds": {"uncertain": uncertain, "comminuted": cut, "map": 0.5},
        "kind": evaluate.kind_of_fracture(table, answers),
        "fracture": evaluate.fractured_or_not(table, answers),
        "three_classes": evaluate.three_classes(table, answers),
        "abstention": evaluate.abstention(table, answers),
        "refusal": evaluate.refusal(
            table,
            [
                {"group": f"g{i}", "source": "cat" if i % 4 else "labels", "unfit": i == 1,
                 "foreign": 1.0 if i != 3 else -3.0}
                for i in range(20)
            ],
            plan,
        ),
        "explanation": pointing.explanation(table, answers),
        "cross_source": {},
    }
    return json.loads(json.dumps(values))


# ------------------------------------------------------------------------------ calibration
def test_probabilities_are_those_of_the_model() -> None:
    torch.manual_seed(0)
    model = LookTwice(Plan(fractured=(0.3, 0.9, 0.2, -0.4), comminuted=(1.2, 0.1, 0.3))).eval()
    sight = model.look(np.random.default_rng(0).random((300, 200), dtype=np.float32))
    fractured, comminuted = (e.tolist() for e in sight.evidence())
    table = calibrate.Table([{"fractured": fractured, "comminuted": comminuted}], np.zeros(1))
    mine = calibrate.probabilities(table, model.plan)[0]
    assert mine == pytest.approx(softmax(sight.logits), abs=1e-9)


def test_fitted_plan_calibrates_and_keeps_places_and_sides() -> None:
    rows = made_up_rows(3000, strength=0.7)
    table = calibrate.Table(rows, np.zeros(len(rows), dtype=int))
    plan = calibrate.fit_plan(table, Plan(places=2, sides=(0.3,)))
    assert plan.places == 2 and plan.sides == (0.3,)

    def error(plan: Plan) -> float:
        p = calibrate.probabilities(table, plan)[table.broken]
        truth = table.label[table.broken] == COMMINUTED
        w = np.ones((1, len(p)))
        return metrics.calibration_error(truth, p[:, 0] / p[:, :2].sum(axis=1), w)[0]

    assert error(plan) < 0.03 < 0.06 < error(Plan())
    assert Plan.from_metadata(json.loads(json.dumps(plan.to_metadata()))) == plan


def test_one_class_alone_leaves_the_plan_as_it_was() -> None:
    rows = [row for row in made_up_rows(80) if row["label"] == SIMPLE]
    table = calibrate.Table(rows, np.zeros(len(rows), dtype=int))
    assert replace(calibrate.fit_plan(table, Plan()), foreign=0.0) == Plan()
    assert calibrate.thresholds_of(table, Plan())[1] == 0.5


def test_no_film_has_a_say_in_its_own_answer(table: calibrate.Table) -> None:
    before = calibrate.cross_fit(table, Plan())
    own = table.part == 1
    swap = {COMMINUTED: SIMPLE, SIMPLE: COMMINUTED}
    rows = [
        row | {"label": swap.get(row["label"], row["label"])} if mine else row
        for row, mine in zip(table.rows, own, strict=True)
    ]
    after = calibrate.cross_fit(calibrate.Table(rows, table.part), Plan())
    for name in ("p", "uncertain", "cut"):
        assert (getattr(before, name)[own] == getattr(after, name)[own]).all()
        assert (getattr(before, name)[~own] != getattr(after, name)[~own]).any()


def test_a_single_fold_is_split_by_groups() -> None:
    table = calibrate.table_of({2: made_up_rows(60)})
    assert len(set(table.part)) == 5
    for group in set(table.group):
        assert len(set(table.part[table.group == group])) == 1


def test_the_threshold_answers_four_of_five_clear_films(table: calibrate.Table) -> None:
    answers = calibrate.cross_fit(table, Plan())
    found = evaluate.abstention(table, answers)
    assert 0.1 < found["clear"]["abstains"]["value"] < 0.3
    # the made-up unclear films hold no evidence at all
    assert found["unclear"]["abstains"]["value"] > 0.5
    assert found["auroc_unclear"]["value"] > 0.75
    assert set(found["by_reason"]) == {"none seen"}
    assert set(found["by_class"]) == set(CLASSES)


def test_refusal(evaluation: dict, table: calibrate.Table) -> None:
    found = evaluation["refusal"]
    assert found["real"]["pictures"] == len(table.rows)
    unfit, foreign = (table.column(name) for name in ("unfit", "foreign"))
    out = calibrate.cross_refused(table, Plan())
    assert out[unfit].all() and found["real"]["refused"]["value"] == pytest.approx(out.mean(), 1e-3)
    # each part's most foreign films go, as many as the other parts' threshold lets through
    assert calibrate.REFUSED / 2 < (out & ~unfit).mean() < calibrate.REFUSED * 1.5
    assert foreign[out & ~unfit].min() > np.quantile(foreign, 0.95)
    assert found["foreign"]["refused"]["value"] == pytest.approx(19 / 20)
    assert found["by_kind"]["labels"]["refused"]["value"] == 1
    assert found["by_kind"]["cat"]["pictures"] == 15


# ------------------------------------------------------------------------------ the questions
def test_kind_of_fracture(evaluation: dict, table: calibrate.Table) -> None:
    kind = evaluation["kind"]
    assert kind["full"]["films"] == int(table.broken.sum())
    assert kind["full"]["auroc"]["value"] > 0.9
    assert kind["surest_80"]["films"] == pytest.approx(0.8 * kind["full"]["films"], abs=1)
    assert (
        kind["surest_80"]["balanced_accuracy"]["value"]
        >= kind["full"]["balanced_accuracy"]["value"]
    )
    assert np.sum(kind["confusion"]["counts"]) == kind["full"]["films"]
    assert set(kind["by_source"]) == {"bonebreak", "fracatlas"}
    assert sum(part["films"] for part in kind["by_region"].values()) == kind["full"]["films"]
    assert set(kind["by_part"]) == {"0", "1", "2"}
    assert kind["curves"]["roc"]["true"][-1] == 1


def test_fractured_or_not_is_asked_of_the_source_that_has_both(
    evaluation: dict, table: calibrate.Table
) -> None:
    found = evaluation["fracture"]
    hospital = table.clear & (table.source == "fracatlas")
    assert found["one_source"]["films"] == int(hospital.sum())
    assert found["all"]["films"] == int(table.clear.sum())
    assert found["by_pattern"]["complete"]["films"] == int(
        (hospital & (table.label == SIMPLE)).sum()
    )


def test_parts_with_few_films_get_no_auroc() -> None:
    truth = np.array([True] * 2 + [False] * 30)
    rows = [row | {"region": "wrist"} for row in made_up_rows(32)]
    by = evaluate.part_measures(
        calibrate.Table(rows, np.zeros(32, dtype=int)), truth, np.where(truth, 0.9, 0.1)
    )
    assert "auroc" not in by("region")["wrist"]
    assert by("region")["wrist"]["accuracy"]["value"] == 1


# ------------------------------------------------------------------------------ the maps
def test_map_scores_by_hand() -> None:
    inside = np.zeros((10, 10), dtype=bool)
    inside[2:4, 2:6] = True  # 8 pixels
    heat = np.zeros((10, 10), dtype=np.float32)
    heat[2, 2:6], heat[7, 2:6] = 1.0, 0.5
    score = heldout.score_map(heat, inside)
    assert score.hit == 1
    assert score.energy == pytest.approx(4 / 6)
    iou = dict(zip(heldout.CUTS, score.iou, strict=True))
    assert iou[0.4] == pytest.approx(4 / 12)
    assert iou[0.6] == pytest.approx(4 / 8)
    # straight from the definition
    for cut, value in iou.items():
        above = heat >= cut
        assert value == pytest.approx((above & inside).sum() / (above | inside).sum())
    flat = heldout.score_map(np.zeros((10, 10), dtype=np.float32), inside, heat)
    assert flat.hit == flat.energy == pytest.approx(0.08)
    assert flat.rank == 0
    assert heldout.score_map(heat, inside, heat).rank == pytest.approx(1)


def test_boxes_become_pixels() -> None:
    inside = heldout.inside_boxes([(0.25, 0.5, 0.5, 0.25)], (8, 4))
    assert inside.sum() == 4 and inside[4:6, 1:3].all()
    tiny = heldout.inside_boxes([(0.26, 0.26, 0.001, 0.001)], (8, 4))
    assert tiny.sum() == 1 and tiny[2, 1]


def test_random_parts_are_random_and_the_others_shared() -> None:
    torch.manual_seed(1)
    model = LookTwice().eval()
    other = heldout.randomised(model, ("reader",))
    assert other.locator is model.locator
    assert not torch.equal(other.reader.head.weight, model.reader.head.weight)
    assert heldout.randomised(model, ("locator",)).reader is model.reader
    again = heldout.randomised(model, ("reader",))
    assert torch.equal(other.reader.head.weight, again.reader.head.weight)
    assert model.reader is not other.reader and not other.training


def test_iou_threshold_comes_from_other_parts() -> None:
    rows = made_up_rows(4)
    table = calibrate.Table(rows, np.array([0, 0, 1, 1]))
    best = [0.0] * len(heldout.CUTS)
    low, high = [*best], [*best]
    low[2], high[15] = 1.0, 1.0
    found = [{"hit": 1, "energy": 1, "iou": iou} for iou in (low, low, high, high)]
    # each part is judged at the threshold that suits the other one
    assert pointing.map_measures(table, found)["iou"]["value"] == 0


def test_the_measured_maps_are_those_that_the_app_shows() -> None:
    """On a film that is called unbroken: the map of the likelier fracture."""
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.2, 0.1, 0.7]])
    assert pointing.shown_classes(p).tolist() == [COMMINUTED, SIMPLE, COMMINUTED]
    rows = made_up_rows(60)
    for row in rows:
        for target, score in row["maps"].get("gradcam", {}).items():
            row["maps"]["gradcam"][target] = score | {"hit": float(target == SIMPLE)}
    table = calibrate.Table(rows, np.zeros(len(rows), dtype=int))
    p = np.tile([0.1, 0.2, 0.7], (len(rows), 1))
    answers = calibrate.Answers(p, np.zeros(len(rows)), np.zeros(len(rows)))
    found = pointing.explanation(table, answers)
    assert found["methods"]["gradcam"]["predicted"]["hit"]["value"] == 1
    assert found["methods"]["gradcam"]["true"]["hit"]["value"] < 1
    plan = Plan(fractured=(0, 0, 0, -3), comminuted=(0, 0, -3))  # says so of every film
    found = pointing.simulated([row for row in rows if row["maps"]], plan, cut=5)
    assert found["hit"]["value"] == 1 and found["called_fractured"]["value"] == 0


def test_explanation(evaluation: dict, table: calibrate.Table) -> None:
    found = evaluation["explanation"]
    hospital = table.broken & (table.source == "fracatlas")
    assert found["films"] == int(hospital.sum())
    assert found["methods"]["gradcam"]["true"]["films"] == found["films"]
    assert found["methods"]["hirescam"]["true"]["films"] < found["films"]
    assert found["default_on_sample"]["films"] == found["methods"]["hirescam"]["true"]["films"]
    assert found["baselines"]["random point"]["hit"]["value"] == pytest.approx(0.01)
    assert set(found["sanity"]) == set(heldout.SHAKEN)
    assert found["sanity"]["random weights"]["rank"] == pytest.approx(0.1)
    assert found["web_boxes"]["films"] == int((table.broken & (table.source != "fracatlas")).sum())


# ------------------------------------------------------------------------------ from end to end
@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty drawn films of twenty groups with a labels.csv."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rows = []
    labels = ("simple", "comminuted", "no_fracture", "unclear", "not_limb_radiograph")
    for i in range(60):
        label = labels[i % 5]
        source = "bonebreak" if i % 2 and label != "no_fracture" else "fracatlas"
        file = f"images/{i}.png"
        Image.fromarray(draw_film(100, 80, gap=label != "no_fracture", seed=i)).save(folder / file)
        broken = label in ("simple", "comminuted", "unclear") and source == "fracatlas"
        rows.append(
            {"id": f"f{i}", "file": file, "group": f"g{i // 2}_{source}", "label": label,
             "source": source, "agreement": "both readers", "pattern": "", "region": "wrist",
             "boxes": json.dumps([[0.4, 0.5, 0.2, 0.1]]) if broken else ""}
        )  # fmt: skip
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def random_looktwice(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = LookTwice()
    metadata = {
        "architecture": "looktwice",
        "classes": list(CLASSES),
        "input": model.input.to_metadata(),
        "plan": Plan(sides=(0.4,)).to_metadata(),
        "training": {"data": [{"name": "drawn films", "licence": "none"}]},
    }
    save_checkpoint(path, model, metadata, half=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, random_checkpoints: Path) -> Path:
    """Two folds, one source and one reference, all of them untrained."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("fold0", "fold1", "fracatlas-only")):
        random_looktwice(folder / f"looktwice-{name}" / "looktwice.safetensors", seed)
    (folder / "reference-fold0").mkdir()
    (folder / "reference-fold0" / "simplecnn.safetensors").symlink_to(
        random_checkpoints / "simplecnn.safetensors"
    )
    return folder


@pytest.fixture(scope="module")
def outcome(data: Path, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder in which the command wrote its JSON and figures."""
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign, "KINDS", FOREIGN)
        assert evaluate.main(words(data, runs, folder)) == 0
        yield folder


def words(data: Path, runs: Path, folder: Path, *more: str) -> list[str]:
    given = ["--data", data, "--runs", runs, "--boxes", folder / "none.csv",
             "--out", folder / "evaluation.json", "--figures", folder / "figures",
             "--explain-films", 1, "--simulated", 2]  # fmt: skip
    return [*map(str, given), *more]


def test_the_command_measures_every_held_out_film(outcome: Path, data: Path, runs: Path) -> None:
    values = json.loads((outcome / "evaluation.json").read_text())
    assert values["folds"] == [0, 1]
    records = [r for r in read_labels(data) if r.label != "not_limb_radiograph"]
    folds = group_folds(records)
    for k in (0, 1):
        store = json.loads((runs / f"looktwice-fold{k}" / "heldout.json").read_text())
        expected = {r.id for r, f in zip(records, folds, strict=True) if f == k}
        assert {row["id"] for row in store["rows"]} == expected
        with np.load(runs / f"looktwice-fold{k}" / "heldout.npz") as file:
            assert set(file["ids"]) == expected
            assert file["pooled"].shape == (len(expected), 536)
    assert values["data"]["held_out_films"] == sum(f in (0, 1) for f in folds)
    assert values["plan"]["sides"] == [0.4]
    assert values["sources"] == [{"name": "drawn films", "licence": "none"}]
    assert set(values["cross_source"]) == {"fracatlas"}
    assert values["cross_source"]["fracatlas"]["tested_on"] == ["bonebreak"]
    assert set(values["explanation"]["methods"]) == set(LookTwice.methods)
    assert "SimpleCNN, Grad-CAM" in values["explanation"]["baselines"]
    assert set(values["explanation"]["sanity"]) == set(heldout.SHAKEN)
    assert values["simulated"]["films"] == 2
    kinds = values["refusal"]["by_kind"]
    assert {"labels", "scikit-image", "cat"} <= set(kinds)
    # colour alone betrays most of them, whatever the network
    assert kinds["photo"]["refused"]["value"] > 0
    assert str(data) not in (outcome / "evaluation.json").read_text()
    assert (runs / "worst.jpg").exists()


def test_figures_can_be_read_on_dark_pages(outcome: Path) -> None:
    written = {path.stem for path in (outcome / "figures").glob("*.png")}
    assert {"roc", "reliability", "risk_coverage", "confusion", "explanation"} <= written
    for path in (outcome / "figures").glob("*.png"):
        with Image.open(path) as picture:
            assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
            assert np.asarray(picture.convert("L")).std() > 5


def test_a_second_run_reads_no_film_again(
    outcome: Path, data: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a film was read again")

    monkeypatch.setattr(heldout, "look_at", never)
    before = (outcome / "evaluation.json").read_text()
    assert evaluate.main(words(data, runs, outcome)) == 0
    assert (outcome / "evaluation.json").read_text() == before


def test_a_run_that_was_cut_off_goes_on(
    data: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = heldout.of_fold(read_labels(data), 0)[:5]
    checkpoint = runs / "looktwice-fold0" / "looktwice.safetensors"
    looked, real = [], heldout.look_at

    def look(instruments: heldout.Instruments, specimen: heldout.Specimen) -> tuple:
        looked.append(specimen.about["id"])
        if len(looked) == 4:
            raise KeyboardInterrupt
        return real(instruments, specimen)

    monkeypatch.setattr(heldout, "look_at", look)
    monkeypatch.setattr(heldout, "SAVE_EVERY", 2)
    store = tmp_path / "run" / "heldout.json"
    with pytest.raises(KeyboardInterrupt):
        heldout.read_held_out(checkpoint, records, store)
    rows = heldout.read_held_out(checkpoint, records, store)
    assert looked == [r.id for r in (*records[:4], *records[2:])]
    assert [row["id"] for row in rows] == [r.id for r in records]
    # rows by other weights are of no use
    random_looktwice(tmp_path / "other.safetensors", 7)
    stamp = {"checkpoint": heldout.fingerprint(tmp_path / "other.safetensors")}
    assert heldout.load_rows(store, stamp) == ({}, {})


def test_unclear_films_have_maps_of_the_predicted_class(runs: Path, data: Path) -> None:
    rows = json.loads((runs / "looktwice-fold0" / "heldout.json").read_text())["rows"]
    unclear = [row for row in rows if row["label"] == "unclear" and row["source"] == "fracatlas"]
    assert unclear
    for row in unclear:
        assert set(row["maps"]["gradcam"]) == set(CLASSES)


def test_no_run_is_a_sentence(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="python train.py --fold 0"):
        evaluate.main(words(data, tmp_path, tmp_path))


def test_wrong_labels_are_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture, runs: Path
) -> None:
    (tmp_path / "labels.csv").write_text("id,file,group,label\na,b.png,c,simple\n")
    assert evaluate.main(words(tmp_path, runs, tmp_path)) == 2
    assert "line 2 (id a)" in capsys.readouterr().err


def test_folds_are_those_of_training(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train

    monkeypatch.setattr("sys.argv", ["train.py", "--data", str(shared_data), "--fold", "3"])
    trained_on, held_out = train.split(train.arguments())
    own = heldout.of_fold(read_films(shared_data, evaluate.WEB_BOXES), 3)
    assert {r.id for r in held_out} == {r.id for r in own if r.id in {h.id for h in held_out}}
    assert not {r.group for r in own} & {r.group for r in trained_on}


# ------------------------------------------------------------------------------ the lesson
def test_the_lesson(
    data: Path, runs: Path, outcome: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = words(data, runs, outcome, "--epochs", "1", "--limit", "8")
    assert evaluate.main(["lesson", *given]) == 0
    values = json.loads((outcome / "evaluation.json").read_text())
    rows = [(row["model"], row["way"]) for row in values["lesson"]["rows"]]
    assert rows == [
        ("SimpleCNN", "its training pictures"),
        ("SimpleCNN", "random split of copies"),
        ("SimpleCNN", "unseen groups"),
        ("LookTwice", "its training pictures"),
        ("LookTwice", "unseen groups"),
    ]
    assert all(row["pictures"] > 0 for row in values["lesson"]["rows"])
    assert (outcome / "figures" / "lesson.png").exists()
    # films measured again keep the lesson; the lesson again trains nothing
    assert evaluate.main(words(data, runs, outcome)) == 0
    assert json.loads((outcome / "evaluation.json").read_text())["lesson"] == values["lesson"]
    capsys.readouterr()
    assert evaluate.main(["lesson", *given]) == 0
    assert "Epoch" not in capsys.readouterr().out
    # without the fold's run, its row stays
    (tmp_path / "lesson").mkdir()
    shutil.copy(runs / "lesson-8" / "simplecnn.json", tmp_path / "lesson")
    kept = evaluate.with_lesson(evaluate.arguments(words(data, tmp_path, outcome)), values)
    assert kept["lesson"]["rows"] == values["lesson"]["rows"]


# ------------------------------------------------------------------------------ the ablation
def test_the_ablation(data: Path, runs: Path, outcome: Path, tmp_path: Path) -> None:
    assert evaluate.main(["ablation", *words(data, runs, outcome)]) == 0
    values = json.loads((outcome / "evaluation.json").read_text())
    found = values["ablation"]
    own = [r for r in heldout.of_fold(read_labels(data), 0) if r.label in CLASSES]
    assert found["fold"] == 0 and found["films"] == len(own)
    rows = {row["change"]: row for row in found["rows"]}
    assert list(rows) == [
        "SimpleCNN, the whole film at 224 px",
        *(name for name, _, _ in ablation.STEPS),
    ]
    first, *others = rows.values()
    assert first["fracture"] is None and all(row["fracture"] for row in others)
    assert all(0 <= row[key]["value"] <= 1 for row in others for key in ("kind", "hit"))
    assert all(row["milliseconds"] > 1 for row in rows.values())
    text = card.ablation_section(found)
    assert all(f"| {name} |" in text for name in rows)
    assert evaluate.main(words(data, runs, outcome)) == 0  # films measured again keep it
    assert json.loads((outcome / "evaluation.json").read_text())["ablation"] == found
    with pytest.raises(SystemExit, match="comes after the films"):
        evaluate.main(["ablation", *words(data, runs, tmp_path)])


def test_training_minutes_are_the_curves(tmp_path: Path) -> None:
    (tmp_path / "locator.csv").write_text("epoch,loss,seconds\n1,2.0,60\n2,1.5,30.6\n")
    (tmp_path / "reader.csv").write_text("epoch,seconds\n1,30\n")
    assert ablation.training_minutes(tmp_path) == 2.0


def test_copies_of_a_film(data: Path) -> None:
    from fracture import lesson

    record = read_labels(data)[0]
    whole, mirrored, turned, exposed = lesson.with_copies(record, 0)
    assert whole.pixels.shape == (224, 224) and whole.pixels.dtype == torch.uint8
    gap = (whole.pixels.flip(1).float() - mirrored.pixels.float()).abs().max()
    assert gap <= 1
    pixels = read_film(record.path).pixels
    assert abs(float(whole.pixels.float().mean()) / 255 - pixels.mean()) < 0.01
    assert (turned.pixels != whole.pixels).any() and (exposed.pixels != whole.pixels).any()
    assert {p.group for p in (whole, mirrored, turned, exposed)} == {record.group}


# ------------------------------------------------------------------------------ the card
def test_card_says_what_the_json_says(evaluation: dict) -> None:
    text = card.card(evaluation)
    auroc = evaluation["kind"]["full"]["auroc"]
    assert f"{auroc['value']:.3f} ({auroc['low']:.3f} to {auroc['high']:.3f})" in text
    assert "not a medical device" in text
    assert "AI reader on contact sheets, not by a radiologist" in text
    assert "so far only 3 of 5 folds" in text
    assert "CC BY 4.0" in text
    assert "| AUROC, trained on FracAtlas, tested on web pictures | ≥ 0.88 | not measured |" in text
    for heading in ("## Data", "## How good it is", "## Where it fails", "## Known limits"):
        assert heading in text
    for line in text.splitlines():
        assert "None" not in line and "nan" not in line.split()


def test_card_admits_a_map_that_does_not_depend_on_the_reader(evaluation: dict) -> None:
    sentence = "With a random reader the map stays much the same"
    assert sentence not in card.card(evaluation)
    found = evaluation["explanation"]
    sanity = found["sanity"] | {"random reader": found["sanity"]["random reader"] | {"rank": 0.99}}
    assert sentence in card.card(evaluation | {"explanation": found | {"sanity": sanity}})


@pytest.mark.parametrize(("value", "said"), [(0.96, "yes"), (0.9, "no, by 0.050")])
def test_targets(evaluation: dict, value: float, said: str) -> None:
    figure = {"value": value, "low": value, "high": value}
    kind = evaluation["kind"] | {"full": evaluation["kind"]["full"] | {"auroc": figure}}
    first = card.targets_table(evaluation | {"kind": kind}).splitlines()[2]
    assert first.endswith(f"| {said} |")


def test_less_calibration_error_is_better(evaluation: dict) -> None:
    figure = {"value": 0.03, "low": 0.02, "high": 0.05}
    kind = evaluation["kind"] | {"full": evaluation["kind"]["full"] | {"ece": figure}}
    rows = card.targets_table(evaluation | {"kind": kind}).splitlines()
    (row,) = [row for row in rows if row.startswith("| Calibration error")]
    assert row.endswith("| ≤ 0.04 | 0.030 (0.020 to 0.050) | yes |")


def test_readme_block_is_replaced_and_nothing_else() -> None:
    text = f"# A\n\n{card.BEGIN}\nold\n{card.END}\n\nrest\n"
    assert card.with_block(text, "new\n") == f"# A\n\n{card.BEGIN}\nnew\n{card.END}\n\nrest\n"
    assert card.with_block(card.with_block(text, "x"), "new") == card.with_block(text, "new")
    with pytest.raises(ValueError, match="no part between"):
        card.with_block("# A\n", "new")


def test_card_command(evaluation: dict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "README.md").write_text(f"{card.BEGIN}\n{card.END}\n")
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert card.write(tmp_path / "evaluation.json", tmp_path) == 0
    assert (tmp_path / "models" / "README.md").read_text() == card.card(evaluation)
    assert card.summary(evaluation) in (tmp_path / "README.md").read_text()
    assert card.write(tmp_path / "absent.json", tmp_path) == 2
    assert "absent.json" in capsys.readouterr().err


@pytest.fixture(scope="module")
def committed() -> dict:
    path = REPOSITORY / "models" / "evaluation.json"
    if not path.exists():
        pytest.skip("no models/evaluation.json yet: python -m fracture.evaluate")
    return card.read(path)


def test_committed_card_and_readme_are_what_the_command_writes(committed: dict) -> None:
    assert (REPOSITORY / "models" / "README.md").read_text() == card.card(committed)
    text = (REPOSITORY / "README.md").read_text()
    assert card.with_block(text, card.summary(committed)) == text


def test_committed_figures_are_there(committed: dict, tmp_path: Path) -> None:
    for path in figures.draw(committed, tmp_path):
        assert (REPOSITORY / "models" / "figures" / path.name).exists()
