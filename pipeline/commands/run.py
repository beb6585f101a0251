"""`foundry run`: build what specs/experiment.yaml describes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import click

from pipeline import console
from pipeline.errors import EXIT_CODE_OF, ArtifactError, ExitCode, FoundryError, Interrupted, Preempted
from pipeline.files import read_artefact
from pipeline.paths import DEFAULT_SPEC, OUTPUT_OF, REPORTS, STAGES, status_file

_POLL_SECONDS = 0.1  # how soon a signal or a new stage is noticed
_REPORT = Path(".work/status/dvc.json")
# What DVC says when it cannot go on, and what to do about it.
_DVC_HINTS = {
    "unable to acquire lock": "another dvc command is at work here: wait for it, or end it",
    "is busy, it is being blocked by": "another dvc command is at work here: wait for it, or end it",
    "are missing from": f"every section stands in {DEFAULT_SPEC}, if only as `section: {{}}`: add the missing one",
    "dvc.yaml": "dvc.yaml was changed: `git diff dvc.yaml` shows how, `git checkout dvc.yaml` takes it back",
    "no space left on device": "free some space and run the same command again",
}


@click.command(short_help="Build what the spec describes.")
@click.option("--from", "first", type=click.Choice(STAGES), help="Run this stage and all after it, changed or not.")
@click.option("--force", is_flag=True, help="Run every stage (with --from: from there on), changed or not.")
@click.option("--exact", is_flag=True, help="Refuse to go on with an interrupted training that executed otherwise.")
def command(first: str | None, force: bool, exact: bool) -> None:
    """Build what specs/experiment.yaml describes: corpus, tokenizer, model, validation, exports.

    Only what changed since the last run is built again; what was built before comes from the cache. An interrupted
    run goes on where it stopped when the same command is given again. The exit code says which stage failed.

    Training that goes on with other threads, another kind of processor or another torch ends with weights that differ
    in their last bits. It warns of that; with --exact it refuses (exit code 4).
    """
    from pipeline.commands.prerequisites import require_all
    from pipeline.commands.summary import summarize
    from pipeline.records.recording import recorded

    started = time.monotonic()
    require_all()
    run = uuid.uuid4().hex
    before = locked()
    if force and first is None:
        first = STAGES[0]
    with recorded(run, lambda _: outcomes(run, before)):
        supervise(plan(first), run=run, exact=exact)
    became = outcomes(run, before)
    ran = {row["stage"]: row["seconds"] for row in became if row["outcome"] == "built"}
    restored = [row["stage"] for row in became if row["outcome"] == "restored"]
    if "export" in restored:
        write_health_markdown()
    click.echo(summarize(ran=ran, restored=restored, seconds=time.monotonic() - started))


def write_health_markdown() -> None:
    """Write the health report as Markdown again, after its JSON came from the cache. See dvc.yaml for why."""
    from pipeline.export.report import markdown
    from pipeline.files import write_atomic

    report = REPORTS / "health_report.json"
    write_atomic(report.with_suffix(".md"), markdown(read_artefact(report, "health_report")))


def outcomes(run: str, before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What became of each stage in a run that has ended, in their order.

    Args:
        run: the identity of the run.
        before: what dvc.lock recorded before it.

    Returns:
        For each `stage` its `outcome` (built, restored, unchanged, failed, not reached), and `seconds` and `exit_code`
        where it ran.
    """
    after = locked()
    rows = []
    failed = False
    for stage in STAGES:
        status = status_of(stage, run)
        if status is not None:
            done = status["phase"] == "done"
            failed |= not done
            row = ("built" if done else "failed", status["seconds"], status["code"])
        elif failed:
            row = ("not reached", None, None)
        else:
            row = ("unchanged" if before.get(stage) == after.get(stage) else "restored", None, None)
        rows.append(dict(zip(("stage", "outcome", "seconds", "exit_code"), (stage, *row), strict=True)))
    return rows


class Plan(NamedTuple):
    """Command lines for DVC, in order, and the stages whose cached outputs are checked first."""

    commands: list[list[str]]
    mend: list[str]


