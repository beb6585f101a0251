"""The yardstick: a small language model and its training loop in one file, as people write them without a toolkit.

In the manner of nanoGPT (random windows of a memory-mapped array, scaled_dot_product_attention, autocast, fused
AdamW, clipping), with Llama's layers, so that its parameters and its arithmetic are those of our model.
It uses nothing of ours.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from bench_process import Clock
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm_1(x)).split(width, dim=2)
        q, k, v = (t.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for t in (q, k, v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class PlainModel(nn.Module):
    def __init__(self, *, vocab: int, width: int, layers: int, heads: int, hidden: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.embedding.weight
        frequencies = 10000.0 ** (-torch.arange(0, width // heads, 2) / (width // heads))
        angles = torch.arange(length)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, targets):
        length = ids.shape[1]
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.cos[:length], self.sin[:length])
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def build(settings: dict[str, Any]) -> PlainModel:
    shape = settings["model"]
    return PlainModel(
        vocab=shape["vocab_size"],
        width=shape["d_model"],
        layers=shape["num_layers"],
        heads=shape["num_heads"],
        hidden=shape["d_ff"],
        length=shape["max_seq_len"],
    )


def get_batch(data, batch: int, length: int, device: str):
    starts = torch.randint(len(data) - length - 1, (batch,)).tolist()
    x = torch.stack([torch.from_numpy(data[i : i + length].astype(np.int64)) for i in starts])
    y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + length].astype(np.int64)) for i in starts])
    if device == "cpu":
        return x, y
    return x.pin_memory().to(device, non_blocking=True), y.pin_memory().to(device, non_blocking=True)


def open_data(settings: dict[str, Any]):
    return np.memmap(settings["tokens"], dtype=settings["dtype"], mode="r")


def adamw(model: nn.Module) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)


def train(settings: dict[str, Any], clock: Clock) -> None:
    """Train until the clock says that it is enough. `precision` is bf16-mixed or 32-true, `compile` true or false."""
    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    data = open_data(settings)
    batch, length = settings["batch_size"], settings["model"]["max_seq_len"]
    device = settings["device"]
    model = build(settings).to(device)
    clock.describe(parameters=sum(p.numel() for p in model.parameters()))
    step = torch.compile(model) if settings["compile"] else model
    optimizer = adamw(model)
    mixed = settings["precision"] == "bf16-mixed"
    context = torch.autocast(device, torch.bfloat16) if mixed else nullcontext()
    while True:
        x, y = get_batch(data, batch, length, device)
        with context:
            loss = step(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if clock(batch * length):
            return
