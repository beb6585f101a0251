"""A tiny project with sweeps, in which commands are run as a user would."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from test_run import COPIED, TINY, WORDS, Project

SWEEP = "specs/sweeps/tried.yaml"
started: list[subprocess.Popen[str]] = []  # for the fixture, which ends what a failed test leaves
# A second or two of steps, with a checkpoint in every tenth of them.
LONGER = {
    "training.epochs": 100,
    "training.max_steps": 300,
    "checkpointing.save_every_n_steps": 20,
    "training.eval_every_n_steps": 20,
}


def make_project(checkout: Path, folder: Path) -> Project:
    """A project whose pipeline has never run."""
    for name in COPIED:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (checkout / name).is_dir():
            shutil.copytree(checkout / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(checkout / name, target)
    (folder / "texts").mkdir()
    for number in range(20):
        draw = random.Random(number)
        lines = [" ".join(draw.choices(WORDS, k=10)).capitalize() + "." for _ in range(40)]
        (folder / "texts" / f"{number}.txt").write_text("\n".join(lines) + "\n")
    project = Project(folder)
    project.set(TINY)
    project.git("init", "--quiet")
    project.git("add", ".")
    project.git("commit", "--quiet", "-m", "Start")
    return project


def write_sweep(project: Project, text: str) -> None:
    """Write the sweep of a test."""
    head = "schema_version: 1\nkind: sweep\nname: tried\n"
    (project.folder / SWEEP).write_text(head + text)


def start(project: Project, *arguments: str, work: Path | None = None) -> subprocess.Popen[str]:
    """Start a `foundry` command; `work` is the work folder where it is not the project's own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    if work is not None:
        environment["FOUNDRY_WORK"] = str(work)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=project.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(process)
    return process


def run(project: Project, *arguments: str) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of a `foundry` command."""
    process = start(project, *arguments)
    out, err = process.communicate()
    return process.returncode, out, err


def trials(project: Project) -> list[dict[str, Any]]:
    """What `foundry sweep status` says."""
    code, out, err = run(project, "sweep", "status", SWEEP, "--json")
    assert code == 0, err
    return list(json.loads(out)["trials"])


def at_work(process: subprocess.Popen[str]) -> dict[psutil.Process, str]:
    """The workers of a sweep that have a training with a checkpoint → the name of their trial."""
    found = {}
    family = [(worker, child) for worker in _children(psutil.Process(process.pid)) for child in _children(worker)]
    for worker, child in family:
        try:
            request = json.loads(child.cmdline()[-1])
        except (psutil.Error, ValueError, IndexError):  # it has just ended, or just begun
            continue
        if "sweep_id" in request:
            folder = Path(request["folder"])
            locks = (folder.parents[2] / "runs").glob("*/lock")
            if any(request["run"] in lock.read_text() and any(lock.parent.glob("checkpoint-*")) for lock in locks):
                found[worker] = folder.name
    return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children())
    except psutil.Error:
        return []


def kill_one(process: subprocess.Popen[str]) -> str:
    """Kill a worker whose training has a checkpoint, with SIGKILL; the name of its trial."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if found := at_work(process):
            worker, trial = next(iter(found.items()))
            worker.send_signal(signal.SIGKILL)
            return trial
        time.sleep(0.02)
    raise AssertionError(f"no worker was at work: {process.communicate()}")
