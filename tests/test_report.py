"""The page to take away: complete, printable, and without a word about the patient."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_film
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from fracture import report
from fracture.classifier import Prediction
from fracture.film import read_film
from fracture.report import Page, as_pdf, as_png, version_of

DAY = dt.date(2026, 3, 1)
SHARES = {"Comminuted": 0.61, "Simple": 0.388, "No fracture": 0.002}


def page(**changes) -> Page:
    film = read_film(draw_film(), name="Doe Jane 1980.png")
    heat = np.zeros(film.pixels.shape, np.float32)
    heat[150:200, 100:140] = 1
    said = Prediction("ok", "Comminuted", SHARES, ("The film was a negative; it was inverted.",))
    base = Page(film.display, heat, said, "Comminuted", "Grad-CAM", "Fracture model", "of 2026")
    return replace(base, **changes)


def words(one: Page) -> str:
    """All that is written on the page, in one line."""
    figure = report._drawn(one, DAY)
    texts = [t.get_text() for t in figure.texts]
    for axis in figure.axes:
        texts += [t.get_text() for t in axis.texts] + [axis.get_title()]
        texts += [t.get_text() for t in axis.get_yticklabels()]
    return " ".join(" ".join(texts).split())


def test_everything_is_on_the_page_but_the_patient() -> None:
    text = words(page())
    for wanted in (
        report.NOTICE, "2026-03-01", "Comminuted fracture", "61 %", "39 %", "under 1 %",
        "Fracture model, of 2026", "What spoke for “Comminuted” (Grad-CAM)", "it was inverted",
        "not where the bone is broken",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "Doe" not in text and "1980" not in text


def test_an_unbroken_films_map_is_called_what_it_is() -> None:
    unbroken = Prediction("ok", "No fracture", SHARES, ())
    text = words(page(prediction=unbroken, target=""))
    assert "What looked most suspicious (Grad-CAM)" in text and "not suspicious enough" in text
    assert "spoke" not in text


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (Prediction("refused", None, {}, ("It is a cat.",)), "No verdict It is a cat."),
        (
            Prediction("refused", "Simple", SHARES, ("A cat.",)),
            f"insisted on: simple fracture {report.INSISTED} A cat.",
        ),
        (Prediction("uncertain", "Simple", SHARES, ()), "Not sure: perhaps simple fracture"),
        (Prediction("ok", "No fracture", SHARES, ()), "diagnosis. Fracture is not"),
    ],
)
def test_every_status_is_said(said: Prediction, wanted: str) -> None:
    text = words(page(prediction=said, heatmap=None))
    assert wanted in text and "No fracture fracture" not in text
    assert ("%" in text) == bool(said.probabilities)
    assert "Warm colours" not in text  # nothing is explained where there is no heatmap


def test_many_reasons_do_not_run_over_the_page() -> None:
    said = Prediction("ok", "Simple", SHARES, tuple(f"Reason number {n}." * 9 for n in range(9)))
    figure = report._drawn(page(prediction=said), DAY)
    box = next(t for t in figure.texts if "Reason" in t.get_text())
    assert box.get_text().count("\n") == 5 and box.get_text().endswith("…")


@pytest.mark.parametrize("shape", [(320, 240), (240, 1000), (2400, 300)])
def test_text_stays_inside_the_page_whatever_the_film(shape: tuple[int, int]) -> None:
    film = np.zeros((*shape, 3), np.uint8)
    figure = report._drawn(page(display=film, heatmap=np.ones(shape, np.float32)), DAY)
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.bbox.width, figure.bbox.height
    for text in [*figure.texts, *(t for a in figure.axes for t in [*a.texts, a.title])]:
        box = text.get_window_extent(renderer)
        assert min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height, text


def test_the_pdf_is_one_a4_page_and_names_nobody() -> None:
    data = as_pdf(page(), DAY)
    assert data.startswith(b"%PDF-") and data.rstrip().endswith(b"%%EOF")
    box = [float(v) for v in re.search(rb"/MediaBox \[([^\]]+)\]", data).group(1).split()]
    assert box[2:] == pytest.approx([595.44, 841.68], abs=0.1)
    assert len(re.findall(rb"/Type /Page\b", data)) == 1
    unpacked = data
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.S):
        try:
            unpacked += zlib.decompress(stream)
        except zlib.error:
            continue
    assert b"Doe" not in unpacked and b"1980" not in unpacked and b"CreationDate" not in data
    assert as_pdf(page(), DAY) == data


def test_the_pdf_opens_and_its_text_can_be_read() -> None:
    pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")
    opened = pdfium.PdfDocument(as_pdf(page(), DAY))
    text = opened[0].get_textpage().get_text_range()
    assert len(opened) == 1 and report.NOTICE in text and "61 %" in text and "Doe" not in text
    picture = np.asarray(opened[0].render(scale=0.5).to_pil().convert("RGB")).astype(int)
    assert (np.ptp(picture, axis=2) > 60).any()


def test_the_png_is_an_a4_page() -> None:
    picture = Image.open(io.BytesIO(as_png(page(), DAY, dpi=60)))
    assert picture.size == pytest.approx((496, 701), abs=1)
    assert picture.info["Description"] == report.NOTICE and "Doe" not in str(picture.info)
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (np.ptp(pixels, axis=2) > 60).any()  # the heat is in colour


def test_the_version_says_date_and_weights(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(b"weights")
    start = hashlib.sha256(b"weights").hexdigest()[:12]
    assert version_of({"date": "2026-01-02"}, file) == f"of 2026-01-02, SHA-256 {start}"
    assert version_of({}, tmp_path / "absent") == "version unknown"
