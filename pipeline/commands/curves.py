"""A picture of a run: loss, learning rate, gradient norm and throughput over the steps of reports/history.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import FoundryError
from pipeline.files import read_artefact

_PANELS = {  # column of history.csv → title
    "learning_rate": "Learning rate",
    "gradient_norm": "Gradient norm (L2, before clipping)",
    "tokens_per_second": "Throughput (tokens per second)",
}


def draw_curves(history: Path, target: Path) -> None:
    """Draw a history into an image file.

    Args:
        history: history.csv of a run.
        target: the ending names the format: .svg, .png or .pdf.

    Raises:
        FoundryError: there is no history or it is damaged, matplotlib is not installed, or it does not know the ending.
    """
    rows = _rows(history)
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        hint = "pip install 'model-foundry[plots]'"
        raise FoundryError("drawing an image needs matplotlib", hint=hint) from error

    mpl.rcParams["svg.hashsalt"] = "model-foundry"  # the same history gives the same bytes
    figure = Figure(figsize=(10, 3.6), layout="constrained")  # inches: the width of a README at 96 dots an inch
    axes = figure.subplot_mosaic([["loss", "learning_rate"], ["loss", "gradient_norm"], ["loss", "tokens_per_second"]])
    loss = axes["loss"]
    loss.plot(*_column(rows, "loss"), color="#9db7d5", label="training")
    loss.plot(*_column(rows, "val_loss"), color="#b3402a", marker="o", label="validation")
    loss.set(title="Loss", xlabel="optimizer step", ylabel="nats per target")
    loss.legend()
    for name, title in _PANELS.items():
        panel = axes[name]
        panel.plot(*_column(rows, name), color="#3a6a4a")
        panel.set_title(title, fontsize="small")
        panel.tick_params(labelsize="x-small")
        panel.set_ylim(bottom=0)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
    except ValueError as error:
        hint = "name a file that ends in .svg, .png or .pdf"
        raise FoundryError(str(error).splitlines()[0], where=str(target), hint=hint) from error


def _rows(history: Path) -> list[dict[str, Any]]:
    if not history.exists():
        raise FoundryError("there is no run to draw yet", where=str(history), hint="run `foundry run` first")
    rows: list[dict[str, Any]] = read_artefact(history, "history")
    return rows


def _column(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the rows that have one."""
    kept = [(row["step"], row[name]) for row in rows if row[name] is not None]
    return [step for step, _ in kept], [value for _, value in kept]
