"""The train stage with one defect: it loses something when it goes on from a checkpoint, or its batches go astray.

    python tests/reliability/forgetful.py ITEM DURING AFTER NUMBER [option of the train stage ...]

For `negative_controls.py`, which shows that the proof of exact resume finds each defect. One function of the toolkit is
replaced in this process; what stands on disk is left alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.commands import killable

# Fields of the run's progress → what they become instead of what a new run begins with, where that would be no change.
_OTHERWISE: Mapping[str, Any] = {
    "stopped_early": True,
    "skipped_steps": 5,
    "overflowed_steps": 5,
    "loss_scale": 2.0,
    "rollbacks": 5,
    "vanishing_steps": 5,
    "exploding_steps": 5,
    "micro_batch_rows": 1,
}
# The next step or evaluation writes them anew, so there is nothing to lose; and times, which no proof compares.
OVERWRITTEN = ("last_loss", "last_val_loss", "flawed_in_a_row")
TIMES = ("seconds", "step_seconds", "epochs_seconds")


@dataclass(frozen=True)
class Defect:
    """Something that goes wrong.

    Attributes:
        makes: puts the defect into this process.
        shows: an item of the certificate that must come out unequal.
    """

    makes: Callable[[], None]
    shows: str


def _change_what_is_read(change: Callable[[Any], Any]) -> Callable[[], None]:
    """A defect that changes a checkpoint after it was read and verified."""

    def make() -> None:
        from pipeline.training import checkpoint as room

        read = room.read_checkpoint
        room.read_checkpoint = lambda folder: change(read(folder))

    return make


def _one_weight(checkpoint: Any) -> Any:
    name, tensor = next(iter(checkpoint.weights.items()))
    tensor.view(-1)[0] += 1e-4
    return replace(checkpoint, weights={**checkpoint.weights, name: tensor})


def _without(kind: str) -> Callable[[Any], Any]:
    """Zeros in the place of a kind of tensor that the optimizer keeps for each parameter."""

    def change(checkpoint: Any) -> Any:
        kept = {name: t.zero_() if name.startswith(f"{kind}:") else t for name, t in checkpoint.moments.items()}
        return replace(checkpoint, moments=kept)

    return change


def _random(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda checkpoint: replace(checkpoint, random={**checkpoint.random, name: change(checkpoint.random[name])})


def _other_python(state: Any) -> Any:
    version, words, gauss = state
    return [version, [words[0] ^ 1, *words[1:]], gauss]


def _other_numpy(state: Any) -> Any:
    inner = state["state"]
    return {**state, "state": {**inner, "key": [inner["key"][0] ^ 1, *inner["key"][1:]]}}


def _progress(name: str) -> Callable[[Any], Any]:
    """The value that a new run begins with, or another one, in the place of a field of the progress."""

    def change(checkpoint: Any) -> Any:
        from pipeline.training.progress import Progress

        value = _OTHERWISE.get(name, vars(Progress())[name])
        progress = {**checkpoint.state["progress"], name: value}
        return replace(checkpoint, state={**checkpoint.state, "progress": progress})

    return change


def _one_step_less(checkpoint: Any) -> Any:
    """With none at all, the run would write its checkpoints in front of those that are there, and end by itself."""
    progress = checkpoint.state["progress"]
    return replace(checkpoint, state={**checkpoint.state, "progress": {**progress, "step": progress["step"] - 1}})


def _forget_the_best() -> None:
    from pipeline.training.saver import Saver

    begin: Any = Saver.begin

    def forgetful(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        self.best = None

    Saver.begin = forgetful  # type: ignore[method-assign]


def _restart_the_schedule() -> None:
    from pipeline.stages import train_loop

    real: Any = train_loop.learning_rate_at
    first: list[int] = []

    def restarted(step: int, **settings: Any) -> float:
        first.append(step)
        return float(real(step - first[0] + 1, **settings))

    train_loop.learning_rate_at = restarted


def _order_of_the_process() -> None:
    from pipeline.data.batches import Batches

    batch: Any = Batches.batch

    def strayed(self: Any, epoch: int, index: int) -> Any:
        # The first batch is the one by which --exact knows the machine: it would refuse to go on.
        return batch(self, epoch, index and 1 + (index + os.getpid()) % (self.per_epoch - 1))

    Batches.batch = strayed  # type: ignore[method-assign]


DEFECTS: Mapping[str, Defect] = {
    "one weight, by a ten-thousandth": Defect(_change_what_is_read(_one_weight), "weights"),
    **{
        f"optimizer: {kind}": Defect(_change_what_is_read(_without(kind)), f"optimizer: {kind}")
        for kind in ("exp_avg", "exp_avg_sq", "step", "momentum_buffer", "mean_weight")
    },
    **{
        f"random state: {name}": Defect(_change_what_is_read(_random(name, change)), f"random state: {name}")
        for name, change in {
            "python": _other_python,
            "numpy": _other_numpy,
            "torch": lambda state: f"{int(state[:2], 16) ^ 1:02x}{state[2:]}",
        }.items()
    },
    "progress: stopped_early": Defect(_change_what_is_read(_progress("stopped_early")), "progress: step"),
    "progress: step": Defect(_change_what_is_read(_one_step_less), "progress: tokens"),
    **{
        f"progress: {name}": Defect(_change_what_is_read(_progress(name)), f"progress: {name}")
        for name in (
            "epoch", "cursor", "tokens", "epoch_history", "best_val_loss", "best_step", "best_metrics",
            "evaluations_without_gain", "loss_scale_steps",
            *sorted(_OTHERWISE.keys() - {"stopped_early"}),
        )
    },
    **{  # they are counted into the history when the epoch ends
        f"progress: {name}": Defect(_change_what_is_read(_progress(name)), "progress: epoch_history")
        for name in ("epoch_nats", "epoch_tokens")
    },
    "which weights are the best": Defect(_forget_the_best, "best weights"),
    "a schedule that begins anew": Defect(_restart_the_schedule, "every step: learning_rate"),
    "batches in an order of the process's own": Defect(_order_of_the_process, "every step: loss"),
}  # fmt: skip


def main() -> None:
    """Put the defect into this process and train."""
    _, item, *arguments = sys.argv
    DEFECTS[item].makes()
    killable.main(arguments)


if __name__ == "__main__":
    main()
