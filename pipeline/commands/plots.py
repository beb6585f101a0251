"""`foundry plots`: the curves of a run as one web page that needs no network."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import click

from pipeline.errors import FoundryError
from pipeline.paths import ARTIFACTS, REPORTS

PAGE = ARTIFACTS / "plots" / "index.html"
_SCRIPTS = Path(".dvc/plots-offline")
_SCRIPT = re.compile(r'<script src="[^"]*/([\w.-]+\.js)"></script>')


@click.command(short_help="Draw the curves of a run into one HTML page.")
@click.argument("revs", nargs=-1)
@click.option("--image", type=click.Path(path_type=Path), help="Draw the last run into this .svg, .png or .pdf.")
def command(revs: tuple[str, ...], image: Path | None) -> None:
    """Draw loss, learning rate, gradient norm and throughput of the last run into one HTML file.

    With REVS (commits, branches, experiments) their curves are drawn beside those of this folder. The page holds
    all that it needs: it opens without a network and can be sent to anyone.
    """
    from pipeline.commands.ask_dvc import ask
    from pipeline.commands.curves import draw_curves
    from pipeline.files import write_atomic

    if image is not None:
        if revs:
            raise click.UsageError("--image draws the last run alone; leave out either it or REVS")
        draw_curves(REPORTS / "history.csv", image)
        click.echo(image)
        return
    verb = ["diff", *revs, "workspace"] if revs else ["show"]
    ARTIFACTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ARTIFACTS, prefix=".plots-") as scratch:
        ask("plots", *verb, "--out", scratch)
        drawn = Path(scratch) / "index.html"
        if not drawn.is_file():
            raise FoundryError("there is nothing to draw yet", hint="run `foundry run` first")
        write_atomic(PAGE, self_contained(drawn.read_text(encoding="utf-8"), _SCRIPTS))
    click.echo(PAGE.resolve().as_uri())


def self_contained(page: str, scripts: Path) -> str:
    """Put the scripts that a page names into the page.

    Raises:
        FoundryError: one of them is not in the folder `scripts`.
    """

    def inline(match: re.Match[str]) -> str:
        script = scripts / match[1]
        try:
            return f"<script>\n{script.read_text(encoding='utf-8')}\n</script>"
        except FileNotFoundError as error:
            hint = f"bring it back with: git checkout {scripts}"
            raise FoundryError("the script is missing", where=str(script), hint=hint) from error

    return _SCRIPT.sub(inline, page)
