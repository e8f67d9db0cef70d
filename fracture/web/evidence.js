// The lesson as a figure to play with: one way of measuring after the other, by any measure.
const lesson = () => element.querySelector(".fx-lesson");
const rows = () => [...lesson().querySelectorAll(".fx-way-row")];
const chosen = () => lesson().querySelector("[name=lesson]:checked").value;
const percent = (value) => `${(100 * value).toFixed(value > 0.99 && value < 1 ? 1 : 0)} %`;

function paint() {
  for (const row of rows()) {
    const value = row.getAttribute(`data-${chosen()}`);
    row.querySelector(".fx-track span").style.width = row.hidden || !value ? "0" : `${100 * value}%`;
    row.querySelector(".fx-way-value").textContent = value ? percent(Number(value)) : "not measured";
  }
}

function next() {
  const waiting = rows().filter((row) => row.hidden);
  if (!waiting.length) {
    rows().forEach((row) => { row.hidden = true; });
    paint();
    lesson().querySelector("[data-do=step]").textContent = "Measure it the first way";
    lesson().querySelector(".fx-status").textContent = "";
    return;
  }
  waiting[0].hidden = false;
  requestAnimationFrame(() => requestAnimationFrame(paint)); // so that the bar is seen to grow
  const value = waiting[0].getAttribute(`data-${chosen()}`);
  const guess = Number(lesson().querySelector(".fx-guess input").value) / 100;
  let words = value ? `${percent(Number(value))} this way.` : "Not measured this way.";
  if (value && waiting[0].hasAttribute("data-guess")) words += ` Your guess was ${percent(guess)}.`;
  lesson().querySelector(".fx-status").textContent = words;
  lesson().querySelector("[data-do=step]").textContent =
    waiting.length > 1 ? "Measure it the next way" : "Start again";
}

element.addEventListener("click", (event) => {
  if (event.target.closest("[data-do=step]")) next();
});
element.addEventListener("input", (event) => {
  if (event.target.matches(".fx-guess input")) {
    lesson().querySelector(".fx-guess output").textContent = `${event.target.value} %`;
  }
  if (event.target.matches("[name=lesson]")) {
    paint();
    lesson().querySelector(".fx-status").textContent = "";
  }
});
