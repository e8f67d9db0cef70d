"""The quiz page: films to mark, answers with the truth beside them, the class board.

What a film's page needs (pictures, truth, the model's answer) is made once for everybody who plays
the same code, and nothing about the truth is in the page before the answer was taken.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fracture import quiz
from fracture.labels import LabelsError
from fracture.once import once
from fracture.quiz import FILMS, Answer, Folder, Game, Mark, QuizError, Result, Summary, Truth
from fracture.web import html, pictures, plate
from fracture.web.html import Reading
from fracture.web.reading import Request, Upload, look

log = logging.getLogger("fracture.app")

SCRIPT = plate.READ_SCRIPT + plate.MARK_SCRIPT + (plate.HERE / "quiz.js").read_text("utf-8")
WORDS = {"Simple": "One break, two main pieces.", "Comminuted": "Three or more pieces."}


@dataclass(frozen=True, eq=False)
class Class:
    """How the app was started for a class.

    films: a teacher's films, or None. results: the CSV file in which finished games are kept, or
    None: then nothing about a player stays on the server. problems: what was wrong with either.
    """

    films: Folder | None = None
    results: Path | None = None
    problems: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """Where films may come from: titles and names for the page."""
        if self.films is None:
            return (("Simulated", "simulated"),)
        return (
            ("Five of each", "mixed"), ("The teacher's", "folder"), ("Simulated", "simulated"),
        )  # fmt: skip


def class_from(films: str | None, results: str | None) -> Class:
    """What two folders (or None) named by the teacher amount to.

    Broken rows of `labels.csv`, a folder that cannot be used: said in `problems`, the rest works.
    """
    problems: list[str] = []
    folder = kept = None
    if films:
        try:
            folder = quiz.open_folder(films)
            problems += folder.left_out
        except LabelsError as error:
            problems.append(str(error))
    if results:
        try:
            Path(results).mkdir(parents=True, exist_ok=True)
            kept = Path(results) / "quiz-results.csv"
            with kept.open("ab"):
                pass
        except OSError as error:
            kept = None
            problems.append(f"Results cannot be kept in that folder: {error.strerror}.")
    for problem in problems:
        log.warning("%s", problem)
    return Class(folder, kept, tuple(problems))


@dataclass(frozen=True, eq=False)
class Slide:
    """One film of a quiz, ready for every player: pictures as data URIs, truth, model's answer."""

    number: int
    reading: Reading
    truth: Truth
    layer: str
    model: Answer | None


@once(80)
def slide(code: str, number: int, films: Folder | None) -> Slide:
    """Make a film of a quiz, in about a second the first time. Raises QuizError."""
    asked = quiz.question(code, number, films)
    answer = look(Upload("", asked.film.name), Request(), film=asked.film)
    path = "" if asked.mask is None else plate.outline(asked.mask)
    size = (asked.truth.width, asked.truth.height)
    layer = plate.truth_layer(path, size, asked.truth.boxes)
    model = None
    if answer.reading.label is not None:
        from fracture.classifier import Prediction

        said = Prediction("ok", answer.reading.label, answer.reading.probabilities, ())
        model = quiz.answer_of_model(said, answer.heatmap)
    reading = answer.reading
    if not reading.film:  # without a model the film can be played all the same
        film = pictures.film_uri(asked.film.display)
        reading = replace(reading, film=film, size=size)
    return Slide(number, reading, asked.truth, layer, model)


# ------------------------------------------------------------------------------------ playing
def new_code(source: str) -> str:
    """A fresh code for films from a source; for an unknown one, simulated ones."""
    return quiz.new_code(source if source in quiz.SOURCES.values() else "simulated")


def start(code: str, name: str, source: str, klass: Class) -> tuple[Game, str]:
    """Begin a game: the code that was typed, or a new one. Returns it and its first page.

    Raises QuizError for a wrong code or one whose films are not here.
    """
    code = quiz.read_code(code) if code.strip() else new_code(source)
    game = Game(code, name)
    return game, ask(game, klass)


