"""From films to predictions and maps: words, numbers, shapes, and many callers at once."""

from __future__ import annotations

import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_film
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fracture import cam, classifier
from fracture.bench.tools import as_jpeg, simulated_film
from fracture.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fracture.classifier import MODELS, Classifier, Prediction, SingleLook, softmax
from fracture.film import TO_SCREEN, Film, FilmError, Limits, read_film
from fracture.models import InputSpec, SimpleCNN

CLASSES = ("Comminuted", "Simple", "No fracture")


@dataclasses.dataclass(frozen=True)
class Found:
    """An analysis with given logits whose map is the class's index over a film."""

    logits: np.ndarray
    size: tuple[int, int]
    problems: tuple[str, ...] = ()

    def class_map(self, target: int, method: str) -> np.ndarray:
        return np.full(self.size, target / 2, np.float32)


@dataclasses.dataclass
class Oracle:
    """A network that answers as it is told to."""

    logits: tuple[float, ...] = (2.0, 1.0, 0.0)
    problems: tuple[str, ...] = ()
    fails: bool = False
    classes: tuple[str, ...] = CLASSES
    methods: tuple[str, ...] = ("gradcam",)

    def analyse(self, film: Film) -> Found:
        if self.fails:
            raise RuntimeError("out of luck")
        return Found(np.float32(self.logits), film.pixels.shape, self.problems)


@pytest.fixture(scope="module")
def simplecnn(random_checkpoints: Path) -> Classifier:
    return Classifier.load(random_checkpoints / "simplecnn.safetensors")


@pytest.fixture(scope="module")
def transfer(random_checkpoints: Path) -> Classifier:
    return Classifier.load(random_checkpoints / "transfer.safetensors")


@pytest.fixture
def film(film_pixels: np.ndarray) -> Film:
    return read_film(film_pixels)


# --- loading ---------------------------------------------------------------------------------


def test_load_by_path_name_and_default(
    random_checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "MODELS", random_checkpoints)
    monkeypatch.setattr(classifier, "DEFAULT_MODEL", "transfer")
    by_path = Classifier.load(str(random_checkpoints / "transfer.safetensors"))
    assert by_path.name == Classifier.load().name == Classifier.load("transfer").name == "transfer"
    assert by_path.classes == CLASSES and by_path.methods == cam.METHODS
    assert by_path.metadata["architecture"] == "tf_efficientnet_lite0"
    with pytest.raises(CheckpointError, match="checkpoints in .*: simplecnn, transfer") as caught:
        Classifier.load("resnet")
    assert "resnet.safetensors" in str(caught.value)


def test_a_file_for_another_network_is_refused(random_checkpoints: Path, tmp_path: Path) -> None:
    weights, metadata = load_checkpoint(random_checkpoints / "transfer.safetensors")
    for changes, words in (
        ({"architecture": "simplecnn"}, "does not hold the weights of simplecnn"),
        ({"architecture": "alexnet"}, "no network is called 'alexnet'"),
        ({"classes": ["Comminuted", "Simple"]}, r"head\.weight is \(3, 1280\), not \(2, 1280\)"),
        ({"input": {"size": [224, 224]}}, "the input needs size"),
    ):
        path = tmp_path / "swapped.safetensors"
        save_checkpoint(path, weights, metadata | changes)
        with pytest.raises(CheckpointError, match=words) as caught:
            Classifier.load(path)
        assert str(path) in str(caught.value)


def test_loaded_weights_are_those_of_the_file(random_checkpoints: Path) -> None:
    path = random_checkpoints / "simplecnn.safetensors"
    weights, _ = load_checkpoint(path)
    model = Classifier.load(path)._network.model
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, weights[name])


# --- answers ---------------------------------------------------------------------------------


