"""The curves of several recorded runs in one picture, and a page that holds them beside what differs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.run_comparison import Comparison, tables
from pipeline.commands.run_tables import short
from pipeline.errors import FoundryError
from pipeline.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
  body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }}
  table {{ border-collapse: collapse; margin: 1rem 0; }}
  th, td {{ border-bottom: 1px solid #ddd; padding: 0.2rem 0.8rem; text-align: left; }}
  svg {{ max-width: 100%; height: auto; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def draw_runs(records: Sequence[Record], names: Sequence[str], target: Path) -> None:
    """Draw metrics of runs over the steps, a panel for each metric.

    Args:
        records: as `ExperimentDB.get_record` returns them.
        names: the metrics.
        target: the ending names the format: .svg, .png or .pdf.

    Raises:
        FoundryError: no run has such a metric by step, matplotlib is not installed, or it does not know the ending.
    """
    write_atomic(target, _image(records, names, target.suffix.removeprefix("."), str(target)))


def page(records: Sequence[Record], comparison: Comparison, names: Sequence[str]) -> str:
    """A web page with a comparison and the curves; it needs nothing else.

    Raises:
        FoundryError: as for `draw_runs`.
    """
    svg = _image(records, names, "svg", "the page").decode()
    runs = [[short(record["run_id"]), record["run_name"], record["created_at"], record["status"]] for record in records]
    shown = [_table(["run", "name", "began", "status"], runs), *(_table(*table) for table in tables(comparison))]
    title = " · ".join(escape(short(record["run_id"])) for record in records)
    return _PAGE.format(title=title, body="\n".join([*shown, svg[svg.index("<svg") :]]))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    return "\n".join(["<table>", f"<tr>{head}</tr>", *(f"<tr>{line}</tr>" for line in lines), "</table>"])


def _image(records: Sequence[Record], names: Sequence[str], form: str, where: str) -> bytes:
    figure = _figure(records, names)
    image = io.BytesIO()
    try:
        figure.savefig(image, format=form, metadata={"Date": None} if form == "svg" else None)
    except ValueError as error:
        hint = "name a file that ends in .svg, .png or .pdf"
        raise FoundryError(str(error).splitlines()[0], where=where, hint=hint) from error
    return image.getvalue()


def _figure(records: Sequence[Record], names: Sequence[str]) -> Figure:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FoundryError("drawing needs matplotlib", hint="pip install 'model-foundry[plots]'") from error

    mpl.rcParams["svg.hashsalt"] = "model-foundry"  # the same runs give the same bytes
    figure = Figure(figsize=(5 * len(names), 3.6), layout="constrained")  # inches
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for record in records:
            points = [
                (row["step"], row["value"])
                for row in record["metrics"]
                if row["metric_name"] == name and row["step"] is not None and row["value"] is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), label=f"{short(record['run_id'])} {record['run_name']}")
        if not axes.lines:
            hint = "`foundry runs show RUN` lists the metrics of a run"
            raise FoundryError(f"none of the runs has the metric {name} by step", hint=hint)
        axes.set(title=name, xlabel="optimizer step")
        axes.legend(fontsize="x-small")
    return figure