def ask(game: Game, klass: Class, problem: str = "") -> str:
    """The page of the next film; problem: what was wrong with the answer that was sent."""
    assert game.next is not None
    shown = slide(game.code, game.next, klass.films)
    film_only = replace(shown.reading, heat="", name=f"film {shown.number} of {FILMS}")
    frame = plate.stack(
        film_only,
        '<span class="fx-cross" aria-hidden="true"></span>',
        ' data-do="mark" tabindex="0" role="application" aria-label="The film. Click the fracture, '
        "or draw a box around it. With the keyboard: arrow keys move the cross, Enter sets it, "
        'Shift with arrow keys makes it a box."',
    )
    choices = "".join(
        f'<label class="fx-choice fx-{html.SLUGS[label]}"><input type="radio" name="label" '
        f'value="{label}">{html.icon(label, "ok")}<span><b>{label}</b><br>{words}</span></label>'
        for label, words in WORDS.items()
    )
    return (
        f'<section class="fx-quiz" data-state="ask" data-number="{shown.number}" '
        f'aria-label="Film {shown.number} of {FILMS}">'
        f'<div class="fx-view"><div class="fx-panes"><figure class="fx-pane">{frame}</figure></div>'
        '<div class="fx-tools"><button type="button" class="fx-tool" data-do="box" '
        'aria-pressed="false">Draw a box</button>'
        '<button type="button" class="fx-tool" data-do="clear">Take the mark away</button>'
        f'<span class="fx-bright"><label>Brightness <input type="range" data-do="bright" min="50" '
        'max="200" value="100"></label></span></div></div>'
        f'<form class="fx-card fx-answer" novalidate>{_progress(game, shown.number)}'
        f'<h2 class="fx-head" tabindex="-1"><span>Where is it broken, and how?</span></h2>'
        '<p class="fx-step"><b>1.</b> Tap or click the fracture on the film, or draw a box around '
        "it. "
        '<output class="fx-marked">Nothing is marked yet.</output></p>'
        f"<fieldset><legend><b>2.</b> Simple or comminuted?</legend>{choices}</fieldset>"
        '<label class="fx-sure"><span><b>3.</b> How sure are you? '
        "<small>50 % is a coin toss</small></span>"
        '<input type="range" name="sureness" min="50" max="100" step="5" value="75" '
        'aria-label="How sure you are, in per cent"><output>75 %</output></label>'
        '<button type="submit" class="fx-go">Answer</button>'
        f'<p class="fx-status" role="alert">{escape(problem)}</p></form></section>'
    )


def _progress(game: Game, number: int) -> str:
    dots = "".join(
        f'<li class="{"fx-right" if m.score.right else "fx-wrong"}">'
        f'<span class="fx-hidden">film {m.number} {"right" if m.score.right else "wrong"}</span>'
        "</li>"
        for m in game.marks
    )
    dots += '<li class="fx-open"></li>' * (FILMS - len(game.marks))
    name = f" · {escape(game.name)}" if game.name else ""
    return (
        f'<p class="fx-kicker">Film {number} of {FILMS} · quiz {game.code}{name}</p>'
        f'<ol class="fx-dots" aria-label="Films so far">{dots}</ol>'
    )


def give(game: Game, number: Any, label: Any, sureness: Any, place: Any, klass: Class) -> Mark:
    """Take an answer as a browser sent it. Raises QuizError, in words, for a wrong one."""
    if not isinstance(number, (int, float)) or number != game.next:
        raise QuizError("This film has been answered already; its first answer counts.")
    answer = Answer(label, sureness, place)
    shown = slide(game.code, int(number), klass.films)
    return game.give(int(number), answer, shown.truth, shown.model)


