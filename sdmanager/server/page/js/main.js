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

// What can be chosen there is known once the server has said so.
const LATE = ["model", "sampler", "scheduler"];

async function begin() {
  await lasting(loadModels);
  restoreForm(LATE);
  if (!$("model").value) $("model").value = models.shown; // it is gone
  showDefaults();
  performance.mark("known");
  jobs.resume();
  await store.choose();
}

restoreForm(KEPT.filter((id) => !LATE.includes(id)));
showDefaults();
begin().catch(tellFailure);
connection.onBack(() => {
  loadModels().then(() => store.choose()).catch(() => {});
});
window.addEventListener("focus", () => {
  // A model may have been installed meanwhile.
  if (!connection.lost && asking === null && models.all.length) loadModels().catch(() => {});
});
performance.mark("usable");
