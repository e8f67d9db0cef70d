// Browser half of the film viewer: fades the heatmap and goes full screen, all without the server.
let heat = null; // per cent that somebody chose; outlives the picture it was chosen on

function fade() {
  const slider = element.querySelector(".fx-opacity input");
  if (!slider) return;
  if (heat !== null) slider.value = heat;
  element.style.setProperty("--heat", slider.value / 100);
  element.querySelector(".fx-opacity output").textContent = `${slider.value} %`;
}

element.addEventListener("input", (event) => {
  if (!event.target.matches(".fx-opacity input")) return;
  heat = event.target.value;
  fade();
});
watch("value", () => {
  fade();
  if (document.fullscreenEnabled) return; // an iPhone lets no picture fill the screen
  element.querySelectorAll("[data-do=full]").forEach((button) => button.remove());
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
