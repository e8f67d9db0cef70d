// Browser half of the quiz: collects an answer and sends it once.
const form = () => element.querySelector("form.fx-answer");
const tell = (text) => { form().querySelector(".fx-status").textContent = text; };

element.addEventListener("fracture-mark", () => {
  const words = !mark ? "Nothing is marked yet."
    : mark.length === 2 ? "A place is marked." : "A box is drawn.";
  if (form()) {
    form().querySelector(".fx-marked").textContent = words;
    tell("");
  }
});

element.addEventListener("input", (event) => {
  if (event.target.matches("[name=sureness]")) {
    form().querySelector(".fx-sure output").textContent = `${event.target.value} %`;
  }
  if (event.target.matches("[data-do=bright]")) {
    element.querySelector(".fx-film").style.filter = `brightness(${event.target.value}%)`;
  }
});

element.addEventListener("submit", (event) => {
  event.preventDefault();
  const label = form().querySelector("[name=label]:checked");
  if (!mark) {
    tell("Mark the fracture first: tap or click it on the film, or draw a box around it.");
    film().focus();
    return;
  }
  if (!label) {
    tell("Say which it is: simple or comminuted.");
    form().querySelector("[name=label]").focus();
    return;
  }
  form().querySelector(".fx-go").disabled = true;
  trigger("submit", {
    number: Number(element.querySelector(".fx-quiz").dataset.number),
    label: label.value,
    sureness: Number(form().querySelector("[name=sureness]").value),
    place: mark,
  });
});

element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do=next], [data-do=again]");
  if (!button || button.disabled) return;
  button.disabled = true;
  trigger(button.dataset.do === "next" ? "select" : "clear", {});
});

watch("value", () => {
  freshFilm();
  const head = element.querySelector(".fx-head");
  if (!head) return;
  head.focus({ preventScroll: true });
  element.querySelector(".fx-quiz").scrollIntoView({ block: "start" });
});
