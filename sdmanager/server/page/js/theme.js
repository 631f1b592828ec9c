// Before anything is painted, so that the page does not flash in the other theme.
(() => {
  let theme = "auto";
  try {
    theme = localStorage.getItem("sdmanager.theme") ?? "auto";
  } catch {
    // Storage may be forbidden; then the system's theme holds.
  }
  document.documentElement.dataset.theme = theme;
})();
