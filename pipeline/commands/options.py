"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.paths import OUTPUT_OF


def _model_folder(_context: click.Context, _option: click.Parameter, text: str) -> Path:
    from pipeline.records.registry import model_at

    return model_at(text)


model_folder = click.option(
    "--model",
    "folder",
    metavar="DIR|MODEL",
    callback=_model_folder,
    default=OUTPUT_OF["train"].as_posix(),
    show_default=True,
    help="A model folder, or a registered model: name:tag or name@version.",
)
