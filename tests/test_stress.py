"""Films under strain, what changes the verdict, and sweeps of the simulator's controls."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import draw_film
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fracture.classifier import Prediction
from fracture.film import Film, read_film
from fracture.simulate import Settings
from fracture.stress import (
    CONTROLS,
    LONGEST,
    STRAINS,
    Occlusion,
    Strain,
    controls_of,
    occlude,
    overlap,
    painted_over,
    strained,
    sweep,
    sweep_figure,
    sweep_values,
    workable,
)

SMALL = 128


def film() -> Film:
    return read_film(draw_film(200, 160), name="forearm.png")


def flat(value: float = 0.5, shape: tuple[int, int] = (60, 40)) -> np.ndarray:
    return np.full(shape, value, np.float32)


# --- strain ----------------------------------------------------------------------------------


def test_no_strain_changes_nothing() -> None:
    before = film()
    assert strained(before, Strain()) is before


@pytest.mark.parametrize(
    ("strain", "same_size"),
    [
        (Strain(rotation=25), True),
        (Strain(exposure=1.5), True),
        (Strain(exposure=-1.5), True),
        (Strain(contrast=0.4), True),
        (Strain(blur=5), True),
        (Strain(noise=0.2), True),
        (Strain(crop=0.25), False),
        (Strain(quality=5), True),
        (Strain(hidden=(0.3, 0.3, 0.3, 0.3)), True),
    ],
)
def test_each_strain_gives_another_film_the_same_each_time(strain: Strain, same_size: bool) -> None:
    before = film()
    kept = before.pixels.copy()
    after, again = strained(before, strain), strained(before, strain)
    assert np.array_equal(before.pixels, kept)
    assert np.array_equal(after.display, again.display)
    assert (after.pixels.shape == before.pixels.shape) == same_size
    assert after.pixels.shape == after.display.shape[:2] and after.name == "forearm.png"
    assert not np.array_equal(after.display, before.display)


def test_more_exposure_makes_an_x_ray_film_darker() -> None:
    means = [strained(film(), Strain(exposure=e)).display.mean() for e in (-1, 0.01, 1)]
    assert means[0] > means[1] > means[2]


def test_blur_noise_and_jpeg_do_what_they_say() -> None:
    def grain(one: Film) -> float:
        levels = one.display[..., 0].astype(float)
        return float(np.abs(np.diff(levels, axis=1)).mean())

    plain = grain(film())
    assert grain(strained(film(), Strain(blur=6))) < 0.5 * plain
    assert grain(strained(film(), Strain(noise=0.2))) > 2 * plain
    blocks = strained(film(), Strain(quality=1)).display[..., 0].astype(float)
    across = np.abs(np.diff(blocks, axis=1)).mean(axis=0)
    assert across[7::8].mean() > 2 * across[3::8].mean()  # steps at the seams of 8 x 8 blocks


def test_rotation_is_clockwise_and_crop_takes_all_edges() -> None:
    pixels = np.zeros((200, 200), np.float32)
    pixels[20:60, 90:110] = 1  # a mark at twelve o'clock
    one = Film(pixels, np.zeros((200, 200, 3), np.uint8), "", (), ())
    turned = strained(one, Strain(rotation=90)).pixels
    rows, columns = np.nonzero(turned > 0.5)
    assert 85 < rows.mean() < 115 and columns.mean() > 140  # now at three o'clock
    assert strained(one, Strain(crop=0.4)).pixels.shape == (40, 40)


def test_a_film_spoilt_beyond_reading_says_so() -> None:
    left = strained(film(), Strain(crop=0.4))
    assert left.pixels.shape == (40, 32) and "small" in left.problems[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": 0.5}, {"rotation": 181}, {"exposure": float("nan")}, {"contrast": 0},
        {"blur": -1}, {"noise": "much"}, {"quality": 0}, {"hidden": (0, 0, 1)},
        {"hidden": (0, 0, float("inf"), 1)},
    ],
)  # fmt: skip
def test_impossible_strains_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        Strain(**wrong)


@pytest.mark.parametrize("name", STRAINS)
def test_every_strain_works_at_both_ends(name: str) -> None:
    allowed = STRAINS[name]
    for value in (allowed.low, allowed.high):
        after = strained(film(), Strain(**{name: value}))
        assert np.isfinite(after.pixels).all() and after.pixels.min() >= 0
    assert getattr(Strain(), name) == allowed.usual


def test_large_films_are_shrunk_and_small_ones_left_alone() -> None:
    large = read_film(draw_film(1500, 800))
    small = workable(large)
    assert small.pixels.shape == (LONGEST, round(800 * LONGEST / 1500))
    assert small.display.shape == (*small.pixels.shape, 3) and small.pixels.max() <= 1
    assert workable(small) is small


# --- painting over ---------------------------------------------------------------------------


def test_a_painted_box_continues_what_lies_around_it() -> None:
    ramp = np.linspace(0, 1, 60, dtype=np.float32)[:, None] + np.zeros((1, 40), np.float32)
    spoilt = ramp.copy()
    spoilt[20:40, 10:30] = 0
    mended = painted_over(spoilt, (0.25, 20 / 60, 0.5, 20 / 60))
    assert np.abs(mended - ramp).max() < 0.1
    assert np.array_equal(mended[:20], spoilt[:20]) and spoilt[30, 20] == 0


@given(st.tuples(*[st.floats(-1, 1.5)] * 2, *[st.floats(-0.2, 2)] * 2))
def test_any_box_is_filled_within_the_range_of_the_film(box: tuple) -> None:
    noise = np.random.default_rng(1).random((30, 20), dtype=np.float32)
    mended = painted_over(noise, box)
    assert mended.shape == noise.shape and np.isfinite(mended).all()
    assert mended.min() >= noise.min() - 1e-6 and mended.max() <= noise.max() + 1e-6


def test_boxes_at_the_border_and_over_everything() -> None:
    pixels = np.random.default_rng(2).random((30, 20), dtype=np.float32)
    assert np.ptp(painted_over(pixels, (0, 0, 1, 1))) == 0
    assert np.array_equal(painted_over(pixels, (2, 2, 1, 1)), pixels)
    for box in ((0, 0, 0.5, 1), (0.5, 0.5, 1, 1), (0, 0.2, 1, 0.2)):
        assert not np.array_equal(painted_over(pixels, box), pixels)


# --- occlusion -------------------------------------------------------------------------------


def bright_corner_reader(one: Film) -> Prediction:
    """Says comminuted as surely as the upper left corner is bright."""
    p = float(one.pixels[:20, :20].mean())
    label = "Comminuted" if p > 0.5 else "Simple"
    return Prediction("ok", label, {"Comminuted": p, "Simple": 1 - p}, ())


def corner_film() -> Film:
    pixels = flat(0.1, (140, 100))
    pixels[:20, :20] = 0.95
    return Film(pixels, np.zeros((140, 100, 3), np.uint8), "", (), ())


def test_occlusion_finds_what_the_verdict_hangs_on() -> None:
    states = list(occlude(corner_film(), bright_corner_reader))
    assert len(states) == 7 * 5 and [s.measured for s in states] == list(range(1, 36))
    last = states[-1]
    assert last.label == "Comminuted" and last.base == pytest.approx(0.95)
    assert np.unravel_index(np.argmax(last.drops), last.drops.shape) == (0, 0)
    assert last.turned[0, 0] and not last.turned[3:, 2:].any()
    assert last.drops[0, 0] > 0.5 and np.abs(last.drops[4:]).max() < 1e-6
    heat = last.heat((140, 100))
    assert heat.shape == (140, 100) and heat.min() >= 0 and heat.max() <= 1
    assert np.unravel_index(np.argmax(heat), heat.shape)[0] < 30


def test_occlusion_keeps_to_its_time_and_looks_everywhere_first() -> None:
    import time

    def slow(one: Film) -> Prediction:
        time.sleep(0.02)
        return bright_corner_reader(one)

    states = list(occlude(corner_film(), slow, seconds=0.2))
    assert 1 <= len(states) < 35
    first = list(occlude(corner_film(), bright_corner_reader))[6]
    rows, columns = np.nonzero(np.isfinite(first.drops))
    assert len(set(rows.tolist())) >= 4 and len(set(columns.tolist())) >= 3


def test_occlusion_without_a_verdict_has_nothing_to_ask() -> None:
    assert list(occlude(corner_film(), lambda _: Prediction("refused", None, {}, ("no",)))) == []


def test_hiding_the_limb_itself_counts_as_a_change_of_mind() -> None:
    def strict(one: Film) -> Prediction:
        if one.pixels[:20, :20].mean() < 0.5:
            return Prediction("refused", None, {}, ("no limb",))
        return Prediction("ok", "Simple", {"Simple": 0.8, "Comminuted": 0.2}, ())

    last = list(occlude(corner_film(), strict))[-1]
    assert last.turned[0, 0] and last.drops[0, 0] == pytest.approx(0.8)


def test_an_unmoved_verdict_gives_a_cold_map() -> None:
    cold = Occlusion("Simple", 0.9, np.zeros((3, 2), np.float32), np.zeros((3, 2), bool))
    assert cold.heat((30, 20)).max() == 0


# --- sweep -----------------------------------------------------------------------------------


def area_reader(one: Film) -> Prediction:
    p = float(np.clip(one.pixels.mean(), 0.01, 0.99))
    return Prediction("ok", "Simple", {"Simple": p, "Comminuted": 1 - p}, ())


def test_only_controls_with_a_choice_are_offered() -> None:
    assert set(controls_of(Settings(pattern="intact"))) == {"angle", "exposure", "noise", "kvp"}
    assert "fragments" in controls_of(Settings(pattern="multifragmentary"))
    assert "fragments" not in controls_of(Settings(pattern="transverse"))
    overriding = Settings(pattern="oblique", displacement=8, shortening=4)
    assert "gap" not in controls_of(overriding)  # ends that override cannot stand apart
    with pytest.raises(ValueError, match="no control is called 'colour'"):
        sweep_values(overriding, "colour", 5)


def test_sweep_values_cover_the_range_and_are_all_possible() -> None:
    settings = Settings(pattern="multifragmentary")
    assert sweep_values(settings, "angle", 5) == [-90, -45, 0, 45, 90]
    exposures = sweep_values(settings, "exposure", 5)
    assert exposures == pytest.approx([0.25, 0.5, 1, 2, 4])
    pieces = sweep_values(settings, "fragments", 30)
    assert pieces == [float(n) for n in range(5, 15)]
    for control in CONTROLS:
        for value in sweep_values(settings, control, 4):
            Settings(**vars(settings) | {CONTROLS[control].field: value})  # must not raise


def test_a_sweep_changes_one_thing_and_is_plotted_with_units() -> None:
    settings = Settings(bone="tibia", pattern="wedge", size=SMALL, seed=4)
    taken = list(sweep(settings, "angle", area_reader, steps=3))
    assert [step.value for step in taken] == [-90, 0, 90]
    assert all(step.film.pixels.shape[0] == SMALL and 0 < step.visible < 0.5 for step in taken)
    again = next(sweep(settings, "angle", area_reader, steps=3))
    assert np.array_equal(again.film.display, taken[0].film.display)
    figure = sweep_figure(settings, "angle", taken, now=0.0)
    plot = figure.axes[-1]
    assert plot.get_xlabel() == "Projection (degrees from AP)"
    assert plot.get_ylabel() == "Probability (0 to 1)"
    lines = {line.get_label(): line for line in plot.get_lines()}
    assert {"Simple", "Comminuted", "your film"} <= set(lines) and "No fracture" not in lines
    shown = lines["Simple"].get_ydata()
    assert shown == pytest.approx([s.prediction.probabilities["Simple"] for s in taken])
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert Image.open(file).size[0] > 800


def test_refused_films_leave_a_gap_in_the_plot() -> None:
    answers = iter([
        Prediction("ok", "Simple", {"Simple": 0.9, "Comminuted": 0.1}, ()),
        Prediction("refused", None, {}, ("too dark",)),
        Prediction("ok", "Simple", {"Simple": 0.7, "Comminuted": 0.3}, ()),
    ])  # fmt: skip
    settings = Settings(pattern="transverse", size=SMALL)
    taken = list(sweep(settings, "exposure", lambda _: next(answers), steps=3))
    plot = sweep_figure(settings, "exposure", taken).axes[-1]
    heights = plot.get_lines()[0].get_ydata()
    assert np.isnan(heights[1]) and heights[0] == 0.9
    assert [text.get_text() for text in plot.texts] == ["no verdict"]
    assert plot.get_xscale() == "log" and plot.get_xlabel() == "Exposure (times the right one)"
    with pytest.raises(ValueError, match="nothing to plot"):
        sweep_figure(settings, "exposure", [])


# --- overlap ---------------------------------------------------------------------------------


def test_overlap_of_a_perfect_and_of_a_wrong_map() -> None:
    mask = np.zeros((50, 40), bool)
    mask[10:20, 10:20] = True
    perfect = overlap(mask.astype(np.float32), mask)
    assert (perfect.hit, perfect.iou, perfect.energy) == (True, 1, 1)
    assert perfect.area == pytest.approx(100 / 2000) and perfect.cut == 0.5
    wrong = overlap((~mask).astype(np.float32), mask)
    assert (wrong.hit, wrong.iou, wrong.energy) == (False, 0, 0)
    with pytest.raises(ValueError, match="intact"):
        overlap(mask.astype(np.float32), np.zeros_like(mask))
