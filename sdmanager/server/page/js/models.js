// What there is to draw with: models with their own defaults, samplers, schedulers.

const models = { all: [], shown: "", known: false };

/** Defaults of the model that is chosen. */
function modelDefaults() {
  return models.all.find((model) => model.id === $("model").value)?.defaults ?? {};
}

function fillSelect(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  if (options.some(([value]) => value === before)) select.value = before;
}

/** Ask the server what it has, and show that; a model that is gone is not chosen any more. */
async function loadModels() {
  const [{ data }] = await Promise.all([askJson("GET", "/v1/models"), connection.look()]);
  const { info } = connection;
  models.all = data;
  const current = data.find((model) => model.current)?.id ?? info.model ?? data[0]?.id ?? "";
  const chosen = $("model").value;
  fillSelect($("model"), data.map((model) => [model.id, model.name ?? model.id]));
  // Who has not chosen another one follows the server.
  if (!data.some((model) => model.id === chosen) || chosen === models.shown) $("model").value = current;
  models.shown = current;
  const first = !models.known;
  models.known = true;
  for (const [id, names] of [["sampler", info.samplers], ["scheduler", info.schedulers]]) {
    fillSelect($(id), [["", "What suits the model"], ...(names ?? []).map((name) => [name, name])]);
  }
  if (first) restoreForm(LATE);
  if (!$("model").value) $("model").value = current; // what was chosen is gone
  showDefaults();
}

/** The defaults of the model, where nothing is filled in. */
function showDefaults() {
  const own = modelDefaults();
  $("steps").placeholder = String(own.steps ?? 20);
  $("cfg").placeholder = String(own.cfgScale ?? 7.5);
  const size = $("size").querySelector('option[value=""]');
  // Figures first: on a phone the end of it is cut off.
  if (size) size.textContent = start.blob ? `${start.sizeFor(own)}, as the picture` : `${own.width ?? 512} × ${own.height ?? 512}, the model's own`;
  for (const id of ["sampler", "scheduler"]) {
    const first = $(id).options[0];
    if (first) first.textContent = own[id] ? `${own[id]}, the model's own` : "What suits the model";
  }
  const note = $("model-note");
  const demo = $("model").value === "demo";
  show(note, models.known && (demo || !models.all.length));
  if (demo) {
    note.replaceChildren(
      "The demo model draws noise: it shows that everything works. For real pictures: ",
      make("code", {}, "sdmanager models pull sd-turbo"), ", then ", make("code", {}, "sdmanager serve -m sd-turbo"),
    );
  } else if (models.known && !models.all.length) {
    note.replaceChildren("There is no model. ", make("code", {}, "sdmanager models pull sd-turbo"), " fetches one.");
  }
}
