"""What a training run leaves to read: a live line, history.csv, the samples, training_metrics.json.

The record grows in the run folder, one JSON line at a time, so that a resumed run continues it from the step it
resumes at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.files import parse_artefact, read_text, write_atomic
from pipeline.stages.trackers import Trackers
from pipeline.training.events import (
    CheckpointSaved,
    EpochDone,
    Event,
    LossScaleLowered,
    MicroBatchShrunk,
    OddGradient,
    StepDone,
    StepSkipped,
)

_LARGEST_EXPONENT = 100.0  # a larger loss means nothing, and its perplexity would be no number


class Record:
    """Receives the events of a run, shows them and keeps them.

    Args:
        path: the JSON Lines file; it is cut back to what happened up to `resumed_step`.
        resumed_step: the step of the checkpoint that training goes on from, 0 for a new run.
        log_every_n_steps: steps between two rows of the history; evaluations always get one.
        sample: called at the end of each epoch; returns prompts and what the model makes of them.
        memory: how much memory is in use, by the names of columns of the history.
        trackers: that get the figures, too.
        shown: the live line; None shows warnings and errors only.
    """

    def __init__(
        self,
        path: Path,
        *,
        resumed_step: int,
        log_every_n_steps: int,
        sample: Callable[[], list[dict[str, str]]],
        memory: Callable[[], dict[str, float | None]],
        trackers: Trackers,
        shown: console.Progress | None,
    ) -> None:
        self._every, self._sample, self._shown = log_every_n_steps, sample, shown
        self._memory, self._trackers = memory, trackers
        self._lines = [line for line in _complete_lines(path) if line["step"] <= resumed_step]
        write_atomic(path, "".join(f"{json.dumps(line)}\n" for line in self._lines))  # a kill must not lose the past
        self._file = path.open("a", encoding="utf-8")
        self._step = resumed_step

    def __call__(self, event: Event) -> None:
        """Note one event."""
        match event:
            case StepDone():
                self._note_step(event)
            case EpochDone():
                self._note_epoch(event)
            case StepSkipped():
                self._step = event.step
                self._warn(_skipped(event))
            case LossScaleLowered():
                self._step = event.step
                scale = f"the loss is scaled by {event.scale:,.0f} from now on"
                self._say(f"step {event.step}: gradients overflowed float16, the step is not taken; {scale}")
            case OddGradient():
                self._warn(f"step {event.step}: {event.kind} gradients (norm {event.norm:.3g}); later ones are counted")
            case MicroBatchShrunk():
                rows = f"{event.rows} sequence{'' if event.rows == 1 else 's'}"
                self._warn(f"step {event.step}: memory ran out; from now on in micro-batches of {rows}")
            case CheckpointSaved():
                pass  # its cost is part of the run's seconds; there is nothing to tell while all is well

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def history(self) -> list[dict[str, Any]]:
        """The rows of history.csv so far."""
        steps = [line for line in self._lines if line["kind"] == "step"]
        return [{name: value for name, value in step.items() if name != "kind"} for step in steps]

    def samples(self) -> list[dict[str, Any]]:
        """The samples of each epoch: epoch, prompt, text."""
        return [
            {key: line[key] for key in ("epoch", "prompt", "text")} for line in self._lines if line["kind"] == "sample"
        ]

    def _note_step(self, event: StepDone) -> None:
        self._step = event.step
        if self._shown is not None:
            self._shown.update(
                event.step,
                f"epoch {event.epoch}  loss {event.loss:.4f}  lr {event.learning_rate:.2e}  "
                f"{event.tokens_per_second:,.0f} tokens/s",
            )
        if event.val_loss is not None:
            self._say(
                f"step {event.step}: validation loss {event.val_loss:.4f}{' (best so far)' if event.improved else ''}"
            )
        if event.val_loss is None and event.step % self._every and event.step not in (1, event.total_steps):
            return
        memory = {name: None if size is None else round(size, 1) for name, size in self._memory().items()}
        self._keep(
            {
                "kind": "step",
                "step": event.step,
                "epoch": event.epoch,
                "loss": round(event.loss, 6),
                "learning_rate": float(f"{event.learning_rate:.6g}"),
                "gradient_norm": round(event.gradient_norm, 6),
                "tokens_per_second": round(event.tokens_per_second, 1),
                "val_loss": None if event.val_loss is None else round(event.val_loss, 6),
                **memory,
            }
        )
        self._trackers.log(event.step, figures_of(event, memory))

    def _note_epoch(self, event: EpochDone) -> None:
        self._trackers.log(self._step, {"epoch": event.epoch, "epoch_duration": event.seconds})
        for sample in self._sample():
            self._keep({"kind": "sample", "step": self._step, "epoch": event.epoch, **sample})
            self._say(f"  {sample['prompt']!r} → {sample['text']!r}")

    def _say(self, text: str) -> None:
        if self._shown is not None:
            self._shown.say(text)

    def _warn(self, text: str) -> None:
        if self._shown is not None:
            self._shown.say(f"warning: {text}")
        else:
            console.warn(text)

    def _keep(self, line: dict[str, Any]) -> None:
        self._lines.append(line)
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()


class Follower:
    """Receives the events in a rank that keeps no record, and takes part in what needs all ranks.

    Args:
        sample: as for `Record`.
    """

    def __init__(self, sample: Callable[[], object]) -> None:
        self._sample = sample

    def __call__(self, event: Event) -> None:
        """Take part."""
        if isinstance(event, EpochDone):
            self._sample()


def figures_of(event: StepDone, memory: Mapping[str, float | None]) -> dict[str, float]:
    """What trackers get to see of a step, under the names that they are used to.

    Args:
        event: the step.
        memory: in MB, by name; what is None is left out.
    """
    evaluated = {f"val/{name.removeprefix('val_')}": value for name, value in event.metrics.items()}
    if event.val_loss is not None:
        evaluated["val/perplexity"] = _perplexity(event.val_loss)
    return {
        "train/loss": event.loss,
        "train/perplexity": _perplexity(event.loss),
        "learning_rate": event.learning_rate,
        "gradient_norm": event.gradient_norm,
        "tokens_per_second": event.tokens_per_second,
        **{f"memory/{name}": size for name, size in memory.items() if size is not None},
        **evaluated,
    }


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, _LARGEST_EXPONENT))


def last_step(path: Path) -> int:
    """The last step that a record in a file holds; 0 when there is no file."""
    return max((line["step"] for line in _complete_lines(path)), default=0)


def _skipped(event: StepSkipped) -> str:
    where = "" if event.rolled_back_to is None else f"; going on with the weights of step {event.rolled_back_to}"
    return f"step {event.step}: the {event.flaw} is not a finite number, the step is not taken{where}"


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """What an earlier process wrote; the line it was killed in the middle of is not there.

    Raises:
        ArtifactError: another line is not one that we write.
    """
    if not path.exists():
        return []
    whole, _, _ = read_text(path).rpartition("\n")
    rebuild = f"rm {path} && foundry run"  # the run goes on from its checkpoint, and its curves begin there
    lines: list[dict[str, Any]] = parse_artefact(whole, "training_record", str(path), rebuild=rebuild)
    return lines
