"""The command line: its lines, exit status, overlays, folders, and how much it holds at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, draw_film
from PIL import Image

from fracture import __main__ as command
from fracture import classifier
from fracture.classifier import Prediction
from fracture.parallel import bounded_map


@pytest.fixture(autouse=True)
def untrained_models(random_checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch

    monkeypatch.setattr(classifier, "MODELS", random_checkpoints)
    monkeypatch.setattr(classifier, "DEFAULT_MODEL", "transfer")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_one_line_a_file(film_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(film_file)]) == 0
    captured = capsys.readouterr()
    file, status, label, shares, reasons = captured.out.rstrip("\n").split("\t")
    assert (file, status, reasons) == (str(film_file), "ok", "")
    assert label in ("Comminuted", "Simple", "No fracture")
    assert "Simple " in shares and shares.count("%") == 3
    assert captured.err == ""  # one file needs no progress bar


def test_json_lines_and_exit_status(
    film_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    files = [str(tmp_path / "absent.png"), str(film_file), str(broken)]
    assert command.main([*files, "--json"]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["file"] for row in rows] == files
    assert [row["status"] for row in rows] == ["error", "ok", "error"]
    for row in rows:
        assert set(row) == {"file", "status", "label", "probabilities", "reasons"}
        if row["status"] == "error":
            assert row["label"] is None and row["probabilities"] == {} and row["reasons"]
        else:
            assert sum(row["probabilities"].values()) == pytest.approx(1)
            assert row["probabilities"][row["label"]] == max(row["probabilities"].values())
    assert "3/3" in captured.err  # the progress bar


def test_folders_are_searched_in_order(
    film_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (film_folder / "notes.txt").write_text("not a film")
    (film_folder / "left" / ".film 9.png").write_bytes(b"a resource fork")
    assert command.main([str(film_folder), "--json", "--model", "transfer"]) == 0
    names = [os.path.relpath(json.loads(row)["file"], film_folder) for row in lines(capsys)]
    assert names == [f"left/film {i}.png" for i in (1, 3, 5)] + [
        f"right/film {i}.png" for i in (0, 2, 4)
    ]


def test_dicom_without_a_suffix_is_found(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "README").write_text("about these films")
    assert list(command._expand(str(tmp_path), None)) == [str(tmp_path / "IM0001")]


def test_a_folder_without_films_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(tmp_path)]) == 1
    (line,) = lines(capsys)
    assert line.split("\t") == [
        str(tmp_path),
        "error",
        "-",
        "-",
        "There is no film in this folder.",
    ]


def test_overlays_of_namesakes_do_not_meet(
    film_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("left", "right"):
        Image.fromarray(draw_film(200, 180)).save(film_folder / side / "same.png")
    overlays = film_folder / "overlays"
    for _ in range(2):  # the second run must not take the first one's overlays for films
        assert command.main([str(film_folder), "--json", "--overlay", str(overlays)]) == 0
        rows = [json.loads(row) for row in lines(capsys)]
        assert len(rows) == 8
        assert sorted(Path(row["overlay"]).name for row in rows) == sorted(os.listdir(overlays))
    assert {"same.overlay.jpg", "same-2.overlay.jpg"} <= set(os.listdir(overlays))
    with Image.open(overlays / "film 4.overlay.jpg") as picture:
        assert picture.size == (220, 380) and picture.mode == "RGB"
        assert np.ptp(np.asarray(picture).astype(int), axis=2).max() > 40  # colours on grey


def test_an_overlay_never_replaces_a_film(tmp_path: Path) -> None:
    film, other = tmp_path / "a.png", tmp_path / "a.overlay.jpg"
    jobs = command._jobs([str(film), str(other)], tmp_path)
    assert [job.overlay.name for job in jobs] == ["a-2.overlay.jpg", "a.overlay.overlay.jpg"]


def test_an_unwritable_overlay_is_a_failure(
    film_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "film.overlay.jpg").mkdir(parents=True)
    assert command.main([str(film_file), "--overlay", str(tmp_path / "out")]) == 1
    assert "The overlay could not be written" in lines(capsys)[0]


def test_one_failing_film_does_not_stop_the_others(
    film_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = classifier.Classifier.predict

    def unlucky(self: classifier.Classifier, film: object, **options: object) -> Prediction:
        if film.name == "film 3.png":
            raise MemoryError("too large")
        return predict(self, film, **options)

    monkeypatch.setattr(classifier.Classifier, "predict", unlucky)
    assert command.main([str(film_folder), "--json"]) == 1
    statuses = [json.loads(row)["status"] for row in lines(capsys)]
    assert statuses == ["ok", "error", "ok", "ok", "ok", "ok"]


def test_no_model_is_said_before_anything_is_read(
    film_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(film_file), "--model", "absent"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "absent.safetensors does not exist" in captured.err


def test_a_name_cannot_fake_lines_or_columns() -> None:
    job = command.Job("a\tok\nb\u202e\udcff.png", None)
    line = command._text_line(job, Prediction("error", None, {}, ("No.",)), False)
    assert line.count("\t") == 4 and "\n" not in line
    assert line.startswith(r"a\tok\nb\u202e\udcff.png")


def test_bounded_map_keeps_order_and_holds_few() -> None:
    lock, alive, most = threading.Lock(), 0, 0

    def items() -> Iterator[int]:
        nonlocal alive, most
        for number in range(200):
            with lock:
                alive += 1
                most = max(most, alive)
            yield number

    for expected, result in enumerate(bounded_map(lambda n: n * n, items(), workers=3)):
        assert result == expected * expected
        with lock:
            alive -= 1
    assert expected == 199 and alive == 0
    assert most <= 6


def test_bounded_map_stops_early_and_passes_errors_on() -> None:
    started = []

    def work(number: int) -> float:
        started.append(number)
        return 1 / (3 - number)

    results = bounded_map(work, range(10_000), workers=2)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(started) < 20


def test_as_a_program(film_file: Path, random_checkpoints: Path) -> None:
    model = random_checkpoints / "transfer.safetensors"
    arguments = [sys.executable, "-m", "fracture", str(film_file), "--json", "--model", str(model)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"
    usage = subprocess.run(
        [sys.executable, "-m", "fracture"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert usage.returncode == 2 and "FILE" in usage.stderr


def test_the_package_is_light_until_used() -> None:
    code = (
        "import sys, fracture; dir(fracture);"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules);"
        "fracture.read_film; assert 'torch' not in sys.modules;"
        "fracture.Classifier;"
        "late = {'timm', 'pytorch_grad_cam', 'matplotlib', 'cv2', 'sklearn', 'pydicom'};"
        "assert not late & set(sys.modules), late & set(sys.modules);"
        "assert all(hasattr(fracture, name) for name in fracture.__all__);"
        "sys.exit(hasattr(fracture, 'nonsense'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
