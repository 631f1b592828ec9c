"""What ``sdmanager models`` says about models, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .output import megabytes, printable

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence
    from pathlib import Path

    from sdmanager.models import (
        Catalog,
        CatalogModel,
        CatalogOption,
        FileFacts,
        InstalledModel,
        ModelDefaults,
    )

_WIDTH: Final = 14
_LABEL: Final = 17
_EMPTY: Final = "No model is installed. 'sdmanager models list --all' shows what can be pulled."


def installed_lines(models: Sequence[InstalledModel], states: Mapping[str, str]) -> Iterator[str]:
    """The installed models, one a line.

    Args:
        models: In order.
        states: By name: ``ok``, ``missing`` or ``changed``.
    """
    if not models:
        yield _EMPTY
        return
    width = max(len(model.name) for model in models)
    for model in models:
        state = "" if states[model.name] == "ok" else f"  files {states[model.name]}: see 'models verify'"
        family = model.family or "unknown"
        yield printable(
            f"{model.name:<{width}}  {family:<15} {_quantisation(model):<7} {megabytes(model.size_bytes):>8}  "
            f"{model.installed_at:%Y-%m-%d}  {model.origin}{state}"
        )


def _quantisation(model: InstalledModel) -> str:
    """Of the file that draws: a text encoder may be larger, and be in another one."""
    main = {"model", "diffusion_model"}
    return next((file.quantisation for file in model.files if file.role in main), None) or "?"


def catalogue_lines(catalog: Catalog, installed: Container[str]) -> Iterator[str]:
    """All that can be pulled, one option a line.

    Args:
        catalog: What there is.
        installed: Names of those that are installed, and come from where the catalogue has them.
    """
    for model in catalog.models.values():
        use = ", not for commercial use" if model.non_commercial else ""
        yield printable(f"{model.name:<{_WIDTH}} {model.title}; {model.licence}{use}")
        for index, option in enumerate(model.options):
            name = model.name if index == 0 else f"{model.name}:{option.name}"
            marks = [
                *(["installed"] if name in installed else []),
                *(["asks for your consent"] if option.gated else []),
            ]
            shown = f":{option.name}" if index else f":{option.name} (default)"
            yield f"  {shown:<20} {megabytes(option.size_bytes):>8}  {', '.join(marks)}".rstrip()


def facts_lines(path: Path, facts: FileFacts) -> Iterator[str]:
    """What the header of a file says."""
    yield _line("File", str(path))
    yield _line("What", facts.kind.value)
    yield _line("Family", facts.family or "unknown")
    yield _line("Format", f"{facts.format.value}, {facts.quantisation or 'unknown quantisation'}")
    yield _line("Size", f"{megabytes(facts.size)}, {facts.parameters / 1e9:.2f} billion parameters")
    if facts.parts:
        yield _line("Parts", ", ".join(sorted(part.value for part in facts.parts)))


def model_lines(
    name: str,
    installed: InstalledModel | None,
    state: str,
    known: tuple[CatalogModel, CatalogOption] | None,
) -> Iterator[str]:
    """What is known of a model.

    Args:
        name: Of the model.
        installed: Its record, or None.
        state: Of its files: ``ok``, ``missing`` or ``changed``.
        known: Its place in the catalogue, or None.
    """
    yield _line("Name", name)
    if known is not None:
        model, option = known
        yield _line("Title", model.title)
        yield _line(
            "Licence", f"{model.licence}{' (not for commercial use)' if model.non_commercial else ''}"
        )
        others = ", ".join(f":{other.name}" for other in model.options if other is not option)
        yield _line("Option", f"{option.name}{f'; others: {others}' if others else ''}")
    if installed is None:
        if known is not None:
            yield _line("Family", known[0].family)
            yield from _defaults(known[0].defaults)
            for file in known[1].files:
                yield _line(file.role.value, f"{megabytes(file.bytes)}  {file.repo}/{file.path}")
            yield _line("Installed", f"no: 'sdmanager models pull {name}' ({megabytes(known[1].size_bytes)})")
        return
    yield _line("Family", installed.family or "unknown")
    yield from _defaults(installed.defaults)
    for part in installed.files:
        facts = [megabytes(part.size), *([part.quantisation] if part.quantisation else [])]
        yield _line(part.role.value, f"{', '.join(facts)}  {part.path}")
        if part.sha256:
            yield _line("", f"sha256 {part.sha256}")
    yield _line("Installed", f"{installed.installed_at:%Y-%m-%d %H:%M} UTC, {installed.origin}")
    if state != "ok":
        yield _line("Files", f"{state}: 'sdmanager models verify {name}' says which")


def demo_lines(
    name: str, known: tuple[CatalogModel, CatalogOption] | None, size: int | None
) -> Iterator[str]:
    """What is known of the demo model.

    Args:
        name: Of it.
        known: Its place in the catalogue.
        size: Bytes; None while it is not made.
    """
    yield _line("Name", name)
    if known is not None:
        yield _line("Title", known[0].title)
        yield _line("Licence", known[0].licence)
        yield _line("Family", known[0].family)
        yield from _defaults(known[0].defaults)
    made = "not yet" if size is None else f"yes ({megabytes(size)})"
    yield _line("Made", f"{made}; it is made here when it is first used, and never fetched")


def facts_json(path: Path, facts: FileFacts) -> dict[str, object]:
    """What the header of a file says, for programs."""
    return {
        "path": str(path),
        "kind": facts.kind,
        "role": facts.role,
        "family": facts.family,
        "format": facts.format,
        "quantisation": facts.quantisation,
        "size_bytes": facts.size,
        "parameters": facts.parameters,
        "tensors": facts.tensors,
        "parts": sorted(facts.parts),
        "takes_guidance": facts.takes_guidance,
    }


def catalogue_json(model: CatalogModel) -> dict[str, object]:
    """A model of the catalogue, for programs."""
    return {
        "name": model.name,
        "title": model.title,
        "family": model.family,
        "licence": model.licence,
        "non_commercial": model.non_commercial,
        "defaults": model.defaults.as_fields(),
        "options": [
            {
                "name": option.name,
                "gated": option.gated,
                "size_bytes": option.size_bytes,
                "files": [
                    {"role": file.role, "repo": file.repo, "path": file.path, "size_bytes": file.bytes}
                    for file in option.files
                ],
            }
            for option in model.options
        ],
    }


def _defaults(defaults: ModelDefaults) -> Iterator[str]:
    fields = defaults.as_fields()
    if fields:
        yield _line(
            "Draws with", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in fields.items())
        )


def _line(name: str, text: str) -> str:
    return f"{name:<{_LABEL}}{printable(text)}"
