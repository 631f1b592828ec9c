// The picture to start from: from a file, dropped, pasted, or out of the gallery.

const LONGEST = 2048;
const TAKEN_TYPES = ["image/png", "image/jpeg", "image/webp"];

/** A picture as it is sent; one that is large, or of a kind that the server may not know, is drawn anew as PNG. */
async function readPicture(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new Error("This file is no picture that the browser can read.");
  }
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  if (scale < 1 || !TAKEN_TYPES.includes(blob.type)) {
    const canvas = make("canvas", { width, height });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
    blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }
  bitmap.close();
  return { blob, width, height };
}

const start = {
  blob: null,
  width: 0,
  height: 0,
  reading: null, // a promise, while a chosen picture is not there yet
  _giveUp: null, // of the last choice, ends its wait: a large picture may be read later than what was chosen after it
  _address: "",

  /** Take a picture, which may be on its way. False where another one was chosen meanwhile, or none. */
  async take(blob) {
    this._giveUp?.();
    let giveUp;
    const givenUp = new Promise((resolve) => { giveUp = this._giveUp = resolve; });
    let read;
    try {
      read = await Promise.race([Promise.resolve(blob).then(readPicture), givenUp]);
    } catch (error) {
      if (giveUp === this._giveUp) throw error;
    }
    if (giveUp !== this._giveUp) return false;
    Object.assign(this, read);
    URL.revokeObjectURL(this._address);
    this._address = URL.createObjectURL(this.blob);
    $("init").src = this._address;
    $("start").open = true;
    show($("drop"), false);
    show($("starting"));
    mask.begin(this.width, this.height);
    showDefaults();
    announce(`The picture to start from is ${this.width} by ${this.height} pixels.`);
    return true;
  },

  /** The size that the server draws at where none is named: that of the picture, with at most the model's pixels. */
  sizeFor({ width = 512, height = 512 }) {
    const shrink = Math.min(1, Math.sqrt((width * height) / (this.width * this.height)));
    const rounded = (pixels) => Math.min(4096, Math.max(64, Math.floor(Math.floor(pixels * shrink) / 8) * 8));
    return `${rounded(this.width)} × ${rounded(this.height)}`;
  },

  remove() {
    this._giveUp?.();
    this._giveUp = null;
    this.reading = null;
    URL.revokeObjectURL(this._address);
    $("init").removeAttribute("src");
    this.blob = null;
    show($("drop"));
    show($("starting"), false);
    showDefaults();
  },
};

function firstPicture(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? null;
}

/** Take a picture, and say what is wrong with it. Returns whether it is taken. */
async function takeStart(blob) {
  const reading = start.reading = start.take(blob);
  try {
    if (!(await reading)) return false;
    clearFailure("start-failure");
    withStart();
    return true;
  } catch (error) {
    $("start").open = true;
    tellFailure(error, { place: "start-failure" });
    return false;
  } finally {
    if (start.reading === reading) start.reading = null;
  }
}

/** Wait for the picture that was chosen. False where it could not be read, which is said at its place. */
async function startIsRead() {
  while (start.reading) {
    try {
      await start.reading;
    } catch {
      if (!start.reading) return false;
    }
  }
  return true;
}

$("choose").onclick = () => $("file").click();
$("file").onchange = () => {
  const [file] = $("file").files;
  if (file) takeStart(file);
  $("file").value = "";
};
$("remove-init").onclick = () => {
  start.remove();
  $("choose").focus();
};

// Anywhere on the page: a picture that misses a small field would replace the page.
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  $("start").open = true;
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) $("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  $("drop").classList.remove("over");
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  const file = firstPicture(event.dataTransfer);
  if (file) takeStart(file);
  else tellFailure(new Error("What was dropped is no picture."), { place: "start-failure" });
});
document.addEventListener("paste", (event) => {
  const file = firstPicture(event.clipboardData);
  if (!file || document.querySelector("dialog[open]")) return;
  // Programs of offices give a picture of their text along with it.
  const editable = event.target.closest?.("input, textarea, [contenteditable]");
  if (editable && event.clipboardData.types.includes("text/plain")) return;
  event.preventDefault();
  takeStart(file);
});
