"""The classroom in a real browser: a quiz to its end, a sweep, a stress test, a PDF, the atlas."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import draw_film
from PIL import Image
from running import Running, run_app
from test_browser import CONTRAST, Visit, browser, pick  # noqa: F401
from test_browser import pytestmark as needs_chromium

from fracture import quiz, report
from fracture.web import html

pytest_plugins = ("running",)
pytestmark = needs_chromium


@pytest.fixture
def visit(browser, app: Running) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, app.url)
    yield visit
    visit.leave()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "Doe Jane.png"
    Image.fromarray(draw_film(600, 420)).save(path)
    return path


def open_tab(page, name: str) -> None:
    tab = page.get_by_role("tab", name=name, exact=True)
    if tab.is_visible():
        tab.click()
    else:  # a phone keeps some of them behind "..."
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=name).click()


def drag(page, frame, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag with the mouse over a film; both ends in fractions of it."""
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    x, y = ([box["x"] + box["width"] * p[0], box["y"] + box["height"] * p[1]] for p in (start, end))
    page.mouse.move(*x)
    page.mouse.down()
    page.mouse.move((x[0] + y[0]) / 2, (x[1] + y[1]) / 2)
    page.mouse.move(*y)
    page.mouse.up()


# --- quiz ------------------------------------------------------------------------------------


def test_a_quiz_is_played_to_its_end(visit: Visit) -> None:
    page = visit.page
    code = quiz.new_code()
    open_tab(page, "Quiz")
    page.get_by_label("Code (leave it empty").fill("SKX-000")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("This is not a quiz code.").wait_for()
    page.get_by_label("Code (leave it empty").fill(code.lower())
    page.get_by_label("Name for the class board").fill("<b>Ada")
    page.get_by_role("button", name="Start").click()
    points = 0.0
    for number in range(1, quiz.FILMS + 1):
        page.locator(f'.fx-quiz[data-state="ask"][data-number="{number}"]').wait_for()
        frame, answer = page.locator("#quiz [data-do=mark]"), page.locator("#quiz .fx-go")
        assert page.locator(".fx-truth, #quiz .fx-heat").count() == 0
        if number == 1:  # an unfinished answer is not sent
            answer.click()
            page.get_by_text("Mark the fracture first").wait_for()
            page.locator(".fx-choice", has_text="Simple").click()
            answer.click()
            page.get_by_text("Mark the fracture first").wait_for()
            size = frame.bounding_box()
            frame.click(position={"x": size["width"] * 0.3, "y": size["height"] * 0.6})
            page.get_by_text("A place is marked.").wait_for()
            ring = page.locator("#quiz .fx-mark-yours.fx-ring")
            place = ring.evaluate("e => [parseFloat(e.style.left), parseFloat(e.style.top)]")
            assert place == pytest.approx([30, 60], abs=1)
        elif number == 2:  # a box, by dragging
            drag(page, frame, (0.2, 0.3), (0.6, 0.7))
            page.get_by_text("A box is drawn.").wait_for()
            sides = page.locator("#quiz .fx-frame").evaluate(
                "e => ['left', 'top', 'width', 'height'].map((s) => parseFloat(e.style[s]))"
            )
            assert sides == pytest.approx([20, 30, 40, 40], abs=1.5)
        elif number == 3:  # by keyboard alone
            frame.focus()
            for key in ("ArrowRight", "ArrowDown", "Enter"):
                page.keyboard.press(key)
            page.get_by_text("A place is marked.").wait_for()
        else:
            frame.click()
        page.locator(".fx-choice", has_text="Comminuted" if number % 2 else "Simple").click()
        sure = page.locator("#quiz [name=sureness]")
        sure.focus()
        sure.press("End")
        assert page.locator(".fx-sure output").inner_text() == "100 %"
        answer.click()
        told = page.locator(f'.fx-quiz[data-state="told"][data-number="{number}"]')
        told.wait_for()
        assert page.locator(".fx-truth").count() == 1 and told.locator(".fx-heat").count() == 1
        assert told.locator(".fx-mark-yours").count() == 1
        gained = told.locator(".fx-compare tbody tr").first.locator("td").last.inner_text()
        points += float(gained.split(" of ")[0])
        assert told.locator(".fx-dots .fx-right, .fx-dots .fx-wrong").count() == number
        page.locator("#quiz [data-do=next]").click()
    end = page.locator('.fx-quiz[data-state="end"]')
    end.wait_for()
    head = end.locator("h2").inner_text()
    assert float(head.split(" of ")[0]) == pytest.approx(points, abs=1.1) and "<b>Ada" in head
    assert "right" in end.inner_text() and "Brier" in end.inner_text()
    with page.expect_download() as taken:
        end.get_by_role("link", name="Take my answers (CSV)").click()
    rows = list(csv.DictReader(taken.value.path().open(newline="")))
    assert len(rows) == quiz.FILMS and {r["code"] for r in rows} == {code}
    assert sum(float(r["points"]) for r in rows) == pytest.approx(points, abs=0.6)
    board = page.locator(".fx-board")
    assert "<b>Ada" in board.inner_text() and code in board.inner_text()
    page.get_by_role("button", name="Another quiz").click()
    page.get_by_role("button", name="Start").wait_for()
    assert page.get_by_label("Code (leave it empty").input_value() == ""