def test_every_source_gives_the_same_answer(
    transfer: Classifier, film_file: Path, film_pixels: np.ndarray
) -> None:
    sources = [
        str(film_file),
        film_file,
        film_file.read_bytes(),
        Image.fromarray(film_pixels),
        film_pixels,
        read_film(film_file),
    ]
    first, *others = [transfer.predict(source) for source in sources]
    assert first.status == "ok" and first.label in CLASSES
    assert tuple(first.probabilities) == CLASSES
    assert abs(sum(first.probabilities.values()) - 1) < 1e-9
    assert all(other == first for other in others)


def test_probabilities_are_the_networks(simplecnn: Classifier, film: Film) -> None:
    """SimpleCNN sees the film as the reference did: stretched, three channels, -1 to 1."""
    squeezed = Image.fromarray(film.pixels).resize((224, 224), Image.Resampling.BILINEAR)
    picture = torch.tensor(np.asarray(squeezed)).expand(1, 3, 224, 224)
    with torch.inference_mode():
        logits = simplecnn._network.model((picture - 0.5) / 0.5)[0]
    expected = torch.softmax(logits / 1.5, 0)
    ours = list(simplecnn.predict(film).probabilities.values())
    assert np.allclose(ours, expected, atol=2e-3)  # another resampling kernel, 16-bit weights


@pytest.mark.parametrize(
    ("threshold", "status"), [(0.0, "ok"), (0.66, "ok"), (0.67, "uncertain"), (0.99, "uncertain")]
)
def test_below_the_threshold_it_is_uncertain(film: Film, threshold: float, status: str) -> None:
    model = Classifier(Oracle(), {"thresholds": {"uncertain": threshold}})  # 0.665, 0.245, 0.090
    prediction = model.predict(film)
    assert (prediction.status, prediction.label) == (status, "Comminuted")
    assert prediction.probabilities["Comminuted"] == pytest.approx(0.665, abs=1e-3)
    if status == "uncertain":
        assert "Comminuted, reaches only 66.5 %" in prediction.reasons[0]
        assert f"below {100 * threshold:.1f} %" in prediction.reasons[0]
    else:
        assert prediction.reasons == film.notes


def test_temperature_softens_without_changing_the_label(film: Film) -> None:
    plain = Classifier(Oracle()).predict(film)
    soft = Classifier(Oracle(), {"temperature": 4.0}).predict(film)
    assert soft.label == plain.label
    assert 1 / 3 < soft.probabilities["Comminuted"] < plain.probabilities["Comminuted"]


def test_problems_of_the_film_are_refused_unless_one_insists(film: Film) -> None:
    blank = dataclasses.replace(film, problems=("The film is blank.",), notes=("It was inverted.",))
    model = Classifier(Oracle())
    words = ("The film is blank.", "It was inverted.")
    assert model.predict(blank) == Prediction("refused", None, {}, words)
    assert model.read(blank) == (Prediction("refused", None, {}, words), None)
    prediction, heatmap = model.read(blank, insist=True)
    assert (prediction.status, prediction.label) == ("refused", "Comminuted")
    assert prediction.reasons == words and sum(prediction.probabilities.values()) > 0.999
    assert prediction == model.predict(blank, insist=True)
    assert heatmap is not None and heatmap.shape == film.pixels.shape


def test_problems_that_only_the_network_sees_are_refused_too(film: Film) -> None:
    model = Classifier(Oracle(problems=("This does not look like a limb.",)))
    assert model.predict(film).status == "refused" and model.predict(film).label is None
    assert model.read(film)[1] is None
    assert model.predict(film, insist=True).label == "Comminuted"


def test_unreadable_films_are_answers_not_exceptions(transfer: Classifier, tmp_path: Path) -> None:
    for source in (b"", b"no picture", tmp_path / "absent.png"):
        prediction = transfer.predict(source)
        assert (prediction.status, prediction.label, prediction.probabilities) == (
            "error",
            None,
            {},
        )
        assert len(prediction.reasons) == 1 and prediction.reasons[0].endswith(".")
        assert transfer.read(source) == (prediction, None)
        with pytest.raises(FilmError):
            transfer.explain(source)


