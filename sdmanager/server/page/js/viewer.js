// One picture, large, with what it was made of and what can be done with it.

const FACTS = [
  ["negativePrompt", "Negative prompt"], ["steps", "Steps"], ["cfgScale", "Guidance"], ["guidance", "Distilled guidance"],
  ["sampler", "Sampler"], ["scheduler", "Scheduler"], ["strength", "Strength"], ["clipSkip", "Clip skip"],
];

const viewer = {
  item: null,

  open(item) {
    if (!$("viewer").open) $("viewer").querySelector("[role=status]").textContent = "";
    this.show(item);
    if (!$("viewer").open) $("viewer").showModal();
    $("close").focus({ preventScroll: true });
    for (const id of ["viewer", "viewer-side"]) $(id).scrollTop = 0;
  },

  show(item) {
    this.item = item;
    const { request = {} } = item;
    const whole = item.status !== "forming";
    $("large").src = sourceOf(item);
    $("large").alt = request.prompt ?? "";
    $("viewer-prompt").textContent = request.prompt ?? "Its settings are not known any more.";
    const facts = [["Size", `${item.width} × ${item.height}`], ["Seed", item.seed], ["Model", item.model ?? request.modelId]];
    for (const [name, label] of FACTS) facts.push([label, request[name]]);
    if (item.timeTaken !== undefined) facts.push(["Took", spoken(item.timeTaken / 1000)]);
    if (item.createdAt) facts.push(["Drawn", dated(item.createdAt)]);
    const known = facts.filter(([, value]) => value !== undefined && value !== "");
    $("facts").replaceChildren(...known.flatMap(([label, value]) => [make("dt", {}, label), make("dd", {}, String(value))]));
    $("download").href = sourceOf(item);
    $("download").download = fileName(item);
    for (const id of ["as-init", "download", "delete"]) show($(id), whole);
    show($("reuse"), request.prompt !== undefined);
    $("delete").textContent = store.now === historyStore ? "Delete…" : "Remove…";
    const place = this._place();
    // Not disabled, which would take the focus, and the arrow keys with it.
    $("newer").setAttribute("aria-disabled", String(place <= 0));
    $("older").setAttribute("aria-disabled", String(place >= gallery.items.length - 1));
  },

  /** The picture that is shown may have formed meanwhile. */
  follow() {
    if (!$("viewer").open) return;
    const now = gallery.items.find((item) => item.id === this.item.id);
    if (now && (now.status !== this.item.status || now.url !== this.item.url)) this.show(now);
  },

  _place() {
    return gallery.items.findIndex((item) => item.id === this.item.id);
  },

  turn(by) {
    const next = gallery.items[this._place() + by];
    if (!next) return;
    const from = document.activeElement;
    this.show(next);
    if (from.hidden) $("close").focus({ preventScroll: true }); // the arrow keys would go with it
    announce(`${next.request?.prompt ?? "Picture"}, ${this._place() + 1} of ${gallery.items.length}`);
  },
};

$("close").onclick = () => $("viewer").close();
$("newer").onclick = () => viewer.turn(-1);
$("older").onclick = () => viewer.turn(1);
$("viewer").onkeydown = (event) => {
  if (event.key === "ArrowLeft") viewer.turn(-1);
  else if (event.key === "ArrowRight") viewer.turn(1);
};
$("viewer").onclick = (event) => { if (event.target === $("viewer")) $("viewer").close(); };
$("reuse").onclick = () => {
  const said = useSettings(viewer.item);
  $("viewer").close();
  $("prompt").focus();
  announce(said);
};
$("as-init").onclick = () => {
  $("viewer").close();
  return startFrom(viewer.item);
};
$("delete").onclick = async () => {
  const { item } = viewer;
  if (!(await confirmed(...store.now.deleting))) return;
  $("viewer").close();
  await inGallery(() => gallery.remove(item));
};

async function fetchedPicture(url) {
  const response = await ask("GET", url);
  return response.blob().catch(() => { throw new Unreachable("The connection broke off."); });
}

async function startFrom({ blob, url }) {
  const from = document.activeElement;
  const taken = await takeStart(blob ?? fetchedPicture(url));
  if (taken) moveFocus(from, $("mask"));
}
