"""Proof that a training run which is killed ends like one that is not: real processes, real kills, the state compared.

Two folders hold the same spec and the same encoded corpus. In one the train stage runs undisturbed. In the other it is
killed (SIGKILL) again and again and started anew: at random moments, in the middle of a step, and inside the writing of
a checkpoint. Both keep their last checkpoint, and every item of it must be equal, bit for bit.
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
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.console import Progress
from pipeline.errors import FoundryError
from pipeline.files import canonical_json, read_artefact, sha256_bytes, sha256_file, write_json
from pipeline.paths import is_registered_name, registry_dir
from pipeline.spec.devices import asked_devices

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.spec import Spec

STAGE = (sys.executable, "-m", "pipeline.commands.killable")
REACHED = Path("reached.json")  # where a halted run says where it stands
KINDS = ("moment", "accumulation", "save")  # what a kill falls into, in turn

_LOOK_SECONDS = 0.002  # between two looks at a run
_TAIL_BYTES = 4096  # of a record: more than one row
_SAVES_PER_KILL = 4  # so that a kill loses little and there is always a save to cut off soon
_FILE_OPERATIONS = 24  # of a save; with a larger number the last one is meant
_EVERY_STEP = ("epoch", "learning_rate", "loss", "gradient_norm", "val_loss")  # columns of history.csv
_LATEST = 0.95  # of a run: kills come before this share of its steps


class ProofError(FoundryError):
    """The proof could not be carried out; it says nothing about the run."""


@dataclass(frozen=True)
class Aim:
    """Where a run is to be killed.

    Attributes:
        during: one of `KINDS`, or `never`.
        after: optimizer steps that it must have recorded.
        number: which backward pass of the step, or which file operation of the save.
    """

    during: str
    after: int = 0
    number: int = 0


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        during: one of `KINDS`.
        place: where in the program, in words.
        after_step: the last step that the run had recorded.
        epoch: the pass over the data that it hit, from 1.
        mid_epoch: whether that pass had begun and not ended.
    """

    during: str
    place: str
    after_step: int
    epoch: int
    mid_epoch: bool


@dataclass(frozen=True)
class Ended:
    """A run that was left alone, to its end.

    Attributes:
        metrics: its training_metrics.json.
        history: the rows of its history.csv, one of each step.
        items: every item of what it holds → the SHA-256 of it.
        seconds: wall-clock time.
    """

    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    items: dict[str, str]
    seconds: float

    @property
    def epoch_of(self) -> dict[int, int]:
        """The epoch of each step, both counted from 1."""
        return {row["step"]: row["epoch"] for row in self.history}


