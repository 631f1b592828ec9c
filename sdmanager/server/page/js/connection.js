// Whether the server is there, and what it says of itself.

const RETRY_MS = 2000;
const LOOK_MS = 15000;

const connection = {
  lost: false,
  info: {},
  _waiting: [],
  _back: [],

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
  async look() {
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
  else if (info.aside?.length) {
    const names = info.aside.map((each) => each.name).join(", ");
    tellBanner(`Put aside to make room for pictures: ${names}.`, "It is brought back by itself.");
  } else show($("banner"), false);
}

/** Do something over the network; where nobody answers, say so, wait until the server is back, and do it once more. */
async function lasting(action) {
  for (;;) {
    try {
      return await action();
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      await connection.fail();
    }
  }
}

setInterval(() => {
  if (document.visibilityState === "visible" && !connection.lost && asking === null) {
    connection.look().catch((error) => { if (error instanceof Unreachable) connection.fail(); });
  }
}, LOOK_MS);
