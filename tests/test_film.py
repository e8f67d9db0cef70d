"""Reading films: formats, brightness, geometry, and what attackers and accidents drop."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from PIL import Image, ImageOps

from fracture.film import (
    Box,
    FilmError,
    Geometry,
    Limits,
    cut,
    letterbox,
    read_film,
)
from fracture.labels import read_labels
from fracture.negatives import SEEN_NEGATIVE, features, is_negative

REPOSITORY = Path(__file__).resolve().parents[1]


def drawn(height: int = 150, width: int = 110) -> np.ndarray:
    """A limb with a bone on black, uint8; no two orientations of it look the same."""
    rows, columns = np.mgrid[0:height, 0:width].astype(float)
    across = np.abs(columns - width / 2 - 5 * np.sin(rows / 25)) / width
    film = 12 + 60.0 * (across < 0.33) + 90.0 * (across < 0.13)
    film += 70 * np.exp(-(((across - 0.12) / 0.02) ** 2))
    film[height // 10 : height // 6, width // 12 : width // 5] = 230  # a marker
    noise = np.random.default_rng(1).normal(0, 1, film.shape)
    return np.clip(film + noise * (2 + film / 30), 0, 255).astype(np.uint8)


FILM = drawn()


def encoded(picture: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.save(out, kind, **options)
    return out.getvalue()


def stretched(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, (0.5, 99.9))
    return np.clip((values - low) / (high - low), 0, 1)


# --- formats ---------------------------------------------------------------------------------


def forms() -> dict[str, bytes]:
    grey = Image.fromarray(FILM)
    rgb = grey.convert("RGB")
    palette = grey.convert("P")
    wide = FILM.astype(np.uint16) * 150 + 3000
    holes = FILM.astype(np.float32) / 7 - 11
    with_nan = holes.copy()
    with_nan[140:, 100:] = np.nan
    made = {
        "png": encoded(grey, "PNG"),
        "png rgb": encoded(rgb, "PNG"),
        "png palette": encoded(palette, "PNG"),
        "png alpha": encoded(rgb.convert("RGBA"), "PNG"),
        "png grey alpha": encoded(grey.convert("LA"), "PNG"),
        "png 16 bit": encoded(wide, "PNG"),
        "jpeg": encoded(grey, "JPEG", quality=98),
        "jpeg progressive": encoded(rgb, "JPEG", quality=98, subsampling=0, progressive=True),
        "jpeg cmyk": encoded(rgb.convert("CMYK"), "JPEG", quality=98),
        "webp": encoded(rgb, "WEBP", lossless=True),
        "webp alpha": encoded(rgb.convert("RGBA"), "WEBP", lossless=True),
        "bmp": encoded(grey, "BMP"),
        "bmp rgb": encoded(rgb, "BMP"),
        "gif": encoded(grey, "GIF"),
        "tiff": encoded(grey, "TIFF"),
        "tiff 16 bit": encoded(wide, "TIFF"),
        "tiff float": encoded(holes, "TIFF"),
        "tiff float with nan": encoded(with_nan, "TIFF"),
        "tiff int": encoded(wide.astype(np.int32) - 9000, "TIFF"),
        "tiff palette": encoded(palette, "TIFF"),
        "tiff alpha": encoded(rgb.convert("RGBA"), "TIFF"),
    }
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        made[f"tiff {packing}"] = encoded(wide, "TIFF", compression=packing)
    return made


FORMS = forms()


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_film(form: str) -> None:
    film = read_film(FORMS[form])
    expected = stretched(FILM)
    if "nan" in form:
        expected[140:, 100:] = 0
    assert film.pixels.dtype == np.float32 and film.display.dtype == np.uint8
    assert film.display.shape == (*FILM.shape, 3)
    assert film.pixels.min() == 0 and film.pixels.max() == 1
    assert np.abs(film.pixels - expected).max() < (0.06 if "jpeg" in form else 0.012)
    assert film.notes == film.problems == () and film.name == ""


def test_heic() -> None:
    heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    heif.from_pillow(Image.fromarray(FILM).convert("RGB")).save(out, quality=95)
    film = read_film(out.getvalue())
    assert film.pixels.shape == FILM.shape
    assert np.abs(film.pixels - stretched(FILM)).mean() < 0.02


# --- large films -----------------------------------------------------------------------------

SCALE = 16
LARGE = np.asarray(
    Image.fromarray(FILM).resize(
        [SCALE * side for side in FILM.shape[::-1]], Image.Resampling.BICUBIC
    )
)
WIDE = LARGE.astype(np.uint16) * 150 + 3000


@pytest.mark.parametrize(
    ("kind", "picture", "options"),
    [
        ("JPEG", Image.fromarray(LARGE), {"quality": 95}),
        ("JPEG", Image.fromarray(LARGE).convert("RGB"), {"quality": 95, "progressive": True}),
        ("JPEG", Image.fromarray(LARGE).convert("CMYK"), {"quality": 95}),
        ("PNG", Image.fromarray(LARGE), {}),
        ("PNG", Image.fromarray(WIDE), {}),
        ("WEBP", Image.fromarray(LARGE).convert("RGB"), {"quality": 95}),
        ("TIFF", Image.fromarray(LARGE / np.float32(7) - 11), {}),
        ("TIFF", Image.fromarray(WIDE.astype(np.int32)), {}),
    ],
)
def test_large_films_are_read_at_the_size_that_is_enough(
    kind: str, picture: Image.Image, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(picture, kind, **options)
    at = [side * SCALE // 4 for side in FILM.shape]
    wanted = stretched(
        LARGE.reshape(at[0], 4, at[1], 4).astype(np.float32).mean(axis=(1, 3)).round()
    )
    for enough in (max(at) // 2 + 1, max(at)):
        film = read_film(data, limits=Limits(enough=enough))
        assert film.pixels.shape == tuple(at) and film.display.shape == (*at, 3)
        assert np.abs(film.pixels - wanted).mean() < 0.01
        assert not film.problems
    assert read_film(data, limits=Limits(enough=2 * max(at) + 1)).pixels.shape == LARGE.shape
    assert read_film(data).pixels.shape == LARGE.shape
    if kind == "JPEG":  # shrunk by the decoder: there is nothing left to do
        monkeypatch.setattr("fracture.formats._pixels", lambda picture: seen.append(picture.size))
        seen: list[tuple[int, int]] = []
        with pytest.raises(FilmError):  # of no pixels nothing can be made
            read_film(data, limits=Limits(enough=max(at)))
        assert seen == [tuple(at[::-1])]


def test_a_large_film_is_shrunk_whatever_it_comes_in() -> None:
    limits = Limits(enough=max(LARGE.shape) // 2)
    wanted = read_film(encoded(LARGE, "PNG"), limits=limits)
    for source in (LARGE, Image.fromarray(LARGE), np.stack([LARGE] * 3, axis=-1), LARGE / 255):
        film = read_film(source, limits=limits)
        assert film.pixels.shape == wanted.pixels.shape
        assert np.abs(film.pixels - wanted.pixels).max() < 0.01
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_film(encoded(Image.fromarray(LARGE), "JPEG", exif=exif), limits=limits)
    assert turned.pixels.shape == wanted.pixels.shape[::-1]
    assert np.abs(np.rot90(turned.pixels) - wanted.pixels).mean() < 0.01
    holes = LARGE / np.float32(255)
    holes[:1000, :900] = np.nan
    assert not read_film(holes, limits=limits).pixels[:500, :450].any()


def test_a_narrow_film_is_not_shrunk_away() -> None:
    limits = Limits(enough=1_600)
    assert [limits.shrinks(*size) for size in ((3199, 3199), (3200, 2000), (400, 20_000))] == [
        1, 2, 1,
    ]  # fmt: skip
    assert Limits().shrinks(30_000, 30_000) == 1


def test_paths_bytes_pictures_and_arrays_agree(tmp_path: Path) -> None:
    path = tmp_path / "wrist.jpg"  # by its name a JPEG, by its content not
    path.write_bytes(FORMS["png"])
    wanted = read_film(FORMS["png"])
    for source in (
        path,
        str(path),
        Image.fromarray(FILM),
        FILM,
        FILM[..., None],
        np.stack([FILM] * 3, axis=-1),
        np.stack([FILM] * 3, axis=-1) / 255,
        FILM.astype(np.int64) * 1000,
        FILM / 255,
    ):
        film = read_film(source)
        assert np.abs(film.pixels - wanted.pixels).max() < 2e-3
        assert np.abs(film.display.astype(int) - wanted.display).max() <= 60  # not 8-bit: stretched
        assert film.name == ("wrist.jpg" if isinstance(source, (str, Path)) else "")
    assert read_film(FORMS["png"], name="other.png").name == "other.png"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    picture = Image.fromarray(FILM).convert("RGB")
    exif = Image.Exif()
    exif[274] = orientation
    options = {"quality": 98} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encoded(picture, kind, exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(_with_exif(picture, exif)))
    for source in (data, Image.open(io.BytesIO(data))):
        film = read_film(source)
        assert film.display.shape == upright.shape
        assert np.abs(film.display.astype(int) - upright).mean() < 4
        assert film.pixels.shape == upright.shape[:2]


def _with_exif(picture: Image.Image, exif: Image.Exif) -> Image.Image:
    return Image.open(io.BytesIO(encoded(picture, "PNG", exif=exif)))


def test_transparency_becomes_black() -> None:
    alpha = np.full(FILM.shape, 255, np.uint8)
    alpha[:20] = 0
    data = encoded(np.dstack([FILM, FILM, FILM, alpha]), "PNG")
    film = read_film(data)
    assert not film.display[:20].any() and not film.pixels[:20].any()
    assert np.array_equal(film.display[20:, :, 0], FILM[20:])


def test_white_is_zero_tiff() -> None:
    inverse = encoded(65535 - FILM.astype(np.uint16) * 200, "TIFF", tiffinfo={262: 0})
    assert np.abs(read_film(inverse).pixels - stretched(FILM)).max() < 2e-3


def test_unsigned_32_bit_tiff() -> None:
    signed = FILM.astype(np.int32)
    data = encoded(signed, "TIFF")
    data = data.replace(signed.tobytes(), (FILM.astype(np.uint32) << 24).tobytes())
    kind = struct.pack("<HHI", 339, 3, 1)
    data = data.replace(kind + b"\2", kind + b"\1")
    assert np.abs(read_film(data).pixels - stretched(FILM)).max() < 2e-3


@pytest.mark.parametrize("bits", [16, 64])
def test_rare_floats_are_refused_in_words(bits: int) -> None:
    half = tiff_picture(80, 80, (258, 3, 1, bits), (339, 3, 1, 3)) + b"\xff" * 80 * 80 * 8
    with pytest.raises(FilmError, match=f"{bits}-bit floats"):
        read_film(half)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_first_of_several_frames(kind: str) -> None:
    pages = [Image.fromarray(FILM), Image.fromarray(FILM[::-1].copy()), Image.fromarray(FILM // 2)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(pages[0], kind, save_all=True, append_images=pages[1:], **options)
    film = read_film(data)
    assert np.abs(film.pixels - stretched(FILM)).max() < 0.012
    assert film.notes == ("Only the first of 3 frames was read.",)


# --- brightness ------------------------------------------------------------------------------


def test_hot_pixels_do_not_squeeze_the_film() -> None:
    wide = FILM.astype(np.uint16) * 4
    wide[5, 5:10] = 65535
    film = read_film(encoded(wide, "PNG"))
    assert np.abs(film.pixels - stretched(FILM)).mean() < 0.01


def test_faint_films_are_stretched() -> None:
    film = read_film(FILM // 4 + 60)
    assert film.pixels.min() == 0 and film.pixels.max() == 1
    assert np.abs(film.pixels - stretched(FILM)).max() < 0.05
    assert film.display.max() < 130  # the picture the user knows


@pytest.mark.parametrize("tint", [(0.25, 0.55, 1.0), (0.3, 1.0, 0.5), (1.0, 0.7, 0.3)])
def test_coloured_films_are_read_in_grey(tint: tuple[float, float, float]) -> None:
    colours = (FILM[..., None] * np.array(tint)).astype(np.uint8)
    film = read_film(encoded(colours, "PNG"))
    assert np.abs(film.pixels - stretched(FILM)).max() < 0.02
    assert np.array_equal(film.display, colours)
    assert film.notes == ("The picture is coloured; only its brightness was read.",)


def test_light_box_around_a_film() -> None:
    box = Image.new("L", (240, 300), 250)
    tilted = Image.fromarray(FILM).convert("LA").rotate(3, Image.Resampling.BICUBIC, expand=True)
    box.paste(tilted.convert("L"), (50, 70), tilted.getchannel("A"))
    film = read_film(np.asarray(box))
    assert film.notes == ("The light border around the film was left out.",)
    assert film.pixels.shape == (300, 240)
    assert not film.pixels[:60].any() and not film.pixels[:, :40].any()
    middle = np.s_[110:190, 90:130]  # bone, and as bright as without the light box
    assert abs(film.pixels[middle].mean() - read_film(FILM).pixels[40:120, 35:75].mean()) < 0.06
    assert np.array_equal(film.display[..., 0], np.asarray(box))


def test_a_bright_bone_at_the_edge_is_no_border() -> None:
    film = np.where(drawn() > 100, 255, 20).astype(np.uint8)
    assert read_film(film).notes == ()


def test_negatives_among_real_films(shared_data: Path) -> None:
    """Every 20th film; `python -m fracture.negatives` measures all of them."""
    records = [
        record
        for record in read_labels(shared_data)
        if record.label != "not_limb_radiograph" and record.id not in SEEN_NEGATIVE
    ][::20]
    as_is, inverted = [], []
    for record in records:
        values = np.asarray(Image.open(record.path).convert("L"))
        as_is.append(read_film(values))
        inverted.append(read_film(255 - values))
    note = "The film was a negative (bone dark); it was inverted."
    assert len(records) > 80
    assert sum(note in film.notes for film in as_is) <= 2
    assert sum(note in film.notes for film in inverted) >= 0.92 * len(records)
    for film, turned in zip(as_is, inverted, strict=True):
        if film.notes == () and turned.notes == (note,):
            assert np.abs(film.pixels - turned.pixels).max() < 1e-5
            assert np.abs(film.display.astype(int) + turned.display - 255).max() == 0


def test_features_of_a_negative_are_those_of_the_film_negated() -> None:
    grey = np.asarray(Image.fromarray(FILM).resize((128, 128)), dtype=np.float32) / 255
    seen = np.ones_like(grey, dtype=bool)
    seen[:, :9] = False
    assert np.allclose(features(grey, seen), -features(1 - grey, seen), atol=1e-3)
    assert not is_negative(grey, seen) and is_negative(1 - grey, seen)


# --- problems --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.full((1, 1), 7, np.uint8), "too small"),
        (FILM[:63], "too small: 110 x 63"),
        (FILM // 6, "too dark"),
        (np.zeros((200, 200), np.uint8), "almost blank"),
        (np.full((200, 200), 255, np.uint8), "almost blank"),
        (np.full((200, 200), 3.5), "almost blank"),
        (np.clip(FILM.astype(int) * 3 + 200, 0, 255).astype(np.uint8), "overexposed"),
        (FILM // 20 + 120, "almost blank"),
    ],
)
def test_problems_in_words(picture: np.ndarray, words: str) -> None:
    film = read_film(picture)
    assert len(film.problems) == 1 and words in film.problems[0]
    assert film.pixels.shape == picture.shape
    assert np.isfinite(film.pixels).all()


def test_a_white_page_with_some_dots_is_almost_blank() -> None:
    page = np.full((300, 300), 255, np.uint8)
    page[100:104, 100:110] = 0
    assert read_film(page).problems == ("The picture is almost blank.",)


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("wrist.png", "wrist.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\Handgelenk links (2).jpg", "Handgelenk links (2).jpg"),
        ("Röntgen_手.png", "Röntgen_手.png"),
        ("<img src=x onerror=alert(1)>.png", "img src_x onerror_alert(1)_.png"),
        ("[a](javascript:alert(1)).png", "a_(javascript_alert(1)).png"),
        ("a\u202egnp.exe\x00\n.png", "a_gnp.exe_.png"),
        ("=HYPERLINK(1)", "HYPERLINK(1)"),
        ("", ""),
        ("..", ""),
    ],
)
def test_names_are_safe_to_show(given: str, shown: str) -> None:
    assert read_film(FILM, name=given).name == shown


def test_long_names_are_shortened() -> None:
    shown = read_film(FILM, name="x" * 4000 + ".png").name
    assert len(shown) <= 80 and shown.startswith("xxxx") and shown.endswith(".png")
    assert len(read_film(FILM, name="a." + "y" * 4000).name) <= 80


# --- geometry --------------------------------------------------------------------------------

SHAPES = [(320, 240), (240, 320), (97, 411), (2000, 131), (64, 64), (7, 5), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(448, 384), (224, 224), (61, 200)])
def test_letterbox_keeps_aspect_and_the_way_back(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    model_input, geometry = letterbox(np.ones(shape, np.float32), size)
    assert model_input.shape == size and model_input.dtype == np.float32
    assert geometry.film_size == shape and geometry.input_size == size
    placed = geometry.to_input(Box(0, 0, shape[1], shape[0]))
    inside = np.zeros(size, bool)
    inside[round(placed.top) : round(placed.bottom), round(placed.left) : round(placed.right)] = (
        True
    )
    assert np.allclose(model_input, inside)  # not blended with the padding
    scale = min(size[0] / shape[0], size[1] / shape[1])
    assert abs(placed.height - max(1, shape[0] * scale)) <= 0.5
    assert abs(placed.width - max(1, shape[1] * scale)) <= 0.5
    assert abs(placed.left + placed.right - size[1]) <= 1.001  # centred
    for resolution in ((7, 7), (56, 48), (1, 1), (3, 500)):
        back = geometry.to_film(np.full(resolution, 0.25, np.float32))
        assert back.shape == shape and back.dtype == np.float32
        assert np.allclose(back, 0.25, atol=1e-6)


def test_letterbox_averages_when_it_shrinks() -> None:
    checks = (np.indices((1000, 1000)).sum(0) % 2).astype(np.float32)
    small, _ = letterbox(checks, (100, 100))
    assert np.abs(small - 0.5).max() < 0.02


def _peak(values: np.ndarray) -> tuple[float, float]:
    """Centre of the highest plateau, (x, y) in pixels."""
    rows, columns = np.nonzero(values >= values.max() - 1e-6)
    return columns.mean() + 0.5, rows.mean() + 0.5


@pytest.mark.parametrize("shape", SHAPES[:4])
def test_a_peak_lands_where_it_belongs(shape: tuple[int, int]) -> None:
    pixels = np.zeros(shape, np.float32)
    region = Box(shape[1] * 0.1, -shape[0] * 0.2, shape[1] * 0.7, shape[0] * 0.9)
    for geometry in (letterbox(pixels, (448, 384))[1], cut(pixels, region, (224, 224))[1]):
        cells = np.zeros((28, 24), np.float32)
        cell_w, cell_h = geometry.box.width / 24, geometry.box.height / 28
        for row, column in ((14, 12), (9, 11), (20, 13)):
            x = geometry.box.left + (column + 0.5) * cell_w
            y = geometry.box.top + (row + 0.5) * cell_h
            if not (0 < x < shape[1] and 0 < y < shape[0]):
                continue
            cells[:] = 0
            cells[row, column] = 1
            found = _peak(geometry.to_film(cells))
            assert abs(found[0] - x) <= max(cell_w, 1) / 2
            assert abs(found[1] - y) <= max(cell_h, 1) / 2


def test_to_film_is_bilinear_between_cell_centres() -> None:
    geometry = Geometry((10, 12), (5, 6), Box(-2.0, 1.0, 12.0, 8.0))
    cells = np.random.default_rng(2).random((4, 3)).astype(np.float32)
    expected = np.zeros((10, 12))
    for row in range(10):
        for column in range(12):
            x, y = (column + 0.5 + 2) / 12 * 3 - 0.5, (row + 0.5 - 1) / 8 * 4 - 0.5
            if not (-0.5 <= x < 2.5 and -0.5 <= y < 3.5):
                continue
            left, top = int(np.floor(x)), int(np.floor(y))
            for r, share_r in ((top, 1 - (y - top)), (top + 1, y - top)):
                for c, share_c in ((left, 1 - (x - left)), (left + 1, x - left)):
                    cell = cells[np.clip(r, 0, 3), np.clip(c, 0, 2)]
                    expected[row, column] += cell * share_r * share_c
    assert np.allclose(geometry.to_film(cells), expected, atol=1e-5)


@pytest.mark.parametrize("resolution", [(7, 7), (56, 48), (300, 200)])
def test_to_film_is_pillows_bilinear(resolution: tuple[int, int]) -> None:
    """Where the input is the film; cells smaller than pixels are averaged."""
    cells = np.random.default_rng(4).random(resolution, dtype=np.float32)
    geometry = Geometry((131, 97), (448, 384), Box(0, 0, 97, 131))
    expected = np.asarray(Image.fromarray(cells).resize((97, 131), Image.Resampling.BILINEAR))
    assert np.abs(geometry.to_film(cells) - expected).max() < 1e-5


def test_what_is_found_in_the_input_is_found_on_the_film() -> None:
    """A bright dot, seen in the model's input, goes back to where it is on the film."""
    pixels = np.zeros((500, 380), np.float32)
    pixels[333:336, 120:123] = 1
    region = Box(60.5, 250.25, 150, 150)
    for model_input, geometry in (letterbox(pixels, (448, 384)), cut(pixels, region, (224, 224))):
        x, y = _peak(geometry.to_film(model_input))
        assert abs(x - 121.5) <= 1 and abs(y - 334.5) <= 1