def plan(first: str | None, last: str | None = None) -> Plan:
    """What DVC is asked to do: build what changed, or build everything from stage `first` on.

    Args:
        first: the stage; None: what changed.
        last: where to stop if `first` is None; None: at the end.
    """
    if first is not None:
        forced = STAGES[STAGES.index(first) :]
        before = STAGES[: STAGES.index(first)]
        commands = _up_to(before[-1]) if before else []
        return Plan([*commands, ["repro", "--force", "--downstream", first]], list(forced))
    if changed := changed_sources():
        console.say(f"{changed} is not what the corpus was built from: building it again")
        return Plan([["repro", "--force", "--single-item", "corpus"], *_up_to(last)], [])
    return Plan(_up_to(last), [])


def _up_to(stage: str | None) -> list[list[str]]:
    """What brings a stage, or all of them, up to date with those before it.

    DVC does not know the folder that training may start from: the spec names it, not dvc.yaml. So the model is trained
    again from here when the weights there have changed, and DVC is kept from restoring one that began with others.
    """
    target = [] if stage is None else [stage]
    if (stage is not None and stage not in STAGES[STAGES.index("train") :]) or _start_of_spec() is None:
        return [["repro", *target]]
    force = []
    if changed := changed_start():
        console.say(f"the weights in {changed} are not those that the model began with: training it again")
        force = ["--force"]
    return [["repro", "tokenizer"], ["repro", "--single-item", "--no-run-cache", *force, "train"], ["repro", *target]]


def changed_sources() -> str:
    """The first of the user's own text or picture files that is not what the corpus was built from; empty if none.

    DVC does not know these files: the spec names them, not dvc.yaml. Where they cannot be read it is `dataset.source`:
    the corpus stage then says what is wrong with them.
    """
    from pipeline.data.pictures import PICTURE_SOURCES, files_of_source
    from pipeline.data.sources import own_files
    from pipeline.files import MANIFEST, sha256_file
    from pipeline.spec import load_spec

    source = load_spec(DEFAULT_SPEC).section("dataset")["source"]
    manifest = OUTPUT_OF["corpus"] / MANIFEST
    if not manifest.is_file():
        return ""
    try:
        recorded: dict[str, str] = read_artefact(manifest, "manifest")["inputs"]
    except FoundryError:
        return ""  # the next stage verifies the corpus, and says how to mend it
    try:
        of_pictures = source["kind"] in PICTURE_SOURCES
        files = files_of_source(source, Path()) if of_pictures else own_files(source, Path())
        now = {name: sha256_file(path) for name, path in files.items()}
    except (FoundryError, OSError):
        return "dataset.source"
    changed = (name for name in recorded.keys() | now.keys() if recorded.get(name) != now.get(name))
    return min(changed, default="") if now else ""


def changed_start() -> str:
    """The folder that training starts from, if its weights are not those that the model began with; else empty."""
    from pipeline.files import MANIFEST
    from pipeline.spec.project import WEIGHTS
    from pipeline.stages.door import start_folder

    path, manifest = _start_of_spec(), OUTPUT_OF["train"] / MANIFEST
    if path is None or not manifest.is_file():
        return ""
    try:
        began = read_artefact(manifest, "manifest")["inputs"].get("start")
        there = read_artefact(Path(start_folder(path)) / MANIFEST, "manifest")["files"].get(WEIGHTS, {}).get("sha256")
    except (FoundryError, OSError):
        return ""  # a folder that has gone is not needed as long as the model stands; else the stage says so
    return path if there != began else ""


def _start_of_spec() -> str | None:
    from pipeline.spec import load_spec

    path: str | None = load_spec(DEFAULT_SPEC).section("training")["resume_from_checkpoint"]
    return path


