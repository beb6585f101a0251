"""`foundry bundle`: a run as one file, checked anywhere, and repeated in another clone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import console
from pipeline.paths import work_dir

if TYPE_CHECKING:
    from pipeline.bundles.comparison import Verdict
    from pipeline.bundles.content import Bundle
    from pipeline.bundles.subject import Subject

_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group(short_help="Pack a run into one file, check one, repeat one.")
def command() -> None:
    """Pack a run into one file, check such a file, and repeat its run in another clone.

    docs/bundles.md says what is in one, and what is refused.
    """


@command.command(short_help="Pack a run into one file.")
@click.argument("run", metavar="[RUN|MODEL]", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file. [default: repro_<run>.zip]")
@click.option("--data", is_flag=True, help="Also pack what the corpus was built from.")
@click.option("--weights", is_flag=True, help="Also pack the weights.")
def pack(run: str | None, output: Path | None, data: bool, weights: bool) -> None:
    """Pack a run: what it was, on which code, with which packages, what it left and how good that is.

    RUN is the beginning of a recorded identity, or `latest`; MODEL a registered model, name:tag or name@version.
    Without either, it is what stands in this folder. The same run gives the same bytes in every clone.

    Refused is what holds something that looks like a credential, or a path of this machine. Variables of the
    environment are never packed.
    """
    from pipeline.bundles.content import Bundle
    from pipeline.bundles.pack import pack_subject
    from pipeline.bundles.subject import find_subject
    from pipeline.files import sha256_file

    subject = find_subject(run)
    path = pack_subject(subject, output, data=data, weights=weights, plots=_plots(subject))
    with Bundle(path) as bundle:  # whoever gets it will read it so
        click.echo("\n".join(_described(bundle)))
    click.echo(f"sha256      {sha256_file(path)}")


@command.command(short_help="Check a bundle, without running anything of it.")
@_FILE
def verify(file: Path) -> None:
    """Check every byte of a bundle: its layout, its index, each hash, each document by its schema.

    Nothing is unpacked, and nothing of it runs. That a bundle is sound does not say who made it: compare its SHA-256
    with the one that was printed when it was packed.
    """
    from pipeline.bundles.content import Bundle
    from pipeline.files import sha256_file

    with Bundle(file) as bundle:
        click.echo("\n".join(_described(bundle)))
    click.echo(f"sha256      {sha256_file(file)}")


@command.command(short_help="Repeat the run of a bundle, and compare.")
@_FILE
@click.option(
    "--into", type=click.Path(path_type=Path), help="A new folder for the clone. [default: .work/replays/<bundle>]"
)
@click.option("--with-patch", is_flag=True, help="Let the patch of the bundle run: code of whoever packed it.")
@click.option(
    "--here/--new",
    default=None,
    help="Run with the packages that are installed here, or make an environment with those of the bundle. "
    "[default: here if the versions are the same]",
)
@click.pass_context
def replay(context: click.Context, file: Path, into: Path | None, with_patch: bool, here: bool | None) -> None:
    """Repeat the run of a bundle in a clean clone of this repository, and compare every hash.

    What runs is the commit that the bundle names, as this repository has it; a patch in the bundle runs only with
    --with-patch. Ends with 0 if everything is equal, else with the code of the first stage whose result differs.
    """
    from pipeline.bundles.content import Bundle
    from pipeline.bundles.replay import Plan
    from pipeline.bundles.replay import replay as repeat
    from pipeline.files import sha256_file

    with Bundle(file) as bundle:
        folder = into or work_dir() / "replays" / sha256_file(file)[:12]
        verdict = repeat(bundle, Plan(folder, with_patch=with_patch, here=here))
    console.say(f"repeated in {folder}")
    click.echo("\n".join(_compared(verdict)))
    context.exit(verdict.exit_code)


def _plots(subject: Subject) -> dict[str, bytes]:
    """The curves of the run, where it has some and they can be drawn."""
    from pipeline.commands.curves import draw_curves
    from pipeline.errors import FoundryError

    if "history.csv" not in subject.reports:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        drawn = Path(scratch) / "run.svg"
        try:
            draw_curves(subject.reports["history.csv"], drawn)
        except FoundryError as error:
            console.warn(f"the bundle has no plots: {error.message}")
            return {}
        return {drawn.name: drawn.read_bytes()}


def _described(bundle: Bundle) -> Iterator[str]:
    from pipeline.bundles.code import changed_by
    from pipeline.bundles.content import PATCH, WEIGHTS

    index, names = bundle.index, bundle.names
    size = sum(file["bytes"] for file in index["files"].values()) / 1e6
    patched = changed_by(bundle.read(PATCH))
    yield f"{bundle.path}: {len(names)} files, {size:,.1f} MB, all as they were packed"
    yield f"experiment  {index['name']}, spec {index['spec_hash'][:16]}…"
    yield f"run         {index['run_id'] or index['training_run_id']}" + (
        f", {index['model']}" if index["model"] else ""
    )
    yield f"code        {index['code']['commit']}" + (f", with changes to {', '.join(patched)}" if patched else "")
    packages = len(index["environment"]["packages"])
    yield f"executed    Python {index['environment']['python']}, {packages} packages, Model Foundry {_version(bundle)}"
    yield f"weights     {bundle.weights_sha256}" + (
        "" if any(Path(name).match(WEIGHTS) for name in names) else ", not packed"
    )
    data = any(name.startswith(("data/", "downloads/")) for name in names)
    yield f"data        {'packed' if data else 'not packed'}"


def _version(bundle: Bundle) -> str:
    version: str = bundle.stages["train"]["toolkit_version"]
    return version


def _compared(verdict: Verdict) -> Iterator[str]:
    from pipeline.paths import STAGES

    yield f"{'stage':<11} {'compared':<10} equal"
    for stage in STAGES:
        rows = [row for row in verdict.rows if row.stage == stage]
        if rows:
            yield f"{stage:<11} {len(rows):<10} {sum(row.equal for row in rows)}"
    for row in verdict.rows:
        if not row.equal:
            yield f"differs: {row.name}: {_short(row.packed)} in the bundle, {_short(row.replayed)} here"
    if verdict.equal:
        yield f"equal: the weights are {verdict.weights_sha256}"
    else:
        yield from (f"executed otherwise: {words}" for words in verdict.execution)


def _short(sha256: str) -> str:
    return sha256 if " " in sha256 else f"{sha256[:16]}…"
