// The form: what it says as a request, and a request put back into it.

const SIZES = ["512x512", "768x768", "1024x1024", "512x768", "768x512", "832x1216", "1216x832", "1024x576"];
const NUMBERS = { width: "width", height: "height", steps: "steps", cfgScale: "cfg", seed: "seed", count: "count" };
const TEXTS = { prompt: "prompt", negativePrompt: "negative", sampler: "sampler", scheduler: "scheduler", modelId: "model" };
const KEPT = [...Object.values(NUMBERS), ...Object.values(TEXTS), "size", "strength"];
const LATE = ["model", "sampler", "scheduler"]; // what can be chosen there is known once the server has said so
const FAILURES = 4; // that are shown at once
// What a request may have that the form shows no field for; "use these settings" carries it along.
const CARRIED = ["guidance", "clipSkip", "loras", "preset"];

let carried = {};
let notes = []; // what of reused settings the form cannot hold: {text, ofStart?}

function showSize() {
  const own = $("size").value === "own";
  for (const field of document.querySelectorAll(".own-size")) {
    show(field, own);
    field.querySelector("input").disabled = !own; // what is hidden is not judged
  }
}

function showSeed() {
  $("random").setAttribute("aria-pressed", String($("seed").value === ""));
}

function showCarried() {
  const names = Object.keys(carried);
  const lines = notes.map(({ text }) => make("span", {}, text));
  if (names.length) {
    const drop = make("button", { type: "button", className: "quiet" }, "Leave out");
    drop.onclick = () => {
      carried = {};
      keepForm();
      showCarried();
      $("generate").focus();
    };
    const words = names.map((name) => `${name} ${JSON.stringify(carried[name])}`).join(", ");
    lines.push(make("span", {}, `Also: ${words} `, drop));
  }
  $("carried").replaceChildren(...lines);
  show($("carried"), lines.length > 0);
}

/** There is a picture to start from again: nothing more to say of the one that was not kept. */
function withStart() {
  notes = notes.filter((note) => !note.ofStart);
  showCarried();
}

/** What is filled in, as fields of a request; what is not is left to the model. */
function readForm() {
  const fields = { ...carried };
  for (const [name, id] of Object.entries(TEXTS)) if ($(id).value.trim()) fields[name] = $(id).value;
  for (const [name, id] of Object.entries(NUMBERS)) if ($(id).value !== "") fields[name] = Number($(id).value);
  const size = $("size").value;
  if (size !== "own") {
    delete fields.width;
    delete fields.height;
    if (size) [fields.width, fields.height] = size.split("x").map(Number);
  }
  if ("steps" in fields) delete fields.preset;
  if ($("previews").checked) fields.previews = {};
  return fields;
}

/** A request as a body: JSON, or a form where there are pictures, which would be a third larger in JSON. */
async function bodyOf(fields) {
  if (!start.blob) return { body: JSON.stringify(fields), headers: { "Content-Type": "application/json" } };
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    body.append(name, typeof value === "string" ? value : JSON.stringify(value));
  }
  body.append("initImage", start.blob, "init");
  const marked = await mask.toBlob();
  if (marked) body.append("maskImage", marked, "mask.png");
  return { body };
}

/** Put the settings of a picture into the form, with the seed that draws this very one. Returns what is to be said. */
function useSettings(item) {
  const request = item.request ?? {};
  const named = { ...request, width: item.width, height: item.height, count: 1, seed: item.seed ?? request.seed };
  named.modelId ??= item.model;
  notes = [];
  if (start.blob || start.reading) {
    start.remove();
    notes.push({ text: "The picture to start from was taken out of the form: this one was drawn without it." });
  }
  if (request.strength !== undefined) {
    setStrength(request.strength);
    const text = "This one was drawn from another picture, which is not kept. Choose that again to draw the same.";
    notes = [{ text, ofStart: true }];
  }
  if (named.seed !== undefined && !Number.isSafeInteger(named.seed)) {
    notes.push({ text: `Its seed ${named.seed} is too large for this form: another one is drawn.` });
    delete named.seed;
  }
  for (const [name, id] of [...Object.entries(TEXTS), ...Object.entries(NUMBERS)]) $(id).value = named[name] ?? "";
  if (!$("model").value) {
    $("model").value = models.shown;
    if (named.modelId) notes.push({ text: `The model ${named.modelId} is not installed any more; ${models.shown || "none"} is chosen.` });
  }
  const size = `${item.width}x${item.height}`;
  $("size").value = SIZES.includes(size) ? size : "own";
  const known = CARRIED.filter((name) => request[name] !== undefined && String(request[name]).length);
  carried = Object.fromEntries(known.map((name) => [name, request[name]]));
  if (carried.preset === "default") delete carried.preset;
  $("more").open ||= Boolean(named.cfgScale !== undefined || named.sampler || named.scheduler);
  showSize();
  showSeed();
  showCarried();
  showDefaults();
  keepForm();
  return ["The settings are in the form.", ...notes.map(({ text }) => text)].join(" ");
}

function setStrength(value) {
  $("strength").value = value;
  $("strength-shown").textContent = Number($("strength").value).toFixed(2);
}

/** What stands in the form survives a reload; not the model of who follows the server, and nothing that is yet to come. */
function keepForm() {
  const kept = memory.get("form", {});
  for (const id of KEPT) if (models.known || !LATE.includes(id)) kept[id] = $(id).value;
  if (kept.model === models.shown) kept.model = "";
  memory.set("form", kept);
  memory.set("carried", carried);
}

function restoreForm(ids) {
  const kept = memory.get("form", {});
  for (const id of ids) if (kept[id] !== undefined) $(id).value = kept[id];
  setStrength($("strength").value);
  showSize();
  showSeed();
}

/** Show an error at its place. Where it is `of` a job, its prompt is named, and what others failed with stays. */
function tellFailure(error, { place = "failure", of = null } = {}) {
  if (error.name === "AbortError") return;
  if (error instanceof Unreachable) connection.fail();
  const told = make("div", {}, ...explain(error));
  if (of) {
    told.prepend(make("span", {}, `Not drawn: “${shortened(of.request.prompt, 60)}”`));
    while ($(place).children.length >= FAILURES) $(place).firstElementChild.remove();
  } else $(place).replaceChildren();
  $(place).append(told);
  show($(place));
  $(place).scrollIntoView({ block: "nearest" });
}

function clearFailure(place = "failure") {
  show($(place), false);
  $(place).replaceChildren();
}

$("size").append(
  make("option", { value: "" }, "What suits the model"),
  ...SIZES.map((size) => make("option", { value: size }, size.replace("x", " × "))),
  make("option", { value: "own" }, "Own size…"),
);
$("size").onchange = showSize;
$("model").onchange = showDefaults;
$("seed").oninput = showSeed;
$("random").onclick = () => {
  $("seed").value = "";
  showSeed();
  keepForm();
  announce("The seed will be random.");
};
$("strength").oninput = () => setStrength($("strength").value);
$("form").addEventListener("input", keepForm);
// A field that is folded away cannot say what is wrong with it.
$("form").addEventListener("invalid", (event) => {
  const folded = event.target.closest("details");
  if (folded) folded.open = true;
}, true);
$("form").onsubmit = (event) => {
  event.preventDefault();
  submit();
};
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  if (!event.repeat) $("form").requestSubmit();
});
