"""Building an engine from the pinned sources: staged, proven, and swapped in whole."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from sdmanager import process
from sdmanager.errors import BinaryError, BuildFailedError
from sdmanager.threads import in_thread

from ._fetch import PIP_ENVIRONMENT, fetch_sources, fetch_tools, find_tool
from ._jobs import parallel_jobs
from ._probe import MachineProbe, this_platform
from ._staging import install, use_or_make
from ._steps import Steps
from ._unpack import unpack_tar
from .inspection import inspect_engine
from .installed import find_installed, write_record
from .pins import load_sources
from .preflight import check_tools
from .progress import EngineProgress, compile_step

if TYPE_CHECKING:
    from pathlib import Path

    from sdmanager.settings import Settings

    from ._checks import BuildTools
    from .binary import EngineBinary
    from .pins import Sources
    from .progress import EnginePhase, OnProgress
    from .proof import Prover

_SOURCE = "source-build"


async def build_engine(
    settings: Settings,
    variant: str = "cpu",
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
    prove: Prover | None = None,
    sources: Sources | None = None,
) -> EngineBinary:
    """Build an engine from source and install it; what is installed already is used instead.

    Two builders at once, in whatever processes: the second waits, and then uses what the first made.

    Args:
        settings: Folders.
        variant: ``cpu``, ``cuda``, ``vulkan``, ``rocm`` or ``metal``.
        force: Build also where it is installed.
        on_progress: Called on the event loop with each step.
        prove: Raises where the finished engine, still in its staging folder, does not do its work.
        sources: What to build, and how; the pins of this package when None.

    Raises:
        BuildToolsMissingError: Names every tool that is missing or too old.
        DownloadError: The index cannot be reached, or has something else than what is pinned.
        BuildFailedError: Compiling failed, or the result does not run.
        StorageError: The data or state folder cannot be written.
        InvalidRequestError: There is no such variant.
        Exception: Whatever ``prove`` raised.

    However it ends, the engine that was installed before still works until the new one is in its place. If
    cancelled, the compilers are dead and the staging folder is gone when the exception arrives.
    """
    pins = sources or load_sources()
    build = _Build(settings, variant, pins, on_progress)
    return await use_or_make(
        settings,
        lambda: find_installed(settings, variant, _SOURCE, pins.package.engine_version),
        lambda staging: build.run(staging, prove),
        force=force,
        on_wait=lambda: build.report("waiting", 0, 0, "another process is building an engine"),
        trouble="The build cannot write its files",
    )


class _Build:
    """One build of one variant."""

    def __init__(
        self, settings: Settings, variant: str, sources: Sources, on_progress: OnProgress | None
    ) -> None:
        self._settings = settings
        self._variant = variant
        self._sources = sources
        self._recipe = sources.recipe(variant)
        self._on_progress = on_progress

    def report(self, phase: EnginePhase, step: int, total: int, message: str) -> None:
        if self._on_progress is not None:
            self._on_progress(EngineProgress(phase, step, total, message))

    async def run(self, staging: Path, prove: Prover | None) -> EngineBinary:
        settings, package = self._settings, self._sources.package
        self.report("preparing", 0, 1, "looking for the tools")
        environ = process.child_environment({"LC_ALL": "C"})
        tools = await check_tools(
            self._variant,
            probe=MachineProbe(environ, settings.guard),
            platform=this_platform(environ),
            sources=self._sources,
            folders=[settings.data_dir],
        )
        (staging / "tmp").mkdir()
        steps = Steps(self._log_file(), staging, environ | _environment(staging), settings.guard)
        steps.environ.update(tools.environment)
        steps.note(f"{self._variant}: {', '.join(tools.notes)}")

        self.report("fetching", 0, 3, "build tools")
        tools_folder = await fetch_tools(steps, tools, self._sources, staging)
        self.report("fetching", 1, 3, f"{package.name} {package.version}")
        archive = await fetch_sources(steps, tools, package, staging)
        self.report("fetching", 2, 3, "unpacking")
        source = staging / "source"
        source.mkdir()
        limits = {"max_files": package.max_files, "max_bytes": package.max_bytes}
        await in_thread(unpack_tar, archive, source, below=package.folder, **limits)
        self.report("fetching", 3, 3, "fetched")

        built = await self._compile(steps, tools, tools_folder, source, staging)
        finished = staging / "finished"
        finished.mkdir()
        executable = built.rename(finished / self._sources.target)

        self.report("proving", 0, 1, "does it run?")
        engine = await self._inspect(executable, steps)
        if prove is not None:
            await prove(engine)
        self.report("installing", 0, 1, "putting it in place")
        await in_thread(write_record, finished, engine)
        target = settings.engines_dir / f"{self._variant}-{package.engine_version}"
        engine = await in_thread(install, finished, target)
        self.report("installing", 1, 1, str(engine.path))
        return engine

    async def _compile(
        self, steps: Steps, tools: BuildTools, tools_folder: Path, source: Path, staging: Path
    ) -> Path:
        cmake = find_tool("cmake", tools.cmake, tools_folder)
        ninja = find_tool("ninja", tools.ninja, tools_folder)
        if cmake is None or ninja is None:
            raise steps.failed("cmake or ninja is not in the package that was fetched")
        # The build starts other builds (of the shader compiler, say) that look for both in PATH.
        own = os.pathsep.join(dict.fromkeys([str(cmake.parent), str(ninja.parent)]))
        steps.environ["PATH"] = f"{own}{os.pathsep}{steps.environ.get('PATH', os.defpath)}"
        options = {
            **self._sources.options,
            **self._recipe.options,
            **tools.options,
            "CMAKE_MAKE_PROGRAM": str(ninja),
        }
        self.report("configuring", 0, 1, "cmake")
        definitions = [f"-D{name}={value}" for name, value in options.items()]
        build = staging / "build"
        done = await steps.run([cmake, "-G", "Ninja", "-S", source, "-B", build, *definitions])
        if not done.ok:
            raise steps.failed("cmake could not configure it", done.lines)
        self.report("configuring", 1, 1, "configured")

        def on_line(line: str) -> None:
            if self._on_progress is not None and (progress := compile_step(line)):
                self._on_progress(progress)

        target, jobs = self._sources.target, parallel_jobs(self._recipe.job_bytes)
        done = await steps.run(
            [cmake, "--build", build, "--target", target, "--parallel", str(jobs)], on_line=on_line
        )
        if not done.ok:
            raise steps.failed("compiling failed", done.lines)
        executable = build / "bin" / target
        if not executable.is_file():
            raise steps.failed(f"the build ended well and made no {target}")
        return executable

    async def _inspect(self, executable: Path, steps: Steps) -> EngineBinary:
        try:
            engine = await inspect_engine(
                executable, settings=self._settings, variant=self._variant, source=_SOURCE, remember=False
            )
        except BinaryError as exc:
            # The staging folder is gone when the message is read.
            reason = exc.message.replace(f" at {executable}", "")
            raise BuildFailedError(
                f"The engine was built and does not work: {reason}",
                hint=f"Everything that was printed is in {steps.log}.",
                details=exc.details | {"log": str(steps.log)},
            ) from exc
        # The pinned sources are what it was built from, whatever it says of itself.
        return dataclasses.replace(engine, version=self._sources.package.engine_version)

    def _log_file(self) -> Path:
        return self._settings.state_dir / f"build-{self._variant}.log"


def _environment(staging: Path) -> dict[str, str]:
    return {
        **PIP_ENVIRONMENT,
        "CLICOLOR_FORCE": "0",
        # CMake may ask git which version this is; a repository around the data folder must not answer.
        "GIT_CEILING_DIRECTORIES": str(staging.parent),
        "NINJA_STATUS": "[%f/%t] ",
        # pip unpacks the sources once more; in here, that is gone with the rest, whatever happens.
        "TMPDIR": str(staging / "tmp"),
    }
