"""`foundry presets`: what a new spec can start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipeline.spec.presets import Estimate, Preset, Template


@click.group(short_help="List presets and templates, or show one.", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List what `foundry new NAME --from …` can start from: presets with what they cost, templates with their holes.

    Parameters are exact. Hours, 0.1 at least, and the peak of memory are those of training on the corpus that needs no
    files, at the pace of two cores of a server processor; `foundry plan` works them out for your machine and your text.
    """
    if context.invoked_subcommand is not None:
        return
    from pipeline.spec.presets import PRESETS, TEMPLATES, Preset, Template, names, read

    presets = [found for name in names(PRESETS) if isinstance(found := read(name), Preset)]
    rows = [(preset.name, *_cost(preset), preset.description) for preset in presets]
    click.echo(_table(("preset", "parameters", "hours", "MB", "good for"), sorted(rows, key=_by_size)))
    click.echo()
    templates = [found for name in names(TEMPLATES) if isinstance(found := read(name), Template)]
    taken = [(each.name, each.kind, ", ".join(_holes(each)) or "-", each.description) for each in templates]
    click.echo(_table(("template", "kind", "needs", "good for"), taken))


@command.command(short_help="Show one preset or template.")
@click.argument("name")
def show(name: str) -> None:
    """Show the file of the preset or template NAME, with what it costs or takes on top."""
    from pipeline.spec.presets import Preset, read

    found = read(name)
    lines = _facts(found) if isinstance(found, Preset) else _taken(found)
    click.echo("".join(f"# {line}\n" for line in lines) + found.path.read_text(encoding="utf-8"), nl=False)


def _facts(preset: Preset) -> list[str]:
    from pipeline.console import duration
    from pipeline.spec.presets import FLOPS_PER_SECOND, estimate_of, expand

    cost = estimate_of(expand(preset))
    return [
        f"{preset.title}: {preset.description}",
        f"{cost.parameters:,} parameters; {cost.tokens:,} tokens of training on the corpus that needs no files,",
        f"{cost.flops:.1e} operations: {duration(3600 * cost.hours())} at {FLOPS_PER_SECOND:.0e} a second;",
        f"{_megabytes(cost)} MB of memory at its peak",
    ]


def _taken(template: Template) -> list[str]:
    from pipeline.spec.write import inline

    lines = [f"becomes a document of kind {template.kind}; --param takes:"]
    for name, taken in template.parameters.items():
        default = f"default {inline(taken['default'])}" if "default" in taken else "needed"
        lines.append(f"  {name} ({taken['type']}, {default}): {taken['title']}")
    return lines


def _cost(preset: Preset) -> tuple[str, str, str]:
    from pipeline.spec.presets import estimate_of, expand

    cost = estimate_of(expand(preset))
    return f"{cost.parameters:,}", f"{max(cost.hours(), 0.1):.1f}", _megabytes(cost)


def _megabytes(cost: Estimate) -> str:
    return "?" if cost.memory_mb is None else f"{cost.memory_mb:,.0f}"


def _by_size(row: tuple[str, ...]) -> int:
    return int(row[1].replace(",", ""))


def _holes(template: Template) -> list[str]:
    return [name for name, taken in template.parameters.items() if "default" not in taken]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell, numbers to the right, the last one as it is."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head) - 1)]
    right = [all(row[column][0].isdigit() for row in rows) for column in range(len(head) - 1)]
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=False)
        ]
        lines.append("  ".join([*cells, row[-1]]))
    return "\n".join(lines)
