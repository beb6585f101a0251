"""A tiny model and everything the loop needs to train it, in this process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from described import RUN_METADATA, RUN_STATE
from torch import Tensor

from pipeline.data.batches import Batches, BatchSource
from pipeline.errors import FoundryError, Preempted
from pipeline.files import sha256_bytes
from pipeline.models.transformer import Transformer
from pipeline.tasks.language_model import loss_sum, score
from pipeline.training.averaging import keep_mean, mean_weights
from pipeline.training.checkpoint import Checkpoint, newest_checkpoint
from pipeline.training.events import Event, StepDone, StepSkipped
from pipeline.training.ledger import NOBODY, Witness
from pipeline.training.loop import Result, planned_steps, train
from pipeline.training.optimizer import learning_rate_at, make_optimizer
from pipeline.training.precision import PRECISIONS, arithmetic, convert_weights, in_float32
from pipeline.training.saver import Saver

# How the saver is told to save, unless a test says otherwise.
_SAVING: dict[str, Any] = {
    "every_n_steps": 3,
    "every_n_epochs": None,
    "every_n_minutes": None,
    "scheduled": (),
    "keep_last_n": 2,
    "keep_best_k": 0,
    "monitor": "val_loss",
    "mode": "min",
    "last": False,
}


class Bench:
    """One training run that can be stopped, resumed and tampered with."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        settings = {
            "batch_size": 4,
            "accumulation": 2,
            "epochs": 3,
            "max_steps": None,
            "dropout": 0.1,
            "learning_rate": 3e-3,
            "optimizer_name": "adamw",
            "ema_decay": None,
            "max_grad_norm": 1.0,
            "device": "cpu",
            "precision": "32-true",
            "on_nonfinite": "stop",
            "eval_every_n_steps": None,
            "patience": None,
            "try_first": False,
            "min_delta": 0.0,
            **_SAVING,
        }
        self.folder = folder
        self.settings = {**settings, **changes}
        self.events: list[Event] = []
        self.loss: Callable[[Transformer, Tensor, Tensor], Tensor] = loss_sum
        self.witness_of: Callable[[], Witness] = lambda: NOBODY  # asked once there is a model
        self.optimizer_step: Callable[[Callable[[], None]], None] | None = None  # in the place of the real one
        self.tokens = np.random.default_rng(7).integers(40, size=461).astype(np.uint16)
        self.held_out = np.random.default_rng(8).integers(40, size=100).astype(np.uint16)

    def start(self, checkpoint: Checkpoint | None = None, *, stop_at: int | None = None) -> Result:
        """Run to the end, or until a stop after step `stop_at`."""
        chosen = dict(self.settings)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        shape = {"vocab_size": 40, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32, "max_seq_len": 8}
        self.model = Transformer(**shape, dropout=chosen.pop("dropout")).train()
        precision = chosen.pop("precision")
        convert_weights(self.model, precision)
        self.model.to(chosen.pop("device"))
        self.batches = self.make_batches(chosen.pop("batch_size"))
        total = planned_steps(
            batches_per_epoch=self.batches.per_epoch,
            accumulation=chosen["accumulation"],
            epochs=chosen.pop("epochs"),
            max_steps=chosen.pop("max_steps"),
        )
        peak = chosen.pop("learning_rate")
        self.optimizer = make_optimizer(
            self.model,
            optimizer_name=chosen.pop("optimizer_name"),
            learning_rate=peak,
            adam_beta1=0.9,
            adam_beta2=0.95,
            adam_epsilon=1e-6 if precision == "16-true" else 1e-8,  # float16 cannot tell 1e-8 from zero
            weight_decay=0.1,
            muon_learning_rate=0.02,
            muon_momentum=0.95,
            muon_method="newton_schulz",
            products=torch.float32,
        )
        if (decay := chosen.pop("ema_decay")) is not None:
            keep_mean(self.optimizer, decay)
        evaluate = mean_weights(self.model, self.optimizer)(self.evaluate)
        if self.optimizer_step is not None:
            self.optimizer.step = partial(self.optimizer_step, self.optimizer.step)  # type: ignore[method-assign]
        self.saver = Saver(
            run_folder=self.folder,
            model=self.model,
            optimizer=self.optimizer,
            total_steps=total,
            state=RUN_STATE,
            metadata=RUN_METADATA,
            emit=self.events.append,
            **{name: chosen.pop(name) for name in _SAVING},
        )
        return train(
            model=self.model,
            optimizer=self.optimizer,
            batches=self.batches,
            loss_sum=partial(self.loss_at, precision),
            learning_rate=partial(
                learning_rate_at,
                total_steps=total,
                peak=peak,
                schedule="cosine",
                warmup_steps=2,
                min_lr_ratio=0.1,
                decay_ratio=0.2,
            ),
            evaluate=(lambda: {"val_loss": evaluate()}) if len(self.held_out) else None,
            scale_loss=PRECISIONS[precision].scaled,
            saver=self.saver,
            checkpoint=checkpoint,
            total_steps=total,
            emit=self.events.append,
            stop=lambda: self._stop(stop_at),
            started=time.monotonic(),
            witness=self.witness_of(),
            **chosen,
        )

    def make_batches(self, batch_size: int) -> BatchSource:
        """What it learns from."""
        return Batches(self.tokens, length=8, batch_size=batch_size, seed=5)

    def resume(self, *, stop_at: int | None = None) -> Result:
        """Go on from the newest checkpoint."""
        checkpoint, problems = newest_checkpoint(self.folder)
        assert checkpoint is not None, problems
        return self.start(checkpoint, stop_at=stop_at)

    def loss_at(self, precision: str, ids: Tensor, targets: Tensor) -> Tensor:
        """The loss of a micro-batch, as the train stage has it computed."""
        with arithmetic(self.settings["device"], precision):
            return self.loss(self.model, ids, targets)

    def evaluate(self) -> float:
        """Nats per held-out token."""
        self.model.eval()
        nats, scored = score(in_float32(self.model), self.held_out, max_seq_len=8)
        self.model.train()
        return nats / scored

    def identity(self, result: Result) -> dict[str, Any]:
        """Everything that must be equal after an exact resume, as hashes and counters."""
        states = [self.optimizer.state[parameter] for parameter in self.model.parameters()]
        moments = [state[kind] for state in states for kind in sorted(state)]
        progress = {key: value for key, value in vars(result.progress).items() if not key.endswith("seconds")}
        assert result.best_weights is not None
        return {
            "weights": _digest(list(self.model.state_dict().values())),
            "moments": _digest(moments),
            "best": sha256_bytes(result.best_weights.read_bytes()),
            "torch": _digest([torch.get_rng_state()]),
            "cuda": _digest(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []),
            "python": random.random(),
            "numpy": np.random.random(),  # noqa: NPY002
            "next batch": _digest(list(self.batches.batch(result.progress.epoch, result.progress.cursor))),
            "progress": progress,
        }

    def _stop(self, stop_at: int | None) -> FoundryError | None:
        steps = [event.step for event in self.events if isinstance(event, StepDone | StepSkipped)]
        return Preempted("asked to") if stop_at is not None and steps[-1] == stop_at else None


def _digest(tensors: list[torch.Tensor]) -> str:
    return sha256_bytes(b"".join(tensor.detach().float().cpu().numpy().tobytes() for tensor in tensors))
