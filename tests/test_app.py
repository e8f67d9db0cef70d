"""The app as programs see it: the page, the endpoint, files, limits, privacy."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, draw_film
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from running import Running, run_app

from fracture import overlay, read_film
from fracture.cam import default_target
from fracture.classifier import Classifier, Prediction
from fracture.film import Film
from fracture.web import drop, html, models, pictures, reading

pytest_plugins = ("running",)
CLASSES = ["Simple", "Comminuted", "No fracture"]


@pytest.fixture(scope="session")
def client(app: Running) -> Client:
    return Client(app.url, verbose=False)


@pytest.fixture(scope="session")
def transfer(random_checkpoints: Path) -> Classifier:
    return Classifier.load(random_checkpoints / "transfer.safetensors")


def ask(client: Client, path: Path | str, **options) -> tuple[dict, str | None]:
    return client.predict(file=handle_file(str(path)), api_name="/read", **options)


def fetch(url: str, **options) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers of a request, whatever the status."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, **options), timeout=30) as answer:
            return answer.status, answer.read(), dict(answer.headers.items())
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers.items())


# --- start -----------------------------------------------------------------------------------


def test_the_page_is_built_without_torch_and_keeps_nothing_long() -> None:
    heavy = ["torch", "torchvision", "timm", "pytorch_grad_cam", "matplotlib", "pydicom", "scipy"]
    code = (
        f"import app, sys; print([m for m in {heavy} if m in sys.modules]);"
        "print(app.KEEP_SECONDS, app.demo.analytics_enabled)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split("\n")[:2] == ["[]", "600 False"], done.stderr


def test_page_health_and_headers(app: Running) -> None:
    status, body, headers = fetch(app.url)
    assert status == 200 and html.NOTICE in body.decode()
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'self'" in headers["content-security-policy"]
    status, body, _ = fetch(app.url + "health")
    assert status == 200 and json.loads(body) == {"status": "ok", "model": "ready"}


def test_the_page_names_no_other_machine(app: Running) -> None:
    """Fonts, scripts and styles come from the app itself."""
    body = fetch(app.url)[1].decode()
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"'](https?:)?//", body)
    assert loaded == []


def test_a_missing_checkpoint_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, film_file: Path
) -> None:
    monkeypatch.setattr("fracture.classifier.MODELS", tmp_path)
    monkeypatch.setattr(models, "_loaded", {})
    monkeypatch.setattr(models, "_failed", set())
    models.warm_up()
    assert models.state() == "failed"
    answer = reading.look(reading.Upload(str(film_file), "a.png"), reading.Request())
    assert answer.reading.status == "error" and answer.heatmap is None
    assert answer.reading.reasons == ("Fracture model could not be loaded here.",)


def test_a_failure_inside_is_a_sentence(monkeypatch: pytest.MonkeyPatch, film_file: Path) -> None:
    class Broken:
        classes, methods = ("Simple",), ("gradcam",)

        def read(self, *_, **__):
            raise RuntimeError("secret detail")

    monkeypatch.setattr(models, "_loaded", {models.DEFAULT: Broken()})
    answer = reading.look(reading.Upload(str(film_file), "a.png"), reading.Request())
    assert answer.reading.status == "error" and "still running" in answer.reading.reasons[0]
    assert "secret" not in html.verdict_card(answer.reading)


# --- the endpoint ----------------------------------------------------------------------------


def test_the_endpoint_is_described(client: Client) -> None:
    described = client.view_api(return_format="dict", print_info=False)
    assert described["unnamed_endpoints"] == {}
    endpoint = described["named_endpoints"]["/read"]
    names = [parameter["parameter_name"] for parameter in endpoint["parameters"]]
    assert names == ["file", "model", "method", "target", "insist"]
    assert [p["parameter_has_default"] for p in endpoint["parameters"][1:]] == [True] * 4
    assert "not for diagnosis" in endpoint["description"]
    assert len(endpoint["returns"]) == 2


def test_the_answer_is_the_packages(client: Client, film_file: Path, transfer: Classifier) -> None:
    answer, picture = ask(client, film_file)
    prediction, heatmap = transfer.read(film_file)
    assert (answer["status"], answer["label"]) == (prediction.status, prediction.label)
    assert answer["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-5)
    assert answer["file"] == film_file.name
    assert answer["target"] == default_target(prediction.probabilities)
    expected = overlay(
        read_film(film_file).display, heatmap, pictures.OPACITY, pictures.COLORMAP
    ).astype(int)
    drawn = np.asarray(Image.open(picture)).astype(int)
    assert drawn.shape == expected.shape
    assert np.abs(drawn - expected).mean() < 4  # JPEG


def test_every_target_and_method_has_its_own_map(client: Client, film_file: Path) -> None:
    pictures_seen = {}
    for target in CLASSES:
        answer, picture = ask(client, film_file, target=target)
        assert answer["target"] == target
        pictures_seen[target] = zlib.crc32(Path(picture).read_bytes())
    for method in models.METHODS:
        answer, picture = ask(client, film_file, method=method)
        assert answer["method"] == method
        pictures_seen[method] = zlib.crc32(Path(picture).read_bytes())
    # HiResCAM is Grad-CAM on this network, and the class shown unasked is one of the targets
    assert pictures_seen["hirescam"] == pictures_seen["gradcam"]
    assert len(set(pictures_seen.values())) >= len(pictures_seen) - 2


def test_the_other_model_answers_with_its_two_classes(client: Client, film_file: Path) -> None:
    answer, picture = ask(client, film_file, model="simplecnn")
    assert set(answer["probabilities"]) == {"Simple", "Comminuted"} and picture
    answer, picture = ask(client, film_file, model="simplecnn", target="No fracture")
    assert picture is None and "does not know the class" in answer["reasons"][-1]


@pytest.mark.parametrize("wrong", [{"model": "resnet"}, {"method": "x"}, {"target": "Broken"}])
def test_a_choice_that_is_none_is_refused(client: Client, film_file: Path, wrong: dict) -> None:
    with pytest.raises(AppError):
        ask(client, film_file, **wrong)


BAD = {
    "text.png": b"this is not a picture",
    "cut.png": None,
    "markup.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "zip.jpg": b"PK\x03\x04" + bytes(200),
    "no suffix": b"\x00\x01\x02",
}


@pytest.mark.parametrize("name", BAD)
def test_an_unreadable_file_gets_a_sentence(client: Client, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if BAD[name] is None:
        Image.fromarray(draw_film()).save(path)
        path.write_bytes(path.read_bytes()[:500])
    else:
        path.write_bytes(BAD[name])
    answer, picture = ask(client, path)
    assert (answer["status"], answer["label"], picture) == ("error", None, None)
    assert len(answer["reasons"]) == 1 and re.fullmatch(r"[A-Z].+\.", answer["reasons"][0])


def test_empty_tiny_and_no_file(client: Client, app: Running, tmp_path: Path) -> None:
    empty, tiny = tmp_path / "empty.png", tmp_path / "tiny.png"
    empty.write_bytes(b"")
    Image.new("L", (1, 1)).save(tiny)
    for source in (empty, tiny):
        answer, picture = ask(client, source)
        assert answer["status"] in ("error", "refused") and answer["label"] is None
        assert answer["reasons"] and picture is None
    answer, picture = client.predict(file=None, api_name="/read")
    assert answer["reasons"] == ["No file was sent."] and picture is None
    assert fetch(app.url + "health")[0] == 200


def test_one_may_insist(client: Client, tmp_path: Path) -> None:
    blank = tmp_path / "blank.png"
    Image.new("L", (200, 200), 90).save(blank)
    answer, picture = ask(client, blank)
    assert (answer["status"], answer["label"], picture) == ("refused", None, None)
    answer, picture = ask(client, blank, insist=True)
    assert answer["status"] == "refused" and answer["label"] in CLASSES and picture


def test_everybody_gets_their_own_answer(app: Running, tmp_path: Path) -> None:
    """Twelve clients at once, each with its own film, class and method: as when asked alone."""
    jobs = []
    for index in range(12):
        path = tmp_path / f"film {index}.png"
        Image.fromarray(draw_film(180 + 9 * index, 200, gap=index % 2 == 0, seed=index)).save(path)
        method = list(models.METHODS)[index % 5]
        jobs.append((path, {"target": CLASSES[index % 3], "method": method}))

    clients = [Client(app.url, verbose=False) for _ in jobs]

    def answer(one: Client, job) -> tuple[dict, bytes]:
        path, options = job
        said, picture = ask(one, path, **options)
        return said, Path(picture).read_bytes()

    with ThreadPoolExecutor(12) as crowd:
        together = list(crowd.map(answer, clients, jobs))
    for job, (said, picture) in zip(jobs, together, strict=True):
        alone, picture_alone = answer(clients[0], job)
        assert said["file"] == job[0].name and said["label"] == alone["label"]
        assert said["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
        assert picture == picture_alone


# --- safe and private ------------------------------------------------------------------------


def test_only_the_apps_own_files_are_served(app: Running, random_checkpoints: Path) -> None:
    outside = [
        "/etc/passwd",
        str(REPOSITORY / "app.py"),
        str(random_checkpoints / "transfer.safetensors"),
        str(app.uploads),
        str(app.uploads / ".." / "log.txt"),
        "../../../../etc/passwd",
    ]
    for path in outside:
        for route in ("gradio_api/file=", "gradio_api/file/", "file=", "examples/", "static/"):
            for form in (path, urllib.parse.quote(path, safe="")):
                status, body, _ = fetch(app.url + route + form)
                assert status in (403, 404), (route, path, status)
                assert b"root:" not in body and b"import gradio" not in body


def test_addresses_on_the_web_are_not_fetched(app: Running, client: Client) -> None:
    for route in (
        "gradio_api/file=https://example.com/a.png",
        "gradio_api/proxy=https://a.hf.space/",
    ):
        assert fetch(app.url + route)[0] == 403
    with pytest.raises(AppError, match="addresses on the web"):
        client.predict(
            file={"path": "https://example.com/a.png", "meta": {"_type": "gradio.FileData"}},
            api_name="/read",
        )


def test_a_path_on_the_server_is_no_film(app: Running, film_file: Path) -> None:
    """Asked without the client, which would upload the file first."""
    inside = app.uploads / "hash" / "a.png"
    for path in (film_file, "/etc/passwd"):
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        body = json.dumps({"data": [file, "default", "gradcam", "verdict", False]}).encode()
        address = app.url + "gradio_api/call/read"
        headers = {"Content-Type": "application/json"}
        event = json.loads(fetch(address, data=body, headers=headers)[1])["event_id"]
        answer = fetch(f"{address}/{event}")[1].decode()
        assert "event: error" in answer and "probabilities" not in answer
    sent = [{"path": str(p)} for p in (film_file, "/etc/passwd", inside, f"{inside}/../../..")]
    found = drop.received([*sent, {}, None, {"path": 1}], str(app.uploads))
    assert found == [reading.Upload(str(inside), "a.png")]
    assert drop.received("nonsense", str(app.uploads)) == drop.received(None, "/") == []


def test_a_file_that_is_too_large_is_not_taken(app: Running) -> None:
    edge = "edge"
    body = (
        f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="big.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    ).encode()
    body += bytes(drop.MAX_MEGABYTES * 1024 * 1024 + 1000) + f"\r\n--{edge}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    status, _, _ = fetch(app.url + "gradio_api/upload", data=body, headers=headers)
    assert status == 413
    assert not any(path.is_file() and path.stat().st_size > 1e7 for path in app.uploads.rglob("*"))


def test_uploads_and_results_leave_the_disk(random_checkpoints: Path, tmp_path: Path) -> None:
    film = tmp_path / "secret name.png"
    Image.fromarray(draw_film()).save(film)
    with run_app(tmp_path, random_checkpoints, "transfer", keep=10) as running:
        client = Client(running.url, verbose=False)
        _, picture = ask(client, film)
        assert picture and any(path.is_file() for path in running.uploads.rglob("*"))
        deadline = time.monotonic() + 120
        while any(path.is_file() for path in running.uploads.rglob("*")):
            assert time.monotonic() < deadline, list(running.uploads.rglob("*"))
            time.sleep(0.5)
    log = running.log.read_text()
    assert "secret" not in log and "LEFT THE MACHINE" not in log


# --- many films ------------------------------------------------------------------------------


def test_a_batch_gives_a_table_and_overlays(
    monkeypatch: pytest.MonkeyPatch, transfer: Classifier, film_folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(models, "_loaded", {models.DEFAULT: transfer})
    films = sorted(film_folder.rglob("*.png"))[:3]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    uploads = [reading.Upload(str(path), path.name) for path in films]
    uploads.append(reading.Upload(str(broken), "=1+1.png"))
    rows = reading.read_many(uploads, reading.Request(), tmp_path / "overlays.zip")
    assert [row.name for row in rows] == [*(path.name for path in films), "=1+1.png"]
    assert [row.status for row in rows[:3]] == ["ok"] * 3 and rows[3].status == "error"
    with zipfile.ZipFile(tmp_path / "overlays.zip") as archive:
        assert len(archive.namelist()) == 3
        for name, path in zip(archive.namelist(), films, strict=True):
            assert path.stem in name
            with archive.open(name) as file:
                assert Image.open(file).size == Image.open(path).size
    reading.write_table(rows, tmp_path / "readings.csv")
    with (tmp_path / "readings.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["status"] for line in table] == ["ok", "ok", "ok", "error"]
    assert table[3]["file"] == "'=1+1.png" and table[3]["Simple"] == ""
    for line, path in zip(table, films, strict=False):
        shares = transfer.predict(path).probabilities
        assert line["label"] == max(shares, key=shares.get)
        for name in CLASSES:
            assert float(line[name]) == pytest.approx(shares[name], abs=1e-4)


# --- texts and pictures ----------------------------------------------------------------------


def a_reading(**changes) -> html.Reading:
    values = {
        "name": "a.png",
        "status": "ok",
        "label": "Simple",
        "probabilities": {"Comminuted": 0.2, "Simple": 0.7, "No fracture": 0.1},
        "reasons": (),
        "model": "Fracture model",
        "film": "data:image/jpeg;base64,AA==",
        "size": (30, 40),
        "heat": "data:image/png;base64,AA==",
        "target": "Simple",
        "place": "the centre",
        "method": "Grad-CAM",
    }
    return html.Reading(**{**values, **changes})


def test_nothing_from_a_file_becomes_markup() -> None:
    evil = "<img src=x onerror=alert(1)>\"'&"
    one = a_reading(name=evil, reasons=(evil, evil))
    for page in (html.verdict_card(one, one), html.viewer([one, one]), html.batch_table([one])):
        assert "<img src=x" not in page and "&lt;img src=x" in page


def test_every_status_is_said_in_words() -> None:
    refused = {"status": "refused", "label": None, "heat": "", "reasons": ("It is a cat.",)}
    assert "Simple fracture" in html.verdict_card(a_reading())
    unsure = html.verdict_card(a_reading(status="uncertain", reasons=("Too close to call.",)))
    assert "Not sure: perhaps simple fracture" in unsure and "Too close to call." in unsure
    card = html.verdict_card(a_reading(**refused))
    assert "No verdict" in card and "It is a cat." in card and "70 %" not in card
    insisted = html.verdict_card(a_reading(**{**refused, "label": "Simple"}))
    assert "Do not trust it" in insisted and "70 %" in insisted
    failed = a_reading(status="error", label=None, probabilities={}, film="", heat="")
    assert "could not be read" in html.verdict_card(failed) and html.viewer([failed]) == ""
    table = html.batch_table([a_reading(), failed, a_reading(**refused)])
    assert "1 read, 1 refused, 1 unreadable." in table


def test_the_sentence_says_what_the_picture_is_not() -> None:
    for readings in ([a_reading()], [a_reading(), a_reading(target="Comminuted")]):
        sentence = html.meaning(readings)
        assert "not where the bone is broken" in sentence
        assert "cannot tell whether it is right" in sentence
    assert "<b>Simple</b>" in html.meaning([a_reading()])
    assert "each model’s own verdict" in html.meaning([a_reading(), a_reading(target="Comminuted")])


def test_the_map_of_an_unbroken_film_is_not_sold_as_evidence() -> None:
    words = "the place that looked most suspicious, though not suspicious enough"
    unbroken = a_reading(label="No fracture", doubt=True)
    assert words in html.meaning([unbroken]) and "Simple" not in html.meaning([unbroken])
    assert "for what looked most suspicious: warmest in" in html.viewer([unbroken])
    both = html.meaning([unbroken, a_reading()])
    assert words in both and "each model’s own verdict" in both
    assert words not in html.meaning([a_reading()])
    assert "spoke most for <b>Simple</b>" in html.meaning([a_reading(label="No fracture")])


@pytest.mark.parametrize(
    ("target", "explained", "doubt"),
    [
        (reading.VERDICT, "Comminuted", True),
        ("Comminuted", "Comminuted", False),
        ("No fracture", "No fracture", False),
    ],
)
def test_who_asks_for_a_class_gets_it(
    monkeypatch: pytest.MonkeyPatch, film_file: Path, target: str, explained: str, doubt: bool
) -> None:
    class Unbroken:
        classes, methods = tuple(CLASSES), ("gradcam",)

        def read(self, film: Film, *_, **__) -> tuple[Prediction, np.ndarray]:
            shares = {"Simple": 0.1, "Comminuted": 0.2, "No fracture": 0.7}
            said = Prediction("ok", "No fracture", shares, ())
            return said, np.zeros(film.pixels.shape, np.float32)

    monkeypatch.setattr(models, "_loaded", {models.DEFAULT: Unbroken()})
    upload = reading.Upload(str(film_file), "a.png")
    request = reading.Request(target=target)
    answer = reading.look(upload, request)
    assert (answer.reading.target, answer.reading.doubt) == (explained, doubt)
    assert reading.as_json(answer, request)["target"] == explained


def test_two_models_agree_or_not() -> None:
    other = a_reading(model="SimpleCNN", label="Comminuted", probabilities={"Comminuted": 0.8})
    assert "SimpleCNN disagrees: Comminuted fracture, 80 %." in html.verdict_card(
        a_reading(), other
    )
    assert "SimpleCNN agrees" in html.verdict_card(a_reading(), a_reading(model="SimpleCNN"))


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0 %"), (0.004, "under 1 %"), (0.5, "50 %"), (0.994, "over 99 %"), (1.0, "100 %")],
)
def test_no_probability_is_rounded_to_a_certainty(share: float, words: str) -> None:
    assert html.percent(share) == words


@pytest.mark.parametrize(
    ("peak", "words"),
    [((0, 0), "the upper left"), ((50, 50), "the centre"), ((99, 50), "the lower centre")],
)
def test_the_warmest_place_in_words(peak: tuple[int, int], words: str) -> None:
    heatmap = np.zeros((100, 100), np.float32)
    heatmap[peak] = 1
    assert pictures.warmest_place(heatmap) == words


def test_the_heat_layer_is_the_packages() -> None:
    """The layer in the page, laid over the film by the browser, is what `overlay` draws."""
    import base64
    import io

    film = np.repeat(draw_film(90, 120)[..., None], 3, axis=2)
    heatmap = np.linspace(0, 1, 90 * 120, dtype=np.float32).reshape(90, 120)
    data = base64.b64decode(pictures.heat_uri(heatmap).split(",")[1])
    layer = Image.open(io.BytesIO(data)).convert("RGBA")
    faded = np.asarray(layer).astype(float)
    share = faded[..., 3:] / 255 * pictures.OPACITY
    expected = overlay(film, heatmap, pictures.OPACITY, pictures.COLORMAP)
    assert np.abs(film * (1 - share) + faded[..., :3] * share - expected).max() < 2.5


def test_names_are_shortened_and_harmless() -> None:
    assert reading.plain("../../etc/pass\nwd") == "passwd"
    assert reading.plain("C:\\films\\wrist.dcm") == "wrist.dcm"
    assert len(reading.plain("x" * 4000 + ".png")) <= 60
    assert reading.inert("=HYPERLINK(1)") == "'=HYPERLINK(1)" and reading.inert("a=b") == "a=b"
