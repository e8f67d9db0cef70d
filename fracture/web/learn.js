// Shows or hides a layer on every film of the atlas.
element.addEventListener("change", (event) => {
  if (!event.target.matches("[data-do=maps], [data-do=outlines]")) return;
  const name = event.target.dataset.do === "maps" ? "fx-with-maps" : "fx-with-outlines";
  element.querySelector(".fx-learn").classList.toggle(name, event.target.checked);
});
