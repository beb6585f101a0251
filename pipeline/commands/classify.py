"""`foundry classify`: the class of a text or of a picture, by a trained model."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.options import model_folder


@click.command(short_help="Say which class a text or a picture belongs to.")
@click.argument("text")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Show so many of the likeliest.")
@model_folder
def command(text: str, top: int, folder: Path) -> None:
    """Print the likeliest classes of TEXT, each with its probability, the likeliest first.

    For a model of pictures, TEXT is the name of a picture file of any size.
    """
    from pipeline.errors import ArtifactError, CorpusError, FoundryError
    from pipeline.models.store import load_model
    from pipeline.tasks.classify import TextClassification
    from pipeline.tasks.table import TASKS
    from pipeline.tasks.vision_classification import VisionClassification

    model, description = load_model(folder)
    task = TASKS[description["task_type"]].open(folder, description["model"])
    if not isinstance(task, TextClassification | VisionClassification):
        message = f"{description['model_name']} has no classes: it was trained for {description['task_type']}"
        raise ArtifactError(message, where=str(folder), hint="take the folder of a model that classifies")
    try:
        probabilities = task.probabilities(model, text)
    except CorpusError as error:  # about what was given here, not about a corpus
        hint = error.hint or "give the name of a picture file"
        raise FoundryError(error.message, where=error.where, hint=hint) from error
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])[:top]
    for name, probability in ranked:
        click.echo(f"{probability:7.2%}  {name}")
