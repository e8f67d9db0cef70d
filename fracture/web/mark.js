// Marks a place on a film: a click or tap sets a point, a drag draws a box; arrow keys and Enter do
// the same. `mark` is null, [x, y] or [left, top, width, height], in fractions of the film.
// Whoever includes this listens for the event "fracture-mark" on `element`.
let mark = null;
let drawing = null; // where a drag began
let cross = [0.5, 0.5];
let corner = null; // where a box drawn by keys began
let boxing = false; // a finger draws boxes only when asked to: else it scrolls

const film = () => element.querySelector("[data-do=mark]");
const clamp = (value) => Math.min(Math.max(value, 0), 1);
const span = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]),
                        Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1])];

function setMark(place) {
  mark = place;
  const stack = film();
  if (!stack) return;
  stack.querySelectorAll(".fx-mark-yours").forEach((old) => old.remove());
  if (mark) {
    const sign = document.createElement("span");
    sign.className = `fx-mark-yours ${mark.length === 4 ? "fx-frame" : "fx-ring"}`;
    ["left", "top", "width", "height"].slice(0, mark.length).forEach((side, n) => {
      sign.style[side] = `${100 * mark[n]}%`;
    });
    stack.append(sign);
  }
  element.dispatchEvent(new CustomEvent("fracture-mark", { detail: mark }));
}

function placeOf(event) {
  const box = film().getBoundingClientRect();
  return [clamp((event.clientX - box.left) / box.width),
          clamp((event.clientY - box.top) / box.height)];
}

element.addEventListener("pointerdown", (event) => {
  const stack = film();
  if (!stack || !stack.contains(event.target) || event.button > 0) return;
  drawing = { from: placeOf(event), free: event.pointerType !== "touch" || boxing };
  if (drawing.free) {
    stack.setPointerCapture(event.pointerId);
    event.preventDefault();
    stack.focus({ preventScroll: true });
  }
});
element.addEventListener("pointermove", (event) => {
  if (!drawing || !drawing.free || !film()) return;
  const box = span(drawing.from, placeOf(event));
  if (Math.max(box[2], box[3]) > 0.02) setMark(box);
});
element.addEventListener("pointerup", (event) => {
  if (!drawing || !film()) return;
  const box = span(drawing.from, placeOf(event));
  // a hand that trembles while clicking draws no box, and a line is none
  if (!drawing.free || Math.max(box[2], box[3]) <= 0.02) setMark(placeOf(event));
  else setMark([box[0], box[1], Math.max(box[2], 0.01), Math.max(box[3], 0.01)]);
  drawing = null;
});
element.addEventListener("pointercancel", () => { drawing = null; }); // the finger scrolled

element.addEventListener("keydown", (event) => {
  if (event.target !== film()) return;
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const step = steps[event.key];
  if (step) {
    if (event.shiftKey && !corner) corner = cross;
    if (!event.shiftKey) corner = null;
    cross = [clamp(cross[0] + step[0] * 0.02), clamp(cross[1] + step[1] * 0.02)];
    const sign = film().querySelector(".fx-cross");
    sign.style.left = `${100 * cross[0]}%`;
    sign.style.top = `${100 * cross[1]}%`;
    sign.classList.add("fx-shown");
    const box = corner && span(corner, cross);
    if (box && box[2] && box[3]) setMark(box);
  } else if (event.key === "Enter" || event.key === " ") {
    setMark([...cross]);
  } else if (event.key === "Escape" || event.key === "Delete") {
    setMark(null);
  } else {
    return;
  }
  event.preventDefault();
});

element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do=box], [data-do=clear]");
  if (!button) return;
  if (button.dataset.do === "clear") {
    setMark(null);
    return;
  }
  boxing = !boxing;
  button.setAttribute("aria-pressed", String(boxing));
  film().classList.toggle("fx-boxing", boxing);
});

function freshFilm() {
  mark = drawing = corner = null;
  cross = [0.5, 0.5];
  const button = element.querySelector("[data-do=box]");
  if (button) button.setAttribute("aria-pressed", String(boxing));
  if (film()) film().classList.toggle("fx-boxing", boxing);
}
