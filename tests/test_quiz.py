"""The quiz: codes, films that are the same for everyone, scores that nobody can talk up, a board
that many write at once."""

from __future__ import annotations

import csv
import io
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_film
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fracture import quiz
from fracture.classifier import Prediction
from fracture.labels import LabelsError
from fracture.once import once
from fracture.quiz import (
    FILMS,
    SIGNS,
    Answer,
    Folder,
    Game,
    QuizError,
    Result,
    Truth,
    append_result,
    mark,
    open_folder,
    read_code,
    read_results,
    score,
    standings,
    summarise,
)

TRUTH = Truth("Comminuted", ((0.4, 0.4, 0.2, 0.2),), 300, 400, "tibia, wedge", "42B2", True)
INSIDE = (0.5, 0.5)


# --- the code --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", quiz.SOURCES.values())
def test_a_code_is_read_however_it_is_written(source: str) -> None:
    code = quiz.new_code(source)
    assert len(code) == 7 and code[3] == "-"
    for text in (code, code.lower(), code.replace("-", ""), f"  {code[:2]} {code[2:]} "):
        assert read_code(text) == code
    assert quiz.source_of(code) == source


def test_codes_differ_and_unknown_sources_are_refused() -> None:
    assert len({quiz.new_code() for _ in range(50)}) > 45
    with pytest.raises(QuizError, match="simulated, mixed, folder"):
        quiz.new_code("elsewhere")


@given(st.text(max_size=12))
def test_any_text_is_a_code_or_a_clear_refusal(text: str) -> None:
    try:
        assert read_code(read_code(text)) == read_code(text)
    except QuizError as error:
        assert "not a quiz code" in str(error)


@given(st.text(SIGNS, min_size=4, max_size=4), st.integers(1, 5), st.sampled_from(SIGNS))
def test_every_single_typo_and_swap_is_noticed(body: str, place: int, sign: str) -> None:
    body = "S" + body
    code = body + quiz._check(body)
    typo = code[:place] + sign + code[place + 1 :]
    if typo != code:
        with pytest.raises(QuizError):
            read_code(typo)
    for other in range(1, 5):
        signs = list(code)
        signs[place], signs[other] = signs[other], signs[place]
        if place < 5 and "".join(signs) != code:
            with pytest.raises(QuizError):
                read_code("".join(signs))


# --- the films -------------------------------------------------------------------------------


def test_the_same_code_gives_everyone_the_same_films() -> None:
    code = "SKX-4" + "7" + quiz._check("SKX47")
    first, second = quiz.question(code, 3), quiz.question(code.lower(), 3)
    assert np.array_equal(first.film.display, second.film.display)
    assert first.truth == second.truth and first.truth.simulated
    other = quiz.question(code, 4)
    assert not np.array_equal(first.film.display, other.film.display)
    left, top, _, height = first.truth.boxes[0]
    rows, columns = np.nonzero(first.mask)
    assert columns.min() / first.truth.width == pytest.approx(left)
    assert (rows.max() + 1) / first.truth.height == pytest.approx(top + height)
    assert first.mask.shape == first.film.pixels.shape == first.film.display.shape[:2]
    assert first.film.name == "Film 3" and not first.film.problems


def test_classes_are_mixed_so_that_counting_does_not_help() -> None:
    counts = set()
    for _ in range(30):
        asked = quiz._asked(quiz.new_code(), None)
        assert len(asked) == FILMS and set(asked) == set(quiz.CLASSES)
        counts.add(asked.count("Comminuted"))
    assert counts == {4, 5, 6}


def test_wrong_numbers_and_absent_folders_are_said() -> None:
    code = quiz.new_code()
    for number in (0, FILMS + 1):
        with pytest.raises(QuizError, match="films 1 to 10"):
            quiz.question(code, number)
    for source in ("folder", "mixed"):
        with pytest.raises(QuizError, match="started without one"):
            quiz.question(quiz.new_code(source), 1)


