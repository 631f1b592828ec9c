// Where the gallery's pictures are: in the server's gallery, or else with this page and for some minutes in the server.
// An item is {id, url, status, createdAt, width, height, seed?, model?, timeTaken?, request?}.

const PAGE = 24;
const FORMING_MS = 1500;
const REMEMBERED = 60;
const TRIES = 3;

const historyStore = {
  canSearch: true,
  note: [],
  deleting: ["Delete this picture?", "It is removed from the gallery's folder for good.", "Delete"],
  _after: undefined,
  _search: "",
  _asked: 0,
  _changes: 0, // after which answers that are on their way are old
  _refreshing: null,

  async load(search = "") {
    this._search = search;
    ++this._asked;
    const page = await this._newest();
    if (!page) return;
    this._after = page.after;
    gallery.replace(page.images, page.total, Boolean(page.after));
  },

  async more() {
    const after = this._after;
    const page = await this._newest(after);
    if (!page || after !== this._after) return; // the list was begun anew meanwhile, and goes on elsewhere
    this._after = page.after;
    gallery.extend(page.images, page.total, Boolean(page.after));
  },

  /** What is new, and what is gone, without losing what was loaded further down. */
  refresh() {
    this._refreshing ??= this._refresh().finally(() => { this._refreshing = null; });
    return this._refreshing;
  },

  async _refresh() {
    const page = await this._newest();
    if (page && gallery.renew(page.images, page.total, Boolean(page.after))) this._after = page.after;
  },

  look() {
    return this.refresh();
  },

  /** A page, asked for again where something changed while it was on its way; null if something else is searched for. */
  async _newest(after) {
    const asked = this._asked;
    for (;;) {
      const changes = this._changes;
      const page = await this._page(after);
      if (asked !== this._asked) return null;
      if (changes === this._changes) return page;
    }
  },

  _page(after) {
    const query = new URLSearchParams({ limit: PAGE, ...(this._search && { search: this._search }), ...(after && { after }) });
    return lasting(() => askJson("GET", `/v1/history?${query}`));
  },

  finished() {
    ++this._changes;
    return this.refresh();
  },

  async remove(item) {
    try {
      await ask("DELETE", `/v1/history/${encodeURIComponent(item.id)}`);
    } finally {
      ++this._changes;
    }
  },

  async clear() {
    try {
      return (await askJson("DELETE", "/v1/history?all=true")).deleted;
    } finally {
      ++this._changes;
    }
  },
};

const sessionStore = {
  canSearch: false,
  _looked: new Set(), // generations whose pictures came, or were removed
  note: [
    "Pictures stay here while this page is open; the server forgets them after some minutes. To keep them: ",
    make("code", {}, "sdmanager serve --gallery DIR"),
  ],
  deleting: ["Remove this picture?", "It is taken off this page; it was not kept anywhere else.", "Remove"],

  async load() {
    const kept = memory.get("items", []).filter((item) => !this._removed().includes(item.id));
    gallery.replace(kept, kept.length, false);
    await Promise.all(kept.map((item) => this._fetch(item)));
    await this.look();
  },

  /** What others had drawn, as long as the server knows it. */
  async look() {
    const { generations } = await lasting(() => askJson("GET", GENERATIONS));
    const known = new Set([...gallery.items.map((item) => item.generationId), ...jobs.all.map((job) => job.id), ...this._looked]);
    const others = generations.filter((each) => each.status === "complete" && !known.has(each.id)).slice(-PAGE);
    for (const { id, createdAt } of others) {
      this._looked.add(id);
      const end = await endOf(id).catch(() => null);
      if (!end) this._looked.delete(id);
      if (end?.name === "complete") await this.finished({ id, createdAt }, end.data);
    }
    for (const item of gallery.items) if (!item.held) await this._fetch(item);
  },

  async finished(job, data) {
    this._looked.add(job.id);
    const made = itemsOf(job, data).filter((item) => !this._removed().includes(item.id));
    const there = await Promise.all(made.map((item) => this._fetch(item)));
    gallery.add(made.filter((_, place) => there[place]).reverse());
    this._keep();
  },

  /** Hold the picture itself: the server forgets it. Returns whether it is, or may still be, there. */
  async _fetch(item) {
    for (let tries = 1; ; tries++) {
      try {
        const response = await ask("GET", item.url);
        item.blob = await response.blob();
        item.held = URL.createObjectURL(item.blob);
        gallery.touch(item);
        return true;
      } catch (error) {
        if (error.status === 404) {
          if (gallery.items.includes(item)) gallery.forget(item);
          return false;
        }
        if (tries < TRIES) await connection.fail();
        else return this._tellLost(item);
      }
    }
  },

  _tellLost(item) {
    const words = shortened(item.request?.prompt ?? "", 60);
    const suggestion = "The server forgets it after some minutes. This page tries again now and then.";
    tellFailure({ message: `A picture could not be fetched: “${words}”`, suggestion }, { place: "gallery-failure" });
    return true;
  },

  _removed: () => memory.get("removed", []),

  _keep() {
    memory.set("items", gallery.items.slice(0, REMEMBERED).map(({ blob, held, ...item }) => item));
  },

  async remove(item) {
    memory.set("removed", [...this._removed(), item.id].slice(-500));
    if (item.held) URL.revokeObjectURL(item.held);
    setTimeout(() => this._keep());
  },

  async refresh() {},
};

/** The pictures of a generation, as items; with what was drawn, where the server says that. */
function itemsOf(job, { id, images, model, timeTaken, request = job.request }) {
  return images.map((image, index) => ({
    ...image, id: `${id}-${index}`, generationId: id, status: "complete", model, timeTaken, createdAt: job.createdAt, request,
  }));
}

const store = {
  now: sessionStore,
  _chosen: null,
  _timer: 0,

  /** Which one it is, as the server says, and what is in it; what is new, where it is known already. */
  async look() {
    const found = connection.info.gallery ? historyStore : sessionStore;
    if (connection.info.busy) this.watch();
    if (found === this._chosen) return found.look();
    this._chosen = this.now = found;
    gallery.dress(found);
    try {
      await found.load($("search").value.trim());
    } catch (error) {
      this._chosen = null; // the next look tries again
      throw error;
    }
  },

  /** While something is drawn, frames of the gallery change by themselves; they go a moment after it was cancelled. */
  watch() {
    clearInterval(this._timer);
    this._timer = setInterval(() => {
      if (connection.lost) return;
      this.now.refresh().catch(() => {});
      const drawn = connection.info.busy || jobs.all.length || gallery.items.some((item) => item.status === "forming");
      if (!drawn) clearInterval(this._timer);
    }, FORMING_MS);
  },

  async finished(job, data) {
    await this.now.finished(job, data).catch((error) => tellFailure(error, { place: "gallery-failure" }));
  },
};
