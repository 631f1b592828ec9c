"""The page as axe-core judges it: what of WCAG 2.2, A and AA, a program can tell."""

from __future__ import annotations

import shutil

import pytest
from chromium import CHROMIUM
from scripted_generator import ScriptedGenerator
from serving import serving
from tab import everything_shown
from tab import tab as open_tab

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason="needs Chromium"),
]

_RUN = """async () => {
  const rules = { type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] };
  const { violations, passes } = await axe.run(document, { runOnly: rules });
  const found = violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 120)}`));
  return [found, passes.length];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(axe, home, tmp_path, scheme):
    scripted = ScriptedGenerator()
    async with (
        open_tab(tmp_path / "browser") as tab,
        serving(scripted, home.generations_dir, queue_size=2) as served,
    ):
        await tab.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        await tab.open(served.url)
        await tab.page.evaluate(axe)
        found, passed = await tab.page.evaluate(_RUN)
        assert (found, passed > 20) == ([], True)
        await everything_shown(tab, scripted)
        assert (await tab.page.evaluate(_RUN))[0] == []
        await tab.page.click(".card")
        assert (await tab.page.evaluate(_RUN))[0] == []
        await tab.page.click("#delete")
        assert (await tab.page.evaluate(_RUN))[0] == []
