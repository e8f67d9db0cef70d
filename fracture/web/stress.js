// Browser half of the stress test: a box drawn on the film is hidden; a click or Escape shows it.
let sent = "null";
element.addEventListener("fracture-mark", () => {
  if (drawing) return;
  if (mark && mark.length !== 4) {
    setMark(null);
    return;
  }
  const now = JSON.stringify(mark);
  if (now === sent) return;
  sent = now;
  trigger("select", { place: mark });
});
element.addEventListener("pointerup", () => { // the drag has ended: now it counts
  if (film()) element.dispatchEvent(new CustomEvent("fracture-mark"));
});
watch("value", freshFilm);
