"""The classroom: nothing impossible on offer, no truth before the answer, a class at once."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_film
from gradio_client import Client
from gradio_client.exceptions import AppError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from running import Running, run_app

from fracture import quiz, report
from fracture.classifier import Classifier
from fracture.simulate import BONES, Settings, patterns_of
from fracture.web import evidence, learn, make, models, plate, take
from fracture.web import quiz as quizzes
from fracture.web import stress as stresses
from fracture.web.reading import Request, Upload

pytest_plugins = ("running",)
PLAYERS = 30
PAIRS = [(bone, pattern) for bone in BONES for pattern in patterns_of(bone)]


@pytest.fixture
def model(random_checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """An untrained model in the place of the shipped one."""
    loaded = Classifier.load(random_checkpoints / "transfer.safetensors")
    monkeypatch.setattr(models, "_loaded", {models.DEFAULT: loaded})
    return loaded


# --- make a fracture -------------------------------------------------------------------------


@pytest.mark.parametrize(("bone", "pattern"), PAIRS)
def test_every_end_of_every_slider_is_possible(bone: str, pattern: str) -> None:
    usual = make.wanted({"bone": bone, "pattern": pattern}, usual=True)
    assert (usual.bone, usual.pattern) == (bone, pattern)
    for name, allowed in make.offers(usual).items():
        if allowed is None:
            continue
        assert allowed.low < allowed.high
        for value in (allowed.low, allowed.high):
            Settings(**vars(usual) | {name: value})  # must not raise


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PAIRS),
    st.lists(st.tuples(st.integers(0, len(make.KNOBS) - 1), st.floats(0, 1)), max_size=8),
    st.sampled_from(PAIRS),
)
def test_whatever_is_moved_the_next_offer_is_possible(start, moves, then) -> None:
    """Sliders moved one after the other within their offers, then another bone and pattern."""
    state = make.wanted({"bone": start[0], "pattern": start[1]}, usual=True)
    for index, share in moves:
        name = make.KNOBS[index].name
        allowed = make.offers(state)[name]
        if allowed is None:
            continue
        value = allowed.low + share * (allowed.high - allowed.low)
        asked = vars(state) | {name: round(value) if name == "fragments" else value}
        state = make.wanted(asked)
        assert getattr(state, name) == pytest.approx(asked[name])
    kept = make.wanted(vars(state) | {"bone": then[0], "pattern": then[1]}, usual=True)
    assert kept.pattern in (then[1], "transverse") and kept.exposure == state.exposure


@pytest.mark.parametrize(
    "nonsense",
    [
        {"bone": "tail", "pattern": "crumbled"},
        {"bone": "metacarpal", "pattern": "torus"},
        {"displacement": float("nan")},
        {"exposure": "bright"},
        {"fragments": 10**9, "pattern": "wedge"},
        {"seed": -1},
        {"projection": []},
    ],
)
def test_nonsense_from_a_browser_becomes_a_possible_film(nonsense: dict) -> None:
    assert isinstance(make.wanted({"bone": "tibia", "pattern": "wedge"} | nonsense), Settings)


def test_a_made_film_with_truth_and_overlap(model: Classifier) -> None:
    view, card = make.made(Settings(bone="tibia", pattern="wedge", size=128, seed=4))
    assert "fx-heat" in view and "fx-truth" in view and "<path" in view
    assert "AO/OTA 42B2" in view and "intersection over union" in view
    assert 'data-status="ok"' in card or 'data-status="uncertain"' in card
    intact, _ = make.made(Settings(bone="radius", pattern="intact", size=128))
    assert "fx-truth" not in intact and "bone is intact" in intact
    assert "Show the true fracture" not in intact


def test_a_sweep_is_told_in_words_and_numbers(model: Classifier) -> None:
    settings_ = Settings(bone="tibia", pattern="transverse", size=128)
    told = list(make.swept(settings_, "exposure"))
    assert [done for done, _, _ in told] == [*range(1, make.STEPS), make.STEPS]
    assert all(text == "" for _, _, text in told[:-1])
    html = told[-1][2]
    assert html.count("<tr>") == make.STEPS + 1 and "times the right one" in html
    assert re.search(r"the model is right on \d", html)
    picture = re.search(r"data:image/png;base64,([^\"]+)", html).group(1)
    assert Image.open(io.BytesIO(base64.b64decode(picture))).width > 800
    unknown = list(make.swept(Settings(pattern="intact", size=128), "fragments"))
    assert "Projection" in unknown[-1][2]  # not on offer: the first that is


def test_the_outline_follows_the_mask() -> None:
    mask = np.zeros((40, 30), bool)
    mask[10:20, 5:15] = True
    numbers = [float(v) for v in re.findall(r"-?\d+\.\d", plate.outline(mask))]
    xs, ys = numbers[::2], numbers[1::2]
    assert min(xs) == pytest.approx(5, abs=0.6) and max(xs) == pytest.approx(15, abs=0.6)
    assert min(ys) == pytest.approx(10, abs=0.6) and max(ys) == pytest.approx(20, abs=0.6)
    assert plate.outline(np.zeros((5, 5), bool)) == ""


# --- quiz ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def code() -> str:
    return quiz.new_code()


def test_nothing_true_is_in_the_page_before_the_answer(model: Classifier, code: str) -> None:
    klass = quizzes.Class()
    game, page = quizzes.start(code, "Ada & <b>", "simulated", klass)
    shown = quizzes.slide(code, 1, None)
    assert "Ada &amp; &lt;b&gt;" in page and "<b>Ada" not in page
    assert shown.truth.about not in page and "AO/OTA" not in page
    assert "fx-truth" not in page and "fx-heat" not in page and "fx-mark-model" not in page
    assert page.count('name="label"') == 2
    quizzes.give(game, 1, "Simple", 80, [0.5, 0.5], klass)
    told = quizzes.reveal(game, klass)
    assert shown.truth.about in told and "fx-truth" in told and "fx-mark-yours" in told
    assert f'data-right="{str(game.marks[0].score.right).lower()}"' in told


def test_wrong_answers_are_said_and_change_nothing(model: Classifier, code: str) -> None:
    klass = quizzes.Class()
    game, _ = quizzes.start(code, "", "simulated", klass)
    for sent in (
        (2, "Simple", 80, [0.5, 0.5]),
        (None, "Simple", 80, [0.5, 0.5]),
        ("1", "Simple", 80, [0.5, 0.5]),
        (1, "Broken", 80, [0.5, 0.5]),
        (1, "Simple", 30, [0.5, 0.5]),
        (1, "Simple", 80, None),
        (1, "Simple", 80, {"x": 1}),
    ):
        with pytest.raises(quiz.QuizError) as error:
            quizzes.give(game, *sent, klass)
        assert str(error.value) in quizzes.ask(game, klass, str(error.value)).replace("&#x27;", "'")
    assert game.next == 1


def test_starting_with_a_wrong_code_is_said() -> None:
    with pytest.raises(quiz.QuizError, match="not a quiz code"):
        quizzes.start("SKX-000", "", "simulated", quizzes.Class())
    assert quizzes.invitation("SKX-000") == ""
    assert quiz.read_code(quizzes.new_code("the moon"))


def test_a_film_without_a_model_can_be_played(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str = "") -> Classifier:
        raise models.ModelMissing("Not here.")

    monkeypatch.setattr(models, "classifier", absent)
    shown = quizzes.slide(quiz.new_code(), 1, None)
    assert shown.reading.film.startswith("data:image/") and shown.model is None
    assert shown.reading.size == (shown.truth.width, shown.truth.height)


def test_the_board_lives_in_the_page_or_in_the_teachers_folder(
    model: Classifier, code: str, tmp_path: Path
) -> None:
    def play(name: str, klass: quizzes.Class, session: list) -> list:
        game = quiz.Game(code, name)
        truth = quiz.Truth("Simple", (), 10, 10, "", "", True)
        while game.next:
            game.give(game.next, quiz.Answer("Simple", 90, (0.5, 0.5)), truth)
        return quizzes.finish(game, klass, session)[1]

    here = quizzes.Class()
    session = play("<i>Bo</i>", here, play("Ada", here, []))
    html = quizzes.board(code, here, session)
    assert "&lt;i&gt;Bo" in html and "Ada" in html and "gone when the page is closed" in html
    assert "Nobody has finished yet" in quizzes.board(code, here, [])
    kept = quizzes.class_from(None, str(tmp_path / "class"))
    assert kept.results is not None and kept.problems == ()
    play("Cy", kept, [])
    again = quizzes.class_from(None, str(tmp_path / "class"))
    html = quizzes.board(code, again, [])
    assert "Cy" in html and "teacher’s" not in html and "teacher's folder" in html
    assert "Nobody" in quizzes.board(quiz.new_code(), again, [])
    table = html.split('download="board.csv"')[1].split("base64,")[1].split('"')[0]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(table).decode())))
    assert [row["name"] for row in rows] == ["Cy"]


def test_a_teachers_folder_names_its_broken_rows(tmp_path: Path) -> None:
    for index in range(4):
        Image.fromarray(draw_film(300, 240, seed=index)).save(tmp_path / f"{index}.png")
    (tmp_path / "labels.csv").write_text(
        "file,label\n0.png,simple\n1.png,comminuted\nlost.png,simple\n2.png,odd\n3.png,simple\n"
    )
    klass = quizzes.class_from(str(tmp_path), None)
    assert len(klass.films.records) == 3
    assert [p.split(":")[0].split(" (")[0] for p in klass.problems] == [
        "labels.csv, line 4",
        "labels.csv, line 5",
    ]
    assert [name for _, name in klass.sources] == ["mixed", "folder", "simulated"]
    absent = quizzes.class_from(str(tmp_path / "nowhere"), None)
    assert absent.films is None and len(absent.problems) == 1
    taken = tmp_path / "a file"
    taken.write_text("")
    assert "cannot be kept" in quizzes.class_from(None, str(taken)).problems[0]


# --- stress test -----------------------------------------------------------------------------


def test_strain_shows_film_verdict_and_what_changed(model: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    Image.fromarray(draw_film(400, 300)).save(path)
    upload = Upload(str(path), "<b>film.png")
    view, card = stresses.shown(upload, stresses.strain_of({}, None))
    assert "fx-heat" in view and "<b>film" not in view and "Left alone" not in card
    view, card = stresses.shown(upload, stresses.strain_of({"rotation": 30}, None))
    assert "Left alone, the film reads" in card and "fx-heat" in view
    _, card = stresses.shown(upload, stresses.strain_of({"crop": 0.4, "blur": 10}, None))
    assert "Left alone" in card
    path.unlink()
    view, card = stresses.shown(upload, stresses.strain_of({}, None))
    assert view == "" and "already left the server" in card
    assert "Simulated film" in stresses.shown(None, stresses.strain_of({}, None))[0]


@pytest.mark.parametrize(
    ("values", "hidden"),
    [
        ({"rotation": float("nan")}, None),
        ({"rotation": "left", "blur": 1e9, "quality": -5}, None),
        ({}, "box"),
        ({}, [1, 2]),
        ({}, [0, 0, float("inf"), 1]),
    ],
)
def test_nonsense_strain_is_none(values: dict, hidden: object) -> None:
    strain = stresses.strain_of(values, hidden)
    assert strain.hidden is None and 1 <= strain.quality <= 100 and strain.rotation == 0


def test_what_would_change_its_mind(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stresses, "SECONDS", 60.0)
    states = list(stresses.mind_changing(None, stresses.strain_of({}, None)))
    assert all("Hiding one place" in words for _, words in states[:-1])
    view, words = states[-1]
    assert "places were hidden, one at a time" in words and "fx-heat" in view


# --- how good is it, learn, take it away -----------------------------------------------------


def figure(value: float) -> dict:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def test_without_an_evaluation_the_page_says_so(tmp_path: Path) -> None:
    for text in (None, "not json", "[]"):
        path = tmp_path / "evaluation.json"
        if text:
            path.write_text(text)
        page = evidence.page(path, tmp_path)
        assert "Not measured yet" in page and "%" not in page
    assert evidence.model_card(tmp_path / "README.md") == ""


def test_the_evidence_is_what_the_json_says(tmp_path: Path) -> None:
    values = {
        "date": "2026-03-01",
        "data": {"held_out_films": 1234, "held_out_groups": 321},
        "kind": {
            "full": {"auroc": figure(0.812), "ece": None},
            "by_pattern": {"<i>odd": {"films": 7, "accuracy": figure(0.31)}},
        },
        "lesson": {
            "claimed": 0.9987,
            "rows": [
                {"model": "SimpleCNN", "way": "its training pictures", "on": "copies",
                 "accuracy": figure(0.99), "balanced_accuracy": figure(0.98), "auroc": None},
                {"model": "SimpleCNN", "way": "unseen groups", "on": "others",
                 "accuracy": figure(0.71), "balanced_accuracy": figure(0.52), "auroc": None},
            ],
        },
    }  # fmt: skip
    (tmp_path / "evaluation.json").write_text(json.dumps(values))
    (tmp_path / "roc.png").write_bytes(b"")
    page = evidence.page(tmp_path / "evaluation.json", tmp_path)
    assert "1,234 films of 321" in page and "81 %" in page and "calibration" not in page
    assert "figures/roc.png" in page and "reliability.png" not in page
    assert "&lt;i&gt;odd" in page and "31 %" in page
    assert "99.87 %" in page and 'data-balanced-accuracy="0.5200"' in page
    assert "AUROC</label>" not in page  # nothing of it was measured in the lesson
    (tmp_path / "README.md").write_text("![a](figures/roc.png)")
    assert evidence.model_card(tmp_path / "README.md") == "![a](/figures/roc.png)"


def test_the_real_evaluation_if_there_is_one() -> None:
    values = evidence.load(evidence.MODELS / "evaluation.json")
    if values is None:
        pytest.skip("nothing has been evaluated yet")
    page = evidence.page()
    auroc = values["kind"]["full"]["auroc"]["value"]
    assert f"{100 * auroc:.0f} %" in page and 'data-state="measured"' in page


def test_the_atlas_page_and_its_sources() -> None:
    page = learn.page()
    assert page.count("<article") == 9 and page.count('loading="lazy"') == 9 * 3 - 1
    assert page.count("https://doi.org/10.") == 3


@pytest.mark.parametrize(("kind", "suffix"), [("pdf", b"%PDF-"), ("png", b"\x89PNG")])
def test_a_reading_is_taken_away(
    model: Classifier, film_file: Path, kind: str, suffix: bytes
) -> None:
    file, words = take.download(Upload(str(film_file), "Doe Jane.png"), Request(), kind)
    name, address = file.split("|")
    data = base64.b64decode(address.split("base64,")[1])
    assert name == f"fracture-reading.{kind}" and data.startswith(suffix)
    assert "downloads" in words and b"Doe" not in data
    file, words = take.download(Upload("/nowhere.png", "a.png"), Request(), kind)
    assert file == "" and "nothing to take away" in words


def test_an_insisted_verdict_is_taken_away_with_its_warning(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[report.Page] = []
    monkeypatch.setattr(report, "as_pdf", lambda page: pages.append(page) or b"%PDF-")
    blank = tmp_path / "blank.png"
    Image.new("L", (300, 240), 128).save(blank)
    for insist in (False, True):
        take.download(Upload(str(blank), "blank.png"), Request(insist=insist), "pdf")
    refused, insisted = pages
    assert refused.prediction.status == insisted.prediction.status == "refused"
    assert refused.prediction.label is None and refused.heatmap is None
    assert insisted.prediction.label in models.CLASSES and insisted.heatmap is not None
    assert insisted.prediction.reasons == refused.prediction.reasons != ()


# --- the running app -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def classroom(
    random_checkpoints: Path, results: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The app as a teacher starts it who wants to keep results."""
    os.environ["FRACTURE_RESULTS"] = str(results)
    try:
        folder = tmp_path_factory.mktemp("classroom")
        with run_app(folder, random_checkpoints, "transfer") as running:
            yield running
    finally:
        del os.environ["FRACTURE_RESULTS"]


