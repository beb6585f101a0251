"""Pictures of what tier 2 found, one for each of its checks, as PNG."""

# ruff: noqa: PLC0415 - matplotlib is an extra, imported where something is drawn

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import write_atomic
from pipeline.tiers.report import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = 2.6  # of a panel: four of them are as wide as a page
_PANELS_A_ROW = 4


@dataclass(frozen=True)
class Drawing:
    """A picture: its title, and what puts it into an empty figure."""

    title: str
    draw: Callable[[Figure, Mapping[str, Any]], None]


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_pictures(results: Iterable[Result], folder: Path) -> list[tuple[str, str]]:
    """Draw a picture for each result that has one.

    Args:
        results: of the checks.
        folder: where the pictures go, each under the name of its check.

    Returns:
        Title and file name of each.
    """
    from matplotlib.figure import Figure

    drawn = []
    for result in results:
        drawing, figures = DRAWINGS.get(result.check.name), result.outcome.figures
        if drawing is None or not figures:
            continue
        figure = Figure(layout="constrained")
        drawing.draw(figure, figures)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=96, metadata={"Software": None})  # the same figures, the same bytes
        name = f"{result.check.name}.png"
        write_atomic(folder / name, data.getvalue())
        drawn.append((drawing.title, name))
    return drawn


def _attention(figure: Figure, figures: Mapping[str, Any]) -> None:
    """The mean map of each layer, and the entropy of every head."""
    maps = figures["maps"]
    columns = min(_PANELS_A_ROW, len(maps) + 1)
    rows = -(-(len(maps) + 1) // columns)
    figure.set_size_inches(_INCHES * columns, _INCHES * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for number, (panel, weights) in enumerate(zip(panels, maps, strict=False)):
        panel.imshow(weights, cmap="Blues", vmin=0)
        panel.set_title(f"layer {number}", fontsize="small")
        panel.set(xlabel="sees", ylabel="token")
    last = panels[len(maps)]
    shown = last.imshow(figures["entropy"], cmap="Greens", vmin=0, aspect="auto")
    last.set_title("entropy (nats)", fontsize="small")
    last.set(xlabel="head", ylabel="layer")
    figure.colorbar(shown, ax=last)
    for panel in panels[len(maps) + 1 :]:
        panel.set_axis_off()


def _attribution(figure: Figure, figures: Mapping[str, Any]) -> None:
    """What each token or pixel adds to the answer."""
    figure.set_size_inches(_INCHES * 3, _INCHES * 1.2)
    panel = figure.subplots()
    if "map" in figures:
        largest = max(abs(value) for row in figures["map"] for value in row) or 1.0
        shown = panel.imshow(figures["map"], cmap="RdBu", vmin=-largest, vmax=largest)
        figure.colorbar(shown, ax=panel)
        return
    shares, names = figures["shares"], figures["names"]
    panel.bar(range(len(shares)), shares, color=["#3a6a4a" if share >= 0 else "#b3402a" for share in shares])
    panel.set_xticks(range(len(shares)), names, rotation=60, ha="right", fontsize="x-small")
    panel.set_ylabel("added to the answer's logit", fontsize="small")


def _robustness(figure: Figure, figures: Mapping[str, Any]) -> None:
    """How many answers stay, and how far their distributions move."""
    figure.set_size_inches(_INCHES * 3, _INCHES * 1.2)
    kept, moved = figure.subplots(1, 2)
    noise = [level["noise"] for level in figures["levels"]]
    kept.plot(noise, [level["agreement"] for level in figures["levels"]], marker="o", color="#3a6a4a")
    kept.set(xlabel="noise (deviations)", ylabel="answers that stay", ylim=(0, 1.02))
    moved.plot(noise, [level["kl"] for level in figures["levels"]], marker="o", color="#b3402a")
    moved.set(xlabel="noise (deviations)", ylabel="KL (nats)", ylim=(0, None))


DRAWINGS: Mapping[str, Drawing] = {
    "attention_patterns": Drawing("What the heads look at", _attention),
    "attribution": Drawing("What one answer rests on", _attribution),
    "robustness": Drawing("Answers under noise", _robustness),
}
