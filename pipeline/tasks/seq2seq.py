"""Writing one text after another: a decoder reads the source as a prefix and is scored on the target alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.batches import IGNORED
from pipeline.data.document_batches import DocumentBatches, Pairs
from pipeline.data.encoded import EncodedSplit
from pipeline.data.tokenizer import Tokenizer
from pipeline.models.generate import generate
from pipeline.models.transformer import Transformer
from pipeline.spec.estimate_memory import scored_rows
from pipeline.tasks.language_model import loss_sum
from pipeline.tasks.task import Evaluation, Sample


class PrefixTask:
    """Write the target of a source: `<s> source <s> target </s>`, of which `target </s>` counts.

    Args:
        tokenizer: that encoded the pairs.
        max_seq_len: T, tokens of a pair; of a longer one the beginning of the source is left out.
    """

    def __init__(self, *, tokenizer: Tokenizer, max_seq_len: int) -> None:
        self._tokenizer, self._length = tokenizer, max_seq_len

    @classmethod
    def open(cls, folder: Path, arguments: Mapping[str, Any]) -> Self:
        """The task of an encoded corpus or a model folder. See `table.TaskType`."""
        return cls(tokenizer=Tokenizer.load(folder / "tokenizer.model"), max_seq_len=arguments["max_seq_len"])

    def batches(self, split: EncodedSplit, *, batch_size: int, seed: int) -> DocumentBatches:
        """(B, T) ids and the (B, T) ids that follow them, of which those of the target count. See `Task`."""
        return DocumentBatches(self._rows(split), batch_size=batch_size, seed=seed)

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Cross-entropy over the tokens of the targets, summed. See `Task`."""
        ids, targets = batch
        return loss_sum(model, ids, targets)

    def evaluate(self, model: nn.Module, split: EncodedSplit) -> Evaluation:
        """The loss, `token_accuracy` and `exact_match`, as fractions. See `Task`.

        `exact_match` is how often the greedy answer is the whole target. That is so where each token of the target is
        the likeliest one after those before it, which one pass over the target shows.
        """
        rows = self._rows(split)
        nats, right, exact, tokens = 0.0, 0, 0, 0
        device = next(model.parameters()).device
        at_once = scored_rows(targets=self._length, choices=self._tokenizer.vocab_size)
        for first in range(0, len(rows), at_once):
            chosen = [rows.row(index) for index in range(first, min(first + at_once, len(rows)))]
            ids, targets = (torch.from_numpy(np.stack(arrays)).to(device) for arrays in zip(*chosen, strict=True))
            with torch.inference_mode():
                logits = model(ids)  # (B, T, V)
            nats += functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
            ).item()
            counted = targets != IGNORED
            hit = logits.argmax(-1) == targets
            right += int((hit & counted).sum())
            exact += int((hit | ~counted).all(1).sum())
            tokens += int(counted.sum())
        return Evaluation(nats, tokens, {"token_accuracy": right / tokens, "exact_match": exact / len(rows)})

    def samples(
        self, model: nn.Module, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, seed: int
    ) -> list[Sample]:
        """The targets that the model writes for some sources. See `Task`."""
        assert isinstance(model, Transformer)
        samples = []
        for prompt in prompts:
            made = list(
                generate(
                    model,
                    [self._tokenizer.bos_id, *self._tokenizer.encode(prompt), self._tokenizer.bos_id],
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    seed=seed,
                    stop_ids=(self._tokenizer.eos_id,),
                )
            )
            said = self._tokenizer.decode(made)
            samples.append(Sample(prompt, said, shown=said, new_tokens=len(made)))
        return samples

    def _rows(self, split: EncodedSplit) -> Pairs:
        return Pairs(split, length=self._length, pad_id=self._tokenizer.pad_id)
