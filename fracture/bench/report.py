"""README's table and the plot of the benchmark, from its JSON. Every figure comes from there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fracture import card
from fracture.bench.tools import slope

BEGIN, END = "<!-- benchmark -->", "<!-- /benchmark -->"
PLOT, LOAD = "docs/benchmark.png", "docs/load.json"
ALONE = ("models/benchmark_many.json", "models/benchmark_starts.json")  # parts run by themselves
LOAD_SETTINGS = {"door": "api", "threads": 1, "readers": 2}  # the app's own, on two cores
COMMAND = "python -m fracture.bench"
BLUE, ORANGE = "#1f5fa8", "#c8540a"

Json = dict[str, Any]

OURS = "Fracture"
FLAT = 1.05  # memory that grows by no more over a run counts as flat
TWO = "2"  # threads


def write(source: Path, root: Path) -> int:
    """Write the plot and the block in `root`/README.md; returns an exit status."""
    if not source.exists():
        print(f"fracture.bench: {source} is not there; '{COMMAND}' makes it", file=sys.stderr)
        return 2
    values = gathered(source, root)
    plot(values, root / PLOT)
    readme = root / "README.md"
    readme.write_text(with_block(readme.read_text(), block(values)))
    print(f"wrote {root / PLOT} and the table in {readme}")
    return 0


def gathered(source: Path, root: Path) -> Json:
    """The benchmark's JSON with the parts that have runs, and files, of their own.

    "many": the large folder; "starts": more starts than the run's own ("start"); "load": the load
    test's pace at each number of clients. What was measured with few repetitions is left out.
    """
    values = json.loads(source.read_text())
    for path in filter(Path.exists, (root / name for name in ALONE)):
        apart = json.loads(path.read_text())
        measured = {k: part for k, part in apart["parts"].items() if "failed" not in part}
        values["parts"] |= {} if apart["quick"] else measured
    # the last app that was asked by several numbers of clients
    apps = json.loads((root / LOAD).read_text()) if (root / LOAD).exists() else []
    series = [app["runs"] for app in apps if app["settings"] == LOAD_SETTINGS]
    values["parts"]["load"] = next((runs for runs in reversed(series) if len(runs) > 1), [])
    return values


def with_block(text: str, block: str) -> str:
    """README's text with the benchmark's part replaced. Raises ValueError if it has none."""
    return card.with_block(text, block, (BEGIN, END))


def block(values: Json) -> str:
    """README's part, Markdown: where, targets, peers, sizes, and what the slopes mean."""
    machine, parts = values["machine"], values["parts"]
    pieces = [
        f"Measured on {machine['cores']} cores ({machine['processor']}), torch "
        f"{machine['versions']['torch']}, in one run of {values['seconds'] / 60:.0f} minutes; "
        f"medians of {values['settings']['rounds']} after warm-up unless said otherwise.",
        table(("What", "Measured", "Target"), targets(parts)),
        f"![Reading times by step, and how they grow]({PLOT})",
        growth(parts),
        folded("Beside other tools", peers(parts)),
        folded("Other ways to run the networks", backends(parts), backends_in_words(parts)),
        folded("Start and memory", start(parts), memory(parts)),
        folded("Sizes", sizes(parts)),
        f"Measured by `{COMMAND}`, `{COMMAND} --only many`, `{COMMAND} --only starts` and "
        f"`python tests/load.py`; written by `{COMMAND} --readme`.",
    ]
    return "\n\n".join(piece for piece in pieces if piece)


