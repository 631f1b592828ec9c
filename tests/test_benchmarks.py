"""The benchmarks run and print what they promise. Never what they measure: no test asserts a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

FIGURES = {
    "startup": {
        "import_sdmanager_added",
        "sdmanager_version_added",
        "from_sdmanager_import_generate_image_added",
    },
    "guard": {"added_by_spawn", "until_spawn_returns"},
    "kills": {"manager_to_last_process_median", "manager_to_last_process_longest"},
    "parser": {
        "all_stdout",
        "drawings_only",
        "a_thousand_steps",
        "memory_growth_transcripts",
        "memory_growth_bars",
        "memory_growth_one_line",
    },
    "overhead": {
        "replaying_engine_added",
        "replaying_engine_noise",
        "64x64_4_steps_added",
        "64x64_4_steps_ratio",
        "64x64_4_steps_noise",
    },
    "batch": {"batch_to_single_runs"},
    "latency": {
        "step_to_callback_loop_p95",
        "step_to_callback_blocking_p95",
        "preview_to_callback_png_file_first_p95",
        "preview_to_callback_png_bar_first_p95",
        "preview_to_callback_jpeg_file_first_p95",
        "preview_to_callback_jpeg_bar_first_p95",
        "engine_with_proj_to_without_wall",
        "engine_with_proj_to_without_sampling",
        "engine_without_proj_to_itself_wall",
        "engine_without_proj_to_itself_sampling",
    },
    "ensure": {
        "warm_first_call_median",
        "warm_later_call_median",
        "chain_besides_drawing_median",
    },
    "download": {
        "download_plus_digest_to_curl",
        "download_plus_digest_to_curl_on_disk",
        "download_plus_digest",
        "memory_growth",
    },
    "extraction": {"peak_rss_added", "throughput", "throughput_to_zipfile"},
    "server_start": {
        "warm_start_median",
        "warm_start_until_answered_median",
        "warm_start_with_its_imports_median",
        "post_to_engine_median",
        "post_to_engine_p95",
    },
    "server_requests": {
        "get_running_to_empty_handler",
        "polls_server_share_of_a_core",
        "polls_client_share_of_a_core",
        "engine_polled_to_not",
        "engine_not_polled_to_itself",
    },
    "server_push": {
        "preview_to_readers_jpeg_p95",
        "preview_to_readers_png_p95",
        "streams_told",
        "event_to_last_stream_median",
        "rss_per_stream",
    },
    "a1111": {"added_to_engine_median", "added_to_picture_median", "poll_progress_ms", "poll_native_ms"},
    "openai_api": {"added_to_engine_median", "added_to_picture_median", "first_partial_to_sdk_p95"},
    "server_memory": {
        "idle",
        "idle_after_a_generation",
        "results_added",
        "results_fetched_added",
    },
    "history": {
        "list_slowest_p95",
        "list_over_http_slowest_p95",
        "keep_linked_median",
        "keep_written_median",
        "generation_added",
    },
    "inspection": {
        f"{file}_{figure}"
        for file in (
            "flux_gguf",
            "flux_safetensors",
            "qwen_image_gguf",
            "qwen_image_safetensors",
            "language_model",
        )
        for figure in ("time", "first_time", "to_reading_the_header", "peak_rss_added")
    },
    "pull": {
        f"pull_to_{other}_{line}"
        for other in ("library", "library_and_sha256sum")
        for line in ("unlimited", "100_mb_per_s")
    },
    "planning": {"fits", "put_aside", "fits_nowhere", "learned", "stricter"},
    "sampling": {"ram_share_of_core", "vram_share_of_core", "vram_process_start", "ram_peak_off_by"},
    "lease": {
        "nothing_moves_median",
        "nobody_to_move_median",
        "nothing_moves_unknown_engine_median",
        "offload_draw_restore_added",
    },
    "models_list": {"list_and_check", "list_and_check_to_bare", "resolve_a_name", "size_of_all", "command"},
}
BROWSER_FIGURES = {"page": {"size", "usable_median", "known_median", "painted_median"}}
NEED_NO_ENGINE = (
    "startup",
    "guard",
    "kills",
    "parser",
    "download",
    "extraction",
    "server_push",
    "a1111",
    "openai_api",
    "history",
    "inspection",
    "models_list",
    "pull",
    "planning",
    "lease",
)


def check(report: dict[str, dict[str, dict[str, object]]], name: str) -> None:
    assert report["benchmark"] == name
    assert set(report["figures"]) == (FIGURES | BROWSER_FIGURES)[name]
    for figure in report["figures"].values():
        assert isinstance(figure["value"], float)
        assert figure["unit"]
        assert ("target" in figure) == ("met" in figure)


def run(name: str) -> dict[str, dict[str, dict[str, object]]]:
    argv = [sys.executable, BENCHMARKS / f"{name}.py", "--quick"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NEED_NO_ENGINE)
def test_a_benchmark_without_the_engine_prints_its_figures(name: str) -> None:
    if name == "download" and not (shutil.which("curl") and shutil.which("sha256sum")):
        pytest.skip("it compares with curl and sha256sum, which are not here")
    check(run(name), name)


@pytest.mark.parametrize("name", sorted(set(FIGURES) - set(NEED_NO_ENGINE)))
def test_a_benchmark_of_the_real_engine_prints_its_figures(name: str, engine_data: Path) -> None:
    check(run(name), name)


@pytest.mark.browser
@pytest.mark.parametrize("name", BROWSER_FIGURES)
def test_a_benchmark_in_a_browser_prints_its_figures(name: str) -> None:
    check(run(name), name)
