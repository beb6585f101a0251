"""The report of a sweep as one web page with its pictures: history, parallel coordinates, importance."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from pipeline.commands.web_page import html_table, web_page, without_prolog
from pipeline.errors import FoundryError
from pipeline.sweeps.report import Summary, number_text, tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_TICKS = 7  # values of a dimension that all get a tick
_COLORS = "viridis"  # the best is dark


def page(found: Summary) -> str:
    """A web page that needs nothing else.

    Raises:
        FoundryError: matplotlib is not installed.
    """
    shown = [f"<h2>{escape(title)}</h2>\n{html_table(headings, rows)}" for title, headings, rows in tables(found)]
    image = io.StringIO()
    _figure(found).savefig(image, format="svg", metadata={"Date": None})
    body = "\n".join([shown[0], without_prolog(image.getvalue()), *shown[1:]])
    return web_page(f"Sweep {found.name}", body)


def _figure(found: Summary) -> Figure:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FoundryError("drawing needs matplotlib", hint="pip install 'model-foundry[plots]'") from error

    mpl.rcParams["svg.hashsalt"] = "model-foundry"  # the same sweep gives the same bytes
    figure = Figure(figsize=(11, 7.5), layout="constrained")  # inches
    axes = figure.subplot_mosaic([["history", "importance"], ["coordinates", "coordinates"]])
    _draw_history(axes["history"], found)
    _draw_importance(axes["importance"], found)
    _draw_coordinates(axes["coordinates"], found)
    return figure


def _draw_history(axes: Axes, found: Summary) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers, values, best = zip(*found.history, strict=True)
    axes.plot(numbers, values, "o", color="#9db7d5", label="trial")
    axes.step(numbers, best, where="post", color="#b3402a", label="best so far")
    axes.set(title="History", xlabel="trial", ylabel=found.objective)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="x-small")


def _draw_importance(axes: Axes, found: Summary) -> None:
    axes.set(title="Importance", xlim=(0, 1))
    if not found.importance:
        axes.text(0.5, 0.5, "too few trials, or one setting only", ha="center", transform=axes.transAxes)
        axes.set(yticks=[])
        return
    names = list(found.importance)[::-1]
    axes.barh(names, [found.importance[name] for name in names], color="#3a6a4a")


def _draw_coordinates(axes: Axes, found: Summary) -> None:
    """A vertical line for each setting and the objective, and a line across them for each completed trial."""
    from matplotlib import colormaps

    columns = [[trial.values[path] for trial in found.best] for path in found.space]
    objectives = [trial.objective for trial in found.best]
    heights = [_heights(column) for column in [*columns, objectives]]
    ranks = range(len(found.best))
    for rank in reversed(ranks):  # the best on top
        shade = colormaps[_COLORS](rank / max(1, len(ranks) - 1))
        axes.plot(range(len(heights)), [column[rank] for column in heights], color=shade, linewidth=1.5)
    for position, (column, height) in enumerate(zip([*columns, objectives], heights, strict=True)):
        axes.axvline(position, color="#999", linewidth=0.8)
        for value, at in _ticks(column, height):
            axes.annotate(number_text(value), (position, at), xytext=(4, 2), textcoords="offset points", fontsize=7)
    axes.set(title="Parallel coordinates (the darkest is the best)", yticks=[])
    axes.set_xticks(range(len(heights)), [*found.space, found.objective], fontsize="small")


def _heights(column: Sequence[Any]) -> list[float]:
    """Where the values of a dimension stand on its line, from 0 to 1."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
        low, high = min(column), max(column)
        wide = low > 0 and high / low > 10  # over an order of magnitude, equal factors get equal space
        places = [math.log(value) if wide else float(value) for value in column]
    else:
        known = sorted({number_text(value) for value in column})
        places = [float(known.index(number_text(value))) for value in column]
    low, high = min(places), max(places)
    return [0.5 if high == low else (place - low) / (high - low) for place in places]


def _ticks(column: Sequence[Any], heights: Sequence[float]) -> list[tuple[Any, float]]:
    """Values that are written beside a line, and where: all if they are few, else the ends."""
    known = {number_text(value): (value, at) for value, at in zip(column, heights, strict=True)}
    by_height = sorted(known.values(), key=lambda pair: pair[1])
    return by_height if len(by_height) <= _MOST_TICKS else [by_height[0], by_height[-1]]
