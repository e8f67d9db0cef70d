"""The quiz: ten films that a code stands for, the answers of a player, and what they are worth.

A code such as ``SKX-47D`` gives everybody the same ten films: simulated ones, whose truth is known
to the pixel, films from a teacher's folder with a ``labels.csv``, or five of each. What is true
about a film, and hence every score, is worked out here from the code; nothing that a browser says
about it counts. The model plays along: its verdict is turned into an `Answer` and marked by the
same rules.

Places are fractions of the film: x of its width, y of its height, from the top left corner.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fracture.film import TO_SCREEN, Film, FilmError, read_film
from fracture.labels import Box, Record, read_usable_labels
from fracture.once import once
from fracture.simulate import Settings, random_settings, simulate

if TYPE_CHECKING:
    from fracture.classifier import Prediction

FILMS = 10
CLASSES = ("Simple", "Comminuted")
# Signs that nobody mistakes for another, spoken or written; a prime number of them (see _check).
SIGNS = "CDFHJKMNPRTVWXY3479"
SOURCES = {"S": "simulated", "M": "mixed", "F": "folder"}
FROM_FOLDER = {"S": 0, "M": FILMS // 2, "F": FILMS}

TYPE_POINTS = 5.0
TAP_POINTS, BOX_POINTS = 4.0, 5.0  # a good box says more than a tap in the right place
SLACK = 0.02  # how far beside the box still counts as in it: a finger is as wide as a fracture
REACH = 0.2  # how far beside it earns nothing any more; both as shares of the film's diagonal
GOOD_OVERLAP = 0.5  # intersection over union that earns all points, as detectors are judged

NAME_LENGTH = 24


class QuizError(ValueError):
    """A wrong code, a wrong answer, no folder ...; the message is one plain sentence."""


# ------------------------------------------------------------------------------------ the code
def new_code(source: str = "simulated") -> str:
    """A fresh code. source: "simulated", "mixed" or "folder"; QuizError for anything else."""
    kinds = {name: kind for kind, name in SOURCES.items()}
    if source not in kinds:
        raise QuizError(f"Films come from one of: {', '.join(kinds)}; not from {source!r}.")
    body = kinds[source] + "".join(secrets.choice(SIGNS) for _ in range(4))
    return _shown(body + _check(body))


def read_code(text: str) -> str:
    """The code as `new_code` writes it, whatever the case, spaces and hyphens of `text`.

    Raises QuizError for what is no code; any one wrong sign and any two swapped ones are noticed.
    """
    signs = "".join(c for c in str(text)[:40].upper() if c.isalnum())
    body, check = signs[:-1], signs[-1:]
    known = len(signs) == 6 and signs[0] in SOURCES and all(c in SIGNS for c in signs[1:])
    if not known or _check(body) != check:
        raise QuizError("This is not a quiz code. One looks like SKX-47D; check it for a typo.")
    return _shown(signs)


def source_of(code: str) -> str:
    """Where a code's films come from: "simulated", "mixed" or "folder"."""
    return SOURCES[code[0]]


def _check(body: str) -> str:
    """A last sign that tells wrong codes apart.

    The weights differ and the number of signs is prime, so one changed sign, or two swapped ones,
    always change the sum.
    """
    total = list(SOURCES).index(body[0])
    total += sum(weight * SIGNS.index(sign) for weight, sign in enumerate(body[1:], start=2))
    return SIGNS[total % len(SIGNS)]


def _shown(signs: str) -> str:
    return f"{signs[:3]}-{signs[3:]}"