@dataclass(frozen=True)
class Survived:
    """A run that was killed and started anew, to its end.

    Attributes:
        kills: what was done to it.
        resumed: the steps after which it went on.
        history: the rows of its history.csv, one of each step.
        items: every item of what it holds → the SHA-256 of it.
        seconds: wall-clock time.
    """

    kills: list[Kill]
    resumed: list[int]
    history: list[dict[str, Any]]
    items: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Proof:
    """What both runs of a proof share.

    Attributes:
        spec: the experiment.
        encoded: the output folder of its tokenizer stage.
        compiled: where compiled kernels are kept.
        shown: label and number of steps → where progress goes.
        stage: the command that starts the train stage under a watch; tests start one that forgets something.
    """

    spec: Spec
    encoded: Path
    compiled: Path
    shown: Callable[[str, int], Progress]
    stage: Sequence[str] = STAGE

    def leave_alone(self, folder: Path) -> Ended:
        """Train in an empty folder, undisturbed.

        Raises:
            ProofError: the run ended by itself before it should, with its last lines.
        """
        began = time.monotonic()
        values = self.spec.to_dict()
        values["logging"] |= {"log_every_n_steps": 1}
        project = _Project(folder, values, self)
        project.finish(self.shown)
        metrics = read_artefact(folder / "reports/training_metrics.json", "training_metrics")
        return Ended(metrics, project.history(), final_state(folder, self.spec), time.monotonic() - began)

    def kill_again_and_again(self, folder: Path, straight: Ended, *, kills: int, seed: int) -> Survived:
        """Train in an empty folder, killed at points that a seed decides, and started anew each time.

        Raises:
            ProofError: there are fewer steps than kills, or the run ended by itself before it should.
        """
        began = time.monotonic()
        total = len(straight.epoch_of)
        if total <= kills:
            message = f"{kills} kills do not fit into a run of {total} steps"
            raise ProofError(message, hint="take fewer kills or more steps")
        rng = random.Random(seed)
        every = max(1, total // (_SAVES_PER_KILL * kills))
        values = self.spec.to_dict()
        # Neither changes the weights, which is part of what is proven.
        values["checkpointing"] |= {"save_every_n_steps": every}
        values["logging"] |= {"log_every_n_steps": 1}
        project = _Project(folder, values, self)
        progress = self.shown("killed run", total)
        done = []
        for number, after in enumerate(_steps_to_kill_after(straight.epoch_of, kills=kills, rng=rng)):
            during = KINDS[number % len(KINDS)]
            most = _FILE_OPERATIONS if during == "save" else max(1, self.spec.training.gradient_accumulation_steps - 1)
            place, step = project.kill(Aim(during, after, rng.randint(1, most)), rng=rng, progress=progress)
            done.append(_kill(during, place, step, straight.epoch_of))
        progress.stop()
        project.finish(self.shown)
        items = final_state(folder, self.spec)
        return Survived(done, project.resumed(), project.history(), items, time.monotonic() - began)

    def certificate(
        self, straight: Ended, killed: Survived, *, seed: int, overrides: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What came out.

        Args:
            straight: the run that was left alone.
            killed: the other one.
            seed: of the points of the kills.
            overrides: dotted setting → value that the proof took instead of the spec's.
        """
        from pipeline.spec.lock import lock_of

        names = straight.items | killed.items  # an item that only one of them has is a difference, too
        compared = {
            name: {
                "straight": straight.items.get(name),
                "killed": killed.items.get(name),
                "equal": straight.items.get(name) == killed.items.get(name),
            }
            for name in names
        }
        lock = lock_of(self.spec)
        return {
            "format_version": 1,
            "toolkit_version": __version__,
            "experiment": self.spec.name,
            "spec_hash": lock.hash,
            "settings": lock.settings,
            "overrides": dict(overrides),
            "code_hash": _code_hash(),
            "execution": straight.metrics["execution"],
            "steps": len(straight.epoch_of),
            "epochs": max(straight.epoch_of.values()),
            "accumulation": self.spec.training.gradient_accumulation_steps,
            "seed": seed,
            "kills": [asdict(kill) for kill in killed.kills],
            "points": points(killed.kills),
            "resumed_after_steps": killed.resumed,
            "seconds": {"straight": round(straight.seconds, 1), "killed": round(killed.seconds, 1)},
            "items": compared,
            "equal": all(item["equal"] for item in compared.values()),
            "first_difference": first_difference(straight, killed),
        }


def first_difference(straight: Ended, killed: Survived) -> dict[str, Any] | None:
    """The first step that two runs recorded otherwise, and the resume before it; None if all rows are equal.

    A step that no row shows can have been the first: rows hold rounded figures, and a defect may need a step to show.
    """
    for one, other in zip(straight.history, killed.history, strict=False):
        differing = {
            name: {"straight": one[name], "killed": other[name]} for name in _EVERY_STEP if one[name] != other[name]
        }
        if differing:
            step = one["step"]
            before = [resumed for resumed in killed.resumed if resumed < step]
            return {"step": step, "resumed_after": max(before, default=None), "figures": differing}
    return None


def points(kills: Sequence[Kill]) -> dict[str, int]:
    """How many kills fell into each kind of point that matters; one kill can count in several."""
    of_an_epoch = Counter(kill.epoch for kill in kills)
    return {
        "mid_epoch": sum(kill.mid_epoch for kill in kills),
        "mid_accumulation": sum(kill.during == "accumulation" for kill in kills),
        "inside_a_checkpoint_write": sum(kill.during == "save" for kill in kills),
        "twice_in_one_epoch": sum(number for number in of_an_epoch.values() if number > 1),
    }


def _steps_to_kill_after(epoch_of: Mapping[int, int], *, kills: int, rng: random.Random) -> list[int]:
    """Random steps in order. The first two, whose kills do not wait for a save, share an epoch that is long enough."""
    latest = max(2, int(len(epoch_of) * _LATEST))
    chosen = sorted(rng.sample(range(1, latest), kills))
    first = chosen[0]
    near = [step for step in range(first + 1, latest) if epoch_of.get(step + 1) == epoch_of[first]]
    if kills > 1 and near and chosen[1] not in near:
        chosen[1] = rng.choice(near)
    return chosen


def _kill(during: str, place: str, after_step: int, epoch_of: Mapping[int, int]) -> Kill:
    last, following = epoch_of.get(after_step, 1), epoch_of.get(after_step + 1)
    epoch = last if during == "save" or following is None else following
    return Kill(during, place, after_step, epoch, during == "accumulation" or (after_step > 0 and last == following))


def _code_hash() -> str:
    """The SHA-256 of the code that shapes the result of training."""
    from pipeline.stages import CODE_OF

    source = Path(__file__).resolve().parents[2]
    paths = [source / name for name in CODE_OF["train"]]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    return sha256_bytes(canonical_json({str(file.relative_to(source)): sha256_file(file) for file in files}).encode())


def _from_anywhere(path: str | None) -> str | None:
    """What training starts from, for a project that lies elsewhere: the folder's full path, or a registered name."""
    return path if path is None or is_registered_name(path) else str(Path(path).resolve())


class _Project:
    """A folder in which the train stage runs."""

    def __init__(self, folder: Path, values: dict[str, Any], proof: Proof) -> None:
        self.folder = folder
        (folder / "artifacts").mkdir(parents=True)
        (folder / "artifacts/tokenizer").symlink_to(proof.encoded.resolve(), target_is_directory=True)
        values["training"]["resume_from_checkpoint"] = _from_anywhere(values["training"]["resume_from_checkpoint"])
        write_json(folder / "spec.json", values)
        self._stage = proof.stage
        self._log = folder / "log.txt"
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("FOUNDRY_", "DVC_"))},
            "TORCHINDUCTOR_CACHE_DIR": str(proof.compiled.resolve()),
            "FOUNDRY_REGISTRY": str(registry_dir().resolve()),
        }

    def start(self, aim: Aim) -> subprocess.Popen[bytes]:
        """Start the train stage, in a process group of its own."""
        watch = (aim.during, str(aim.after), str(aim.number))
        command = [*self._stage, *watch, "--spec", "spec.json", "--keep-run", "--exact"]
        with self._log.open("a") as log:
            return subprocess.Popen(command, cwd=self.folder, env=self._environment, stderr=log, start_new_session=True)

    def finish(self, shown: Callable[[str, int], Progress]) -> None:
        """Run to the end."""
        process = self.start(Aim("never"))
        progress: Progress | None = None
        told = 0
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if (total := self._total()) and progress is None:
                    progress = shown(f"{self.folder.name} run", total)
                if progress is not None and (done := steps_done(self.folder)) > told:
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

    def kill(self, aim: Aim, *, rng: random.Random, progress: Progress) -> tuple[str, int]:
        """Start the run, let it get where it is to be killed, and kill it: the place, and the last step recorded."""
        reached = self.folder / REACHED
        reached.unlink(missing_ok=True)
        process = self.start(aim)
        told = 0
        try:
            while not reached.exists():
                if process.poll() is not None:
                    raise self._ended(process.returncode, f"before it could be killed after step {aim.after}")
                if (done := steps_done(self.folder)) > told:
                    progress.update(done)
                    told = done
                time.sleep(_LOOK_SECONDS)
            said = json.loads(reached.read_text(encoding="utf-8"))
            if aim.during == "moment":  # the others stand still by now
                time.sleep(rng.uniform(0, 2 * said["step_seconds"]))  # a step and what follows it
        finally:
            _end(process)
        return said["place"], steps_done(self.folder)

    def resumed(self) -> list[int]:
        """The steps after which the run went on."""
        said = [line.split() for line in self._log.read_text().splitlines() if line.startswith("resuming after step ")]
        return [int(words[3]) for words in said]

    def history(self) -> list[dict[str, Any]]:
        """The rows of the finished run's history."""
        rows: list[dict[str, Any]] = read_artefact(self.folder / "reports/history.csv", "history")
        return rows

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


