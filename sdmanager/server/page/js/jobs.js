// What this tab asked for and is not whole yet. Only the first is watched by a stream, since a browser opens six
// connections to a server and no more; where the others stand is asked for.

const POLL_MS = 1500;
const AGAIN_MS = 2000;
const ENDS = ["complete", "error", "cancelled"];

const jobs = {
  all: [], // {id, request, createdAt, position?, progress?}
  _source: null,
  _watched: null,
  _submitting: null, // what withdraws it
  _polling: false,

  add(job) {
    this.all.push(job);
    this.changed();
  },

  drop(job) {
    this.all = this.all.filter((each) => each !== job);
    this.changed();
  },

  changed() {
    memory.set("jobs", this.all.map(({ id, request, createdAt }) => ({ id, request, createdAt })));
    showWaiting();
    if (this._watched !== (this.all[0] ?? null)) this._watch(this.all[0] ?? null);
    store.watch();
  },

  _watch(job) {
    this._source?.close();
    this._source = null;
    this._watched = job;
    if (!job) return;
    showCancel();
    stage.begin(job);
    this._listen(job);
  },

  _listen(job) {
    const source = new EventSource(addressed(`${GENERATIONS}/${job.id}/events`));
    this._source = source;
    const on = (name, tell) => source.addEventListener(name, (event) => {
      if (event.data && this._watched === job) tell(parsed(event.data));
    });
    on("queued", ({ position }) => { job.position = position; stage.progress(job); });
    on("progress", (progress) => { job.position = 0; job.progress = progress; stage.progress(job); });
    on("replanned", ({ reason }) => {
      stage.say(make("strong", {}, "It starts once more with another plan for memory."), " ", reason);
      announce(`It starts once more: ${reason}`);
    });
    on("preview", ({ format, image, step, totalSteps }) => {
      stage.shape(job.request.width, job.request.height);
      const alt = `Forming: ${job.request.prompt}, step ${step} of ${totalSteps}`;
      stage.forming(`data:image/${format};base64,${image}`, alt);
    });
    for (const name of ENDS) on(name, (data) => this.end(job, name, data));
    source.onerror = (event) => {
      // The end of a generation has the same name, and data; this is the connection.
      if (event.data || this._source !== source) return;
      if (source.readyState !== EventSource.CLOSED) connection.fail();
      else this._again(job, source);
    };
  },

  /** The browser has given up on the stream: look whether there is still something to watch. */
  async _again(job, source) {
    try {
      await lasting(() => ask("GET", `${GENERATIONS}/${job.id}`));
    } catch (error) {
      if (this._source === source) this.end(job, "error", error);
      return;
    }
    setTimeout(() => { if (this._source === source) this._listen(job); }, AGAIN_MS);
  },

  end(job, name, data) {
    if (!this.all.includes(job)) return; // somebody else saw it first
    const isWatched = this._watched === job;
    if (isWatched) {
      this._source?.close();
      this._source = null;
    }
    if (name === "complete") store.finished(job, data);
    if (isWatched) showEnd(job, name, data);
    else if (name === "error") tellFailure(data, { of: job });
    else if (name === "cancelled") announce("Cancelled.");
    this.drop(job);
  },

  async cancel(job) {
    if (job.cancelling) return;
    this._cancelling(job, true);
    try {
      await lasting(() => ask("DELETE", `${GENERATIONS}/${job.id}`));
      this.end(job, "cancelled", {});
    } catch (error) {
      if (error.code !== "ALREADY_TERMINAL" && error.code !== "NOT_FOUND") tellFailure(error);
      this._cancelling(job, false);
    }
  },

  _cancelling(job, now) {
    job.cancelling = now;
    showCancel();
    showWaiting();
  },

  /** Where those stand that no stream tells about. */
  async poll() {
    if (this._polling || this.all.length < 2 || connection.lost) return;
    this._polling = true;
    try {
      const asked = this.all.slice(1); // what comes while the answer is on its way is not in it
      const { generations } = await askJson("GET", GENERATIONS);
      const known = new Map(generations.map((each) => [each.id, each]));
      for (const job of asked) {
        if (!this.all.includes(job) || job === this._watched) continue;
        const now = known.get(job.id);
        job.position = now?.queuePosition;
        if (!now) this.end(job, "error", { message: "The server does not know this generation any more." });
        else if (ENDS.includes(now.status)) {
          const found = await endOf(job.id);
          if (found) this.end(job, found.name, found.data);
        }
      }
      showWaiting();
    } finally {
      this._polling = false;
    }
  },

  /** Take up again what was under way when the page was left. */
  resume() {
    for (const job of memory.get("jobs", [])) if (!this.all.some(({ id }) => id === job.id)) this.all.push(job);
    this.changed();
  },
};