def fetch(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_atlas_pictures_are_served(classroom: Running) -> None:
    sizes = set()
    for kind in ("film", "outline", "map"):
        status, data = fetch(f"{classroom.url}atlas/wedge-{kind}.webp")
        assert status == 200
        picture = Image.open(io.BytesIO(data))
        sizes.add(picture.size)
        assert ("A" in picture.mode) == (kind != "film")
    assert len(sizes) == 1  # the layers lie on each other
    for name in ("wedge-secret", "nothing-film", "..%2F..%2Fapp", "intact"):
        assert fetch(f"{classroom.url}atlas/{name}.webp")[0] == 404


def chosen(player: int, number: int) -> tuple[str, float, list[float]]:
    """What a player answers: everyone something else, points and boxes."""
    rng = np.random.default_rng([player, number])
    label = quiz.CLASSES[int(rng.integers(2))]
    place = rng.uniform(0, 1, 2).tolist()
    if rng.random() < 0.5:
        place += rng.uniform(0.1, 0.5, 2).tolist()
    return label, float(rng.integers(10, 21) * 5), place


def marked_by_hand(truth: quiz.Truth, label: str, sureness: float, place: list) -> dict:
    """The rules of docs/teaching.md worked out a second time, in pixels, without `quiz.score`."""
    size = np.array([truth.width, truth.height], float)
    start = np.clip(np.array(place[:2]), 0, 1) * size
    end = np.clip(np.array(place[:2]) + np.array(place[2:] or (0, 0)), 0, 1) * size
    boxes = [(np.array(b[:2]) * size, (np.array(b[:2]) + np.array(b[2:])) * size)
             for b in truth.boxes]  # fmt: skip
    right = label == truth.label
    brier = (sureness / 100 - right) ** 2
    middle = (start + end) / 2
    gaps = [np.linalg.norm(middle - np.clip(middle, low, high)) for low, high in boxes]
    distance = min(gaps) / np.linalg.norm(size)
    near = np.interp(distance, [0.02, 0.22], [4, 0])
    overlap = None
    if len(place) == 4:
        shared = [np.prod(np.clip(np.minimum(end, high) - np.maximum(start, low), 0, None))
                  for low, high in boxes]  # fmt: skip
        overlap = max(
            s / (np.prod(end - start) + np.prod(high - low) - s)
            for s, (low, high) in zip(shared, boxes, strict=True)
        )
    for_place = max(near, 5 * min(1, (overlap or 0) / 0.5))
    return {
        "right": right, "sureness": sureness, "brier": brier, "hit": distance <= 0.02,
        "distance": distance, "iou": overlap, "points": 5 * (1 - brier) + for_place, "most": 10,
    }  # fmt: skip


def test_a_class_of_thirty_plays_at_once_and_every_score_is_right(
    classroom: Running, results: Path, code: str
) -> None:
    together = threading.Barrier(PLAYERS)

    def play(player: int) -> list[dict]:
        client = Client(classroom.url, verbose=False)
        together.wait()  # nobody starts before all are there
        state = client.predict(code=code, name=f"Player {player}", api_name="/quiz_start")
        told = []
        while (number := state["next"]) is not None:
            label, sureness, place = chosen(player, number)
            state = client.predict(
                number=number, label=label, sureness=sureness, place=place,
                api_name="/quiz_answer",
            )  # fmt: skip
            told.append(state)
        return told

    with ThreadPoolExecutor(PLAYERS) as pool:
        games = list(pool.map(play, range(PLAYERS)))

    truths = [quiz.question(code, n).truth for n in range(1, quiz.FILMS + 1)]
    expected, hits, overlaps = {}, 0, 0
    for player, told in enumerate(games):
        assert [state["film"] for state in told] == list(range(1, quiz.FILMS + 1))
        marks = []
        for number, (truth, got) in enumerate(zip(truths, told, strict=True), start=1):
            marks.append(marked_by_hand(truth, *chosen(player, number)))
            assert got["truth"] == json.loads(json.dumps(asdict(truth)))
            assert got["answer"]["label"] == chosen(player, number)[0]
            assert got["score"] == pytest.approx(marks[-1])
        summary = told[-1]["summary"]
        assert told[-1]["name"] == f"Player {player}"
        for name in ("right", "points", "most"):
            assert summary[name] == pytest.approx(sum(mark[name] for mark in marks))
        assert summary["hits"] == sum(mark["hit"] for mark in marks)
        assert summary["brier"] == pytest.approx(np.mean([mark["brier"] for mark in marks]))
        expected[f"Player {player}"] = summary["points"]
        hits += summary["hits"]
        overlaps += sum(bool(mark["iou"]) for mark in marks)
    assert hits and overlaps  # the players' answers try every rule
    by_model = {json.dumps([t["model_score"] for t in told], sort_keys=True) for told in games}
    assert len(by_model) == 1  # everybody played against the same model

    rows, complaints = quiz.read_results(results / "quiz-results.csv")
    assert complaints == []
    kept = {row.name: row.points for row in rows if row.code == code}
    assert kept == pytest.approx(expected, abs=0.01)
    text = Client(classroom.url, verbose=False).predict(code=code, api_name="/quiz_board")
    board = [row["name"] for row in csv.DictReader(io.StringIO(text))]
    assert board == [row.name for row in quiz.standings(rows, code)] and len(board) == PLAYERS


def test_nobody_answers_twice_or_for_another(classroom: Running, code: str) -> None:
    one, other = (Client(classroom.url, verbose=False) for _ in range(2))
    answer = {"label": "Simple", "sureness": 70, "place": [0.5, 0.5]}

    def sends(client: Client, number: int, **changes) -> dict:
        return client.predict(number=number, **answer | changes, api_name="/quiz_answer")

    with pytest.raises(AppError, match="Begin with"):
        sends(other, 1)
    one.predict(code=code, name="", api_name="/quiz_start")
    first = sends(one, 1)
    assert first["next"] == 2 and first["picture"].startswith("data:image/")
    with pytest.raises(AppError, match="answered already"):
        sends(one, 1, label="Comminuted")
    with pytest.raises(AppError, match="answered already"):
        sends(one, 9)
    with pytest.raises(AppError, match="Begin with"):
        sends(other, 2)
    with pytest.raises(AppError, match="Mark the fracture"):
        sends(one, 2, place=["x"])
    with pytest.raises(AppError, match="not a quiz code"):
        one.predict(code="SKX-000", name="", api_name="/quiz_start")
    assert sends(one, 2)["next"] == 3


def test_only_the_endpoints_for_programs_are_public(classroom: Running) -> None:
    described = Client(classroom.url, verbose=False).view_api(
        return_format="dict", print_info=False
    )
    assert set(described["named_endpoints"]) == {
        "/read", "/quiz_start", "/quiz_answer", "/quiz_board",
    }  # fmt: skip
