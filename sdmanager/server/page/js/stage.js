// What is being drawn, for eyes and for ears.

const STAGE_NAMES = {
  offloading: "Making room", loading: "Loading the model", diffusion: "Drawing", decoding: "Finishing",
};
const SPEAK_MS = 8000; // between two announcements of progress, which may come many times a second
const TITLE = document.title;

const stage = {
  _spoken: 0,
  _stage: "",

  begin(job) {
    this._stage = "";
    clearFailure();
    show($("said"), false);
    show($("progress"));
    this.progress(job);
    // On a phone it is below the form.
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if ($("figure").getBoundingClientRect().top > innerHeight * 0.6) {
      $("figure").scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
    }
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

  /** A picture that forms, or the one that has formed. */
  picture(source, alt, whole) {
    const image = $("picture");
    image.src = source;
    image.alt = alt;
    image.classList.toggle("forming", !whole);
    show(image);
    show($("welcome"), false);
    $("figure").classList.remove("empty");
  },

  /** Room for a picture of this size, so that nothing moves when it comes. */
  shape(width, height) {
    if (width && height) $("picture").style.setProperty("--ratio", String(width / height));
  },

  say(...parts) {
    $("said").replaceChildren(...parts);
    show($("said"));
  },

  end(text) {
    const leaving = document.activeElement === $("cancel");
    show($("progress"), false);
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
