"""`foundry env`: what a run is executed with, here and elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import ExitCode, FoundryError
from pipeline.paths import REPORTS

if TYPE_CHECKING:
    from pipeline.records.environment_differences import Differing

HERE = "here"
_TRAINED = """
    SELECT run_id FROM runs JOIN executions USING (run_id)
    WHERE json_extract(environment, '$.execution.torch') IS NOT NULL ORDER BY created_at DESC LIMIT 1
"""


@click.group(short_help="Show what runs are executed with, and compare it.")
def command() -> None:
    """Show what runs are executed with, and compare it.

    WHERE is `here`; a recorded run, by the beginning of its identity, or `latest`; a file that `show --json` has
    written; or the folder of a project, which stands for its newest training. Variables of the environment and names of
    machines are never read.
    """


@command.command("show", short_help="Show interpreter, processor, code, torch and packages.")
@click.argument("where", default=HERE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, which `compare` reads again.")
@click.option("--requirements", is_flag=True, help="Print the packages for pip install -r.")
def show_command(where: str, as_json: bool, requirements: bool) -> None:
    """Show the environment of WHERE; without it, the one here."""
    from pipeline.files import json_text
    from pipeline.records.environment import requirements as as_requirements

    if as_json and requirements:
        raise click.UsageError("--json and --requirements are two forms of one answer: give one")
    found = _snapshot(where)
    if requirements:
        if found["packages"] is None:
            raise FoundryError(f"which packages {where} has is not known", hint="name a run or a file")
        click.echo(as_requirements(found["packages"]), nl=False)
    else:
        click.echo(json_text(found) if as_json else _text(found), nl=False)


@command.command("compare", short_help="Say how two environments differ.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="[B]", default=HERE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--exit-code", is_flag=True, help="End with 1 when something differs that may change the weights.")
@click.pass_context
def compare_command(context: click.Context, first: str, second: str, as_json: bool, exit_code: bool) -> None:
    """Say how the environments of A and B differ, and what of it may change the weights. Without B, it is the one here.

    What one of the two does not know is left out. The arithmetic itself is compared where both have trained the same
    spec: `execution.arithmetic` is a hash of the first gradients.
    """
    from pipeline.records.environment_differences import differing

    found = differing(_snapshot(first), _snapshot(second))
    if as_json:
        rows = [
            {
                "name": each.name,
                "first": each.first,
                "second": each.second,
                "may_change_weights": each.may_change_weights,
                "reason": each.reason,
            }
            for each in found
        ]
        click.echo(json.dumps({"first": first, "second": second, "differences": rows}, indent=2, ensure_ascii=False))
    else:
        click.echo(_differences_text(found, first, second))
    if exit_code and any(each.may_change_weights for each in found):
        context.exit(ExitCode.PREREQUISITES)


def _snapshot(where: str) -> dict[str, Any]:
    """The environment that a name stands for.

    Raises:
        FoundryError: it stands for nothing, or for a folder in which nothing was run.
    """
    from pipeline.files import read_artefact
    from pipeline.records.environment import snapshot

    if where == HERE:
        return snapshot(Path(), _execution_here())
    path = Path(where)
    if path.is_dir():
        return _of_project(path)
    if path.is_file():
        found: dict[str, Any] = read_artefact(path, "environment", rebuild="foundry env show --json")
        return found
    return _of_run(where)


def _of_run(name: str) -> dict[str, Any]:
    from pipeline.records.environment import snapshot_of_record
    from pipeline.records.experiments import ExperimentDB, UnknownRunError, default_database

    database = default_database()
    unknown = f"{name} is no file, no folder and no run"
    hint = "`foundry runs list` shows the runs; `here` stands for this environment"
    if not database.exists():
        raise FoundryError(unknown, hint=hint)
    with ExperimentDB(database) as opened:
        try:
            return snapshot_of_record(opened.get_record(opened.resolve(name)))
        except UnknownRunError as error:
            raise FoundryError(unknown, hint=hint) from error


def _of_project(folder: Path) -> dict[str, Any]:
    """The environment of the newest training of a project: as it was recorded, else as far as its reports say."""
    from pipeline.files import read_artefact
    from pipeline.records.environment import snapshot_of_record, snapshot_of_report
    from pipeline.records.experiments import ExperimentDB

    database = folder / ".work" / "experiments.db"
    if database.exists():
        with ExperimentDB(database) as opened:
            if trained := opened.rows(_TRAINED):
                return snapshot_of_record(opened.get_record(trained[0]["run_id"]))
    report = folder / REPORTS / "training_metrics.json"
    if not report.is_file():
        raise FoundryError("nothing was trained in this folder", where=str(folder), hint="run `foundry run` there")
    return snapshot_of_report(read_artefact(report, "training_metrics"), folder)


def _execution_here() -> dict[str, Any]:
    """What training would execute on here, as far as no spec decides it."""
    import torch

    from pipeline.training.hardware import usable_processors

    on_cuda = torch.cuda.is_available()
    return {
        "device": "cuda" if on_cuda else "cpu",
        "num_threads": usable_processors(),
        "torch": torch.__version__,
        "torch_commit": torch.version.git_version,
        "cuda": torch.version.cuda,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if on_cuda else None,
    }


def _text(found: dict[str, Any]) -> str:
    from pipeline.commands.run_tables import aligned, figure

    rows = [[name, figure(found[name])] for name in ("toolkit_version", "python", "platform", "processors")]
    for name in ("processor", "git", "execution"):
        rows += [[f"{name}.{key}", _shown(value)] for key, value in (found[name] or {}).items()]
    packages = [list(pair) for pair in (found["packages"] or {}).items()]
    tables = [aligned(["what", "value"], rows), *([aligned(["package", "version"], packages)] if packages else [])]
    return "\n\n".join(tables) + "\n"


def _differences_text(found: list[Differing], first: str, second: str) -> str:
    from pipeline.commands.run_tables import aligned

    may = [each for each in found if each.may_change_weights]
    rest = [each for each in found if not each.may_change_weights]
    parts = []
    if may:
        rows = [[each.name, _shown(each.first), _shown(each.second), each.reason] for each in may]
        parts.append(aligned(["may change the weights", first, second, "why, or what to do"], rows))
    if rest:
        rows = [[each.name, _shown(each.first), _shown(each.second)] for each in rest]
        parts.append(aligned(["changes no weights", first, second], rows))
    if not found:
        return f"of what is known of {first} and {second}, nothing differs"
    if not may:
        parts.append("nothing of this changes the weights")
    return "\n\n".join(parts)


def _shown(value: Any) -> str:
    from pipeline.commands.run_tables import figure

    return " ".join(value) if isinstance(value, list) else figure(value)
