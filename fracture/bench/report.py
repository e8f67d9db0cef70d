"""README's table and the plot of the benchmark, from its JSON. Every figure comes from there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fracture import card

BEGIN, END = "<!-- benchmark -->", "<!-- /benchmark -->"
PLOT = "docs/benchmark.png"
COMMAND = "python -m fracture.bench"
BLUE, ORANGE, GREY = "#1f5fa8", "#c8540a", "#8a8a8a"

Json = dict[str, Any]

OURS = "Fracture"
TWO = "2"  # threads


def write(source: Path, root: Path) -> int:
    """Write the plot and the block in `root`/README.md; returns an exit status."""
    if not source.exists():
        print(f"fracture.bench: {source} is not there; '{COMMAND}' makes it", file=sys.stderr)
        return 2
    values = json.loads(source.read_text())
    plot(values, root / PLOT)
    readme = root / "README.md"
    readme.write_text(with_block(readme.read_text(), block(values)))
    print(f"wrote {root / PLOT} and the table in {readme}")
    return 0


def with_block(text: str, block: str) -> str:
    """README's text with the benchmark's part replaced. Raises ValueError if it has none."""
    return card.with_block(text, block, (BEGIN, END))


def block(values: Json) -> str:
    """README's part, Markdown: where, targets, peers, sizes, and what the slopes mean."""
    machine, parts = values["machine"], values["parts"]
    pieces = [
        f"Measured on {machine['cores']} cores ({machine['processor']}), torch "
        f"{machine['versions']['torch']}, in one run of {values['seconds'] / 60:.0f} minutes; "
        f"medians of {values['settings']['rounds']} after warm-up unless said otherwise. "
        "Other tools run the code that their own documentation shows, with random weights; in "
        "brackets: times ours.",
        table(("What", "Measured", "Target"), targets(parts)),
        peers(parts),
        backends(parts),
        sizes(parts),
        memory(parts),
        growth(parts),
        f"![Reading times by step, and how they grow]({PLOT})",
        f"Written by `{COMMAND}` and `{COMMAND} --readme`.",
    ]
    return "\n\n".join(piece for piece in pieces if piece)


def get(values: Json, *path: str) -> Any:
    """The value at a path, None where any part of it was not measured."""
    found: Any = values
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def targets(parts: Json) -> list[tuple[str, str, str]]:
    """Rows: what was asked for, what was measured, the target and whether it was met."""
    rows = list(_targets(parts))
    return [
        (what, shown.format(value), f"{aim} {'met' if met else '**missed**'}")
        if value is not None
        else (what, "not measured", aim)
        for what, value, shown, aim, met in rows
    ]


def _targets(parts: Json) -> Iterator[tuple[str, float | None, str, str, bool]]:
    """Words, value, its format, the target in words, whether it was met."""

    def row(what: str, value: float | None, shown: str, aim: str, limit: float, most: bool = True):
        met = value is not None and (value <= limit if most else value >= limit)
        return what, value, shown, aim, met

    def model(name: str, threads: str = TWO) -> float | None:
        return get(parts, "networks", threads, "measured", name, "ms")

    def times(one: float | None, other: float | None) -> float | None:
        return one / other if one and other else None

    whole = get(parts, "reading", TWO, "measured", OURS, "ms")
    yield row("Whole reading of a 2,000 x 2,500 JPEG, two threads", whole, "{:.0f} ms",
              "under 300 ms:", 300)  # fmt: skip
    closed = model("closed form, EfficientNet-Lite0")
    yield row("Same network and input, grad-cam's time against ours",
              times(model("grad-cam, EfficientNet-Lite0"), closed), "{:.1f} times",
              "4 times or more:", 4, most=False)  # fmt: skip
    yield row("Same network and input, our time against TorchCAM's",
              times(closed, model("TorchCAM, EfficientNet-Lite0")), "{:.2f} times",
              "no slower:", 1)  # fmt: skip
    for threads, words in ((TWO, "two threads"), ("1", "one thread")):
        patches = get(parts, "networks", "patches")
        yield row(f"Model part, both looks ({patches} patches), against grad-cam on ResNet-18 at "
                  f"224 px, {words}",
                  times(model(OURS, threads), model("grad-cam, ResNet-18", threads)),
                  "{:.2f} times", "no slower:", 1)  # fmt: skip
    browser = get(parts, "app", "browser") or {}
    yield row("Click on an example to picture, Chromium", get(browser, "example", "ms"),
              "{:.0f} ms", "under 600 ms:", 600)  # fmt: skip
    yield row("The same with the 2,000 x 2,500 JPEG", get(browser, "large_film", "ms"),
              "{:.0f} ms", "under 600 ms:", 600)  # fmt: skip
    slider = get(browser, "slider", "next_frame", "ms")
    yield row("Opacity slider to the next frame, no request", slider,
              "{:.0f} ms", "under 50 ms:", 50)  # fmt: skip
    start = parts.get("start", {})
    page, verdict = start.get("seconds_to_page"), start.get("seconds_to_first_verdict")
    yield row("`python app.py` to the page", page, "{:.1f} s", "under 8 s:", 8)
    yield row("From there to the first verdict", verdict - page if page and verdict else None,
              "{:.1f} s", "under 3 s:", 3)  # fmt: skip
    after, cuda = (get(parts, "app", key) for key in ("mb_after_readings", "mb_of_cuda"))
    words = f"Resident memory after {get(parts, 'app', 'readings')} readings"
    yield row(words, after, "{:.0f} MB", "under 700 MB:", 700)
    if cuda:
        yield row(f"{words}, without the CUDA libraries of the default torch", after - cuda,
                  "{:.0f} MB", "under 700 MB:", 700)  # fmt: skip
    share = get(parts, "batch", "share_of_the_model_alone")
    yield row("Folder on the command line, of the model's own speed",
              share and 100 * share, "{:.0f} %", "80 % or more:", 80, most=False)  # fmt: skip
    for network in ("locator", "reader"):
        share = get(parts, "training", network, "loader_share")
        yield row(f"Training the {network}: share of the time that loading takes",
                  share and 100 * share, "{:.1f} %", "10 % or less:", 10)  # fmt: skip