def steps_done(project: Path) -> int:
    """The last step that the run in a project has recorded; 0 before the first."""
    for record in project.glob(".work/runs/*/record.jsonl"):
        with record.open("rb") as file:
            file.seek(max(0, record.stat().st_size - _TAIL_BYTES))
            lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
        return int(json.loads(lines[-1])["step"]) if lines else 0
    return 0


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
    task = TASKS[spec.task.task_type].task(encoded, spec.section("model"), spec.section("task"))
    batches = task.batches(
        read_encoded(encoded, "train"),
        batch_size=spec.training.batch_size * (asked_devices(spec.section("hardware")) or 1),
        seed=spec.reproducibility.random_seed,
    )
    epoch, cursor = divmod(progress["epoch"] * batches.per_epoch + progress["cursor"], batches.per_epoch)
    moments: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in checkpoint.moments.items():
        kind, _, parameter = name.partition(":")
        moments[kind][parameter] = tensor
    rows = read_artefact(project / "reports/history.csv", "history")
    return {
        "weights": _digest(checkpoint.weights),
        "best weights": sha256_file(best_weights(folder)),
        "exported weights": sha256_file(project / "artifacts/model/model.safetensors"),
        **{f"optimizer: {kind}": _digest(tensors) for kind, tensors in sorted(moments.items())},
        **{
            f"random state: {name}": _hash(state)
            for name, state in checkpoint.random.items()
            if name != "format_version"
        },
        **{
            f"progress: {name}": _hash(value)
            for name, value in progress.items()
            if not name.endswith("seconds")  # how long it took is another matter
        },
        **{f"every step: {name}": _hash([row[name] for row in rows]) for name in _EVERY_STEP},
        "next batch": _digest(dict(zip(("ids", "targets"), batches.batch(epoch, cursor), strict=True))),
    }


def _hash(value: Any) -> str:
    return sha256_bytes(canonical_json(value).encode())


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
