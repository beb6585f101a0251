"""`foundry prove-resume`: does a killed run end like one that was left alone?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.paths import DEFAULT_SPEC, OUTPUT_OF, REPORTS

CERTIFICATE = REPORTS / "resume_certificate.json"


@click.command(short_help="Kill a training run again and again and compare how it ends.")
@click.argument("spec", type=click.Path(path_type=Path), default=DEFAULT_SPEC)
@click.option("--kills", type=click.IntRange(min=1), default=10, show_default=True, help="How often it is killed.")
@click.option("--steps", type=click.IntRange(min=2), help="Optimizer steps of the run, instead of the spec's.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the moments of the kills.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=CERTIFICATE,
    show_default=True,
    help="The certificate; a page to read goes beside it, with the ending .md.",
)
def command(spec: Path, kills: int, steps: int | None, seed: int, output: Path) -> None:
    """Train the model of SPEC twice and compare: once left alone, once killed again and again and started anew.

    Compared are weights, optimizer, random states, place in the data and the next batch. Kills are SIGKILL, at random
    moments and while a checkpoint is being written.

    Needs the results of the tokenizer stage (`foundry run`). Works in a folder of its own, and writes a certificate.
    Ends with 0 when everything is equal, bit for bit, and with 4 when it is not.
    """
    import tempfile

    from pipeline import console
    from pipeline.commands.proof import prove
    from pipeline.errors import ExitCode
    from pipeline.files import verify_manifest, write_artefact, write_atomic
    from pipeline.paths import work_dir
    from pipeline.spec import load_spec, require_supported

    checked = load_spec(spec)
    require_supported(checked, "train")
    encoded = OUTPUT_OF["tokenizer"]
    verify_manifest(encoded, rebuild="foundry run")
    work_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work_dir(), prefix="proof-") as scratch:
        certificate = prove(
            checked,
            encoded=encoded,
            kills=kills,
            steps=steps,
            seed=seed,
            scratch=Path(scratch).resolve(),
            compiled=work_dir() / "compiled",
            shown=lambda label, total: console.Progress(label, total, "steps"),
        )
    write_artefact(output, "resume_certificate", certificate)
    write_atomic(output.with_suffix(".md"), page(certificate))
    click.echo(page(certificate))
    if not certificate["equal"]:
        raise click.exceptions.Exit(ExitCode.TRAINING)


def page(certificate: dict[str, Any]) -> str:
    """The certificate as Markdown."""
    execution = certificate["execution"]
    kills = certificate["kills"]
    verdict = "Equal, bit for bit." if certificate["equal"] else "NOT EQUAL."
    how = f"{execution['precision']}, {'compiled' if execution['compile_mode'] else 'eager'}"
    saves = sum(kill["during"] == "save" for kill in kills)
    rows = [
        f"| {name} | `{item['straight'][:16]}…` | `{item['killed'][:16]}…` | {'yes' if item['equal'] else '**no**'} |"
        for name, item in certificate["items"].items()
    ]
    reached = ", ".join(str(kill["after_step"]) for kill in kills)
    resumed = ", ".join(map(str, certificate["resumed_after_steps"])) or "none"
    run = (
        f"{certificate['steps']:,} optimizer steps, killed {len(kills)} times ({saves} of them while a checkpoint was "
        f"being written), after the steps {reached}; went on after {resumed} (a run that is killed before its first "
        "checkpoint starts anew)."
    )
    where = (
        f"On {execution['device']} ({how}, {execution['num_threads']} threads, {execution['cpu_capability']}, torch "
        f"{execution['torch']}); spec {certificate['spec_hash'][:16]}…; seed of the kills {certificate['seed']}."
    )
    heading = f"# Resume of {certificate['experiment']}: {verdict}"
    table = ["| item | left alone | killed | equal |", "|---|---|---|---|", *rows]
    return "\n".join([heading, "", run, "", where, "", *table, ""])
