// The beginning: the form works at once, and what the server knows comes in as it answers.

$("theme").value = document.documentElement.dataset.theme;
$("theme").onchange = () => {
  document.documentElement.dataset.theme = $("theme").value;
  try {
    localStorage.setItem("sdmanager.theme", $("theme").value);
  } catch {
    // It holds until the page is left.
  }
};

const LOOK_MS = 15000;

/** Models, samplers, schedulers; until they came once, what is chosen of them waits. */
async function learn() {
  try {
    await lasting(loadModels);
    performance.mark("known");
  } catch (error) {
    $("model-note").replaceChildren(...explain(error));
    show($("model-note"));
  }
}

function visit() {
  return lasting(() => connection.look()).then(() => store.look());
}

/** What has happened meanwhile: others draw, models are installed, and what was refused may be there now. */
async function lookAround({ atModels = !models.known } = {}) {
  if (document.visibilityState !== "visible" || connection.lost || asking !== null) return;
  if (atModels) learn();
  await visit().catch(() => {});
}

restoreForm(KEPT.filter((id) => !LATE.includes(id)));
carried = memory.get("carried", {});
showCarried();
showDefaults();
learn();
jobs.resume();
visit().catch((error) => tellFailure(error, { place: "gallery-failure" }));
connection.onBack(() => lookAround({ atModels: true }));
setInterval(lookAround, LOOK_MS);
window.addEventListener("focus", () => lookAround({ atModels: true }));
document.addEventListener("visibilitychange", () => lookAround());
performance.mark("usable");