def folded(title: str, *pieces: str) -> str:
    """Pieces under a title that opens them; nothing if there are none."""
    shown = [piece for piece in pieces if piece]
    if not shown:
        return ""
    return "\n\n".join([f"<details><summary>{title}</summary>", *shown, "</details>"])


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
    both = ((TWO, "two threads"), ("1", "one thread"))
    for threads, words in both:
        closed = model("closed form, EfficientNet-Lite0", threads)
        same = f"Same network (ours folded) and input, {words}"
        yield row(f"{same}: grad-cam's time against ours",
                  times(model("grad-cam, EfficientNet-Lite0", threads), closed), "{:.1f} times",
                  "4 times or more:", 4, most=False)  # fmt: skip
        yield row(f"{same}: our time against TorchCAM's",
                  times(closed, model("TorchCAM, EfficientNet-Lite0", threads)), "{:.2f} times",
                  "no slower:", 1)  # fmt: skip
    for threads, words in both:
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
    slider, asked = get(browser, "slider", "next_frame", "ms"), get(browser, "slider", "requests")
    most = 100 if asked else 50
    yield row(f"Opacity slider to the next frame, {asked or 'no'} requests to the server", slider,
              "{:.0f} ms", f"under {most} ms:", most)  # fmt: skip
    start = parts.get("starts") or parts.get("start", {})
    apart = ", a run of their own" if "starts" in parts else ""
    page, verdict = start.get("seconds_to_page"), start.get("seconds_to_first_verdict")
    yield row(f"`python app.py` to the page, median of {start.get('count')} starts{apart}",
              page, "{:.1f} s", "under 8 s:", 8)  # fmt: skip
    yield row("From there to the first verdict", verdict - page if page and verdict else None,
              "{:.1f} s", "under 3 s:", 3)  # fmt: skip
    after, cuda = (get(parts, "app", key) for key in ("mb_after_readings", "mb_of_cuda"))
    words = f"Resident memory after {get(parts, 'app', 'readings')} readings"
    yield row(words, after, "{:.0f} MB", "under 700 MB:", 700)
    if cuda:
        yield row(f"{words}, without the CUDA libraries of the default torch", after - cuda,
                  "{:.0f} MB", "under 700 MB:", 700)  # fmt: skip
    if many := get(parts, "many", "memory"):
        yield row(f"Memory over a folder of {parts['many']['films']:,} films: second half against "
                  "the first", flatness(many), "{:.2f} times",
                  f"{FLAT} or less:", FLAT)  # fmt: skip
    share = get(parts, "batch", "share_of_the_model_alone")
    yield row("Folder on the command line, of the model's own speed",
              share and 100 * share, "{:.0f} %", "80 % or more:", 80, most=False)  # fmt: skip
    for network in ("locator", "reader"):
        share = get(parts, "training", network, "loader_share")
        yield row(f"Training the {network}: share of the time that loading takes",
                  share and 100 * share, "{:.1f} %", "10 % or less:", 10)  # fmt: skip


def flatness(memory: Sequence[tuple[int, float]]) -> float:
    """The most that was held in the second half of a run, as a multiple of that in the first."""
    half = len(memory) // 2
    return max(mb for _, mb in memory[half:]) / max(mb for _, mb in memory[:half])


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
    if not rows:
        return ""
    words = (
        "Other tools run the code that their own documentation shows, with random weights; in "
        "brackets: times ours."
    )
    return f"{table(('Tool', *(words for words, _ in columns)), rows)}\n\n{words}"


def _beside_ours(found: Json, name: str) -> str:
    if name not in found:
        return ""
    return f"{found[name]['ms']:.0f} ms ({found[name]['ms'] / found[OURS]['ms']:.2f})"


SHIPPED, PLAIN = "folded (shipped)", "plain"
WORTH = 1.5  # times faster end to end: from there on another way to run the networks is adopted


def backends(parts: Json) -> str:
    """Ways to run the shipped weights."""
    rows = []
    for threads in ("1", TWO):
        for name, row in (get(parts, "backends", threads) or {}).items():
            if "ms" not in row:
                rows.append((name, threads, "-", "-", "-", row.get("skipped", "")))
                continue
            beside = (end_to_end(parts, threads, name, other) for other in (PLAIN, SHIPPED))
            rows.append((name, threads, f"{row['ms']:.0f} ms",
                         *(f"{times:.2f}" if times else "-" for times in beside),
                         f"{row['difference']:.0e}"))  # fmt: skip
    head = ("Way to run both networks", "Threads", "Median", "A whole reading, times faster than "
            "plain", "than shipped", "Largest difference")  # fmt: skip
    return table(head, rows) if rows else ""


def end_to_end(parts: Json, threads: str, name: str, other: str) -> float | None:
    """How much faster a whole reading is one way than another, all else as measured."""
    found = get(parts, "backends", threads) or {}
    whole = get(parts, "reading", threads, "measured", OURS, "ms")
    if whole is None or any("ms" not in found.get(way, {}) for way in (name, other, SHIPPED)):
        return None
    rest = whole - found[SHIPPED]["ms"]
    return (rest + found[other]["ms"]) / (rest + found[name]["ms"])


def backends_in_words(parts: Json) -> str:
    """What follows from the ways to run the networks."""
    gains = [
        (times, name, threads)
        for threads in ("1", TWO)
        for name in get(parts, "backends", threads) or {}
        if name != SHIPPED and (times := end_to_end(parts, threads, name, SHIPPED))
    ]
    folding = [end_to_end(parts, threads, SHIPPED, PLAIN) for threads in ("1", TWO)]
    if not gains or not all(folding):
        return ""
    times, name, threads = max(gains)
    verdict = (
        f"less than the {WORTH} times for which another dependency would be worth its upkeep, so "
        "none is kept"
        if times < WORTH
        else f"more than the {WORTH} times from which on it is worth its upkeep"
    )
    return (
        f"The most that another way would gain on what is shipped is {times:.2f} times, end to end "
        f"({name}, {threads} thread{'s' if threads == TWO else ''}): {verdict}. Folding batch "
        f"norms into convolutions gains {' and '.join(f'{gain:.2f}' for gain in folding)} times on "
        "one and two threads; it needs no dependency and one short module."
    )


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


