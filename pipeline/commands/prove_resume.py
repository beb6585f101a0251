"""`foundry prove-resume`: does a killed run end like one that was left alone?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.paths import DEFAULT_SPEC, OUTPUT_OF, REPORTS

if TYPE_CHECKING:
    from pipeline.spec import Spec

CERTIFICATE = REPORTS / "resume_certificate.json"
_POINTS = {  # key of the certificate → the page's words for it
    "mid_epoch": "in the middle of an epoch",
    "mid_accumulation": "in the middle of a step, after a backward pass and before the optimizer",
    "inside_a_checkpoint_write": "inside the writing of a checkpoint",
    "twice_in_one_epoch": "in the same epoch as another kill",
}


@click.command(short_help="Kill a training run again and again and compare how it ends.")
@click.argument("spec", type=click.Path(path_type=Path), default=DEFAULT_SPEC)
@click.option("--kills", type=click.IntRange(min=1), default=10, show_default=True, help="How often it is killed.")
@click.option("--steps", type=click.IntRange(min=2), help="Optimizer steps of the run, instead of the spec's.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the points of the kills.")
@click.option("--precision", help="Instead of the spec's: 32-true, bf16-mixed, …")
@click.option("--compile/--eager", "compiled", default=None, help="With torch.compile or without it.")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Any other setting instead of the spec's.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=CERTIFICATE,
    show_default=True,
    help="The certificate; a page to read goes beside it, with the ending .md.",
)
def command(
    spec: Path,
    kills: int,
    steps: int | None,
    seed: int,
    precision: str | None,
    compiled: bool | None,
    settings: tuple[str, ...],
    output: Path,
) -> None:
    """Train the model of SPEC twice and compare: once left alone, once killed again and again and started anew.

    Kills are SIGKILL, in turn at a random moment, in the middle of a step, and inside the writing of a checkpoint.
    Compared are weights, optimizer, random states, place in the data, all counters and losses, the learning rate of
    every step and the next batch.

    Needs the results of the tokenizer stage (`foundry run`). Works in a folder of its own, and writes a certificate,
    which says what was set otherwise than in SPEC. Ends with 0 when everything is equal, bit for bit, and with 4 when
    it is not; then it says which step differs first, and leaves both runs for you to look at.
    """
    import shutil
    import tempfile

    from pipeline import console
    from pipeline.commands.proof import Proof
    from pipeline.errors import ExitCode
    from pipeline.files import verify_manifest, write_artefact, write_atomic
    from pipeline.paths import work_dir
    from pipeline.spec import require_supported

    asked = [*settings]
    asked += [] if steps is None else [f"training.max_steps={steps}"]
    asked += [] if precision is None else [f"hardware.precision={precision}"]
    asked += [] if compiled is None else [f"hardware.compile_mode={'default' if compiled else 'null'}"]
    proven, overrides = overridden(spec, asked)
    require_supported(proven, "train")
    encoded = OUTPUT_OF["tokenizer"]
    verify_manifest(encoded, rebuild="foundry run")
    work_dir().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=work_dir(), prefix="proof-")).resolve()
    keep = False
    try:
        proof = Proof(
            proven, encoded, work_dir() / "compiled", lambda label, total: console.Progress(label, total, "steps")
        )
        straight = proof.leave_alone(folder / "straight")
        killed = proof.kill_again_and_again(folder / "killed", straight, kills=kills, seed=seed)
        certificate = proof.certificate(straight, killed, seed=seed, overrides=overrides)
        keep = not certificate["equal"]
    finally:
        if not keep:
            shutil.rmtree(folder)
    write_artefact(output, "resume_certificate", certificate)
    write_atomic(output.with_suffix(".md"), page(certificate))
    click.echo(page(certificate))
    if keep:
        console.warn(f"the runs ended differently; both are kept in {folder}")
        raise click.exceptions.Exit(ExitCode.TRAINING)


def overridden(spec: Path, assignments: list[str]) -> tuple[Spec, dict[str, Any]]:
    """A spec with some settings changed in memory, checked like any other, and what was changed.

    Raises:
        FoundryError: an assignment cannot be read, or the spec is wrong with it.
    """
    from pipeline.spec.document import parse_document, read_document
    from pipeline.spec.edit import edit, parse_assignment
    from pipeline.spec.load import build_spec

    wanted = [parse_assignment(text) for text in assignments]
    document = read_document(spec)
    text = edit(document, spec.read_text(encoding="utf-8-sig"), wanted)
    changed = build_spec(parse_document(text.encode(), str(spec)))
    return changed, {".".join(map(str, assignment.keys)): assignment.value for assignment in wanted}


def page(certificate: dict[str, Any]) -> str:
    """The certificate as Markdown."""
    execution, kills = certificate["execution"], certificate["kills"]
    verdict = "Equal, bit for bit." if certificate["equal"] else "NOT EQUAL."
    overrides = ", ".join(f"`{name}: {value}`" for name, value in certificate["overrides"].items())
    minutes = {name: f"{seconds / 60:.1f} min" for name, seconds in certificate["seconds"].items()}
    facts = {
        "steps": f"{certificate['steps']:,} in {certificate['epochs']} epochs",
        "micro-batches of a step": certificate["accumulation"],
        "set otherwise than in the spec": overrides or "nothing",
        "device": f"{execution['device']} ({execution['gpu'] or execution['cpu_capability']})",
        "precision": execution["precision"],
        "compilation": execution["compile_mode"] or "none (eager)",
        "threads": execution["num_threads"],
        "torch": execution["torch"],
        "toolkit": certificate["toolkit_version"],
        "spec lock": f"`{certificate['spec_hash']}`",
        "code": f"`{certificate['code_hash']}`",
        "seed of the kills": certificate["seed"],
        "time": f"{minutes['straight']} left alone, {minutes['killed']} with {len(kills)} kills",
        "went on after steps": ", ".join(map(str, certificate["resumed_after_steps"])) or "none",
        "first step with other figures": _first(certificate["first_difference"]),
    }
    hit = {words: certificate["points"][name] or "none" for name, words in _POINTS.items()}
    items = [
        (name, _short(item["straight"]), _short(item["killed"]), "yes" if item["equal"] else "**no**")
        for name, item in certificate["items"].items()
    ]
    places = [(number, kill["after_step"], kill["epoch"], kill["place"]) for number, kill in enumerate(kills, start=1)]
    parts = [
        f"# Resume of {certificate['experiment']}: {verdict}",
        (
            f"Trained twice: left alone, and killed {len(kills)} times with SIGKILL and started anew each time.\n"
            "A run that is killed before its first checkpoint starts from nothing. Hashes are SHA-256."
        ),
        _table(("what", "value"), facts.items()),
        "## Every item at the end",
        _table(("item", "left alone", "killed", "equal"), items),
        "## Where it was killed",
        _table(("point", "kills"), hit.items()),
        _table(("kill", "after step", "epoch", "place"), places),
    ]
    return "\n\n".join(parts) + "\n"


def _first(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return "none"
    figures = ", ".join(f"{name} {two['killed']} for {two['straight']}" for name, two in difference["figures"].items())
    after = difference["resumed_after"]
    began = "by the process that began the run" if after is None else f"by the process that went on after step {after}"
    return f"{difference['step']}, taken {began}: {figures}"


def _short(digest: str | None) -> str:
    return "missing" if digest is None else f"`{digest[:16]}…`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in cells)
