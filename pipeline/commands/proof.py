"""Proof that a training run which is killed ends like one that is not: real processes, real kills, the state compared.

Two folders hold the same spec and the same encoded corpus. In one the train stage runs undisturbed. In the other it is
killed (SIGKILL) again and again, between steps, in the middle of steps and in the middle of saving a checkpoint, and
started again each time. Both keep their last checkpoint, and every item of it must be equal, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import Progress
from pipeline.errors import FoundryError
from pipeline.files import canonical_json, read_artefact, sha256_bytes, sha256_file, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.spec import Spec

_LOOK_SECONDS = 0.002  # between two looks at a run: a save takes some tens of milliseconds
_SAVE_SECONDS = 0.05  # after a save began, within which it is cut off
_TAIL_BYTES = 4096  # of a record: more than one row
_SAVES_PER_KILL = 4  # so that a kill loses little and there is always a save to cut off soon


class ProofError(FoundryError):
    """The proof could not be carried out; it says nothing about the run."""


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        during: `step`, a random moment; or `save`, while a checkpoint was being written.
        after_step: the last step that the run had recorded.
    """

    during: str
    after_step: int


def prove(
    spec: Spec,
    *,
    encoded: Path,
    kills: int,
    steps: int | None,
    seed: int,
    scratch: Path,
    compiled: Path,
    shown: Callable[[str, int], Progress],
    after_kill: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Carry out the proof and return its certificate.

    Args:
        spec: the experiment.
        encoded: the output folder of its tokenizer stage.
        kills: how often the run is killed; every third time while it saves.
        steps: optimizer steps of the run; None takes those of the spec.
        seed: of the moments of the kills.
        scratch: an empty folder to work in.
        compiled: where compiled kernels are kept.
        shown: label and number of steps → where progress goes.
        after_kill: called with the run's folder after each kill; tests damage it to see that the proof fails.

    Raises:
        ProofError: a run ended by itself before it should, with its last lines.
    """
    straight = _Project(scratch / "straight", _values(spec, steps), encoded, compiled)
    straight.finish(shown)
    metrics = read_artefact(straight.folder / "reports/training_metrics.json", "training_metrics")
    total = metrics["final_metrics"]["total_steps"]
    if total <= kills:
        raise ProofError(f"{kills} kills do not fit into a run of {total} steps", hint="take fewer kills or more steps")

    changed = _values(spec, steps)
    # Neither changes the weights, which is part of what is proven.
    changed["checkpointing"] |= {"save_every_n_steps": max(1, total // (_SAVES_PER_KILL * max(1, kills)))}
    changed["logging"] |= {"log_every_n_steps": 1}
    killed = _Project(scratch / "killed", changed, encoded, compiled)
    rng = random.Random(seed)
    aims = sorted(rng.sample(range(1, max(2, int(total * 0.95))), kills))
    progress = shown("killed run", total)
    done = [
        killed.kill(
            during="save" if number % 3 == 1 else "step", after=aim, rng=rng, progress=progress, told=after_kill
        )
        for number, aim in enumerate(aims)
    ]
    progress.stop()
    killed.finish(shown)

    items = {"straight": final_state(straight.folder, spec), "killed": final_state(killed.folder, spec)}
    compared = {
        name: {
            "straight": items["straight"][name],
            "killed": items["killed"][name],
            "equal": items["straight"][name] == items["killed"][name],
        }
        for name in items["straight"]
    }
    return {
        "format_version": 1,
        "experiment": spec.name,
        "spec_hash": spec.hash(),
        "steps": total,
        "accumulation": spec.training.gradient_accumulation_steps,
        "seed": seed,
        "execution": metrics["execution"],
        "kills": [vars(kill) for kill in done],
        "resumed_after_steps": killed.resumed(),
        "items": compared,
        "equal": all(item["equal"] for item in compared.values()),
    }


def _values(spec: Spec, steps: int | None) -> dict[str, Any]:
    values = spec.to_dict()
    if steps is not None:
        values["training"]["max_steps"] = steps
    return values


class _Project:
    """A folder in which the train stage runs."""

    def __init__(self, folder: Path, values: Mapping[str, Any], encoded: Path, compiled: Path) -> None:
        self.folder = folder
        (folder / "artifacts").mkdir(parents=True)
        (folder / "artifacts/tokenizer").symlink_to(encoded.resolve(), target_is_directory=True)
        write_json(folder / "spec.json", values)
        self._log = folder / "log.txt"
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("FOUNDRY_", "DVC_"))},
            "TORCHINDUCTOR_CACHE_DIR": str(compiled.resolve()),
        }

    def start(self) -> subprocess.Popen[bytes]:
        """Start the train stage, in a process group of its own."""
        command = [sys.executable, "-m", "pipeline.stages.train", "--spec", "spec.json", "--keep-run"]
        with self._log.open("a") as log:
            return subprocess.Popen(command, cwd=self.folder, env=self._environment, stderr=log, start_new_session=True)

    def finish(self, shown: Callable[[str, int], Progress]) -> None:
        """Run to the end."""
        process = self.start()
        progress: Progress | None = None
        told = 0
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if (total := self._total()) and progress is None:
                    progress = shown(f"{self.folder.name} run", total)
                if progress is not None and (done := self.steps_done()) > told:
                    progress.update(done)
                    told = done
        except BaseException:
            _end(process)
            raise
        finally:
            if progress is not None:
                progress.stop()
        if process.returncode != 0:
            raise self._ended(process.returncode, "before it was done")

    def kill(
        self,
        *,
        during: str,
        after: int,
        rng: random.Random,
        progress: Progress,
        told: Callable[[Path], None] | None,
    ) -> Kill:
        """Start the run, let it get past a step, and kill it."""
        process = self.start()
        began = time.monotonic()
        try:
            first = self.steps_done()
            while (done := self.steps_done()) < after or (during == "save" and not self._is_saving()):
                if process.poll() is not None:
                    raise self._ended(process.returncode, f"before it could be killed after step {after}")
                progress.update(done)
                time.sleep(_LOOK_SECONDS)
            a_step = (time.monotonic() - began) / max(1, done - first)
            time.sleep(rng.uniform(0, _SAVE_SECONDS if during == "save" else a_step))
        finally:
            _end(process)
        if told is not None:
            told(self.folder)
        return Kill(during, self.steps_done())

    def steps_done(self) -> int:
        """The last step that the run has recorded."""
        for record in self.folder.glob(".work/runs/*/record.jsonl"):
            with record.open("rb") as file:
                file.seek(max(0, record.stat().st_size - _TAIL_BYTES))
                lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
            return int(json.loads(lines[-1])["step"]) if lines else 0
        return 0

    def resumed(self) -> list[int]:
        """The steps after which the run went on."""
        said = [line.split() for line in self._log.read_text().splitlines() if line.startswith("resuming after step ")]
        return [int(words[3]) for words in said]

    def _is_saving(self) -> bool:
        return any(self.folder.glob(".work/runs/*/.tmp-*"))

    def _total(self) -> int:
        """The steps of the run, once it has said how many."""
        for line in self._log.read_text().splitlines():
            words = line.replace(",", "").split()
            if line.startswith("training ") and "steps" in words:
                return int(words[words.index("steps") - 1])
        return 0

    def _ended(self, code: int, when: str) -> ProofError:
        lines = self._log.read_text().strip().splitlines()[-3:]
        return ProofError(f"the train stage ended with {code} {when}: {' / '.join(lines)}", where=str(self._log))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def final_state(project: Path, spec: Spec) -> dict[str, str]:
    """Every item of what a finished run holds → the SHA-256 of it.

    Raises:
        ArtifactError: the checkpoint is missing or damaged.
    """
    from pipeline.data.encoded import read_encoded
    from pipeline.tasks.table import TASKS
    from pipeline.training.checkpoint import best_weights, read_checkpoint

    folder = max(project.glob(".work/runs/*/checkpoint-*"))
    checkpoint = read_checkpoint(folder)
    progress = checkpoint.state["progress"]
    encoded = project / "artifacts/tokenizer"
    task = TASKS[spec.task.task_type].open(encoded, spec.section("model"))
    batches = task.batches(
        read_encoded(encoded, "train"),
        batch_size=spec.training.batch_size,
        seed=spec.reproducibility.random_seed,
    )
    epoch, cursor = divmod(progress["epoch"] * batches.per_epoch + progress["cursor"], batches.per_epoch)
    moments = {kind: {} for kind in ("exp_avg", "exp_avg_sq", "step")}  # type: dict[str, dict[str, Tensor]]
    for name, tensor in checkpoint.moments.items():
        kind, _, parameter = name.partition(":")
        moments[kind][parameter] = tensor
    counters = {name: value for name, value in progress.items() if not name.endswith("seconds")}
    return {
        "weights": _digest(checkpoint.weights),
        "best weights": sha256_file(best_weights(folder)),
        "exported weights": sha256_file(project / "artifacts/model/model.safetensors"),
        "first moments": _digest(moments["exp_avg"]),
        "second moments": _digest(moments["exp_avg_sq"]),
        "optimizer steps": _digest(moments["step"]),
        **{
            f"random state of {name}": sha256_bytes(canonical_json(state).encode())
            for name, state in checkpoint.random.items()
            if name != "format_version"
        },
        "place, counters and losses": sha256_bytes(canonical_json(counters).encode()),
        "next batch": _digest(dict(zip(("ids", "targets"), batches.batch(epoch, cursor), strict=True))),
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
