"""Kill real training runs and prove that nothing can be told from the result.

    python tests/reliability/kills.py [--project DIR] [--straight DIR] [--group-kills 5] [--dvc-kills 2] [--seed 0]

Two fresh clones of a project: in one `foundry run` is left alone, in the other it is killed (SIGKILL) while it trains,
each time a random number of steps further on, and started again. Both must end with the same weights, bit for bit, and
at no moment may there be two trainers. Kills hit the train stage's whole process group (DVC with it), or DVC alone.
Prints one JSON object; exits 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

WEIGHTS = ("model.safetensors", "final.safetensors")
_START_SECONDS = 300  # the longest that a run may take to reach training


class Watch(threading.Thread):
    """Counts the trainers of one project, many times a second."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self._ended = folder, threading.Event()
        self.most = self.looks = 0

    def run(self) -> None:
        while not self._ended.wait(0.02):
            self.looks += 1
            self.most = max(self.most, len(trainers(self._folder)))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def trainers(folder: Path) -> list[psutil.Process]:
    """The living train stages that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if (
                "pipeline.stages.train" in line
                and process.status() != psutil.STATUS_ZOMBIE
                and process.cwd() == str(folder)
            ):
                found.append(process)
        except psutil.Error:
            continue  # it ended while we looked
    mine = {process.pid for process in found}
    return [process for process in found if parent_of(process) not in mine]  # not what a trainer has just forked


def parent_of(process: psutil.Process) -> int:
    """The process id of a parent; 0 if the process has ended."""
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def start(folder: Path) -> subprocess.Popen[str]:
    """Start `foundry run` in a folder, as a user would."""
    log = (folder.parent / f"{folder.name}.log").open("a")
    command = [sys.executable, "-m", "pipeline", "run"]
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def finish(folder: Path) -> int:
    """Run to the end; the exit code. A missed budget (5) is one, since time lost to kills counts as training time."""
    code = start(folder).wait()
    if not (folder / "artifacts/model").is_dir():
        log = (folder.parent / f"{folder.name}.log").read_text()
        raise SystemExit(f"foundry run ended with {code} and without a model:\n{log[-3000:]}")
    return code


def wait_for_trainer(folder: Path, run: subprocess.Popen[str]) -> psutil.Process | None:
    """The train stage once it is there; None if the run ends before."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if found := trainers(folder):
            return found[0]
        if run.poll() is not None:
            return None
        time.sleep(0.02)
    raise SystemExit("training never began")


def steps_done(folder: Path) -> int:
    """The last step that the run in a folder has recorded."""
    for record in (folder / ".work").glob("runs/*/record.jsonl"):
        lines = [line for line in record.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return json.loads(lines[-1])["step"] if lines else 0
    return 0


def kill(folder: Path, *, what: str, step: int, rng: random.Random) -> dict[str, Any]:
    """Start a run, let it train past a step, and kill it a random moment later."""
    run = start(folder)
    trainer = wait_for_trainer(folder, run)
    while trainer is not None and run.poll() is None and steps_done(folder) < step:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 1))
    log = (folder.parent / f"{folder.name}.log").read_text()
    if trainer is None or run.poll() is not None:
        raise SystemExit(f"the run ended by itself before kill at step {step}, with {run.poll()}:\n{log[-3000:]}")
    resumed = re.findall(r"resuming after step (\d+)", log)
    if what == "group":
        os.killpg(os.getpgid(trainer.pid), signal.SIGKILL)
    else:
        dvc = trainer.parent()
        while dvc is not None and not any("pipeline.commands.repro" in word for word in dvc.cmdline()):
            dvc = dvc.parent()
        if dvc is None:
            raise SystemExit(f"no DVC above {trainer}")
        dvc.kill()
    code = run.wait()
    return {"killed": what, "after_step": steps_done(folder), "exit_code": code, "resumed_so_far": len(resumed)}


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights."""
    return {name: hashlib.sha256((folder / "artifacts/model" / name).read_bytes()).hexdigest() for name in WEIGHTS}


def prove(project: Path, *, straight: Path | None, group_kills: int, dvc_kills: int, seed: int) -> dict[str, Any]:
    """Run the whole proof; see the top of the file."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        killed = clone(project, Path(scratch).resolve() / "killed")
        if straight is None:
            straight = clone(project, Path(scratch).resolve() / "straight")
            finish(straight)
        metrics = json.loads((straight / "reports/training_metrics.json").read_text())
        steps = metrics["final_metrics"]["total_steps"]
        plan = ["group"] * group_kills + ["dvc"] * dvc_kills
        rng.shuffle(plan)
        instants = sorted(rng.sample(range(1, int(steps * 0.95)), len(plan)))
        watch = Watch(killed)
        watch.start()
        kills = [kill(killed, what=what, step=step, rng=rng) for what, step in zip(plan, instants, strict=True)]
        code = finish(killed)
        watch.stop()
        log = (killed.parent / f"{killed.name}.log").read_text()
        return {
            "steps": steps,
            "execution": metrics["execution"],
            "kills": kills,
            "ended_with": code,
            "resumed_after_steps": [int(step) for step in re.findall(r"resuming after step (\d+)", log)],
            "weights": {"straight": hashes(straight), "killed": hashes(killed)},
            "equal": hashes(straight) == hashes(killed),
            "most_trainers_at_once": watch.most,
            "looks": watch.looks,
        }


def clone(project: Path, target: Path) -> Path:
    """A fresh clone of a git checkout."""
    subprocess.run(["git", "clone", "--quiet", str(project), str(target)], check=True)
    return target


def main() -> None:
    """Read the command line, run the proof, print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, default=Path(), help="a git checkout of a project (default: here)")
    parser.add_argument("--straight", type=Path, help="a clone with an undisturbed run (default: make one)")
    parser.add_argument("--group-kills", type=int, default=5, help="kills of the train stage's process group")
    parser.add_argument("--dvc-kills", type=int, default=2, help="kills of DVC alone")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants")
    chosen = parser.parse_args()
    proof = prove(
        chosen.project.resolve(),
        straight=chosen.straight and chosen.straight.resolve(),
        group_kills=chosen.group_kills,
        dvc_kills=chosen.dvc_kills,
        seed=chosen.seed,
    )
    print(json.dumps(proof, indent=2))
    sys.exit(not (proof["equal"] and proof["most_trainers_at_once"] == 1))


if __name__ == "__main__":
    main()
