// Whether the server is there, and what it says of itself.

const RETRY_MS = 2000;

const connection = {
  lost: false,
  info: {},
  _waiting: [],
  _back: [],
  _looking: null,

  /** Call something whenever the server is there again after it was not. */
  onBack(callback) {
    this._back.push(callback);
  },

  /** Something found nobody there. Resolves once the server answers again. */
  fail() {
    if (!this.lost) {
      this.lost = true;
      tellBanner("The connection to the server is lost.", "This page tries again by itself. Is the server running?  sdmanager serve");
      $("server").classList.add("gone");
      setTimeout(() => this._retry(), RETRY_MS);
    }
    return new Promise((resolve) => this._waiting.push(resolve));
  },

  async _retry() {
    try {
      await this.look();
    } catch {
      setTimeout(() => this._retry(), RETRY_MS);
      return;
    }
    this.lost = false;
    $("server").classList.remove("gone");
    announce("The server is there again.");
    for (const callback of this._back) callback();
    for (const resolve of this._waiting.splice(0)) resolve();
  },

  /** Ask the server how it is, and show that. */
  look() {
    this._looking ??= this._look().finally(() => { this._looking = null; });
    return this._looking;
  },

  async _look() {
    this.info = await askJson("GET", "/v1/info");
    showInfo(this.info);
  },
};

function tellBanner(message, suggestion = "") {
  const banner = $("banner");
  const text = `${message}\n${suggestion}`;
  if (banner.textContent === text && !banner.hidden) return; // else it would be read out again
  banner.replaceChildren(make("strong", {}, message), "\n", make("span", {}, suggestion));
  show(banner);
}

function showInfo(info) {
  const engine = info.engine ? `${info.engine.variant} engine` : "";
  const facts = [info.model, engine, info.version && `version ${info.version}`];
  $("server").textContent = facts.filter(Boolean).join(" · ");
  if (info.error) tellBanner(info.error.message, info.error.suggestion);
  else show($("banner"), false);
  const names = (info.aside ?? []).map((each) => each.name).join(", ");
  const told = names && `Put aside to make room for pictures: ${names}. It is brought back by itself.`;
  if ($("aside").textContent !== told) $("aside").textContent = told;
  show($("aside"), told !== "");
}

/**
 * Do something over the network; where nobody answers, say so, wait until the server is back, and do it once more.
 * `signal` withdraws it while it waits; `onWait` is told whether it does.
 */
async function lasting(action, { signal, onWait } = {}) {
  for (;;) {
    try {
      return await action();
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
    }
    const withdrawn = new Promise((resolve) => signal?.addEventListener("abort", resolve));
    onWait?.(true);
    await Promise.race([connection.fail(), withdrawn]);
    onWait?.(false);
    signal?.throwIfAborted();
  }
}