def test_cut_takes_the_films_own_pixels() -> None:
    pixels = np.random.default_rng(3).random((300, 200)).astype(np.float32)
    patch, geometry = cut(pixels, Box(40, 60, 64, 48), (48, 64))
    assert np.allclose(patch, pixels[60:108, 40:104], atol=1e-6)
    assert geometry.box == Box(40, 60, 64, 48)
    patch, geometry = cut(pixels, Box(-30, 270, 64, 48), (48, 64))
    assert np.allclose(patch[:30, 30:], pixels[270:, :34], atol=1e-6)
    assert not patch[30:].any() and not patch[:, :30].any()
    back = geometry.to_film(np.ones((6, 8), np.float32))
    assert back[270:, :34].all() and back.sum() == 30 * 34


def test_cut_beside_the_film_is_black() -> None:
    pixels = np.ones((300, 200), np.float32)
    for box in (Box(500, 500, 64, 64), Box(-200, 0, 64, 64), Box(0, -1e5, 9.5, 3.25)):
        patch, geometry = cut(pixels, box, (32, 48))
        assert patch.shape == (32, 48) and not patch.any()
        assert not geometry.to_film(np.ones((4, 4))).any()


def test_boxes_go_to_the_input_and_back() -> None:
    _, geometry = letterbox(np.zeros((500, 380), np.float32), (448, 384))
    box = Box(10.5, 20.0, 33.0, 47.25)
    there = geometry.to_input(box)
    back = geometry.from_input(there)
    assert np.allclose(
        [back.left, back.top, back.width, back.height], [box.left, box.top, box.width, box.height]
    )
    assert there.right == there.left + there.width and there.bottom == there.top + there.height


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: cut(np.zeros((9, 9), np.float32), Box(0, 0, 0, 5), (8, 8)),
        lambda: cut(np.zeros((9, 9), np.float32), Box(0, float("nan"), 5, 5), (8, 8)),
        lambda: letterbox(np.zeros((9, 9, 3), np.float32), (8, 8)),
        lambda: letterbox(np.zeros((0, 9), np.float32), (8, 8)),
        lambda: letterbox(np.zeros((9, 9), np.float32), (8, 8))[1].to_film(np.zeros((2, 2, 2))),
    ],
)
def test_geometry_refuses_nonsense(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        wrong()


# --- hostile files ---------------------------------------------------------------------------


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, colour: int = 6) -> bytes:
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head


