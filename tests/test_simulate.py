"""The simulator: the truth it tells, the settings it refuses, and that it repeats itself."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fracture import simulate as sim
from fracture.bones import interior_points
from fracture.breaks import Injury, break_bone
from fracture.simulate import (
    BONES,
    PATTERNS,
    Settings,
    SettingsError,
    choices,
    longest_shortening,
    nearest_settings,
    patterns_of,
    random_settings,
    simulate,
)

SMALL = 128
PAIRS = [(bone, pattern) for bone in BONES for pattern in patterns_of(bone)]


@pytest.mark.parametrize(("bone", "pattern"), PAIRS)
def test_every_bone_and_pattern_gives_a_film_with_its_truth(bone: str, pattern: str) -> None:
    film = simulate(Settings(bone=bone, pattern=pattern, size=SMALL, seed=3))
    height, width = film.pixels.shape
    assert height == SMALL and width >= SMALL // 3
    assert film.pixels.dtype == np.float32
    assert np.isfinite(film.pixels).all()
    assert film.pixels.min() >= 0 and film.pixels.max() <= 1
    assert film.pixels.std() > 0.05
    assert film.mask.shape == film.pixels.shape and film.mask.dtype == bool
    assert film.label == PATTERNS[pattern]
    if pattern == "intact":
        assert film.box is None and not film.mask.any() and film.ao_code == ""
        return
    assert film.ao_code
    box = film.box
    rows, columns = np.nonzero(film.mask)
    assert (columns.min(), rows.min()) == (box.left, box.top)
    assert (columns.max() + 1, rows.max() + 1) == (box.right, box.bottom)
    assert 0.0005 < film.mask.mean() < 0.35


@pytest.mark.parametrize(("pattern", "class_"), PATTERNS.items())
def test_class_follows_the_number_of_fragments(pattern: str, class_: str) -> None:
    pieces = choices("tibia", pattern).fragments
    if class_ == "Comminuted":
        assert pieces.low >= 3
    else:
        assert pieces.high <= 2


def test_same_settings_same_film() -> None:
    settings = Settings(bone="radius", pattern="wedge", size=SMALL, seed=9)
    first, second = simulate(settings), simulate(Settings(**vars(settings)))
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.mask, second.mask)
    other = simulate(Settings(bone="radius", pattern="wedge", size=SMALL, seed=10))
    assert first.pixels.shape != other.pixels.shape or not np.array_equal(
        first.pixels, other.pixels
    )


def test_changing_one_control_leaves_the_rest_of_the_film() -> None:
    """A lesson sweeps one control: the frame, the patient and the marker must not jump."""
    still = {"bone": "tibia", "pattern": "oblique", "size": SMALL, "seed": 4, "noise": 0.0}
    near = simulate(Settings(**still, displacement=0, angulation=0))
    moved = simulate(Settings(**still, displacement=6, angulation=0))
    assert near.pixels.shape == moved.pixels.shape
    changed = np.abs(near.pixels - moved.pixels)
    above = slice(0, int(near.box.top) - 8)
    assert changed[above].mean() < 0.02  # only the film's tone follows what it shows
    assert changed[above].mean() < 0.5 * changed[int(near.box.top) :].mean()


def test_fragments_are_all_there() -> None:
    """Every piece of a shattered bone holds bone, and together they hold all of it."""
    points = interior_points("humerus")
    injury = Injury("multifragmentary", 14, 3, 4, 0, 5, 0, 0)
    broken = break_bone(points, 170.0, injury, np.random.default_rng(2))
    assert len(broken.pieces) == 14
    margins = np.stack([p.margin(*points.T) for p in broken.pieces])
    counts = (margins > 0).sum(axis=1)
    assert counts.min() >= 20
    # cells touch but do not overlap
    assert ((margins > 0).sum(axis=0) <= 1).all()
    assert (margins.max(axis=0) > -1e-3).all()


def test_displacement_moves_the_far_fragment() -> None:
    points = interior_points("tibia")
    injury = Injury("transverse", 2, 0, 8, 0, 0, 0, 0)
    near, far = break_bone(points, 180.0, injury, np.random.default_rng(0)).pieces
    assert near.above and far.below
    assert np.allclose(near.motion.shift, 0)
    assert np.allclose(far.motion.shift, (8, 0, 0))


def test_projection_hides_a_displacement() -> None:
    """Moved towards the tube it hardly shows from the front, but does from the side."""
    still = {
        "bone": "tibia",
        "pattern": "transverse",
        "segment": "shaft",
        "size": 192,
        "seed": 5,
        "gap": 0,
        "angulation": 0,
        "noise": 0.0,
        "direction": 90.0,
    }
    change = {}
    for projection in ("AP", "lateral"):
        films = [
            simulate(Settings(**still, projection=projection, displacement=d)) for d in (0, 10)
        ]
        change[projection] = float(np.abs(films[0].pixels - films[1].pixels).mean())
    assert change["lateral"] > 2 * change["AP"]


def test_more_exposure_darkens_and_more_noise_roughens() -> None:
    plain = {"bone": "radius", "pattern": "intact", "size": SMALL, "seed": 6}
    usual = simulate(Settings(**plain)).pixels
    assert simulate(Settings(**plain, exposure=2.0)).pixels.mean() < usual.mean() - 0.03
    noisy = simulate(Settings(**plain, noise=4.0)).pixels
    rough, smooth = (np.abs(np.diff(pixels, axis=0)).mean() for pixels in (noisy, usual))
    assert rough > 1.5 * smooth


def test_left_is_the_mirror_of_right() -> None:
    plain = {"bone": "fibula", "pattern": "spiral", "size": SMALL, "seed": 8, "noise": 0.0}
    right = simulate(Settings(**plain, marker="R"))
    left = simulate(Settings(**plain, marker="L"))
    assert right.pixels.shape == left.pixels.shape
    # the frame's own shift is not mirrored, so compare what the limb shows, row by row
    assert abs(int(right.mask.sum()) - int(left.mask.sum())) < 0.1 * right.mask.sum() + 20
    assert not np.array_equal(right.mask, left.mask)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"bone": "skull"}, "The bone must be one of"),
        ({"pattern": "crushed"}, "The pattern must be one of"),
        ({"bone": "metacarpal", "pattern": "torus"}, "not on offer"),
        ({"bone": "fibula", "pattern": "torus"}, "not on offer"),
        ({"fragments": 3}, "The number of fragments of a transverse fracture of a tibia is always"),
        ({"pattern": "multifragmentary", "fragments": 40}, "must be between 5 and 14; got 40"),
        ({"pattern": "multifragmentary", "fragments": 6.5}, "must be whole"),
        ({"gap": -1}, "must be between 0 and"),
        ({"gap": "wide"}, "The gap must be a number"),
        ({"displacement": float("nan")}, "must be a finite number"),
        ({"pattern": "intact", "displacement": 3}, "an intact tibia is always 0 mm"),
        ({"pattern": "greenstick", "shortening": 5}, "is always 0 mm"),
        ({"displacement": 2, "gap": 0, "shortening": 12}, "cannot override by 12 mm"),
        ({"displacement": 2, "gap": 2, "shortening": 3}, "override and stand apart"),
        ({"kvp": 10}, "tube voltage"),
        ({"exposure": 0}, "exposure"),
        ({"projection": "skyline"}, "The projection must be one of"),
        ({"projection": 400.0}, "within 180 degrees"),
        ({"segment": "middle"}, "can break at: shaft or distal"),
        ({"collimation": "round"}, "The collimation must be one of"),
        ({"marker": "X"}, "The marker must be one of"),
        ({"size": 20}, "The size"),
        ({"size": 200.5}, "whole number of pixels"),
        ({"seed": -1}, "The seed must be a whole number from 0"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(wrong: dict, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**wrong)
    message = str(caught.value)
    assert words in message
    assert message[0].isupper() and message.endswith(".") and "\n" not in message


@pytest.mark.parametrize(("bone", "pattern"), PAIRS)
def test_what_is_offered_is_possible(bone: str, pattern: str) -> None:
    offer = choices(bone, pattern)
    for end in ("low", "high"):
        values = {
            name: getattr(getattr(offer, name), end)
            for name in ("fragments", "displacement", "angulation", "rotation", "field")
        }
        longest = longest_shortening(bone, pattern, values["displacement"])
        for segment in offer.segments or (None,):
            made = Settings(
                bone=bone, pattern=pattern, segment=segment, gap=0, shortening=longest, **values
            )
            assert made.label == PATTERNS[pattern]


def test_names_that_do_not_exist_are_refused_by_the_helpers() -> None:
    with pytest.raises(SettingsError):
        choices("tibia", "crushed")
    with pytest.raises(SettingsError):
        patterns_of("skull")
    with pytest.raises(SettingsError):
        random_settings(np.random.default_rng(0), pattern="spiral", label="Comminuted")
    with pytest.raises(SettingsError):
        random_settings(np.random.default_rng(0), label="Broken")


def test_nearest_settings_follow_a_page_whose_sliders_outlive_a_pattern() -> None:
    sliders = {
        "bone": "tibia",
        "segment": "distal",
        "fragments": 9,
        "gap": 99,
        "displacement": 9,
        "angulation": 90,
        "shortening": 50,
        "rotation": -500,
        "kvp": 400,
        "size": 9999,
    }
    for pattern in PATTERNS:
        made = nearest_settings(**sliders, pattern=pattern)
        offer = choices("tibia", pattern)
        for name in ("fragments", "gap", "displacement", "angulation", "rotation", "kvp"):
            assert getattr(made, name) in getattr(offer, name)
    kept = Settings(bone="femur", pattern="wedge", displacement=5)
    assert nearest_settings(**vars(kept)) == kept


def test_random_settings_repeat_and_cover_everything() -> None:
    drawn = [random_settings(np.random.default_rng(k)) for k in range(300)]
    assert drawn[7] == random_settings(np.random.default_rng(7))
    assert {s.bone for s in drawn} == set(BONES)
    assert {s.pattern for s in drawn} == set(PATTERNS)
    labels = [s.label for s in drawn]
    assert all(labels.count(label) > 60 for label in set(PATTERNS.values()))
    only = random_settings(np.random.default_rng(1), bone="ulna", label="Comminuted", size=256)
    assert only.bone == "ulna" and only.label == "Comminuted" and only.size == 256


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"bone": "tibia", "pattern": "spiral"}, "42A1"),
        ({"bone": "femur", "pattern": "oblique", "segment": "shaft"}, "32A2"),
        ({"bone": "humerus", "pattern": "transverse", "segment": "shaft"}, "12A3"),
        ({"bone": "radius", "pattern": "wedge"}, "2R2B2"),
        ({"bone": "ulna", "pattern": "wedge", "fragments": 5}, "2U2B3"),
        ({"bone": "tibia", "pattern": "segmental"}, "42C2"),
        ({"bone": "tibia", "pattern": "multifragmentary", "segment": "shaft"}, "42C3"),
        ({"bone": "radius", "pattern": "transverse", "segment": "distal"}, "2R3A2"),
        ({"bone": "radius", "pattern": "torus"}, "23r-M/2.1"),
        ({"bone": "tibia", "pattern": "greenstick"}, "42t-D/2.1"),
        ({"bone": "fibula", "pattern": "wedge"}, "4F2B"),
        # types of the lower end outside the joint: the booklet's 13A3, 33A3, 43A3 and 43A1
        ({"bone": "humerus", "pattern": "multifragmentary", "segment": "distal"}, "13A3"),
        ({"bone": "femur", "pattern": "multifragmentary", "segment": "distal"}, "33A3"),
        ({"bone": "tibia", "pattern": "multifragmentary", "segment": "distal"}, "43A3"),
        ({"bone": "tibia", "pattern": "transverse", "segment": "distal"}, "43A1"),
    ],
)
def test_ao_codes(settings: dict, code: str) -> None:
    assert sim.ao_code(Settings(**settings)) == code


def test_attenuation_as_nist_tabulates_it() -> None:
    """Linear attenuation per mm at 60 keV, and monotone in between (NIST SRD 126, table 4)."""
    from fracture import xray

    kev = np.array([60.0])
    for material, mass, density in (
        (xray._BONE, 0.3148, 1.92),
        (xray._SOFT, 0.2048, 1.06),
        (xray._FAT, 0.1974, 0.95),
        (xray._ALUMINIUM, 0.2778, 2.70),
    ):
        assert xray._per_mm(material, kev)[0] == pytest.approx(mass * density / 10)
        assert (np.diff(xray._per_mm(material, np.linspace(15, 100, 50))) < 0).all()
    # soft tissue is all but muscle, whose row for 15 keV reads 1.693 (they differ in salts only)
    assert xray._SOFT[0][0] == pytest.approx(1.693, rel=0.005)


def test_metacarpal_code_names_the_ray() -> None:
    code = simulate(Settings(bone="metacarpal", pattern="wedge", size=SMALL)).ao_code
    assert code.startswith("77.") and code[3] in "2345" and code.endswith(".2B")


def test_a_film_comes_in_about_a_second() -> None:
    simulate(Settings(bone="tibia", pattern="wedge"))  # the shapes are made once
    start = time.process_time()
    simulate(Settings(bone="tibia", pattern="multifragmentary", seed=1))
    assert time.process_time() - start < 4  # a busy machine counts several times more


def test_command_writes_films_and_their_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--count", "2", "--seed", "3", "--size", str(SMALL)]
    assert sim.main(["--out", str(tmp_path / "a"), *arguments]) == 0
    assert sim.main(["--out", str(tmp_path / "b"), *arguments]) == 0
    assert "2 films" in capsys.readouterr().out
    with open(tmp_path / "a" / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        one, two = (tmp_path / folder / row["file"] for folder in "ab")
        assert one.read_bytes() == two.read_bytes()
        with Image.open(one) as picture:
            assert picture.size == (int(row["width"]), int(row["height"]))
        assert row["label"] == PATTERNS[row["pattern"]]
        assert (row["box_left"] == "") == (row["label"] == "No fracture")


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert sim.main(["--out", str(tmp_path), "--count", "0"]) == 1
    assert "The count must be at least 1." in capsys.readouterr().err
    (tmp_path / "file").write_text("in the way")
    assert sim.main(["--out", str(tmp_path / "file"), "--count", "1", "--size", "128"]) == 1
    assert "error:" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sim.main([])


def test_examples_in_the_repository_are_what_the_code_makes() -> None:
    """The pictures are committed, so their truth must still be that of the settings."""
    folder = sim.EXAMPLE_FOLDER
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert set(rows) == {f"{name}.png" for name in sim.EXAMPLES}
    for name, settings in sim.EXAMPLES.items():
        row = rows[f"{name}.png"]
        assert (row["label"], row["pattern"]) == (settings.label, settings.pattern)
        assert int(row["seed"]) == settings.seed
        with Image.open(folder / row["file"]) as picture:
            assert picture.size == (int(row["width"]), int(row["height"]))
            assert picture.height == settings.size
    assert {row["label"] for row in rows.values()} == set(PATTERNS.values())
    assert "simulated" in (folder / "README.md").read_text(encoding="utf-8")
    assert sum((folder / name).stat().st_size for name in rows) < 2_000_000
