"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.paths import OUTPUT_OF

model_folder = click.option(
    "--model",
    "folder",
    type=click.Path(path_type=Path),
    default=OUTPUT_OF["train"],
    show_default=True,
    help="A model folder.",
)