def supervise(plan: Plan, *, run: str, exact: bool = False) -> None:
    """Run DVC on a plan, pass signals on to the stage that is at work, and wait for the end.

    Args:
        plan: what DVC is to do.
        run: the identity of this `foundry run`.
        exact: training must not go on with a run that executed otherwise.

    Raises:
        FoundryError: a stage failed, DVC failed, or the run was stopped; `exit_code` is the one to end with.
    """
    from pipeline.commands.prerequisites import environment_bin

    request = {"parent": os.getpid(), "run": run, "report": str(_REPORT), "mend": plan.mend, "commands": plan.commands}
    environment = {
        **os.environ,
        "PATH": f"{environment_bin()}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "FOUNDRY_RUN": run,
        **({"FOUNDRY_EXACT": "1"} if exact else {}),  # not on DVC's command line, which is part of what it caches by
        "FOUNDRY_PREFIX": sys.prefix,
        # DVC starts stages in $SHELL, which a service account may have set to a program that runs nothing.
        "SHELL": "/bin/sh",
    }
    arguments = [sys.executable, "-m", "pipeline.commands.repro", json.dumps(request)]
    with _signals() as received:
        # In a session of its own, Ctrl-C reaches `foundry run` alone, which passes it on to the stage exactly once.
        with subprocess.Popen(arguments, env=environment, stdin=subprocess.DEVNULL, start_new_session=True) as process:
            _watch(process, received, run)
        if received:
            raise _stopped(received[0], run)
        if process.returncode != 0:
            raise _failure(run, process.returncode)


def _watch(process: subprocess.Popen[bytes], received: Sequence[int], run: str) -> None:
    """Wait for DVC; hand a received signal to the stage at work, and to DVC when none is."""
    told: set[int] = set()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
        if process.returncode is not None:
            return
        if len(received) > 1:
            process.kill()  # the stage dies with it
        elif received:
            at_work = [pid for stage in STAGES if (pid := _running(stage, run)) is not None]
            for pid in at_work or [process.pid]:
                if pid not in told:
                    told.add(pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, received[0] if at_work else signal.SIGINT)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask for an end instead of dying from them."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        # A terminal that goes away (SIGHUP) is no different from being asked to stop.
        received.append(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        if len(received) == 1:
            console.say("stopping: the stage saves what it has (once more to stop at once)")

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # What is ignored stays ignored: that is how `nohup` asks to go on.
    old = {number: signal.signal(number, note) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def status_of(stage: str, run: str) -> dict[str, Any] | None:
    """What a stage said about itself in this run; None when it did not run in it."""
    try:
        status: dict[str, Any] = read_artefact(status_file(stage), "stage_status")
    except (OSError, ArtifactError):
        return None
    return status if status["run"] == run else None


def _running(stage: str, run: str) -> int | None:
    status = status_of(stage, run)
    return int(status["pid"]) if status is not None and status["phase"] == "running" else None


def _stopped(number: int, run: str) -> FoundryError:
    kind = Interrupted if number == signal.SIGINT else Preempted
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    stage = next((stage for stage in STAGES if (status := status_of(stage, run)) and status["phase"] != "done"), None)
    message = f"stopped by {name}" + (f" in the {stage} stage" if stage else "")
    return kind(message, hint="run the same command again to go on")


def _failure(run: str, returncode: int) -> FoundryError:
    """Work out what failed: a stage that said so, a stage that was killed, or DVC itself."""
    for stage in STAGES:
        status = status_of(stage, run)
        if status is not None and status["phase"] == "failed":
            return _error(f"{stage} stage: {status['message']}", status["hint"], ExitCode(status["code"]))
        if status is not None and status["phase"] == "running":
            message = f"{stage} stage: the process was killed before it could say why; memory may have run out"
            return _error(
                message, "run the same command again: training goes on from its last checkpoint", EXIT_CODE_OF[stage]
            )
    try:
        outcome = read_artefact(_REPORT, "dvc_outcome")
        errors = outcome["errors"] if outcome["run"] == run else []
    except (OSError, ArtifactError):
        errors = []
    if not errors:
        killed = f"by signal {-returncode}" if returncode < 0 else f"with {returncode}"
        return _error(f"dvc ended {killed} and said nothing", "run the same command again", ExitCode.PREREQUISITES)
    message = "; ".join(errors)
    hint = next((hint for phrase, hint in _DVC_HINTS.items() if phrase in message.lower()), "")
    return _error(f"dvc: {message}", hint or "`dvc repro --verbose` shows more", ExitCode.PREREQUISITES)


def _error(message: str, hint: str, code: ExitCode) -> FoundryError:
    error = FoundryError(message, hint=hint)
    error.exit_code = code
    return error


def locked() -> dict[str, Any]:
    """What dvc.lock records for each stage."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe").load(Path("dvc.lock"))
        return dict(content["stages"])
    except (OSError, YAMLError, TypeError, KeyError):
        return {}
