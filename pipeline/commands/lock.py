"""`foundry lock`: what a spec comes down to, and its hash."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import FoundryError
from pipeline.paths import DEFAULT_SPEC

if TYPE_CHECKING:
    from pipeline.spec.lock import Lock


@click.command(short_help="Print the settings that shape the result, and their hash.")
@click.argument("spec", default=str(DEFAULT_SPEC))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the lock to this file.")
@click.option("--check", "recorded", type=click.Path(path_type=Path), help="Compare with this lock; 1 if it differs.")
def command(spec: str, output: Path | None, recorded: Path | None) -> None:
    """Print the lock of SPEC: every setting that shapes the result, resolved and in one spelling, and their hash.

    SPEC is what `foundry diff` takes: a file, a preset, a git revision, `-` or a report; without it,
    specs/experiment.yaml. Specs with the same hash train the same model. The hash stands as spec_hash in the reports
    and in the manifests of what was built. Left out are the name, the notes, and what changes only speed, reports or
    the screen.
    """
    from pipeline.files import write_atomic
    from pipeline.spec.lock import lock_of
    from pipeline.spec.named import open_named

    lock = lock_of(open_named(spec).spec)
    if recorded is not None:
        _compare(spec, lock, recorded)
        click.echo(f"{spec}: the lock in {recorded} holds ({lock.hash[:16]}…)")
    if output is not None:
        write_atomic(output, lock.text)
        click.echo(f"{output}: {lock.hash}")
    if recorded is None and output is None:
        click.echo(lock.text, nl=False)


def _compare(spec: str, lock: Lock, recorded: Path) -> None:
    from pipeline.spec.difference import NOT_THERE, shown
    from pipeline.spec.lock import read_lock

    old = read_lock(recorded)
    changed = [f"kind {old.kind} → {lock.kind}"] if old.kind != lock.kind else []
    for name in sorted(old.settings.keys() | lock.settings.keys()):
        before, after = (settings.get(name, NOT_THERE) for settings in (old.settings, lock.settings))
        if before != after:
            changed.append(f"{name} {shown(before)} → {shown(after)}")
    if changed:
        raise FoundryError(
            f"{spec} is not what {recorded} locks: {'; '.join(changed)}",
            hint=f"take the change back, or write the lock again: foundry lock {spec} -o {recorded}",
        )