def _seed(*parts: object) -> int:
    """A number that depends on nothing but the parts, the same in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


# ------------------------------------------------------------------------------------ the films
@dataclass(frozen=True, eq=False)
class Folder:
    """A teacher's films.

    records:  the pictures that are labelled simple or comminuted.
    left_out: a sentence for each row of `labels.csv` that is broken.
    """

    records: tuple[Record, ...]
    left_out: tuple[str, ...] = ()


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """Read the `labels.csv` of a teacher's folder; see `fracture.labels.read_usable_labels`.

    Pictures with other labels (no fracture, unclear) are not asked and left out without a word.
    Raises LabelsError if there is no usable `labels.csv`.
    """
    records, complaints = read_usable_labels(path)
    beside = f"{Path(path)}{os.sep}"  # the page need not say where on the disk the folder lies
    return Folder(
        tuple(record for record in records if record.label in CLASSES),
        tuple(complaint.replace(beside, "") for complaint in complaints),
    )


@dataclass(frozen=True)
class Truth:
    """What is true about a film.

    label: "Simple" or "Comminuted". boxes: where it is broken; empty if nobody knows.
    width, height: of the film in pixels. about: bone and pattern in words.
    code: AO/OTA, "" if not known. simulated: False for a film from a teacher's folder.
    """

    label: str
    boxes: tuple[Box, ...]
    width: int
    height: int
    about: str
    code: str
    simulated: bool


@dataclass(frozen=True, eq=False)
class Question:
    """A film and the truth about it; mask: bool (H, W), True on the fracture, if simulated."""

    number: int
    film: Film
    truth: Truth
    mask: np.ndarray | None = None


def question(code: str, number: int, folder: Folder | None = None) -> Question:
    """Film `number` (from 1) of a code: the same for everyone, in about half a second.

    Raises QuizError for a wrong code or number, or if the code asks for a folder and there is
    none. Not remembered: whoever shows it keeps what is needed of it.
    """
    code = read_code(code)
    if not 1 <= number <= FILMS:
        raise QuizError(f"A quiz has films 1 to {FILMS}.")
    if source_of(code) != "simulated" and folder is None:
        raise QuizError(
            "This code stands for films from a teacher's folder, "
            "and this app was started without one."
        )
    asked = _asked(code, folder)[number - 1]
    if isinstance(asked, Record):
        return _from_folder(number, asked)
    return _simulated(code, number, asked)


@once(32)
def _asked(code: str, folder: Folder | None) -> tuple[str | Record, ...]:
    """For each film of a code a record of the folder, or the class that is to be simulated.

    Four to six of the ten are comminuted, so that counting does not help. A record's place in the
    draw depends on the code and its id alone: a picture more in the folder changes little. One
    patient is asked about once. Too few pictures of a class: the simulator helps out.
    """
    rng = np.random.default_rng(_seed(code))
    comminuted = int(rng.integers(FILMS // 2 - 1, FILMS // 2 + 2))
    wanted = rng.permutation(["Comminuted"] * comminuted + ["Simple"] * (FILMS - comminuted))
    real = set(rng.permutation(FILMS)[: FROM_FOLDER[code[0]]].tolist())
    records = folder.records if folder else ()
    ranked = iter(sorted(records, key=lambda record: _seed(code, record.id)))
    waiting: dict[str, list[Record]] = {label: [] for label in CLASSES}
    groups: set[str] = set()

    def draw(label: str) -> Record | None:
        while not waiting[label]:
            record = next(ranked, None)
            if record is None:
                return None
            if record.group not in groups and _readable(record):
                groups.add(record.group)
                waiting[record.label].append(record)
        return waiting[label].pop(0)

    return tuple(
        (draw(label) if place in real else None) or label
        for place, label in enumerate(wanted.tolist())
    )


def _readable(record: Record) -> bool:
    try:
        return not read_film(record.path).problems
    except FilmError:
        return False


def _from_folder(number: int, record: Record) -> Question:
    try:
        film = read_film(record.path, name=f"Film {number}", limits=TO_SCREEN)
    except FilmError as error:
        raise QuizError(f"Film {number} can no longer be read: {error}") from error
    height, width = film.pixels.shape
    about = ", ".join(word for word in (record.region, record.pattern) if word)
    truth = Truth(record.label, record.boxes, width, height, about, "", False)
    return Question(number, film, truth)


def _simulated(code: str, number: int, label: str) -> Question:
    rng = np.random.default_rng(_seed(code, number))
    while True:  # a film so badly exposed that no model reads it is drawn anew
        made = simulate(random_settings(rng, label=label))
        film = read_film(to_bytes(made.pixels), name=f"Film {number}")
        if not film.problems and made.box is not None:
            break
    height, width = made.pixels.shape
    box = made.box
    inside = (box.left / width, box.top / height, box.width / width, box.height / height)
    truth = Truth(
        made.label, (inside,), width, height, described(made.settings), made.ao_code, True
    )
    return Question(number, film, truth, made.mask)


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """float (H, W) in [0, 1] as uint8."""
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def described(settings: Settings) -> str:
    """Bone, pattern and pieces in words: "tibia, segmental, 3 fragments"."""
    words = [settings.bone, settings.pattern]
    if settings.label == "Comminuted":
        words.append(f"{settings.fragments} fragments")
    return ", ".join(words)


# ------------------------------------------------------------------------------------ the answers
@dataclass(frozen=True)
class Answer:
    """What somebody says about a film.

    label: "Simple" or "Comminuted". sureness: of the label, per cent, 50 (a coin toss) to 100.
    place: a point (x, y) or a box (left, top, width, height).

    Raises QuizError for anything else.
    """

    label: str
    sureness: float
    place: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.label not in CLASSES:
            raise QuizError("Say which it is: simple or comminuted.")
        sureness = _numbers([self.sureness])
        if sureness is None or not 50 <= sureness[0] <= 100:
            raise QuizError("Say how sure you are: 50 to 100 %.")
        place = _numbers(self.place)
        if place is None or len(place) not in (2, 4):
            raise QuizError("Mark the fracture: tap it, or draw a box around it.")
        x, y, width, height = (*place, 0.0, 0.0)[:4]
        left, top, right, bottom = (
            min(max(edge, 0.0), 1.0) for edge in (x, y, x + width, y + height)
        )
        if len(place) == 4 and (right <= left or bottom <= top):
            raise QuizError("The box is empty or lies beside the film.")
        inside = (left, top) if len(place) == 2 else (left, top, right - left, bottom - top)
        object.__setattr__(self, "sureness", sureness[0])
        object.__setattr__(self, "place", inside)

    @property
    def middle(self) -> tuple[float, float]:
        """The point, or the middle of the box."""
        x, y, width, height = (*self.place, 0.0, 0.0)[:4]
        return x + width / 2, y + height / 2


def _numbers(values: Any) -> tuple[float, ...] | None:
    """Finite numbers out of what a browser sent; None for anything else."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def answer_of_model(prediction: Prediction, heatmap: np.ndarray | None) -> Answer | None:
    """A model's verdict as an answer to the same question; None if it gave none.

    The probabilities of the two fracture classes are scaled to sum 1: that the film shows a
    fracture is known here. The place is the highest point of the map, float32 (H, W).
    """
    simple, comminuted = (prediction.probabilities.get(label, 0.0) for label in CLASSES)
    if prediction.label is None or heatmap is None or simple + comminuted <= 0:
        return None
    share = comminuted / (simple + comminuted)
    row, column = np.unravel_index(int(np.argmax(heatmap)), heatmap.shape)
    place = ((column + 0.5) / heatmap.shape[1], (row + 0.5) / heatmap.shape[0])
    return Answer(CLASSES[share > 0.5], 100 * max(share, 1 - share), place)


