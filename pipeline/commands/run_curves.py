"""The curves of several states in one picture, and a page that holds them beside what differs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.compare_states import State
from pipeline.commands.run_comparison import Comparison, tables
from pipeline.commands.web_page import html_table, web_page, without_prolog
from pipeline.errors import FoundryError
from pipeline.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_USUAL = ("train/loss", "val/loss")


def draw_states(states: Sequence[State], names: Sequence[str], target: Path) -> None:
    """Draw metrics over the steps, a panel for each metric.

    Args:
        states: as they are compared.
        names: the metrics; none: those that are usual.
        target: the ending names the format: .svg, .png or .pdf.

    Raises:
        FoundryError: no state has such a metric by step, matplotlib is not installed, or it does not know the ending.
    """
    write_atomic(target, _image(states, names or _USUAL, target.suffix.removeprefix("."), str(target)))


def page(states: Sequence[State], comparison: Comparison, names: Sequence[str]) -> str:
    """A web page with a comparison and the curves; it needs nothing else. Without any history it has no picture.

    Raises:
        FoundryError: as for `draw_states`, for metrics that are named.
    """
    parts = [html_table(["compared", "what"], [[state.heading, state.about] for state in states])]
    parts += [html_table(*table) for table in tables(comparison)]
    if names or any(_points(state, name) for state in states for name in _USUAL):
        svg = _image(states, names or _USUAL, "svg", "the page").decode()
        parts.append(without_prolog(svg))
    return web_page(" · ".join(state.heading for state in states), "\n".join(parts))


def _image(states: Sequence[State], names: Sequence[str], form: str, where: str) -> bytes:
    figure = _figure(states, names)
    image = io.BytesIO()
    try:
        figure.savefig(image, format=form, metadata={"Date": None} if form == "svg" else None)
    except ValueError as error:
        hint = "name a file that ends in .svg, .png or .pdf"
        raise FoundryError(str(error).splitlines()[0], where=where, hint=hint) from error
    return image.getvalue()


def _figure(states: Sequence[State], names: Sequence[str]) -> Figure:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FoundryError("drawing needs matplotlib", hint="pip install 'model-foundry[plots]'") from error

    mpl.rcParams["svg.hashsalt"] = "model-foundry"  # the same states give the same bytes
    figure = Figure(figsize=(5 * len(names), 3.6), layout="constrained")  # inches
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for state in states:
            if points := _points(state, name):
                axes.plot(*zip(*points, strict=True), label=f"{state.heading}: {state.about}")
        if not axes.lines:
            hint = "docs/records.md says which metrics there are"
            raise FoundryError(f"none of them has the metric {name} by step", hint=hint)
        axes.set(title=name, xlabel="optimizer step")
        axes.legend(fontsize="x-small")
    return figure


def _points(state: State, name: str) -> list[tuple[int, float]]:
    """Step and value, wherever the metric has both."""
    return [
        (row["step"], row["value"])
        for row in state.metrics
        if row["metric_name"] == name and row["step"] is not None and row["value"] is not None
    ]
