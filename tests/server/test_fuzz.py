"""schemathesis against a running server and the document that it serves: no server error, no answer that is not in it.

Some of its checks judge what this API means otherwise, and are left out; each has its reason below.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from scripted_generator import preview, progress, result_of
from serving import serving

from sdmanager.engine import LocalGenerator
from sdmanager.errors import EngineOutOfMemoryError
from sdmanager.jobs import Generation, Status
from sdmanager.settings import Settings

SUPPORT = Path(__file__).parents[1] / "support"
LEFT_OUT = [
    "positive_data_acceptance",  # base64 that is no picture and a LoRA that is not there fit their types, too
    "unsupported_method",  # the door judges the content type before it looks whether the path takes the method
    "ensure_resource_availability",  # a generation that was just created has no pictures yet
    "use_after_free",  # DELETE cancels: that a generation was cancelled is shown for as long as others are kept
]


# A refusal for want of a place is an answer that the document promises; no other 5xx is.
BUSY_IS_FINE = '[checks.not_a_server_error]\nexpected-statuses = ["2xx", "3xx", "4xx", 503]\n'


class QuickGenerator(LocalGenerator):
    """The real engine's own checks, and pictures in no time."""

    async def generate(self, request, on_event=None):
        on_event(progress(1))
        on_event(preview(1))
        await asyncio.sleep(0.002)
        return result_of(request.count, request.with_seed().seed)


class MoodyGenerator(QuickGenerator):
    """Fails at once, or is slow, in turn."""

    drawn = 0

    async def generate(self, request, on_event=None):
        self.drawn += 1
        if self.drawn % 4 == 1:
            raise EngineOutOfMemoryError("The memory is full.", hint="Draw smaller pictures.")
        if self.drawn % 4 == 3:
            raise RuntimeError("nobody thought of this")
        await asyncio.sleep(1)  # a long time for schemathesis, also on a busy machine
        return await super().generate(request, on_event)


@pytest.fixture
async def asked_by_schemathesis(settings: Settings, tmp_path: Path):
    """Has schemathesis ask a server over a generator for all that its document promises: asserts that it finds nothing
    wrong, and returns what was generated, and how often each status was answered to POSTs."""

    async def ask(
        kind: type[LocalGenerator], examples: int, *, queue_size: int
    ) -> tuple[list[Generation], Counter[int]]:
        generator = kind(settings=settings)
        capabilities = (await generator.prepare()).capabilities
        info = {"samplers": capabilities.samplers, "schedulers": capabilities.schedulers}
        (tmp_path / "schemathesis.toml").write_text(BUSY_IS_FINE if queue_size == 0 else "")
        async with serving(generator, settings.generations_dir, queue_size=queue_size, info=info) as served:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json",
                "--checks", "all", "--exclude-checks", ",".join(LEFT_OUT), "--max-examples", str(examples),
                "--seed", "1", "--request-timeout", "60", "--continue-on-failure", "--no-color",
                "--report", "har", "--report-har-path", "asked.har",
                env={**os.environ, "SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": str(SUPPORT)},
                cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            try:
                output = (await child.communicate())[0].decode()
            finally:
                if child.returncode is None:
                    child.kill()
            assert child.returncode == 0, output
            entries = json.loads((tmp_path / "asked.har").read_bytes())["log"]["entries"]
            posts = (entry for entry in entries if entry["request"]["method"] == "POST")
            return served.service.registry.list(), Counter(entry["response"]["status"] for entry in posts)

    return ask


@pytest.mark.parametrize(
    "examples", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
async def test_no_server_errors_and_no_mismatches(
    asked_by_schemathesis, caplog: pytest.LogCaptureFixture, examples: int
) -> None:
    caplog.set_level(logging.WARNING)
    taken, answers = await asked_by_schemathesis(QuickGenerator, examples, queue_size=10**6)
    assert len(taken) > 20, answers  # or else it did not get past the refusals
    assert not caplog.records


@pytest.mark.slow
async def test_none_while_the_server_is_busy_and_drawing_fails(asked_by_schemathesis) -> None:
    generations, answers = await asked_by_schemathesis(MoodyGenerator, 20, queue_size=0)
    assert answers[201] >= 5, answers
    assert answers[503] >= 5, answers
    assert {generation.status for generation in generations} >= {Status.COMPLETE, Status.ERROR}
    errors = {generation.error.code for generation in generations if generation.error is not None}
    assert errors == {"OUT_OF_MEMORY", "UNKNOWN_ERROR"}