@dataclass(frozen=True)
class Score:
    """What an answer is worth.

    right:    the label is true. sureness: as answered, per cent.
    brier:    square of what the sureness left for the other class if right, of the sureness itself
              if wrong: 0 best, 0.25 a coin toss, 1 worst (Brier 1950).
    hit:      the point, or the box's middle, lies in a true box or within `SLACK` of one.
    distance: from there to the nearest true box, as a share of the film's diagonal; 0 inside.
    iou:      overlap of the answer's box with the true one; None for a point.
    points:   of `most`. hit, distance and iou are None where nobody knows the place.
    """

    right: bool
    sureness: float
    brier: float
    hit: bool | None
    distance: float | None
    iou: float | None
    points: float
    most: float


def score(truth: Truth, answer: Answer) -> Score:
    """Mark an answer: up to 5 points for the class (less what false sureness costs), up to 5 for
    the place (4 for a tap)."""
    right = answer.label == truth.label
    sure = answer.sureness / 100
    brier = (1 - sure if right else sure) ** 2
    points = TYPE_POINTS * (1 - brier)
    if not truth.boxes:
        return Score(right, answer.sureness, brier, None, None, None, points, TYPE_POINTS)
    distance = min(_distance(answer.middle, box, truth) for box in truth.boxes)
    overlap = None
    if len(answer.place) == 4:
        overlap = max(iou(answer.place, box) for box in truth.boxes)
    near = min(1.0, max(0.0, 1 - (distance - SLACK) / REACH))
    for_box = BOX_POINTS * min(1.0, (overlap or 0.0) / GOOD_OVERLAP)
    points += max(TAP_POINTS * near, for_box)
    return Score(
        right, answer.sureness, brier, distance <= SLACK, distance, overlap, points,
        TYPE_POINTS + BOX_POINTS,
    )  # fmt: skip


