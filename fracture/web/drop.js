// Browser half of the drop zone. Gradio calls it once with: element, trigger, props, upload.
const root = element.querySelector(".fx-drop");
const input = root.querySelector("input[type=file]");
const camera = root.querySelector(".fx-camera");
const video = root.querySelector("video");
const megabytes = Number(root.dataset.megabytes);
const most = Number(root.dataset.films);
let turn = 0; // only the latest drop may answer
let rest = ""; // what is to be said once the reading is there

const say = (text) => { root.querySelector(".fx-say").textContent = text; };
const onPage = () => root.offsetParent !== null; // another tab may be open
const reason = (error) => String((error && error.message) || error || "unknown reason");

async function take(files) {
  const list = Array.from(files || []);
  if (!list.length) {
    say("Nothing that can be read was dropped. Drop a picture or a DICOM file, or choose one.");
    return;
  }
  const mine = ++turn;
  const left = list.slice(most).map(() => `only ${most} films at a time are taken`);
  const sent = [];
  root.classList.add("fx-busy");
  for (const [index, file] of list.slice(0, most).entries()) {
    say(list.length > 1 ? `Sending film ${index + 1} of ${list.length}` : "Sending the film");
    if (file.size > megabytes * 1e6) {
      left.push(`${file.name} is larger than ${megabytes} MB`);
      continue;
    }
    if (file.size === 0) {
      left.push(`${file.name} is empty`);
      continue;
    }
    try {
      const { path, url } = await upload(file);
      sent.push({ path, url, orig_name: file.name, size: file.size,
                  meta: { _type: "gradio.FileData" } });
    } catch (error) {
      left.push(`${file.name} did not arrive (${reason(error)})`);
    }
    if (mine !== turn) return;
  }
  input.value = "";
  rest = left.length ? `Left out: ${[...new Set(left)].join("; ")}.` : "";
  if (!sent.length) {
    done();
    return;
  }
  say(sent.length > 1 ? `Reading ${sent.length} films` : "Reading the film");
  props.value = sent;
  trigger("upload");
}

// The page tells when the reading has come, or failed.
function done() {
  root.classList.remove("fx-busy");
  say(rest);
}
document.addEventListener("fracture-done", done);

input.addEventListener("change", () => { if (input.files.length) take(input.files); });

// The whole page takes a drop, so that nobody has to aim.
let depth = 0;
const lit = (on) => document.body.classList.toggle("fx-over", on);
const guarded = (handler) => (event) => { if (onPage()) handler(event); };
document.addEventListener("dragenter", guarded((event) => {
  event.preventDefault();
  depth += 1;
  lit(true);
}));
document.addEventListener("dragleave", guarded(() => {
  depth = Math.max(0, depth - 1);
  if (!depth) lit(false);
}));
document.addEventListener("dragover", guarded((event) => event.preventDefault()));
document.addEventListener("drop", guarded((event) => {
  event.preventDefault();
  depth = 0;
  lit(false);
  take(event.dataTransfer && event.dataTransfer.files);
}));

document.addEventListener("paste", guarded((event) => {
  if (event.target.closest("input, textarea")) return;
  const files = event.clipboardData && event.clipboardData.files;
  if (files && files.length) take(files);
  else say("The clipboard holds no picture.");
}));

async function paste() {
  if (!(navigator.clipboard && navigator.clipboard.read)) {
    say("Press Ctrl+V (or Cmd+V): this browser lets a page paste only that way.");
    return;
  }
  try {
    for (const item of await navigator.clipboard.read()) {
      const kind = item.types.find((type) => type.startsWith("image/"));
      if (!kind) continue;
      const blob = await item.getType(kind);
      take([new File([blob], `pasted.${kind.split("/")[1]}`, { type: kind })]);
      return;
    }
    say("The clipboard holds no picture.");
  } catch {
    say("The browser did not allow reading the clipboard. Press Ctrl+V (or Cmd+V) instead.");
  }
}

function stop() {
  for (const track of (video.srcObject ? video.srcObject.getTracks() : [])) track.stop();
  video.srcObject = null;
  camera.hidden = true;
}

async function open() {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1920 } },
    });
    camera.hidden = false;
    await video.play();
  } catch {
    stop();
    say("No webcam can be used here. Browsers offer it only on this machine or over https.");
  }
}

function snap() {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  stop();
  canvas.toBlob((blob) => take([new File([blob], "webcam.jpg", { type: "image/jpeg" })]),
                "image/jpeg", 0.95);
}

root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) ({ paste, camera: open, snap, stop })[button.dataset.do]();
});

// Other parts of the page hand over films this way.
document.addEventListener("fracture-films", (event) => take(event.detail));
