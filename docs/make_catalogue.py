"""Writes docs/catalogue.md from the catalogue and the families: `python docs/make_catalogue.py`."""

from __future__ import annotations

from pathlib import Path

from sdmanager.models import CatalogModel, Family, load_catalog, traits_of

HEADER = """# The catalogue, and the families

Made by `docs/make_catalogue.py`.

## Models that can be pulled by name

Sizes are of all parts together; the first option is what the bare name means. Licences are the publishers'.

| name | option | size | licence | draws with |
| --- | --- | --- | --- | --- |
"""

FAMILIES = """
## Families

What a model of each family needs besides its diffusion model, which a whole model file may have in it; what is drawn
with where neither the caller nor the catalogue says anything (a distilled model that is given by its path is known by
its name, such as "turbo"); and the flags that go with the family.

| family | parts | draws with | besides |
| --- | --- | --- | --- |
"""


def _defaults(fields: dict[str, int | float | str]) -> str:
    names = {"cfg_scale": "cfg scale"}
    size = f"{fields.pop('width')}x{fields.pop('height')}" if "width" in fields else ""
    parts = [f"{names.get(name, name)} {value:g}" if isinstance(value, int | float) else f"{name} {value}"
             for name, value in fields.items()]  # fmt: skip
    return ", ".join([*parts, *([size] if size else [])])


def _models() -> list[str]:
    rows = []
    for model in load_catalog().models.values():
        for index, option in enumerate(model.options):
            size = f"{option.size_bytes / 1e9:.1f} GB" if option.files else "made here"
            facts = (_licence(model), _defaults(model.defaults.as_fields())) if index == 0 else ("", "")
            rows.append(
                f"| {model.name if index == 0 else ''} | `{option.name}` | {size} | {facts[0]} | {facts[1]} |"
            )
    return rows


def _licence(model: CatalogModel) -> str:
    return f"{model.licence}{' (not for commercial use)' if model.non_commercial else ''}"


def _families() -> list[str]:
    rows = []
    for family in Family:
        traits = traits_of(family)
        if not traits.draws_pictures:
            continue
        besides = [
            *(["flash attention with CUDA and ROCm"] if traits.conditioned_by_llm else []),
            *(["`guidance`, of models that take it"] if traits.takes_guidance else []),
            *([f"flow shift {traits.flow_shift:g}"] if traits.flow_shift else []),
            *([f"previews with {traits.tae}"] if traits.tae else []),
        ]
        parts = ", ".join(sorted(role.value for role in traits.parts))
        defaults = _defaults(traits.defaults.as_fields())
        rows.append(f"| {traits.title} (`{family}`) | {parts} | {defaults} | {'; '.join(besides)} |")
    return rows


def page() -> str:
    """The whole page."""
    return HEADER + "\n".join(_models()) + "\n" + FAMILIES + "\n".join(_families()) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("catalogue.md").write_text(page(), encoding="utf-8")
