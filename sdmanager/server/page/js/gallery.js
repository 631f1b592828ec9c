// The pictures that were made, newest first.

const gallery = {
  items: [],
  total: null,
  _more: false,
  _cards: new Map(),

  dress(source) {
    show($("search"), source.canSearch);
    show($("gallery-note"), source.note.length > 0);
    $("gallery-note").replaceChildren(...source.note);
  },

  replace(items, total, more) {
    this.items = [...items];
    Object.assign(this, { total, _more: more });
    this.paint();
  },

  extend(items, total, more) {
    const known = new Set(this.items.map((item) => item.id));
    this.items.push(...items.filter((item) => !known.has(item.id)));
    Object.assign(this, { total, _more: more });
    this.paint();
  },

  /** The first page anew: what should be in it and is not is gone. Returns whether nothing comes after it. */
  renew(items, total, more) {
    const fresh = new Set(items.map((item) => item.id));
    const last = items.at(-1);
    const place = this.items.findIndex((item) => item.id === last?.id);
    const below = place < 0 ? [] : this.items.slice(place + 1); // what is not known to follow may come after a gap
    const rest = more ? below.filter((item) => !fresh.has(item.id) && item.status !== "forming") : [];
    this.items = [...items, ...rest];
    this.total = total;
    if (!rest.length) this._more = more;
    this.paint();
    return !rest.length;
  },

  /** What no server has counted and ordered. */
  add(items) {
    const fresh = new Set(items.map((item) => item.id));
    this.items = [...items, ...this.items.filter((item) => !fresh.has(item.id))];
    this.items.sort((a, b) => b.createdAt - a.createdAt);
    this.total = this.items.length;
    this.paint();
  },

  /** Something about one item has changed. */
  touch(item) {
    const card = this._cards.get(item.id);
    if (card && this.items.includes(item)) card.update(item);
  },

  forget(item) {
    this.items = this.items.filter((each) => each.id !== item.id);
    if (this.total !== null) this.total = Math.max(0, this.total - 1);
    this.paint();
  },

  paint() {
    const kept = new Map();
    for (const item of this.items) {
      const card = this._cards.get(item.id) ?? cardOf();
      card.update(item);
      kept.set(item.id, card);
    }
    for (const [id, card] of this._cards) if (!kept.has(id)) card.element.remove();
    this._cards = kept;
    // Only what is new or has moved is touched, so that the focus stays where it is.
    const list = $("items");
    [...kept.values()].forEach((card, place) => {
      if (list.children[place] !== card.element) list.insertBefore(card.element, list.children[place] ?? null);
    });
    const { length } = this.items;
    $("total").textContent = length ? `${this.total ?? length}` : "";
    show($("load-more"), this._more);
    show($("delete-all"), store.now.canSearch && length > 0 && !$("search").value);
    show($("nothing"), length === 0);
    $("nothing").textContent = $("search").value ? "No picture was drawn with these words." : "Nothing was drawn yet.";
    viewer.follow();
  },

  async remove(item) {
    const place = this.items.findIndex((each) => each.id === item.id);
    const from = document.activeElement;
    try {
      await store.now.remove(item);
    } catch (error) {
      if (error.status !== 404) throw error; // it is gone already
    }
    this.forget(item);
    stage.forget(item.id);
    const next = this.items[Math.min(place, this.items.length - 1)];
    moveFocus(from, next ? this._cards.get(next.id).button : $("prompt"));
    announce("Deleted.");
  },
};

function sourceOf(item) {
  return item.held ?? (item.url ? addressed(item.url) : "");
}

function cardOf() {
  const image = make("img", { loading: "lazy", decoding: "async" });
  const caption = make("span", { className: "caption", "aria-hidden": "true" }); // the picture says it
  const button = make("button", { type: "button", className: "card" }, image, caption);
  const element = make("li", {}, button);
  const card = { element, button, item: null, update };
  let shown = "";
  button.onclick = () => viewer.open(card.item);
  image.onerror = () => image.classList.add("missing");
  image.onload = () => image.classList.remove("missing");

  function update(item) {
    card.item = item;
    const words = item.request?.prompt ?? "A picture";
    const forming = item.status === "forming";
    const source = sourceOf(item);
    if (source && source !== shown) image.src = shown = source;
    const named = [words, item.seed !== undefined && `seed ${item.seed}`].filter(Boolean).join(", ");
    image.alt = forming ? `Forming: ${named}` : named;
    image.style.aspectRatio = `${item.width} / ${item.height}`;
    image.classList.toggle("forming", forming);
    caption.textContent = forming ? "Forming…" : shortened(words, 70);
  }
  return card;
}

/** Do something with the gallery; what goes wrong is said there. Resolves to whether nothing did. */
async function inGallery(action) {
  try {
    await action();
    clearFailure("gallery-failure");
    return true;
  } catch (error) {
    tellFailure(error, { place: "gallery-failure" });
    return false;
  }
}

let searching = 0;
$("search").oninput = () => {
  clearTimeout(searching);
  searching = setTimeout(() => inGallery(async () => {
    await store.now.load($("search").value.trim());
    announce(`${gallery.total ?? 0} pictures found.`);
  }), 200);
};
let loading = false;
const nearEnd = new IntersectionObserver(([seen]) => { if (seen.isIntersecting) $("load-more").click(); }, { rootMargin: "400px" });
nearEnd.observe($("load-more"));
$("load-more").onclick = async () => {
  if (loading) return;
  loading = true;
  nearEnd.unobserve($("load-more"));
  const went = await inGallery(() => store.now.more());
  loading = false;
  // It tells of changes only, and on a large screen the end may still be in sight. After an error, the button remains.
  if (went) nearEnd.observe($("load-more"));
};
$("delete-all").onclick = async () => {
  const text = `All ${gallery.total ?? ""} pictures are removed from the gallery's folder for good.`;
  if (!(await confirmed("Delete all pictures?", text, "Delete all"))) return;
  const from = document.activeElement;
  await inGallery(async () => {
    const deleted = await store.now.clear();
    stage.forget();
    await store.now.load();
    moveFocus(from, $("prompt"));
    announce(`${deleted} pictures are deleted.`);
  });
};