def reveal(game: Game, klass: Class) -> str:
    """The page after an answer: truth, both answers and what they were worth."""
    mark = game.marks[-1]
    shown = slide(game.code, mark.number, klass.films)
    layers = shown.layer + plate.mark_layer(mark.answer.place, "yours", "Your mark")
    if mark.model_answer:
        layers += plate.mark_layer(mark.model_answer.place, "model", "Warmest point of the model")
    key = (
        '<ul class="fx-key"><li class="fx-key-truth">true fracture</li>'
        '<li class="fx-key-yours">your mark</li>'
        '<li class="fx-key-model">the model\'s warmest point</li></ul>'
    )
    reading = replace(shown.reading, name=f"film {mark.number} of {FILMS}")
    full = '<button type="button" class="fx-tool" data-do="full">Full screen</button>'
    view = plate.view(reading, layers, label="Film with the truth", tools=full, below=key)
    truth = mark.truth
    head = "Right" if mark.score.right else "Not so"
    code = f", AO/OTA {truth.code}" if truth.code else ""
    about = f" ({escape(truth.about)}{code})" if truth.about or code else ""
    last = "See the result" if game.next is None else "Next film"
    slug = html.SLUGS[truth.label]
    return (
        f'<section class="fx-quiz" data-state="told" data-number="{mark.number}" '
        f'data-right="{str(mark.score.right).lower()}" aria-label="Film {mark.number}, the truth">'
        f'{view}<div class="fx-card fx-answer fx-verdict fx-{slug}" data-status="ok">'
        f"{_progress(game, mark.number)}"
        f'<h2 class="fx-head" tabindex="-1">{html.icon(truth.label, "ok")}'
        f"<span>{head}: {truth.label.lower()}</span></h2>"
        f'<p class="fx-lead">The truth: {html.HEADINGS[truth.label].lower()}{about}. '
        f"{escape(_place_words(mark))}</p>{_comparison(mark)}"
        f'<button type="button" class="fx-go" data-do="next">{last}</button></div></section>'
    )


def _place_words(mark: Mark) -> str:
    score = mark.score
    if score.hit is None or score.distance is None:
        return "Nobody has marked the place on this film, so only the class counts."
    if score.iou is not None:
        return f"Your box overlaps with the true one by {100 * score.iou:.0f} %."
    if score.hit:
        return "Your mark is on the fracture."
    away = f"{100 * score.distance:.0f} % of the film's diagonal"
    return f"Your mark is {away} away from the fracture."


def _comparison(mark: Mark) -> str:
    rows = [("You", mark.answer, mark.score), ("The model", mark.model_answer, mark.model_score)]
    body = []
    for who, answer, score in rows:
        if answer is None or score is None:
            body.append(f'<tr><th scope="row">{who}</th><td colspan="4">gave no verdict</td></tr>')
            continue
        place = {True: "on it", False: "beside it", None: "–"}[score.hit]
        tick = "✓" if score.right else "✗"
        body.append(
            f'<tr><th scope="row">{who}</th><td>{answer.label} <span aria-label='
            f'"{"right" if score.right else "wrong"}">{tick}</span></td>'
            f"<td>{html.percent(answer.sureness / 100)}</td><td>{place}</td>"
            f'<td class="fx-number">{score.points:.1f} of {score.most:.0f}</td></tr>'
        )
    return (
        '<table class="fx-table fx-compare"><thead><tr><th scope="col"></th>'
        '<th scope="col">Says</th><th scope="col">Sure</th><th scope="col">Place</th>'
        f'<th scope="col">Points</th></tr></thead><tbody>{"".join(body)}</tbody></table>'
    )


# ------------------------------------------------------------------------------------ the end
def finish(game: Game, klass: Class, session: Sequence[Result]) -> tuple[str, list[Result]]:
    """The page of the result, and this visit's results with the new one."""
    own = quiz.result(game)
    if klass.results is not None:
        try:
            quiz.append_result(klass.results, own)
        except (OSError, QuizError):
            log.exception("A result could not be written")
    return _result_page(game), [*session, own]


