"""Masked language modelling: guess the tokens that were hidden, from what stands before and after them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.batches import IGNORED
from pipeline.data.encoded import EncodedSplit
from pipeline.data.masked_batches import MaskedBatches, Masking, windows_of
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ArtifactError
from pipeline.models.bert import masked_places
from pipeline.spec.estimate_memory import scored_rows
from pipeline.tasks.task import Answers, Evaluation, Sample

MASK = "<mask>"  # in `tokenizer.special_tokens`: a text that says it has a token to be guessed
_HELD_OUT = 0  # seed of what is hidden in evaluations: the same for every run, so that their losses compare


class MaskedLanguageModel(Answers):
    """Guess hidden tokens of a stream of documents, which is cut into windows.

    Args:
        tokenizer: that encoded the documents, with the special token `<mask>`.
        max_seq_len: T, tokens of a window.

    Raises:
        ArtifactError: the tokenizer has no such token.
    """

    def __init__(self, *, tokenizer: Tokenizer, max_seq_len: int) -> None:
        spelled = tokenizer.encode(MASK)
        if len(spelled) != 1:
            message = f"the tokenizer has no token {MASK}, behind which others could be hidden"
            raise ArtifactError(message, hint=f"add {MASK} to tokenizer.special_tokens, and run again")
        self._tokenizer, self._length = tokenizer, max_seq_len
        self.masking = Masking(
            vocab_size=tokenizer.vocab_size,
            mask_id=spelled[0],
            pad_id=tokenizer.pad_id,
            control_ids=(tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id),
            length=max_seq_len,
            places=masked_places,
        )

    @classmethod
    def open(cls, folder: Path, arguments: Mapping[str, Any]) -> Self:
        """The task of an encoded corpus or a model folder. See `table.TaskType`."""
        return cls(tokenizer=Tokenizer.load(folder / "tokenizer.model"), max_seq_len=arguments["max_seq_len"])

    def batches(self, split: EncodedSplit, *, batch_size: int, seed: int) -> MaskedBatches:
        """(B, T) ids, the (B, K) places of hidden tokens and the (B, K) ids that stood there. See `Task`."""
        return MaskedBatches(split, self.masking, batch_size=batch_size, seed=seed)

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Cross-entropy of the hidden tokens, summed. See `Task`."""
        ids, places, targets = batch
        logits = model(ids, places)  # (B, K, V)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")

    def evaluate(self, model: nn.Module, split: EncodedSplit) -> Evaluation:
        """The loss and `accuracy`, how often the likeliest token is the hidden one, as a fraction. See `Task`.

        What is hidden depends on the split, the tokenizer and T alone.
        """
        device = next(model.parameters()).device
        windows = windows_of(split, length=self._length, pad_id=self._tokenizer.pad_id)
        nats, right, counted = 0.0, 0, 0
        at_once = scored_rows(targets=masked_places(self._length), choices=self._tokenizer.vocab_size)
        for first in range(0, len(windows), at_once):
            rows = [
                self.masking.hide(ids, np.random.default_rng([_HELD_OUT, first + row]))
                for row, ids in enumerate(windows[first : first + at_once])
            ]
            ids, places, targets = (torch.from_numpy(np.stack(arrays)).to(device) for arrays in zip(*rows, strict=True))
            with torch.inference_mode():
                logits = model(ids, places).flatten(0, 1)  # (B · K, V)
            expected = targets.flatten()
            nats += functional.cross_entropy(logits, expected, ignore_index=IGNORED, reduction="sum").item()
            right += int((logits.argmax(-1) == expected).sum())
            counted += int((expected != IGNORED).sum())
        return Evaluation(nats, counted, {"accuracy": right / counted})

    def answer(self, model: nn.Module, prompt: str) -> Sample:
        """A prompt with the likeliest token in place of each `<mask>`. See `Answers`.

        All are guessed at once; what is too long is cut off.
        """
        text = prompt.replace(f" {MASK}", MASK)  # the piece of a word begins with the space before it
        whole = [self._tokenizer.bos_id, *self._tokenizer.encode(text), self._tokenizer.eos_id]
        ids = torch.tensor([whole[: self._length]])
        with torch.inference_mode():
            likeliest = model(ids.to(next(model.parameters()).device))[0].argmax(-1).cpu()  # (T,)
        guessed = likeliest[ids[0] == self.masking.mask_id].tolist()
        filled = torch.where(ids[0] == self.masking.mask_id, likeliest, ids[0]).tolist()
        said = ", ".join(self._tokenizer.decode([token]) for token in guessed)
        return Sample(prompt, said, shown=self._tokenizer.decode(filled), new_tokens=len(guessed))
