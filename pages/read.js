// Browser half of the film viewer: fades the heatmap and goes full screen, all without the server.
element.addEventListener("input", (event) => {
  if (!event.target.matches(".fx-opacity input")) return;
  element.style.setProperty("--heat", event.target.value / 100);
  element.querySelector(".fx-opacity output").textContent = `${event.target.value} %`;
});

element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do=full]");
  if (!button) return;
  if (document.fullscreenElement) document.exitFullscreen();
  else button.closest(".fx-view").requestFullscreen();
});

document.addEventListener("fullscreenchange", () => {
  const button = element.querySelector("[data-do=full]");
  if (button) button.textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
});
