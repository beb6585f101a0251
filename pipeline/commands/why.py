"""`foundry why`: what a setting is, what it means, and where its value came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pipeline.errors import FoundryError

if TYPE_CHECKING:
    from pipeline.spec.named import Named
    from pipeline.spec.provenance import Facts

_LABEL = 10  # columns


@click.command(short_help="Explain a setting: its value, origin, meaning and effect.")
@click.argument("spec")
@click.argument("path", default="")
def command(spec: str, path: str) -> None:
    """Explain the setting PATH of SPEC: its value and where that came from, what it takes, what it means and changes.

    SPEC is what `foundry diff` takes, usually a file; PATH is dotted, like training.learning_rate. A section instead
    of a setting explains all that is in it in a table; so does no PATH for the whole of SPEC.
    """
    from pipeline.spec.layout import keys_of
    from pipeline.spec.named import open_named
    from pipeline.spec.provenance import facts, require_setting

    named = open_named(spec)
    settings = named.spec.leaves()
    if path:
        require_setting(keys_of(path), named.document.schema, named.document.values)
        path = path.partition("[")[0]  # what stands in a list is a part of that setting
        inside = [name for name in settings if name == path or name.startswith(f"{path}.")]
        if not inside:
            raise FoundryError(f"`{path}` is not among the settings of {spec}", hint=_other_kind(named, path))
        settings = inside
    if settings == [path]:
        click.echo("\n".join(_explained(facts(named.spec, named.document, path))))
    else:
        click.echo(_table([facts(named.spec, named.document, name) for name in settings]))


def _other_kind(named: Named, path: str) -> str:
    """Why a setting that the schema knows is not there: it belongs to another branch."""
    from pipeline.spec.schema import schema_at

    keys = path.split(".")
    owner = schema_at(keys[:-1], named.document.schema)
    takers = [kind for kind, names in owner.get("x-branches", {}).items() if keys[-1] in names]
    return f"only {owner['x-discriminator']} {' and '.join(takers)} takes it" if takers else ""


def _explained(about: Facts) -> Iterator[str]:
    from pipeline.spec.write import inline

    schema = about.schema
    rows = {
        "written": about.written if about.written != inline(about.value) else "",
        "from": str(about.origin),
        "default": inline(schema["default"]) if "default" in schema else "none: it must be given",
        "takes": about.takes,
        "means": schema.get("description", ""),
        "changes": about.effect,
        "read by": ", ".join(schema.get("x-stages", ())) or "no stage",
        "idle": about.idle,
        "rules": f"\n{' ' * (_LABEL + 2)}".join(about.rules),
    }
    yield f"{about.path}: {inline(about.value)}"
    yield from (f"  {name:<{_LABEL}}{text}" for name, text in rows.items() if text)


def _table(rows: list[Facts]) -> str:
    from pipeline.spec.write import inline

    cells = [(about.path, _short(inline(about.value)), about.effect, str(about.origin)) for about in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    return "\n".join(
        f"{path:<{widths[0]}}  {value:<{widths[1]}}  {effect:<{widths[2]}}  {origin}"
        for path, value, effect, origin in cells
    )


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"  # a long list would push the other columns off the screen
