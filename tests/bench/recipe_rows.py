"""The rows of the recipe's table: what each changes, and the work of its process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bench_nanogpt
import numpy as np
import torch
from bench_process import Clock

from pipeline.data.batches import Batches
from pipeline.files import read_json
from pipeline.models.transformer import Transformer
from pipeline.stages.train_setup import prepare_loss
from pipeline.tasks.language_model import bits_per_byte, loss_sum, score
from pipeline.training import hardware
from pipeline.training.averaging import keep_mean, mean_weights
from pipeline.training.optimizer import learning_rate_at, make_optimizer, set_learning_rate

NANOGPT, RECIPE = "nanoGPT's setting", "the recipe"

# Settings by their names in a spec, without the sections: those of the recipe, then what each row changes.
SETTINGS: Mapping[str, Any] = {
    "model_type": "llama",
    "d_model": 128,
    "num_layers": 4,
    "num_heads": 4,
    "d_ff": 512,
    "max_seq_len": 128,
    "dropout": 0.0,
    "attention_dropout": None,
    "tie_embeddings": True,
    "qk_norm": True,
    "activation": "relu2",
    "zero_init": True,
    "short_conv": 4,
    "batch_size": 6,
    "learning_rate": 8e-3,
    "optimizer_name": "muon",
    "muon_learning_rate": 0.014,
    "muon_momentum": 0.95,
    "muon_method": "polar_express",
    "adam_beta1": 0.9,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.1,
    "ema_decay": None,
    "scheduler_type": "wsd",
    "warmup_ratio": 0.02,
    "decay_ratio": 0.9,
    "min_lr_ratio": 0.0,
    "max_grad_norm": 1.0,
    "compile_mode": None,
}
ROWS: Mapping[str, Mapping[str, Any]] = {
    RECIPE: {},
    "LayerNorm, learned positions, biases": {"model_type": "gpt"},
    "without QK-norm": {"qk_norm": False},
    "SwiGLU, as many weights": {"activation": "swiglu", "d_ff": 344},
    "GELU": {"activation": "gelu"},
    "blocks that do not start at zero": {"zero_init": False},
    "without the short convolution": {"short_conv": None},
    "head of its own": {"tie_embeddings": False},
    "AdamW": {"optimizer_name": "adamw", "learning_rate": 2e-3},
    "Newton-Schulz": {"muon_method": "newton_schulz"},
    "weight decay 0.01": {"weight_decay": 0.01},
    "cosine": {"scheduler_type": "cosine"},
    "decay in the second half": {"decay_ratio": 0.5},
    "mean of the weights, 0.99": {"ema_decay": 0.99},
    "dropout 0.1, none of attention": {"dropout": 0.1, "attention_dropout": 0.0},
    "batches of 12": {"batch_size": 12},
    "context 64": {"max_seq_len": 64, "batch_size": 12},
    "context 256": {"max_seq_len": 256, "batch_size": 3},
    "width 192": {"d_model": 192, "num_heads": 6, "d_ff": 768},
    "compiled": {"compile_mode": "default"},
}
_WIDER = {"max_seq_len": 256, "compile_mode": "default"}
# Row → the seconds that it has, and what it changes: models for those who have more time than nanoGPT's setting takes.
LONGER: Mapping[str, tuple[float, Mapping[str, Any]]] = {
    "81 seconds": (81.0, {}),
    "200 seconds, context 256, compiled": (200.0, {**_WIDER, "batch_size": 4}),
    "10 minutes, the same with dropout 0.1, none of attention": (
        600.0,
        {**_WIDER, "batch_size": 4, "dropout": 0.1, "attention_dropout": 0.0},
    ),
}
_MODEL = (
    *("model_type", "d_model", "num_layers", "num_heads", "d_ff", "max_seq_len", "dropout", "tie_embeddings"),
    *("attention_dropout", "qk_norm", "activation", "zero_init", "short_conv"),
)
_OPTIMIZER = (
    *("optimizer_name", "learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay"),
    *("muon_learning_rate", "muon_momentum", "muon_method"),
)
_PARTS = 10_000  # of the time: the learning rate follows the clock, so that its fall ends with the time
# What a second is: one on the wall; or one that this process, and those it waited for, spent on a processor. The latter
# counts less disturbance, for trying things out on a machine with other work.
CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": lambda: sum(os.times()[:4])}


@dataclass(frozen=True)
class Material:
    """What a row learns from, and what it is scored on.

    Attributes:
        train: ids.
        held_out: ids.
        vocab_size: how many kinds of ids there are.
        held_out_bytes: of the held-out text in UTF-8.
    """

    train: np.ndarray
    held_out: np.ndarray
    vocab_size: int
    held_out_bytes: int

    def figures(self, nats: float, scored: int) -> dict[str, float]:
        """The loss of the held-out part: nats for each of its ids, and bits for each byte of its text."""
        bits = bits_per_byte(nats, self.held_out_bytes)
        return {"loss": nats / scored, "bits_per_byte": bits, "scored": scored}


def material(path: str) -> Material:
    """A text as characters; or, of a folder that the tokenizer stage wrote, its training and validation tokens."""
    if Path(path).is_dir():
        facts = read_json(Path(path) / "tokenizer.json")
        train, held_out = (np.fromfile(Path(path) / f"{name}.bin", facts["dtype"]) for name in ("train", "validation"))
        return Material(train, held_out, facts["vocab_size"], facts["splits"]["validation"]["bytes"])
    train, held_out, kinds = characters(path)
    text = Path(path).read_text(encoding="utf-8")
    return Material(train, held_out, kinds, len(text[len(train) :].encode()))


def characters(path: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Ids of the characters of a text, cut where nanoGPT cuts it: 90 % to learn from, the rest; and how many kinds."""
    text = Path(path).read_text(encoding="utf-8")
    ids = {character: number for number, character in enumerate(sorted(set(text)))}
    data = np.array([ids[character] for character in text], dtype=np.uint16)
    cut = int(0.9 * len(data))
    return data[:cut], data[cut:], len(ids)