def _result_page(game: Game) -> str:
    own, model = game.summary(), game.model_summary()
    assert own is not None
    rows = [_summary_row("You", own)]
    if model:
        rows.append(_summary_row("The model", model))
    films = "".join(
        f'<tr><th scope="row">{m.number}</th><td>{m.truth.label}</td>'
        f"<td>{m.answer.label} {'✓' if m.score.right else '✗'}</td>"
        f"<td>{m.answer.sureness:.0f} %</td>"
        f'<td>{_model_cell(m)}</td><td class="fx-number">{m.score.points:.1f}</td></tr>'
        for m in game.marks
    )
    name = f", {escape(game.name)}" if game.name else ""
    return (
        '<section class="fx-quiz fx-end" data-state="end" aria-label="Result">'
        f'<div class="fx-card"><p class="fx-kicker">Quiz {game.code}</p>'
        f'<h2 class="fx-head" tabindex="-1"><span>{own.points:.0f} of {own.most:.0f} points{name}'
        f'</span></h2><p class="fx-lead">{escape(_calibration_words(own))} '
        f"{escape(_against(own, model))}</p>"
        '<div class="fx-scroll" tabindex="0" role="region" aria-label="You and the model">'
        '<table class="fx-table"><thead><tr><th scope="col"></th><th scope="col">Class right</th>'
        '<th scope="col">Place found</th><th scope="col">Mean sureness</th>'
        '<th scope="col">Brier score</th><th scope="col">Points</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="fx-small">Brier score: how far the stated sureness lies from what came true, '
        "squared; 0 is perfect, 0.25 a coin toss, lower is better.</p>"
        "<details><summary>Film by film</summary>"
        '<div class="fx-scroll" tabindex="0" role="region" aria-label="Film by film">'
        '<table class="fx-table"><thead><tr><th scope="col">Film</th><th scope="col">Truth</th>'
        '<th scope="col">You</th><th scope="col">Sure</th><th scope="col">Model</th>'
        f'<th scope="col">Points</th></tr></thead><tbody>{films}</tbody></table></div></details>'
        f'<div class="fx-ways"><a class="fx-tool" download="quiz-{game.code}.csv" '
        f'href="{csv_uri(quiz.answers_csv(game))}">Take my answers (CSV)</a>'
        '<button type="button" class="fx-tool" data-do="again">Another quiz</button></div>'
        "</div></section>"
    )


def _summary_row(who: str, got: Summary) -> str:
    placed = f"{got.hits} of {got.placed}" if got.placed else "not known"
    return (
        f'<tr><th scope="row">{who}</th><td>{got.right} of {got.films}</td><td>{placed}</td>'
        f"<td>{got.sureness:.0f} %</td><td>{got.brier:.2f}</td>"
        f'<td class="fx-number">{got.points:.0f} of {got.most:.0f}</td></tr>'
    )


def _model_cell(mark: Mark) -> str:
    if mark.model_answer is None or mark.model_score is None:
        return "no verdict"
    return f"{mark.model_answer.label} {'✓' if mark.model_score.right else '✗'}"


def _calibration_words(own: Summary) -> str:
    over = own.overconfidence
    said = f"You were {own.sureness:.0f} % sure on average and right {own.right} times in {FILMS}: "
    if over > 10:
        return said + "surer than your answers deserved."
    if over < -10:
        return said + "you may trust yourself more."
    return said + "a fair idea of how much you know."


def _against(own: Summary, model: Summary | None) -> str:
    if model is None:
        return ""
    better, worse = ("You", "the model") if own.brier < model.brier else ("The model", "you")
    said = f"{better} beat {worse} by the Brier score"
    return said + ("." if min(own.brier, model.brier) < 0.25 else ", and a coin beats both.")


