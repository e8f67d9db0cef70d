"""The first page in a real browser: films in every way they come, verdicts, slider, table."""

from __future__ import annotations

import base64
import csv
import io
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, draw_film
from PIL import Image
from running import Running, run_app

from fracture.web import html

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest_plugins = ("running",)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
PATIENCE = 60_000  # milliseconds
CHOOSE = ".fx-drop input[type=file]"
VERDICT = "#verdict .fx-verdict"


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """A page of the app in one browser, and all that it complained about or asked elsewhere."""

    def __init__(self, browser, url: str, width: int = 1440, height: int = 900, **options) -> None:
        self.url = url
        self.complaints: list[str] = []
        self.requests: list[str] = []
        options.setdefault("reduced_motion", "reduce")  # places are measured as soon as asked
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE)
        self.page = context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector(".fx-drop")

    def _heard(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def choose(self, *files: Path) -> None:
        self.page.set_input_files(CHOOSE, [str(file) for file in files])

    def read(self, *files: Path, status: str = "ok"):
        """Choose films and wait for the verdict card that names the first of them."""
        self.choose(*files)
        return self.wait_for(files[0].name, status)

    def wait_for(self, name: str, status: str = "ok"):
        card = self.page.locator(f'{VERDICT}[data-status="{status}"]', has_text=name)
        card.wait_for()
        return card

    def opacity(self) -> float:
        return float(
            self.page.locator(".fx-heat").first.evaluate("e => getComputedStyle(e).opacity")
        )

    def leave(self) -> None:
        """Close the page; nothing may have gone wrong in it or gone elsewhere."""
        self.page.context.close()
        elsewhere = [r for r in self.requests if not r.startswith((self.url, "data:", "blob:"))]
        assert (self.complaints, elsewhere) == ([], [])


@pytest.fixture
def visit(browser, app: Running) -> Iterator[Visit]:
    visit = Visit(browser, app.url)
    yield visit
    visit.leave()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The app as it is shipped, with the trained models."""
    if not (REPOSITORY / "models" / "looktwice.safetensors").is_file():
        pytest.skip("no trained model in models/")
    with run_app(tmp_path_factory.mktemp("shipped"), Path("-"), "-") as running:
        yield running


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "forearm.png"
    Image.fromarray(draw_film(600, 420)).save(path)
    return path


def pick(page, name: str) -> None:
    """Choose the radio button `name` by its label, as a person does: the button itself is unseen.

    Waits until the page has stopped scrolling, unlike a forced click.
    """
    button = page.get_by_role("radio", name=name, exact=True)
    page.locator("label", has=button).click()
    playwright.expect(button).to_be_checked()


def drop(page, data: bytes, name: str, target: str = ".fx-zone") -> None:
    """Drop a file on the page as a person does: enter, over, drop."""
    handle = page.evaluate_handle(
        """([data, name]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [base64.b64encode(data).decode(), name],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(target, event, {"dataTransfer": handle})


# --- one film --------------------------------------------------------------------------------


def test_a_real_film_is_dropped_and_read(browser, shipped: Running, shared_data: Path) -> None:
    """Needs the real films; they are used where they lie."""
    with (shared_data / "labels.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["source"] == "fracatlas"]
    picture = shared_data / next(r for r in rows if r["label"] == "simple")["file"]
    visit = Visit(browser, shipped.url)
    drop(visit.page, picture.read_bytes(), picture.name)
    card = visit.page.locator(VERDICT, has_text=picture.name)
    card.wait_for()
    assert card.get_attribute("data-status") in ("ok", "uncertain")
    assert card.locator(".fx-bar").count() == 3
    assert visit.page.locator(".fx-heat").evaluate("e => e.naturalWidth") > 1
    visit.leave()


def test_verdict_overlay_and_words(visit: Visit, film: Path) -> None:
    drop(visit.page, film.read_bytes(), film.name, target="body")
    card = visit.wait_for(film.name)
    assert card.locator("h2").inner_text() in html.HEADINGS.values()
    shares = card.locator(".fx-bar-share").all_inner_texts()
    assert len(shares) == 3 and all(share.endswith("%") for share in shares)
    assert card.locator("xpath=ancestor::*[@aria-live]").count() == 1
    film_layer, heat_layer = visit.page.locator(".fx-film"), visit.page.locator(".fx-heat")
    assert film.name in film_layer.get_attribute("alt")
    assert "warmest in" in heat_layer.get_attribute("alt")
    assert film_layer.bounding_box() == heat_layer.bounding_box()
    size = film_layer.evaluate("e => [e.naturalWidth, e.naturalHeight]")
    assert size == list(Image.open(film).size)
    assert visit.page.get_by_text("cannot tell whether it is right").is_visible()


def test_the_slider_answers_without_the_server(visit: Visit, film: Path) -> None:
    visit.read(film)
    slider = visit.page.get_by_label("Opacity of the heatmap")
    heat = visit.page.locator(".fx-heat")
    layer = heat.get_attribute("src")
    visit.page.wait_for_timeout(1500)  # what the verdict still has to fetch
    asked = len(visit.requests)
    slider.focus()
    slider.press("Home")
    assert visit.opacity() == 0 and visit.page.locator("output").inner_text() == "0 %"
    slider.press("End")
    assert visit.opacity() == 1
    for _ in range(5):
        slider.press("ArrowLeft")
    assert visit.opacity() == pytest.approx(0.95)
    took = slider.evaluate(
        """(slider) => {
            const heat = document.querySelector(".fx-heat");
            const times = [];
            for (let value = 1; value <= 50; value += 1) {
                const before = performance.now();
                slider.value = value;
                slider.dispatchEvent(new Event("input", { bubbles: true }));
                getComputedStyle(heat).opacity;
                times.push(performance.now() - before);
            }
            return times.sort((a, b) => a - b)[25];
        }"""
    )
    assert took < 50
    assert len(visit.requests) == asked and heat.get_attribute("src") == layer
    # the choice outlives the film
    pick(visit.page, "SimpleCNN")
    visit.page.locator(VERDICT, has_text="SimpleCNN").wait_for()
    assert visit.opacity() == pytest.approx(0.5)
    assert visit.page.locator("output").inner_text() == "50 %"


def test_class_method_model_and_comparison(visit: Visit, film: Path) -> None:
    page = visit.page
    visit.read(film)
    verdict = page.locator(f"{VERDICT} h2").inner_text()
    layers = {page.locator(".fx-heat").get_attribute("src")}
    for name in html.HEADINGS:
        pick(page, name)
        page.locator(".fx-meaning b", has_text=name).wait_for()
        layers.add(page.locator(".fx-heat").get_attribute("src"))
    assert len(layers) == 3  # one of the classes is the verdict
    assert page.locator(f"{VERDICT} h2").inner_text() == verdict
    page.get_by_label("Heatmap method").click()
    page.get_by_role("option", name="Eigen-CAM").click()
    page.locator(".fx-method", has_text="Eigen-CAM").wait_for()
    pick(page, "The verdict")
    page.get_by_label("Compare the two models").check()
    page.locator('[data-count="2"]').wait_for()
    assert page.locator(".fx-heat").count() == 2
    captions = page.locator(".fx-pane figcaption b").all_inner_texts()
    assert captions == ["Fracture model", "SimpleCNN"]
    assert "SimpleCNN" in page.locator(".fx-second").inner_text()
    pick(page, "SimpleCNN")
    page.locator(VERDICT, has_text="SimpleCNN").locator(".fx-bar").nth(1).wait_for()
    page.locator(".fx-pane figcaption b").first.filter(has_text="SimpleCNN").wait_for()


def test_an_example_is_clicked(visit: Visit) -> None:
    examples = visit.page.locator("[data-example]")
    if not examples.count():
        pytest.skip("no examples here")
    name = examples.first.get_attribute("data-example").split("/")[-1]
    examples.first.click()
    visit.page.locator(VERDICT, has_text=name).wait_for()


def test_paste_and_webcam(visit: Visit, film: Path) -> None:
    visit.page.evaluate(
        """([data, name]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([bytes], name, { type: "image/png" }));
            document.body.dispatchEvent(
                new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }""",
        [base64.b64encode(film.read_bytes()).decode(), "pasted.png"],
    )
    visit.wait_for("pasted.png")
    visit.page.get_by_role("button", name="Webcam", exact=True).click()
    visit.page.get_by_role("button", name="Take the picture").click()
    visit.page.locator(VERDICT, has_text="webcam.jpg").wait_for()
    assert visit.page.locator(".fx-camera").is_hidden()


# --- bad input -------------------------------------------------------------------------------


def test_bad_input_gets_a_clear_sentence(visit: Visit, film: Path, tmp_path: Path) -> None:
    page = visit.page
    broken, tiny, empty = tmp_path / "broken.png", tmp_path / "tiny.png", tmp_path / "empty.png"
    broken.write_bytes(film.read_bytes()[:300])
    Image.new("L", (1, 1)).save(tiny)
    empty.write_bytes(b"")
    card = visit.read(broken, status="error")
    assert "This file could not be read" in card.inner_text()
    assert card.locator(".fx-reasons").inner_text().endswith(".")
    visit.choose(empty)
    page.locator(".fx-say", has_text="empty.png is empty").wait_for()
    page.evaluate(
        """() => document.querySelector(".fx-zone").dispatchEvent(
            new DragEvent("drop", { dataTransfer: new DataTransfer(), bubbles: true }))"""
    )
    page.locator(".fx-say", has_text="Nothing that can be read was dropped").wait_for()
    visit.choose(tiny)
    card = page.locator(VERDICT, has_text="tiny.png")
    card.wait_for()
    assert card.get_attribute("data-status") in ("error", "refused")
    assert card.locator(".fx-bar").count() == 0 and card.locator(".fx-reasons").inner_text()
    visit.read(film)  # the app is still up


def test_a_name_that_is_markup_stays_text(visit: Visit, film: Path) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    drop(visit.page, film.read_bytes(), name)
    visit.page.locator(VERDICT).locator(".fx-bar").first.wait_for()
    assert visit.page.locator("img[src=x]").count() == 0
    assert "onerror" in visit.page.locator(f"{VERDICT} .fx-kicker").inner_text()


def test_a_cat_is_refused_unless_one_insists(browser, shipped: Running, tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image brings the cat")
    cat = tmp_path / "cat.png"
    Image.fromarray(data.chelsea()).save(cat)
    visit = Visit(browser, shipped.url)
    card = visit.read(cat, status="refused")
    assert "No verdict" in card.inner_text() and card.locator(".fx-bar").count() == 0
    assert visit.page.locator(".fx-heat").count() == 0
    visit.page.get_by_role("button", name="Show the verdict anyway").click()
    card.locator(".fx-bar").first.wait_for()
    assert "Do not trust it" in card.inner_text()
    assert visit.page.get_by_role("button", name="Show the verdict anyway").is_hidden()
    visit.leave()


# --- many films ------------------------------------------------------------------------------


def write_dicom(path: Path, pixels: np.ndarray) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    film.PatientName = "Quennevale^Jane"  # no pixels in base64 spell that by chance
    film.SOPClassUID, film.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3.4"
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 8, 8, 7, 0
    film.PixelData = pixels.tobytes()
    film.save_as(path, enforce_file_format=True)


def test_ten_files_at_once(visit: Visit, tmp_path: Path) -> None:
    page, files = visit.page, []
    for index in range(8):
        path = tmp_path / f"film {index}.png"
        Image.fromarray(draw_film(300 + 20 * index, 260, seed=index)).save(path)
        files.append(path)
    dicom, broken = tmp_path / "film without a suffix", tmp_path / "broken.jpg"
    write_dicom(dicom, draw_film(320, 240, seed=20))
    broken.write_bytes(b"\xff\xd8 nothing more")
    files += [dicom, broken]
    visit.choose(*files)
    rows = page.locator(".fx-batch tbody tr")
    rows.nth(9).wait_for()
    assert rows.count() == 10
    assert [n.strip() for n in page.locator(".fx-batch th[scope=row]").all_inner_texts()] == [
        path.name for path in files
    ]
    states = [rows.nth(index).get_attribute("data-status") for index in range(10)]
    assert states[9] == "error" and set(states[:8]) <= {"ok", "uncertain", "refused"}
    assert states[8] in ("ok", "uncertain"), "the DICOM file was not read"
    assert page.locator(".fx-thumb img").count() == 9
    assert "Quennevale" not in page.content()

    with page.expect_download() as taken:
        page.get_by_role("button", name="Take the table").click()
    table = list(csv.DictReader(taken.value.path().open(newline="")))
    assert [line["status"] for line in table] == states
    with page.expect_download() as taken:
        page.get_by_role("button", name="Take the overlays").click()
    with zipfile.ZipFile(io.BytesIO(taken.value.path().read_bytes())) as archive:
        assert len(archive.namelist()) == sum(s in ("ok", "uncertain") for s in states)
        assert archive.testzip() is None

    page.get_by_role("button", name="Show film 3.png above").click()
    visit.page.locator(VERDICT, has_text="film 3.png").wait_for()
    pick(page, "SimpleCNN")  # stays with that film
    page.locator(VERDICT, has_text="film 3.png · SimpleCNN").wait_for()


def test_a_film_dropped_while_others_are_read_is_read_after_them(
    visit: Visit, film: Path, tmp_path: Path
) -> None:
    films = [tmp_path / f"film {index}.png" for index in range(10)]
    for index, path in enumerate(films):
        Image.fromarray(draw_film(900 + 20 * index, 800, seed=index)).save(path)
    visit.choose(*films)
    visit.page.get_by_text("Reading 10 films").wait_for()
    visit.choose(film)
    visit.wait_for(film.name)
    playwright.expect(visit.page.locator(".fx-busy")).to_have_count(0)


# --- layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_the_notice_is_always_in_sight(
    browser, app: Running, film: Path, width: int, height: int, scheme: str
) -> None:
    visit = Visit(browser, app.url, width, height, color_scheme=scheme)
    page = visit.page
    notice = page.locator("#header .fx-notice")
    assert notice.inner_text() == html.NOTICE
    visit.read(film)
    page.wait_for_timeout(300)
    for step in range(6):
        page.evaluate("y => scrollTo(0, y)", step * 400)
        box = notice.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 140
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert ("dark" in (page.locator("body").get_attribute("class") or "").split()) == (
        scheme == "dark"
    )
    ratios = page.evaluate(CONTRAST)
    assert ratios and min(ratio for _, ratio in ratios) >= 4.5, sorted(ratios, key=lambda r: r[1])[
        :5
    ]
    if width == 1440:  # verdict, film and slider without scrolling
        page.evaluate("scrollTo(0, 0)")
        for part in (VERDICT, ".fx-heat", ".fx-opacity"):
            box = page.locator(part).first.bounding_box()
            assert box["y"] + box["height"] <= height, part
    page.get_by_role("button", name="Full screen").click()
    page.get_by_role("button", name="Leave full screen").wait_for()
    for step in range(4):
        page.locator(".fx-view").evaluate("(e, y) => e.scrollTo(0, y)", step * 300)
        box = page.locator(".fx-view .fx-notice").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 100
    page.get_by_role("button", name="Leave full screen").click()
    page.get_by_role("button", name="Full screen", exact=True).wait_for()
    visit.leave()


# Contrast of every visible text of ours against the first opaque background behind it.
CONTRAST = """() => {
  const parse = (colour) => (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const channel = (v) => (v / 255 <= 0.04045 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("[class^=fx-], [class^=fx-] *, #controls *")) {
    const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
    if (!own || !node.offsetParent || node.closest(".fx-hidden")) continue;
    const a = light(parse(getComputedStyle(node).color)), b = light(behind(node));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([node.textContent.trim().slice(0, 40), ratio]);
  }
  return found;
}"""


def test_everything_is_reached_by_keyboard_in_reading_order(visit: Visit, film: Path) -> None:
    visit.read(film)
    page = visit.page
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                """() => {
                    const e = document.activeElement;
                    const name = e.getAttribute("aria-label") || e.closest("label")?.innerText
                        || e.innerText || e.value || "";
                    return name.trim().split("\\n")[0];
                }"""
            )
        )
    wanted = [
        "Switch between light and dark",
        "Read an X-ray",
        "Choose files",
        "Paste",
        "Webcam",
        "Opacity of the heatmap in per cent",
        "Full screen",
        "The verdict",
        "Fracture model",
        "Compare the two models side by side",
        "Heatmap method",
    ]
    positions = [seen.index(name) for name in wanted]
    assert positions == sorted(positions), seen


def test_two_people_keep_their_own(browser, app: Running, film: Path, tmp_path: Path) -> None:
    other = tmp_path / "ankle.png"
    Image.fromarray(draw_film(400, 500, seed=5, gap=False)).save(other)
    first, second = Visit(browser, app.url), Visit(browser, app.url)
    first.read(film)
    second.read(other)
    pick(first.page, "SimpleCNN")
    first.page.locator(VERDICT, has_text=f"{film.name} · SimpleCNN").wait_for()
    assert other.name in second.page.locator(VERDICT).inner_text()
    assert "Fracture model" in second.page.locator(VERDICT).inner_text()
    first.leave()
    second.leave()