def nanogpt(settings: dict[str, Any], clock: Clock) -> None:
    """Train nanoGPT's setting for the number of steps that its README gives, however long it takes."""
    torch.set_num_threads(settings["threads"])
    text = material(settings["text"])
    now = CLOCKS[settings["clock"]]
    began = now()
    steps = settings["nanogpt_steps"]
    ids = torch.from_numpy(text.train.astype(np.int64))
    model = bench_nanogpt.learn(ids, text.vocab_size, steps=steps, seed=settings["seed"])
    seconds = now() - began
    nats, scored = score(model.eval(), text.held_out, max_seq_len=bench_nanogpt.LENGTH)
    clock.report(
        {
            **text.figures(nats, scored),
            "seconds": seconds,
            "compile_seconds": 0.0,
            "steps": steps,
            "tokens": steps * bench_nanogpt.BATCH * bench_nanogpt.LENGTH,
            "parameters": sum(p.numel() for p in model.parameters()),
            "precision": "32-true",
        }
    )


def ours(settings: dict[str, Any], clock: Clock) -> None:
    """Train a row for as many steps as fit into `seconds`, from building the model to the last step, and score it."""
    chosen = settings["row"]
    if settings["deterministic"]:
        hardware.make_deterministic()
    hardware.keep_freed_memory()
    text = material(settings["text"])
    execution = hardware.choose_execution(
        device="cpu",
        precision="auto",
        use_amp=None,
        compile_mode=chosen["compile_mode"],
        num_threads=settings["threads"],
        flops=0.0,
    )
    now = CLOCKS[settings["clock"]]
    began = now()
    torch.manual_seed(settings["seed"])
    model = Transformer(vocab_size=text.vocab_size, **{name: chosen[name] for name in _MODEL}).train()
    batches = Batches(text.train, length=chosen["max_seq_len"], batch_size=chosen["batch_size"], seed=settings["seed"])
    loss, execution = prepare_loss(
        partial(loss_sum, model), model, execution, batches.batch(0, 0), fullgraph=False, dynamic=False, insist=True
    )
    compiled = now() - began
    optimizer = make_optimizer(
        model,
        products=torch.bfloat16 if execution.precision == "bf16-mixed" else torch.float32,
        **{name: chosen[name] for name in _OPTIMIZER},
    )
    if chosen["ema_decay"] is not None:
        keep_mean(optimizer, chosen["ema_decay"])
    left, start, steps = settings["seconds"] - compiled, now(), 0
    while (passed := now() - start) < left:
        _learn(model, chosen, batches, loss, optimizer, step=steps, share=passed / left)
        steps += 1
    seconds = now() - began
    with mean_weights(model, optimizer):
        nats, scored = score(model.eval(), text.held_out, max_seq_len=chosen["max_seq_len"])
    clock.report(
        {
            **text.figures(nats, scored),
            "seconds": seconds,
            "compile_seconds": compiled,
            "steps": steps,
            "tokens": steps * chosen["batch_size"] * chosen["max_seq_len"],
            "parameters": sum(p.numel() for p in model.parameters()),
            "precision": execution.precision,
        }
    )


def _learn(
    model: Transformer,
    chosen: Mapping[str, Any],
    batches: Batches,
    loss: Callable[..., torch.Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    share: float,
) -> None:
    """Take a step as the train stage does, at the learning rate of this share of the whole."""
    rate = learning_rate_at(
        1 + int(share * (_PARTS - 1)),
        total_steps=_PARTS,
        peak=chosen["learning_rate"],
        schedule=chosen["scheduler_type"],
        warmup_steps=round(chosen["warmup_ratio"] * _PARTS),
        min_lr_ratio=chosen["min_lr_ratio"],
        decay_ratio=chosen["decay_ratio"],
    )
    set_learning_rate(optimizer, rate)
    epoch, index = divmod(step, batches.per_epoch)
    optimizer.zero_grad()
    (loss(*batches.batch(epoch, index)) / batches.targets_in(epoch, index)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), chosen["max_grad_norm"])
    optimizer.step()
