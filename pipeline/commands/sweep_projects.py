"""The folders in which the trials of a sweep are built: projects like the one they come from, with other values.

A trial sees the code and the texts of its project through links. It has a spec, a `dvc.lock`, artefacts and reports of
its own, and shares DVC's cache and the work folder: what one trial has made, none makes again.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ExitCode, FoundryError
from pipeline.files import write_atomic
from pipeline.paths import DEFAULT_SPEC, OUTPUT_OF, REPORTS, work_dir
from pipeline.spec.document import parse_document, read_document
from pipeline.spec.edit import Assignment, edit
from pipeline.spec.load import build_spec, require_supported
from pipeline.spec.write import inline
from pipeline.sweeps.place import Place

SHARED = ("corpus", "tokenizer")  # stages whose results trials begin with; those that sweep their settings make others
_OWN = {".dvc", ".git", ".work", "artifacts", "dvc.lock", "reports", "specs"}
_BASE = "base"
_POLL_SECONDS = 0.1


class Projects:
    """The projects of a sweep's trials. The current folder is the project that they come from.

    Args:
        name: of the sweep.
        base: the experiment that every trial starts from.
        place: where others that make projects of this sweep are seen.
    """

    def __init__(self, name: str, base: Path, place: Place) -> None:
        self._home = Path.cwd()
        # Not under FOUNDRY_WORK: clones that share it each have code of their own.
        self._folder = self._home / ".work" / "sweeps" / name
        self._place = place
        self._document = read_document(base)
        self._text = base.read_text(encoding="utf-8-sig")

    def spec_with(self, values: Mapping[str, Any]) -> str:
        """The text of the base with other values, which is right and can be built.

        Raises:
            FoundryError: it is not; the error says why.
        """
        assignments = [Assignment(tuple(path.split(".")), value, inline(value)) for path, value in values.items()]
        text = edit(self._document, self._text, assignments)
        require_supported(build_spec(parse_document(text.encode(), str(DEFAULT_SPEC))))
        return text

    def log_of(self, number: int | str) -> Path:
        """Where the output of a trial goes."""
        return self._folder / f"trial-{number:04}.log" if isinstance(number, int) else self._folder / f"{number}.log"

    def prepare(self, received: Sequence[int]) -> None:
        """Bring the corpus and the tokenizer of the base up to date, for all trials to begin with.

        Args:
            received: the signals so far that ask for an end; they are passed on.

        Raises:
            FoundryError: that has failed; the exit code is that of the stage.
        """
        with self._place.waiting(str(self._folder)):
            text = self.spec_with({})
            folder = self._make(_BASE, text, begins_with=self._home)
            log = self.log_of(_BASE)
            log.unlink(missing_ok=True)
            with self.start(folder, {"last": SHARED[-1]}, log) as process:
                told = 0
                while process.poll() is None:
                    time.sleep(_POLL_SECONDS)
                    told = pass_on(process, received, told)
        if process.returncode and not received:
            raise _failure(log, process.returncode)

    def make(self, number: int, text: str) -> Path:
        """The folder of a trial, made anew.

        Args:
            number: of the trial.
            text: its spec.
        """
        with self._place.waiting(str(self._folder)):
            return self._make(f"trial-{number:04}", text, begins_with=self._folder / _BASE)

    def start(self, folder: Path, request: Mapping[str, Any], log: Path) -> subprocess.Popen[bytes]:
        """Build the project in a folder, in a process that dies with this one.

        Args:
            folder: of the project.
            request: what `pipeline.commands.sweep_trial` takes, besides the folder.
            log: gets everything that is printed, behind what is in it.
        """
        arguments = [
            sys.executable,
            "-m",
            "pipeline.commands.sweep_trial",
            json.dumps({**request, "folder": str(folder)}),
        ]
        environment = {**os.environ, "FOUNDRY_WORK": str(work_dir().resolve())}
        with log.open("ab") as output:
            return subprocess.Popen(
                arguments,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _make(self, name: str, text: str, *, begins_with: Path) -> Path:
        folder = self._folder / name
        if folder.exists():
            shutil.rmtree(folder)
        (folder / DEFAULT_SPEC.parent).mkdir(parents=True)
        for entry in self._home.iterdir():
            if entry.name not in _OWN:
                (folder / entry.name).symlink_to(entry)
        for entry in (self._home / DEFAULT_SPEC.parent).iterdir():
            if entry.name != DEFAULT_SPEC.name:
                (folder / DEFAULT_SPEC.parent / entry.name).symlink_to(entry)
        write_atomic(folder / DEFAULT_SPEC, text)
        self._configure_dvc(folder)
        _inherit(begins_with, folder)
        return folder

    def _configure_dvc(self, folder: Path) -> None:
        """Share the cache, and keep DVC's hands off the project's git index."""
        source, target = self._home / ".dvc", folder / ".dvc"
        target.mkdir()
        if (source / "config").exists():
            shutil.copy(source / "config", target)
        local = configparser.ConfigParser(interpolation=None)
        local.read(source / "config.local", encoding="utf-8")
        for section, key, value in (("cache", "dir", str(_cache_of(self._home))), ("core", "no_scm", "true")):
            if not local.has_section(section):
                local.add_section(section)
            local.set(section, key, value)
        with (target / "config.local").open("w", encoding="utf-8") as file:
            local.write(file)


def pass_on(process: subprocess.Popen[bytes], received: Sequence[int], told: int) -> int:
    """Hand the next signal on to a process, which stops at the first one and dies of the second.

    Args:
        process: the process.
        received: the signals that this process has got.
        told: how many of them the other one has.

    Returns:
        How many it has now.
    """
    if len(received) == told:
        return told
    process.send_signal(received[told])
    return told + 1


def _failure(log: Path, code: int) -> FoundryError:
    said = [
        line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.startswith("error: ")
    ]
    reason = said[-1].removeprefix("error: ") if said else "it was killed before it could say why"
    message = f"the corpus and the tokenizer of the base cannot be made: {reason}"
    error = FoundryError(message, hint=f"{log} holds everything that was said")
    if code in {ExitCode.CORPUS, ExitCode.TOKENIZER}:
        error.exit_code = ExitCode(code)
    return error


def _cache_of(home: Path) -> Path:
    from pipeline.commands.ask_dvc import ask

    return home / ask("cache", "dir").strip()


def _inherit(source: Path, target: Path) -> None:
    """Give a project what the shared stages have made in another one."""
    from ruamel.yaml import YAML

    lock = source / "dvc.lock"
    if not lock.exists():
        return
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load(lock)
    content["stages"] = {stage: entry for stage, entry in content["stages"].items() if stage in SHARED}
    with (target / "dvc.lock").open("w", encoding="utf-8") as file:
        yaml.dump(content, file)
    for stage in SHARED:
        if (made := source / OUTPUT_OF[stage]).is_dir():
            shutil.copytree(made, target / OUTPUT_OF[stage])
        if (report := source / REPORTS / f"{stage}.json").is_file():
            (target / REPORTS).mkdir(exist_ok=True)
            shutil.copy(report, target / REPORTS)
