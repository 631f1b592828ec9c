// The picture to start from: from a file, dropped, pasted, or out of the gallery.

const LONGEST = 2048;
const TAKEN_TYPES = ["image/png", "image/jpeg", "image/webp"];

const start = {
  blob: null,
  width: 0,
  height: 0,
  _address: "",

  /** Take a picture; one that is large, or of a kind that the server may not know, is drawn anew as PNG. */
  async take(blob) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob);
    } catch {
      throw new Error("This file is no picture that the browser can read.");
    }
    const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
    this.width = Math.max(1, Math.round(bitmap.width * scale));
    this.height = Math.max(1, Math.round(bitmap.height * scale));
    this.blob = blob;
    if (scale < 1 || !TAKEN_TYPES.includes(blob.type)) {
      const canvas = make("canvas", { width: this.width, height: this.height });
      canvas.getContext("2d").drawImage(bitmap, 0, 0, this.width, this.height);
      this.blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    }
    bitmap.close();
    URL.revokeObjectURL(this._address);
    this._address = URL.createObjectURL(this.blob);
    $("init").src = this._address;
    $("start").open = true;
    show($("drop"), false);
    show($("starting"));
    mask.begin(this.width, this.height);
    showDefaults();
    announce(`The picture to start from is ${this.width} by ${this.height} pixels.`);
  },

  /** The size that the server draws at where none is named: that of the picture, with at most the model's pixels. */
  sizeFor({ width = 512, height = 512 }) {
    const shrink = Math.min(1, Math.sqrt((width * height) / (this.width * this.height)));
    const rounded = (pixels) => Math.min(4096, Math.max(64, Math.floor(Math.floor(pixels * shrink) / 8) * 8));
    return `${rounded(this.width)} × ${rounded(this.height)}`;
  },

  remove() {
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

async function takeStart(blob) {
  try {
    await start.take(blob);
    clearFailure("start-failure");
    withStart();
  } catch (error) {
    $("start").open = true;
    tellFailure(error, { place: "start-failure" });
  }
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
