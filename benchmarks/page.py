"""What the page weighs, and how soon its form can be used: a real Chromium, a new one for each load."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from _common import ROOT, Figure, Options, Report, main, spread
from _server import REPLAYS, scripted, serving
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(ROOT / "tests" / "support"))
from chromium import ARGUMENTS, CHROMIUM

if TYPE_CHECKING:
    from playwright.sync_api import BrowserType

SIZE_KB: Final = 100.0
INTERACTIVE_MS: Final = 300.0
PATIENCE_MS: Final = 60_000.0

# Times are those of the page's own clock, which begins with its navigation.
_LOOK: Final = """() => {
  const at = (name) => performance.getEntriesByName(name)[0].startTime;
  const [page] = performance.getEntriesByType("navigation");
  const others = performance.getEntriesByType("resource");
  return {
    usable: at("usable"), known: at("known"), painted: at("first-contentful-paint"),
    bytes: page.decodedBodySize + others.reduce((sum, each) => sum + each.decodedBodySize, 0),
    page: page.decodedBodySize, sent: page.encodedBodySize, requests: 1 + others.length,
  };
}"""


def measure(options: Options) -> Report:
    """Loads one after the other."""
    report = Report()
    with scripted(REPLAYS) as home, serving(home) as server, sync_playwright() as playwright:
        load(
            playwright.chromium, server.port
        )  # the programs are in memory by then, and the page in the server's
        loads = [load(playwright.chromium, server.port) for _ in range(options.runs)]
    last = loads[-1]
    report.figures["size"] = Figure(last["bytes"] / 1000, "kB", at_most=SIZE_KB)
    for name, limit in (("usable", INTERACTIVE_MS), ("known", None), ("painted", None)):
        taken = [float(each[name]) for each in loads]
        report.figures[f"{name}_median"] = Figure(statistics.median(taken), "ms", at_most=limit)
        report.details[f"{name}_ms"] = spread(taken)
    report.details["bytes"] = {name: last[name] for name in ("page", "sent", "bytes", "requests")}
    return report


def load(chromium: BrowserType, port: int) -> dict[str, Any]:
    """One load, in a browser that has seen nothing before."""
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-", ignore_cleanup_errors=True) as folder:
        browser = chromium.launch_persistent_context(
            str(Path(folder) / "browser"),
            executable_path=CHROMIUM,
            args=list(ARGUMENTS),
            chromium_sandbox=False,
        )
        try:
            page = browser.pages[0]
            page.goto(f"http://127.0.0.1:{port}/")
            page.locator("#model option").first.wait_for(state="attached", timeout=PATIENCE_MS)
            page.locator("#nothing:not([hidden])").wait_for(
                timeout=PATIENCE_MS
            )  # the gallery has answered, too
            found: dict[str, Any] = page.evaluate(_LOOK)
            return found
        finally:
            browser.close()


if __name__ == "__main__":
    main("page", __doc__, measure, runs=9)