def tiff(entries: list[tuple[int, int, int, int]], rest: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory: (tag, type, count, value or position)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + rest


def tiff_picture(width: int, height: int, *more: tuple[int, int, int, int]) -> bytes:
    entries = {entry[0]: entry for entry in (
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, width * height % 2**32),
        *more,
    )}  # fmt: skip
    return tiff(list(entries.values()), bytes(1000))


def gif_frames(count: int) -> bytes:
    frame = b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    return head + frame * count + b";"


def gif_comment(size: int) -> bytes:
    whole = gif_frames(1)
    blocks = (b"\xff" + b"c" * 255) * (size // 256)
    return whole[:19] + b"\x21\xfe" + blocks + b"\0" + whole[19:]


def jpeg_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = encoded(Image.new("L", (2000, 2000), 90), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * count + b"\xff\xd9"


def jpeg_exif(data: bytes) -> bytes:
    plain, block = FORMS["jpeg"], b"Exif\0\0" + data
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]


def heavy_directory(entries: int, size: int) -> bytes:
    """Entries which all point to the same bytes: read one by one they fill the memory."""
    shared = [(40_000 + number, 7, size, 8) for number in range(entries)]
    return tiff_picture(100, 100, *shared) + bytes(size)


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("film.png", FORMS["png"])
    return out.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "empty"),
    "text": (lambda: b"hello", "not a picture"),
    "zip": (archive, "zip archive"),
    "pdf": (lambda: b"%PDF-1.7\n", "PDF"),
    "svg": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "html": (lambda: b"\xef\xbb\xbf \n<!doctype html><script>alert(1)</script>", "HTML"),
    "video": (lambda: b"\0\0\0\x18ftypisom" + bytes(50), "video"),
    "too many bytes": (lambda: bytes(25_000_001), "25 MB"),
    "png bomb": (
        lambda: png_header(60_000, 60_000) + png_chunk(b"IDAT", zlib.compress(bytes(9))),
        "megapixels",
    ),
    "png too large": (
        lambda: png_header(8_000, 8_000) + png_chunk(b"IDAT", zlib.compress(bytes(9))),
        "8000 x 8000",
    ),
    "png strip": (
        lambda: png_header(40_000, 2) + png_chunk(b"IDAT", zlib.compress(bytes(9))),
        "longer than",
    ),
    "png header only": (lambda: png_header(100, 100), "damaged"),
    "png text bomb": (
        lambda: png_header(100, 100)
        + png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9))
        + png_chunk(b"IEND", b""),
        "damaged",
    ),
    "png of crumbs": (
        lambda: png_header(100, 100) + png_chunk(b"IDAT", b"") * 1_000_000,
        "too many parts",
    ),
    "tiff bomb": (lambda: tiff_picture(60_000, 60_000), "megapixels"),
    "tiff of one tile": (
        lambda: tiff_picture(
            100, 100, (322, 4, 1, 40_000), (323, 4, 1, 40_000), (324, 4, 1, 200), (325, 4, 1, 9)
        ),
        "tiles",
    ),
    "tiff of crumbs": (
        lambda: tiff_picture(100, 100, (273, 4, 500_000, 200)) + bytes(2_000_000),
        "too many parts|claims",
    ),
    "tiff that weighs": (lambda: heavy_directory(5_000, 5_000_000), "claims to hold"),
    "tiff that is its own next page": (
        lambda: tiff_picture(100, 100).replace(bytes(1004), struct.pack("<I", 8) + bytes(1000), 1),
        "damaged",
    ),
    "gif of 10,000 frames": (lambda: gif_frames(10_000), "1000 frames"),
    "gif bomb": (
        lambda: b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b",",
        "megapixels|damaged",
    ),
    "bmp bomb": (
        lambda: b"BM"
        + struct.pack("<IIIIiiHHIIIIII", 0, 0, 54, 40, 60_000, 60_000, 1, 24, *[0] * 6),
        "megapixels",
    ),
    "webp bomb": (
        lambda: b"RIFF" + struct.pack("<I", 300) + b"WEBPVP8X" + struct.pack("<II", 10, 2)
        + b"\xff\x3f\0\xff\x3f\0" + bytes(280),
        "megapixels|damaged",
    ),
    "jpeg bomb": (
        lambda: FORMS["jpeg"].replace(
            b"\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 150, 110),
            b"\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 60_000, 60_000),
        ),
        "megapixels",
    ),
    "jpeg of scans": (lambda: jpeg_scans(5_000), "scans"),
    "jpeg of crumbs": (lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000, "too many parts"),
}  # fmt: skip
HARMLESS: dict[str, Callable[[], bytes]] = {
    "exif that weighs": lambda: jpeg_exif(heavy_directory(2_000, 30_000)[:60_000]),
    "gif with a long comment": lambda: gif_comment(20_000_000),
    "broken exif": lambda: jpeg_exif(b"MM\0*\xff\xff\xff\xff"),
    "no exif": lambda: jpeg_exif(b""),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_end_in_a_sentence(what: str) -> None:
    make, words = HOSTILE[what]
    data = make()
    started = time.process_time()
    with pytest.raises(FilmError, match=words) as caught:
        read_film(data, name="x")
    assert time.process_time() - started < 5
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 160


@pytest.mark.parametrize("what", HARMLESS)
def test_harmless_oddities_are_read(what: str) -> None:
    data = HARMLESS[what]()
    started = time.process_time()
    assert read_film(data).pixels.size
    assert time.process_time() - started < 5


@pytest.mark.parametrize("form", FORMS)
def test_truncated_files_of_every_format(form: str) -> None:
    data = FORMS[form]
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(FilmError):
            read_film(data[: int(len(data) * share)])


def test_whatever_is_no_film() -> None:
    for source in (
        None,
        17,
        [1, 2],
        np.zeros(5),
        np.zeros((2, 3, 5)),
        np.zeros((0, 4)),
        np.full((80, 80), np.nan),
        np.zeros((80, 80), complex),
        np.array([["a", "b"]]),
        REPOSITORY,
        "/no/such/file.png",
        "a\0b",
        "/dev/zero",
        Image.new("L", (0, 5)),
        Image.new("L", (9000, 9000)),
    ):
        with pytest.raises(FilmError):
            read_film(source)


def test_odd_numbers_are_films() -> None:
    numbers = np.random.default_rng(0).random((80, 80))
    for values in (numbers * 1e38, numbers * 1e-40, numbers.astype(np.float16), numbers > 0.5):
        film = read_film(values)
        assert film.pixels.min() == 0 and np.isfinite(film.pixels).all()
    with pytest.raises(FilmError, match="no numbers"):
        read_film(numbers * 1e300)
    numbers[3, 4], numbers[5, 6] = np.inf, -np.inf
    film = read_film(numbers)
    assert film.pixels[3, 4] == 1 and film.pixels[5, 6] == 0


def test_limits_are_settings(tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    path.write_bytes(FORMS["png"])
    for limits, words in (
        (Limits(max_bytes=1000), "larger than 0.001 MB"),
        (Limits(max_pixels=1000), "megapixels"),
    ):
        with pytest.raises(FilmError, match=words):
            read_film(path, limits=limits)
    with pytest.raises(FilmError, match="2 frames"):
        read_film(gif_frames(3), limits=Limits(max_frames=2))


def test_errors_do_not_quote_the_file() -> None:
    data = bytearray(FORMS["png"])
    data[40:60] = b"<script>alert</script>"[:20]
    with pytest.raises(FilmError) as caught:
        read_film(bytes(data), name="<b>x</b>")
    assert "<" not in str(caught.value) and caught.value.__suppress_context__


# The kernel's high-water mark of this process alone: getrusage's starts at the parent's.
MEASURE = """
import re, sys
from fracture.film import FilmError, read_film
data = open(sys.argv[1], "rb").read()
try:
    print(read_film(data).pixels.shape)
except FilmError as error:
    print(error)
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("png rgba", lambda: png_header(7000, 7000)
         + png_chunk(b"IDAT", zlib.compress(bytes(7000 * 28_001), 1)) + png_chunk(b"IEND", b"")),
        ("tiff float", lambda: encoded(
            np.zeros((7000, 7000), np.float32), "TIFF", compression="tiff_adobe_deflate")),
        ("webp bomb", HOSTILE["webp bomb"][0]),
        ("tiff that weighs", HOSTILE["tiff that weighs"][0]),
        ("png text bomb", HOSTILE["png text bomb"][0]),
    ],
)  # fmt: skip
def test_memory_stays_below_a_gigabyte(
    what: str, make: Callable[[], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "film"
    path.write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    said, kilobytes = done.stdout.splitlines()
    assert said
    assert int(kilobytes) < 1_000_000, said


def test_out_of_memory_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "film"
    path.write_bytes(encoded(Image.new("RGB", (4000, 4000), (9, 90, 200)), "PNG"))
    limit = (300_000_000, 300_000_000)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
        check=True,
    )
    assert done.stdout.startswith("The picture needs more memory than there is.")


def test_no_torch_is_imported() -> None:
    code = "import sys, fracture.film; print([m for m in ('torch', 'pydicom') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_slice_of_the_fuzzer() -> None:
    import fuzz_film

    files = list(fuzz_film.seeds().values())
    counts, wrong = fuzz_film.run(files, range(200), seed=1, progress=False)
    assert not wrong
    assert counts["read"] > 10 and counts["refused"] > 50 and counts.total() == 200


@given(
    hypothesis_numpy.arrays(
        st.one_of(
            hypothesis_numpy.floating_dtypes(),
            hypothesis_numpy.integer_dtypes(),
            hypothesis_numpy.boolean_dtypes(),
        ),
        hypothesis_numpy.array_shapes(min_dims=1, max_dims=4, max_side=70),
    )
)
@settings(max_examples=60, deadline=None)
def test_any_array_is_a_film_or_an_error(values: np.ndarray) -> None:
    try:
        film = read_film(values)
    except FilmError:
        return
    assert film.pixels.shape == values.shape[:2]
    assert film.pixels.min() >= 0 and film.pixels.max() <= 1