@pytest.fixture(scope="module")
def teachers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve films of eleven patients, of which one is unreadable and one blank; broken rows."""
    folder = tmp_path_factory.mktemp("teacher")
    rows = ["id,file,group,label,boxes,region"]
    for index in range(12):
        Image.fromarray(draw_film(300, 240, seed=index)).save(folder / f"{index}.png")
        label = "comminuted" if index % 2 else "simple"
        group = "same" if index in (4, 6) else f"g{index}"
        rows.append(f'f{index},{index}.png,{group},{label},"[[0.3, 0.4, 0.4, 0.3]]",forearm')
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:2000])
    Image.new("L", (300, 300), 90).save(folder / "3.png")
    rows += ["x,gone.png,g,simple,,", "y,0.png,g,shattered,,", "z,0.png,g,no_fracture,,"]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_teachers_folder(teachers_folder: Path) -> None:
    folder = open_folder(teachers_folder)
    assert [r.id for r in folder.records] == [f"f{i}" for i in range(12)]
    assert len(folder.left_out) == 2
    assert "labels.csv, line 14 (id x): the picture gone.png is missing." in folder.left_out
    assert not any(str(teachers_folder) in sentence for sentence in folder.left_out)
    code = quiz.new_code("folder")
    asked = quiz._asked(code, folder)
    records = [a for a in asked if not isinstance(a, str)]
    groups = [r.group for r in records]
    assert len(groups) == len(set(groups))
    # f2 (torn) and f3 (blank) are not asked, f4 and f6 are one patient; the simulator fills up
    assert {r.id for r in records}.isdisjoint({"f2", "f3"})
    assert len(records) <= 9 and all(a in quiz.CLASSES for a in asked if isinstance(a, str))
    again = open_folder(teachers_folder)
    assert [getattr(a, "id", a) for a in quiz._asked(code, again)] == [
        getattr(a, "id", a) for a in asked
    ]
    place = next(i for i, a in enumerate(asked) if not isinstance(a, str))
    shown = quiz.question(code, place + 1, folder)
    assert shown.truth.label == asked[place].label and not shown.truth.simulated
    assert shown.truth.boxes[0] == pytest.approx((0.3, 0.4, 0.4, 0.3))
    assert shown.truth.about == "forearm"
    assert shown.film.name == f"Film {place + 1}" and shown.mask is None


def test_half_of_a_mixed_quiz_is_simulated(teachers_folder: Path) -> None:
    asked = quiz._asked(quiz.new_code("mixed"), open_folder(teachers_folder))
    assert sum(not isinstance(a, str) for a in asked) in (4, 5)


def test_an_empty_folder_is_filled_by_the_simulator() -> None:
    assert all(isinstance(a, str) for a in quiz._asked(quiz.new_code("folder"), Folder(())))


def test_a_folder_without_labels_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="not a readable CSV"):
        open_folder(tmp_path)


def test_real_films_if_there_are_any(shared_data: Path) -> None:
    folder = open_folder(shared_data)
    assert not folder.left_out and {r.label for r in folder.records} == set(quiz.CLASSES)


# --- answers and scores ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (("Broken", 80, INSIDE), "simple or comminuted"),
        ((None, 80, INSIDE), "simple or comminuted"),
        (("Simple", 49.9, INSIDE), "50 to 100"),
        (("Simple", 101, INSIDE), "50 to 100"),
        (("Simple", float("nan"), INSIDE), "50 to 100"),
        (("Simple", "very", INSIDE), "50 to 100"),
        (("Simple", 80, None), "Mark the fracture"),
        (("Simple", 80, ()), "Mark the fracture"),
        (("Simple", 80, (0.1, 0.2, 0.3)), "Mark the fracture"),
        (("Simple", 80, ("a", "b")), "Mark the fracture"),
        (("Simple", 80, (float("inf"), 0.5)), "Mark the fracture"),
        (("Simple", 80, (0.5, 0.5, 0.0, 0.2)), "empty or lies beside"),
        (("Simple", 80, (1.5, 0.5, 0.2, 0.2)), "empty or lies beside"),
    ],
)
def test_wrong_answers_are_refused_in_words(answer: tuple, words: str) -> None:
    with pytest.raises(QuizError, match=words):
        Answer(*answer)


def test_places_are_kept_on_the_film() -> None:
    assert Answer("Simple", 50, (-3, 7)).place == (0, 1)
    assert Answer("Simple", 50, (0.5, -0.5, 1.0, 1.0)).place == (0.5, 0.0, 0.5, 0.5)


def test_a_right_and_sure_tap_and_a_perfect_box() -> None:
    tap = score(TRUTH, Answer("Comminuted", 100, INSIDE))
    assert (tap.right, tap.brier, tap.hit, tap.distance, tap.iou) == (True, 0, True, 0, None)
    assert (tap.points, tap.most) == (9, 10)
    box = score(TRUTH, Answer("Comminuted", 100, (0.4, 0.4, 0.2, 0.2)))
    assert box.iou == pytest.approx(1) and box.points == 10


def test_distance_is_measured_from_the_box_in_shares_of_the_diagonal() -> None:
    # 0.3 of the width of 300 px to the left of the box: 90 px of a diagonal of 500
    got = score(TRUTH, Answer("Comminuted", 100, (0.1, 0.5)))
    assert got.distance == pytest.approx(90 / 500) and got.hit is False
    assert got.points == pytest.approx(5 + 4 * (1 - (0.18 - quiz.SLACK) / quiz.REACH))
    near = score(TRUTH, Answer("Comminuted", 100, (0.4 - 9 / 300, 0.5)))
    assert near.distance == pytest.approx(0.018) and near.hit is True and near.points == 9
    far = score(TRUTH, Answer("Comminuted", 100, (0.0, 0.0)))
    assert far.points == 5


def test_sureness_pays_only_when_right() -> None:
    points = {
        (label, sure): score(TRUTH, Answer(label, sure, INSIDE)).points
        for label in quiz.CLASSES
        for sure in (50, 75, 100)
    }
    assert points["Comminuted", 50] < points["Comminuted", 75] < points["Comminuted", 100]
    assert points["Simple", 50] > points["Simple", 75] > points["Simple", 100]
    assert points["Simple", 50] == points["Comminuted", 50]
    assert score(TRUTH, Answer("Simple", 75, INSIDE)).brier == pytest.approx(0.75**2)


@given(st.floats(50, 100), st.floats(0.5, 1))
def test_honest_sureness_earns_most(said: float, true: float) -> None:
    """The rule is proper: whoever is right with a chance of `true` gains by saying so."""

    def expected(sure: float) -> float:
        right, wrong = (
            score(TRUTH, Answer(label, sure, INSIDE)).points for label in ("Comminuted", "Simple")
        )
        return true * right + (1 - true) * wrong

    assert expected(said) <= expected(100 * true) + 1e-9


def test_several_boxes_and_none() -> None:
    two = replace(TRUTH, boxes=((0.0, 0.0, 0.1, 0.1), (0.8, 0.8, 0.1, 0.1)))
    assert score(two, Answer("Simple", 60, (0.85, 0.85))).hit
    assert score(two, Answer("Simple", 60, (0.0, 0.0, 0.1, 0.2))).iou == pytest.approx(0.5)
    unknown = score(replace(TRUTH, boxes=()), Answer("Comminuted", 100, INSIDE))
    assert (unknown.hit, unknown.distance, unknown.iou) == (None, None, None)
    assert (unknown.points, unknown.most) == (5, 5)


@given(
    st.tuples(*[st.floats(-0.5, 1.5)] * 2, *[st.floats(0.01, 1)] * 2),
    st.floats(50, 100),
    st.sampled_from(quiz.CLASSES),
)
def test_every_score_lies_between_nothing_and_everything(place, sure, label) -> None:
    try:
        answer = Answer(label, sure, place)
    except QuizError:
        return
    got = score(TRUTH, answer)
    assert 0 <= got.points <= got.most == 10
    assert 0 <= got.iou <= 1 and got.distance >= 0
    as_tap = score(TRUTH, Answer(label, sure, answer.middle))
    assert got.points >= as_tap.points  # drawing a box never costs


def test_the_model_is_marked_by_the_same_rules() -> None:
    heat = np.zeros((400, 300), np.float32)
    heat[200, 150] = 1
    said = Prediction(
        "ok", "No fracture", {"Simple": 0.1, "Comminuted": 0.3, "No fracture": 0.6}, ()
    )
    answer = quiz.answer_of_model(said, heat)
    assert answer.label == "Comminuted" and answer.sureness == pytest.approx(75)
    assert score(TRUTH, answer).hit
    assert quiz.answer_of_model(Prediction("refused", None, {}, ()), None) is None
    assert quiz.answer_of_model(replace(said, probabilities={"No fracture": 1.0}), heat) is None


def test_summary_tells_over_from_underconfidence() -> None:
    bold = [score(TRUTH, Answer(label, 90, INSIDE)) for label in ("Comminuted", "Simple")]
    summary = summarise(bold)
    assert (summary.films, summary.right, summary.hits, summary.placed) == (2, 1, 2, 2)
    assert summary.overconfidence == pytest.approx(40)
    assert summary.brier == pytest.approx((0.01 + 0.81) / 2)
    assert summary.iou is None and summary.distance == 0
    assert summarise([]) is None


# --- the game --------------------------------------------------------------------------------


def played(name: str = "Ada", code: str | None = None, rights: int = FILMS) -> Game:
    game = Game(code or quiz.new_code(), name)
    while (number := game.next) is not None:
        label = "Comminuted" if number <= rights else "Simple"
        game.give(number, Answer(label, 80, INSIDE), TRUTH, Answer("Comminuted", 70, (0.1, 0.1)))
    return game


def test_each_film_is_answered_once_and_in_order() -> None:
    game = Game(quiz.new_code())
    with pytest.raises(QuizError, match="answered already"):
        game.give(2, Answer("Simple", 60, INSIDE), TRUTH)
    game.give(1, Answer("Simple", 60, INSIDE), TRUTH)
    with pytest.raises(QuizError, match="first answer counts"):
        game.give(1, Answer("Comminuted", 100, INSIDE), TRUTH)
    assert [m.answer.label for m in game.marks] == ["Simple"] and game.next == 2
    with pytest.raises(QuizError, match="film 2 is next"):
        quiz.result(game)


def test_answers_sent_at_the_same_moment_count_once() -> None:
    game = Game(quiz.new_code())

    def send(label: str) -> bool:
        try:
            game.give(1, Answer(label, 100, INSIDE), TRUTH)
        except QuizError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(send, quiz.CLASSES * 20))
    assert taken.count(True) == 1 and len(game.marks) == 1


def test_a_finished_game_as_table_and_row() -> None:
    game = played(rights=7)
    rows = list(csv.DictReader(io.StringIO(quiz.answers_csv(game))))
    assert [r["film"] for r in rows] == [str(n) for n in range(1, 11)]
    assert sum(int(r["right"]) for r in rows) == 7
    assert {r["model_answer"] for r in rows} == {"Comminuted"}
    assert {r["model_hit"] for r in rows} == {"0"} and {r["iou"] for r in rows} == {""}
    assert float(rows[0]["points"]) == pytest.approx(score(TRUTH, game.marks[0].answer).points)
    row = quiz.result(game, datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc))
    assert (row.time, row.name, row.right, row.model_right) == (
        "2026-03-01T12:30:00Z", "Ada", 7, 10,
    )  # fmt: skip
    assert row.points == pytest.approx(game.summary().points, abs=0.01)
    assert quiz.answers_csv(Game(quiz.new_code())) == ""


def test_a_model_without_a_verdict_leaves_its_cells_empty() -> None:
    game = Game(quiz.new_code())
    for number in range(1, FILMS + 1):
        game.give(number, Answer("Simple", 60, INSIDE), TRUTH)
    assert game.model_summary() is None
    row = next(csv.DictReader(io.StringIO(quiz.answers_csv(game))))
    assert row["model_answer"] == row["model_points"] == ""
    assert quiz.result(game).model_points == 0


@pytest.mark.parametrize(
    ("typed", "shown"),
    [("  Ada \n Lovelace\x00 ", "Ada Lovelace"), ("x" * 99, "x" * 24), ("\u202eevil", "evil")],
)
def test_names_are_made_plain(typed: str, shown: str) -> None:
    assert Game(quiz.new_code(), typed).name == shown


# --- the board -------------------------------------------------------------------------------


def test_the_first_result_of_a_name_counts() -> None:
    base = quiz.result(played())
    rows = [
        replace(base, time="2026-01-01T10:00:00Z", name="Ada", points=50.0),
        replace(base, time="2026-01-01T11:00:00Z", name="ADA", points=99.0),
        replace(base, time="2026-01-01T10:30:00Z", name="Bo", points=60.0),
        replace(base, time="2026-01-01T10:30:00Z", name="Cy", points=60.0, brier=0.0),
        replace(base, name="Di", code="SCC-CCC"),
    ]
    assert [r.name for r in standings(rows, base.code)] == ["Cy", "Bo", "Ada"]
    assert [r.name for r in standings(rows)][-1] in {"Ada", "Di"}


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    assert read_results(path) == ([], [])
    rows = [quiz.result(played(name)) for name in ("Ada", 'B, "o"', "=1+1", "Zoë")]
    for row in rows:
        append_result(path, row)
    kept, complaints = read_results(path)
    assert [r.name for r in kept] == ["Ada", 'B, "o"', "'=1+1", "Zoë"] and complaints == []
    assert kept[0] == rows[0]
    assert [r["name"] for r in csv.DictReader(path.open(encoding="utf-8"))][1] == 'B, "o"'


def test_a_line_cut_off_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    row = quiz.result(played())
    append_result(path, row)
    with path.open("ab") as file:
        file.write(b"2026-01-01T00:00:00Z,SKX")
    append_result(path, row)
    with path.open("ab") as file:
        file.write(b"t,c,n,1,1,1,1,nan,1,1,1,1,1,1\n")
    rows, complaints = read_results(path)
    assert rows == [row, row]
    assert complaints == [
        "results.csv, line 3 cannot be read.",
        "results.csv, line 5 cannot be read.",
    ]


def test_another_file_is_not_written_into(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("shopping,list\n")
    with pytest.raises(QuizError, match="not a file of quiz results"):
        append_result(path, quiz.result(played()))
    assert path.read_text() == "shopping,list\n"


def _write_many(path: Path, row: Result, who: int, count: int) -> None:
    for index in range(count):
        append_result(path, replace(row, name=f"player {who}-{index}"))


def test_many_processes_and_threads_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    row = quiz.result(played())
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_many, args=(path, row, w, 15)) for w in range(4)]
    workers += [threading.Thread(target=_write_many, args=(path, row, w, 15)) for w in range(4, 8)]
    for worker in workers:
        worker.start()
    seen = 0
    while any(worker.is_alive() for worker in workers):
        rows, complaints = read_results(path)
        assert complaints == [] and len(rows) >= seen
        seen = len(rows)
    for worker in workers:
        worker.join()
    rows, complaints = read_results(path)
    assert complaints == []
    assert {r.name for r in rows} == {f"player {w}-{i}" for w in range(8) for i in range(15)}
    assert path.read_text().count("time,code") == 1


def test_marking_is_the_same_wherever_it_is_done() -> None:
    answer = Answer("Comminuted", 77, (0.3, 0.3, 0.4, 0.4))
    with ThreadPoolExecutor(4) as pool:
        marks = list(pool.map(lambda _: mark(1, TRUTH, answer, answer), range(20)))
    assert all(m == marks[0] for m in marks) and marks[0].score == marks[0].model_score


# --- doing work once -------------------------------------------------------------------------


def test_work_that_several_ask_for_is_done_once() -> None:
    calls = []
    ready = threading.Event()

    @once(2)
    def slow(number: int) -> int:
        calls.append(number)
        ready.wait(10)
        return number * 10

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(slow, 1) for _ in range(6)]
        ready.set()
        assert [a.result() for a in asked] == [10] * 6
    assert calls == [1]
    slow(2), slow(3), slow(1)
    assert calls == [1, 2, 3, 1]  # only the last two are kept


def test_a_failure_is_not_remembered() -> None:
    calls = []

    @once(2)
    def fails_first(number: int) -> int:
        calls.append(number)
        if len(calls) == 1:
            raise ValueError("not yet")
        return number

    with pytest.raises(ValueError, match="not yet"):
        fails_first(5)
    assert fails_first(5) == 5 and calls == [5, 5]


def test_what_is_unwanted_is_forgotten() -> None:
    calls = []

    @once(5)
    def film(path: str, number: int) -> int:
        calls.append(number)
        return number

    film("a", 1), film("b", 2), film("a", 3)
    film.forget(lambda path, *_: path == "a")
    film("b", 2), film("a", 1)
    assert calls == [1, 2, 3, 1]
