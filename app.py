"""The web demo: `python app.py`, or a Gradio Space as it stands.

Teaching tool, not a medical device. This file is Gradio: the look, the limits and the wiring of
each tab. What a tab shows and does lives in the package, mostly in `fracture.web`. The page is
served before torch is imported: the model loads in the background meanwhile.
"""

from __future__ import annotations

import atexit
import functools
import gc
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# ruff: noqa: E402 (what follows comes before Gradio and torch are imported)
gc.disable()  # importing makes many objects and throws few away; `memory.settle` ends it
# Both read these once.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"  # who asked when: kept in memory even so
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several readings at once share the cores better
if "GRADIO_TEMP_DIR" in os.environ:
    os.makedirs(os.environ["GRADIO_TEMP_DIR"], exist_ok=True)
# Films and results: a folder of our own, so that all of it may be deleted.
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(
    prefix="fracture-", dir=os.environ.get("GRADIO_TEMP_DIR")
)

import gradio as gr
from gradio.state_holder import SessionState
from PIL import Image
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fracture.quiz import QuizError
from fracture.web import drop as drop_zone
from fracture.web import (
    evidence,
    html,
    learn,
    make,
    memory,
    models,
    pictures,
    plate,
    server,
    take,
)
from fracture.web import quiz as quizzes
from fracture.web import stress as stresses
from fracture.web.reading import (
    VERDICT,
    Answer,
    Request,
    Upload,
    as_json,
    failure,
    look,
    read_many,
    write_table,
)

UPLOADS = os.environ["GRADIO_TEMP_DIR"]
atexit.register(shutil.rmtree, UPLOADS, ignore_errors=True)
HERE = Path(__file__).parent
WEB = HERE / "fracture" / "web"
EXAMPLES = HERE / "examples"
KEEP_SECONDS = 600  # how long an upload or a result may stay on the disk,
SWEEP_SECONDS = 10  # and how often it is looked for
# For a class: a folder with films and their labels.csv, and one where quiz results are kept.
FILMS, RESULTS = os.environ.get("FRACTURE_FILMS"), os.environ.get("FRACTURE_RESULTS")
SESSIONS = 1000  # visitors whose state (a quiz, say) is kept in memory, the last ones who came
WAITING = 256  # visitors whose answers are kept until they fetch them, the last ones who asked
QUEUE_LENGTH = 64  # readings that may wait; beyond that the page says that the queue is full

TEAL = gr.themes.Color(
    name="teal",
    c50="#eafaf8", c100="#cdf1ed", c200="#9be2dc", c300="#63cdc6", c400="#34b0ab",
    c500="#14918f", c600="#0b7678", c700="#0c5f62", c800="#0f4b4f", c900="#113f43",
    c950="#04262a",
)  # fmt: skip
SLATE = gr.themes.Color(
    name="slate",
    c50="#f6f8f9", c100="#edf1f3", c200="#dce3e7", c300="#bcc8cf", c400="#8c9ca6",
    c500="#62737e", c600="#495963", c700="#36444d", c800="#1c272e", c900="#121b21",
    c950="#0b1216",
)  # fmt: skip

theme = gr.themes.Base(
    primary_hue=TEAL,
    secondary_hue=TEAL,
    neutral_hue=SLATE,
    radius_size=gr.themes.sizes.radius_md,
    font=[  # served by the app itself
        gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)),
        "ui-sans-serif",
        "system-ui",
        "sans-serif",
    ],
    font_mono=["ui-monospace", "Consolas", "monospace"],
).set(
    body_background_fill="*neutral_100",
    body_background_fill_dark="*neutral_950",
    background_fill_primary="#ffffff",
    background_fill_primary_dark="*neutral_900",
    block_background_fill="transparent",
    block_background_fill_dark="transparent",
    block_border_width="0px",
    block_shadow="none",
    block_padding="0px",
    block_title_text_size="*text_sm",
    block_title_text_weight="700",
    block_title_text_color="*neutral_600",
    block_title_text_color_dark="*neutral_300",
    input_background_fill="#ffffff",
    input_background_fill_dark="*neutral_800",
    checkbox_label_background_fill="#ffffff",
    checkbox_label_background_fill_dark="*neutral_800",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_text_color="#ffffff",
    button_secondary_background_fill="#ffffff",
    button_secondary_background_fill_dark="*neutral_800",
    button_secondary_border_color="*neutral_300",
    button_secondary_border_color_dark="*neutral_600",
    button_border_width="1px",
)