@pytest.fixture(scope="module")
def taught(random_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The app with a teacher's folder, partly broken, and results from before it was started."""
    films, results = tmp_path_factory.mktemp("films"), tmp_path_factory.mktemp("kept")
    for index in range(5):
        Image.fromarray(draw_film(300, 240, seed=index)).save(films / f"{index}.png")
    rows = ["0.png,simple", "lost.png,simple", "1.png,comminuted", "2.png,<b>odd", "3.png,simple"]
    (films / "labels.csv").write_text("\n".join(["file,label", *rows, "4.png,comminuted", ""]))
    game = quiz.Game(quiz.new_code(), "Earlier Ada")
    while game.next:
        truth = quiz.Truth("Simple", (), 10, 10, "", "", True)
        game.give(game.next, quiz.Answer("Simple", 90, (0.5, 0.5)), truth)
    quiz.append_result(results / "quiz-results.csv", quiz.result(game))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRACTURE_FILMS", str(films))
        patch.setenv("FRACTURE_RESULTS", str(results))
        with run_app(tmp_path_factory.mktemp("taught"), random_checkpoints, "transfer") as running:
            yield running


def test_broken_rows_are_named_and_the_rest_is_played(browser, taught: Running) -> None:  # noqa: F811
    visit = Visit(browser, taught.url)
    page = visit.page
    open_tab(page, "Quiz")
    page.get_by_role("button", name="Left out of the teacher's folder: 2").click()
    for words in ("labels.csv, line 3", "labels.csv, line 5"):
        page.get_by_text(words).wait_for()
    assert page.get_by_text("lost.png").is_visible() and page.get_by_text("<b>odd").is_visible()
    page.get_by_role("button", name="Show the class board").click()
    page.locator(".fx-board").get_by_text("Earlier Ada").wait_for()  # it survived the restart
    pick(page, "The teacher's")
    page.get_by_role("button", name="Start").click()
    frame = page.locator("#quiz [data-do=mark]")
    frame.click()
    page.locator(".fx-choice", has_text="Simple").click()
    page.locator("#quiz .fx-go").click()
    page.get_by_text("Nobody has marked the place on this film").wait_for()
    visit.leave()


def test_a_link_opens_its_quiz(browser, app: Running) -> None:  # noqa: F811
    code = quiz.new_code()
    visit = Visit(browser, app.url)
    visit.page.goto(f"{app.url}?quiz={code}")
    field = visit.page.get_by_label("Code (leave it empty")
    field.wait_for()
    visit.page.wait_for_function(
        "code => [...document.querySelectorAll('#quiz-code :is(input, textarea)')]"
        ".some((e) => e.value === code)",
        arg=code,
    )
    visit.page.get_by_role("button", name="A code for the class").click()
    link = visit.page.locator(".fx-invite a")
    link.wait_for()
    address = link.inner_text()
    assert address.startswith(app.url) and quiz.read_code(address.split("quiz=")[1])
    assert field.input_value() in address
    assert visit.page.get_by_text("works on this computer only").is_visible()  # 127.0.0.1
    visit.leave()


# --- lessons ---------------------------------------------------------------------------------


def test_a_fracture_is_made_and_a_sweep_plotted(visit: Visit) -> None:
    page = visit.page
    open_tab(page, "Make a fracture")
    view = page.locator("#make-view")
    view.locator(".fx-heat").wait_for()
    page.locator("#make-verdict .fx-bar").first.wait_for()
    truth = view.locator(".fx-truth")
    assert not truth.is_visible()
    view.get_by_label("Show the true fracture").check()
    assert truth.is_visible()
    view.locator("summary").click()
    assert "42B2" in view.inner_text()
    pick(page, "Transverse")
    view.get_by_text("transverse").wait_for()
    assert truth.is_visible()  # what was opened stays open
    assert page.get_by_label("number input for Fragments").count() == 0  # always two: no choice
    pick(page, "Metacarpal")
    view.get_by_text("metacarpal").wait_for()
    assert page.get_by_label("Torus (buckle)").count() == 0  # not on offer for this bone
    page.get_by_label("Sweep one control").click()
    page.get_by_role("option", name="Exposure").click()
    page.get_by_role("button", name="Sweep it").click()
    page.locator("#make-words").get_by_text("films made and read").wait_for()
    plot = page.locator(".fx-plot")
    plot.wait_for()
    assert plot.evaluate("e => e.naturalWidth") > 800
    assert "times the right one" in plot.get_attribute("alt")
    assert not page.locator("#make-words .fx-status").is_visible()
    page.locator(".fx-sweep summary").click()
    assert page.locator(".fx-sweep tbody tr").count() == 9


def test_the_film_of_the_first_page_is_put_under_strain(visit: Visit, film: Path) -> None:
    page = visit.page
    visit.read(film)
    open_tab(page, "Stress test")
    view, card = page.locator("#stress-view"), page.locator("#stress-verdict")
    view.locator(".fx-heat").wait_for()
    assert "Doe Jane" in card.inner_text()
    layer = view.locator(".fx-film").get_attribute("src")
    rotation = page.get_by_label("number input for Rotation (degrees clockwise)")
    rotation.fill("40")
    rotation.press("Enter")
    card.get_by_text("Left alone, the film reads").wait_for()
    turned = view.locator(".fx-film").get_attribute("src")
    assert turned != layer
    drag(page, view.locator("[data-do=mark]"), (0.3, 0.4), (0.7, 0.6))
    page.wait_for_function(
        "old => document.querySelector('#stress-view .fx-film').src !== old", arg=turned
    )
    page.get_by_role("button", name="Undo all").click()
    page.wait_for_function(
        "old => document.querySelector('#stress-view .fx-film').src === old", arg=layer
    )
    assert rotation.input_value() == "0"
    mind = page.get_by_role("button", name="What would change its mind?")
    mind.click()
    view.get_by_text("places were hidden, one at a time").wait_for()
    mind.click()
    page.wait_for_function(  # it has begun anew
        "() => document.querySelector('#stress-words').textContent.includes('Hiding one place')"
    )
    rotation.fill("20")
    rotation.press("Enter")
    card.get_by_text("Left alone, the film reads").wait_for()
    page.wait_for_timeout(1500)  # a map of the film as it was would come now
    assert view.locator(".fx-minding").count() == 0 and view.locator(".fx-heat").count() == 1


def test_on_a_phone_the_film_stays_in_sight_and_a_finger_erases(browser, app: Running) -> None:  # noqa: F811
    height = 844
    visit = Visit(browser, app.url, 390, height, has_touch=True, is_mobile=True)
    page = visit.page
    open_tab(page, "Stress test")
    view = page.locator("#stress-view")
    frame, film = view.locator("[data-do=mark]"), view.locator(".fx-film")
    view.locator(".fx-heat").wait_for()
    page.get_by_label("range slider for JPEG quality").scroll_into_view_if_needed()
    box = frame.bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= height
    assert view.locator(".fx-now").is_visible()
    covered = page.evaluate(  # neither the labels that pass beneath nor the header lie over it
        "([x, y]) => !document.elementFromPoint(x, y).closest('#stress-view')",
        [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2],
    )
    assert not covered
    before = film.get_attribute("src")
    assert not page.get_by_role("button", name="Bring it back").is_visible()
    page.get_by_role("button", name="Erase with a finger").tap()
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    finger = page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.3), ("touchMove", 0.5), ("touchMove", 0.7)):
        point = {"x": box["x"] + share * box["width"], "y": box["y"] + share * box["height"]}
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.get_by_role("button", name="Bring it back").tap()
    page.wait_for_function(
        "old => document.querySelector('#stress-view .fx-film').src === old"
        " && !document.querySelector('#stress-view [data-do=clear]')",
        arg=before,
    )
    visit.leave()


