"""`foundry classify`: the class of a text or of a picture, or the labels of a picture, by a trained model."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.options import model_folder

_CLASSES = 5  # that are shown unless told otherwise


@click.command(short_help="Say which class or labels a text or a picture has.")
@click.argument("text")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    help="Show so many of the likeliest. Default: 5 classes, or the labels that reach the threshold.",
)
@model_folder
def command(text: str, top: int | None, folder: Path) -> None:
    """Print the likeliest classes of TEXT, each with its probability, the likeliest first.

    For a model of pictures, TEXT is the name of a picture file of any size. A model that gives a picture any number of
    labels prints each whose probability reaches `task.label_threshold` of the spec that it was trained by.
    """
    from pipeline import console
    from pipeline.errors import ArtifactError, CorpusError, FoundryError
    from pipeline.models.store import load_model
    from pipeline.tasks.classify import TextClassification
    from pipeline.tasks.picture_task import PictureTask
    from pipeline.tasks.table import TASKS
    from pipeline.tasks.vision_multilabel import VisionMultilabel

    model, description = load_model(folder)
    task = TASKS[description["task_type"]].task(folder, description["model"], description)
    if not isinstance(task, TextClassification | PictureTask):
        message = f"{description['model_name']} has no classes: it was trained for {description['task_type']}"
        raise ArtifactError(message, where=str(folder), hint="take the folder of a model that classifies")
    try:
        probabilities = task.probabilities(model, text)
    except CorpusError as error:  # about what was given here, not about a corpus
        hint = error.hint or "give the name of a picture file"
        raise FoundryError(error.message, where=error.where, hint=hint) from error
    if isinstance(task, VisionMultilabel) and top is None:
        shown = task.given(probabilities)
    else:
        shown = sorted(probabilities.items(), key=lambda item: -item[1])[: top or _CLASSES]
    for name, probability in shown:
        click.echo(f"{probability:7.2%}  {name}")
    if not shown:
        console.say("no label reaches the threshold of the model; --top 5 shows the likeliest")