def start(parts: Json) -> str:
    """What is imported before the page and behind it, beside importing all of it first."""
    found = parts.get("start", {})
    rows = []
    for key, words, mb in (
        ("everything_at_once", "Everything first, as is usual", None),
        ("importing_the_app", "Until the page is served", "mb_at_page"),
        ("importing_the_model", "Behind the page, until the first verdict", "mb_after_verdict"),
    ):
        if imports := found.get(key):
            held = found.get(mb) if mb else imports.get("mb")
            most = list(imports["by_package"].items())[:3]
            most = ", ".join(f"{package} {seconds:.1f} s" for package, seconds in most)
            rows.append((words, f"`{imports['modules']}`", f"{imports['seconds']:.1f} s", most,
                         f"{held:.0f} MB" if held else "-"))  # fmt: skip
    head = ("When", "What is imported", "Time (`-X importtime`)", "Most of it", "Memory then")
    return table(head, rows) if rows else ""


def memory(parts: Json) -> str:
    """Where the memory goes, in words."""
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
    return " ".join(sentences)


def growth(parts: Json) -> str:
    """The slopes in words."""
    sentences = []
    if get(parts, "growth", "ms_per_megapixel_kept"):
        found = parts["growth"]
        sentences.append(
            f"A reading takes {found['ms_per_megapixel_of_the_file']:.0f} ms for each megapixel of "
            f"the file, which must be decoded, and {found['ms_per_megapixel_kept']:.0f} ms for "
            "each that is kept, for preparing, laying the map over the film, drawing and encoding; "
            f"films of {found['shrunk_from_side']:,} pixels and more are kept at a half or a "
            "quarter of their size, where the line drops. The networks see a fixed size."
        )
    if per := get(parts, "batch", "films_per_second"):
        sentences.append(
            f"A folder takes {1000 / per:.0f} ms a film after "
            f"{get(parts, 'batch', 'seconds_before_the_first'):.1f} s of start: each core reads "
            "a film of its own."
        )
    if many := get(parts, "many", "memory"):
        stays = (
            "Films are read one by one, and what is said of them is not kept"
            if flatness(many) <= FLAT
            else "Its memory grows with it"
        )
        sentences.append(
            f"{stays}: over {parts['many']['films']:,} films (a run of its own, "
            f"{parts['many']['seconds'] / 60:.0f} minutes) it held {many[0][1]:.0f} MB in the "
            f"first part, {many[-1][1]:.0f} MB in the last and at most "
            f"{max(mb for _, mb in many):.0f} MB."
        )
    if clients := parts.get("load"):
        per, _ = slope(
            [run["clients"] for run in clients], [1000 * run["p50_s"] for run in clients]
        )
        sentences.append(
            "Of clients that ask without pause (the load test's run and machine, "
            f"[docs/growth.md](docs/growth.md)) each further one adds {per:.0f} ms: the cores are "
            "busy, so a reading waits for those before it."
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
    """Steps of a reading beside its peers', and how time and memory grow, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = values["parts"]
    with plt.rc_context({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False,
                         "legend.frameon": False}):  # fmt: skip
        figure = plt.figure(figsize=(16, 8.5))
        grid = figure.add_gridspec(2, 6)
        _steps(figure.add_subplot(grid[0, :3]), get(parts, "reading", TWO, "measured") or {})
        axis = figure.add_subplot(grid[0, 3:])
        rows = get(parts, "growth", "readings") or []
        _line(axis, [(row["megapixels"], row["ms"]) for row in rows], BLUE)
        axis.fill_between(
            [row["megapixels"] for row in rows], [row["low"] for row in rows],
            [row["high"] for row in rows], color=BLUE, alpha=0.2,
        )  # fmt: skip
        axis.set(xlabel="megapixels of the file", ylabel="milliseconds a reading")
        axis = figure.add_subplot(grid[1, :2])
        rows = get(parts, "batch", "runs") or []
        _line(axis, [(row["films"], row["seconds"]) for row in rows], BLUE)
        axis.set(xlabel="films in the folder", ylabel="seconds, start included")
        axis = figure.add_subplot(grid[1, 2:4])
        _line(axis, get(parts, "many", "memory") or [], BLUE, marker="")
        axis.set(xlabel="films read of one folder", ylabel="resident megabytes")
        axis = figure.add_subplot(grid[1, 4:])
        rows = parts.get("load") or []
        for key, words, colour in (
            ("p95_s", "95 % within", ORANGE),
            ("p50_s", "half within", BLUE),
        ):
            _line(axis, [(row["clients"], row[key]) for row in rows], colour, label=words)
        axis.set(xlabel="clients that ask without pause", ylabel="seconds a reading")
        axis.legend(fontsize=10)
        for axis in figure.axes[1:]:
            axis.set_ylim(0, None)
        figure.tight_layout()
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=80, facecolor="white", metadata={"Software": None})
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


def _line(axis, points: Sequence[tuple[float, float]], colour: str, marker: str = "o", **words):
    """A line through points (x, y)."""
    across, up = zip(*points, strict=True) if points else ([], [])
    axis.plot(across, up, marker=marker, color=colour, lw=2, **words)
