"""schemathesis against a running server and the document that it serves: no server error, no answer that is not in it.

Some of its checks judge what this API means otherwise, and are left out; each has its reason below.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest
from scripted_generator import preview, progress, result_of
from serving import serving

from sdmanager.engine import LocalGenerator
from sdmanager.settings import Settings

LEFT_OUT = [
    "positive_data_acceptance",  # base64 that is no picture and a LoRA that is not there fit their types, too
    "unsupported_method",  # the door judges the content type before it looks whether the path takes the method
    "allow_header_conformance",  # the door answers OPTIONS of all paths alike
    "ensure_resource_availability",  # a generation that was just created has no pictures yet
    "use_after_free",  # DELETE cancels: that a generation was cancelled is shown for as long as others are kept
]


class QuickGenerator(LocalGenerator):
    """The real engine's own checks, and pictures in no time."""

    async def generate(self, request, on_event=None):
        on_event(progress(1))
        on_event(preview(1))
        await asyncio.sleep(0.002)
        return result_of(request.count, request.with_seed().seed)


@pytest.mark.parametrize(
    "examples", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
async def test_no_server_errors_and_no_mismatches(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, examples: int
) -> None:
    caplog.set_level(logging.WARNING)
    generator = QuickGenerator(settings=settings)
    capabilities = (await generator.prepare()).capabilities
    info = {"samplers": capabilities.samplers, "schedulers": capabilities.schedulers}
    async with serving(generator, settings.generations_dir, queue_size=10**6, info=info) as served:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json",
            "--checks", "all", "--exclude-checks", ",".join(LEFT_OUT), "--max-examples", str(examples), "--seed", "1",
            "--request-timeout", "60", "--continue-on-failure", "--no-color",
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            output = (await child.communicate())[0].decode()
        finally:
            if child.returncode is None:
                child.kill()
        assert child.returncode == 0, output
        taken = len(served.service.registry.list())
    assert taken > 20, output  # or else it did not get past the refusals
    assert not caplog.records
