"""Take it away: a reading as a page, sent to the browser as a download and kept nowhere."""

from __future__ import annotations

import base64
from functools import cache

from fracture.web import models, pictures
from fracture.web.reading import Request, Upload, look

KINDS = {"pdf": "application/pdf", "png": "image/png"}

# The value is "name|address" of a download; the browser saves it as a file.
SCRIPT = """
watch("value", () => {
  const [name, address] = String(props.value || "").split("|");
  if (!address) return;
  const [head, body] = address.split(",");
  const bytes = Uint8Array.from(atob(body), (sign) => sign.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: head.slice(5, head.indexOf(";")) }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  props.value = "";
});
"""


def download(upload: Upload, request: Request, kind: str) -> tuple[str, str]:
    """The page of a reading for `SCRIPT`, and a sentence for the person; kind: a key of `KINDS`.

    The first is empty where there is nothing to take away.
    """
    from fracture import report
    from fracture.classifier import Prediction

    answer = look(upload, request)
    reading = answer.reading
    if answer.film is None or not reading.film:
        return "", f"There is nothing to take away: {' '.join(reading.reasons)}"
    page = report.Page(
        pictures.shrink(answer.film.display, report.LONGEST),
        None if answer.heatmap is None else pictures.shrink(answer.heatmap, report.LONGEST),
        Prediction(reading.status, reading.label, reading.probabilities, reading.reasons),
        "" if reading.doubt else reading.target,
        reading.method,
        reading.model,
        _version(request.model),
        pictures.OPACITY,
        pictures.COLORMAP,
    )
    data = report.as_pdf(page) if kind == "pdf" else report.as_png(page)
    address = f"data:{KINDS[kind]};base64,{base64.b64encode(data).decode('ascii')}"
    return f"fracture-reading.{kind}|{address}", "The page is in your downloads."


@cache
def _version(model: str) -> str:
    from fracture import classifier, report

    loaded = models.classifier(model)
    return report.version_of(loaded.metadata, classifier.MODELS / f"{loaded.name}.safetensors")
