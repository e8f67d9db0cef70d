"""Where films come in: drop, choose, paste, webcam or an example.

Gradio's own Image takes no DICOM and its File no webcam, so this is one part that takes all of it.
The browser half is `drop.js`; uploads go through Gradio's own route, with its size limit, and only
what was uploaded to this server is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fracture.web.reading import Upload

SCRIPT = (Path(__file__).parent / "drop.js").read_text(encoding="utf-8")
MAX_MEGABYTES = 25
MAX_FILMS = 100
FORMATS = "PNG, JPEG, WebP, TIFF, BMP, HEIC or DICOM"

MARKUP = f"""
<section class="fx-drop" data-megabytes="{MAX_MEGABYTES}" data-films="{MAX_FILMS}"
         aria-label="Choose a film">
  <div class="fx-zone">
    <svg class="fx-zone-art" viewBox="0 0 120 96" aria-hidden="true">
      <rect x="22" y="6" width="76" height="84" rx="5"/>
      <path d="M50 14c-5 0-7 6-3 9l5 5-1 16 6-4 4 7 6-6 2-14 5-5c4-3 2-9-3-9-3 0-4 2-5 4
        h-11c-1-2-2-3-5-3z"/>
      <path d="M51 50l6-3 4 7 7-5 1 14 6 7c3 4 0 9-5 9-3 0-4-2-5-4h-9c-1 2-3 4-6 4-5 0-7-6-3-9
        l5-6z"/>
    </svg>
    <p class="fx-zone-title">Drop an X-ray here</p>
    <p class="fx-zone-more">{FORMATS}, up to {MAX_MEGABYTES}&nbsp;MB.
      Several at once make a table.</p>
    <div class="fx-ways">
      <label class="fx-way fx-way-main"><input type="file" multiple class="fx-hidden">
        <span>Choose files</span></label>
      <button type="button" class="fx-way" data-do="paste">Paste</button>
      <button type="button" class="fx-way" data-do="camera">Webcam</button>
    </div>
    <p class="fx-say" role="status" aria-live="polite"></p>
    <div class="fx-camera" hidden>
      <video playsinline muted aria-label="What the webcam sees"></video>
      <div class="fx-ways">
        <button type="button" class="fx-way fx-way-main" data-do="snap">Take the picture</button>
        <button type="button" class="fx-way" data-do="stop">Close the webcam</button>
      </div>
    </div>
  </div>
</section>"""

# Tells the drop zone that the reading has come, or failed.
DONE = '() => { document.dispatchEvent(new Event("fracture-done")); }'

# The drop zone listens for this event; an example goes the same way as a file of one's own.
TRY_EXAMPLE = """
element.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-example]");
  if (!button) return;
  const address = button.dataset.example;
  const picture = await (await fetch(address)).blob();
  const name = decodeURIComponent(address.split("/").pop());
  const files = [new File([picture], name)];
  document.dispatchEvent(new CustomEvent("fracture-films", { detail: files }));
});
"""


def example_strip(examples: Sequence[Path]) -> str:
    """Return the row of pictures to try, which the app serves under `examples/`, as HTML."""
    buttons = "".join(
        f'<button type="button" class="fx-example" data-example="examples/{quote(path.name)}">'
        f'<img src="examples/{quote(path.name)}" loading="lazy" alt="">'
        f"<span>{escape(path.stem.replace('-', ', ', 1).capitalize())}</span></button>"
        for path in examples
    )
    return (
        '<section aria-label="Simulated films"><p class="fx-kicker">Or try a simulated film</p>'
        f'<div class="fx-strip">{buttons}</div></section>'
    )


def received(value: Any, uploads: str) -> list[Upload]:
    """Return the films in the drop zone's `value`, which a browser sent and may have made up.

    Only files inside the upload folder `uploads` count: whoever asks for another path gets nothing.
    """
    folder = Path(uploads).resolve()
    films = []
    for item in (value if isinstance(value, list) else [])[:MAX_FILMS]:
        path = item.get("path") if isinstance(item, dict) else None
        if isinstance(path, str) and Path(path).resolve().is_relative_to(folder):
            name = item.get("orig_name")
            name = name if isinstance(name, str) and name else Path(path).name
            films.append(Upload(path, name))
    return films
