// Small tools for the document. Text from anywhere becomes text nodes only: nothing here parses HTML.

const $ = (id) => document.getElementById(id);

/** An element with properties, attributes (names with "-" and "role") and children, which are elements or text. */
function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

function show(element, shown = true) {
  element.hidden = !shown;
}

/** Move the focus after something that took its time, unless somebody has moved it meanwhile. */
function moveFocus(from, to) {
  if ([from, document.body].includes(document.activeElement)) to.focus();
}

const unsaid = [];

/** Say something to screen readers, once they are done with what they say now. What comes at once is said together. */
function announce(text) {
  if (unsaid.push(text) > 1) return;
  setTimeout(() => {
    // Behind an open dialog nothing is read.
    const live = document.querySelector("dialog[open] [role=status]") ?? $("live");
    live.textContent = unsaid.splice(0).join(" ");
  });
}

/** What this tab remembers; storage may be forbidden or full, and then it remembers nothing. */
const memory = {
  get(key, fallback = null, storage = "sessionStorage") {
    try {
      const text = window[storage].getItem(`sdmanager.${key}`);
      return text === null ? fallback : JSON.parse(text);
    } catch {
      return fallback;
    }
  },
  set(key, value) {
    try {
      sessionStorage.setItem(`sdmanager.${key}`, JSON.stringify(value));
    } catch {
      // see above
    }
  },
};

/** JSON, with seeds that JavaScript's numbers cannot hold as text: exactly where the browser tells what stood there. */
function parsed(text) {
  return JSON.parse(text, (key, value, context) => {
    const lost = key === "seed" && typeof value === "number" && !Number.isSafeInteger(value);
    return lost ? context?.source ?? `about ${value}` : value;
  });
}

/** Seconds as people say them. */
function spoken(seconds) {
  if (seconds < 1) return "less than a second";
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  const rest = whole % 60;
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return rest && minutes < 10 ? `${minutes} min ${rest} s` : `${minutes} min`;
}

function dated(milliseconds) {
  return new Date(milliseconds).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

function shortened(text, length) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > length ? `${line.slice(0, length - 1)}…` : line;
}

/** A file name that says what it is: day, first words of the prompt, seed. */
function fileName(item) {
  const day = new Date(item.createdAt);
  const date = [day.getFullYear(), day.getMonth() + 1, day.getDate()].map((n) => String(n).padStart(2, "0")).join("-");
  const words = (item.request?.prompt ?? "").normalize("NFKC").toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  const seed = String(item.seed ?? item.id).replace(/[^\w-]/g, "");
  return `${[date, ...words.slice(0, 6)].join("-").slice(0, 80)}-${seed}.png`;
}

/** Ask before something cannot be undone. */
function confirmed(title, text, yes = "Delete") {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  return new Promise((resolve) => {
    let answer = false;
    const answered = (value) => () => { answer = value; dialog.close(); };
    $("confirm-yes").onclick = answered(true);
    $("confirm-no").onclick = answered(false);
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
    $("confirm-no").focus();
  });
}