# ---------------------------------------------------------------------- Read an X-ray
# One reading keeps one core busy, so as many run at a time as there are cores; the rest queue.
READERS = os.cpu_count() or 2
QUEUED = {"concurrency_id": "read", "concurrency_limit": READERS}
PRIVATE = {"api_visibility": "private", **QUEUED}

# The verdict is announced when it changes; the list of films tells which row's film to show.
ANNOUNCED = '<div role="status" aria-live="polite">${value}</div>'
BATCH = """
watch("value", () => setTimeout(() => { // once the film above has taken its place
  const table = element.querySelector(".fx-batch");
  if (table) table.scrollIntoView({ block: "start" });
}, 150));
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-open]");
  if (!button) return;
  trigger("select", { index: Number(button.dataset.open) });
  document.querySelector("#read").scrollIntoView({ block: "start" });
});
"""


def read_page(examples: Sequence[Path]) -> tuple[gr.HTML, gr.Number]:
    """Build the page "Read an X-ray"; `examples` are served under `examples/`.

    Returns the drop zone and the number of the film that is shown, for other pages.
    """
    with gr.Row(elem_id="read", equal_height=False):
        with gr.Column(scale=7, min_width=320):
            drop = film_drop()
            view = gr.HTML(
                js_on_load=(WEB / "read.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id="view",
            )
            gr.HTML(
                drop_zone.example_strip(examples),
                js_on_load=drop_zone.TRY_EXAMPLE,
                apply_default_css=False,
                visible=bool(examples),
                elem_id="examples",
            )
        with gr.Column(scale=5, min_width=320):
            verdict = gr.HTML(
                html.waiting_card(),
                html_template=ANNOUNCED,
                apply_default_css=False,
                elem_id="verdict",
            )
            insist = gr.Button("Show the verdict anyway", visible=False, elem_id="insist")
            with gr.Column(elem_id="controls"):
                choices = _controls()
            with gr.Row(elem_id="take-page"):
                as_pdf = gr.Button("Take it away as PDF", size="md")
                as_png = gr.Button("as PNG", size="md")
            taken = gr.HTML(elem_id="taken", apply_default_css=False)
            saved = gr.HTML(
                html_template="", js_on_load=take.SCRIPT, apply_default_css=False, elem_id="saved"
            )
    batch = gr.HTML(apply_default_css=False, elem_id="batch", js_on_load=BATCH)
    with gr.Row(visible=False, elem_id="take-away") as take_away:
        table = gr.DownloadButton("Take the table (CSV)", size="md")
        archive = gr.DownloadButton("Take the overlays (zip)", size="md")
    # which film is shown, and whether its refusal was overruled; both kept in the browser
    row = gr.Number(0, visible="hidden", precision=0)
    insisted = gr.Checkbox(False, visible="hidden")
    shown = [view, verdict, insist]
    uploads = drop.GRADIO_CACHE

    def dropped(sent, target, model, method, compare, progress=gr.Progress()):  # noqa: B008
        films = drop_zone.received(sent, uploads)
        request = Request(model, method, target)
        if not films:
            return [gr.skip()] * 9
        many = ["", gr.update(visible=False), None, None]
        if len(films) > 1:
            folder = Path(uploads) / secrets.token_hex(16)
            folder.mkdir(parents=True)
            paths = folder / "readings.csv", folder / "overlays.zip"
            counted = progress.tqdm(films, desc="Reading the films", unit="films")
            rows = read_many(counted, Request(model, method), paths[1])
            write_table(rows, paths[0])
            many = [html.batch_table(rows), gr.update(visible=True), *map(str, paths)]
        return [*_show(films[0], request, compare), 0, False, *many]

    def changed(sent, row, insisted, target, model, method, compare):
        films = drop_zone.received(sent, uploads)
        if not films:
            return [gr.skip()] * 3
        wanted = Request(model, method, target, bool(insisted))
        return _show(films[_within(row, films)], wanted, compare)

    def anyway(sent, row, *choices):
        return True, *changed(sent, row, True, *choices)

    def opened(event: gr.EventData, sent, target, model, method, compare):
        films = drop_zone.received(sent, uploads)
        if not films:
            return [gr.skip()] * 5
        index = _within(getattr(event, "index", 0), films)
        return [*_show(films[index], Request(model, method, target), compare), index, False]

    listen = {"show_progress_on": verdict, **PRIVATE}
    reading = drop.upload(
        dropped,
        [drop, *choices],
        [*shown, row, insisted, batch, take_away, table, archive],
        trigger_mode="always_last",  # a film dropped while another is read is not lost
        **listen,
    )
    reading.then(None, js=drop_zone.DONE)
    gr.on(
        [choice.input for choice in choices],
        changed,
        [drop, row, insisted, *choices],
        shown,
        trigger_mode="always_last",
        **listen,
    )
    insist.click(anyway, [drop, row, *choices], [insisted, *shown], **listen)
    batch.select(opened, [drop, *choices], [*shown, row, insisted], **listen)

    def taken_away(kind, sent, row, insisted, target, model, method):
        films = drop_zone.received(sent, uploads)
        if not films:
            return "", plate.sentence("Drop a film first.")
        wanted = Request(model, method, target, bool(insisted))
        file, words = take.download(films[_within(row, films)], wanted, kind)
        return file, plate.sentence(words)

    for button, kind in ((as_pdf, "pdf"), (as_png, "png")):
        button.click(
            functools.partial(taken_away, kind),
            [drop, row, insisted, *choices[:3]],
            [saved, taken],
            show_progress_on=button,
            **PRIVATE,
        )
    _endpoint()
    return drop, row


def _controls() -> list[gr.components.Component]:
    """Build what one may ask for: target, model, method, and whether to compare the models."""
    target = gr.Radio(
        [("The verdict", VERDICT), *models.CLASSES],
        value=VERDICT,
        label="Show what spoke for",
        elem_classes="fx-segments",
    )
    model = gr.Radio(
        [(title, name) for name, title in models.TITLES.items()],
        value=models.DEFAULT,
        label="Model",
        elem_classes="fx-segments",
    )
    compare = gr.Checkbox(False, label="Compare the two models side by side")
    method = gr.Dropdown(
        [(title, name) for name, title in models.METHODS.items()],
        value="gradcam",
        label="Heatmap method",
        filterable=False,
    )
    return [target, model, method, compare]


def _show(upload: Upload, request: Request, compare: bool) -> tuple[str, str, dict]:
    """Return the viewer, the verdict card and the update of the "anyway" button."""
    first = look(upload, request)
    readings = [first.reading]
    if compare and first.film is not None:
        others = [name for name in models.TITLES if name != request.model]
        second = Request(others[0], request.method, request.target, request.insist)
        readings.append(look(upload, second, film=first.film).reading)
    refused = first.reading.status == "refused" and first.reading.label is None
    return html.viewer(readings), html.verdict_card(*readings), gr.update(visible=refused)


def _within(index: Any, films: Sequence[Upload]) -> int:
    """Return `index`, which came from a browser, as a position in `films`."""
    try:
        return min(max(int(index), 0), len(films) - 1)
    except (TypeError, ValueError, OverflowError):
        return 0


def read_file(
    file: Upload | None, model: str, method: str, target: str, insist: bool
) -> tuple[dict[str, Any], str | None]:
    """Read one film: verdict with every class's probability, and the film under its heatmap."""
    request = Request(model, method, target, insist)
    answer = Answer(failure("No file was sent.", model=model))
    if file:
        answer = look(file, request, thumbnail=True)
    picture = None
    if answer.heatmap is not None:
        # Named by chance: Gradio names a picture after its content, and would write the file anew
        # for whoever asks the same, while the first who asked is still being sent it.
        folder = Path(UPLOADS) / secrets.token_hex(16)
        folder.mkdir(parents=True)
        picture = str(folder / "overlay.jpg")
        shown = pictures.under_heat(answer.film.display, answer.heatmap)
        Image.fromarray(shown).save(picture, quality=90)
    return as_json(answer, request), picture


def _as_upload(file: gr.FileData | None) -> Upload | None:
    """Take the endpoint's film as it lies there; Gradio would leave an empty file for each call."""
    return Upload(file.path, file.orig_name or Path(file.path).name) if file else None


def _endpoint() -> None:
    """Register `/read` for gradio_client and other programs; it has no face on the page."""
    with gr.Group(visible=False):
        inputs = [
            gr.File(label="The film: a picture or DICOM file", type="filepath"),
            gr.Dropdown(list(models.TITLES), value=models.DEFAULT, label="Model"),
            gr.Dropdown(list(models.METHODS), value="gradcam", label="Heatmap method"),
            gr.Dropdown(
                [VERDICT, *models.CLASSES], value=VERDICT, label="Class that the heatmap explains"
            ),
            gr.Checkbox(False, label="Give a verdict even on a film that would be refused"),
        ]
        outputs = [
            gr.JSON(label="Reading: file, status, label, probabilities, reasons"),
            gr.Image(label="The film under its heatmap", format="jpeg"),
        ]
        keep_local(inputs[0])
        inputs[0].preprocess = _as_upload
        gr.Button().click(
            read_file,
            inputs,
            outputs,
            api_name="read",
            api_description="Read a bone X-ray: Simple, Comminuted or No fracture, with the "
            "probability of each, reasons in words, and the film under its heatmap. "
            "For teaching, not for diagnosis.",
            **QUEUED,
        )


def film_drop() -> gr.HTML:
    """Build the drop zone. Its value is what the browser sent; see `drop_zone.received`."""
    drop = gr.HTML(
        html_template=drop_zone.MARKUP,
        js_on_load=drop_zone.SCRIPT,
        apply_default_css=False,
        elem_id="drop",
    )
    keep_local(drop)
    return drop


def keep_local(component: gr.components.Component) -> None:
    """Make a component that takes files refuse addresses on the web, which Gradio would fetch."""
    move = component.async_move_resource_to_block_cache

    async def move_local(address: str | None) -> str | None:
        if str(address).lower().startswith(("http:", "https:")):
            raise gr.Error("Send the film itself: addresses on the web are not fetched.")
        return await move(address)

    component.async_move_resource_to_block_cache = move_local


# ---------------------------------------------------------------------- Make a fracture
def make_page(tab: gr.Tab) -> None:
    """Build the page "Make a fracture" inside its tab."""
    first = make.FIRST
    offers = make.offers(first)
    with gr.Row(elem_id="make", equal_height=False):
        with gr.Column(scale=7, min_width=320):
            view = gr.HTML(js_on_load=make.SCRIPT, apply_default_css=False, elem_id="make-view")
        with gr.Column(scale=5, min_width=320):
            verdict = gr.HTML(
                html_template=ANNOUNCED, apply_default_css=False, elem_id="make-verdict"
            )
            with gr.Column(elem_classes="fx-panel", elem_id="make-controls"):
                tight = {"elem_classes": "fx-tight"}
                bone = gr.Radio(make.bones(), value=first.bone, label="Bone", **tight)
                pattern = gr.Radio(
                    make.patterns(first.bone), value=first.pattern, label="Pattern", **tight
                )
                segment = gr.Radio(**_segments(first), label="Part of the bone", **tight)
                knobs = {k.name: _knob(k, first, offers) for k in make.KNOBS if k.main}
                with gr.Accordion("More settings", open=False):
                    knobs |= {k.name: _knob(k, first, offers) for k in make.KNOBS if not k.main}
                other = gr.Button("Another patient", size="md")
            with gr.Column(elem_classes="fx-panel"):
                control = gr.Dropdown(
                    make.sweepable(first), value="angle", filterable=False,
                    label="Sweep one control and see how the answer follows",
                )  # fmt: skip
                go = gr.Button("Sweep it", variant="primary", size="md")
                told = gr.HTML(
                    html_template=ANNOUNCED, apply_default_css=False, elem_id="make-words"
                )
    plot = gr.HTML(js_on_load=make.PLOT_SCRIPT, apply_default_css=False, elem_id="make-plot")
    seed = gr.Number(first.seed, visible="hidden", precision=0)
    begun = gr.State(False)
    inputs = [bone, pattern, segment, seed, *knobs.values()]
    names = ["bone", "pattern", "segment", "seed", *knobs]

    def settings_of(values, **options):
        return make.wanted(dict(zip(names, values, strict=True)), **options)

    def opened(begun, *values):
        if begun:
            return [gr.skip()] * 3
        return True, *make.made(settings_of(values))

    def chosen(*values):
        """A new bone or pattern: every control offers something else."""
        settings = settings_of(values, usual=True)
        offers = make.offers(settings)
        return [
            gr.update(choices=make.patterns(settings.bone), value=settings.pattern),
            gr.update(**_segments(settings)),
            *(_knob_update(knob, settings, offers) for knob in make.KNOBS),
            gr.update(choices=make.sweepable(settings), value="angle"),
            *make.made(settings),
        ]

    def turned(*values):
        """A slider was moved: only those whose range hangs on another one change."""
        settings = settings_of(values)
        offers = make.offers(settings)
        hanging = [k for k in make.KNOBS if k.name in ("gap", "shortening")]
        return [*(_knob_update(k, settings, offers) for k in hanging), *make.made(settings)]

    def another(*values):
        settings = settings_of([*values[:3], secrets.randbelow(10**6), *values[4:]])
        return settings.seed, *make.made(settings)

    def swept(control, *values):
        yield plate.sentence("Making and reading films ..."), ""
        for done, count, plot in make.swept(settings_of(values), control):
            yield plate.sentence("" if plot else f"{done} of {count} films made and read."), plot

    shown = [view, verdict]
    live = {"show_progress_on": verdict, **PRIVATE}
    tab.select(opened, [begun, *inputs], [begun, *shown], **live)
    ordered = [knobs[knob.name] for knob in make.KNOBS]
    gr.on(
        [bone.input, pattern.input],
        chosen,
        inputs,
        [pattern, segment, *ordered, control, *shown],
        trigger_mode="always_last",
        **live,
    )
    gr.on(
        [segment.input, *(knob.input for knob in ordered)],
        turned,
        inputs,
        [knobs["gap"], knobs["shortening"], *shown],
        trigger_mode="always_last",
        **live,
    )
    other.click(another, inputs, [seed, *shown], **live)
    go.click(swept, [control, *inputs], [told, plot], show_progress="hidden", **PRIVATE)


def _segments(settings: Any) -> dict[str, Any]:
    """What the choice between shaft and end shows for these settings; hidden without a choice."""
    titles = {"shaft": "Shaft", "distal": "Lower end"}
    names = make.segments(settings)
    return {
        "choices": [(titles[name], name) for name in names],
        "value": settings.segment,
        "visible": len(names) > 1,
    }


def _knob(knob: make.Knob, settings: Any, offers: dict[str, Any]) -> gr.Slider:
    return gr.Slider(label=knob.label, step=knob.step, **_span(knob, settings, offers))


def _knob_update(knob: make.Knob, settings: Any, offers: dict[str, Any]) -> dict[str, Any]:
    return gr.update(**_span(knob, settings, offers))


def _span(knob: make.Knob, settings: Any, offers: dict[str, Any]) -> dict[str, Any]:
    """Range, value and visibility of a slider; one without a choice is not shown."""
    value = settings.angle if knob.name == "projection" else getattr(settings, knob.name)
    allowed = offers[knob.name]
    if allowed is None:
        return {"minimum": min(0, value), "maximum": max(1, value), "value": value,
                "visible": False}  # fmt: skip
    return {"minimum": allowed.low, "maximum": allowed.high, "value": value, "visible": True}


# ---------------------------------------------------------------------- Quiz
FOLLOW_SECONDS = 10  # how often a board on the projector is drawn anew


def quiz_page(klass: quizzes.Class) -> gr.Textbox:
    """Build the page "Quiz"; returns the field for the code, which a link may fill in."""
    sources = klass.sources
    with gr.Column(elem_classes="fx-panel", elem_id="quiz-start") as start:
        gr.Markdown(
            "Ten films. Mark the fracture, say what it is and how sure you are; then see the "
            "truth, and how the model did. The same code gives everybody the same films."
        )
        with gr.Row():
            code = gr.Textbox(
                label="Code (leave it empty for a new quiz)", max_length=16, elem_id="quiz-code"
            )
            name = gr.Textbox(
                label="Name for the class board (may be empty)", max_length=24, elem_id="quiz-name"
            )
        source = gr.Radio(
            list(sources), value=sources[0][1], label="Films of a new quiz",
            visible=len(sources) > 1, elem_classes="fx-tight",
        )  # fmt: skip
        with gr.Row():
            go = gr.Button("Start", variant="primary", size="lg", elem_id="quiz-go")
            fresh = gr.Button("A code for the class", size="lg")
        problem = gr.HTML(html_template=ANNOUNCED, apply_default_css=False, elem_id="quiz-problem")
    invite = gr.HTML(
        js_on_load=quizzes.INVITE_SCRIPT, apply_default_css=False, elem_id="quiz-invite"
    )
    page = gr.HTML(js_on_load=quizzes.SCRIPT, apply_default_css=False, elem_id="quiz")
    board = gr.HTML(apply_default_css=False, elem_id="quiz-board")
    with gr.Row(elem_id="quiz-tools"):
        look_again = gr.Button("Show the class board", size="md")
        follow = gr.Checkbox(False, label="Keep the board up to date (for the projector)")
    if klass.problems:
        with gr.Accordion(f"Left out of the teacher's folder: {len(klass.problems)}", open=False):
            gr.HTML("".join(plate.sentence(problem) for problem in klass.problems))
    game, session = gr.State(), gr.State([])
    clock = gr.Timer(FOLLOW_SECONDS, active=False)

    def begin(code, name, source):
        try:
            begun, first = quizzes.start(code, name, source, klass)
        except QuizError as error:
            return [gr.skip()] * 4 + [plate.sentence(str(error)), gr.skip()]
        return begun, begun.code, first, gr.update(visible=False), "", ""

    def answered(event: gr.EventData, game):
        if game is None:
            return gr.skip()
        sent = (getattr(event, key, None) for key in ("number", "label", "sureness", "place"))
        try:
            quizzes.give(game, *sent, klass)
        except QuizError as error:
            if game.next is None:
                return gr.skip()
            return quizzes.ask(game, klass, str(error))
        return quizzes.reveal(game, klass)

    def onwards(game, session):
        if game is None:
            return [gr.skip()] * 4
        if game.next is not None:
            return quizzes.ask(game, klass), gr.skip(), gr.skip(), gr.skip()
        end, session = quizzes.finish(game, klass, session)
        return end, session, quizzes.board(game.code, klass, session), None

    def invited(source):
        code = quizzes.new_code(source)
        return code, quizzes.invitation(code), ""

    def board_now(code, session):
        return quizzes.board(code, klass, session)

    playing = {"show_progress_on": page, **PRIVATE}
    gr.on(
        [go.click, code.submit, name.submit],
        begin,
        [code, name, source],
        [game, code, page, start, problem, invite],
        show_progress_on=go,
        **PRIVATE,
    )
    fresh.click(invited, source, [code, invite, problem], **PRIVATE)
    page.submit(answered, game, page, **playing)
    page.select(onwards, [game, session], [page, session, board, game], **playing)
    page.clear(lambda: ("", "", gr.update(visible=True)), None, [page, code, start], **PRIVATE)
    for event in (look_again.click, clock.tick):
        event(board_now, [code, session], board, show_progress="hidden", **PRIVATE)
    follow.input(lambda on: gr.update(active=on), follow, clock, **PRIVATE)
    _quiz_endpoints(klass)
    return code


def _quiz_endpoints(klass: quizzes.Class) -> None:
    """Register the quiz for gradio_client: start, answer, board. A game belongs to its client."""
    game = gr.State()

    def quiz_start(code: str, name: str):
        """Begin a quiz: its films are answered one after the other with `/quiz_answer`."""
        try:
            begun, _ = quizzes.start(code, name, "simulated", klass)
        except QuizError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return quizzes.state_json(begun, klass), begun

    def quiz_answer(number: float, label: str, sureness: float, place: list, game):
        """Answer the film that is next: its truth, the score, and the next film."""
        if game is None:
            raise gr.Error("Begin with /quiz_start.", print_exception=False)
        try:
            mark = quizzes.give(game, number, label, sureness, place, klass)
        except QuizError as error:
            raise gr.Error(str(error), print_exception=False) from None
        if game.next is None:
            quizzes.finish(game, klass, [])
        return quizzes.mark_json(mark) | quizzes.state_json(game, klass)

    def quiz_board(code: str) -> str:
        """The class board of a quiz (of all, without a code), where the teacher keeps results."""
        try:
            return quizzes.board_text(code, klass)
        except QuizError as error:
            raise gr.Error(str(error), print_exception=False) from None

    with gr.Group(visible=False):
        code, name = gr.Textbox(label="Code of a quiz, or empty"), gr.Textbox(label="Name")
        number = gr.Number(label="Number of the film, from 1", precision=0)
        label = gr.Dropdown(["Simple", "Comminuted"], label="Which it is")
        sureness = gr.Slider(50, 100, 75, label="How sure, per cent")
        place = gr.JSON(label="[x, y] or [left, top, width, height], fractions of the film")
        state = gr.JSON(label="The game: code, next film, summary so far")
        marked = gr.JSON(label="The film's truth, your score, the model's answer and score")
        standings = gr.Textbox(label="Class board as CSV")
        gr.Button().click(quiz_start, [code, name], [state, game], api_name="quiz_start", **QUEUED)
        gr.Button().click(
            quiz_answer, [number, label, sureness, place, game], marked,
            api_name="quiz_answer", **QUEUED,
        )  # fmt: skip
        gr.Button().click(quiz_board, code, standings, api_name="quiz_board", **QUEUED)


def from_link(request: gr.Request) -> tuple[Any, Any]:
    """Open the quiz whose code the page's address names (`?quiz=SKX-47D`)."""
    code = request.query_params.get("quiz", "")
    if not code:
        return gr.skip(), gr.skip()
    return gr.update(selected="quiz"), code[:16]


# ---------------------------------------------------------------------- Stress test
def stress_page(tab: gr.Tab, drop: gr.HTML, row: gr.Number) -> None:
    """Build the page "Stress test" inside its tab; drop, row: the first page's films."""
    with gr.Row(elem_id="stress", equal_height=False):
        with gr.Column(scale=7, min_width=320):
            view = gr.HTML(
                js_on_load=stresses.SCRIPT, apply_default_css=False, elem_id="stress-view"
            )
        with gr.Column(scale=5, min_width=320):
            verdict = gr.HTML(
                html_template=ANNOUNCED, apply_default_css=False, elem_id="stress-verdict"
            )
            with gr.Column(elem_classes="fx-panel", elem_id="stress-controls"):
                sliders = [
                    gr.Slider(s.range.low, s.range.high, s.range.usual, step=s.step, label=s.label)
                    for s in stresses.SLIDERS
                ]
                undo = gr.Button("Undo all", size="md")
                mind = gr.Button("What would change its mind?", variant="primary", size="md")
                words = gr.HTML(
                    html_template=ANNOUNCED, apply_default_css=False, elem_id="stress-words"
                )
    hidden = gr.State()
    uploads = drop.GRADIO_CACHE
    names = [slider.name for slider in stresses.SLIDERS]

    def asked(sent, row, hidden, values):
        films = drop_zone.received(sent, uploads)
        upload = films[_within(row, films)] if films else None
        return upload, stresses.strain_of(dict(zip(names, values, strict=True)), hidden)

    def strained(sent, row, hidden, *values):
        return *stresses.shown(*asked(sent, row, hidden, values)), ""

    def drawn(event: gr.EventData, sent, row, *values):
        place = getattr(event, "place", None)
        return place, *strained(sent, row, place, *values)

    def undone(sent, row):
        usual = [slider.range.usual for slider in stresses.SLIDERS]
        return None, *usual, *strained(sent, row, None, *usual)

    def minded(sent, row, hidden, *values):
        yield from stresses.mind_changing(*asked(sent, row, hidden, values))

    shown = [view, verdict, words]
    calm = {"show_progress": "hidden", **PRIVATE}
    minding = mind.click(minded, [drop, row, hidden, *sliders], [view, words], **calm)
    live = {"cancels": [minding], **calm}  # its map would paint over the newer film
    tab.select(
        strained,
        [drop, row, hidden, *sliders],
        shown,
        show_progress_on=verdict,
        cancels=[minding],
        **PRIVATE,
    )
    gr.on(
        [slider.input for slider in sliders],
        strained,
        [drop, row, hidden, *sliders],
        shown,
        trigger_mode="always_last",
        **live,
    )
    view.select(drawn, [drop, row, *sliders], [hidden, *shown], trigger_mode="always_last", **live)
    undo.click(undone, [drop, row], [hidden, *sliders, *shown], **live)


# ---------------------------------------------------------------------- How good is it? Learn
def evidence_page(tab: gr.Tab) -> None:
    """Build the page "How good is it?" inside its tab; it is read when the tab is opened."""
    page = gr.HTML(js_on_load=evidence.SCRIPT, apply_default_css=False, elem_id="evidence")
    with gr.Accordion("The model card", open=False, visible=False) as frame:
        card = gr.Markdown(elem_id="model-card")

    def opened():
        text = evidence.model_card()
        return evidence.page(), gr.update(visible=bool(text)), text

    tab.select(opened, None, [page, frame, card], **PRIVATE)


def learn_page() -> None:
    """Build the page "Learn": the atlas."""
    gr.HTML(learn.page(), js_on_load=learn.SCRIPT, apply_default_css=False, elem_id="learn")


# ---------------------------------------------------------------------- the whole app
HEADER = f"""
<header class="fx-header">
  <div class="fx-brand">
    <svg viewBox="0 0 32 32" aria-hidden="true"><rect x="1" y="1" width="30" height="30" rx="7"/>
      <path d="M7 11.5h8l-2 4.5 3 2-2 3H7zM25 11.5h-7.5l-2 4.5 3 2-2 3H25z"/></svg>
    <div><h1>Fracture</h1><p>Simple or comminuted? See what the model saw.</p></div>
  </div>
  <p class="fx-notice" role="note">{html.NOTICE}</p>
  <button type="button" class="fx-theme" aria-label="Switch between light and dark">
    <svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="7"/>
      <path d="M10 3a7 7 0 0 1 0 14z"/></svg></button>
</header>
"""
SWITCH_THEME = """
element.querySelector(".fx-theme").addEventListener("click", () => {
  document.body.classList.toggle("dark");
});
"""


def examples() -> list[Path]:
    """Return the example films; none is fine."""
    return sorted(p for p in EXAMPLES.glob("*") if p.suffix in {".png", ".jpg", ".webp"})


def remember_less() -> None:
    """Keep Gradio from remembering what everybody saw last.

    For links to a page's state (`/deep_link`, closed here) it copies the settings of every block
    for each visitor and each call of the endpoint, and keeps their last values: film and map.
    """
    begin = SessionState.__init__

    def begin_empty(self: SessionState, blocks: gr.Blocks) -> None:
        begin(self, SimpleNamespace(default_config=blocks.default_config, blocks=()))

    SessionState.__init__ = begin_empty
    SessionState._update_value_in_config = lambda self, key, value: None


def _keep_swept(blocks: gr.Blocks) -> None:
    """Sweep for ever, in a thread of its own, and let Gradio forget the names of what is gone."""
    while True:
        time.sleep(SWEEP_SECONDS)
        server.sweep(Path(UPLOADS), KEEP_SECONDS)
        stresses.forget_gone()
        for names in blocks.temp_file_sets:
            names -= {name for name in list(names) if not os.path.exists(name)}


def build() -> gr.Blocks:
    """Build the app; `launch()` on the result applies this file's look, limits and routes."""
    with gr.Blocks(
        title="Fracture: simple or comminuted?",
        analytics_enabled=False,
        fill_width=True,
    ) as blocks:
        gr.HTML(HEADER, js_on_load=SWITCH_THEME, apply_default_css=False, elem_id="header")
        with gr.Tabs(elem_id="pages") as tabs:
            with gr.Tab("Read an X-ray", id="read"):
                drop, row = read_page(examples())
            with gr.Tab("Make a fracture", id="make") as tab:
                make_page(tab)
            with gr.Tab("Quiz", id="quiz"):
                code = quiz_page(quizzes.class_from(FILMS, RESULTS))
            with gr.Tab("Stress test", id="stress") as tab:
                stress_page(tab, drop, row)
            with gr.Tab("How good is it?", id="evidence") as tab:
                evidence_page(tab)
            with gr.Tab("Learn", id="learn"):
                learn_page()
        blocks.load(from_link, None, [tabs, code], queue=False, api_visibility="private")
    blocks.queue(max_size=QUEUE_LENGTH)
    # Gradio's 2,000 answers that nobody fetched would take a gigabyte.
    blocks._queue.pending_messages_per_session.max_size = WAITING
    threading.Thread(target=_keep_swept, args=(blocks,), name="sweep", daemon=True).start()

    routes = [Route("/health", server.health), Route("/atlas/{name}.webp", learn.picture)]
    if evidence.FIGURES_FOLDER.is_dir():
        routes.append(Mount("/figures", StaticFiles(directory=evidence.FIGURES_FOLDER)))
    if EXAMPLES.is_dir():
        routes.append(Mount("/examples", StaticFiles(directory=EXAMPLES)))
    # Whoever launches the app (this file, a Space, a test) gets the same settings.
    blocks.launch = functools.partial(
        blocks.launch,
        theme=theme,
        css_paths=[WEB / "style.css", WEB / "classroom.css"],
        max_file_size=f"{drop_zone.MAX_MEGABYTES}mb",
        footer_links=["api"],
        state_session_capacity=SESSIONS,
        run_history=False,  # keeps films in the browser's storage otherwise
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        app_kwargs={
            "routes": routes,
            "middleware": [
                Middleware(server.LoadLater),
                Middleware(memory.GiveBack),
                Middleware(server.Guard),
            ],
            "docs_url": None,
            "redoc_url": None,
        },
    )
    return blocks


memory.few_heaps()  # before the server starts its threads
remember_less()
demo = build()
memory.settle()

if __name__ == "__main__":
    # A host stops the app this way; leave through the front door, so that uploads are deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    demo.launch()
