"""`foundry ledger`: check that the ledger of a training is whole."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.paths import OUTPUT_OF


@click.group(short_help="Check the ledger of a training.")
def command() -> None:
    """Check the ledger of a training: what each of its steps came to, line by line, each bound to those before it.

    docs/ledger.md explains what is in it; `foundry diff-runs` compares two.
    """


@command.command()
@click.argument("what", metavar="[FILE|FOLDER|RUN]", default=str(OUTPUT_OF["train"]))
def verify(what: str) -> None:
    """Check that every line follows from the one before, that no step is missing, and that the end is the model.

    FILE is a ledger by itself. FOLDER is a model folder or a project; RUN a recorded run or a registered model: their
    weights must be those that the ledger ends with. Without it, artifacts/model.

    Ends with 1 at the first line that was changed, cut, taken out or moved, and names it.
    """
    from pipeline.errors import ArtifactError
    from pipeline.records.ledger import verify_ledger, verify_ledger_of
    from pipeline.records.trained import find_training

    if Path(what).is_file():
        ledger, weights = verify_ledger(Path(what)), ""
    else:
        path = find_training(what).ledger
        if path is None:
            hint = "train it again: foundry run --from train --force"
            raise ArtifactError("there is no ledger: an earlier version trained this model", where=what, hint=hint)
        ledger, weights = verify_ledger_of(path.parent), ", and the weights are those it ends with"
    tensors = len(ledger.begin["tensors"])
    click.echo(f"{ledger.path} is whole: {len(ledger.steps):,} steps, {tensors} tensors{weights}")