def test_a_batch_keeps_order_and_survives_failures(transfer: Classifier) -> None:
    films = [draw_film(200 + 10 * i, 180, seed=i) for i in range(9)]
    batch: list = [*films]
    batch[2], batch[5] = b"no picture", None
    predictions = transfer.predict_batch(iter(batch))
    assert [p.status for p in predictions].count("error") == 2
    for index, prediction in enumerate(predictions):
        if index in (2, 5):
            assert prediction.status == "error" and prediction.reasons
        else:
            assert prediction == transfer.predict(films[index])
    assert transfer.predict_batch([]) == []


def test_a_failing_network_fails_single_films_only(film: Film) -> None:
    model = Classifier(Oracle(fails=True))
    (prediction,) = model.predict_batch([film])
    assert prediction.status == "error" and "failed" in prediction.reasons[0]
    with pytest.raises(RuntimeError, match="out of luck"):
        model.predict(film)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=5),
    st.floats(0.05, 20),
)
def test_softmax_is_a_distribution_in_the_order_of_logits(
    logits: list[float], temperature: float
) -> None:
    shares = softmax(np.float32(logits), temperature)
    assert shares.min() >= 0 and abs(shares.sum() - 1) < 1e-9
    order = np.argsort(np.float32(logits), kind="stable")
    assert (np.diff(shares[order]) >= 0).all()


# --- maps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", cam.METHODS)
@pytest.mark.parametrize("size", [(150, 400), (320, 240)])
def test_maps_lie_on_the_film(transfer: Classifier, method: str, size: tuple[int, int]) -> None:
    film = read_film(draw_film(*size))
    for target in transfer.classes[:2]:
        heatmap = transfer.explain(film, target, method)
        assert heatmap.shape == size and heatmap.dtype == np.float32
        assert heatmap.min() == 0 and (heatmap.max() == pytest.approx(1) or not heatmap.any())


@pytest.mark.parametrize(
    ("logits", "shown"),
    [
        ((2, 1, 0), "Comminuted"),
        ((0, 1, -1), "Simple"),
        ((0, 1, 3), "Simple"),  # called unbroken: the more suspicious of the fractures
        ((1, 0, 3), "Comminuted"),
    ],
)
def test_no_target_means_the_verdict_or_what_looked_most_suspicious(
    film: Film, logits: tuple[float, ...], shown: str
) -> None:
    oracle = Classifier(Oracle(logits))
    prediction, heatmap = oracle.read(film)
    assert prediction.label == CLASSES[np.argmax(logits)]
    assert cam.default_target(prediction.probabilities) == shown
    for unasked in (heatmap, oracle.explain(film)):
        assert np.array_equal(unasked, oracle.explain(film, shown))
    assert oracle.explain(film, "No fracture").min() == 1  # there for whoever asks


def test_the_default_map_is_the_shown_classes(transfer: Classifier, film: Film) -> None:
    prediction, heatmap = transfer.read(film)
    assert prediction == transfer.predict(film)
    assert np.array_equal(heatmap, transfer.explain(film))
    shown = cam.default_target(prediction.probabilities)
    assert np.array_equal(heatmap, transfer.explain(film, shown))
    other = next(name for name in CLASSES if name != shown)
    assert np.array_equal(transfer.read(film, other)[1], transfer.explain(film, other))
    assert not np.array_equal(heatmap, transfer.explain(film, other))


def test_default_map_is_the_librarys_on_the_film(transfer: Classifier, film: Film) -> None:
    network = transfer._network
    pixels, geometry = classifier.place(film.pixels, network.spec)
    picture = network.spec.scale(torch.tensor(pixels)[None])
    heat = cam.map_by_library(network.model, network.model.cam_layer, picture, 1, "gradcam")
    library = cam.unit_range(geometry.to_film(heat))
    ours = transfer.explain(film, "Simple")
    # ours goes from 7 x 7 cells to the film in one step, the library's over 224 x 224
    assert library.any() and np.abs(ours - library).max() < 0.02


