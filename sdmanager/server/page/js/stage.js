// What is being drawn, for eyes and for ears.

const STAGE_NAMES = {
  offloading: "Making room", loading: "Loading the model", diffusion: "Drawing", decoding: "Finishing",
};
const SPEAK_MS = 8000; // between two announcements of progress, which may come many times a second
const TITLE = document.title;

const stage = {
  items: [], // the pictures of the newest generation that is whole, of this tab
  item: null, // the one of them that is shown
  ofItem: false, // whether what is said is of that one
  _spoken: 0,
  _stage: "",

  begin(job) {
    this._stage = "";
    show($("progress"));
    this._former(true);
    if (!this.item || !this.ofItem) show($("said"), false); // of another one, that left no picture
    this.progress(job);
  },

  /** Bring it into sight: on a phone it is below the form. */
  reveal() {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if ($("figure").getBoundingClientRect().top > innerHeight * 0.6) {
      $("figure").scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
    }
  },

  /** Whether the picture is one that was made before what is drawn now. */
  _former(former) {
    const shown = former && this.item !== null;
    $("figure").classList.toggle("former", shown);
    show($("former"), shown);
  },

  /** Where a job stands: in the queue, or how far it is drawn. */
  progress(job) {
    const { progress } = job;
    const name = job.position ? "Waiting" : STAGE_NAMES[progress?.stage] ?? "Starting";
    $("stage-name").textContent = name;
    $("detail").textContent = detailOf(job);
    $("bar").value = progress?.percentage ?? 0;
    document.title = progress ? `${Math.round(progress.percentage)} % · ${TITLE}` : TITLE;
    const now = Date.now();
    if (name !== this._stage || now - this._spoken > SPEAK_MS) {
      this._stage = name;
      this._spoken = now;
      announce([name, detailOf(job)].filter(Boolean).join(", "));
    }
  },

  /** A picture that forms: what was there before goes. */
  forming(source, alt) {
    if (this.item) show($("said"), false);
    this.forget();
    this._show(source, alt, false);
  },

  /** Pictures that are whole: the first is shown, and the others are offered. */
  finish(items) {
    this.items = items;
    this._former(false);
    const thumbs = items.map((item, place) => {
      const label = `Picture ${place + 1} of ${items.length}, seed ${item.seed}`;
      const thumb = make("button", { type: "button", className: "thumb" }, make("img", { src: sourceOf(item), alt: label }));
      thumb.onclick = () => this.choose(item);
      return thumb;
    });
    $("batch").replaceChildren(...thumbs);
    show($("batch"), items.length > 1);
    this.choose(items[0]);
  },

  choose(item) {
    this.item = item;
    this.shape(item.width, item.height);
    this._show(sourceOf(this.now()), item.request?.prompt ?? "", true);
    [...$("batch").children].forEach((thumb, place) => thumb.setAttribute("aria-pressed", String(this.items[place] === item)));
    $("save").href = sourceOf(this.now());
    $("save").download = fileName(item);
    show($("result"));
    $("enlarge").disabled = false;
  },

  /** The picture that is shown, as the gallery knows it. */
  now() {
    return gallery.items.find((item) => item.id === this.item.id) ?? this.item;
  },

  /** What is shown is no picture any more that something can be done with; or only if it is this one. */
  forget(id = this.item?.id) {
    const place = this.items.findIndex((item) => item.id === id);
    if (place >= 0) {
      this.items.splice(place, 1);
      $("batch").children[place].remove();
      show($("batch"), this.items.length > 1);
    }
    if (this.item?.id !== id) return;
    const leaving = $("result").contains(document.activeElement) || document.activeElement === $("enlarge");
    this._former(false);
    this.item = null;
    this.items = [];
    show($("result"), false);
    $("enlarge").disabled = true;
    if (leaving) $("generate").focus({ preventScroll: true });
  },

  _show(source, alt, whole) {
    const image = $("picture");
    image.src = source;
    image.alt = alt;
    image.classList.toggle("forming", !whole);
    show($("enlarge"));
    show(image);
    show($("welcome"), false);
    $("figure").classList.remove("empty");
  },

  /** Room for a picture of this size, so that nothing moves when it comes. */
  shape(width, height) {
    if (width && height) $("picture").style.setProperty("--ratio", String(width / height));
  },

  say(...parts) {
    this.ofItem = false;
    $("said").replaceChildren(...parts);
    show($("said"));
  },

  end(text) {
    const leaving = document.activeElement === $("cancel");
    show($("progress"), false);
    this._former(false);
    document.title = TITLE;
    if (leaving) $("generate").focus();
    if (text) announce(text);
  },
};

function detailOf({ position, progress }) {
  if (position) return position === 1 ? "next in the queue" : `place ${position} in the queue`;
  if (!progress) return "";
  const parts = [];
  if (progress.totalImages > 1) parts.push(`picture ${progress.currentImage} of ${progress.totalImages}`);
  if (progress.stage === "diffusion" && progress.totalSteps) parts.push(`step ${progress.currentStep} of ${progress.totalSteps}`);
  if (progress.etaSeconds !== undefined) parts.push(`about ${spoken(progress.etaSeconds)} left`);
  return parts.join(" · ");
}

$("enlarge").onclick = () => viewer.open(stage.now());
$("save").onclick = () => { $("save").href = sourceOf(stage.now()); };
$("from-it").onclick = () => startFrom(stage.now());
