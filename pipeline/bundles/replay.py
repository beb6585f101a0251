"""Replaying: the code of a bundle put up in a clean folder, its stages run there, and every hash compared."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pipeline import console
from pipeline.errors import ExitCode, FoundryError, Preempted
from pipeline.files import write_atomic
from pipeline.paths import DEFAULT_SPEC, registry_dir, work_dir
from pipeline.spec.schema import schema_of
from pipeline.spec.write import write_yaml

from .code import Code, changed_by, put_up
from .comparison import DESCRIPTION, Verdict, compare
from .content import PATCH, Bundle
from .errors import BundleError
from .packages import build, differing

# Variables that would let the replay find what is not in the bundle, or run other code than that of the clone.
_NOT_PASSED = ("FOUNDRY_", "DVC_", "GIT_", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONHOME")


@dataclass(frozen=True)
class Plan:
    """How a bundle is to be replayed.

    Attributes:
        into: the folder of the clone, which must not exist.
        with_patch: whether the patch of the bundle may run.
        here: run with the packages that are installed here (True), with those of the bundle (False), or with those
            here if they are the same (None).
    """

    into: Path
    with_patch: bool = False
    here: bool | None = None


def replay(bundle: Bundle, plan: Plan) -> Verdict:
    """Repeat the run of a bundle with the code of this repository, and compare.

    What runs is the commit that the bundle names, from this repository; a patch runs only if the plan says so.

    Args:
        bundle: the bundle, in whose project's repository the current folder is.
        plan: how.

    Raises:
        BundleError: it cannot be replayed here. Nothing is left of the folder.
        FoundryError: a stage failed; the folder stays, and `exit_code` is that of the stage.
    """
    patch = bundle.read(PATCH)
    if patch and not plan.with_patch:
        hint = f"read it (unzip -p {bundle.path} {PATCH}), and add --with-patch if you trust it"
        message = f"the bundle has a patch, which would run: it changes {', '.join(changed_by(patch))}"
        raise BundleError(message, where=str(bundle.path), hint=hint)
    if plan.into.exists():
        raise BundleError("a replay needs a new folder", where=str(plan.into), hint="name another with --into")
    other = differing(bundle.index["environment"]["packages"])
    for name, (there, here) in other.items():
        console.say(f"{name} is {there} in the bundle, and {here} here")
    with _removed_on_failure(plan.into):
        named = bundle.index["code"]
        code = Code(named["commit"], named["folder"], patch)
        plan.into.parent.mkdir(parents=True, exist_ok=True)
        project = put_up(code, repository=Path(), target=plan.into.absolute())
        _require_project(project, code)
        _place(bundle, project)
        python = Path(sys.executable)
        if plan.here is False or (plan.here is None and other):
            console.say("making an environment with the packages of the bundle (minutes)")
            packages = bundle.index["environment"]["packages"]
            python = build(plan.into.absolute() / ".venv", project, packages)
    _run(bundle, project, python)
    return compare(bundle, project)


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _require_project(project: Path, code: Code) -> None:
    # Without them Python would take the toolkit that is installed, and the replay would say nothing of the commit.
    if not all((project / name).is_file() for name in ("dvc.yaml", "pipeline/__init__.py", "pipeline/__main__.py")):
        hint = "replay in a clone of the project that the bundle was packed in"
        raise BundleError(f"the commit {code.commit} holds no Model Foundry project", where=code.folder, hint=hint)


def _place(bundle: Bundle, project: Path) -> None:
    """Put the spec and the data where the stages look for them. No file of the clone but the spec is replaced."""
    text = write_yaml(bundle.spec.to_dict(), schema_of(bundle.spec.kind), comments=False)
    write_atomic(project / DEFAULT_SPEC, text)
    for name, member in bundle.below("data").items():
        target = project / name
        if target.is_file() and not target.is_symlink() and target.read_bytes() == bundle.read(member):
            continue  # git holds it as well
        if not _is_inside(target, project):
            raise BundleError("a file of the bundle would lie outside the clone", where=member)
        bundle.unpack(member, target)
    downloads = project / ".work" / "downloads"
    for name, member in bundle.below("downloads").items():
        bundle.unpack(member, downloads / name)
    _take_downloads(bundle, downloads)


def _is_inside(target: Path, project: Path) -> bool:
    """Whether no folder on the way to a file is a link."""
    return target.parent.resolve().is_relative_to(project.resolve())


def _take_downloads(bundle: Bundle, downloads: Path) -> None:
    """Take what was downloaded here before, by its hash; the corpus stage hashes it again."""
    for sha256 in bundle.stages.get("corpus", {"inputs": {}})["inputs"].values():
        found = work_dir() / "downloads" / sha256
        if found.is_dir() and not (downloads / sha256).exists():
            shutil.copytree(found, downloads / sha256)


# Running the stages


def _run(bundle: Bundle, project: Path, python: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED)}
    environment["FOUNDRY_REGISTRY"] = str(registry_dir().absolute())  # of models that training may begin with
    command = [str(python), "-m", "pipeline", "run", "--force"]
    with (
        _processors(_wanted(bundle)),
        _stopped_by_sigterm(),
        subprocess.Popen(
            command,
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),  # standard output carries the result of the replay alone
            start_new_session=True,  # so that a signal reaches the run once, from here
        ) as process,
    ):
        try:
            code = process.wait()
        except BaseException as stopped:
            process.send_signal(signal.SIGINT if isinstance(stopped, KeyboardInterrupt) else signal.SIGTERM)
            process.wait()
            raise
    if code != 0:
        error = FoundryError(f"the run that was repeated ended with {code}", where=str(project))
        error.exit_code = ExitCode(code) if code in [*ExitCode] else ExitCode.PREREQUISITES
        raise error


def _wanted(bundle: Bundle) -> int | None:
    """How many processors the run used, where the spec leaves that to the machine: it decides the last bits of sums."""
    if bundle.spec.hardware.num_threads is not None:
        return None
    training = bundle.json(DESCRIPTION)["training"]
    metrics = "reports/training_metrics.json"
    processes = bundle.json(metrics)["world"]["processes"] if metrics in bundle.names else 1
    threads: int = training["num_threads"] * processes
    return threads


@contextmanager
def _processors(wanted: int | None) -> Iterator[None]:
    """Let this process and those it starts use so many processors, where there are more (Linux only)."""
    if wanted is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:wanted])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM reach the run as well."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise Preempted("stopped by SIGTERM", hint="remove the folder, and replay again")

    old = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