/** How a generation ended, as its stream tells it: with addresses of its pictures, but without the pictures. */
async function endOf(id) {
  const response = await ask("GET", `${GENERATIONS}/${id}/events`);
  for (const block of (await response.text()).split("\n\n")) {
    const name = /^event: (\w+)$/m.exec(block)?.[1];
    if (ENDS.includes(name)) return { name, data: parsed(/^data: (.*)$/m.exec(block)[1]) };
  }
  return null;
}

async function submit() {
  if (jobs._submitting) return;
  const withdrawal = jobs._submitting = new AbortController();
  const { signal } = withdrawal;
  $("generate").setAttribute("aria-busy", "true");
  try {
    clearFailure();
    const request = readForm();
    if (!(await startIsRead())) return;
    if (start.blob) request.strength = Number($("strength").value);
    // The same key again, where the answer was lost on its way: it is drawn once.
    const key = [...crypto.getRandomValues(new Uint8Array(16))].map((n) => n.toString(16).padStart(2, "0")).join("");
    const { body, headers } = await bodyOf(request);
    const options = { body, headers: { ...headers, "Idempotency-Key": key }, signal };
    const onWait = (waits) => show($("sending"), waits);
    const { id, createdAt } = await lasting(() => askJson("POST", GENERATIONS, options), { signal, onWait });
    jobs.add({ id, request, createdAt });
    if (jobs.all.length === 1) stage.reveal();
  } catch (error) {
    tellFailure(error);
    if (/^MODEL_/.test(error.code ?? "")) loadModels().catch(() => {});
  } finally {
    jobs._submitting = null;
    $("generate").removeAttribute("aria-busy");
  }
}

function showEnd(job, name, data) {
  if (name === "complete") {
    const items = itemsOf(job, data);
    const count = items.length;
    const text = `${count === 1 ? "The picture is" : `${count} pictures are`} ready after ${spoken(data.timeTaken / 1000)}.`;
    stage.finish(items);
    stage.say(text);
    stage.ofItem = true;
    stage.end(text);
  } else if (name === "error") {
    stage.end();
    tellFailure(data, { of: job });
  } else {
    stage.say("Cancelled.");
    stage.end("Cancelled.");
  }
}

function showCancel() {
  $("cancel").setAttribute("aria-disabled", String(Boolean(jobs.all[0]?.cancelling)));
}

function showWaiting() {
  const within = $("waiting").contains(document.activeElement);
  const waiting = jobs.all.slice(1);
  show($("waiting"), waiting.length > 0);
  const rows = waiting.map(rowOf);
  for (const row of [...$("waiting").children]) if (!rows.includes(row)) row.remove();
  $("waiting").append(...rows.filter((row) => !row.isConnected));
  if (within && !$("waiting").contains(document.activeElement)) $("generate").focus({ preventScroll: true });
}

/** The line of a job that waits; made once, so that its button keeps the focus. */
function rowOf(job) {
  if (!job.row) {
    const words = shortened(job.request.prompt, 60);
    const cancel = make("button", { type: "button", className: "quiet", "aria-label": `Cancel: ${words}` }, "Cancel");
    cancel.onclick = () => jobs.cancel(job);
    job.button = cancel;
    job.place = make("span", { className: "hint" });
    job.row = make("li", {}, make("span", { className: "words" }, words), job.place, cancel);
  }
  job.place.textContent = detailOf(job) || "waiting";
  job.button.setAttribute("aria-disabled", String(Boolean(job.cancelling)));
  return job.row;
}

// Not the second half of a double click: it would cancel the next one, too.
$("cancel").onclick = (event) => { if (jobs.all[0] && event.detail < 2) jobs.cancel(jobs.all[0]); };
$("withdraw").onclick = () => {
  jobs._submitting?.abort();
  $("generate").focus();
  announce("It is not sent.");
};
setInterval(() => jobs.poll().catch((error) => { if (error instanceof Unreachable) connection.fail(); }), POLL_MS);