def _distance(point: tuple[float, float], box: Box, truth: Truth) -> float:
    left, top, width, height = box
    x = max(left - point[0], 0.0, point[0] - left - width) * truth.width
    y = max(top - point[1], 0.0, point[1] - top - height) * truth.height
    return math.hypot(x, y) / math.hypot(truth.width, truth.height)


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, width, height); 0 to 1."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    union = one[2] * one[3] + other[2] * other[3] - both
    return both / union if union > 0 else 0.0


@dataclass(frozen=True)
class Summary:
    """Several scores together; see `Score`.

    films, right, placed, hits: counts (placed: films whose place is known).
    brier, sureness: means. distance, iou: means, None without any.
    """

    films: int
    right: int
    placed: int
    hits: int
    brier: float
    sureness: float
    distance: float | None
    iou: float | None
    points: float
    most: float

    @property
    def overconfidence(self) -> float:
        """Mean sureness less the share of right answers, in percentage points; below 0: timid."""
        return self.sureness - 100 * self.right / self.films


def summarise(scores: Sequence[Score]) -> Summary | None:
    """Sum up scores; None if there are none."""
    if not scores:
        return None
    distances = [s.distance for s in scores if s.distance is not None]
    overlaps = [s.iou for s in scores if s.iou is not None]
    return Summary(
        len(scores),
        sum(s.right for s in scores),
        len(distances),
        sum(bool(s.hit) for s in scores),
        _mean([s.brier for s in scores]),
        _mean([s.sureness for s in scores]),
        _mean(distances) if distances else None,
        _mean(overlaps) if overlaps else None,
        sum(s.points for s in scores),
        sum(s.most for s in scores),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# ------------------------------------------------------------------------------------ the game
@dataclass(frozen=True)
class Mark:
    """One film of a game: truth, answer and score of the player and of the model (None: it gave
    no verdict)."""

    number: int
    truth: Truth
    answer: Answer
    score: Score
    model_answer: Answer | None
    model_score: Score | None


def mark(number: int, truth: Truth, answer: Answer, model: Answer | None = None) -> Mark:
    """Score a player's and a model's answer to one film."""
    by_model = None if model is None else score(truth, model)
    return Mark(number, truth, answer, score(truth, answer), model, by_model)


@dataclass(eq=False)
class Game:
    """One player's way through a quiz; films are answered once, in their order.

    Lives on the server, one for each visit: truths are told only after the answer was taken.
    """

    code: str
    name: str = ""
    marks: list[Mark] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.code = read_code(self.code)
        self.name = plain_name(self.name)

    @property
    def next(self) -> int | None:
        """Number of the film to answer next; None at the end."""
        return len(self.marks) + 1 if len(self.marks) < FILMS else None

    def give(self, number: int, answer: Answer, truth: Truth, model: Answer | None = None) -> Mark:
        """Take the answer to film `number`. QuizError unless it is this film's turn."""
        with self._lock:  # two answers sent at the same moment: only the first one counts
            if number != self.next:
                raise QuizError("This film has been answered already; its first answer counts.")
            marked = mark(number, truth, answer, model)
            self.marks.append(marked)
            return marked

    def summary(self) -> Summary | None:
        return summarise([m.score for m in self.marks])

    def model_summary(self) -> Summary | None:
        """The model on the films it gave a verdict on; None if there are none."""
        return summarise([m.model_score for m in self.marks if m.model_score])


def plain_name(text: str) -> str:
    """A player's name as it is shown: printable, without outer spaces, at most 24 signs."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:NAME_LENGTH]


def answers_csv(game: Game) -> str:
    """Every answer of a game as CSV: truth, answer, scores, and the same of the model."""
    rows = []
    for m in game.marks:
        row: dict[str, Any] = {
            "code": game.code, "film": m.number, "truth": m.truth.label, "about": m.truth.about,
            "true_boxes": _cell(m.truth.boxes),
        }  # fmt: skip
        for who, answer, got in (
            ("", m.answer, m.score),
            ("model_", m.model_answer, m.model_score),
        ):
            row |= {
                f"{who}answer": answer.label if answer else "",
                f"{who}place": _cell(answer.place) if answer else "",
                **{f"{who}{f.name}": _cell(getattr(got, f.name, None)) for f in fields(Score)},
            }
        rows.append(row)
    return _csv_text(rows)


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, tuple):
        return " ".join(str(_cell(part)) for part in value)
    return "" if value is None else value


def _csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _inert(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _inert(value: Any) -> Any:
    """Keep a spreadsheet from taking a player's name for a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


# ------------------------------------------------------------------------------------ the board
@dataclass(frozen=True)
class Result:
    """One finished game on the class board; time is UTC. Model figures are 0 if it gave none."""

    time: str
    code: str
    name: str
    films: int
    right: int
    placed: int
    hits: int
    sureness: float
    brier: float
    points: float
    most: float
    model_right: int
    model_brier: float
    model_points: float


def result(game: Game, when: datetime | None = None) -> Result:
    """A game's row for the board. QuizError if it is not finished."""
    own, model = game.summary(), game.model_summary()
    if game.next is not None or own is None:
        raise QuizError(f"The quiz is not finished: film {game.next} is next.")
    when = (when or datetime.now(timezone.utc)).astimezone(timezone.utc)
    return Result(
        when.strftime("%Y-%m-%dT%H:%M:%SZ"), game.code, game.name or "anonymous",
        own.films, own.right, own.placed, own.hits, round(own.sureness, 1), round(own.brier, 4),
        round(own.points, 2), own.most,
        model.right if model else 0,
        round(model.brier, 4) if model else 0.0,
        round(model.points, 2) if model else 0.0,
    )  # fmt: skip


def standings(results: Iterable[Result], code: str | None = None) -> list[Result]:
    """The board, best first: of each name the first result with a code, as later ones know the
    truth. code: only this quiz."""
    first: dict[tuple[str, str], Result] = {}
    for row in sorted(results, key=lambda row: row.time):
        if code is None or row.code == code:
            first.setdefault((row.code, row.name.casefold()), row)
    return sorted(first.values(), key=lambda row: (-row.points, row.brier, row.name.casefold()))


def board_csv(results: Sequence[Result]) -> str:
    """Results as CSV, a row each."""
    return _csv_text([asdict(row) for row in results])


COLUMNS = tuple(f.name for f in fields(Result))


def append_result(path: str | os.PathLike[str], row: Result) -> None:
    """Add a row to a CSV file that many processes may write at once; it is made if missing.

    The file is locked while a whole line is added and flushed to the disk. A line that a crash
    cut off is ended first, so that it spoils no other. Raises QuizError if the file holds
    something else, OSError if it cannot be written.
    """
    header = ",".join(COLUMNS).encode()
    line = board_csv([row]).split("\n", 1)[1].encode()
    with open(path, "a+b") as file, _locked(file):
        file.seek(0)
        if file.readline().rstrip(b"\r\n") not in (header, b""):
            raise QuizError(f"{Path(path).name} is not a file of quiz results.")
        end = file.seek(0, os.SEEK_END)
        before = b"" if end else header + b"\n"
        if end:
            file.seek(-1, os.SEEK_END)
            before = b"" if file.read(1) == b"\n" else b"\n"
        file.write(before + line)
        file.flush()
        os.fsync(file.fileno())


def read_results(path: str | os.PathLike[str]) -> tuple[list[Result], list[str]]:
    """All rows of a file of results, and a sentence for each that cannot be read.

    A file that is not there (yet) holds none. Raises OSError if it cannot be read.
    """
    if not Path(path).exists():
        return [], []
    with open(path, "rb") as file, _locked(file):
        text = file.read().decode("utf-8", "replace")
    rows, complaints = [], []
    reader = csv.reader(io.StringIO(text))
    for cells in reader:
        if reader.line_num == 1 or not cells:
            continue
        try:
            rows.append(_result_of(cells))
        except ValueError:
            complaints.append(f"{Path(path).name}, line {reader.line_num} cannot be read.")
    return rows, complaints


def _result_of(cells: Sequence[str]) -> Result:
    """Raises ValueError unless the cells make a sensible row."""
    if len(cells) != len(COLUMNS):
        raise ValueError("wrong number of cells")
    kinds = {"int": int, "float": float, "str": str}
    row = Result(*(kinds[f.type](cell) for f, cell in zip(fields(Result), cells, strict=True)))
    if not all(math.isfinite(v) for v in astuple(row) if not isinstance(v, str)):
        raise ValueError("not a number")
    return row


@contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    """Hold a lock on an open file that other processes and threads ask for as well."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        try:
            yield
        finally:
            file.flush()
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        return
    fcntl.flock(file, fcntl.LOCK_EX if file.writable() else fcntl.LOCK_SH)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
