// Where the gallery's pictures are: in the server's gallery, or else with this page and for some minutes in the server.
// An item is {id, url, status, createdAt, width, height, seed?, model?, timeTaken?, request?}.

const PAGE = 24;
const FORMING_MS = 1500;
const REMEMBERED = 60;

const historyStore = {
  canSearch: true,
  note: [],
  deleting: ["Delete this picture?", "It is removed from the gallery's folder for good.", "Delete"],
  _after: undefined,
  _search: "",
  _asked: 0,

  async load(search = "") {
    this._search = search;
    const asked = ++this._asked;
    const page = await this._page();
    if (asked !== this._asked) return; // something else is searched for by now
    this._after = page.after;
    gallery.replace(page.images, page.total, Boolean(page.after));
  },

  async more() {
    const asked = this._asked;
    const page = await this._page(this._after);
    if (asked !== this._asked) return;
    this._after = page.after;
    gallery.extend(page.images, page.total, Boolean(page.after));
  },

  /** What is new, without losing what was loaded further down. */
  async refresh() {
    const asked = this._asked;
    const page = await this._page();
    if (asked === this._asked) gallery.renew(page.images, page.total);
  },

  _page(after) {
    const query = new URLSearchParams({ limit: PAGE, ...(this._search && { search: this._search }), ...(after && { after }) });
    return lasting(() => askJson("GET", `/v1/history?${query}`));
  },

  finished() {
    return this.refresh();
  },

  remove(item) {
    return ask("DELETE", `/v1/history/${encodeURIComponent(item.id)}`);
  },

  async clear() {
    return (await askJson("DELETE", "/v1/history")).deleted;
  },
};

const sessionStore = {
  canSearch: false,
  note: [
    "Pictures stay here while this page is open; the server forgets them after some minutes. To keep them: ",
    make("code", {}, "sdmanager serve --gallery DIR"),
  ],
  deleting: ["Remove this picture?", "It is taken off this page; it was not kept anywhere else.", "Remove"],

  async load() {
    const kept = memory.get("items", []).filter((item) => !this._removed().includes(item.id));
    gallery.replace(kept, kept.length, false);
    await Promise.all(kept.map((item) => this._fetch(item)));
    const { generations } = await lasting(() => askJson("GET", GENERATIONS));
    const known = new Set([...kept.map((item) => item.generationId), ...jobs.all.map((job) => job.id)]);
    const others = generations.filter((each) => each.status === "complete" && !known.has(each.id)).slice(-PAGE);
    for (const { id, createdAt } of others) {
      const end = await endOf(id).catch(() => null);
      if (end?.name === "complete") await this.finished({ id, createdAt }, end.data);
    }
  },

  async finished(job, { id, images, model, timeTaken }) {
    const made = images.map((image, index) => ({
      ...image, id: `${id}-${index}`, generationId: id, status: "complete", model, timeTaken,
      createdAt: job.createdAt, request: job.request,
    })).filter((item) => !this._removed().includes(item.id));
    await Promise.all(made.map((item) => this._fetch(item)));
    gallery.renew(made.reverse(), null);
    this._keep();
  },

  /** Hold the picture itself: the server forgets it. */
  async _fetch(item) {
    try {
      const response = await ask("GET", item.url);
      item.blob = await response.blob();
      item.held = URL.createObjectURL(item.blob);
      gallery.touch(item);
    } catch (error) {
      if (error.status === 404) gallery.forget(item);
    }
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

const store = {
  now: sessionStore,
  _chosen: null,
  _timer: 0,

  /** Which one it is, as the server says, and what is in it. */
  async choose() {
    const found = connection.info.gallery ? historyStore : sessionStore;
    if (found === this._chosen) return found.refresh();
    this._chosen = this.now = found;
    gallery.dress(found);
    return found.load($("search").value.trim());
  },

  /** While something is drawn, frames of the gallery change by themselves; they go a moment after it was cancelled. */
  watch() {
    clearInterval(this._timer);
    this._timer = setInterval(() => {
      if (connection.lost) return;
      this.now.refresh().catch(() => {});
      if (!jobs.all.length && !gallery.items.some((item) => item.status === "forming")) clearInterval(this._timer);
    }, FORMING_MS);
  },

  async finished(job, data) {
    await this.now.finished(job, data).catch(tellFailure);
  },
};