def peers(parts: Json) -> str:
    """Whole readings and model parts: milliseconds, and as multiples of ours."""
    columns = [
        (f"{words}, {threads} thread{'s' if threads == TWO else ''}", found)
        for part, words in (("reading", "Whole reading"), ("networks", "Model part"))
        for threads in ("1", TWO)
        if (found := get(parts, part, threads, "measured"))
    ]
    names = list(dict.fromkeys(name for _, found in columns for name in found))
    rows = [(name, *(_beside_ours(found, name) for _, found in columns)) for name in names]
    return table(("Tool", *(words for words, _ in columns)), rows) if rows else ""


def _beside_ours(found: Json, name: str) -> str:
    if name not in found:
        return ""
    return f"{found[name]['ms']:.0f} ms ({found[name]['ms'] / found[OURS]['ms']:.2f})"


def backends(parts: Json) -> str:
    """Ways to run the shipped weights."""
    rows = []
    for threads in ("1", TWO):
        found = get(parts, "backends", threads) or {}
        for name, row in found.items():
            if "ms" not in row:
                rows.append((name, threads, "-", "-", "-", row.get("skipped", "")))
                continue
            whole = get(parts, "reading", threads, "measured", OURS, "ms")
            rows.append((name, threads, f"{row['ms']:.0f} ms", f"{row['times_faster']:.2f}",
                         end_to_end(found, name, whole), f"{row['difference']:.0e}"))  # fmt: skip
    head = ("Way to run both networks", "Threads", "Median", "Times faster",
            "In a whole reading", "Largest difference")  # fmt: skip
    return table(head, rows) if rows else ""


SHIPPED = "folded (shipped)"


def end_to_end(found: Json, name: str, whole: float | None) -> str:
    """How much faster than the plain network a whole reading would be: all else as measured."""
    if whole is None or "ms" not in found.get(SHIPPED, {}):
        return "-"
    rest = whole - found[SHIPPED]["ms"]
    return f"{(rest + found['plain']['ms']) / (rest + found[name]['ms']):.2f}"


def sizes(parts: Json) -> str:
    """Megabytes."""
    found = parts.get("sizes", {})
    rows = [(f"Checkpoint `{name}`", f"{mb:.1f} MB")
            for name, mb in found.get("checkpoints_mb", {}).items()]  # fmt: skip
    for key, words in (
        ("clone_mb", "Repository, cloned"),
        ("environment_without_cuda_mb", "Installed environment without CUDA's parts"),
        ("environment_mb", "Installed environment as measured here"),
        ("space_image_estimate_mb", "Image of a Space (estimate: that, a base image, the clone)"),
    ):
        if key in found:
            rows.append((words, f"{found[key]:,.0f} MB"))
    return table(("Size of", ""), rows) if rows else ""


