// Keeps what somebody opened open when the next film comes: the true outline and the answer key.
let outlined = false;
let keyed = false;

element.addEventListener("change", (event) => {
  if (event.target.matches("[data-do=truth]")) outlined = event.target.checked;
});
element.addEventListener("toggle", (event) => {
  if (event.target.matches("[data-do=key]") && event.target.isConnected) keyed = event.target.open;
}, true);
watch("value", () => {
  const box = element.querySelector("[data-do=truth]");
  const key = element.querySelector("[data-do=key]");
  if (box) box.checked = outlined;
  if (key) key.open = keyed;
});
