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

  /** Newer facts about the first ones; frames of what was cancelled are gone. */
  renew(items, total) {
    const fresh = new Set(items.map((item) => item.id));
    const rest = this.items.filter((item) => !fresh.has(item.id) && item.status !== "forming");
    this.items = [...items, ...rest];
    if (total === null) this.items.sort((a, b) => b.createdAt - a.createdAt); // no server has ordered them
    this.total = total ?? this.items.length;
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
    this._cards = kept;
    // Only what is new or has moved is touched, so that the focus stays where it is.
    const list = $("items");
    [...kept.values()].forEach((card, place) => {
      if (list.children[place] !== card.element) list.insertBefore(card.element, list.children[place] ?? null);
    });
    while (list.children.length > kept.size) list.lastElementChild.remove();
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
    try {
      await store.now.remove(item);
    } catch (error) {
      if (error.status !== 404) throw error; // it is gone already
    }
    this.forget(item);
    const next = this.items[Math.min(place, this.items.length - 1)];
    (next ? this._cards.get(next.id).button : $("prompt")).focus();
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
    const words = item.request?.prompt ?? "A picture of another program";
    const forming = item.status === "forming";
    const source = sourceOf(item);
    if (source && source !== shown) image.src = shown = source;
    image.alt = forming ? `Forming: ${words}` : words;
    image.style.aspectRatio = `${item.width} / ${item.height}`;
    image.classList.toggle("forming", forming);
    caption.textContent = forming ? "Forming…" : shortened(words, 70);
  }
  return card;
}

let searching = 0;
$("search").oninput = () => {
  clearTimeout(searching);
  searching = setTimeout(() => {
    store.now.load($("search").value.trim())
      .then(() => announce(`${gallery.total ?? 0} pictures found.`), tellFailure);
  }, 200);
};
let loading = false;
const nearEnd = new IntersectionObserver(([seen]) => { if (seen.isIntersecting) $("load-more").click(); }, { rootMargin: "400px" });
nearEnd.observe($("load-more"));
$("load-more").onclick = async () => {
  if (loading) return;
  loading = true;
  await store.now.more().catch(tellFailure);
  loading = false;
  // It tells of changes only, and on a large screen the end may still be in sight.
  nearEnd.unobserve($("load-more"));
  nearEnd.observe($("load-more"));
};
$("delete-all").onclick = async () => {
  const text = `All ${gallery.total ?? ""} pictures are removed from the gallery's folder for good.`;
  if (!(await confirmed("Delete all pictures?", text, "Delete all"))) return;
  try {
    const deleted = await store.now.clear();
    await store.now.load();
    announce(`${deleted} pictures are deleted.`);
  } catch (error) {
    tellFailure(error);
  }
};
