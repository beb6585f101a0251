"""Language modelling: predict each next token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.batches import IGNORED, Batches
from pipeline.data.encoded import EncodedSplit
from pipeline.data.tokenizer import Tokenizer
from pipeline.models.generate import generate
from pipeline.models.transformer import Transformer
from pipeline.spec.estimate_memory import EVALUATION_ROWS, scored_rows
from pipeline.tasks.task import Evaluation, Sample


class LanguageModel:
    """Predict each next token of a stream of documents, which is cut into windows.

    Args:
        tokenizer: that encoded the documents.
        max_seq_len: T, tokens of a window.
    """

    def __init__(self, *, tokenizer: Tokenizer, max_seq_len: int) -> None:
        self._tokenizer, self._length = tokenizer, max_seq_len

    @classmethod
    def open(cls, folder: Path, arguments: Mapping[str, Any]) -> Self:
        """The task of an encoded corpus or a model folder. See `table.TaskType`."""
        return cls(tokenizer=Tokenizer.load(folder / "tokenizer.model"), max_seq_len=arguments["max_seq_len"])

    def batches(self, split: EncodedSplit, *, batch_size: int, seed: int) -> Batches:
        """Windows of (B, T) ids and the (B, T) ids that follow them. See `Task`."""
        return Batches(split.tokens, length=self._length, batch_size=batch_size, seed=seed)

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Cross-entropy over the targets that count, summed. See `Task`."""
        ids, targets = batch
        return loss_sum(model, ids, targets)

    def evaluate(self, model: nn.Module, split: EncodedSplit) -> Evaluation:
        """The loss, `accuracy`, and `bits_per_byte` of the split's text where its bytes are known. See `Task`.

        `accuracy` is how often the likeliest token is the right one, as a fraction.
        """
        batch_size = scored_rows(targets=self._length, choices=self._tokenizer.vocab_size)
        nats, scored, right = _scored(model, split.tokens, max_seq_len=self._length, batch_size=batch_size)
        metrics = {"accuracy": right / scored}
        if "bytes" in split.counts:
            metrics["bits_per_byte"] = bits_per_byte(nats, split.counts["bytes"])
        return Evaluation(nats, scored, metrics)

    def samples(
        self, model: nn.Module, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, seed: int
    ) -> list[Sample]:
        """How the model continues the prompts. See `Task`."""
        assert isinstance(model, Transformer)
        samples = []
        for prompt in prompts:
            given = self._tokenizer.encode(prompt)
            made = list(
                generate(
                    model,
                    [self._tokenizer.bos_id, *given],
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    seed=seed,
                    stop_ids=(self._tokenizer.eos_id,),
                )
            )
            both = self._tokenizer.decode([*given, *made])  # a character's bytes may be split between the two
            samples.append(Sample(prompt, self._tokenizer.decode(made), shown=both, new_tokens=len(made)))
        return samples


def loss_sum(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """Sum over all targets that count of the cross-entropy in nats, for (B, T) ids and targets.

    A sum, not a mean: the caller divides by the tokens of the whole optimizer step, so that the way a step is
    cut into micro-batches does not weigh on the result.
    """
    logits = model(ids)  # (B, T, V)
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def score(
    model: nn.Module, tokens: NDArray[np.integer], *, max_seq_len: int, batch_size: int = EVALUATION_ROWS
) -> tuple[float, int]:
    """Score a whole split, every token after the first exactly once, in windows that do not overlap.

    Args:
        model: in evaluation mode.
        tokens: (N,) token ids.
        max_seq_len: tokens of a window; the first token of a window is predicted from nothing but the one before.
        batch_size: windows scored at once; it changes memory and speed, not the windows.

    Returns:
        The total negative log-likelihood in nats, and the number of tokens scored.
    """
    nats, scored, _ = _scored(model, tokens, max_seq_len=max_seq_len, batch_size=batch_size)
    return nats, scored


def _scored(
    model: nn.Module, tokens: NDArray[np.integer], *, max_seq_len: int, batch_size: int
) -> tuple[float, int, int]:
    """What `score` returns, and how often the likeliest token is the right one."""
    device = next(model.parameters()).device
    total, scored, right = 0.0, 0, 0
    starts = range(0, len(tokens) - 1, max_seq_len)
    for first in range(0, len(starts), batch_size):
        chosen = starts[first : first + batch_size]
        ids = np.zeros((len(chosen), max_seq_len), np.int64)
        targets = np.full((len(chosen), max_seq_len), IGNORED, np.int64)
        for row, start in enumerate(chosen):
            stop = min(start + max_seq_len, len(tokens) - 1)
            ids[row, : stop - start] = tokens[start:stop]
            targets[row, : stop - start] = tokens[start + 1 : stop + 1]
            scored += stop - start
        with torch.inference_mode():
            logits = model(torch.from_numpy(ids).to(device)).flatten(0, 1)  # (B · T, V)
            expected = torch.from_numpy(targets).to(device).flatten()
            total += functional.cross_entropy(logits, expected, ignore_index=IGNORED, reduction="sum").item()
            right += int((logits.argmax(-1) == expected).sum())
    return total, scored, right


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Total nats of a text, as bits for each of its UTF-8 bytes: comparable across tokenizers."""
    return nats / math.log(2) / text_bytes