def csv_uri(text: str) -> str:
    """A text as the address of a download; nothing is left on the server's disk."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


# ------------------------------------------------------------------------------------ the board
def board(code: str, klass: Class, session: Sequence[Result]) -> str:
    """The class board of one quiz, as HTML; code: "" for all quizzes."""
    rows, complaints = list(session), []
    if klass.results is not None:
        try:
            rows, complaints = quiz.read_results(klass.results)
        except OSError:
            complaints = ["The file of results cannot be read."]
    try:
        code = quiz.read_code(code) if code.strip() else ""
    except QuizError:
        code = ""
    best = quiz.standings(rows, code or None)
    where = (
        "Names and results are kept in the teacher's folder."
        if klass.results
        else "It lives in this page alone and is gone when the page is closed."
    )
    which = f"quiz {code}" if code else "all quizzes"
    if not best:
        inside = '<p class="fx-lead">Nobody has finished yet.</p>'
    else:
        body = "".join(
            f'<tr><td class="fx-number">{place}</td><th scope="row">{escape(row.name)}</th>'
            f'<td class="fx-number">{row.points:.0f} of {row.most:.0f}</td>'
            f"<td>{row.right} of {row.films}</td><td>{_hits(row)}</td>"
            f"<td>{row.sureness:.0f} %</td><td>{row.brier:.2f}</td></tr>"
            for place, row in enumerate(best, start=1)
        )
        inside = (
            f'<p class="fx-lead">{escape(_class_words(best))}</p>'
            '<div class="fx-scroll" tabindex="0" role="region" aria-label="Class board">'
            '<table class="fx-table"><thead><tr><th scope="col">Place</th>'
            '<th scope="col">Name</th><th scope="col">Points</th><th scope="col">Class right</th>'
            '<th scope="col">Place found</th><th scope="col">Mean sureness</th>'
            f'<th scope="col">Brier score</th></tr></thead><tbody>{body}</tbody></table></div>'
            f'<div class="fx-ways"><a class="fx-tool" download="board.csv" '
            f'href="{csv_uri(quiz.board_csv(best))}">Take the board (CSV)</a></div>'
        )
    return (
        f'<section class="fx-card fx-board"><p class="fx-kicker">{which}</p>'
        f'<h2 class="fx-head"><span>Class board</span></h2>{inside}'
        f'<p class="fx-small">{where} The first result of a name counts.</p>'
        + "".join(f'<p class="fx-reasons">{escape(text)}</p>' for text in complaints)
        + "</section>"
    )


def _hits(row: Result) -> str:
    return f"{row.hits} of {row.placed}" if row.placed else "not known"


def _class_words(rows: Sequence[Result]) -> str:
    films = sum(row.films for row in rows)
    right = sum(row.right for row in rows) / films
    sure = sum(row.sureness * row.films for row in rows) / films
    model = sum(row.model_right for row in rows) / films
    people = f"{len(rows)} players" if len(rows) > 1 else "One player"
    return (
        f"{people}: {100 * right:.0f} % of the answers are right, said with {sure:.0f} % sureness. "
        f"The model is right on {100 * model:.0f} %."
    )


def invitation(code: str) -> str:
    """The code for the class, large, and the link that opens it."""
    try:
        code = quiz.read_code(code)
    except QuizError:
        return ""
    return (
        f'<div class="fx-card fx-invite" role="status"><p>The code for the class: <b>{code}</b></p>'
        f'<p>or this address: <a href="?quiz={quote(code)}">?quiz={quote(code)}</a></p>'
        '<p class="fx-own fx-small" hidden>This address works on this computer only. Open the page '
        "by the computer's address in your network, and make the code there.</p></div>"
    )


# Writes the whole address out, so that it can be copied from the projector; one that leads no phone
# here says so.
INVITE_SCRIPT = """
watch("value", () => {
  element.querySelectorAll("a").forEach((a) => { a.textContent = a.href; });
  const own = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  element.querySelectorAll(".fx-own").forEach((note) => { note.hidden = !own; });
});
"""


# ------------------------------------------------------------------------------------ programs
def mark_json(mark: Mark) -> dict[str, Any]:
    """An answered film as plain JSON values."""
    return {
        "film": mark.number,
        "truth": asdict(mark.truth),
        "answer": asdict(mark.answer),
        "score": asdict(mark.score),
        "model_answer": asdict(mark.model_answer) if mark.model_answer else None,
        "model_score": asdict(mark.model_score) if mark.model_score else None,
    }


def state_json(game: Game, klass: Class) -> dict[str, Any]:
    """Where a game stands as plain JSON values, with the film to be answered next."""
    own, model = game.summary(), game.model_summary()
    return {
        "code": game.code,
        "name": game.name,
        "next": game.next,
        "picture": slide(game.code, game.next, klass.films).reading.film if game.next else None,
        "summary": asdict(own) if own else None,
        "model": asdict(model) if model else None,
    }


def board_text(code: str, klass: Class) -> str:
    """The board of a quiz ("" for all) as CSV; empty where no results are kept."""
    if klass.results is None:
        return ""
    rows, _ = quiz.read_results(klass.results)
    return quiz.board_csv(quiz.standings(rows, quiz.read_code(code) if code.strip() else None))