def test_the_map_is_hot_where_the_evidence_is() -> None:
    """A network made to pass brightness through must point at the bright square of a wide film."""
    model = SimpleCNN()
    for weights in model.parameters():
        torch.nn.init.zeros_(weights)
    with torch.no_grad():
        for convolution in (model.conv1, model.conv2, model.conv3):
            convolution.weight[0, 0, 1, 1] = 1
        model.fc1.weight[0, : 28 * 28] = 1
        model.fc2.weight[0, 0] = 1
    # scaled to [0, 1] instead of [-1, 1], so that darkness is no evidence against
    spec = InputSpec(mean=(0.0,) * 3, std=(1.0,) * 3, resize="stretch")
    pixels = np.zeros((120, 480), np.float32)
    pixels[60:90, 360:420] = 1
    film = Film(pixels, np.zeros((120, 480, 3), np.uint8), "", (), ())
    for resize in ("stretch", "letterbox"):
        look = SingleLook(model, dataclasses.replace(spec, resize=resize))
        heatmap = Classifier(look).explain(film, "Comminuted", "gradcam")
        assert heatmap[68:82, 370:410].min() > 0.7
        assert heatmap[:40].max() < 0.1 and heatmap[:, :330].max() < 0.1


def test_wrong_requests_are_refused_before_any_work(transfer: Classifier, film: Film) -> None:
    for ask in (transfer.explain, transfer.read):
        with pytest.raises(ValueError, match="no class is called 'Greenstick'; there are Commin"):
            ask(film, "Greenstick")
        with pytest.raises(ValueError, match="no map is called 'x'; there are gradcam"):
            ask(film, method="x")


def test_callers_at_once_get_what_they_get_alone(
    transfer: Classifier, simplecnn: Classifier
) -> None:
    films = [read_film(draw_film(180 + 20 * i, 220, gap=i % 2 == 0, seed=i)) for i in range(2)]
    jobs = [
        (model, film, target, method)
        for model in (transfer, simplecnn)
        for film in films
        for target in (None, "Simple")
        for method in ("gradcam", "layercam")
    ]

    def work(job: tuple) -> tuple[Prediction, np.ndarray]:
        model, film, target, method = job
        return model.read(film, target, method)

    alone = [work(job) for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(work, jobs))
    for (ours, our_map), (theirs, their_map) in zip(alone, together, strict=True):
        assert ours.label == theirs.label
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)
        assert np.abs(our_map - their_map).max() < 1e-4


def test_real_films_are_read(transfer: Classifier, shared_data: Path) -> None:
    paths = sorted((shared_data / "images").rglob("*.jpg"))[:3]
    for path, prediction in zip(paths, transfer.predict_batch(paths), strict=True):
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            size = picture.height, picture.width
        assert prediction.status != "error" and transfer.explain(path).shape == size


def test_a_very_large_film_gets_the_same_answer_at_half_its_size() -> None:
    if not (MODELS / "looktwice.safetensors").exists():
        pytest.skip("no trained model here")
    shipped = Classifier.load()
    for seed in range(3):
        data = as_jpeg(simulated_film(4000, 3200, seed))
        whole, half = (read_film(data, limits=limits) for limits in (Limits(), TO_SCREEN))
        assert half.pixels.shape == (2000, 1600)
        (right, right_map), (answer, heatmap) = shipped.read(whole), shipped.read(half)
        assert answer.label == right.label
        for name, share in right.probabilities.items():
            assert answer.probabilities[name] == pytest.approx(share, abs=0.03)
        alike = np.corrcoef(right_map[::8, ::8].ravel(), heatmap[::4, ::4].ravel())[0, 1]
        assert alike > 0.98
