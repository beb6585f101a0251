"""Checkpoints of the tiniest real model, for scripts that kill, damage and starve them."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.files import sha256_file
from pipeline.models.transformer import Transformer
from pipeline.training.checkpoint import newest_checkpoint, restore
from pipeline.training.optimizer import adamw
from pipeline.training.progress import Progress
from pipeline.training.run_folder import checkpoints_in
from pipeline.training.saver import Saver

_RUN_ID = "00000000-0000-4000-8000-000000000000"
_EXECUTION = {
    "device": "cpu",
    "precision": "32-true",
    "compile_mode": None,
    "num_threads": 1,
    "torch": torch.__version__,
    "cpu_capability": "DEFAULT",
    "gpu": None,
    "arithmetic": None,
}
_STATE = {
    "run_id": _RUN_ID,
    "start_timestamp": "2026-01-01T00:00:00+00:00",
    "fingerprint": 64 * "0",
    "execution": _EXECUTION,
}
_METADATA = {
    "experiment": "tiny",
    "run_id": _RUN_ID,
    "spec_hash": 64 * "0",
    "tokenizer": None,
    "git": None,
    "parameters": 1,
    "tokens_per_step": 1,
    "effective_batch": 1,
}


class TinyRun:
    """A model whose weights say which step they are of.

    Args:
        width: features of its residual stream.
    """

    def __init__(self, width: int = 8) -> None:
        torch.manual_seed(1)
        self.model = Transformer(
            vocab_size=16, d_model=width, num_layers=1, num_heads=2, d_ff=2 * width, max_seq_len=4, dropout=0.0
        ).train()
        self.optimizer = adamw(self.model, learning_rate=0.1, beta1=0.9, beta2=0.9, epsilon=1e-8, weight_decay=0.0)
        self.model(torch.zeros((1, 2), dtype=torch.int64)).sum().backward()
        self.optimizer.step()

    def save(self, run_folder: Path, *steps: int, keep_last_n: int) -> None:
        """Go on from what is in a run folder, whose lock is held, and save some steps, each a better model."""
        checkpoint, _ = newest_checkpoint(run_folder)
        saver = Saver(
            run_folder=run_folder,
            model=self.model,
            optimizer=self.optimizer,
            total_steps=100,
            state=_STATE,
            metadata=_METADATA,
            emit=lambda _event: None,
            keep_last_n=keep_last_n,
        )
        saver.begin(checkpoint, Progress(best_step=1) if checkpoint else Progress())
        for step in steps:
            with torch.no_grad():
                next(self.model.parameters()).fill_(step)
            saver.save(Progress(step=step, last_loss=1.0, best_step=step, best_val_loss=1 / step), is_best=True)

    def resumed_step(self, run_folder: Path) -> tuple[int | None, list[str]]:
        """The step of the weights that a run goes on with, and what it says of damaged checkpoints.

        Raises:
            AssertionError: the checkpoint does not hold the weights of its step.
        """
        checkpoint, problems = newest_checkpoint(run_folder)
        if checkpoint is None:
            return None, problems
        restore(checkpoint, model=self.model, optimizer=self.optimizer)
        assert float(next(self.model.parameters()).flatten()[0].detach()) == checkpoint.step
        return checkpoint.step, problems


def bytes_of(run_folder: Path) -> dict[str, str]:
    """Path → SHA-256 of every file of the checkpoints in a run folder."""
    folders = checkpoints_in(run_folder).values()
    files = [path for folder in folders for path in sorted(folder.iterdir())]
    return {str(path.relative_to(run_folder)): sha256_file(path) for path in files}
