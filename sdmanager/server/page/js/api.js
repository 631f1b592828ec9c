// The server's API: errors as it words them, and its token, which this tab keeps and nobody else sees.

const GENERATIONS = "/v1/images/generations";

class ApiError extends Error {
  constructor(status, { message = "The server refused.", code = "UNKNOWN", suggestion = "" } = {}) {
    super(message);
    Object.assign(this, { status, code, suggestion });
  }
}

/** Nobody answered: the server is gone, or the way to it. */
class Unreachable extends Error {}

// What a header can carry; with anything else no request would leave the browser.
const TOKEN = /^[\x21-\x7e]+$/;

let token = memory.get("token", "");

/** Take the token out of the address, before it can be seen, kept as a bookmark or sent along. */
function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  if (TOKEN.test(found)) keepToken(found);
}

function keepToken(value) {
  token = value;
  memory.set("token", token);
}

takeToken();
window.addEventListener("hashchange", () => {
  takeToken();
  if ($("asking").open) $("asking").close(); // what waits for the token tries this one
});

/** An address for what can send no headers: EventSource, pictures and downloads. */
function addressed(path) {
  if (!token) return path;
  return `${path}${path.includes("?") ? "&" : "?"}token=${encodeURIComponent(token)}`;
}

let asking = null;

/** Ask for the token; one form, however many requests wait for it. */
function askToken(tried) {
  asking ??= new Promise((resolve) => {
    const dialog = $("asking");
    const wrong = $("token-wrong");
    const refuse = () => {
      wrong.textContent = "That was not the token.";
      show(wrong);
    };
    show(wrong, false);
    if (tried) refuse();
    dialog.oncancel = (event) => event.preventDefault();
    $("token-form").onsubmit = (event) => {
      event.preventDefault();
      const typed = $("token").value.trim();
      $("token").value = "";
      if (TOKEN.test(typed)) {
        keepToken(typed);
        dialog.close();
      } else refuse();
    };
    dialog.onclose = () => { asking = null; resolve(); };
    dialog.showModal();
    $("token").focus();
  });
  return asking;
}

/** A response that is a success; asks for the token as often as it is needed. Throws ApiError or Unreachable. */
async function ask(method, path, { body, headers = {}, signal } = {}) {
  for (;;) {
    const used = token;
    const own = used ? { Authorization: `Bearer ${used}` } : {};
    let response;
    try {
      // Without credentials, so that the browser shows no password form of its own.
      const options = { method, body, signal, headers: { ...own, ...headers }, credentials: "omit" };
      response = await fetch(path, { ...options, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Unreachable("The server does not answer.");
    }
    if (response.status === 401) {
      if (used === token) await askToken(used);
      continue;
    }
    if (response.ok) return response;
    const told = await response.json().catch(() => null);
    throw new ApiError(response.status, told?.error);
  }
}

async function askJson(method, path, options) {
  const response = await ask(method, path, options);
  try {
    return parsed(await response.text());
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("The connection broke off.");
  }
}

/** Words for an error, with what to do about it. */
function explain(error) {
  const lines = [make("strong", {}, error.message)];
  if (error.suggestion) lines.push(make("span", {}, error.suggestion));
  return lines;
}
