"""What has to be there before the pipeline can run: a table of checks, each a finding and how to mend it."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.errors import FoundryError
from pipeline.paths import DEFAULT_SPEC, work_dir

_DISTRIBUTION = "model-foundry"
_MIN_FREE_BYTES = 2 << 30  # artefacts, their DVC cache and checkpoints of the default experiment, several times over
_SETUP = "run `make setup` in a checkout, or reinstall Model Foundry with pip"


class Finding(NamedTuple):
    """What one check found; `hint` says how to mend it when it is not `ok`."""

    ok: bool
    detail: str
    hint: str = ""


def python_version() -> Finding:
    """Python is 3.11 or newer."""
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding(sys.version_info >= (3, 11), f"Python {found}", "install Python 3.11 or newer")


def packages() -> Finding:
    """Every package that the toolkit needs is installed, in a version that it works with."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in importlib.metadata.requires(_DISTRIBUTION) or []]
    except importlib.metadata.PackageNotFoundError:
        return Finding(False, f"{_DISTRIBUTION} is not installed for {sys.executable}", _SETUP)
    wrong, count = [], 0
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                wrong.append(f"{requirement.name} is {version}, needed is {requirement.specifier}")
    return Finding(not wrong, "; ".join(wrong) or f"all {count} packages", _SETUP)


def python_for_stages() -> Finding:
    """The shell that DVC starts stages in will find this environment's Python under the name `python`."""
    folder = environment_bin()
    found = shutil.which("python", path=str(folder))
    if found is None:
        return Finding(False, f"{folder} holds no `python`", "use a virtual environment: python3 -m venv .venv")
    return Finding(True, found)


def project() -> Finding:
    """The current folder is a project: dvc.yaml in a git repository that DVC knows."""
    hint = "change to the folder of a Model Foundry checkout, or clone one"
    if shutil.which("git") is None:
        return Finding(False, "git is not installed", "install git")
    if not Path("dvc.yaml").is_file():
        return Finding(False, f"{Path.cwd()} holds no dvc.yaml", hint)
    if not any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents)):
        return Finding(False, f"{Path.cwd()} is not in a git repository", "git init && git add . && git commit")
    if not Path(".dvc").is_dir():
        return Finding(False, f"{Path.cwd()} holds no .dvc folder", "dvc init")
    return Finding(True, str(Path.cwd()))


def output() -> Finding:
    """Results can be written where they belong."""
    for folder in (Path(), Path("artifacts"), Path("reports"), Path(".work"), work_dir()):
        existing = _existing(folder)
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            return Finding(False, f"cannot write into {existing.resolve()}: {error.strerror}", "make it writable")
    return Finding(True, "writable")


def disk() -> Finding:
    """At least 2 GB are free where results and checkpoints go."""
    free = min(shutil.disk_usage(folder).free for folder in {Path(), _existing(work_dir())})
    detail = f"{free / (1 << 30):.1f} GB free"
    return Finding(free >= _MIN_FREE_BYTES, detail, "2 GB are needed: delete something, or set FOUNDRY_WORK elsewhere")


def spec() -> Finding:
    """specs/experiment.yaml is right."""
    from pipeline.spec import load_spec, require_supported

    try:
        loaded = load_spec(DEFAULT_SPEC)
        require_supported(loaded)
    except FoundryError as error:
        return Finding(False, str(error), error.hint)
    left_out = [path for path in tracked_settings() if not _stands_in(path, yaml.safe_load(DEFAULT_SPEC.read_bytes()))]
    if not left_out:
        return Finding(True, f"{DEFAULT_SPEC} ({loaded.name})")
    values = loaded.to_dict()
    lines = [f"{path}: {json.dumps(reduce(getitem, path.split('.'), values))}" for path in left_out]
    detail = f"{DEFAULT_SPEC} leaves out settings that DVC tracks, so it must say them, if only their defaults"
    return Finding(False, detail, "add " + "; ".join(lines))


def tracked_settings() -> list[str]:
    """The dotted paths of the settings that dvc.yaml tracks, in its order; none if DVC itself will refuse it."""
    try:
        stages = yaml.safe_load(Path("dvc.yaml").read_bytes())["stages"].values()
        files = [entry for stage in stages for entry in stage.get("params", []) if isinstance(entry, dict)]
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        return []
    return list(dict.fromkeys(path for file in files for path in file.get(str(DEFAULT_SPEC), [])))


def _stands_in(path: str, content: Any) -> bool:
    for key in path.split("."):
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True


CHECKS: dict[str, Callable[[], Finding]] = {
    "python": python_version,
    "packages": packages,
    "stage python": python_for_stages,
    "project": project,
    "output": output,
    "disk": disk,
    "spec": spec,
}


def require_all() -> None:
    """Run every check.

    Raises:
        FoundryError: at least one failed; the message holds all that did.
    """
    findings = {name: check() for name, check in CHECKS.items()}
    failed = {name: finding for name, finding in findings.items() if not finding.ok}
    if not failed:
        return
    if len(failed) == 1:
        finding = next(iter(failed.values()))
        raise FoundryError(finding.detail, hint=finding.hint)
    lines = [f"{name}: {finding.detail}\n    hint: {finding.hint}" for name, finding in failed.items()]
    raise FoundryError("\n  ".join(["the pipeline cannot run here", *lines]))


def environment_bin() -> Path:
    """The folder of this environment's programs, which goes first in PATH."""
    return Path(sys.executable).absolute().parent  # not resolved: a venv's python is a link out of it


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