def test_a_reading_is_taken_away_as_pdf_and_png(visit: Visit, film: Path) -> None:
    page = visit.page
    assert not page.get_by_role("button", name="Take it away as PDF").is_visible()
    visit.read(film)
    with page.expect_download() as taken:
        page.get_by_role("button", name="Take it away as PDF").click()
    assert taken.value.suggested_filename == "fracture-reading.pdf"
    data = taken.value.path().read_bytes()
    assert data.startswith(b"%PDF-") and len(re.findall(rb"/Type /Page\b", data)) == 1
    assert b"Doe" not in data
    with page.expect_download() as taken:
        page.get_by_role("button", name="as PNG").click()
    with Image.open(taken.value.path()) as picture:
        assert picture.height > picture.width > 1000
    pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")
    opened = pdfium.PdfDocument(data)  # the engine of Chromium's own reader
    text = opened[0].get_textpage().get_text_range()
    assert len(opened) == 1 and "For teaching, not for diagnosis" in text
    verdict = page.locator("#verdict h2").inner_text()
    share = page.locator("#verdict .fx-chosen .fx-bar-share").inner_text()
    assert verdict in text and share in text and "Doe" not in text


def test_an_insisted_verdict_is_taken_away(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")
    blank = tmp_path / "blank.png"
    Image.new("L", (300, 240), 128).save(blank)

    def taken() -> str:
        with page.expect_download() as download:
            page.get_by_role("button", name="Take it away as PDF").click()
        data = download.value.path().read_bytes()
        return pdfium.PdfDocument(data)[0].get_textpage().get_text_range()

    visit.read(blank, status="refused")
    assert "No verdict" in taken()
    page.get_by_role("button", name="Show the verdict anyway").click()
    page.locator("#verdict .fx-bar").first.wait_for()
    text = taken()
    assert "No verdict" not in text and "insisted on" in text and report.INSISTED in text
    page.get_by_text("HiResCAM").or_(page.get_by_label("Heatmap method")).first.click()
    page.get_by_role("option", name="HiResCAM").click()
    page.locator("#view .fx-method", has_text="HiResCAM").wait_for()  # still insisted on
    visit.choose(blank)  # another film: its refusal stands
    page.locator("#verdict h2", has_text="No verdict").wait_for()
    assert "No verdict" in taken()


def test_how_good_and_learn(visit: Visit) -> None:
    page = visit.page
    open_tab(page, "How good is it?")
    first = page.locator("#evidence .fx-card").first
    first.wait_for()
    if first.get_attribute("data-state") == "absent":
        assert "python -m fracture.evaluate" in first.inner_text()
    else:
        assert page.locator(".fx-measures .fx-big").count() >= 3
        lesson = page.locator(".fx-lesson")
        if lesson.count():
            rows = lesson.locator(".fx-way-row")
            for shown in range(1, rows.count() + 1):
                lesson.locator("[data-do=step]").click()
                assert lesson.locator(".fx-way-row:visible").count() == shown
                guessed = rows.nth(shown - 1).get_attribute("data-guess") is not None
                assert ("Your guess was 90 %" in lesson.inner_text()) == guessed
            lesson.get_by_text("Balanced accuracy", exact=True).click()
            value = rows.first.get_attribute("data-balanced-accuracy")
            percent = rows.first.locator(".fx-way-value").inner_text().rstrip(" %")
            assert float(percent) == pytest.approx(100 * float(value), abs=0.6)
    open_tab(page, "Learn")
    picture = page.locator("#atlas-transverse .fx-atlas-film")
    picture.scroll_into_view_if_needed()
    page.wait_for_function(
        "() => document.querySelector('#atlas-transverse .fx-atlas-film').naturalWidth > 100"
    )
    heat = page.locator("#atlas-transverse .fx-atlas-map")
    assert not heat.is_visible()
    page.get_by_label("Show the model's heatmap").check()
    assert heat.is_visible()


# --- layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_can_be_read(
    browser,  # noqa: F811
    app: Running,
    width: int,
    height: int,
    scheme: str,
) -> None:
    visit = Visit(browser, app.url, width, height, color_scheme=scheme)
    page = visit.page
    for name, ready in (
        ("Make a fracture", "#make-view .fx-heat"),
        ("Quiz", "#quiz-start"),
        ("Stress test", "#stress-view .fx-heat"),
        ("How good is it?", "#evidence .fx-card"),
        ("Learn", ".fx-atlas"),
    ):
        open_tab(page, name)
        page.locator(ready).first.wait_for()
        if name == "Quiz":
            page.get_by_role("button", name="Start").click()
            page.locator("#quiz [data-do=mark]").wait_for()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        ratios = page.evaluate(CONTRAST)
        low = sorted((r for r in ratios if r[1] < 4.5), key=lambda r: r[1])
        assert ratios and not low, (name, low[:5])
        notice = page.locator("#header .fx-notice")
        assert notice.inner_text() == html.NOTICE and notice.bounding_box()["y"] >= 0
    visit.leave()


def test_the_first_page_is_as_simple_as_before(visit: Visit) -> None:
    """The other pages' parts are not in the document before their tab is opened."""
    page = visit.page
    assert page.locator("#make-view, #quiz, #stress-view, #evidence, .fx-atlas").count() == 0
    assert (
        page.locator("#read button:visible").count() <= 4 + page.locator("[data-example]").count()
    )