def memory(parts: Json) -> str:
    """Where the memory goes, and what importing takes, in words."""
    sentences = []
    if steps := get(parts, "start", "mb_by_step"):
        added = ", ".join(f"{name} {mb:.0f}" for name, mb in steps.items())
        sentences.append(
            f"Megabytes that starting adds, or gives back, step by step: {added}; "
            f"{sum(steps.values()):.0f} in all."
        )
    if cuda := get(parts, "app", "mb_of_cuda"):
        sentences.append(
            f"{cuda:.0f} MB are pages of the CUDA libraries that the default torch loads, used or "
            "not; its CPU build has none of them."
        )
    if heavy := get(parts, "start", "everything_at_once"):
        sentences.append(
            f"Importing {heavy['modules']} at once, as is usual, takes {heavy['seconds']:.1f} s "
            f"and {heavy['mb']:.0f} MB before anything is shown."
        )
    if many := get(parts, "batch", "too_small_to_be_judged"):
        sentences.append(
            f"The command line on {many['films']:,} pictures that are too small to be judged "
            f"never held more than {many['mb']:.0f} MB."
        )
    return " ".join(sentences)


def growth(parts: Json) -> str:
    """The slopes in words."""
    sentences = []
    if per := get(parts, "growth", "ms_per_megapixel"):
        sentences.append(
            f"A reading takes {per:.0f} ms more for each megapixel: the networks see a fixed size, "
            "what grows is decoding, laying the map over the film, drawing and encoding."
        )
    if per := get(parts, "batch", "films_per_second"):
        sentences.append(
            f"A folder takes {1000 / per:.0f} ms a film after "
            f"{get(parts, 'batch', 'seconds_before_the_first'):.1f} s of start; memory grows by "
            f"{get(parts, 'batch', 'mb_per_further_film'):.2f} MB a film."
        )
    if per := get(parts, "app", "ms_per_further_client"):
        sentences.append(
            f"With clients that ask without pause each further one adds {per:.0f} ms: the cores "
            "are busy, so a reading waits for those before it."
        )
    return " ".join(sentences)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- the plot -------------------------------------------------------------------------------------

STEPS = ("decode", "predict", "heatmap", "overlay", "encode")
COLOURS = ("#1f5fa8", "#c8540a", "#3f8f5f", "#8a6fb0", "#8a8a8a")


def plot(values: Json, path: Path) -> None:
    """Steps of a reading beside its peers', and the three growths, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = values["parts"]
    with plt.rc_context({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False,
                         "legend.frameon": False}):  # fmt: skip
        figure, axes = plt.subplots(2, 2, figsize=(13, 9))
        _steps(axes[0, 0], get(parts, "reading", TWO, "measured") or {})
        _line(axes[0, 1], get(parts, "growth", "readings") or [], "megapixels", "ms",
              "megapixels of the film", "milliseconds a reading")  # fmt: skip
        _line(axes[1, 0], get(parts, "batch", "runs") or [], "films", "seconds",
              "films in the folder", "seconds, start included")  # fmt: skip
        _line(axes[1, 1], get(parts, "app", "clients") or [], "clients", "ms",
              "clients that ask without pause", "milliseconds a reading")  # fmt: skip
        figure.tight_layout()
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=90, facecolor="white", metadata={"Software": None})
        plt.close(figure)


def _steps(axis, measured: Json) -> None:
    """Stacked bars: what each step of a whole reading takes."""
    names = list(measured)[::-1]
    left = [0.0] * len(names)
    for step, colour in zip(STEPS, COLOURS, strict=True):
        widths = [measured[name]["steps"].get(step, 0.0) for name in names]
        axis.barh(names, widths, left=left, color=colour, label=step)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.set(xlabel="milliseconds, whole reading of 2,000 x 2,500 pixels, two threads")
    axis.legend(fontsize=10)


def _line(axis, rows: Sequence[Json], x: str, y: str, across: str, up: str) -> None:
    at, values = [row[x] for row in rows], [row[y] for row in rows]
    if rows and "low" in rows[0]:
        axis.fill_between(at, [row["low"] for row in rows], [row["high"] for row in rows],
                          color=BLUE, alpha=0.2)  # fmt: skip
    axis.plot(at, values, "o-", color=BLUE, lw=2)
    axis.set(xlabel=across, ylabel=up, ylim=(0, None))
