"""`foundry explain`: what does this code mean?"""

from __future__ import annotations

import click


@click.command(short_help="Explain a code that `foundry check` shows.")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain a code that `foundry check` shows, with an example that has the problem and the same example mended.

    CODE is one like E0201; without it, all codes are listed.
    """
    from pipeline.spec.pages import explained, listed_codes

    click.echo(listed_codes() if code is None else explained(code))
