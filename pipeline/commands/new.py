"""`foundry new`: a complete, commented spec from defaults, a preset or a template."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.errors import FoundryError

_STDOUT = Path("-")


@click.command(short_help="Write a complete, commented spec from a preset or template.")
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write; - for standard output. Default specs/NAME.yaml.",
)
@click.option("--from", "base", metavar="PRESET|TEMPLATE", help="What to start from: see `foundry presets`, or a file.")
@click.option(
    "--set", "settings", multiple=True, metavar="PATH=VALUE", help="A setting, as training.epochs=3. Repeatable."
)
@click.option(
    "--param", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of the template. Repeatable."
)
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
def command(
    name: str,
    output: Path | None,
    base: str | None,
    settings: tuple[str, ...],
    parameters: tuple[str, ...],
    force: bool,
) -> None:
    """Write a spec called NAME with every setting in it, each with a comment.

    Without --from it has the defaults. Nothing is written unless the whole spec is right, and no file is overwritten
    without --force. VALUE is written as in the file: 1e-3, true, null, [a, b], {kind: files, paths: [texts]}.
    """
    from pipeline.spec.edit import parse_assignment
    from pipeline.spec.presets import author
    from pipeline.spec.schema import schema_of
    from pipeline.spec.write import modeline, write_yaml

    spec = author(name, base, _parameters(parameters), [parse_assignment(text) for text in settings])
    target = output or Path("specs") / f"{name}.yaml"
    source = f" --from {base}" if base else ""
    heading = [*modeline(target, spec.kind), "", f"Written by `foundry new {name}{source}`."]
    text = write_yaml(spec.to_dict(), schema_of(spec.kind), heading=heading if heading[0] else heading[1:])
    if target == _STDOUT:
        click.echo(text, nl=False)
        return
    _write(target, text, force=force)
    for warning in spec.warnings:
        click.echo(str(warning), err=True)
    click.echo(f"{target}: written")
    steps = ("check", "plan") if spec.kind == "experiment" else ("check",)
    click.echo("next: " + ", ".join(f"foundry {step} {target}" for step in steps))


def _parameters(texts: tuple[str, ...]) -> dict[str, str]:
    given = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise FoundryError(f"`--param {text}` gives no value", hint="write it like --param epochs=3")
        given[key] = value
    return given


def _write(target: Path, text: str, *, force: bool) -> None:
    from pipeline.files import write_atomic

    if target.exists() and not force:
        raise FoundryError("the file exists already", where=str(target), hint="add --force, or name another with -o")
    try:
        write_atomic(target, text)
    except OSError as error:
        raise FoundryError(f"the file cannot be written: {error.strerror}", where=str(target)) from error
