// What this tab asked for and is not whole yet. Only the first is watched by a stream, since a browser opens six
// connections to a server and no more; where the others stand is asked for.

const POLL_MS = 1500;
const AGAIN_MS = 2000;
const ENDS = ["complete", "error", "cancelled"];

const jobs = {
  all: [], // {id, request, createdAt, position?, progress?}
  _source: null,
  _watched: null,
  _submitting: false,

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
    stage.begin(job);
    this._listen(job);
  },

  _listen(job) {
    const source = new EventSource(addressed(`${GENERATIONS}/${job.id}/events`));
    this._source = source;
    const on = (name, tell) => source.addEventListener(name, (event) => {
      if (event.data && this._watched === job) tell(JSON.parse(event.data));
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
      stage.picture(`data:image/${format};base64,${image}`, alt, false);
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
    const isWatched = this._watched === job;
    if (isWatched) {
      this._source?.close();
      this._source = null;
    }
    if (name === "complete") store.finished(job, data);
    if (isWatched) showEnd(job, name, data);
    else if (name === "error") tellFailure(data);
    this.drop(job);
  },

  async cancel(job) {
    try {
      await lasting(() => ask("DELETE", `${GENERATIONS}/${job.id}`));
      if (this.all.includes(job)) this.end(job, "cancelled", {});
    } catch (error) {
      if (error.code !== "ALREADY_TERMINAL" && error.code !== "NOT_FOUND") tellFailure(error);
    }
  },

  /** Where those stand that no stream tells about. */
  async poll() {
    if (this.all.length < 2 || connection.lost) return;
    const { generations } = await askJson("GET", GENERATIONS);
    const known = new Map(generations.map((each) => [each.id, each]));
    for (const job of this.all.slice(1)) {
      const now = known.get(job.id);
      job.position = now?.queuePosition;
      if (!now) this.end(job, "error", { message: "The server does not know this generation any more." });
      else if (ENDS.includes(now.status)) {
        const found = await endOf(job.id);
        if (found) this.end(job, found.name, found.data);
      }
    }
    showWaiting();
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
    if (ENDS.includes(name)) return { name, data: JSON.parse(/^data: (.*)$/m.exec(block)[1]) };
  }
  return null;
}

async function submit() {
  if (jobs._submitting) return;
  jobs._submitting = true;
  $("generate").setAttribute("aria-busy", "true");
  try {
    clearFailure();
    const request = readForm();
    // The same key again, where the answer was lost on its way: it is drawn once.
    const key = [...crypto.getRandomValues(new Uint8Array(16))].map((n) => n.toString(16).padStart(2, "0")).join("");
    const { body, headers } = await bodyOf(request);
    const options = { body, headers: { ...headers, "Idempotency-Key": key } };
    const { id, createdAt } = await lasting(() => askJson("POST", GENERATIONS, options));
    jobs.add({ id, request, createdAt });
  } catch (error) {
    tellFailure(error);
    if (/^MODEL_/.test(error.code ?? "")) loadModels().catch(() => {});
  } finally {
    jobs._submitting = false;
    $("generate").removeAttribute("aria-busy");
  }
}

function showEnd(job, name, data) {
  if (name === "complete") {
    const [first] = data.images;
    stage.shape(first.width, first.height);
    stage.picture(addressed(first.url), job.request.prompt, true);
    const count = data.images.length;
    const text = `${count === 1 ? "The picture is" : `${count} pictures are`} ready after ${spoken(data.timeTaken / 1000)}.`;
    stage.say(text);
    stage.end(text);
  } else if (name === "error") {
    stage.end();
    tellFailure(data);
  } else {
    stage.say("Cancelled.");
    stage.end("Cancelled.");
  }
}

function showWaiting() {
  const waiting = jobs.all.slice(1);
  show($("waiting"), waiting.length > 0);
  const rows = waiting.map(rowOf);
  for (const row of [...$("waiting").children]) if (!rows.includes(row)) row.remove();
  $("waiting").append(...rows.filter((row) => !row.isConnected));
}

/** The line of a job that waits; made once, so that its button keeps the focus. */
function rowOf(job) {
  if (!job.row) {
    const words = shortened(job.request.prompt, 60);
    const cancel = make("button", { type: "button", className: "quiet", "aria-label": `Cancel: ${words}` }, "Cancel");
    cancel.onclick = () => jobs.cancel(job);
    job.place = make("span", { className: "hint" });
    job.row = make("li", {}, make("span", { className: "words" }, words), job.place, cancel);
  }
  job.place.textContent = detailOf(job) || "waiting";
  return job.row;
}

$("cancel").onclick = () => { if (jobs.all[0]) jobs.cancel(jobs.all[0]); };
setInterval(() => jobs.poll().catch((error) => { if (error instanceof Unreachable) connection.fail(); }), POLL_MS);
